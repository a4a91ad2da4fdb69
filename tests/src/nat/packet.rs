//! Packets as they are seen on a wire.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A frame that was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// From the destination MAC address on.
    pub bytes: Vec<u8>,
}

/// An IP packet, or as much of it as an ICMP error holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ip<'a> {
    /// Source address.
    pub src: IpAddr,
    /// Destination address.
    pub dst: IpAddr,
    /// Protocol of `payload`, extension headers passed over.
    pub proto: u8,
    /// Time to live.
    pub ttl: u8,
    /// Bytes in front of `payload` in the whole packet that this is a fragment of.
    pub offset: usize,
    /// More fragments follow.
    pub more: bool,
    /// The header with its options or extension headers.
    pub header: &'a [u8],
    /// What follows it.
    pub payload: &'a [u8],
}

impl Packet {
    /// The EtherType, behind a tag where there is one.
    #[must_use]
    pub fn ether_type(&self) -> Option<u16> {
        let at = self.network_at();
        Some(u16::from_be_bytes(
            *self.bytes.get(at - 2..)?.first_chunk()?,
        ))
    }

    /// The source MAC address.
    #[must_use]
    pub fn source_mac(&self) -> Option<&[u8; 6]> {
        self.bytes.get(6..)?.first_chunk()
    }

    /// The IP packet in it.
    #[must_use]
    pub fn ip(&self) -> Option<Ip<'_>> {
        match self.ether_type()? {
            0x0800 | 0x86dd => ip_of(self.bytes.get(self.network_at()..)?),
            _ => None,
        }
    }

    /// The addresses of the ARP message in it: who asks or answers, and about whom.
    #[must_use]
    pub fn arp(&self) -> Option<[Ipv4Addr; 2]> {
        if self.ether_type()? != 0x0806 {
            return None;
        }
        let address = |at: usize| {
            let bytes: &[u8; 4] = self.bytes.get(self.network_at() + at..)?.first_chunk()?;
            Some(Ipv4Addr::from(*bytes))
        };
        Some([address(14)?, address(24)?])
    }

    /// Whether `mark` is anywhere in it.
    #[must_use]
    pub fn contains(&self, mark: &[u8]) -> bool {
        self.bytes.windows(mark.len()).any(|window| window == mark)
    }

    fn network_at(&self) -> usize {
        match self.bytes.get(12..14) {
            Some([0x81, 0x00] | [0x88, 0xa8]) => 18,
            _ => 14,
        }
    }
}

/// Reads an IP packet; what a frame is padded with is left out.
#[must_use]
pub fn ip_of(bytes: &[u8]) -> Option<Ip<'_>> {
    match bytes.first()? >> 4 {
        4 => ipv4(bytes),
        6 => ipv6(bytes),
        _ => None,
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// The bytes of the packet, whose length field says `length`: 0 is what a GSO buffer may say, and an
/// ICMP error holds less.
fn cut(bytes: &[u8], length: usize) -> &[u8] {
    match length {
        0 => bytes,
        length => &bytes[..length.min(bytes.len())],
    }
}

fn ipv4(bytes: &[u8]) -> Option<Ip<'_>> {
    let header = usize::from(bytes[0] & 15) * 4;
    let all = cut(bytes, word(bytes, 2)?.into());
    let fragment = word(all, 6)?;
    let address = |at: usize| Some(Ipv4Addr::from(*all.get(at..)?.first_chunk::<4>()?));
    Some(Ip {
        src: address(12)?.into(),
        dst: address(16)?.into(),
        proto: *all.get(9)?,
        ttl: *all.get(8)?,
        offset: usize::from(fragment & 0x1fff) * 8,
        more: fragment & 0x2000 != 0,
        header: all.get(..header)?,
        payload: all.get(header..)?,
    })
}

fn ipv6(bytes: &[u8]) -> Option<Ip<'_>> {
    let length = match word(bytes, 4)? {
        0 => 0,
        length => usize::from(length) + 40,
    };
    let all = cut(bytes, length);
    let address = |at: usize| Some(Ipv6Addr::from(*all.get(at..)?.first_chunk::<16>()?));
    let (mut next, mut at, mut offset, mut more) = (*all.get(6)?, 40, 0, false);
    // Hop-by-hop options, routing, destination options, fragment (RFC 8200, 4).
    while matches!(next, 0 | 43 | 44 | 60) && offset == 0 {
        let header = all.get(at..)?;
        let length = if next == 44 {
            let fragment = word(header, 2)?;
            offset = usize::from(fragment & 0xfff8);
            more = fragment & 1 != 0;
            8
        } else {
            usize::from(*header.get(1)?) * 8 + 8
        };
        next = *header.first()?;
        at += length;
    }
    Some(Ip {
        src: address(8)?.into(),
        dst: address(24)?.into(),
        proto: next,
        ttl: *all.get(7)?,
        offset,
        more,
        header: all.get(..at)?,
        payload: all.get(at..)?,
    })
}

impl<'a> Ip<'a> {
    /// Source and destination port of TCP or UDP.
    #[must_use]
    pub fn ports(&self) -> Option<[u16; 2]> {
        if self.offset != 0 || !matches!(self.proto, 6 | 17) {
            return None;
        }
        Some([word(self.payload, 0)?, word(self.payload, 2)?])
    }

    /// Type and code of an ICMP message of either version.
    #[must_use]
    pub fn icmp(&self) -> Option<[u8; 2]> {
        if self.offset != 0 || !matches!(self.proto, 1 | 58) {
            return None;
        }
        self.payload.first_chunk().copied()
    }

    /// The packet that an ICMP error is about.
    #[must_use]
    pub fn subject(&self) -> Option<Ip<'a>> {
        // Destination unreachable, source quench, redirect, time exceeded, parameter problem; and
        // those of ICMPv6 (RFC 4443, 2.1).
        let is_error = match (self.proto, self.icmp()?[0]) {
            (1, kind) => matches!(kind, 3 | 4 | 5 | 11 | 12),
            (_, kind) => kind < 128,
        };
        is_error.then(|| ip_of(self.payload.get(8..)?)).flatten()
    }
}

#[cfg(test)]
mod tests {
    use etherparse::PacketBuilder;

    use super::*;

    fn frame(build: impl FnOnce(&mut Vec<u8>)) -> Packet {
        let mut bytes = Vec::new();
        build(&mut bytes);
        Packet { bytes }
    }

    #[test]
    fn udp_in_an_icmp_error() {
        let inner = frame(|bytes| {
            PacketBuilder::ipv4([192, 0, 2, 1], [192, 0, 2, 2], 63)
                .udp(40_000, 53)
                .write(bytes, b"question")
                .unwrap();
        });
        let mut body = vec![3, 3, 0, 0, 0, 0, 0, 0];
        body.extend(&inner.bytes);
        let outer = frame(|bytes| {
            PacketBuilder::ethernet2([1; 6], [2; 6])
                .ipv4([192, 0, 2, 2], [192, 0, 2, 1], 64)
                .icmpv4_raw(3, 3, [0; 4])
                .write(bytes, &inner.bytes)
                .unwrap();
        });
        let ip = outer.ip().unwrap();
        assert_eq!(ip.src.to_string(), "192.0.2.2");
        assert_eq!(ip.icmp(), Some([3, 3]));
        let subject = ip.subject().unwrap();
        assert_eq!(subject.ports(), Some([40_000, 53]));
        assert_eq!(subject.src.to_string(), "192.0.2.1");
        assert_eq!(&subject.payload[8..], b"question");
        assert!(outer.contains(b"question"));
    }

    #[test]
    fn padding_is_left_out() {
        let mut packet = frame(|bytes| {
            PacketBuilder::ethernet2([1; 6], [2; 6])
                .ipv6([1; 16], [2; 16], 64)
                .udp(1, 2)
                .write(bytes, b"x")
                .unwrap();
        });
        packet.bytes.resize(100, 0);
        let ip = packet.ip().unwrap();
        assert_eq!((ip.proto, ip.payload.len()), (17, 9));
        assert_eq!(packet.source_mac(), Some(&[1; 6]));
    }
}
