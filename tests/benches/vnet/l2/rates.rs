//! Packet rate by number of flows.

use std::collections::BTreeMap;

use anyhow::Result;
use clap::ValueEnum as _;
use serde::Serialize;

use super::Options;
use crate::{
    lane::{Contestant, Lane, Spec},
    rate::Rate,
    report::{Aim, Bound, number, table},
    run::Findings,
};

/// Addresses in a default switch.
const FDB_SIZE: u32 = 65536;

/// All contestants with one number of flows.
#[derive(Debug, Serialize)]
struct AtFlows {
    flows: u32,
    contestants: BTreeMap<Contestant, Rate>,
}

impl AtFlows {
    /// The median of the rounds' ratios; none when one of the two was not measured.
    fn ratio(&self, of: Contestant, to: Contestant) -> Option<f64> {
        let (of, to) = (self.contestants.get(&of)?, self.contestants.get(&to)?);
        Some(of.mpps.over(&to.mpps).median())
    }
}

/// Rates at every number of flows.
#[derive(Debug, Serialize)]
pub struct Rates(Vec<AtFlows>);

/// Measures all contestants in turns.
pub fn run(options: &Options) -> Result<Rates> {
    let most = options.flows.iter().copied().max().unwrap_or(1);
    let mut lanes = Vec::new();
    for (number, &contestant) in Contestant::value_variants().iter().enumerate() {
        if options.only.is_empty() || options.only.contains(&contestant) {
            let spec = Spec {
                contestant,
                fdb_size: FDB_SIZE,
                flows: most,
                ports: 2,
            };
            lanes.push((contestant, Lane::new(number, spec)?));
        }
    }
    let mut all = Vec::new();
    for &flows in &options.flows {
        let mut contestants: BTreeMap<_, Rate> = BTreeMap::new();
        for _ in 0..options.timing.rounds() {
            for (contestant, lane) in &mut lanes {
                let rate = contestants.entry(*contestant).or_default();
                rate.push(lane.measure(flows, options.timing.time())?);
            }
        }
        all.push(AtFlows { flows, contestants });
    }
    Ok(Rates(all))
}

impl Findings for Rates {
    fn print(&self) {
        for at in &self.0 {
            let rows: Vec<_> = at
                .contestants
                .iter()
                .map(|(&contestant, rate)| {
                    let hook = contestant.hook();
                    let to = |other| {
                        let ratio = at.ratio(contestant, other);
                        number(ratio.filter(|_| other != contestant), 2)
                    };
                    let mut row = vec![contestant.title().to_owned()];
                    row.extend(rate.cells());
                    row.push(hook.map_or_else(|| "–".to_owned(), |hook| to(hook.redirect())));
                    row.push(hook.map_or_else(|| "–".to_owned(), |hook| to(hook.floor())));
                    row.push(to(Contestant::Bridge));
                    row
                })
                .collect();
            table(
                &format!("Packet rate, flows: {}", at.flows),
                &[
                    "",
                    "Mpps",
                    "spread",
                    "loss",
                    "of no-op",
                    "of floor",
                    "× bridge",
                ],
                &rows,
            );
        }
    }

    fn aims(&self) -> Vec<Aim> {
        use Contestant::{Bridge, FloorXdp, RedirectTc, RedirectXdp, VnetTc, VnetXdp};
        let mut aims = Vec::new();
        for at in &self.0 {
            for (of, to, least) in [
                (VnetXdp, RedirectXdp, 0.75),
                (VnetXdp, FloorXdp, 0.9),
                (VnetXdp, Bridge, 3.5),
                (VnetTc, RedirectTc, 0.85),
                (VnetTc, Bridge, 1.5),
            ] {
                let Some(value) = at.ratio(of, to) else {
                    continue;
                };
                let what = format!("{} / {}, flows: {}", of.title(), to.title(), at.flows);
                let mut aim = Aim::new(what, value, Bound::AtLeast(least));
                // Nobody forwards faster at a hook than a program that does nothing else.
                let hook = of.hook().filter(|_| to == Bridge);
                if let Some(most) = hook.and_then(|hook| at.ratio(hook.redirect(), Bridge)) {
                    aim = aim.note(format!("no-op: {most:.2}"));
                }
                aims.push(aim);
            }
        }
        aims
    }
}
