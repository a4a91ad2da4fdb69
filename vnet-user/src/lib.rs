//! `vnet-user`: configures vnet switches, loads their datapath and shows what it does.
//!
//! A library so that tests work with the very configuration, tables and object that the command
//! uses; the command itself is [`main`].

pub mod adopt;
pub mod attach;
pub mod bans;
pub mod cli;
pub mod commands;
pub mod compile;
pub mod config;
pub mod daemon;
pub mod datapath;
pub mod dhcp;
pub mod doctor;
pub mod error;
pub mod flows;
pub mod gateway;
pub mod host;
pub mod import;
pub mod lifecycle;
pub mod output;
pub mod policy_usage;
pub mod ports;
pub mod runtime;
pub mod state;
pub mod sync;

use std::process::ExitCode;

/// Runs the command line; what `vnet-user` does.
#[must_use]
pub fn main() -> ExitCode {
    let cli = cli::Cli::read();
    let is_daemon = matches!(cli.command, cli::Command::Daemon(_));
    output::init_log(&cli.global, is_daemon);
    let run = || match daemon::client::leave(&cli)? {
        Some(code) => Ok(code.into()),
        None => commands::run(cli).map(ExitCode::from),
    };
    match run() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("{error}");
            error.code.into()
        }
    }
}
