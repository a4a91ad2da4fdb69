//! `daemon`.

use crate::cli::{DaemonArgs, Global};
use crate::daemon;
use crate::error::Error;
use crate::runtime::Session;

/// Runs it, until it is told to end.
pub fn run(global: &Global, args: &DaemonArgs) -> Result<(), Error> {
    daemon::run(&mut Session::open(global)?, global, args.part)
}
