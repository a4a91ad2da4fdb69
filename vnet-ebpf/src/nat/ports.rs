//! Choosing an external port (RFC 4787, 4.2; RFC 6056).

use vnet_common::{
    BindingKey, FlowKey, NatRule,
    nat::{BindingKind, NAT_OWN_ADDRESS, NatKind},
};

use super::host::uses;
use crate::{
    flow::table::NO_FLOW,
    gateway::{Gateway, PortSearch, Work},
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
    let (lo, hi) = if matches!(rule.kind, NatKind::Dnat) {
        (1024, u16::MAX)
    } else {
        class(own, rule.port_lo, rule.port_hi)
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
    };
    gateway.search_port(work, TRIES);
    work.search.found
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
    let port = candidate(&search);
    work.search.tries = search.tries + 1;
    if port == 0 || !is_free(work, port, gateway) {
        return search.tries > u32::from(search.hi) - u32::from(search.lo) + 1;
    }
    work.search.found = port;
    true
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
    if rule.flags & NAT_OWN_ADDRESS != 0 {
        let (addr, proto) = (work.source, work.ip.key.proto);
        if uses(work, &addr, port, proto, gateway) {
            return false;
        }
    }
    reply_key(work, port);
    if rule.flags & NAT_OWN_ADDRESS != 0 && gateway.host_socket(&work.key) {
        return false;
    }
    work.binding_key = BindingKey {
        addr: work.source,
        port,
        proto: work.ip.key.proto,
        kind: BindingKind::External as u8,
        ..BindingKey::default()
    };
    if gateway.find_flow(&work.key) != NO_FLOW {
        return false;
    }
    gateway.binding_add(&work.binding_key, &work.binding)
}

/// Writes the key of the answers to `work.key`, were `port` the external one.
#[inline(always)]
pub fn reply_key(work: &mut Work, port: u16) {
    work.key = FlowKey {
        src: work.target,
        dst: work.source,
        sport: work.target_port,
        dport: port,
        segment: work.out_segment,
        proto: work.ip.key.proto,
        reserved: 0,
    };
}
