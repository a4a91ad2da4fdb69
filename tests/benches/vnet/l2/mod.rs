//! The switch.

mod rates;

use std::time::Duration;

use anyhow::Result;

use crate::{lane::Contestant, sandbox};

/// How to measure.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// How often each is measured
    #[arg(long, default_value_t = 5)]
    rounds: u32,
    /// How long each time
    #[arg(long, default_value_t = 1.0)]
    seconds: f64,
    /// Numbers of flows: sources that send to one destination
    #[arg(long, value_delimiter = ',', default_value = "1,1000,50000")]
    flows: Vec<u32>,
    /// Only these contestants
    #[arg(long, value_delimiter = ',')]
    only: Vec<Contestant>,
}

impl Options {
    fn time(&self) -> Duration {
        Duration::from_secs_f64(self.seconds)
    }
}

/// Measures everything, prints it and writes it to `target/bench/l2.json`.
pub fn run(options: &Options) -> Result<()> {
    sandbox::enter()?;
    rates::run(options)
}
