//! Packets made by hand, for what no kernel sends.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::check::{pseudo_header, sum};

/// What an IPv4 header says besides addresses and protocol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct V4 {
    /// DSCP and ECN.
    pub tos: u8,
    /// Identification.
    pub id: u16,
    /// Flags (0x4000: don't fragment, 0x2000: more fragments) and offset in units of 8 bytes.
    pub fragment: u16,
    /// Time to live.
    pub ttl: u8,
    /// Options, padded to whole words.
    pub options: Vec<u8>,
}

impl Default for V4 {
    fn default() -> Self {
        Self {
            tos: 0,
            id: 0x1234,
            fragment: 0,
            ttl: 64,
            options: Vec::new(),
        }
    }
}

/// An Ethernet frame around an IP packet.
#[must_use]
pub fn frame(dst: [u8; 6], src: [u8; 6], packet: &[u8]) -> Vec<u8> {
    let ether_type: [u8; 2] = match packet.first().map(|byte| byte >> 4) {
        Some(6) => [0x86, 0xdd],
        _ => [0x08, 0x00],
    };
    [&dst[..], &src, &ether_type, packet].concat()
}

/// An IPv4 packet with a right header checksum.
#[must_use]
pub fn ipv4(src: Ipv4Addr, dst: Ipv4Addr, proto: u8, rest: &V4, payload: &[u8]) -> Vec<u8> {
    let header = 20 + rest.options.len();
    let mut packet = vec![0x40 | (header / 4) as u8, rest.tos];
    packet.extend(((header + payload.len()) as u16).to_be_bytes());
    packet.extend(rest.id.to_be_bytes());
    packet.extend(rest.fragment.to_be_bytes());
    packet.extend([rest.ttl, proto, 0, 0]);
    packet.extend(src.octets());
    packet.extend(dst.octets());
    packet.extend(&rest.options);
    let check = !sum(&[&packet]);
    packet[10..12].copy_from_slice(&check.to_be_bytes());
    packet.extend(payload);
    packet
}

/// An IPv6 packet whose payload begins with the header `next`.
#[must_use]
pub fn ipv6(src: Ipv6Addr, dst: Ipv6Addr, next: u8, hops: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend((payload.len() as u16).to_be_bytes());
    packet.extend([next, hops]);
    packet.extend(src.octets());
    packet.extend(dst.octets());
    packet.extend(payload);
    packet
}

/// An IP packet of the addresses' family around a message.
///
/// # Panics
/// When they are of two families.
#[must_use]
pub fn ip(src: IpAddr, dst: IpAddr, proto: u8, payload: &[u8]) -> Vec<u8> {
    match (src, dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => ipv4(src, dst, proto, &V4::default(), payload),
        (IpAddr::V6(src), IpAddr::V6(dst)) => ipv6(src, dst, proto, 64, payload),
        _ => panic!("{src} and {dst} are of two families"),
    }
}

/// A UDP message with a right checksum.
#[must_use]
pub fn udp_message(src: SocketAddr, dst: SocketAddr, content: &[u8]) -> Vec<u8> {
    let mut message = [src.port().to_be_bytes(), dst.port().to_be_bytes()].concat();
    message.extend(((content.len() + 8) as u16).to_be_bytes());
    message.extend([0, 0]);
    message.extend(content);
    put_sum(&mut message, 6, src.ip(), dst.ip(), 17);
    message
}

/// TCP's flags.
pub const SYN: u8 = 2;
/// See [`SYN`].
pub const RST: u8 = 4;
/// See [`SYN`].
pub const ACK: u8 = 16;

/// A TCP segment with a right checksum. `options` are padded to whole words.
#[must_use]
pub fn tcp_segment(
    src: SocketAddr,
    dst: SocketAddr,
    [seq, ack]: [u32; 2],
    flags: u8,
    options: &[u8],
    content: &[u8],
) -> Vec<u8> {
    let mut segment = [src.port().to_be_bytes(), dst.port().to_be_bytes()].concat();
    segment.extend(seq.to_be_bytes());
    segment.extend(ack.to_be_bytes());
    segment.extend([((20 + options.len()) << 2) as u8, flags]);
    segment.extend([0xff, 0xff, 0, 0, 0, 0]);
    segment.extend(options);
    segment.extend(content);
    put_sum(&mut segment, 16, src.ip(), dst.ip(), 6);
    segment
}

/// An ICMP message of the addresses' family with a right checksum.
#[must_use]
pub fn icmp_message(src: IpAddr, dst: IpAddr, [kind, code]: [u8; 2], rest: &[u8]) -> Vec<u8> {
    let mut message = vec![kind, code, 0, 0];
    message.extend(rest);
    if src.is_ipv4() {
        let check = !sum(&[&message]);
        message[2..4].copy_from_slice(&check.to_be_bytes());
    } else {
        put_sum(&mut message, 2, src, dst, 58);
    }
    message
}

fn put_sum(message: &mut [u8], at: usize, src: IpAddr, dst: IpAddr, proto: u8) {
    let pseudo = pseudo_header(src, dst, proto, message.len()).expect("both are of one family");
    let check = match !sum(&[&pseudo, message]) {
        0 if proto == 17 => 0xffff,
        check => check,
    };
    message[at..at + 2].copy_from_slice(&check.to_be_bytes());
}

/// A whole UDP datagram as IP packet.
#[must_use]
pub fn udp_packet(src: SocketAddr, dst: SocketAddr, content: &[u8]) -> Vec<u8> {
    ip(src.ip(), dst.ip(), 17, &udp_message(src, dst, content))
}

/// Cuts a message into IP fragments of at most `size` bytes of it each, a multiple of 8.
///
/// # Panics
/// When the addresses are of two families.
#[must_use]
pub fn fragments(src: IpAddr, dst: IpAddr, proto: u8, message: &[u8], size: usize) -> Vec<Vec<u8>> {
    let count = message.len().div_ceil(size);
    message
        .chunks(size)
        .enumerate()
        .map(|(number, part)| {
            let offset = number * size;
            let more = number + 1 < count;
            match (src, dst) {
                (IpAddr::V4(src), IpAddr::V4(dst)) => {
                    let fragment = (offset / 8) as u16 | if more { 0x2000 } else { 0 };
                    let rest = V4 {
                        id: 0x4321,
                        fragment,
                        ..V4::default()
                    };
                    ipv4(src, dst, proto, &rest, part)
                }
                (IpAddr::V6(src), IpAddr::V6(dst)) => {
                    let word = offset as u16 | u16::from(more);
                    let mut payload = vec![proto, 0];
                    payload.extend(word.to_be_bytes());
                    payload.extend([0, 0, 0x43, 0x21]);
                    payload.extend(part);
                    ipv6(src, dst, 44, 64, &payload)
                }
                _ => panic!("{src} and {dst} are of two families"),
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::{
        super::{header_sum, ip_of, transport_sum_is_right},
        *,
    };

    #[test]
    fn what_is_made_is_read_back_with_right_sums() {
        for (src, dst) in [
            ("10.0.0.1:1000", "192.0.2.2:53"),
            ("[fd00::1]:1000", "[2001:db8::1]:53"),
        ] {
            let (src, dst): (SocketAddr, SocketAddr) = (src.parse().unwrap(), dst.parse().unwrap());
            let segment = tcp_segment(src, dst, [1, 2], SYN, &[1, 1, 1, 1], b"odd");
            let echo = icmp_message(src.ip(), dst.ip(), [128, 0], b"\0\x01\0\x02ping");
            let echo_proto = if src.is_ipv4() { 1 } else { 58 };
            for packet in [
                udp_packet(src, dst, b"odd"),
                ip(src.ip(), dst.ip(), 6, &segment),
                ip(src.ip(), dst.ip(), echo_proto, &echo),
            ] {
                let ip = ip_of(&packet).unwrap();
                assert_eq!((ip.src, ip.dst), (src.ip(), dst.ip()));
                assert!(transport_sum_is_right(&ip), "{packet:02x?}");
                if src.is_ipv4() {
                    assert_eq!(header_sum(ip.header), 0xffff);
                }
            }
            let message = udp_message(src, dst, &[7; 100]);
            let parts = fragments(src.ip(), dst.ip(), 17, &message, 40);
            let read: Vec<_> = parts.iter().map(|part| ip_of(part).unwrap()).collect();
            let whole: Vec<u8> = read.iter().flat_map(|ip| ip.payload.to_vec()).collect();
            assert_eq!(whole, message);
            let seen: Vec<_> = read.iter().map(|ip| (ip.offset, ip.more)).collect();
            assert_eq!(seen, [(0, true), (40, true), (80, false)]);
        }
    }
}
