//! Gateways and translation rules: no two claim the same addresses and ports, and what they name
//! is there.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;

use ipnet::IpNet;
use vnet_common::nat::NAT_RULES;

use crate::config::names::{check_gateway, check_host_in};
use crate::config::{
    AddrRange, Config, Endpoint, Invalid, NatAction, NatRule, PortRange, Prefix, edits,
};

/// The least MTU of a network with IPv6 (RFC 8200, 5).
const MTU_V6: u32 = 1280;

/// Addresses that belong to somebody each.
struct Spans<T>(BTreeMap<IpAddr, (AddrRange, T)>);

impl<T> Spans<T> {
    fn new() -> Self {
        Self(BTreeMap::new())
    }

    /// Whose addresses some of `range` are. As nothing here overlaps, the last one that begins
    /// before the range's end is the only one to look at.
    fn overlapping(&self, range: AddrRange) -> Option<&(AddrRange, T)> {
        let (_, span) = self.0.range(..=range.last).next_back()?;
        span.0.overlaps(range).then_some(span)
    }

    /// Adds addresses that overlap nothing here.
    fn insert(&mut self, range: AddrRange, owner: T) {
        self.0.insert(range.first, (range, owner));
    }
}

/// A network's prefix.
#[derive(Clone, Copy)]
struct Inside<'a> {
    network: &'a str,
    prefix: IpNet,
}

/// What the rules so far have taken.
struct Claims<'a> {
    /// Place of each rule in the document, by id.
    order: HashMap<u16, usize>,
    inside: Spans<Inside<'a>>,
    gateways: HashSet<IpAddr>,
    masquerades: HashMap<(&'a str, &'a str), &'a NatRule>,
    /// By whether the rule is a static one, which goes before the others, and prefix.
    sources: HashMap<(bool, IpNet), Vec<&'a NatRule>>,
    statics: Spans<(Prefix, &'a NatRule)>,
    /// By address, whether it is TCP, and first port.
    listens: BTreeMap<(IpAddr, bool, u16), (u16, &'a NatRule)>,
}

impl Config {
    /// Checks every network's gateways.
    pub(super) fn validate_gateways(&self) -> Result<(), Invalid> {
        let mut seen = HashMap::new();
        for (index, network) in self.networks.iter().enumerate() {
            let about = |why: String| {
                Invalid::new(why)
                    .about(format!("the network {}", network.name))
                    .at("network", index)
                    .key("gateway")
            };
            for gateway in &network.gateway {
                check_gateway(*gateway).map_err(about)?;
                match seen.insert(gateway.addr(), &network.name) {
                    Some(other) if *other == network.name => {
                        return Err(about(format!(
                            "it has the gateway address {} twice",
                            gateway.addr()
                        )));
                    }
                    Some(other) => {
                        return Err(about(format!(
                            "its gateway address {} is that of the network {other}",
                            gateway.addr()
                        ))
                        .mend("give each network addresses of its own"));
                    }
                    None => {}
                }
                if gateway.addr().is_ipv6()
                    && let Some(mtu) = network.mtu.filter(|mtu| *mtu < MTU_V6)
                {
                    return Err(about(format!(
                        "it has the IPv6 gateway {gateway} and the MTU {mtu}: IPv6 needs {MTU_V6} \
                         (RFC 8200, 5)"
                    )));
                }
            }
        }
        self.insides().map(drop)
    }

    /// The networks' prefixes. Of those of one network that lie in each other, the widest.
    fn insides(&self) -> Result<Spans<Inside<'_>>, Invalid> {
        let mut insides: Spans<Inside<'_>> = Spans::new();
        for (index, network) in self.networks.iter().enumerate() {
            'gateways: for gateway in &network.gateway {
                let new = Inside {
                    network: &network.name,
                    prefix: gateway.trunc(),
                };
                let range = AddrRange::of(new.prefix);
                while let Some((old_range, old)) = insides.overlapping(range) {
                    if old.network != new.network {
                        return Err(Invalid::new(format!(
                            "its prefix {} overlaps {} of the network {}",
                            new.prefix, old.prefix, old.network
                        ))
                        .about(format!("the network {}", network.name))
                        .at("network", index)
                        .key("gateway")
                        .mend("give each network a prefix of its own"));
                    }
                    if old.prefix.contains(&new.prefix) {
                        continue 'gateways;
                    }
                    let first = old_range.first;
                    insides.0.remove(&first);
                }
                insides.insert(range, new);
            }
        }
        Ok(insides)
    }

    /// Checks every rule, and each against those before it.
    pub(super) fn validate_nat(&self, switch: &str) -> Result<(), Invalid> {
        let mut claims = Claims {
            order: HashMap::new(),
            inside: self.insides()?,
            gateways: HashSet::new(),
            masquerades: HashMap::new(),
            sources: HashMap::new(),
            statics: Spans::new(),
            listens: BTreeMap::new(),
        };
        let gateways = self.networks.iter().flat_map(|network| &network.gateway);
        claims.gateways.extend(gateways.map(IpNet::addr));
        for (place, rule) in self.nat.iter().enumerate() {
            let about = |refusal: Invalid| refusal.about(format!("the {rule}")).at("nat", place);
            if rule.id == 0 || u32::from(rule.id) >= NAT_RULES {
                let why = format!("its id is not one of 1 to {}", NAT_RULES - 1);
                return Err(about(Invalid::new(why)));
            }
            if claims.order.insert(rule.id, place).is_some() {
                let why = format!("there is another rule {}", rule.id);
                return Err(about(
                    Invalid::new(why).mend("give each rule an id of its own"),
                ));
            }
            rule.action
                .check()
                .map_err(|why| about(Invalid::new(why)))?;
            if let Some(uplink) = rule.action.uplink() {
                self.require_uplink(switch, uplink)
                    .map_err(|refusal| about(refusal).key("uplink"))?;
            }
            self.validate_rule(rule, &mut claims).map_err(about)?;
        }
        // Whichever of the two rules comes first.
        self.nat.iter().enumerate().try_for_each(|(place, rule)| {
            claims
                .check_outside(rule)
                .map_err(|refusal| refusal.at("nat", place))
        })
    }

    /// Refuses a way out that is neither an uplink nor the switch device.
    fn require_uplink(&self, switch: &str, name: &str) -> Result<(), Invalid> {
        match self.port(name) {
            _ if name == switch => Ok(()),
            Some(port) if port.uplink => Ok(()),
            Some(_) => Err(Invalid::new(format!("the port {name} is not an uplink"))
                .mend(format!("vnet-user port set {name} --uplink"))),
            None => Err(edits::no_port(self, switch, name)
                .mend(format!("vnet-user port add {name} --uplink"))),
        }
    }

    fn validate_rule<'a>(
        &'a self,
        rule: &'a NatRule,
        claims: &mut Claims<'a>,
    ) -> Result<(), Invalid> {
        match &rule.action {
            NatAction::Masquerade {
                network, uplink, ..
            } => {
                self.require_network(network)?;
                let gateways = self
                    .networks
                    .iter()
                    .find(|listed| listed.name == *network)
                    .map(|listed| listed.gateway.as_slice())
                    .unwrap_or_default();
                if gateways.is_empty() {
                    return Err(
                        Invalid::new(format!("the network {network} has no gateway")).mend(
                            "make the network anew with --gateway ADDR/LENGTH, or write gateway = \
                             [\"ADDR/LENGTH\"] under it in the document",
                        ),
                    );
                }
                if let Some(other) = claims.masquerades.insert((network, uplink), rule) {
                    return Err(Invalid::new(format!(
                        "the {other} is for {network} by {uplink} already"
                    ))
                    .mend(format!("vnet-user nat del {}, then add it again", other.id)));
                }
                gateways
                    .iter()
                    .try_for_each(|gateway| claims.source(rule, gateway.trunc()))
            }
            NatAction::Snat { source, .. } => claims.source(rule, *source),
            NatAction::Dnat {
                tcp,
                udp,
                listen,
                listen_ports,
                to,
                ..
            } => {
                claims.lead_to(*to)?;
                for (on, is_tcp) in [(*tcp, true), (*udp, false)] {
                    if on {
                        claims.listen(rule, *listen, is_tcp, *listen_ports)?;
                    }
                }
                Ok(())
            }
            NatAction::Static {
                external, internal, ..
            } => {
                let inside = claims.hold(*internal)?;
                claims.not_the_gateway(inside, *internal)?;
                claims.source(rule, *internal)?;
                claims.stand_for(rule, *external)
            }
        }
    }
}

impl<'a> Claims<'a> {
    /// Takes `source`'s translation on the way out.
    fn source(&mut self, rule: &'a NatRule, source: IpNet) -> Result<(), Invalid> {
        let uplink = rule.action.uplink();
        let is_static = matches!(rule.action, NatAction::Static { .. });
        let claims = self.sources.entry((is_static, source)).or_default();
        // Without an uplink it is for all of them.
        let both = |other: Option<&str>| uplink.is_none() || other.is_none() || uplink == other;
        // Two gateways of one network may have the same prefix.
        let other = claims
            .iter()
            .find(|other| other.id != rule.id && both(other.action.uplink()));
        if let Some(other) = other {
            return Err(Invalid::new(format!(
                "the {other} translates the source {} there already",
                Prefix(source)
            ))
            .mend(format!(
                "name another source, or: vnet-user nat del {}",
                other.id
            )));
        }
        claims.push(rule);
        Ok(())
    }

    /// Takes ports that are listened on, of one protocol.
    fn listen(
        &mut self,
        rule: &'a NatRule,
        addr: IpAddr,
        tcp: bool,
        ports: PortRange,
    ) -> Result<(), Invalid> {
        let before = self
            .listens
            .range((addr, tcp, 0)..=(addr, tcp, ports.last))
            .next_back();
        if let Some(((_, _, first), (last, other))) = before
            && *last >= ports.first
        {
            let taken = Endpoint {
                addr,
                ports: PortRange {
                    first: *first,
                    last: *last,
                },
            };
            let proto = if tcp { "tcp" } else { "udp" };
            return Err(
                Invalid::new(format!("the {other} listens on {proto} {taken} already")).mend(
                    format!(
                        "choose another address or port, or: vnet-user nat del {}",
                        other.id
                    ),
                ),
            );
        }
        self.listens
            .insert((addr, tcp, ports.first), (ports.last, rule));
        Ok(())
    }

    /// Refuses a VM's address that is in no network with a gateway, or that no VM can have.
    fn lead_to(&self, addr: IpAddr) -> Result<(), Invalid> {
        let inside = self.hold(IpNet::from(addr))?;
        check_host_in(addr, inside.prefix).map_err(Invalid::new)?;
        self.not_the_gateway(inside, IpNet::from(addr))
    }

    /// Refuses a single address that is a network's gateway.
    fn not_the_gateway(&self, inside: Inside<'_>, net: IpNet) -> Result<(), Invalid> {
        let addr = net.addr();
        if net.prefix_len() == net.max_prefix_len() && self.gateways.contains(&addr) {
            return Err(Invalid::new(format!(
                "{addr} is the gateway of the network {}, not a VM of it",
                inside.network
            )));
        }
        Ok(())
    }

    /// The network's prefix that `prefix` is in.
    fn hold(&self, prefix: IpNet) -> Result<Inside<'a>, Invalid> {
        match self.inside.overlapping(AddrRange::of(prefix)) {
            Some((_, inside)) if inside.prefix.contains(&prefix) => Ok(*inside),
            Some((_, inside)) => Err(Invalid::new(format!(
                "{prefix} is more than {} of the network {}",
                inside.prefix, inside.network
            ))
            .mend("name a prefix that lies in one network, with a rule each")),
            None => Err(Invalid::new(format!(
                "{} is in no network that has a gateway",
                Prefix(prefix)
            ))
            .mend(
                "add its network with a gateway: vnet-user network add NAME --gateway ADDR/LENGTH",
            )),
        }
    }

    /// Takes a static rule's outside.
    fn stand_for(&mut self, rule: &'a NatRule, external: IpNet) -> Result<(), Invalid> {
        let range = AddrRange::of(external);
        if let Some((_, (_, other))) = self.statics.overlapping(range) {
            return Err(Invalid::new(format!(
                "its outside {} overlaps that of the {other}",
                Prefix(external)
            ))
            .mend(format!(
                "choose other addresses, or: vnet-user nat del {}",
                other.id
            )));
        }
        self.statics.insert(range, (Prefix(external), rule));
        Ok(())
    }

    /// Refuses external addresses that are inside, or a static rule's.
    fn check_outside(&self, rule: &NatRule) -> Result<(), Invalid> {
        let (what, range, may_be_inside) = match &rule.action {
            NatAction::Masquerade { .. } => return Ok(()),
            NatAction::Snat { to, .. } => (format!("its pool {to}"), *to, false),
            NatAction::Dnat {
                listen,
                listen_ports,
                ..
            } => {
                let range = AddrRange {
                    first: *listen,
                    last: *listen,
                };
                let endpoint = Endpoint {
                    addr: *listen,
                    ports: *listen_ports,
                };
                // The gateway's own address is one to listen on, for other VMs.
                (format!("its {endpoint}"), range, true)
            }
            NatAction::Static { external, .. } => (
                format!("its outside {}", Prefix(*external)),
                AddrRange::of(*external),
                false,
            ),
        };
        if !may_be_inside && let Some((_, inside)) = self.inside.overlapping(range) {
            return Err(Invalid::new(format!(
                "{what} overlaps {} of the network {}, which is inside",
                inside.prefix, inside.network
            ))
            .about(format!("the {rule}"))
            .mend("name addresses of the outside"));
        }
        // That of a static rule is compared with others of its kind as it is taken.
        let is_static = matches!(rule.action, NatAction::Static { .. });
        let Some((_, (outside, other))) = self.statics.overlapping(range).filter(|_| !is_static)
        else {
            return Ok(());
        };
        // The one that was there first may stay.
        let (later, earlier, why) = if self.order[&rule.id] > self.order[&other.id] {
            let why = format!("{what} is outside for the {other}, which takes every port of it");
            (rule, *other, why)
        } else {
            let why = format!("it takes every port of {outside}, which the {rule} uses");
            (*other, rule, why)
        };
        Err(Invalid::new(why)
            .about(format!("the {later}"))
            .mend(format!(
                "choose other addresses, or: vnet-user nat del {}",
                earlier.id
            )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::document;

    /// `lan` with two gateways, `wan` without; uplinks `eth0` and `eth1`; a VM `tap0`.
    const BASE: &str = "schema = 1
[[network]]
name = 'lan'
gateway = ['10.0.0.1/24', 'fd00::1/64']
[[network]]
name = 'wan'
[[port]]
name = 'eth0'
uplink = true
[[port]]
name = 'eth1'
uplink = true
[[port]]
name = 'tap0'
network = 'lan'
";

    /// Each rule is what `nat add` would say, with its id from its place.
    fn validate(rules: &[&str]) -> Result<(), Invalid> {
        let mut text = BASE.to_owned();
        for (index, rule) in rules.iter().enumerate() {
            text += &format!("[[nat]]\nid = {}\n", index + 1);
            let mut words = rule.split(' ');
            text += &format!("kind = '{}'\n", words.next().unwrap());
            while let (Some(option), Some(value)) = (words.next(), words.next()) {
                let key = option.trim_start_matches('-').replace('-', "_");
                let quote = if key == "block_size" { "" } else { "'" };
                text += &format!("{key} = {quote}{value}{quote}\n");
            }
        }
        document::parse(&text)
            .unwrap_or_else(|refusal| panic!("{rules:?}: {refusal:?}"))
            .validate("vsw0")
    }

    fn gateways(text: &str) -> Result<(), Invalid> {
        document::parse(&format!("schema = 1\n{text}"))
            .unwrap()
            .validate("vsw0")
    }

    #[test]
    fn rules_that_go_together() {
        for rules in [
            &["masquerade --network lan --uplink eth0"][..],
            &[
                "masquerade --network lan --uplink eth0",
                "masquerade --network lan --uplink eth1",
                "masquerade --network lan --uplink vsw0",
            ],
            // A longer prefix and another way out are other sources.
            &[
                "masquerade --network lan --uplink eth0",
                "snat --source 10.0.0.0/25 --to 192.0.2.1 --uplink eth0",
                "snat --source 10.0.0.0/24 --to 192.0.2.1 --uplink eth1",
                "snat --source 172.16.0.0/12 --to 192.0.2.1 --uplink eth0",
            ],
            // IPv6 by prefix translation, IPv4 by masquerading.
            &[
                "masquerade --network lan --uplink eth0",
                "static --external 2001:db8::/64 --internal fd00::/64 --uplink eth0",
            ],
            &[
                "dnat --proto tcp --listen 192.0.2.1:80-89 --to 10.0.0.2:80-89",
                "dnat --proto udp --listen 192.0.2.1:80-89 --to 10.0.0.2:80",
                "dnat --proto tcp --listen 192.0.2.1:90 --to 10.0.0.2:80",
                "dnat --proto tcp,udp --listen 192.0.2.2:80 --to 10.0.0.2:80 --uplink eth0",
                "dnat --proto tcp --listen [2001:db8::1]:80 --to [fd00::2]:80",
            ],
            &[
                "static --external 192.0.2.1 --internal 10.0.0.2",
                "static --external 192.0.2.128/26 --internal 10.0.0.128/26",
                "static --external 2001:db8::2 --internal fd00::2",
                "static --external 192.0.2.3 --internal 10.0.0.3 --uplink eth0",
                "static --external 192.0.2.4 --internal 10.0.0.3 --uplink eth1",
            ],
            &[
                "snat --source 10.0.0.0/24 --to 192.0.2.1 --uplink eth0 --ports 1-64 --block-size 64",
            ],
        ] {
            assert_eq!(validate(rules), Ok(()), "{rules:?}");
        }
    }

    #[test]
    fn rules_that_do_not() {
        let masquerade = "masquerade --network lan --uplink eth0";
        let web = "dnat --proto tcp,udp --listen 192.0.2.1:80-89 --to 10.0.0.2:80-89";
        let one = "static --external 192.0.2.1 --internal 10.0.0.2";
        for (rules, expected) in [
            (
                &["masquerade --network red --uplink eth0"][..],
                "there is no network red",
            ),
            (
                &["masquerade --network wan --uplink eth0"],
                "the network wan has no gateway",
            ),
            (
                &["masquerade --network lan --uplink eth9"],
                "there is no port eth9",
            ),
            (
                &["masquerade --network lan --uplink tap0"],
                "the port tap0 is not an uplink",
            ),
            (
                &[masquerade, masquerade],
                "the masquerade rule 1 is for lan by eth0 already",
            ),
            (
                &["masquerade --network lan --uplink eth0 --ports 1-63 --block-size 64"],
                "a block of 64 ports is larger",
            ),
            (
                &["masquerade --network lan --uplink eth0 --block-size 0"],
                "a block of 0 ports",
            ),
            (
                &[
                    masquerade,
                    "snat --source 10.0.0.0/24 --to 192.0.2.1 --uplink eth0",
                ],
                "the masquerade rule 1 translates the source 10.0.0.0/24 there already",
            ),
            (
                &["snat --source 10.0.0.0/24 --to 2001:db8::1 --uplink eth0"],
                "the source is IPv4 and the pool IPv6",
            ),
            (
                &["snat --source 0.0.0.0/0 --to 192.0.2.1 --uplink eth0"],
                "every address there is",
            ),
            (
                &["snat --source 224.0.0.0/24 --to 192.0.2.1 --uplink eth0"],
                "is a multicast address",
            ),
            (
                &["snat --source 10.0.0.0/24 --to 224.0.0.1 --uplink eth0"],
                "is a multicast address",
            ),
            (
                &["snat --source 10.0.0.0/24 --to 10.0.0.9-10.0.1.9 --uplink eth0"],
                "its pool 10.0.0.9-10.0.1.9 overlaps 10.0.0.0/24 of the network lan",
            ),
            (
                &[
                    web,
                    "dnat --proto tcp --listen 192.0.2.1:89 --to 10.0.0.3:80",
                ],
                "the dnat rule 1 listens on tcp 192.0.2.1:80-89 already",
            ),
            (
                &[
                    web,
                    "dnat --proto udp --listen 192.0.2.1:1-80 --to 10.0.0.3:80 --from 198.51.100.0/24",
                ],
                "the dnat rule 1 listens on udp 192.0.2.1:80-89 already",
            ),
            (
                &["dnat --proto tcp --listen 192.0.2.1:80 --to 10.1.0.2:80"],
                "10.1.0.2 is in no network that has a gateway",
            ),
            (
                &["dnat --proto tcp --listen 192.0.2.1:80 --to 10.0.0.1:80"],
                "10.0.0.1 is the gateway of the network lan",
            ),
            (
                &["dnat --proto tcp --listen 192.0.2.1:80 --to 10.0.0.255:80"],
                "is the broadcast address of 10.0.0.0/24",
            ),
            (
                &["dnat --proto tcp --listen 192.0.2.1:80 --to [fd00::2]:80"],
                "is IPv4 and its VM's IPv6",
            ),
            (
                &["dnat --proto tcp --listen 192.0.2.1:80-83 --to 10.0.0.2:80-82"],
                "it listens on 4 ports and leads to 3",
            ),
            (
                &["dnat --proto tcp --listen 192.0.2.1:80 --to 10.0.0.2:80 --uplink tap0"],
                "the port tap0 is not an uplink",
            ),
            (
                &["dnat --proto tcp --listen 192.0.2.1:80 --to 10.0.0.2:80 --from 2001:db8::/64"],
                "is IPv4 and the source IPv6",
            ),
            (
                &["static --external 192.0.2.0/25 --internal 10.0.0.0/26"],
                "are not equally long prefixes",
            ),
            (
                &["static --external 192.0.2.1 --internal fd00::2"],
                "the outside is IPv4 and the inside IPv6",
            ),
            (
                &["static --external 2001:db8::/72 --internal fd00::/72"],
                "an IPv6 prefix of /72 leaves no 16 bits",
            ),
            (
                &["static --external 192.0.2.1 --internal 10.1.0.2"],
                "10.1.0.2 is in no network that has a gateway",
            ),
            (
                &["static --external 2001:db8::/48 --internal fd00::/48"],
                "fd00::/48 is more than fd00::/64 of the network lan",
            ),
            (
                &["static --external 10.0.0.3 --internal 10.0.0.2"],
                "its outside 10.0.0.3 overlaps 10.0.0.0/24 of the network lan",
            ),
            (
                &[one, "static --external 192.0.2.0/25 --internal 10.0.0.0/25"],
                "its outside 192.0.2.0/25 overlaps that of the static rule 1",
            ),
            (
                &[
                    one,
                    "static --external 192.0.2.2 --internal 10.0.0.2 --uplink eth0",
                ],
                "the static rule 1 translates the source 10.0.0.2 there already",
            ),
            (
                &[one, web],
                "its 192.0.2.1:80-89 is outside for the static rule 1",
            ),
            (
                &[web, one],
                "it takes every port of 192.0.2.1, which the dnat rule 1 uses",
            ),
            (
                &[
                    one,
                    "snat --source 10.0.0.0/24 --to 192.0.2.0-192.0.2.9 --uplink eth0",
                ],
                "its pool 192.0.2.0-192.0.2.9 is outside for the static rule 1",
            ),
        ] {
            let refusal = validate(rules).expect_err(expected);
            assert!(refusal.why.contains(expected), "{rules:?}: {}", refusal.why);
        }
    }

    #[test]
    fn ids_are_unique_and_have_a_place() {
        let rule = "kind = 'masquerade'\nnetwork = 'lan'\nuplink";
        for (rules, expected) in [
            (format!("[[nat]]\nid = 0\n{rule} = 'eth0'"), "its id is not"),
            (
                format!("[[nat]]\nid = 16384\n{rule} = 'eth0'"),
                "its id is not one of 1 to 16383",
            ),
            (
                format!("[[nat]]\nid = 7\n{rule} = 'eth0'\n[[nat]]\nid = 7\n{rule} = 'eth1'"),
                "there is another rule 7",
            ),
        ] {
            let config = document::parse(&format!("{BASE}{rules}")).unwrap();
            let refusal = config.validate("vsw0").unwrap_err();
            assert!(refusal.why.contains(expected), "{rules}: {}", refusal.why);
        }
    }

    #[test]
    fn gateways_are_hosts_of_prefixes_of_their_own() {
        let network = |name: &str, gateway: &str| {
            format!("[[network]]\nname = '{name}'\ngateway = {gateway}\n")
        };
        for good in [
            network("a", "['10.0.0.1/8']"),
            network("a", "['10.0.0.0/31']"),
            network("a", "['fd00::/127']"),
            network(
                "a",
                "['10.0.0.1/24', '10.0.0.254/24', '10.0.1.1/24', 'fd00::1/64']",
            ),
            network("a", "['10.0.0.129/25', '10.0.0.1/24', '10.0.0.130/26']"),
            network("a", "['10.0.0.1/24']") + &network("b", "['10.0.1.1/24', 'fd00::1/64']"),
            network("default", "['10.0.0.1/24']"),
        ] {
            assert_eq!(gateways(&good), Ok(()), "{good}");
        }
        for (bad, expected) in [
            (
                network("a", "['10.0.0.0/24']"),
                "of the network 10.0.0.0/24 itself",
            ),
            (
                network("a", "['10.0.0.255/24']"),
                "the broadcast address of",
            ),
            (
                network("a", "['fd00::/64']"),
                "any router's address in fd00::/64",
            ),
            (network("a", "['10.0.0.1/7']"), "IPv4 prefix is 8 to 31"),
            (network("a", "['10.0.0.1/32']"), "IPv4 prefix is 8 to 31"),
            (network("a", "['fd00::1/128']"), "IPv6 prefix is 16 to 127"),
            (network("a", "['224.0.0.1/24']"), "is a multicast address"),
            (network("a", "['127.0.0.1/24']"), "is a loopback address"),
            (
                network("a", "['169.254.0.1/24']"),
                "is a link-local address",
            ),
            (network("a", "['fe80::1/64']"), "is a link-local address"),
            (
                network("a", "['::ffff:10.0.0.1/120']"),
                "is an IPv4 address in the form of IPv6",
            ),
            (
                network("a", "['10.0.0.1/24', '10.0.0.1/25']"),
                "the gateway address 10.0.0.1 twice",
            ),
            (
                network("a", "['10.0.0.1/24']") + &network("b", "['10.0.0.1/24']"),
                "its gateway address 10.0.0.1 is that of the network a",
            ),
            (
                network("a", "['10.0.0.129/25', '10.0.0.1/24']") + &network("b", "['10.0.0.9/16']"),
                "its prefix 10.0.0.0/16 overlaps 10.0.0.0/24 of the network a",
            ),
            (
                network("a", "['10.0.0.1/16']") + &network("b", "['10.0.9.1/24']"),
                "its prefix 10.0.9.0/24 overlaps 10.0.0.0/16 of the network a",
            ),
            (
                network("a", "['fd00::1/64']") + "mtu = 1279",
                "IPv6 needs 1280",
            ),
        ] {
            let refusal = gateways(&bad).expect_err(expected);
            assert!(refusal.why.contains(expected), "{bad}: {}", refusal.why);
        }
    }
}
