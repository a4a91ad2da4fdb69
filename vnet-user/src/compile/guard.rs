//! Guards in the tables: what is checked of each port, and whose the IP addresses are.

use std::collections::BTreeMap;
use std::net::IpAddr;

use vnet_common::{
    Addr,
    flow::mapped,
    port::{
        PORT_GUARD_IP, PORT_GUARD_MAC, PORT_GUARD_OWNERS, PORT_GUARD_STRICT, PORT_ISOLATED,
        PORT_LEARN_IPS,
    },
    switch::SWITCH_LEARNS,
};

use super::{Facts, Image, Interface, Owner, is_outside};
use crate::config::{Config, Guard, Port, PortIp};
use crate::gateway::SwitchPort;
use crate::ports::Role;

/// The bits of a VM's port.
pub(super) fn flags(port: &Port) -> u32 {
    let mut flags = 0;
    if !port.ips.is_empty() {
        flags |= PORT_GUARD_IP;
    }
    if port.ips.contains(&PortIp::Learn) {
        flags |= PORT_LEARN_IPS;
    }
    if port.isolated {
        flags |= PORT_ISOLATED;
    }
    let known = !port.macs.is_empty() || !port.ips.is_empty();
    flags
        | match port.guard {
            Guard::Strict => PORT_GUARD_MAC | PORT_GUARD_OWNERS | PORT_GUARD_STRICT,
            // What a VM is called is not known, and it may have others behind it: but it is nobody else.
            Guard::Default if !known => PORT_GUARD_OWNERS,
            Guard::Default => PORT_GUARD_MAC | PORT_GUARD_OWNERS,
            Guard::None => 0,
        }
}

/// Adds whose addresses are whose.
pub(super) fn add(
    image: &mut Image,
    config: &Config,
    facts: &Facts,
    segments: &BTreeMap<String, u16>,
    slots: &BTreeMap<Owner, u16>,
    present: &[(&SwitchPort, Interface)],
) {
    // Whose they are is asked for ports with guards or in groups.
    let vms = present.iter().filter(|(listed, _)| listed.role == Role::Vm);
    let asks = |port: &Port| flags(port) != 0 || !port.groups.is_empty();
    if !vms.clone().any(|(listed, _)| asks(&listed.port)) {
        return;
    }
    // Those that interfaces make themselves come a while after them: without a port that somebody has said
    // something of, the tables do not change by that.
    let asks_all = |port: &Port| flags(port) & !PORT_GUARD_OWNERS != 0 || !port.groups.is_empty();
    let with_link_local = vms.clone().any(|(listed, _)| asks_all(&listed.port));
    // The host's come first: they are its own, whatever a document says.
    for (listed, interface) in present {
        let outside = is_outside(listed, interface);
        if listed.role == Role::Vm || (listed.role == Role::Uplink && !outside) {
            continue;
        }
        let owner = Owner {
            ifindex: interface.ifindex,
            host_side: outside,
        };
        let carried = config.carried(&listed.port);
        let segment = carried.native().and_then(|name| segments.get(name));
        let (Some(&slot), Some(&segment)) = (slots.get(&owner), segment) else {
            continue;
        };
        let held = facts.addresses.iter();
        let held = held.filter(|address| {
            address.ifindex == interface.ifindex
                && (with_link_local || !is_link_local(address.net.addr()))
        });
        let gateway = listed.gateway.iter().flat_map(|network| &network.gateway);
        for net in held.map(|address| &address.net).chain(gateway) {
            image
                .port_ips
                .entry((addr(net.addr()), segment))
                .or_insert(slot);
        }
    }
    for (listed, interface) in present {
        let owner = Owner {
            ifindex: interface.ifindex,
            host_side: false,
        };
        let (Role::Vm, Some(&slot)) = (listed.role, slots.get(&owner)) else {
            continue;
        };
        if listed.port.ips.contains(&PortIp::Learn) {
            image.flags |= SWITCH_LEARNS;
        }
        let carried = config.carried(&listed.port);
        let carried = carried.networks.iter();
        for segment in carried.filter_map(|network| segments.get(&network.network)) {
            for ip in &listed.port.ips {
                if let PortIp::Is(ip) = ip {
                    image.port_ips.entry((addr(*ip), *segment)).or_insert(slot);
                }
            }
        }
    }
}

fn is_link_local(ip: IpAddr) -> bool {
    matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local())
}

fn addr(ip: IpAddr) -> Addr {
    match ip {
        IpAddr::V4(ip) => mapped(ip.octets()),
        IpAddr::V6(ip) => ip.octets(),
    }
}
