//! The gateway's state: connections and mappings, and what must hold between them.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result, bail, ensure};
use aya::maps::{Array, MapData};
use vnet_common::{
    Addr, Ban, Binding, BindingKey, Contact, ContactKey, FlowEntry, FlowKey, FlowState, FlowTags,
    HostPort, Source, SourceKey,
    flow::{
        FLOW_BLOCK, FLOW_BOUND, FLOW_BUCKET, FLOW_BUSY, FLOW_CONTACT, FLOW_INSIDE, FLOW_PORT,
        FLOW_REPLY, FLOW_SOURCE, FLOW_SOURCE_NET, FLOW_SOURCE_PORT,
    },
    nat::BindingKind,
};
use vnet_user::datapath::{flows, mapped::Mapped, maps, pins::Pins};

/// What a mapping is known by: its key in an order that sorts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mapping {
    /// A [`BindingKind`]'s number.
    pub kind: u8,
    /// IP protocol number.
    pub proto: u8,
    /// Internal or external address.
    pub addr: Addr,
    /// Its port.
    pub port: u16,
    /// Segment of an internal address.
    pub segment: u16,
    /// The rule, of an internal address.
    pub rule: u16,
}

impl From<&BindingKey> for Mapping {
    fn from(key: &BindingKey) -> Self {
        let BindingKey {
            addr,
            port,
            segment,
            proto,
            kind,
            rule,
        } = *key;
        Self {
            kind,
            proto,
            addr,
            port,
            segment,
            rule,
        }
    }
}

/// What a contact is known by: its key in an order that sorts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Addressed {
    /// The external address.
    pub addr: Addr,
    /// The external port.
    pub port: u16,
    /// IP protocol number.
    pub proto: u8,
    /// The remote address.
    pub remote: Addr,
}

impl From<&ContactKey> for Addressed {
    fn from(key: &ContactKey) -> Self {
        let ContactKey {
            addr,
            remote,
            port,
            proto,
            reserved: _,
        } = *key;
        Self {
            addr,
            port,
            proto,
            remote,
        }
    }
}

/// One direction of a connection, and where it lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    /// Its place.
    pub index: u32,
    /// Its tag.
    pub tag: u32,
    /// What is there.
    pub entry: FlowEntry,
}

impl Held {
    /// Whether it is the direction of a connection that was first.
    #[must_use]
    pub const fn is_first(&self) -> bool {
        self.entry.flags & FLOW_REPLY == 0
    }
}

/// Everything that is known of connections.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Connections {
    /// Both directions of each, by place.
    pub held: Vec<Held>,
    /// The map `bindings`.
    pub mappings: BTreeMap<Mapping, Binding>,
    /// The map `contacts`.
    pub contacts: BTreeMap<Addressed, Contact>,
    /// How many the table says that there are.
    pub count: u32,
    /// How many a port's count says that its VM began, where that is not zero.
    pub owners: BTreeMap<u16, u32>,
    /// Which ports the host has begun connections from, and when: TCP, UDP, echo.
    pub host_ports: BTreeMap<u16, [u32; 3]>,
    /// How many connections a source has, where they are counted.
    pub sources: BTreeMap<SourceKey, u32>,
    /// Sources that are kept away, ended bans included.
    pub bans: BTreeMap<SourceKey, Ban>,
}

/// The map `sources`.
fn read_sources(pins: &Pins) -> Result<BTreeMap<SourceKey, u32>> {
    let sources = maps::hash::<SourceKey, Source>(pins, "sources")?;
    let counted = sources.iter().map(|found| found.map(|(k, s)| (k, s.flows)));
    Ok(counted.collect::<Result<_, _>>()?)
}

/// The map `bans`.
fn read_bans(pins: &Pins) -> Result<BTreeMap<SourceKey, Ban>> {
    let bans = maps::hash::<SourceKey, Ban>(pins, "bans")?;
    Ok(bans.iter().collect::<Result<_, _>>()?)
}

impl Connections {
    /// Reads all of it from a pinned datapath; `slots` are those of ports.
    ///
    /// # Errors
    /// A map is not there or cannot be read.
    pub fn read(pins: &Pins, slots: impl IntoIterator<Item = u16>) -> Result<Self> {
        Ok(Self {
            held: read_held(pins)?,
            ..Self::read_counts(pins, slots)?
        })
    }

    /// Like [`Self::read`], but without the table itself.
    ///
    /// # Errors
    /// A map is not there or cannot be read.
    pub fn read_counts(pins: &Pins, slots: impl IntoIterator<Item = u16>) -> Result<Self> {
        let bindings = maps::hash::<BindingKey, Binding>(pins, "bindings")?;
        let mappings = bindings
            .iter()
            .map(|found| found.map(|(key, binding)| ((&key).into(), binding)))
            .collect::<Result<_, _>>()?;
        let contacts = maps::hash::<ContactKey, Contact>(pins, "contacts")?;
        let contacts = contacts
            .iter()
            .map(|found| found.map(|(key, contact)| ((&key).into(), contact)))
            .collect::<Result<_, _>>()?;
        let by_slot: Array<_, u32> = maps::array(pins, "port_flows")?;
        let mut owners = BTreeMap::new();
        for slot in slots {
            let count = by_slot.get(&u32::from(slot), 0)?;
            if count != 0 {
                owners.insert(slot, count);
            }
        }
        let ports = Mapped::<HostPort>::open(pins, "host_ports")?;
        let host_ports = (0..=u16::MAX)
            .filter_map(|port| Some((port, ports.get(port.into())?)))
            .filter(|(_, uses)| *uses != HostPort::default())
            .map(|(port, uses)| (port, [uses.tcp_s, uses.udp_s, uses.echo_s]))
            .collect();
        Ok(Self {
            held: Vec::new(),
            mappings,
            contacts,
            count: flows::count(pins)?,
            owners,
            host_ports,
            sources: read_sources(pins)?,
            bans: read_bans(pins)?,
        })
    }

    /// How many connections a rule has, and how many external ports: a mapping is one, and so is a
    /// connection that has a port to itself.
    #[must_use]
    pub fn of_rule(&self, rule: u16) -> (usize, usize) {
        let flows = self.firsts().filter(|held| held.entry.rule == rule);
        let mapped = self
            .mappings
            .keys()
            .filter(|mapping| mapping.kind == BindingKind::Internal as u8 && mapping.rule == rule);
        let alone = self
            .held
            .iter()
            .filter(|held| held.entry.flags & FLOW_PORT != 0 && held.entry.rule == rule);
        (flows.count(), mapped.count() + alone.count())
    }

    /// The directions of connections that were first.
    pub fn firsts(&self) -> impl Iterator<Item = &Held> {
        self.held.iter().filter(|held| held.is_first())
    }

    /// Every connection by protocol and state, and every port that the host has begun one from, in
    /// order: `tcp established, udp host 53`.
    #[must_use]
    pub fn states(&self) -> String {
        let mut states: Vec<String> = self
            .held
            .iter()
            .filter(|held| held.entry.flags & FLOW_REPLY == 0)
            .map(|held| {
                let proto = match held.entry.key.proto {
                    1 | 58 => "icmp".to_owned(),
                    6 => "tcp".to_owned(),
                    17 => "udp".to_owned(),
                    other => other.to_string(),
                };
                let state = FlowState::by_number(held.entry.state);
                format!("{proto} {}", state.map_or("?", FlowState::name))
            })
            .collect();
        for (port, seen) in &self.host_ports {
            for (proto, seen_s) in ["tcp", "udp", "icmp"].iter().zip(seen) {
                if *seen_s != 0 {
                    states.push(format!("{proto} host {port}"));
                }
            }
        }
        states.sort();
        states.join(", ")
    }

    /// The entry at a place.
    #[must_use]
    pub fn at(&self, index: u32) -> Option<&Held> {
        self.held.iter().find(|held| held.index == index)
    }

    /// The entry for a key.
    #[must_use]
    pub fn of(&self, key: &FlowKey) -> Option<&Held> {
        self.held.iter().find(|held| held.entry.key == *key)
    }

    /// Holds them against what must be so while no packet is under way: directions name each other,
    /// keys are there once, mappings are held by exactly the connections that say so, the counts are
    /// true, and one external port is one internal end's.
    ///
    /// # Errors
    /// Something is not so.
    pub fn check(&self) -> Result<()> {
        let mut owners: BTreeMap<u16, u32> = BTreeMap::new();
        let mut refs: BTreeMap<Mapping, u32> = BTreeMap::new();
        let mut alone = 0;
        for held in &self.held {
            ensure!(held.tag > FLOW_BUSY, "the place {} is busy", held.index);
            let entry = &held.entry;
            let same = self.held.iter().filter(|h| h.entry.key == entry.key);
            ensure!(same.count() == 1, "{:?} is there twice", entry.key);
            if entry.peer == held.index {
                // A VM that sends to its own mapping: both directions look the same, and hold the
                // same.
                alone += 1;
                *owners.entry(entry.owner).or_default() += 1;
                for mapping in held_by(entry, entry) {
                    *refs.entry(mapping).or_default() += 2;
                }
                continue;
            }
            let peer = self
                .at(entry.peer)
                .with_context(|| format!("{entry:?} has no other direction"))?;
            ensure!(
                peer.entry.peer == held.index
                    && (peer.entry.flags ^ entry.flags) & FLOW_REPLY != 0
                    && peer.entry.state == entry.state
                    && peer.entry.owner == entry.owner,
                "{entry:?} and {:?} are not each other's",
                peer.entry
            );
            // A VM's quota is for what it began.
            if entry.flags & (FLOW_REPLY | FLOW_INSIDE) == FLOW_INSIDE {
                *owners.entry(entry.owner).or_default() += 1;
            }
            for mapping in held_by(entry, &peer.entry) {
                if !self.gave_way(&mapping, &peer.entry) {
                    *refs.entry(mapping).or_default() += 1;
                }
            }
        }
        let mut sources: BTreeMap<SourceKey, u32> = BTreeMap::new();
        for held in self.firsts() {
            let entry = &held.entry;
            if entry.flags & FLOW_SOURCE != 0 {
                let at_port = entry.flags & FLOW_SOURCE_PORT != 0;
                let slot = if at_port { entry.owner } else { 0 };
                let mut source = SourceKey::new(&entry.key.src, entry.key.segment, slot);
                if entry.flags & FLOW_SOURCE_NET != 0 {
                    source.truncate();
                }
                *sources.entry(source).or_default() += 1;
            }
        }
        ensure!(
            sources == self.sources,
            "connections by source: {sources:?}, counted: {:?}",
            self.sources
        );
        let count = self.firsts().count();
        ensure!(
            self.held.len() == 2 * count - alone && count == self.count as usize,
            "there are {} entries of {count} connections, and {} are counted",
            self.held.len(),
            self.count
        );
        ensure!(
            owners == self.owners,
            "connections by port: {owners:?}, counted: {:?}",
            self.owners
        );
        // A block is held by whoever has it.
        for (mapping, binding) in &self.mappings {
            if mapping.kind == BindingKind::BlockOf as u8 {
                let block = Mapping {
                    kind: BindingKind::Block as u8,
                    addr: binding.addr,
                    port: binding.port,
                    segment: 0,
                    ..*mapping
                };
                *refs.entry(block).or_default() += 1;
            }
        }
        let counted: BTreeMap<Mapping, u32> = self
            .mappings
            .iter()
            .map(|(mapping, binding)| (*mapping, binding.refs))
            .collect();
        if refs != counted {
            let all: BTreeSet<&Mapping> = refs.keys().chain(counted.keys()).collect();
            let differing: Vec<_> = all
                .into_iter()
                .map(|mapping| (mapping, refs.get(mapping), counted.get(mapping)))
                .filter(|(_, held, counted)| held != counted)
                .collect();
            bail!("mappings, how often they are held and how often that is counted: {differing:?}");
        }
        for (mapping, binding) in &self.mappings {
            self.check_pair(mapping, binding)?;
        }
        self.check_contacts()?;
        self.check_external_ends()?;
        Ok(())
    }

    /// Whether an internal end has another external one by now than a connection of its has, whose answers
    /// are `peer`'s: the uplink's address became another one.
    fn gave_way(&self, mapping: &Mapping, peer: &FlowEntry) -> bool {
        let own = (peer.key.dst, peer.key.dport);
        mapping.kind == BindingKind::Internal as u8
            && self
                .mappings
                .get(mapping)
                .is_none_or(|binding| (binding.addr, binding.port) != own)
    }

    /// An external address and port is one internal end's.
    fn check_external_ends(&self) -> Result<()> {
        let mut ends = BTreeMap::new();
        for held in &self.held {
            let entry = &held.entry;
            if entry.flags & (FLOW_BOUND | FLOW_PORT) == 0 {
                continue;
            }
            let peer = self.at(entry.peer).context("no other direction")?.entry;
            let external = (entry.key.proto, peer.key.dst, peer.key.dport);
            let internal = (entry.key.segment, entry.key.src, entry.key.sport);
            let before = ends.insert(external, internal);
            ensure!(
                before.is_none_or(|before| before == internal),
                "{external:?} is {internal:?} and {before:?}"
            );
        }
        Ok(())
    }

    /// Contacts are held by exactly the connections that say so: a mapping's first one in the mapping,
    /// the others beside it.
    fn check_contacts(&self) -> Result<()> {
        let mut first: BTreeMap<Mapping, u32> = BTreeMap::new();
        let mut others: BTreeMap<Addressed, u32> = BTreeMap::new();
        for held in &self.held {
            let entry = &held.entry;
            if entry.flags & FLOW_CONTACT == 0 {
                continue;
            }
            let peer = self.at(entry.peer).context("no other direction")?.entry;
            let external = external_of(entry, &peer);
            let mapping = self.mappings.get(&external);
            if mapping.is_some_and(|mapping| mapping.remote == entry.key.dst) {
                *first.entry(external).or_default() += 1;
            } else {
                let contact = Addressed {
                    addr: external.addr,
                    port: external.port,
                    proto: external.proto,
                    remote: entry.key.dst,
                };
                *others.entry(contact).or_default() += 1;
            }
        }
        let counted: BTreeMap<Mapping, u32> = self
            .mappings
            .iter()
            .filter(|(mapping, binding)| {
                mapping.kind == BindingKind::External as u8 && binding.count != 0
            })
            .map(|(mapping, binding)| (*mapping, binding.count))
            .collect();
        ensure!(
            first == counted,
            "first contacts are held so: {first:?}, and counted so: {counted:?}"
        );
        let counted: BTreeMap<Addressed, u32> = self
            .contacts
            .iter()
            .map(|(contact, value)| (*contact, value.refs))
            .collect();
        ensure!(
            others == counted,
            "contacts are held so: {others:?}, and counted so: {counted:?}"
        );
        Ok(())
    }

    /// An internal mapping and its external one name each other. An external one alone is a port of
    /// one connection.
    fn check_pair(&self, mapping: &Mapping, binding: &Binding) -> Result<()> {
        if mapping.kind != BindingKind::Internal as u8 {
            return Ok(());
        }
        let external = Mapping {
            kind: BindingKind::External as u8,
            proto: mapping.proto,
            addr: binding.addr,
            port: binding.port,
            segment: 0,
            rule: 0,
        };
        let found = self
            .mappings
            .get(&external)
            .with_context(|| format!("{mapping:?} has no other side"))?;
        ensure!(
            found.addr == mapping.addr && found.port == mapping.port,
            "{mapping:?} leads to {binding:?}, and that to {found:?}"
        );
        Ok(())
    }
}

/// Every place of the table that is not free.
fn read_held(pins: &Pins) -> Result<Vec<Held>> {
    let tags: Array<_, FlowTags> = maps::array(pins, "flow_tags")?;
    let entries: Array<MapData, FlowEntry> = maps::array(pins, "flows")?;
    let mut held = Vec::new();
    for bucket in 0..tags.len() {
        let tags = tags.get(&bucket, 0)?.tags;
        for (index, tag) in (bucket * FLOW_BUCKET as u32..).zip(tags) {
            if tag != 0 {
                let entry = entries.get(&index, 0)?;
                held.push(Held { index, tag, entry });
            }
        }
    }
    Ok(held)
}

/// The external end of one direction's source.
fn external_of(entry: &FlowEntry, peer: &FlowEntry) -> Mapping {
    Mapping {
        kind: BindingKind::External as u8,
        proto: entry.key.proto,
        addr: peer.key.dst,
        port: peer.key.dport,
        segment: 0,
        rule: 0,
    }
}

/// The mappings that one direction's source holds.
fn held_by(entry: &FlowEntry, peer: &FlowEntry) -> Vec<Mapping> {
    if entry.flags & (FLOW_BOUND | FLOW_PORT) == 0 {
        return Vec::new();
    }
    let external = external_of(entry, peer);
    let mut held = vec![external];
    if entry.flags & FLOW_BOUND != 0 {
        held.push(Mapping {
            kind: BindingKind::Internal as u8,
            addr: entry.key.src,
            port: entry.key.sport,
            segment: entry.key.segment,
            rule: entry.rule,
            ..external
        });
    }
    if entry.flags & FLOW_BLOCK != 0 {
        held.push(Mapping {
            kind: BindingKind::BlockOf as u8,
            proto: 0,
            addr: entry.key.src,
            port: 0,
            segment: entry.key.segment,
            rule: entry.rule,
        });
    }
    held
}
