//! The FDB as userspace sees it: reading all entries, and making the configured ones so.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use vnet_common::{ControlOp, ControlRequest, FdbBucket, FdbEntry, Mac};

use super::{batch::Batch, control::Control, pins::Pins};

/// Every entry.
pub fn read(pins: &Pins) -> Result<Vec<FdbEntry>> {
    /// Buckets read at once.
    const AT_ONCE: usize = 4096;
    let map = Batch::<FdbBucket>::open(pins, "fdb")?;
    let mut entries = Vec::new();
    for first in (0..map.len()).step_by(AT_ONCE) {
        let count = AT_ONCE.min(map.len() - first);
        for bucket in map.read(first as u32, count)? {
            entries.extend(bucket.entries.iter().filter(|e| e.key().word != 0));
        }
    }
    Ok(entries)
}

/// Makes the table's configured entries equal to `wanted` (slot and flags by address and segment).
pub fn reconcile(
    control: &mut Control,
    pins: &Pins,
    wanted: &BTreeMap<(Mac, u16), (u16, u16)>,
) -> Result<()> {
    let current: BTreeMap<(Mac, u16), (u16, u16)> = read(pins)?
        .iter()
        .filter(|e| e.is_static())
        .map(|e| ((e.mac, e.segment), (e.slot, e.flags)))
        .collect();
    let request = |op: ControlOp, (mac, segment): (Mac, u16), slot, flags: u16| ControlRequest {
        op: op as u32,
        flags: u32::from(flags),
        mac,
        segment,
        slot,
        ..ControlRequest::default()
    };
    for key in current.keys().filter(|key| !wanted.contains_key(key)) {
        control
            .request(&request(ControlOp::FdbDelete, *key, 0, 0))
            .context("deleting a static address")?;
    }
    for (key, (slot, flags)) in wanted {
        if current.get(key) != Some(&(*slot, *flags)) {
            control
                .request(&request(ControlOp::FdbPut, *key, *slot, *flags))
                .context("putting a static address")?;
        }
    }
    Ok(())
}
