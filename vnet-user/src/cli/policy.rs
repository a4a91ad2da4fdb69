//! `policy …`.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use vnet_common::policy::POLICY_RULES;

use crate::config::names::{parse_group, parse_iface};
use crate::config::policy::DEFAULT_PRIORITY;
use crate::config::{
    Direction, GroupDefault, Invalid, PolicyAction, PolicyRule, PortRange, Proto, Remote,
};

/// `policy …`.
#[derive(Debug, Subcommand)]
pub enum PolicyCommand {
    /// Security groups
    #[command(subcommand)]
    Group(GroupCommand),
    /// Rules of security groups
    #[command(subcommand)]
    Rule(RuleCommand),
    /// Have a group decide for a port too; a port with no group is not filtered
    Bind(BindingArgs),
    /// Have a group no longer decide for a port
    Unbind(BindingArgs),
    /// Make groups of Kubernetes' NetworkPolicies; those of an earlier import of the same policies are
    /// replaced
    Import(ImportArgs),
}

/// `policy group …`.
#[derive(Debug, Subcommand)]
pub enum GroupCommand {
    /// Add a group
    Add(GroupAddArgs),
    /// Delete a group that nothing uses, with its rules
    Del(GroupDelArgs),
    /// List the groups
    List,
    /// Show one group with its rules
    Show {
        /// The group
        #[arg(value_parser = parse_group)]
        name: String,
    },
}

/// `policy group add`.
#[derive(Debug, Args)]
pub struct GroupAddArgs {
    /// Its name: up to 32 letters, digits, '_', '.', '-'
    #[arg(value_parser = parse_group)]
    pub name: String,
    /// What becomes of a connection that no rule is for, in both directions; of several groups on a
    /// port one that denies is enough
    #[arg(
        long,
        value_enum,
        hide_possible_values = true,
        value_name = "allow|deny",
        default_value_t
    )]
    pub default: GroupDefault,
    /// Change nothing and succeed if it is there already
    #[arg(long)]
    pub may_exist: bool,
}

/// `policy group del`.
#[derive(Debug, Args)]
pub struct GroupDelArgs {
    /// The group
    #[arg(value_parser = parse_group)]
    pub name: String,
    /// Succeed if it is not there
    #[arg(long)]
    pub if_exists: bool,
}

/// `policy rule …`.
#[derive(Debug, Subcommand)]
pub enum RuleCommand {
    /// Add a rule to a group; its id is printed
    Add(RuleAddArgs),
    /// List a group's rules in the order that they are looked at: the first that fits decides
    List {
        /// The group
        #[arg(value_parser = parse_group)]
        group: String,
    },
    /// Delete a rule of a group
    Del(RuleDelArgs),
}

/// `policy rule add`.
#[derive(Debug, Args)]
pub struct RuleAddArgs {
    /// The group
    #[arg(value_parser = parse_group)]
    pub group: String,
    /// Which way the connections go that it is for: in, towards the VM; out, from it
    #[arg(long, value_enum, hide_possible_values = true, value_name = "in|out")]
    pub direction: Direction,
    /// What becomes of them: allow; deny, without a word; reject, with an answer to the sender
    #[arg(
        long,
        value_enum,
        hide_possible_values = true,
        value_name = "allow|deny|reject"
    )]
    pub action: PolicyAction,
    /// Their protocol: tcp, udp, icmp, icmpv6, sctp, gre, esp… or a number [default: any]
    #[arg(long, value_name = "P")]
    pub proto: Option<Proto>,
    /// Their destination ports, with tcp, udp and sctp alone [default: any]
    #[arg(long, value_name = "PORT|LO-HI")]
    pub ports: Option<PortRange>,
    /// Their other end: addresses, or those of the ports that are bound to a group [default: any]
    #[arg(long, value_name = "CIDR|group:NAME")]
    pub remote: Option<Remote>,
    /// Lower numbers are looked at first, equal ones in the order added
    #[arg(long, value_name = "N", default_value_t = DEFAULT_PRIORITY)]
    pub priority: u16,
    /// Report each connection that it decides on
    #[arg(long)]
    pub log: bool,
    /// Succeed with the id of the very same rule if the group has it already
    #[arg(long)]
    pub may_exist: bool,
}

/// `policy rule del`.
#[derive(Debug, Args)]
pub struct RuleDelArgs {
    /// The group
    #[arg(value_parser = parse_group)]
    pub group: String,
    /// The rule
    #[arg(value_parser = parse_policy_rule)]
    pub id: u16,
    /// Succeed if it is not there
    #[arg(long)]
    pub if_exists: bool,
}

/// `policy bind` and `policy unbind`.
#[derive(Debug, Args)]
pub struct BindingArgs {
    /// The group
    #[arg(value_parser = parse_group)]
    pub group: String,
    /// The port
    #[arg(value_parser = parse_iface)]
    pub iface: String,
}

/// `policy import`.
#[derive(Debug, Args)]
pub struct ImportArgs {
    /// The policies (networking.k8s.io/v1), in YAML or JSON; - is standard input
    pub file: PathBuf,
    /// Which ports are which pods, in YAML [default: SWITCH.labels.yaml beside the document]
    #[arg(long, value_name = "FILE")]
    pub labels: Option<PathBuf>,
}

impl RuleAddArgs {
    /// The options as a rule, which has no id yet.
    ///
    /// # Errors
    /// Values that do not go together.
    pub fn check(&self) -> Result<PolicyRule, Invalid> {
        let rule = PolicyRule {
            id: 0,
            direction: self.direction,
            action: self.action,
            proto: self.proto,
            ports: self.ports,
            remote: self.remote.clone(),
            priority: self.priority,
            log: self.log,
        };
        rule.check().map_err(|(_, refusal)| refusal)?;
        Ok(rule)
    }
}

/// A rule's id.
fn parse_policy_rule(text: &str) -> Result<u16, String> {
    match text.parse() {
        Ok(id) if id > 0 && u32::from(id) < POLICY_RULES => Ok(id),
        _ => Err(format!(
            "{text:?} is not a rule's id, a number from 1 to {}",
            POLICY_RULES - 1
        )),
    }
}
