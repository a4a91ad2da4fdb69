//! What the configuration says, against itself and against the host's addresses.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;

use ipnet::IpNet;

use super::{AS_ROOT, Check, Scope, unquoted};
use crate::compile::is_private;
use crate::config::{Config, MacAddr, NatAction, Network};
use crate::error::Error;
use crate::gateway::switch_ports;
use crate::host::{Link, Links, sysctl};
use crate::ports::Role;
use crate::runtime::{FdbRow, Session};

/// The scope of a document that may not be read or is wrong, and of what it says.
const SCOPE: &str = "document";

/// The host's interfaces by name.
pub type ByName<'a> = BTreeMap<&'a str, &'a Link>;

/// Reads and examines the document. The configuration is as a switch begins where there is none.
#[must_use]
pub fn examine(session: &Session, listed: &[Link], links: &Links) -> (Config, Vec<Check>) {
    let path = session.store().path();
    let hidden =
        matches!(File::open(path), Err(error) if error.kind() == io::ErrorKind::PermissionDenied);
    let loaded = session.store().load();
    let mut checks = vec![read(
        &loaded,
        &path.display().to_string(),
        hidden,
        session.is_up(),
    )];
    let Ok(config) = loaded.map(Option::unwrap_or_default) else {
        return (Config::default(), checks);
    };
    let switch = session.switch();
    let by_name: ByName<'_> = listed
        .iter()
        .map(|link| (link.name.as_str(), link))
        .collect();
    checks.extend(vlans(&config, switch));
    let fdb = session.is_up().then(|| session.fdb()).and_then(Result::ok);
    checks.push(macs(&config, switch, &by_name, &fdb.unwrap_or_default()));
    match addresses(links, listed) {
        Ok(addresses) => checks.extend(masquerade(&config, &addresses)),
        Err(error) => {
            checks.push(Scope::new(SCOPE).unknown("addresses to masquerade with", &error))
        }
    }
    checks.extend(forwarding(&config, Forwarding::read));
    (config, checks)
}

/// Whether there is a document, and it is one.
#[must_use]
pub fn read(loaded: &Result<Option<Config>, Error>, path: &str, hidden: bool, up: bool) -> Check {
    let (scope, what) = (Scope::new(SCOPE), "file");
    match loaded {
        Ok(Some(_)) => scope.pass(what).detail(path),
        Ok(None) if up => scope
            .warn(what, "put it back, or give the switch its ports again")
            .detail(format_args!(
                "{path} is gone: the next change takes everything from the switch that is not in it"
            )),
        Ok(None) => scope
            .pass(what)
            .detail(format_args!("none at {path} yet: a switch begins without")),
        Err(_) if hidden => scope
            .warn(what, AS_ROOT)
            .detail(format_args!("{path} may not be read")),
        Err(error) => scope
            .fail(what, error.mend.as_deref().unwrap_or("edit the file"))
            .detail(format_args!("{}: {}", error.doing, unquoted(&error.why))),
    }
}

/// Networks whose VLAN id leads nowhere: set on one side only.
#[must_use]
pub fn vlans(config: &Config, switch: &str) -> Vec<Check> {
    let scope = Scope::new(SCOPE);
    let ports = switch_ports(config, switch);
    let tagged_networks = config.networks.iter().filter_map(|n| Some((n, n.vlan?)));
    tagged_networks
        .map(|(network, vid)| {
            let what = format!("VLAN {vid} of the network {}", network.name);
            let mut carriers = Vec::new();
            let mut tagged = 0;
            for listed in &ports {
                let carried = config.carried(&listed.port);
                let here = carried.networks.iter().find(|c| c.network == network.name);
                if let Some(here) = here {
                    carriers.push(listed.port.name.as_str());
                    tagged += usize::from(here.vid.is_some());
                }
            }
            let name = &network.name;
            match (carriers.as_slice(), tagged) {
                ([], _) => scope
                    .warn(
                        what,
                        format!("vnet-user port set IFACE --network {name}, or --trunk"),
                    )
                    .detail("no port carries it"),
                ([only], _) => scope
                    .warn(
                        what,
                        format!("have another port carry it: --network {name}, or --trunk {name}"),
                    )
                    .detail(format_args!("{only} alone carries it")),
                (_, 0) => scope
                    .warn(
                        what,
                        format!(
                            "vnet-user port set UPLINK --trunk {name}, or leave the VLAN id out"
                        ),
                    )
                    .detail("no port carries it tagged, so it stays inside the switch"),
                (carriers, _) => scope
                    .pass(what)
                    .detail(format_args!("on {}", carriers.join(", "))),
            }
        })
        .collect()
}

/// One address in two places where it can be in one.
#[must_use]
pub fn macs(config: &Config, switch: &str, links: &ByName<'_>, fdb: &[FdbRow]) -> Check {
    let (scope, what) = (Scope::new(SCOPE), "duplicate MAC addresses");
    let ports = switch_ports(config, switch);
    let networks: Vec<BTreeSet<String>> = ports
        .iter()
        .map(|listed| {
            let carried = config.carried(&listed.port).networks.into_iter();
            carried.map(|carried| carried.network).collect()
        })
        .collect();
    let share = |a: usize, b: usize| !networks[a].is_disjoint(&networks[b]);
    let link = |index: usize| links.get(ports[index].port.name.as_str());
    let device = links.get(switch).map(|device| device.index);
    // The host is reached by its address on these. A member NIC's is the switch device's by nature.
    let host_side = |index: usize| {
        let link = link(index)?;
        let is_member = link.master.is_some() && link.master == device;
        (ports[index].role != Role::Vm && !is_member).then_some(link.mac)
    };
    let name = |index: usize| ports[index].port.name.as_str();
    let listed = |index: usize, mac: MacAddr| ports[index].port.macs.contains(&mac);

    let (mut wrong, mut odd) = (Vec::new(), Vec::new());
    for first in 0..ports.len() {
        let own = host_side(first);
        for second in 0..ports.len() {
            if first == second || !share(first, second) {
                continue;
            }
            let (a, b) = (name(first), name(second));
            if let Some(mac) = own {
                let mac = MacAddr(mac);
                if first < second && host_side(second) == own {
                    wrong.push(format!("{mac} is {a}'s and {b}'s"));
                }
                if ports[second].role == Role::Vm && listed(second, mac) {
                    wrong.push(format!("{mac} is the host's on {a}, and allowed on {b}"));
                }
            }
            for mac in &ports[first].port.macs {
                if first < second && listed(second, *mac) {
                    odd.push(format!("{mac} is allowed on {a} and on {b}"));
                }
                let here = |row: &&FdbRow| row.mac == *mac && row.port == b;
                let elsewhere = fdb.iter().find(here).filter(|row| row.kind == "learned");
                if let Some(row) = elsewhere.filter(|_| !listed(second, *mac)) {
                    odd.push(format!(
                        "{mac} is {a}'s, and was learned on {b} in {}",
                        row.network
                    ));
                }
            }
        }
    }
    for entry in &config.static_fdb {
        let claim = |index: &usize| {
            listed(*index, entry.mac)
                && name(*index) != entry.port
                && networks[*index].contains(&entry.network)
        };
        if let Some(index) = (0..ports.len()).find(claim) {
            let (mac, port) = (entry.mac, &entry.port);
            wrong.push(format!(
                "{mac} is static at {port}, and allowed on {}",
                name(index)
            ));
        }
    }
    let mend = "give one of them another address; vnet-user port show IFACE lists what is allowed";
    if !wrong.is_empty() {
        wrong.append(&mut odd);
        scope.fail(what, mend).detail(wrong.join("; "))
    } else if !odd.is_empty() {
        scope.warn(what, mend).detail(odd.join("; "))
    } else {
        scope.pass(what)
    }
}

/// The addresses of each interface that are valid beyond it.
fn addresses(links: &Links, listed: &[Link]) -> Result<BTreeMap<String, Vec<IpNet>>, Error> {
    let names: BTreeMap<u32, &str> = listed.iter().map(|l| (l.index, l.name.as_str())).collect();
    let mut found: BTreeMap<String, Vec<IpNet>> = BTreeMap::new();
    for address in links.addresses()? {
        if let Some(name) = names.get(&address.ifindex).filter(|_| address.global) {
            found.entry((*name).into()).or_default().push(address.net);
        }
    }
    Ok(found)
}

/// Rules that give an uplink's own address, of uplinks that have none.
#[must_use]
pub fn masquerade(config: &Config, addresses: &BTreeMap<String, Vec<IpNet>>) -> Vec<Check> {
    let scope = Scope::new(SCOPE);
    let rules = config.nat.iter().filter_map(|rule| match &rule.action {
        NatAction::Masquerade {
            network, uplink, ..
        } => Some((rule.id, config.network(network)?, uplink)),
        _ => None,
    });
    rules
        .map(|(id, network, uplink)| {
            let what = format!("address of {uplink} for masquerade rule {id}");
            let has = |v4: bool| {
                let mut nets = addresses.get(uplink).into_iter().flatten();
                nets.any(|net| net.addr().is_ipv4() == v4)
            };
            let families = [(true, "IPv4"), (false, "IPv6")];
            let wanted = families.iter().filter(|(v4, _)| routes(&network, *v4));
            let (there, lacking): (Vec<_>, Vec<_>) = wanted.partition(|(v4, _)| has(*v4));
            let names: Vec<&str> = lacking.iter().map(|(_, name)| *name).collect();
            let mend = format!("ip address add ADDRESS dev {uplink}, or DHCP on it");
            let none = format!(
                "no {} address: what needs one is dropped",
                names.join(" or ")
            );
            if lacking.is_empty() {
                scope.pass(what)
            } else if there.is_empty() {
                scope.fail(what, mend).detail(none)
            } else {
                scope.warn(what, mend).detail(none)
            }
        })
        .collect()
}

/// Whether a network has a gateway of this family.
fn routes(network: &Network, v4: bool) -> bool {
    network.gateway.iter().any(|net| net.addr().is_ipv4() == v4)
}

/// Whether the host routes what comes in by an interface.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Forwarding {
    /// IPv4.
    pub v4: bool,
    /// IPv6.
    pub v6: bool,
}

impl Forwarding {
    fn read(interface: &str) -> Self {
        let on = |path: anyhow::Result<std::path::PathBuf>| {
            let value = path.and_then(|path| sysctl::read_if_present(&path));
            value.ok().flatten().is_some_and(|value| value != "0")
        };
        Self {
            v4: on(sysctl::ipv4_conf(interface, "forwarding")),
            v6: on(sysctl::ipv6_conf(interface, "forwarding")),
        }
    }
}

/// Uplinks whose incoming packets the host routes to private networks, past the translation.
#[must_use]
pub fn forwarding(config: &Config, of: impl Fn(&str) -> Forwarding) -> Vec<Check> {
    let scope = Scope::new(SCOPE);
    let private = |v4: bool| {
        let networks = config.networks.iter();
        let nets = networks.flat_map(|network| &network.gateway);
        let mut nets = nets.filter(|net| net.addr().is_ipv4() == v4);
        nets.any(is_private)
    };
    let (v4, v6) = (private(true), private(false));
    if !v4 && !v6 {
        return Vec::new();
    }
    let uplinks = config.ports.iter().filter(|port| port.uplink);
    uplinks
        .map(|uplink| {
            let name = &uplink.name;
            let what = format!("the host's forwarding from {name} to private networks");
            let on = of(name);
            let open: Vec<&str> = [(v4 && on.v4, "ipv4"), (v6 && on.v6, "ipv6")]
                .iter()
                .filter_map(|(open, family)| open.then_some(*family))
                .collect();
            let Some(family) = open.first() else {
                return scope.pass(what);
            };
            scope
                .warn(
                    what,
                    format!(
                        "sysctl net.{family}.conf.{}.forwarding=0, or have the host's firewall drop \
                         what comes in by it for the private prefixes",
                        name.replace('.', "/")
                    ),
                )
                .detail(format_args!(
                    "on for {}: a neighbour with a route by this host gets packets in untranslated",
                    open.join(" and ")
                ))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::Verdict::{self, Fail, Pass, Warn};
    use super::*;
    use crate::config::{Attachment, NatOptions, NatRule, Port, StaticFdb};
    use crate::doctor::ports::tests::link;

    fn network(name: &str, vlan: Option<u16>, gateway: &[&str]) -> Network {
        Network {
            vlan,
            gateway: gateway.iter().map(|net| net.parse().unwrap()).collect(),
            ..Network::new(name)
        }
    }

    fn config(networks: Vec<Network>, ports: Vec<Port>) -> Config {
        Config {
            networks,
            ports,
            ..Config::default()
        }
    }

    fn uplink(name: &str) -> Port {
        Port {
            uplink: true,
            ..Port::new(name)
        }
    }

    fn on(name: &str, network: &str) -> Port {
        Port {
            attachment: Attachment::Access(network.into()),
            ..Port::new(name)
        }
    }

    #[test]
    fn files() {
        let verdict = |loaded: Result<Option<Config>, Error>, hidden, up| {
            read(&loaded, "/etc/vnet/vsw0.toml", hidden, up).result
        };
        assert_eq!(verdict(Ok(Some(Config::default())), false, true), Pass);
        assert_eq!(verdict(Ok(None), false, false), Pass);
        assert_eq!(verdict(Ok(None), false, true), Warn);
        let error = || Err(Error::new("reading", "it is no TOML"));
        assert_eq!(verdict(error(), true, false), Warn);
        assert_eq!(verdict(error(), false, false), Fail);
    }

    fn vlan(ports: Vec<Port>) -> (Verdict, String) {
        let config = config(vec![network("blue", Some(10), &[])], ports);
        let check = vlans(&config, "vsw0").remove(0);
        (check.result, check.detail.unwrap_or_default())
    }

    #[test]
    fn vlan_ids_that_lead_nowhere() {
        assert_eq!(vlan(vec![]), (Warn, "no port carries it".into()));
        let (result, detail) = vlan(vec![uplink("eth0")]);
        assert_eq!((result, detail.as_str()), (Warn, "eth0 alone carries it"));
        let (result, detail) = vlan(vec![on("a", "blue"), on("b", "blue")]);
        assert!(result == Warn && detail.contains("tagged"), "{detail}");
        let (result, detail) = vlan(vec![uplink("eth0"), on("a", "blue")]);
        assert_eq!((result, detail.as_str()), (Pass, "on eth0, a"));
        assert!(vlans(&Config::default(), "vsw0").is_empty());
    }

    const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];

    fn allowing(name: &str) -> Port {
        Port {
            macs: vec![MacAddr(MAC)],
            ..Port::new(name)
        }
    }

    fn duplicates(config: &Config, links: &[Link], fdb: &[FdbRow]) -> (Verdict, String) {
        let links = links
            .iter()
            .map(|link| (link.name.as_str(), link))
            .collect();
        let check = macs(config, "vsw0", &links, fdb);
        (check.result, check.detail.unwrap_or_default())
    }

    fn learned(port: &str) -> FdbRow {
        FdbRow {
            mac: MacAddr(MAC),
            network: "default".into(),
            port: port.into(),
            kind: "learned",
            age_s: Some(1),
        }
    }

    #[test]
    fn addresses_that_are_allowed_twice() {
        let twice = config(vec![], vec![allowing("a"), allowing("b")]);
        let (result, detail) = duplicates(&twice, &[], &[]);
        assert_eq!(result, Warn);
        assert_eq!(detail, "02:00:00:00:00:01 is allowed on a and on b");
        let mut apart = twice;
        apart.networks.push(network("blue", None, &[]));
        apart.ports[1].attachment = Attachment::Access("blue".into());
        assert_eq!(duplicates(&apart, &[], &[]).0, Pass);
    }

    #[test]
    fn addresses_that_are_elsewhere() {
        let config = config(vec![], vec![allowing("a"), Port::new("b")]);
        assert_eq!(duplicates(&config, &[], &[learned("a")]).0, Pass);
        let (result, detail) = duplicates(&config, &[], &[learned("b")]);
        assert!(
            result == Warn && detail.contains("learned on b"),
            "{detail}"
        );
        let mut config = config;
        config.static_fdb.push(StaticFdb {
            mac: MacAddr(MAC),
            network: "default".into(),
            port: "b".into(),
        });
        assert_eq!(duplicates(&config, &[], &[]).0, Fail);
    }

    #[test]
    fn addresses_of_the_host() {
        let wires = config(vec![], vec![uplink("eth0"), uplink("eth1")]);
        let links = [link("vsw0", 1), link("eth0", 2), link("eth1", 3)];
        assert_eq!(duplicates(&wires, &links, &[]).0, Pass);
        let mut same = links.clone();
        same[2].mac = same[1].mac;
        let (result, detail) = duplicates(&wires, &same, &[]);
        assert!(
            result == Fail && detail.contains("eth0's and eth1's"),
            "{detail}"
        );
        // A member NIC and the bridge, as Proxmox has it.
        let mut bridge = links.clone();
        bridge[1].mac = bridge[0].mac;
        bridge[1].master = Some(1);
        assert_eq!(duplicates(&wires, &bridge, &[]).0, Pass);
        let mut claimed = links;
        claimed[0].mac = MAC;
        let (result, detail) = duplicates(&config(vec![], vec![allowing("a")]), &claimed, &[]);
        assert!(
            result == Fail && detail.contains("the host's on vsw0"),
            "{detail}"
        );
    }

    #[test]
    fn uplinks_without_an_address() {
        let mut config = config(
            vec![network("lan", None, &["10.0.0.1/24", "fd00::1/64"])],
            vec![uplink("eth0")],
        );
        config.nat.push(NatRule {
            id: 1,
            action: NatAction::Masquerade {
                network: "lan".into(),
                uplink: "eth0".into(),
                options: NatOptions::default(),
            },
        });
        let verdict = |addresses: &[&str]| {
            let nets = addresses.iter().map(|net| net.parse().unwrap()).collect();
            masquerade(&config, &BTreeMap::from([("eth0".into(), nets)]))[0].result
        };
        assert_eq!(verdict(&["192.0.2.1/24", "2001:db8::1/64"]), Pass);
        assert_eq!(verdict(&["192.0.2.1/24"]), Warn);
        assert_eq!(verdict(&[]), Fail);
    }

    #[test]
    fn hosts_that_forward() {
        let lan = config(
            vec![network("lan", None, &["10.0.0.1/24"])],
            vec![uplink("eth0")],
        );
        let verdict = |config: &Config, v4, v6| {
            let checks = forwarding(config, |_| Forwarding { v4, v6 });
            checks.first().map(|check| check.result)
        };
        assert_eq!(verdict(&lan, false, false), Some(Pass));
        assert_eq!(verdict(&lan, true, false), Some(Warn));
        assert_eq!(verdict(&lan, false, true), Some(Pass), "it has no IPv6");
        let public = config(
            vec![network("dmz", None, &["192.0.2.1/24"])],
            vec![uplink("eth0")],
        );
        assert_eq!(verdict(&public, true, true), None);
    }
}
