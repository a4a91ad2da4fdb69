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

use std::time::Duration;

use anyhow::Result;
use clap::ValueEnum as _;
use serde::Serialize;

pub use self::gateway::{parsed_mac, text};
use self::{conntrack::Room, gateway::Contestant};
use crate::{
    report::{self, Aim},
    run::{self, Conditions, Timing},
    sandbox,
};

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
    fn rounds(&self) -> u32 {
        self.timing.rounds()
    }

    fn time(&self) -> Duration {
        self.timing.time()
    }

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

/// Everything that was measured.
#[derive(Debug, Serialize)]
struct Results {
    #[serde(flatten)]
    conditions: Conditions,
    rates: Option<rates::Rates>,
    new_flows: Option<new_flows::NewFlows>,
    tcp: Option<tcp::Tcp>,
    memory: Option<memory::Memory>,
    expiry: Option<expiry::Expiry>,
    aims: Vec<Aim>,
}

/// Measures everything, prints it and writes it to `target/bench/nat.json`.
pub fn run(options: &Options) -> Result<()> {
    sandbox::enter()?;
    let mut results = Results {
        conditions: Conditions::of(&options.timing)?,
        rates: None,
        new_flows: None,
        tcp: None,
        memory: None,
        expiry: None,
        aims: Vec::new(),
    };
    if options.measures(Part::Rates) {
        let rates = rates::run(options)?;
        rates.print();
        results.aims.extend(rates.aims());
        results.rates = Some(rates);
    }
    if options.measures(Part::NewFlows) {
        let new_flows = new_flows::run(options)?;
        new_flows.print();
        results.aims.extend(new_flows.aims());
        results.new_flows = Some(new_flows);
    }
    if options.measures(Part::Tcp) {
        let tcp = tcp::run(options)?;
        tcp.print();
        results.aims.extend(tcp.aims());
        results.tcp = Some(tcp);
    }
    if options.measures(Part::Memory) {
        let memory = memory::run()?;
        memory.print();
        results.aims.extend(memory.aims());
        results.memory = Some(memory);
    }
    if options.measures(Part::Expiry) {
        let expiry = expiry::run(options)?;
        expiry.print();
        results.expiry = Some(expiry);
    }
    if !results.aims.is_empty() {
        report::print_aims(&results.aims);
    }
    run::write("nat", &results)
}
