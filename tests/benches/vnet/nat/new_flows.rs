//! New flows a second: every packet that the VM sends is the first of a flow.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context, Result};
use serde::Serialize;
use vnet_ebpf::traffic::nat::PORTS;

use super::{Options, gateway::Contestant, lane::Lane};
use crate::{
    generator::Measured,
    rate::Rate,
    report::{Aim, Bound, number, table},
    run::Findings,
};

/// Flows that there is room for: the default size of the table.
const ROOM: u32 = 1 << 18;
/// Flows of a round that find the port of the VM in use already; those that made the ports are there, too.
const FLOWS: u32 = 7 * PORTS;
/// How often a round sends flows from ports that are not in use: there are only so many at once.
const TIMES: u32 = 4;

/// What is new about a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Kind {
    /// The port that the VM sends from, and so the port outside that it is given.
    Port,
    /// The remote end alone: with endpoint-independent mapping the port outside is there already.
    Remote,
}

impl Kind {
    fn title(self) -> &'static str {
        match self {
            Self::Port => "from a port that is new",
            Self::Remote => "from a port in use to another remote end",
        }
    }
}

/// By kind and contestant.
#[derive(Debug, Serialize)]
pub struct NewFlows(BTreeMap<Kind, BTreeMap<Contestant, Rate>>);

/// Measures contestants in turns.
pub fn run(options: &Options) -> Result<NewFlows> {
    let _room = options.room(ROOM)?;
    let mut lanes = Vec::new();
    for (number, contestant) in options.contestants().enumerate() {
        // The others keep no flows of their own.
        if matches!(contestant, Contestant::Vnet | Contestant::Nft) {
            let mut lane = Lane::new(number, contestant, ROOM)?;
            lane.count_on()?;
            lanes.push((contestant, lane));
        }
    }
    let mut all: BTreeMap<_, BTreeMap<_, Rate>> = BTreeMap::new();
    // The first round warms: memory for flows is made.
    for round in 0..=options.timing.rounds() {
        for (contestant, lane) in &mut lanes {
            let doing = || format!("new flows, {}", contestant.title());
            for (kind, measured) in measure(lane).with_context(doing)? {
                if round > 0 {
                    let of_kind = all.entry(kind).or_default();
                    of_kind.entry(*contestant).or_default().push(measured);
                }
            }
        }
    }
    Ok(NewFlows(all))
}

fn measure(lane: &mut Lane) -> Result<[(Kind, Measured); 2]> {
    let mut ports = Measured {
        sent: 0,
        received: 0,
        elapsed: Duration::ZERO,
    };
    for _ in 0..TIMES {
        lane.flush()?;
        let measured = lane.send(PORTS)?;
        ports.sent += measured.sent;
        ports.received += measured.received;
        ports.elapsed += measured.elapsed;
    }
    let remotes = lane.send(FLOWS)?;
    lane.flush()?;
    Ok([(Kind::Port, ports), (Kind::Remote, remotes)])
}

impl NewFlows {
    fn ratio(&self, kind: Kind, of: Contestant, to: Contestant) -> Option<f64> {
        let of_kind = self.0.get(&kind)?;
        let (of, to) = (of_kind.get(&of)?, of_kind.get(&to)?);
        Some(of.mpps.over(&to.mpps).median())
    }
}

impl Findings for NewFlows {
    fn print(&self) {
        for (&kind, contestants) in &self.0 {
            let rows: Vec<_> = contestants
                .iter()
                .map(|(&contestant, rate)| {
                    let mut row = vec![contestant.title().to_owned()];
                    row.extend(rate.cells());
                    let ratio = self.ratio(kind, contestant, Contestant::Nft);
                    row.push(number(ratio.filter(|_| contestant != Contestant::Nft), 2));
                    row
                })
                .collect();
            table(
                &format!("New flows, {}", kind.title()),
                &["", "million/s", "spread", "loss", "× nft"],
                &rows,
            );
        }
    }

    fn aims(&self) -> Vec<Aim> {
        let aim = |&kind| {
            let value = self.ratio(kind, Contestant::Vnet, Contestant::Nft)?;
            let what = format!("new flows {}: vnet / nft masquerade", kind.title());
            Some(Aim::new(what, value, Bound::AtLeast(2.0)))
        };
        self.0.keys().filter_map(aim).collect()
    }
}
