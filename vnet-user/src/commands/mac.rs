//! `mac deny | allow | list`: the deny list, as a set. Denying what is denied and allowing what is
//! not are done already.

use serde::Serialize;

use super::{edit, load};
use crate::cli::MacCommand;
use crate::config::{MacAddr, edits};
use crate::error::Error;
use crate::output::{Listing, Output};
use crate::runtime::Session;

/// Runs the verb.
pub fn run(session: &mut Session, output: &Output, command: MacCommand) -> Result<(), Error> {
    match command {
        MacCommand::Deny { mac } => deny(session, output, mac),
        MacCommand::Allow { mac } => allow(session, output, mac),
        MacCommand::List => list(session, output),
    }
}

fn deny(session: &mut Session, output: &Output, mac: MacAddr) -> Result<(), Error> {
    let edited = edit(session, output, &format!("denying {mac}"), |config| {
        edits::deny_mac(config, mac);
        Ok(())
    })?;
    if !edited.changed() {
        output.note(&format!("{mac} was denied already"));
    }
    Ok(())
}

fn allow(session: &mut Session, output: &Output, mac: MacAddr) -> Result<(), Error> {
    let edited = edit(session, output, &format!("allowing {mac}"), |config| {
        edits::allow_mac(config, mac);
        Ok(())
    })?;
    if !edited.changed() {
        output.note(&format!("{mac} was not denied"));
    }
    Ok(())
}

fn list(session: &Session, output: &Output) -> Result<(), Error> {
    let config = load(session)?;
    let rows: Vec<_> = config
        .mac_deny
        .iter()
        .map(|&mac| MacRow {
            mac,
            action: "deny",
        })
        .collect();
    output.list(&rows)
}

#[derive(Serialize)]
struct MacRow {
    mac: MacAddr,
    action: &'static str,
}

impl Listing for MacRow {
    const PLURAL: &'static str = "macs";
    const COLUMNS: &'static [&'static str] = &["MAC", "ACTION"];

    fn cells(&self) -> Vec<String> {
        vec![self.mac.to_string(), self.action.into()]
    }
}
