//! Rules that ban who connects too often, as the document says them.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};
use vnet_common::limit::BAN_RULES;

use super::{Config, Invalid, PortRange, Prefix, typed};

/// Most connections that a rule may allow in its time.
pub const BAN_CONNECTIONS: u32 = 1_000_000;
/// Longest time that a rule may count connections in, and that it may ban for: a week, in seconds.
pub const BAN_TIME: u32 = 604_800;

/// A rule: a source that completes more TCP connections to these ports of the VMs than it may is kept
/// away for a time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct BanRule {
    /// Its id, given once and kept.
    #[cfg_attr(test, schemars(range(min = 1, max = 255)))]
    pub id: u8,
    /// TCP ports of the VMs.
    #[serde(with = "typed::required")]
    #[cfg_attr(test, schemars(with = "String"))]
    pub ports: PortRange,
    /// Connections that a source may make in `within`.
    #[cfg_attr(test, schemars(range(min = 1, max = BAN_CONNECTIONS)))]
    pub connections: u32,
    /// Seconds.
    #[cfg_attr(test, schemars(range(min = 1, max = BAN_TIME)))]
    pub within: u32,
    /// Seconds that a source is kept away which makes more.
    #[cfg_attr(test, schemars(range(min = 1, max = BAN_TIME)))]
    pub time: u32,
    /// Sources that are never banned by it.
    #[serde(default, skip_serializing_if = "Vec::is_empty", with = "typed::list")]
    #[cfg_attr(test, schemars(with = "Vec<String>"))]
    pub except: Vec<Prefix>,
}

impl BanRule {
    /// Checks its numbers.
    ///
    /// # Errors
    /// The key that is wrong, and why.
    pub fn check(&self) -> Result<(), (&'static str, Invalid)> {
        let within = |key, value: u32, most: u32, what: &str| {
            if (1..=most).contains(&value) {
                return Ok(());
            }
            let why = format!("{value} {what} are out of range: use 1 to {most}");
            Err((key, Invalid::new(why)))
        };
        within(
            "connections",
            self.connections,
            BAN_CONNECTIONS,
            "connections",
        )?;
        within("within", self.within, BAN_TIME, "seconds")?;
        within("time", self.time, BAN_TIME, "seconds")?;
        self.ports
            .check()
            .map_err(|why| ("ports", Invalid::new(why)))
    }

    /// Whether it does the same as another one, whatever their ids.
    #[must_use]
    pub fn does_as(&self, other: &Self) -> bool {
        let id = other.id;
        Self { id, ..self.clone() } == *other
    }
}

impl Config {
    /// Checks every rule that bans.
    pub(super) fn validate_bans(&self) -> Result<(), Invalid> {
        let mut seen: HashMap<u8, &BanRule> = HashMap::new();
        for (index, rule) in self.bans.iter().enumerate() {
            let place = |key: &'static str| {
                move |refusal: Invalid| {
                    refusal
                        .about(format!("the ban rule {}", rule.id))
                        .at("ban", index)
                        .key(key)
                }
            };
            if rule.id == 0 {
                let last = BAN_RULES - 1;
                let why = format!("0 is no id: use 1 to {last}");
                return Err(place("id")(Invalid::new(why)));
            }
            rule.check().map_err(|(key, refusal)| place(key)(refusal))?;
            if seen.insert(rule.id, rule).is_some() {
                let why = format!("the id {} is there twice", rule.id);
                return Err(place("id")(Invalid::new(why)));
            }
            let same = self.bans[..index]
                .iter()
                .find(|other| other.ports.overlaps(rule.ports));
            if let Some(other) = same {
                let why = format!(
                    "its ports {} are among those of the rule {}, {}",
                    rule.ports, other.id, other.ports
                );
                return Err(place("ports")(
                    Invalid::new(why).mend("a port has one rule: delete or change one of them"),
                ));
            }
        }
        Ok(())
    }
}
