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
    tables::{Effects as _, Tables as _},
};

use super::{
    maps::{CLOCK, FDB_AGEING, FdbAgeing},
    tables::Kernel,
};

/// Nanoseconds between ticks.
const TICK_NS: u64 = 100_000_000;
/// Buckets a tick: the default table is walked in 3.2 s, one for a million addresses in 52 s.
const BUCKETS_PER_TICK: u32 = 1024;
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
        bpf_timer_start(timer, TICK_NS, 0)
    }
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
