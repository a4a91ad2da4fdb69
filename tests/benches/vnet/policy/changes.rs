//! Changes of many rules, under traffic: how long they take, and what is lost.

use std::time::Duration;

use anyhow::{Context, Result};
use serde::Serialize;

use super::{Options, contestant::Contestant, lane::Lane};
use crate::{
    report::{Aim, Bound, number, percent, table},
    run::Findings,
    statistics::Rounds,
};

/// Rules that there are before all of them are replaced.
const FEW: u32 = 10;

/// One contestant.
#[derive(Debug, Serialize)]
struct Point {
    contestant: Contestant,
    /// One rule more.
    one_seconds: Rounds,
    /// All rules in the place of a few.
    all_seconds: Rounds,
    sent: u64,
    lost: u64,
}

/// What was measured.
#[derive(Debug, Serialize)]
pub struct Changes {
    rules: u32,
    points: Vec<Point>,
}

/// Changes the rules of contestants in turns, each under packets of established flows.
pub fn run(options: &Options) -> Result<Changes> {
    let _room = options.room()?;
    let rules = options.rules.iter().copied().max().unwrap_or(FEW).max(FEW);
    let (mut lanes, mut points) = (Vec::new(), Vec::new());
    for (number, contestant) in options.contestants().enumerate() {
        let mut lane = Lane::new(number, contestant, FEW)?;
        lane.establish(options.flows)?;
        lanes.push(lane);
        points.push(Point {
            contestant,
            one_seconds: Rounds::default(),
            all_seconds: Rounds::default(),
            sent: 0,
            lost: 0,
        });
    }
    for round in 0..options.timing.rounds() {
        for (lane, point) in lanes.iter_mut().zip(&mut points) {
            let doing = || format!("changing the rules of {}", point.contestant.title());
            let mut step = |lane: &mut Lane, all: bool| -> Result<Duration> {
                let (took, lost, sent) = lane.send_during(|filter, netns| {
                    if all {
                        filter.apply(netns, rules)
                    } else {
                        filter.add_one(netns, round)
                    }
                })?;
                point.lost += lost;
                point.sent += sent;
                Ok(took)
            };
            let all = step(lane, true).with_context(doing)?;
            let one = step(lane, false).with_context(doing)?;
            point.all_seconds.push(all.as_secs_f64());
            point.one_seconds.push(one.as_secs_f64());
            lane.send_during(|filter, netns| filter.apply(netns, FEW))?;
        }
    }
    Ok(Changes { rules, points })
}

impl Findings for Changes {
    fn print(&self) {
        let seconds = |rounds: &Rounds| {
            [
                number(Some(rounds.median()), 3),
                percent(rounds.spread(), 1),
            ]
        };
        let rows: Vec<_> = self
            .points
            .iter()
            .map(|point| {
                let mut row = vec![point.contestant.title().to_owned()];
                row.extend(seconds(&point.one_seconds));
                row.extend(seconds(&point.all_seconds));
                row.push(point.sent.to_string());
                row.push(point.lost.to_string());
                row
            })
            .collect();
        table(
            &format!("Changes of {} rules under traffic", self.rules),
            &[
                "",
                "one more, s",
                "spread",
                "all, s",
                "spread",
                "packets meanwhile",
                "lost",
            ],
            &rows,
        );
    }

    fn aims(&self) -> Vec<Aim> {
        let mut points = self.points.iter();
        let own = points.find(|point| point.contestant == Contestant::Vnet);
        own.map_or_else(Vec::new, |point| {
            vec![
                Aim::new(
                    format!("`policy rule add` to {} rules, s", self.rules),
                    point.one_seconds.median(),
                    Bound::Below(2.0),
                ),
                Aim::new(
                    format!("`config apply` of {} rules, s", self.rules),
                    point.all_seconds.median(),
                    Bound::Below(2.0),
                ),
                Aim::new(
                    "packets lost meanwhile",
                    point.lost as f64,
                    Bound::AtMost(0.0),
                ),
            ]
        })
    }
}
