//! Putting what policies come to into a configuration, in the place of what an earlier import of the
//! same policies left there.

use std::collections::{BTreeSet, HashSet};

use vnet_common::policy::PORT_GROUPS;

use super::groups::{Plan, PolicyGroup};
use super::names::is_pods_group;
use crate::config::{
    Config, Direction, Group, GroupDefault, Invalid, PolicyRule, Port, Remote, edits,
};

/// A group after an import.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Installed {
    /// The group.
    pub group: String,
    /// The policy that it is of, `NAMESPACE/NAME`; `None`: it is one of pods.
    pub policy: Option<String>,
    /// The directions that it isolates.
    pub isolates: Vec<Direction>,
    /// How many rules it has.
    pub rules: usize,
    /// The ports that are bound to it.
    pub ports: Vec<String>,
    /// What became of it.
    pub change: Change,
}

/// What became of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// It is new.
    Added,
    /// Its rules or its ports are others.
    Changed,
    /// Nothing.
    Same,
    /// No rule named it any more.
    Deleted,
}

/// Makes `config` have what `plan` says, whose pods' ports are its own.
///
/// # Errors
/// There is no room for so many rules, or for so many groups on a port.
pub fn install(config: &mut Config, plan: &Plan) -> Result<Vec<Installed>, Invalid> {
    let before = config.clone();
    for group in &plan.policies {
        put(config, group)
            .map_err(|refusal| refusal.about(format!("the policy {}", group.policy)))?;
    }
    let named = pods_groups(config.groups.iter());
    for name in &named {
        if config.group(name).is_none() {
            config.groups.push(Group {
                default: GroupDefault::Allow,
                ..Group::new(name.as_str())
            });
        }
    }
    let profiles = &config.profiles;
    config.groups.retain(|group| {
        !is_pods_group(&group.name)
            || named.contains(&group.name)
            || profiles
                .iter()
                .any(|profile| profile.options.groups.contains(&group.name))
    });
    let there = config.groups.iter().map(|group| group.name.clone());
    let there: BTreeSet<_> = there.filter(|name| is_pods_group(name)).collect();
    for port in &mut config.ports {
        let own = plan.pods.get(&port.name).filter(|own| there.contains(*own));
        bind(port, plan, own)?;
    }
    Ok(report(&before, config, plan))
}

/// The groups of pods that rules of `groups` name.
fn pods_groups<'a>(groups: impl Iterator<Item = &'a Group>) -> BTreeSet<String> {
    groups
        .flat_map(|group| &group.rules)
        .filter_map(|rule| match &rule.remote {
            Some(Remote::Group(name)) if is_pods_group(name) => Some(name.clone()),
            _ => None,
        })
        .collect()
}

/// Puts a policy's group in the place of the one of its name. A rule that was there already keeps its
/// id.
fn put(config: &mut Config, wanted: &PolicyGroup) -> Result<(), Invalid> {
    let place = match config
        .groups
        .iter()
        .position(|group| group.name == wanted.name)
    {
        Some(place) => place,
        None => {
            config.groups.push(Group::new(wanted.name.as_str()));
            config.groups.len() - 1
        }
    };
    let group = &mut config.groups[place];
    group.default = GroupDefault::Allow;
    let without_id = |rule: &PolicyRule| PolicyRule {
        id: 0,
        ..rule.clone()
    };
    // What stays comes first, and in its order: so the document keeps what is written around it.
    let mut missing: HashSet<_> = wanted.rules.iter().collect();
    group.rules.retain(|rule| missing.remove(&without_id(rule)));
    let new: Vec<_> = wanted
        .rules
        .iter()
        .filter(|rule| missing.contains(rule))
        .collect();
    let ids = edits::free_policy_rules(config, new.len())?;
    let new = new.into_iter().zip(ids);
    let rules = &mut config.groups[place].rules;
    rules.extend(new.map(|(rule, id)| PolicyRule { id, ..rule.clone() }));
    Ok(())
}

/// Binds a port to the groups of the policies that select it, and to its `own` one of pods; and to no
/// others of these.
fn bind(port: &mut Port, plan: &Plan, own: Option<&String>) -> Result<(), Invalid> {
    let policies = plan
        .policies
        .iter()
        .filter(|group| group.ports.contains(&port.name))
        .map(|group| &group.name);
    let wanted: Vec<_> = policies.chain(own).collect();
    let is_ours = |name: &String| {
        is_pods_group(name) || plan.policies.iter().any(|group| group.name == *name)
    };
    port.groups
        .retain(|name| !is_ours(name) || wanted.contains(&name));
    for name in wanted {
        if !port.groups.contains(name) {
            port.groups.push(name.clone());
        }
    }
    if port.groups.len() > PORT_GROUPS {
        return Err(Invalid::new(format!(
            "the port {} would be bound to {} groups, and {PORT_GROUPS} are possible: {}",
            port.name,
            port.groups.len(),
            port.groups.join(", ")
        ))
        .mend("make one policy of some that select it"));
    }
    Ok(())
}

/// What became of the groups that the import is about.
fn report(before: &Config, after: &Config, plan: &Plan) -> Vec<Installed> {
    let policies = plan.policies.iter().map(|group| {
        let policy = Some(group.policy.clone());
        installed(before, after, &group.name, policy, group.isolates.clone())
    });
    let ours = after
        .groups
        .iter()
        .filter(|group| plan.policies.iter().any(|ours| ours.name == group.name));
    let named = pods_groups(ours);
    let all: BTreeSet<_> = [before, after]
        .iter()
        .flat_map(|config| &config.groups)
        .map(|group| &group.name)
        .filter(|name| is_pods_group(name))
        .collect();
    let pods = all
        .into_iter()
        .map(|name| installed(before, after, name, None, Vec::new()))
        .filter(|group| group.change != Change::Same || named.contains(&group.group));
    policies.chain(pods).collect()
}

/// What became of the group called `name`.
fn installed(
    before: &Config,
    after: &Config,
    name: &str,
    policy: Option<String>,
    isolates: Vec<Direction>,
) -> Installed {
    let (old, new) = (before.group(name), after.group(name));
    let ports = bound(after, name);
    let change = match (old, new) {
        (None, _) => Change::Added,
        (Some(_), None) => Change::Deleted,
        (Some(old), Some(new)) if old == new && bound(before, name) == ports => Change::Same,
        _ => Change::Changed,
    };
    Installed {
        group: name.to_owned(),
        policy,
        isolates,
        rules: new.map_or(0, |group| group.rules.len()),
        ports,
        change,
    }
}

/// The ports that are bound to the group called `name`.
fn bound(config: &Config, name: &str) -> Vec<String> {
    let ports = config.ports.iter();
    ports
        .filter(|port| port.groups.iter().any(|group| group == name))
        .map(|port| port.name.clone())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::import::{NetworkPolicy, Pods};

    const PODS: &str = "
pods:
  tap0: { labels: { app: web } }
  tap1: { labels: { app: db } }
  tap2: { namespace: other }
";

    /// Ports `tap0` to `tap3`, and a group `hand` with a rule that `tap0` is bound to.
    fn config() -> Config {
        let mut config = Config::default();
        for number in 0..4 {
            config.ports.push(Port::new(format!("tap{number}")));
        }
        config.groups.push(Group::new("hand"));
        let rule = PolicyRule {
            id: 0,
            direction: Direction::In,
            action: crate::config::PolicyAction::Allow,
            proto: None,
            ports: None,
            remote: None,
            priority: 1000,
            log: false,
        };
        edits::add_policy_rule(&mut config, "hand", rule).unwrap();
        edits::bind_group(&mut config, "vsw0", "hand", "tap0").unwrap();
        config
    }

    fn policy(name: &str, spec: &str) -> String {
        format!(
            "---\napiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: {name}}}\n\
             spec: {{{spec}}}\n"
        )
    }

    fn import(config: &mut Config, policies: &str, pods: &str) -> Result<Vec<String>, Invalid> {
        let policies = NetworkPolicy::read_all(policies).unwrap();
        let plan = Plan::new(&policies, &Pods::read(pods).unwrap(), |_| 0);
        let installed = install(config, &plan)?;
        assert_eq!(config.validate("vsw0"), Ok(()));
        let lines = installed.iter().map(|group| {
            let policy = group.policy.as_deref().unwrap_or("pods");
            let ports = group.ports.join("+");
            format!("{policy} {} {ports} {:?}", group.rules, group.change)
        });
        Ok(lines.collect())
    }

    const FROM_DB: &str = "podSelector: {matchLabels: {app: web}}, ingress: [{from: [{podSelector: \
                           {matchLabels: {app: db}}}], ports: [{port: 80}, {port: 443}]}]";

    #[test]
    fn the_same_again_changes_nothing() {
        let mut config = config();
        let text = policy("web", FROM_DB) + &policy("all", "podSelector: {}");
        assert_eq!(
            import(&mut config, &text, PODS).unwrap(),
            [
                "default/web 3 tap0 Added",
                "default/all 1 tap0+tap1 Added",
                "pods 0 tap1 Added"
            ]
        );
        let first = config.clone();
        assert_eq!(
            import(&mut config, &text, PODS).unwrap(),
            [
                "default/web 3 tap0 Same",
                "default/all 1 tap0+tap1 Same",
                "pods 0 tap1 Same"
            ]
        );
        assert_eq!(config, first);
        // What is not in the file stays, and so does what was made by hand.
        let changed = import(&mut config, &policy("all", "podSelector: {}"), PODS).unwrap();
        assert_eq!(changed, ["default/all 1 tap0+tap1 Same"]);
        assert_eq!(config, first);
        assert_eq!(
            config.ports[0].groups,
            ["hand", "np_default_web", "np_default_all"]
        );
    }

    #[test]
    fn a_policy_is_replaced() {
        let mut config = config();
        import(&mut config, &policy("web", FROM_DB), PODS).unwrap();
        let ids = |config: &Config| -> Vec<u16> {
            let group = config.group("np_default_web").unwrap();
            group.rules.iter().map(|rule| rule.id).collect()
        };
        assert_eq!(ids(&config), [2, 3, 4]);
        // Rules that stay keep their ids.
        let other = FROM_DB.replace("{port: 80}", "{port: 81}");
        assert_eq!(
            import(&mut config, &policy("web", &other), PODS).unwrap(),
            ["default/web 3 tap0 Changed", "pods 0 tap1 Same"]
        );
        assert_eq!(ids(&config), [3, 4, 5]);
        // Who is named by nothing goes; pods that a policy is no longer for are free of it.
        assert_eq!(
            import(
                &mut config,
                &policy("web", "podSelector: {matchLabels: {app: db}}"),
                PODS
            )
            .unwrap(),
            ["default/web 1 tap1 Changed", "pods 0  Deleted"]
        );
        assert_eq!(ids(&config), [4]);
        assert_eq!(config.ports[0].groups, ["hand"]);
        assert_eq!(config.ports[1].groups, ["np_default_web"]);
    }

    #[test]
    fn pods_move_with_their_labels() {
        let mut config = config();
        import(&mut config, &policy("web", FROM_DB), PODS).unwrap();
        let moved = PODS.replace("tap1", "tap3");
        // The file is not about the policy whose rules name them.
        let none = policy("none", "podSelector: {matchLabels: {app: none}}");
        assert_eq!(
            import(&mut config, &none, &moved).unwrap(),
            ["default/none 1  Added", "pods 0 tap3 Changed"]
        );
        assert_eq!(config.ports[1].groups, [""; 0]);
    }

    #[test]
    fn a_profile_keeps_a_group_of_pods() {
        let mut config = config();
        import(&mut config, &policy("web", FROM_DB), PODS).unwrap();
        let name = config.ports[1].groups[0].clone();
        let mut options = Port::new("vms");
        options.groups.push(name.clone());
        config.profiles.push(crate::config::Profile {
            name: "vms".into(),
            matches: crate::config::Match {
                name: Some("vm*".parse().unwrap()),
                ..Default::default()
            },
            options,
        });
        import(&mut config, &policy("web", "podSelector: {}"), PODS).unwrap();
        assert!(config.group(&name).is_some());
    }

    #[test]
    fn there_is_room_for_eight_groups_on_a_port() {
        let mut config = config();
        let policies = |count: usize| -> String {
            (0..count)
                .map(|n| policy(&format!("p{n}"), "podSelector: {}"))
                .collect()
        };
        import(&mut config, &policies(7), PODS).unwrap();
        assert_eq!(config.ports[0].groups.len(), 8);
        let refusal = import(&mut config, &policies(8), PODS).unwrap_err();
        assert_eq!(
            refusal.why,
            "the port tap0 would be bound to 9 groups, and 8 are possible: hand, np_default_p0, \
             np_default_p1, np_default_p2, np_default_p3, np_default_p4, np_default_p5, np_default_p6, \
             np_default_p7"
        );
    }

    #[test]
    fn there_is_room_for_so_many_rules() {
        let mut config = config();
        let many = |ports: u16| {
            let ports: Vec<_> = (1..=ports)
                .map(|port| format!("{{port: {port}}}"))
                .collect();
            policy(
                "many",
                &format!(
                    "podSelector: {{}}, ingress: [{{ports: [{}]}}]",
                    ports.join(",")
                ),
            )
        };
        // One by hand, and one that denies the rest.
        import(&mut config, &many(32_765), PODS).unwrap();
        let refusal = import(&mut config, &many(32_766), PODS).unwrap_err();
        assert_eq!(refusal.subject.as_deref(), Some("the policy default/many"));
        assert!(refusal.why.contains("32767"), "{}", refusal.why);
    }
}
