//! The groups of those that a flooded frame goes to: each member's are asked by themselves.

use core::ptr;

use vnet_common::{
    Addr, FlowKey, NO_SLOT, PolicyVerdict, PortGroups, PortKind,
    flow::{KEY_BRIDGED, KEY_ROUTED},
    policy::NOT_IP,
};

use super::{ARP, RARP, exempt, search::Search};
use crate::{
    decide::{Plan, is_stack},
    flow::{state::is_stale, table::NO_FLOW},
    gateway::Gateway,
    ip::{IPV4, IPV6, Ip, Part, has_service_ports, read},
    window::Window,
};

/// What the members' groups are asked about.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Question {
    /// The sender's address.
    pub remote: Addr,
    /// As in [`Search::what`].
    pub what: u32,
    /// The groups of the sender's port.
    pub remote_groups: PortGroups,
    /// The member that the frame's own flow leads to; it takes it.
    pub known: u16,
    /// What the members' groups are for: [`PASS`], [`ASK`] or [`DROP`].
    pub mode: u16,
}

/// No group is asked.
pub const PASS: u16 = 0;
/// Each member's groups are asked.
pub const ASK: u16 = 1;
/// No member that is in a group takes it.
pub const DROP: u16 = 2;

impl Question {
    /// Nobody is asked.
    pub const NONE: Self = Self {
        remote: [0; 16],
        what: 0,
        remote_groups: PortGroups { groups: [0; 8] },
        known: NO_SLOT,
        mode: PASS,
    };
}

/// Writes what the members are asked about a frame; nothing about one that is `related` to a connection.
/// `ip` is scratch space.
#[inline(always)]
pub fn ask<W: Window + ?Sized, G: Gateway + ?Sized>(
    question: &mut Question,
    plan: &Plan,
    window: &W,
    gateway: &G,
    ip: &mut Ip,
    related: bool,
) {
    *question = Question::NONE;
    let policed = gateway
        .segment(plan.generation, plan.segment)
        .is_some_and(|segment| segment.policed != 0);
    if !policed {
        return;
    }
    let frame = &plan.frame;
    if matches!(frame.ether_type, ARP | RARP) && !frame.inner_tag {
        return;
    }
    question.mode = ASK;
    if !matches!(frame.ether_type, IPV4 | IPV6) || frame.inner_tag {
        question.what = NOT_IP;
        return;
    }
    let l3 = frame.payload_offset();
    if read(window, l3, frame.ether_type == IPV6, ip).is_err() {
        question.mode = DROP;
        return;
    }
    let ip = gateway.opaque(ip);
    if exempt(ip).into || related {
        question.mode = PASS;
        return;
    }
    if matches!(ip.part, Part::Later) {
        question.mode = DROP;
        return;
    }
    ip.key.segment = plan.segment;
    ip.key.kind = KEY_BRIDGED;
    let port = if has_service_ports(ip.key.proto) {
        ip.key.dport
    } else {
        0
    };
    question.what = u32::from(ip.key.proto) << 16 | u32::from(port);
    question.remote = ip.key.src;
    question.known = known(&mut ip.key, plan, gateway);
    let owner = gateway.ip_owner(plan.generation, plan.segment, &question.remote);
    let here =
        owner == plan.port.slot || !matches!(plan.port.kind, PortKind::Vm | PortKind::Uplink);
    if owner != NO_SLOT
        && here
        && let Some(groups) = gateway.port_groups(plan.generation, owner)
    {
        question.remote_groups = *groups;
    }
}

/// The member that the frame's flow goes to, when it has one that was judged by the rules in force.
#[inline(always)]
fn known<G: Gateway + ?Sized>(key: &mut FlowKey, plan: &Plan, gateway: &G) -> u16 {
    let mut index = gateway.find_flow(key);
    let routed = index == NO_FLOW && is_stack(plan.port.kind);
    if routed {
        // What the host sends on for the gateway: the entry of the answers says whose it is.
        let (src, sport) = (key.src, key.sport);
        key.src = key.dst;
        key.dst = src;
        key.sport = key.dport;
        key.dport = sport;
        key.kind = KEY_ROUTED;
        index = gateway.find_flow(key);
    }
    if index == NO_FLOW {
        return NO_SLOT;
    }
    let (Some(conf), Some(entry)) = (gateway.switch(), gateway.flow(index)) else {
        return NO_SLOT;
    };
    let now_s = gateway.now_s();
    // SAFETY: the table's own entries; each field is read once.
    unsafe {
        let state = ptr::read_volatile(&raw const (*entry).state);
        let seen_s = ptr::read_volatile(&raw const (*entry).seen_s);
        let fresh = !is_stale(seen_s, now_s, conf.timeouts.of(key.proto, state));
        if routed {
            // Judged as the gateway's a moment ago.
            return if fresh {
                ptr::read_volatile(&raw const (*entry).owner)
            } else {
                NO_SLOT
            };
        }
        let stands = fresh
            && ptr::read_volatile(&raw const (*entry).epoch) == plan.epoch
            && ptr::read_volatile(&raw const (*entry).via) == plan.port.slot;
        if stands {
            ptr::read_volatile(&raw const (*entry).slot)
        } else {
            NO_SLOT
        }
    }
}

/// Whether the member in `slot`, which is in groups, takes the frame.
#[inline(always)]
pub fn admits<G: Gateway + ?Sized>(
    question: &Question,
    generation: u32,
    slot: u16,
    search: &mut Search,
    gateway: &G,
) -> bool {
    if question.mode == PASS || question.known == slot {
        return true;
    }
    if question.mode == DROP {
        return false;
    }
    search.remote = question.remote;
    search.what = question.what;
    search.remote_groups = question.remote_groups;
    search.slot = slot;
    search.out = 0;
    search.generation = generation;
    gateway.judge_port(search);
    matches!(search.verdict, PolicyVerdict::Allow)
}
