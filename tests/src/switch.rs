//! What both machines can do, and what they tell of a frame.

use std::collections::BTreeMap;

use anyhow::Result;
use vnet_common::{Event, FdbEntry, Mac};
use vnet_ebpf::meta::{Hook, Meta, Tag, is_kernel_tpid};

use crate::{connections::Connections, ledger::Ledger, setup::Setup, world::Line};

/// A frame as it comes to a hook.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Where it comes.
    pub hook: Hook,
    /// The interface.
    pub ifindex: u32,
    /// From the Ethernet header on, with every tag but `tag`.
    pub bytes: Vec<u8>,
    /// The tag in metadata.
    pub tag: Tag,
    /// `skb->tc_index`: where our own redirects leave their token.
    pub tc_index: u32,
    /// Payload bytes a segment, 0 when it is no GSO buffer.
    pub gso_size: u32,
    /// Segments as the kernel tells them.
    pub gso_segs: u32,
    /// Bytes in the linear head, or in the first buffer; `None`: all.
    pub linear: Option<usize>,
    /// Of what the host's stack sends: it came in elsewhere.
    pub forwarded: bool,
}

impl Frame {
    /// A frame that comes from a wire, a VM or the host's stack, every tag in its place in `wire`.
    /// At TC the kernel has taken the outer one to metadata (`skb_vlan_untag`, net/core/skbuff.c).
    #[must_use]
    pub fn received(hook: Hook, ifindex: u32, mut wire: Vec<u8>) -> Self {
        let tag = match hook {
            Hook::Xdp => Tag::NONE,
            Hook::TcIngress | Hook::TcEgress => outer_tag(&wire).unwrap_or(Tag::NONE),
        };
        if tag.is_some() {
            wire.drain(12..16);
        }
        Self {
            hook,
            ifindex,
            bytes: wire,
            tag,
            tc_index: 0,
            gso_size: 0,
            gso_segs: 0,
            linear: None,
            forwarded: false,
        }
    }

    /// What the pipeline is told of it besides its bytes.
    #[must_use]
    pub fn meta(&self) -> Meta {
        let at_tc = self.hook != Hook::Xdp;
        let to_stack = self.hook == Hook::TcIngress;
        Meta {
            hook: self.hook,
            ifindex: self.ifindex,
            len: self.bytes.len() as u32,
            gso_size: if at_tc { self.gso_size } else { 0 },
            gso_segs: if at_tc { self.gso_segs } else { 0 },
            tag: if at_tc { self.tag } else { Tag::NONE },
            redirected: at_tc && self.tc_index == token(self.ifindex, to_stack),
            forwarded: self.hook == Hook::TcEgress && self.forwarded,
        }
    }
}

/// The outer tag of a frame on a wire, when it is one that the kernel knows and whole.
#[must_use]
pub fn outer_tag(wire: &[u8]) -> Option<Tag> {
    let [a, b, c, d, _, _] = *wire.get(12..)?.first_chunk()?;
    let tpid = u16::from_be_bytes([a, b]);
    is_kernel_tpid(tpid).then_some(Tag {
        tpid,
        tci: u16::from_be_bytes([c, d]),
    })
}

/// A place that a frame was sent to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sent {
    /// The interface.
    pub ifindex: u32,
    /// Into the interface, to the host's stack, instead of out of it.
    pub to_stack: bool,
    /// Where on the interface is for the kernel to find: its neighbour table decides.
    pub neighbour: bool,
    /// `skb->tc_index` at that moment.
    pub tc_index: u32,
    /// The frame as it is on a wire, every tag in place; `None` when the kernel refused to send it.
    pub wire: Option<Vec<u8>>,
}

/// What the program answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// On to whatever is behind the hook.
    Pass,
    /// Dropped.
    Drop,
    /// Sent.
    Redirect(Sent),
}

/// What became of a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// What the program answered.
    pub verdict: Verdict,
    /// The frame afterwards.
    pub bytes: Vec<u8>,
    /// Its tag in metadata afterwards.
    pub tag: Tag,
    /// Copies, in the order in which they were sent.
    pub copies: Vec<Sent>,
}

impl Outcome {
    /// Every place that the frame was sent to: the copies, then the frame itself.
    pub fn sent(&self) -> impl Iterator<Item = &Sent> {
        let redirect = match &self.verdict {
            Verdict::Redirect(sent) => Some(sent),
            _ => None,
        };
        self.copies.iter().chain(redirect)
    }
}

/// What is known of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Known {
    /// Where it is.
    pub slot: u16,
    /// `FDB_…` bits.
    pub flags: u16,
    /// When it was last seen, in seconds of the machine's clock.
    pub seen_s: u32,
}

impl From<&FdbEntry> for Known {
    fn from(entry: &FdbEntry) -> Self {
        Self {
            slot: entry.slot,
            flags: entry.flags,
            seen_s: entry.seen_s,
        }
    }
}

/// What is known of every address, by address and segment.
pub type Addresses = BTreeMap<(Mac, u16), Known>;

/// When the clock of a machine starts, in seconds.
pub const START_S: u32 = 1_000_000;

/// A machine that switches frames.
pub trait Switch {
    /// Hands a frame to the program of its hook.
    ///
    /// # Errors
    /// The machine cannot run it.
    fn run(&mut self, frame: &Frame) -> Result<Outcome>;

    /// Every counter that is not zero.
    ///
    /// # Errors
    /// The counters cannot be read.
    fn ledger(&self) -> Result<Ledger>;

    /// What is in the FDB. Checks the table's own counts against it.
    ///
    /// # Errors
    /// The table cannot be read, or its counts are wrong.
    fn addresses(&self) -> Result<Addresses>;

    /// The events since the last call, times set to zero.
    ///
    /// # Errors
    /// Events cannot be read, or some were lost.
    fn events(&mut self) -> Result<Vec<Event>>;

    /// Lets `seconds` go by.
    ///
    /// # Errors
    /// The clock cannot be set.
    fn advance(&mut self, seconds: u32) -> Result<()>;

    /// Every connection and mapping.
    ///
    /// # Errors
    /// The tables cannot be read.
    fn connections(&self) -> Result<Connections>;

    /// Ends every connection that is over, as the expiry timer does, a whole walk at once.
    ///
    /// # Errors
    /// The program refuses.
    fn sweep_flows(&mut self) -> Result<()>;

    /// Ends every connection, as `vnet-user flow flush` does.
    ///
    /// # Errors
    /// One cannot be ended.
    fn flush(&mut self) -> Result<()>;

    /// Something becomes so on the host, or no longer is.
    ///
    /// # Errors
    /// The host refuses.
    fn host(&mut self, line: &Line) -> Result<()>;

    /// Puts another configuration into force; what was learned stays.
    ///
    /// # Errors
    /// The tables cannot be filled.
    fn apply(&mut self, setup: &Setup) -> Result<()>;
}

/// The token that the datapath leaves in `skb->tc_index` of a frame that it sends to an uplink, or
/// from one to the host behind it (`token` in vnet-ebpf/src/kernel/tc.rs).
#[must_use]
pub fn token(ifindex: u32, to_stack: bool) -> u32 {
    0x8000 | (u32::from(to_stack) << 14) | (ifindex & 0x3fff)
}

/// `bytes` with `tag` in its place behind the addresses, as a device puts it on the wire.
#[must_use]
pub fn on_wire(bytes: &[u8], tag: Tag) -> Vec<u8> {
    let mut wire = bytes.to_vec();
    if tag.is_some() && wire.len() >= 12 {
        let [a, b] = tag.tpid.to_be_bytes();
        let [c, d] = tag.tci.to_be_bytes();
        wire.splice(12..12, [a, b, c, d]);
    }
    wire
}
