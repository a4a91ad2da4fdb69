//! What is in the tables and lost when a datapath is taken down.

use std::fmt;
use std::path::Path;

use aya::maps::{Array, Map, MapData, MapType};

/// What a datapath has learned, in numbers. They are read from maps that every layout has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Forgotten {
    /// Connections through gateways; `None` where they cannot be counted.
    pub connections: Option<u32>,
    /// Addresses in the FDB; `None` where they cannot be counted.
    pub addresses: Option<u32>,
}

impl Forgotten {
    /// Of the datapath whose maps are pinned in `dir`, whichever version of vnet made it.
    #[must_use]
    pub fn of(dir: &Path) -> Self {
        Self {
            connections: count(&dir.join("flow_count")),
            addresses: count(&dir.join("fdb_count")),
        }
    }
}

/// The only value of an array of one.
fn count(pin: &Path) -> Option<u32> {
    let map = MapData::from_pin(pin).ok()?;
    let info = map.info().ok()?;
    let is_count = info.map_type().ok()? == MapType::Array
        && (info.key_size(), info.value_size(), info.max_entries()) == (4, 4, 1);
    if !is_count {
        return None;
    }
    let array: Array<MapData, u32> = Map::Array(map).try_into().ok()?;
    array.get(&0, 0).ok()
}

impl fmt::Display for Forgotten {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = |count: Option<u32>| match count {
            Some(count) => count.to_string(),
            None => "an unknown number of".into(),
        };
        write!(
            f,
            "{} connections and {} addresses",
            number(self.connections),
            number(self.addresses)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_what_it_does_not_know() {
        let lost = Forgotten {
            connections: Some(12),
            addresses: None,
        };
        assert_eq!(
            lost.to_string(),
            "12 connections and an unknown number of addresses"
        );
        assert_eq!(
            Forgotten::of(Path::new("/nonexistent")),
            Forgotten::default()
        );
    }
}
