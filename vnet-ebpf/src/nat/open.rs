//! Deciding the first packet of a connection: its destination, its route, its source; and taking the
//! connection on.

use vnet_common::{
    Addr, BindingKey, ContactKey, DropReason, EventKind, FlowRules, NO_SLOT, NatRule,
    flow::{
        FLOW_BLOCK, FLOW_BOUND, FLOW_CONTACT, FLOW_DNAT, FLOW_INSIDE, FLOW_PORT, FLOW_REPLY,
        FLOW_SNAT, FLOW_STATIC, is_v4,
    },
    nat::{BindingKind, NAT_ADF, NAT_APDF, NAT_OWN_ADDRESS, NAT_SYMMETRIC, NatKind, NatMatch},
    port::{PORT_GATEWAY, PORT_ISOLATED, PORT_NATED},
    switch::SWITCH_MID_STREAM,
};

use super::{
    Outcome, Tell,
    close::evict,
    host::uses,
    ports,
    rules::{is_within, look_up, nth_addr, replace_prefix, spread},
    wayout::{find_port, mtu_of, stack_slot},
};
use crate::{
    bytes::zero,
    decide::Plan,
    flow::{
        state,
        table::{Inserted, NO_FLOW, remove, tag_of},
    },
    gateway::{FlowCount, Gateway, HostSocket, RouteKind, Work},
    ip::{Icmp, has_ports},
    limit, policy,
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
fn untranslated<G: Gateway + ?Sized>(work: &mut Work, gateway: &G) -> Outcome {
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

/// Whether a connection may begin with the packet.
#[inline(always)]
pub fn may_begin<G: Gateway + ?Sized>(work: &Work, gateway: &G) -> Outcome {
    let flags = gateway
        .switch()
        .map_or(0, |conf| conf.flags[(work.generation & 1) as usize]);
    // Routed without translation, a connection may have been there before the gateway.
    let translated = work.flags & (FLOW_SNAT | FLOW_DNAT) != 0;
    if state::begins(&work.ip) || !translated || flags & SWITCH_MID_STREAM != 0 {
        Outcome::GO_ON
    } else {
        Outcome::drop(DropReason::NatMidStream)
    }
}

/// Fills what of both entries security groups judge, before anything is taken for the connection.
#[inline(always)]
pub fn prepare<G: Gateway + ?Sized>(work: &mut Work, plan: &Plan, gateway: &G) {
    // A DHCP server is in the network, or answers by a relay that is.
    work.exempt_out = false;
    work.exempt_in = false;
    work.not_ip = false;
    let Work {
        ip, forward, reply, ..
    } = work;
    zero(forward);
    zero(reply);
    forward.key = ip.key;
    forward.via = work.via;
    forward.next_hop = work.route.next_hop;
    reply.key.src = work.target;
    reply.key.dst = work.source;
    reply.key.sport = work.target_port;
    reply.key.dport = work.source_port;
    reply.key.segment = work.out_segment;
    reply.key.proto = ip.key.proto;
    reply.slot = plan.port.slot;
    find_port(gateway, work.generation, &mut work.forward);
    work.to = work.forward.slot;
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
fn internal_key(work: &mut Work) {
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

/// Reports an event about the packet's connection.
#[inline(always)]
pub fn report<G: Gateway + ?Sized>(work: &mut Work, kind: EventKind, gateway: &G) {
    let event = &mut work.event;
    zero(event);
    event.time_ns = gateway.now_ns();
    event.kind = kind as u32;
    event.slot = work.owner;
    event.segment = work.ip.key.segment;
    event.flow = work.ip.key;
    // Where it leads, for what came in by a forward.
    if work.source_rule == 0 {
        event.nat_addr = work.target;
        event.nat_port = work.target_port;
        event.rule = work.target_rule;
    } else {
        event.nat_addr = work.source;
        event.nat_port = work.source_port;
        event.rule = work.source_rule;
    }
    gateway.report(&work.event);
}

/// Gives back what [`map_source`] and [`limit::hold`] took, when the connection is not taken on after all.
#[inline(always)]
pub fn give_back<G: Gateway + ?Sized>(work: &mut Work, gateway: &G) {
    limit::give_back(work, gateway);
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

/// Whether there is room for another connection. Before its entries are filled: ending another one uses
/// their place.
#[inline(always)]
pub fn find_room<G: Gateway + ?Sized>(work: &mut Work, gateway: &G) -> Outcome {
    let Some(conf) = gateway.switch() else {
        return Outcome::drop(DropReason::PortUnknown);
    };
    // Those that it began: with the others, anybody outside could use it up.
    if work.inside && gateway.owner_count(work.owner) >= conf.flow_quota {
        report(work, EventKind::FlowQuota, gateway);
        return Outcome::refuse(DropReason::NatQuota, Tell::Prohibited);
    }
    if gateway.flow_count() >= conf.flow_limit && !evict(work, gateway) {
        report(work, EventKind::FlowTableFull, gateway);
        return Outcome::refuse(DropReason::NatTableFull, Tell::Prohibited);
    }
    Outcome::GO_ON
}

/// Takes the connection on: both entries, its mappings' contacts, its counters.
#[inline(always)]
pub fn enter<G: Gateway + ?Sized>(work: &mut Work, plan: &Plan, gateway: &G) -> Outcome {
    let Some(via) = gateway.port(work.generation, work.via) else {
        return Outcome::drop(DropReason::IpNoRoute);
    };
    let now_s = gateway.now_s();
    fill(work, plan, plan.epoch, now_s);
    work.forward.rule_print = print_of(work, work.forward.rule, gateway);
    work.reply.rule_print = print_of(work, work.reply.rule, gateway);
    work.forward.mtu = mtu_of(gateway, work.generation, via, work.route.mtu);
    find_port(gateway, work.generation, &mut work.forward);
    if work.forward.slot != work.to && policy::polices(work.generation, gateway) {
        // Learned since it was judged: to be judged again.
        work.forward.epoch = plan.epoch.wrapping_sub(1);
    }
    let back = gateway.port(work.generation, plan.port.slot);
    work.reply.mtu = back.map_or(1500, |back| mtu_of(gateway, work.generation, back, 0));
    let owner = if work.inside {
        plan.port.slot
    } else {
        work.forward.slot
    };
    work.forward.owner = owner;
    work.reply.owner = owner;
    Outcome::GO_ON
}

#[inline(always)]
fn print_of<G: Gateway + ?Sized>(work: &Work, rule: u16, gateway: &G) -> u16 {
    gateway
        .nat_rule(work.generation, rule)
        .map_or(0, |rule| rule.print)
}

/// Puts both entries into the table.
#[inline(always)]
pub fn put<G: Gateway + ?Sized>(work: &mut Work, gateway: &G) -> Outcome {
    if work.forward.key == work.reply.key {
        return put_alone(work, gateway);
    }
    let back = match gateway.insert_flow(work, true) {
        Inserted::At(index) => index,
        Inserted::Exists => return Outcome::drop(DropReason::NatPortsExhausted),
        Inserted::Full => return Outcome::drop(DropReason::NatTableFull),
    };
    work.forward.peer = back;
    let tag = tag_of(gateway, back);
    let forth = match gateway.insert_flow(work, false) {
        Inserted::At(index) => index,
        other => {
            remove(gateway, back, tag);
            return Outcome::drop(if matches!(other, Inserted::Full) {
                DropReason::NatTableFull
            } else {
                DropReason::NatMidStream
            });
        }
    };
    // Until now nobody could end it.
    if let Some(reply) = gateway.flow(back) {
        // SAFETY: the table's own entry; one aligned word.
        unsafe { core::ptr::write_volatile(&raw mut (*reply).peer, forth) };
    }
    work.index = forth;
    Outcome::GO_ON
}

/// Puts the one entry of a VM that sends to its own mapping into the table: what it sends and what
/// comes back to it looks the same.
#[inline(always)]
fn put_alone<G: Gateway + ?Sized>(work: &mut Work, gateway: &G) -> Outcome {
    let index = match gateway.insert_flow(work, false) {
        Inserted::At(index) => index,
        Inserted::Exists => return Outcome::drop(DropReason::NatMidStream),
        Inserted::Full => return Outcome::drop(DropReason::NatTableFull),
    };
    if let Some(entry) = gateway.flow(index) {
        // SAFETY: the table's own entry; one aligned word.
        unsafe { core::ptr::write_volatile(&raw mut (*entry).peer, index) };
    }
    work.index = index;
    Outcome::GO_ON
}

/// Counts and reports a connection that is in the table.
#[inline(always)]
pub fn count<G: Gateway + ?Sized>(work: &mut Work, gateway: &G) {
    gateway.add_flow_count(1);
    if work.forward.flags & FLOW_INSIDE != 0 {
        gateway.add_owner_count(work.forward.owner, 1);
    }
    gateway.count_flow(FlowCount::Created, 0);
    if work.rules != FlowRules::default() {
        work.first = work.index;
        policy::judge::store_rules(work, gateway);
    }
}

/// Books a connection that is in the table.
#[inline(always)]
pub fn book<G: Gateway + ?Sized>(work: &mut Work, gateway: &G) -> Outcome {
    count(work, gateway);
    if work.forward.rule != 0 {
        gateway.count_flow(FlowCount::Hit, work.forward.rule);
    }
    if work.reply_flags & FLOW_BOUND != 0 && !hold_bound(work, gateway) {
        // It went this moment; its connection goes with it.
        work.tag = tag_of(gateway, work.index);
        gateway.close(work);
        return Outcome::drop(DropReason::NatNoMapping);
    }
    report(work, EventKind::FlowNew, gateway);
    Outcome::SEND
}

/// Holds the mapping that lets a stranger in, for the connection that it made. When it went meanwhile,
/// nothing of it is held, nor said to be. A function of its own, for the sake of a program's stack.
#[inline(never)]
fn hold_bound<G: Gateway + ?Sized>(work: &mut Work, gateway: &G) -> bool {
    let key = &work.ip.key;
    let external = BindingKey {
        addr: key.dst,
        port: key.dport,
        proto: key.proto,
        kind: BindingKind::External as u8,
        ..BindingKey::default()
    };
    work.binding_key = BindingKey {
        addr: work.target,
        port: work.target_port,
        segment: work.out_segment,
        proto: key.proto,
        kind: BindingKind::Internal as u8,
        rule: work.target_rule,
    };
    if gateway.binding_hold(&work.binding_key, None, &mut work.found) {
        if gateway.binding_hold(&external, None, &mut work.found) {
            return true;
        }
        if gateway.binding_release(&work.binding_key, &external.addr, external.port) {
            gateway.count_flow(FlowCount::PortReleased, work.target_rule);
        }
    }
    let reply = gateway
        .flow(work.index)
        // SAFETY: the table's own entries.
        .and_then(|entry| gateway.flow(unsafe { (*entry).peer }));
    if let Some(reply) = reply {
        // SAFETY: as above.
        unsafe { (*reply).flags &= !FLOW_BOUND };
    }
    false
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

/// Fills both entries, all but the way out of the first. Field by field: a program's stack has no room
/// for an entry.
#[inline(always)]
fn fill(work: &mut Work, plan: &Plan, epoch: u32, now_s: u32) {
    let Work {
        ip,
        forward,
        reply,
        route,
        target,
        source,
        flags,
        reply_flags,
        ..
    } = work;
    let first = state::first(ip);
    let flags = *flags;
    zero(forward);
    forward.key = ip.key;
    forward.addr = if flags & FLOW_DNAT != 0 {
        *target
    } else {
        *source
    };
    forward.sport = work.source_port;
    forward.dport = work.target_port;
    forward.next_hop = route.next_hop;
    forward.via = work.via;
    forward.rule = if work.source_rule != 0 {
        work.source_rule
    } else {
        work.target_rule
    };
    forward.flags = flags;
    forward.state = first;
    forward.marks = state::first_marks(ip);
    forward.epoch = epoch;
    forward.seen_s = now_s;
    forward.resolved_s = now_s;
    forward.created_s = now_s;

    let mut back = *reply_flags | (flags & FLOW_STATIC);
    if flags & FLOW_SNAT != 0 {
        back |= FLOW_DNAT;
    }
    if flags & FLOW_DNAT != 0 {
        back |= FLOW_SNAT;
    }
    zero(reply);
    // Nobody can end it before it names the other one.
    reply.peer = NO_FLOW;
    forward.peer = NO_FLOW;
    reply.key.src = *target;
    reply.key.dst = *source;
    reply.key.sport = work.target_port;
    reply.key.dport = work.source_port;
    reply.key.segment = work.out_segment;
    reply.key.proto = ip.key.proto;
    reply.addr = if flags & FLOW_SNAT != 0 {
        ip.key.src
    } else {
        ip.key.dst
    };
    reply.sport = ip.key.dport;
    reply.dport = ip.key.sport;
    reply.next_hop = plan.frame.src;
    reply.via = work.at;
    reply.slot = plan.port.slot;
    reply.vid = plan.frame.tag.vid();
    // The one whose mapping it holds.
    reply.rule = if back & FLOW_BOUND != 0 {
        work.target_rule
    } else {
        forward.rule
    };
    reply.flags = back;
    reply.state = first;
    reply.epoch = epoch;
    reply.seen_s = now_s;
    // The way back of what came from outside is the host's to know.
    reply.resolved_s = if work.inside { now_s } else { 0 };
    reply.created_s = now_s;
}
