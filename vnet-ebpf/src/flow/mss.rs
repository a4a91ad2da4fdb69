//! Clamping the maximum segment size that TCP announces (RFC 9293, 3.7.1), so that a connection does not
//! depend on ICMP errors that somebody may drop.

use crate::ip::Ip;

/// Options that are looked at; there are no more with a meaning in a SYN.
const OPTIONS: usize = 10;

/// Where the option's value is in the packet, and what it says; `None` when there is none. `byte` reads
/// one byte of the packet.
#[inline(always)]
pub fn find(ip: &Ip, byte: impl Fn(usize) -> Option<u8>) -> Option<(usize, u16)> {
    let end = ip.l4 as usize + ip.tcp_words as usize * 4;
    let mut at = ip.l4 as usize + 20;
    let mut i = 0;
    while i < OPTIONS {
        if at >= end {
            return None;
        }
        let kind = byte(at)?;
        match kind {
            0 => return None,
            1 => at += 1,
            _ => {
                let len = byte(at + 1)? as usize;
                if kind == 2 && len == 4 {
                    let value = [byte(at + 2)?, byte(at + 3)?];
                    return Some((at + 2, u16::from_be_bytes(value)));
                }
                if len < 2 {
                    return None;
                }
                at += len;
            }
        }
        i += 1;
    }
    None
}

/// The most that the option may say, for the setting `clamp` (1: what fits the way) and the way's MTU.
#[inline(always)]
#[must_use]
pub const fn limit(clamp: u32, mtu: u16, v6: bool) -> u16 {
    if clamp > 1 {
        return if clamp > 0xffff { 0xffff } else { clamp as u16 };
    }
    mtu.saturating_sub(if v6 { 60 } else { 40 })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(options: &[u8]) -> Option<(usize, u16)> {
        let ip = Ip {
            l4: 34,
            tcp_words: 5 + options.len().div_ceil(4) as u8,
            ..Ip::EMPTY
        };
        find(&ip, |at| options.get(at.checked_sub(54)?).copied())
    }

    #[test]
    fn the_option_is_found_wherever_it_is() {
        assert_eq!(found(&[2, 4, 5, 0xb4]), Some((56, 1460)));
        assert_eq!(found(&[1, 1, 4, 2, 2, 4, 2, 0]), Some((60, 512)));
    }

    #[test]
    fn broken_options_have_none() {
        for options in [
            &[][..],
            &[0, 2, 4, 1],
            &[3, 0, 2, 4],
            &[2, 3, 1, 1],
            &[2, 4, 5],
        ] {
            assert_eq!(found(options), None, "{options:?}");
        }
    }

    #[test]
    fn limits() {
        assert_eq!(limit(1, 1400, false), 1360);
        assert_eq!(limit(1, 1400, true), 1340);
        assert_eq!(limit(1200, 1500, true), 1200);
    }
}
