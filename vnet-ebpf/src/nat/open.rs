//! Taking a connection on: whether it may begin, its entries, its counts.

use vnet_common::{
    BindingKey, DropReason, EventKind, FlowRules,
    flow::{FLOW_BOUND, FLOW_DNAT, FLOW_INSIDE, FLOW_SNAT, FLOW_STATIC, KEY_BRIDGED},
    nat::BindingKind,
    switch::SWITCH_MID_STREAM,
};

use super::{
    Outcome, Tell,
    wayout::{find_port, mtu_of},
};
use crate::{
    bytes::zero,
    decide::Plan,
    flow::{
        state,
        table::{Inserted, NO_FLOW, places, remove, tag_of},
    },
    gateway::{FlowCount, Gateway, Work},
    policy,
};

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

/// Whether there is room for another connection. Before its entries are filled: ending another one uses
/// their place.
#[inline(always)]
pub fn find_room<G: Gateway + ?Sized>(work: &mut Work, gateway: &G) -> Outcome {
    let Some(conf) = gateway.switch() else {
        return Outcome::drop(DropReason::PortUnknown);
    };
    // Those that it began: with the others, anybody outside could use it up.
    if work.inside && gateway.owner_count(work.owner) >= conf.flow_quota {
        report_refused(work, EventKind::FlowQuota, gateway);
        return Outcome::refuse(DropReason::NatQuota, Tell::Prohibited);
    }
    work.key = work.ip.key;
    if gateway.flow_count() >= conf.flow_limit && !gateway.evict(work, true) {
        report_refused(work, EventKind::FlowTableFull, gateway);
        return Outcome::refuse(DropReason::NatTableFull, Tell::Prohibited);
    }
    Outcome::GO_ON
}

/// [`report`], as a function of its own, for the sake of a program's stack.
#[inline(never)]
fn report_refused<G: Gateway + ?Sized>(work: &mut Work, kind: EventKind, gateway: &G) {
    report(work, kind, gateway);
}

/// Ends connections without an answer where the buckets of one of the two entries are full, though the
/// table is not: of a table that is filled to its limit again and again some are. Before the entries are
/// filled, as with [`find_room`].
#[inline(always)]
pub fn make_way<G: Gateway + ?Sized>(work: &mut Work, gateway: &G) {
    let limit = gateway.switch().map_or(0, |conf| conf.flow_limit);
    if gateway.flow_count() < limit - limit / 8 {
        return;
    }
    work.key = work.ip.key;
    make_place(work, gateway);
    work.key = work.ip.key.reversed();
    if work.key.kind != KEY_BRIDGED {
        work.key.src = work.target;
        work.key.dst = work.source;
        work.key.sport = work.target_port;
        work.key.dport = work.source_port;
        work.key.segment = work.out_segment;
    }
    make_place(work, gateway);
}

/// Makes a place for an entry with the key `work.key`.
#[inline(always)]
fn make_place<G: Gateway + ?Sized>(work: &mut Work, gateway: &G) {
    let buckets = places(gateway, &work.key).buckets;
    let free = gateway.count_tag(buckets[0], 0)
        + gateway.count_tag(buckets[1], 0)
        + gateway.count_tag(buckets[2], 0);
    // One of them may be the other entry's, too.
    if free < 2 {
        gateway.evict(work, false);
    }
    if free == 0 {
        gateway.evict(work, false);
    }
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
