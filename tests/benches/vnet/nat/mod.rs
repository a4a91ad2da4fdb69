//! The NAT gateway.

pub mod conntrack;
mod expiry;
mod gateway;
mod lane;
mod memory;
mod new_flows;
mod ping_pong;
mod rates;
mod tcp;

use anyhow::Result;
use clap::ValueEnum as _;

pub use self::gateway::{parsed_mac, text};
use self::{conntrack::Room, gateway::Contestant};
use crate::run::{Results, Timing};

/// How to measure.
#[derive(Debug, clap::Args)]
pub struct Options {
    #[command(flatten)]
    timing: Timing,
    /// Numbers of established flows
    #[arg(long, value_delimiter = ',', default_value = "1,1000,50000,1000000")]
    flows: Vec<u32>,
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
    /// Packet rate by number of established flows
    Rates,
    /// New flows a second
    NewFlows,
    /// TCP and round trip
    Tcp,
    /// Memory of a flow and of a mapping
    Memory,
    /// How long a slice of expiry takes
    Expiry,
}

impl Options {
    /// Whether a part is to be measured that compares, or that is of vnet alone.
    fn measures(&self, part: Part) -> bool {
        let of_vnet = matches!(part, Part::Memory | Part::Expiry);
        (self.parts.is_empty() || self.parts.contains(&part))
            && (!of_vnet || self.takes(Contestant::Vnet))
    }

    fn takes(&self, contestant: Contestant) -> bool {
        self.only.is_empty() || self.only.contains(&contestant)
    }

    /// Room for `flows` connections of those who keep them in Linux's connection tracking.
    fn room(&self, flows: u32) -> Result<Option<Room>> {
        let needed = self.takes(Contestant::Nft);
        needed.then(|| Room::for_flows(flows)).transpose()
    }

    fn contestants(&self) -> impl Iterator<Item = Contestant> {
        let all = Contestant::value_variants().iter().copied();
        all.filter(|&contestant| self.takes(contestant))
    }
}

/// Measures everything, prints it and writes it to `target/bench/nat.json`.
pub fn run(options: &Options) -> Result<()> {
    let mut results = Results::begin(&options.timing)?;
    if options.measures(Part::Rates) {
        results.add("rates", &rates::run(options)?)?;
    }
    if options.measures(Part::NewFlows) {
        results.add("new_flows", &new_flows::run(options)?)?;
    }
    if options.measures(Part::Tcp) {
        results.add("tcp", &tcp::run(options)?)?;
    }
    if options.measures(Part::Memory) {
        results.add("memory", &memory::run()?)?;
    }
    if options.measures(Part::Expiry) {
        results.add("expiry", &expiry::run(options)?)?;
    }
    results.end("nat")
}
