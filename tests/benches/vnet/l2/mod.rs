//! The switch.

mod rates;
mod scaling;
mod tcp;
mod up;

use std::{fs, time::Duration};

use anyhow::{Context, Result};
use serde::Serialize;
use xtask::paths;

use crate::{
    cpu,
    lane::Contestant,
    report::{self, Aim},
    sandbox,
};

/// How to measure.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// How often each is measured
    #[arg(long, default_value_t = 5)]
    rounds: u32,
    /// How long each time; TCP takes twice as long
    #[arg(long, default_value_t = 1.0)]
    seconds: f64,
    /// The same as --rounds 3 --seconds 0.3: to see that it works
    #[arg(long, conflicts_with_all = ["rounds", "seconds"])]
    quick: bool,
    /// Numbers of flows: sources that send to one destination
    #[arg(long, value_delimiter = ',', default_value = "1,1000,50000")]
    flows: Vec<u32>,
    /// Only these contestants' packet rates
    #[arg(long, value_delimiter = ',')]
    only: Vec<Contestant>,
    /// Only these parts
    #[arg(long, value_delimiter = ',')]
    parts: Vec<Part>,
}

/// What can be measured by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    /// Packet rate by number of flows
    Rates,
    /// Packet rate by number of ports and of addresses
    Scaling,
    /// TCP and round trip
    Tcp,
    /// Time of `up` and memory
    Up,
}

impl Options {
    fn rounds(&self) -> u32 {
        if self.quick { 3 } else { self.rounds.max(1) }
    }

    fn time(&self) -> Duration {
        Duration::from_secs_f64(if self.quick { 0.3 } else { self.seconds })
    }

    fn measures(&self, part: Part) -> bool {
        self.parts.is_empty() || self.parts.contains(&part)
    }
}

/// Everything that was measured.
#[derive(Debug, Serialize)]
struct Results {
    kernel: String,
    cpus: usize,
    rounds: u32,
    seconds: f64,
    rates: Option<rates::Rates>,
    scaling: Option<scaling::Scaling>,
    tcp: Option<tcp::Tcp>,
    up: Option<up::Up>,
    aims: Vec<Aim>,
}

/// Measures everything, prints it and writes it to `target/bench/l2.json`.
pub fn run(options: &Options) -> Result<()> {
    sandbox::enter()?;
    let mut results = Results {
        kernel: fs::read_to_string("/proc/sys/kernel/osrelease")
            .context("reading the kernel's release")?
            .trim()
            .to_owned(),
        cpus: cpu::allowed()?.len(),
        rounds: options.rounds(),
        seconds: options.time().as_secs_f64(),
        rates: None,
        scaling: None,
        tcp: None,
        up: None,
        aims: Vec::new(),
    };
    println!(
        "kernel {}, {} CPUs, {} rounds of {} s",
        results.kernel, results.cpus, results.rounds, results.seconds
    );
    if options.measures(Part::Rates) {
        let rates = rates::run(options)?;
        rates.print();
        results.aims.extend(rates.aims());
        results.rates = Some(rates);
    }
    if options.measures(Part::Scaling) {
        let scaling = scaling::run(options)?;
        scaling.print();
        results.scaling = Some(scaling);
    }
    if options.measures(Part::Tcp) {
        let tcp = tcp::run(options)?;
        tcp.print();
        results.aims.extend(tcp.aims());
        results.tcp = Some(tcp);
    }
    if options.measures(Part::Up) {
        let up = up::run(options)?;
        up.print();
        results.aims.extend(up.aims());
        results.up = Some(up);
    }
    if !results.aims.is_empty() {
        report::print_aims(&results.aims);
    }
    write(&results)
}

fn write(results: &Results) -> Result<()> {
    let folder = paths::target_dir().join("bench");
    let path = folder.join("l2.json");
    let doing = || format!("writing {}", path.display());
    fs::create_dir_all(&folder).with_context(doing)?;
    let text = serde_json::to_string_pretty(results).with_context(doing)?;
    fs::write(&path, text + "\n").with_context(doing)?;
    println!("\n{}", path.display());
    Ok(())
}
