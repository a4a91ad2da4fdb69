//! The way out of the gateway: the host's route, the next hop's port.

use vnet_common::{
    DropReason, FdbKey, FlowEntry, Mac, NO_SLOT, PortConf, PortKind,
    flow::FLOW_STATIC,
    nat::NatKind,
    port::{PORT_GATEWAY, PORT_ISOLATED},
};

use super::Outcome;
use crate::{
    decide::{Plan, is_stack},
    fdb::is_expired,
    gateway::{Gateway, RouteKind, Work, checked_place, ends},
    policy::polices,
};

/// Slot of the port whose stack sends by an interface: the interface's own, or the host side of an
/// outside uplink. `None` when the interface is none of the switch's.
#[inline(always)]
pub fn stack_slot<G: Gateway + ?Sized>(gateway: &G, generation: u32, ifindex: u32) -> Option<u16> {
    let port = gateway.port_by_ifindex(generation, ifindex)?;
    match port.kind {
        PortKind::Internal => Some(port.slot),
        PortKind::Uplink => {
            let host = gateway.port(generation, port.peer_slot)?;
            matches!(host.kind, PortKind::UplinkHost).then_some(host.slot)
        }
        _ => None,
    }
}

/// What [`slot_of`] returns for an address that is not known.
const NOWHERE: u32 = u32::MAX;

/// Slot of the port that an address is behind.
#[inline(never)]
fn slot_of<G: Gateway + ?Sized>(gateway: &G, mac: &Mac, segment: u16) -> u32 {
    let ageing_s = gateway.switch().map_or(0, |conf| conf.ageing_s);
    match gateway.fdb_find(FdbKey::new(*mac, segment)) {
        Some(entry) if !is_expired(&entry, gateway.now_s(), ageing_s) => u32::from(entry.slot),
        _ => NOWHERE,
    }
}

/// Writes the port and tag that frames for `entry.next_hop` leave by to `entry`, or [`NO_SLOT`].
/// `entry.via` is set.
#[inline(never)]
pub fn find_port<G: Gateway + ?Sized>(gateway: &G, generation: u32, entry: &mut FlowEntry) {
    entry.slot = NO_SLOT;
    let Some(via) = gateway.port(generation, entry.via) else {
        return;
    };
    if entry.next_hop == [0; 6] {
        return;
    }
    let segment = via.native_segment;
    let known = slot_of(gateway, &entry.next_hop, segment);
    let slot = if known != NOWHERE {
        known as u16
    } else if matches!(via.kind, PortKind::UplinkHost) {
        // The host behind an outside uplink has the wire right there.
        via.peer_slot
    } else {
        return;
    };
    let Some(target) = gateway.port(generation, slot) else {
        return;
    };
    if is_stack(target.kind) || matches!(target.kind, PortKind::Unused) {
        return;
    }
    let vid = if target.native_segment == segment {
        Some(0)
    } else {
        gateway.segment_tag(generation, slot, segment)
    };
    let Some(vid) = vid else { return };
    entry.slot = slot;
    entry.vid = vid;
}

/// The MTU of an interface under a route's and its network's.
#[inline(always)]
pub fn mtu_of<G: Gateway + ?Sized>(
    gateway: &G,
    generation: u32,
    port: &PortConf,
    route_mtu: u32,
) -> u16 {
    let mut mtu = route_mtu;
    if mtu == 0 {
        mtu = gateway.mtu(port.ifindex).unwrap_or(1500);
    }
    if let Some(segment) = gateway.segment(generation, port.native_segment)
        && segment.mtu != 0
        && segment.mtu < mtu
    {
        mtu = segment.mtu;
    }
    if mtu > 0xffff { 0xffff } else { mtu as u16 }
}

/// Looks the way out of the flow at `work.index` up again. [`Outcome::GO_ON`] when it stands;
/// [`Outcome::STACK`] when the flow no longer is what it was and has to be decided anew. With `learn` the
/// packet under way tells where its sender is now.
#[inline(never)]
pub fn renew<G: Gateway + ?Sized>(
    work: &mut Work,
    learn: bool,
    plan: &Plan,
    gateway: &G,
) -> Outcome {
    let epoch = plan.epoch;
    let Some(pointer) = gateway.flow(work.index) else {
        return Outcome::STACK;
    };
    // SAFETY: the table's own entry; read as a whole, written field by field below.
    unsafe { core::ptr::copy_nonoverlapping(pointer, &raw mut work.forward, 1) };
    let entry = &work.forward;
    if entry.rule != 0 {
        let stands = gateway
            .nat_rule(work.generation, entry.rule)
            .is_some_and(|rule| {
                !matches!(rule.kind, NatKind::Unused) && rule.print == entry.rule_print
            });
        if !stands {
            return Outcome::STACK;
        }
    }
    let (old_epoch, old_slot) = (entry.epoch, entry.slot);
    let (rule, via_slot, static_) = (entry.rule, entry.via, entry.flags & FLOW_STATIC != 0);
    let Some(peer) = gateway.flow(entry.peer) else {
        return Outcome::STACK;
    };
    // The answers come from where this goes, to where it seems to come from.
    // SAFETY: the table's own entry.
    let (target, source, target_port) =
        unsafe { ((*peer).key.src, (*peer).key.dst, (*peer).key.sport) };
    work.key = work.forward.key;
    work.key.dst = target;
    work.key.dport = target_port;
    let Some(via) = gateway.port(work.generation, via_slot) else {
        return Outcome::STACK;
    };
    let to_inside = via.flags & PORT_GATEWAY != 0;
    // Since it became so.
    if plan.port.flags & PORT_ISOLATED != 0 && to_inside {
        return Outcome::drop(DropReason::PortIsolated);
    }
    let ask = if to_inside {
        via.ifindex
    } else {
        match gateway.port(work.generation, work.at) {
            Some(at) => at.ifindex,
            None => return Outcome::STACK,
        }
    };
    let (key, route) = (&work.key, &mut work.route);
    gateway.route(ask, key, route);
    if !matches!(work.route.kind, RouteKind::Out) {
        return Outcome::drop(DropReason::IpNoRoute);
    }
    if stack_slot(gateway, work.generation, work.route.ifindex) != Some(via_slot) {
        return Outcome::STACK;
    }
    // Masquerade follows the uplink's address.
    if rule != 0
        && !to_inside
        && !static_
        && let Some(rule) = gateway.nat_rule(work.generation, rule)
        && matches!(rule.kind, NatKind::Masquerade)
        && work.route.src != [0; 16]
        && work.route.src != source
    {
        return Outcome::STACK;
    }
    let mtu = mtu_of(gateway, work.generation, via, work.route.mtu);
    // Where the host's routing does not know the next hop, what the connection's own packets told
    // stays.
    if work.route.next_hop != [0; 6] || !to_inside {
        work.forward.next_hop = work.route.next_hop;
    }
    find_port(gateway, work.generation, &mut work.forward);
    let now_s = gateway.now_s();
    if polices(work.generation, gateway) {
        // SAFETY: the table's own entry.
        work.moved = learn && work.inside && unsafe { (*peer).slot } != plan.port.slot;
        work.rejudge = old_epoch != epoch || old_slot != work.forward.slot || work.moved;
    }
    // SAFETY: the table's own entries; each field is one aligned word, and every mixture of old and
    // new is a way out that was good a moment ago.
    unsafe {
        (*pointer).next_hop = work.forward.next_hop;
        (*pointer).slot = work.forward.slot;
        (*pointer).vid = work.forward.vid;
        (*pointer).mtu = mtu;
        (*pointer).resolved_s = now_s;
        // Judged anew, it is that only then.
        (*pointer).epoch = if work.rejudge {
            epoch.wrapping_sub(1)
        } else {
            epoch
        };
    }
    // Where it comes from is judged first when that is another port than before.
    if learn && work.inside && !work.moved {
        // SAFETY: the table's own entry.
        unsafe { learn_sender(peer, plan) };
    }
    note_checked(work, mtu, now_s, gateway);
    Outcome::GO_ON
}

/// Notes in the entry of a packet's answers where they are to go: a VM may have moved to another port, or
/// have another address on its wire.
///
/// # Safety
/// `peer` is valid.
#[inline(always)]
pub unsafe fn learn_sender(peer: *mut FlowEntry, plan: &Plan) {
    // SAFETY: the caller's promise; each field is one aligned word.
    unsafe {
        (*peer).next_hop = plan.frame.src;
        (*peer).slot = plan.port.slot;
        (*peer).vid = plan.frame.tag.vid();
    }
}

/// Lets other flows to the same destination know that the way out in `work.forward` stands.
#[inline(always)]
fn note_checked<G: Gateway + ?Sized>(work: &Work, mtu: u16, now_s: u32, gateway: &G) {
    let entry = &work.forward;
    let Some((dst, src)) = ends(entry, &entry.key.dst) else {
        return;
    };
    if entry.slot == NO_SLOT {
        return;
    }
    if let Some(checked) = gateway.checked(checked_place(dst)) {
        // SAFETY: map memory. Another CPU may write too: a mixture matches no flow, or one whose way
        // out it is.
        unsafe {
            (*checked).at_s = 0;
            (*checked).dst = *dst;
            (*checked).src = *src;
            (*checked).next_hop = entry.next_hop;
            (*checked).via = entry.via;
            (*checked).slot = entry.slot;
            (*checked).mtu = mtu;
            (*checked).at_s = now_s;
        }
    }
}
