//! Where the packet that begins a connection is to go: its destination behind forwards, one-to-one
//! addresses and mappings, and its route.

use vnet_common::{
    BindingKey, DropReason, NO_SLOT,
    flow::{FLOW_BOUND, FLOW_DNAT, FLOW_INSIDE, FLOW_REPLY, FLOW_STATIC},
    nat::{BindingKind, NAT_ADF, NAT_APDF, NAT_OWN_ADDRESS, NAT_SYMMETRIC, NatKind, NatMatch},
    port::{PORT_GATEWAY, PORT_ISOLATED},
};

use super::{
    Outcome,
    host::uses,
    rules::{is_within, look_up, replace_prefix},
    source::{set_contact_key, untranslated},
    wayout::stack_slot,
};
use crate::{
    decide::Plan,
    gateway::{Gateway, HostSocket, RouteKind, Work},
    ip::{Icmp, has_ports},
    policy,
    tables::UNGUARDED,
};

/// Decides where the packet is to go: to a VM behind a forward, a one-to-one address or a mapping, or
/// where it says.
#[inline(always)]
pub fn find_target<G: Gateway + ?Sized>(work: &mut Work, gateway: &G) -> Outcome {
    let key = &work.ip.key;
    // What is routed on comes from the host, whose DHCP server's answers ports learn from.
    let answers = policy::is_dhcp_answer(key);
    if work.inside && answers && gateway.learns(work.generation) {
        return Outcome::drop(DropReason::DhcpServer);
    }
    if work.inside && policy::polices(work.generation, gateway) {
        // The host may send it on, and it would seem to be whose address it has.
        let owner = gateway.ip_owner(work.generation, key.segment, &key.src);
        if owner != NO_SLOT && owner != work.owner {
            return Outcome::drop(DropReason::IpConflict);
        }
    }
    work.target = key.dst;
    work.target_port = key.dport;
    work.target_rule = 0;
    work.source_rule = 0;
    work.inside_slot = 0;
    work.flags = if work.inside { FLOW_INSIDE } else { 0 };
    work.reply_flags = FLOW_REPLY;
    if has_ports(key.proto) {
        let scope = u16::from(key.proto);
        let id = look_up(
            gateway,
            work.generation,
            NatMatch::Listen,
            scope,
            &key.dst,
            key.dport,
        );
        if let Some(id) = id
            && let Some(rule) = gateway.nat_rule(work.generation, id as u16)
            && matches!(rule.kind, NatKind::Dnat)
            && (rule.via == 0 || work.inside || rule.via == work.at)
            && is_within(&key.src, &rule.from, rule.from_len)
        {
            // What the host itself has begun from one of those ports is answered to the host.
            if !work.inside
                && rule.flags & NAT_OWN_ADDRESS != 0
                && gateway.host_socket(key) == HostSocket::Connected
            {
                return Outcome::STACK;
            }
            work.target = rule.internal;
            work.target_port = if rule.to_lo == rule.to_hi {
                rule.to_lo
            } else {
                rule.to_lo
                    .wrapping_add(key.dport.wrapping_sub(rule.port_lo))
            };
            work.target_rule = id as u16;
            work.inside_slot = rule.inside;
            work.flags |= FLOW_DNAT;
            return Outcome::GO_ON;
        }
    }
    let id = look_up(gateway, work.generation, NatMatch::Static, 0, &key.dst, 0);
    if let Some(id) = id
        && let Some(rule) = gateway.nat_rule(work.generation, id as u16)
        && matches!(rule.kind, NatKind::Static)
        && (rule.via == 0 || work.inside || rule.via == work.at)
    {
        replace_prefix(rule, false, &key.dst, &mut work.target);
        work.target_rule = id as u16;
        work.inside_slot = rule.inside;
        work.flags |= FLOW_DNAT | FLOW_STATIC;
        return Outcome::GO_ON;
    }
    Outcome::GO_ON
}

/// Decides whether the packet is for a mapping that its destination stands for, and may use it.
#[inline(always)]
pub fn find_mapping<G: Gateway + ?Sized>(work: &mut Work, gateway: &G) -> Outcome {
    let key = work.ip.key;
    if work.flags & FLOW_DNAT != 0 || !(has_ports(key.proto) || matches!(work.ip.icmp, Icmp::Reply))
    {
        return Outcome::GO_ON;
    }
    work.binding_key = BindingKey {
        addr: key.dst,
        port: key.dport,
        proto: key.proto,
        kind: BindingKind::External as u8,
        ..BindingKey::default()
    };
    if !gateway.binding_look(&work.binding_key, &mut work.binding) {
        return Outcome::GO_ON;
    }
    let Some(rule) = gateway.nat_rule(work.generation, work.binding.rule) else {
        return Outcome::GO_ON;
    };
    if rule.print != work.binding.rule_print {
        return Outcome::GO_ON;
    }
    let own = rule.flags & NAT_OWN_ADDRESS != 0;
    // What is not for the mapping may be for a socket of the host.
    let refused = if own {
        Outcome::STACK
    } else {
        Outcome::drop(DropReason::NatFiltered)
    };
    // The host's own come first, whoever asks, also where they came after the mapping.
    if own && (gateway.host_socket(&key) != HostSocket::None || uses(key.dport, key.proto, gateway))
    {
        return Outcome::STACK;
    }
    // A port of one connection is for that one alone.
    if rule.flags & NAT_SYMMETRIC != 0 || matches!(rule.kind, NatKind::Dnat | NatKind::Static) {
        return refused;
    }
    // Filtering keeps out who is outside. Between VMs it would keep out what each of them asks the
    // other for by its external address, since neither has been let in first.
    if !work.inside {
        if rule.flags & NAT_APDF != 0 {
            return refused;
        }
        let met = work.binding.count != 0 && work.binding.remote == key.src;
        if rule.flags & NAT_ADF != 0 && !met {
            set_contact_key(
                &mut work.contact_key,
                &key.dst,
                key.dport,
                key.proto,
                &key.src,
            );
            if !gateway.contact_look(&work.contact_key) {
                return refused;
            }
        }
    }
    let mapping = &work.binding;
    work.target = mapping.addr;
    work.target_port = mapping.port;
    work.target_rule = mapping.rule;
    work.inside_slot = mapping.inside;
    work.flags |= FLOW_DNAT;
    work.reply_flags |= FLOW_BOUND;
    Outcome::GO_ON
}

/// Decides by which port's stack the packet leaves.
#[inline(always)]
pub fn find_route<G: Gateway + ?Sized>(work: &mut Work, plan: &Plan, gateway: &G) -> Outcome {
    let translated = work.flags & FLOW_DNAT != 0;
    if !work.inside && !translated {
        // What comes in from outside and is nobody's here is the host's, unless it is for an
        // address that the host does not hold.
        let answered = look_up(
            gateway,
            work.generation,
            NatMatch::Answer,
            work.at,
            &work.ip.key.dst,
            0,
        );
        if answered.is_some() {
            return Outcome::drop(DropReason::NatNoMapping);
        }
        // Whom nobody can reach from outside is not reached by a route around the translation either,
        // when the host forwards.
        return if gateway.guarded(work.generation, &work.ip.key.dst) != UNGUARDED {
            Outcome::drop(DropReason::NatUntranslated)
        } else {
            Outcome::STACK
        };
    }
    let ask = if work.inside {
        work.at
    } else {
        work.inside_slot
    };
    let Some(ask) = gateway.port(work.generation, ask) else {
        return Outcome::drop(DropReason::IpNoRoute);
    };
    work.key = work.ip.key;
    work.key.dst = work.target;
    work.key.dport = work.target_port;
    gateway.route(ask.ifindex, &work.key, &mut work.route);
    // Not forwarded: the host's own, or no route, which the host's stack says better.
    let elsewhere = if translated {
        Outcome::drop(DropReason::IpNoRoute)
    } else {
        Outcome::STACK
    };
    if !matches!(work.route.kind, RouteKind::Out) {
        return elsewhere;
    }
    // An interface that is none of the switch's is the host's business, but not with a source that
    // is to be translated.
    let Some(slot) = stack_slot(gateway, work.generation, work.route.ifindex) else {
        return if translated {
            elsewhere
        } else {
            untranslated(work, gateway)
        };
    };
    let Some(via) = gateway.port(work.generation, slot) else {
        return elsewhere;
    };
    // The gateway is no way around to other VMs.
    if plan.port.flags & PORT_ISOLATED != 0 && via.flags & PORT_GATEWAY != 0 {
        return Outcome::drop(DropReason::PortIsolated);
    }
    // Back into the network that it came from: the host tells the VM that there is a shorter way.
    if slot == work.at && !translated {
        return Outcome::STACK;
    }
    work.via = slot;
    work.to_inside = via.flags & PORT_GATEWAY != 0;
    work.out_segment = via.native_segment;
    if work.to_inside {
        work.reply_flags |= FLOW_INSIDE;
    } else if translated {
        // A forward that leads out again.
        return Outcome::drop(DropReason::IpNoRoute);
    }
    Outcome::GO_ON
}
