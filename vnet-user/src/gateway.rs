//! Gateway ports: where the host is in a network that has gateway addresses.
//!
//! The network `default` has the switch device for it; every other network gets an interface of its
//! own, one end of a veth pair whose other end does nothing but be up. A bridge without members would
//! do without one, but has no carrier once its address was set (net/bridge/br_stp_if.c,
//! br_stp_change_bridge_id), and IPv6 joins no group without a carrier: nobody would resolve the
//! gateway's addresses.

use std::{collections::BTreeSet, fs};

use anyhow::{Context as _, Result};
use ipnet::IpNet;
use vnet_common::Mac;

use crate::compile::fnv1a;
use crate::config::{Attachment, Config, DEFAULT_NETWORK, Network, Port};
use crate::error::Error;
use crate::host::{Address, Link, LinkKind, Links, sysctl};
use crate::ports::Role;
use crate::runtime::Session;
use crate::state::{GatewayRun, RunState};

/// Longest name of an interface, in bytes (IFNAMSIZ without the final zero).
const IFACE_NAME_MAX: usize = 15;

/// MTU of the gateway port of a network that does not say otherwise.
const DEFAULT_MTU: u32 = 1500;

/// A port of a switch, listed in the document or following from it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SwitchPort {
    /// The port; of a gateway port, what a document that listed it would say.
    pub port: Port,
    /// What it is to the host.
    pub role: Role,
    /// The network whose gateway addresses it holds.
    pub gateway: Option<Network>,
}

/// Every port of a switch: the switch device, the document's in its order, the gateway ports.
#[must_use]
pub fn switch_ports(config: &Config, switch: &str) -> Vec<SwitchPort> {
    let networks = || {
        config
            .network_names()
            .filter_map(|name| config.network(name))
            .filter(|network| !network.gateway.is_empty())
    };
    let listed = config.all_ports(switch).into_iter().map(|port| SwitchPort {
        role: if port.name == switch {
            Role::Device
        } else if port.uplink {
            Role::Uplink
        } else {
            Role::Vm
        },
        gateway: networks().find(|network| {
            port.name == switch && interface(config, switch, &network.name) == switch
        }),
        port,
    });
    let made = networks().filter_map(|network| {
        let name = interface(config, switch, &network.name);
        (name != switch).then(|| SwitchPort {
            port: Port {
                attachment: Attachment::Access(network.name.clone()),
                max_macs: Some(0),
                ..Port::new(name)
            },
            role: Role::Gateway,
            gateway: Some(network),
        })
    });
    listed.chain(made).collect()
}

/// The name of the interface that holds a network's gateway addresses.
fn interface(config: &Config, switch: &str, network: &str) -> String {
    let device = config.all_ports(switch).into_iter().next();
    let on_device = network == DEFAULT_NETWORK
        && device.is_some_and(|device| config.carried(&device).native() == Some(network));
    if on_device {
        return switch.to_owned();
    }
    let name = format!("{switch}.{network}");
    shortened(name)
}

/// The names of the interfaces that vnet makes for gateway ports.
#[must_use]
pub fn interfaces(config: &Config, switch: &str) -> BTreeSet<String> {
    switch_ports(config, switch)
        .into_iter()
        .filter(|listed| listed.role == Role::Gateway)
        .flat_map(|listed| [peer_of(&listed.port.name), listed.port.name])
        .collect()
}

/// The name of a gateway port's other end.
fn peer_of(interface: &str) -> String {
    shortened(format!("{interface}.peer"))
}

/// A name that an interface may have: `name` itself, or else its beginning and a hash of it.
fn shortened(name: String) -> String {
    if name.len() <= IFACE_NAME_MAX {
        return name;
    }
    // Folded: FNV-1a's upper half alone hardly knows of the last letters.
    let hash = fnv1a(name.as_bytes());
    let hash = format!("{:08x}", (hash ^ (hash >> 32)) as u32);
    let mut end = IFACE_NAME_MAX - hash.len();
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}{hash}", &name[..end])
}

/// An address that stays the same from `up` to `up`, so that VMs' neighbour tables stay right, and
/// differs between hosts: from the machine's id and what it is for, locally administered.
#[must_use]
pub fn stable_mac(purpose: &str) -> Mac {
    let machine = fs::read_to_string("/etc/machine-id").unwrap_or_default();
    let hash = fnv1a(format!("{}/{purpose}", machine.trim()).as_bytes()).to_be_bytes();
    [0x02, hash[0], hash[1], hash[2], hash[3], hash[4]]
}

fn mac_of(switch: &str, network: &str) -> Mac {
    stable_mac(&format!("{switch}/{network}"))
}

/// Makes the interfaces of `config`'s gateway ports that are not there, down and without an address.
/// Each is on record before it is made.
///
/// # Errors
/// An interface of that name is somebody else's.
pub fn make_missing(
    session: &Session,
    links: &Links,
    state: &mut RunState,
    config: &Config,
) -> Result<(), Error> {
    let switch = session.switch();
    for SwitchPort {
        port,
        role,
        gateway,
    } in switch_ports(config, switch)
    {
        let (Role::Gateway, Some(network)) = (role, gateway) else {
            continue;
        };
        let doing = || format!("making the gateway port of the network {}", network.name);
        let mac = mac_of(switch, &network.name);
        let name = &port.name;
        if let Some(link) = links.by_name(name)? {
            // A hash of the machine and both names: nobody else's interface has it.
            if link.kind != LinkKind::Veth || link.mac != mac {
                return Err(Error::new(
                    doing(),
                    format_args!("there is another interface called {name}"),
                )
                .mend(format!(
                    "rename or delete that interface (ip link set {name} down name NEW)"
                )));
            }
            let run = state.gateways.entry(name.clone()).or_default();
            if run.made && run.ifindex == link.index {
                continue;
            }
            *run = GatewayRun {
                ifindex: link.index,
                made: true,
                network: network.name.clone(),
                ..GatewayRun::default()
            };
        } else {
            let run = GatewayRun {
                made: true,
                network: network.name.clone(),
                ..GatewayRun::default()
            };
            state.gateways.insert(name.clone(), run);
            state.save(session.run_dir(), switch)?;
            let link = links
                .create_veth(name, Some(mac), &peer_of(name))
                .map_err(|error| Error::from(error.context(doing())))?;
            if let Some(run) = state.gateways.get_mut(name) {
                run.ifindex = link.index;
                run.network.clone_from(&network.name);
            }
        }
        state.save(session.run_dir(), switch)?;
    }
    Ok(())
}

/// Gives a gateway port's interface its network's MTU and addresses, and makes the host route there;
/// `addresses` are those that the host has.
/// What is done to an interface that vnet did not make is noted in `run` and saved before it is
/// done; such a one keeps its MTU.
pub fn configure(
    links: &Links,
    addresses: &[Address],
    link: &Link,
    network: &Network,
    run: &mut GatewayRun,
    save: &mut dyn FnMut(&GatewayRun) -> Result<()>,
) -> Result<()> {
    let name = link.name.as_str();
    run.ifindex = link.index;
    for (path, value) in sysctls(name, network, run.made)? {
        // On a kernel without IPv6 its values are not there.
        if !path.exists() {
            continue;
        }
        let before = sysctl::read(&path)?;
        if before == value {
            continue;
        }
        if !run.made && !run.sysctls.iter().any(|(known, _)| *known == path) {
            run.sysctls.push((path.clone(), before));
            save(run)?;
        }
        sysctl::set(&path, value).with_context(|| format!("setting up the gateway port {name}"))?;
    }
    if run.made {
        raise_peer(links, link)?;
    }
    let mtu = network.mtu.unwrap_or(DEFAULT_MTU);
    if run.made && link.mtu != mtu {
        links.set_mtu(link.index, mtu)?;
    }

    let stale: Vec<IpNet> = run
        .addresses
        .iter()
        .copied()
        .filter(|net| !network.gateway.contains(net))
        .collect();
    for net in stale {
        links.delete_address(link.index, net)?;
        run.addresses.retain(|known| *known != net);
        save(run)?;
    }
    let there: Vec<IpNet> = addresses
        .iter()
        .filter(|address| address.ifindex == link.index)
        .map(|address| address.net)
        .collect();
    for net in &network.gateway {
        // One that an adopted interface had is its user's, and stays.
        let ours = run.made || !there.contains(net);
        if ours && !run.addresses.contains(net) {
            run.addresses.push(*net);
            save(run)?;
        }
        if !there.contains(net) {
            links.add_address(link.index, *net)?;
        }
    }
    save(run)
}

/// Sets the other end of a gateway port up, which makes the carrier of this one, and keeps it out of
/// IP.
fn raise_peer(links: &Links, link: &Link) -> Result<()> {
    let Some(index) = link.peer_index.filter(|_| link.peer_nsid.is_none()) else {
        return Ok(());
    };
    let Some(peer) = links.by_index(index)?.filter(|peer| !peer.up) else {
        return Ok(());
    };
    let path = sysctl::ipv6_conf(&peer.name, "disable_ipv6")?;
    if path.exists() {
        sysctl::set(&path, "1")?;
    }
    links.set_up(index, true)
}

/// The options of a gateway port's interface, with their values.
///
/// Forwarding is what `bpf_fib_lookup` wants of the interface that it is asked for
/// (net/core/filter.c, bpf_ipv4_fib_lookup). The host answers ARP for an address only where it
/// holds it. Router advertisements of VMs are nothing to the host.
fn sysctls(
    name: &str,
    network: &Network,
    made: bool,
) -> Result<Vec<(std::path::PathBuf, &'static str)>> {
    let mut values = vec![
        (sysctl::ipv4_conf(name, "forwarding")?, "1"),
        (sysctl::ipv4_conf(name, "arp_ignore")?, "1"),
        (sysctl::ipv4_conf(name, "arp_announce")?, "2"),
    ];
    let has_v6 = network
        .gateway
        .iter()
        .any(|net| matches!(net, IpNet::V6(_)));
    if made {
        values.push((sysctl::ipv6_conf(name, "accept_ra")?, "0"));
        values.push((sysctl::ipv6_conf(name, "keep_addr_on_down")?, "1"));
        if has_v6 {
            values.push((sysctl::ipv6_conf(name, "disable_ipv6")?, "0"));
        }
        values.push((sysctl::ipv6_conf(name, "forwarding")?, "1"));
    } else if has_v6 {
        // The host may have its own address from an advertisement there: with forwarding, 1 would
        // stop that (net/ipv6/ndisc.c, ipv6_accept_ra).
        let path = sysctl::ipv6_conf(name, "accept_ra")?;
        if sysctl::read_if_present(&path)?.as_deref() == Some("1") {
            values.push((path, "2"));
        }
        values.push((sysctl::ipv6_conf(name, "forwarding")?, "1"));
    }
    Ok(values)
}

/// Gives a gateway port's interface back: deletes what vnet made, else takes away what vnet gave
/// it. Goes on after an error and tells the first.
pub fn release(links: &Links, switch: &str, name: &str, run: &mut GatewayRun) -> Result<()> {
    if run.made {
        let link = match run.ifindex {
            // It was on its way to being made.
            0 => links
                .by_name(name)?
                .filter(|link| link.mac == mac_of(switch, &run.network)),
            index => links.by_index(index)?,
        };
        return link.map_or(Ok(()), |link| links.delete(link.index));
    }
    let mut first = Ok(());
    let mut keep = |result: Result<()>| {
        if first.is_ok() {
            first = result;
        }
    };
    for net in std::mem::take(&mut run.addresses) {
        keep(links.delete_address(run.ifindex, net));
    }
    for (path, value) in std::mem::take(&mut run.sysctls).into_iter().rev() {
        if path.exists() {
            keep(sysctl::set(&path, &value).map(|_| ()));
        }
    }
    first
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(names: &[&str]) -> Config {
        let network = |name: &&str| Network {
            gateway: vec!["10.0.0.1/24".parse().unwrap()],
            ..Network::new(*name)
        };
        Config {
            networks: names.iter().map(network).collect(),
            ..Config::default()
        }
    }

    fn ports(config: &Config, switch: &str) -> Vec<(String, Role, Option<String>)> {
        let ports = switch_ports(config, switch).into_iter();
        ports
            .map(|listed| {
                let network = listed.gateway.map(|network| network.name);
                (listed.port.name, listed.role, network)
            })
            .collect()
    }

    #[test]
    fn every_network_with_a_gateway_has_a_port() {
        let mut config = config(&["red", "default", "blue"]);
        config.networks[2].gateway.clear();
        config.ports.push(Port::new("tap0"));
        assert_eq!(
            ports(&config, "vsw0"),
            [
                ("vsw0".into(), Role::Device, Some("default".into())),
                ("tap0".into(), Role::Vm, None),
                ("vsw0.red".into(), Role::Gateway, Some("red".into())),
            ]
        );
        let red = &switch_ports(&config, "vsw0")[2].port;
        assert_eq!(config.carried(red).to_string(), "red");
        assert_eq!(config.max_macs(red, "vsw0"), 0);
    }

    #[test]
    fn a_device_that_is_elsewhere_is_no_gateway() {
        let mut config = config(&["default", "red"]);
        config.ports.push(Port {
            attachment: Attachment::Access("red".into()),
            ..Port::new("vsw0")
        });
        assert_eq!(
            ports(&config, "vsw0"),
            [
                ("vsw0".into(), Role::Device, None),
                ("vsw0.default".into(), Role::Gateway, Some("default".into())),
                ("vsw0.red".into(), Role::Gateway, Some("red".into())),
            ]
        );
    }

    #[test]
    fn long_names_are_cut_and_stay_apart() {
        let long = ["a-very-long-name", "a-very-long-game", "exactly-10"];
        let config = config(&long);
        let names: Vec<String> = switch_ports(&config, "vsw0")
            .into_iter()
            .skip(1)
            .map(|listed| listed.port.name)
            .collect();
        assert_eq!(names[2], "vsw0.exactly-10");
        for name in &names[..2] {
            assert_eq!(name.len(), IFACE_NAME_MAX);
            assert!(name.starts_with("vsw0.a-"), "{name}");
        }
        assert_ne!(names[0], names[1]);
        for name in &names {
            let peer = peer_of(name);
            assert!(
                peer.len() <= IFACE_NAME_MAX && !names.contains(&peer),
                "{peer}"
            );
        }
    }

    #[test]
    fn many_long_names_stay_apart() {
        let names: Vec<String> = (0..4000)
            .map(|n| format!("a-tenants-network-{n}"))
            .collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let interfaces = interfaces(&config(&names), "vsw0");
        assert_eq!(interfaces.len(), 2 * names.len());
    }
}
