//! Arrays that are read in place, or changed: a table of many megabytes, entry by entry, without a
//! system call for each. The kernel side goes on writing meanwhile.

use std::{
    marker::PhantomData,
    os::fd::{AsFd as _, AsRawFd as _},
    ptr::NonNull,
};

use anyhow::{Context as _, Result, ensure};
use aya::Pod;

use super::{maps, pins::Pins};

/// A pinned array with BPF_F_MMAPABLE, mapped.
pub struct Mapped<T> {
    start: NonNull<T>,
    entries: usize,
    _values: PhantomData<T>,
}

impl<T: Pod> Mapped<T> {
    /// Maps the pinned array `name` for reading.
    ///
    /// # Errors
    /// It is not there, holds other values, or may not be mapped.
    pub fn open(pins: &Pins, name: &str) -> Result<Self> {
        Self::map(pins, name, libc::PROT_READ)
    }

    /// Maps the pinned array `name` for changes too.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_to_change(pins: &Pins, name: &str) -> Result<Self> {
        Self::map(pins, name, libc::PROT_READ | libc::PROT_WRITE)
    }

    fn map(pins: &Pins, name: &str, protection: libc::c_int) -> Result<Self> {
        let doing = || format!("mapping the pinned map {name}");
        let data = maps::data(pins, name)?;
        let info = data.info().with_context(doing)?;
        ensure!(
            info.value_size() as usize == size_of::<T>() && size_of::<T>().is_multiple_of(8),
            "{}: its values have {} bytes, not {}",
            doing(),
            info.value_size(),
            size_of::<T>()
        );
        let entries = info.max_entries() as usize;
        ensure!(entries > 0, "{}: it has no entries", doing());
        // SAFETY: a new mapping, at an address that the kernel chooses. It may be longer than the
        // values by less than a page (kernel/bpf/arraymap.c, array_map_mmap).
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                entries * size_of::<T>(),
                protection,
                libc::MAP_SHARED,
                data.fd().as_fd().as_raw_fd(),
                0,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(std::io::Error::last_os_error()).with_context(doing);
        }
        Ok(Self {
            start: NonNull::new(start.cast()).with_context(doing)?,
            entries,
            _values: PhantomData,
        })
    }

    /// How many values there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries == 0
    }

    /// Where a value is, aligned, as long as this lives. Only what is mapped for changes may be changed.
    #[must_use]
    pub fn place(&self, index: usize) -> Option<NonNull<T>> {
        // SAFETY: inside the mapping.
        (index < self.entries).then(|| unsafe { self.start.add(index) })
    }

    /// A copy of a value as it is now. One that is written meanwhile may be half new.
    #[must_use]
    pub fn get(&self, index: usize) -> Option<T> {
        (index < self.entries).then(|| {
            // SAFETY: inside the mapping, aligned (it begins with a page, and sizes are checked),
            // and any bytes are a value of plain data. Volatile: the kernel side writes.
            unsafe { self.start.add(index).read_volatile() }
        })
    }
}

impl<T> Drop for Mapped<T> {
    fn drop(&mut self) {
        // SAFETY: the mapping that `open` made, of which nothing else is left.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.entries * size_of::<T>()) };
    }
}
