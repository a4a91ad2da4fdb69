//! Limits: how fast and how many connections a VM and a source may begin, and who is kept away for having
//! made too many (see [`vnet_common::limit`]).

use vnet_common::{
    DropReason, EventKind, FlowState, NO_SLOT, PortKind, SourceKey,
    flow::{
        FLOW_INSIDE, FLOW_REPLY, FLOW_SOURCE, FLOW_SOURCE_NET, FLOW_SOURCE_PORT, FLOW_WATCHED,
        KEY_BRIDGED, MARK_COUNTED,
    },
    limit::{ANY_PORT, BAN_PORTS_EACH, Ban, BanRule},
    nat::NatMatch,
    switch::SWITCH_BANS,
};

use crate::{
    bytes::{put_word_at, put_words, word, word_at},
    decide::{Plan, is_stack},
    flow::state::begins,
    frame::Frame,
    gateway::{Gateway, Work},
    ip::{IPV4, IPV6, TCP_ACK, TCP_RST, TCP_SYN, proto},
    meta::Meta,
    nat::{Outcome, open::report, rules::look_up},
    rate,
    tables::Tables,
    window::Window,
};

/// Whether whoever sent the frame is banned; `slot` is that of a VM's port, or 0. A function of its own,
/// for the sake of a program's stack.
#[inline(never)]
pub fn is_banned<W: Window + ?Sized, T: Tables + ?Sized>(
    frame: &Frame,
    window: &W,
    tables: &T,
    segment: u16,
    slot: u16,
) -> bool {
    if frame.inner_tag {
        return false;
    }
    let l3 = frame.payload_offset();
    let (src, by_prefix) = match frame.ether_type {
        IPV4 => match window.at::<4>(l3 + 12) {
            Some(v4) => ([0, 0, V4_WORD, word(v4)], false),
            None => return false,
        },
        IPV6 => match window.at::<32>(l3 + 8) {
            Some(ends) => {
                let (src, dst) = (words_at(ends, 0), words_at(ends, 16));
                // A network that is banned is not kept from finding its neighbours.
                let to_group = u32::from_be(dst[0]) >> 24 == 0xff;
                (src, !to_group && counts_by_prefix(src, dst))
            }
            None => return false,
        },
        _ => return false,
    };
    let mut key = SourceKey::default();
    write_key(&mut key, src, segment, slot);
    if stands(&key, tables) {
        return true;
    }
    if slot != NO_SLOT {
        // A VM counts by its port; who bans an address has no port in mind.
        key.slot = ANY_PORT;
    } else if by_prefix {
        truncate(&mut key);
    } else {
        return false;
    }
    stands(&key, tables)
}

/// Whether there is a ban, and its time is not over.
#[inline(always)]
fn stands<T: Tables + ?Sized>(key: &SourceKey, tables: &T) -> bool {
    tables.banned_until(key) > tables.now_s()
}

/// The third word of an IPv4 address as a [`vnet_common::Addr`], in network order.
const V4_WORD: u32 = 0xffff_u32.to_be();

/// Four words of an array, in their own order.
#[inline(always)]
fn words_at<const N: usize>(bytes: &[u8; N], offset: usize) -> [u32; 4] {
    [
        word_at(bytes, offset),
        word_at(bytes, offset + 4),
        word_at(bytes, offset + 8),
        word_at(bytes, offset + 12),
    ]
}

/// Writes the key of one address.
#[inline(always)]
fn write_key(key: &mut SourceKey, addr: [u32; 4], segment: u16, slot: u16) {
    put_words(&mut key.addr, addr);
    key.segment = segment;
    key.slot = slot;
    key.rule = 0;
    key.bits = 128;
    key.reserved = 0;
}

/// As [`SourceKey::truncate`].
#[inline(always)]
fn truncate(key: &mut SourceKey) {
    put_word_at(&mut key.addr, 8, 0);
    put_word_at(&mut key.addr, 12, 0);
    key.bits = 64;
}

/// Whether whoever sends from one IPv6 address to another counts as its /64: it is not on the link of the
/// other, as far as their prefixes tell.
#[inline(always)]
const fn counts_by_prefix(src: [u32; 4], dst: [u32; 4]) -> bool {
    let link_local = u32::from_be(src[0]) >> 22 == 0xfe80 >> 6;
    !link_local && (src[0] ^ dst[0]) | (src[1] ^ dst[1]) != 0
}

/// Writes the key of who sends packets with `work.ip.key`, from the VM's port in `slot`, to
/// `work.source_key`.
#[inline(always)]
fn write_sender(work: &mut Work, slot: u16, by_prefix: bool) {
    let key = &work.ip.key;
    let (src, dst) = (words_at(&key.src, 0), words_at(&key.dst, 0));
    let is_v4 = src[0] | src[1] | (src[2] ^ V4_WORD) == 0;
    write_key(&mut work.source_key, src, key.segment, slot);
    if by_prefix && !is_v4 && counts_by_prefix(src, dst) {
        truncate(&mut work.source_key);
    }
}

/// Slot of the VM's port that a packet comes from; 0 for any other.
#[inline(always)]
const fn vm_slot(plan: &Plan) -> u16 {
    if matches!(plan.port.kind, PortKind::Vm) {
        plan.port.slot
    } else {
        NO_SLOT
    }
}

/// Whom the packet's connection counts for. It is found again when that ends: by the port where the
/// connection counts for the port, too.
#[inline(always)]
fn write_source(work: &mut Work, plan: &Plan) {
    let slot = vm_slot(plan);
    // A VM that comes by another way has no port that the connection remembers.
    let known = if work.inside { slot } else { NO_SLOT };
    write_sender(work, known, slot == NO_SLOT);
}

/// Whether the packet is one of the host itself, which is trusted.
#[inline(always)]
const fn is_hosts_own(plan: &Plan, meta: &Meta) -> bool {
    is_stack(plan.port.kind) && !meta.forwarded
}

/// Whether the VM, and the source, may begin another connection now. What was begun before, and is
/// followed from now on, may be.
#[inline(always)]
pub fn may_begin<G: Gateway + ?Sized>(work: &mut Work, plan: &Plan, gateway: &G) -> Outcome {
    let Some(conf) = gateway.switch() else {
        return Outcome::GO_ON;
    };
    if !begins(&work.ip) {
        return Outcome::GO_ON;
    }
    let interval_ns = conf.flow_interval_ns;
    if work.inside && interval_ns != 0 && !gateway.flow_take(work.owner, interval_ns) {
        report(work, EventKind::FlowRate, gateway);
        return Outcome::drop(if work.ip.key.kind == KEY_BRIDGED {
            DropReason::PolicyRate
        } else {
            DropReason::NatRate
        });
    }
    let (quota, interval_ns) = (conf.source_quota, conf.source_interval_ns);
    if quota == 0 && interval_ns == 0 || is_hosts_own(plan, &work.meta) {
        return Outcome::GO_ON;
    }
    write_source(work, plan);
    match gateway.source_take(&work.source_key, quota, interval_ns) {
        SourceSays::Yes => Outcome::GO_ON,
        SourceSays::TooFast => {
            name_source(work);
            report(work, EventKind::SourceRate, gateway);
            Outcome::drop(DropReason::SourceRate)
        }
        SourceSays::TooMany => {
            name_source(work);
            report(work, EventKind::SourceQuota, gateway);
            Outcome::drop(DropReason::SourceQuota)
        }
    }
}

/// Has the event about a source name who it is, in place of where its packet leads, which goes nowhere.
#[inline(always)]
fn name_source(work: &mut Work) {
    work.target = work.source_key.addr;
    work.target_port = 0;
    work.source_rule = 0;
    work.target_rule = 0;
}

/// What a source's limits say of another connection.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SourceSays {
    /// It may be.
    Yes = 0,
    /// It comes too soon after the others.
    TooFast = 1,
    /// It has as many as it may.
    TooMany = 2,
}

/// Counts the connection, whose entries are filled and not in the table yet, for its source, and notes
/// whether a rule counts it.
#[inline(always)]
pub fn hold<G: Gateway + ?Sized>(work: &mut Work, plan: &Plan, gateway: &G) {
    let Some(conf) = gateway.switch() else {
        return;
    };
    if is_hosts_own(plan, &work.meta) {
        return;
    }
    let (quota, interval_ns) = (conf.source_quota, conf.source_interval_ns);
    if quota != 0 || interval_ns != 0 {
        write_source(work, plan);
        if gateway.source_hold(&work.source_key, interval_ns) {
            work.held = true;
            work.forward.flags |= FLOW_SOURCE;
            if work.source_key.bits != 128 {
                work.forward.flags |= FLOW_SOURCE_NET;
            }
            if work.source_key.slot != NO_SLOT {
                work.forward.flags |= FLOW_SOURCE_PORT;
            }
        }
    }
    let to_vm = if work.ip.key.kind == KEY_BRIDGED {
        work.reply.flags & FLOW_INSIDE != 0
    } else {
        work.to_inside
    };
    if conf.flags[(work.generation & 1) as usize] & SWITCH_BANS != 0
        && to_vm
        && work.ip.key.proto == proto::TCP
        && rule_of(work.generation, work.forward.dport, gateway) != 0
    {
        work.forward.flags |= FLOW_WATCHED;
    }
}

/// The id of the rule for a destination port; 0 is none.
#[inline(always)]
fn rule_of<G: Gateway + ?Sized>(generation: u32, port: u16, gateway: &G) -> u8 {
    let place = u32::from(port) / BAN_PORTS_EACH;
    gateway.ban_ports(generation, place).map_or(0, |ports| {
        // The compiler knows that it is in range and drops the check; the verifier wants it.
        let i = core::hint::black_box(usize::from(port)) & (BAN_PORTS_EACH as usize - 1);
        ports.rules[i]
    })
}

/// Gives back what [`hold`] took, when the connection is not taken on after all.
#[inline(always)]
pub fn give_back<G: Gateway + ?Sized>(work: &mut Work, plan: &Plan, gateway: &G) {
    if work.held {
        work.held = false;
        write_source(work, plan);
        gateway.source_release(&work.source_key);
    }
}

/// The connection in `work.forward` has ended: its source has one less.
#[inline(always)]
pub fn end<G: Gateway + ?Sized>(work: &mut Work, gateway: &G) {
    let first = &work.forward;
    if first.flags & FLOW_SOURCE != 0 {
        let slot = if first.flags & FLOW_SOURCE_PORT != 0 {
            first.owner
        } else {
            NO_SLOT
        };
        let src = words_at(&first.key.src, 0);
        write_key(&mut work.source_key, src, first.key.segment, slot);
        if first.flags & FLOW_SOURCE_NET != 0 {
            truncate(&mut work.source_key);
        }
        gateway.source_release(&work.source_key);
    }
}

/// Counts the connection at `work.index` once its handshake is complete with the packet, and bans its
/// source when it has made too many. Only who gets the answers can acknowledge their sequence number
/// (RFC 9293, 3.5): nobody is banned for what others send in his name.
#[inline(always)]
pub fn watch<G: Gateway + ?Sized>(work: &mut Work, plan: &Plan, gateway: &G) -> Outcome {
    const SYN_RECEIVED: u8 = FlowState::SynReceived as u8;
    let Some(entry) = gateway.flow(work.index) else {
        return Outcome::GO_ON;
    };
    // SAFETY: the table's own entries, here and below; each field is one aligned word.
    let (flags, state, marks, peer) = unsafe {
        (
            (*entry).flags,
            (*entry).state,
            (*entry).marks,
            (*entry).peer,
        )
    };
    if flags & (FLOW_WATCHED | FLOW_REPLY) != FLOW_WATCHED
        || state != SYN_RECEIVED
        || marks & MARK_COUNTED != 0
        || work.ip.tcp_flags & (TCP_ACK | TCP_SYN | TCP_RST) != TCP_ACK
    {
        return Outcome::GO_ON;
    }
    let Some(peer) = gateway.flow(peer) else {
        return Outcome::GO_ON;
    };
    // SAFETY: as above.
    let port = unsafe {
        if work.ip.ack != (*peer).seq_end {
            return Outcome::GO_ON;
        }
        (*entry).marks = marks | MARK_COUNTED;
        (*entry).dport
    };
    count(work, plan, port, gateway)
}

/// Counts a connection to a port.
#[inline(always)]
fn count<G: Gateway + ?Sized>(work: &mut Work, plan: &Plan, port: u16, gateway: &G) -> Outcome {
    let id = rule_of(work.generation, port, gateway);
    let Some(rule) = gateway.ban_rule(work.generation, id) else {
        return Outcome::GO_ON;
    };
    if rule.time_s == 0 {
        return Outcome::GO_ON;
    }
    let id = u16::from(id);
    let (generation, src) = (work.generation, work.ip.key.src);
    if look_up(gateway, generation, NatMatch::NeverBanned, id, &src, 0).is_some() {
        return Outcome::GO_ON;
    }
    let slot = vm_slot(plan);
    write_sender(work, slot, slot == NO_SLOT);
    work.source_key.rule = id;
    // Whoever is banned begins anew after it.
    if gateway.attempt(&work.source_key, rule) {
        return Outcome::GO_ON;
    }
    work.source_key.rule = 0;
    gateway.ban(
        &work.source_key,
        &Ban {
            until_s: gateway.now_s().saturating_add(rule.time_s),
            rule: id,
            reserved: 0,
        },
    );
    name_source(work);
    work.target_rule = id;
    report(work, EventKind::SourceBanned, gateway);
    Outcome::drop(DropReason::SourceBanned)
}

/// Takes one connection of a rule's allowance at `now_ns`, as [`rate::take_ns`]. What another rule left
/// behind that had the id before is not this one's.
#[inline(always)]
#[must_use]
pub const fn take(rule: &BanRule, next_ns: u64, now_ns: u64) -> Option<u64> {
    let most = now_ns.saturating_add(rule.within_ns);
    let next_ns = if next_ns > most { now_ns } else { next_ns };
    rate::take_ns(next_ns, now_ns, rule.interval_ns, rule.within_ns)
}
