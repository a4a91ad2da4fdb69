//! [`Tables`], [`Effects`] and [`Buckets`] over the maps and helpers.

use core::ffi::c_void;

use aya_ebpf::{
    bindings,
    btf_maps::lpm_trie::Key,
    helpers::{
        bpf_check_mtu, bpf_ktime_get_coarse_ns, bpf_spin_lock as spin_lock,
        bpf_spin_unlock as spin_unlock,
    },
};
use vnet_common::{
    Addr, DropReason, Event, FdbBucket, FdbEntry, FdbKey, LearnedIp, LearnedIpKey, Mac, MacDenyKey,
    Member, NO_SLOT, NatMatchKey, PortConf, PortCounters, PortIpKey, PortMacKey, PortSegmentKey,
    PortTagKey, SEGMENTS, SegmentConf, SourceKey, StormKind, StormRate, SwitchConf,
    event::EVENT_INTERVAL_NS,
    nat::{NAT_MATCH_BITS, NatMatch},
    port::STORM_KINDS,
};
use vnet_ebpf::{
    fdb::{self, Buckets, Home, LearnLimits, Learned},
    rate,
    tables::{Effects, Tables, UNGUARDED},
};

use super::atomic::atomic_add;
use super::maps::{
    BANNING, BANS, CLOCK, EVENT_LIMITS, EVENTS, EVENTS_LOST, FDB, FDB_COUNT, FDB_MASK, FDB_SEED,
    LEARNED_IPS, MAC_ALLOW, MAC_DENY, MAX_MEMBERS, MAX_PORTS, MEMBERS, NAT_MATCH, PORT_ALIASES,
    PORT_COUNTERS, PORT_DROPS, PORT_IPS, PORT_LEASES, PORT_MACS, PORT_SEGMENTS, PORT_TAGS, PORTS,
    PortAliasKey, SEGMENT_CONF, STORM_STATE, SWITCH_CONF,
};

/// The kernel's maps, and the program's context, which some helpers want.
#[derive(Clone, Copy)]
pub struct Kernel {
    /// The context that the program was called with; null where there is none, in a timer and for a
    /// request of userspace.
    pub ctx: *mut c_void,
}

impl Kernel {
    /// Without a context: for what asks no helper for a device.
    #[inline(always)]
    pub const fn bare() -> Self {
        Self {
            ctx: core::ptr::null_mut(),
        }
    }

    /// Counts a drop by its reason's number, which came through the verifier as one.
    #[inline(always)]
    pub fn count_drop_number(&self, slot: u16, number: u32, packets: u32) {
        if let Some(report) = PORT_DROPS.get_ptr_mut(u32::from(slot)) {
            let number = core::hint::black_box(number);
            // SAFETY: this CPU's own counters.
            if let Some(count) = unsafe { (*report).drops.by_number(number) } {
                *count += u64::from(packets);
            }
        }
    }

    #[inline(always)]
    fn conf(generation: u32, index: u32) -> Option<&'static PortConf> {
        let port = PORTS.get(generation * MAX_PORTS.load() + index)?;
        // SAFETY: map memory lives as long as the program.
        Some(unsafe { &*core::ptr::from_ref(port) })
    }
}

impl Tables for Kernel {
    #[inline(always)]
    fn switch(&self) -> Option<&SwitchConf> {
        SWITCH_CONF.get(0)
    }

    #[inline(always)]
    fn port(&self, generation: u32, slot: u16) -> Option<&PortConf> {
        Self::conf(generation, u32::from(slot))
    }

    #[inline(always)]
    fn port_by_ifindex(&self, generation: u32, ifindex: u32) -> Option<&PortConf> {
        let own = Self::conf(generation, ifindex & (MAX_PORTS.load() - 1))?;
        if own.ifindex == ifindex && !matches!(own.kind, vnet_common::PortKind::UplinkHost) {
            return Some(own);
        }
        let key = PortAliasKey {
            ifindex,
            generation,
        };
        // SAFETY: the value is read at once; a slot that is replaced meanwhile is checked below.
        let slot = unsafe { PORT_ALIASES.get(key) }?;
        let port = Self::conf(generation, *slot)?;
        if port.ifindex == ifindex {
            Some(port)
        } else {
            None
        }
    }

    #[inline(always)]
    fn tag_segment(&self, generation: u32, slot: u16, vid: u16) -> Option<u16> {
        let key = PortTagKey {
            generation,
            slot,
            vid,
        };
        // SAFETY: one aligned word is read at once.
        unsafe { PORT_TAGS.get(key) }.map(|segment| *segment as u16)
    }

    #[inline(always)]
    fn segment_tag(&self, generation: u32, slot: u16, segment: u16) -> Option<u16> {
        let key = PortSegmentKey {
            generation,
            slot,
            segment,
        };
        // SAFETY: one aligned word is read at once.
        unsafe { PORT_SEGMENTS.get(key) }.map(|vid| *vid as u16)
    }

    #[inline(always)]
    fn segment(&self, generation: u32, segment: u16) -> Option<&SegmentConf> {
        SEGMENT_CONF.get(generation * SEGMENTS + u32::from(segment))
    }

    #[inline(always)]
    fn member(&self, generation: u32, index: u32) -> Option<Member> {
        MEMBERS
            .get(generation * MAX_MEMBERS.load() + index)
            .copied()
    }

    #[inline(always)]
    fn mac_denied(&self, generation: u32, mac: Mac) -> bool {
        let key = MacDenyKey {
            mac,
            generation: generation as u16,
        };
        MAC_DENY.get_ptr(key).is_some()
    }

    #[inline(always)]
    fn mac_allowed(&self, generation: u32, slot: u16, mac: Mac) -> bool {
        let key = PortMacKey {
            mac,
            slot,
            generation,
        };
        MAC_ALLOW.get_ptr(key).is_some()
    }

    #[inline(always)]
    fn fdb_find(&self, key: FdbKey) -> Option<FdbEntry> {
        let found = match fdb::find_home(self, key) {
            Home::Found(entry) => return Some(entry),
            Home::Absent => return None,
            Home::Overflowed => fdb_find(key.word),
        };
        if found == FDB_MISS {
            return None;
        }
        Some(FdbEntry {
            mac: key.mac(),
            segment: key.segment(),
            slot: found as u16,
            flags: (found >> 16) as u16,
            seen_s: (found >> 32) as u32,
        })
    }

    #[inline(always)]
    fn guarded(&self, generation: u32, source: &Addr) -> u32 {
        let key = NatMatchKey {
            generation: generation as u8,
            kind: NatMatch::Guard as u8,
            addr: *source,
            ..NatMatchKey::default()
        };
        match NAT_MATCH.get(&Key::new(NAT_MATCH_BITS, key)) {
            Some(segment) => *segment,
            None => UNGUARDED,
        }
    }

    #[inline(always)]
    fn port_ip(&self, generation: u32, segment: u16, addr: &Addr) -> u16 {
        let key = PortIpKey {
            addr: *addr,
            segment,
            generation: generation as u16,
        };
        // SAFETY: one aligned word is read at once.
        match unsafe { PORT_IPS.get(key) } {
            Some(slot) => *slot as u16,
            None => NO_SLOT,
        }
    }

    #[inline(always)]
    fn learned_ip(&self, segment: u16, addr: &Addr) -> Option<LearnedIp> {
        let key = LearnedIpKey {
            addr: *addr,
            segment,
            reserved: 0,
        };
        // SAFETY: a value that is replaced meanwhile is one of the two, or names a port whose
        // interface is not that of the slot.
        unsafe { LEARNED_IPS.get(key) }.copied()
    }

    #[inline(always)]
    fn bans(&self) -> bool {
        BANNING.get(0).is_some_and(|banning| *banning != 0)
    }

    #[inline(always)]
    fn banned_until(&self, key: &SourceKey) -> u32 {
        // SAFETY: one aligned word is read at once.
        match unsafe { BANS.get(key) } {
            Some(ban) => ban.until_s,
            None => 0,
        }
    }

    #[inline(always)]
    fn mtu(&self, ifindex: u32) -> Option<u32> {
        let mut mtu = 0;
        // SAFETY: the context is the program's. A length of 0 asks for the device's MTU
        // (net/core/filter.c, bpf_skb_check_mtu): the answer is in `mtu` unless the device is gone.
        let ret = unsafe { bpf_check_mtu(self.ctx, ifindex, &raw mut mtu, 0, 0) };
        if ret < 0 || mtu == 0 { None } else { Some(mtu) }
    }

    #[inline(always)]
    fn opaque<'a, X>(&self, x: &'a mut X) -> &'a mut X {
        core::hint::black_box(x)
    }

    #[inline(always)]
    fn now_s(&self) -> u32 {
        CLOCK.get(0).copied().unwrap_or(0)
    }

    #[inline(always)]
    fn now_ns(&self) -> u64 {
        // SAFETY: takes nothing.
        unsafe { bpf_ktime_get_coarse_ns() }
    }
}

/// Changes a port's counters on this CPU.
#[inline(always)]
fn count(slot: u16, change: impl FnOnce(&mut PortCounters)) {
    if let Some(report) = PORT_COUNTERS.get_ptr_mut(u32::from(slot)) {
        // SAFETY: this CPU's own counters.
        change(unsafe { &mut (*report).counters });
    }
}

impl Effects for Kernel {
    #[inline(always)]
    fn count_rx(&self, slot: u16, packets: u32, bytes: u32) {
        count(slot, |c| {
            c.rx_packets += u64::from(packets);
            c.rx_bytes += u64::from(bytes);
        });
    }

    #[inline(always)]
    fn count_tx(&self, slot: u16, packets: u32, bytes: u32) {
        count(slot, |c| {
            c.tx_packets += u64::from(packets);
            c.tx_bytes += u64::from(bytes);
        });
    }

    #[inline(always)]
    fn count_to_host(&self, slot: u16, packets: u32) {
        count(slot, |c| c.to_host_packets += u64::from(packets));
    }

    #[inline(always)]
    fn count_flooded(&self, slot: u16, packets: u32) {
        count(slot, |c| c.flooded_packets += u64::from(packets));
    }

    #[inline(always)]
    fn count_drop(&self, slot: u16, reason: DropReason, packets: u32) {
        // The compiler knows that a reason is in range; the verifier wants to see it checked.
        self.count_drop_number(slot, reason as u32, packets);
    }

    #[inline(always)]
    fn storm_take(&self, slot: u16, kind: StormKind, rate: StormRate, packets: u32) -> bool {
        let Some(state) = STORM_STATE.get_ptr_mut(u32::from(slot)) else {
            return true;
        };
        // As in count_drop.
        let kind = core::hint::black_box(kind as usize);
        if kind >= STORM_KINDS {
            return true;
        }
        // SAFETY: the kind is an index of the array. Two CPUs may both take from the same state:
        // the limit then lets a frame a CPU too many pass, which is no harm worth a lock.
        unsafe {
            let next_ns = (&raw mut (*state).next_ns).cast::<u64>().add(kind);
            match rate::take_storm(*next_ns, self.now_ns(), rate, packets) {
                Some(next) => {
                    *next_ns = next;
                    true
                }
                None => false,
            }
        }
    }

    #[inline(always)]
    fn fdb_learn(&self, key: FdbKey, port: &PortConf, conf: &SwitchConf, now_s: u32) -> Learned {
        let limits = LearnLimits {
            table: conf.fdb_limit,
            port: port.max_macs,
            ageing_s: conf.ageing_s,
            now_s,
        };
        match fdb_learn(key.word, port.slot, &limits) {
            LEARN_REFRESHED => Learned::Refreshed,
            LEARN_NEW => Learned::New,
            LEARN_STATIC => Learned::Static,
            LEARN_TABLE_FULL => Learned::TableFull,
            LEARN_PORT_FULL => Learned::PortFull,
            moved => Learned::Moved { from: moved as u16 },
        }
    }

    #[inline(always)]
    fn fdb_touch(&self, key: FdbKey, now_s: u32) {
        fdb::touch(self, key, now_s);
    }

    #[inline(always)]
    fn count_not_learned(&self, slot: u16, table_full: bool) {
        count(slot, |c| {
            if table_full {
                c.fdb_full += 1;
            } else {
                c.fdb_port_limit += 1;
            }
        });
    }

    #[inline(always)]
    fn lease_put(&self, key: &LearnedIpKey, learned: &LearnedIp) {
        // Without room it is not learned, as if the answer had not been seen.
        let _ = LEARNED_IPS.insert(key, learned, 0);
    }

    #[inline(always)]
    fn lease_remove(&self, key: &LearnedIpKey) {
        // Somebody else may have.
        let _ = LEARNED_IPS.remove(key);
    }

    #[inline(always)]
    fn lease_swap(&self, slot: u16, key: &LearnedIpKey, oldest: &mut LearnedIpKey) -> bool {
        let Some(leases) = PORT_LEASES.get_ptr_mut(u32::from(slot)) else {
            return false;
        };
        // SAFETY: map memory. Of two CPUs that write at once the later one's stays, and a lease that
        // no place names goes by its time.
        *oldest = unsafe { (*leases).swap(*key) };
        true
    }

    #[inline(always)]
    fn lease_ask(&self, slot: u16, transaction: u64) {
        if let Some(leases) = PORT_LEASES.get_ptr_mut(u32::from(slot)) {
            // SAFETY: as above; a client whose question is lost asks again.
            unsafe { (*leases).ask(transaction) };
        }
    }

    #[inline(always)]
    fn lease_asked(&self, slot: u16, transaction: u64) -> bool {
        // SAFETY: as above.
        PORT_LEASES
            .get_ptr(u32::from(slot))
            .is_some_and(|leases| unsafe { (*leases).has_asked(transaction) })
    }

    #[inline(always)]
    fn report(&self, event: &Event) {
        let Some(limit) = EVENT_LIMITS.get_ptr_mut(event.kind) else {
            return;
        };
        // SAFETY: this CPU's own state.
        let suppressed = unsafe {
            let Some(next) = rate::take((*limit).next_ns, event.time_ns, EVENT_INTERVAL_NS, 1)
            else {
                (*limit).suppressed += 1;
                return;
            };
            (*limit).next_ns = next;
            core::mem::take(&mut (*limit).suppressed)
        };
        let event = Event {
            suppressed,
            ..*event
        };
        if EVENTS.output(event, 0).is_err()
            && let Some(lost) = EVENTS_LOST.get_ptr_mut(0)
        {
            // SAFETY: this CPU's own counter.
            unsafe { *lost += 1 };
        }
    }
}

/// What [`fdb_find`] returns for no entry; no entry has these flags.
const FDB_MISS: u64 = u64::MAX;

/// Finds an entry behind a full bucket: slot, flags and time in one word. A subprogram that returns a
/// number lets the verifier forget in which of many places the entry was.
#[inline(never)]
fn fdb_find(word: u64) -> u64 {
    match fdb::find(&Kernel::bare(), FdbKey { word }) {
        Some(e) => u64::from(e.slot) | u64::from(e.flags) << 16 | u64::from(e.seen_s) << 32,
        None => FDB_MISS,
    }
}

const LEARN_REFRESHED: u32 = 1 << 16;
const LEARN_NEW: u32 = 2 << 16;
const LEARN_STATIC: u32 = 3 << 16;
const LEARN_TABLE_FULL: u32 = 4 << 16;
const LEARN_PORT_FULL: u32 = 5 << 16;

/// Learns an address; returns one of the numbers above, or the slot it was at before. A subprogram
/// for the same reason as [`fdb_find`].
#[inline(never)]
fn fdb_learn(word: u64, slot: u16, limits: &LearnLimits) -> u32 {
    match fdb::learn(&Kernel::bare(), FdbKey { word }, slot, limits) {
        Learned::Refreshed => LEARN_REFRESHED,
        Learned::New => LEARN_NEW,
        Learned::Static => LEARN_STATIC,
        Learned::TableFull => LEARN_TABLE_FULL,
        Learned::PortFull => LEARN_PORT_FULL,
        Learned::Moved { from } => u32::from(from),
    }
}

impl Buckets for Kernel {
    #[inline(always)]
    fn bucket(&self, index: u32) -> Option<*mut FdbBucket> {
        FDB.get_ptr_mut(index)
    }

    #[inline(always)]
    fn mask(&self) -> u32 {
        FDB_MASK.load()
    }

    #[inline(always)]
    fn seed(&self) -> u64 {
        FDB_SEED.load()
    }

    #[inline(always)]
    unsafe fn lock(&self, bucket: *mut FdbBucket) {
        // SAFETY: the lock is the one that the map's BTF names.
        unsafe { spin_lock((&raw mut (*bucket).lock).cast::<bindings::bpf_spin_lock>()) };
    }

    #[inline(always)]
    unsafe fn unlock(&self, bucket: *mut FdbBucket) {
        // SAFETY: as in lock.
        unsafe { spin_unlock((&raw mut (*bucket).lock).cast::<bindings::bpf_spin_lock>()) };
    }

    #[inline(always)]
    fn count(&self) -> u32 {
        FDB_COUNT.get(0).copied().unwrap_or(0)
    }

    #[inline(always)]
    fn port_count(&self, slot: u16) -> u32 {
        PORT_MACS.get(u32::from(slot)).copied().unwrap_or(0)
    }

    #[inline(always)]
    fn add_count(&self, delta: i32) {
        if let Some(count) = FDB_COUNT.get_ptr_mut(0) {
            // SAFETY: map memory.
            unsafe { atomic_add(count, delta) };
        }
    }

    #[inline(always)]
    fn add_port_count(&self, slot: u16, delta: i32) {
        if let Some(count) = PORT_MACS.get_ptr_mut(u32::from(slot)) {
            // SAFETY: map memory.
            unsafe { atomic_add(count, delta) };
        }
    }
}
