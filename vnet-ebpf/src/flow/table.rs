//! The flow table's algorithms: find, insert, remove. See [`vnet_common::flow`] for its shape.

use core::{hint, ptr};

use vnet_common::{
    FlowEntry, FlowKey, FlowTags,
    flow::{FLOW_BUCKET, FLOW_BUSY},
};

/// Where the table is: BPF arrays in the kernel, vectors in tests.
pub trait FlowTable {
    /// A bucket's tags, or `None` past the table's end. Valid as long as the table.
    fn flow_tags(&self, bucket: u32) -> Option<*mut FlowTags>;
    /// An entry, or `None` past the table's end. Valid as long as the table.
    fn flow(&self, index: u32) -> Option<*mut FlowEntry>;
    /// Number of buckets.
    fn flow_buckets(&self) -> u32;
    /// Random number that the hash starts from.
    fn flow_seed(&self) -> u64;
    /// Writes `new` if `old` is there; a full memory barrier either way.
    ///
    /// # Safety
    /// `tag` points into a bucket that [`FlowTable::flow_tags`] gave.
    unsafe fn exchange(&self, tag: *mut u32, old: u32, new: u32) -> bool;
    /// [`count_tag`].
    #[inline(always)]
    fn count_tag(&self, bucket: u32, tag: u32) -> u32 {
        count_tag(self, bucket, tag)
    }
    /// [`position`].
    #[inline(always)]
    fn position(&self, bucket: u32, tag: u32) -> u32 {
        position(self, bucket, tag)
    }
    /// [`claim`].
    #[inline(always)]
    fn claim(&self, bucket: u32) -> u32 {
        claim(self, bucket)
    }
}

/// Index of no entry.
pub const NO_FLOW: u32 = u32::MAX;

/// What came of an insert.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inserted {
    /// It is at this index.
    At(u32),
    /// There is one with this key.
    Exists,
    /// All of its buckets are full.
    Full,
}

impl Inserted {
    const EXISTS: u32 = NO_FLOW - 1;

    /// It in one word, which a subprogram can return.
    #[inline(always)]
    #[must_use]
    pub const fn word(self) -> u32 {
        match self {
            Self::At(index) => index,
            Self::Exists => Self::EXISTS,
            Self::Full => NO_FLOW,
        }
    }

    /// What [`Inserted::word`] made a word of.
    #[inline(always)]
    #[must_use]
    pub const fn of_word(word: u32) -> Self {
        match word {
            NO_FLOW => Self::Full,
            Self::EXISTS => Self::Exists,
            index => Self::At(index),
        }
    }
}

/// A key's places.
#[derive(Clone, Copy, Debug)]
pub struct Places {
    /// Its tag.
    pub tag: u32,
    /// Its buckets, in the order in which they are looked at: one of the table's small beginning,
    /// which takes entries first, and two of the rest.
    pub buckets: [u32; BUCKETS],
}

/// Buckets that a key may be in.
pub const BUCKETS: usize = 3;

/// The beginning of the table is one in so many of its buckets. A table is large, and an entry
/// somewhere in it costs a walk of the page tables for each packet; while connections are few, all of
/// them are in a part whose addresses the CPU remembers.
const NEAR: u32 = 64;
/// Buckets of the beginning at most: a megabyte of entries.
const NEAR_MOST: u32 = 1024;

/// Where a key belongs.
#[inline(always)]
pub fn places<T: FlowTable + ?Sized>(table: &T, key: &FlowKey) -> Places {
    let mut hash = table.flow_seed();
    let words = ptr::from_ref(key).cast::<u64>();
    let mut i = 0;
    while i < size_of::<FlowKey>() / 8 {
        // SAFETY: a key is aligned to eight bytes and as long as is read.
        let word = unsafe { ptr::read(words.add(i)) };
        hash = (hash ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        hash ^= hash >> 32;
        i += 1;
    }
    let other = hash.wrapping_mul(0xd6e8_feb8_6659_fd93);
    let third = other.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let all = table.flow_buckets();
    let part = all / NEAR + 1;
    let near = if part < NEAR_MOST { part } else { NEAR_MOST };
    // A multiplication in place of a remainder (Lemire, "Fast random integer generation in an
    // interval"): the number of buckets need not be a power of two.
    let scale = |hash: u32, n: u32| ((u64::from(hash) * u64::from(n)) >> 32) as u32;
    Places {
        // Neither free nor busy.
        tag: hash as u32 | 2,
        buckets: [
            // Of bits that the tag does not come from: within a bucket, tags have to differ.
            scale((hash >> 32) as u32, near),
            near + scale((other >> 32) as u32, all.wrapping_sub(near)),
            near + scale((third >> 32) as u32, all.wrapping_sub(near)),
        ],
    }
}

#[inline(always)]
const fn index_of(bucket: u32, place: usize) -> u32 {
    bucket
        .wrapping_mul(FLOW_BUCKET as u32)
        .wrapping_add(place as u32)
}

/// The address of a tag.
///
/// # Safety
/// `tags` is valid and `place` below [`FLOW_BUCKET`].
#[inline(always)]
unsafe fn tag_at(tags: *mut FlowTags, place: usize) -> *mut u32 {
    // SAFETY: within the bucket.
    unsafe { (&raw mut (*tags).tags).cast::<u32>().add(place) }
}

/// The place of a bucket that holds `tag`; [`FLOW_BUCKET`] or more for none. No tag is there twice.
///
/// Without a branch: the place is different for each key, and no CPU can predict it.
#[inline(always)]
pub fn position<T: FlowTable + ?Sized>(table: &T, bucket: u32, tag: u32) -> u32 {
    let Some(tags) = table.flow_tags(bucket) else {
        return FLOW_BUCKET as u32;
    };
    let mut place = FLOW_BUCKET as u64;
    let mut i = 0;
    while i < FLOW_BUCKET {
        // SAFETY: i is below FLOW_BUCKET, and the bucket is the table's.
        let differs = unsafe { ptr::read_volatile(tag_at(tags, i)) } ^ tag;
        // 1 for no difference, else 0. The compiler would make a branch of what it sees through.
        let is_it = hint::black_box(u64::from(differs)).wrapping_sub(1) >> 63;
        place = place.wrapping_sub(is_it * (FLOW_BUCKET - i) as u64);
        i += 1;
    }
    place as u32
}

/// Whether an entry is `key`'s.
#[inline(always)]
pub fn is_key(entry: *mut FlowEntry, key: &FlowKey) -> bool {
    let words = ptr::from_ref(key).cast::<u64>();
    let theirs = entry.cast::<u64>();
    let mut differs = 0;
    let mut i = 0;
    while i < size_of::<FlowKey>() / 8 {
        // SAFETY: keys are aligned to eight bytes, and an entry begins with its own.
        differs |= unsafe { ptr::read_volatile(theirs.add(i)) ^ ptr::read(words.add(i)) };
        i += 1;
    }
    differs == 0
}

/// Index of `key`'s entry, expired or not, or [`NO_FLOW`].
#[inline(always)]
pub fn find<T: FlowTable + ?Sized>(table: &T, key: &FlowKey) -> u32 {
    let places = places(table, key);
    let mut i = 0;
    while i < BUCKETS {
        let bucket = places.buckets[i];
        let place = table.position(bucket, places.tag);
        if place < FLOW_BUCKET as u32 {
            let index = index_of(bucket, place as usize);
            if let Some(entry) = table.flow(index)
                && is_key(entry, key)
            {
                return index;
            }
        }
        i += 1;
    }
    NO_FLOW
}

/// How often a tag is in the buckets of a key.
#[inline(always)]
fn occurrences<T: FlowTable + ?Sized>(table: &T, buckets: &[u32; BUCKETS], tag: u32) -> u32 {
    let near = table.count_tag(buckets[0], tag) + table.count_tag(buckets[1], tag);
    if buckets[1] == buckets[2] {
        near
    } else {
        near + table.count_tag(buckets[2], tag)
    }
}

/// Puts an entry into the table, unless there is one with its key.
///
/// Two keys with one tag in the same bucket pass for the same key: once in 10⁸ flows the second one
/// is refused.
#[inline(always)]
pub fn insert<T: FlowTable + ?Sized>(table: &T, entry: &FlowEntry) -> Inserted {
    let Places { tag, buckets } = places(table, &entry.key);
    if occurrences(table, &buckets, tag) != 0 {
        return Inserted::Exists;
    }
    let mut index = table.claim(buckets[0]);
    if index == NO_FLOW {
        // The first one while it has room to spare: lookups look there first.
        let (first, second) = (
            table.count_tag(buckets[1], 0),
            table.count_tag(buckets[2], 0),
        );
        index = table.claim(if first > 4 || first >= second {
            buckets[1]
        } else {
            buckets[2]
        });
    }
    let Some(target) = table.flow(index) else {
        return Inserted::Full;
    };
    let Some(tags) = table.flow_tags(index / FLOW_BUCKET as u32) else {
        return Inserted::Full;
    };
    // SAFETY: the entry is this caller's while its tag is busy.
    unsafe {
        ptr::copy_nonoverlapping(entry, target, 1);
        table.exchange(tag_at(tags, index as usize % FLOW_BUCKET), FLOW_BUSY, tag);
    }
    // Another CPU may have put the same key at the same time: whoever sees the other one takes its
    // own away, and the packet that it was for is lost.
    let there = occurrences(table, &buckets, tag);
    if there > 1 {
        remove(table, index, tag);
        return Inserted::Exists;
    }
    Inserted::At(index)
}

/// Claims a free place of a bucket: the index of an entry that is the caller's, with the tag
/// [`FLOW_BUSY`]; [`NO_FLOW`] when there is none.
#[inline(always)]
pub fn claim<T: FlowTable + ?Sized>(table: &T, bucket: u32) -> u32 {
    let Some(tags) = table.flow_tags(bucket) else {
        return NO_FLOW;
    };
    let mut place = 0;
    while place < FLOW_BUCKET {
        // SAFETY: place is below FLOW_BUCKET, and the bucket is the table's.
        unsafe {
            let tag = tag_at(tags, place);
            if ptr::read_volatile(tag) == 0 && table.exchange(tag, 0, FLOW_BUSY) {
                return index_of(bucket, place);
            }
        }
        place += 1;
    }
    NO_FLOW
}

/// How often a bucket holds a tag.
#[inline(always)]
pub fn count_tag<T: FlowTable + ?Sized>(table: &T, bucket: u32, tag: u32) -> u32 {
    let Some(tags) = table.flow_tags(bucket) else {
        return 0;
    };
    let mut count = 0;
    let mut i = 0;
    while i < FLOW_BUCKET {
        // SAFETY: i is below FLOW_BUCKET, and the bucket is the table's.
        count += u32::from(unsafe { ptr::read_volatile(tag_at(tags, i)) } == tag);
        i += 1;
    }
    count
}

/// Takes an entry out of the table; false when another did or it is another one by now.
#[inline(always)]
pub fn remove<T: FlowTable + ?Sized>(table: &T, index: u32, tag: u32) -> bool {
    let bucket = index / FLOW_BUCKET as u32;
    let place = index as usize % FLOW_BUCKET;
    let (Some(tags), Some(entry)) = (table.flow_tags(bucket), table.flow(index)) else {
        return false;
    };
    // SAFETY: place is below FLOW_BUCKET, and the entry is this caller's while its tag is busy.
    unsafe {
        let at = tag_at(tags, place);
        if tag <= FLOW_BUSY || !table.exchange(at, tag, FLOW_BUSY) {
            return false;
        }
        // Whoever found it before finds another key now.
        ptr::write_volatile(&raw mut (*entry).state, 0);
        ptr::write(&raw mut (*entry).key, FlowKey::default());
        table.exchange(at, FLOW_BUSY, 0);
    }
    true
}

/// The tag at an index, 0 past the table's end.
#[inline(always)]
pub fn tag_of<T: FlowTable + ?Sized>(table: &T, index: u32) -> u32 {
    let place = index as usize % FLOW_BUCKET;
    match table.flow_tags(index / FLOW_BUCKET as u32) {
        // SAFETY: place is below FLOW_BUCKET.
        Some(tags) => unsafe { ptr::read_volatile(tag_at(tags, place)) },
        None => 0,
    }
}
