//! What every suite has: how long to measure, where it ran, where results go.

use std::{fs, time::Duration};

use anyhow::{Context, Result};
use serde::Serialize;
use xtask::paths;

use crate::cpu;

/// How long to measure.
#[derive(Debug, clap::Args)]
pub struct Timing {
    /// How often each is measured
    #[arg(long, default_value_t = 5)]
    rounds: u32,
    /// How long each time; TCP takes twice as long
    #[arg(long, default_value_t = 1.0)]
    seconds: f64,
    /// The same as --rounds 3 --seconds 0.3: to see that it works
    #[arg(long, conflicts_with_all = ["rounds", "seconds"])]
    pub quick: bool,
}

impl Timing {
    /// How often.
    pub fn rounds(&self) -> u32 {
        if self.quick { 3 } else { self.rounds.max(1) }
    }

    /// How long each time.
    pub fn time(&self) -> Duration {
        Duration::from_secs_f64(if self.quick { 0.3 } else { self.seconds })
    }
}

/// Where a suite ran, and for how long it measured.
#[derive(Debug, Serialize)]
pub struct Conditions {
    kernel: String,
    cpus: usize,
    rounds: u32,
    seconds: f64,
}

impl Conditions {
    /// Those of here; prints them.
    pub fn of(timing: &Timing) -> Result<Self> {
        let conditions = Self {
            kernel: fs::read_to_string("/proc/sys/kernel/osrelease")
                .context("reading the kernel's release")?
                .trim()
                .to_owned(),
            cpus: cpu::allowed()?.len(),
            rounds: timing.rounds(),
            seconds: timing.time().as_secs_f64(),
        };
        println!(
            "kernel {}, {} CPUs, {} rounds of {} s",
            conditions.kernel, conditions.cpus, conditions.rounds, conditions.seconds
        );
        Ok(conditions)
    }
}

/// Writes results to `target/bench/<suite>.json`.
pub fn write(suite: &str, results: &impl Serialize) -> Result<()> {
    let folder = paths::target_dir().join("bench");
    let path = folder.join(format!("{suite}.json"));
    let doing = || format!("writing {}", path.display());
    fs::create_dir_all(&folder).with_context(doing)?;
    let text = serde_json::to_string_pretty(results).with_context(doing)?;
    fs::write(&path, text + "\n").with_context(doing)?;
    println!("\n{}", path.display());
    Ok(())
}
