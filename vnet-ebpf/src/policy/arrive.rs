//! What the groups make of a frame that stays in its segment, or that the gateway left to the host, and
//! that the fast path left alone.

use vnet_common::{
    DropReason, EventKind, FlowRules, FlowState, NO_SLOT, PortKind,
    flow::{FLOW_INSIDE, FLOW_REPLY, KEY_BRIDGED, KEY_ROUTED},
};

use super::{
    ARP, RARP, exempt,
    flood::of_first,
    judge::{count_once, load, store_rules},
};
use crate::{
    bytes::zero,
    decide::{Fate, Plan, is_stack},
    flow::{
        state,
        table::{NO_FLOW, tag_of},
    },
    frame::is_group,
    gateway::{Gateway, Work},
    ip::{self, IPV4, IPV6, Icmp, Part, TCP_ACK, TCP_RST, TCP_SYN, proto},
    limit,
    meta::Meta,
    nat::{
        Outcome, Step, Tell,
        arrive::{later_fragment, put_fragment},
        close::expire,
        open,
    },
    window::Window,
};

/// Judges the frame. [`Outcome::STACK`]: what was decided about it stands; else it is dropped.
#[inline(always)]
pub fn arrive<W: Window + ?Sized, G: Gateway + ?Sized>(
    work: &mut Work,
    plan: &Plan,
    meta: &Meta,
    window: &W,
    gateway: &G,
) -> Outcome {
    begin(work, plan, meta);
    let frame = &plan.frame;
    if matches!(frame.ether_type, ARP | RARP) && !frame.inner_tag {
        return Outcome::STACK;
    }
    work.not_ip = !matches!(frame.ether_type, IPV4 | IPV6) || frame.inner_tag;
    if !work.not_ip {
        let read = gateway.step(Step::Read, work, plan, window);
        if read != Outcome::GO_ON {
            return read;
        }
    }
    let work = gateway.opaque(work);
    let outcome = gateway.step(Step::PolicyKnown, work, plan, window);
    let work = gateway.opaque(work);
    if outcome == Outcome::STACK || outcome.is_drop() {
        return outcome;
    }
    let mut known = outcome == Outcome::SEND;
    let related = matches!(work.ip.icmp, Icmp::Error) && !work.not_ip;
    if !known && related {
        let outcome = gateway.step(Step::PolicyRelated, work, plan, window);
        if outcome != Outcome::GO_ON {
            return outcome;
        }
    }
    if !known {
        gateway.step(Step::PolicyFill, work, plan, window);
    }
    let work = gateway.opaque(work);
    let mut outcome = gateway.step(Step::Judge, work, plan, window);
    let work = gateway.opaque(work);
    if outcome.is_drop() && work.unanswered {
        // What nobody let through did not arrive, and this is no answer to it, but begins by itself.
        gateway.close(work);
        let work = gateway.opaque(work);
        known = false;
        gateway.step(Step::PolicyFill, work, plan, window);
        outcome = gateway.step(Step::Judge, work, plan, window);
    }
    let work = gateway.opaque(work);
    if known {
        // What is no longer let through stays in the table until its time is over: else the next packet
        // from its other end would pass for the first of a connection.
        return if outcome == Outcome::GO_ON {
            gateway.step(Step::PolicyRenew, work, plan, window)
        } else {
            outcome
        };
    }
    if outcome != Outcome::GO_ON {
        return outcome;
    }
    if !work.keeps_flow {
        count_once(work, gateway);
        return Outcome::STACK;
    }
    let rate = gateway.step(Step::Rate, work, plan, window);
    if rate != Outcome::GO_ON {
        return rate;
    }
    let room = gateway.step(Step::Room, work, plan, window);
    if room != Outcome::GO_ON {
        return no_room(room);
    }
    gateway.step(Step::Way, work, plan, window);
    // Ending others to make room has used the entries.
    gateway.step(Step::PolicyFill, work, plan, window);
    gateway.step(Step::Hold, work, plan, window);
    let put = gateway.step(Step::Put, work, plan, window);
    let work = gateway.opaque(work);
    if put != Outcome::GO_ON {
        gateway.step(Step::GiveBack, work, plan, window);
        // Another CPU may have taken the very connection on meanwhile, from the other end too.
        let known = gateway.step(Step::PolicyKnown, work, plan, window);
        return if known == Outcome::STACK {
            known
        } else {
            Outcome::drop(DropReason::PolicyTableFull)
        };
    }
    gateway.step(Step::PolicyBook, work, plan, window)
}

/// What [`open::find_room`] says, in this part's words.
#[inline(always)]
const fn no_room(room: Outcome) -> Outcome {
    const QUOTA: u32 = DropReason::NatQuota as u32;
    let reason = if room.reason() == QUOTA {
        DropReason::PolicyQuota
    } else {
        DropReason::PolicyTableFull
    };
    Outcome::refuse(reason, Tell::Prohibited)
}

/// Notes where the frame is.
#[inline(always)]
fn begin(work: &mut Work, plan: &Plan, meta: &Meta) {
    work.generation = plan.generation;
    work.meta = *meta;
    work.rules = FlowRules::default();
    work.target = [0; 16];
    work.target_port = 0;
    work.drop_slot = plan.port.slot;
    work.owner = plan.port.slot;
    work.inside = matches!(plan.port.kind, PortKind::Vm);
    work.index = NO_FLOW;
    work.first = NO_FLOW;
    work.moved = false;
    work.related = NO_SLOT;
    work.unanswered = false;
    work.exempt_out = false;
    work.exempt_in = false;
    work.source_rule = 0;
    work.target_rule = 0;
    work.reply_flags = 0;
    work.to_inside = false;
    work.held = false;
    work.ip.clear();
}

/// Slot of the port that the frame goes to; 0 for a flood.
#[inline(always)]
#[must_use]
pub const fn target_slot(plan: &Plan) -> u16 {
    if matches!(plan.verdict.fate, Fate::Forward) {
        plan.verdict.slot
    } else {
        NO_SLOT
    }
}

/// What is known of the frame's connection. [`Outcome::STACK`]: it is let through;
/// [`Outcome::SEND`]: its flow, which is at `work.index`, has to be judged anew, or that of the gateway
/// that it comes from; [`Outcome::GO_ON`]: nothing.
#[inline(always)]
pub fn known<G: Gateway + ?Sized>(work: &mut Work, plan: &Plan, gateway: &G) -> Outcome {
    if work.not_ip {
        work.keeps_flow = false;
        return Outcome::GO_ON;
    }
    let exempt = exempt(&work.ip);
    work.exempt_out = exempt.out;
    work.exempt_in = exempt.into;
    if exempt.out && exempt.into {
        return Outcome::STACK;
    }
    work.ip.key.kind = KEY_BRIDGED;
    work.keeps_flow = !is_group(plan.frame.dst)
        && !matches!(work.ip.icmp, Icmp::Error)
        && work.ip.tcp_flags & TCP_RST == 0
        && !exempt.out
        && !exempt.into;
    if matches!(work.ip.part, Part::Later) {
        let is_flooded = is_group(plan.frame.dst);
        return if is_flooded && of_first(&work.ip, plan.port.slot, gateway).is_some()
            || later_fragment(work, gateway) == Outcome::FRAGMENT && goes_along(work, plan, gateway)
        {
            Outcome::STACK
        } else {
            Outcome::drop(DropReason::PolicyFragment)
        };
    }
    let index = gateway.find_flow(&work.ip.key);
    if index == NO_FLOW {
        return of_the_gateway(work, plan, gateway);
    }
    if expire(work, index, gateway) {
        return Outcome::GO_ON;
    }
    work.index = index;
    if !load(work, gateway) {
        return Outcome::GO_ON;
    }
    let is_reply = work.first != index;
    let own = if is_reply { &work.reply } else { &work.forward };
    let is_over = is_over(own.state) || own.epoch != plan.epoch;
    let its_own = own.via == plan.port.slot;
    if is_reply && its_own && is_over && begins(work.ip.tcp_flags, work.ip.key.proto) {
        // From the other end, with the ports of a connection that is over, or perhaps no longer let
        // through. Not from another port: who passes for that end ends nothing.
        work.tag = tag_of(gateway, index);
        gateway.close(work);
        return Outcome::GO_ON;
    }
    let from = plan.port.slot;
    // A frame that is flooded goes to whom its connection is with, wherever it goes besides.
    work.to = match target_slot(plan) {
        NO_SLOT => own.slot,
        slot => slot,
    };
    let to = work.to;
    if own.epoch == plan.epoch && own.via == from && own.slot == to {
        return note(work, plan, gateway);
    }
    work.unanswered = is_reply && own.via == NO_SLOT;
    work.tag = tag_of(gateway, index);
    let (origin, target) = if is_reply { (to, from) } else { (from, to) };
    work.reply.slot = origin;
    work.forward.slot = target;
    Outcome::SEND
}

/// Whether the frame goes from where to where the flow at `work.index` does.
#[inline(always)]
fn goes_along<G: Gateway + ?Sized>(work: &Work, plan: &Plan, gateway: &G) -> bool {
    let Some(entry) = gateway.flow(work.index) else {
        return false;
    };
    let target = target_slot(plan);
    // SAFETY: the table's own entry; each field is one aligned word.
    unsafe { (*entry).via == plan.port.slot && (target == NO_SLOT || (*entry).slot == target) }
}

/// Whether a TCP packet begins a connection.
#[inline(always)]
const fn begins(tcp_flags: u8, protocol: u8) -> bool {
    protocol == proto::TCP && tcp_flags & (TCP_SYN | TCP_ACK) == TCP_SYN
}

/// Whether a connection is closed.
#[inline(always)]
const fn is_over(state: u8) -> bool {
    const CLOSING: u8 = FlowState::Closing as u8;
    const TIME_WAIT: u8 = FlowState::TimeWait as u8;
    matches!(state, CLOSING | TIME_WAIT)
}

/// A packet that the host's stack sends on for the gateway, having found the next hop: what is judged is
/// the gateway's flow, which knows where the packet comes from.
#[inline(always)]
fn of_the_gateway<G: Gateway + ?Sized>(work: &mut Work, plan: &Plan, gateway: &G) -> Outcome {
    if !is_stack(plan.port.kind) {
        return Outcome::GO_ON;
    }
    work.key = work.ip.key.reversed();
    work.key.kind = KEY_ROUTED;
    let index = gateway.find_flow(&work.key);
    if index == NO_FLOW {
        return Outcome::GO_ON;
    }
    work.index = index;
    if !load(work, gateway) {
        return Outcome::GO_ON;
    }
    // The entry is that of the answers to this packet.
    if work.first == index {
        work.reply.slot = target_slot(plan);
    } else {
        work.forward.slot = target_slot(plan);
    }
    work.index = NO_FLOW;
    work.first = NO_FLOW;
    Outcome::SEND
}

/// Books the packet in its flow, whose entry is at `work.index`. [`Outcome::STACK`], or a drop.
#[inline(always)]
fn note<G: Gateway + ?Sized>(work: &mut Work, plan: &Plan, gateway: &G) -> Outcome {
    let watched = limit::watch(work, plan, gateway);
    if watched != Outcome::GO_ON {
        return watched;
    }
    let Some(entry) = gateway.flow(work.index) else {
        return Outcome::STACK;
    };
    let now_s = gateway.now_s();
    // SAFETY: the table's own entries.
    unsafe {
        if let Some(peer) = gateway.flow((*entry).peer) {
            state::advance(entry, peer, &work.ip);
        }
        state::book(entry, &work.ip, now_s, &work.meta);
    }
    if matches!(work.ip.part, Part::First) {
        put_fragment(work, gateway);
    }
    Outcome::STACK
}

/// Fills the entries of both directions.
#[inline(always)]
pub fn fill<G: Gateway + ?Sized>(work: &mut Work, plan: &Plan, gateway: &G) {
    let now_s = gateway.now_s();
    let epoch = plan.epoch;
    let (from, to) = (plan.port.slot, target_slot(plan));
    let to_vm = gateway
        .port(work.generation, to)
        .is_some_and(|port| matches!(port.kind, PortKind::Vm));
    let Work {
        ip, forward, reply, ..
    } = work;
    if work.not_ip {
        ip.clear();
    }
    ip.key.segment = plan.segment;
    let state = state::first(ip);
    zero(forward);
    zero(reply);
    forward.peer = NO_FLOW;
    reply.peer = NO_FLOW;
    forward.key = ip.key;
    reply.key.src = ip.key.dst;
    reply.key.dst = ip.key.src;
    reply.key.sport = ip.key.dport;
    reply.key.dport = ip.key.sport;
    reply.key.segment = ip.key.segment;
    reply.key.proto = ip.key.proto;
    reply.key.kind = ip.key.kind;
    forward.sport = ip.key.sport;
    forward.dport = ip.key.dport;
    reply.sport = ip.key.dport;
    reply.dport = ip.key.sport;
    forward.via = from;
    forward.slot = to;
    reply.via = to;
    reply.slot = from;
    let owner = if work.inside { from } else { to };
    forward.owner = owner;
    reply.owner = owner;
    forward.flags = if work.inside { FLOW_INSIDE } else { 0 };
    reply.flags = if to_vm {
        FLOW_REPLY | FLOW_INSIDE
    } else {
        FLOW_REPLY
    };
    work.flags = forward.flags;
    forward.state = state;
    forward.marks = state::first_marks(ip);
    reply.state = state;
    forward.epoch = epoch;
    reply.epoch = epoch;
    forward.seen_s = now_s;
    reply.seen_s = now_s;
    forward.created_s = now_s;
    reply.created_s = now_s;
}

/// Takes the flow at `work.index` on as it was judged now, and books the packet.
#[inline(always)]
pub fn renew<G: Gateway + ?Sized>(work: &mut Work, plan: &Plan, gateway: &G) -> Outcome {
    let epoch = plan.epoch;
    let Some(entry) = gateway.flow(work.index) else {
        // The gateway's, which looks after itself.
        return Outcome::STACK;
    };
    let (from, to) = (plan.port.slot, work.to);
    // SAFETY: the table's own entries; each field is one aligned word.
    unsafe {
        (*entry).via = from;
        (*entry).slot = to;
        (*entry).epoch = epoch;
        if let Some(peer) = gateway.flow((*entry).peer) {
            (*peer).via = to;
            (*peer).slot = from;
            (*peer).epoch = epoch;
        }
    }
    store_rules(work, gateway);
    note(work, plan, gateway)
}

/// Books a connection that is in the table.
#[inline(always)]
pub fn book<G: Gateway + ?Sized>(work: &mut Work, plan: &Plan, gateway: &G) -> Outcome {
    note(work, plan, gateway);
    open::count(work, gateway);
    open::report(work, EventKind::FlowNew, gateway);
    Outcome::STACK
}

/// The flow that an ICMP error is about: it follows that.
#[inline(always)]
pub fn related<W: Window + ?Sized, G: Gateway + ?Sized>(
    work: &mut Work,
    plan: &Plan,
    window: &W,
    gateway: &G,
) -> Outcome {
    let inner_l3 = work.ip.l4 as usize + 8;
    let v6 = work.ip.v6;
    if ip::read_embedded(window, inner_l3, v6, &mut work.inner) != Ok(()) {
        return Outcome::GO_ON;
    }
    let inner = &work.inner.key;
    // It goes to whom the packet came from.
    if inner.src != work.ip.key.dst {
        return Outcome::GO_ON;
    }
    work.key = inner.reversed();
    work.key.segment = work.ip.key.segment;
    work.key.kind = KEY_BRIDGED;
    let mut index = gateway.find_flow(&work.key);
    if index == NO_FLOW {
        work.key.kind = KEY_ROUTED;
        index = gateway.find_flow(&work.key);
    }
    if index == NO_FLOW || expire(work, index, gateway) {
        return Outcome::GO_ON;
    }
    let Some(entry) = gateway.flow(index) else {
        return Outcome::GO_ON;
    };
    // SAFETY: the table's own entries; each field is one aligned word.
    let (via, to, judged, peer) =
        unsafe { ((*entry).via, (*entry).slot, (*entry).epoch, (*entry).peer) };
    // Both directions are judged at once, and each notes it for itself.
    let judged_back = match gateway.flow(peer) {
        // SAFETY: as above.
        Some(peer) => unsafe { (*peer).epoch },
        None => judged,
    };
    let stands = judged == plan.epoch || judged_back == plan.epoch;
    let target = target_slot(plan);
    let leads = work.key.kind == KEY_ROUTED || target == NO_SLOT || to == target;
    // A VM in groups tells of its own connections without being asked, and of no others.
    let tells = !plan.port.policed || via == plan.port.slot;
    if stands && leads && tells {
        work.related = to;
        Outcome::STACK
    } else {
        Outcome::GO_ON
    }
}
