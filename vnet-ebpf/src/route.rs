//! The gateway's fast path: packets of a connection that is known, whose state and way out stand.
//! Everything else is [`crate::nat::arrive`]'s.

use core::ptr;

use vnet_common::{
    Addr, DropReason, FlowEntry, NO_SLOT, PortKind,
    flow::{FLOW_DNAT, FLOW_REPLY, FLOW_SNAT},
    port::{PORT_GATEWAY, PORT_TCP_AT_TC, PORT_XDP_TARGET},
};

use crate::{
    bytes::copy_mac,
    decide::Plan,
    flow::{
        state::{self, is_stale, is_steady},
        table::NO_FLOW,
        translate::Change,
    },
    forward::{Action, Exit, Packet},
    gateway::{Gateway, Work, checked_place, ends},
    gso,
    ip::{Icmp, Ip, Part, Unread, proto, read_simple},
    meta::Meta,
    window::Window,
};

/// Index of the entry that the packet follows as it is, or [`NO_FLOW`] when it takes more work.
/// Reads the headers into `ip` and changes nothing else.
#[inline(always)]
pub fn look<W: Window + ?Sized, G: Gateway + ?Sized>(
    plan: &Plan,
    meta: &Meta,
    window: &W,
    gateway: &G,
    ip: &mut Ip,
) -> u32 {
    if read_simple(&plan.frame, window, ip) != Ok::<(), Unread>(()) {
        return NO_FLOW;
    }
    let ip = gateway.opaque(ip);
    if matches!(ip.icmp, Icmp::Error) || ip.ttl <= 1 {
        return NO_FLOW;
    }
    ip.key.segment = plan.segment;
    let index = gateway.find_flow(&ip.key);
    let Some(conf) = gateway.switch() else {
        return NO_FLOW;
    };
    let Some(entry) = gateway.flow(index) else {
        return NO_FLOW;
    };
    let now_s = gateway.now_s();
    // SAFETY: the table's own entry; each field is read once.
    let (state, flags, slot, epoch, resolved_s, seen_s, mtu) = unsafe {
        (
            ptr::read_volatile(&raw const (*entry).state),
            ptr::read_volatile(&raw const (*entry).flags),
            ptr::read_volatile(&raw const (*entry).slot),
            ptr::read_volatile(&raw const (*entry).epoch),
            ptr::read_volatile(&raw const (*entry).resolved_s),
            ptr::read_volatile(&raw const (*entry).seen_s),
            ptr::read_volatile(&raw const (*entry).mtu),
        )
    };
    if epoch != plan.epoch
        || !(resolved_s == now_s || is_checked(entry, &ip.key.dst, now_s, gateway))
        || slot == NO_SLOT
        || !is_steady(state, ip, flags & FLOW_REPLY != 0)
        || (seen_s != now_s && is_stale(seen_s, now_s, conf.timeouts.of(ip.key.proto, state)))
        || gso::wire_l3_len(meta, &plan.frame, window) > u32::from(mtu)
    {
        return NO_FLOW;
    }
    // A VM in security groups has not the connections of the one that it passes for.
    if plan.port.policed && !comes_from(entry, plan.port.slot, gateway) {
        return NO_FLOW;
    }
    index
}

/// Whether the packets of an entry come from the port `slot`: the answers go there.
#[inline(always)]
fn comes_from<G: Gateway + ?Sized>(entry: *const FlowEntry, slot: u16, gateway: &G) -> bool {
    // SAFETY: the table's own entries; one word each.
    unsafe {
        gateway
            .flow((*entry).peer)
            .is_some_and(|peer| ptr::read_volatile(&raw const (*peer).slot) == slot)
    }
}

/// Whether the way out of a flow was looked up this second for another one, and is the same.
#[inline(always)]
fn is_checked<G: Gateway + ?Sized>(
    entry: *const FlowEntry,
    dst: &Addr,
    now_s: u32,
    gateway: &G,
) -> bool {
    // SAFETY: the table's own entry, which outlives this.
    let entry = unsafe { &*entry };
    let Some((dst, src)) = ends(entry, dst) else {
        return false;
    };
    let Some(checked) = gateway.checked(checked_place(dst)) else {
        return false;
    };
    // SAFETY: map memory.
    let checked = unsafe { &*checked };
    let mut differs = u32::from(checked.via ^ entry.via)
        | u32::from(checked.mtu ^ entry.mtu)
        | u32::from(checked.slot ^ entry.slot)
        | (checked.at_s ^ now_s);
    let mut i = 0;
    while i < 6 {
        differs |= u32::from(checked.next_hop[i] ^ entry.next_hop[i]);
        i += 1;
    }
    differs == 0 && checked.dst == *dst && checked.src == *src
}

/// Books the packet in the flow of the entry `change.index` and sends it on. The rest of `change` is
/// scratch space.
#[inline(always)]
pub fn send<G: Gateway + ?Sized, P: Packet>(
    ip: &Ip,
    change: &mut Change,
    plan: &Plan,
    meta: &Meta,
    gateway: &G,
    packet: &mut P,
) -> Action {
    let Some(entry) = gateway.flow(change.index) else {
        gateway.count_drop(plan.port.slot, DropReason::NatMidStream, meta.packets());
        return Action::Drop;
    };
    // SAFETY: the table's own entry, and its peer's.
    let way = unsafe {
        if !matches!(ip.part, Part::Later) {
            let reply = (*entry).flags & FLOW_REPLY != 0;
            if !is_steady((*entry).state, ip, reply)
                && let Some(peer) = gateway.flow((*entry).peer)
            {
                state::advance(entry, peer, ip);
            }
        }
        state::book(entry, ip, gateway.now_s(), meta);
        Change::of(change, ip, &*entry, || {
            gateway
                .flow((*entry).peer)
                .map(|peer| &raw const (*peer).key.dst)
        });
        copy_mac(&mut change.dmac, &(*entry).next_hop);
        ((*entry).via, (*entry).slot, (*entry).vid)
    };
    leave(ip, change, way, plan, meta, gateway, packet)
}

/// What the flow at `work.index` does to an ICMP error about its other direction: writes the error's
/// addresses and the flow's ports to `work.change`, the key of the other direction to `work.key`.
/// Returns its way out for [`leave`]; `None` when it is not addressed as the flow's packets are.
#[inline(always)]
pub fn begin_related<G: Gateway + ?Sized>(work: &mut Work, gateway: &G) -> Option<(u16, u16, u16)> {
    let entry = gateway.flow(work.index)?;
    // SAFETY: the table's own entries.
    unsafe {
        let peer = gateway.flow((*entry).peer)?;
        let flags = (*entry).flags;
        work.key = (*peer).key;
        let change = &mut work.change;
        *change = Change::NONE;
        change.src = work.ip.key.src;
        change.dst = work.ip.key.dst;
        // It goes to where the packet that it embeds came from.
        if work.ip.key.dst != (*entry).key.dst {
            return None;
        }
        if flags & FLOW_DNAT != 0 {
            change.dst = work.key.src;
        }
        if flags & FLOW_SNAT != 0 {
            // Whoever inside sent it, outside it comes from the gateway (RFC 5508, REQ-5).
            change.src = work.key.dst;
        }
        change.sport = (*entry).sport;
        change.dport = (*entry).dport;
        copy_mac(&mut change.dmac, &(*entry).next_hop);
        change.hop = true;
        Some(((*entry).via, (*entry).slot, (*entry).vid))
    }
}

/// Whether XDP may send a packet of the entry at `index` on: its way out is a device that takes frames
/// from XDP, and TC would not do better.
#[inline(always)]
pub fn xdp_may_send<G: Gateway + ?Sized>(ip: &Ip, index: u32, plan: &Plan, gateway: &G) -> bool {
    let Some(entry) = gateway.flow(index) else {
        return false;
    };
    // SAFETY: the table's own entry; one word.
    let slot = unsafe { ptr::read_volatile(&raw const (*entry).slot) };
    let Some(target) = gateway.port(plan.generation, slot) else {
        return false;
    };
    target.flags & PORT_XDP_TARGET != 0
        && !(target.flags & PORT_TCP_AT_TC != 0 && ip.key.proto == proto::TCP)
}

/// Edits the packet and sends it on by the port `slot` with the tag `vid`, or has the kernel find the
/// next hop.
#[inline(always)]
pub fn leave<G: Gateway + ?Sized, P: Packet>(
    ip: &Ip,
    change: &mut Change,
    (via, slot, vid): (u16, u16, u16),
    plan: &Plan,
    meta: &Meta,
    gateway: &G,
    packet: &mut P,
) -> Action {
    let refused = |slot| {
        gateway.count_drop(slot, DropReason::KernelRefused, meta.packets());
        Action::Drop
    };
    let Some(stack) = gateway.port(plan.generation, via) else {
        return refused(plan.port.slot);
    };
    copy_mac(&mut change.smac, &stack.mac);
    if !packet.translate(ip, change) {
        return refused(plan.port.slot);
    }
    if slot == NO_SLOT {
        // The stack behind `via` sends it: the frame has no tag there.
        if !packet.retag(plan.frame.tag, crate::meta::Tag::NONE) {
            return refused(plan.port.slot);
        }
        // A gateway port sees the frame again, as one of the host's, and counts it then.
        let outside = stack.flags & PORT_GATEWAY == 0;
        if matches!(stack.kind, PortKind::UplinkHost) {
            gateway.count_tx(stack.peer_slot, meta.packets(), meta.len);
        }
        return Action::Neighbour(Exit {
            ifindex: stack.ifindex,
            to_stack: false,
            mark: outside,
        });
    }
    let Some(target) = gateway.port(plan.generation, slot) else {
        return refused(plan.port.slot);
    };
    if !packet.retag(plan.frame.tag, plan.frame.tag.with_vid(vid)) {
        return refused(slot);
    }
    gateway.count_tx(slot, meta.packets(), meta.len);
    Action::Redirect(Exit::to(target))
}
