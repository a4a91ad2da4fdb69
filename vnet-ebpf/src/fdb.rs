//! The forwarding database's algorithms over its buckets: find, learn, age, put, delete.
//!
//! A key's own bucket comes from a seeded hash, so that a VM cannot aim addresses at one bucket. An
//! insert into a full bucket goes on to the next ones and marks the bucket as overflowed; a lookup
//! follows only such marks. Writers lock one bucket at a time, readers none (see [`FdbBucket`]).

use core::ptr;

use vnet_common::{
    FdbBucket, FdbEntry, FdbKey, Mac,
    fdb::{BUCKET_ENTRIES, FDB_LOCAL, FDB_STATIC, PROBE_LIMIT},
};

/// Where the buckets are and how they are locked: a BPF array in the kernel, a vector in tests.
pub trait Buckets {
    /// The bucket, or `None` past the table's end. Valid as long as the table.
    fn bucket(&self, index: u32) -> Option<*mut FdbBucket>;
    /// Number of buckets less one; buckets are a power of two.
    fn mask(&self) -> u32;
    /// Random number that the hash starts from.
    fn seed(&self) -> u64;
    /// Locks the bucket. Nothing may be called until [`Buckets::unlock`].
    ///
    /// # Safety
    /// `bucket` came from [`Buckets::bucket`] and this caller does not hold a lock.
    unsafe fn lock(&self, bucket: *mut FdbBucket);
    /// Unlocks the bucket.
    ///
    /// # Safety
    /// This caller holds the bucket's lock.
    unsafe fn unlock(&self, bucket: *mut FdbBucket);
    /// Addresses in the table.
    fn count(&self) -> u32;
    /// Learned addresses at a port.
    fn port_count(&self, slot: u16) -> u32;
    /// Adds to the table's count.
    fn add_count(&self, delta: i32);
    /// Adds to a port's count.
    fn add_port_count(&self, slot: u16, delta: i32);
}

/// What came of learning an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Learned {
    /// It was known here already and is fresh again.
    Refreshed,
    /// It is new, or had been forgotten.
    New,
    /// It was behind this slot before.
    Moved {
        /// The port before.
        from: u16,
    },
    /// It has a static entry, which stays.
    Static,
    /// The table holds its limit.
    TableFull,
    /// The port holds its limit.
    PortFull,
}

/// Limits and time for learning.
#[derive(Clone, Copy, Debug)]
pub struct LearnLimits {
    /// Most addresses in the table.
    pub table: u32,
    /// Most learned addresses at the port; 0 is no limit.
    pub port: u32,
    /// Seconds after which an address is forgotten.
    pub ageing_s: u32,
    /// Now, in seconds.
    pub now_s: u32,
}

const NOT_FOUND: usize = BUCKET_ENTRIES;

/// The key's own bucket.
#[inline(always)]
fn home<B: Buckets + ?Sized>(table: &B, key: FdbKey) -> u32 {
    // Two rounds of multiply and shift: every bit of the key reaches the bits that the mask keeps.
    let x = (key.word ^ table.seed()).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93);
    (x >> 32) as u32 & table.mask()
}

/// The first word of an entry, which readers look at without the lock.
///
/// # Safety
/// `bucket` is valid and `index` below [`BUCKET_ENTRIES`].
#[inline(always)]
unsafe fn key_word(bucket: *mut FdbBucket, index: usize) -> *mut u64 {
    // SAFETY: within the bucket; an entry's first eight bytes are its key and it is aligned to 8.
    unsafe {
        (&raw mut (*bucket).entries)
            .cast::<FdbEntry>()
            .add(index)
            .cast()
    }
}

/// # Safety
/// `bucket` is valid and `index` below [`BUCKET_ENTRIES`].
#[inline(always)]
unsafe fn entry(bucket: *mut FdbBucket, index: usize) -> *mut FdbEntry {
    // SAFETY: within the bucket.
    unsafe { (&raw mut (*bucket).entries).cast::<FdbEntry>().add(index) }
}

/// Whether an entry was not seen for the ageing time.
#[inline(always)]
#[must_use]
pub const fn is_expired(entry: &FdbEntry, now_s: u32, ageing_s: u32) -> bool {
    // `now` may be read just before another CPU stored a later second: that is fresh.
    !entry.is_static() && now_s.saturating_sub(entry.seen_s) > ageing_s
}

/// Index of `key` in a bucket, or [`NOT_FOUND`].
///
/// # Safety
/// `bucket` is valid.
#[inline(always)]
unsafe fn position(bucket: *mut FdbBucket, key: FdbKey) -> usize {
    let mut i = 0;
    while i < BUCKET_ENTRIES {
        // SAFETY: i is below BUCKET_ENTRIES.
        if unsafe { ptr::read_volatile(key_word(bucket, i)) } == key.word {
            return i;
        }
        i += 1;
    }
    NOT_FOUND
}

/// Finds the entry of `key` and hands it to `found`.
#[inline(always)]
fn locate<B: Buckets + ?Sized, R>(
    table: &B,
    key: FdbKey,
    found: impl FnOnce(*mut FdbBucket, usize) -> R,
) -> Option<R> {
    let home = home(table, key);
    let mut probe = 0;
    while probe < PROBE_LIMIT {
        let bucket = table.bucket(home.wrapping_add(probe) & table.mask())?;
        // SAFETY: the bucket is the table's.
        let index = unsafe { position(bucket, key) };
        if index < BUCKET_ENTRIES {
            return Some(found(bucket, index));
        }
        // SAFETY: the bucket is the table's.
        if unsafe { ptr::read_volatile(&raw const (*bucket).overflowed) } == 0 {
            return None;
        }
        probe += 1;
    }
    None
}

/// The entry of `key`, stale or not.
#[inline(always)]
pub fn find<B: Buckets + ?Sized>(table: &B, key: FdbKey) -> Option<FdbEntry> {
    locate(table, key, |bucket, index| {
        // SAFETY: locate gives a valid bucket and index.
        unsafe { ptr::read_volatile(entry(bucket, index)) }
    })
}

/// What a look at a key's own bucket, where nearly all are, told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Home {
    /// It is there.
    Found(FdbEntry),
    /// It is nowhere.
    Absent,
    /// It may be in the buckets behind: [`find`] tells.
    Overflowed,
}

/// Looks for `key` in its own bucket only, which is short enough to be part of a program and not
/// a subprogram.
#[inline(always)]
pub fn find_home<B: Buckets + ?Sized>(table: &B, key: FdbKey) -> Home {
    let Some(bucket) = table.bucket(home(table, key)) else {
        return Home::Absent;
    };
    let mut i = 0;
    while i < BUCKET_ENTRIES {
        // SAFETY: i is below BUCKET_ENTRIES. The second word is slot, flags and time.
        unsafe {
            let word = key_word(bucket, i);
            if ptr::read_volatile(word) == key.word {
                let rest = ptr::read_volatile(word.add(1)).to_ne_bytes();
                return Home::Found(FdbEntry {
                    mac: key.mac(),
                    segment: key.segment(),
                    slot: u16::from_ne_bytes([rest[0], rest[1]]),
                    flags: u16::from_ne_bytes([rest[2], rest[3]]),
                    seen_s: u32::from_ne_bytes([rest[4], rest[5], rest[6], rest[7]]),
                });
            }
        }
        i += 1;
    }
    // SAFETY: the bucket is the table's.
    if unsafe { ptr::read_volatile(&raw const (*bucket).overflowed) } == 0 {
        Home::Absent
    } else {
        Home::Overflowed
    }
}

/// Marks a known address as seen, without the lock: one aligned word.
#[inline(always)]
pub fn touch<B: Buckets + ?Sized>(table: &B, key: FdbKey, now_s: u32) {
    locate(table, key, |bucket, index| {
        // SAFETY: locate gives a valid bucket and index.
        unsafe { ptr::write_volatile(&raw mut (*entry(bucket, index)).seen_s, now_s) };
    });
}

/// Learns that `key` is behind `slot`, moves it there, or refreshes it.
#[inline(always)]
pub fn learn<B: Buckets + ?Sized>(
    table: &B,
    key: FdbKey,
    slot: u16,
    limits: &LearnLimits,
) -> Learned {
    let port_has_room = limits.port == 0 || table.port_count(slot) < limits.port;
    let known = locate(table, key, |bucket, index| {
        relearn(table, bucket, index, key, slot, limits, port_has_room)
    });
    match known {
        Some(Some(learned)) => learned,
        // Not there, or gone since it was found.
        _ if !port_has_room => Learned::PortFull,
        _ => insert(table, key, slot, 0, limits),
    }
}

/// Learns an address that has an entry. `None` when the entry went away meanwhile.
#[inline(always)]
fn relearn<B: Buckets + ?Sized>(
    table: &B,
    bucket: *mut FdbBucket,
    index: usize,
    key: FdbKey,
    slot: u16,
    limits: &LearnLimits,
    port_has_room: bool,
) -> Option<Learned> {
    // SAFETY: the bucket is the table's, no lock is held, and nothing is called until the unlock.
    let (old, learned) = unsafe {
        table.lock(bucket);
        let e = entry(bucket, index);
        let old = *e;
        let learned = if ptr::read_volatile(key_word(bucket, index)) != key.word {
            None
        } else if old.is_static() {
            Some(Learned::Static)
        } else if old.slot == slot {
            (*e).seen_s = limits.now_s;
            if is_expired(&old, limits.now_s, limits.ageing_s) {
                Some(Learned::New)
            } else {
                Some(Learned::Refreshed)
            }
        } else if port_has_room {
            (*e).slot = slot;
            (*e).seen_s = limits.now_s;
            Some(Learned::Moved { from: old.slot })
        } else {
            Some(Learned::PortFull)
        };
        table.unlock(bucket);
        (old, learned)
    };
    if let Some(Learned::Moved { from }) = learned {
        table.add_port_count(from, -1);
        table.add_port_count(slot, 1);
        if is_expired(&old, limits.now_s, limits.ageing_s) {
            return Some(Learned::New);
        }
    }
    learned
}

/// Puts `key` into the first free place of its buckets; a place whose address is stale is free.
#[inline(always)]
fn insert<B: Buckets + ?Sized>(
    table: &B,
    key: FdbKey,
    slot: u16,
    flags: u16,
    limits: &LearnLimits,
) -> Learned {
    let table_has_room = table.count() < limits.table;
    let home = home(table, key);
    let mut probe = 0;
    while probe < PROBE_LIMIT {
        let Some(bucket) = table.bucket(home.wrapping_add(probe) & table.mask()) else {
            return Learned::TableFull;
        };
        // SAFETY: as in relearn.
        let (outcome, evicted) = unsafe {
            table.lock(bucket);
            let placed = place(bucket, key, slot, flags, limits, table_has_room);
            table.unlock(bucket);
            placed
        };
        match outcome {
            Place::Taken => {
                if let Some(old) = evicted {
                    table.add_port_count(old, -1);
                } else {
                    table.add_count(1);
                }
                if flags == 0 {
                    table.add_port_count(slot, 1);
                }
                return Learned::New;
            }
            Place::Raced => return Learned::Refreshed,
            Place::Replaced => {
                if let Some(old) = evicted {
                    table.add_port_count(old, -1);
                }
                return Learned::New;
            }
            Place::NoRoom => return Learned::TableFull,
            Place::Overflowed => {}
        }
        probe += 1;
    }
    Learned::TableFull
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Taken,
    /// Another CPU put the same key meanwhile.
    Raced,
    /// A configured address took the place of the same one, learned meanwhile.
    Replaced,
    NoRoom,
    Overflowed,
}

/// The part of [`insert`] under the lock. Tells the slot of a stale entry that was replaced.
///
/// # Safety
/// The caller holds the bucket's lock.
#[inline(always)]
unsafe fn place(
    bucket: *mut FdbBucket,
    key: FdbKey,
    slot: u16,
    flags: u16,
    limits: &LearnLimits,
    table_has_room: bool,
) -> (Place, Option<u16>) {
    let mut free = NOT_FOUND;
    let mut stale = NOT_FOUND;
    let mut i = 0;
    while i < BUCKET_ENTRIES {
        // SAFETY: i is below BUCKET_ENTRIES and the lock is held.
        unsafe {
            let word = ptr::read_volatile(key_word(bucket, i));
            if word == key.word {
                // Another CPU learned it meanwhile. What is configured takes its place.
                if flags == 0 {
                    return (Place::Raced, None);
                }
                let e = entry(bucket, i);
                let learned_at = if (*e).is_static() {
                    None
                } else {
                    Some((*e).slot)
                };
                (*e).slot = slot;
                (*e).flags = flags;
                return (Place::Replaced, learned_at);
            }
            if word == 0 {
                // The first free place: lookups look there first.
                if free == NOT_FOUND {
                    free = i;
                }
            } else if is_expired(&*entry(bucket, i), limits.now_s, limits.ageing_s) {
                stale = i;
            }
        }
        i += 1;
    }
    let (index, replaces) = if free < BUCKET_ENTRIES && table_has_room {
        (free, false)
    } else if stale < BUCKET_ENTRIES {
        (stale, true)
    } else if free < BUCKET_ENTRIES {
        return (Place::NoRoom, None);
    } else {
        // SAFETY: the lock is held.
        unsafe { (*bucket).overflowed = 1 };
        return (Place::Overflowed, None);
    };
    // SAFETY: index is below BUCKET_ENTRIES and the lock is held. The key is written last, so that
    // a reader that finds it finds the rest too, and is gone first when another made room.
    unsafe {
        let e = entry(bucket, index);
        let evicted = if replaces { Some((*e).slot) } else { None };
        ptr::write_volatile(key_word(bucket, index), 0);
        (*e).slot = slot;
        (*e).flags = flags;
        (*e).seen_s = limits.now_s;
        ptr::write_volatile(key_word(bucket, index), key.word);
        (Place::Taken, evicted)
    }
}

/// Puts an entry of the configuration, replacing what is known of the address. False when there is
/// no place.
#[inline(always)]
pub fn put<B: Buckets + ?Sized>(table: &B, key: FdbKey, slot: u16, flags: u16, now_s: u32) -> bool {
    delete(table, key);
    // The configuration's own limit is checked when it is compiled; learned addresses that fill
    // the table do not keep a configured one out, so that only a place has to be found.
    let limits = LearnLimits {
        table: u32::MAX,
        port: 0,
        ageing_s: u32::MAX,
        now_s,
    };
    matches!(
        insert(table, key, slot, flags, &limits),
        Learned::New | Learned::Refreshed
    )
}

/// Deletes an entry; false when there is none.
#[inline(always)]
pub fn delete<B: Buckets + ?Sized>(table: &B, key: FdbKey) -> bool {
    let deleted = locate(table, key, |bucket, index| {
        // SAFETY: as in relearn.
        let old = unsafe {
            table.lock(bucket);
            let old = *entry(bucket, index);
            let still_there = ptr::read_volatile(key_word(bucket, index)) == key.word;
            if still_there {
                ptr::write_volatile(key_word(bucket, index), 0);
            }
            table.unlock(bucket);
            if still_there { Some(old) } else { None }
        };
        let Some(old) = old else { return false };
        table.add_count(-1);
        if !old.is_static() {
            table.add_port_count(old.slot, -1);
        }
        true
    });
    deleted == Some(true)
}

/// Which entries [`sweep`] deletes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sweep {
    /// Only stale ones: now and the ageing time, in seconds.
    pub stale: Option<(u32, u32)>,
    /// Only those at a port.
    pub slot: Option<u16>,
    /// Only those of a segment.
    pub segment: Option<u16>,
    /// Those of the configuration too.
    pub with_static: bool,
}

impl Sweep {
    #[inline(always)]
    fn matches(&self, e: &FdbEntry) -> bool {
        if !self.with_static && e.flags & (FDB_STATIC | FDB_LOCAL) != 0 {
            return false;
        }
        if let Some((now_s, ageing_s)) = self.stale
            && !is_expired(e, now_s, ageing_s)
        {
            return false;
        }
        self.slot.is_none_or(|s| s == e.slot) && self.segment.is_none_or(|s| s == e.segment)
    }
}

/// Deletes what matches in one bucket, telling `deleted` of each. Returns how many.
#[inline(always)]
pub fn sweep<B: Buckets + ?Sized>(
    table: &B,
    index: u32,
    what: &Sweep,
    mut deleted: impl FnMut(Mac, u16, u16),
) -> u32 {
    let Some(bucket) = table.bucket(index & table.mask()) else {
        return 0;
    };
    let mut count = 0;
    let mut i = 0;
    while i < BUCKET_ENTRIES {
        // SAFETY: i is below BUCKET_ENTRIES. Looked at without the lock first: most are not due.
        let seen = unsafe { ptr::read_volatile(entry(bucket, i)) };
        if seen.key().word != 0 && what.matches(&seen) {
            // SAFETY: as in relearn.
            let (old, due) = unsafe {
                table.lock(bucket);
                let old = *entry(bucket, i);
                let due = ptr::read_volatile(key_word(bucket, i)) == seen.key().word
                    && what.matches(&old);
                if due {
                    ptr::write_volatile(key_word(bucket, i), 0);
                }
                table.unlock(bucket);
                (old, due)
            };
            if due {
                table.add_count(-1);
                if !old.is_static() {
                    table.add_port_count(old.slot, -1);
                }
                deleted(old.mac, old.segment, old.slot);
                count += 1;
            }
        }
        i += 1;
    }
    count
}
