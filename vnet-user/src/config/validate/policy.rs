//! Security groups: each rule has its place and makes sense, and who is named is there.

use std::collections::{HashMap, HashSet};

use vnet_common::policy::{POLICY_GROUPS, POLICY_RULES, PORT_GROUPS};

use crate::config::{Config, Group, Invalid, PolicyRule, Port, Remote, names};

impl Config {
    /// Checks every group and its rules.
    pub(super) fn validate_groups(&self) -> Result<(), Invalid> {
        if self.groups.len() > POLICY_GROUPS as usize {
            return Err(Invalid::new(format!(
                "there are {} groups, and {POLICY_GROUPS} are possible",
                self.groups.len()
            ))
            .at("group", POLICY_GROUPS as usize)
            .mend("leave out those that no port needs"));
        }
        let mut seen = HashSet::new();
        for (index, group) in self.groups.iter().enumerate() {
            let at = |refusal: Invalid| refusal.at("group", index).key("name");
            let name = group.name.as_str();
            names::check_group(name).map_err(Invalid::new).map_err(at)?;
            if !seen.insert(name) {
                return Err(at(Invalid::new(format!("the group {name} is there twice"))));
            }
        }
        let mut ids = HashMap::new();
        for (index, group) in self.groups.iter().enumerate() {
            for (number, rule) in group.rules.iter().enumerate() {
                let place = |key: &'static str| {
                    move |refusal: Invalid| {
                        refusal
                            .about(format!("the {rule} of the group {}", group.name))
                            .at("group", index)
                            .within("rule", number)
                            .key(key)
                    }
                };
                check_id(group, rule, &mut ids).map_err(place("id"))?;
                rule.check().map_err(|(key, refusal)| place(key)(refusal))?;
                if let Some(Remote::Group(remote)) = &rule.remote
                    && !seen.contains(remote.as_str())
                {
                    return Err(place("remote")(self.no_group(remote)));
                }
            }
        }
        Ok(())
    }

    /// Checks the groups that a port or a profile is bound to. `is_device`: it is the switch device.
    pub(super) fn validate_bindings(&self, port: &Port, is_device: bool) -> Result<(), Invalid> {
        let what = match (port.uplink, is_device) {
            _ if port.groups.is_empty() => return Ok(()),
            (_, true) => Some("the switch device"),
            (true, false) => Some("an uplink"),
            (false, false) => None,
        };
        if let Some(what) = what {
            return Err(Invalid::new(format!(
                "it is {what}, and groups are for ports with a VM behind them, but it is bound to {}",
                port.groups.join(", ")
            ))
            .mend(
                "unbind it first: vnet-user policy unbind GROUP IFACE, or take its `groups` out of \
                 the document",
            ));
        }
        let mut seen = HashSet::new();
        for name in &port.groups {
            self.require_group(name)?;
            if !seen.insert(name) {
                return Err(Invalid::new(format!(
                    "it is bound to the group {name} twice"
                )));
            }
        }
        if port.groups.len() > PORT_GROUPS {
            return Err(Invalid::new(format!(
                "{} groups are more than the {PORT_GROUPS} that a port may be bound to",
                port.groups.len()
            ))
            .mend("put rules that belong together into one group"));
        }
        Ok(())
    }

    /// The group called `name`, or a refusal that names those that there are.
    pub fn require_group(&self, name: &str) -> Result<&Group, Invalid> {
        self.group(name).ok_or_else(|| self.no_group(name))
    }

    fn no_group(&self, name: &str) -> Invalid {
        /// More names than these help nobody.
        const SHOWN: usize = 16;
        let known: Vec<_> = self
            .groups
            .iter()
            .map(|group| group.name.as_str())
            .collect();
        let there = match known.len() {
            0 => String::new(),
            1 => format!("; there is {}", known[0]),
            count if count > SHOWN => format!("; there are {count} others"),
            _ => format!("; there are {}", known.join(", ")),
        };
        Invalid::new(format!("there is no group {name}{there}"))
            .mend(format!("vnet-user policy group add {name}"))
    }
}

/// Refuses an id that is none, or another rule's.
fn check_id<'a>(
    group: &'a Group,
    rule: &PolicyRule,
    ids: &mut HashMap<u16, &'a str>,
) -> Result<(), Invalid> {
    if rule.id == 0 || u32::from(rule.id) >= POLICY_RULES {
        let why = format!("its id is not one of 1 to {}", POLICY_RULES - 1);
        return Err(Invalid::new(why));
    }
    match ids.insert(rule.id, &group.name) {
        Some(other) => Err(
            Invalid::new(format!("the group {other} has another rule {}", rule.id))
                .mend("give each rule of the switch an id of its own"),
        ),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::document;

    /// Groups `web` and `db`, an uplink `eth0`, a VM's port `tap0`.
    const BASE: &str = "schema = 1
[[port]]
name = 'eth0'
uplink = true
[[port]]
name = 'tap0'
[[group]]
name = 'web'
default = 'allow'
[[group]]
name = 'db'
";

    fn validate(rest: &str) -> Result<(), Invalid> {
        document::parse(&format!("{BASE}{rest}"))
            .unwrap_or_else(|refusal| panic!("{rest}: {refusal:?}"))
            .validate("vsw0")
    }

    fn rules(rules: &[&str]) -> String {
        let rules = (1..).zip(rules).map(|(id, rule)| {
            format!(
                "[[group.rule]]\nid = {id}\ndirection = 'in'\naction = 'allow'\n{}\n",
                rule.replace("; ", "\n")
            )
        });
        rules.collect()
    }

    #[test]
    fn what_goes_together() {
        for rest in [
            String::new(),
            rules(&[
                "",
                "proto = 'tcp'; ports = '22'",
                "proto = 'udp'; ports = '1-65535'; remote = '10.0.0.0/8'; priority = 0",
                "proto = 'icmpv6'; remote = 'fd00::1'; log = true",
                "remote = 'group:web'; priority = 65535",
                // Ports of one group may speak with each other.
                "remote = 'group:db'",
            ]),
            "[[port]]\nname = 'tap1'\ngroups = ['web', 'db']".into(),
            "[[profile]]\nname = 'a'\nmatch.name = '*'\ngroups = ['web']".into(),
            "[[group]]\nname = 'web.1_2-3'".into(),
        ] {
            assert_eq!(validate(&rest), Ok(()), "{rest}");
        }
    }

    #[test]
    fn what_is_refused_and_why() {
        let port = |rest: &str| format!("[[port]]\nname = 'tap1'\n{rest}\n");
        let nine: String = (0..9)
            .map(|n| format!("[[group]]\nname = 'g{n}'\n"))
            .collect();
        let bound: Vec<_> = (0..9).map(|n| format!("'g{n}'")).collect();
        let many = format!("{nine}{}", port(&format!("groups = [{}]", bound.join(","))));
        for (rest, expected) in [
            (
                "[[group]]\nname = 'web'".into(),
                "the group web is there twice",
            ),
            ("[[group]]\nname = 'a b'".into(), "is not a group's name"),
            ("[[group]]\nname = ''".into(), "a group's name cannot be"),
            (
                rules(&["ports = '80'"]),
                "the ports 80 are of tcp, udp or sctp, and it is for every protocol",
            ),
            (
                rules(&["", "proto = 'icmp'; remote = 'fd00::/8'"]),
                "fd00::/8 is IPv6, which has no icmp",
            ),
            (
                rules(&["remote = 'group:dbs'"]),
                "there is no group dbs; there are web, db",
            ),
            (
                rules(&[""]).replace("id = 1", "id = 0"),
                "its id is not one of 1 to 32767",
            ),
            (
                rules(&[""]).replace("id = 1", "id = 32768"),
                "its id is not one of 1 to 32767",
            ),
            (
                format!("{0}[[group]]\nname = 'a'\n{0}", rules(&[""])),
                "the group db has another rule 1",
            ),
            (
                port("groups = ['dbs']"),
                "there is no group dbs; there are web, db",
            ),
            (
                port("groups = ['db', 'web', 'db']"),
                "it is bound to the group db twice",
            ),
            (
                port("uplink = true\ngroups = ['db']"),
                "it is an uplink, and groups are for",
            ),
            (
                "[[port]]\nname = 'vsw0'\ngroups = ['db']".into(),
                "it is the switch device, and groups are for",
            ),
            (
                "[[profile]]\nname = 'a'\nmatch.name = '*'\ngroups = ['dbs']".into(),
                "there is no group dbs",
            ),
            (
                "[[profile]]\nname = 'a'\nmatch.name = '*'\nuplink = true\ngroups = ['db']".into(),
                "it is an uplink",
            ),
            (many, "9 groups are more than the 8 that"),
        ] {
            let refusal = validate(&rest).expect_err(expected);
            assert!(refusal.why.contains(expected), "{rest}: {}", refusal.why);
        }
    }

    #[test]
    fn there_is_room_for_so_many_groups() {
        let mut config = Config {
            groups: (0..POLICY_GROUPS)
                .map(|n| Group::new(format!("g{n}")))
                .collect(),
            ..Config::default()
        };
        assert_eq!(config.validate("vsw0"), Ok(()));
        config.groups.push(Group::new("one-more"));
        let refusal = config.validate("vsw0").unwrap_err();
        assert_eq!(refusal.why, "there are 4097 groups, and 4096 are possible");
    }
}
