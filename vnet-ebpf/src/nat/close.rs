//! Ending connections: when they expire, when they are deleted, when others need their place.

use core::ptr;

use vnet_common::{
    EventKind, FlowState,
    flow::{
        FLOW_BLOCK, FLOW_BOUND, FLOW_BUCKET, FLOW_BUSY, FLOW_CONTACT, FLOW_DNAT, FLOW_INSIDE,
        FLOW_PORT, FLOW_REPLY, FLOW_SNAT,
    },
    nat::BindingKind,
};

use super::{ports::release_block, source::set_contact_key};
use crate::{
    bytes::zero,
    flow::{
        state::is_expired,
        table::{BUCKETS, places, remove, tag_of},
    },
    gateway::{FlowCount, Gateway, Work},
    limit,
    policy::judge::count_ended,
};

/// Ends the connection with an entry at `work.index` whose tag is `work.tag`: both entries, its mappings'
/// holds, its counts. False when another CPU was faster, or is still making it. Uses `work.forward`,
/// `reply`, `binding_key` and `event`.
#[inline(always)]
pub fn close<G: Gateway + ?Sized>(work: &mut Work, gateway: &G) -> bool {
    let (index, tag) = (work.index, work.tag);
    let Some(entry) = gateway.flow(index) else {
        return false;
    };
    // SAFETY: the table's own entries, here and below.
    let (peer_index, is_reply) = unsafe { ((*entry).peer, (*entry).flags & FLOW_REPLY != 0) };
    let Some(peer) = gateway.flow(peer_index) else {
        return false;
    };
    let (first, second) = if is_reply {
        (peer, entry)
    } else {
        (entry, peer)
    };
    // SAFETY: as above; both are read as a whole.
    unsafe {
        ptr::copy_nonoverlapping(first, &raw mut work.forward, 1);
        ptr::copy_nonoverlapping(second, &raw mut work.reply, 1);
    }
    let (own, other) = if is_reply {
        (&work.reply, &work.forward)
    } else {
        (&work.forward, &work.reply)
    };
    // The two name each other, unless one of them is another connection's by now or is not yet
    // entered.
    if other.peer != index || tag != places(gateway, &own.key).tag {
        return false;
    }
    let (first_index, second_index) = if is_reply {
        (peer_index, index)
    } else {
        (index, peer_index)
    };
    // Whoever takes the first one out ends the connection: two CPUs may come by its two entries.
    if !remove(gateway, first_index, places(gateway, &work.forward.key).tag) {
        return false;
    }
    if second_index == first_index {
        // It has sent to itself, and holds whom it sent to once.
        work.reply.flags &= !FLOW_CONTACT;
    } else {
        remove(gateway, second_index, places(gateway, &work.reply.key).tag);
    }
    count_ended(work, first_index, second_index, gateway);
    limit::end(work, gateway);
    release(work, true, gateway);
    release(work, false, gateway);
    let owner = work.forward.owner;
    if work.forward.flags & FLOW_BLOCK != 0 {
        let first = &work.forward;
        let of = (first.key.src, first.key.segment, first.rule, owner);
        release_block(work, of, gateway);
    }
    gateway.add_flow_count(-1);
    if work.forward.flags & FLOW_INSIDE != 0 {
        gateway.add_owner_count(owner, -1);
    }
    gateway.count_flow(FlowCount::Ended, 0);
    if work.forward.rule != 0 {
        gateway.count_flow(FlowCount::RuleEnded, work.forward.rule);
    }
    if work.forward.flags & FLOW_PORT != 0 {
        gateway.count_flow(FlowCount::PortReleased, work.forward.rule);
    }
    let event = &mut work.event;
    zero(event);
    event.time_ns = gateway.now_ns();
    event.kind = EventKind::FlowEnd as u32;
    event.slot = owner;
    event.segment = work.forward.key.segment;
    event.flow = work.forward.key;
    if work.forward.flags & FLOW_SNAT != 0 {
        event.nat_addr = work.reply.key.dst;
        event.nat_port = work.reply.key.dport;
    } else if work.forward.flags & FLOW_DNAT != 0 {
        event.nat_addr = work.reply.key.src;
        event.nat_port = work.reply.key.sport;
    }
    event.rule = work.forward.rule;
    gateway.report(&work.event);
    true
}

/// Gives back the mapping that one direction's source holds.
#[inline(always)]
fn release<G: Gateway + ?Sized>(work: &mut Work, first: bool, gateway: &G) {
    let Work {
        forward,
        reply,
        binding_key,
        contact_key,
        ..
    } = work;
    let (inside, outside) = if first {
        (&*forward, &*reply)
    } else {
        (&*reply, &*forward)
    };
    if inside.flags & (FLOW_BOUND | FLOW_PORT) == 0 {
        return;
    }
    let (internal, external) = (&inside.key, &outside.key);
    binding_key.proto = internal.proto;
    if inside.flags & FLOW_BOUND != 0 {
        binding_key.addr = internal.src;
        binding_key.port = internal.sport;
        binding_key.segment = internal.segment;
        binding_key.kind = BindingKind::Internal as u8;
        binding_key.rule = inside.rule;
        if gateway.binding_release(binding_key, &external.dst, external.dport) {
            gateway.count_flow(FlowCount::PortReleased, inside.rule);
        }
    }
    binding_key.addr = external.dst;
    binding_key.port = external.dport;
    binding_key.segment = 0;
    binding_key.kind = BindingKind::External as u8;
    binding_key.rule = 0;
    // Whom the source sent to, as it knew it: an external address when it was led back inside.
    let remote = &internal.dst;
    if inside.flags & FLOW_CONTACT == 0 {
        gateway.binding_release(binding_key, &internal.src, internal.sport);
    } else if !gateway.binding_part(binding_key, &internal.src, internal.sport, remote) {
        let proto = internal.proto;
        set_contact_key(contact_key, &external.dst, external.dport, proto, remote);
        gateway.contact_release(contact_key);
    }
}

/// Whether a connection never had an answer, and may go for another one. To what came from outside a VM's
/// answer is none: whoever sent it may not be there.
#[inline(always)]
const fn is_unanswered(state: u8, flags: u16) -> bool {
    const ONE_WAY: u8 = FlowState::OneWay as u8;
    const SYN_SENT: u8 = FlowState::SynSent as u8;
    const SYN_RECEIVED: u8 = FlowState::SynReceived as u8;
    match state {
        ONE_WAY | SYN_SENT => true,
        SYN_RECEIVED => flags & (FLOW_REPLY | FLOW_INSIDE) == 0,
        _ => false,
    }
}

/// Ends one connection without an answer among those in the buckets of the key `work.key`, or with
/// `beyond` in those that follow, too.
#[inline(always)]
pub fn evict<G: Gateway + ?Sized>(work: &mut Work, beyond: bool, gateway: &G) -> bool {
    let buckets = places(gateway, &work.key).buckets;
    let wanted = if beyond { 2 * BUCKETS } else { BUCKETS };
    let mut i = 0;
    let mut evicted = false;
    while i < wanted * FLOW_BUCKET {
        // Past the table's end there is nobody.
        let bucket = match i / FLOW_BUCKET {
            0 => buckets[0],
            1 => buckets[1],
            2 => buckets[2],
            3 => buckets[0].wrapping_add(1),
            4 => buckets[1].wrapping_add(1),
            _ => buckets[2].wrapping_add(1),
        };
        let index = bucket
            .wrapping_mul(FLOW_BUCKET as u32)
            .wrapping_add((i % FLOW_BUCKET) as u32);
        let tag = tag_of(gateway, index);
        if tag > FLOW_BUSY
            && let Some(entry) = gateway.flow(index)
            // SAFETY: the table's own entry.
            && unsafe {
                let state = ptr::read_volatile(&raw const (*entry).state);
                is_unanswered(state, ptr::read_volatile(&raw const (*entry).flags))
            }
        {
            work.index = index;
            work.tag = tag;
            if gateway.close(work) {
                gateway.count_flow(FlowCount::Evicted, 0);
                evicted = true;
                break;
            }
        }
        i += 1;
    }
    evicted
}

/// Ends the connection of the entry at `index` when nothing was heard of it for its time. True when
/// it ended.
#[inline(always)]
pub fn expire<G: Gateway + ?Sized>(work: &mut Work, index: u32, gateway: &G) -> bool {
    let (Some(conf), Some(entry)) = (gateway.switch(), gateway.flow(index)) else {
        return false;
    };
    let now_s = gateway.now_s();
    // Before it is judged: what is ended is what was judged.
    let tag = tag_of(gateway, index);
    // SAFETY: the table's own entries.
    let due = unsafe {
        let peer_seen_s = match gateway.flow((*entry).peer) {
            Some(peer) => ptr::read_volatile(&raw const (*peer).seen_s),
            None => 0,
        };
        is_expired(&*entry, peer_seen_s, now_s, &conf.timeouts)
    };
    if !due || tag <= FLOW_BUSY {
        return false;
    }
    work.index = index;
    work.tag = tag;
    gateway.close(work)
}

/// Ends what has expired in one bucket.
#[inline(always)]
pub fn sweep_bucket<G: Gateway + ?Sized>(work: &mut Work, bucket: u32, gateway: &G) {
    let mut place = 0;
    while place < FLOW_BUCKET {
        let index = bucket
            .wrapping_mul(FLOW_BUCKET as u32)
            .wrapping_add(place as u32);
        if tag_of(gateway, index) > FLOW_BUSY {
            expire(work, index, gateway);
        }
        place += 1;
    }
}

/// Ends the connection at an index, unless it is another one than `tag` stands for by now.
#[inline(always)]
pub fn delete<G: Gateway + ?Sized>(work: &mut Work, index: u32, tag: u32, gateway: &G) -> bool {
    if tag <= FLOW_BUSY {
        return false;
    }
    work.index = index;
    work.tag = tag;
    gateway.close(work)
}
