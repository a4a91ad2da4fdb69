//! Switch-wide configuration and the tables that a configuration change replaces as a whole.
//!
//! These tables hold two generations side by side. A change fills the one that is not in use and
//! then sets [`SwitchConf::generation`], one aligned word: a frame sees the old configuration or
//! the new one, never a mixture.

use crate::{FlowTimeouts, Mac};

/// The only entry of the map `switch_conf`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SwitchConf {
    /// Which half of the tables is in force: 0 or 1.
    pub generation: u32,
    /// Changes with every configuration change.
    pub epoch: u32,
    /// Seconds after which an address that is not seen is forgotten.
    pub ageing_s: u32,
    /// Most addresses in the FDB.
    pub fdb_limit: u32,
    /// Entries of the deny list, by generation; 0 spares the lookups.
    pub denied_macs: [u32; 2],
    /// `SWITCH_…` bits, by generation.
    pub flags: [u32; 2],
    /// Most connections in the flow table.
    pub flow_limit: u32,
    /// Most connections of one VM's port.
    pub flow_quota: u32,
    /// Nanoseconds between two connections that one VM's port begins at its limit; 0 is no limit.
    pub flow_interval_ns: u32,
    /// Most connections of one source; 0 is no limit.
    pub source_quota: u32,
    /// Nanoseconds between two connections that one source begins at its limit; 0 is no limit.
    pub source_interval_ns: u32,
    /// TCP maximum segment size: 0 leaves it alone, 1 makes it fit the way out's MTU, more is the
    /// most it may be.
    pub mss_clamp: u32,
    /// How long flows live.
    pub timeouts: FlowTimeouts,
}

/// `flags`: a network has a gateway, or addresses are translated: what is for the host's MAC
/// address may be for somebody else.
pub const SWITCH_ROUTES: u32 = 1;
/// `flags`: there are sources that must not leave an uplink as they are.
pub const SWITCH_GUARDS: u32 = 2;
/// `flags`: TCP connections are taken up in their middle.
pub const SWITCH_MID_STREAM: u32 = 4;
/// `flags`: there are external addresses that the host does not hold.
pub const SWITCH_ANSWERS: u32 = 8;
/// `flags`: there are ports in security groups.
pub const SWITCH_POLICY: u32 = 16;
/// `flags`: there are rules that ban sources.
pub const SWITCH_BANS: u32 = 32;

/// `flags`: there are ports whose IP addresses are those that they are leased.
pub const SWITCH_LEARNS: u32 = 1024;

/// Where a segment's members are, in the map `segments` at `generation * SEGMENTS + segment`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SegmentConf {
    /// Index of the first member in the map `members`, in its generation's half.
    pub first_member: u32,
    /// Number of members.
    pub member_count: u32,
    /// Most bytes behind the Ethernet header and outer tag; 0 leaves it to the ports' devices.
    pub mtu: u32,
    /// Members that are in security groups.
    pub policed: u32,
}

/// One port's membership of a segment, in the map `members`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Member {
    /// The port.
    pub slot: u16,
    /// VLAN id that the segment's frames carry on this port; 0 is untagged.
    pub vid: u16,
}

/// Key of the map `port_tags`: which segment a tag on a port stands for.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct PortTagKey {
    /// Generation.
    pub generation: u32,
    /// The port.
    pub slot: u16,
    /// VLAN id, 1 to 4094.
    pub vid: u16,
}

/// Key of the map `port_segments`: which tag a segment has on a port.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct PortSegmentKey {
    /// Generation.
    pub generation: u32,
    /// The port.
    pub slot: u16,
    /// The segment.
    pub segment: u16,
}

/// Key of the map `mac_deny`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct MacDenyKey {
    /// The address.
    pub mac: Mac,
    /// Generation.
    pub generation: u16,
}

/// Key of the map `mac_allow`: a port's list of allowed sources.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct PortMacKey {
    /// The address.
    pub mac: Mac,
    /// The port.
    pub slot: u16,
    /// Generation.
    pub generation: u32,
}

crate::pod!(
    SwitchConf,
    SegmentConf,
    Member,
    PortTagKey,
    PortSegmentKey,
    MacDenyKey,
    PortMacKey
);
const _: () = assert!(size_of::<Member>() == 4, "no padding");
const _: () = assert!(size_of::<PortMacKey>() == 12, "no padding");
