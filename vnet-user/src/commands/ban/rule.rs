//! `ban rule add | list | del`.

use serde::Serialize;

use super::{edit, load};
use crate::bans::BanRow;
use crate::cli::{BanRuleAddArgs, BanRuleCommand, BanRuleDelArgs};
use crate::commands::without_subject;
use crate::config::{BanRule, Invalid, edits};
use crate::error::Error;
use crate::output::{Listing, Output, joined, or_dash};
use crate::runtime::Session;

/// Runs the verb.
pub(super) fn run(
    session: &mut Session,
    output: &Output,
    command: BanRuleCommand,
) -> Result<(), Error> {
    match command {
        BanRuleCommand::Add(args) => add(session, output, args),
        BanRuleCommand::List => list(session, output),
        BanRuleCommand::Del(args) => del(session, output, &args),
    }
}

fn add(session: &mut Session, output: &Output, args: BanRuleAddArgs) -> Result<(), Error> {
    let may_exist = args.may_exist;
    let rule = BanRule::from(args);
    let doing = "adding a ban rule";
    let mut id = 0;
    let edited = edit(session, output, doing, |config| {
        match config.bans.iter().find(|old| old.does_as(&rule)) {
            Some(same) if may_exist => id = same.id,
            Some(same) => {
                return Err(
                    Invalid::new(format!("the rule {} is the very same", same.id))
                        .mend("say --may-exist where that is no mistake"),
                );
            }
            None => id = edits::add_ban(config, rule)?,
        }
        Ok(())
    })
    .map_err(|error| without_subject(error, &format!("the ban rule {id}: ")))?;
    if edited.changed() {
        output.note(&format!("ban rule {id} added"));
    }
    output.id(id.into())
}

fn list(session: &Session, output: &Output) -> Result<(), Error> {
    let config = load(session)?;
    let bans = if session.is_up() {
        Some(session.bans()?)
    } else {
        None
    };
    let rows: Vec<_> = config
        .bans
        .iter()
        .map(|rule| RuleRow::new(rule, bans.as_deref()))
        .collect();
    output.list(&rows)
}

fn del(session: &mut Session, output: &Output, args: &BanRuleDelArgs) -> Result<(), Error> {
    let id = args.id;
    let doing = format!("deleting the ban rule {id}");
    edit(session, output, &doing, |config| {
        if args.if_exists && edits::find_ban(config, id).is_none() {
            return Ok(());
        }
        edits::delete_ban(config, id)
    })?;
    Ok(())
}

/// A rule, and how many it keeps away while the switch is up.
#[derive(Serialize)]
struct RuleRow {
    id: u8,
    ports: String,
    connections: u32,
    within: u32,
    time: u32,
    except: Vec<String>,
    banned: Option<usize>,
}

impl RuleRow {
    fn new(rule: &BanRule, bans: Option<&[BanRow]>) -> Self {
        let id = Some(rule.id.into());
        Self {
            id: rule.id,
            ports: rule.ports.to_string(),
            connections: rule.connections,
            within: rule.within,
            time: rule.time,
            except: rule.except.iter().map(ToString::to_string).collect(),
            banned: bans.map(|bans| bans.iter().filter(|ban| ban.rule == id).count()),
        }
    }
}

impl Listing for RuleRow {
    const PLURAL: &'static str = "rules";
    const COLUMNS: &'static [&'static str] = &[
        "ID",
        "PORTS",
        "CONNECTIONS",
        "WITHIN",
        "TIME",
        "EXCEPT",
        "BANNED",
    ];

    fn cells(&self) -> Vec<String> {
        vec![
            self.id.to_string(),
            self.ports.clone(),
            self.connections.to_string(),
            format!("{}s", self.within),
            format!("{}s", self.time),
            joined(&self.except),
            or_dash(self.banned),
        ]
    }
}
