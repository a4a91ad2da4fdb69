//! The groups of those that a flooded frame goes to: each member's are asked by themselves.

use core::ptr;

use vnet_common::{
    Event, EventKind, FlowKey, NO_SLOT, PolicyVerdict, PortGroups, PortKind,
    flow::{KEY_BRIDGED, KEY_FLOODED, KEY_ROUTED},
    policy::NOT_IP,
};

use super::{ARP, RARP, exempt, search::Search};
use crate::{
    bytes::zero,
    decide::{Plan, is_stack},
    flow::{state::is_stale, table::NO_FLOW},
    forward::Flood,
    gateway::{FRAGMENT_S, Fragment, Gateway},
    ip::{IPV4, IPV6, Ip, Part, has_service_ports, read},
    nat::arrive::fragment_key,
    window::Window,
};

/// What the members' groups are asked about.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Question {
    /// The packet's addresses and ports; zeroes of what is not IP.
    pub key: FlowKey,
    /// As in [`Search::what`].
    pub what: u32,
    /// The groups of the sender's port.
    pub remote_groups: PortGroups,
    /// The member that the frame's own flow leads to, or whose connection it tells of; it takes it.
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
        key: FlowKey::NONE,
        what: 0,
        remote_groups: PortGroups { groups: [0; 8] },
        known: NO_SLOT,
        mode: PASS,
    };
}

/// Writes what the members are asked about a frame. `ip` is scratch space.
#[inline(always)]
pub fn ask<W: Window + ?Sized, G: Gateway + ?Sized>(
    question: &mut Question,
    plan: &Plan,
    window: &W,
    gateway: &G,
    ip: &mut Ip,
) {
    *question = Question::NONE;
    question.key.segment = plan.segment;
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
    if exempt(ip).into {
        question.mode = PASS;
        return;
    }
    ip.key.segment = plan.segment;
    ip.key.kind = KEY_BRIDGED;
    question.key = ip.key;
    if matches!(ip.part, Part::Later) {
        // Its ports are those of the first, which went the same way.
        match of_first(ip, plan.port.slot, gateway) {
            Some(first) => {
                question.what = first.index;
                question.known = (first.tag >> 16) as u16;
            }
            None => {
                question.mode = DROP;
                return;
            }
        }
    } else {
        let port = if has_service_ports(ip.key.proto) {
            ip.key.dport
        } else {
            0
        };
        question.what = u32::from(ip.key.proto) << 16 | u32::from(port);
        question.known = plan.related;
        let key = fragment_key(ip, KEY_FLOODED);
        if question.known == NO_SLOT {
            question.known = known(&mut ip.key, plan, gateway);
        }
        if matches!(ip.part, Part::First) {
            let first = Fragment {
                index: question.what,
                tag: u32::from(question.known) << 16 | u32::from(plan.port.slot),
                seen_s: gateway.now_s(),
            };
            gateway.fragment_put(&key, &first);
        }
    }
    let owner = gateway.ip_owner(plan.generation, plan.segment, &question.key.src);
    let here =
        owner == plan.port.slot || !matches!(plan.port.kind, PortKind::Vm | PortKind::Uplink);
    if owner != NO_SLOT
        && here
        && let Some(groups) = gateway.port_groups(plan.generation, owner)
    {
        question.remote_groups = *groups;
    }
}

/// What was noted of the first fragment of a packet that was flooded from the port in `slot`, whose groups
/// let it through; `None` when there was none.
#[inline(always)]
pub fn of_first<G: Gateway + ?Sized>(ip: &Ip, slot: u16, gateway: &G) -> Option<Fragment> {
    let first = gateway.fragment_find(&fragment_key(ip, KEY_FLOODED))?;
    let is_fresh = gateway.now_s().saturating_sub(first.seen_s) <= FRAGMENT_S;
    (is_fresh && first.tag as u16 == slot).then_some(first)
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

/// Whether the member in `slot`, which is in groups, takes the frame, which counts for the rule that says
/// so: it has no flow. `search` and `event` are scratch space.
#[inline(always)]
pub fn admits<G: Gateway + ?Sized>(
    flood: &Flood,
    slot: u16,
    search: &mut Search,
    event: &mut Event,
    gateway: &G,
) -> bool {
    let question = &flood.question;
    if question.mode == PASS || question.known == slot {
        return true;
    }
    if question.mode == DROP {
        return false;
    }
    search.remote = question.key.src;
    search.what = question.what;
    search.remote_groups = question.remote_groups;
    search.slot = slot;
    search.out = 0;
    search.generation = flood.generation();
    gateway.judge_port(search);
    if search.rule() != 0 {
        tell(flood, search, event, gateway);
    }
    matches!(search.verdict, PolicyVerdict::Allow)
}

/// Counts the frame for the rule that was found for a member, and reports it where that drops it and says so. A
/// function of its own, for the sake of a program's stack.
#[inline(never)]
fn tell<G: Gateway + ?Sized>(flood: &Flood, search: &Search, event: &mut Event, gateway: &G) {
    let rule = search.rule();
    gateway.count_policy(rule, u64::from(flood.packets), u64::from(flood.len), 0);
    if search.log == 0 || matches!(search.verdict, PolicyVerdict::Allow) {
        return;
    }
    let key = &flood.question.key;
    zero(event);
    event.time_ns = gateway.now_ns();
    event.kind = EventKind::PolicyRule as u32;
    event.slot = search.slot;
    event.segment = key.segment;
    event.flow = *key;
    event.nat_addr = key.dst;
    event.nat_port = key.dport;
    event.rule = rule;
    event.reason = search.verdict as u32;
    gateway.report(event);
}
