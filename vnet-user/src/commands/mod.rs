//! One command a file. A command turns its arguments into one call of the layer below and prints
//! the answer.

mod completions;
#[cfg(feature = "datapath-log")]
mod datapath_log;
mod doctor;
mod down;
mod events;
mod fdb;
mod flow;
mod get;
mod mac;
mod man;
mod nat;
mod network;
mod port;
mod set;
mod stats;
mod status;
mod up;

use crate::cli::{Cli, Command};
use crate::config::{Config, Edited, Invalid};
use crate::error::Error;
use crate::output::Output;
use crate::runtime::Session;

/// Runs what was typed.
pub fn run(cli: Cli) -> Result<(), Error> {
    let output = Output::new(&cli.global);
    // These are about the program, or work without a switch.
    match &cli.command {
        Command::Completions(args) => return completions::run(args),
        Command::Man(args) => return man::run(args),
        // A switch that cannot be opened is something to tell of.
        Command::Doctor(args) => return doctor::run(&cli.global, &output, args),
        _ => {}
    }
    let mut session = Session::open(&cli.global)?;
    let session = &mut session;
    match cli.command {
        Command::Up(args) => up::run(session, &output, args),
        Command::Down => down::run(session, &output),
        Command::Status => status::run(session, &output),
        Command::Network(command) => network::run(session, &output, command),
        Command::Port(command) => port::run(session, &output, command),
        Command::Fdb(command) => fdb::run(session, &output, command),
        Command::Mac(command) => mac::run(session, &output, command),
        Command::Nat(command) => nat::run(session, &output, command),
        Command::Flow(command) => flow::run(session, &output, command),
        Command::Set(args) => set::run(session, &output, args),
        Command::Get(args) => get::run(session, &output, args),
        Command::Stats(args) => stats::run(session, &output, args),
        Command::Events(args) => events::run(session, &output, args),
        #[cfg(feature = "datapath-log")]
        Command::DatapathLog => datapath_log::run(session),
        Command::Completions(_) | Command::Man(_) | Command::Doctor(_) => Ok(()),
    }
}

/// Changes the document and, while the switch is up, the kernel; says what was warned of and when
/// the change takes effect.
fn edit(
    session: &mut Session,
    output: &Output,
    doing: &str,
    edit: impl FnOnce(&mut Config) -> Result<(), Invalid>,
) -> Result<Edited, Error> {
    let store = session.store().clone();
    let edited = store.edit(doing, edit, |old, new| session.sync(old, new))?;
    for warning in &edited.warnings {
        output.warn(warning);
    }
    if edited.changed() && !session.is_up() {
        output.note(&format!(
            "the switch {} is down: this takes effect at `up`",
            session.switch()
        ));
    }
    Ok(edited)
}

/// The configuration for listings: a switch without a document is as one begins.
fn load(session: &Session) -> Result<Config, Error> {
    Ok(session.store().load()?.unwrap_or_default())
}
