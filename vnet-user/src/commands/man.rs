//! `man DIR`.

use clap::CommandFactory as _;

use crate::cli::{Cli, ManArgs};
use crate::error::{Doing as _, Error};

/// Writes the manual pages: `vnet-user.1`, `vnet-user-port.1`, `vnet-user-port-add.1`, …
pub fn run(args: &ManArgs) -> Result<(), Error> {
    let doing = || format!("writing manual pages to {}", args.dir.display());
    std::fs::create_dir_all(&args.dir).doing(doing)?;
    clap_mangen::generate_to(Cli::command(), &args.dir).doing(doing)
}
