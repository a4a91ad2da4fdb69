//! The Ethernet header and its tags (IEEE 802.3, 802.1Q-2022 clause 9).

use vnet_common::Mac;

use crate::{
    meta::{Meta, Tag, is_kernel_tpid, is_tpid},
    window::Window,
};

/// Bytes of an Ethernet header.
pub const ETH_LEN: usize = 14;
/// Bytes of a VLAN tag.
pub const TAG_LEN: usize = 4;

/// What the switch reads of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Destination address.
    pub dst: Mac,
    /// Source address.
    pub src: Mac,
    /// The outer tag, wherever it was.
    pub tag: Tag,
    /// The outer tag is in the bytes, not in metadata.
    pub tag_in_bytes: bool,
    /// Another tag follows the outer one, or one that cannot be an outer one.
    pub inner_tag: bool,
    /// EtherType behind the outer tag, host order.
    pub ether_type: u16,
}

impl Frame {
    /// What a frame holds before it was read.
    pub const EMPTY: Self = Self {
        dst: [0; 6],
        src: [0; 6],
        tag: Tag::NONE,
        tag_in_bytes: false,
        inner_tag: false,
        ether_type: 0,
    };

    /// Reads the header into `self`'s place. False when there is no whole one: a runt.
    #[inline(always)]
    pub fn parse<W: Window + ?Sized>(meta: &Meta, window: &W, frame: &mut Self) -> bool {
        let Some(h) = window.at::<ETH_LEN>(0) else {
            return false;
        };
        frame.dst = [h[0], h[1], h[2], h[3], h[4], h[5]];
        frame.src = [h[6], h[7], h[8], h[9], h[10], h[11]];
        frame.tag = meta.tag;
        frame.ether_type = u16::from_be_bytes([h[12], h[13]]);
        if !is_tpid(frame.ether_type) {
            return true;
        }
        // A tag that is cut short is a runt: nothing can be said about its VLAN, and the kernel
        // cannot move it.
        let Some(t) = window.at::<TAG_LEN>(ETH_LEN) else {
            return false;
        };
        if meta.tag.is_some() || !is_kernel_tpid(frame.ether_type) {
            frame.inner_tag = true;
            return true;
        }
        // XDP, or a frame that the host built with its tag: the outer tag is in the bytes.
        frame.tag = Tag {
            tpid: frame.ether_type,
            tci: u16::from_be_bytes([t[0], t[1]]),
        };
        frame.tag_in_bytes = true;
        frame.ether_type = u16::from_be_bytes([t[2], t[3]]);
        frame.inner_tag = is_tpid(frame.ether_type);
        !frame.inner_tag || window.at::<TAG_LEN>(ETH_LEN + TAG_LEN).is_some()
    }

    /// Offset of what follows the outer tag.
    #[inline(always)]
    #[must_use]
    pub const fn payload_offset(&self) -> usize {
        if self.tag_in_bytes {
            ETH_LEN + TAG_LEN
        } else {
            ETH_LEN
        }
    }
}

/// Whether the group bit is set: broadcast and multicast.
#[inline(always)]
#[must_use]
pub const fn is_group(mac: Mac) -> bool {
    mac[0] & 1 != 0
}

/// Whether it is ff:ff:ff:ff:ff:ff.
#[inline(always)]
#[must_use]
pub const fn is_broadcast(mac: Mac) -> bool {
    mac[0] & mac[1] & mac[2] & mac[3] & mac[4] & mac[5] == 0xff
}

/// Whether it is one of 01:80:c2:00:00:00 to 0f, which a bridge never forwards (802.1Q-2022,
/// table 8-1).
#[inline(always)]
#[must_use]
pub const fn is_reserved(mac: Mac) -> bool {
    mac[0] == 0x01
        && mac[1] == 0x80
        && mac[2] == 0xc2
        && mac[3] == 0
        && mac[4] == 0
        && mac[5] & 0xf0 == 0
}

/// Whether it is 00:00:00:00:00:00.
#[inline(always)]
#[must_use]
pub const fn is_zero(mac: Mac) -> bool {
    mac[0] | mac[1] | mac[2] | mac[3] | mac[4] | mac[5] == 0
}
