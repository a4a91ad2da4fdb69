//! Limits: how fast and how many connections a VM and a source may begin, and who is kept away for having
//! made too many (see [`vnet_common::limit`]).

use vnet_common::{
    DropReason, EventKind, FlowState, SourceKey,
    flow::{FLOW_INSIDE, FLOW_REPLY, FLOW_SOURCE, FLOW_WATCHED, KEY_BRIDGED, MARK_COUNTED, mapped},
    limit::{BAN_PORTS_EACH, Ban},
    nat::NatMatch,
    switch::SWITCH_BANS,
};

use crate::{
    bytes::word_at,
    decide::{Plan, is_stack},
    frame::Frame,
    gateway::{Gateway, Work},
    ip::{IPV4, IPV6, TCP_ACK, TCP_RST, TCP_SYN, proto},
    meta::Meta,
    nat::{Outcome, open::report, rules::look_up},
    tables::Tables,
    window::Window,
};

/// Whether whoever sent the frame is banned. A function of its own, for the sake of a program's stack.
#[inline(never)]
pub fn is_banned<W: Window + ?Sized, T: Tables + ?Sized>(
    frame: &Frame,
    window: &W,
    tables: &T,
    segment: u16,
    inside: bool,
) -> bool {
    if frame.inner_tag {
        return false;
    }
    let l3 = frame.payload_offset();
    let key = match frame.ether_type {
        IPV4 => match window.at::<4>(l3 + 12) {
            Some(v4) => SourceKey::new(&mapped(*v4), segment),
            None => return false,
        },
        IPV6 => match window.at::<32>(l3 + 8) {
            Some(ends) => of_v6(ends, segment, inside),
            None => return false,
        },
        _ => return false,
    };
    tables.banned_until(&key) > tables.now_s()
}

/// Who sends from the first of two IPv6 addresses to the second.
#[inline(always)]
fn of_v6(ends: &[u8; 32], segment: u16, inside: bool) -> SourceKey {
    let mut key = SourceKey::new(&[0; 16], segment);
    let mut i = 0;
    while i < 16 {
        key.addr[i] = ends[i];
        i += 1;
    }
    let elsewhere = (word_at(ends, 0) ^ word_at(ends, 16)) | (word_at(ends, 4) ^ word_at(ends, 20));
    if !inside && elsewhere != 0 {
        key.truncate();
    }
    key
}

/// Whether the packet is one of the host itself, which is trusted.
#[inline(always)]
const fn is_hosts_own(plan: &Plan, meta: &Meta) -> bool {
    is_stack(plan.port.kind) && !meta.forwarded
}

/// Whether the VM, and the source, may begin another connection now.
#[inline(always)]
pub fn may_begin<G: Gateway + ?Sized>(work: &mut Work, plan: &Plan, gateway: &G) -> Outcome {
    let Some(conf) = gateway.switch() else {
        return Outcome::GO_ON;
    };
    let interval_ns = conf.flow_interval_ns;
    if work.inside && interval_ns != 0 && !gateway.flow_take(work.owner, interval_ns) {
        report(work, EventKind::FlowRate, gateway);
        return Outcome::drop(if work.ip.key.kind == KEY_BRIDGED {
            DropReason::PolicyRate
        } else {
            DropReason::NatRate
        });
    }
    let (quota, interval_ns) = (conf.source_quota, conf.source_interval_ns);
    if quota == 0 && interval_ns == 0 || is_hosts_own(plan, &work.meta) {
        return Outcome::GO_ON;
    }
    work.source_key = SourceKey::of(&work.ip.key, work.inside);
    match gateway.source_take(&work.source_key, quota, interval_ns) {
        SourceSays::Yes => Outcome::GO_ON,
        SourceSays::TooFast => {
            report(work, EventKind::SourceRate, gateway);
            Outcome::drop(DropReason::SourceRate)
        }
        SourceSays::TooMany => {
            report(work, EventKind::SourceQuota, gateway);
            Outcome::drop(DropReason::SourceQuota)
        }
    }
}

/// What a source's limits say of another connection.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SourceSays {
    /// It may be.
    Yes = 0,
    /// It comes too soon after the others.
    TooFast = 1,
    /// It has as many as it may.
    TooMany = 2,
}

/// Counts the connection, whose entries are filled and not in the table yet, for its source, and notes
/// whether a rule counts it.
#[inline(always)]
pub fn hold<G: Gateway + ?Sized>(work: &mut Work, plan: &Plan, gateway: &G) {
    let Some(conf) = gateway.switch() else {
        return;
    };
    if is_hosts_own(plan, &work.meta) {
        return;
    }
    let (quota, interval_ns) = (conf.source_quota, conf.source_interval_ns);
    if quota != 0 || interval_ns != 0 {
        work.source_key = SourceKey::of(&work.ip.key, work.inside);
        if gateway.source_hold(&work.source_key, interval_ns) {
            work.held = true;
            work.forward.flags |= FLOW_SOURCE;
        }
    }
    let to_vm = if work.ip.key.kind == KEY_BRIDGED {
        work.reply.flags & FLOW_INSIDE != 0
    } else {
        work.to_inside
    };
    if conf.flags[(work.generation & 1) as usize] & SWITCH_BANS != 0
        && to_vm
        && work.ip.key.proto == proto::TCP
        && work.ip.tcp_flags & TCP_SYN != 0
        && rule_of(work.generation, work.forward.dport, gateway) != 0
    {
        work.forward.flags |= FLOW_WATCHED;
    }
}

/// The id of the rule for a destination port; 0 is none.
#[inline(always)]
fn rule_of<G: Gateway + ?Sized>(generation: u32, port: u16, gateway: &G) -> u8 {
    let place = u32::from(port) / BAN_PORTS_EACH;
    gateway.ban_ports(generation, place).map_or(0, |ports| {
        // The compiler knows that it is in range and drops the check; the verifier wants it.
        let i = core::hint::black_box(usize::from(port)) & (BAN_PORTS_EACH as usize - 1);
        ports.rules[i]
    })
}

/// Gives back what [`hold`] took, when the connection is not taken on after all.
#[inline(always)]
pub fn give_back<G: Gateway + ?Sized>(work: &mut Work, gateway: &G) {
    if work.held {
        work.held = false;
        work.source_key = SourceKey::of(&work.ip.key, work.inside);
        gateway.source_release(&work.source_key);
    }
}

/// The connection in `work.forward` has ended: its source has one less.
#[inline(always)]
pub fn end<G: Gateway + ?Sized>(work: &mut Work, gateway: &G) {
    let first = &work.forward;
    if first.flags & FLOW_SOURCE != 0 {
        work.source_key = SourceKey::of(&first.key, first.flags & FLOW_INSIDE != 0);
        gateway.source_release(&work.source_key);
    }
}

/// Counts the connection at `work.index` once its handshake is complete with the packet, and bans its
/// source when it has made too many. Only who gets the answers can acknowledge their sequence number
/// (RFC 9293, 3.5): nobody is banned for what others send in his name.
#[inline(always)]
pub fn watch<G: Gateway + ?Sized>(work: &mut Work, gateway: &G) -> Outcome {
    const SYN_RECEIVED: u8 = FlowState::SynReceived as u8;
    let Some(entry) = gateway.flow(work.index) else {
        return Outcome::GO_ON;
    };
    // SAFETY: the table's own entries, here and below; each field is one aligned word.
    let (flags, state, marks, peer) = unsafe {
        (
            (*entry).flags,
            (*entry).state,
            (*entry).marks,
            (*entry).peer,
        )
    };
    if flags & (FLOW_WATCHED | FLOW_REPLY) != FLOW_WATCHED
        || state != SYN_RECEIVED
        || marks & MARK_COUNTED != 0
        || work.ip.tcp_flags & (TCP_ACK | TCP_SYN | TCP_RST) != TCP_ACK
    {
        return Outcome::GO_ON;
    }
    let Some(peer) = gateway.flow(peer) else {
        return Outcome::GO_ON;
    };
    // SAFETY: as above.
    let port = unsafe {
        if work.ip.ack != (*peer).seq_end {
            return Outcome::GO_ON;
        }
        (*entry).marks = marks | MARK_COUNTED;
        (*entry).dport
    };
    count(work, port, gateway)
}

/// Counts a connection to a port.
#[inline(always)]
fn count<G: Gateway + ?Sized>(work: &mut Work, port: u16, gateway: &G) -> Outcome {
    let id = rule_of(work.generation, port, gateway);
    let Some(rule) = gateway.ban_rule(work.generation, id) else {
        return Outcome::GO_ON;
    };
    if rule.time_s == 0 {
        return Outcome::GO_ON;
    }
    let id = u16::from(id);
    work.source_key = SourceKey::of(&work.ip.key, work.inside);
    work.source_key.rule = id;
    if gateway.attempt(&work.source_key, rule) {
        return Outcome::GO_ON;
    }
    let (generation, src) = (work.generation, work.ip.key.src);
    if look_up(gateway, generation, NatMatch::NeverBanned, id, &src, 0).is_some() {
        return Outcome::GO_ON;
    }
    work.source_key.rule = 0;
    gateway.ban(
        &work.source_key,
        &Ban {
            until_s: gateway.now_s().saturating_add(rule.time_s),
            rule: id,
            reserved: 0,
        },
    );
    // Where it leads nobody has looked up.
    work.target = [0; 16];
    work.target_port = 0;
    work.source_rule = 0;
    work.target_rule = id;
    report(work, EventKind::SourceBanned, gateway);
    Outcome::drop(DropReason::SourceBanned)
}
