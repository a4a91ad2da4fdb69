//! Puts a configuration's tables into force: the half that is not in use is filled, one word is set,
//! and all of it is read back.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use vnet_common::{PortConf, SwitchConf};

use super::{batch::Batch, counters, maps, object::Sizes, pins::Pins, storms, tables};
use crate::compile::{Image, Owner};
use crate::host::kernel;

/// Puts `image` into force.
///
/// # Errors
/// A map refuses a value, or holds something else in the end; what was in force is in force.
pub fn publish(pins: &Pins, sizes: &Sizes, image: &Image) -> Result<()> {
    let mut conf = maps::array::<SwitchConf>(pins, "switch_conf")?;
    let current = conf.get(&0, 0).context("reading the switch's state")?;
    let generation = (current.generation & 1) ^ 1;
    let before = ports_in_force(pins, sizes)?;

    // A program that began before the last swap may still read the half that is filled now.
    kernel::membarrier_global();
    tables::fill(pins, sizes, image, generation)?;

    counters::begin(pins, &image.ports)?;

    // The old generation's entries stay until the next change: programs that began before this word
    // was set still look them up, and it can be taken back.
    let next = next_conf(&current, sizes, image, generation);
    conf.set(0, next, 0).context("swapping the generations")?;

    let compared = conf
        .get(&0, 0)
        .context("reading the switch's state back")
        .and_then(|found| {
            ensure!(
                found == next,
                "the switch's state is {found:?}, not {next:?}"
            );
            tables::compare(pins, sizes, image, generation)
        })
        .and_then(|()| storms::begin_anew(pins, &before, &image.ports));
    if compared.is_err() {
        let back = SwitchConf {
            epoch: next.epoch.wrapping_add(1),
            ..current
        };
        conf.set(0, back, 0)
            .context("swapping the generations back")?;
    }
    compared
}

/// The generation in force.
///
/// # Errors
/// The switch is not up.
pub fn generation(pins: &Pins) -> Result<u32> {
    let conf = maps::array::<SwitchConf>(pins, "switch_conf")?;
    let current = conf.get(&0, 0).context("reading the switch's state")?;
    Ok(current.generation & 1)
}

/// Has every connection be decided on again with its next packet, as after a change. Whoever calls
/// this holds the switch's lock.
///
/// # Errors
/// The switch is not up.
pub fn renew(pins: &Pins) -> Result<()> {
    let mut conf = maps::array::<SwitchConf>(pins, "switch_conf")?;
    let current = conf.get(&0, 0).context("reading the switch's state")?;
    let next = SwitchConf {
        epoch: current.epoch.wrapping_add(1),
        ..current
    };
    conf.set(0, next, 0).context("renewing cached decisions")
}

/// What follows `current` when `image` comes into force as `generation`.
#[must_use]
pub fn next_conf(
    current: &SwitchConf,
    sizes: &Sizes,
    image: &Image,
    generation: u32,
) -> SwitchConf {
    let (mut denied_macs, mut flags) = (current.denied_macs, current.flags);
    denied_macs[generation as usize] = image.mac_deny.len() as u32;
    flags[generation as usize] = image.flags;
    let flow_limit = image.flow_limit.min(sizes.flow_size);
    SwitchConf {
        generation,
        epoch: current.epoch.wrapping_add(1),
        ageing_s: image.ageing_s,
        fdb_limit: image.fdb_limit.min(sizes.fdb_size),
        denied_macs,
        flags,
        flow_limit,
        flow_quota: match image.flow_quota {
            0 => flow_limit / 4,
            quota => quota.min(flow_limit),
        },
        flow_interval_ns: interval_ns(image.flow_rate),
        source_quota: image.source_flow_quota,
        source_interval_ns: interval_ns(image.source_flow_rate),
        mss_clamp: image.mss_clamp,
        timeouts: image.timeouts,
    }
}

/// Nanoseconds between two at a rate a second; 0 is no limit.
fn interval_ns(rate: u32) -> u32 {
    1_000_000_000_u32.checked_div(rate).unwrap_or(0)
}

/// The ports in force, by slot.
pub fn ports_in_force(pins: &Pins, sizes: &Sizes) -> Result<BTreeMap<u16, PortConf>> {
    let generation = generation(pins)?;
    let ports = Batch::<PortConf>::open(pins, "ports")?
        .read(generation * sizes.max_ports, sizes.max_ports as usize)?;
    Ok((0..)
        .zip(ports)
        .filter(|(_, port)| port.ifindex != 0)
        .collect())
}

/// Who has which slot, so that a new image leaves them where they are.
pub fn slots_in_force(ports: &BTreeMap<u16, PortConf>) -> BTreeMap<Owner, u16> {
    ports
        .iter()
        .map(|(slot, port)| {
            let owner = Owner {
                ifindex: port.ifindex,
                host_side: matches!(port.kind, vnet_common::PortKind::UplinkHost),
            };
            (owner, *slot)
        })
        .collect()
}
