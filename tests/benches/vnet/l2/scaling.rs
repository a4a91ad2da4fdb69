//! Packet rate by number of ports and of addresses.

use anyhow::Result;
use serde::Serialize;

use super::Options;
use crate::{
    lane::{Contestant, Lane, Spec},
    rate::Rate,
    report::{number, table},
    run::Findings,
    statistics::Rounds,
};

/// Numbers of ports.
const PORTS: [u32; 3] = [2, 100, 500];
/// Numbers of addresses; as many flows are sent.
const ADDRESSES: [u32; 3] = [10, 1_000, 100_000];
/// Room for the most of them; the smallest tables have the same, so that only their content differs.
const FDB_SIZE: u32 = 131_072;

/// One contestant at one size.
#[derive(Debug, Serialize)]
struct Point {
    contestant: Contestant,
    size: u32,
    rate: Rate,
}

/// Both series.
#[derive(Debug, Serialize)]
pub struct Scaling {
    ports: Vec<Point>,
    addresses: Vec<Point>,
}

/// Measures both.
pub fn run(options: &Options) -> Result<Scaling> {
    let with_ports = |contestant, ports| Spec {
        contestant,
        fdb_size: FDB_SIZE,
        flows: 1,
        ports,
    };
    let with_addresses = |contestant, flows| Spec {
        contestant,
        fdb_size: FDB_SIZE,
        flows,
        ports: 2,
    };
    use Contestant::{FloorTc, FloorXdp, VnetTc, VnetXdp};
    Ok(Scaling {
        ports: series(options, &[VnetXdp, VnetTc], PORTS, with_ports)?,
        addresses: series(
            options,
            &[FloorXdp, VnetXdp, FloorTc, VnetTc],
            ADDRESSES,
            with_addresses,
        )?,
    })
}

/// Measures contestants at all sizes in turns.
fn series(
    options: &Options,
    contestants: &[Contestant],
    sizes: [u32; 3],
    spec: impl Fn(Contestant, u32) -> Spec,
) -> Result<Vec<Point>> {
    let mut lanes = Vec::new();
    for &contestant in contestants {
        for size in sizes {
            let spec = spec(contestant, size);
            let lane = Lane::new(lanes.len(), spec)?;
            let rate = Rate::default();
            let point = Point {
                contestant,
                size,
                rate,
            };
            lanes.push((point, lane, spec.flows));
        }
    }
    for _ in 0..options.timing.rounds() {
        for (point, lane, flows) in &mut lanes {
            point
                .rate
                .push(lane.measure(*flows, options.timing.time())?);
        }
    }
    Ok(lanes.into_iter().map(|(point, ..)| point).collect())
}

impl Findings for Scaling {
    fn print(&self) {
        print("ports", &self.ports);
        print("addresses", &self.addresses);
    }
}

fn print(what: &str, points: &[Point]) {
    let rate = |contestant, size| {
        let point = points
            .iter()
            .find(|p| p.contestant == contestant && p.size == size)?;
        Some(&point.rate.mpps)
    };
    let smallest = points.iter().map(|point| point.size).min().unwrap_or(0);
    let kept = |contestant, size| -> Option<Rounds> {
        Some(rate(contestant, size)?.over(rate(contestant, smallest)?))
    };
    let floor_of = |contestant: Contestant| {
        let floor = contestant.hook()?.floor();
        (floor != contestant).then_some(floor)
    };
    let with_floor = points.iter().any(|point| {
        let floor = floor_of(point.contestant);
        floor.is_some_and(|floor| rate(floor, smallest).is_some())
    });
    let rows: Vec<_> = points
        .iter()
        .map(|point| {
            let kept_here = kept(point.contestant, point.size);
            let floor = floor_of(point.contestant);
            let kept_floor = floor.and_then(|floor| kept(floor, point.size));
            let to_floor = kept_here.as_ref().zip(kept_floor.as_ref());
            let mut row = vec![format!("{}, {}", point.contestant.title(), point.size)];
            row.extend(point.rate.cells());
            row.push(number(kept_here.as_ref().map(Rounds::median), 2));
            if with_floor {
                row.push(number(to_floor.map(|(k, f)| k.over(f).median()), 2));
            }
            row
        })
        .collect();
    let of_smallest = format!("of {smallest}");
    let mut columns = vec!["", "Mpps", "spread", "loss", &of_smallest];
    if with_floor {
        columns.push("of floor's");
    }
    table(&format!("Packet rate by number of {what}"), &columns, &rows);
}
