//! What the datapath reports through the ring buffer `events`.

use crate::{Addr, FlowKey, Mac};

/// Kind of an event.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// A source address was seen for the first time.
    MacLearned = 1,
    /// A known address was seen behind another port.
    MacMoved = 2,
    /// An address was not seen for the ageing time and was forgotten.
    MacAged = 3,
    /// An address was not learned: the table is full.
    FdbFull = 4,
    /// An address was not learned: the port holds its limit.
    FdbPortLimit = 5,
    /// A port is over one of its storm limits.
    Storm = 6,
    /// A connection was taken on.
    FlowNew = 7,
    /// A connection ended.
    FlowEnd = 8,
    /// A VM got a block of external ports.
    BlockNew = 9,
    /// A block of external ports was given back.
    BlockEnd = 10,
    /// A connection was refused: the flow table is full.
    FlowTableFull = 11,
    /// A connection was refused: the VM holds its share of the table.
    FlowQuota = 12,
    /// A connection was refused: no external port is free.
    PortsExhausted = 13,
    /// A rule of a security group that is to be reported has decided a connection.
    PolicyRule = 14,
    /// A VM used an address that is somebody else's.
    AddressConflict = 15,
    /// A port was leased an IP address.
    IpLearned = 16,
    /// A VM begins connections faster than it may.
    FlowRate = 17,
    /// A source begins connections faster than it may.
    SourceRate = 18,
    /// A source has as many connections as it may.
    SourceQuota = 19,
    /// A source was banned: it connected too often.
    SourceBanned = 20,
}

/// Number of event kinds, zero included; the size of the rate limiter's table.
pub const EVENT_KINDS: u32 = 21;

impl EventKind {
    /// Every kind.
    pub const ALL: &'static [Self] = &[
        Self::MacLearned,
        Self::MacMoved,
        Self::MacAged,
        Self::FdbFull,
        Self::FdbPortLimit,
        Self::Storm,
        Self::FlowNew,
        Self::FlowEnd,
        Self::BlockNew,
        Self::BlockEnd,
        Self::FlowTableFull,
        Self::FlowQuota,
        Self::PortsExhausted,
        Self::PolicyRule,
        Self::AddressConflict,
        Self::IpLearned,
        Self::FlowRate,
        Self::SourceRate,
        Self::SourceQuota,
        Self::SourceBanned,
    ];

    /// The word that `vnet-user events` prints.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::MacLearned => "mac_learned",
            Self::MacMoved => "mac_moved",
            Self::MacAged => "mac_aged",
            Self::FdbFull => "fdb_full",
            Self::FdbPortLimit => "fdb_port_limit",
            Self::Storm => "storm",
            Self::FlowNew => "flow_new",
            Self::FlowEnd => "flow_end",
            Self::BlockNew => "block_new",
            Self::BlockEnd => "block_end",
            Self::FlowTableFull => "flow_table_full",
            Self::FlowRate => "flow_rate",
            Self::FlowQuota => "flow_quota",
            Self::SourceRate => "source_rate",
            Self::SourceQuota => "source_quota",
            Self::SourceBanned => "source_banned",
            Self::PortsExhausted => "nat_ports_exhausted",
            Self::PolicyRule => "policy_rule",
            Self::AddressConflict => "address_conflict",
            Self::IpLearned => "ip_learned",
        }
    }
}

/// One record of the ring buffer.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Event {
    /// When, in nanoseconds of CLOCK_MONOTONIC.
    pub time_ns: u64,
    /// An [`EventKind`]'s number.
    pub kind: u32,
    /// Events of this kind that were held back since the last one on this CPU.
    pub suppressed: u32,
    /// The address concerned.
    pub mac: Mac,
    /// The port concerned.
    pub slot: u16,
    /// For a moved address, the port before.
    pub old_slot: u16,
    /// The segment concerned.
    pub segment: u16,
    /// For a storm and for an address that is somebody else's, the [`crate::DropReason`]'s number; for a
    /// security group's rule, what it says (a [`crate::PolicyVerdict`]'s number).
    pub reason: u32,
    /// The packets of the flow concerned as they came in; all zero for events that are not about
    /// one. Of an IP address that is the matter, the source alone.
    pub flow: FlowKey,
    /// The external address of a flow or block; zero where nothing was translated. Of a source, its address or
    /// /64 as its limits know it.
    pub nat_addr: Addr,
    /// Its port; of a block, the first.
    pub nat_port: u16,
    /// The rule.
    pub rule: u16,
    /// Ports of a block.
    pub count: u32,
}

/// State of one event kind's rate limit on one CPU, in the map `event_limits`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EventLimit {
    /// Theoretical arrival time of the next event, in nanoseconds of CLOCK_MONOTONIC.
    pub next_ns: u64,
    /// Held back since the last event that went out.
    pub suppressed: u32,
    /// Always zero.
    pub reserved: u32,
}

/// Nanoseconds between events of one kind at the limit: 100 a second.
pub const EVENT_INTERVAL_NS: u32 = 10_000_000;

crate::pod!(Event, EventLimit);
const _: () = assert!(size_of::<Event>() == 96, "no padding");
