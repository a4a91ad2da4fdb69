//! What security groups have counted.

use anyhow::{Context as _, Result};
use vnet_common::PolicyCounters;

use super::{maps, pins::Pins};

/// Rules' counters, without what the connections that stand have carried.
pub fn counters(pins: &Pins, ids: &[u16]) -> Result<Vec<(u16, PolicyCounters)>> {
    let map = maps::array::<PolicyCounters>(pins, "policy_counters")?;
    ids.iter()
        .map(|id| {
            let counters = map
                .get(&u32::from(*id), 0)
                .with_context(|| format!("reading the counters of rule {id}"))?;
            Ok((*id, counters))
        })
        .collect()
}
