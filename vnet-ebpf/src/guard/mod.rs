//! Guards: what a VM says of itself has to be true, before anything is learned or permitted.
//!
//! A guarded port (`PORT_GUARDS`) sends from its own MAC and IP addresses, claims no other in ARP and
//! neighbour discovery, and with a strict guard is no DHCP server and no router. What follows headers
//! that cannot be read is not let past (RFC 7113). Two tags are looked behind, so that an inner one
//! hides nothing.

mod arp;
pub mod lease;
mod nd;
mod v4;
mod v6;

use vnet_common::{
    Addr, DropReason, Event, EventKind, FlowKey, Mac, NO_SLOT, PortKind,
    port::{PORT_GUARD_IP, PORT_GUARD_OWNERS, PORT_GUARD_STRICT, PORT_GUARDS, PORT_LEARN_IPS},
};

use crate::{
    answer::ARP,
    bytes::zero,
    decide::{Fate, Plan, Source, Verdict},
    frame::TAG_LEN,
    ip::{IPV4, IPV6, proto},
    meta::is_tpid,
    tables::{Effects, Tables},
    window::Window,
};

/// EtherType of RARP, host order: QEMU announces a VM that has moved by it.
const RARP: u16 = 0x8035;
/// The least EtherType; less is the length of a frame with an LLC header (IEEE 802.3-2022, 3.2.6).
const LEAST_ETHER_TYPE: u16 = 0x0600;

/// Bytes that are looked at of IPv4: as far as the client's address in a DHCP message, behind the
/// longest header.
const WANTED_V4: u32 = 128;
/// Bytes that are looked at where there may be many headers or options.
const WANTED_LONG: u32 = 1024;

/// What the guards work on: one frame a CPU. In a map, for a program's stack is small.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sight {
    /// The address that is looked at.
    pub addr: Addr,
    /// Offset of the IP header or of ARP.
    pub l3: u32,
    /// Offset of what is behind the IP header and its extensions.
    pub l4: u32,
    /// Where an IPv6 packet ends by its header's word.
    pub end: u32,
    /// What is at `l4`.
    pub proto: u32,
    /// `SIGHT_…` bits.
    pub flags: u32,
    /// EtherType behind the tags.
    pub ether_type: u32,
    /// Whose lease is read.
    pub client: Mac,
    /// Always zero.
    pub reserved: u16,
    /// What the lease answers, as in [`PortLeases`](vnet_common::PortLeases).
    pub transaction: u64,
}

/// `flags` of [`Sight`]: a fragment.
pub const SIGHT_FRAGMENT: u32 = 1;
/// `flags` of [`Sight`]: a fragment but the first: what is at `l4` is no header.
pub const SIGHT_LATER: u32 = 2;

impl Sight {
    /// Before anything was looked at.
    pub const EMPTY: Self = Self {
        addr: [0; 16],
        l3: 0,
        l4: 0,
        end: 0,
        proto: 0,
        flags: 0,
        ether_type: 0,
        client: [0; 6],
        reserved: 0,
        transaction: 0,
    };

    /// Before anything was looked at, written in place.
    #[inline(always)]
    pub fn clear(&mut self) {
        zero(self);
    }
}

/// Whether the frame under way is to be looked at: it comes from a guarded port and is not dropped
/// already for what it is, whoever sent it. Of ports of which nothing is known but that they take nobody's
/// addresses it is what claims them: ARP and neighbour discovery.
#[inline(always)]
#[must_use]
pub fn concerns(plan: &Plan) -> bool {
    let looks_at_all = plan.port.flags & (PORT_GUARDS & !PORT_GUARD_OWNERS) != 0;
    let looks_at_claims = plan.port.flags & PORT_GUARD_OWNERS != 0 && plan.limited != 0;
    (looks_at_all || looks_at_claims)
        && !(matches!(plan.verdict.fate, Fate::Drop) && matches!(plan.source, Source::Unseen))
}

/// Bytes that are wanted in the linear head for [`check`]. Bulk traffic, which may come in buffers
/// with little more than its headers there, needs no more than every frame does.
#[inline(always)]
pub fn wanted<W: Window + ?Sized>(plan: &Plan, window: &W) -> u32 {
    let l3 = plan.frame.payload_offset();
    if plan.frame.inner_tag {
        return WANTED_LONG;
    }
    match plan.frame.ether_type {
        IPV4 => match window.at::<10>(l3) {
            Some(h) if h[9] == proto::TCP => 0,
            _ => WANTED_V4,
        },
        IPV6 => match window.at::<7>(l3) {
            Some(h) if h[6] == proto::TCP || h[6] == proto::UDP => 0,
            _ => WANTED_LONG,
        },
        _ => 0,
    }
}

/// Looks at the frame under way: has it dropped, and forgotten, when something is wrong with it.
#[inline(always)]
pub fn check<W: Window + ?Sized, T: Effects + ?Sized>(
    plan: &mut Plan,
    window: &W,
    tables: &T,
    sight: &mut Sight,
) {
    sight.clear();
    let sight = tables.opaque(sight);
    let Err(reason) = look(plan, window, tables, sight) else {
        if plan.port.flags & PORT_LEARN_IPS != 0 {
            lease::ask(plan, window, tables, tables.opaque(sight));
        }
        return;
    };
    plan.verdict = Verdict::drop(reason, plan.port.slot);
    plan.source = Source::Known;
    plan.stack_slot = NO_SLOT;
    plan.policed = false;
    if is_ip_conflict(reason) {
        let sight = tables.opaque(sight);
        report_conflict(plan, &sight.addr, tables);
    }
}

#[inline(always)]
fn look<W: Window + ?Sized, T: Tables + ?Sized>(
    plan: &Plan,
    window: &W,
    tables: &T,
    sight: &mut Sight,
) -> Result<(), DropReason> {
    behind_tags(plan, window, sight)?;
    let sight = tables.opaque(sight);
    match sight.ether_type as u16 {
        ARP => arp::check(plan, window, tables, sight),
        RARP => arp::check_hardware(plan, window, sight),
        IPV4 => v4::check(plan, window, tables, sight),
        IPV6 => v6::check(plan, window, tables, sight),
        other if other < LEAST_ETHER_TYPE && plan.port.flags & PORT_GUARD_STRICT != 0 => {
            Err(DropReason::LlcFrame)
        }
        _ => Ok(()),
    }
}

/// Finds what is behind the tags, of which there may be two.
#[inline(always)]
fn behind_tags<W: Window + ?Sized>(
    plan: &Plan,
    window: &W,
    sight: &mut Sight,
) -> Result<(), DropReason> {
    let mut l3 = plan.frame.payload_offset();
    let mut ether_type = plan.frame.ether_type;
    if plan.frame.inner_tag {
        let tag: &[u8; TAG_LEN] = window.at(l3).ok_or(DropReason::Runt)?;
        ether_type = u16::from_be_bytes([tag[2], tag[3]]);
        l3 += TAG_LEN;
        if is_tpid(ether_type) {
            return Err(DropReason::VlanTags);
        }
    }
    sight.l3 = l3 as u32;
    sight.ether_type = u32::from(ether_type);
    Ok(())
}

/// Whether the sender may use the address in `sight`: `foreign` when it is not one of its own where
/// those are listed, `taken` when it is somebody else's.
#[inline(always)]
fn claim<T: Tables + ?Sized>(
    plan: &Plan,
    tables: &T,
    sight: &Sight,
    foreign: DropReason,
    taken: DropReason,
) -> Result<(), DropReason> {
    if plan.port.flags & (PORT_GUARD_IP | PORT_GUARD_OWNERS) == 0 {
        return Ok(());
    }
    let owner = tables.ip_owner(plan.generation, plan.segment, &sight.addr);
    if owner == plan.port.slot {
        return Ok(());
    }
    if owner != NO_SLOT {
        return Err(taken);
    }
    if plan.port.flags & PORT_GUARD_IP == 0 || is_link_local_of(&sight.addr, &plan.frame.src) {
        return Ok(());
    }
    Err(foreign)
}

/// Whether it is the link-local address that is made of a MAC address (RFC 4291, 2.5.6 and appendix
/// A).
#[inline(always)]
fn is_link_local_of(addr: &Addr, mac: &Mac) -> bool {
    let a = addr;
    let zeroes = a[2] | a[3] | a[4] | a[5] | a[6] | a[7];
    let differs = (a[8] ^ mac[0] ^ 2)
        | (a[9] ^ mac[1])
        | (a[10] ^ mac[2])
        | (a[11] ^ 0xff)
        | (a[12] ^ 0xfe)
        | (a[13] ^ mac[3])
        | (a[14] ^ mac[4])
        | (a[15] ^ mac[5]);
    a[0] == 0xfe && a[1] == 0x80 && zeroes == 0 && differs == 0
}

/// Whether two MAC addresses are one.
#[inline(always)]
const fn same(a: &Mac, b: &Mac) -> bool {
    (a[0] ^ b[0]) | (a[1] ^ b[1]) | (a[2] ^ b[2]) | (a[3] ^ b[3]) | (a[4] ^ b[4]) | (a[5] ^ b[5])
        == 0
}

/// Whether a drop says that a frame came from somebody else's MAC address.
#[inline(always)]
#[must_use]
pub const fn is_mac_conflict(reason: DropReason) -> bool {
    matches!(
        reason,
        DropReason::MacConflict | DropReason::MacSourceLocal | DropReason::MacSourceStatic
    )
}

/// Whether a drop says that somebody else's IP address was used.
#[inline(always)]
#[must_use]
pub const fn is_ip_conflict(reason: DropReason) -> bool {
    matches!(
        reason,
        DropReason::IpConflict | DropReason::ArpConflict | DropReason::NdConflict
    )
}

/// Reports that a VM used somebody else's address: `addr`, or its MAC address where that is all zero.
#[inline(never)]
pub fn report_conflict<T: Effects + ?Sized>(plan: &Plan, addr: &Addr, tables: &T) {
    if !matches!(plan.port.kind, PortKind::Vm) {
        return;
    }
    tables.report(&Event {
        time_ns: tables.now_ns(),
        kind: EventKind::AddressConflict as u32,
        mac: plan.frame.src,
        slot: plan.port.slot,
        segment: plan.segment,
        reason: plan.verdict.reason as u32,
        flow: FlowKey {
            src: *addr,
            ..FlowKey::default()
        },
        ..Event::default()
    });
}
