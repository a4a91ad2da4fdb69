//! `daemon`.

use crate::cli::{DaemonArgs, DaemonPart, Global};
use crate::daemon;
use crate::error::Error;
use crate::runtime::{self, Session};

/// Runs it, until it is told to end.
pub fn run(global: &Global, args: &DaemonArgs) -> Result<(), Error> {
    match args.part {
        // It may not look at the datapath.
        DaemonPart::Dhcp => {
            runtime::enter(global)?;
            daemon::run_dhcp(global)
        }
        DaemonPart::All => daemon::run(&mut Session::open(global)?, global, true),
        DaemonPart::Switch => daemon::run(&mut Session::open(global)?, global, false),
    }
}
