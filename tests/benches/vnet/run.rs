//! What every suite has: how long to measure, where it ran, what was measured and where that goes.

use std::{fs, time::Duration};

use anyhow::{Context, Result};
use serde::Serialize;
use serde_json::{Map, Value};
use xtask::paths;

use crate::{
    cpu,
    report::{self, Aim},
    sandbox,
};

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
struct Conditions {
    kernel: String,
    cpus: usize,
    rounds: u32,
    seconds: f64,
}

impl Conditions {
    /// Those of here; prints them.
    fn of(timing: &Timing) -> Result<Self> {
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

/// What a part of a suite has measured.
pub trait Findings: Serialize {
    /// Shows it.
    fn print(&self);

    /// What was hoped of it, and what came of that.
    fn aims(&self) -> Vec<Aim> {
        Vec::new()
    }
}

/// What a suite has measured, each part by its name.
#[derive(Debug, Serialize)]
pub struct Results {
    #[serde(flatten)]
    conditions: Conditions,
    #[serde(flatten)]
    parts: Map<String, Value>,
    aims: Vec<Aim>,
}

impl Results {
    /// Goes to where benchmarks live, and begins with nothing.
    pub fn begin(timing: &Timing) -> Result<Self> {
        sandbox::enter()?;
        Ok(Self {
            conditions: Conditions::of(timing)?,
            parts: Map::new(),
            aims: Vec::new(),
        })
    }

    /// Shows what a part has measured, and keeps it.
    pub fn add(&mut self, part: &str, measured: &impl Findings) -> Result<()> {
        measured.print();
        self.aims.extend(measured.aims());
        let value = serde_json::to_value(measured);
        let value = value.with_context(|| format!("keeping what was measured of {part}"))?;
        self.parts.insert(part.into(), value);
        Ok(())
    }

    /// Shows the aims, and writes everything to `target/bench/<suite>.json`.
    pub fn end(&self, suite: &str) -> Result<()> {
        if !self.aims.is_empty() {
            report::print_aims(&self.aims);
        }
        let folder = paths::target_dir().join("bench");
        let path = folder.join(format!("{suite}.json"));
        let doing = || format!("writing {}", path.display());
        fs::create_dir_all(&folder).with_context(doing)?;
        let text = serde_json::to_string_pretty(self).with_context(doing)?;
        fs::write(&path, text + "\n").with_context(doing)?;
        println!("\n{}", path.display());
        Ok(())
    }
}
