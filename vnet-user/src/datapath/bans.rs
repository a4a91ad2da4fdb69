//! Sources as limits know them: their connections, what rules that ban have counted of them, and who is
//! kept away.

use std::collections::BTreeMap;
use std::io;

use anyhow::{Context as _, Result};
use aya::Pod;
use aya::maps::{HashMap, MapData, MapError};
use vnet_common::{Attempts, Ban, Source, SourceKey, limit::BAN_RULES};

use super::{maps, pins::Pins};
use crate::host::kernel;

/// How full a map is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Occupancy {
    /// Entries that still mean something.
    pub used: usize,
    /// The most that there can be.
    pub limit: u32,
}

/// The bans that have not ended.
pub fn read(pins: &Pins) -> Result<BTreeMap<SourceKey, Ban>> {
    let now_s = kernel::monotonic_s();
    let mut bans = entries::<Ban>(pins, "bans")?;
    bans.retain(|_, ban| u64::from(ban.until_s) > now_s);
    Ok(bans)
}

/// Keeps sources away.
pub fn put(pins: &Pins, keys: &[SourceKey], ban: Ban) -> Result<()> {
    let mut map = open(pins)?;
    for key in keys {
        map.insert(key, ban, 0).context("writing a ban")?;
    }
    // After the entries, as the datapath does it: until this is set nobody looks them up.
    set_banning(pins, true)
}

/// Lets sources in, and forgets what rules have counted of them. `banning` stays as it is: the datapath
/// may be banning somebody else at this instant.
pub fn remove(pins: &Pins, keys: &[SourceKey]) -> Result<()> {
    let mut map = open(pins)?;
    // While its ban is there nothing is counted of a source.
    let mut attempts = maps::hash::<SourceKey, Attempts>(pins, "attempts")?;
    for key in keys {
        for rule in 1..BAN_RULES as u16 {
            delete(&mut attempts, &SourceKey { rule, ..*key })?;
        }
        delete(&mut map, key)?;
    }
    Ok(())
}

/// Lets everybody in, and forgets all that rules have counted.
pub fn flush(pins: &Pins) -> Result<()> {
    delete_if(pins, "attempts", |_, _: Attempts| true)?;
    set_banning(pins, false)?;
    delete_if(pins, "bans", |_, _: Ban| true)?;
    // Whom the datapath has banned meanwhile.
    if entries::<Ban>(pins, "bans")?.is_empty() {
        Ok(())
    } else {
        set_banning(pins, true)
    }
}

/// Forgets what was counted and banned in segments that are another network's now.
pub fn forget_segments(pins: &Pins, segments: &[u16]) -> Result<()> {
    if segments.is_empty() {
        return Ok(());
    }
    let gone = |key: &SourceKey| segments.contains(&key.segment);
    delete_if(pins, "attempts", |key, _: Attempts| gone(key))?;
    delete_if(pins, "bans", |key, _: Ban| gone(key))
}

/// Forgets what rules have counted that are gone: one that gets such an id begins with nothing. Whom they
/// have banned stays banned.
pub fn forget_rules(pins: &Pins, is_there: impl Fn(u8) -> bool) -> Result<()> {
    let gone = |key: &SourceKey| u8::try_from(key.rule).is_ok_and(|id| !is_there(id));
    delete_if(pins, "attempts", |key, _: Attempts| gone(key))
}

/// The sources that have connections.
pub fn sources(pins: &Pins) -> Result<Occupancy> {
    occupancy(pins, "sources", |_: Source| true)
}

/// The sources that rules count: those whose connections are not all made up for.
pub fn attempts(pins: &Pins) -> Result<Occupancy> {
    let now_ns = kernel::monotonic_ns();
    occupancy(pins, "attempts", |made: Attempts| made.next_ns > now_ns)
}

/// The bans that have not ended.
pub fn bans(pins: &Pins) -> Result<Occupancy> {
    let now_s = kernel::monotonic_s();
    occupancy(pins, "bans", |ban: Ban| u64::from(ban.until_s) > now_s)
}

fn occupancy<V: Pod>(pins: &Pins, name: &str, counts: impl Fn(V) -> bool) -> Result<Occupancy> {
    let limit = maps::data(pins, name)?
        .info()
        .with_context(|| format!("reading the size of the map {name}"))?
        .max_entries();
    let values = entries::<V>(pins, name)?.into_values();
    Ok(Occupancy {
        used: values.filter(|value| counts(*value)).count(),
        limit,
    })
}

fn open(pins: &Pins) -> Result<HashMap<MapData, SourceKey, Ban>> {
    maps::hash::<SourceKey, Ban>(pins, "bans")
}

/// All that is in a map. What comes and goes meanwhile may be there or not.
fn entries<V: Pod>(pins: &Pins, name: &str) -> Result<BTreeMap<SourceKey, V>> {
    let map = maps::hash::<SourceKey, V>(pins, name)?;
    let entries = map.iter().collect::<Result<_, _>>();
    entries.with_context(|| format!("reading the map {name}"))
}

fn delete_if<V: Pod>(pins: &Pins, name: &str, gone: impl Fn(&SourceKey, V) -> bool) -> Result<()> {
    let mut map = maps::hash::<SourceKey, V>(pins, name)?;
    for (key, value) in entries::<V>(pins, name)? {
        if gone(&key, value) {
            delete(&mut map, &key)?;
        }
    }
    Ok(())
}

/// Deletes an entry that may have gone by itself.
fn delete<V: Pod>(map: &mut HashMap<MapData, SourceKey, V>, key: &SourceKey) -> Result<()> {
    match map.remove(key) {
        Err(MapError::SyscallError(error)) if error.io_error.kind() == io::ErrorKind::NotFound => {
            Ok(())
        }
        result => result.context("deleting what is known of a source"),
    }
}

fn set_banning(pins: &Pins, banning: bool) -> Result<()> {
    maps::array::<u32>(pins, "banning")?
        .set(0, u32::from(banning), 0)
        .context("setting whether sources are kept away")
}
