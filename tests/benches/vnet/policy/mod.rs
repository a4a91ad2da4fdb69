//! Security groups.

mod changes;
mod contestant;
mod lane;
mod rates;
mod rules;

use anyhow::Result;
use clap::ValueEnum as _;

use self::contestant::{Contestant, ROOM};
use crate::{
    nat::conntrack::Room,
    run::{Results, Timing},
};

/// How to measure.
#[derive(Debug, clap::Args)]
pub struct Options {
    #[command(flatten)]
    timing: Timing,
    /// Numbers of rules; without one nothing is filtered
    #[arg(long, value_delimiter = ',', default_value = "0,10,1000,10000")]
    rules: Vec<u32>,
    /// Established flows
    #[arg(long, default_value_t = 1024)]
    flows: u32,
    /// Only these contestants
    #[arg(long, value_delimiter = ',')]
    only: Vec<Contestant>,
    /// Only these parts
    #[arg(long, value_delimiter = ',')]
    parts: Vec<Part>,
}

/// What can be measured by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    /// Packets of established flows and new flows by number of rules
    Rates,
    /// Changes of rules under traffic
    Changes,
}

impl Options {
    fn measures(&self, part: Part) -> bool {
        self.parts.is_empty() || self.parts.contains(&part)
    }

    fn contestants(&self) -> impl Iterator<Item = Contestant> {
        let all = Contestant::value_variants().iter().copied();
        all.filter(|contestant| self.only.is_empty() || self.only.contains(contestant))
    }

    /// Room for the connections of those who keep them in Linux's connection tracking: all lanes' count
    /// together.
    fn room(&self) -> Result<Option<Room>> {
        let needed = self.contestants().any(Contestant::is_tracked_by_linux);
        needed.then(|| Room::for_flows(ROOM)).transpose()
    }
}

/// Measures everything, prints it and writes it to `target/bench/policy.json`.
pub fn run(options: &Options) -> Result<()> {
    let mut results = Results::begin(&options.timing)?;
    if options.measures(Part::Rates) {
        results.add("rates", &rates::run(options)?)?;
    }
    if options.measures(Part::Changes) {
        results.add("changes", &changes::run(options)?)?;
    }
    results.end("policy")
}
