//! The verbs about security groups.

use std::collections::HashSet;

use vnet_common::policy::POLICY_RULES;

use super::no_port;
use crate::config::{Config, Group, Invalid, PolicyRule};

/// Adds a group.
pub fn add_group(config: &mut Config, group: Group) -> Result<(), Invalid> {
    let name = &group.name;
    if config.group(name).is_some() {
        return Err(Invalid::new(format!("there is a group {name} already"))
            .mend("choose another name, or say --may-exist"));
    }
    config.groups.push(group);
    Ok(())
}

/// Deletes a group that no port, no profile and no other group's rule names.
pub fn delete_group(config: &mut Config, name: &str) -> Result<(), Invalid> {
    existing(config, name)?;
    let is_bound = |groups: &[String]| groups.iter().any(|group| group == name);
    let ports = config
        .ports
        .iter()
        .filter(|port| is_bound(&port.groups))
        .map(|port| format!("port {}", port.name));
    let profiles = config
        .profiles
        .iter()
        .filter(|profile| is_bound(&profile.options.groups))
        .map(|profile| format!("profile {}", profile.name));
    let rules = config
        .groups
        .iter()
        // Its own go with it.
        .filter(|group| group.name != name)
        .flat_map(|group| group.rules.iter().map(move |rule| (group, rule)))
        .filter(|(_, rule)| rule.names(name))
        .map(|(group, rule)| format!("{rule} of the group {}", group.name));
    let users: Vec<_> = ports.chain(profiles).chain(rules).collect();
    if !users.is_empty() {
        return Err(Invalid::new(format!("it is used by {}", users.join(", ")))
            .mend("unbind, change or delete those first"));
    }
    config.groups.retain(|group| group.name != name);
    Ok(())
}

/// Adds a rule to the group called `name` and returns its id: one above the highest there is in the
/// switch, or the lowest that is free where there is none above. The id that `rule` has does not
/// count.
pub fn add_policy_rule(config: &mut Config, name: &str, rule: PolicyRule) -> Result<u16, Invalid> {
    config.require_group(name)?;
    let id = free_policy_rules(config, 1)?[0];
    if let Some(group) = config.groups.iter_mut().find(|group| group.name == name) {
        group.rules.push(PolicyRule { id, ..rule });
    }
    Ok(id)
}

/// As many ids as `count` that rules may be given: those above the highest there is in the switch, and
/// then the lowest that are free.
pub fn free_policy_rules(config: &Config, count: usize) -> Result<Vec<u16>, Invalid> {
    let last = (POLICY_RULES - 1) as u16;
    let rules = config.groups.iter().flat_map(|group| &group.rules);
    let taken: HashSet<u16> = rules.map(|rule| rule.id).collect();
    let highest = taken.iter().copied().max().unwrap_or(0).min(last);
    let above = highest + 1..=last;
    let below = (1..highest).filter(|id| !taken.contains(id));
    let ids: Vec<_> = above.chain(below).take(count).collect();
    if ids.len() < count {
        return Err(Invalid::new(match count {
            1 => format!("there are {last} rules, and no more are possible"),
            _ => format!("{count} rules more would be more than the {last} that are possible"),
        })
        .mend("delete one first: vnet-user policy rule del GROUP ID"));
    }
    Ok(ids)
}

/// Deletes a rule of the group called `name`.
pub fn delete_policy_rule(config: &mut Config, name: &str, id: u16) -> Result<(), Invalid> {
    let group = existing(config, name)?;
    let has = |group: &Group| group.rules.iter().any(|rule| rule.id == id);
    if !has(group) {
        let refusal = Invalid::new(format!("the group {name} has no rule {id}"));
        return Err(match config.groups.iter().find(|group| has(group)) {
            Some(other) => refusal.mend(format!(
                "it is one of the group {0}: vnet-user policy rule del {0} {id}",
                other.name
            )),
            None if group.rules.is_empty() => refusal,
            None => refusal.mend(format!("vnet-user policy rule list {name} shows its rules")),
        });
    }
    for group in &mut config.groups {
        group.rules.retain(|rule| rule.id != id);
    }
    Ok(())
}

/// Binds a port to the group called `name`, where it may be bound to it already.
pub fn bind_group(
    config: &mut Config,
    switch: &str,
    name: &str,
    iface: &str,
) -> Result<(), Invalid> {
    config.require_group(name)?;
    let place = policed_port(config, switch, iface, || {
        format!(
            "vnet-user port add {iface} …, or write groups = [\"{name}\"] into the profile that it \
             is adopted by"
        )
    })?;
    let groups = &mut config.ports[place].groups;
    if !groups.iter().any(|group| group == name) {
        groups.push(name.to_owned());
    }
    Ok(())
}

/// The place of the port `iface`, which may be bound to groups. `mend` says what to do where there is
/// none.
pub fn policed_port(
    config: &Config,
    switch: &str,
    iface: &str,
    mend: impl FnOnce() -> String,
) -> Result<usize, Invalid> {
    let place = config.ports.iter().position(|port| port.name == iface);
    let what = match place {
        _ if iface == switch => "the switch device",
        Some(place) if config.ports[place].uplink => "an uplink",
        Some(place) => return Ok(place),
        None => return Err(no_port(config, switch, iface).mend(mend())),
    };
    Err(Invalid::new(format!(
        "it is {what}, and groups are for ports with a VM behind them"
    ))
    .mend("bind the VMs' ports instead"))
}

/// Takes a port out of the group called `name`, where it may not be in it.
pub fn unbind_group(
    config: &mut Config,
    switch: &str,
    name: &str,
    iface: &str,
) -> Result<(), Invalid> {
    existing(config, name)?;
    match config.ports.iter_mut().find(|port| port.name == iface) {
        Some(port) => port.groups.retain(|group| group != name),
        None if iface == switch => {}
        None => {
            return Err(no_port(config, switch, iface)
                .mend("what a profile binds is unbound by taking the group out of its `groups`"));
        }
    }
    Ok(())
}

/// The group called `name`, for verbs that are not helped by adding it.
fn existing<'a>(config: &'a Config, name: &str) -> Result<&'a Group, Invalid> {
    config.require_group(name).map_err(|refusal| Invalid {
        mend: None,
        ..refusal
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Direction, Match, PolicyAction, Port, Profile, edits};

    const SWITCH: &str = "vsw0";

    fn rule(remote: Option<&str>) -> PolicyRule {
        PolicyRule {
            id: 0,
            direction: Direction::In,
            action: PolicyAction::Allow,
            proto: None,
            ports: None,
            remote: remote.map(|text| text.parse().unwrap()),
            priority: 1000,
            log: false,
        }
    }

    /// Groups `web` and `db`, ports `tap0` and `tap1`.
    fn config() -> Config {
        let mut config = Config::default();
        for name in ["web", "db"] {
            add_group(&mut config, Group::new(name)).unwrap();
        }
        for name in ["tap0", "tap1"] {
            edits::add_port(&mut config, SWITCH, Port::new(name)).unwrap();
        }
        config
    }

    fn why<T: std::fmt::Debug>(result: Result<T, Invalid>) -> String {
        result.unwrap_err().why
    }

    #[test]
    fn a_group_in_use_stays() {
        let mut config = config();
        bind_group(&mut config, SWITCH, "web", "tap0").unwrap();
        bind_group(&mut config, SWITCH, "web", "tap1").unwrap();
        let mut options = Port::new("vms");
        options.groups.push("web".into());
        config.profiles.push(Profile {
            name: "vms".into(),
            matches: Match::default(),
            options,
        });
        add_policy_rule(&mut config, "db", rule(Some("group:web"))).unwrap();
        // What is about itself goes with it.
        add_policy_rule(&mut config, "web", rule(Some("group:web"))).unwrap();
        let before = config.clone();
        assert_eq!(
            why(delete_group(&mut config, "web")),
            "it is used by port tap0, port tap1, profile vms, rule 1 of the group db"
        );
        assert_eq!(
            why(delete_group(&mut config, "dbs")),
            "there is no group dbs; there are web, db"
        );
        assert_eq!(config, before);
        delete_group(&mut config, "db").unwrap();
        for iface in ["tap0", "tap1"] {
            unbind_group(&mut config, SWITCH, "web", iface).unwrap();
        }
        config.profiles.clear();
        delete_group(&mut config, "web").unwrap();
        assert_eq!(config.groups, []);
    }

    #[test]
    fn rules_have_ids_that_grow_in_the_whole_switch() {
        let mut config = config();
        assert_eq!(add_policy_rule(&mut config, "web", rule(None)), Ok(1));
        assert_eq!(add_policy_rule(&mut config, "db", rule(None)), Ok(2));
        delete_policy_rule(&mut config, "web", 1).unwrap();
        assert_eq!(add_policy_rule(&mut config, "web", rule(None)), Ok(3));
        config.groups[0].rules[0].id = 32_767;
        assert_eq!(add_policy_rule(&mut config, "web", rule(None)), Ok(1));
        assert_eq!(add_policy_rule(&mut config, "web", rule(None)), Ok(3));
        assert!(add_policy_rule(&mut config, "dbs", rule(None)).is_err());
        config.groups[0].rules = (1..32_768)
            .filter(|id| *id != 2)
            .map(|id| PolicyRule { id, ..rule(None) })
            .collect();
        assert_eq!(
            why(add_policy_rule(&mut config, "db", rule(None))),
            "there are 32767 rules, and no more are possible"
        );
    }

    #[test]
    fn a_rule_is_deleted_from_its_own_group() {
        let mut config = config();
        add_policy_rule(&mut config, "web", rule(None)).unwrap();
        let refusal = delete_policy_rule(&mut config, "db", 1).unwrap_err();
        assert_eq!(
            refusal.mend.as_deref(),
            Some("it is one of the group web: vnet-user policy rule del web 1")
        );
        let refusal = delete_policy_rule(&mut config, "web", 2).unwrap_err();
        assert_eq!(refusal.why, "the group web has no rule 2");
        delete_policy_rule(&mut config, "web", 1).unwrap();
        assert_eq!(config.groups[0].rules, []);
    }

    #[test]
    fn bindings_are_a_set() {
        let mut config = config();
        bind_group(&mut config, SWITCH, "web", "tap0").unwrap();
        bind_group(&mut config, SWITCH, "db", "tap0").unwrap();
        bind_group(&mut config, SWITCH, "web", "tap0").unwrap();
        assert_eq!(config.ports[0].groups, ["web", "db"]);
        unbind_group(&mut config, SWITCH, "web", "tap0").unwrap();
        unbind_group(&mut config, SWITCH, "web", "tap0").unwrap();
        assert_eq!(config.ports[0].groups, ["db"]);
        assert_eq!(
            why(bind_group(&mut config, SWITCH, "web", "tap9")),
            "there is no port tap9; there are vsw0, tap0, tap1"
        );
        assert!(bind_group(&mut config, SWITCH, "web", SWITCH).is_err());
        assert!(bind_group(&mut config, SWITCH, "dbs", "tap0").is_err());
        assert!(unbind_group(&mut config, SWITCH, "dbs", "tap0").is_err());
    }
}
