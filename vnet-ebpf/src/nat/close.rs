//! Ending connections: when they expire, when they are deleted, when others need their place.

use vnet_common::{
    BindingKey, Event, EventKind, FlowState,
    flow::{
        FLOW_BOUND, FLOW_BUCKET, FLOW_BUSY, FLOW_CONTACT, FLOW_DNAT, FLOW_PORT, FLOW_REPLY,
        FLOW_SNAT,
    },
    nat::BindingKind,
};

use crate::{
    flow::{
        state::is_expired,
        table::{places, remove, tag_of},
    },
    gateway::{FlowCount, Gateway, Work},
};

/// Ends the connection with an entry at `work.index`: both entries, its mappings' holds, its counts.
/// False when another CPU was faster. Uses `work.forward`, `reply`, `binding_key` and `event`.
#[inline(never)]
pub fn close<G: Gateway + ?Sized>(work: &mut Work, gateway: &G) -> bool {
    let index = work.index;
    let Some(entry) = gateway.flow(index) else {
        return false;
    };
    // SAFETY: the table's own entry, copied whole.
    work.forward = unsafe { core::ptr::read(entry) };
    let peer_index = work.forward.peer;
    let Some(peer) = gateway.flow(peer_index) else {
        return false;
    };
    // SAFETY: as above.
    work.reply = unsafe { core::ptr::read(peer) };
    let tag = tag_of(gateway, index);
    if tag != places(gateway, &work.forward.key).tag || !remove(gateway, index, tag) {
        return false;
    }
    // The other entry goes when it is this one's peer, and not somebody else's by now.
    if work.reply.peer == index {
        let tag = tag_of(gateway, peer_index);
        if tag == places(gateway, &work.reply.key).tag {
            remove(gateway, peer_index, tag);
        }
    }
    if work.forward.flags & FLOW_REPLY != 0 {
        core::mem::swap(&mut work.forward, &mut work.reply);
    }
    release(work, true, gateway);
    release(work, false, gateway);
    let owner = work.forward.owner;
    gateway.add_flow_count(-1);
    gateway.add_owner_count(owner, -1);
    gateway.count_flow(FlowCount::Ended, 0);
    if work.forward.rule != 0 {
        gateway.count_flow(FlowCount::RuleEnded, work.forward.rule);
    }
    if work.forward.flags & FLOW_PORT != 0 {
        gateway.count_flow(FlowCount::PortReleased, work.forward.rule);
    }
    let translated = work.forward.flags & (FLOW_SNAT | FLOW_DNAT) != 0;
    work.event = Event {
        time_ns: gateway.now_ns(),
        kind: EventKind::FlowEnd as u32,
        slot: owner,
        flow: work.forward.key,
        nat_addr: if translated {
            work.reply.key.dst
        } else {
            [0; 16]
        },
        nat_port: if translated { work.reply.key.dport } else { 0 },
        rule: work.forward.rule,
        ..Event::default()
    };
    gateway.report(&work.event);
    true
}

/// Gives back the mapping that one direction's source holds.
#[inline(always)]
fn release<G: Gateway + ?Sized>(work: &mut Work, first: bool, gateway: &G) {
    let (inside, outside) = if first {
        (&work.forward, &work.reply)
    } else {
        (&work.reply, &work.forward)
    };
    let flags = inside.flags;
    if flags & FLOW_BOUND == 0 {
        return;
    }
    let (internal, external) = (inside.key, outside.key);
    // What the source sent to, as it knew it: an external address when it was led back inside.
    let remote = internal.dst;
    let rule = inside.rule;
    work.binding_key = BindingKey {
        addr: internal.src,
        remote: [0; 16],
        port: internal.sport,
        segment: internal.segment,
        proto: internal.proto,
        kind: BindingKind::Internal as u8,
        rule,
    };
    if gateway.binding_release(&work.binding_key, &external.dst, external.dport) {
        gateway.count_flow(FlowCount::PortReleased, rule);
    }
    work.binding_key = BindingKey {
        addr: external.dst,
        port: external.dport,
        proto: internal.proto,
        kind: BindingKind::External as u8,
        ..BindingKey::default()
    };
    gateway.binding_release(&work.binding_key, &internal.src, internal.sport);
    if flags & FLOW_CONTACT != 0 {
        work.binding_key.kind = BindingKind::Contact as u8;
        work.binding_key.remote = remote;
        gateway.binding_release(&work.binding_key, &[0; 16], 0);
    }
}

/// Whether a connection never had an answer, and may go for another one.
#[inline(always)]
const fn is_unanswered(state: u8) -> bool {
    const ONE_WAY: u8 = FlowState::OneWay as u8;
    const SYN_SENT: u8 = FlowState::SynSent as u8;
    matches!(state, ONE_WAY | SYN_SENT)
}

/// Ends one connection without an answer among those in the buckets of `work.forward`, which is to
/// take its place. The entries under construction stay.
#[inline(never)]
pub fn evict<G: Gateway + ?Sized>(work: &mut Work, gateway: &G) -> bool {
    let (forward, reply) = (work.forward, work.reply);
    let buckets = places(gateway, &work.forward.key).buckets;
    let mut i = 0;
    let mut evicted = false;
    while i < 2 * FLOW_BUCKET {
        let bucket = if i < FLOW_BUCKET {
            buckets[0]
        } else {
            buckets[1]
        };
        let index = bucket
            .wrapping_mul(FLOW_BUCKET as u32)
            .wrapping_add((i % FLOW_BUCKET) as u32);
        if tag_of(gateway, index) > 1
            && let Some(entry) = gateway.flow(index)
            // SAFETY: the table's own entry; one byte.
            && is_unanswered(unsafe { core::ptr::read_volatile(&raw const (*entry).state) })
        {
            work.index = index;
            if close(work, gateway) {
                gateway.count_flow(FlowCount::Evicted, 0);
                evicted = true;
                break;
            }
        }
        i += 1;
    }
    work.forward = forward;
    work.reply = reply;
    evicted
}

/// Ends the connection of the entry at `index` when nothing was heard of it for its time. True when
/// it ended.
#[inline(never)]
pub fn expire<G: Gateway + ?Sized>(work: &mut Work, index: u32, gateway: &G) -> bool {
    let (Some(conf), Some(entry)) = (gateway.switch(), gateway.flow(index)) else {
        return false;
    };
    let now_s = gateway.now_s();
    // SAFETY: the table's own entries.
    let due = unsafe {
        let peer_seen_s = match gateway.flow((*entry).peer) {
            Some(peer) => core::ptr::read_volatile(&raw const (*peer).seen_s),
            None => 0,
        };
        is_expired(&*entry, peer_seen_s, now_s, &conf.timeouts)
    };
    if !due {
        return false;
    }
    work.index = index;
    close(work, gateway)
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
    if tag <= FLOW_BUSY || tag_of(gateway, index) != tag {
        return false;
    }
    work.index = index;
    close(work, gateway)
}
