//! How long a frame will be on the wire, when segmentation is still to come.

use network_types::{eth::EtherType, ip::IpProto};

use crate::{frame::Frame, meta::Meta, window::Window};

const IPV4: u16 = u16::from_be(EtherType::Ipv4 as u16);
const IPV6: u16 = u16::from_be(EtherType::Ipv6 as u16);
const TCP: u8 = IpProto::Tcp as u8;
const UDP: u8 = IpProto::Udp as u8;
/// Headers of a segment that cannot be read: an IPv4 and a TCP header without options, the least
/// that a GSO buffer has.
const LEAST_HEADERS: u32 = 40;
const IPV6_HEADER: u32 = 40;

/// Bytes that the frame, or each frame it will be cut into, has behind its outer tag: what an MTU
/// limits. An inner tag is not counted, as the kernel leaves room for one (`__is_skb_forwardable`,
/// include/linux/netdevice.h).
#[inline(always)]
pub fn wire_l3_len<W: Window + ?Sized>(meta: &Meta, frame: &Frame, window: &W) -> u32 {
    if meta.gso_size != 0 {
        return meta.gso_size.saturating_add(segment_headers(frame, window));
    }
    let headers = frame.payload_offset() as u32 + if frame.inner_tag { 4 } else { 0 };
    meta.len.saturating_sub(headers)
}

/// Bytes of IP and TCP or UDP header that every segment repeats.
#[inline(always)]
fn segment_headers<W: Window + ?Sized>(frame: &Frame, window: &W) -> u32 {
    read_headers(frame, window).unwrap_or(LEAST_HEADERS)
}

#[inline(always)]
fn read_headers<W: Window + ?Sized>(frame: &Frame, window: &W) -> Option<u32> {
    let mut l3 = frame.payload_offset();
    let mut ether_type = frame.ether_type;
    if frame.inner_tag {
        let t: &[u8; 4] = window.at(l3)?;
        ether_type = u16::from_be_bytes([t[2], t[3]]);
        l3 += 4;
    }
    let (l3_len, protocol) = match ether_type {
        IPV4 => {
            let h: &[u8; 20] = window.at(l3)?;
            (u32::from(h[0] & 0x0f) * 4, h[9])
        }
        // Extension headers in front of a GSO buffer's TCP are not followed: the frame then counts
        // as a few bytes shorter than it is.
        IPV6 => (IPV6_HEADER, window.at::<40>(l3)?[6]),
        _ => return None,
    };
    let l4_len = match protocol {
        TCP => u32::from(window.at::<14>(l3 + l3_len as usize)?[12] >> 4) * 4,
        UDP => 8,
        _ => return None,
    };
    Some(l3_len + l4_len)
}

/// Whether the frame is TCP over IPv4 or IPv6, directly behind the outer tag.
#[inline(always)]
pub fn is_tcp<W: Window + ?Sized>(frame: &Frame, window: &W) -> bool {
    let l3 = frame.payload_offset();
    match frame.ether_type {
        IPV4 => window.at::<20>(l3).is_some_and(|h| h[9] == TCP),
        IPV6 => window.at::<40>(l3).is_some_and(|h| h[6] == TCP),
        _ => false,
    }
}
