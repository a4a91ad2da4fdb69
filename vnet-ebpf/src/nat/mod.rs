//! Routing and translation of a packet that the fast path leaves alone: the first of a connection, one
//! whose way out has to be looked up again, fragments, ICMP errors.
//!
//! [`arrive::arrive`] is the whole of it. Each step writes to [`crate::gateway::Work`] and returns an
//! [`Outcome`], one number, so that the kernel side can make it a subprogram.

pub mod arrive;
pub mod close;
pub mod host;
pub mod open;
pub mod ports;
pub mod rules;
pub mod source;
pub mod target;
pub mod wayout;

use vnet_common::DropReason;

use crate::{
    decide::Plan,
    gateway::{Gateway, Work},
    limit, policy,
    window::Window,
};

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
    /// A rule rejects it: a reset for TCP, else as [`Tell::Prohibited`].
    Refused = 4,
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

/// A part of the work that the kernel verifies by itself: each is a function of its own there, which
/// finds its packet's work in a map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Reads the packet's headers.
    Read,
    /// The flow that an ICMP error is about.
    Related,
    /// Whether a flow stands that the packet was not found by.
    Stands,
    /// Finds the packet's flow and its way out.
    Known,
    /// [`target::find_target`].
    Target,
    /// [`target::find_mapping`].
    Mapping,
    /// [`target::find_route`].
    Route,
    /// [`source::find_source`].
    Source,
    /// [`limit::may_begin`].
    Rate,
    /// [`open::find_room`].
    Room,
    /// [`open::make_way`].
    Way,
    /// [`source::find_block`].
    Block,
    /// [`source::map_source`].
    MapSource,
    /// [`source::give_back`].
    GiveBack,
    /// [`open::enter`].
    Enter,
    /// [`source::contact`].
    Contact,
    /// [`limit::hold`].
    Hold,
    /// [`limit::watch`].
    Watch,
    /// [`open::put`].
    Put,
    /// [`open::book`].
    Book,
    /// Whether the way out takes the packet.
    CheckWay,
    /// The flow of a later fragment.
    LaterFragment,
    /// What becomes of a packet of no flow.
    OfNobody,
    /// [`open::prepare`].
    Prepare,
    /// [`policy::judge::judge`].
    Judge,
    /// [`policy::judge::reload`].
    Reload,
    /// [`policy::judge::keep`].
    Keep,
    /// [`policy::arrive::known`].
    PolicyKnown,
    /// [`policy::arrive::related`].
    PolicyRelated,
    /// [`policy::arrive::fill`].
    PolicyFill,
    /// [`policy::arrive::renew`].
    PolicyRenew,
    /// [`policy::arrive::book`].
    PolicyBook,
}

/// Takes a step.
#[inline(always)]
pub fn take<W: Window + ?Sized, G: Gateway + ?Sized>(
    step: Step,
    work: &mut Work,
    plan: &Plan,
    window: &W,
    gateway: &G,
) -> Outcome {
    match step {
        Step::Read => arrive::read(work, plan, window),
        Step::Related => arrive::related(work, window, gateway),
        Step::Stands => arrive::still_stands(work, plan, gateway),
        Step::Known => arrive::known(work, plan, gateway),
        Step::Target => target::find_target(work, gateway),
        Step::Mapping => target::find_mapping(work, gateway),
        Step::Route => target::find_route(work, plan, gateway),
        Step::Source => source::find_source(work, gateway),
        Step::Rate => limit::may_begin(work, plan, gateway),
        Step::Room => open::find_room(work, gateway),
        Step::Way => {
            open::make_way(work, gateway);
            Outcome::GO_ON
        }
        Step::Block => source::find_block(work, gateway),
        Step::MapSource => source::map_source(work, gateway),
        Step::GiveBack => {
            source::give_back(work, plan, gateway);
            Outcome::GO_ON
        }
        Step::Enter => open::enter(work, plan, gateway),
        Step::Contact => {
            source::contact(work, gateway);
            Outcome::GO_ON
        }
        Step::Hold => {
            limit::hold(work, plan, gateway);
            Outcome::GO_ON
        }
        Step::Watch => limit::watch(work, plan, gateway),
        Step::Put => open::put(work, gateway),
        Step::Book => open::book(work, gateway),
        Step::CheckWay => arrive::check_way(work, gateway),
        Step::LaterFragment => arrive::later_fragment(work, gateway),
        Step::OfNobody => arrive::of_nobody(work, plan, gateway),
        Step::Prepare => {
            open::prepare(work, plan, gateway);
            Outcome::GO_ON
        }
        Step::Judge => policy::judge::judge(work, gateway),
        Step::Reload => policy::judge::reload(work, plan, gateway),
        Step::Keep => policy::judge::keep(work, plan, gateway),
        Step::PolicyKnown => policy::arrive::known(work, plan, gateway),
        Step::PolicyRelated => policy::arrive::related(work, plan, window, gateway),
        Step::PolicyFill => {
            policy::arrive::fill(work, plan, gateway);
            Outcome::GO_ON
        }
        Step::PolicyRenew => policy::arrive::renew(work, plan, gateway),
        Step::PolicyBook => policy::arrive::book(work, plan, gateway),
    }
}
