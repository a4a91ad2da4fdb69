//! `policy rule add | list | del`.

use serde::Serialize;

use super::{edit, load};
use crate::cli::{RuleAddArgs, RuleCommand, RuleDelArgs};
use crate::commands::without_subject;
use crate::config::policy::DEFAULT_PRIORITY;
use crate::config::{Direction, Invalid, PolicyAction, PolicyRule, edits};
use crate::error::{Error, ExitCode};
use crate::output::{Listing, Output, or_dash};
use crate::policy_usage::PolicyUsage;
use crate::runtime::Session;

/// Runs the verb.
pub(super) fn run(
    session: &mut Session,
    output: &Output,
    command: RuleCommand,
) -> Result<(), Error> {
    match command {
        RuleCommand::Add(args) => add(session, output, &args),
        RuleCommand::List { group } => list(session, output, &group),
        RuleCommand::Del(args) => del(session, output, &args),
    }
}

fn add(session: &mut Session, output: &Output, args: &RuleAddArgs) -> Result<(), Error> {
    let name = args.group.as_str();
    let doing = format!("adding a rule to the group {name}");
    let rule = args
        .check()
        .map_err(|refusal| refusal.doing(doing.as_str()).code(ExitCode::Usage))?;
    let mut id = 0;
    let edited = edit(session, output, &doing, |config| {
        let same = config
            .group(name)
            .and_then(|group| group.rules.iter().find(|old| old.does_as(&rule)));
        match same {
            Some(same) if args.may_exist => id = same.id,
            Some(same) => {
                return Err(Invalid::new(format!("its {same} is the very same"))
                    .mend("say --may-exist where that is no mistake"));
            }
            None => id = edits::add_policy_rule(config, name, rule)?,
        }
        Ok(())
    })
    .map_err(|error| without_subject(error, &format!("the rule {id} of the group {name}: ")))?;
    if edited.changed() {
        output.note(&format!("rule {id} added to the group {name}"));
    }
    output.id(id)
}

fn list(session: &Session, output: &Output, name: &str) -> Result<(), Error> {
    let config = load(session)?;
    let group = config
        .require_group(name)
        .map_err(|refusal| refusal.doing(format!("listing the rules of the group {name}")))?;
    let rules = group.in_order();
    if !session.is_up() {
        let rows: Vec<_> = rules.into_iter().map(RuleRow::new).collect();
        return output.list(&rows);
    }
    let ids: Vec<_> = rules.iter().map(|rule| rule.id).collect();
    let usage = session.policy_usage(&ids)?;
    let rows: Vec<_> = rules
        .into_iter()
        .map(|rule| UsedRuleRow {
            rule: RuleRow::new(rule),
            usage: usage.get(&rule.id).copied().unwrap_or_default(),
        })
        .collect();
    output.list(&rows)
}

fn del(session: &mut Session, output: &Output, args: &RuleDelArgs) -> Result<(), Error> {
    let RuleDelArgs { group, id, .. } = args;
    let doing = format!("deleting the rule {id} of the group {group}");
    edit(session, output, &doing, |config| {
        let is_there = config
            .group(group)
            .is_some_and(|group| group.rules.iter().any(|rule| rule.id == *id));
        if args.if_exists && !is_there {
            return Ok(());
        }
        edits::delete_policy_rule(config, group, *id)
    })?;
    Ok(())
}

/// A rule with its defaults written out.
#[derive(Serialize)]
pub(super) struct RuleRow {
    id: u16,
    direction: Direction,
    action: PolicyAction,
    proto: Option<String>,
    ports: Option<String>,
    remote: Option<String>,
    priority: u16,
    log: bool,
}

impl RuleRow {
    pub(super) fn new(rule: &PolicyRule) -> Self {
        Self {
            id: rule.id,
            direction: rule.direction,
            action: rule.action,
            proto: rule.proto.map(|proto| proto.to_string()),
            ports: rule.ports.map(|ports| ports.to_string()),
            remote: rule.remote.as_ref().map(ToString::to_string),
            priority: rule.priority,
            log: rule.log,
        }
    }

    /// The rule in one line.
    pub(super) fn line(&self) -> String {
        let end = match self.direction {
            Direction::In => "from",
            Direction::Out => "to",
        };
        let words = [
            Some(format!("{}: {} {}", self.id, self.direction, self.action)),
            self.proto.clone(),
            self.ports.clone(),
            self.remote.as_ref().map(|remote| format!("{end} {remote}")),
            (self.priority != DEFAULT_PRIORITY).then(|| format!("priority={}", self.priority)),
            self.log.then(|| "log".to_owned()),
        ];
        let words: Vec<_> = words.into_iter().flatten().collect();
        words.join(" ")
    }
}

impl Listing for RuleRow {
    const PLURAL: &'static str = "rules";
    const COLUMNS: &'static [&'static str] = &[
        "ID",
        "DIRECTION",
        "ACTION",
        "PROTO",
        "PORTS",
        "REMOTE",
        "PRIORITY",
        "LOG",
    ];

    fn cells(&self) -> Vec<String> {
        vec![
            self.id.to_string(),
            self.direction.to_string(),
            self.action.to_string(),
            or_dash(self.proto.as_ref()),
            or_dash(self.ports.as_ref()),
            or_dash(self.remote.as_ref()),
            self.priority.to_string(),
            or_dash(self.log.then_some("yes")),
        ]
    }
}

/// A rule of a switch that is up, and what it has done.
#[derive(Serialize)]
struct UsedRuleRow {
    #[serde(flatten)]
    rule: RuleRow,
    #[serde(flatten)]
    usage: PolicyUsage,
}

impl Listing for UsedRuleRow {
    const PLURAL: &'static str = RuleRow::PLURAL;
    const COLUMNS: &'static [&'static str] = &[
        "ID",
        "DIRECTION",
        "ACTION",
        "PROTO",
        "PORTS",
        "REMOTE",
        "PRIORITY",
        "LOG",
        "PACKETS",
        "BYTES",
        "FLOWS",
    ];

    fn cells(&self) -> Vec<String> {
        let PolicyUsage {
            packets,
            bytes,
            flows,
        } = self.usage;
        let usage = [packets, bytes, flows].map(|count| count.to_string());
        self.rule.cells().into_iter().chain(usage).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_in_use_has_what_it_has_done_behind_what_it_is() {
        let (all, without) = (UsedRuleRow::COLUMNS, RuleRow::COLUMNS);
        assert_eq!(all[..without.len()], *without);
        assert_eq!(all[without.len()..], ["PACKETS", "BYTES", "FLOWS"]);
    }
}
