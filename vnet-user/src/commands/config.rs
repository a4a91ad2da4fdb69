//! `config export | check | diff | apply | confirm | rollback | list`.

use std::{io, path::Path};

use serde::Serialize;

use super::tell;
use crate::cli::{ApplyArgs, ConfigCommand, Format, Global};
use crate::compile::{self, Facts};
use crate::config::{
    Checkpoint, Edited, Source,
    diff::{self, Change},
};
use crate::error::{Doing as _, Error, ExitCode};
use crate::output::{Listing, Output, print};
use crate::runtime::Session;

/// Runs the verb. Each opens of the switch what it needs: a document can be checked where there is
/// no switch, and by anybody.
pub fn run(global: &Global, output: &Output, command: ConfigCommand) -> Result<ExitCode, Error> {
    match command {
        ConfigCommand::Export => export(&Session::open(global)?, output)?,
        ConfigCommand::Check { file } => check(output, &global.switch, &file)?,
        ConfigCommand::Diff { file } => {
            // To scripts 1 means that there is a difference, and nothing else.
            return Session::open(global)
                .and_then(|session| diff(&session, output, &file))
                .map_err(|error| error.code(ExitCode::Usage));
        }
        ConfigCommand::Apply(args) => apply(&mut Session::open(global)?, output, &args)?,
        ConfigCommand::Confirm => confirm(&Session::open(global)?, output)?,
        ConfigCommand::Rollback { id } => rollback(&mut Session::open(global)?, output, id)?,
        ConfigCommand::List => list(&Session::open(global)?, output)?,
    }
    Ok(ExitCode::Done)
}

/// The document as it is; a switch without one is as one begins.
fn export(session: &Session, output: &Output) -> Result<(), Error> {
    let source = session.store().source()?.unwrap_or_else(Source::empty);
    source.config(session.switch())?;
    if output.format() == Format::Table {
        return print(&source.text);
    }
    let doing = || "printing the document".into();
    let value: serde_json::Value = toml::from_str(&source.text).doing(doing)?;
    let text = if output.format() == Format::Json {
        serde_json::to_string_pretty(&value)
    } else {
        serde_json::to_string(&value)
    };
    print(&(text.doing(doing)? + "\n"))
}

fn check(output: &Output, switch: &str, file: &Path) -> Result<(), Error> {
    let source = Source::open(file)?;
    let config = source.config(switch)?;
    compile::compile(&config, &Facts::supposed(&config, switch))?;
    output.note(&format!("{} is right", source.name));
    Ok(())
}

fn diff(session: &Session, output: &Output, file: &Path) -> Result<ExitCode, Error> {
    let new = Source::open(file)?;
    let after = new.config(session.switch())?;
    let before = session.store().load()?.unwrap_or_default();
    let changes = diff::changes(&before, &after);
    if output.format() != Format::Table {
        output.list(&changes)?;
    } else if !changes.is_empty() {
        let mut text = format!(
            "--- {}\n+++ {}\n",
            session.store().path().display(),
            new.name
        );
        text.extend(changes.iter().map(Change::text));
        print(&text)?;
    }
    Ok(if changes.is_empty() {
        ExitCode::Done
    } else {
        ExitCode::Differs
    })
}

fn apply(session: &mut Session, output: &Output, args: &ApplyArgs) -> Result<(), Error> {
    let doing = format!("applying {}", args.file.display());
    let source = Source::open(&args.file)?;
    source.config(session.switch())?;
    if args.confirm.is_some() {
        ask_daemon(session, &doing)?;
    }
    replace(session, output, &doing, &source, args.confirm)?;
    if args.confirm.is_none() {
        return Ok(());
    }
    // It looks at how long it has to wait. One that went meanwhile cannot take it back.
    if let Err(error) = ask_daemon(session, &doing) {
        let store = session.store().clone();
        store.revert(&doing, false, |old, new| session.sync(old, new))?;
        return Err(error);
    }
    if let Some(pending) = session.store().pending()? {
        output.note(&format!(
            "taken back in {} s unless `vnet-user --switch {} config confirm` comes before",
            pending.left_s(),
            session.switch()
        ));
    }
    Ok(())
}

/// What is applied until it is confirmed is taken back by the daemon: no other process is sure to be
/// there when the time comes.
fn ask_daemon(session: &Session, doing: &str) -> Result<(), Error> {
    session.poke_daemon().map_err(|error| {
        let why = match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                "only the daemon can take it back, and none runs".into()
            }
            _ => format!("only the daemon can take it back, and it does not answer: {error}"),
        };
        Error::new(doing, why)
            .code(ExitCode::NotUp)
            .mend("start the daemon (vnet-user daemon), or apply it without --confirm")
    })
}

/// Keeps what was applied. It needs no daemon: where none runs, none takes it back.
fn confirm(session: &Session, output: &Output) -> Result<(), Error> {
    let doing = "confirming what was applied";
    if !session.store().confirm()? {
        return Err(Error::new(doing, "nothing waits to be confirmed")
            .mend("vnet-user config list shows what was taken back or replaced"));
    }
    let _ = session.poke_daemon();
    output.note("it stays");
    Ok(())
}

fn rollback(session: &mut Session, output: &Output, id: Option<u32>) -> Result<(), Error> {
    let store = session.store().clone();
    if id.is_none() {
        let doing = "taking back what waits to be confirmed";
        if let Some(edited) = store.revert(doing, false, |old, new| session.sync(old, new))? {
            report(session, output, &edited);
            return Ok(());
        }
    }
    let checkpoints = store.checkpoints();
    let id = match id {
        Some(id) => id,
        None => store.last_other()?.ok_or_else(|| {
            Error::new(
                format!("rolling back the switch {}", session.switch()),
                "no document has been kept: no command has changed it yet",
            )
            .mend("vnet-user config apply FILE")
        })?,
    };
    let source = checkpoints.load(id)?;
    let doing = format!("rolling back to the checkpoint {id}");
    replace(session, output, &doing, &source, None)
}

/// Puts a whole document into force, or nothing of it.
fn replace(
    session: &mut Session,
    output: &Output,
    doing: &str,
    source: &Source,
    confirm_s: Option<u32>,
) -> Result<(), Error> {
    let store = session.store().clone();
    let is_up = session.is_up();
    let edited = store.replace(doing, source, is_up, confirm_s, |old, new| {
        session.sync(old, new)
    })?;
    report(session, output, &edited);
    Ok(())
}

/// Says what a whole document changed.
fn report(session: &Session, output: &Output, edited: &Edited) {
    tell(session, output, edited);
    match diff::changes(&edited.old, &edited.new).len() {
        0 => output.note("nothing changes"),
        1 => output.note("1 object changed"),
        changes => output.note(&format!("{changes} objects changed")),
    }
}

fn list(session: &Session, output: &Output) -> Result<(), Error> {
    let checkpoints = session.store().checkpoints().list()?;
    output.list(
        &checkpoints
            .iter()
            .map(CheckpointRow::new)
            .collect::<Vec<_>>(),
    )
}

impl Listing for Change {
    const PLURAL: &'static str = "changes";
    const COLUMNS: &'static [&'static str] = &["OBJECT", "NAME", "CHANGE"];

    fn cells(&self) -> Vec<String> {
        vec![
            self.object.clone(),
            self.name.clone(),
            format!("{:?}", self.change).to_lowercase(),
        ]
    }
}

#[derive(Serialize)]
struct CheckpointRow {
    id: u32,
    /// RFC 3339, UTC.
    time: String,
    /// What was done then.
    before: String,
}

impl CheckpointRow {
    fn new(checkpoint: &Checkpoint) -> Self {
        let time = i64::try_from(checkpoint.time_s)
            .ok()
            .and_then(|time_s| jiff::Timestamp::from_second(time_s).ok());
        Self {
            id: checkpoint.id,
            time: time.map_or_else(|| "-".into(), |time| time.to_string()),
            before: checkpoint.before.clone(),
        }
    }
}

impl Listing for CheckpointRow {
    const PLURAL: &'static str = "checkpoints";
    const COLUMNS: &'static [&'static str] = &["ID", "TIME UTC", "BEFORE"];

    fn cells(&self) -> Vec<String> {
        vec![self.id.to_string(), self.time.clone(), self.before.clone()]
    }
}
