//! Address translation and routing in the tables: rules, and what packets find them by.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use vnet_common::{
    Addr, NO_SEGMENT, NO_SLOT, NatMatchKey, NatRule,
    flow::mapped,
    nat::{
        NAT_ADF, NAT_APDF, NAT_MATCH_HEAD_BITS, NAT_NPTV6, NAT_OWN_ADDRESS, NAT_SYMMETRIC, NatKind,
        NatMatch,
    },
    port::{PORT_GATEWAY, PORT_NATED, PORT_ROUTED},
    switch::{SWITCH_ANSWERS, SWITCH_GUARDS, SWITCH_MID_STREAM, SWITCH_ROUTES},
};

use super::{Facts, Image, Interface, Owner, fnv1a, is_outside};
use crate::config::{
    AddrRange, Config, Filtering, Mapping, NatAction, NatOptions, NatRule as Rule, PortRange,
};
use crate::gateway::SwitchPort;
use crate::ports::Role;

const TCP: u16 = 6;
const UDP: u16 = 17;

/// A gateway port.
struct Gateway {
    slot: u16,
    segment: u16,
    network: String,
    /// Its prefixes.
    nets: Vec<IpNet>,
}

/// A port whose stack leads to the outside.
struct Way {
    name: String,
    slot: u16,
    ifindex: u32,
    /// It is also a network's gateway port: only for a rule that names it.
    inside: bool,
}

struct Compiler<'a> {
    facts: &'a Facts,
    gateways: Vec<Gateway>,
    ways: Vec<Way>,
    /// Addresses that the host holds, or will.
    own: BTreeSet<u128>,
    rules: BTreeMap<u16, NatRule>,
    /// Source matches, with the rank of the rule's kind.
    sources: BTreeMap<(u32, NatMatchKey), (u8, u16)>,
    guards: BTreeMap<(u32, NatMatchKey), u32>,
    others: BTreeMap<(u32, NatMatchKey), u32>,
    /// Slots of gateway ports whose network is translated.
    translated: BTreeSet<u16>,
}

/// Whether a network's addresses are private (RFC 1918), shared (RFC 6598) or unique local (RFC 4193).
#[must_use]
pub fn is_private(net: &IpNet) -> bool {
    let private = [
        "10.0.0.0/8",
        "172.16.0.0/12",
        "192.168.0.0/16",
        "100.64.0.0/10",
        "fc00::/7",
    ];
    private
        .iter()
        .filter_map(|around| around.parse::<IpNet>().ok())
        .any(|around| around.contains(net))
}

/// Adds rules, matches and what follows from gateways to the tables.
pub(super) fn add(
    image: &mut Image,
    config: &Config,
    facts: &Facts,
    segments: &BTreeMap<String, u16>,
    slots: &BTreeMap<Owner, u16>,
    present: &[(&SwitchPort, Interface)],
) {
    let slot = |ifindex, host_side| slots.get(&Owner { ifindex, host_side }).copied();
    let mut gateways = Vec::new();
    let mut ways = Vec::new();
    for (port, interface) in present {
        if let (Some(network), Some(slot)) = (&port.gateway, slot(interface.ifindex, false)) {
            gateways.push(Gateway {
                slot,
                segment: segments.get(&network.name).copied().unwrap_or(NO_SEGMENT),
                network: network.name.clone(),
                nets: network.gateway.iter().map(IpNet::trunc).collect(),
            });
        }
        let outside = is_outside(port, interface);
        if outside || port.role == Role::Device {
            ways.extend(slot(interface.ifindex, outside).map(|slot| Way {
                name: port.port.name.clone(),
                slot,
                ifindex: interface.ifindex,
                inside: port.gateway.is_some(),
            }));
        }
    }
    let held = facts.addresses.iter().map(|address| address.net.addr());
    let to_hold = config
        .networks
        .iter()
        .flat_map(|network| network.gateway.iter().map(IpNet::addr));
    let mut compiler = Compiler {
        facts,
        gateways,
        ways,
        own: held.chain(to_hold).map(number).collect(),
        rules: BTreeMap::new(),
        sources: BTreeMap::new(),
        guards: BTreeMap::new(),
        others: BTreeMap::new(),
        translated: BTreeSet::new(),
    };
    compiler.guard_private();
    for rule in &config.nat {
        compiler.guard(&rule.action);
        compiler.rule(rule);
    }
    compiler.finish(image, config);
}

impl Compiler<'_> {
    /// Addresses that mean nothing outside do not leave as they are, with a rule or without.
    fn guard_private(&mut self) {
        for gateway in &self.gateways {
            for net in gateway.nets.iter().filter(|net| is_private(net)) {
                let key = prefix(NatMatch::Guard, 0, net);
                self.guards.insert(key, gateway.segment.into());
            }
        }
    }

    /// What must not leave as it is, whether the rule can be applied or not.
    fn guard(&mut self, action: &NatAction) {
        let source = match action {
            NatAction::Masquerade { network, .. } => {
                for gateway in self.gateways.iter().filter(|g| g.network == *network) {
                    self.translated.insert(gateway.slot);
                    for net in &gateway.nets {
                        let key = prefix(NatMatch::Guard, 0, net);
                        self.guards.insert(key, gateway.segment.into());
                    }
                }
                return;
            }
            NatAction::Snat { source, .. } => source.trunc(),
            NatAction::Static { internal, .. } => internal.trunc(),
            NatAction::Dnat { .. } => return,
        };
        for gateway in &self.gateways {
            for net in gateway.nets.iter().filter(|net| source.contains(*net)) {
                self.translated.insert(gateway.slot);
                let key = prefix(NatMatch::Guard, 0, net);
                self.guards.insert(key, gateway.segment.into());
            }
        }
        let segment = self
            .gateway_of(&source)
            .map_or(NO_SEGMENT, |gateway| gateway.segment);
        // What the host itself sends from outside is never to be kept in.
        let mut held = self.facts.addresses.iter().map(|held| held.net.addr());
        let is_inside = |addr: &IpAddr| self.gateway_of(&IpNet::from(*addr)).is_some();
        if segment == NO_SEGMENT && held.any(|addr| source.contains(&addr) && !is_inside(&addr)) {
            return;
        }
        self.guards
            .entry(prefix(NatMatch::Guard, 0, &source))
            .or_insert_with(|| segment.into());
    }

    /// The gateway port in whose network `net` is.
    fn gateway_of(&self, net: &IpNet) -> Option<&Gateway> {
        let length = |gateway: &&Gateway| {
            let around = gateway.nets.iter().filter(|around| around.contains(net));
            around.map(IpNet::prefix_len).max()
        };
        self.gateways
            .iter()
            .filter(|gateway| length(gateway).is_some())
            .max_by_key(length)
    }

    fn rule(&mut self, rule: &Rule) {
        let mut made = NatRule {
            pool_size: 1,
            prefix_len: 128,
            print: print(&rule.action),
            ..NatRule::default()
        };
        let id = rule.id;
        match &rule.action {
            NatAction::Masquerade {
                network,
                uplink,
                options,
            } => {
                let Some((via, ifindex)) = self.way(uplink) else {
                    return;
                };
                made.kind = NatKind::Masquerade;
                made.via = via;
                made.external = self.address_of(ifindex, false);
                made.internal = self.address_of(ifindex, true);
                apply(&mut made, options);
                made.flags |= NAT_OWN_ADDRESS;
                let nets: Vec<IpNet> = self
                    .gateways
                    .iter()
                    .filter(|gateway| gateway.network == *network)
                    .flat_map(|gateway| gateway.nets.iter().copied())
                    .collect();
                for net in nets {
                    self.source(via, &net, 2, id);
                }
            }
            NatAction::Snat {
                source,
                to,
                uplink,
                options,
            } => {
                let Some((via, _)) = self.way(uplink) else {
                    return;
                };
                let (first, last) = (number(to.first), number(to.last));
                made.kind = NatKind::Snat;
                made.via = via;
                made.external = first.to_be_bytes();
                made.pool_size =
                    u32::try_from(last.saturating_sub(first).saturating_add(1)).unwrap_or(u32::MAX);
                apply(&mut made, options);
                if self.own.range(first..=last).next().is_some() {
                    made.flags |= NAT_OWN_ADDRESS;
                }
                self.source(via, &source.trunc(), 1, id);
                self.answer(via, first, last);
            }
            NatAction::Dnat {
                tcp,
                udp,
                listen,
                listen_ports,
                to,
                to_ports,
                from,
                uplink,
            } => {
                let via = match uplink {
                    Some(uplink) => match self.way(uplink) {
                        Some((via, _)) => via,
                        None => return,
                    },
                    None => self.holder(*listen),
                };
                let external = number(*listen);
                made.kind = NatKind::Dnat;
                made.via = via;
                made.external = external.to_be_bytes();
                made.internal = number(*to).to_be_bytes();
                (made.port_lo, made.port_hi) = (listen_ports.first, listen_ports.last);
                (made.to_lo, made.to_hi) = (to_ports.first, to_ports.last);
                if let Some(from) = from {
                    let (first, length) = span(from);
                    made.from = first.to_be_bytes();
                    made.from_len = length as u8;
                }
                made.inside = self.inside(&IpNet::from(*to));
                if self.own.contains(&external) {
                    made.flags |= NAT_OWN_ADDRESS;
                }
                for protocol in [(*tcp, TCP), (*udp, UDP)]
                    .into_iter()
                    .filter_map(|(is, protocol)| is.then_some(protocol))
                {
                    self.listen(protocol, external, *listen_ports, id);
                }
                self.answer(via, external, external);
            }
            NatAction::Static {
                external,
                internal,
                uplink,
            } => {
                let via = match uplink {
                    Some(uplink) => match self.way(uplink) {
                        Some((via, _)) => via,
                        None => return,
                    },
                    None => NO_SLOT,
                };
                let (first, length) = span(external);
                let last = first | u128::MAX.checked_shr(length).unwrap_or(0);
                made.kind = NatKind::Static;
                made.via = via;
                made.external = first.to_be_bytes();
                made.internal = span(internal).0.to_be_bytes();
                made.prefix_len = length as u8;
                made.inside = self.inside(&internal.trunc());
                if self.own.range(first..=last).next().is_some() {
                    made.flags |= NAT_OWN_ADDRESS;
                }
                if matches!(external, IpNet::V6(_)) && length < 128 {
                    made.flags |= NAT_NPTV6;
                }
                self.others
                    .entry(prefix(NatMatch::Static, 0, &external.trunc()))
                    .or_insert_with(|| id.into());
                for way in self.ways_of(via) {
                    self.source(way, &internal.trunc(), 0, id);
                }
                // And back inside by an address of a rule that is for no uplink in particular.
                self.source(NO_SLOT, &internal.trunc(), 0, id);
                self.answer(via, first, last);
            }
        }
        self.rules.insert(id, made);
    }

    /// Slot and interface of the way out called `name`.
    fn way(&self, name: &str) -> Option<(u16, u32)> {
        let way = self.ways.iter().find(|way| way.name == name)?;
        Some((way.slot, way.ifindex))
    }

    /// The way out `via`, or where that is any, every one.
    fn ways_of(&self, via: u16) -> Vec<u16> {
        if via != NO_SLOT {
            return vec![via];
        }
        let outside = self.ways.iter().filter(|way| !way.inside);
        outside.map(|way| way.slot).collect()
    }

    /// The way out whose interface holds `address`.
    fn holder(&self, address: IpAddr) -> u16 {
        self.ways
            .iter()
            .find(|way| {
                let mut held = self.facts.addresses.iter();
                held.any(|held| held.ifindex == way.ifindex && held.net.addr() == address)
            })
            .map_or(NO_SLOT, |way| way.slot)
    }

    /// The address that an interface sends to the outside from, or zero.
    fn address_of(&self, ifindex: u32, v6: bool) -> Addr {
        self.facts
            .addresses
            .iter()
            .filter(|address| {
                address.ifindex == ifindex
                    && address.global
                    && !address.spare
                    && address.net.addr().is_ipv6() == v6
            })
            .map(|address| number(address.net.addr()).to_be_bytes())
            .next()
            .unwrap_or_default()
    }

    fn inside(&self, net: &IpNet) -> u16 {
        self.gateway_of(net).map_or(NO_SLOT, |gateway| gateway.slot)
    }

    /// Where prefixes are equal, the lower rank wins, then the lower id.
    fn source(&mut self, via: u16, net: &IpNet, rank: u8, id: u16) {
        let found = self
            .sources
            .entry(prefix(NatMatch::Source, via, net))
            .or_insert((rank, id));
        *found = (*found).min((rank, id));
    }

    fn listen(&mut self, protocol: u16, address: u128, ports: PortRange, id: u16) {
        for (port, length) in cover(ports.first.into(), ports.last.into(), 16) {
            let bits = NAT_MATCH_HEAD_BITS + 128 + length;
            let key = key(NatMatch::Listen, protocol, address, port as u16);
            let found = self.others.entry((bits, key)).or_insert_with(|| id.into());
            *found = (*found).min(id.into());
        }
    }

    /// The datapath answers for those of the addresses that the host does not hold.
    fn answer(&mut self, via: u16, first: u128, last: u128) {
        let held: Vec<u128> = self.own.range(first..=last).copied().collect();
        let ways = self.ways_of(via);
        let mut next = Some(first);
        for end in held.into_iter().map(Some).chain([None]) {
            let Some(begin) = next else { break };
            // Up to the next address that is held, or to the end.
            let until = end.map_or(Some(last), |held| held.checked_sub(1));
            if let Some(until) = until.filter(|until| *until >= begin) {
                for (address, length) in cover(begin, until, 128) {
                    for way in &ways {
                        let key = key(NatMatch::Answer, *way, address, 0);
                        self.others.insert((NAT_MATCH_HEAD_BITS + length, key), 1);
                    }
                }
            }
            next = end.and_then(|held| held.checked_add(1));
        }
    }

    fn finish(self, image: &mut Image, config: &Config) {
        let routes = !config.nat.is_empty() || !self.gateways.is_empty();
        let mut mark = |slot: u16, flags: u32| {
            if let Some(port) = image.ports.get_mut(&slot) {
                port.flags |= flags;
            }
        };
        if routes {
            for way in &self.ways {
                mark(way.slot, PORT_ROUTED);
            }
        }
        for gateway in &self.gateways {
            mark(gateway.slot, PORT_ROUTED | PORT_GATEWAY);
        }
        for slot in &self.translated {
            mark(*slot, PORT_NATED);
        }
        let answers = NatMatch::Answer as u8;
        for (flag, is) in [
            (SWITCH_ROUTES, routes),
            (SWITCH_GUARDS, !self.guards.is_empty()),
            (SWITCH_MID_STREAM, config.settings.mid_stream),
            (
                SWITCH_ANSWERS,
                self.others.keys().any(|(_, key)| key.kind == answers),
            ),
        ] {
            if is {
                image.flags |= flag;
            }
        }
        image.nat_rules = self.rules;
        image.nat_matches = self.others;
        image.nat_matches.extend(self.guards);
        let sources = self.sources.into_iter();
        image
            .nat_matches
            .extend(sources.map(|(key, (_, id))| (key, id.into())));
    }
}

fn apply(rule: &mut NatRule, options: &NatOptions) {
    let ports = options.ports.unwrap_or(PortRange::EXTERNAL);
    (rule.port_lo, rule.port_hi) = (ports.first, ports.last);
    rule.block_size = options.block_size.unwrap_or(0);
    if options.mapping == Mapping::Symmetric {
        rule.flags |= NAT_SYMMETRIC;
    }
    rule.flags |= match options.filtering {
        Filtering::Eif => 0,
        Filtering::Adf => NAT_ADF,
        Filtering::Apdf => NAT_APDF,
    };
}

/// Tells what a rule says from what another one says; never 0, and not of what the host has.
fn print(action: &NatAction) -> u16 {
    let hash = fnv1a(format!("{action:?}").as_bytes());
    let folded = hash ^ (hash >> 32);
    ((folded ^ (folded >> 16)) as u16).max(1)
}

/// How many addresses a pool has; more than a number holds are as many as it holds.
pub fn addresses(pool: &AddrRange) -> u32 {
    let between = number(pool.last).saturating_sub(number(pool.first));
    u32::try_from(between.saturating_add(1)).unwrap_or(u32::MAX)
}

/// An address as a number whose bytes, highest first, are its [`Addr`].
fn number(address: IpAddr) -> u128 {
    u128::from_be_bytes(match address {
        IpAddr::V4(address) => mapped(address.octets()),
        IpAddr::V6(address) => address.octets(),
    })
}

/// A prefix's first address and its length of 128.
fn span(net: &IpNet) -> (u128, u32) {
    let length = u32::from(net.prefix_len());
    let length = if matches!(net, IpNet::V4(_)) {
        96 + length
    } else {
        length
    };
    (number(net.network()), length)
}

fn key(kind: NatMatch, scope: u16, address: u128, port: u16) -> NatMatchKey {
    NatMatchKey {
        reserved: [0; 2],
        generation: 0,
        kind: kind as u8,
        scope_be: scope.to_be_bytes(),
        addr: address.to_be_bytes(),
        port_be: port.to_be_bytes(),
    }
}

fn prefix(kind: NatMatch, scope: u16, net: &IpNet) -> (u32, NatMatchKey) {
    let (address, length) = span(net);
    (NAT_MATCH_HEAD_BITS + length, key(kind, scope, address, 0))
}

/// The fewest prefixes, of numbers of `width` bits, that are the numbers from `first` to `last`:
/// each with its length.
fn cover(first: u128, last: u128, width: u32) -> Vec<(u128, u32)> {
    let mut blocks = Vec::new();
    let mut next = Some(first);
    while let Some(begin) = next.filter(|begin| *begin <= last) {
        let fits = (last - begin).checked_add(1).map_or(128, u128::ilog2);
        let bits = begin.trailing_zeros().min(fits).min(width);
        blocks.push((begin, width - bits));
        next = 1u128
            .checked_shl(bits)
            .and_then(|size| begin.checked_add(size));
    }
    blocks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_become_prefixes() {
        assert_eq!(cover(80, 80, 16), [(80, 16)]);
        assert_eq!(cover(0, 65_535, 16), [(0, 0)]);
        assert_eq!(cover(1000, 1010, 16), [(1000, 13), (1008, 15), (1010, 16)]);
        assert_eq!(cover(1, 65_535, 16).len(), 16);
        assert_eq!(cover(0, u128::MAX, 128), [(0, 0)]);
        assert_eq!(cover(u128::MAX, u128::MAX, 128), [(u128::MAX, 128)]);
        assert_eq!(cover(2, 1, 16), []);
        for (first, last) in [(5, 1234), (1, 2), (1024, 65_535), (65_535, 65_535)] {
            let mut next = first;
            for (begin, length) in cover(first, last, 16) {
                assert_eq!(begin, next, "{first} to {last}");
                next += 1 << (16 - length);
            }
            assert_eq!(next, last + 1, "{first} to {last}");
        }
    }
}
