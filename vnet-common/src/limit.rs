//! How much one source address may: its connections, and being kept away for a time.
//!
//! A source is an IPv4 address, or an IPv6 address. Whoever is outside and not on the link that it sends
//! to has a whole /64 to send from (RFC 6177), and counts as that. What a VM sends counts for the VM's port
//! too: it may use another one's address.

use crate::Addr;

/// Key of the maps `sources`, `attempts` and `bans`.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SourceKey {
    /// The address, or the prefix with zeroes behind it.
    pub addr: Addr,
    /// The segment that its packets come in from.
    pub segment: u16,
    /// Slot of the VM's port that they come from, 0 where it is none, or [`ANY_PORT`].
    pub slot: u16,
    /// In `attempts`, the rule's id; else 0.
    pub rule: u16,
    /// Bits of `addr` that count: 128, or 64 of a prefix.
    pub bits: u8,
    /// Always zero.
    pub reserved: u8,
}

/// In `bans`, the slot of whom somebody has banned at every VM's port.
pub const ANY_PORT: u16 = u16::MAX;

impl SourceKey {
    /// One address.
    #[inline(always)]
    #[must_use]
    pub const fn new(addr: &Addr, segment: u16, slot: u16) -> Self {
        Self {
            addr: *addr,
            segment,
            slot,
            rule: 0,
            bits: 128,
            reserved: 0,
        }
    }

    /// Makes it the /64 that the address is in.
    #[inline(always)]
    pub fn truncate(&mut self) {
        self.bits = 64;
        let mut i = 8;
        while i < 16 {
            self.addr[i] = 0;
            i += 1;
        }
    }
}

/// The connections of a source, a value of the map `sources`: there as long as it has one.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Source {
    /// Its limit of connections a second, as `vnet_ebpf::rate` has it.
    pub next_ns: u64,
    /// Connections that it began and that are in the flow table.
    pub flows: u32,
    /// Always zero.
    pub reserved: u32,
}

/// The connections that a source has made to the ports of a rule, a value of the map `attempts`, whose
/// oldest go first.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Attempts {
    /// The rule's limit, as `vnet_ebpf::rate` has it.
    pub next_ns: u64,
}

/// A source that is kept away, a value of the map `bans`, of which those go first that have not tried for
/// the longest time.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ban {
    /// When it may again, in seconds of CLOCK_MONOTONIC.
    pub until_s: u32,
    /// The rule that it came to; 0 when somebody said so.
    pub rule: u16,
    /// Always zero.
    pub reserved: u16,
}

/// Places in the map `attempts`, and in the map `bans`.
pub const BANS: u32 = 16384;

/// A rule that bans who connects too often, in the map `ban_rules` at `generation * BAN_RULES + id`.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BanRule {
    /// Nanoseconds that one connection takes of `within_ns`.
    pub interval_ns: u64,
    /// Nanoseconds in which as many connections may be made as there are intervals in it.
    pub within_ns: u64,
    /// Seconds of the ban; 0 is no rule.
    pub time_s: u32,
    /// Always zero.
    pub reserved: u32,
}

/// Rules in a generation, the number 0 that none has included.
pub const BAN_RULES: u32 = 256;

/// The rules of 64 destination ports of TCP, in the map `ban_ports` at `generation * BAN_PORTS + port / 64`.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BanPorts {
    /// Ids, by the port's last six bits; 0 is none.
    pub rules: [u8; BAN_PORTS_EACH as usize],
}

impl Default for BanPorts {
    fn default() -> Self {
        Self {
            rules: [0; BAN_PORTS_EACH as usize],
        }
    }
}

/// Ports of a [`BanPorts`]; a power of two.
pub const BAN_PORTS_EACH: u32 = 64;
/// [`BanPorts`] in a generation.
pub const BAN_PORTS: u32 = (1 << 16) / BAN_PORTS_EACH;

crate::pod!(SourceKey, Source, Attempts, Ban, BanRule, BanPorts);
const _: () = assert!(size_of::<SourceKey>() == 24, "no padding");
