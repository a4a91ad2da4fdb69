//! Finding the rule for an address, and what static rules make of addresses.

use vnet_common::{
    Addr, NatMatchKey, NatRule,
    nat::{NAT_NPTV6, NatMatch},
};

use crate::{
    bytes::{put_words, word_at},
    gateway::Gateway,
};

/// The rule, or segment, that the longest prefix of an address and port stands for.
#[inline(always)]
pub fn look_up<G: Gateway + ?Sized>(
    gateway: &G,
    generation: u32,
    kind: NatMatch,
    scope: u16,
    addr: &Addr,
    port: u16,
) -> Option<u32> {
    let key = NatMatchKey {
        generation: generation as u8,
        kind: kind as u8,
        scope_be: scope.to_be_bytes(),
        addr: *addr,
        port_be: port.to_be_bytes(),
        reserved: [0; 2],
    };
    gateway.nat_match(&key)
}

/// An address as two numbers: shifts and masks of them take the verifier of Linux 6.1 one path, where
/// a loop over bytes takes one for each length of a prefix.
#[inline(always)]
fn halves(addr: &Addr) -> [u64; 2] {
    let half = |at| {
        let (high, low) = (word_at(addr, at), word_at(addr, at + 4));
        u64::from(u32::from_be(high)) << 32 | u64::from(u32::from_be(low))
    };
    [half(0), half(8)]
}

#[inline(always)]
fn put_halves(addr: &mut Addr, halves: [u64; 2]) {
    let word = |half: u64| (half as u32).to_be();
    put_words(
        addr,
        [
            word(halves[0] >> 32),
            word(halves[0]),
            word(halves[1] >> 32),
            word(halves[1]),
        ],
    );
}

/// The bits that a prefix of `len` bits covers.
#[inline(always)]
const fn mask(len: u8) -> [u64; 2] {
    // The first `n` bits, 0 to 64: no machine shifts by 64.
    const fn first(n: u32) -> u64 {
        let rest = 64 - n;
        (u64::MAX << (rest / 2)) << (rest - rest / 2)
    }
    let len = len as u32;
    if len <= 64 {
        [first(len), 0]
    } else if len <= 128 {
        [u64::MAX, first(len - 64)]
    } else {
        [u64::MAX; 2]
    }
}

/// Whether an address begins with the first `len` bits of a prefix.
#[inline(always)]
#[must_use]
pub fn is_within(addr: &Addr, prefix: &Addr, len: u8) -> bool {
    let (addr, prefix, mask) = (halves(addr), halves(prefix), mask(len));
    ((addr[0] ^ prefix[0]) & mask[0]) | ((addr[1] ^ prefix[1]) & mask[1]) == 0
}

/// What a static rule makes of `addr`: `from`'s prefix becomes `to`'s.
#[inline(always)]
pub fn replace_prefix(rule: &NatRule, to_external: bool, addr: &Addr, result: &mut Addr) {
    let (from, to) = if to_external {
        (&rule.internal, &rule.external)
    } else {
        (&rule.external, &rule.internal)
    };
    let (old, from, to, mask) = (
        halves(addr),
        halves(from),
        halves(to),
        mask(rule.prefix_len),
    );
    let (from, to) = (
        [from[0] & mask[0], from[1] & mask[1]],
        [to[0] & mask[0], to[1] & mask[1]],
    );
    let mut new = [to[0] | (old[0] & !mask[0]), to[1] | (old[1] & !mask[1])];
    if rule.flags & NAT_NPTV6 != 0 {
        adjust(from, to, rule.prefix_len, &mut new);
    }
    put_halves(result, new);
}

/// Makes the address's checksum what it was with the other prefix (RFC 6296, 3.1): the difference is
/// added to one 16-bit word behind the prefix, to the fourth for prefixes of up to 48 bits (3.4), to the first of the
/// interface identifier that is not 0xffff for longer ones (3.5).
#[inline(always)]
fn adjust(from: [u64; 2], to: [u64; 2], len: u8, addr: &mut [u64; 2]) {
    let diff = fold(sum16(from) + sum16([!to[0], !to[1]]));
    let add = |half: u64, shift: u32| {
        let sum = fold((half >> shift & 0xffff) + diff);
        // One spelling of zero (RFC 6296, 3.1).
        let sum = if sum == 0xffff { 0 } else { sum };
        half & !(0xffff << shift) | sum << shift
    };
    if len <= 48 {
        addr[0] = add(addr[0], 0);
        return;
    }
    let is_full = |shift: u32| addr[1] >> shift & 0xffff == 0xffff;
    let shift = if !is_full(48) {
        48
    } else if !is_full(32) {
        32
    } else if !is_full(16) {
        16
    } else {
        0
    };
    addr[1] = add(addr[1], shift);
}

/// The sum of an address's 16-bit words.
#[inline(always)]
const fn sum16(addr: [u64; 2]) -> u64 {
    const fn of(half: u64) -> u64 {
        (half >> 48) + (half >> 32 & 0xffff) + (half >> 16 & 0xffff) + (half & 0xffff)
    }
    of(addr[0]) + of(addr[1])
}

/// One's complement sum in 16 bits.
#[inline(always)]
const fn fold(sum: u64) -> u64 {
    let sum = (sum & 0xffff) + (sum >> 16);
    (sum & 0xffff) + (sum >> 16)
}

/// The `offset`th address behind `first`, in the last 32 bits.
#[inline(always)]
#[must_use]
pub const fn nth_addr(first: &Addr, offset: u32) -> Addr {
    let mut addr = *first;
    let last = u32::from_be_bytes([addr[12], addr[13], addr[14], addr[15]]).wrapping_add(offset);
    let bytes = last.to_be_bytes();
    addr[12] = bytes[0];
    addr[13] = bytes[1];
    addr[14] = bytes[2];
    addr[15] = bytes[3];
    addr
}

/// A number for an address, the same each time: which of a pool's addresses it gets (paired pooling,
/// RFC 4787, REQ-2).
#[inline(always)]
#[must_use]
pub const fn spread(addr: &Addr, n: u32) -> u32 {
    let a = u64::from_be_bytes([
        addr[0], addr[1], addr[2], addr[3], addr[4], addr[5], addr[6], addr[7],
    ]);
    let b = u64::from_be_bytes([
        addr[8], addr[9], addr[10], addr[11], addr[12], addr[13], addr[14], addr[15],
    ]);
    let hash = (a ^ b.rotate_left(32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let hash = (hash ^ (hash >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93);
    (((hash >> 32) * n as u64) >> 32) as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::net::Ipv6Addr;

    fn addr(text: &str) -> Addr {
        text.parse::<Ipv6Addr>().expect("an address").octets()
    }

    fn nptv6(internal: &str, external: &str, len: u8) -> NatRule {
        NatRule {
            internal: addr(internal),
            external: addr(external),
            prefix_len: len,
            flags: NAT_NPTV6,
            ..NatRule::default()
        }
    }

    #[test]
    fn the_example_of_rfc_6296() {
        // RFC 6296, appendix B (3.4): FD01:0203:0405::/48 and 2001:0DB8:0001::/48.
        let rule = nptv6("fd01:203:405::", "2001:db8:1::", 48);
        let mut out = [0; 16];
        replace_prefix(&rule, true, &addr("fd01:203:405:1::1234"), &mut out);
        assert_eq!(out, addr("2001:db8:1:d550::1234"));
        let mut back = [0; 16];
        replace_prefix(&rule, false, &out, &mut back);
        assert_eq!(back, addr("fd01:203:405:1::1234"));
    }

    #[test]
    fn a_long_prefix_changes_the_interface_identifier() {
        let rule = nptv6("fd00:10::", "2001:db8:1:2::", 64);
        for host in ["fd00:10::1", "fd00:10::ffff:0:0:5"] {
            let mut out = [0; 16];
            replace_prefix(&rule, true, &addr(host), &mut out);
            assert!(is_within(&out, &rule.external, 64));
            let mut back = [0; 16];
            replace_prefix(&rule, false, &out, &mut back);
            assert_eq!(back, addr(host), "{host}");
        }
    }

    #[test]
    fn prefixes_of_any_length() {
        let rule = NatRule {
            internal: addr("::ffff:10.0.0.0"),
            external: addr("::ffff:192.0.2.16"),
            prefix_len: 96 + 28,
            ..NatRule::default()
        };
        let mut out = [0; 16];
        replace_prefix(&rule, true, &addr("::ffff:10.0.0.5"), &mut out);
        assert_eq!(out, addr("::ffff:192.0.2.21"));
        assert!(is_within(&out, &rule.external, 124));
        assert!(!is_within(&addr("::ffff:192.0.2.32"), &rule.external, 124));
        assert!(is_within(&out, &rule.internal, 0));
    }
}
