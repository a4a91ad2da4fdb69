//! What both machines can do, and what they tell of a frame.

use std::collections::BTreeMap;

use anyhow::Result;
use vnet_common::{Event, Mac};
use vnet_ebpf::meta::{Hook, Tag};

use crate::{ledger::Ledger, setup::Setup};

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
}

/// A place that a frame was sent to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sent {
    /// The interface.
    pub ifindex: u32,
    /// Into the interface, to the host's stack, instead of out of it.
    pub to_stack: bool,
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

/// Slot and flags of every known address, by address and segment.
pub type Addresses = BTreeMap<(Mac, u16), (u16, u16)>;

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
    /// The machine's clock does not go back that far.
    fn advance(&mut self, seconds: u32) -> Result<()>;

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
