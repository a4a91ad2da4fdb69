//! From a configuration to the tables of the datapath: pure, so that equal configurations on equal
//! interfaces give equal tables.

mod guard;
mod limit;
mod nat;
mod policy;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

pub use nat::{addresses, is_private};

use vnet_common::{
    Addr, BanPorts, BanRule, DEFAULT_SEGMENT, FIRST_INNER_SEGMENT, FlowTimeouts, Mac, Member,
    NO_SEGMENT, NO_SLOT, NatMatchKey, NatRule, PolicyMatchKey, PolicyNode, PolicyRange, PortConf,
    PortGroups, PortKind, SEGMENTS, SegmentConf,
    fdb::{FDB_LOCAL, FDB_STATIC},
    port::{
        PORT_ACCESS, PORT_MAC_LIST, PORT_MEMBER, PORT_POLICED, PORT_TCP_AT_TC, PORT_XDP_TARGET,
        STORM_KINDS,
    },
};

use crate::config::{Config, DEFAULT_NETWORK};
use crate::error::Error;
use crate::gateway::{SwitchPort, switch_ports};
use crate::host::Address;
use crate::ports::Role;

/// Entries in a generation of the map `members` for each port that there is room for.
pub const MEMBERS_PER_PORT: u32 = 64;

/// What the host knows of a port's interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Interface index.
    pub ifindex: u32,
    /// Its address, which on uplinks and the switch device is the host's.
    pub mac: Mac,
    /// It is, or is about to be, a member of the switch device.
    pub member: bool,
    /// An XDP program may redirect frames to it.
    pub xdp_target: bool,
}

/// Everything besides the configuration that the tables depend on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// The switch's name.
    pub switch: String,
    /// Interfaces that exist, by port name.
    pub interfaces: BTreeMap<String, Interface>,
    /// Addresses of the host.
    pub addresses: Vec<Address>,
    /// Slots that are in use, so that a port keeps its own.
    pub slots: BTreeMap<Owner, u16>,
    /// TCP from XDP to VMs goes up to TC.
    pub tcp_at_tc: bool,
    /// Room for ports in the maps as they are; a power of two.
    pub max_ports: u32,
}

impl Facts {
    /// A host that has everything which `config` names: what a document is checked against where
    /// there is no switch.
    #[must_use]
    pub fn supposed(config: &Config, switch: &str) -> Self {
        let interfaces = (1..)
            .zip(switch_ports(config, switch))
            .map(|(ifindex, port)| {
                let [.., a, b, c] = u32::to_be_bytes(ifindex);
                let interface = Interface {
                    ifindex,
                    mac: [2, 0, 0, a, b, c],
                    member: port.role == Role::Vm,
                    xdp_target: false,
                };
                (port.port.name, interface)
            })
            .collect();
        Self {
            switch: switch.to_owned(),
            interfaces,
            max_ports: config.settings.max_ports,
            ..Self::default()
        }
    }
}

/// Who has a slot: an interface, or the host behind one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Owner {
    /// Interface index.
    pub ifindex: u32,
    /// The host's stack behind an outside uplink.
    pub host_side: bool,
}

/// The tables.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Image {
    /// Seconds after which an address is forgotten.
    pub ageing_s: u32,
    /// Most addresses in the FDB.
    pub fdb_limit: u32,
    /// Ports by slot.
    pub ports: BTreeMap<u16, PortConf>,
    /// Names of the ports' interfaces by slot.
    pub names: BTreeMap<u16, String>,
    /// Slots of ports whose own place was taken, by interface index.
    pub aliases: BTreeMap<u32, u16>,
    /// Segment by slot and tag.
    pub tags: BTreeMap<(u16, u16), u16>,
    /// Tag by slot and segment; untagged ones left out.
    pub port_segments: BTreeMap<(u16, u16), u16>,
    /// Members' places by segment.
    pub segments: BTreeMap<u16, SegmentConf>,
    /// Names of the networks by segment.
    pub networks: BTreeMap<u16, String>,
    /// Members, segment after segment.
    pub members: Vec<Member>,
    /// Denied addresses.
    pub mac_deny: BTreeSet<Mac>,
    /// Allowed sources by slot.
    pub mac_allow: BTreeSet<(u16, Mac)>,
    /// Slots by the IP addresses that ports and the host have in a segment.
    pub port_ips: BTreeMap<(Addr, u16), u16>,
    /// Entries of the FDB that are configured: slot and flags by address and segment.
    pub fdb: BTreeMap<(Mac, u16), (u16, u16)>,
    /// Translation rules by id.
    pub nat_rules: BTreeMap<u16, NatRule>,
    /// What packets find rules by: values by the bits that count and key, whose generation is 0.
    pub nat_matches: BTreeMap<(u32, NatMatchKey), u32>,
    /// Security groups by slot.
    pub port_groups: BTreeMap<u16, PortGroups>,
    /// What packets find groups' rules by: nodes by the bits that count and key, whose generation is 0.
    pub policy_matches: BTreeMap<(u32, PolicyMatchKey), u32>,
    /// Nodes; number 0 is none.
    pub policy_nodes: Vec<PolicyNode>,
    /// Ranges, node after node.
    pub policy_ranges: Vec<PolicyRange>,
    /// `SWITCH_…` bits.
    pub flags: u32,
    /// Most connections in the flow table.
    pub flow_limit: u32,
    /// Most connections of one VM's port; 0 is a quarter of the table.
    pub flow_quota: u32,
    /// Connections a second that one VM's port begins at most; 0 is no limit.
    pub flow_rate: u32,
    /// Connections a second that one source begins at most; 0 is no limit.
    pub source_flow_rate: u32,
    /// Most connections of one source; 0 is no limit.
    pub source_flow_quota: u32,
    /// Rules that ban, by id.
    pub ban_rules: BTreeMap<u8, BanRule>,
    /// Their ports, by place.
    pub ban_ports: BTreeMap<u32, BanPorts>,
    /// As in [`vnet_common::SwitchConf`].
    pub mss_clamp: u32,
    /// How long connections live without a packet.
    pub timeouts: FlowTimeouts,
}

/// Works out the tables of a valid configuration. Ports without an interface are left out.
///
/// # Errors
/// More ports or memberships than there is room for.
pub fn compile(config: &Config, facts: &Facts) -> Result<Image, Error> {
    let mut image = Image {
        ageing_s: config.settings.ageing,
        fdb_limit: config.settings.fdb_size,
        mac_deny: config.mac_deny.iter().map(|mac| mac.octets()).collect(),
        flow_limit: config.settings.flow_size,
        flow_quota: config.settings.flow_quota,
        flow_rate: config.settings.flow_rate,
        source_flow_rate: config.settings.source_flow_rate,
        source_flow_quota: config.settings.source_flow_quota,
        mss_clamp: config.settings.mss_clamp,
        timeouts: config.settings.timeouts,
        ..Image::default()
    };
    let segments = segment_ids(config);
    let ports = switch_ports(config, &facts.switch);
    let present: Vec<(&SwitchPort, Interface)> = ports
        .iter()
        .filter_map(|port| Some((port, *facts.interfaces.get(&port.port.name)?)))
        .collect();
    let slots = assign_slots(&present, facts)?;

    let mut members: BTreeMap<u16, Vec<Member>> = BTreeMap::new();
    for (port, interface) in &present {
        add_port(
            &mut image,
            &mut members,
            config,
            facts,
            &segments,
            &slots,
            port,
            interface,
        );
    }
    for (name, segment) in &segments {
        let in_segment = members.remove(segment).unwrap_or_default();
        image.segments.insert(
            *segment,
            SegmentConf {
                first_member: u32::try_from(image.members.len()).unwrap_or(u32::MAX),
                member_count: u32::try_from(in_segment.len()).unwrap_or(u32::MAX),
                policed: policed_of(&image, &in_segment),
                mtu: config.network(name).and_then(|n| n.mtu).unwrap_or(0),
            },
        );
        image.networks.insert(*segment, name.clone());
        image.members.extend(in_segment);
    }
    let room = u64::from(MEMBERS_PER_PORT) * u64::from(facts.max_ports);
    if image.members.len() as u64 > room {
        return Err(Error::new(
            "working out the switch's tables",
            format_args!(
                "the ports carry networks {} times in all, and there is room for {room}",
                image.members.len()
            ),
        )
        .mend("set max_ports to more, or have trunks carry fewer networks"));
    }
    for entry in &config.static_fdb {
        let owner = facts.interfaces.get(&entry.port).map(|i| Owner {
            ifindex: i.ifindex,
            host_side: false,
        });
        if let (Some(slot), Some(segment)) = (
            owner.and_then(|owner| slots.get(&owner)),
            segments.get(&entry.network),
        ) {
            image
                .fdb
                .insert((entry.mac.octets(), *segment), (*slot, FDB_STATIC));
        }
    }
    guard::add(&mut image, config, facts, &segments, &slots, &present);
    nat::add(&mut image, config, facts, &segments, &slots, &present);
    let of_vms = present
        .iter()
        .filter(|(port, _)| port.role == Role::Vm)
        .filter_map(|(port, interface)| {
            let owner = Owner {
                ifindex: interface.ifindex,
                host_side: false,
            };
            Some((*slots.get(&owner)?, port.port.groups.clone()))
        });
    policy::add(&mut image, config, &of_vms.collect());
    limit::add(&mut image, config);
    Ok(image)
}

/// How many of a segment's members are in security groups.
fn policed_of(image: &Image, members: &[Member]) -> u32 {
    let flags = |member: &Member| image.ports.get(&member.slot).map_or(0, |port| port.flags);
    let policed = members
        .iter()
        .filter(|member| flags(member) & PORT_POLICED != 0);
    policed.count() as u32
}

/// A segment id for each network: its VLAN id, or a place above them found by its name, so that
/// adding or deleting a network leaves the others' ids, and what was learned in them, alone.
fn segment_ids(config: &Config) -> BTreeMap<String, u16> {
    let mut ids = BTreeMap::new();
    let mut taken = BTreeSet::new();
    let mut names: Vec<&str> = config.network_names().collect();
    names.sort_unstable();
    for name in names {
        let id = if name == DEFAULT_NETWORK {
            DEFAULT_SEGMENT
        } else if let Some(vlan) = config.vlan(name) {
            vlan
        } else {
            let room = SEGMENTS as u16 - FIRST_INNER_SEGMENT;
            let start = (fnv1a(name.as_bytes()) % u64::from(room)) as u16;
            (0..room)
                .map(|i| FIRST_INNER_SEGMENT + (start + i) % room)
                .find(|id| !taken.contains(id))
                .unwrap_or(FIRST_INNER_SEGMENT)
        };
        taken.insert(id);
        ids.insert(name.to_owned(), id);
    }
    ids
}

/// FNV-1a, 64 bits: a hash that stays the same between builds.
#[must_use]
pub fn fnv1a(bytes: &[u8]) -> u64 {
    fnv1a_on(FNV_BASIS, bytes)
}

/// What [`fnv1a`] begins with.
pub const FNV_BASIS: u64 = 0xcbf2_9ce4_8422_2325;

/// [`fnv1a`] of what `hash` is of, followed by `bytes`.
#[must_use]
pub fn fnv1a_on(hash: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(hash, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// Whether the host's stack stays behind the port: an uplink outside the switch device.
fn is_outside(port: &SwitchPort, interface: &Interface) -> bool {
    port.role == Role::Uplink && !interface.member
}

fn assign_slots(
    present: &[(&SwitchPort, Interface)],
    facts: &Facts,
) -> Result<BTreeMap<Owner, u16>, Error> {
    let max_ports = facts.max_ports;
    let mut owners = Vec::new();
    for (port, interface) in present {
        owners.push(Owner {
            ifindex: interface.ifindex,
            host_side: false,
        });
        if is_outside(port, interface) {
            owners.push(Owner {
                ifindex: interface.ifindex,
                host_side: true,
            });
        }
    }
    if owners.len() >= max_ports as usize {
        return Err(Error::new(
            "working out the switch's tables",
            format_args!(
                "there are {} ports, an uplink counting twice, and room for {}",
                owners.len(),
                max_ports - 1
            ),
        )
        .mend("set max_ports to more, then down and up"));
    }
    let mut slots = BTreeMap::new();
    let mut taken = BTreeSet::from([NO_SLOT]);
    for owner in &owners {
        if let Some(slot) = facts.slots.get(owner)
            && u32::from(*slot) < max_ports
            && taken.insert(*slot)
        {
            slots.insert(*owner, *slot);
        }
    }
    // The interface's own place first; host sides are never looked up by interface.
    for owner in owners.iter().filter(|owner| !owner.host_side) {
        let own = (owner.ifindex & (max_ports - 1)) as u16;
        if !slots.contains_key(owner) && taken.insert(own) {
            slots.insert(*owner, own);
        }
    }
    let mut free = (1..max_ports as u16).rev();
    for owner in &owners {
        if slots.contains_key(owner) {
            continue;
        }
        if let Some(slot) = free.by_ref().find(|slot| taken.insert(*slot)) {
            slots.insert(*owner, slot);
        }
    }
    Ok(slots)
}

#[expect(
    clippy::too_many_arguments,
    reason = "one place in a pass over many tables"
)]
fn add_port(
    image: &mut Image,
    members: &mut BTreeMap<u16, Vec<Member>>,
    config: &Config,
    facts: &Facts,
    segments: &BTreeMap<String, u16>,
    slots: &BTreeMap<Owner, u16>,
    listed: &SwitchPort,
    interface: &Interface,
) {
    let (port, role) = (&listed.port, listed.role);
    let slot_of = |host_side| {
        let owner = Owner {
            ifindex: interface.ifindex,
            host_side,
        };
        slots.get(&owner).copied().unwrap_or(NO_SLOT)
    };
    let outside = is_outside(listed, interface);
    let slot = slot_of(false);
    let host_slot = if outside { slot_of(true) } else { NO_SLOT };
    let carried = config.carried(port);

    let mut flags = 0;
    if carried.access {
        flags |= PORT_ACCESS;
    }
    if interface.member {
        flags |= PORT_MEMBER;
    }
    if !port.macs.is_empty() {
        flags |= PORT_MAC_LIST;
    }
    if role == Role::Vm {
        flags |= policy::port_flags(config, port);
    }
    if interface.xdp_target {
        flags |= PORT_XDP_TARGET;
    }
    if facts.tcp_at_tc {
        flags |= PORT_TCP_AT_TC;
    }
    if role == Role::Vm {
        flags |= guard::flags(port);
    }
    let native_segment = carried
        .native()
        .and_then(|name| segments.get(name))
        .copied()
        .unwrap_or(NO_SEGMENT);
    let storm = port.storm.over(config.settings.storm);
    // Uplinks and the host flood what their whole network sends: limits are for VMs, unless the port
    // itself has one.
    let storm = [
        (storm.broadcast, port.storm.broadcast.is_some()),
        (storm.multicast, port.storm.multicast.is_some()),
        (storm.unknown_unicast, port.storm.unknown_unicast.is_some()),
        (storm.arp, port.storm.arp.is_some()),
        (storm.nd, port.storm.nd.is_some()),
    ]
    .map(|(limit, own)| limit.rate().filter(|_| role == Role::Vm || own));
    let conf = PortConf {
        ifindex: interface.ifindex,
        kind: match role {
            Role::Device | Role::Gateway => PortKind::Internal,
            Role::Uplink => PortKind::Uplink,
            Role::Vm => PortKind::Vm,
        },
        flags,
        max_macs: config.max_macs(port, &facts.switch),
        storm_interval_ns: storm.map(|rate| rate.map_or(0, |rate| 1_000_000_000 / rate.pps.max(1))),
        storm_burst: storm.map(|rate| rate.and_then(|rate| rate.burst).unwrap_or(0)),
        slot,
        peer_slot: if outside {
            host_slot
        } else if port.uplink {
            // For what a member uplink's link partner sends to the host's bridge itself.
            facts
                .interfaces
                .get(&facts.switch)
                .and_then(|device| {
                    slots.get(&Owner {
                        ifindex: device.ifindex,
                        host_side: false,
                    })
                })
                .copied()
                .unwrap_or(NO_SLOT)
        } else {
            NO_SLOT
        },
        native_segment,
        mac: interface.mac,
        reserved: 0,
    };
    let device_slot = (port.uplink && interface.member)
        .then_some(conf.peer_slot)
        .filter(|slot| *slot != NO_SLOT);
    let device_carries = |network: &str| {
        config
            .all_ports(&facts.switch)
            .iter()
            .find(|port| port.name == facts.switch)
            .is_some_and(|device| config.carried(device).carries(network))
    };
    let mut sides = vec![conf];
    if outside {
        sides.push(PortConf {
            kind: PortKind::UplinkHost,
            flags: flags & PORT_ACCESS,
            max_macs: 0,
            storm_interval_ns: [0; STORM_KINDS],
            storm_burst: [0; STORM_KINDS],
            slot: host_slot,
            peer_slot: slot,
            ..conf
        });
    }
    if u32::from(slot) != interface.ifindex & (facts.max_ports - 1) {
        image.aliases.insert(interface.ifindex, slot);
    }
    image
        .mac_allow
        .extend(port.macs.iter().map(|mac| (slot, mac.octets())));

    for side in &sides {
        image.ports.insert(side.slot, *side);
        image.names.insert(side.slot, port.name.clone());
        for network in &carried.networks {
            let Some(&segment) = segments.get(&network.network) else {
                continue;
            };
            let vid = network.vid.unwrap_or(0);
            if vid != 0 {
                image.tags.insert((side.slot, vid), segment);
                image.port_segments.insert((side.slot, segment), vid);
            }
            members.entry(segment).or_default().push(Member {
                slot: side.slot,
                vid,
            });
            // A bridge whose address nobody set has none while it has no members (br_stp_if.c,
            // br_stp_recalculate_bridge_id).
            if interface.mac == [0; 6] {
                continue;
            }
            // The host's own addresses, where its stack is reached by them.
            let is_stack = matches!(side.kind, PortKind::Internal | PortKind::UplinkHost);
            if is_stack {
                image
                    .fdb
                    .insert((interface.mac, segment), (side.slot, FDB_LOCAL));
            } else if port.uplink
                && let Some(device) = device_slot.filter(|_| device_carries(&network.network))
            {
                // A member NIC's own address is the host's too: the switch device takes it.
                image
                    .fdb
                    .entry((interface.mac, segment))
                    .or_insert((device, FDB_LOCAL));
            }
        }
    }
}
