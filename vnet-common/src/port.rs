//! What the datapath knows of a port.

use crate::Mac;

/// Kind of a port. Zero is an unused slot, so that a zeroed map holds no ports.
#[repr(u32)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PortKind {
    /// No port.
    #[default]
    Unused = 0,
    /// A virtual machine's tap or veth.
    Vm = 1,
    /// A physical NIC (or what stands for one), seen from its wire.
    Uplink = 2,
    /// The switch device: the host's stack behind its own interface.
    Internal = 3,
    /// The host's stack behind an uplink that is not a member of the switch device and keeps its
    /// address. Shares the uplink's interface: what the host sends out of it comes in here.
    UplinkHost = 4,
}

impl PortKind {
    /// The word that listings use.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unused => "unused",
            Self::Vm => "vm",
            Self::Uplink => "uplink",
            Self::Internal => "internal",
            Self::UplinkHost => "uplink-host",
        }
    }
}

/// `flags`: only sources on the port's list may send (`--mac`).
pub const PORT_MAC_LIST: u32 = 1;
/// `flags`: an XDP program may redirect frames to this port's device.
pub const PORT_XDP_TARGET: u32 = 2;
/// `flags`: TCP from XDP to this port goes up to TC, where GRO has merged it.
pub const PORT_TCP_AT_TC: u32 = 4;
/// `flags`: the port carries one network untagged and drops what is tagged.
pub const PORT_ACCESS: u32 = 8;
/// `flags`: the port is a member of the switch device. On an uplink without it, what the switch
/// does not carry belongs to the host.
pub const PORT_MEMBER: u32 = 16;

/// `flags`: a port with the stack behind it whose frames for the host may have to be routed: a
/// gateway port, or the way to the outside.
pub const PORT_ROUTED: u32 = 32;
/// `flags`: the port holds a network's gateway addresses.
pub const PORT_GATEWAY: u32 = 64;
/// `flags`: the gateway port's network is translated: what cannot be translated does not leave.
pub const PORT_NATED: u32 = 128;
/// `flags`: the port is in security groups.
pub const PORT_POLICED: u32 = 256;
/// `flags`: what no rule of the port's groups is about is let through.
pub const PORT_POLICY_ALLOW: u32 = 512;

/// `flags`: what the port says of itself in ARP and neighbour discovery is the MAC address that it
/// sends from, and its listed ones are taken by no other VM.
pub const PORT_GUARD_MAC: u32 = 1024;
/// `flags`: it uses no IP address of another port's or of the host's; of a port with no other guard, in ARP
/// and neighbour discovery.
pub const PORT_GUARD_OWNERS: u32 = 2048;
/// `flags`: it sends from its own IP addresses alone.
pub const PORT_GUARD_IP: u32 = 4096;
/// `flags`: no DHCP server and no router is behind it, and nothing hides what it sends.
pub const PORT_GUARD_STRICT: u32 = 8192;
/// `flags`: its own IP addresses are those that it is leased, too.
pub const PORT_LEARN_IPS: u32 = 16384;
/// `flags`: nothing goes from it to another VM's port, nor the other way.
pub const PORT_ISOLATED: u32 = 32768;
/// The flags of ports whose frames are looked at by the guards.
pub const PORT_GUARDS: u32 = PORT_GUARD_MAC | PORT_GUARD_OWNERS | PORT_GUARD_IP | PORT_GUARD_STRICT;

/// Limited kinds of traffic; the index into the `storm_…` arrays.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StormKind {
    /// To ff:ff:ff:ff:ff:ff.
    Broadcast = 0,
    /// To any other group address.
    Multicast = 1,
    /// To a unicast address that is not in the FDB.
    UnknownUnicast = 2,
    /// ARP, whomever it is to.
    Arp = 3,
    /// Neighbour discovery (RFC 4861), whomever it is to.
    Nd = 4,
}

/// Number of [`StormKind`]s.
pub const STORM_KINDS: usize = 5;

/// Configuration of one port, in the map `ports` at `generation * max_ports + slot`.
///
/// A port's slot is its interface index modulo the table's size where that is free, so that the
/// lookup by interface index is one array access; else `port_aliases` tells the slot.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PortConf {
    /// Interface index; 0 in an unused slot.
    pub ifindex: u32,
    /// What is behind the port.
    pub kind: PortKind,
    /// `PORT_…` bits.
    pub flags: u32,
    /// Most addresses learned here; 0 is no limit but the table's.
    pub max_macs: u32,
    /// Nanoseconds between two frames of a kind at its limit, by [`StormKind`]; 0 is no limit.
    pub storm_interval_ns: [u32; STORM_KINDS],
    /// Frames of a kind that may come at once, by [`StormKind`]; 0 is as many as a second's.
    pub storm_burst: [u16; STORM_KINDS],
    /// This port's slot.
    pub slot: u16,
    /// An uplink's and its host side's slots name each other; 0 is none.
    pub peer_slot: u16,
    /// Segment of untagged frames, or [`crate::NO_SEGMENT`].
    pub native_segment: u16,
    /// The interface's address: of a port with the host behind it, the one that its stack takes.
    pub mac: Mac,
    /// Always zero.
    pub reserved: u16,
}

/// A port's limit of one kind of traffic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StormRate {
    /// Nanoseconds between two frames at the limit; 0 is no limit.
    pub interval_ns: u32,
    /// Nanoseconds' worth of frames that may come at once.
    pub burst_ns: u64,
}

impl PortConf {
    /// The limit of a kind.
    #[inline(always)]
    #[must_use]
    pub fn storm_rate(&self, kind: StormKind) -> StormRate {
        // The compiler knows that a kind is in range and drops the check; the verifier wants it.
        let number = core::hint::black_box(kind as usize);
        let interval_ns = self.storm_interval_ns.get(number).copied().unwrap_or(0);
        let burst = self.storm_burst.get(number).copied().unwrap_or(0);
        let burst_ns = match burst {
            0 => 1_000_000_000,
            frames => interval_ns as u64 * frames as u64,
        };
        StormRate {
            interval_ns,
            burst_ns,
        }
    }
}

/// State of a port's storm limits, in the map `storm_state`, indexed by slot.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StormState {
    /// Theoretical arrival time of the next frame of a kind (GCRA, ITU-T I.371), in nanoseconds of
    /// CLOCK_MONOTONIC, by [`StormKind`].
    pub next_ns: [u64; STORM_KINDS],
}

crate::pod!(PortConf, StormState);
const _: () = assert!(size_of::<PortConf>() == 60, "no padding");
