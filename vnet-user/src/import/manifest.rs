//! NetworkPolicies (`networking.k8s.io/v1`) as manifests have them.

use std::collections::BTreeMap;
use std::ops::Range;

use ipnet::IpNet;

use super::cidr::without;
use super::fields::{Fields, port, text};
use super::selector::Selector;
use super::yaml::{self, Node};
use crate::config::policy::check_mapped;
use crate::config::{Direction, Invalid, PortRange, Prefix, Proto};

/// The only version there is.
const API: &str = "networking.k8s.io/v1";

/// The namespace of what does not say one.
pub const DEFAULT_NAMESPACE: &str = "default";

/// Which pods may have which connections.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkPolicy {
    /// Its namespace.
    pub namespace: String,
    /// Its name there.
    pub name: String,
    /// Where it begins.
    pub place: Range<usize>,
    /// Which pods of its namespace it is for.
    pub pods: Selector,
    /// What may come in; `None`: it does not say.
    pub ingress: Option<Vec<Allowed>>,
    /// What may go out; `None`: it does not say.
    pub egress: Option<Vec<Allowed>>,
    /// Directions of which it has rules and which are none of its `policyTypes`: these rules are for
    /// nothing.
    pub idle: Vec<Direction>,
}

/// Connections that are allowed: from or to one of the peers, and to one of the ports.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Allowed {
    /// The other ends; empty: any.
    pub peers: Vec<Peer>,
    /// The protocols, with destination ports or all of them; empty: any protocol.
    pub ports: Vec<(Proto, Option<PortRange>)>,
}

/// Who may be at the other end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Where it is said.
    pub place: Range<usize>,
    /// Who.
    pub who: Who,
}

/// Who is meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Who {
    /// Addresses.
    Nets(Vec<IpNet>),
    /// Pods.
    Pods {
        /// The namespaces in which they are; `None`: the policy's.
        namespaces: Option<Selector>,
        /// Which of those there.
        pods: Selector,
    },
}

impl NetworkPolicy {
    /// Reads all that `text` has, which is YAML.
    ///
    /// # Errors
    /// It has something else than policies, or a policy has something that is not known or cannot be
    /// said in rules; with the place.
    pub fn read_all(text: &str) -> Result<Vec<Self>, Invalid> {
        let mut policies = Vec::new();
        for document in yaml::documents(text)? {
            read_object(&document, &mut policies)?;
        }
        let mut seen = BTreeMap::new();
        for policy in &policies {
            if seen.insert((&policy.namespace, &policy.name), ()).is_some() {
                return Err(Invalid::new(format!("{} is there twice", policy.title()))
                    .at_bytes(policy.place.clone()));
            }
        }
        Ok(policies)
    }

    /// `NAMESPACE/NAME`.
    #[must_use]
    pub fn title(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }

    /// What it says of each direction, seen from its pods.
    pub fn sides(&self) -> impl Iterator<Item = (Direction, &[Allowed])> {
        let sides = [
            (Direction::In, self.ingress.as_deref()),
            (Direction::Out, self.egress.as_deref()),
        ];
        sides
            .into_iter()
            .filter_map(|(direction, allowed)| Some((direction, allowed?)))
    }

    fn read(node: &Node) -> Result<Self, Invalid> {
        let object = Fields::of(
            node,
            "a NetworkPolicy",
            // What a cluster answers may have an empty `status`.
            &["apiVersion", "kind", "metadata", "spec", "status"],
        )?;
        let (namespace, name) = read_metadata(object.require("metadata")?)?;
        let spec = Fields::of(
            object.require("spec")?,
            "the spec of a NetworkPolicy",
            &["podSelector", "policyTypes", "ingress", "egress"],
        )?;
        let ingress = read_rules(&spec, "ingress", "from")?;
        let egress = read_rules(&spec, "egress", "to")?;
        let mut types = Vec::new();
        for node in spec.list("policyTypes")? {
            types.push(match text(node, "a policy type")?.as_str() {
                "Ingress" => Direction::In,
                "Egress" => Direction::Out,
                other => {
                    return Err(node
                        .refuse(format!("the policy type `{other}` is not known"))
                        .mend("use Ingress or Egress"));
                }
            });
        }
        if types.is_empty() {
            types.push(Direction::In);
            if !egress.is_empty() {
                types.push(Direction::Out);
            }
        }
        let mut policy = Self {
            namespace,
            name,
            place: node.place.clone(),
            pods: spec
                .get("podSelector")
                .map(Selector::read)
                .transpose()?
                .unwrap_or_default(),
            ingress: None,
            egress: None,
            idle: Vec::new(),
        };
        for (direction, allowed, side) in [
            (Direction::In, ingress, &mut policy.ingress),
            (Direction::Out, egress, &mut policy.egress),
        ] {
            if types.contains(&direction) {
                *side = Some(allowed);
            } else if !allowed.is_empty() {
                policy.idle.push(direction);
            }
        }
        Ok(policy)
    }
}

/// Reads a policy, or a list of them.
fn read_object(node: &Node, policies: &mut Vec<NetworkPolicy>) -> Result<(), Invalid> {
    let (version, kind) = read_kind(node)?;
    match (version.as_str(), kind.as_str()) {
        (API, "NetworkPolicy") => policies.push(NetworkPolicy::read(node)?),
        ("v1", "List") | (API, "NetworkPolicyList") => {
            let list = Fields::of(node, "a list", &["apiVersion", "kind", "metadata", "items"])?;
            for item in list.list("items")? {
                read_object(item, policies)?;
            }
        }
        _ => {
            return Err(node
                .refuse(format!("{kind} of {version} is no policy that is read"))
                .mend(format!(
                    "leave in the file what is NetworkPolicy of {API}, alone or in a List"
                )));
        }
    }
    Ok(())
}

/// The version and the kind of an object.
fn read_kind(node: &Node) -> Result<(String, String), Invalid> {
    let yaml::Value::Map(entries) = &node.value else {
        return Err(node.refuse("this is no object of Kubernetes"));
    };
    let find = |key: &str| match entries.iter().find(|entry| entry.key == key) {
        Some(entry) => text(&entry.value, &format!("`{key}`")),
        None => Err(node.refuse(format!("`{key}` is missing"))),
    };
    Ok((find("apiVersion")?, find("kind")?))
}

/// The namespace and the name of an object.
fn read_metadata(node: &Node) -> Result<(String, String), Invalid> {
    let fields = Fields::of(
        node,
        "metadata",
        &[
            "name",
            "namespace",
            // They are what a cluster keeps about an object, and change nothing.
            "annotations",
            "creationTimestamp",
            "deletionGracePeriodSeconds",
            "deletionTimestamp",
            "finalizers",
            "generateName",
            "generation",
            "labels",
            "managedFields",
            "ownerReferences",
            "resourceVersion",
            "selfLink",
            "uid",
        ],
    )?;
    let name = read_name(fields.require("name")?, "a policy's name", ".-", 253)?;
    let namespace = match fields.get("namespace") {
        Some(node) => read_namespace(node)?,
        None => DEFAULT_NAMESPACE.into(),
    };
    Ok((namespace, name))
}

/// A namespace's name.
pub(super) fn read_namespace(node: &Node) -> Result<String, Invalid> {
    read_name(node, "a namespace", "-", 63)
}

/// A name as Kubernetes allows it (RFC 1123 and its own lengths).
fn read_name(node: &Node, what: &str, marks: &str, longest: usize) -> Result<String, Invalid> {
    let name = text(node, what)?;
    let is_alphanumeric = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let is_right = name.len() <= longest
        && name.starts_with(is_alphanumeric)
        && name.ends_with(is_alphanumeric)
        && name
            .chars()
            .all(|c| is_alphanumeric(c) || marks.contains(c));
    if !is_right {
        return Err(node.refuse(format!("{name:?} is not {what}")).mend(format!(
            "up to {longest} small letters, digits and, between them, {marks:?} make one"
        )));
    }
    Ok(name)
}

/// The rules of one direction, whose other ends stand behind `end`.
fn read_rules(spec: &Fields<'_>, key: &str, end: &str) -> Result<Vec<Allowed>, Invalid> {
    let rules = spec.list(key)?.iter();
    rules
        .map(|node| {
            let fields = Fields::of(node, &format!("a rule of `{key}`"), &[end, "ports"])?;
            let peers = fields.list(end)?.iter().map(read_peer);
            let ports = fields.list("ports")?.iter().map(read_port);
            Ok(Allowed {
                peers: peers.collect::<Result<_, _>>()?,
                ports: ports.collect::<Result<_, _>>()?,
            })
        })
        .collect()
}

fn read_peer(node: &Node) -> Result<Peer, Invalid> {
    let keys = ["podSelector", "namespaceSelector", "ipBlock"];
    let fields = Fields::of(node, "a peer", &keys)?;
    let [pods, namespaces, block] = keys.map(|key| fields.get(key));
    let who = match (pods, namespaces, block) {
        (None, None, Some(block)) => Who::Nets(read_block(block)?),
        (None, None, None) => {
            return Err(node.refuse("a peer without anything is nobody").mend(
                "write podSelector: {} for all pods of the namespace, or leave out the peers",
            ));
        }
        (_, _, Some(block)) => {
            return Err(block
                .refuse("a peer is either pods or addresses")
                .mend("make it two peers: begin the ipBlock with `- `"));
        }
        (pods, namespaces, None) => Who::Pods {
            namespaces: namespaces.map(Selector::read).transpose()?,
            pods: pods.map(Selector::read).transpose()?.unwrap_or_default(),
        },
    };
    Ok(Peer {
        place: node.place.clone(),
        who,
    })
}

/// The addresses of an `ipBlock`.
fn read_block(node: &Node) -> Result<Vec<IpNet>, Invalid> {
    let fields = Fields::of(node, "an ipBlock", &["cidr", "except"])?;
    let net = read_net(fields.require("cidr")?)?;
    let mut holes = Vec::new();
    for node in fields.list("except")? {
        let hole = read_net(node)?;
        if hole == net || !net.contains(&hole) {
            return Err(node
                .refuse(format!("{} is no part of {}", Prefix(hole), Prefix(net)))
                .mend("an exception lies within the `cidr`, and is not all of it"));
        }
        holes.push(hole);
    }
    Ok(without(net, &holes))
}

/// A prefix. As Kubernetes has it, bits behind its length do not count.
fn read_net(node: &Node) -> Result<IpNet, Invalid> {
    let text = text(node, "a prefix")?;
    let net = text
        .parse::<IpNet>()
        .map_err(|_| node.refuse(format!("{text:?} is not a prefix such as 10.0.0.0/24")))?;
    check_mapped(net).map_err(|refusal| refusal.at_bytes(node.place.clone()))?;
    Ok(net.trunc())
}

fn read_port(node: &Node) -> Result<(Proto, Option<PortRange>), Invalid> {
    let fields = Fields::of(node, "a port", &["protocol", "port", "endPort"])?;
    let proto = match fields.get("protocol") {
        None => Proto::TCP,
        Some(node) => match text(node, "a protocol")?.as_str() {
            "TCP" => Proto::TCP,
            "UDP" => Proto::UDP,
            "SCTP" => Proto::SCTP,
            other => {
                return Err(node
                    .refuse(format!("the protocol `{other}` is not known"))
                    .mend("use TCP, UDP or SCTP"));
            }
        },
    };
    let first = fields.get("port").map(|node| port(node, "a port"));
    let (first, end) = match (first.transpose()?, fields.get("endPort")) {
        (None, None) => return Ok((proto, None)),
        (None, Some(end)) => {
            return Err(end.refuse("`endPort` is the end of a range that begins with `port`"));
        }
        (Some(first), end) => (first, end),
    };
    let last = match end {
        None => first,
        Some(node) => match port(node, "`endPort`")? {
            last if last < first => {
                return Err(node.refuse(format!("the ports {first}-{last} are none")));
            }
            last => last,
        },
    };
    Ok((proto, Some(PortRange { first, last })))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Place;

    fn with_spec(spec: &str) -> String {
        let spec = spec.replace('\n', "\n  ");
        format!(
            "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: web}}\n\
             spec:\n  {spec}\n"
        )
    }

    fn read(spec: &str) -> NetworkPolicy {
        let mut policies = NetworkPolicy::read_all(&with_spec(spec))
            .unwrap_or_else(|refusal| panic!("{spec}: {}", refusal.why));
        assert_eq!(policies.len(), 1);
        policies.remove(0)
    }

    /// Why `text` is refused, and the text at the place.
    fn refused(text: &str) -> (String, String) {
        let refusal = NetworkPolicy::read_all(text).expect_err(text);
        let Some(Place::Bytes(place)) = refusal.place.as_deref() else {
            panic!("{text}: {refusal:?}");
        };
        let line = text[place.start..].lines().next().unwrap_or_default();
        (refusal.why, line.trim().to_owned())
    }

    fn isolates(spec: &str) -> String {
        let policy = read(spec);
        let sides: Vec<_> = policy
            .sides()
            .map(|(direction, allowed)| format!("{direction}:{}", allowed.len()))
            .collect();
        sides.join(" ")
    }

    #[test]
    fn directions_that_are_isolated() {
        for (spec, expected) in [
            ("podSelector: {}", "in:0"),
            ("podSelector:", "in:0"),
            ("podSelector: {}\negress: []", "in:0"),
            ("podSelector: {}\negress: [{}]", "in:0 out:1"),
            ("podSelector: {}\ningress: [{}, {}]", "in:2"),
            ("podSelector: {}\npolicyTypes: []\ningress: [{}]", "in:1"),
            ("podSelector: {}\npolicyTypes: [Ingress]", "in:0"),
            ("podSelector: {}\npolicyTypes: [Egress]", "out:0"),
            (
                "podSelector: {}\npolicyTypes: [Ingress, Egress]",
                "in:0 out:0",
            ),
            (
                "podSelector: {}\npolicyTypes: [Egress]\negress: [{}]",
                "out:1",
            ),
            // Rules of a direction that is not named are for nothing.
            (
                "podSelector: {}\npolicyTypes: [Egress]\ningress: [{}]",
                "out:0",
            ),
            (
                "podSelector: {}\npolicyTypes: [Ingress]\negress: [{}]",
                "in:0",
            ),
        ] {
            assert_eq!(isolates(spec), expected, "{spec}");
        }
        assert_eq!(
            read("policyTypes: [Egress]\ningress: [{}]").idle,
            [Direction::In]
        );
        assert_eq!(read("policyTypes: [Egress]\ningress: []").idle, []);
    }

    #[test]
    fn ports() {
        let policy = read(
            "ingress:\n- ports:\n  - port: 80\n  - {protocol: UDP, port: 53}\n  - {protocol: SCTP}\n  \
             - {port: 32000, endPort: 32768}\n  - {port: 1, endPort: 1}",
        );
        let range = |first, last| Some(PortRange { first, last });
        assert_eq!(
            policy.ingress.unwrap()[0].ports,
            [
                (Proto::TCP, range(80, 80)),
                (Proto::UDP, range(53, 53)),
                (Proto::SCTP, None),
                (Proto::TCP, range(32000, 32768)),
                (Proto::TCP, range(1, 1)),
            ]
        );
    }

    #[test]
    fn peers() {
        let policy = read(
            "egress:\n- to:\n  - podSelector: {matchLabels: {a: b}}\n  - namespaceSelector: {}\n  \
             - namespaceSelector: {}\n    podSelector: {matchLabels: {a: b}}\n  \
             - ipBlock: {cidr: 10.0.0.1/30, except: [10.0.0.0/31]}\n- to: []\n- to:\n- {}",
        );
        let egress = policy.egress.unwrap();
        let all = Selector::default();
        let ab = Selector::read(&yaml::documents("{matchLabels: {a: b}}").unwrap()[0]).unwrap();
        let pods = |namespaces: Option<&Selector>, pods: &Selector| Who::Pods {
            namespaces: namespaces.cloned(),
            pods: pods.clone(),
        };
        let who: Vec<_> = egress[0]
            .peers
            .iter()
            .map(|peer| peer.who.clone())
            .collect();
        assert_eq!(
            who,
            [
                pods(None, &ab),
                pods(Some(&all), &all),
                pods(Some(&all), &ab),
                Who::Nets(vec!["10.0.0.2/31".parse().unwrap()]),
            ]
        );
        assert!(egress[1..].iter().all(|rule| *rule == Allowed::default()));
        assert_eq!(egress.len(), 4);
    }

    #[test]
    fn documents_and_lists() {
        let policy = |name: &str, rest: &str| {
            format!(
                "{{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {{name: {name}, \
                 {rest}}}, spec: {{podSelector: {{}}}}}}"
            )
        };
        let text = format!(
            "{}\n---\napiVersion: v1\nkind: List\nmetadata: {{resourceVersion: ''}}\nitems:\n- {}\n- {}\n\
             ---\napiVersion: networking.k8s.io/v1\nkind: NetworkPolicyList\nitems: [{}]\n---\n",
            policy("a", "namespace: other"),
            policy("a", "uid: x, generation: 1, labels: {a: b}"),
            policy(
                "b.c",
                "annotations: {a: '{}'}, creationTimestamp: '2026-01-01T00:00:00Z'"
            ),
            policy(
                "d",
                "managedFields: [{manager: kubectl, fieldsV1: {'f:spec': {.: {}}}}]"
            ),
        );
        let policies = NetworkPolicy::read_all(&text).unwrap();
        let titles: Vec<_> = policies.iter().map(NetworkPolicy::title).collect();
        assert_eq!(titles, ["other/a", "default/a", "default/b.c", "default/d"]);
        let twice = format!(
            "{}\n---\n{}\n",
            policy("a", ""),
            policy("a", "namespace: default")
        );
        let (why, line) = refused(&twice);
        assert_eq!(why, "default/a is there twice");
        assert!(line.contains("namespace: default"));
        assert_eq!(NetworkPolicy::read_all("# nothing\n"), Ok(vec![]));
    }

    #[test]
    fn what_cannot_be_said() {
        for (spec, why, at) in [
            (
                "podSelectors: {}",
                "has no field `podSelectors`",
                "podSelectors: {}",
            ),
            ("ingress: {}", "`ingress` is a list", "{}"),
            (
                "ingress:\n- form: []",
                "a rule of `ingress` has no field `form`",
                "form: []",
            ),
            (
                "ingress:\n- to: []",
                "a rule of `ingress` has no field `to`",
                "to: []",
            ),
            (
                "ingress:\n-\negress: []",
                "a rule of `ingress` is missing",
                "",
            ),
            (
                "policyTypes: [ingress]",
                "the policy type `ingress` is not known",
                "ingress]",
            ),
            (
                "ingress:\n- ports: [{port: http}]",
                "\"http\" is a port's name",
                "http}]",
            ),
            (
                "ingress:\n- ports: [{port: '80'}]",
                "\"80\" is a port's name",
                "'80'}]",
            ),
            (
                "ingress:\n- ports: [{port: 010}]",
                "010 begins with 0",
                "010}]",
            ),
            ("ingress:\n- ports: [{port: 0}]", "0 is no port", "0}]"),
            (
                "ingress:\n- ports: [{port: 65536}]",
                "65536 is no port",
                "65536}]",
            ),
            (
                "ingress:\n- ports: [{port: -1}]",
                "\"-1\" is a port's name",
                "-1}]",
            ),
            (
                "ingress:\n- ports: [{protocol: tcp}]",
                "the protocol `tcp` is not known",
                "tcp}]",
            ),
            (
                "ingress:\n- ports: [{endPort: 80}]",
                "`endPort` is the end of a range",
                "80}]",
            ),
            (
                "ingress:\n- ports: [{port: 80, endPort: 79}]",
                "the ports 80-79 are none",
                "79}]",
            ),
            (
                "ingress:\n- from:\n  - {}",
                "a peer without anything is nobody",
                "{}",
            ),
            (
                "ingress:\n- from:\n  - podSelector:",
                "a peer without anything",
                "podSelector:",
            ),
            (
                "ingress:\n- from:\n  - {podSelector: {}, ipBlock: {cidr: 10.0.0.0/8}}",
                "a peer is either pods or addresses",
                "{cidr: 10.0.0.0/8}}",
            ),
            (
                "ingress:\n- from:\n  - ipBlock: {cidr: 10.0.0.1}",
                "is not a prefix",
                "10.0.0.1}",
            ),
            (
                "ingress:\n- from:\n  - ipBlock: {cidr: '::ffff:10.0.0.0/104'}",
                "is IPv4 in the form of IPv6",
                "'::ffff:10.0.0.0/104'}",
            ),
            (
                "ingress:\n- from:\n  - ipBlock: {cidr: 10.0.0.0/8, except: [11.0.0.0/24]}",
                "11.0.0.0/24 is no part of 10.0.0.0/8",
                "11.0.0.0/24]}",
            ),
            (
                "ingress:\n- from:\n  - ipBlock: {cidr: 10.0.0.0/8, except: [10.0.0.0/8]}",
                "10.0.0.0/8 is no part of 10.0.0.0/8",
                "10.0.0.0/8]}",
            ),
        ] {
            let (found, line) = refused(&with_spec(spec));
            assert!(found.contains(why), "{spec}: {found}");
            assert_eq!(line, at, "{spec}");
        }
        for (from, to, why) in [
            (
                "networking.k8s.io/v1",
                "extensions/v1beta1",
                "NetworkPolicy of extensions/v1beta1",
            ),
            (
                "NetworkPolicy",
                "Pod",
                "Pod of networking.k8s.io/v1 is no policy",
            ),
            ("kind: NetworkPolicy\n", "", "`kind` is missing"),
            ("{name: web}", "{}", "`name` is missing"),
            ("name: web", "name: Web", "\"Web\" is not a policy's name"),
            (
                "name: web",
                "name: web, namespace: a.b",
                "\"a.b\" is not a namespace",
            ),
            ("name: web", "name: web-", "\"web-\" is not a policy's name"),
            ("metadata: {name: web}\n", "", "`metadata` is missing"),
            ("spec:\n  podSelector: {}", "", "`spec` is missing"),
            ("spec:", "specs:", "a NetworkPolicy has no field `specs`"),
        ] {
            let text = with_spec("podSelector: {}");
            assert!(text.contains(from), "{from}");
            let (found, _) = refused(&text.replace(from, to));
            assert!(found.contains(why), "{to}: {found}");
        }
        assert_eq!(refused("- a").0, "this is no object of Kubernetes");
    }
}
