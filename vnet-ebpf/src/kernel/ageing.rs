//! Forgets stale addresses and keeps the datapath's clock: one timer, a slice of the table a tick,
//! without userspace.
//!
//! The timer belongs to the pinned map and goes on when nobody is left; a newer program gives it
//! its own callback (kernel/bpf/helpers.c, bpf_timer_set_callback, 6.1).

use core::ffi::c_void;

use aya_ebpf::helpers::{bpf_loop, bpf_timer_init, bpf_timer_set_callback, bpf_timer_start};
use vnet_common::{Event, EventKind, Mac};
use vnet_ebpf::{
    fdb::{self, Buckets as _, Sweep},
    nat::close::sweep_bucket,
    tables::{Effects as _, Tables as _},
};

use super::{
    maps::{CLOCK, FDB_AGEING, FLOW_AGEING, FLOW_BUCKETS, FdbAgeing, FlowAgeing, SWEEP_WORK},
    tables::Kernel,
};

/// Nanoseconds between ticks.
const TICK_NS: u64 = 100_000_000;
/// Buckets a tick: the default table is walked in 3.2 s, one for a million addresses in 52 s.
const BUCKETS_PER_TICK: u32 = 1024;
/// Buckets of the flow table a tick: half a millisecond when they are full. The default table is
/// walked in 16 s; a lookup sees for itself what has expired.
pub const FLOW_BUCKETS_PER_TICK: u32 = 512;

/// CLOCK_MONOTONIC, as `bpf_timer_init` names clocks.
const CLOCK_MONOTONIC: u64 = 1;
const EBUSY: i64 = -16;

/// Starts the timer, or gives a running one this program's callback. 0 or a negative errno.
#[inline(always)]
pub fn start() -> i64 {
    set_clock(&Kernel::bare());
    let Some(ageing) = FDB_AGEING.get_ptr_mut(0) else {
        return -2;
    };
    // SAFETY: the timer is the one that the map's BTF names.
    unsafe {
        let timer = &raw mut (*ageing).timer;
        let map = (&raw const FDB_AGEING).cast_mut().cast::<c_void>();
        let ret = bpf_timer_init(timer, map, CLOCK_MONOTONIC);
        if ret != 0 && ret != EBUSY {
            return ret;
        }
        let ret = bpf_timer_set_callback(timer, tick as *mut c_void);
        if ret != 0 {
            return ret;
        }
        let ret = bpf_timer_start(timer, TICK_NS, 0);
        if ret != 0 {
            return ret;
        }
    }
    start_flows()
}

/// As [`start`], for the flow table.
#[inline(always)]
fn start_flows() -> i64 {
    let Some(ageing) = FLOW_AGEING.get_ptr_mut(0) else {
        return -2;
    };
    // SAFETY: the timer is the one that the map's BTF names.
    unsafe {
        let timer = &raw mut (*ageing).timer;
        let map = (&raw const FLOW_AGEING).cast_mut().cast::<c_void>();
        let ret = bpf_timer_init(timer, map, CLOCK_MONOTONIC);
        if ret != 0 && ret != EBUSY {
            return ret;
        }
        let ret = bpf_timer_set_callback(timer, flow_tick as *mut c_void);
        if ret != 0 {
            return ret;
        }
        bpf_timer_start(timer, TICK_NS, 0)
    }
}

extern "C" fn flow_tick(_map: *mut c_void, _key: *mut u32, ageing: *mut FlowAgeing) -> i32 {
    // SAFETY: the kernel hands over the timer's own map value.
    unsafe {
        let first = (*ageing).next_bucket;
        sweep_flows(first);
        let next = first.wrapping_add(FLOW_BUCKETS_PER_TICK);
        (*ageing).next_bucket = if next < FLOW_BUCKETS.load() { next } else { 0 };
        bpf_timer_start(&raw mut (*ageing).timer, TICK_NS, 0);
    }
    0
}

/// Ends what has expired in one tick's buckets.
#[inline(always)]
pub fn sweep_flows(first: u32) {
    let mut first = first;
    // SAFETY: the callback takes what it is given here, and the context outlives the loop.
    unsafe {
        bpf_loop(
            FLOW_BUCKETS_PER_TICK,
            sweep_flow_bucket as *mut c_void,
            (&raw mut first).cast(),
            0,
        );
    }
}

extern "C" fn sweep_flow_bucket(index: u64, first: *const u32) -> i64 {
    // SAFETY: bpf_loop hands over what sweep_flows() gave it.
    let bucket = unsafe { (*first).wrapping_add(index as u32) };
    let kernel = Kernel::bare();
    let Some(work) = SWEEP_WORK.get_ptr_mut(0) else {
        return 1;
    };
    // SAFETY: this CPU's own.
    sweep_bucket(unsafe { &mut *work }, bucket, &kernel);
    // Past the table's end there is nothing more.
    i64::from(bucket >= FLOW_BUCKETS.load())
}

/// Sets the datapath's clock; returns the time in seconds and in nanoseconds.
#[inline(always)]
fn set_clock(kernel: &Kernel) -> (u32, u64) {
    let now_ns = kernel.now_ns();
    let now_s = (now_ns / 1_000_000_000) as u32;
    if let Some(clock) = CLOCK.get_ptr_mut(0) {
        // SAFETY: map memory; one aligned word.
        unsafe { clock.write_volatile(now_s) };
    }
    (now_s, now_ns)
}

/// What a step of the walk works on.
struct Walk {
    first: u32,
    now_s: u32,
    ageing_s: u32,
    now_ns: u64,
}

extern "C" fn tick(_map: *mut c_void, _key: *mut u32, ageing: *mut FdbAgeing) -> i32 {
    let kernel = Kernel::bare();
    // SAFETY: the kernel hands over the timer's own map value.
    unsafe {
        let (now_s, now_ns) = set_clock(&kernel);
        if let Some(conf) = kernel.switch() {
            let mut walk = Walk {
                first: (*ageing).next_bucket,
                now_s,
                ageing_s: conf.ageing_s,
                now_ns,
            };
            bpf_loop(
                BUCKETS_PER_TICK,
                age_bucket as *mut c_void,
                (&raw mut walk).cast(),
                0,
            );
            (*ageing).next_bucket = walk.first.wrapping_add(BUCKETS_PER_TICK) & kernel.mask();
        }
        bpf_timer_start(&raw mut (*ageing).timer, TICK_NS, 0);
    }
    0
}

extern "C" fn age_bucket(index: u64, walk: *mut Walk) -> i64 {
    // SAFETY: bpf_loop hands over what tick() gave it.
    let walk = unsafe { &*walk };
    let kernel = Kernel::bare();
    let what = Sweep {
        stale: Some((walk.now_s, walk.ageing_s)),
        ..Sweep::default()
    };
    fdb::sweep(
        &kernel,
        walk.first.wrapping_add(index as u32),
        &what,
        |mac: Mac, segment, slot| {
            kernel.report(&Event {
                time_ns: walk.now_ns,
                kind: EventKind::MacAged as u32,
                mac,
                slot,
                segment,
                ..Event::default()
            });
        },
    );
    // A table smaller than a tick's slice has been walked once.
    i64::from(index as u32 >= kernel.mask())
}
