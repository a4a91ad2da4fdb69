//! The switch.

mod adopt;
mod apply;
mod rates;
mod scaling;
mod tcp;
mod up;

use std::time::Duration;

use anyhow::Result;
use serde::Serialize;

use crate::{
    lane::Contestant,
    report::{self, Aim},
    run::{self, Conditions, Timing},
    sandbox,
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
    fn rounds(&self) -> u32 {
        self.timing.rounds()
    }

    fn time(&self) -> Duration {
        self.timing.time()
    }

    fn measures(&self, part: Part) -> bool {
        self.parts.is_empty() || self.parts.contains(&part)
    }
}

/// Everything that was measured.
#[derive(Debug, Serialize)]
struct Results {
    #[serde(flatten)]
    conditions: Conditions,
    rates: Option<rates::Rates>,
    scaling: Option<scaling::Scaling>,
    tcp: Option<tcp::Tcp>,
    up: Option<up::Up>,
    adopt: Option<adopt::Adopt>,
    apply: Option<apply::Apply>,
    aims: Vec<Aim>,
}

/// Measures everything, prints it and writes it to `target/bench/l2.json`.
pub fn run(options: &Options) -> Result<()> {
    sandbox::enter()?;
    let mut results = Results {
        conditions: Conditions::of(&options.timing)?,
        rates: None,
        scaling: None,
        tcp: None,
        up: None,
        adopt: None,
        apply: None,
        aims: Vec::new(),
    };
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
    if options.measures(Part::Adopt) {
        let adopt = adopt::run(options)?;
        adopt.print();
        results.aims.extend(adopt.aims());
        results.adopt = Some(adopt);
    }
    if options.measures(Part::Apply) {
        let apply = apply::run(options)?;
        apply.print();
        results.aims.extend(apply.aims());
        results.apply = Some(apply);
    }
    if !results.aims.is_empty() {
        report::print_aims(&results.aims);
    }
    run::write("l2", &results)
}
