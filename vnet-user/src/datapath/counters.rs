//! The ports' counters: a slot's entry gets its owner's name before the port is in force, and is zero
//! after it.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, anyhow};
use aya::{Pod, maps::PerCpuValues};
use vnet_common::{DropCounters, DropReport, PortConf, PortCounters, PortKind, PortReport};

use super::{maps, pins::Pins};

const COUNTERS: &str = "port_counters";
const DROPS: &str = "port_drops";

/// What a report says of its port.
trait Report: Pod + Default {
    fn of(ifindex: u32, kind: PortKind) -> Self;
    fn owner(&self) -> (u32, PortKind);
}

impl Report for PortReport {
    fn of(ifindex: u32, kind: PortKind) -> Self {
        Self {
            ifindex,
            kind,
            ..Self::default()
        }
    }

    fn owner(&self) -> (u32, PortKind) {
        (self.ifindex, self.kind)
    }
}

impl Report for DropReport {
    fn of(ifindex: u32, kind: PortKind) -> Self {
        Self {
            ifindex,
            kind,
            ..Self::default()
        }
    }

    fn owner(&self) -> (u32, PortKind) {
        (self.ifindex, self.kind)
    }
}

/// Says whose slots they are; a slot with another owner than before begins at zero.
pub fn begin(pins: &Pins, ports: &BTreeMap<u16, PortConf>) -> Result<()> {
    let owners: Vec<_> = ports
        .iter()
        .map(|(slot, port)| (*slot, (port.ifindex, port.kind)))
        .collect();
    assign::<PortReport>(pins, COUNTERS, &owners)?;
    assign::<DropReport>(pins, DROPS, &owners)
}

/// Empties slots whose port went.
pub fn end(pins: &Pins, slots: &[u16]) -> Result<()> {
    let owners: Vec<_> = slots
        .iter()
        .map(|slot| (*slot, (0, PortKind::Unused)))
        .collect();
    assign::<PortReport>(pins, COUNTERS, &owners)?;
    assign::<DropReport>(pins, DROPS, &owners)
}

fn assign<R: Report>(pins: &Pins, name: &str, owners: &[(u16, (u32, PortKind))]) -> Result<()> {
    let cpus = aya::util::nr_cpus().map_err(|(what, error)| anyhow!("{what}: {error}"))?;
    let mut map = maps::per_cpu_array::<R>(pins, name)?;
    for (slot, owner) in owners {
        let slot = u32::from(*slot);
        let known = map
            .get(&slot, 0)
            .with_context(|| format!("reading the map {name}"))?;
        if known.first().is_some_and(|report| report.owner() == *owner) {
            continue;
        }
        let fresh = PerCpuValues::try_from(vec![R::of(owner.0, owner.1); cpus])?;
        map.set(slot, fresh, 0)
            .with_context(|| format!("writing the map {name}"))?;
    }
    Ok(())
}

/// A slot's traffic and drops, summed over the CPUs.
pub fn read(pins: &Pins, slot: u16) -> Result<(PortCounters, DropCounters)> {
    let slot = u32::from(slot);
    let doing = || "reading the ports' counters";
    let counters = maps::per_cpu_array::<PortReport>(pins, COUNTERS)?;
    let drops = maps::per_cpu_array::<DropReport>(pins, DROPS)?;
    let mut traffic = PortCounters::default();
    for report in counters.get(&slot, 0).with_context(doing)?.iter() {
        let c = &report.counters;
        traffic.rx_packets += c.rx_packets;
        traffic.rx_bytes += c.rx_bytes;
        traffic.tx_packets += c.tx_packets;
        traffic.tx_bytes += c.tx_bytes;
        traffic.to_host_packets += c.to_host_packets;
        traffic.flooded_packets += c.flooded_packets;
        traffic.fdb_full += c.fdb_full;
        traffic.fdb_port_limit += c.fdb_port_limit;
    }
    let mut dropped = DropCounters::default();
    for report in drops.get(&slot, 0).with_context(doing)?.iter() {
        for reason in vnet_common::DropReason::ALL {
            if let Some(count) = dropped.by_number(*reason as u32) {
                *count += report.drops.get(*reason);
            }
        }
    }
    Ok((traffic, dropped))
}
