//! A reset for the sender of a TCP segment (RFC 9293, 3.10.7.1).

use vnet_common::Addr;

use super::translate::{diff_addr, fold16};
use crate::{
    bytes::{put_word_at, word_at},
    ip::{IPV4_LEN, IPV6_LEN, Ip, TCP_ACK, TCP_FIN, TCP_RST, TCP_SYN, proto},
};

/// Bytes of a TCP header without options.
const TCP_LEN: usize = 20;
/// Bytes of a reset over IPv4 from the IP header on.
pub const RESET_V4: usize = IPV4_LEN + TCP_LEN;
/// Bytes of a reset over IPv6 from the IP header on.
pub const RESET_V6: usize = IPV6_LEN + TCP_LEN;

/// Hops that it may take.
const TTL: u8 = 64;

/// Whether the segment is answered: never a reset.
#[inline(always)]
#[must_use]
pub const fn may_reset(ip: &Ip) -> bool {
    ip.key.proto == proto::TCP && ip.tcp_flags & TCP_RST == 0
}

/// The one's complement sum of what the checksum covers besides the header: addresses, protocol, length.
#[inline(always)]
fn pseudo_sum(src: &Addr, dst: &Addr) -> u64 {
    // The prefix of IPv4 addresses comes twice, which is nothing: 0xffff each time.
    diff_addr(0, &[0xff; 16], src)
        + diff_addr(0, &[0xff; 16], dst)
        + u64::from(u16::from_be_bytes([0, proto::TCP]).to_be())
        + u64::from((TCP_LEN as u16).to_be())
}

/// Writes the TCP header at `at` of `bytes`.
///
/// Its checksum is right whether or not a device is going to finish it. Nothing tells here whether the
/// segment's was left to one; such a device adds up what it finds, the field included, which therefore
/// has to hold the sum of addresses, protocol and length. A checksum is the complement of the sum of
/// everything: the two are the same number with the right window, which is of no use to a reset.
#[inline(always)]
fn put_tcp<const N: usize>(bytes: &mut [u8; N], at: usize, ip: &Ip) {
    let acked = ip.tcp_flags & TCP_ACK != 0;
    let control = u32::from(ip.tcp_flags & TCP_SYN != 0) + u32::from(ip.tcp_flags & TCP_FIN != 0);
    let (seq, ack, flags) = if acked {
        (ip.ack, 0, TCP_RST)
    } else {
        let end = ip.seq.wrapping_add(ip.payload).wrapping_add(control);
        (0, end, TCP_RST | TCP_ACK)
    };
    let ([d0, d1], [s0, s1]) = (ip.key.dport.to_be_bytes(), ip.key.sport.to_be_bytes());
    let words = [
        u32::from_ne_bytes([d0, d1, s0, s1]),
        seq.to_be(),
        ack.to_be(),
        u32::from_ne_bytes([(TCP_LEN as u8 / 4) << 4, flags, 0, 0]),
    ];
    let pseudo = pseudo_sum(&ip.key.src, &ip.key.dst);
    let pseudo = u64::from(fold16(pseudo));
    let mut sum = 2 * pseudo;
    let mut i = 0;
    while i < 4 {
        sum += u64::from(words[i]);
        put_word_at(bytes, at + 4 * i, words[i]);
        i += 1;
    }
    let [w0, w1] = (!fold16(sum)).to_ne_bytes();
    let [c0, c1] = (pseudo as u16).to_ne_bytes();
    bytes[at + 14] = w0;
    bytes[at + 15] = w1;
    put_word_at(bytes, at + 16, u32::from_ne_bytes([c0, c1, 0, 0]));
}

/// A reset over IPv4, from the IP header on.
#[inline(always)]
#[must_use]
pub fn reset_v4(ip: &Ip) -> [u8; RESET_V4] {
    let mut bytes = [0; RESET_V4];
    let [l0, l1] = (RESET_V4 as u16).to_be_bytes();
    put_word_at(&mut bytes, 0, u32::from_ne_bytes([0x45, 0, l0, l1]));
    // Not to be fragmented.
    put_word_at(&mut bytes, 4, u32::from_ne_bytes([0, 0, 0x40, 0]));
    let (src, dst) = (word_at(&ip.key.dst, 12), word_at(&ip.key.src, 12));
    let head = u32::from_ne_bytes([TTL, proto::TCP, 0, 0]);
    let sum = u64::from(u32::from_ne_bytes([0x45, 0, l0, l1]))
        + u64::from(u32::from_ne_bytes([0, 0, 0x40, 0]))
        + u64::from(head)
        + u64::from(src)
        + u64::from(dst);
    let [c0, c1] = (!fold16(sum)).to_ne_bytes();
    put_word_at(&mut bytes, 8, u32::from_ne_bytes([TTL, proto::TCP, c0, c1]));
    put_word_at(&mut bytes, 12, src);
    put_word_at(&mut bytes, 16, dst);
    put_tcp(&mut bytes, IPV4_LEN, ip);
    bytes
}

/// A reset over IPv6, from the IP header on.
#[inline(always)]
#[must_use]
pub fn reset_v6(ip: &Ip) -> [u8; RESET_V6] {
    let mut bytes = [0; RESET_V6];
    bytes[0] = 0x60;
    let [l0, l1] = (TCP_LEN as u16).to_be_bytes();
    put_word_at(&mut bytes, 4, u32::from_ne_bytes([l0, l1, proto::TCP, TTL]));
    let mut i = 0;
    while i < 16 {
        put_word_at(&mut bytes, 8 + i, word_at(&ip.key.dst, i));
        put_word_at(&mut bytes, 24 + i, word_at(&ip.key.src, i));
        i += 4;
    }
    put_tcp(&mut bytes, IPV6_LEN, ip);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sum(bytes: &[u8]) -> u16 {
        let total: u64 = bytes
            .chunks(2)
            .map(|pair| u64::from(u16::from_be_bytes([pair[0], pair[1]])))
            .sum();
        fold16(total)
    }

    fn segment(v6: bool, flags: u8) -> Ip {
        let mut ip = Ip::EMPTY;
        ip.v6 = v6;
        ip.key.proto = proto::TCP;
        if v6 {
            ip.key.src = [0xfd, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14];
            ip.key.dst = [0xfd, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0, 1, 2, 3, 4, 5];
        } else {
            ip.key.src = vnet_common::flow::mapped([10, 0, 0, 7]);
            ip.key.dst = vnet_common::flow::mapped([192, 0, 2, 9]);
        }
        ip.key.sport = 40_123;
        ip.key.dport = 22;
        ip.seq = 0xdead_beef;
        ip.ack = 0x0102_0304;
        ip.payload = 3;
        ip.tcp_flags = flags;
        ip
    }

    /// Pseudo header and segment, as a receiver sums them up.
    fn received(ip: &Ip, bytes: &[u8]) -> u16 {
        let (addresses, tcp) = if ip.v6 {
            (&bytes[8..40], &bytes[40..])
        } else {
            (&bytes[12..20], &bytes[20..])
        };
        let rest = [0, proto::TCP, 0, TCP_LEN as u8];
        sum(&[addresses, &rest, tcp].concat())
    }

    #[test]
    fn checksums_are_right_finished_or_not() {
        for v6 in [false, true] {
            for flags in [TCP_SYN, TCP_ACK, TCP_SYN | TCP_ACK, TCP_FIN | TCP_ACK] {
                let ip = segment(v6, flags);
                let mut bytes = if v6 {
                    reset_v6(&ip).to_vec()
                } else {
                    reset_v4(&ip).to_vec()
                };
                assert_eq!(received(&ip, &bytes), 0xffff, "as it is");
                if !v6 {
                    assert_eq!(sum(&bytes[..20]), 0xffff, "the IPv4 header");
                }
                // What a device does that is to finish it.
                let l4 = if v6 { 40 } else { 20 };
                let finished = !sum(&bytes[l4..]);
                bytes[l4 + 16..l4 + 18].copy_from_slice(&finished.to_be_bytes());
                assert_eq!(received(&ip, &bytes), 0xffff, "finished");
            }
        }
    }

    #[test]
    fn numbers_are_those_that_the_sender_waits_for() {
        let of = |flags| {
            let bytes = reset_v4(&segment(false, flags));
            let word = |at: usize| u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap());
            (word(20), word(24), word(28), bytes[33])
        };
        // From port 22 to 40123.
        let ports = 22 << 16 | 40_123;
        let end = 0xdead_beef + 4;
        assert_eq!(of(TCP_SYN), (ports, 0, end, TCP_RST | TCP_ACK));
        assert_eq!(of(TCP_ACK), (ports, 0x0102_0304, 0, TCP_RST));
        assert!(!may_reset(&segment(false, TCP_RST | TCP_ACK)));
    }
}
