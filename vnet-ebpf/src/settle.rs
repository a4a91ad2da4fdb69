//! Books a plan: counters, learned addresses, limits, events. Changes no packet.

use vnet_common::{DropReason, Event, EventKind, FdbKey, NO_SLOT, StormKind, StormRate};

use crate::{
    decide::{Fate, Plan, Source, Verdict},
    fdb::Learned,
    guard,
    meta::Meta,
    tables::Effects,
};

/// Books the plan. A flood over its port's limit becomes a drop.
#[inline(always)]
pub fn settle<T: Effects + ?Sized>(plan: &mut Plan, meta: &Meta, tables: &T) {
    if matches!(plan.verdict.fate, Fate::Redirected | Fate::PassUp) {
        return;
    }
    settle_source(plan, meta, tables);
    settle_verdict(plan, meta, tables);
}

/// Books that the frame came in, and its source address.
#[inline(always)]
pub fn settle_source<T: Effects + ?Sized>(plan: &Plan, meta: &Meta, tables: &T) {
    tables.count_rx(plan.port.slot, meta.packets(), meta.len);
    match plan.source {
        Source::Unseen | Source::Known => {}
        Source::Touch => touch(plan, tables),
        Source::Learn => learn(plan, tables),
    }
}

/// Books what becomes of the frame.
#[inline(always)]
pub fn settle_verdict<T: Effects + ?Sized>(plan: &mut Plan, meta: &Meta, tables: &T) {
    let packets = meta.packets();
    let slot = plan.port.slot;
    if matches!(plan.verdict.fate, Fate::Flood) {
        let kind = plan.verdict.storm;
        if within_storm_limit(plan, kind, packets, tables) {
            tables.count_flooded(slot, packets);
        } else {
            plan.verdict = Verdict::drop(storm_reason(kind), slot);
        }
    }
    match plan.verdict.fate {
        Fate::Drop => {
            tables.count_drop(plan.verdict.slot, plan.verdict.reason, packets);
            // An IP address the guards report, who know it.
            if guard::is_mac_conflict(plan.verdict.reason) {
                guard::report_conflict(plan, &[0; 16], tables);
            }
        }
        Fate::ToHost => {
            tables.count_to_host(slot, packets);
            if plan.port.peer_slot != 0 {
                tables.count_tx(plan.port.peer_slot, packets, meta.len);
            }
        }
        Fate::ToWire => tables.count_tx(plan.port.peer_slot, packets, meta.len),
        _ => {}
    }
}

/// Takes a frame of a kind that its port limits whatever becomes of it from that limit; over it, it is
/// dropped, and forgotten.
#[inline(always)]
pub fn settle_limited<T: Effects + ?Sized>(plan: &mut Plan, meta: &Meta, tables: &T) {
    if plan.limited == 0 || matches!(plan.verdict.fate, Fate::Drop) {
        return;
    }
    let kind = if plan.limited == StormKind::Arp as u32 {
        StormKind::Arp
    } else {
        StormKind::Nd
    };
    if !within_storm_limit(plan, kind, meta.packets(), tables) {
        plan.verdict = Verdict::drop(storm_reason(kind), plan.port.slot);
        plan.source = Source::Known;
        plan.stack_slot = NO_SLOT;
        plan.policed = false;
    }
}

/// Takes a frame from its port's limit, and reports when there is none left.
#[inline(never)]
fn within_storm_limit<T: Effects + ?Sized>(
    plan: &Plan,
    kind: StormKind,
    packets: u32,
    tables: &T,
) -> bool {
    let slot = plan.port.slot;
    let rate = tables
        .port(plan.generation, slot)
        .map_or(StormRate::default(), |port| port.storm_rate(kind));
    if rate.interval_ns == 0 || tables.storm_take(slot, kind, rate, packets) {
        return true;
    }
    tables.report(&Event {
        time_ns: tables.now_ns(),
        kind: EventKind::Storm as u32,
        mac: plan.frame.src,
        slot,
        segment: plan.segment,
        reason: storm_reason(kind) as u32,
        ..Event::default()
    });
    false
}

#[inline(always)]
fn source_key(plan: &Plan) -> FdbKey {
    FdbKey::new(plan.frame.src, plan.segment)
}

const fn storm_reason(kind: StormKind) -> DropReason {
    match kind {
        StormKind::Broadcast => DropReason::StormBroadcast,
        StormKind::Multicast => DropReason::StormMulticast,
        StormKind::UnknownUnicast => DropReason::StormUnknownUnicast,
        StormKind::Arp => DropReason::StormArp,
        StormKind::Nd => DropReason::StormNd,
    }
}

/// Sets a known address's time; once a second an address.
#[inline(never)]
fn touch<T: Effects + ?Sized>(plan: &Plan, tables: &T) {
    tables.fdb_touch(source_key(plan), tables.now_s());
}

/// Learns the source address and tells what is worth telling.
#[inline(never)]
fn learn<T: Effects + ?Sized>(plan: &Plan, tables: &T) {
    let slot = plan.port.slot;
    let (Some(conf), Some(port)) = (tables.switch(), tables.port(plan.generation, slot)) else {
        return;
    };
    let mut old_slot = 0;
    let kind = match tables.fdb_learn(source_key(plan), port, conf, tables.now_s()) {
        Learned::Refreshed | Learned::Static => return,
        Learned::New => EventKind::MacLearned,
        Learned::Moved { from } => {
            old_slot = from;
            EventKind::MacMoved
        }
        Learned::TableFull => {
            tables.count_not_learned(slot, true);
            EventKind::FdbFull
        }
        Learned::PortFull => {
            tables.count_not_learned(slot, false);
            EventKind::FdbPortLimit
        }
    };
    tables.report(&Event {
        time_ns: tables.now_ns(),
        kind: kind as u32,
        mac: plan.frame.src,
        slot,
        old_slot,
        segment: plan.segment,
        ..Event::default()
    });
}
