//! Sends frames and measures how many arrive.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use xtask::netns;

use crate::{cpu, programs::Programs};

/// Frames a system call. Large enough that the call's own cost (a page pool) does not show, small
/// enough to keep to the time.
const CHUNK: u32 = 1 << 16;

/// What a measurement gave.
#[derive(Clone, Copy, Debug)]
pub struct Measured {
    /// Frames that were sent.
    pub sent: u64,
    /// Frames that arrived.
    pub received: u64,
    /// In this time.
    pub elapsed: Duration,
}

impl Measured {
    /// Millions of frames that arrived a second.
    pub fn mpps(&self) -> f64 {
        self.received as f64 / self.elapsed.as_secs_f64() / 1e6
    }

    /// Part of the frames that did not arrive.
    pub fn loss(&self) -> f64 {
        1.0 - self.received as f64 / self.sent.max(1) as f64
    }
}

/// Sends frames of `flows` flows for `time` from inside the network namespace `outside`, after a
/// first pass that is not measured, in which the contestant learns the addresses and memory warms.
///
/// Everything that follows from a frame (the veths' polls, the switch, the sink) runs in the
/// softirqs of the CPU that sent it, so a rate is that of one core.
pub fn measure(
    generator: &mut Programs,
    sink: &Programs,
    outside: &str,
    flows: u32,
    time: Duration,
) -> Result<Measured> {
    generator.set_flows(flows)?;
    let cpu = cpu::allowed()?.pop().context("there is no CPU")?;
    netns::inside(outside, || {
        cpu::stay_on(cpu).context("staying on one CPU")?;
        generator.generate(CHUNK.max(2 * flows))?;
        let seen = sink.seen()?;
        let began = Instant::now();
        let mut sent = 0;
        while began.elapsed() < time {
            sent += generator.generate(CHUNK)?;
        }
        let elapsed = began.elapsed();
        // What another CPU holds, if it holds anything, gets a moment.
        thread::sleep(Duration::from_millis(5));
        Ok(Measured {
            sent,
            received: sink.seen()? - seen,
            elapsed,
        })
    })
}
