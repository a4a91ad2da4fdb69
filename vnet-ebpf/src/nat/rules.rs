//! Finding the rule for an address, and what static rules make of addresses.

use vnet_common::{
    Addr, NatMatchKey, NatRule,
    nat::{NAT_NPTV6, NatMatch},
};

use crate::gateway::Gateway;

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

/// Whether an address begins with the first `len` bits of a prefix.
#[inline(always)]
#[must_use]
pub fn is_within(addr: &Addr, prefix: &Addr, len: u8) -> bool {
    let mut i = 0;
    let mut differs = 0;
    while i < 16 {
        differs |= (addr[i] ^ prefix[i]) & mask_byte(len, i);
        i += 1;
    }
    differs == 0
}

/// The bits of byte `i` that a prefix of `len` bits covers.
#[inline(always)]
const fn mask_byte(len: u8, i: usize) -> u8 {
    let before = i as u32 * 8;
    let len = len as u32;
    if len >= before + 8 {
        0xff
    } else if len <= before {
        0
    } else {
        !(0xffu32 >> ((len - before) & 7)) as u8
    }
}

/// What a static rule makes of `addr`: `from`'s prefix becomes `to`'s.
#[inline(always)]
pub fn replace_prefix(rule: &NatRule, to_external: bool, addr: &Addr, result: &mut Addr) {
    let (from, to) = if to_external {
        (&rule.internal, &rule.external)
    } else {
        (&rule.external, &rule.internal)
    };
    let len = rule.prefix_len;
    let mut i = 0;
    while i < 16 {
        let mask = mask_byte(len, i);
        result[i] = (to[i] & mask) | (addr[i] & !mask);
        i += 1;
    }
    if rule.flags & NAT_NPTV6 != 0 {
        adjust(from, to, len, result);
    }
}

/// Makes the address's checksum what it was with the other prefix (RFC 6296, 3.1): the difference is
/// added to one 16-bit word behind the prefix, to the fourth for prefixes of up to 48 bits (3.4), to the first of the
/// interface identifier that is not 0xffff for longer ones (3.5).
#[inline(always)]
fn adjust(from: &Addr, to: &Addr, len: u8, addr: &mut Addr) {
    let mut diff: u32 = 0;
    let mut i = 0;
    while i < 16 {
        let (hi, lo) = (mask_byte(len, i), mask_byte(len, i + 1));
        let old = u16::from_be_bytes([from[i] & hi, from[i + 1] & lo]);
        let new = u16::from_be_bytes([to[i] & hi, to[i + 1] & lo]);
        diff += u32::from(old) + u32::from(!new);
        i += 2;
    }
    let diff = fold(diff);
    let mut place = 6;
    if len > 48 {
        place = 8;
        while place < 14 {
            if addr[place] != 0xff || addr[place + 1] != 0xff {
                break;
            }
            place += 2;
        }
    }
    let mut i = 0;
    while i < 16 {
        if i == place {
            let word = u16::from_be_bytes([addr[i], addr[i + 1]]);
            let sum = fold(u32::from(word) + diff);
            // One spelling of zero (RFC 6296, 3.1).
            let sum = if sum == 0xffff { 0 } else { sum as u16 };
            let bytes = sum.to_be_bytes();
            addr[i] = bytes[0];
            addr[i + 1] = bytes[1];
        }
        i += 2;
    }
}

/// One's complement sum in 16 bits.
#[inline(always)]
const fn fold(sum: u32) -> u32 {
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
