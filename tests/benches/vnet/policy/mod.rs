//! Security groups.

mod changes;
mod contestant;
mod lane;
mod rates;
mod rules;

use std::time::Duration;

use anyhow::Result;
use clap::ValueEnum as _;
use serde::Serialize;

use self::contestant::{Contestant, ROOM};
use crate::{
    nat::conntrack::Room,
    report::{self, Aim},
    run::{self, Conditions, Timing},
    sandbox,
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
    fn rounds(&self) -> u32 {
        self.timing.rounds()
    }

    fn time(&self) -> Duration {
        self.timing.time()
    }

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

/// Everything that was measured.
#[derive(Debug, Serialize)]
struct Results {
    #[serde(flatten)]
    conditions: Conditions,
    rates: Option<rates::Rates>,
    changes: Option<changes::Changes>,
    aims: Vec<Aim>,
}

/// Measures everything, prints it and writes it to `target/bench/policy.json`.
pub fn run(options: &Options) -> Result<()> {
    sandbox::enter()?;
    let mut results = Results {
        conditions: Conditions::of(&options.timing)?,
        rates: None,
        changes: None,
        aims: Vec::new(),
    };
    if options.measures(Part::Rates) {
        let rates = rates::run(options)?;
        rates.print();
        results.aims.extend(rates.aims());
        results.rates = Some(rates);
    }
    if options.measures(Part::Changes) {
        let changes = changes::run(options)?;
        changes.print();
        results.aims.extend(changes.aims());
        results.changes = Some(changes);
    }
    if !results.aims.is_empty() {
        report::print_aims(&results.aims);
    }
    run::write("policy", &results)
}
