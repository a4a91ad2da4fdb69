//! Security groups: whether a connection of a VM may be.
//!
//! The first packet of a connection is judged by the groups of the port that it comes from and of the one
//! that it goes to; the others follow its flow. What the gateway sends on is judged on its way through
//! [`crate::nat::arrive`], everything else in [`arrive`]. Both judge the two entries of a flow ([`judge`]),
//! so that rules see the VMs' own addresses, and a flow that was judged by other rules is judged again.

pub mod arrive;
pub mod flood;
pub mod judge;
pub mod look;
pub mod search;

use vnet_common::{
    FlowKey, PortConf, PortKind, flow::is_v4, port::PORT_POLICED, switch::SWITCH_POLICY,
};

use crate::{
    gateway::Gateway,
    ip::{Ip, Part, proto},
};

/// EtherType of ARP, host order.
pub const ARP: u16 = 0x0806;
/// EtherType of RARP, host order: what QEMU announces a migrated VM with.
pub const RARP: u16 = 0x8035;

/// Whether the port's groups are asked.
#[inline(always)]
#[must_use]
pub const fn is_policed(port: &PortConf) -> bool {
    matches!(port.kind, PortKind::Vm) && port.flags & PORT_POLICED != 0
}

/// Whether any port of the switch is in a group.
#[inline(always)]
pub fn polices<G: Gateway + ?Sized>(generation: u32, gateway: &G) -> bool {
    gateway
        .switch()
        .is_some_and(|conf| conf.flags[(generation & 1) as usize] & SWITCH_POLICY != 0)
}

/// Whose groups are not asked about a packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Exempt {
    /// Those of the port that it comes from.
    pub out: bool,
    /// Those of the port that it goes to.
    pub into: bool,
}

/// What no group is asked about: neighbour discovery (RFC 4861), IGMP and MLD (RFC 3376, RFC 3810), and a
/// VM's own exchange with a DHCP server (RFC 2131, RFC 8415). The guards have seen them before.
#[inline(always)]
#[must_use]
pub fn exempt(ip: &Ip) -> Exempt {
    let whole = matches!(ip.part, Part::Whole);
    let dst = &ip.key.dst;
    let to_group = if ip.v6 {
        dst[0] == 0xff
    } else {
        dst[12] & 0xf0 == 0xe0
    };
    let all = whole
        && match ip.key.proto {
            proto::IGMP => !ip.v6 && to_group,
            proto::ICMPV6 if ip.v6 => match ip.icmp_type {
                133..=137 => ip.ttl == 255,
                130..=132 | 143 => to_group,
                _ => false,
            },
            _ => false,
        };
    let dhcp = dhcp(&ip.key);
    Exempt {
        out: all || whole && dhcp.out,
        into: all || whole && dhcp.into,
    }
}

/// Whether a packet is a DHCP server's to a client.
#[inline(always)]
#[must_use]
pub fn is_dhcp_answer(key: &FlowKey) -> bool {
    dhcp(key).into
}

/// What a VM sends to a DHCP server, and what it gets from one.
#[inline(always)]
#[must_use]
pub fn dhcp(key: &FlowKey) -> Exempt {
    const SERVER: u16 = 67;
    const CLIENT: u16 = 68;
    const V6_CLIENT: u16 = 546;
    const V6_SERVER: u16 = 547;
    let (client, server) = if is_v4(&key.src) {
        (CLIENT, SERVER)
    } else {
        (V6_CLIENT, V6_SERVER)
    };
    let udp = key.proto == proto::UDP;
    Exempt {
        out: udp && key.sport == client && key.dport == server,
        into: udp && key.sport == server && key.dport == client,
    }
}
