//! The benchmarks. `cargo xtask bench` builds what they need and runs them.
//!
//! Only ratios within one run count: machines differ, and a shared one differs from minute to
//! minute. So every contestant exists at once, each in network namespaces of its own, and they are
//! measured in turns, round after round. A figure is the median over the rounds, a ratio the median
//! of each round's ratio.

mod cpu;
mod generator;
mod iperf;
mod l2;
mod lane;
mod nat;
mod pins;
mod policy;
mod programs;
mod rate;
mod report;
mod run;
mod sandbox;
mod statistics;
mod vnet_user;

use std::process::ExitCode;

use clap::Parser;

/// Measures vnet against what the kernel offers and against the least that a switch has to do.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask bench", bin_name = "cargo xtask bench")]
struct Cli {
    #[command(subcommand)]
    suite: Suite,
    /// `cargo bench` says this to every benchmark.
    #[arg(long, hide = true, global = true)]
    bench: bool,
}

#[derive(Debug, clap::Subcommand)]
enum Suite {
    /// The switch: packet rate, scaling, TCP, round trip, `up`, memory, large documents
    L2(l2::Options),
    /// The NAT gateway: packet rate, new flows, TCP, round trip, memory, expiry
    Nat(nat::Options),
    /// Security groups: packet rate and new flows by number of rules, changes of rules
    Policy(policy::Options),
}

fn main() -> ExitCode {
    let done = match Cli::parse().suite {
        Suite::L2(options) => l2::run(&options),
        Suite::Nat(options) => nat::run(&options),
        Suite::Policy(options) => policy::run(&options),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
