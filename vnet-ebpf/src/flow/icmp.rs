//! ICMP errors: those that pass, with the packet that they embed translated back (RFC 5508, 4.2), and
//! those that the gateway makes itself (RFC 792, RFC 1191, RFC 4443).

use vnet_common::{Addr, FlowKey, flow::is_v4};

use super::translate::{
    diff_addr, diff2, diff4, fold16, ipv4_tail, port_bytes, ports_offset, updated,
};
use crate::{
    bytes::bytes_of,
    flow::translate::Change,
    ip::{Ip, checksum_offset, proto},
    nat::Tell,
    window::Window,
};

/// A packet whose bytes can be replaced one by one, with a sum that a NIC made of it following.
pub trait Store: Window {
    /// Replaces `N` bytes. False when they are not all in the packet.
    fn store<const N: usize>(&mut self, offset: usize, bytes: &[u8; N]) -> bool;
}

/// Translates an ICMP error about a packet that went the other way of a flow. `outer` and `inner` are
/// its headers and those that it embeds, `peer` is the key of the flow's other direction, `change` has the
/// error's own addresses after it, which the caller writes, and the ports that the flow's packets leave
/// with. False when the kernel refuses.
#[inline(always)]
pub fn translate_error<P: Store>(
    packet: &mut P,
    outer: &Ip,
    inner: &Ip,
    peer: &FlowKey,
    change: &Change,
) -> bool {
    let (sport, dport) = (change.sport, change.dport);
    // The embedded packet went the other way: its source is what these packets are sent to.
    let l4 = inner.l4 as usize;
    let pseudo = addresses_diff(&inner.key, &peer.src, &peer.dst);
    let mut sum = 0;
    if inner.v6 {
        // Neither header has a checksum of its own that would make up for its addresses.
        sum = pseudo + addresses_diff(&outer.key, &change.src, &change.dst);
    }
    if !embed_addresses(packet, inner, peer) {
        return false;
    }
    let Some(ports_at) = ports_offset(inner) else {
        return finish_error(packet, outer, sum);
    };
    let old = port_bytes(inner, inner.key.sport, inner.key.dport);
    let new = port_bytes(inner, dport, sport);
    let ports = diff4(0, old, new);
    sum += ports;
    let echo = ports_at != 0;
    let checksum_at = if echo {
        2
    } else {
        checksum_offset(inner.key.proto) as usize
    };
    let covers_addresses = !echo || inner.v6;
    // A TCP header's checksum may have been cut off.
    if let Some(at) = packet.at::<2>(l4 + checksum_at) {
        let old = *at;
        let optional = inner.key.proto == proto::UDP && old == [0, 0];
        if !optional {
            let diff = if covers_addresses {
                pseudo + ports
            } else {
                ports
            };
            let new = updated(old, diff);
            sum = diff2(sum, old, new);
            if !packet.store(l4 + checksum_at, &new) {
                return false;
            }
        }
    }
    let stored = if echo {
        packet.store(l4 + ports_at, &[new[0], new[1]])
    } else {
        packet.store(l4, &new)
    };
    stored && finish_error(packet, outer, sum)
}

/// What it makes in a sum that a key's addresses become others. A function of its own, for the sake of
/// a program's stack; so is the next one.
#[inline(never)]
fn addresses_diff(key: &FlowKey, src: &Addr, dst: &Addr) -> u64 {
    diff_addr(diff_addr(0, &key.src, src), &key.dst, dst)
}

/// Writes the addresses of the embedded header, and for IPv4 its checksum, with which its sum is what it
/// was.
#[inline(never)]
fn embed_addresses<P: Store>(packet: &mut P, inner: &Ip, peer: &FlowKey) -> bool {
    let l3 = inner.l3 as usize;
    if inner.v6 {
        return packet.store(l3 + 8, &peer.src) && packet.store(l3 + 24, &peer.dst);
    }
    let Some(old) = packet.at::<12>(l3 + 8) else {
        return false;
    };
    let tail = ipv4_tail(old, &peer.src, &peer.dst, false);
    packet.store(l3 + 8, &bytes_of(tail))
}

/// Writes the error's own checksum, after what it covers has changed by `sum`.
#[inline(always)]
fn finish_error<P: Store>(packet: &mut P, outer: &Ip, sum: u64) -> bool {
    let at = outer.l4 as usize + 2;
    let Some(old) = packet.at::<2>(at) else {
        return false;
    };
    let new = updated(*old, sum);
    packet.store(at, &new)
}

/// Whether an address is one host's, and may be sent an error (RFC 1122, 3.2.2; RFC 4443, 2.4).
#[inline(always)]
#[must_use]
pub fn is_one_host(addr: &Addr) -> bool {
    if is_v4(addr) {
        !matches!(addr[12], 0 | 127 | 224..)
    } else {
        addr[0] != 0xff && *addr != [0; 16]
    }
}

/// Bytes of the headers that a made error has in front of the packet that it embeds, for IPv4.
pub const ERROR_V4: usize = 28;
/// As [`ERROR_V4`], for IPv6.
pub const ERROR_V6: usize = 48;
/// Bytes behind the embedded IP header (RFC 792: 64 bits).
pub const EMBEDDED: usize = 8;

/// The IPv4 and ICMP headers of an error for the sender of a packet. `embedded` is the one's complement
/// sum of what it embeds, `len` how long that is.
#[inline(always)]
#[must_use]
pub fn error_v4(
    tell: Tell,
    mtu: u32,
    from: &Addr,
    to: &Addr,
    embedded: u64,
    len: u16,
) -> [u8; ERROR_V4] {
    let (kind, code) = match tell {
        Tell::TimeExceeded => (11, 0),
        Tell::TooBig => (3, 4),
        _ => (3, 13),
    };
    let next = if matches!(tell, Tell::TooBig) {
        (mtu as u16).to_be_bytes()
    } else {
        [0, 0]
    };
    let total = (ERROR_V4 as u16 + len).to_be_bytes();
    let mut h = [
        0x45,
        0xc0,
        total[0],
        total[1],
        0,
        0,
        0,
        0,
        64,
        proto::ICMP,
        0,
        0,
        from[12],
        from[13],
        from[14],
        from[15],
        to[12],
        to[13],
        to[14],
        to[15],
        kind,
        code,
        0,
        0,
        0,
        0,
        next[0],
        next[1],
    ];
    let mut sum = 0;
    let mut i = 0;
    while i < 20 {
        sum += u64::from(u16::from_ne_bytes([h[i], h[i + 1]]));
        i += 2;
    }
    let checksum = (!fold16(sum)).to_ne_bytes();
    h[10] = checksum[0];
    h[11] = checksum[1];
    let mut sum = embedded;
    while i < ERROR_V4 {
        sum += u64::from(u16::from_ne_bytes([h[i], h[i + 1]]));
        i += 2;
    }
    let checksum = (!fold16(sum)).to_ne_bytes();
    h[22] = checksum[0];
    h[23] = checksum[1];
    h
}

/// As [`error_v4`], for IPv6.
#[inline(always)]
#[must_use]
pub fn error_v6(
    tell: Tell,
    mtu: u32,
    from: &Addr,
    to: &Addr,
    embedded: u64,
    len: u16,
) -> [u8; ERROR_V6] {
    let (kind, code) = match tell {
        Tell::TimeExceeded => (3, 0),
        Tell::TooBig => (2, 0),
        _ => (1, 1),
    };
    let next = if matches!(tell, Tell::TooBig) {
        mtu.to_be_bytes()
    } else {
        [0; 4]
    };
    let payload = (EMBEDDED as u16 + len).to_be_bytes();
    let mut h = [0; ERROR_V6];
    h[0] = 0x60;
    h[4] = payload[0];
    h[5] = payload[1];
    h[6] = proto::ICMPV6;
    h[7] = 64;
    let mut i = 0;
    while i < 16 {
        h[8 + i] = from[i];
        h[24 + i] = to[i];
        i += 1;
    }
    h[40] = kind;
    h[41] = code;
    h[44] = next[0];
    h[45] = next[1];
    h[46] = next[2];
    h[47] = next[3];
    let mut sum = embedded
        + u64::from(u16::from_ne_bytes([0, proto::ICMPV6]))
        + u64::from(u16::from_ne_bytes(payload));
    let mut i = 8;
    while i < ERROR_V6 {
        sum += u64::from(u16::from_ne_bytes([h[i], h[i + 1]]));
        i += 2;
    }
    let checksum = (!fold16(sum)).to_ne_bytes();
    h[42] = checksum[0];
    h[43] = checksum[1];
    h
}
