//! Packet rate by number of established flows.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use serde::Serialize;

use super::{
    Options,
    gateway::Contestant,
    lane::{Direction, Lane},
};
use crate::{
    rate::Rate,
    report::{Aim, Bound, number, table},
    run::Findings,
};

/// vnet has room for no fewer flows.
const LEAST_ROOM: u32 = 1024;

/// All contestants with one number of flows, in one direction.
#[derive(Debug, Serialize)]
struct Point {
    flows: u32,
    direction: Direction,
    contestants: BTreeMap<Contestant, Rate>,
}

impl Point {
    /// The median of the rounds' ratios; none when one of the two was not measured.
    fn ratio(&self, of: Contestant, to: Contestant) -> Option<f64> {
        let (of, to) = (self.contestants.get(&of)?, self.contestants.get(&to)?);
        Some(of.mpps.over(&to.mpps).median())
    }
}

/// Rates at every number of flows.
#[derive(Debug, Serialize)]
pub struct Rates(Vec<Point>);

/// Measures all contestants in turns.
pub fn run(options: &Options) -> Result<Rates> {
    // Every table has room for the most flows, so that only their content differs.
    let mut numbers = options.flows.clone();
    numbers.sort_unstable();
    let most = numbers.last().copied().unwrap_or(1);
    let most = most.next_power_of_two().max(LEAST_ROOM);
    let _room = options.room(most)?;
    let mut lanes = Vec::new();
    for (number, contestant) in options.contestants().enumerate() {
        lanes.push((contestant, Lane::new(number, contestant, most)?));
    }
    let mut points = Vec::new();
    for flows in numbers {
        for (contestant, lane) in &mut lanes {
            let doing = || contestant.title();
            lane.establish(flows).with_context(doing)?;
        }
        for direction in Direction::ALL {
            let mut contestants: BTreeMap<_, Rate> = BTreeMap::new();
            for _ in 0..options.timing.rounds() {
                for (contestant, lane) in &mut lanes {
                    let rate = contestants.entry(*contestant).or_default();
                    rate.push(lane.measure(direction, options.timing.time())?);
                }
            }
            points.push(Point {
                flows,
                direction,
                contestants,
            });
        }
    }
    Ok(Rates(points))
}

impl Findings for Rates {
    fn print(&self) {
        for point in &self.0 {
            let rows: Vec<_> = point
                .contestants
                .iter()
                .map(|(&contestant, rate)| {
                    let to = |other| {
                        let ratio = point.ratio(contestant, other);
                        number(ratio.filter(|_| other != contestant), 2)
                    };
                    let mut row = vec![contestant.title().to_owned()];
                    row.extend(rate.cells());
                    row.push(to(Contestant::Redirect));
                    row.push(to(Contestant::Floor));
                    row.push(to(Contestant::Nft));
                    row
                })
                .collect();
            table(
                &format!("{}, flows: {}", point.direction.title(), point.flows),
                &[
                    "", "Mpps", "spread", "loss", "of no-op", "of floor", "× nft",
                ],
                &rows,
            );
        }
    }

    fn aims(&self) -> Vec<Aim> {
        use Contestant::{Floor, Nft, Redirect, Vnet};
        let mut aims = Vec::new();
        for point in &self.0 {
            let wanted: &[_] = match point.direction {
                // With more flows the limit is memory, for which the floor stands.
                Direction::Incoming if point.flows <= 1000 => {
                    &[(Redirect, 0.7), (Floor, 0.85), (Nft, 3.5)]
                }
                Direction::Incoming => &[(Floor, 0.85), (Nft, 3.5)],
                Direction::Outgoing => &[(Nft, 1.4)],
            };
            for &(to, least) in wanted {
                let Some(value) = point.ratio(Vnet, to) else {
                    continue;
                };
                let what = format!(
                    "{}: vnet / {}, flows: {}",
                    point.direction.title(),
                    to.title(),
                    point.flows
                );
                let mut aim = Aim::new(what, value, Bound::AtLeast(least));
                // Nobody forwards faster at a hook than a program that does nothing else.
                let most = (to == Nft).then(|| point.ratio(Redirect, Nft)).flatten();
                if let Some(most) = most {
                    aim = aim.note(format!("no-op: {most:.2}"));
                }
                aims.push(aim);
            }
        }
        aims
    }
}
