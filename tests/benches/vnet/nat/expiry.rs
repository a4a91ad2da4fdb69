//! How long a slice of expiry takes: what a tick of the flow table's timer does.
//!
//! A timer's callback is no program, and nobody accounts for its time. So the same slice is asked
//! for through the program `control`, and timed.

use anyhow::{Context, Result, bail};
use aya::{
    maps::{Array, MapData},
    programs::{SchedClassifier, TestRun as _, TestRunOptions},
};
use serde::Serialize;
use vnet_common::{ControlReply, ControlRequest, control::REQUEST_OFFSET};

use super::{Options, gateway::Contestant, lane::Lane};
use crate::{
    pins,
    report::{number, table},
    run::Findings,
    statistics::median,
};

/// Numbers of flows, each in a table with just enough room.
const FLOWS: [u32; 2] = [262_144, 1_000_000];
/// The request for the next slice of expiry.
const FLOW_SWEEP: u32 = 6;
/// A request that there is not: what a call costs that does nothing.
const NOTHING: u32 = 0;
/// Slices that are timed.
const SLICES: usize = 4000;

/// A table of one size.
#[derive(Debug, Serialize)]
struct Point {
    flows: u32,
    median_us: f64,
    p99_us: f64,
    most_us: f64,
}

/// By size.
#[derive(Debug, Serialize)]
pub struct Expiry(Vec<Point>);

/// Fills tables and walks them.
pub fn run(options: &Options) -> Result<Expiry> {
    let mut points = Vec::new();
    for flows in FLOWS {
        let mut lane = Lane::new(0, Contestant::Vnet, flows)?;
        lane.establish(flows)?;
        points.push(measure(&lane, flows, options)?);
    }
    Ok(Expiry(points))
}

fn measure(lane: &Lane, flows: u32, options: &Options) -> Result<Point> {
    let mut control = Control::open(lane.switch()?)?;
    let slices = if options.timing.quick {
        SLICES / 4
    } else {
        SLICES
    };
    let mut nothing = Vec::new();
    let mut times = Vec::new();
    for _ in 0..slices {
        nothing.push(control.time_us(NOTHING)?.0);
        let (time, error) = control.time_us(FLOW_SWEEP)?;
        if error != 0 {
            bail!("the datapath answered {error} to a request for a slice of expiry");
        }
        times.push(time);
    }
    let nothing = median(&nothing);
    times.sort_by(f64::total_cmp);
    let at = |part: f64| times[(part * (times.len() - 1) as f64).round() as usize] - nothing;
    Ok(Point {
        flows,
        median_us: at(0.5),
        p99_us: at(0.99),
        most_us: at(1.0),
    })
}

/// The pinned program `control` and where it answers.
struct Control {
    program: SchedClassifier,
    reply: Array<MapData, ControlReply>,
}

impl Control {
    fn open(switch: &str) -> Result<Self> {
        let program = SchedClassifier::from_pin(pins::program(switch, "control")?)
            .context("opening the pinned program control")?;
        let reply = MapData::from_pin(pins::folder(switch)?.join("control_reply"))
            .context("opening the pinned map control_reply")?;
        let reply = aya::maps::Map::Array(reply).try_into()?;
        Ok(Self { program, reply })
    }

    /// Sends a request; gives the time that the program took, as the kernel measured it, in µs, and
    /// the answer.
    fn time_us(&mut self, op: u32) -> Result<(f64, i32)> {
        let mut frame = [0; REQUEST_OFFSET + size_of::<ControlRequest>() + 16];
        // The request's first field; all others are zeroes.
        frame[REQUEST_OFFSET..][..size_of::<u32>()].copy_from_slice(&op.to_ne_bytes());
        let options = TestRunOptions {
            data_in: Some(&frame),
            ..TestRunOptions::new()
        };
        let run = self.program.test_run(options);
        let run = run.context("running the datapath's control program")?;
        let reply = self.reply.get(&0, 0).context("reading the answer")?;
        Ok((run.duration.as_secs_f64() * 1e6, reply.error))
    }
}

impl Findings for Expiry {
    fn print(&self) {
        let rows: Vec<_> = self
            .0
            .iter()
            .map(|point| {
                let mut row = vec![format!("{} flows", point.flows)];
                let times = [point.median_us, point.p99_us, point.most_us];
                row.extend(times.map(|time| number(Some(time), 1)));
                row
            })
            .collect();
        table(
            "A slice of expiry, µs",
            &["", "median", "99 %", "most"],
            &rows,
        );
    }
}
