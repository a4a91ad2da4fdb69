//! IPv4 and IPv6 headers, and what flows are recognised by in the headers behind them (RFC 791, 8200,
//! 9293, 768, 792, 4443).

use network_types::eth::EtherType;
use vnet_common::{FlowKey, flow::V4_PREFIX};

use crate::{
    bytes::{put_words, word_at, zero_words},
    frame::Frame,
    window::Window,
};

/// EtherType of IPv4, host order.
pub const IPV4: u16 = u16::from_be(EtherType::Ipv4 as u16);
/// EtherType of IPv6, host order.
pub const IPV6: u16 = u16::from_be(EtherType::Ipv6 as u16);

/// Protocol numbers (IANA).
pub mod proto {
    /// ICMP for IPv4.
    pub const ICMP: u8 = 1;
    /// IGMP.
    pub const IGMP: u8 = 2;
    /// TCP.
    pub const TCP: u8 = 6;
    /// UDP.
    pub const UDP: u8 = 17;
    /// DCCP.
    pub const DCCP: u8 = 33;
    /// ICMP for IPv6.
    pub const ICMPV6: u8 = 58;
    /// SCTP.
    pub const SCTP: u8 = 132;
    /// UDP-Lite.
    pub const UDP_LITE: u8 = 136;

    /// IPv6 hop-by-hop options.
    pub const HOP_BY_HOP: u8 = 0;
    /// IPv6 routing header.
    pub const ROUTING: u8 = 43;
    /// IPv6 fragment header.
    pub const FRAGMENT: u8 = 44;
    /// IPv6 destination options.
    pub const DESTINATION: u8 = 60;
}

/// TCP flag FIN.
pub const TCP_FIN: u8 = 1;
/// TCP flag SYN.
pub const TCP_SYN: u8 = 2;
/// TCP flag RST.
pub const TCP_RST: u8 = 4;
/// TCP flag ACK.
pub const TCP_ACK: u8 = 16;

/// Bytes of an IPv4 header without options.
pub const IPV4_LEN: usize = 20;
/// Bytes of an IPv6 header.
pub const IPV6_LEN: usize = 40;
/// Extension headers of IPv6 that are followed; packets with more are not for us.
const EXTENSIONS: usize = 6;

/// What kind of ICMP a packet is.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Icmp {
    /// No ICMP.
    None,
    /// Echo request.
    Request,
    /// Echo reply.
    Reply,
    /// About another packet, which it embeds.
    Error,
    /// Neither.
    Other,
}

/// Which part of a packet it is.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// All of it.
    Whole,
    /// Its first fragment.
    First,
    /// Another fragment, without the headers behind IP.
    Later,
}

/// Why a packet's headers are not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unread {
    /// It is not IP, or addressed to nobody that a gateway cares about.
    NotIp,
    /// It is IP, and broken.
    Malformed,
    /// It takes more work than the fast path does.
    Complex,
}

/// An IP packet's headers.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ip {
    /// Addresses, ports and protocol. The segment is left 0.
    pub key: FlowKey,
    /// Sequence number, TCP only.
    pub seq: u32,
    /// Acknowledgement number, TCP only.
    pub ack: u32,
    /// Bytes behind the TCP header, or behind the IP header for others, as the IP header says:
    /// meaningless in a GSO buffer.
    pub payload: u32,
    /// Identification, of fragments.
    pub id: u32,
    /// Offset of the IP header.
    pub l3: u16,
    /// Offset of what is behind the IP header and its extensions.
    pub l4: u16,
    /// Time to live, or hop limit.
    pub ttl: u8,
    /// TCP flags.
    pub tcp_flags: u8,
    /// Kind of ICMP.
    pub icmp: Icmp,
    /// Which part of a packet.
    pub part: Part,
    /// IPv6.
    pub v6: bool,
    /// IPv4 must not be fragmented; always true of IPv6.
    pub dont_fragment: bool,
    /// Bytes of the TCP header in units of four; 0 for others.
    pub tcp_words: u8,
    /// The type of an ICMP message.
    pub icmp_type: u8,
}

impl Ip {
    /// Before anything was read.
    pub const EMPTY: Self = Self {
        key: FlowKey::NONE,
        seq: 0,
        ack: 0,
        payload: 0,
        id: 0,
        l3: 0,
        l4: 0,
        ttl: 0,
        tcp_flags: 0,
        icmp: Icmp::None,
        part: Part::Whole,
        v6: false,
        dont_fragment: false,
        tcp_words: 0,
        icmp_type: 0,
    };

    /// Before anything was read, written in place.
    #[inline(always)]
    pub fn clear(&mut self) {
        const {
            assert!(size_of::<Ip>().is_multiple_of(8) && align_of::<Ip>() >= 8);
            // What is all zeroes.
            assert!(Icmp::None as u8 == 0 && Part::Whole as u8 == 0);
        }
        // SAFETY: plain data of which zeroes are a value, as long and aligned as is asserted.
        unsafe { zero_words(core::ptr::from_mut(self).cast(), size_of::<Self>() / 8) };
    }

    /// Whether the flow's ports stand for something that may be replaced: ports, or the identifier
    /// of an echo.
    #[inline(always)]
    #[must_use]
    pub const fn has_ports(&self) -> bool {
        has_ports(self.key.proto) || matches!(self.icmp, Icmp::Request | Icmp::Reply)
    }
}

/// Whether a protocol has ports that a translator knows to replace.
#[inline(always)]
#[must_use]
pub const fn has_ports(proto: u8) -> bool {
    matches!(proto, proto::TCP | proto::UDP)
}

/// Whether a protocol's ports say which service a packet is for.
#[inline(always)]
#[must_use]
pub const fn has_service_ports(proto: u8) -> bool {
    matches!(proto, proto::TCP | proto::UDP | proto::SCTP)
}

/// Offset of the checksum in the header behind IP of protocols whose checksum covers the addresses;
/// 0 where there is none.
#[inline(always)]
#[must_use]
pub const fn checksum_offset(proto: u8) -> u16 {
    match proto {
        proto::TCP => 16,
        proto::UDP | proto::UDP_LITE | proto::DCCP => 6,
        proto::ICMPV6 => 2,
        _ => 0,
    }
}

/// Reads the headers of a frame that the fast path takes: IPv4, or IPv6 without extension headers;
/// no fragments. Writes to `ip`, whatever that held before.
///
/// # Errors
/// [`Unread::Complex`] for what [`read`] may read.
#[inline(always)]
pub fn read_simple<W: Window + ?Sized>(
    frame: &Frame,
    window: &W,
    ip: &mut Ip,
) -> Result<(), Unread> {
    let l3 = frame.payload_offset();
    ip.clear();
    ip.l3 = l3 as u16;
    match frame.ether_type {
        IPV4 => {
            read_v4(window, l3, ip)?;
            if !matches!(ip.part, Part::Whole) {
                return Err(Unread::Complex);
            }
        }
        IPV6 => {
            read_v6(window, l3, ip)?;
            if !matches!(ip.key.proto, proto::TCP | proto::UDP | proto::ICMPV6) {
                return Err(Unread::Complex);
            }
        }
        _ => return Err(Unread::NotIp),
    }
    read_l4(window, ip)
}

/// Reads the headers of any IP packet at `l3`. Writes to `ip`, whatever that held before.
///
/// # Errors
/// It is broken, or has more extension headers than are followed.
#[inline(always)]
pub fn read<W: Window + ?Sized>(
    window: &W,
    l3: usize,
    v6: bool,
    ip: &mut Ip,
) -> Result<(), Unread> {
    ip.clear();
    ip.l3 = l3 as u16;
    if v6 {
        read_v6(window, l3, ip)?;
        follow_extensions(window, ip)?;
    } else {
        read_v4(window, l3, ip)?;
    }
    if matches!(ip.part, Part::Later) {
        return Ok(());
    }
    read_l4(window, ip)
}

#[inline(always)]
fn read_v4<W: Window + ?Sized>(window: &W, l3: usize, ip: &mut Ip) -> Result<(), Unread> {
    let h: &[u8; IPV4_LEN] = window.at(l3).ok_or(Unread::Malformed)?;
    let header = (h[0] & 0x0f) as usize * 4;
    let total = u16::from_be_bytes([h[2], h[3]]) as u32;
    if h[0] >> 4 != 4 || header < IPV4_LEN || total < header as u32 {
        return Err(Unread::Malformed);
    }
    let fragment = u16::from_be_bytes([h[6], h[7]]);
    let prefix = u32::from_ne_bytes([0, 0, 0xff, 0xff]);
    put_words(&mut ip.key.src, [0, 0, prefix, word_at(h, 12)]);
    put_words(&mut ip.key.dst, [0, 0, prefix, word_at(h, 16)]);
    ip.key.proto = h[9];
    ip.ttl = h[8];
    ip.l4 = (l3 + header) as u16;
    ip.payload = total.wrapping_sub(header as u32);
    ip.dont_fragment = fragment & 0x4000 != 0;
    ip.id = u32::from(u16::from_be_bytes([h[4], h[5]]));
    ip.part = if fragment & 0x1fff != 0 {
        Part::Later
    } else if fragment & 0x2000 != 0 {
        Part::First
    } else {
        Part::Whole
    };
    Ok(())
}

#[inline(always)]
fn read_v6<W: Window + ?Sized>(window: &W, l3: usize, ip: &mut Ip) -> Result<(), Unread> {
    let h: &[u8; IPV6_LEN] = window.at(l3).ok_or(Unread::Malformed)?;
    if h[0] >> 4 != 6 {
        return Err(Unread::Malformed);
    }
    put_words(&mut ip.key.src, words_at(h, 8));
    put_words(&mut ip.key.dst, words_at(h, 24));
    // An IPv4-mapped address is none on the wire (RFC 4291, 2.5.5.2), and would pass for IPv4 here.
    if is_mapped(&ip.key.src) || is_mapped(&ip.key.dst) {
        return Err(Unread::Malformed);
    }
    ip.key.proto = h[6];
    ip.ttl = h[7];
    ip.l4 = (l3 + IPV6_LEN) as u16;
    ip.payload = u32::from(u16::from_be_bytes([h[4], h[5]]));
    ip.v6 = true;
    ip.dont_fragment = true;
    Ok(())
}

#[inline(always)]
fn words_at(h: &[u8; IPV6_LEN], offset: usize) -> [u32; 4] {
    [
        word_at(h, offset),
        word_at(h, offset + 4),
        word_at(h, offset + 8),
        word_at(h, offset + 12),
    ]
}

#[inline(always)]
fn is_mapped(addr: &[u8; 16]) -> bool {
    let mut i = 0;
    let mut differs = 0;
    while i < 12 {
        differs |= addr[i] ^ V4_PREFIX[i];
        i += 1;
    }
    differs == 0
}

/// Follows IPv6 extension headers to the first that is none.
#[inline(always)]
fn follow_extensions<W: Window + ?Sized>(window: &W, ip: &mut Ip) -> Result<(), Unread> {
    let mut i = 0;
    // One more than there may be: what is behind the last.
    while i <= EXTENSIONS {
        let offset = ip.l4 as usize;
        match ip.key.proto {
            proto::HOP_BY_HOP | proto::ROUTING | proto::DESTINATION => {
                let h: &[u8; 8] = window.at(offset).ok_or(Unread::Malformed)?;
                let len = (h[1] as u32 + 1) * 8;
                ip.key.proto = h[0];
                ip.l4 = ip.l4.wrapping_add(len as u16);
                ip.payload = ip.payload.wrapping_sub(len);
            }
            proto::FRAGMENT => {
                let h: &[u8; 8] = window.at(offset).ok_or(Unread::Malformed)?;
                let field = u16::from_be_bytes([h[2], h[3]]);
                ip.key.proto = h[0];
                ip.id = u32::from_be_bytes([h[4], h[5], h[6], h[7]]);
                ip.l4 = ip.l4.wrapping_add(8);
                ip.payload = ip.payload.wrapping_sub(8);
                if field & 0xfff8 != 0 {
                    ip.part = Part::Later;
                    return Ok(());
                }
                // An "atomic fragment" (RFC 6946) is whole.
                if field & 1 != 0 {
                    ip.part = Part::First;
                }
            }
            _ => return Ok(()),
        }
        i += 1;
    }
    Err(Unread::Malformed)
}

/// Reads the header behind IP as far as flows need it.
#[inline(always)]
fn read_l4<W: Window + ?Sized>(window: &W, ip: &mut Ip) -> Result<(), Unread> {
    let l4 = ip.l4 as usize;
    // What is behind the packet in its frame is nothing that a fragment says. Of whole packets the
    // receiver sees as much.
    if matches!(ip.part, Part::First) && (ip.payload as i32) < 8 {
        return Err(Unread::Malformed);
    }
    match ip.key.proto {
        proto::TCP => {
            if matches!(ip.part, Part::First) && ip.payload < 14 {
                return Err(Unread::Malformed);
            }
            let h: &[u8; 14] = window.at(l4).ok_or(Unread::Malformed)?;
            ip.key.sport = u16::from_be_bytes([h[0], h[1]]);
            ip.key.dport = u16::from_be_bytes([h[2], h[3]]);
            ip.seq = u32::from_be_bytes([h[4], h[5], h[6], h[7]]);
            ip.ack = u32::from_be_bytes([h[8], h[9], h[10], h[11]]);
            ip.tcp_words = h[12] >> 4;
            ip.tcp_flags = h[13];
            ip.payload = ip.payload.wrapping_sub(u32::from(ip.tcp_words) * 4);
        }
        proto::UDP | proto::SCTP => {
            let h: &[u8; 8] = window.at(l4).ok_or(Unread::Malformed)?;
            ip.key.sport = u16::from_be_bytes([h[0], h[1]]);
            ip.key.dport = u16::from_be_bytes([h[2], h[3]]);
        }
        proto::ICMP if !ip.v6 => {
            let h: &[u8; 8] = window.at(l4).ok_or(Unread::Malformed)?;
            ip.icmp_type = h[0];
            ip.icmp = match h[0] {
                8 => Icmp::Request,
                0 => Icmp::Reply,
                // A redirect is none: it speaks for a router, not about a packet.
                3 | 4 | 11 | 12 => Icmp::Error,
                _ => Icmp::Other,
            };
            set_echo(ip, u16::from_be_bytes([h[4], h[5]]));
        }
        proto::ICMPV6 if ip.v6 => {
            let h: &[u8; 8] = window.at(l4).ok_or(Unread::Malformed)?;
            ip.icmp_type = h[0];
            ip.icmp = match h[0] {
                128 => Icmp::Request,
                129 => Icmp::Reply,
                0..=127 => Icmp::Error,
                _ => Icmp::Other,
            };
            set_echo(ip, u16::from_be_bytes([h[4], h[5]]));
        }
        _ => {}
    }
    Ok(())
}

/// Reads the headers of the packet that an ICMP error embeds: of what is behind IP only the first
/// eight bytes are promised (RFC 792), and only the ports are taken.
///
/// # Errors
/// It is cut shorter, or none of a flow.
#[inline(always)]
pub fn read_embedded<W: Window + ?Sized>(
    window: &W,
    l3: usize,
    v6: bool,
    ip: &mut Ip,
) -> Result<(), Unread> {
    ip.clear();
    ip.l3 = l3 as u16;
    if v6 {
        read_v6(window, l3, ip)?;
    } else {
        read_v4(window, l3, ip)?;
    }
    if matches!(ip.part, Part::Later) {
        return Err(Unread::Complex);
    }
    let l4 = ip.l4 as usize;
    match ip.key.proto {
        proto::TCP | proto::UDP | proto::SCTP => {
            let h: &[u8; 8] = window.at(l4).ok_or(Unread::Malformed)?;
            ip.key.sport = u16::from_be_bytes([h[0], h[1]]);
            ip.key.dport = u16::from_be_bytes([h[2], h[3]]);
        }
        proto::ICMP | proto::ICMPV6 => {
            read_l4(window, ip)?;
            if matches!(ip.icmp, Icmp::Error) {
                return Err(Unread::Complex);
            }
        }
        _ => {}
    }
    Ok(())
}

#[inline(always)]
fn set_echo(ip: &mut Ip, id: u16) {
    match ip.icmp {
        Icmp::Request => ip.key.sport = id,
        Icmp::Reply => ip.key.dport = id,
        Icmp::Other => set_query(ip),
        _ => {}
    }
}

/// Other messages are told from each other by their types: an answer (RFC 792, RFC 4620, RFC 6275) goes
/// with its question, and what is neither with its like.
#[inline(always)]
fn set_query(ip: &mut Ip) {
    /// No echo has it in the place of what is no identifier.
    const QUERY: u16 = u16::MAX;
    let kind = u16::from(ip.icmp_type);
    let (asks, answers) = if ip.v6 {
        (
            matches!(kind, 139 | 144 | 146),
            matches!(kind, 140 | 145 | 147),
        )
    } else {
        (matches!(kind, 13 | 15 | 17), matches!(kind, 14 | 16 | 18))
    };
    ip.key.sport = if answers { QUERY } else { kind };
    ip.key.dport = if asks {
        QUERY
    } else if answers {
        kind - 1
    } else {
        kind
    };
}
