//! What becomes of a frame. Reads, never writes.

use core::ptr;

use vnet_common::{
    DropReason, FdbEntry, FdbKey, NO_SEGMENT, NO_SLOT, PortConf, PortKind, StormKind, SwitchConf,
    fdb::FDB_LOCAL,
    flow::mapped,
    port::{
        PORT_ACCESS, PORT_GUARD_MAC, PORT_GUARD_OWNERS, PORT_ISOLATED, PORT_LEARN_IPS,
        PORT_MAC_LIST, PORT_MEMBER, PORT_ROUTED, PORT_TCP_AT_TC, PORT_XDP_TARGET,
    },
    switch::SWITCH_GUARDS,
};

use crate::{
    fdb::is_expired,
    forward::Exit,
    frame::{Frame, is_broadcast, is_group, is_reserved, is_zero},
    gso,
    guard::lease,
    ip,
    limit::is_banned,
    meta::{Hook, Meta},
    policy::is_policed,
    tables::{Tables, UNGUARDED},
    window::Window,
};

/// Linux accepts no MTU below this (`ETH_MIN_MTU`, include/uapi/linux/if_ether.h), so that a frame
/// this short fits everywhere and needs no look at the device.
const LEAST_MTU: u32 = 68;

/// What becomes of a frame, and what is to be booked for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// What becomes of it.
    pub verdict: Verdict,
    /// The port it came from, once known.
    pub port: Origin,
    /// The segment it belongs to, once known.
    pub segment: u16,
    /// Half of the tables that was looked at.
    pub generation: u32,
    /// The switch's epoch at that moment, or an earlier one: a flow that has another is judged anew.
    pub epoch: u32,
    /// What its source address is worth knowing.
    pub source: Source,
    /// Where it leaves, for [`Fate::Forward`].
    pub exit: Exit,
    /// Security groups are to be asked before it is forwarded. A flood's members are asked each by
    /// itself.
    pub policed: bool,
    /// It is of a kind that its port limits, or the guards look at, whatever becomes of it, [`StormKind::Arp`] or
    /// [`StormKind::Nd`]; 0 is none.
    pub limited: u32,
    /// It is for one of the host's addresses, and the stack behind the exit takes another.
    pub readdress: bool,
    /// Slot of the stack-side port that it is addressed to, when its packet may have to be routed on:
    /// the verdict is what becomes of it otherwise. 0 is none.
    pub stack_slot: u16,
    /// Slot of the port whose connection the frame is an ICMP error about, once that is known; 0 is none.
    pub related: u16,
    /// Its header.
    pub frame: Frame,
}

/// The port a frame came from, as far as the rest of the pipeline needs it. A program's stack is
/// 512 bytes for all its calls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Origin {
    /// The port.
    pub slot: u16,
    /// The other side of an uplink; 0 is none.
    pub peer_slot: u16,
    /// What is behind it.
    pub kind: PortKind,
    /// It is a VM's, and in security groups.
    pub policed: bool,
    /// `PORT_…` bits.
    pub flags: u32,
}

impl Origin {
    #[inline(always)]
    const fn of(port: &PortConf) -> Self {
        Self {
            slot: port.slot,
            peer_slot: port.peer_slot,
            kind: port.kind,
            policed: is_policed(port),
            flags: port.flags,
        }
    }
}

/// What becomes of a frame.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// The switch redirected it here itself: let it pass, uncounted.
    Redirected,
    /// XDP leaves it to TC, unchanged and uncounted.
    PassUp,
    /// From an uplink's wire to the host's stack behind the same interface.
    ToHost,
    /// From the host's stack to the wire of the same interface.
    ToWire,
    /// To the port in `slot`, with the tag `vid`.
    Forward,
    /// To every other port of its segment; `storm` says which limit it counts against.
    Flood,
    /// To nobody, for `reason`, which is counted at `slot`.
    Drop,
}

/// What becomes of a frame, with what belongs to it.
///
/// A struct and not an enum with fields: the kernel side keeps it in a map, where the verifier
/// wants every byte written that is copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// What becomes of it.
    pub fate: Fate,
    /// For [`Fate::Flood`].
    pub storm: StormKind,
    /// For [`Fate::Drop`].
    pub reason: DropReason,
    /// For [`Fate::Forward`] and [`Fate::Drop`].
    pub slot: u16,
    /// For [`Fate::Forward`]: 0 is untagged.
    pub vid: u16,
}

impl Verdict {
    /// A verdict that needs nothing else.
    #[inline(always)]
    #[must_use]
    pub const fn plain(fate: Fate) -> Self {
        Self {
            fate,
            storm: StormKind::Broadcast,
            reason: DropReason::PortUnknown,
            slot: NO_SLOT,
            vid: 0,
        }
    }

    /// A drop that is counted at `slot`.
    #[inline(always)]
    #[must_use]
    pub const fn drop(reason: DropReason, slot: u16) -> Self {
        Self {
            reason,
            slot,
            ..Self::plain(Fate::Drop)
        }
    }

    /// To one port, with the tag `vid`.
    #[inline(always)]
    #[must_use]
    pub const fn forward(slot: u16, vid: u16) -> Self {
        Self {
            slot,
            vid,
            ..Self::plain(Fate::Forward)
        }
    }

    /// To every other port of the segment.
    #[inline(always)]
    #[must_use]
    pub const fn flood(storm: StormKind) -> Self {
        Self {
            storm,
            ..Self::plain(Fate::Flood)
        }
    }
}

/// What a source address calls for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// It was not looked at: the frame is dropped for what it is.
    Unseen,
    /// Nothing: it is not to be learned, or it is known and fresh.
    Known,
    /// Its time is to be set.
    Touch,
    /// It is new here.
    Learn,
}

impl Plan {
    /// What a plan holds before anything was looked at.
    pub const EMPTY: Self = Self {
        verdict: Verdict::drop(DropReason::PortUnknown, NO_SLOT),
        port: Origin {
            slot: NO_SLOT,
            peer_slot: NO_SLOT,
            kind: PortKind::Unused,
            policed: false,
            flags: 0,
        },
        segment: NO_SEGMENT,
        generation: 0,
        epoch: 0,
        source: Source::Unseen,
        exit: Exit {
            ifindex: 0,
            to_stack: false,
            mark: false,
        },
        policed: false,
        limited: 0,
        readdress: false,
        stack_slot: NO_SLOT,
        related: NO_SLOT,
        frame: Frame::EMPTY,
    };
}

/// Decides what becomes of a frame and writes it to `plan`, whatever that held before.
#[inline(always)]
pub fn decide<W: Window + ?Sized, T: Tables + ?Sized>(
    meta: &Meta,
    window: &W,
    tables: &T,
    plan: &mut Plan,
) {
    *plan = Plan::EMPTY;
    let verdict = judge(meta, window, tables, plan);
    // A frame to an address that is not known may be of a connection all the same.
    if matches!(verdict.fate, Fate::Flood) && matches!(verdict.storm, StormKind::UnknownUnicast) {
        plan.policed |= tables
            .segment(plan.generation, plan.segment)
            .is_some_and(|segment| segment.policed != 0);
    }
    plan.policed &= matches!(verdict.fate, Fate::Forward | Fate::Flood);
    plan.verdict = if matches!(meta.hook, Hook::Xdp) {
        at_xdp(verdict, plan)
    } else {
        verdict
    };
}

#[inline(always)]
fn judge<W: Window + ?Sized, T: Tables + ?Sized>(
    meta: &Meta,
    window: &W,
    tables: &T,
    plan: &mut Plan,
) -> Verdict {
    let Some(conf) = tables.switch() else {
        return unknown_port(meta);
    };
    // In this order: a change of the configuration writes the generation first. A flow that was judged by
    // the old half never passes for one that the new one let through.
    // SAFETY: aligned words of the table's own.
    let generation = unsafe {
        plan.epoch = ptr::read_volatile(&raw const conf.epoch);
        ptr::read_volatile(&raw const conf.generation)
    };
    plan.generation = generation;
    let Some(at_interface) = tables.port_by_ifindex(generation, meta.ifindex) else {
        return unknown_port(meta);
    };
    // Only an uplink sees its own frames again: a VM has no way to set the token, but a frame that
    // another switch on this host sent to one of our VM ports might carry its token.
    if meta.redirected && matches!(at_interface.kind, PortKind::Uplink) {
        return Verdict::plain(Fate::Redirected);
    }
    let port =
        if matches!(meta.hook, Hook::TcEgress) && matches!(at_interface.kind, PortKind::Uplink) {
            match tables.port(generation, at_interface.peer_slot) {
                Some(host) if matches!(host.kind, PortKind::UplinkHost) => host,
                // A member of the switch device: what the host sends out of it directly (LLDP) is for
                // the wire.
                _ => return Verdict::plain(Fate::ToWire),
            }
        } else {
            at_interface
        };
    plan.port = Origin::of(port);
    plan.policed = plan.port.policed;
    let drop = |reason| Verdict::drop(reason, port.slot);

    if !Frame::parse(meta, window, &mut plan.frame) {
        return drop(DropReason::Runt);
    }
    let plan = tables.opaque(plan);
    let frame = &plan.frame;
    if is_reserved(frame.dst) {
        let verdict = reserved(port, frame, tables, generation);
        if let Some(device) = tables.port(generation, verdict.slot) {
            plan.exit = Exit::to(device);
        }
        return verdict;
    }
    let segment = match classify(port, frame, tables, generation) {
        Ok(segment) => segment,
        Err(verdict) => {
            // A network that the switch does not carry is the host's to send to, but not with that
            // source.
            if matches!(verdict.fate, Fate::ToWire)
                && guards(conf, generation)
                && is_guarded(frame, window, tables, generation, NO_SEGMENT)
            {
                return drop(DropReason::NatUntranslated);
            }
            return verdict;
        }
    };
    plan.segment = segment;
    if matches!(port.kind, PortKind::UplinkHost)
        && guards(conf, generation)
        && is_guarded(frame, window, tables, generation, segment)
    {
        return drop(DropReason::NatUntranslated);
    }

    if frame.inner_tag && is_priority_tag(frame, window) {
        return drop(DropReason::DoubleTag);
    }
    if let Some(reason) = check_addresses(port, frame, conf, tables) {
        return drop(reason);
    }
    let vm_slot = if matches!(port.kind, PortKind::Vm) {
        port.slot
    } else {
        NO_SLOT
    };
    if tables.bans()
        && (!is_stack(port.kind) || meta.forwarded)
        && is_banned(frame, window, tables, segment, vm_slot)
    {
        return drop(DropReason::SourceBanned);
    }
    plan.limited = limited(port, frame, window);
    let now_s = tables.now_s();
    let known = tables.fdb_find(FdbKey::new(frame.src, segment));
    match check_source(port, known, now_s, conf, tables) {
        Ok(source) => plan.source = source,
        Err(reason) => return drop(reason),
    }

    if is_group(frame.dst) {
        let kind = if is_broadcast(frame.dst) {
            StormKind::Broadcast
        } else {
            StormKind::Multicast
        };
        return Verdict::flood(kind);
    }
    let unknown = Verdict::flood(StormKind::UnknownUnicast);
    let Some(entry) = tables.fdb_find(FdbKey::new(frame.dst, segment)) else {
        return unknown;
    };
    if is_expired(&entry, now_s, conf.ageing_s) {
        return unknown;
    }
    let Some(target) = tables.port(generation, entry.slot) else {
        return unknown;
    };
    match pass(&plan.port, target) {
        Path::Open => {}
        Path::Same if matches!(port.kind, PortKind::UplinkHost) => {
            return Verdict::plain(Fate::ToWire);
        }
        Path::Same => return drop(DropReason::MacSamePort),
        Path::HostToHost => return drop(DropReason::NoDestination),
        Path::Isolated => return drop(DropReason::PortIsolated),
        // The host's own traffic on one uplink does not leave by another, nor is it lost.
        Path::UplinkToUplink if matches!(port.kind, PortKind::UplinkHost) => {
            return Verdict::plain(Fate::ToWire);
        }
        Path::UplinkToUplink => return drop(DropReason::UplinkToUplink),
        Path::Unused => return unknown,
    }
    if is_other_side(&plan.port, target) {
        return if matches!(port.kind, PortKind::UplinkHost) {
            Verdict::plain(Fate::ToWire)
        } else {
            plan.stack_slot = routed_slot(frame, target);
            Verdict::plain(Fate::ToHost)
        };
    }
    if matches!(target.kind, PortKind::Uplink)
        && guards(conf, generation)
        && is_guarded(frame, window, tables, generation, segment)
    {
        return drop(DropReason::NatUntranslated);
    }
    match egress(meta, frame, window, tables, generation, segment, target) {
        Ok(_) if matches!(meta.hook, Hook::Xdp) && !xdp_may_send(frame, window, target) => {
            Verdict::plain(Fate::PassUp)
        }
        Ok(vid) => {
            plan.exit = Exit::to(target);
            plan.policed |= is_policed(target);
            plan.readdress =
                plan.exit.to_stack && entry.flags & FDB_LOCAL != 0 && target.mac != plan.frame.dst;
            if plan.exit.to_stack && vid == 0 {
                plan.stack_slot = routed_slot(frame, target);
            }
            Verdict::forward(target.slot, vid)
        }
        Err(Refused::NotMember) => unknown,
        Err(Refused::Drop(reason)) => Verdict::drop(reason, target.slot),
    }
}

/// Whether the inner tag says no VLAN. Receivers take any number of those off
/// (`__netif_receive_skb_core`, net/core/dev.c, 6.12): what is behind would have been looked at by nobody.
#[inline(always)]
fn is_priority_tag<W: Window + ?Sized>(frame: &Frame, window: &W) -> bool {
    match window.at::<2>(frame.payload_offset()) {
        Some(tci) => (tci[0] & 0x0f) | tci[1] == 0,
        None => true,
    }
}

/// The kind of a frame that its port limits, or whose claims the guards look at, whatever becomes of it; 0 is
/// none.
#[inline(always)]
fn limited<W: Window + ?Sized>(port: &PortConf, frame: &Frame, window: &W) -> u32 {
    const ARP: u32 = StormKind::Arp as u32;
    const ND: u32 = StormKind::Nd as u32;
    let interval = &port.storm_interval_ns;
    let guarded = port.flags & PORT_GUARD_OWNERS != 0;
    if (guarded || interval[ARP as usize] != 0) && frame.ether_type == crate::answer::ARP {
        return ARP;
    }
    if !guarded && interval[ND as usize] == 0 || frame.ether_type != ip::IPV6 {
        return 0;
    }
    // Behind extension headers it is not looked for.
    match window.at::<41>(frame.payload_offset()) {
        Some(head) if head[6] == ip::proto::ICMPV6 && matches!(head[40], 133..=137) => ND,
        _ => 0,
    }
}

/// Slot of the stack-side port that a packet for the host may have to be routed on from.
#[inline(always)]
fn routed_slot(frame: &Frame, target: &PortConf) -> u16 {
    let is_ip = matches!(frame.ether_type, ip::IPV4 | ip::IPV6) && !frame.inner_tag;
    if is_ip && target.flags & PORT_ROUTED != 0 {
        target.slot
    } else {
        NO_SLOT
    }
}

/// Whether there are sources that must not leave as they are.
#[inline(always)]
pub const fn guards(conf: &SwitchConf, generation: u32) -> bool {
    // The flags of one generation, by a choice and not an index, which the verifier would have to
    // see bounded.
    let flags = if generation & 1 == 0 {
        conf.flags[0]
    } else {
        conf.flags[1]
    };
    flags & SWITCH_GUARDS != 0
}

/// Whether a packet's source belongs to a network that is translated, and not to the one that the
/// packet is in: it must not leave an uplink. A function of its own, for the sake of a program's stack.
#[inline(never)]
pub fn is_guarded<W: Window + ?Sized, T: Tables + ?Sized>(
    frame: &Frame,
    window: &W,
    tables: &T,
    generation: u32,
    segment: u16,
) -> bool {
    // Behind a second tag is another network's business, and a guess here would be no promise.
    let l3 = frame.payload_offset();
    let source = match frame.ether_type {
        ip::IPV4 => match window.at::<4>(l3 + 12) {
            Some(v4) => mapped(*v4),
            // What cannot be looked at is not let out.
            None => return true,
        },
        ip::IPV6 => match window.at::<16>(l3 + 8) {
            Some(v6) => *v6,
            None => return true,
        },
        _ => return false,
    };
    let own = tables.guarded(generation, &source);
    own != UNGUARDED && own != u32::from(segment)
}

/// A frame on an interface that the configuration does not hold, for the moment between attaching
/// and configuring. What the host sends is the host's.
#[inline(always)]
fn unknown_port(meta: &Meta) -> Verdict {
    match meta.hook {
        Hook::Xdp => Verdict::plain(Fate::PassUp),
        Hook::TcEgress => Verdict::plain(Fate::ToWire),
        Hook::TcIngress => Verdict::drop(DropReason::PortUnknown, NO_SLOT),
    }
}

/// 01:80:c2:00:00:00 to 0f: for the station at the end of this very link.
#[inline(always)]
fn reserved<T: Tables + ?Sized>(
    port: &PortConf,
    frame: &Frame,
    tables: &T,
    generation: u32,
) -> Verdict {
    match port.kind {
        PortKind::UplinkHost => Verdict::plain(Fate::ToWire),
        // The bridge behind a member uplink takes 01 to 0f up to the host, but with STP off it
        // would forward 00 (br_handle_frame, net/bridge/br_input.c), so that goes to the switch
        // device by our own hand.
        PortKind::Uplink if port.flags & PORT_MEMBER != 0 && frame.dst[5] == 0 => {
            match tables.port(generation, port.peer_slot) {
                Some(device) if matches!(device.kind, PortKind::Internal) => {
                    // A priority tag is taken off, and the inner one would come to the front.
                    if frame.inner_tag && frame.tag.vid() == 0 {
                        return Verdict::drop(DropReason::DoubleTag, device.slot);
                    }
                    Verdict::forward(device.slot, frame.tag.vid())
                }
                _ => Verdict::drop(DropReason::MacReserved, port.slot),
            }
        }
        PortKind::Uplink => Verdict::plain(Fate::ToHost),
        _ => Verdict::drop(DropReason::MacReserved, port.slot),
    }
}

/// Whether what no network carries is none of the switch's business on this port.
#[inline(always)]
fn is_lenient(port: &PortConf) -> bool {
    match port.kind {
        PortKind::UplinkHost => true,
        PortKind::Uplink => port.flags & PORT_MEMBER == 0,
        _ => false,
    }
}

/// The segment of a frame by its outer tag, or what becomes of a frame without one.
#[inline(always)]
fn classify<T: Tables + ?Sized>(
    port: &PortConf,
    frame: &Frame,
    tables: &T,
    generation: u32,
) -> Result<u16, Verdict> {
    let vid = frame.tag.vid();
    let reason = if vid == 0 {
        // Untagged, or a priority tag (802.1Q-2022, 6.9.1).
        if port.native_segment != NO_SEGMENT {
            return Ok(port.native_segment);
        }
        DropReason::VlanUntagged
    } else if port.flags & PORT_ACCESS != 0 {
        DropReason::VlanTagged
    } else {
        match tables.tag_segment(generation, port.slot, vid) {
            Some(segment) => return Ok(segment),
            None => DropReason::VlanUnlisted,
        }
    };
    Err(if !is_lenient(port) {
        Verdict::drop(reason, port.slot)
    } else if matches!(port.kind, PortKind::UplinkHost) {
        Verdict::plain(Fate::ToWire)
    } else {
        Verdict::plain(Fate::ToHost)
    })
}

/// What is wrong with a frame's addresses, if anything.
#[inline(always)]
fn check_addresses<T: Tables + ?Sized>(
    port: &PortConf,
    frame: &Frame,
    conf: &SwitchConf,
    tables: &T,
) -> Option<DropReason> {
    if is_group(frame.src) {
        return Some(DropReason::MacSourceGroup);
    }
    if is_zero(frame.src) {
        return Some(DropReason::MacSourceZero);
    }
    if conf.denied_macs[(conf.generation & 1) as usize] != 0
        && (tables.mac_denied(conf.generation, frame.src)
            || tables.mac_denied(conf.generation, frame.dst))
    {
        return Some(DropReason::MacDenied);
    }
    if port.flags & PORT_MAC_LIST != 0 && !tables.mac_allowed(conf.generation, port.slot, frame.src)
    {
        return Some(DropReason::MacNotAllowed);
    }
    None
}

/// Whether the source may be where it was seen, and whether that is news.
#[inline(always)]
fn check_source<T: Tables + ?Sized>(
    port: &PortConf,
    known: Option<FdbEntry>,
    now_s: u32,
    conf: &SwitchConf,
    tables: &T,
) -> Result<Source, DropReason> {
    let Some(entry) = known else {
        return Ok(Source::Learn);
    };
    if entry.is_static() {
        return if entry.slot == port.slot {
            Ok(Source::Known)
        } else if entry.flags & FDB_LOCAL == 0 {
            Err(DropReason::MacSourceStatic)
        } else if is_stack(port.kind) {
            // The host may send by any of its interfaces.
            Ok(Source::Known)
        } else {
            Err(DropReason::MacSourceLocal)
        };
    }
    if entry.slot != port.slot
        && matches!(port.kind, PortKind::Vm)
        && is_listed_there(port, &entry, conf, tables)
    {
        return Err(DropReason::MacConflict);
    }
    if entry.slot != port.slot || is_expired(&entry, now_s, conf.ageing_s) {
        return Ok(Source::Learn);
    }
    Ok(if entry.seen_s == now_s {
        Source::Known
    } else {
        Source::Touch
    })
}

/// Whether an address is on the list of the guarded VM's port where it was seen last, while `port`,
/// another VM's, has no list that it is on.
#[inline(always)]
fn is_listed_there<T: Tables + ?Sized>(
    port: &PortConf,
    entry: &FdbEntry,
    conf: &SwitchConf,
    tables: &T,
) -> bool {
    const LISTED: u32 = PORT_GUARD_MAC | PORT_MAC_LIST;
    port.flags & PORT_MAC_LIST == 0
        && tables
            .port(conf.generation, entry.slot)
            .is_some_and(|owner| {
                owner.flags & LISTED == LISTED && matches!(owner.kind, PortKind::Vm)
            })
        && tables.mac_allowed(conf.generation, entry.slot, entry.mac)
}

/// Whether the host's stack is behind the port.
#[inline(always)]
#[must_use]
pub const fn is_stack(kind: PortKind) -> bool {
    matches!(kind, PortKind::Internal | PortKind::UplinkHost)
}

/// Whether frames may go from one port to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Path {
    /// They may.
    Open,
    /// It is the same port.
    Same,
    /// Both are uplinks.
    UplinkToUplink,
    /// Both are the host.
    HostToHost,
    /// Both are VMs, and one of them is isolated.
    Isolated,
    /// There is no such port.
    Unused,
}

/// Whether frames may go from one port to another.
#[inline(always)]
#[must_use]
pub fn pass(from: &Origin, to: &PortConf) -> Path {
    let at_uplink = |kind| matches!(kind, PortKind::Uplink | PortKind::UplinkHost);
    if matches!(to.kind, PortKind::Unused) {
        Path::Unused
    } else if from.slot == to.slot {
        Path::Same
    } else if at_uplink(from.kind) && at_uplink(to.kind) {
        // An outside uplink and the host behind it are one interface.
        if from.peer_slot == to.slot {
            Path::Open
        } else {
            Path::UplinkToUplink
        }
    } else if is_stack(from.kind) && is_stack(to.kind) {
        Path::HostToHost
    } else if (from.flags | to.flags) & PORT_ISOLATED != 0
        && matches!(from.kind, PortKind::Vm)
        && matches!(to.kind, PortKind::Vm)
    {
        Path::Isolated
    } else {
        Path::Open
    }
}

/// Whether a frame gets to `to` by going on at its own interface: an outside uplink's wire and the
/// host behind it. A member uplink's peer is the switch device, which is another interface: what
/// went on there would go to the plain bridge.
#[inline(always)]
#[must_use]
pub const fn is_other_side(from: &Origin, to: &PortConf) -> bool {
    from.peer_slot == to.slot && matches!(to.kind, PortKind::Uplink | PortKind::UplinkHost)
}

/// Why a frame does not leave by a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// The port does not carry the segment.
    NotMember,
    /// It must not.
    Drop(DropReason),
}

/// The tag with which a frame of `segment` leaves by `target`, 0 for none.
///
/// # Errors
/// Why it does not leave there.
#[inline(always)]
pub fn egress<W: Window + ?Sized, T: Tables + ?Sized>(
    meta: &Meta,
    frame: &Frame,
    window: &W,
    tables: &T,
    generation: u32,
    segment: u16,
    target: &PortConf,
) -> Result<u16, Refused> {
    let vid = if target.native_segment == segment {
        0
    } else {
        match tables.segment_tag(generation, target.slot, segment) {
            Some(vid) => vid,
            None => return Err(Refused::NotMember),
        }
    };
    if vid == 0 && frame.inner_tag {
        return Err(Refused::Drop(DropReason::DoubleTag));
    }
    if meta.len > LEAST_MTU + crate::frame::ETH_LEN as u32 {
        let l3_len = gso::wire_l3_len(meta, frame, window);
        if !fits(l3_len, tables, generation, segment, target) {
            return Err(Refused::Drop(DropReason::MtuExceeded));
        }
    }
    Ok(vid)
}

/// Whether `l3_len` bytes are within the network's and the port's MTU.
#[inline(always)]
pub fn fits<T: Tables + ?Sized>(
    l3_len: u32,
    tables: &T,
    generation: u32,
    segment: u16,
    target: &PortConf,
) -> bool {
    if let Some(network) = tables.segment(generation, segment)
        && network.mtu != 0
        && l3_len > network.mtu
    {
        return false;
    }
    // What goes to the host has arrived: its MTU limits what it sends.
    if is_stack(target.kind) {
        return true;
    }
    tables.mtu(target.ifindex).is_none_or(|mtu| l3_len <= mtu)
}

/// Whether XDP may send the frame to a port itself.
#[inline(always)]
fn xdp_may_send<W: Window + ?Sized>(frame: &Frame, window: &W, target: &PortConf) -> bool {
    target.flags & PORT_XDP_TARGET != 0
        && !(target.flags & PORT_TCP_AT_TC != 0 && gso::is_tcp(frame, window))
        && !(target.flags & PORT_LEARN_IPS != 0
            && lease::is_for_client(frame.payload_offset(), frame.ether_type, window))
}

/// What of a verdict XDP carries out itself: drops, and unicast out of a device.
#[inline(always)]
fn at_xdp(verdict: Verdict, plan: &Plan) -> Verdict {
    match verdict.fate {
        Fate::Drop => verdict,
        Fate::Forward if !plan.exit.to_stack && plan.limited == 0 => verdict,
        _ => Verdict::plain(Fate::PassUp),
    }
}
