//! What each map holds of an image, said once: for filling a generation, and for comparing it.

use std::collections::HashMap;
use std::fmt::Debug;
use std::hash::Hash;

use anyhow::{Context as _, Result, bail, ensure};
use aya::{Pod, maps::lpm_trie::Key};
use vnet_common::{
    BanPorts, BanRule, MacDenyKey, Member, NatMatchKey, NatRule, PolicyMatchKey, PolicyNode,
    PolicyRange, PortConf, PortGroups, PortIpKey, PortMacKey, PortSegmentKey, PortTagKey, SEGMENTS,
    SegmentConf,
    limit::{BAN_PORTS, BAN_RULES},
    nat::NAT_RULES,
    policy::{POLICY_NODES, POLICY_RANGES},
};

use super::{
    batch::{self, Batch},
    maps::{self, PortAliasKey},
    object::Sizes,
    pins::Pins,
};
use crate::compile::Image;

/// Writes `image` into the maps as `generation`, in place of what they hold of it.
///
/// # Errors
/// A map refuses, or has not enough room; the generation is of no use then.
pub fn fill(pins: &Pins, sizes: &Sizes, image: &Image, generation: u32) -> Result<()> {
    each(&mut Filling { pins }, sizes, image, generation)
        .with_context(|| format!("filling generation {generation} of the tables"))
}

/// Reads `generation` and compares it with `image`.
///
/// # Errors
/// Something is different: the first difference, by map and key.
pub fn compare(pins: &Pins, sizes: &Sizes, image: &Image, generation: u32) -> Result<()> {
    each(&mut Comparing { pins }, sizes, image, generation)
        .with_context(|| format!("reading generation {generation} of the tables back"))
}

/// What is done with every table.
trait Visitor {
    /// A part of an array that begins at `first`.
    fn array<V: Pod + PartialEq + Debug>(
        &mut self,
        name: &str,
        first: u32,
        values: impl Iterator<Item = V>,
    ) -> Result<()>;

    /// The entries of a hash map whose keys are `ours`: those of the generation.
    fn hash<K: Pod + Eq + Hash + Debug>(
        &mut self,
        name: &str,
        entries: impl Iterator<Item = (K, u32)>,
        ours: impl Fn(&K) -> bool,
    ) -> Result<()>;

    /// The entries of a longest prefix match whose keys are `ours`, by the bits that count and key.
    fn trie<K: Pod + Eq + Hash + Debug>(
        &mut self,
        name: &str,
        entries: impl Iterator<Item = ((u32, K), u32)>,
        ours: impl Fn(&K) -> bool,
    ) -> Result<()>;
}

fn each(tables: &mut impl Visitor, sizes: &Sizes, image: &Image, generation: u32) -> Result<()> {
    ensure!(
        image.members.len() as u64 <= u64::from(sizes.max_members()),
        "more memberships than the map has room for; take the switch down and up"
    );
    let slots = 0..sizes.max_ports;
    tables.array::<PortConf>(
        "ports",
        generation * sizes.max_ports,
        slots.map(|slot| image.ports.get(&(slot as u16)).copied().unwrap_or_default()),
    )?;
    let segment = |segment: u32| image.segments.get(&(segment as u16)).copied();
    tables.array::<SegmentConf>(
        "segment_conf",
        generation * SEGMENTS,
        (0..SEGMENTS).map(|number| segment(number).unwrap_or_default()),
    )?;
    tables.array::<Member>(
        "members",
        generation * sizes.max_members(),
        image.members.iter().copied(),
    )?;
    let groups = |slot: u32| image.port_groups.get(&(slot as u16)).copied();
    tables.array::<PortGroups>(
        "port_groups",
        generation * sizes.max_ports,
        (0..sizes.max_ports).map(|slot| groups(slot).unwrap_or_default()),
    )?;
    ensure!(
        image.policy_nodes.len() <= POLICY_NODES as usize
            && image.policy_ranges.len() <= POLICY_RANGES as usize,
        "more rules in security groups than the maps have room for"
    );
    tables.array::<PolicyNode>(
        "policy_nodes",
        generation * POLICY_NODES,
        image.policy_nodes.iter().copied(),
    )?;
    tables.array::<PolicyRange>(
        "policy_ranges",
        generation * POLICY_RANGES,
        image.policy_ranges.iter().copied(),
    )?;
    let rule = |id: u32| image.ban_rules.get(&(id as u8)).copied();
    tables.array::<BanRule>(
        "ban_rules",
        generation * BAN_RULES,
        (0..BAN_RULES).map(|id| rule(id).unwrap_or_default()),
    )?;
    let ports = |place: u32| image.ban_ports.get(&place).copied();
    tables.array::<BanPorts>(
        "ban_ports",
        generation * BAN_PORTS,
        (0..BAN_PORTS).map(|place| ports(place).unwrap_or_default()),
    )?;
    let rule = |id: u32| image.nat_rules.get(&(id as u16)).copied();
    tables.array::<NatRule>(
        "nat_rules",
        generation * NAT_RULES,
        (0..NAT_RULES).map(|id| rule(id).unwrap_or_default()),
    )?;

    tables.hash(
        "port_aliases",
        image.aliases.iter().map(|(&ifindex, &slot)| {
            let key = PortAliasKey {
                ifindex,
                generation,
            };
            (key, u32::from(slot))
        }),
        |key| key.generation == generation,
    )?;
    tables.hash(
        "port_tags",
        image.tags.iter().map(|(&(slot, vid), &segment)| {
            let key = PortTagKey {
                generation,
                slot,
                vid,
            };
            (key, u32::from(segment))
        }),
        |key| key.generation == generation,
    )?;
    tables.hash(
        "port_segments",
        image.port_segments.iter().map(|(&(slot, segment), &vid)| {
            let key = PortSegmentKey {
                generation,
                slot,
                segment,
            };
            (key, u32::from(vid))
        }),
        |key| key.generation == generation,
    )?;
    tables.hash(
        "mac_deny",
        image.mac_deny.iter().map(|&mac| {
            let key = MacDenyKey {
                mac,
                generation: generation as u16,
            };
            (key, 1)
        }),
        |key| u32::from(key.generation) == generation,
    )?;
    tables.hash(
        "mac_allow",
        image.mac_allow.iter().map(|&(slot, mac)| {
            let key = PortMacKey {
                mac,
                slot,
                generation,
            };
            (key, 1)
        }),
        |key| key.generation == generation,
    )?;
    tables.hash(
        "port_ips",
        image.port_ips.iter().map(|(&(addr, segment), &slot)| {
            let key = PortIpKey {
                addr,
                segment,
                generation: generation as u16,
            };
            (key, u32::from(slot))
        }),
        |key| u32::from(key.generation) == generation,
    )?;
    tables.trie(
        "nat_match",
        image.nat_matches.iter().map(|(&(bits, key), &value)| {
            let key = NatMatchKey {
                generation: generation as u8,
                ..key
            };
            ((bits, key), value)
        }),
        |key| u32::from(key.generation) == generation,
    )?;
    tables.trie(
        "policy_match",
        image.policy_matches.iter().map(|(&(bits, key), &node)| {
            let key = PolicyMatchKey {
                generation: generation as u8,
                ..key
            };
            ((bits, key), node)
        }),
        |key| u32::from(key.generation) == generation,
    )
}

struct Filling<'a> {
    pins: &'a Pins,
}

impl Visitor for Filling<'_> {
    fn array<V: Pod + PartialEq + Debug>(
        &mut self,
        name: &str,
        first: u32,
        values: impl Iterator<Item = V>,
    ) -> Result<()> {
        let values: Vec<V> = values.collect();
        Batch::open(self.pins, name)?.write(first, &values)
    }

    fn hash<K: Pod + Eq + Hash + Debug>(
        &mut self,
        name: &str,
        entries: impl Iterator<Item = (K, u32)>,
        ours: impl Fn(&K) -> bool,
    ) -> Result<()> {
        let found = batch::entries::<K, u32>(self.pins, name)?;
        let (old, new) = changes(entries, found.into_iter().filter(|(key, _)| ours(key)));
        let mut map = maps::hash::<K, u32>(self.pins, name)?;
        for key in old {
            map.remove(&key)
                .with_context(|| format!("deleting from the map {name}"))?;
        }
        for (key, value) in new {
            map.insert(key, value, 0)
                .with_context(|| format!("writing to the map {name}"))?;
        }
        Ok(())
    }

    fn trie<K: Pod + Eq + Hash + Debug>(
        &mut self,
        name: &str,
        entries: impl Iterator<Item = ((u32, K), u32)>,
        ours: impl Fn(&K) -> bool,
    ) -> Result<()> {
        let found = read_trie(self.pins, name)?;
        let ours = found.into_iter().filter(|((_, key), _)| ours(key));
        let (old, new) = changes(entries, ours);
        let mut map = maps::lpm_trie::<K, u32>(self.pins, name)?;
        for (bits, key) in old {
            map.remove(&Key::new(bits, key))
                .with_context(|| format!("deleting from the map {name}"))?;
        }
        for ((bits, key), value) in new {
            map.insert(&Key::new(bits, key), value, 0)
                .with_context(|| format!("writing to the map {name}"))?;
        }
        Ok(())
    }
}

/// What makes of a table that has `found` one that has `entries`: which keys go, and which come or get
/// another value. Those that stay are most of a large table.
fn changes<K: Eq + Hash>(
    entries: impl Iterator<Item = (K, u32)>,
    found: impl Iterator<Item = (K, u32)>,
) -> (Vec<K>, HashMap<K, u32>) {
    let mut new: HashMap<K, u32> = entries.collect();
    let mut old = Vec::new();
    for (key, found) in found {
        match new.get(&key) {
            Some(value) if *value == found => {
                new.remove(&key);
            }
            Some(_) => {}
            None => old.push(key),
        }
    }
    (old, new)
}

/// The entries of a longest prefix match, by the bits that count and key.
fn read_trie<K: Pod>(pins: &Pins, name: &str) -> Result<Vec<((u32, K), u32)>> {
    let entries = batch::entries::<Key<K>, u32>(pins, name)?;
    let entry = |(key, value): (Key<K>, u32)| ((key.prefix_len(), key.data()), value);
    Ok(entries.into_iter().map(entry).collect())
}

struct Comparing<'a> {
    pins: &'a Pins,
}

impl Visitor for Comparing<'_> {
    fn array<V: Pod + PartialEq + Debug>(
        &mut self,
        name: &str,
        first: u32,
        values: impl Iterator<Item = V>,
    ) -> Result<()> {
        let values: Vec<V> = values.collect();
        let found = Batch::<V>::open(self.pins, name)?.read(first, values.len())?;
        for (index, (value, found)) in (first..).zip(values.into_iter().zip(found)) {
            if found != value {
                bail!("the map {name} has {found:?} at {index}, not {value:?}");
            }
        }
        Ok(())
    }

    fn hash<K: Pod + Eq + Hash + Debug>(
        &mut self,
        name: &str,
        entries: impl Iterator<Item = (K, u32)>,
        ours: impl Fn(&K) -> bool,
    ) -> Result<()> {
        let mut expected: HashMap<K, u32> = entries.collect();
        for (key, found) in batch::entries::<K, u32>(self.pins, name)? {
            if ours(&key) {
                same(name, &key, expected.remove(&key), found)?;
            }
        }
        nothing_missing(name, expected.keys().next())
    }

    fn trie<K: Pod + Eq + Hash + Debug>(
        &mut self,
        name: &str,
        entries: impl Iterator<Item = ((u32, K), u32)>,
        ours: impl Fn(&K) -> bool,
    ) -> Result<()> {
        let mut expected: HashMap<(u32, K), u32> = entries.collect();
        for (key, found) in read_trie::<K>(self.pins, name)? {
            if ours(&key.1) {
                same(name, &key, expected.remove(&key), found)?;
            }
        }
        nothing_missing(name, expected.keys().next())
    }
}

fn same(name: &str, key: &impl Debug, expected: Option<u32>, found: u32) -> Result<()> {
    match expected {
        Some(expected) if expected == found => Ok(()),
        Some(expected) => bail!("the map {name} has {found} for {key:?}, not {expected}"),
        None => bail!("the map {name} has {key:?}, which does not belong there"),
    }
}

fn nothing_missing(name: &str, key: Option<&impl Debug>) -> Result<()> {
    match key {
        None => Ok(()),
        Some(key) => bail!("the map {name} is without {key:?}"),
    }
}
