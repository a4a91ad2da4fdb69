//! Maps as a whole: many values a system call (BPF_MAP_LOOKUP_BATCH and BPF_MAP_UPDATE_BATCH, of arrays
//! and hash maps from kernel 5.6 on, of longest prefix matches from 5.13 on), for which aya has no calls.

use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _};

use anyhow::{Context as _, Result, ensure};
use aya::{Pod, maps::MapData};

use super::{maps, pins::Pins};

/// linux/bpf.h, enum bpf_cmd.
const BPF_MAP_LOOKUP_BATCH: libc::c_long = 24;
const BPF_MAP_UPDATE_BATCH: libc::c_long = 26;

/// Most values a call: the kernel allocates none of it, but does not look up from its work either.
const AT_ONCE: usize = 4096;

/// linux/bpf.h, union bpf_attr, its member `batch`.
#[repr(C)]
#[derive(Default)]
struct Attributes {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

/// A pinned array whose values are `V`.
pub struct Batch<V> {
    map: MapData,
    name: String,
    entries: usize,
    _values: std::marker::PhantomData<V>,
}

impl<V: Pod> Batch<V> {
    /// Opens the pinned array `name`.
    ///
    /// # Errors
    /// It is not there, or holds other values.
    pub fn open(pins: &Pins, name: &str) -> Result<Self> {
        let map = maps::data(pins, name)?;
        let info = map.info()?;
        // The kernel rounds values up to eight bytes inside, but not in what it copies.
        ensure!(
            info.value_size() as usize == size_of::<V>(),
            "the map {name} has values of {} bytes, not {}",
            info.value_size(),
            size_of::<V>()
        );
        Ok(Self {
            entries: info.max_entries() as usize,
            name: name.into(),
            map,
            _values: std::marker::PhantomData,
        })
    }

    /// How many values there are.
    pub fn len(&self) -> usize {
        self.entries
    }

    /// Writes `values` from the index `first` on.
    ///
    /// # Errors
    /// They are more than there is room for, or the kernel refuses; some are written then.
    pub fn write(&mut self, first: u32, values: &[V]) -> Result<()> {
        ensure!(
            first as usize + values.len() <= self.entries,
            "the map {} has room for {} values",
            self.name,
            self.entries
        );
        let mut keys = (first..).take(values.len()).collect::<Vec<u32>>();
        let mut done = 0;
        while done < values.len() {
            let count = (values.len() - done).min(AT_ONCE);
            let mut attributes = Attributes {
                keys: keys[done..].as_mut_ptr() as u64,
                values: values[done..].as_ptr() as u64,
                count: count as u32,
                ..Attributes::default()
            };
            self.call(BPF_MAP_UPDATE_BATCH, &mut attributes)
                .with_context(|| format!("writing to the map {}", self.name))?;
            ensure!(
                attributes.count > 0,
                "the map {} takes no values",
                self.name
            );
            done += attributes.count as usize;
        }
        Ok(())
    }

    /// The `count` values from the index `first` on.
    ///
    /// # Errors
    /// There are not so many, or the kernel refuses.
    pub fn read(&self, first: u32, count: usize) -> Result<Vec<V>> {
        ensure!(
            first as usize + count <= self.entries,
            "the map {} has {} values",
            self.name,
            self.entries
        );
        let mut values = Vec::<V>::with_capacity(count);
        let mut keys = vec![0u32; count.min(AT_ONCE)];
        while values.len() < count {
            // The key before the one to begin with; none stands before the first.
            let next = first + values.len() as u32;
            let before = next.wrapping_sub(1);
            let mut after = 0u32;
            let mut attributes = Attributes {
                in_batch: if next == 0 {
                    0
                } else {
                    (&raw const before) as u64
                },
                out_batch: (&raw mut after) as u64,
                keys: keys.as_mut_ptr() as u64,
                values: values.spare_capacity_mut().as_mut_ptr() as u64,
                count: (count - values.len()).min(AT_ONCE) as u32,
                ..Attributes::default()
            };
            match self.call(BPF_MAP_LOOKUP_BATCH, &mut attributes) {
                // The array's end, after so many values.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                result => result.with_context(|| format!("reading the map {}", self.name))?,
            }
            ensure!(attributes.count > 0, "the map {} ends early", self.name);
            // SAFETY: the kernel wrote so many values behind those that there are, inside the
            // capacity; any bytes are a value of plain data.
            unsafe { values.set_len(values.len() + attributes.count as usize) };
        }
        Ok(values)
    }

    fn call(&self, command: libc::c_long, attributes: &mut Attributes) -> io::Result<()> {
        call(&self.map, command, attributes)
    }
}

/// Every entry of the pinned hash map or longest prefix match `name`, whose keys, with their length, are
/// `K` and whose values are `V`. Nobody else changes it meanwhile.
///
/// # Errors
/// It is not there or holds others, or the kernel refuses.
pub fn entries<K: Pod, V: Pod>(pins: &Pins, name: &str) -> Result<Vec<(K, V)>> {
    let map = maps::data(pins, name)?;
    let info = map.info()?;
    ensure!(
        (info.key_size() as usize, info.value_size() as usize) == (size_of::<K>(), size_of::<V>()),
        "the map {name} has keys of {} and values of {} bytes, not {} and {}",
        info.key_size(),
        info.value_size(),
        size_of::<K>(),
        size_of::<V>()
    );
    let mut entries = Vec::new();
    let mut keys = Vec::<K>::with_capacity(AT_ONCE);
    let mut values = Vec::<V>::with_capacity(AT_ONCE);
    // Where the kernel is: a key, or the number of a bucket.
    let mut place = vec![0_u64; size_of::<K>().div_ceil(8)];
    let mut begun = false;
    loop {
        let at = place.as_mut_ptr() as u64;
        let mut attributes = Attributes {
            in_batch: if begun { at } else { 0 },
            out_batch: at,
            keys: keys.as_mut_ptr() as u64,
            values: values.as_mut_ptr() as u64,
            count: AT_ONCE as u32,
            ..Attributes::default()
        };
        let is_last = match call(&map, BPF_MAP_LOOKUP_BATCH, &mut attributes) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => true,
            result => {
                result.with_context(|| format!("reading the map {name}"))?;
                false
            }
        };
        let count = attributes.count as usize;
        ensure!(
            is_last || (1..=AT_ONCE).contains(&count),
            "the map {name} told of {count} entries"
        );
        // SAFETY: the kernel wrote so many of both, inside the capacity; any bytes are plain data.
        unsafe {
            keys.set_len(count);
            values.set_len(count);
        }
        entries.extend(keys.drain(..).zip(values.drain(..)));
        if is_last {
            return Ok(entries);
        }
        begun = true;
    }
}

fn call(map: &MapData, command: libc::c_long, attributes: &mut Attributes) -> io::Result<()> {
    attributes.map_fd = map.fd().as_fd().as_raw_fd() as u32;
    // SAFETY: the attributes are as the command wants them, and the places that they name have room for
    // as many keys and values as `count` says, for as long as the call takes.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_mut(attributes),
            size_of::<Attributes>(),
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
