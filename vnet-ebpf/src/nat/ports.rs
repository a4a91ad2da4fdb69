//! Choosing an external port (RFC 4787, 4.2; RFC 6056).

use vnet_common::{
    Addr, BindingKey, Event, EventKind, NatRule,
    flow::{FLOW_BLOCK, KEY_ROUTED},
    nat::{BindingKind, NAT_OWN_ADDRESS},
};

use super::{host::uses, source::external_key};
use crate::{
    flow::table::NO_FLOW,
    gateway::{Gateway, HostSocket, PortSearch, Work},
};

/// Tries that one packet may cost. With 99 of 100 ports taken, one in 30,000 searches finds none.
pub const TRIES: u32 = 1024;

/// Finds a free external port for the source in `work` and takes it; 0 when none was found.
///
/// The packet's own port is kept when it is free (RFC 4787, 4.2.1), else one is chosen at random
/// (RFC 6056, 3.3.1) and with the same parity (RFC 4787, REQ-4), from the ports that the host does
/// not use for its own connections first.
#[inline(never)]
pub fn take<G: Gateway + ?Sized>(work: &mut Work, rule: &NatRule, gateway: &G) -> u16 {
    let own = work.ip.key.sport;
    // The ports of a forward are those that it listens on.
    let (lo, hi) = if work.borrowed {
        (1024, u16::MAX)
    } else {
        class(own, rule.port_lo, rule.port_hi)
    };
    let (lo, hi) = if work.flags & FLOW_BLOCK != 0 {
        (work.block, work.block + (rule.block_size - 1))
    } else {
        (lo, hi)
    };
    let (late_lo, late_hi) = if rule.flags & NAT_OWN_ADDRESS != 0 {
        gateway.ephemeral_ports()
    } else {
        (1, 0)
    };
    work.search = PortSearch {
        lo,
        hi,
        late_lo: if late_lo > lo { late_lo } else { lo },
        late_hi: if late_hi < hi { late_hi } else { hi },
        at: gateway.random(),
        tries: 0,
        like: own,
        found: 0,
        blocks: 0,
        raced: 0,
    };
    gateway.search_port(work, TRIES);
    work.search.found
}

/// Holds the block of ports of the packet's source, or takes one for it, where its rule has blocks.
/// False when none is left.
#[inline(always)]
pub fn hold_block<G: Gateway + ?Sized>(work: &mut Work, gateway: &G) -> bool {
    let Some(rule) = gateway.nat_rule(work.generation, work.source_rule) else {
        return true;
    };
    if rule.block_size == 0 || work.borrowed {
        return true;
    }
    work.block = find_block(work, rule, gateway);
    if work.block != 0 {
        work.flags |= FLOW_BLOCK;
    }
    work.block != 0
}

/// First port of the source's block, which is held; 0 when none is left.
#[inline(always)]
fn find_block<G: Gateway + ?Sized>(work: &mut Work, rule: &NatRule, gateway: &G) -> u16 {
    block_key(work);
    if gateway.binding_hold(&work.binding_key, None, &mut work.found) {
        if work.found.addr == work.source && work.found.rule_print == rule.print {
            return work.found.port;
        }
        let port = work.found.port;
        gateway.binding_release(&work.binding_key, &work.found.addr, port);
        return 0;
    }
    let ports = u32::from(rule.port_hi) - u32::from(rule.port_lo) + 1;
    work.search = PortSearch {
        lo: rule.port_lo,
        like: rule.block_size,
        blocks: ports / u32::from(rule.block_size),
        at: gateway.random(),
        ..PortSearch::default()
    };
    gateway.search_port(work, TRIES);
    let first = work.search.found;
    if first == 0 {
        return 0;
    }
    block_key(work);
    let binding = &mut work.found;
    binding.addr = work.source;
    binding.port = first;
    binding.rule = work.source_rule;
    binding.rule_print = rule.print;
    binding.remote = [0; 16];
    binding.count = u32::from(rule.block_size);
    binding.refs = 1;
    if !gateway.binding_add(&work.binding_key, &work.found) {
        // Another CPU has made it: the packet is lost, the next one finds it.
        block_place_key(work, first);
        gateway.binding_release(&work.binding_key, &work.ip.key.src, first);
        return 0;
    }
    let (addr, of) = (work.ip.key.src, (work.ip.key.segment, work.owner));
    report_block(work, EventKind::BlockNew, &addr, of, gateway);
    first
}

/// Gives back a hold of the block of an internal address; the last one frees it. Changes nothing of what
/// is under construction.
#[inline(always)]
pub fn release_block<G: Gateway + ?Sized>(
    work: &mut Work,
    (addr, segment, rule, slot): (Addr, u16, u16, u16),
    gateway: &G,
) {
    set_block_key(&mut work.binding_key, &addr, segment, rule);
    if !gateway.binding_look(&work.binding_key, &mut work.found) {
        return;
    }
    let first = work.found.port;
    if gateway.binding_release(&work.binding_key, &work.found.addr, first) {
        let Work {
            binding_key, found, ..
        } = work;
        set_place_key(binding_key, &found.addr, first, rule);
        gateway.binding_release(&work.binding_key, &addr, first);
        report_block(work, EventKind::BlockEnd, &addr, (segment, slot), gateway);
    }
}

/// Writes the key of an internal address's block.
#[inline(always)]
fn set_block_key(key: &mut BindingKey, addr: &Addr, segment: u16, rule: u16) {
    key.addr = *addr;
    key.port = 0;
    key.segment = segment;
    key.proto = 0;
    key.kind = BindingKind::BlockOf as u8;
    key.rule = rule;
}

/// Writes the key of the block of an external address that begins with a port.
#[inline(always)]
fn set_place_key(key: &mut BindingKey, addr: &Addr, first: u16, rule: u16) {
    key.addr = *addr;
    key.port = first;
    key.segment = 0;
    key.proto = 0;
    key.kind = BindingKind::Block as u8;
    key.rule = rule;
}

/// Writes the key of the source's block.
#[inline(always)]
fn block_key(work: &mut Work) {
    let Work {
        binding_key,
        ip,
        source_rule,
        ..
    } = work;
    set_block_key(binding_key, &ip.key.src, ip.key.segment, *source_rule);
}

/// Writes the key of the block that begins with a port.
#[inline(always)]
fn block_place_key(work: &mut Work, first: u16) {
    let Work {
        binding_key,
        source,
        source_rule,
        ..
    } = work;
    set_place_key(binding_key, source, first, *source_rule);
}

/// Reports that an internal address got a block, which is in `work.found`, or gave it back.
#[inline(always)]
fn report_block<G: Gateway + ?Sized>(
    work: &mut Work,
    kind: EventKind,
    addr: &Addr,
    (segment, slot): (u16, u16),
    gateway: &G,
) {
    let event = &mut work.event;
    *event = Event::default();
    event.time_ns = gateway.now_ns();
    event.kind = kind as u32;
    event.flow.src = *addr;
    event.nat_addr = work.found.addr;
    event.nat_port = work.found.port;
    event.rule = work.found.rule;
    event.count = work.found.count;
    event.segment = segment;
    event.slot = slot;
    gateway.report(&work.event);
}

/// Tries one block; true when it was taken, or nothing is left to try.
#[inline(always)]
fn try_block<G: Gateway + ?Sized>(work: &mut Work, gateway: &G) -> bool {
    let search = work.search;
    work.search.tries = search.tries + 1;
    let index = place(search.at, search.blocks, search.tries);
    let first = (u32::from(search.lo) + index * u32::from(search.like)) as u16;
    block_place_key(work, first);
    let found = &mut work.found;
    found.addr = work.ip.key.src;
    found.port = first;
    found.rule = work.source_rule;
    found.refs = 1;
    found.remote = [0; 16];
    found.count = 0;
    if search.blocks != 0 && gateway.binding_add(&work.binding_key, &work.found) {
        work.search.found = first;
        return true;
    }
    search.tries + 1 >= search.blocks
}

/// The part of a range that is of a port's class: well-known ports stay such, where the range has
/// any (RFC 4787, REQ-3).
#[inline(always)]
const fn class(port: u16, lo: u16, hi: u16) -> (u16, u16) {
    if port < 1024 && lo < 1024 {
        (lo, if hi < 1023 { hi } else { 1023 })
    } else if port >= 1024 && hi >= 1024 && lo < 1024 {
        (1024, hi)
    } else {
        (lo, hi)
    }
}

/// Tries one port. True when it was taken, or nothing is left to try.
#[inline(always)]
pub fn try_one<G: Gateway + ?Sized>(work: &mut Work, gateway: &G) -> bool {
    let search = work.search;
    if search.blocks != 0 {
        return try_block(work, gateway);
    }
    let port = candidate(&search);
    work.search.tries = search.tries + 1;
    if port == 0 || !is_free(work, port, gateway) {
        // Another CPU is taking this very mapping on: a second one beside it would give the connection
        // two external ports. The packet is lost, the next one finds the mapping.
        if search.tries == 0 && port != 0 && !work.alone && is_own(work, gateway) {
            work.search.raced = 1;
            return true;
        }
        return search.tries > u32::from(search.hi) - u32::from(search.lo) + 1;
    }
    work.search.found = port;
    true
}

/// Whether the mapping in `work.binding_key` is the packet's own, by the same rule.
#[inline(always)]
fn is_own<G: Gateway + ?Sized>(work: &mut Work, gateway: &G) -> bool {
    work.binding_key.kind == BindingKind::External as u8
        && gateway.binding_look(&work.binding_key, &mut work.found)
        && work.found.rule == work.source_rule
        && work.found.rule_print == work.binding.rule_print
        && work.found.port == work.ip.key.sport
        && work.found.addr == work.ip.key.src
        && work.found.inside == work.at
}

/// The port of a try: first the packet's own, then the early part of the range from a random place
/// on, then the late part.
#[inline(always)]
const fn candidate(search: &PortSearch) -> u16 {
    let (lo, hi) = (search.lo as u32, search.hi as u32);
    if search.tries == 0 {
        let in_range = search.like as u32 >= lo && search.like as u32 <= hi;
        return if in_range { search.like } else { 0 };
    }
    let (late_lo, late_hi) = (search.late_lo as u32, search.late_hi as u32);
    let late = if late_hi >= late_lo {
        late_hi - late_lo + 1
    } else {
        0
    };
    let early = hi - lo + 1 - late;
    let step = search.tries - 1;
    // Every other port of a part, and then those between: first the parity that is to be kept.
    let in_early = late == 0 || (step < early && step < TRIES * 3 / 4);
    let (first, n) = if in_early {
        (lo, early)
    } else {
        (late_lo, late)
    };
    let other = (step >= n / 2) as u32;
    let mut port = first + place(search.at, n, 2 * step + other);
    // The late part is in the middle of the early one.
    if in_early && late != 0 && port >= late_lo {
        port += late;
    }
    let near = port ^ ((port ^ search.like as u32 ^ other) & 1);
    if near >= lo && near <= hi {
        near as u16
    } else {
        port as u16
    }
}

/// The `step`th place behind a random one of `n`.
#[inline(always)]
const fn place(random: u32, n: u32, step: u32) -> u32 {
    let place = ((random as u64 * n as u64) >> 32) as u32 + step;
    // At most a few times n: a remainder without a division by zero to prove.
    if n == 0 { 0 } else { place % n }
}

/// Whether a port was nobody's, and is the packet's now.
#[inline(always)]
fn is_free<G: Gateway + ?Sized>(work: &mut Work, port: u16, gateway: &G) -> bool {
    let Some(rule) = gateway.nat_rule(work.generation, work.source_rule) else {
        return false;
    };
    if rule.flags & NAT_OWN_ADDRESS != 0 && uses(port, work.ip.key.proto, gateway) {
        return false;
    }
    reply_key(work, port);
    if rule.flags & NAT_OWN_ADDRESS != 0 && gateway.host_socket(&work.key) != HostSocket::None {
        return false;
    }
    external_key(work, port);
    if gateway.find_flow(&work.key) != NO_FLOW {
        return false;
    }
    gateway.binding_add(&work.binding_key, &work.binding)
}

/// Writes the key of the answers to `work.key`, were `port` the external one.
#[inline(always)]
pub fn reply_key(work: &mut Work, port: u16) {
    let key = &mut work.key;
    key.src = work.target;
    key.dst = work.source;
    key.sport = work.target_port;
    key.dport = port;
    key.segment = work.out_segment;
    key.proto = work.ip.key.proto;
    key.kind = KEY_ROUTED;
}
