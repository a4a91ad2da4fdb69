//! The traffic of the benchmarks: what the program that generates it (src/bench.rs) and those who
//! fill tables by hand agree on. Here the switch's; the NAT gateway's is in [`nat`].

pub mod nat;

use vnet_common::Mac;

/// Bytes of a frame: the shortest that Ethernet allows, without the FCS.
pub const FRAME_LEN: usize = 60;

/// Where every frame goes.
pub const DESTINATION: Mac = [0x02, 0x77, 0, 0, 0, 1];

/// The source address of flow number `flow`.
#[inline(always)]
#[must_use]
pub const fn source(flow: u32) -> Mac {
    let n = flow.to_be_bytes();
    [0x02, 0x76, n[0], n[1], n[2], n[3]]
}

/// A frame of a flow: UDP over IPv4, without a UDP checksum, its payload zeroes.
#[inline(always)]
#[must_use]
pub const fn frame(flow: u32) -> [u8; FRAME_LEN] {
    let (d, s) = (DESTINATION, source(flow));
    let mut f = [0; FRAME_LEN];
    let header = [
        // Ethernet.
        d[0], d[1], d[2], d[3], d[4], d[5], s[0], s[1], s[2], s[3], s[4], s[5], 0x08, 0x00,
        // IPv4 from 198.18.0.1 to 198.19.0.1 (RFC 2544, appendix C.2.2), 46 bytes.
        0x45, 0, 0, 46, 0, 0, 0, 0, 64, 17, 0, 0, 198, 18, 0, 1, 198, 19, 0, 1,
        // UDP from port 9 to port 9.
        0, 9, 0, 9, 0, 26, 0, 0,
    ];
    let mut i = 0;
    while i < header.len() {
        f[i] = header[i];
        i += 1;
    }
    // Everything that the IPv4 header's checksum covers is fixed, and so is it.
    f[24] = (IPV4_CHECKSUM >> 8) as u8;
    f[25] = IPV4_CHECKSUM as u8;
    f
}

const IPV4_CHECKSUM: u16 = {
    let words = [
        0x4500u32, 46, 0, 0, 0x4011, 0, 0xc612, 0x0001, 0xc613, 0x0001,
    ];
    let mut sum = 0;
    let mut i = 0;
    while i < words.len() {
        sum += words[i];
        i += 1;
    }
    sum = (sum & 0xffff) + (sum >> 16);
    !((sum & 0xffff) + (sum >> 16)) as u16
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_has_a_true_checksum() {
        let sum: u32 = frame(7)[14..34]
            .chunks(2)
            .map(|word| u32::from(u16::from_be_bytes([word[0], word[1]])))
            .sum();
        assert_eq!((sum & 0xffff) + (sum >> 16), 0xffff);
    }

    #[test]
    fn flows_differ_in_their_source() {
        assert_eq!(frame(0x0102_0304)[6..12], [0x02, 0x76, 1, 2, 3, 4]);
        assert_eq!(frame(0)[..6], DESTINATION);
    }
}
