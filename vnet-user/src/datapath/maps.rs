//! The pinned maps, typed.

use anyhow::{Context as _, Result};
use aya::{
    Pod,
    maps::{Array, HashMap, LpmTrie, Map, MapData, PerCpuArray, ProgramArray, RingBuf},
};

use super::pins::Pins;

/// Key of the map `port_aliases`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PortAliasKey {
    /// Interface index.
    pub ifindex: u32,
    /// Generation.
    pub generation: u32,
}

// SAFETY: repr(C), two words, no padding.
unsafe impl Pod for PortAliasKey {}

pub(super) fn data(pins: &Pins, name: &str) -> Result<MapData> {
    let path = pins.map(name);
    MapData::from_pin(&path).with_context(|| format!("opening the pinned map {}", path.display()))
}

fn typed<T: TryFrom<Map, Error = aya::maps::MapError>>(map: Map, name: &str) -> Result<T> {
    T::try_from(map).with_context(|| format!("using the pinned map {name}"))
}

/// A pinned array.
pub fn array<V: Pod>(pins: &Pins, name: &str) -> Result<Array<MapData, V>> {
    typed(Map::Array(data(pins, name)?), name)
}

/// A pinned array with a value a CPU.
pub fn per_cpu_array<V: Pod>(pins: &Pins, name: &str) -> Result<PerCpuArray<MapData, V>> {
    typed(Map::PerCpuArray(data(pins, name)?), name)
}

/// A pinned hash map.
pub fn hash<K: Pod, V: Pod>(pins: &Pins, name: &str) -> Result<HashMap<MapData, K, V>> {
    typed(Map::HashMap(data(pins, name)?), name)
}

/// A pinned longest prefix match.
pub fn lpm_trie<K: Pod, V: Pod>(pins: &Pins, name: &str) -> Result<LpmTrie<MapData, K, V>> {
    typed(Map::LpmTrie(data(pins, name)?), name)
}

/// A pinned array of programs.
pub fn program_array(pins: &Pins, name: &str) -> Result<ProgramArray<MapData>> {
    typed(Map::ProgramArray(data(pins, name)?), name)
}

/// A pinned ring buffer.
pub fn ring_buf(pins: &Pins, name: &str) -> Result<RingBuf<MapData>> {
    typed(Map::RingBuf(data(pins, name)?), name)
}
