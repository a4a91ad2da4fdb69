//! What a switch has pinned.

use std::{
    fs,
    os::fd::{AsFd as _, AsRawFd as _},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use aya::maps::MapInfo;

/// A hash table's entries are made when they are needed (linux/bpf.h).
const BPF_F_NO_PREALLOC: u32 = 1;
/// Bytes in front of a key in a hash table (kernel/bpf/hashtab.c, struct htab_elem; 6.18).
const HASH_HEADER: u64 = 48;

/// A pinned map.
#[derive(Debug)]
pub struct PinnedMap {
    /// Its pin's name.
    pub name: String,
    /// Entries that it has room for.
    pub max_entries: u32,
    /// What the kernel accounts for it.
    pub bytes: u64,
    /// What it will account for each entry on top of that: entries of a hash table that are not
    /// made beforehand.
    pub bytes_per_entry: u64,
}

impl PinnedMap {
    /// Memory of an entry when the map is full.
    pub fn entry_bytes(&self) -> f64 {
        self.bytes as f64 / f64::from(self.max_entries) + self.bytes_per_entry as f64
    }
}

/// The maps that a switch has pinned.
pub fn maps(switch: &str) -> Result<Vec<PinnedMap>> {
    let pins = entries(&folder(switch)?)?;
    pins.iter().filter(|pin| !pin.is_dir()).map(map).collect()
}

/// Where a switch has pinned a program.
pub fn program(switch: &str, name: &str) -> Result<PathBuf> {
    Ok(folder(switch)?.join("progs").join(name))
}

fn map(pin: &PathBuf) -> Result<PinnedMap> {
    let doing = || format!("reading the memory of {}", pin.display());
    let info = MapInfo::from_pin(pin).with_context(doing)?;
    let map = info.fd().with_context(doing)?;
    let number = map.as_fd().as_raw_fd();
    let facts = fs::read_to_string(format!("/proc/self/fdinfo/{number}"));
    let facts = facts.with_context(doing)?;
    let bytes = facts.lines().find_map(|line| line.strip_prefix("memlock:"));
    let bytes = bytes.with_context(doing)?.trim();
    let name = pin.file_name().unwrap_or_default();
    Ok(PinnedMap {
        name: name.to_string_lossy().into_owned(),
        max_entries: info.max_entries(),
        bytes: bytes.parse().with_context(doing)?,
        bytes_per_entry: if info.map_flags() & BPF_F_NO_PREALLOC == 0 {
            0
        } else {
            let sizes = [info.key_size(), info.value_size()];
            HASH_HEADER
                + sizes
                    .map(|size| u64::from(size).next_multiple_of(8))
                    .iter()
                    .sum::<u64>()
        },
    })
}

/// The one folder of the one version that is up.
pub fn folder(switch: &str) -> Result<PathBuf> {
    let all = Path::new("/sys/fs/bpf/vnet").join(switch);
    let versions = entries(&all)?.pop();
    versions.with_context(|| format!("{} is empty: the switch is not up", all.display()))
}

fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let list = fs::read_dir(folder).and_then(|list| list.map(|e| Ok(e?.path())).collect());
    list.with_context(|| format!("listing {}", folder.display()))
}
