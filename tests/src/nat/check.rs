//! Checksums, worked out from the whole packet: what is sent outside has them finished.

use std::net::IpAddr;

use super::Ip;

/// The one's complement sum of `parts`, each padded to whole words (RFC 1071).
pub(super) fn sum(parts: &[&[u8]]) -> u16 {
    let mut total = 0u32;
    for part in parts {
        for word in part.chunks(2) {
            total += u32::from(word[0]) << 8 | u32::from(*word.get(1).unwrap_or(&0));
        }
    }
    while total > 0xffff {
        total = (total & 0xffff) + (total >> 16);
    }
    total as u16
}

/// The sum over an IPv4 header with its checksum: 0xffff when that is right.
#[must_use]
pub fn header_sum(header: &[u8]) -> u16 {
    sum(&[header])
}

/// What checksums of TCP, UDP and ICMPv6 cover besides the message (RFC 8200, 8.1; for IPv4 it sums
/// up to the same); `None` for addresses of two families.
pub(super) fn pseudo_header(src: IpAddr, dst: IpAddr, proto: u8, length: usize) -> Option<Vec<u8>> {
    let mut header = match (src, dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => [src.octets(), dst.octets()].concat(),
        (IpAddr::V6(src), IpAddr::V6(dst)) => [src.octets(), dst.octets()].concat(),
        _ => return None,
    };
    header.extend((length as u32).to_be_bytes());
    header.extend([0, 0, 0, proto]);
    Some(header)
}

/// Whether the checksum of a whole TCP, UDP or ICMP message is right; UDP over IPv4 may have none.
#[must_use]
pub fn transport_sum_is_right(ip: &Ip<'_>) -> bool {
    if ip.proto == 1 {
        return sum(&[ip.payload]) == 0xffff;
    }
    if ip.proto == 17 && ip.src.is_ipv4() && ip.payload.get(6..8) == Some(&[0, 0]) {
        return true;
    }
    pseudo_header(ip.src, ip.dst, ip.proto, ip.payload.len())
        .is_some_and(|pseudo| sum(&[&pseudo, ip.payload]) == 0xffff)
}

#[cfg(test)]
mod tests {
    use etherparse::PacketBuilder;

    use super::{super::ip_of, *};

    #[test]
    fn sums_of_a_library_are_right_and_others_are_not() {
        let mut bytes = Vec::new();
        PacketBuilder::ipv4([10, 0, 0, 1], [192, 0, 2, 2], 64)
            .udp(1, 2)
            .write(&mut bytes, b"odd")
            .unwrap();
        let ip = ip_of(&bytes).unwrap();
        assert_eq!(header_sum(ip.header), 0xffff);
        assert!(transport_sum_is_right(&ip));
        bytes[30] ^= 1;
        assert!(!transport_sum_is_right(&ip_of(&bytes).unwrap()));

        let mut bytes = Vec::new();
        PacketBuilder::ipv6([1; 16], [2; 16], 64)
            .icmpv6_echo_request(1, 2)
            .write(&mut bytes, b"ping")
            .unwrap();
        assert!(transport_sum_is_right(&ip_of(&bytes).unwrap()));
    }
}
