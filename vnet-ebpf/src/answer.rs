//! Answering ARP and neighbour solicitations for external addresses that the host does not hold (RFC
//! 826; RFC 4861, 7.2.4).

use vnet_common::{Addr, Mac, flow::mapped};

use crate::{
    decide::Plan,
    flow::translate::fold16,
    ip::{IPV6, proto},
    window::Window,
};

/// EtherType of ARP, host order.
pub const ARP: u16 = 0x0806;

/// Bytes of an ARP packet for IPv4 over Ethernet.
pub const ARP_LEN: usize = 28;
/// Bytes of an advertisement: IPv6 header, ICMPv6, the option with the MAC address.
pub const ADVERTISEMENT_LEN: usize = 72;

/// The address that a frame asks for, written to `asked`. False when it asks for none.
#[inline(always)]
pub fn asks_for<W: Window + ?Sized>(plan: &Plan, window: &W, asked: &mut Addr) -> bool {
    let l3 = plan.frame.payload_offset();
    if plan.frame.inner_tag {
        return false;
    }
    match plan.frame.ether_type {
        ARP => {
            let Some(p) = window.at::<ARP_LEN>(l3) else {
                return false;
            };
            // Ethernet, IPv4, their lengths, a request.
            if p[0] != 0 || p[1] != 1 || p[2] != 8 || p[3] != 0 || p[4] != 6 || p[5] != 4 {
                return false;
            }
            if p[6] != 0 || p[7] != 1 {
                return false;
            }
            *asked = mapped([p[24], p[25], p[26], p[27]]);
            true
        }
        IPV6 => {
            let Some(p) = window.at::<64>(l3) else {
                return false;
            };
            // Nobody beyond the link can send with a full hop limit (RFC 4861, 7.1.1). An
            // unspecified source is another one's duplicate address detection: it hears of the
            // conflict by what it is answered.
            if p[0] >> 4 != 6 || p[6] != proto::ICMPV6 || p[7] != 255 || p[40] != 135 || p[41] != 0
            {
                return false;
            }
            let mut i = 0;
            while i < 16 {
                asked[i] = p[48 + i];
                i += 1;
            }
            true
        }
        _ => false,
    }
}

/// The ARP packet that answers `request`, from `mac`.
#[inline(always)]
#[must_use]
pub const fn arp_reply(p: &[u8; ARP_LEN], mac: &Mac) -> [u8; ARP_LEN] {
    [
        0, 1, 8, 0, 6, 4, 0, 2, mac[0], mac[1], mac[2], mac[3], mac[4], mac[5], p[24], p[25],
        p[26], p[27], p[8], p[9], p[10], p[11], p[12], p[13], p[14], p[15], p[16], p[17],
    ]
}

/// Writes the IPv6 packet that answers a solicitation for `target` from `to` to `reply`, from `mac`.
#[inline(always)]
pub fn advertisement(to: &Addr, target: &Addr, mac: &Mac, reply: &mut [u8; ADVERTISEMENT_LEN]) {
    let unspecified = *to == [0; 16];
    let r = reply;
    r[0] = 0x60;
    let mut i = 1;
    while i < 8 {
        r[i] = 0;
        i += 1;
    }
    r[5] = 32;
    r[6] = proto::ICMPV6;
    r[7] = 255;
    let mut i = 0;
    while i < 16 {
        r[8 + i] = target[i];
        r[24 + i] = to[i];
        r[48 + i] = target[i];
        i += 1;
    }
    if unspecified {
        // To all nodes (RFC 4861, 7.2.4).
        r[24] = 0xff;
        r[25] = 0x02;
        r[39] = 1;
    }
    r[40] = 136;
    let mut i = 41;
    while i < 48 {
        r[i] = 0;
        i += 1;
    }
    // Solicited, override.
    r[44] = if unspecified { 0x20 } else { 0x60 };
    r[64] = 2;
    r[65] = 1;
    let mut i = 0;
    while i < 6 {
        r[66 + i] = mac[i];
        i += 1;
    }
    let mut sum =
        u64::from(u16::from_ne_bytes([0, proto::ICMPV6])) + u64::from(u16::from_ne_bytes([0, 32]));
    let mut i = 8;
    while i < ADVERTISEMENT_LEN {
        sum += u64::from(u16::from_ne_bytes([r[i], r[i + 1]]));
        i += 2;
    }
    let checksum = (!fold16(sum)).to_ne_bytes();
    r[42] = checksum[0];
    r[43] = checksum[1];
}
