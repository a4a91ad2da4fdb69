//! Properties of imports, of any policies: what the groups let through is what the API says, judged
//! here from the policies themselves; and importing again changes nothing.

use std::net::IpAddr;

use proptest::prelude::*;

use super::manifest::{Allowed, Who};
use super::selector::Labels;
use super::{NetworkPolicy, Plan, Pods, install};
use crate::config::{
    Config, Direction, GroupDefault, PolicyAction, Port, PortRange, Proto, Remote,
};

/// Who there is: four pods in two namespaces, and two addresses outside.
const PODS: &str = "
pods:
  tap0: { namespace: one, labels: { app: a, tier: '1' } }
  tap1: { namespace: one, labels: { app: b } }
  tap2: { namespace: two, labels: { app: a, tier: '1' } }
  tap3: { namespace: two }
namespaces:
  two: { labels: { team: t } }
";

/// An end of a connection.
#[derive(Clone, Copy, Debug)]
struct End {
    /// Its port, where it is a pod.
    port: Option<&'static str>,
    addr: [u8; 4],
}

const ENDS: [End; 6] = [
    End {
        port: Some("tap0"),
        addr: [10, 0, 0, 0],
    },
    End {
        port: Some("tap1"),
        addr: [10, 0, 0, 1],
    },
    End {
        port: Some("tap2"),
        addr: [10, 0, 0, 2],
    },
    End {
        port: Some("tap3"),
        addr: [10, 0, 0, 3],
    },
    End {
        port: None,
        addr: [10, 0, 0, 9],
    },
    End {
        port: None,
        addr: [192, 0, 2, 1],
    },
];

/// What is asked for: protocol and port.
const SERVICES: [(u8, u16); 4] = [(6, 80), (6, 81), (17, 80), (1, 0)];

/// The namespace and the labels of a pod, once more and by other means.
fn pod(port: &str) -> (&'static str, Labels) {
    let labels = |of: &[(&str, &str)]| -> Labels {
        of.iter()
            .map(|(key, value)| ((*key).into(), (*value).into()))
            .collect()
    };
    match port {
        "tap0" => ("one", labels(&[("app", "a"), ("tier", "1")])),
        "tap1" => ("one", labels(&[("app", "b")])),
        "tap2" => ("two", labels(&[("app", "a"), ("tier", "1")])),
        _ => ("two", labels(&[])),
    }
}

fn namespace_labels(namespace: &str) -> Labels {
    let mut labels = Labels::from([("kubernetes.io/metadata.name".into(), namespace.into())]);
    if namespace == "two" {
        labels.insert("team".into(), "t".into());
    }
    labels
}

/// Whether the policies let a connection through at one of its ends.
fn policies_allow(
    policies: &[NetworkPolicy],
    direction: Direction,
    end: End,
    other: End,
    service: (u8, u16),
) -> bool {
    let Some(port) = end.port else {
        return true;
    };
    let (namespace, labels) = pod(port);
    let sides: Vec<_> = policies
        .iter()
        .filter(|policy| policy.namespace == namespace && policy.pods.selects(&labels))
        .flat_map(|policy| policy.sides().map(move |side| (policy, side)))
        .filter(|(_, (side, _))| *side == direction)
        .collect();
    sides.is_empty()
        || sides.iter().any(|(policy, (_, rules))| {
            rules
                .iter()
                .any(|rule| rule_allows(policy, rule, other, service))
        })
}

fn rule_allows(policy: &NetworkPolicy, rule: &Allowed, other: End, service: (u8, u16)) -> bool {
    let is_peer = |who: &Who| match (who, other.port) {
        (Who::Nets(nets), _) => nets
            .iter()
            .any(|net| net.contains(&IpAddr::from(other.addr))),
        (Who::Pods { .. }, None) => false,
        (Who::Pods { namespaces, pods }, Some(port)) => {
            let (namespace, labels) = pod(port);
            let is_in = match namespaces {
                None => namespace == policy.namespace,
                Some(selector) => selector.selects(&namespace_labels(namespace)),
            };
            is_in && pods.selects(&labels)
        }
    };
    let is_for = |(Proto(proto), ports): &(Proto, Option<PortRange>)| {
        let is_in = |range: &PortRange| (range.first..=range.last).contains(&service.1);
        *proto == service.0 && ports.as_ref().is_none_or(is_in)
    };
    (rule.peers.is_empty() || rule.peers.iter().any(|peer| is_peer(&peer.who)))
        && (rule.ports.is_empty() || rule.ports.iter().any(is_for))
}

/// Whether the groups let a connection through at one of its ends.
fn groups_allow(
    config: &Config,
    direction: Direction,
    end: End,
    other: End,
    (proto, service): (u8, u16),
) -> bool {
    let Some(port) = end.port.and_then(|name| config.port(name)) else {
        return true;
    };
    let groups: Vec<_> = port
        .groups
        .iter()
        .map(|name| config.group(name).unwrap())
        .collect();
    let is_met = |remote: &Remote| match remote {
        Remote::Net(net) => net.contains(&IpAddr::from(other.addr)),
        Remote::Group(name) => {
            let other = other.port.and_then(|name| config.port(name));
            other.is_some_and(|other| other.groups.contains(name))
        }
    };
    let mut rules: Vec<_> = groups.iter().flat_map(|group| &group.rules).collect();
    rules.sort_by_key(|rule| (rule.priority, rule.id));
    let first = rules.iter().find(|rule| {
        rule.direction == direction
            && rule.proto.is_none_or(|Proto(number)| number == proto)
            && rule
                .ports
                .is_none_or(|ports| (ports.first..=ports.last).contains(&service))
            && rule.remote.as_ref().is_none_or(is_met)
    });
    match first {
        Some(rule) => rule.action == PolicyAction::Allow,
        None => groups
            .iter()
            .all(|group| group.default == GroupDefault::Allow),
    }
}

fn config() -> Config {
    let mut config = Config::default();
    config
        .ports
        .extend(ENDS.iter().filter_map(|end| end.port).map(Port::new));
    config
}

fn import(config: &mut Config, policies: &[NetworkPolicy]) {
    let plan = Plan::new(policies, &Pods::read(PODS).unwrap(), |_| 0);
    install(config, &plan).unwrap();
    assert_eq!(config.validate("vsw0"), Ok(()));
}

fn any_selector() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec![
        "{}",
        "{matchLabels: {app: a}}",
        "{matchLabels: {app: b}}",
        "{matchLabels: {app: a, tier: '1'}}",
        "{matchExpressions: [{key: app, operator: In, values: [a, b]}]}",
        "{matchExpressions: [{key: app, operator: NotIn, values: [a]}]}",
        "{matchExpressions: [{key: tier, operator: Exists}]}",
        "{matchExpressions: [{key: tier, operator: DoesNotExist}]}",
    ])
}

fn any_peer() -> impl Strategy<Value = String> {
    let namespaces = prop::sample::select(vec![
        "{}",
        "{matchLabels: {team: t}}",
        "{matchLabels: {kubernetes.io/metadata.name: one}}",
        "{matchLabels: {team: none}}",
    ]);
    let blocks = prop::sample::select(vec![
        "{cidr: 10.0.0.0/8}",
        "{cidr: 0.0.0.0/0, except: [10.0.0.0/8]}",
        "{cidr: 10.0.0.0/28, except: [10.0.0.1/32, 10.0.0.8/29]}",
        "{cidr: '::/0'}",
    ]);
    prop_oneof![
        any_selector().prop_map(|pods| format!("{{podSelector: {pods}}}")),
        namespaces
            .clone()
            .prop_map(|of| format!("{{namespaceSelector: {of}}}")),
        (namespaces, any_selector())
            .prop_map(|(of, pods)| format!("{{namespaceSelector: {of}, podSelector: {pods}}}")),
        blocks.prop_map(|block| format!("{{ipBlock: {block}}}")),
    ]
}

/// A list of rules whose other ends stand behind `end`.
fn any_rules(end: &'static str) -> impl Strategy<Value = String> {
    let ports = prop::sample::select(vec![
        "{port: 80}",
        "{port: 80, endPort: 90}",
        "{protocol: UDP}",
        "{protocol: UDP, port: 80}",
        "{protocol: SCTP, port: 80}",
    ]);
    let rule = (
        prop::collection::vec(any_peer(), 0..3),
        prop::collection::vec(ports, 0..2),
    );
    let rule = rule.prop_map(move |(peers, ports)| {
        format!(
            "{{{end}: [{}], ports: [{}]}}",
            peers.join(", "),
            ports.join(", ")
        )
    });
    prop::collection::vec(rule, 0..3).prop_map(|rules| format!("[{}]", rules.join(", ")))
}

fn any_policy() -> impl Strategy<Value = String> {
    let types = prop::sample::select(vec!["[]", "[Ingress]", "[Egress]", "[Ingress, Egress]"]);
    let namespace = prop::sample::select(vec!["one", "two"]);
    (
        namespace,
        any_selector(),
        types,
        any_rules("from"),
        any_rules("to"),
    )
        .prop_map(|(namespace, pods, types, ingress, egress)| {
            format!(
                "namespace: {namespace}}}\nspec: {{podSelector: {pods}, policyTypes: {types}, \
                 ingress: {ingress}, egress: {egress}}}\n"
            )
        })
}

fn any_policies() -> impl Strategy<Value = Vec<NetworkPolicy>> {
    prop::collection::vec(any_policy(), 1..5).prop_map(|policies| {
        let text: String = policies
            .iter()
            .enumerate()
            .map(|(number, rest)| {
                format!(
                    "---\napiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\n\
                     metadata: {{name: p{number}, {rest}"
                )
            })
            .collect();
        NetworkPolicy::read_all(&text).unwrap_or_else(|refusal| panic!("{text}{}", refusal.why))
    })
}

proptest! {
    #[test]
    fn the_groups_do_what_the_policies_say(policies in any_policies(), split in 0..5usize) {
        let mut config = config();
        // In one file or in two: it is the same.
        let (first, second) = policies.split_at(split.min(policies.len()));
        import(&mut config, first);
        import(&mut config, second);
        for end in ENDS {
            for other in ENDS {
                for service in SERVICES {
                    for direction in [Direction::In, Direction::Out] {
                        prop_assert_eq!(
                            groups_allow(&config, direction, end, other, service),
                            policies_allow(&policies, direction, end, other, service),
                            "{:?} {:?} {:?} {:?}", direction, end, other, service
                        );
                    }
                }
            }
        }
        let before = config.clone();
        import(&mut config, &policies);
        prop_assert_eq!(config, before);
    }
}
