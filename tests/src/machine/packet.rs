//! The frame, and what the kernel's helpers do to it.

use std::collections::BTreeMap;

use vnet_ebpf::{
    flow::{
        icmp::Store,
        translate::{Change, WindowMut, edit},
    },
    forward::{Action, Exit, Packet},
    frame::{ETH_LEN, TAG_LEN},
    ip::Ip,
    meta::{TPID_8021AD, TPID_8021Q, Tag},
    window::{MAX_OFFSET, Window},
};

use crate::switch::{Frame, Outcome, Sent, Verdict, on_wire, token};

/// A socket buffer.
pub struct Skb<'a> {
    bytes: Vec<u8>,
    /// `skb->vlan_tci` and what belongs to it.
    tag: Tag,
    tc_index: u32,
    linear: usize,
    copies: Vec<Sent>,
    /// MTU and whether it is up, by interface.
    devices: &'a BTreeMap<u32, (u32, bool)>,
    tags_left: u32,
}

impl<'a> Skb<'a> {
    /// The buffer that holds `frame`, its token taken off, with memory for so many more tags.
    #[must_use]
    pub fn new(frame: &Frame, devices: &'a BTreeMap<u32, (u32, bool)>, tags_left: u32) -> Self {
        Self {
            bytes: frame.bytes.clone(),
            tag: frame.tag,
            tc_index: 0,
            linear: frame.linear.unwrap_or(usize::MAX).min(frame.bytes.len()),
            copies: Vec::new(),
            devices,
            tags_left,
        }
    }

    /// `bpf_skb_pull_data`, where the head is shorter than `wanted`.
    pub(super) fn pull(&mut self, wanted: usize) {
        self.linear = self.linear.max(wanted.min(self.bytes.len()));
    }

    /// Its length, without a tag in metadata.
    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Its first `len` bytes, linear or not.
    pub(super) fn head(&self, len: usize) -> Option<&[u8]> {
        self.bytes.get(..len)
    }

    /// Makes it another frame; a tag in metadata stays.
    pub(super) fn become_bytes(&mut self, bytes: Vec<u8>) {
        self.linear = bytes.len();
        self.bytes = bytes;
    }

    /// What became of it.
    pub(super) fn end(mut self, action: Action) -> Outcome {
        let verdict = match action {
            Action::Pass => Verdict::Pass,
            Action::Drop => Verdict::Drop,
            Action::Redirect(exit) => {
                self.mark(exit);
                Verdict::Redirect(self.sent(exit, true))
            }
            Action::Neighbour(exit) => {
                self.mark(exit);
                Verdict::Redirect(Sent {
                    neighbour: true,
                    ..self.sent(exit, true)
                })
            }
        };
        Outcome {
            verdict,
            bytes: self.bytes,
            tag: self.tag,
            copies: self.copies,
        }
    }

    fn mark(&mut self, exit: Exit) {
        self.tc_index = if exit.mark {
            token(exit.ifindex, exit.to_stack)
        } else {
            0
        };
    }

    fn sent(&self, exit: Exit, done: bool) -> Sent {
        Sent {
            ifindex: exit.ifindex,
            to_stack: exit.to_stack,
            neighbour: false,
            tc_index: self.tc_index,
            wire: done.then(|| on_wire(&self.bytes, self.tag)),
        }
    }

    /// Takes the tag behind the addresses out of the bytes (`__skb_vlan_pop`, net/core/skbuff.c).
    fn pop_bytes(&mut self) -> Option<Tag> {
        let tag = tag_at(&self.bytes)?;
        self.bytes.drain(12..12 + TAG_LEN);
        Some(tag)
    }

    /// `skb_vlan_pop` (net/core/skbuff.c): a tag in metadata, else one in the bytes; then the next
    /// one moves from the bytes to metadata.
    fn pop(&mut self) -> bool {
        if self.tag.is_some() {
            self.tag = Tag::NONE;
        } else if !has_vlan_type(&self.bytes) {
            return true;
        } else if self.pop_bytes().is_none() {
            return false;
        }
        if !has_vlan_type(&self.bytes) {
            return true;
        }
        match self.pop_bytes() {
            Some(tag) => {
                self.tag = tag;
                true
            }
            None => false,
        }
    }

    /// `skb_vlan_push` (net/core/skbuff.c): a tag in metadata moves to the bytes. The helper in
    /// front of it (`bpf_skb_vlan_push`, net/core/filter.c) knows two TPIDs.
    fn push(&mut self, tag: Tag) -> bool {
        let Some(left) = self.tags_left.checked_sub(1) else {
            return false;
        };
        self.tags_left = left;
        if self.tag.is_some() {
            self.bytes = on_wire(&self.bytes, self.tag);
        }
        let tpid = match tag.tpid {
            TPID_8021AD => TPID_8021AD,
            _ => TPID_8021Q,
        };
        self.tag = Tag { tpid, ..tag };
        true
    }
}

/// Whether the EtherType is one of those that the kernel takes for a tag (`eth_type_vlan`,
/// include/linux/if_vlan.h).
fn has_vlan_type(bytes: &[u8]) -> bool {
    matches!(bytes.get(12..14), Some([0x81, 0x00] | [0x88, 0xa8]))
}

/// The tag behind the addresses, when it is all there with the EtherType behind it.
fn tag_at(bytes: &[u8]) -> Option<Tag> {
    let [a, b, c, d, _, _] = *bytes.get(12..)?.first_chunk()?;
    Some(Tag {
        tpid: u16::from_be_bytes([a, b]),
        tci: u16::from_be_bytes([c, d]),
    })
}

impl Window for Skb<'_> {
    fn at<const N: usize>(&self, offset: usize) -> Option<&[u8; N]> {
        if offset > MAX_OFFSET {
            return None;
        }
        self.bytes[..self.linear].get(offset..)?.first_chunk()
    }
}

impl Packet for Skb<'_> {
    fn retag(&mut self, from: Tag, to: Tag) -> bool {
        if from == to {
            return true;
        }
        if from.is_some() && !self.pop() {
            return false;
        }
        !to.is_some() || self.push(to)
    }

    fn readdress(&mut self, to: vnet_common::Mac) -> bool {
        self.bytes[..6].copy_from_slice(&to);
        true
    }

    fn translate(&mut self, ip: &Ip, change: &Change) -> bool {
        edit(self, ip, change)
    }

    fn send_copy(&mut self, exit: Exit) -> bool {
        self.mark(exit);
        let done = self.devices.get(&exit.ifindex).is_some_and(|(_, up)| *up);
        let sent = self.sent(exit, done);
        self.copies.push(sent);
        done
    }
}

/// A frame in XDP: every tag in the bytes.
pub(super) struct Buffer {
    pub(super) bytes: Vec<u8>,
}

impl Buffer {
    pub(super) fn new(frame: &Frame) -> Self {
        Self {
            bytes: frame.bytes.clone(),
        }
    }
}

impl Packet for Buffer {
    fn retag(&mut self, from: Tag, to: Tag) -> bool {
        if from == to {
            return true;
        }
        if from.is_some() {
            if self.bytes.len() < ETH_LEN + TAG_LEN {
                return false;
            }
            if to.is_some() {
                self.bytes[14..16].copy_from_slice(&to.tci.to_be_bytes());
            } else {
                self.bytes.drain(12..12 + TAG_LEN);
            }
        } else if to.is_some() {
            self.bytes = on_wire(&self.bytes, to);
        }
        true
    }

    fn readdress(&mut self, _to: vnet_common::Mac) -> bool {
        false
    }

    fn translate(&mut self, ip: &Ip, change: &Change) -> bool {
        edit(self, ip, change)
    }

    fn send_copy(&mut self, _to: Exit) -> bool {
        false
    }
}

fn bytes_mut<const N: usize>(bytes: &mut [u8], offset: usize) -> Option<&mut [u8; N]> {
    if offset > MAX_OFFSET {
        return None;
    }
    bytes.get_mut(offset..)?.first_chunk_mut()
}

impl WindowMut for Skb<'_> {
    fn at_mut<const N: usize>(&mut self, offset: usize) -> Option<&mut [u8; N]> {
        bytes_mut(&mut self.bytes, offset)
    }
}

impl Store for Skb<'_> {
    fn store<const N: usize>(&mut self, offset: usize, bytes: &[u8; N]) -> bool {
        let Some(at) = bytes_mut(&mut self.bytes, offset) else {
            return false;
        };
        *at = *bytes;
        true
    }
}

impl Window for Buffer {
    fn at<const N: usize>(&self, offset: usize) -> Option<&[u8; N]> {
        self.bytes.as_slice().at(offset)
    }
}

impl WindowMut for Buffer {
    fn at_mut<const N: usize>(&mut self, offset: usize) -> Option<&mut [u8; N]> {
        bytes_mut(&mut self.bytes, offset)
    }
}
