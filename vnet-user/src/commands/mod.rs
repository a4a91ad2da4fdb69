//! One command a file. A command turns its arguments into one call of the layer below and prints
//! the answer.

mod ban;
mod completions;
mod config;
mod daemon;
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
mod policy;
mod port;
mod set;
mod stats;
mod status;
mod up;

use crate::cli::{Cli, Command};
use crate::config::{Config, Edited, Invalid, SETTING_KEYS};
use crate::datapath::forgotten::Forgotten;
use crate::dhcp;
use crate::error::{Error, ExitCode};
use crate::output::Output;
use crate::runtime::Session;

/// Runs what was typed.
pub fn run(cli: Cli) -> Result<ExitCode, Error> {
    let output = Output::new(&cli.global);
    match cli.command {
        // These two are about the program, not about a switch.
        Command::Completions(args) => completions::run(&args)?,
        Command::Man(args) => man::run(&args)?,
        Command::Config(command) => return config::run(&cli.global, &output, command),
        Command::Daemon(args) => daemon::run(&cli.global, &args)?,
        // A switch that cannot be opened is something to tell of.
        Command::Doctor(args) => doctor::run(&cli.global, &output, &args)?,
        command => run_on(&mut Session::open(&cli.global)?, &output, command)?,
    }
    Ok(ExitCode::Done)
}

/// Runs a command that is about a switch.
fn run_on(session: &mut Session, output: &Output, command: Command) -> Result<(), Error> {
    match command {
        Command::Up(args) => up::run(session, output, args),
        Command::Down => down::run(session, output),
        Command::Status => status::run(session, output),
        Command::Network(command) => network::run(session, output, command),
        Command::Port(command) => port::run(session, output, command),
        Command::Fdb(command) => fdb::run(session, output, command),
        Command::Mac(command) => mac::run(session, output, command),
        Command::Nat(command) => nat::run(session, output, command),
        Command::Flow(command) => flow::run(session, output, command),
        Command::Policy(command) => policy::run(session, output, command),
        Command::Ban(command) => ban::run(session, output, command),
        Command::Set(args) => set::run(session, output, args),
        Command::Get(args) => get::run(session, output, args),
        Command::Stats(args) => stats::run(session, output, args),
        Command::Events(args) => events::run(session, output, args),
        #[cfg(feature = "datapath-log")]
        Command::DatapathLog => datapath_log::run(session),
        Command::Completions(_)
        | Command::Man(_)
        | Command::Config(_)
        | Command::Daemon(_)
        | Command::Doctor(_) => Ok(()),
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
    tell(session, output, &edited);
    Ok(edited)
}

/// Says what was warned of, and what of a change does not take effect now.
fn tell(session: &Session, output: &Output, edited: &Edited) {
    if edited.changed() {
        // What it watches for is perhaps something else now. Where none runs, nobody has to know.
        let _ = session.poke_daemon();
    }
    for warning in &edited.warnings {
        output.warn(warning);
    }
    let before = dhcp::outside(&edited.old, session.switch());
    for warning in dhcp::outside(&edited.new, session.switch()) {
        if !before.contains(&warning) {
            output.warn(&warning);
        }
    }
    if !session.is_up() {
        if edited.changed() {
            output.note(&format!(
                "the switch {} is down: this takes effect at `up`",
                session.switch()
            ));
        }
        return;
    }
    if let Some(unserved) = dhcp::unserved(&edited.new, session.switch(), session.dhcp()) {
        output.warn(&unserved);
    }
    for key in SETTING_KEYS.iter().filter(|key| key.needs_restart) {
        if key.get(&edited.old.settings) != key.get(&edited.new.settings) {
            output.note(&format!(
                "{} is the size of a table: it changes by `down` and `up`, which forget {}",
                key.name,
                Forgotten::of(session.pins().dir())
            ));
        }
    }
}

/// The error of a rule that is not added: it has no id to be known by.
fn without_subject(mut error: Error, subject: &str) -> Error {
    if let Some(why) = error.why.strip_prefix(subject) {
        error.why = why.to_owned();
    }
    error
}

/// The configuration for listings: a switch without a document is as one begins.
fn load(session: &Session) -> Result<Config, Error> {
    let config = session.store().load()?.unwrap_or_default();
    Ok(session.with_adopted(config))
}
