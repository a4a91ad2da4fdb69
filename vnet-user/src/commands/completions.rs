//! `completions SHELL`.

use clap::CommandFactory as _;

use crate::cli::{Cli, CompletionsArgs};
use crate::error::Error;
use crate::output::print;

/// Prints the completion script of a shell.
pub fn run(args: &CompletionsArgs) -> Result<(), Error> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "vnet-user", &mut script);
    print(&String::from_utf8_lossy(&script))
}
