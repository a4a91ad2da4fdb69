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

/// Sends frames for `time` from inside the network namespace `outside`, after `warm_up` frames that
/// are not measured, in which the contestant learns the addresses and memory warms.
///
/// Everything that follows from a frame (the veths' polls, the switch, the sink) runs in the
/// softirqs of the CPU that sent it, so a rate is that of one core.
pub fn measure(
    generator: &mut Programs,
    sink: &Programs,
    outside: &str,
    warm_up: u32,
    time: Duration,
) -> Result<Measured> {
    on_one_cpu(outside, || {
        generator.generate(CHUNK.max(warm_up))?;
        count(sink, || {
            let began = Instant::now();
            let mut sent = 0;
            while began.elapsed() < time {
                sent += generator.generate(CHUNK)?;
            }
            Ok(sent)
        })
    })
}

/// Sends `frames` frames, rounded up to full batches, likewise but with nothing before.
pub fn send(
    generator: &mut Programs,
    sink: &Programs,
    outside: &str,
    frames: u32,
) -> Result<Measured> {
    on_one_cpu(outside, || count(sink, || generator.generate(frames)))
}

/// Does `work` inside the network namespace `outside`, on the CPU that frames are sent on.
pub fn on_one_cpu<T: Send>(outside: &str, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let cpu = cpu::allowed()?.pop().context("there is no CPU")?;
    netns::inside(outside, || {
        cpu::stay_on(cpu).context("staying on one CPU")?;
        work()
    })
}

/// Counts what arrives of the frames that `send` sends, and takes the time.
fn count(sink: &Programs, send: impl FnOnce() -> Result<u64>) -> Result<Measured> {
    let seen = sink.seen()?;
    let began = Instant::now();
    let sent = send()?;
    let elapsed = began.elapsed();
    // What another CPU holds, if it holds anything, gets a moment.
    thread::sleep(Duration::from_millis(5));
    Ok(Measured {
        sent,
        received: sink.seen()? - seen,
        elapsed,
    })
}
