//! Security groups as the document says them: rules by id, and which ports are bound to them.

mod check;
mod text;

use clap::ValueEnum;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{Config, PortRange, typed};

pub(crate) use check::check_mapped;

/// The priority of a rule that does not say one.
pub const DEFAULT_PRIORITY: u16 = 1000;

/// A security group: which connections the ports that are bound to it may have.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Group {
    /// Its name.
    pub name: String,
    /// What becomes of a connection that no rule is for, in both directions.
    #[serde(default, skip_serializing_if = "is_default")]
    pub default: GroupDefault,
    /// Its rules, in the order that they were added.
    #[serde(rename = "rule", default, skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<PolicyRule>,
}

/// What becomes of a connection that no rule is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub enum GroupDefault {
    /// It is allowed.
    Allow,
    /// It is dropped.
    #[default]
    Deny,
}

/// A rule of a group: the first that a connection fits decides.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct PolicyRule {
    /// Its id, given once and kept; unique in the switch.
    #[cfg_attr(test, schemars(range(min = 1, max = 32_767)))]
    pub id: u16,
    /// Which way the connections go that it is for.
    pub direction: Direction,
    /// What becomes of them.
    pub action: PolicyAction,
    /// Their IP protocol; any otherwise.
    #[serde(default, with = "typed", skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, schemars(with = "Option<String>"))]
    pub proto: Option<Proto>,
    /// Their destination ports, of TCP, UDP and SCTP; any otherwise.
    #[serde(default, with = "typed", skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, schemars(with = "Option<String>"))]
    pub ports: Option<PortRange>,
    /// Their other end: a prefix, an address or `group:NAME`; any otherwise.
    #[serde(default, with = "typed", skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, schemars(with = "Option<String>"))]
    pub remote: Option<Remote>,
    /// Lower numbers are looked at first, equal ones by their ids.
    #[serde(
        default = "default_priority",
        skip_serializing_if = "is_default_priority"
    )]
    pub priority: u16,
    /// Whether each connection that it decides on is reported.
    #[serde(default, skip_serializing_if = "is_default")]
    pub log: bool,
}

/// Which way a connection goes, seen from the VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub enum Direction {
    /// Towards it.
    In,
    /// From it.
    Out,
}

/// What becomes of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub enum PolicyAction {
    /// It is allowed, with its answers.
    Allow,
    /// It is dropped.
    Deny,
    /// It is dropped, and the sender is told.
    Reject,
}

/// An IP protocol's number. As text: its name, or the number where it has none here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Proto(
    /// IANA, Assigned Internet Protocol Numbers.
    pub u8,
);

impl Proto {
    /// TCP (RFC 9293).
    pub const TCP: Self = Self(6);

    /// UDP (RFC 768).
    pub const UDP: Self = Self(17);

    /// SCTP (RFC 9260).
    pub const SCTP: Self = Self(132);
}

/// The other end of a connection. As text: `ADDR/LENGTH`, `ADDR` or `group:NAME`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Remote {
    /// Addresses; no bit is set behind the prefix's length.
    Net(IpNet),
    /// The addresses of the ports that are bound to a group.
    Group(String),
}

impl Group {
    /// A group about which nothing is said but its name.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            default: GroupDefault::default(),
            rules: Vec::new(),
        }
    }

    /// Its rules in the order that they are looked at.
    #[must_use]
    pub fn in_order(&self) -> Vec<&PolicyRule> {
        let mut rules: Vec<_> = self.rules.iter().collect();
        rules.sort_by_key(|rule| (rule.priority, rule.id));
        rules
    }
}

impl PolicyRule {
    /// Whether the ports of the group called `name` are its other end.
    #[must_use]
    pub fn names(&self, name: &str) -> bool {
        matches!(&self.remote, Some(Remote::Group(group)) if group == name)
    }

    /// Whether it does the same as `other`, whichever of them has which id.
    #[must_use]
    pub fn does_as(&self, other: &Self) -> bool {
        *self
            == Self {
                id: self.id,
                ..other.clone()
            }
    }
}

impl Config {
    /// The group called `name`.
    #[must_use]
    pub fn group(&self, name: &str) -> Option<&Group> {
        self.groups.iter().find(|group| group.name == name)
    }
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

fn default_priority() -> u16 {
    DEFAULT_PRIORITY
}

fn is_default_priority(priority: &u16) -> bool {
    *priority == DEFAULT_PRIORITY
}
