//! Judging a connection by the entries of its two directions.

use vnet_common::{
    DropReason, EventKind, FlowRules, NO_SLOT, PolicyVerdict, PortGroups, PortKind,
    flow::FLOW_REPLY, policy::NOT_IP,
};

use super::is_policed;
use crate::{
    bytes::zero,
    decide::Plan,
    gateway::{Gateway, Work},
    ip::has_service_ports,
    nat::{Outcome, Tell, wayout::learn_sender},
};

/// Judges the connection of `work.forward` and `work.reply` by the groups of the ports that its first
/// packet comes from (`work.reply.slot`) and goes to (`work.forward.slot`); ports in no group judge
/// nothing. [`Outcome::GO_ON`] with the rules that let it through in `work.rules`; or a drop, counted at
/// `work.drop_slot`.
#[inline(always)]
pub fn judge<G: Gateway + ?Sized>(work: &mut Work, gateway: &G) -> Outcome {
    work.rules = FlowRules::default();
    work.policy.generation = work.generation;
    let key = &work.reply.key;
    let port = if has_service_ports(key.proto) {
        key.sport
    } else {
        0
    };
    work.policy.what = if work.not_ip {
        NOT_IP
    } else {
        u32::from(key.proto) << 16 | u32::from(port)
    };
    if !work.exempt_out {
        let outcome = ask(work, true, gateway);
        if outcome != Outcome::GO_ON {
            return outcome;
        }
    }
    if work.exempt_in {
        return Outcome::GO_ON;
    }
    ask(work, false, gateway)
}

/// Asks the groups of one end.
#[inline(always)]
fn ask<G: Gateway + ?Sized>(work: &mut Work, out: bool, gateway: &G) -> Outcome {
    let (slot, other) = if out {
        (work.reply.slot, work.forward.slot)
    } else {
        (work.forward.slot, work.reply.slot)
    };
    let asked = gateway.port(work.generation, slot).is_some_and(is_policed);
    if !asked {
        return Outcome::GO_ON;
    }
    let (remote, segment) = if out {
        (work.reply.key.src, work.reply.key.segment)
    } else {
        (work.forward.key.src, work.forward.key.segment)
    };
    work.policy.remote = remote;
    work.policy.slot = slot;
    work.policy.out = u16::from(out);
    find_remote(work, other, segment, gateway);
    gateway.judge_port(&mut work.policy);
    let rule = work.policy.rule();
    if work.policy.log != 0 {
        report(work, slot, gateway);
    }
    match work.policy.verdict {
        PolicyVerdict::Allow => {
            if out {
                work.rules.out_rule = rule;
            } else {
                work.rules.in_rule = rule;
            }
            Outcome::GO_ON
        }
        verdict => {
            work.drop_slot = slot;
            if rule != 0 {
                let (packets, bytes) = (work.meta.packets(), work.meta.len);
                gateway.count_policy(rule, u64::from(packets), u64::from(bytes), 0);
            }
            if matches!(verdict, PolicyVerdict::Reject) {
                Outcome::refuse(DropReason::PolicyRejected, Tell::Refused)
            } else {
                Outcome::drop(DropReason::PolicyDenied)
            }
        }
    }
}

/// Writes the groups that the other end is in: those of the port that its address belongs to. An address
/// that comes from another place than its port is nobody's.
#[inline(always)]
fn find_remote<G: Gateway + ?Sized>(work: &mut Work, seen_at: u16, segment: u16, gateway: &G) {
    work.policy.remote_groups = PortGroups::default();
    if work.not_ip {
        return;
    }
    let owner = gateway.ip_owner(work.generation, segment, &work.policy.remote);
    if owner == NO_SLOT {
        return;
    }
    let elsewhere = owner != seen_at
        && gateway
            .port(work.generation, seen_at)
            .is_some_and(|port| matches!(port.kind, PortKind::Vm | PortKind::Uplink));
    if elsewhere {
        return;
    }
    if let Some(groups) = gateway.port_groups(work.generation, owner) {
        work.policy.remote_groups = *groups;
    }
}

/// Reports what a rule has decided.
#[inline(always)]
fn report<G: Gateway + ?Sized>(work: &mut Work, slot: u16, gateway: &G) {
    let (rule, verdict) = (work.policy.rule(), work.policy.verdict);
    let event = &mut work.event;
    zero(event);
    event.time_ns = gateway.now_ns();
    event.kind = EventKind::PolicyRule as u32;
    event.slot = slot;
    event.segment = work.forward.key.segment;
    event.flow = work.forward.key;
    // As the VM that it goes to knows it.
    event.nat_addr = work.reply.key.src;
    event.nat_port = work.reply.key.sport;
    event.rule = rule;
    event.reason = verdict as u32;
    gateway.report(&work.event);
}

/// Copies the entries of the flow at `work.index` to `work.forward`, the one that was first, and
/// `work.reply`. False when it is gone.
#[inline(always)]
pub fn load<G: Gateway + ?Sized>(work: &mut Work, gateway: &G) -> bool {
    let Some(entry) = gateway.flow(work.index) else {
        return false;
    };
    // SAFETY: the table's own entries, here and below.
    let (peer_index, is_reply) = unsafe { ((*entry).peer, (*entry).flags & FLOW_REPLY != 0) };
    let Some(peer) = gateway.flow(peer_index) else {
        return false;
    };
    let (first, second) = if is_reply {
        (peer, entry)
    } else {
        (entry, peer)
    };
    work.first = if is_reply { peer_index } else { work.index };
    // SAFETY: both are read as a whole.
    unsafe {
        core::ptr::copy_nonoverlapping(first, &raw mut work.forward, 1);
        core::ptr::copy_nonoverlapping(second, &raw mut work.reply, 1);
    }
    true
}

/// Has the flow at `work.index` of the gateway ready to be judged anew, with the port that the packet comes
/// from. [`Outcome::STACK`] when it is gone.
#[inline(always)]
pub fn reload<G: Gateway + ?Sized>(work: &mut Work, plan: &Plan, gateway: &G) -> Outcome {
    if !load(work, gateway) {
        return Outcome::STACK;
    }
    work.not_ip = false;
    work.exempt_out = false;
    work.exempt_in = false;
    let is_reply = work.first != work.index;
    if work.moved {
        if is_reply {
            work.forward.slot = plan.port.slot;
        } else {
            work.reply.slot = plan.port.slot;
        }
    }
    Outcome::GO_ON
}

/// Takes the flow at `work.index` of the gateway on as it was judged now.
#[inline(always)]
pub fn keep<G: Gateway + ?Sized>(work: &mut Work, plan: &Plan, gateway: &G) -> Outcome {
    store_rules(work, gateway);
    let Some(entry) = gateway.flow(work.index) else {
        return Outcome::GO_ON;
    };
    // SAFETY: the table's own entries; one aligned word.
    unsafe {
        if work.moved
            && let Some(peer) = gateway.flow((*entry).peer)
        {
            learn_sender(peer, plan);
        }
        (*entry).epoch = plan.epoch;
    }
    Outcome::GO_ON
}

/// Counts a packet that has no flow for the rules that let it through.
#[inline(always)]
pub fn count_once<G: Gateway + ?Sized>(work: &Work, gateway: &G) {
    let (packets, bytes) = (u64::from(work.meta.packets()), u64::from(work.meta.len));
    for rule in [work.rules.out_rule, work.rules.in_rule] {
        if rule != 0 {
            gateway.count_policy(rule, packets, bytes, 0);
        }
    }
}

/// Notes the rules that let the connection through whose first entry is at `work.first`.
#[inline(always)]
pub fn store_rules<G: Gateway + ?Sized>(work: &Work, gateway: &G) {
    let Some(entry) = gateway.flow(work.first) else {
        return;
    };
    // SAFETY: the table's own entry.
    let second = unsafe { (*entry).peer };
    store_rule(work.first, work.rules.out_rule, gateway);
    store_rule(second, work.rules.in_rule, gateway);
}

/// Notes the rule of an entry, and counts the connection for a rule that it did not follow before. An entry
/// that is its own answer has one.
#[inline(always)]
fn store_rule<G: Gateway + ?Sized>(index: u32, rule: u16, gateway: &G) {
    let Some(place) = gateway.flow_rule(index) else {
        return;
    };
    // SAFETY: map memory; an aligned half-word.
    let before = unsafe { core::ptr::replace(place, rule) };
    if rule != 0 && rule != before {
        gateway.count_policy(rule, 0, 0, 1);
    }
}

/// Counts the packets of a connection that ended for the rules that let it through.
#[inline(always)]
pub fn count_ended<G: Gateway + ?Sized>(work: &Work, first: u32, second: u32, gateway: &G) {
    let packets = work.forward.packets.wrapping_add(work.reply.packets);
    let bytes = work.forward.bytes.wrapping_add(work.reply.bytes);
    end_rule(first, packets, bytes, gateway);
    end_rule(second, packets, bytes, gateway);
}

/// Counts for the rule of an entry, and takes it away.
#[inline(always)]
fn end_rule<G: Gateway + ?Sized>(index: u32, packets: u64, bytes: u64, gateway: &G) {
    let Some(place) = gateway.flow_rule(index) else {
        return;
    };
    // SAFETY: map memory; an aligned half-word.
    let rule = unsafe { core::ptr::replace(place, 0) };
    if rule != 0 {
        gateway.count_policy(rule, packets, bytes, 0);
    }
}
