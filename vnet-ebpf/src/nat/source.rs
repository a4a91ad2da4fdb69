//! Whose address and port the packet that begins a connection leaves with: the rule, the mapping and
//! what it holds.

use vnet_common::{
    Addr, ContactKey, DropReason, EventKind, NatRule,
    flow::{
        FLOW_BLOCK, FLOW_BOUND, FLOW_CONTACT, FLOW_DNAT, FLOW_PORT, FLOW_SNAT, FLOW_STATIC, is_v4,
    },
    nat::{BindingKind, NAT_ADF, NAT_OWN_ADDRESS, NAT_SYMMETRIC, NatKind, NatMatch},
    port::PORT_NATED,
};

use super::{
    Outcome, Tell,
    open::report,
    ports,
    rules::{is_within, look_up, nth_addr, replace_prefix, spread},
};
use crate::{
    decide::Plan,
    gateway::{FlowCount, Gateway, HostSocket, RouteKind, Work},
    ip::{Icmp, has_ports},
    limit,
    tables::UNGUARDED,
};

/// Decides whose address the packet leaves with.
#[inline(always)]
pub fn find_source<G: Gateway + ?Sized>(work: &mut Work, gateway: &G) -> Outcome {
    work.source = work.ip.key.src;
    work.source_port = work.ip.key.sport;
    if work.to_inside && (!work.inside || work.flags & FLOW_DNAT == 0) {
        return Outcome::GO_ON;
    }
    // Out to the world, or back in through an external address (hairpinning, RFC 4787, REQ-9): there
    // the source is mapped as on the way that the external address belongs to.
    let scope = if work.to_inside {
        match gateway.nat_rule(work.generation, work.target_rule) {
            Some(rule) => rule.via,
            None => 0,
        }
    } else {
        work.via
    };
    let id = look_up(
        gateway,
        work.generation,
        NatMatch::Source,
        scope,
        &work.ip.key.src,
        0,
    );
    let id = match id {
        Some(id) => id as u16,
        None if work.to_inside => work.target_rule,
        None => return untranslated(work, gateway),
    };
    work.source_rule = id;
    let Some(rule) = gateway.nat_rule(work.generation, id) else {
        return untranslated(work, gateway);
    };
    let mapped_by = is_within(&work.ip.key.src, &rule.internal, rule.prefix_len);
    if matches!(rule.kind, NatKind::Dnat) || (matches!(rule.kind, NatKind::Static) && !mapped_by) {
        // The rule is about where it leads: the source becomes the address that was asked for, with a
        // port of its own, so that the answers come back this way.
        work.source = work.ip.key.dst;
        work.borrowed = true;
        work.flags |= FLOW_SNAT;
        return Outcome::GO_ON;
    }
    external_addr(rule, &work.ip.key.src, &work.ip.key.dst, &mut work.source);
    match rule.kind {
        NatKind::Static => {
            work.flags |= FLOW_SNAT | FLOW_STATIC;
            return Outcome::GO_ON;
        }
        // The uplink's address as it is now, where the host tells it.
        NatKind::Masquerade if !work.to_inside && work.route.src != [0; 16] => {
            work.source = work.route.src;
            // An uplink without an address of its own: the host would send from another one, and
            // that one is a gateway's.
            if gateway.guarded(work.generation, &work.route.src) != UNGUARDED {
                return untranslated(work, gateway);
            }
        }
        NatKind::Masquerade | NatKind::Snat => {}
        NatKind::Dnat | NatKind::Unused => return untranslated(work, gateway),
    }
    if work.source == [0; 16] {
        return untranslated(work, gateway);
    }
    work.flags |= FLOW_SNAT;
    Outcome::GO_ON
}

/// The address that a rule gives to a source, as the configuration knows it; `dst` is the external
/// address that it sends to.
#[inline(always)]
fn external_addr(rule: &NatRule, src: &Addr, dst: &Addr, external: &mut Addr) {
    match rule.kind {
        NatKind::Static => replace_prefix(rule, true, src, external),
        NatKind::Snat => *external = nth_addr(&rule.external, spread(src, rule.pool_size)),
        NatKind::Masquerade => {
            *external = if is_v4(src) {
                rule.external
            } else {
                rule.internal
            };
            if *external == [0; 16] {
                *external = *dst;
            }
        }
        _ => *external = *dst,
    }
}

/// From a network that is translated nothing leaves as it is; others are the host's to forward.
#[inline(always)]
pub fn untranslated<G: Gateway + ?Sized>(work: &mut Work, gateway: &G) -> Outcome {
    let nated = gateway
        .port(work.generation, work.at)
        .is_some_and(|at| at.flags & PORT_NATED != 0);
    let guarded = look_up(
        gateway,
        work.generation,
        NatMatch::Guard,
        0,
        &work.ip.key.src,
        0,
    );
    if nated || guarded.is_some() {
        return Outcome::refuse(DropReason::NatUntranslated, Tell::Prohibited);
    }
    // A source that does not live in the network is not routed on either (RFC 3704, 2.2).
    let Some(at) = gateway.port(work.generation, work.at) else {
        return Outcome::STACK;
    };
    work.key = work.ip.key.reversed();
    gateway.route(at.ifindex, &work.key, &mut work.route);
    if matches!(work.route.kind, RouteKind::Out) && work.route.ifindex == at.ifindex {
        Outcome::STACK
    } else {
        Outcome::drop(DropReason::NatUntranslated)
    }
}

/// Finds or makes the mapping of the packet's source.
#[inline(always)]
pub fn map_source<G: Gateway + ?Sized>(work: &mut Work, gateway: &G) -> Outcome {
    if work.flags & FLOW_SNAT == 0 {
        return Outcome::GO_ON;
    }
    let Some(rule) = gateway.nat_rule(work.generation, work.source_rule) else {
        return Outcome::drop(DropReason::NatUntranslated);
    };
    // One to one, or a protocol without ports: the address alone.
    if (matches!(rule.kind, NatKind::Static) && !work.borrowed) || !has_own_ports(work) {
        return Outcome::GO_ON;
    }
    let exhausted = Outcome::refuse(DropReason::NatPortsExhausted, Tell::Prohibited);
    let symmetric = rule.flags & NAT_SYMMETRIC != 0 || work.borrowed;
    work.alone = symmetric;
    let binding = &mut work.binding;
    binding.addr = work.ip.key.src;
    binding.port = work.ip.key.sport;
    binding.rule = work.source_rule;
    binding.rule_print = rule.print;
    binding.refs = 1;
    binding.inside = work.at;
    // Whom it sends to first, for address-dependent filtering: mostly there is nobody else.
    binding.remote = work.ip.key.dst;
    binding.count = u32::from(rule.flags & NAT_ADF != 0 && !symmetric);
    if symmetric {
        // A port of its own, so that every remote end sees another one.
        let port = ports::take(work, rule, gateway);
        if port == 0 {
            report_exhausted(work, gateway);
            return exhausted;
        }
        gateway.count_flow(FlowCount::PortTaken, work.source_rule);
        work.source_port = port;
        work.flags |= FLOW_PORT;
        return Outcome::GO_ON;
    }
    internal_key(work);
    if gateway.binding_hold(&work.binding_key, None, &mut work.found) {
        let port = work.found.port;
        // Led back inside, the address is whatever the mapping has.
        if work.to_inside {
            work.source = work.found.addr;
        }
        if work.found.addr == work.source && work.found.rule_print == rule.print {
            ports::reply_key(work, port);
            if rule.flags & NAT_OWN_ADDRESS != 0
                && gateway.host_socket(&work.key) == HostSocket::Connected
            {
                // The host talks to that very remote end from that very port.
                if gateway.binding_release(&work.binding_key, &work.found.addr, port) {
                    gateway.count_flow(FlowCount::PortReleased, work.source_rule);
                }
                report_exhausted(work, gateway);
                return exhausted;
            }
            external_key(work, port);
            let contact = if work.binding.count != 0 {
                Some(&work.ip.key.dst)
            } else {
                None
            };
            if gateway.binding_hold(&work.binding_key, contact, &mut work.found) {
                work.source_port = port;
                work.flags |= FLOW_BOUND;
                if work.binding.count != 0 && work.found.remote == work.ip.key.dst {
                    work.flags |= FLOW_CONTACT;
                }
                return Outcome::GO_ON;
            }
            // Its other half went this moment, and it goes too.
            internal_key(work);
            if gateway.binding_release(&work.binding_key, &work.source, port) {
                gateway.count_flow(FlowCount::PortReleased, work.source_rule);
            }
            return Outcome::drop(DropReason::NatTableFull);
        }
        // The external address became another one, or the rule did: the connections that it is for
        // end with their next packets, and new ones take a new mapping.
        gateway.binding_forget(&work.binding_key);
        gateway.count_flow(FlowCount::PortReleased, work.source_rule);
    }
    let port = ports::take(work, rule, gateway);
    if port == 0 && work.search.raced != 0 {
        return Outcome::drop(DropReason::NatTableFull);
    }
    if port == 0 {
        report_exhausted(work, gateway);
        return exhausted;
    }
    work.source_port = port;
    internal_key(work);
    work.binding.addr = work.source;
    work.binding.port = port;
    work.binding.remote = [0; 16];
    if work.binding.count != 0 {
        work.flags |= FLOW_CONTACT;
        work.binding.count = 0;
    }
    if !gateway.binding_add(&work.binding_key, &work.binding) {
        // Another CPU made the mapping meanwhile, or there is no room.
        external_key(work, port);
        gateway.binding_release(&work.binding_key, &work.ip.key.src, work.ip.key.sport);
        return Outcome::drop(DropReason::NatTableFull);
    }
    gateway.count_flow(FlowCount::PortTaken, work.source_rule);
    work.flags |= FLOW_BOUND;
    Outcome::GO_ON
}

/// Holds or takes the source's block of ports.
#[inline(always)]
pub fn find_block<G: Gateway + ?Sized>(work: &mut Work, gateway: &G) -> Outcome {
    if work.flags & FLOW_SNAT == 0 || !has_own_ports(work) || ports::hold_block(work, gateway) {
        return Outcome::GO_ON;
    }
    report_exhausted(work, gateway);
    Outcome::refuse(DropReason::NatPortsExhausted, Tell::Prohibited)
}

/// Whether the packet has ports that a mapping chooses.
#[inline(always)]
const fn has_own_ports(work: &Work) -> bool {
    has_ports(work.ip.key.proto) || matches!(work.ip.icmp, Icmp::Request)
}

/// Writes the key of the source's mapping. Field by field, as below: a program's stack is short.
#[inline(always)]
pub fn internal_key(work: &mut Work) {
    let key = &mut work.binding_key;
    key.addr = work.ip.key.src;
    key.port = work.ip.key.sport;
    key.segment = work.ip.key.segment;
    key.proto = work.ip.key.proto;
    key.kind = BindingKind::Internal as u8;
    key.rule = work.source_rule;
}

/// Writes the key of the source's mapping seen from outside.
#[inline(always)]
pub fn external_key(work: &mut Work, port: u16) {
    let key = &mut work.binding_key;
    key.addr = work.source;
    key.port = port;
    key.segment = 0;
    key.proto = work.ip.key.proto;
    key.kind = BindingKind::External as u8;
    key.rule = 0;
}

#[inline(always)]
fn report_exhausted<G: Gateway + ?Sized>(work: &mut Work, gateway: &G) {
    gateway.count_flow(FlowCount::Exhausted, work.source_rule);
    report(work, EventKind::PortsExhausted, gateway);
}

/// Gives back what [`map_source`] and [`limit::hold`] took, when the connection is not taken on after all.
#[inline(always)]
pub fn give_back<G: Gateway + ?Sized>(work: &mut Work, plan: &Plan, gateway: &G) {
    limit::give_back(work, plan, gateway);
    if work.flags & FLOW_BLOCK != 0 {
        let key = &work.ip.key;
        let of = (key.src, key.segment, work.source_rule, work.owner);
        ports::release_block(work, of, gateway);
    }
    if work.flags & (FLOW_BOUND | FLOW_PORT) == 0 {
        return;
    }
    let (port, key) = (work.source_port, work.ip.key);
    if work.flags & FLOW_PORT != 0 {
        gateway.count_flow(FlowCount::PortReleased, work.source_rule);
    } else {
        internal_key(work);
        if gateway.binding_release(&work.binding_key, &work.source, port) {
            gateway.count_flow(FlowCount::PortReleased, work.source_rule);
        }
    }
    external_key(work, port);
    if work.flags & FLOW_CONTACT == 0 {
        gateway.binding_release(&work.binding_key, &key.src, key.sport);
    } else if !gateway.binding_part(&work.binding_key, &key.src, key.sport, &key.dst) {
        contact_key(work);
        gateway.contact_release(&work.contact_key);
    }
}

/// Whether [`contact`] may have something to do.
#[inline(always)]
#[must_use]
pub const fn may_meet(work: &Work) -> bool {
    work.flags & (FLOW_BOUND | FLOW_CONTACT) == FLOW_BOUND
}

/// Notes whom the source's mapping sends to, for address-dependent filtering, when it is not whom it sent
/// to first.
#[inline(always)]
pub fn contact<G: Gateway + ?Sized>(work: &mut Work, gateway: &G) {
    let Some(rule) = gateway.nat_rule(work.generation, work.source_rule) else {
        return;
    };
    if rule.flags & NAT_ADF == 0 {
        return;
    }
    contact_key(work);
    if gateway.contact_hold(&work.contact_key) {
        work.flags |= FLOW_CONTACT;
        work.forward.flags |= FLOW_CONTACT;
    }
}

/// Writes the key of the source's mapping with the address that it sends to.
#[inline(always)]
fn contact_key(work: &mut Work) {
    let Work {
        contact_key,
        ip,
        source,
        source_port,
        ..
    } = work;
    // As the source knows it.
    let remote = &ip.key.dst;
    set_contact_key(contact_key, source, *source_port, ip.key.proto, remote);
}

/// Writes the key of a remote address that an external address and port has sent to.
#[inline(always)]
pub fn set_contact_key(key: &mut ContactKey, addr: &Addr, port: u16, proto: u8, remote: &Addr) {
    key.addr = *addr;
    key.remote = *remote;
    key.port = port;
    key.proto = proto;
    key.reserved = [0; 5];
}
