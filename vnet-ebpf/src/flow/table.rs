//! The flow table's algorithms: find, insert, remove. See [`vnet_common::flow`] for its shape.

use core::ptr;

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
    /// Both buckets are full.
    Full,
}

/// A key's places.
#[derive(Clone, Copy, Debug)]
pub struct Places {
    /// Its tag.
    pub tag: u32,
    /// Its two buckets.
    pub buckets: [u32; 2],
}

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
    // A multiplication in place of a remainder (Lemire, "Fast random integer generation in an
    // interval"): the number of buckets need not be a power of two.
    let scale = |hash: u64| (((hash >> 32) * u64::from(table.flow_buckets())) >> 32) as u32;
    Places {
        // Neither free nor busy.
        tag: hash as u32 | 2,
        buckets: [
            scale(other),
            scale(other.wrapping_mul(0x9e37_79b9_7f4a_7c15)),
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

/// First place of a bucket that holds `tag`; [`FLOW_BUCKET`] for none.
///
/// # Safety
/// `tags` is valid.
#[inline(always)]
unsafe fn position(tags: *mut FlowTags, tag: u32) -> usize {
    let mut i = 0;
    while i < FLOW_BUCKET {
        // SAFETY: i is below FLOW_BUCKET.
        if unsafe { ptr::read_volatile(tag_at(tags, i)) } == tag {
            return i;
        }
        i += 1;
    }
    FLOW_BUCKET
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
    while i < 2 {
        let bucket = places.buckets[i];
        let Some(tags) = table.flow_tags(bucket) else {
            return NO_FLOW;
        };
        // SAFETY: the bucket is the table's.
        let place = unsafe { position(tags, places.tag) };
        if place < FLOW_BUCKET {
            let index = index_of(bucket, place);
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

/// Puts an entry into the table, unless there is one with its key.
///
/// Two keys with one tag in the same bucket pass for the same key: once in 10⁸ flows the second one
/// is refused.
#[inline(always)]
pub fn insert<T: FlowTable + ?Sized>(table: &T, entry: &FlowEntry) -> Inserted {
    let Places { tag, buckets } = places(table, &entry.key);
    if table.count_tag(buckets[0], tag) != 0 || table.count_tag(buckets[1], tag) != 0 {
        return Inserted::Exists;
    }
    // The first one while it has room to spare: lookups look there first.
    let (first, second) = (
        table.count_tag(buckets[0], 0),
        table.count_tag(buckets[1], 0),
    );
    let bucket = if first > 2 || first >= second {
        buckets[0]
    } else {
        buckets[1]
    };
    let index = table.claim(bucket);
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
    let mut there = table.count_tag(buckets[0], tag);
    if buckets[0] != buckets[1] {
        there += table.count_tag(buckets[1], tag);
    }
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
