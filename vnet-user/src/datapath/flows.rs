//! The flow table and what translation rules have done, as userspace sees them.

use std::{
    fs,
    os::fd::{AsFd as _, AsRawFd as _},
};

use anyhow::{Context as _, Result};
use vnet_common::{
    Binding, BindingKey, Contact, ContactKey, ControlOp, ControlRequest, FlowEntry, FlowTags,
    FlowTimeouts, NatCounters, SwitchConf,
    flow::{FLOW_BUCKET, FLOW_BUSY, FLOW_REPLY, FlowCounters},
};

use super::{control::Control, mapped::Mapped, maps, pins::Pins};

/// Bytes of memory.
#[derive(Clone, Copy, Debug, Default)]
pub struct Memory {
    /// Taken by the flow table, all of it at once.
    pub flows: u64,
    /// Taken by mappings; grows with them.
    pub bindings: u64,
}

/// A connection as it was when it was looked at.
#[derive(Clone, Copy, Debug)]
pub struct Connection {
    /// Index of the first direction's entry.
    pub index: u32,
    /// Its tag, which tells it from a later one at the same place.
    pub tag: u32,
    /// The direction that was first.
    pub first: FlowEntry,
    /// The direction that answers.
    pub reply: FlowEntry,
}

impl Connection {
    /// Seconds that it lives without a packet; `None` when they are over.
    #[must_use]
    pub fn left_s(&self, timeouts: &FlowTimeouts, now_s: u32) -> Option<u32> {
        let seen_s = self.first.seen_s.max(self.reply.seen_s);
        let timeout = timeouts.of(self.first.key.proto, self.first.state);
        timeout.checked_sub(now_s.saturating_sub(seen_s))
    }
}

/// The switch-wide configuration in force.
pub fn conf(pins: &Pins) -> Result<SwitchConf> {
    maps::array::<SwitchConf>(pins, "switch_conf")?
        .get(&0, 0)
        .context("reading the switch's state")
}

/// Every connection in the table, expired ones that nobody has swept yet included.
pub fn read(pins: &Pins) -> Result<Vec<Connection>> {
    let tags = Mapped::<FlowTags>::open(pins, "flow_tags")?;
    let entries = Mapped::<FlowEntry>::open(pins, "flows")?;
    let tag_at = |index: usize| {
        let bucket = tags.get(index / FLOW_BUCKET)?;
        let tag = bucket.tags[index % FLOW_BUCKET];
        (tag > FLOW_BUSY).then_some(tag)
    };
    let mut found = Vec::new();
    for bucket in 0..tags.len() {
        // An empty bucket, the most of them, costs one look.
        if tags
            .get(bucket)
            .is_none_or(|bucket| bucket.tags == [0; FLOW_BUCKET])
        {
            continue;
        }
        for index in bucket * FLOW_BUCKET..(bucket + 1) * FLOW_BUCKET {
            let Some(tag) = tag_at(index) else { continue };
            let Some(first) = entries.get(index) else {
                continue;
            };
            if first.flags & FLOW_REPLY != 0 {
                continue;
            }
            let peer = first.peer as usize;
            let reply = tag_at(peer).and_then(|_| entries.get(peer));
            // What a VM sends to its own mapping is its own answer; the host's own have none.
            let answers = |reply: &FlowEntry| {
                let other = reply.flags & FLOW_REPLY != 0 || peer == index;
                other && reply.peer as usize == index
            };
            let Some(reply) = reply.filter(answers) else {
                continue;
            };
            // Still the connection that it was.
            if tag_at(index) == Some(tag) {
                found.push(Connection {
                    index: index as u32,
                    tag,
                    first,
                    reply,
                });
            }
        }
    }
    Ok(found)
}

/// Ends connections; returns how many there still were.
pub fn delete(pins: &Pins, connections: &[Connection]) -> Result<u64> {
    let mut control = Control::open(pins)?;
    let mut deleted = 0;
    for connection in connections {
        let request = ControlRequest {
            op: ControlOp::FlowDelete as u32,
            first_bucket: connection.index,
            bucket_count: connection.tag,
            ..ControlRequest::default()
        };
        deleted += u64::from(control.request(&request).context("ending a connection")?);
    }
    Ok(deleted)
}

/// Connections in the table.
pub fn count(pins: &Pins) -> Result<u32> {
    maps::array::<u32>(pins, "flow_count")?
        .get(&0, 0)
        .context("reading the flow table's occupancy")
}

/// Mappings that there are, and the most that there can be. Walks all of them.
pub fn mappings(pins: &Pins) -> Result<(usize, u32)> {
    let map = maps::hash::<BindingKey, Binding>(pins, "bindings")?;
    let limit = maps::data(pins, "bindings")?
        .info()
        .context("reading the size of the map of mappings")?
        .max_entries();
    Ok((map.keys().filter(Result::is_ok).count(), limit))
}

/// Remote addresses that mappings have beside their first ones, and the most that there can be. Walks
/// all of them.
pub fn contacts(pins: &Pins) -> Result<(usize, u32)> {
    let map = maps::hash::<ContactKey, Contact>(pins, "contacts")?;
    let limit = maps::data(pins, "contacts")?
        .info()
        .context("reading the size of the map of contacts")?
        .max_entries();
    Ok((map.keys().filter(Result::is_ok).count(), limit))
}

/// Bytes that the kernel has taken for the tables of connections and mappings.
pub fn memory_bytes(pins: &Pins) -> Result<Memory> {
    let of = |name: &str| {
        let data = maps::data(pins, name)?;
        let path = format!("/proc/self/fdinfo/{}", data.fd().as_fd().as_raw_fd());
        let text = fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
        text.lines()
            .find_map(|line| line.strip_prefix("memlock:")?.trim().parse::<u64>().ok())
            .with_context(|| format!("{path} does not tell the memory of the map {name}"))
    };
    Ok(Memory {
        flows: of("flows")? + of("flow_tags")?,
        bindings: of("bindings")? + of("contacts")?,
    })
}

/// The flow table's counters, summed over the CPUs.
pub fn counters(pins: &Pins) -> Result<FlowCounters> {
    let map = maps::per_cpu_array::<FlowCounters>(pins, "flow_counters")?;
    let values = map
        .get(&0, 0)
        .context("reading the flow table's counters")?;
    Ok(values
        .iter()
        .fold(FlowCounters::default(), |sum, cpu| FlowCounters {
            created: sum.created + cpu.created,
            ended: sum.ended + cpu.ended,
            evicted: sum.evicted + cpu.evicted,
        }))
}

/// A rule's counters, summed over the CPUs.
pub fn rule_counters(pins: &Pins, ids: &[u16]) -> Result<Vec<(u16, NatCounters)>> {
    let map = maps::per_cpu_array::<NatCounters>(pins, "nat_counters")?;
    ids.iter()
        .map(|id| {
            let values = map
                .get(&u32::from(*id), 0)
                .with_context(|| format!("reading the counters of rule {id}"))?;
            let sum = values
                .iter()
                .fold(NatCounters::default(), |sum, cpu| NatCounters {
                    hits: sum.hits + cpu.hits,
                    ended: sum.ended + cpu.ended,
                    ports_taken: sum.ports_taken + cpu.ports_taken,
                    ports_released: sum.ports_released + cpu.ports_released,
                    exhausted: sum.exhausted + cpu.exhausted,
                });
            Ok((*id, sum))
        })
        .collect()
}
