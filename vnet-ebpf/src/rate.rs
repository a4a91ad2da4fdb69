//! A rate limit in one word: the generic cell rate algorithm (ITU-T I.371, annex A).

use vnet_common::StormRate;

/// How far ahead of its rate a limit may run: one second's worth arrives at once.
pub const BURST_NS: u64 = 1_000_000_000;

/// Takes `count` units at `now_ns`, one unit each `interval_ns`.
///
/// `next_ns` is the limit's only state, zero at first: the time at which its backlog is used up.
/// Returns the new state, or `None` when the units are over the limit.
#[inline(always)]
#[must_use]
pub const fn take(next_ns: u64, now_ns: u64, interval_ns: u32, count: u32) -> Option<u64> {
    take_ns(
        next_ns,
        now_ns,
        (interval_ns as u64).wrapping_mul(count as u64),
        BURST_NS,
    )
}

/// Takes `packets` frames at `now_ns` from a port's limit, as [`take`].
#[inline(always)]
#[must_use]
pub const fn take_storm(next_ns: u64, now_ns: u64, rate: StormRate, packets: u32) -> Option<u64> {
    let ns = (rate.interval_ns as u64).wrapping_mul(packets as u64);
    take_ns(next_ns, now_ns, ns, rate.burst_ns)
}

/// Takes `ns` of a limit's time at `now_ns`; `burst_ns` of it may be used up at once.
#[inline(always)]
#[must_use]
pub const fn take_ns(next_ns: u64, now_ns: u64, ns: u64, burst_ns: u64) -> Option<u64> {
    let start = if next_ns > now_ns { next_ns } else { now_ns };
    let end = start.saturating_add(ns);
    // The first unit of a rest that is all used up is already too many; a unit larger than the
    // whole burst passes when the limit is at rest, or it could never pass.
    if start > now_ns && end > now_ns.saturating_add(burst_ns) {
        return None;
    }
    Some(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Counts how many of `frames`, one each `spacing_ns`, a limit of `pps` lets through.
    fn passed(pps: u32, spacing_ns: u64, frames: u64) -> u64 {
        let mut next = 0;
        let mut passed = 0;
        for i in 0..frames {
            if let Some(n) = take(next, 1_000_000_000 + i * spacing_ns, 1_000_000_000 / pps, 1) {
                next = n;
                passed += 1;
            }
        }
        passed
    }

    #[test]
    fn at_the_rate_everything_passes() {
        assert_eq!(passed(1000, 1_000_000, 10_000), 10_000);
    }

    #[test]
    fn over_the_rate_a_burst_and_then_the_rate_passes() {
        // 10,000 frames a second for three seconds against a limit of 1,000: the burst of one
        // second and three seconds' worth.
        let n = passed(1000, 100_000, 30_000);
        assert!((3_990..=4_010).contains(&n), "{n}");
    }

    #[test]
    fn a_buffer_larger_than_the_burst_passes_at_rest_only() {
        let next = take(0, 5_000_000_000, 1_000_000_000, 40).expect("at rest");
        assert_eq!(next, 45_000_000_000);
        assert_eq!(take(next, 6_000_000_000, 1_000_000_000, 1), None);
        assert!(take(next, 45_000_000_000, 1_000_000_000, 1).is_some());
    }

    #[test]
    fn extremes_do_not_overflow() {
        assert!(take(u64::MAX, u64::MAX, u32::MAX, u32::MAX).is_some());
        assert_eq!(take(u64::MAX, 0, u32::MAX, u32::MAX), None);
    }
}
