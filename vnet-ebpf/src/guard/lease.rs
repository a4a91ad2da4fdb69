//! Learning a port's IP addresses from what DHCP servers answer it (RFC 2131, RFC 8415).
//!
//! Answers count that come from the host or from an uplink, never those of another VM. Who is leased
//! the address is the VM whose hardware address the message names, wherever the FDB knows it, if it has
//! asked for that: another one may have asked in its name.

use vnet_common::{
    Event, EventKind, FdbKey, FlowKey, LearnedIp, LearnedIpKey, NO_SLOT, PortKind,
    flow::mapped,
    guard::{transaction_v4, transaction_v6},
    port::{PORT_LEARN_IPS, PORT_MAC_LIST},
};

use super::{Sight, v4, v6};
use crate::{
    decide::{Fate, Plan},
    ip::{IPV4, IPV4_LEN, IPV6, proto},
    tables::Effects,
    window::Window,
};

/// Bytes that are wanted in the linear head: a message of DHCP with its options.
pub const WANTED: u32 = super::WANTED_LONG;

/// Offset of the options in a DHCP message, behind the magic cookie.
const OPTIONS_V4: usize = 240;
/// The magic cookie (RFC 2131, 3).
const COOKIE: [u8; 4] = [99, 130, 83, 99];
/// Options of either protocol that are looked at; what follows is not.
const OPTIONS: u32 = 32;

/// A padding byte (RFC 2132, 3.1).
const PAD: u8 = 0;
/// How long the address is leased (RFC 2132, 9.2).
const LEASE_TIME: u8 = 51;
/// What kind of message it is (RFC 2132, 9.6).
const MESSAGE_TYPE: u8 = 53;
/// The end of the options (RFC 2132, 3.2).
const END: u8 = 255;
/// The server's word that the address is leased.
const ACK: u8 = 5;

/// `flags` of a lease that was kept: it is a new one.
const LEARNED: u32 = 0x100;

/// DHCPv6's answer to a request (RFC 8415, 7.3).
const REPLY: u8 = 7;
/// Addresses for one interface (RFC 8415, 21.4), with 12 bytes in front of the options inside.
const IA_NA: u16 = 3;
/// One address (RFC 8415, 21.6).
const IA_ADDRESS: u16 = 5;

/// What learning takes besides tables.
pub trait Leases: Effects {
    /// [`keep`], which the kernel side has the verifier look at once.
    fn keep(&self, plan: &Plan, sight: &mut Sight);
    /// [`tell`], the same way.
    fn tell(&self, plan: &Plan, sight: &Sight);
}

/// Whether the frame under way may be a DHCP server's answer: from the host or an uplink, on its way
/// to somebody. Asked for switches with ports whose addresses are leased ones.
#[inline(always)]
#[must_use]
pub fn concerns(plan: &Plan) -> bool {
    !matches!(plan.port.kind, PortKind::Unused | PortKind::Vm)
        && matches!(plan.verdict.fate, Fate::Forward | Fate::Flood)
        && matches!(plan.frame.ether_type, IPV4 | IPV6)
        && !plan.frame.inner_tag
}

/// Remembers what the frame under way asks a DHCP server, if it does: the guards have looked at it, and
/// left where its headers are.
#[inline(always)]
pub fn ask<W: Window + ?Sized, T: Effects + ?Sized>(
    plan: &Plan,
    window: &W,
    tables: &T,
    sight: &Sight,
) {
    let message = sight.l4 as usize + 8;
    let transaction = match v4::ports(window, sight) {
        Ok((v4::CLIENT, v4::SERVER)) => match window.at::<8>(message) {
            Some(h) => transaction_v4(u32::from_be_bytes([h[4], h[5], h[6], h[7]])),
            None => return,
        },
        Ok((v6::CLIENT, v6::SERVER)) => match window.at::<4>(message) {
            Some(h) => transaction_v6(u32::from_be_bytes([0, h[1], h[2], h[3]])),
            None => return,
        },
        _ => return,
    };
    tables.lease_ask(plan.port.slot, transaction);
}

/// Learns from the frame under way.
#[inline(always)]
pub fn learn<W: Window + ?Sized, T: Leases + ?Sized>(
    plan: &Plan,
    window: &W,
    tables: &T,
    sight: &mut Sight,
) {
    sight.clear();
    sight.l3 = plan.frame.payload_offset() as u32;
    let sight = tables.opaque(sight);
    if plan.frame.ether_type == IPV4 {
        learn_v4(plan, window, tables, sight);
    } else if v6::read(window, sight) == Ok(()) {
        learn_v6(plan, window, tables, sight);
    }
}

/// Whether a frame is a DHCP message to a client, which XDP leaves to TC.
#[inline(always)]
pub fn is_for_client<W: Window + ?Sized>(l3: usize, ether_type: u16, window: &W) -> bool {
    match ether_type {
        IPV4 => {
            let Some(h) = window.at::<IPV4_LEN>(l3) else {
                return true;
            };
            let l4 = l3 + (h[0] & 0x0f) as usize * 4;
            h[9] == proto::UDP && is_port(window, l4, v4::CLIENT)
        }
        IPV6 => {
            let Some(h) = window.at::<8>(l3) else {
                return true;
            };
            h[6] == proto::UDP && is_port(window, l3 + crate::ip::IPV6_LEN, v6::CLIENT)
        }
        _ => false,
    }
}

/// Whether UDP's destination port is `port`, or cannot be looked at.
#[inline(always)]
fn is_port<W: Window + ?Sized>(window: &W, l4: usize, port: u16) -> bool {
    match window.at::<4>(l4) {
        Some(h) => u16::from_be_bytes([h[2], h[3]]) == port,
        None => true,
    }
}

#[inline(always)]
fn learn_v4<W: Window + ?Sized, T: Leases + ?Sized>(
    plan: &Plan,
    window: &W,
    tables: &T,
    sight: &mut Sight,
) {
    let Some(h) = window.at::<IPV4_LEN>(sight.l3 as usize) else {
        return;
    };
    // No server sends an answer in fragments to who has no address yet.
    if h[0] >> 4 != 4 || u16::from_be_bytes([h[6], h[7]]) & 0x3fff != 0 {
        return;
    }
    sight.proto = u32::from(h[9]);
    sight.l4 = sight.l3 + u32::from(h[0] & 0x0f) * 4;
    if v4::ports(window, sight) != Ok((v4::SERVER, v4::CLIENT)) {
        return;
    }
    let message = sight.l4 as usize + 8;
    let (Some(head), Some(cookie)) = (
        window.at::<{ v4::CHADDR + 6 }>(message),
        window.at::<4>(message + OPTIONS_V4 - 4),
    ) else {
        return;
    };
    // An answer, over Ethernet.
    if head[0] != 2
        || head[1] != 1
        || head[2] != 6
        || u32::from_ne_bytes(*cookie) != u32::from_ne_bytes(COOKIE)
    {
        return;
    }
    sight.client = [head[28], head[29], head[30], head[31], head[32], head[33]];
    sight.transaction = transaction_v4(u32::from_be_bytes([head[4], head[5], head[6], head[7]]));
    let leased = [head[16], head[17], head[18], head[19]];
    sight.addr = mapped(leased);
    sight.l4 = (message + OPTIONS_V4) as u32;
    let sight = tables.opaque(sight);
    options_v4(window, tables, sight);
    let sight = tables.opaque(sight);
    if sight.flags == u32::from(ACK) && u32::from_ne_bytes(leased) != 0 {
        keep_and_tell(plan, tables, sight);
    }
}

/// Reads the options from `l4` on: the kind of message to `flags`, the time to `end`.
#[inline(always)]
fn options_v4<W: Window + ?Sized, T: Leases + ?Sized>(window: &W, tables: &T, sight: &mut Sight) {
    let mut i = 0;
    while i < OPTIONS {
        // Read anew, so that the verifier does not tell one option from the next.
        let sight = tables.opaque(sight);
        let at = sight.l4 as usize;
        // What ends with the packet is the end, or of no use.
        let Some(h) = window.at::<2>(at) else {
            return;
        };
        let code = h[0];
        if code == END {
            return;
        }
        let mut len = 1;
        if code != PAD {
            len = 2 + u32::from(h[1]);
            if code == MESSAGE_TYPE
                && let Some(h) = window.at::<3>(at)
            {
                sight.flags = u32::from(h[2]);
            }
            if code == LEASE_TIME
                && let Some(h) = window.at::<6>(at)
            {
                sight.end = u32::from_be_bytes([h[2], h[3], h[4], h[5]]);
            }
        }
        sight.l4 += len;
        i += 1;
    }
}

#[inline(always)]
fn learn_v6<W: Window + ?Sized, T: Leases + ?Sized>(
    plan: &Plan,
    window: &W,
    tables: &T,
    sight: &mut Sight,
) {
    if v4::ports(window, sight) != Ok((v6::SERVER, v6::CLIENT)) {
        return;
    }
    let message = sight.l4 as usize + 8;
    match window.at::<4>(message) {
        Some(h) if h[0] == REPLY => {
            sight.transaction = transaction_v6(u32::from_be_bytes([0, h[1], h[2], h[3]]));
        }
        _ => return,
    }
    sight.l4 = message as u32 + 4;
    sight.client = plan.frame.dst;
    let mut i = 0;
    while i < OPTIONS {
        // Read anew, so that the verifier does not tell one option from the next.
        let sight = tables.opaque(sight);
        let at = sight.l4 as usize;
        let Some(h) = window.at::<4>(at) else {
            return;
        };
        let (code, len) = (
            u16::from_be_bytes([h[0], h[1]]),
            u32::from(u16::from_be_bytes([h[2], h[3]])),
        );
        if code == IA_ADDRESS {
            let Some(body) = window.at::<28>(at) else {
                return;
            };
            sight.end = u32::from_be_bytes([body[24], body[25], body[26], body[27]]);
            let mut k = 0;
            while k < 16 {
                sight.addr[k] = body[4 + k];
                k += 1;
            }
            keep_and_tell(plan, tables, sight);
        }
        // The options inside are the next ones.
        sight.l4 += if code == IA_NA { 16 } else { 4 + len };
        i += 1;
    }
}

/// Keeps the lease of the address in `sight` for the seconds in its `end`, if its client is behind a
/// port that learns.
#[inline(always)]
pub fn keep<T: Effects + ?Sized>(plan: &Plan, tables: &T, sight: &mut Sight) {
    sight.flags = 0;
    let generation = plan.generation;
    let client = &sight.client;
    let Some(entry) = tables.fdb_find(FdbKey::new(*client, plan.segment)) else {
        return;
    };
    let Some(port) = tables.port(generation, entry.slot) else {
        return;
    };
    if port.flags & PORT_LEARN_IPS == 0
        || (port.flags & PORT_MAC_LIST != 0
            && !tables.mac_allowed(generation, port.slot, *client))
        || !tables.lease_asked(port.slot, sight.transaction)
        // What is somebody's by configuration is no server's to give.
        || tables.port_ip(generation, plan.segment, &sight.addr) != NO_SLOT
    {
        return;
    }
    let key = LearnedIpKey {
        addr: sight.addr,
        segment: plan.segment,
        reserved: 0,
    };
    let known = match tables.learned_ip(key.segment, &key.addr) {
        Some(learned) => learned.slot == port.slot,
        None => false,
    };
    if sight.end == 0 {
        if known {
            tables.lease_remove(&key);
        }
        return;
    }
    if !known {
        let mut oldest = LearnedIpKey::default();
        if !tables.lease_swap(port.slot, &key, &mut oldest) {
            return;
        }
        if let Some(learned) = tables.learned_ip(oldest.segment, &oldest.addr)
            && learned.slot == port.slot
        {
            tables.lease_remove(&oldest);
        }
    }
    tables.lease_put(
        &key,
        &LearnedIp {
            ifindex: port.ifindex,
            expires_s: tables.now_s().saturating_add(sight.end),
            slot: port.slot,
            reserved: 0,
        },
    );
    if !known {
        sight.flags = LEARNED;
    }
}

/// Has the lease in `sight` be kept, and reports one that is new. Not in one function: a program's
/// stack is for all its calls together.
#[inline(always)]
fn keep_and_tell<T: Leases + ?Sized>(plan: &Plan, tables: &T, sight: &mut Sight) {
    tables.keep(plan, sight);
    let sight = tables.opaque(sight);
    if sight.flags == LEARNED {
        tables.tell(plan, sight);
    }
}

/// Reports the lease in `sight`.
#[inline(always)]
pub fn tell<T: Effects + ?Sized>(plan: &Plan, tables: &T, sight: &Sight) {
    if let Some(learned) = tables.learned_ip(plan.segment, &sight.addr) {
        tables.report(&Event {
            time_ns: tables.now_ns(),
            kind: EventKind::IpLearned as u32,
            mac: sight.client,
            slot: learned.slot,
            segment: plan.segment,
            flow: FlowKey {
                src: sight.addr,
                ..FlowKey::default()
            },
            ..Event::default()
        });
    }
}
