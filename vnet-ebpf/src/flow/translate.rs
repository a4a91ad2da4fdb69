//! What of a packet changes, and what that does to its checksums (RFC 1624).

use vnet_common::{
    Addr, FlowEntry, Mac,
    flow::{FLOW_DNAT, FLOW_SNAT},
};

use crate::{
    bytes::{put_12, put_word_at, put_words, word_at},
    ip::{Icmp, Ip, Part, checksum_offset, proto},
    window::Window,
};

/// What of a packet is to change.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// Its source address after it.
    pub src: Addr,
    /// Its destination address after it.
    pub dst: Addr,
    /// Its source port, or echo identifier, after it.
    pub sport: u16,
    /// Its destination port, or echo identifier, after it.
    pub dport: u16,
    /// The destination of its Ethernet header after it. The source follows, as in the header.
    pub dmac: Mac,
    /// The source of its Ethernet header after it.
    pub smac: Mac,
    /// Its time to live goes down by one.
    pub hop: bool,
    /// Addresses or ports change.
    pub translates: bool,
    /// Index of the flow's entry that says so.
    pub index: u32,
}

#[inline(always)]
fn copy(to: &mut Addr, from: &Addr) {
    let words = [
        word_at(from, 0),
        word_at(from, 4),
        word_at(from, 8),
        word_at(from, 12),
    ];
    put_words(to, words);
}

impl Change {
    /// Nothing changes.
    pub const NONE: Self = Self {
        src: [0; 16],
        dst: [0; 16],
        sport: 0,
        dport: 0,
        dmac: [0; 6],
        smac: [0; 6],
        hop: false,
        translates: false,
        index: 0,
    };

    /// Writes to `change` what a flow's entry does to its packet. `peer_dst` is the destination of
    /// the other direction's key.
    ///
    /// # Safety
    /// What `peer_dst` gives is valid.
    #[inline(always)]
    pub unsafe fn of(
        change: &mut Self,
        ip: &Ip,
        entry: &FlowEntry,
        peer_dst: impl FnOnce() -> Option<*const Addr>,
    ) {
        copy(&mut change.src, &ip.key.src);
        copy(&mut change.dst, &ip.key.dst);
        change.sport = entry.sport;
        change.dport = entry.dport;
        if entry.flags & FLOW_DNAT != 0 {
            copy(&mut change.dst, &entry.addr);
            if entry.flags & FLOW_SNAT != 0
                && let Some(src) = peer_dst()
            {
                // SAFETY: the caller's promise.
                copy(&mut change.src, unsafe { &*src });
            }
        } else if entry.flags & FLOW_SNAT != 0 {
            copy(&mut change.src, &entry.addr);
        }
        change.hop = true;
        change.translates = entry.flags & (FLOW_SNAT | FLOW_DNAT) != 0;
    }
}

/// Adds to a checksum's difference what it makes that four bytes become others. The sum is in the
/// bytes' own order (RFC 1071, 2 (B)).
#[inline(always)]
#[must_use]
pub const fn diff4(sum: u64, old: [u8; 4], new: [u8; 4]) -> u64 {
    sum + !u32::from_ne_bytes(old) as u64 + u32::from_ne_bytes(new) as u64
}

/// As [`diff4`], for two bytes.
#[inline(always)]
#[must_use]
pub const fn diff2(sum: u64, old: [u8; 2], new: [u8; 2]) -> u64 {
    sum + !u16::from_ne_bytes(old) as u64 + u16::from_ne_bytes(new) as u64
}

/// As [`diff4`], for a whole address. The prefix that IPv4 addresses have in common adds nothing.
#[inline(always)]
#[must_use]
pub fn diff_addr(mut sum: u64, old: &Addr, new: &Addr) -> u64 {
    let mut i = 0;
    while i < 16 {
        sum += u64::from(!word_at(old, i)) + u64::from(word_at(new, i));
        i += 4;
    }
    sum
}

/// A sum in 32 bits, as the kernel's helpers take it.
#[inline(always)]
#[must_use]
pub const fn fold32(sum: u64) -> u32 {
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    ((sum & 0xffff_ffff) + (sum >> 32)) as u32
}

/// A sum in 16 bits.
#[inline(always)]
#[must_use]
pub const fn fold16(sum: u64) -> u16 {
    let sum = fold32(sum);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    sum as u16
}

/// The checksum that takes the place of `old` when what it covers changed by `diff` (RFC 1624,
/// equation 3).
#[inline(always)]
#[must_use]
pub const fn updated(old: [u8; 2], diff: u64) -> [u8; 2] {
    (!fold16(!u16::from_ne_bytes(old) as u64 + diff)).to_ne_bytes()
}

/// What of a checksum in the header behind IP changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChecksumChange {
    /// Its offset from the Ethernet header on; 0 when there is none to change.
    pub offset: usize,
    /// What the addresses add, by the pseudo-header.
    pub pseudo: u64,
    /// What the ports, or the identifier, add.
    pub ports: u64,
    /// Zero stands for no checksum (UDP over IPv4), and a sum of zero is spelled otherwise.
    pub optional: bool,
}

/// Offset of the ports from the header behind IP on, of the identifier of an echo; `None` where there
/// are none.
#[inline(always)]
#[must_use]
pub const fn ports_offset(ip: &Ip) -> Option<usize> {
    match ip.key.proto {
        proto::TCP | proto::UDP => Some(0),
        _ => match ip.icmp {
            Icmp::Request | Icmp::Reply => Some(4),
            _ => None,
        },
    }
}

/// The bytes of the ports, four, or of an echo's identifier, in the first two.
#[inline(always)]
#[must_use]
pub const fn port_bytes(ip: &Ip, sport: u16, dport: u16) -> [u8; 4] {
    let (s, d) = (sport.to_be_bytes(), dport.to_be_bytes());
    match ip.icmp {
        Icmp::Reply => [d[0], d[1], 0, 0],
        Icmp::Request => [s[0], s[1], 0, 0],
        _ => [s[0], s[1], d[0], d[1]],
    }
}

/// What a change does to the checksum behind the IP header.
#[inline(always)]
#[must_use]
pub fn checksum_change(ip: &Ip, change: &Change) -> ChecksumChange {
    let icmp = matches!(ip.icmp, Icmp::Request | Icmp::Reply);
    let offset = if icmp {
        2
    } else {
        checksum_offset(ip.key.proto)
    };
    let none = offset == 0 || matches!(ip.part, Part::Later);
    ChecksumChange {
        offset: if none { 0 } else { (ip.l4 + offset) as usize },
        pseudo: if icmp && !ip.v6 {
            0
        } else {
            diff_addr(
                diff_addr(0, &ip.key.src, &change.src),
                &ip.key.dst,
                &change.dst,
            )
        },
        ports: diff4(
            0,
            port_bytes(ip, ip.key.sport, ip.key.dport),
            port_bytes(ip, change.sport, change.dport),
        ),
        optional: ip.key.proto == proto::UDP,
    }
}

/// The last twelve bytes of an IPv4 header (time to live, protocol, checksum, addresses) after a
/// change to the source `s`, the destination `d`, and with `hop` one hop less to live; as words in
/// their own order.
#[inline(always)]
#[must_use]
pub fn ipv4_tail(old: &[u8; 12], s: &Addr, d: &Addr, hop: bool) -> [u32; 3] {
    let [ttl, proto, c0, c1] = word_at(old, 0).to_ne_bytes();
    let left = if hop { ttl.wrapping_sub(1) } else { ttl };
    let (src, dst) = (word_at(s, 12), word_at(d, 12));
    let sum = diff2(0, [ttl, proto], [left, proto])
        + u64::from(!word_at(old, 4))
        + u64::from(src)
        + u64::from(!word_at(old, 8))
        + u64::from(dst);
    let [c0, c1] = updated([c0, c1], sum);
    [u32::from_ne_bytes([left, proto, c0, c1]), src, dst]
}

/// A window whose bytes can be changed in place, where checksums are finished: XDP, and tests.
pub trait WindowMut: Window {
    /// The `N` bytes at `offset`, to change them.
    fn at_mut<const N: usize>(&mut self, offset: usize) -> Option<&mut [u8; N]>;
}

/// Carries a change out in place. False, with nothing changed, when the headers are not all in the
/// window.
#[inline(always)]
pub fn edit<W: WindowMut + ?Sized>(window: &mut W, ip: &Ip, change: &Change) -> bool {
    let (l3, l4) = (ip.l3 as usize, ip.l4 as usize);
    let whole = !matches!(ip.part, Part::Later);
    if change.translates && whole {
        let sums = checksum_change(ip, change);
        if sums.offset != 0 {
            let Some(at) = window.at_mut::<2>(sums.offset) else {
                return false;
            };
            if !(sums.optional && *at == [0, 0]) {
                let new = updated(*at, sums.pseudo + sums.ports);
                *at = if sums.optional && new == [0, 0] {
                    [0xff, 0xff]
                } else {
                    new
                };
            }
        }
        if let Some(offset) = ports_offset(ip) {
            let bytes = port_bytes(ip, change.sport, change.dport);
            if matches!(ip.icmp, Icmp::None) {
                let Some(at) = window.at_mut::<4>(l4 + offset) else {
                    return false;
                };
                put_word_at(at, 0, u32::from_ne_bytes(bytes));
            } else {
                let Some(at) = window.at_mut::<2>(l4 + offset) else {
                    return false;
                };
                *at = [bytes[0], bytes[1]];
            }
        }
    }
    if ip.v6 {
        let Some(at) = window.at_mut::<33>(l3 + 7) else {
            return false;
        };
        if change.hop {
            at[0] = at[0].wrapping_sub(1);
        }
        put_addresses(at, 1, change);
    } else {
        let Some(at) = window.at_mut::<12>(l3 + 8) else {
            return false;
        };
        let tail = ipv4_tail(at, &change.src, &change.dst, change.hop);
        put_12(at, 0, tail);
    }
    let Some(at) = window.at_mut::<12>(0) else {
        return false;
    };
    put_12(at, 0, ethernet(change));
    true
}

/// Writes the addresses of an IPv6 header after a change, 32 bytes from `offset` on.
#[inline(always)]
pub fn put_addresses<const N: usize>(bytes: &mut [u8; N], offset: usize, change: &Change) {
    let mut i = 0;
    while i < 16 {
        put_word_at(bytes, offset + i, word_at(&change.src, i));
        put_word_at(bytes, offset + 16 + i, word_at(&change.dst, i));
        i += 4;
    }
}

/// The addresses of the Ethernet header after a change, as words in their own order.
#[inline(always)]
#[must_use]
pub fn ethernet(change: &Change) -> [u32; 3] {
    let (d, s) = (&change.dmac, &change.smac);
    [
        word_at(d, 0),
        u32::from_ne_bytes([d[4], d[5], s[0], s[1]]),
        word_at(s, 2),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The checksum of RFC 1071, word by word.
    fn checksum(bytes: &[u8]) -> u16 {
        let mut sum: u32 = bytes
            .chunks(2)
            .map(|c| u32::from(u16::from_be_bytes([c[0], c[1]])))
            .sum();
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        !(sum as u16)
    }

    proptest! {
        #[test]
        fn an_updated_checksum_is_the_one_of_the_new_bytes(
            rest: [u8; 8], old: Addr, new: Addr, ports: ([u8; 2], [u8; 2]),
        ) {
            let message = |addr: &Addr, port: [u8; 2]| {
                let mut m = rest.to_vec();
                m.extend(addr);
                m.extend(port);
                m
            };
            let before = checksum(&message(&old, ports.0)).to_be_bytes();
            let diff = diff2(diff_addr(0, &old, &new), ports.0, ports.1);
            let after = u16::from_be_bytes(updated(before, diff));
            let expected = checksum(&message(&new, ports.1));
            // Zero has two spellings.
            prop_assert!(
                after == expected || (after == 0xffff && expected == 0) || (after == 0 && expected == 0xffff)
            );
        }
    }
}
