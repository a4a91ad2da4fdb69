//! `daemon`.

use crate::cli::Global;
use crate::daemon;
use crate::error::Error;
use crate::runtime::Session;

/// Runs it, until it is told to end.
pub fn run(global: &Global) -> Result<(), Error> {
    daemon::run(&mut Session::open(global)?, global)
}
