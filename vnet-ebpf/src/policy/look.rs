//! The groups' fast path: packets of a connection that is known and was judged by the rules in force.

use core::ptr;

use vnet_common::{
    NO_SLOT,
    flow::{FLOW_REPLY, KEY_BRIDGED},
};

use super::arrive::target_slot;
use crate::{
    decide::Plan,
    flow::state::{book, is_stale, is_steady},
    flow::table::NO_FLOW,
    gateway::Gateway,
    ip::{Icmp, Ip, Unread, read_simple},
    meta::Meta,
    window::Window,
};

/// Whether a flow to the port `slot` is what a frame for `target` follows. One that is flooded goes to
/// whom its connection is with, wherever it goes besides.
#[inline(always)]
const fn leads(slot: u16, target: u16) -> bool {
    slot == target || target == NO_SLOT
}

/// Whether the packet follows a flow as it is, in which it is booked then. Reads the headers into `ip`.
#[inline(always)]
pub fn passes<W: Window + ?Sized, G: Gateway + ?Sized>(
    plan: &Plan,
    meta: &Meta,
    window: &W,
    gateway: &G,
    ip: &mut Ip,
) -> bool {
    if plan.frame.inner_tag || read_simple(&plan.frame, window, ip) != Ok::<(), Unread>(()) {
        return false;
    }
    let ip = gateway.opaque(ip);
    if matches!(ip.icmp, Icmp::Error) {
        return false;
    }
    ip.key.segment = plan.segment;
    ip.key.kind = KEY_BRIDGED;
    let index = gateway.find_flow(&ip.key);
    if index == NO_FLOW {
        return false;
    }
    let (Some(conf), Some(entry)) = (gateway.switch(), gateway.flow(index)) else {
        return false;
    };
    let now_s = gateway.now_s();
    // SAFETY: the table's own entry; each field is read once.
    unsafe {
        let state = ptr::read_volatile(&raw const (*entry).state);
        let flags = ptr::read_volatile(&raw const (*entry).flags);
        let seen_s = ptr::read_volatile(&raw const (*entry).seen_s);
        if ptr::read_volatile(&raw const (*entry).epoch) != plan.epoch
            || ptr::read_volatile(&raw const (*entry).via) != plan.port.slot
            || !leads(
                ptr::read_volatile(&raw const (*entry).slot),
                target_slot(plan),
            )
            || !is_steady(state, ip, flags & FLOW_REPLY != 0)
            || (seen_s != now_s && is_stale(seen_s, now_s, conf.timeouts.of(ip.key.proto, state)))
        {
            return false;
        }
        book(entry, ip, now_s, meta);
    }
    true
}
