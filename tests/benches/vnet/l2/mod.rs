//! The switch.

mod adopt;
mod apply;
mod rates;
mod scaling;
mod tcp;
mod up;

use anyhow::Result;

use crate::{
    lane::Contestant,
    run::{Results, Timing},
};

/// How to measure.
#[derive(Debug, clap::Args)]
pub struct Options {
    #[command(flatten)]
    timing: Timing,
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
    /// Time until the daemon has made an interface a port
    Adopt,
    /// Time of applying a large document
    Apply,
}

impl Options {
    fn measures(&self, part: Part) -> bool {
        self.parts.is_empty() || self.parts.contains(&part)
    }
}

/// Measures everything, prints it and writes it to `target/bench/l2.json`.
pub fn run(options: &Options) -> Result<()> {
    let mut results = Results::begin(&options.timing)?;
    if options.measures(Part::Rates) {
        results.add("rates", &rates::run(options)?)?;
    }
    if options.measures(Part::Scaling) {
        results.add("scaling", &scaling::run(options)?)?;
    }
    if options.measures(Part::Tcp) {
        results.add("tcp", &tcp::run(options)?)?;
    }
    if options.measures(Part::Up) {
        results.add("up", &up::run(options)?)?;
    }
    if options.measures(Part::Adopt) {
        results.add("adopt", &adopt::run(options)?)?;
    }
    if options.measures(Part::Apply) {
        results.add("apply", &apply::run(options)?)?;
    }
    results.end("l2")
}
