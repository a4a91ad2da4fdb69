//! Routing and translation of a packet that the fast path leaves alone: the first of a connection, one
//! whose way out has to be looked up again, fragments, ICMP errors.
//!
//! [`arrive::arrive`] is the whole of it. Each step writes to [`crate::gateway::Work`] and returns an
//! [`Outcome`], one number, so that the kernel side can make it a subprogram.

pub mod arrive;
pub mod close;
pub mod open;
pub mod ports;
pub mod rules;
pub mod wayout;

use vnet_common::DropReason;

/// What a step says becomes of the packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome(pub u32);

/// An ICMP error for the sender of a dropped packet.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tell {
    /// None.
    Nothing = 0,
    /// Administratively prohibited (RFC 1812, 5.2.7.1; RFC 4443, 3.1).
    Prohibited = 1,
    /// Too long for the way out.
    TooBig = 2,
    /// The time to live is used up.
    TimeExceeded = 3,
}

impl Outcome {
    /// The next step decides.
    pub const GO_ON: Self = Self(0);
    /// It is sent as its entry says.
    pub const SEND: Self = Self(1);
    /// It is the host's.
    pub const STACK: Self = Self(2);
    /// It is an ICMP error about a packet of the flow at [`crate::gateway::Work::index`].
    pub const RELATED: Self = Self(3);
    /// It is a later fragment of a packet of that flow.
    pub const FRAGMENT: Self = Self(4);

    const DROP: u32 = 0x100;

    /// It is dropped.
    #[inline(always)]
    #[must_use]
    pub const fn drop(reason: DropReason) -> Self {
        Self(Self::DROP | reason as u32)
    }

    /// It is dropped, and its sender told.
    #[inline(always)]
    #[must_use]
    pub const fn refuse(reason: DropReason, tell: Tell) -> Self {
        Self(Self::DROP | reason as u32 | (tell as u32) << 16)
    }

    /// Whether it is dropped.
    #[inline(always)]
    #[must_use]
    pub const fn is_drop(self) -> bool {
        self.0 & Self::DROP != 0
    }

    /// The reason's number, of a drop.
    #[inline(always)]
    #[must_use]
    pub const fn reason(self) -> u32 {
        self.0 & 0xff
    }

    /// What its sender is told, as a [`Tell`]'s number.
    #[inline(always)]
    #[must_use]
    pub const fn tell(self) -> u32 {
        self.0 >> 16
    }
}
