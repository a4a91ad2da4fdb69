//! `cargo xtask …`: the project's development commands.

mod bench_cmd;
mod build_cmd;
mod deb_cmd;
mod interrupt;
mod lab;
mod live;
mod page;
mod run;
mod test_cmd;
mod vnet_user;

use std::process::ExitCode;

use anyhow::Result;
use clap::{
    Args, Parser,
    builder::{PossibleValuesParser, TypedValueParser},
};
use xtask::setup::{self, GUEST_KERNELS, GuestKernel};

/// Builds, tests and demonstrates vnet.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
enum Cli {
    /// Get everything that the build, the tests and the lab need.
    Setup,
    /// Build target/release/vnet-user.
    Build,
    /// Build the Debian package target/debian/vnet_VERSION_ARCHITECTURE.deb.
    Deb,
    /// Run every test, or those whose names contain FILTER (as root).
    Test(TestArgs),
    /// Measure vnet and what it is compared with (as root): `bench l2`, `bench nat`, `bench policy`, `bench l2 --help`.
    #[command(disable_help_flag = true)]
    Bench {
        /// A suite and its options.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Bring a switch up on an interface and show its counters; without --iface, the lab.
    Run(RunArgs),
    /// Make a lab of virtual machines on a switch of its own and show traffic through it (as root).
    Lab(LabArgs),
}

#[derive(Debug, Args)]
struct TestArgs {
    /// Part of test names.
    filter: Option<String>,
    /// Run only the tests on this kernel of Debian's, which a guest boots; may be given several
    /// times.
    #[arg(long = "kernel", value_name = "KERNEL", conflicts_with = "filter", value_parser = kernels())]
    kernels: Vec<&'static GuestKernel>,
}

/// The values of `--kernel`.
fn kernels() -> impl TypedValueParser<Value = &'static GuestKernel> {
    let names = GUEST_KERNELS.map(|kernel| kernel.name);
    PossibleValuesParser::new(names).try_map(|name| GuestKernel::named(&name))
}

#[derive(Debug, Args)]
struct RunArgs {
    /// The uplink: the interface that the switch attaches to.
    #[arg(long)]
    iface: Option<String>,
    /// The switch's name.
    #[arg(long, default_value = "vsw0", requires = "iface")]
    switch: String,
    /// Leave the switch up and return at once.
    #[arg(long, requires = "iface")]
    detach: bool,
    /// Which hook forwards.
    #[arg(long, requires = "iface")]
    mode: Option<run::Mode>,
    /// Build the datapath with logging and print what it logs.
    #[arg(
        long,
        value_name = "LEVEL",
        requires = "iface",
        conflicts_with = "detach"
    )]
    datapath_log: Option<run::LogLevel>,
    /// Without --iface: take the lab down as soon as it has been shown.
    #[arg(long, conflicts_with = "iface")]
    once: bool,
}

#[derive(Debug, Args)]
struct LabArgs {
    /// Take the lab down as soon as it has been shown (the default without a terminal).
    #[arg(long)]
    once: bool,
}

fn main() -> ExitCode {
    match dispatch(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch(command: Cli) -> Result<()> {
    match command {
        Cli::Setup => setup::everything(setup::Report::Everything),
        Cli::Build => {
            println!("{}", build_cmd::build()?.display());
            Ok(())
        }
        Cli::Deb => {
            println!("{}", deb_cmd::deb()?.display());
            Ok(())
        }
        Cli::Test(TestArgs { filter, kernels }) if kernels.is_empty() => {
            test_cmd::test(filter.as_deref())
        }
        Cli::Test(TestArgs { kernels, .. }) => test_cmd::test_on(&kernels),
        Cli::Bench { arguments } => bench_cmd::bench(&arguments),
        Cli::Run(RunArgs {
            iface: Some(iface),
            switch,
            detach,
            mode,
            datapath_log,
            ..
        }) => run::run(&run::Options {
            iface,
            switch,
            detach,
            mode,
            datapath_log,
        }),
        Cli::Run(RunArgs { once, .. }) | Cli::Lab(LabArgs { once }) => lab::lab(once),
    }
}
