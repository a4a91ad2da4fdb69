//! `policy group add | del | list | show`.

use serde::Serialize;

use super::rule::RuleRow;
use super::{edit, load};
use crate::cli::{GroupAddArgs, GroupCommand, GroupDelArgs};
use crate::config::{Config, Group, GroupDefault, edits};
use crate::error::Error;
use crate::output::{Listing, Output, joined};
use crate::runtime::Session;

/// Runs the verb.
pub(super) fn run(
    session: &mut Session,
    output: &Output,
    command: GroupCommand,
) -> Result<(), Error> {
    match command {
        GroupCommand::Add(args) => add(session, output, args),
        GroupCommand::Del(args) => del(session, output, &args),
        GroupCommand::List => list(session, output),
        GroupCommand::Show { name } => show(session, output, &name),
    }
}

fn add(session: &mut Session, output: &Output, args: GroupAddArgs) -> Result<(), Error> {
    let doing = format!("adding the group {}", args.name);
    edit(session, output, &doing, |config| {
        if args.may_exist && config.group(&args.name).is_some() {
            return Ok(());
        }
        let group = Group {
            default: args.default,
            ..Group::new(args.name)
        };
        edits::add_group(config, group)
    })?;
    Ok(())
}

fn del(session: &mut Session, output: &Output, args: &GroupDelArgs) -> Result<(), Error> {
    let doing = format!("deleting the group {}", args.name);
    edit(session, output, &doing, |config| {
        if args.if_exists && config.group(&args.name).is_none() {
            return Ok(());
        }
        edits::delete_group(config, &args.name)
    })?;
    Ok(())
}

fn list(session: &Session, output: &Output) -> Result<(), Error> {
    let config = load(session)?;
    let groups = config.groups.iter();
    let rows: Vec<_> = groups.map(|group| GroupRow::new(&config, group)).collect();
    output.list(&rows)
}

fn show(session: &Session, output: &Output, name: &str) -> Result<(), Error> {
    let config = load(session)?;
    let group = config
        .require_group(name)
        .map_err(|refusal| refusal.doing(format!("showing the group {name}")))?;
    output.show(&GroupRow::new(&config, group))
}

/// A group, whom it decides for, and how.
#[derive(Serialize)]
struct GroupRow {
    name: String,
    default: GroupDefault,
    /// In the order that they are looked at.
    rules: Vec<RuleRow>,
    ports: Vec<String>,
    profiles: Vec<String>,
}

impl GroupRow {
    fn new(config: &Config, group: &Group) -> Self {
        let name = &group.name;
        let ports = config.ports.iter();
        let profiles = config.profiles.iter();
        Self {
            name: name.clone(),
            default: group.default,
            rules: group.in_order().into_iter().map(RuleRow::new).collect(),
            ports: ports
                .filter(|port| port.groups.contains(name))
                .map(|port| port.name.clone())
                .collect(),
            profiles: profiles
                .filter(|profile| profile.options.groups.contains(name))
                .map(|profile| profile.name.clone())
                .collect(),
        }
    }
}

impl Listing for GroupRow {
    const PLURAL: &'static str = "groups";
    const COLUMNS: &'static [&'static str] = &["NAME", "DEFAULT", "RULES", "PORTS", "PROFILES"];

    fn cells(&self) -> Vec<String> {
        vec![
            self.name.clone(),
            self.default.to_string(),
            self.rules.len().to_string(),
            joined(&self.ports),
            joined(&self.profiles),
        ]
    }

    fn details(&self) -> Vec<(&'static str, String)> {
        let row = Self::COLUMNS.iter().copied().zip(self.cells());
        let rules = self.rules.iter().map(|rule| ("RULE", rule.line()));
        row.chain(rules).collect()
    }
}
