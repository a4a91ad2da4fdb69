//! What the pipeline changes besides the frame.

use vnet_common::{
    DropReason, Event, FdbBucket, FdbKey, LearnedIp, LearnedIpKey, PortConf, PortCounters,
    StormKind, StormRate, SwitchConf, event::EVENT_INTERVAL_NS,
};
use vnet_ebpf::{
    decide::Plan,
    fdb::{self, Buckets, LearnLimits, Learned},
    guard::{
        Sight,
        lease::{self, Leases},
    },
    rate,
    tables::Effects,
};

use super::Machine;

impl Machine {
    /// A slot past the table is not counted, as in the kernel.
    fn count(&self, slot: u16, count: impl FnOnce(&mut PortCounters)) {
        if let Some(counters) = self.counters.borrow_mut().get_mut(usize::from(slot)) {
            count(counters);
        }
    }
}

impl Effects for Machine {
    fn count_rx(&self, slot: u16, packets: u32, bytes: u32) {
        self.count(slot, |c| {
            c.rx_packets += u64::from(packets);
            c.rx_bytes += u64::from(bytes);
        });
    }

    fn count_tx(&self, slot: u16, packets: u32, bytes: u32) {
        self.count(slot, |c| {
            c.tx_packets += u64::from(packets);
            c.tx_bytes += u64::from(bytes);
        });
    }

    fn count_to_host(&self, slot: u16, packets: u32) {
        self.count(slot, |c| c.to_host_packets += u64::from(packets));
    }

    fn count_flooded(&self, slot: u16, packets: u32) {
        self.count(slot, |c| c.flooded_packets += u64::from(packets));
    }

    fn count_drop(&self, slot: u16, reason: DropReason, packets: u32) {
        if let Some(drops) = self.drops.borrow_mut().get_mut(usize::from(slot))
            && let Some(count) = drops.by_number(reason as u32)
        {
            *count += u64::from(packets);
        }
    }

    fn storm_take(&self, slot: u16, kind: StormKind, rate: StormRate, packets: u32) -> bool {
        let mut storms = self.storms.borrow_mut();
        let Some(state) = storms.get_mut(usize::from(slot)) else {
            return true;
        };
        let next_ns = &mut state.next_ns[kind as usize];
        match rate::take_storm(*next_ns, self.now_ns.get(), rate, packets) {
            Some(next) => {
                *next_ns = next;
                true
            }
            None => false,
        }
    }

    fn fdb_learn(&self, key: FdbKey, port: &PortConf, conf: &SwitchConf, now_s: u32) -> Learned {
        let limits = LearnLimits {
            table: conf.fdb_limit,
            port: port.max_macs,
            ageing_s: conf.ageing_s,
            now_s,
        };
        fdb::learn(self, key, port.slot, &limits)
    }

    fn fdb_touch(&self, key: FdbKey, now_s: u32) {
        fdb::touch(self, key, now_s);
    }

    fn count_not_learned(&self, slot: u16, table_full: bool) {
        self.count(slot, |c| {
            if table_full {
                c.fdb_full += 1;
            } else {
                c.fdb_port_limit += 1;
            }
        });
    }

    fn lease_put(&self, key: &LearnedIpKey, learned: &LearnedIp) {
        self.learned_ips.borrow_mut().insert(*key, *learned);
    }

    fn lease_remove(&self, key: &LearnedIpKey) {
        self.learned_ips.borrow_mut().remove(key);
    }

    fn lease_swap(&self, slot: u16, key: &LearnedIpKey, oldest: &mut LearnedIpKey) -> bool {
        let mut leases = self.port_leases.borrow_mut();
        let Some(leases) = leases.get_mut(usize::from(slot)) else {
            return false;
        };
        *oldest = leases.swap(*key);
        true
    }

    fn lease_ask(&self, slot: u16, transaction: u64) {
        let mut leases = self.port_leases.borrow_mut();
        if let Some(leases) = leases.get_mut(usize::from(slot)) {
            leases.ask(transaction);
        }
    }

    fn lease_asked(&self, slot: u16, transaction: u64) -> bool {
        let leases = self.port_leases.borrow();
        leases
            .get(usize::from(slot))
            .is_some_and(|leases| leases.has_asked(transaction))
    }

    fn report(&self, event: &Event) {
        let mut limits = self.event_limits.borrow_mut();
        let Some(limit) = limits.get_mut(event.kind as usize) else {
            return;
        };
        let Some(next) = rate::take(limit.next_ns, event.time_ns, EVENT_INTERVAL_NS, 1) else {
            limit.suppressed += 1;
            return;
        };
        limit.next_ns = next;
        self.events.borrow_mut().push(Event {
            suppressed: std::mem::take(&mut limit.suppressed),
            ..*event
        });
    }
}

impl Leases for Machine {
    fn keep(&self, plan: &Plan, sight: &mut Sight) {
        lease::keep(plan, self, sight);
    }

    fn tell(&self, plan: &Plan, sight: &Sight) {
        lease::tell(plan, self, sight);
    }
}

impl Buckets for Machine {
    fn bucket(&self, index: u32) -> Option<*mut FdbBucket> {
        self.buckets
            .get(index as usize)
            .map(std::cell::UnsafeCell::get)
    }

    fn mask(&self) -> u32 {
        self.buckets.len() as u32 - 1
    }

    fn seed(&self) -> u64 {
        self.fdb_seed
    }

    unsafe fn lock(&self, bucket: *mut FdbBucket) {
        // SAFETY: the bucket is ours, and this machine has one thread.
        let lock = unsafe { &mut (*bucket).lock.val };
        assert_eq!(*lock, 0, "a lock is taken twice");
        *lock = 1;
    }

    unsafe fn unlock(&self, bucket: *mut FdbBucket) {
        // SAFETY: as above.
        let lock = unsafe { &mut (*bucket).lock.val };
        assert_eq!(*lock, 1, "a lock is given back that nobody holds");
        *lock = 0;
    }

    fn count(&self) -> u32 {
        self.fdb_count.get()
    }

    fn port_count(&self, slot: u16) -> u32 {
        let port_macs = self.port_macs.borrow();
        port_macs.get(usize::from(slot)).copied().unwrap_or(0)
    }

    fn add_count(&self, delta: i32) {
        let count = self.fdb_count.get().checked_add_signed(delta);
        self.fdb_count
            .set(count.expect("the FDB's count stays above zero"));
    }

    fn add_port_count(&self, slot: u16, delta: i32) {
        if let Some(count) = self.port_macs.borrow_mut().get_mut(usize::from(slot)) {
            *count = count
                .checked_add_signed(delta)
                .expect("a port's count stays above zero");
        }
    }
}
