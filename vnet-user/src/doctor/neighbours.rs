//! Other software on the host that works on the switch's interfaces: packet filters that redirected
//! frames do not pass, and network managers that configure ports.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use super::{AS_ROOT, Check, Scope};
use crate::config::Config;
use crate::dhcp;
use crate::gateway::switch_ports;
use crate::host::{Link, LinkKind, netns};
use crate::ports::Role;
use crate::runtime::Session;

/// Where systemd-networkd says what it does to each interface, a file an index.
const NETWORKD: &str = "/run/systemd/netif/links";
/// Where NetworkManager says so.
const NETWORK_MANAGER: &str = "/run/NetworkManager/devices";

/// The interfaces that matter, by role.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Interfaces {
    /// Members of the switch device, and the device itself.
    pub members: BTreeSet<String>,
    /// Those between which vnet routes and translates: uplinks and gateway ports, where there are
    /// gateways.
    pub routed: BTreeSet<String>,
    /// Those on which DHCP is served.
    pub served: BTreeSet<String>,
}

/// Looks for other software.
#[must_use]
pub fn examine(
    session: &Session,
    config: &Config,
    listed: &[Link],
    privileged: bool,
) -> Vec<Check> {
    let scope = Scope::new("neighbours");
    let interfaces = interfaces(config, session.switch(), listed);
    let mut checks = match ruleset() {
        Ok(Some(ruleset)) => judge_rules(&scope, &ruleset, &interfaces),
        Ok(None) => vec![
            scope
                .warn("nft rules", "apt install nftables, to have them looked at")
                .detail("not looked at: there is no nft"),
        ],
        Err(why) => {
            let mend = if privileged {
                "nft list ruleset says more"
            } else {
                AS_ROOT
            };
            vec![
                scope
                    .warn("nft rules", mend)
                    .detail(format_args!("not looked at: {why}")),
            ]
        }
    };
    // Their files are about the first namespace's interfaces, by index.
    let first = in_first_namespace();
    if first == Some(false) {
        return checks;
    }
    let ports = unmanaged(config, session.switch());
    for (software, dir, manages) in [
        (
            "systemd-networkd",
            NETWORKD,
            networkd_manages as fn(&str) -> bool,
        ),
        ("NetworkManager", NETWORK_MANAGER, network_manager_manages),
    ] {
        let dir = Path::new(dir);
        // Without a file in it, nothing of the kind runs.
        if !fs::read_dir(dir).is_ok_and(|mut files| files.next().is_some()) {
            continue;
        }
        let managed = first.map(|_| managed(dir, listed, manages));
        checks.push(judge_manager(&scope, software, managed.as_ref(), &ports));
    }
    checks
}

fn interfaces(config: &Config, switch: &str, listed: &[Link]) -> Interfaces {
    let mut interfaces = Interfaces::default();
    let gateways = config
        .networks
        .iter()
        .any(|network| !network.gateway.is_empty());
    let device = listed
        .iter()
        .find(|link| link.name == switch && link.kind == LinkKind::Bridge);
    let servers = dhcp::servers(config, switch).into_iter();
    interfaces.served = servers.map(|server| server.interface).collect();
    for listed in switch_ports(config, switch) {
        if gateways && listed.role != Role::Vm {
            interfaces.routed.insert(listed.port.name.clone());
        }
        if matches!(listed.role, Role::Vm | Role::Device) {
            interfaces.members.insert(listed.port.name);
        }
    }
    let members = listed.iter().filter(|link| link.master.is_some());
    let members = members.filter(|link| link.master == device.map(|device| device.index));
    interfaces
        .members
        .extend(members.map(|link| link.name.clone()));
    interfaces
}

/// Ports that no network manager should touch: all but uplinks, which keep the host's addresses.
fn unmanaged(config: &Config, switch: &str) -> BTreeSet<String> {
    let ports = switch_ports(config, switch).into_iter();
    ports
        .filter(|listed| matches!(listed.role, Role::Vm | Role::Gateway))
        .map(|listed| listed.port.name)
        .collect()
}

/// Whether this is the network namespace of process 1; `None` when that may not be looked at.
fn in_first_namespace() -> Option<bool> {
    let first = fs::metadata("/proc/1/ns/net").ok()?.ino();
    Some(netns::current_id().ok()?.ino == first)
}

/// What a network manager's files in `dir` say of each interface that it knows.
fn managed(dir: &Path, listed: &[Link], manages: fn(&str) -> bool) -> BTreeMap<String, bool> {
    listed
        .iter()
        .filter_map(|link| {
            let text = fs::read_to_string(dir.join(link.index.to_string())).ok()?;
            Some((link.name.clone(), manages(&text)))
        })
        .collect()
}

/// The packet filter's rules as nft prints them; `None` where there is no nft.
fn ruleset() -> Result<Option<Value>, String> {
    let ran = Command::new("nft").args(["-j", "list", "ruleset"]).output();
    let output = match ran {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(format!("running nft: {error}")),
        Ok(output) => output,
    };
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(format!(
            "nft: {}",
            said.lines().next().unwrap_or("it failed")
        ));
    }
    serde_json::from_slice(&output.stdout)
        .map(Some)
        .map_err(|error| format!("reading what nft printed: {error}"))
}

/// A chain that hangs at a hook.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Chain {
    family: String,
    table: String,
    name: String,
}

impl Chain {
    fn of(object: &Value, name: &str) -> Option<Self> {
        let text = |key: &str| object[key].as_str().map(str::to_owned);
        Some(Self {
            family: text("family")?,
            table: text("table")?,
            name: text(name)?,
        })
    }
}

impl std::fmt::Display for Chain {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {} {}", self.family, self.table, self.name)
    }
}

/// Rules that look as if they filtered the switch's frames, and do not: vnet redirects before the
/// packet filter's hooks.
#[must_use]
pub fn judge_rules(scope: &Scope, ruleset: &Value, interfaces: &Interfaces) -> Vec<Check> {
    let objects = ruleset["nftables"]
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default();
    let hooks: BTreeMap<Chain, &Value> = objects
        .iter()
        .filter_map(|object| Some((Chain::of(&object["chain"], "name")?, &object["chain"])))
        .collect();
    let rules: Vec<(Chain, &Value)> = objects
        .iter()
        .filter_map(|object| {
            Some((
                Chain::of(&object["rule"], "chain")?,
                &object["rule"]["expr"],
            ))
        })
        .collect();
    let (mut bridged, mut ingress, mut routed) =
        (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    let mut lets_in = BTreeSet::new();
    for (chain, expression) in &rules {
        let names = interface_names(expression);
        let served = interfaces.served.iter();
        lets_in.extend(served.filter(|port| names_any(&names, &BTreeSet::from([(*port).clone()]))));
        match chain.family.as_str() {
            // A rule without interfaces is for every bridge.
            "bridge" if names.is_empty() || names_any(&names, &interfaces.members) => {
                bridged.insert(chain.to_string());
            }
            "ip" | "ip6" | "inet"
                if names_any(&names, &interfaces.routed) && !is_host_only(hooks.get(chain)) =>
            {
                routed.insert(chain.to_string());
            }
            "netdev" if is_ingress(hooks.get(chain), &interfaces.members) => {
                ingress.insert(chain.to_string());
            }
            _ => {}
        }
    }
    let mend = "have vnet do it: networks, --mac, mac deny; or the VMs' own firewalls";
    let judge = |what: &str, found: BTreeSet<String>, mend: &str| {
        if found.is_empty() {
            return scope.pass(what);
        }
        let found: Vec<String> = found.into_iter().collect();
        scope.warn(what, mend).detail(format_args!(
            "{}: frames that vnet forwards do not pass",
            found.join(", ")
        ))
    };
    let shut = hooks.iter().filter(|(_, chain)| {
        let is_input = chain["hook"] == "input" && chain["policy"] == "drop";
        is_input && chain["family"] != "bridge"
    });
    let shut: Vec<String> = shut.map(|(chain, _)| chain.to_string()).collect();
    let unheard: Vec<&str> = interfaces
        .served
        .iter()
        .filter(|port| !shut.is_empty() && !lets_in.contains(port))
        .map(String::as_str)
        .collect();
    let what = "nft rules that let DHCP and DNS in";
    let dhcp = if unheard.is_empty() {
        scope.pass(what)
    } else {
        let mend = format!(
            "iifname {{ {} }} udp dport {{ 53, 67, 547 }} accept, TCP port 53 and ICMPv6",
            unheard.join(", ")
        );
        scope.warn(what, mend).detail(format_args!(
            "{} drops what no rule takes, and no rule names {}",
            shut.join(", "),
            unheard.join(", ")
        ))
    };
    vec![
        dhcp,
        judge("nft rules for bridges", bridged, mend),
        judge("nft rules at ingress of members", ingress, mend),
        judge(
            "nft rules that name uplinks or gateway ports",
            routed,
            "have vnet translate (vnet-user nat add) and the VMs' own firewalls filter",
        ),
    ]
}

/// Whether a chain sees the host's own traffic alone, which passes it as ever. A chain without a hook
/// may be jumped to from anywhere.
fn is_host_only(chain: Option<&&Value>) -> bool {
    let hook = chain.and_then(|chain| chain["hook"].as_str());
    matches!(hook, Some("input" | "output"))
}

/// Whether a netdev chain hangs at a member's ingress. Older nft leave the device out.
fn is_ingress(chain: Option<&&Value>, members: &BTreeSet<String>) -> bool {
    let Some(chain) = chain.filter(|chain| chain["hook"] == "ingress") else {
        return false;
    };
    match &chain["dev"] {
        Value::String(device) => members.contains(device),
        Value::Array(devices) => devices
            .iter()
            .filter_map(Value::as_str)
            .any(|device| members.contains(device)),
        _ => !members.is_empty(),
    }
}

/// Interfaces that a rule compares with, `*` at the end for any that begin so.
fn interface_names(expression: &Value) -> Vec<String> {
    let keys = ["iifname", "oifname", "iif", "oif", "ibrname", "obrname"];
    let mut names = Vec::new();
    for matching in expression
        .as_array()
        .into_iter()
        .flatten()
        .map(|e| &e["match"])
    {
        let key = matching["left"]["meta"]["key"].as_str().unwrap_or_default();
        if !keys.contains(&key) {
            continue;
        }
        match &matching["right"] {
            Value::String(name) => names.push(name.clone()),
            other => names.extend(
                other["set"]
                    .as_array()
                    .into_iter()
                    .flatten()
                    .filter_map(|name| name.as_str().map(str::to_owned)),
            ),
        }
    }
    names
}

fn names_any(names: &[String], interfaces: &BTreeSet<String>) -> bool {
    names.iter().any(|name| match name.strip_suffix('*') {
        Some(beginning) => interfaces.iter().any(|known| known.starts_with(beginning)),
        None => interfaces.contains(name),
    })
}

/// A link file of systemd-networkd (sd-network, sd_network_link_get_setup_state).
fn networkd_manages(text: &str) -> bool {
    let state = text
        .lines()
        .find_map(|line| line.strip_prefix("ADMIN_STATE="));
    !matches!(state, None | Some("unmanaged" | "initialized" | "pending"))
}

/// A device file of NetworkManager: a key file with `managed` in the section `device`.
fn network_manager_manages(text: &str) -> bool {
    text.lines()
        .any(|line| matches!(line.trim(), "managed=true" | "managed=1"))
}

/// Whether a network manager configures ports that are vnet's; `managed` says so of each interface
/// that it knows, and is `None` when its files may be about others.
#[must_use]
pub fn judge_manager(
    scope: &Scope,
    software: &str,
    managed: Option<&BTreeMap<String, bool>>,
    ports: &BTreeSet<String>,
) -> Check {
    let what = format!("{software} on ports");
    let Some(managed) = managed else {
        return scope
            .warn(what, AS_ROOT)
            .detail("not looked at: whose network namespace this is may not be known");
    };
    let found: Vec<&str> = ports
        .iter()
        .filter(|name| managed.get(*name) == Some(&true))
        .map(String::as_str)
        .collect();
    let Some(first) = found.first() else {
        return scope.pass(what);
    };
    let mend = if software == "NetworkManager" {
        format!("nmcli device set {first} managed no, or unmanaged-devices= in its configuration")
    } else {
        format!("a .network file with [Match] Name={first} and [Link] Unmanaged=yes")
    };
    scope
        .warn(what, mend)
        .detail(format_args!("it configures {}", found.join(", ")))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::Verdict::{self, Pass, Warn};
    use super::super::ports::tests::link;
    use super::*;

    fn names(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    fn ours() -> Interfaces {
        Interfaces {
            members: names(&["vsw0", "tap0"]),
            routed: names(&["eth0", "vsw0.lan"]),
            served: BTreeSet::new(),
        }
    }

    fn chain(family: &str, hook: Option<&str>, device: Option<&str>) -> Value {
        let mut chain = json!({"family": family, "table": "t", "name": "c"});
        if let Some(hook) = hook {
            chain["hook"] = hook.into();
        }
        if let Some(device) = device {
            chain["dev"] = device.into();
        }
        json!({ "chain": chain })
    }

    /// A rule in that chain which compares the incoming interface's name.
    fn rule(family: &str, right: Option<Value>) -> Value {
        let expr = match right {
            Some(right) => json!([
                {"match": {"op": "==", "left": {"meta": {"key": "iifname"}}, "right": right}},
                {"drop": null}
            ]),
            None => json!([{"drop": null}]),
        };
        json!({"rule": {"family": family, "table": "t", "chain": "c", "expr": expr}})
    }

    /// What is made of bridge rules, of ingress rules, and of rules for uplinks.
    fn verdicts(objects: &[Value]) -> [Verdict; 3] {
        let checks = judge_rules(&Scope::new("x"), &json!({"nftables": objects}), &ours());
        assert_eq!(checks.len(), 4);
        [1, 2, 3].map(|index| checks[index].result)
    }

    #[test]
    fn rules_that_shut_dhcp_out() {
        let with = |served: &[&str], policy: &str, name: Option<&str>| {
            let mut input = chain("inet", Some("input"), None);
            input["chain"]["policy"] = policy.into();
            let mut objects = vec![input];
            objects.extend(name.map(|name| rule("inet", Some(name.into()))));
            let ours = Interfaces {
                served: names(served),
                ..ours()
            };
            judge_rules(&Scope::new("x"), &json!({"nftables": objects}), &ours)[0].clone()
        };
        let warned = with(&["vsw0.lan"], "drop", None);
        assert_eq!(warned.result, Warn);
        assert!(warned.mend.unwrap().contains("iifname { vsw0.lan }"));
        assert_eq!(with(&["vsw0.lan"], "drop", Some("eth0")).result, Warn);
        assert_eq!(with(&["vsw0.lan"], "drop", Some("vsw0.*")).result, Pass);
        assert_eq!(with(&["vsw0.lan"], "accept", None).result, Pass);
        assert_eq!(with(&[], "drop", None).result, Pass, "nothing is served");
    }

    #[test]
    fn no_rules() {
        assert_eq!(verdicts(&[]), [Pass; 3]);
        assert_eq!(
            verdicts(&[chain("bridge", Some("forward"), None)]),
            [Pass; 3],
            "no rule in it"
        );
    }

    #[test]
    fn rules_for_bridges() {
        let with = |right| {
            let objects = [
                chain("bridge", Some("forward"), None),
                rule("bridge", right),
            ];
            verdicts(&objects)[0]
        };
        assert_eq!(with(None), Warn);
        assert_eq!(with(Some("tap0".into())), Warn);
        assert_eq!(with(Some("tap*".into())), Warn);
        assert_eq!(with(Some(json!({"set": ["br7", "tap0"]}))), Warn);
        assert_eq!(with(Some("br7".into())), Pass);
    }

    #[test]
    fn rules_at_ingress() {
        let with = |hook, device| {
            verdicts(&[chain("netdev", Some(hook), device), rule("netdev", None)])[1]
        };
        assert_eq!(with("ingress", Some("tap0")), Warn);
        assert_eq!(with("ingress", None), Warn, "it may be a member's");
        assert_eq!(with("ingress", Some("eth7")), Pass);
        assert_eq!(
            with("egress", Some("tap0")),
            Pass,
            "redirected frames pass that"
        );
    }

    #[test]
    fn rules_for_uplinks() {
        let with = |hook, name: &str| {
            verdicts(&[chain("inet", hook, None), rule("inet", Some(name.into()))])[2]
        };
        assert_eq!(with(Some("forward"), "eth0"), Warn);
        assert_eq!(with(Some("postrouting"), "vsw0.lan"), Warn);
        assert_eq!(with(None, "eth0"), Warn, "another chain may jump there");
        assert_eq!(
            with(Some("input"), "eth0"),
            Pass,
            "the host's own traffic passes it"
        );
        assert_eq!(with(Some("forward"), "docker0"), Pass);
    }

    #[test]
    fn managers_files() {
        assert!(networkd_manages(
            "# private\nADMIN_STATE=configured\nOPER_STATE=routable\n"
        ));
        assert!(networkd_manages("ADMIN_STATE=configuring\n"));
        assert!(!networkd_manages("ADMIN_STATE=unmanaged\n"));
        assert!(!networkd_manages(""));
        assert!(network_manager_manages("[device]\nmanaged=true\n"));
        assert!(!network_manager_manages("[device]\nmanaged=false\n"));
        assert!(!network_manager_manages(
            "[device]\nroute-metric-default=100\n"
        ));
    }

    #[test]
    fn managers() {
        let ports = names(&["tap0"]);
        let verdict = |managed: Option<&BTreeMap<String, bool>>| {
            judge_manager(&Scope::new("x"), "NetworkManager", managed, &ports).result
        };
        let of = |tap0| BTreeMap::from([("tap0".to_owned(), tap0), ("eth0".to_owned(), true)]);
        assert_eq!(verdict(Some(&of(true))), Warn);
        let host = verdict(Some(&of(false)));
        assert_eq!(host, Pass, "an uplink's manager is the host's business");
        assert_eq!(verdict(None), Warn);
    }

    #[test]
    fn managers_files_go_by_index() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("3"), "ADMIN_STATE=configured\n").unwrap();
        let listed = [link("tap0", 3), link("tap1", 4)];
        let found = managed(dir.path(), &listed, networkd_manages);
        assert_eq!(found, BTreeMap::from([("tap0".to_owned(), true)]));
    }
}
