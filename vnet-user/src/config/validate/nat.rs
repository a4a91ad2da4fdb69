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
    inside: Spans<Inside<'a>>,
    gateways: HashSet<IpAddr>,
    masquerades: HashMap<(&'a str, &'a str), &'a NatRule>,
    /// By whether the rule is a static one, which goes before the others, and prefix.
    sources: HashMap<(bool, IpNet), Vec<(Option<&'a str>, &'a NatRule)>>,
    statics: Spans<&'a NatRule>,
    /// By address, whether it is TCP, and first port.
    listens: BTreeMap<(IpAddr, bool, u16), (u16, &'a NatRule)>,
}

impl Config {
    /// Checks every network's gateways.
    pub(super) fn validate_gateways(&self) -> Result<(), Invalid> {
        let mut seen = HashMap::new();
        for network in &self.networks {
            let about =
                |why: String| Invalid::new(why).about(format!("the network {}", network.name));
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
        for network in &self.networks {
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
            inside: self.insides()?,
            gateways: HashSet::new(),
            masquerades: HashMap::new(),
            sources: HashMap::new(),
            statics: Spans::new(),
            listens: BTreeMap::new(),
        };
        let gateways = self.networks.iter().flat_map(|network| &network.gateway);
        claims.gateways.extend(gateways.map(IpNet::addr));
        let mut ids = HashSet::new();
        for rule in &self.nat {
            let about = |refusal: Invalid| refusal.about(format!("the {rule}"));
            if rule.id == 0 || u32::from(rule.id) >= NAT_RULES {
                let why = format!("its id is not one of 1 to {}", NAT_RULES - 1);
                return Err(about(Invalid::new(why)));
            }
            if !ids.insert(rule.id) {
                let why = format!("there is another rule {}", rule.id);
                return Err(about(
                    Invalid::new(why).mend("give each rule an id of its own"),
                ));
            }
            rule.action
                .check()
                .map_err(|why| about(Invalid::new(why)))?;
            if let Some(uplink) = rule.action.uplink() {
                self.require_uplink(switch, uplink).map_err(about)?;
            }
            self.validate_rule(rule, &mut claims).map_err(about)?;
        }
        // Whichever of the two rules comes first.
        for rule in &self.nat {
            claims
                .check_outside(rule)
                .map_err(|refusal| refusal.about(format!("the {rule}")))?;
        }
        Ok(())
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
                    .mend(format!("vnet-user nat del {} first", other.id)));
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
                claims.hold(*internal)?;
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
            .find(|(other_uplink, other)| other.id != rule.id && both(*other_uplink));
        if let Some((_, other)) = other {
            return Err(Invalid::new(format!(
                "the {other} translates the source {} there already",
                Prefix(source)
            ))
            .mend(format!(
                "name another source, or: vnet-user nat del {}",
                other.id
            )));
        }
        claims.push((uplink, rule));
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
        if self.gateways.contains(&addr) {
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
        if let Some((_, other)) = self.statics.overlapping(range) {
            return Err(Invalid::new(format!(
                "its outside {} overlaps that of the {other}",
                Prefix(external)
            ))
            .mend(format!(
                "choose other addresses, or: vnet-user nat del {}",
                other.id
            )));
        }
        self.statics.insert(range, rule);
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
            .mend("name addresses of the outside"));
        }
        match self.statics.overlapping(range) {
            Some((_, other)) if other.id != rule.id => Err(Invalid::new(format!(
                "{what} is outside for the {other}, which takes all of its ports"
            ))
            .mend(format!(
                "choose other addresses, or: vnet-user nat del {}",
                other.id
            ))),
            _ => Ok(()),
        }
    }
}
