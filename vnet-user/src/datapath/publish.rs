//! Puts a configuration's tables into force: the half that is not in use is filled and read back,
//! then one word is set.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use aya::maps::lpm_trie::Key;
use vnet_common::{
    MacDenyKey, Member, NatMatchKey, NatRule, PortConf, PortMacKey, PortSegmentKey, PortTagKey,
    SEGMENTS, SegmentConf, SwitchConf, nat::NAT_RULES,
};

use super::{
    counters,
    maps::{self, PortAliasKey},
    object::Sizes,
    pins::Pins,
};
use crate::compile::{Image, Owner};
use crate::host::kernel;

/// Puts `image` into force.
///
/// # Errors
/// A map refuses a value; what was in force stays in force.
pub fn publish(pins: &Pins, sizes: &Sizes, image: &Image) -> Result<()> {
    let mut conf = maps::array::<SwitchConf>(pins, "switch_conf")?;
    let current = conf.get(&0, 0).context("reading the switch's state")?;
    let generation = (current.generation & 1) ^ 1;

    // A program that began before the last swap may still read the half that is filled now.
    kernel::membarrier_global();
    fill(pins, sizes, image, generation)
        .with_context(|| format!("filling generation {generation} of the tables"))?;

    counters::begin(pins, &image.ports)?;

    // The old generation's entries stay until the next change: programs that began before this word
    // was set still look them up.
    conf.set(0, next_conf(&current, sizes, image, generation), 0)
        .context("swapping the generations")
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
        mss_clamp: image.mss_clamp,
        timeouts: image.timeouts,
    }
}

fn fill(pins: &Pins, sizes: &Sizes, image: &Image, generation: u32) -> Result<()> {
    forget(pins, generation)?;

    let mut ports = maps::array::<PortConf>(pins, "ports")?;
    for slot in 0..sizes.max_ports {
        let conf = image.ports.get(&(slot as u16)).copied().unwrap_or_default();
        ports.set(generation * sizes.max_ports + slot, conf, 0)?;
    }
    let mut segments = maps::array::<SegmentConf>(pins, "segment_conf")?;
    for segment in 0..SEGMENTS {
        let conf = image
            .segments
            .get(&(segment as u16))
            .copied()
            .unwrap_or_default();
        segments.set(generation * SEGMENTS + segment, conf, 0)?;
    }
    ensure!(
        image.members.len() as u64 <= u64::from(sizes.max_members()),
        "more memberships than the map has room for; take the switch down and up"
    );
    let mut members = maps::array::<Member>(pins, "members")?;
    for (index, member) in image.members.iter().enumerate() {
        members.set(generation * sizes.max_members() + index as u32, *member, 0)?;
    }

    let mut aliases = maps::hash::<PortAliasKey, u32>(pins, "port_aliases")?;
    for (&ifindex, &slot) in &image.aliases {
        let key = PortAliasKey {
            ifindex,
            generation,
        };
        aliases.insert(key, u32::from(slot), 0)?;
    }
    let mut tags = maps::hash::<PortTagKey, u32>(pins, "port_tags")?;
    for (&(slot, vid), &segment) in &image.tags {
        let key = PortTagKey {
            generation,
            slot,
            vid,
        };
        tags.insert(key, u32::from(segment), 0)?;
    }
    let mut port_segments = maps::hash::<PortSegmentKey, u32>(pins, "port_segments")?;
    for (&(slot, segment), &vid) in &image.port_segments {
        let key = PortSegmentKey {
            generation,
            slot,
            segment,
        };
        port_segments.insert(key, u32::from(vid), 0)?;
    }
    let mut deny = maps::hash::<MacDenyKey, u32>(pins, "mac_deny")?;
    for &mac in &image.mac_deny {
        let key = MacDenyKey {
            mac,
            generation: generation as u16,
        };
        deny.insert(key, 1, 0)?;
    }
    let mut allow = maps::hash::<PortMacKey, u32>(pins, "mac_allow")?;
    for &(slot, mac) in &image.mac_allow {
        let key = PortMacKey {
            mac,
            slot,
            generation,
        };
        allow.insert(key, 1, 0)?;
    }
    fill_nat(pins, image, generation)
}

fn fill_nat(pins: &Pins, image: &Image, generation: u32) -> Result<()> {
    let mut rules = maps::array::<NatRule>(pins, "nat_rules")?;
    for id in 0..NAT_RULES {
        let rule = image.nat_rules.get(&(id as u16)).copied();
        rules.set(generation * NAT_RULES + id, rule.unwrap_or_default(), 0)?;
    }
    let mut matches = maps::lpm_trie::<NatMatchKey, u32>(pins, "nat_match")?;
    for ((bits, key), value) in &image.nat_matches {
        let key = NatMatchKey {
            generation: generation as u8,
            ..*key
        };
        matches.insert(&Key::new(*bits, key), *value, 0)?;
    }
    Ok(())
}

/// Deletes a generation's entries from the hash maps.
fn forget(pins: &Pins, generation: u32) -> Result<()> {
    fn sweep<K: aya::Pod>(pins: &Pins, name: &str, due: impl Fn(&K) -> bool) -> Result<()> {
        let mut map = maps::hash::<K, u32>(pins, name)?;
        let keys: Vec<K> = map
            .keys()
            .collect::<Result<_, _>>()
            .with_context(|| format!("reading the map {name}"))?;
        for key in keys.iter().filter(|key| due(key)) {
            map.remove(key)
                .with_context(|| format!("deleting from the map {name}"))?;
        }
        Ok(())
    }
    sweep::<PortAliasKey>(pins, "port_aliases", |k| k.generation == generation)?;
    sweep::<PortTagKey>(pins, "port_tags", |k| k.generation == generation)?;
    sweep::<PortSegmentKey>(pins, "port_segments", |k| k.generation == generation)?;
    sweep::<MacDenyKey>(pins, "mac_deny", |k| u32::from(k.generation) == generation)?;
    sweep::<PortMacKey>(pins, "mac_allow", |k| k.generation == generation)?;

    let mut matches = maps::lpm_trie::<NatMatchKey, u32>(pins, "nat_match")?;
    let keys: Vec<Key<NatMatchKey>> = matches
        .keys()
        .collect::<Result<_, _>>()
        .context("reading the map nat_match")?;
    for key in keys {
        if u32::from(key.data().generation) == generation {
            matches.remove(&key).context("emptying the map nat_match")?;
        }
    }
    Ok(())
}

/// The ports in force, by slot.
pub fn ports_in_force(pins: &Pins, sizes: &Sizes) -> Result<BTreeMap<u16, PortConf>> {
    let conf = maps::array::<SwitchConf>(pins, "switch_conf")?;
    let generation = conf
        .get(&0, 0)
        .context("reading the switch's state")?
        .generation
        & 1;
    let ports = maps::array::<PortConf>(pins, "ports")?;
    let mut in_force = BTreeMap::new();
    for slot in 0..sizes.max_ports {
        let port = ports
            .get(&(generation * sizes.max_ports + slot), 0)
            .context("reading the ports")?;
        if port.ifindex != 0 {
            in_force.insert(slot as u16, port);
        }
    }
    Ok(in_force)
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
