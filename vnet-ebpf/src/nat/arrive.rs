//! What becomes of a packet for the gateway that the fast path left alone.

use vnet_common::{
    DropReason, FlowRules,
    nat::NatMatch,
    port::{PORT_GATEWAY, PORT_ISOLATED, PORT_NATED},
};

use super::{
    Outcome, Step, Tell,
    close::expire,
    open, rules, source,
    wayout::{renew, stack_slot},
};
use crate::{
    decide::Plan,
    flow::table::{NO_FLOW, tag_of},
    gateway::{FRAGMENT_S, Fragment, FragmentKey, Gateway, RouteKind, Work},
    gso,
    ip::{self, IPV6, Icmp, Ip, Part},
    meta::Meta,
    policy::polices,
    window::Window,
};

/// Decides what becomes of the packet. With [`Outcome::SEND`], [`Outcome::RELATED`] and
/// [`Outcome::FRAGMENT`], `work.index` is its flow's entry.
#[inline(always)]
pub fn arrive<W: Window + ?Sized, G: Gateway + ?Sized>(
    work: &mut Work,
    plan: &Plan,
    meta: &Meta,
    window: &W,
    gateway: &G,
) -> Outcome {
    begin(work, plan, meta, gateway);
    let read = gateway.step(Step::Read, work, plan, window);
    let work = gateway.opaque(work);
    if read != Outcome::GO_ON {
        return if work.inside {
            Outcome::drop(DropReason::IpMalformed)
        } else {
            Outcome::STACK
        };
    }
    let is_error = matches!(work.ip.icmp, Icmp::Error) && !matches!(work.ip.part, Part::Later);
    let outcome = if is_error {
        follow(Step::Related, work, plan, window, gateway)
    } else if matches!(work.ip.part, Part::Later) {
        follow(Step::LaterFragment, work, plan, window, gateway)
    } else {
        gateway.step(Step::Known, work, plan, window)
    };
    let work = gateway.opaque(work);
    if outcome == Outcome::SEND {
        let watched = gateway.step(Step::Watch, work, plan, window);
        if watched != Outcome::GO_ON {
            return watched;
        }
    }
    let work = gateway.opaque(work);
    if work.rejudge && !outcome.is_drop() && outcome != Outcome::GO_ON {
        let judged = rejudge(work, plan, window, gateway);
        if judged != Outcome::GO_ON {
            return judged;
        }
    }
    let work = gateway.opaque(work);
    let outcome = if outcome == Outcome::GO_ON {
        if is_error {
            work.reason = DropReason::NatIcmpUnrelated;
            gateway.step(Step::OfNobody, work, plan, window)
        } else if matches!(work.ip.part, Part::Later) {
            work.reason = DropReason::NatFragment;
            gateway.step(Step::OfNobody, work, plan, window)
        } else {
            begin_flow(work, plan, window, gateway)
        }
    } else {
        outcome
    };
    let work = gateway.opaque(work);
    if outcome == Outcome::SEND || outcome == Outcome::FRAGMENT {
        work.l3_len = gso::wire_l3_len(meta, &plan.frame, window);
        let way = gateway.step(Step::CheckWay, work, plan, window);
        if way != Outcome::GO_ON {
            return way;
        }
    }
    outcome
}

/// Has security groups judge the flow at `work.index` anew: [`Outcome::GO_ON`] while it may be. Else it
/// stays in the table until its time is over, with an epoch that is not in force: without it the next
/// packet from its other end would pass for the first of a connection.
#[inline(always)]
fn rejudge<W: Window + ?Sized, G: Gateway + ?Sized>(
    work: &mut Work,
    plan: &Plan,
    window: &W,
    gateway: &G,
) -> Outcome {
    if gateway.step(Step::Reload, work, plan, window) != Outcome::GO_ON {
        return Outcome::GO_ON;
    }
    let judged = gateway.step(Step::Judge, work, plan, window);
    if judged == Outcome::GO_ON {
        gateway.step(Step::Keep, work, plan, window);
    }
    judged
}

/// Reads the packet's headers.
#[inline(always)]
pub fn read<W: Window + ?Sized>(work: &mut Work, plan: &Plan, window: &W) -> Outcome {
    let frame = &plan.frame;
    let l3 = frame.payload_offset();
    let read = ip::read(window, l3, frame.ether_type == IPV6, &mut work.ip);
    work.ip.key.segment = plan.segment;
    if read.is_ok() {
        Outcome::GO_ON
    } else {
        Outcome::drop(DropReason::IpMalformed)
    }
}

/// Notes where the packet is.
#[inline(always)]
fn begin<G: Gateway + ?Sized>(work: &mut Work, plan: &Plan, meta: &Meta, gateway: &G) {
    work.generation = plan.generation;
    work.meta = *meta;
    work.rules = FlowRules::default();
    work.drop_slot = plan.port.slot;
    work.rejudge = false;
    work.moved = false;
    work.at = plan.stack_slot;
    work.owner = plan.port.slot;
    work.out_segment = 0;
    work.source = [0; 16];
    work.source_port = 0;
    work.source_rule = 0;
    work.index = NO_FLOW;
    work.inside = gateway
        .port(plan.generation, plan.stack_slot)
        .is_some_and(|at| at.flags & PORT_GATEWAY != 0);
    work.to_inside = false;
    work.borrowed = false;
    work.held = false;
}

/// The packet's flow, when there is one that stands.
#[inline(always)]
pub fn known<G: Gateway + ?Sized>(work: &mut Work, plan: &Plan, gateway: &G) -> Outcome {
    let index = gateway.find_flow(&work.ip.key);
    if index == NO_FLOW || expire(work, index, gateway) {
        return Outcome::GO_ON;
    }
    let outcome = stands(work, index, true, plan, gateway);
    if outcome == Outcome::GO_ON {
        Outcome::SEND
    } else if outcome == Outcome::STACK {
        Outcome::GO_ON
    } else {
        outcome
    }
}

/// Takes a step that finds a flow by something else than its packets' key, and sees whether it stands.
#[inline(always)]
fn follow<W: Window + ?Sized, G: Gateway + ?Sized>(
    step: Step,
    work: &mut Work,
    plan: &Plan,
    window: &W,
    gateway: &G,
) -> Outcome {
    let found = gateway.step(step, work, plan, window);
    if found == Outcome::GO_ON {
        return found;
    }
    let outcome = gateway.step(Step::Stands, work, plan, window);
    if outcome == Outcome::GO_ON {
        found
    } else if outcome == Outcome::STACK {
        Outcome::GO_ON
    } else {
        outcome
    }
}

/// [`stands`], of the flow at `work.index`. Whoever sends an error need not be where the connection's own
/// packets come from: nothing is learned from it.
#[inline(always)]
pub fn still_stands<G: Gateway + ?Sized>(work: &mut Work, plan: &Plan, gateway: &G) -> Outcome {
    let index = work.index;
    if expire(work, index, gateway) {
        return Outcome::STACK;
    }
    stands(work, index, false, plan, gateway)
}

/// Whether the flow at `index` stands: [`Outcome::GO_ON`]. One that is not what it was ends, and its
/// packet is decided as if it were the first: [`Outcome::STACK`].
#[inline(always)]
fn stands<G: Gateway + ?Sized>(
    work: &mut Work,
    index: u32,
    learn: bool,
    plan: &Plan,
    gateway: &G,
) -> Outcome {
    work.index = index;
    let tag = tag_of(gateway, index);
    let outcome = renew(work, learn, plan, gateway);
    if outcome == Outcome::STACK {
        work.tag = tag;
        gateway.close(work);
    }
    outcome
}

/// Takes on the connection that the packet begins.
#[inline(always)]
fn begin_flow<W: Window + ?Sized, G: Gateway + ?Sized>(
    work: &mut Work,
    plan: &Plan,
    window: &W,
    gateway: &G,
) -> Outcome {
    let mut outcome = gateway.step(Step::Target, work, plan, window);
    if outcome == Outcome::GO_ON {
        outcome = gateway.step(Step::Mapping, work, plan, window);
    }
    if outcome == Outcome::GO_ON {
        outcome = gateway.step(Step::Route, work, plan, window);
    }
    if outcome == Outcome::GO_ON {
        outcome = gateway.step(Step::Source, work, plan, window);
    }
    // A packet that would not get through is no reason to take a port.
    if outcome == Outcome::GO_ON && work.ip.ttl <= 1 {
        outcome = Outcome::refuse(DropReason::IpTtl, Tell::TimeExceeded);
    }
    if outcome == Outcome::GO_ON {
        outcome = open::may_begin(work, gateway);
    }
    if outcome == Outcome::GO_ON && polices(work.generation, gateway) {
        gateway.step(Step::Prepare, work, plan, window);
        outcome = gateway.step(Step::Judge, work, plan, window);
    }
    if outcome == Outcome::GO_ON {
        outcome = gateway.step(Step::Rate, work, plan, window);
    }
    if outcome == Outcome::GO_ON {
        outcome = gateway.step(Step::Room, work, plan, window);
    }
    if outcome == Outcome::GO_ON {
        outcome = gateway.step(Step::Block, work, plan, window);
    }
    if outcome != Outcome::GO_ON {
        return outcome;
    }
    outcome = gateway.step(Step::MapSource, work, plan, window);
    if outcome == Outcome::GO_ON {
        gateway.step(Step::Way, work, plan, window);
        outcome = gateway.step(Step::Enter, work, plan, window);
    }
    if outcome == Outcome::GO_ON {
        if source::may_meet(work) {
            gateway.step(Step::Contact, work, plan, window);
        }
        gateway.step(Step::Hold, work, plan, window);
        outcome = gateway.step(Step::Put, work, plan, window);
    }
    if outcome != Outcome::GO_ON {
        gateway.step(Step::GiveBack, work, plan, window);
        // Another CPU may have taken the very connection on meanwhile.
        let known = gateway.step(Step::Known, work, plan, window);
        return if known == Outcome::GO_ON {
            outcome
        } else {
            known
        };
    }
    gateway.step(Step::Book, work, plan, window)
}

/// Whether the way out takes the packet.
#[inline(always)]
pub fn check_way<G: Gateway + ?Sized>(work: &mut Work, gateway: &G) -> Outcome {
    let l3_len = work.l3_len;
    let Some(entry) = gateway.flow(work.index) else {
        return Outcome::drop(DropReason::NatMidStream);
    };
    // SAFETY: the table's own entry.
    let mtu = unsafe { u32::from((*entry).mtu) };
    if work.ip.ttl <= 1 {
        return Outcome::refuse(DropReason::IpTtl, Tell::TimeExceeded);
    }
    if matches!(work.ip.part, Part::First) {
        put_fragment(work, gateway);
    }
    if l3_len > mtu {
        work.mtu = mtu;
        return if work.ip.dont_fragment {
            Outcome::refuse(DropReason::MtuExceeded, Tell::TooBig)
        } else {
            Outcome::drop(DropReason::MtuExceeded)
        };
    }
    Outcome::GO_ON
}

/// Notes the flow at `work.index` for the later fragments of the packet.
#[inline(always)]
pub fn put_fragment<G: Gateway + ?Sized>(work: &Work, gateway: &G) {
    let key = fragment_key(&work.ip, work.ip.key.kind);
    let fragment = Fragment {
        index: work.index,
        tag: tag_of(gateway, work.index),
        seen_s: gateway.now_s(),
    };
    gateway.fragment_put(&key, &fragment);
}

/// The key of a fragmented packet.
#[inline(always)]
pub const fn fragment_key(ip: &Ip, kind: u8) -> FragmentKey {
    FragmentKey {
        src: ip.key.src,
        dst: ip.key.dst,
        id: ip.id,
        segment: ip.key.segment,
        proto: ip.key.proto,
        kind,
    }
}

/// The flow that a later fragment's first one belonged to.
#[inline(always)]
pub fn later_fragment<G: Gateway + ?Sized>(work: &mut Work, gateway: &G) -> Outcome {
    let key = fragment_key(&work.ip, work.ip.key.kind);
    match gateway.fragment_find(&key) {
        Some(fragment)
            if gateway.now_s().saturating_sub(fragment.seen_s) <= FRAGMENT_S
                && tag_of(gateway, fragment.index) == fragment.tag =>
        {
            work.index = fragment.index;
            Outcome::FRAGMENT
        }
        _ => Outcome::GO_ON,
    }
}

/// What becomes of a packet that belongs to a flow by its nature, and of which none is known: the
/// host's own are the host's, the others go nowhere.
#[inline(always)]
pub fn of_nobody<G: Gateway + ?Sized>(work: &mut Work, plan: &Plan, gateway: &G) -> Outcome {
    let reason = work.reason;
    let addr = work.ip.key.dst;
    if !work.inside {
        let answered = rules::look_up(
            gateway,
            work.generation,
            NatMatch::Answer,
            work.at,
            &addr,
            0,
        );
        return if answered.is_some() {
            Outcome::drop(reason)
        } else {
            Outcome::STACK
        };
    }
    let Some(at) = gateway.port(work.generation, work.at) else {
        return Outcome::drop(reason);
    };
    gateway.route(at.ifindex, &work.ip.key, &mut work.route);
    if matches!(work.route.kind, RouteKind::Stack) {
        return Outcome::STACK;
    }
    // The gateway is no way around to other VMs.
    if plan.port.flags & PORT_ISOLATED != 0
        && let Some(slot) = stack_slot(gateway, work.generation, work.route.ifindex)
        && let Some(via) = gateway.port(work.generation, slot)
        && via.flags & PORT_GATEWAY != 0
    {
        return Outcome::drop(DropReason::PortIsolated);
    }
    // Without translation the host forwards it; with it nothing leaves that no flow knows.
    let guarded = rules::look_up(
        gateway,
        work.generation,
        NatMatch::Guard,
        0,
        &work.ip.key.src,
        0,
    );
    if at.flags & PORT_NATED != 0 || guarded.is_some() {
        Outcome::drop(reason)
    } else {
        Outcome::STACK
    }
}

/// The flow that an ICMP error is about (RFC 5508, REQ-3 to REQ-5): the one whose packets come back
/// the way that the embedded packet went. Its headers are left in `work.change` for the translation.
#[inline(always)]
pub fn related<W: Window + ?Sized, G: Gateway + ?Sized>(
    work: &mut Work,
    window: &W,
    gateway: &G,
) -> Outcome {
    let inner_l3 = work.ip.l4 as usize + 8;
    let v6 = work.ip.v6;
    if ip::read_embedded(window, inner_l3, v6, &mut work.inner) != Ok(()) {
        return Outcome::GO_ON;
    }
    work.key = work.inner.key.reversed();
    work.key.segment = work.ip.key.segment;
    let index = gateway.find_flow(&work.key);
    if index == NO_FLOW {
        return Outcome::GO_ON;
    }
    work.index = index;
    Outcome::RELATED
}
