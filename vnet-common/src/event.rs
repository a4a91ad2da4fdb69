//! What the datapath reports through the ring buffer `events`.

use crate::Mac;

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
}

/// Number of event kinds, zero included; the size of the rate limiter's table.
pub const EVENT_KINDS: u32 = 7;

impl EventKind {
    /// Every kind.
    pub const ALL: &'static [Self] = &[
        Self::MacLearned,
        Self::MacMoved,
        Self::MacAged,
        Self::FdbFull,
        Self::FdbPortLimit,
        Self::Storm,
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
    /// For a storm, the [`crate::DropReason`]'s number.
    pub reason: u32,
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
const _: () = assert!(size_of::<Event>() == 32, "no padding");
