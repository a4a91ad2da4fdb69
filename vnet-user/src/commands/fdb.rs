//! `fdb list | add | del | flush`.

use super::{edit, load};
use crate::cli::{FdbAddArgs, FdbCommand, FdbDelArgs, FdbListArgs};
use crate::config::{StaticFdb, edits};
use crate::error::Error;
use crate::output::{Listing, Output, or_dash};
use crate::runtime::{FdbRow, Session};

/// Runs the verb.
pub fn run(session: &mut Session, output: &Output, command: FdbCommand) -> Result<(), Error> {
    match command {
        FdbCommand::List(args) => list(session, output, &args),
        FdbCommand::Add(args) => add(session, output, args),
        FdbCommand::Del(args) => del(session, output, &args),
        FdbCommand::Flush => flush(session, output),
    }
}

fn list(session: &Session, output: &Output, args: &FdbListArgs) -> Result<(), Error> {
    let mut rows = session.fdb()?;
    let config = load(session)?;
    let doing = "listing addresses";
    if let Some(network) = &args.network {
        config
            .require_network(network)
            .map_err(|refusal| refusal.doing(doing))?;
        rows.retain(|row| row.network == *network);
    }
    if let Some(port) = &args.port {
        if port != session.switch() && config.port(port).is_none() {
            return Err(edits::no_port(&config, session.switch(), port).doing(doing));
        }
        rows.retain(|row| row.port == *port);
    }
    output.list(&rows)
}

fn add(session: &mut Session, output: &Output, args: FdbAddArgs) -> Result<(), Error> {
    let doing = format!("adding the static address {} to {}", args.mac, args.network);
    let switch = session.switch().to_owned();
    edit(session, output, &doing, |config| {
        if args.may_exist && edits::find_fdb(config, args.mac, &args.network).is_some() {
            return Ok(());
        }
        let entry = StaticFdb {
            mac: args.mac,
            network: args.network,
            port: args.port,
        };
        edits::add_fdb(config, &switch, entry)
    })?;
    Ok(())
}

fn del(session: &mut Session, output: &Output, args: &FdbDelArgs) -> Result<(), Error> {
    let doing = format!(
        "deleting the static address {} from {}",
        args.mac, args.network
    );
    edit(session, output, &doing, |config| {
        if args.if_exists && edits::find_fdb(config, args.mac, &args.network).is_none() {
            return Ok(());
        }
        edits::delete_fdb(config, args.mac, &args.network)
    })?;
    Ok(())
}

fn flush(session: &mut Session, output: &Output) -> Result<(), Error> {
    let forgotten = session.fdb_flush()?;
    output.note(&format!("{forgotten} learned addresses forgotten"));
    Ok(())
}

impl Listing for FdbRow {
    const PLURAL: &'static str = "fdb";
    const COLUMNS: &'static [&'static str] = &["MAC", "NETWORK", "PORT", "KIND", "AGE"];

    fn cells(&self) -> Vec<String> {
        vec![
            self.mac.to_string(),
            self.network.clone(),
            self.port.clone(),
            self.kind.into(),
            or_dash(self.age_s.map(|age| format!("{age}s"))),
        ]
    }
}
