//! Atomic operations on map memory.

use core::intrinsics::{self, AtomicOrdering::SeqCst};

/// Adds to a shared counter; returns what it was.
///
/// # Safety
/// `counter` points to map memory.
#[inline(always)]
pub unsafe fn atomic_add(counter: *mut u32, delta: i32) -> u32 {
    // SAFETY: aligned map memory.
    unsafe {
        // Relaxed, LLVM's BPF backend picks the instruction that does not return what was there.
        intrinsics::atomic_xadd::<u32, u32, { SeqCst }>(counter, delta.cast_unsigned())
    }
}

/// As [`atomic_add`], for 64 bits and without what was there.
///
/// # Safety
/// `counter` points to aligned map memory.
#[inline(always)]
pub unsafe fn atomic_add64(counter: *mut u64, delta: u64) {
    // SAFETY: the caller's promise.
    unsafe {
        intrinsics::atomic_xadd::<u64, u64, { SeqCst }>(counter, delta);
    }
}

/// Compares and exchanges a word; a full barrier.
///
/// # Safety
/// `word` points to aligned map memory.
#[inline(always)]
pub unsafe fn exchange(word: *mut u32, old: u32, new: u32) -> bool {
    // SAFETY: the caller's promise.
    unsafe { intrinsics::atomic_cxchg::<u32, { SeqCst }, { SeqCst }>(word, old, new).0 == old }
}

/// Tries to hold what other CPUs are holding at the same instant.
const HOLD_TRIES: u32 = 16;

/// Counts a hold, unless there is none any more.
///
/// # Safety
/// `refs` points to aligned map memory.
#[inline(always)]
pub unsafe fn hold(refs: *mut u32) -> bool {
    let mut tries = 0;
    while tries < HOLD_TRIES {
        // SAFETY: the caller's promise.
        unsafe {
            let count = core::ptr::read_volatile(refs);
            // Whoever brought it to zero takes it away: it is nobody's any more.
            if count == 0 {
                return false;
            }
            if exchange(refs, count, count + 1) {
                return true;
            }
        }
        tries += 1;
    }
    false
}
