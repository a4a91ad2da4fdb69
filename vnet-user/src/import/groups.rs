//! What policies come to: groups, their rules and the ports that are bound to them.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use super::manifest::{Allowed, NetworkPolicy, Peer, Who};
use super::names::{pods_group, policy_group};
use super::pods::Pods;
use crate::config::policy::DEFAULT_PRIORITY;
use crate::config::{Direction, PolicyAction, PolicyRule, Remote};

/// The priority of the rule that denies what no policy allows: behind what any of them does.
pub const ISOLATED: u16 = u16::MAX;

/// What is to be there after an import.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The policies' groups, in the order of the policies.
    pub policies: Vec<PolicyGroup>,
    /// Each pod's own group of pods, by its port.
    pub pods: BTreeMap<String, String>,
    /// What the user might not have meant.
    pub warnings: Vec<String>,
}

/// The group of a policy. Its default is allow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyGroup {
    /// The policy, `NAMESPACE/NAME`.
    pub policy: String,
    /// The group's name.
    pub name: String,
    /// The directions that it isolates.
    pub isolates: Vec<Direction>,
    /// Its rules, which have no ids yet.
    pub rules: Vec<PolicyRule>,
    /// The ports that are bound to it.
    pub ports: BTreeSet<String>,
}

impl Plan {
    /// What `policies` come to where there are `pods`. `line` tells the line of a place in the
    /// policies' file.
    #[must_use]
    pub fn new(policies: &[NetworkPolicy], pods: &Pods, line: impl Fn(usize) -> usize) -> Self {
        let mut warnings = Vec::new();
        let groups = policies
            .iter()
            .map(|policy| {
                let group = PolicyGroup::new(policy, pods);
                warn(policy, &group, pods, &line, &mut warnings);
                group
            })
            .collect();
        let own = pods
            .ports
            .iter()
            .map(|(port, pod)| (port.clone(), pods_group(&pod.namespace, &pod.labels)))
            .collect();
        Self {
            policies: groups,
            pods: own,
            warnings,
        }
    }
}

impl PolicyGroup {
    fn new(policy: &NetworkPolicy, pods: &Pods) -> Self {
        let mut rules = Vec::new();
        let mut seen = HashSet::new();
        for (direction, side) in policy.sides() {
            for allowed in side {
                for rule in allow(policy, direction, allowed, pods) {
                    // Peers may mean the same pods.
                    if seen.insert(rule.clone()) {
                        rules.push(rule);
                    }
                }
            }
        }
        let isolates: Vec<_> = policy.sides().map(|(direction, _)| direction).collect();
        rules.extend(isolates.iter().map(|direction| PolicyRule {
            action: PolicyAction::Deny,
            priority: ISOLATED,
            ..allow_all(*direction)
        }));
        Self {
            policy: policy.title(),
            name: policy_group(&policy.namespace, &policy.name),
            isolates,
            rules,
            ports: pods
                .selected_by(policy)
                .into_iter()
                .map(str::to_owned)
                .collect(),
        }
    }
}

/// The rule without an id that allows everything in one direction.
fn allow_all(direction: Direction) -> PolicyRule {
    PolicyRule {
        id: 0,
        direction,
        action: PolicyAction::Allow,
        proto: None,
        ports: None,
        remote: None,
        priority: DEFAULT_PRIORITY,
        log: false,
    }
}

/// The rules that allow what `allowed` says.
fn allow(
    policy: &NetworkPolicy,
    direction: Direction,
    allowed: &Allowed,
    pods: &Pods,
) -> Vec<PolicyRule> {
    let remotes: Vec<Option<Remote>> = if allowed.peers.is_empty() {
        vec![None]
    } else {
        let peers = allowed.peers.iter();
        peers
            .flat_map(|peer| remotes(policy, peer, pods))
            .map(Some)
            .collect()
    };
    let services: Vec<_> = if allowed.ports.is_empty() {
        vec![(None, None)]
    } else {
        let ports = allowed.ports.iter();
        ports.map(|(proto, ports)| (Some(*proto), *ports)).collect()
    };
    let mut rules = Vec::with_capacity(remotes.len() * services.len());
    for remote in &remotes {
        for (proto, ports) in &services {
            rules.push(PolicyRule {
                proto: *proto,
                ports: *ports,
                remote: remote.clone(),
                ..allow_all(direction)
            });
        }
    }
    rules
}

/// The other ends that a peer means.
fn remotes(policy: &NetworkPolicy, peer: &Peer, pods: &Pods) -> Vec<Remote> {
    if let Who::Nets(nets) = &peer.who {
        return nets.iter().copied().map(Remote::Net).collect();
    }
    let groups: BTreeSet<_> = pods
        .meant_by(policy, &peer.who)
        .map(|(_, pod)| pods_group(&pod.namespace, &pod.labels))
        .collect();
    groups.into_iter().map(Remote::Group).collect()
}

/// Says what of a policy is for nothing.
fn warn(
    policy: &NetworkPolicy,
    group: &PolicyGroup,
    pods: &Pods,
    line: impl Fn(usize) -> usize,
    warnings: &mut Vec<String>,
) {
    let title = &group.policy;
    if group.ports.is_empty() {
        warnings.push(format!("{title} selects no pod"));
    }
    for direction in &policy.idle {
        let (rules, kind) = match direction {
            Direction::In => ("ingress", "Ingress"),
            Direction::Out => ("egress", "Egress"),
        };
        warnings.push(format!(
            "{title} has rules of `{rules}`, which count for nothing: its policyTypes do not have {kind}"
        ));
    }
    let peers = policy
        .sides()
        .flat_map(|(_, side)| side)
        .flat_map(|allowed| &allowed.peers);
    for peer in peers {
        let is_nobody = match &peer.who {
            Who::Nets(nets) => nets.is_empty(),
            who => pods.meant_by(policy, who).next().is_none(),
        };
        if is_nobody {
            let line = line(peer.place.start);
            warnings.push(format!("{title}: the peer in line {line} means nobody"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PODS: &str = "
pods:
  tap0: { labels: { app: web } }
  tap1: { labels: { app: web } }
  tap2: { labels: { app: db } }
  tap3: { namespace: other, labels: { app: web } }
namespaces:
  other: { labels: { team: a } }
";

    fn plan(spec: &str) -> Plan {
        let text = format!(
            "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: it}}\n\
             spec:\n  {}\n",
            spec.replace('\n', "\n  ")
        );
        let policies = NetworkPolicy::read_all(&text).unwrap();
        let line = |at: usize| text[..at].matches('\n').count() + 1;
        Plan::new(&policies, &Pods::read(PODS).unwrap(), line)
    }

    fn rules(spec: &str) -> Vec<String> {
        let plan = plan(spec);
        let rules = plan.policies[0].rules.iter();
        rules
            .map(|rule| {
                let mut words = vec![rule.direction.to_string(), rule.action.to_string()];
                words.extend(rule.proto.map(|proto| proto.to_string()));
                words.extend(rule.ports.map(|ports| ports.to_string()));
                words.extend(rule.remote.as_ref().map(|remote| match remote {
                    Remote::Group(name) => {
                        let ports = plan.pods.iter().filter(|(_, group)| *group == name);
                        let ports: Vec<_> = ports.map(|(port, _)| port.as_str()).collect();
                        format!("group:{}", ports.join("+"))
                    }
                    net => net.to_string(),
                }));
                if rule.priority != DEFAULT_PRIORITY {
                    words.push(rule.priority.to_string());
                }
                words.join(" ")
            })
            .collect()
    }

    #[test]
    fn what_is_isolated_is_denied_behind_what_is_allowed() {
        assert_eq!(rules("podSelector: {}"), ["in deny 65535"]);
        assert_eq!(
            rules("podSelector: {}\npolicyTypes: [Ingress, Egress]\negress: [{}]"),
            ["out allow", "in deny 65535", "out deny 65535"]
        );
    }

    #[test]
    fn each_peer_with_each_port() {
        assert_eq!(
            rules(
                "ingress:\n- from:\n  - podSelector: {}\n  - namespaceSelector: {matchLabels: {team: a}}\n  \
                 - ipBlock: {cidr: 10.0.0.0/31, except: [10.0.0.1/32]}\n  ports:\n  - port: 80\n  \
                 - {protocol: UDP}"
            ),
            [
                "in allow tcp 80 group:tap0+tap1",
                "in allow udp group:tap0+tap1",
                "in allow tcp 80 group:tap2",
                "in allow udp group:tap2",
                "in allow tcp 80 group:tap3",
                "in allow udp group:tap3",
                "in allow tcp 80 10.0.0.0",
                "in allow udp 10.0.0.0",
                "in deny 65535"
            ]
        );
    }

    #[test]
    fn who_is_meant_twice_is_there_once() {
        assert_eq!(
            rules(
                "egress:\n- to:\n  - podSelector: {matchLabels: {app: db}}\n  - podSelector: \
                 {matchExpressions: [{key: app, operator: NotIn, values: [web]}]}\n- to:\n  - \
                 podSelector: {matchLabels: {app: db}}\npolicyTypes: [Egress]"
            ),
            ["out allow group:tap2", "out deny 65535"]
        );
    }

    #[test]
    fn who_is_nobody_is_warned_of() {
        let plan = plan(
            "podSelector: {matchLabels: {app: none}}\npolicyTypes: [Egress]\ningress: [{}]\negress:\n\
             - to:\n  - podSelector: {matchLabels: {app: none}}",
        );
        assert_eq!(
            plan.warnings,
            [
                "default/it selects no pod",
                "default/it has rules of `ingress`, which count for nothing: its policyTypes do not have \
             Ingress",
                "default/it: the peer in line 10 means nobody",
            ]
        );
        let rules: Vec<_> = plan.policies[0]
            .rules
            .iter()
            .map(|rule| rule.action)
            .collect();
        assert_eq!(rules, [PolicyAction::Deny]);
        assert_eq!(plan.policies[0].ports, BTreeSet::new());
    }
}
