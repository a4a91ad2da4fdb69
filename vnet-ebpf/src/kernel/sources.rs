//! The maps of sources: their connections, and what they tried.

use vnet_common::{Attempts, Source, SourceKey, limit::BanRule};
use vnet_ebpf::{
    limit::{self, SourceSays},
    rate,
    tables::Tables as _,
};

use super::{
    atomic::{atomic_add, hold},
    maps::{ATTEMPTS, SOURCES},
    tables::Kernel,
};

/// Takes from a source's limits.
#[inline(never)]
pub fn take_source(key: &SourceKey, quota: u32, interval_ns: u32) -> u32 {
    let Some(source) = SOURCES.get_ptr_mut(key) else {
        return SourceSays::Yes as u32;
    };
    // SAFETY: map memory. Two CPUs may both take from the same state, as in `storm_take`.
    unsafe {
        if quota != 0 && (*source).flows >= quota {
            return SourceSays::TooMany as u32;
        }
        if interval_ns != 0 {
            match rate::take((*source).next_ns, Kernel::bare().now_ns(), interval_ns, 1) {
                Some(at) => (*source).next_ns = at,
                None => return SourceSays::TooFast as u32,
            }
        }
    }
    SourceSays::Yes as u32
}

/// Counts a connection for its source.
#[inline(never)]
pub fn hold_source(key: &SourceKey, interval_ns: u32) -> bool {
    const NO_EXIST: u64 = 1;
    if let Some(source) = SOURCES.get_ptr_mut(key) {
        // SAFETY: map memory; `flows` is an aligned word.
        unsafe {
            let flows = &raw mut (*source).flows;
            if hold(flows) {
                // As with a mapping.
                if SOURCES.get_ptr_mut(key) == Some(source) {
                    return true;
                }
                if atomic_add(flows, -1) == 1 {
                    let _ = SOURCES.remove(key);
                }
            } else {
                // Whoever gave the last one back is about to take it away.
                let _ = SOURCES.remove(key);
            }
        }
    }
    let first = Source {
        next_ns: Kernel::bare().now_ns() + u64::from(interval_ns),
        flows: 1,
        reserved: 0,
    };
    SOURCES.insert(key, first, NO_EXIST).is_ok()
}

/// A source has a connection less.
#[inline(never)]
pub fn release_source(key: &SourceKey) -> u32 {
    let Some(source) = SOURCES.get_ptr_mut(key) else {
        return 0;
    };
    // SAFETY: map memory; `flows` is an aligned word.
    if unsafe { atomic_add(&raw mut (*source).flows, -1) } == 1 {
        let _ = SOURCES.remove(key);
    }
    0
}

/// Counts a connection of a source under a rule: not 0 when it is within it.
#[inline(never)]
pub fn attempt(key: &SourceKey, rule: &BanRule) -> u32 {
    let now_ns = Kernel::bare().now_ns();
    let Some(attempts) = ATTEMPTS.get_ptr_mut(key) else {
        let first = Attempts {
            next_ns: now_ns + rule.interval_ns,
        };
        let _ = ATTEMPTS.insert(key, first, 0);
        return 1;
    };
    // SAFETY: map memory; as in `take_source`.
    unsafe {
        if let Some(at) = limit::take(rule, (*attempts).next_ns, now_ns) {
            (*attempts).next_ns = at;
            return 1;
        }
    }
    let _ = ATTEMPTS.remove(key);
    0
}
