//! Packets of established flows, and new flows, by number of rules.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use serde::Serialize;

use super::{Options, contestant::Contestant, lane::Lane};
use crate::{
    rate::Rate,
    report::{Aim, Bound, number, table},
    run::Findings,
};

/// New flows of a round; there is room for them.
const NEW_FLOWS: u32 = 1 << 14;

/// What is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Kind {
    /// Packets of flows that are established.
    Established,
    /// First packets of flows.
    New,
}

/// One contestant with one number of rules.
#[derive(Debug, Serialize)]
struct Point {
    contestant: Contestant,
    rules: u32,
    rates: BTreeMap<Kind, Rate>,
}

/// Rates of all contestants with all numbers of rules.
#[derive(Debug, Serialize)]
pub struct Rates(Vec<Point>);

/// Measures all contestants with all numbers of rules in turns.
pub fn run(options: &Options) -> Result<Rates> {
    let _room = options.room()?;
    let mut lanes = Vec::new();
    let mut points = Vec::new();
    for contestant in options.contestants() {
        for &rules in &options.rules {
            lanes.push(Lane::new(lanes.len(), contestant, rules)?);
            points.push(Point {
                contestant,
                rules,
                rates: BTreeMap::new(),
            });
        }
    }
    for kind in [Kind::Established, Kind::New] {
        // The first round of new flows warms: memory for them is made.
        let warm_ups = u32::from(kind == Kind::New);
        for (lane, point) in lanes.iter_mut().zip(&points) {
            let doing = || format!("{}, {} rules", point.contestant.title(), point.rules);
            lane.establish(options.flows).with_context(doing)?;
            if kind == Kind::New {
                lane.count_on()?;
            }
        }
        for round in 0..options.timing.rounds() + warm_ups {
            for (lane, point) in lanes.iter_mut().zip(&mut points) {
                let measured = match kind {
                    Kind::Established => lane.measure(options.timing.time())?,
                    Kind::New => {
                        lane.flush()?;
                        lane.send(NEW_FLOWS)?
                    }
                };
                if round >= warm_ups {
                    point.rates.entry(kind).or_default().push(measured);
                }
            }
        }
    }
    Ok(Rates(points))
}

impl Rates {
    /// The median of the rounds' ratios of one point's rate to another's.
    fn ratio(&self, kind: Kind, of: (Contestant, u32), to: (Contestant, u32)) -> Option<f64> {
        let rate = |(contestant, rules)| {
            let mut points = self.0.iter();
            let point =
                points.find(|point| (point.contestant, point.rules) == (contestant, rules))?;
            point.rates.get(&kind)
        };
        Some(rate(of)?.mpps.over(&rate(to)?.mpps).median())
    }

    /// The fewest rules that are any.
    fn fewest(&self) -> u32 {
        let some = self
            .0
            .iter()
            .map(|point| point.rules)
            .filter(|&rules| rules > 0);
        some.min().unwrap_or_default()
    }
}

impl Findings for Rates {
    fn print(&self) {
        let fewest = self.fewest();
        for (kind, title, unit) in [
            (Kind::Established, "Packets of established flows", "Mpps"),
            (Kind::New, "New flows", "million/s"),
        ] {
            let rows: Vec<_> = self
                .0
                .iter()
                .filter_map(|point| {
                    let own = (point.contestant, point.rules);
                    let to = |other: (Contestant, u32)| {
                        number(self.ratio(kind, own, other).filter(|_| other != own), 2)
                    };
                    let mut row = vec![format!("{}, {}", point.contestant.title(), point.rules)];
                    row.extend(point.rates.get(&kind)?.cells());
                    row.push(to((point.contestant, fewest)));
                    row.push(to((Contestant::NftChain, point.rules)));
                    row.push(to((Contestant::NftMap, point.rules)));
                    Some(row)
                })
                .collect();
            table(
                &format!("{title}, by number of rules"),
                &[
                    "",
                    unit,
                    "spread",
                    "loss",
                    &format!("of {fewest}"),
                    "× nft, chain",
                    "× nft, map",
                ],
                &rows,
            );
        }
    }

    fn aims(&self) -> Vec<Aim> {
        let fewest = self.fewest();
        let mut aims = Vec::new();
        for (kind, title, least) in [
            (Kind::Established, "packets of established flows", 0.95),
            (Kind::New, "new flows", 0.5),
        ] {
            for point in &self.0 {
                if point.contestant != Contestant::Vnet || point.rules <= fewest {
                    continue;
                }
                let own = (Contestant::Vnet, point.rules);
                if let Some(ratio) = self.ratio(kind, own, (Contestant::Vnet, fewest)) {
                    let what = format!("{title}: {} rules / {fewest} rules", point.rules);
                    aims.push(Aim::new(what, ratio, Bound::AtLeast(least)));
                }
            }
        }
        aims
    }
}
