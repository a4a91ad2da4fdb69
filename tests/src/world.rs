//! What the host knows besides the switch: addresses, routes, neighbours, sockets.
//!
//! A fixture says it in the words of `ip`, a line each, which the kernel machine hands to that very
//! command; [`Routing`] is what the pure machine makes of them.
//!
//! ```text
//! address add 203.0.113.1/24 dev eth0
//! route add default via 203.0.113.254 dev eth0
//! neigh add 203.0.113.254 lladdr 02:00:00:00:00:fe dev eth0
//! socket add udp 203.0.113.1:5000
//! ```

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
};

use anyhow::{Context as _, Result, bail, ensure};
use ipnet::IpNet;
use vnet_common::{Addr, FlowKey, Mac, flow::mapped};
use vnet_ebpf::gateway::{HostSocket, Route, RouteKind};
use vnet_user::config::MacAddr;

use crate::{machine::begins_alike, setup::Devices};

/// An address as the datapath has it.
#[must_use]
pub fn addr(ip: IpAddr) -> Addr {
    match ip {
        IpAddr::V4(v4) => mapped(v4.octets()),
        IpAddr::V6(v6) => v6.octets(),
    }
}

/// Bits of a prefix, of 128.
fn bits(net: &IpNet) -> u32 {
    let len = u32::from(net.prefix_len());
    if net.addr().is_ipv4() { 96 + len } else { len }
}

/// One thing that the host knows, by the interface's name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fact {
    /// An address of an interface.
    Address(IpNet, String),
    /// A route, over a next hop or to the very link.
    Route(IpNet, Option<IpAddr>, String),
    /// A neighbour's MAC address.
    Neighbour(IpAddr, Mac, String),
    /// A socket that takes what comes to an address and port; TCP ones listen.
    Socket(u8, SocketAddr),
    /// A UDP socket that is connected to a remote end.
    Connected(SocketAddr, SocketAddr),
}

/// A line of a fixture: something is so, or no longer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// It begins to be so.
    pub add: bool,
    /// What.
    pub fact: Fact,
}

/// Reads lines.
///
/// # Errors
/// One is not spelled so.
pub fn parse(text: &str) -> Result<Vec<Line>> {
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    lines
        .map(|line| parse_line(line).with_context(|| format!("reading {line:?}")))
        .collect()
}

fn parse_line(line: &str) -> Result<Line> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let (object, verb, rest) = match words.as_slice() {
        [object, verb, rest @ ..] => (*object, *verb, rest),
        _ => bail!("it has no object and verb"),
    };
    let fact = match (object, rest) {
        ("address", [net, "dev", dev]) => Fact::Address(net.parse()?, (*dev).to_owned()),
        ("route", [net, "via", via, "dev", dev]) => {
            let via: IpAddr = via.parse()?;
            let net = match (*net, via) {
                ("default", IpAddr::V4(_)) => "0.0.0.0/0",
                ("default", IpAddr::V6(_)) => "::/0",
                (net, _) => net,
            };
            Fact::Route(net.parse()?, Some(via), (*dev).to_owned())
        }
        ("route", [net, "dev", dev]) => Fact::Route(net.parse()?, None, (*dev).to_owned()),
        ("neigh", [ip, "lladdr", mac, "dev", dev]) => {
            let mac: MacAddr = mac.parse().map_err(anyhow::Error::msg)?;
            Fact::Neighbour(ip.parse()?, mac.octets(), (*dev).to_owned())
        }
        ("socket", ["udp", at]) => Fact::Socket(17, at.parse()?),
        ("socket", ["udp", at, "to", to]) => Fact::Connected(at.parse()?, to.parse()?),
        ("socket", ["tcp", at]) => Fact::Socket(6, at.parse()?),
        _ => bail!("nothing is said so"),
    };
    ensure!(matches!(verb, "add" | "del"), "it is neither add nor del");
    Ok(Line {
        add: verb == "add",
        fact,
    })
}

/// The host's routing, by interface index.
#[derive(Clone, Debug, Default)]
pub struct Routing {
    names: BTreeMap<String, u32>,
    facts: Vec<Fact>,
    /// Interfaces that the host forwards from.
    forwarding: BTreeSet<u32>,
}

impl Routing {
    /// That of a host with these interfaces, which forwards from those of them that are gateways.
    #[must_use]
    pub fn new(devices: &Devices, gateways: &[String], facts: Vec<Fact>) -> Self {
        let names: BTreeMap<String, u32> = devices
            .iter()
            .map(|(name, device)| (name.clone(), device.ifindex))
            .collect();
        let forwarding = gateways.iter().filter_map(|name| names.get(name).copied());
        Self {
            forwarding: forwarding.collect(),
            names,
            facts,
        }
    }

    /// All that is known.
    #[must_use]
    pub fn facts(&self) -> &[Fact] {
        &self.facts
    }

    /// Takes a line's word for it.
    ///
    /// # Errors
    /// What is no longer so never was.
    pub fn change(&mut self, line: &Line) -> Result<()> {
        if line.add {
            self.facts.push(line.fact.clone());
            return Ok(());
        }
        let found = self.facts.iter().position(|fact| *fact == line.fact);
        let index = found.with_context(|| format!("{:?} was never so", line.fact))?;
        self.facts.remove(index);
        Ok(())
    }

    /// Addresses of interfaces.
    pub fn addresses(&self) -> impl Iterator<Item = (u32, IpNet)> {
        self.facts.iter().filter_map(|fact| match fact {
            Fact::Address(net, dev) => Some((*self.names.get(dev)?, *net)),
            _ => None,
        })
    }

    /// Which socket takes a packet.
    #[must_use]
    pub fn socket(&self, key: &FlowKey) -> HostSocket {
        let is = |at: &SocketAddr, ip: &Addr, port| addr(at.ip()) == *ip && at.port() == port;
        let mut found = HostSocket::None;
        for fact in &self.facts {
            match fact {
                Fact::Connected(at, to)
                    if key.proto == 17
                        && is(at, &key.dst, key.dport)
                        && is(to, &key.src, key.sport) =>
                {
                    return HostSocket::Connected;
                }
                Fact::Socket(proto, at) if *proto == key.proto && is(at, &key.dst, key.dport) => {
                    found = HostSocket::Open;
                }
                _ => {}
            }
        }
        found
    }

    /// What `bpf_fib_lookup` says of a packet to `dst` that comes in by `ifindex`
    /// (net/core/filter.c, bpf_ipv4_fib_lookup). `mtu_of` tells a device's MTU.
    #[must_use]
    pub fn route(&self, ifindex: u32, dst: &Addr, mtu_of: impl Fn(u32) -> u32) -> Route {
        let is_own = |(_, net): (u32, IpNet)| addr(net.addr()) == *dst;
        if !self.forwarding.contains(&ifindex) || self.addresses().any(is_own) {
            return Route::NONE;
        }
        let v4 = vnet_common::flow::is_v4(dst);
        let matching = |net: &IpNet| {
            net.addr().is_ipv4() == v4 && begins_alike(&addr(net.network()), dst, bits(net))
        };
        let routes = self.facts.iter().filter_map(|fact| {
            let (net, via, dev) = match fact {
                Fact::Address(net, dev) => (net, None, dev),
                Fact::Route(net, via, dev) => (net, *via, dev),
                _ => return None,
            };
            let out = *self.names.get(dev)?;
            matching(net).then(|| (bits(net), via.map_or(*dst, addr), out))
        });
        let Some((_, next_hop, out)) = routes.max_by_key(|(bits, _, _)| *bits) else {
            return Route::NONE;
        };
        let neighbour = self.facts.iter().find_map(|fact| match fact {
            Fact::Neighbour(ip, mac, dev)
                if addr(*ip) == next_hop && self.names.get(dev) == Some(&out) =>
            {
                Some(*mac)
            }
            _ => None,
        });
        // The address of the next hop's subnet, or else the first one (net/ipv4/devinet.c,
        // inet_select_addr).
        let own: Vec<IpNet> = self
            .addresses()
            .filter(|(index, net)| *index == out && net.addr().is_ipv4() == v4)
            .map(|(_, net)| net)
            .collect();
        let near = own
            .iter()
            .find(|net| begins_alike(&addr(net.network()), &next_hop, bits(net)));
        Route {
            kind: RouteKind::Out,
            ifindex: out,
            mtu: if neighbour.is_some() { mtu_of(out) } else { 0 },
            next_hop: neighbour.unwrap_or_default(),
            reserved: 0,
            src: near.or(own.first()).map_or([0; 16], |net| addr(net.addr())),
        }
    }
}
