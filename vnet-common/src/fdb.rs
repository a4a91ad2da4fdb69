//! The forwarding database: which port a MAC address is behind, per segment.
//!
//! A table of buckets in a BPF array rather than a BPF hash map: a lookup is inlined by the
//! verifier and touches two cache lines, and ageing walks contiguous memory a slice at a time.

use crate::Mac;

/// Entries in one bucket.
pub const BUCKET_ENTRIES: usize = 7;

/// Buckets that are tried for one key: its own and the ones behind it, when those before are full.
pub const PROBE_LIMIT: u32 = 4;

/// `flags`: put there by configuration; neither aged nor moved.
pub const FDB_STATIC: u16 = 1;
/// `flags`: an address of the host itself; static, and no frame from outside may use it as source.
pub const FDB_LOCAL: u16 = 2;

/// The lock type that the kernel finds by this name in a map value's BTF (`struct bpf_spin_lock`).
#[allow(
    non_camel_case_types,
    reason = "the kernel looks the type up by its own name"
)]
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct bpf_spin_lock {
    /// The lock word; only the kernel's helpers touch it.
    pub val: u32,
}

/// MAC address and segment in one word, as an entry holds them in its first eight bytes.
/// Zero is no key: no frame with an all-zero source is learned.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FdbKey {
    /// The bytes of [`FdbEntry::mac`] and [`FdbEntry::segment`] as one host-order word.
    pub word: u64,
}

impl FdbKey {
    /// The key of `mac` in `segment`.
    #[inline(always)]
    #[must_use]
    pub const fn new(mac: Mac, segment: u16) -> Self {
        let s = segment.to_ne_bytes();
        Self {
            word: u64::from_ne_bytes([mac[0], mac[1], mac[2], mac[3], mac[4], mac[5], s[0], s[1]]),
        }
    }

    /// The MAC address.
    #[must_use]
    pub const fn mac(self) -> Mac {
        let b = self.word.to_ne_bytes();
        [b[0], b[1], b[2], b[3], b[4], b[5]]
    }

    /// The segment.
    #[must_use]
    pub const fn segment(self) -> u16 {
        let b = self.word.to_ne_bytes();
        u16::from_ne_bytes([b[6], b[7]])
    }
}

/// One address. An all-zero entry is free.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FdbEntry {
    /// The address.
    pub mac: Mac,
    /// The segment it was seen in.
    pub segment: u16,
    /// Slot of the port it is behind.
    pub slot: u16,
    /// [`FDB_STATIC`], [`FDB_LOCAL`].
    pub flags: u16,
    /// When it was last seen as a source, in seconds of CLOCK_MONOTONIC.
    pub seen_s: u32,
}

impl FdbEntry {
    /// The entry's key.
    #[inline(always)]
    #[must_use]
    pub const fn key(&self) -> FdbKey {
        FdbKey::new(self.mac, self.segment)
    }

    /// Whether the entry came from configuration.
    #[inline(always)]
    #[must_use]
    pub const fn is_static(&self) -> bool {
        self.flags & (FDB_STATIC | FDB_LOCAL) != 0
    }
}

/// A bucket: two cache lines.
///
/// Writers hold `lock`. Readers do not: an entry that changes under a reader can at worst send one
/// frame to another port of the same switch, where membership of the frame's segment is checked
/// again, so it is no worse than flooding.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default)]
pub struct FdbBucket {
    /// Taken by whoever changes `entries`.
    pub lock: bpf_spin_lock,
    /// Not zero once an insert found the bucket full and went on to the next: lookups follow.
    pub overflowed: u32,
    /// Always zero.
    pub reserved: u64,
    /// The addresses.
    pub entries: [FdbEntry; BUCKET_ENTRIES],
}

/// Buckets for a table of at most `limit` addresses: a power of two with 3.5 to 7 places an address.
/// With half as many, in the fullest tables some addresses would find all their [`PROBE_LIMIT`]
/// buckets taken before the limit is reached.
#[must_use]
pub const fn buckets_for(limit: u32) -> u32 {
    let half = limit.div_ceil(2);
    if half < 16 {
        16
    } else {
        half.next_power_of_two()
    }
}

crate::pod!(FdbBucket, FdbEntry);
const _: () = assert!(size_of::<FdbEntry>() == 16, "four to a cache line");
const _: () = assert!(size_of::<FdbBucket>() == 128, "two cache lines");
