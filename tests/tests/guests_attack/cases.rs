//! What the attacker sends, and what is to become of each frame.

use std::net::{IpAddr, SocketAddr};

use vnet_tests::{
    attacks,
    frame::raw::{extended, fragment, udp},
    host::{Addresses, Mac},
    nat::craft::{self, V4},
    wire::{Frame, Tag},
};

use crate::{ATTACKER, PHYS, VICTIM};

/// The port that the groups let through to, and one that they do not.
const OPEN: u16 = 80;
const CLOSED: u16 = 22;

/// Frames of the flood of MAC addresses.
const MANY: u16 = 2000;

const HOP_BY_HOP: u8 = 0;
const TCP: u8 = 6;
const UDP: u8 = 17;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const DESTINATION: u8 = 60;

/// Bits of the word of an IPv4 header, or of a fragment header, that offsets are in.
const MORE: u16 = 0x2000;

/// What is to become of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// The victim gets it.
    Passes,
    /// It is dropped for this reason at the attacker's port.
    Dropped(&'static str),
    /// It is dropped at the port whose group denies it.
    Denied,
}

use Fate::{Denied, Dropped, Passes};

/// Frames of a kind.
pub struct Case {
    /// What they are.
    pub what: &'static str,
    /// Each, and what is to become of it.
    pub frames: Vec<(Frame, Fate)>,
}

/// What no group is asked about, because a guard stops it.
pub fn for_the_guards() -> Vec<Case> {
    let (own, all, victim) = (Mac::of(ATTACKER), Mac::BROADCAST, Mac::of(VICTIM));
    let dropped = |reason: &'static str, frame| (frame, Dropped(reason));
    let listed = |dst| -> Vec<_> {
        // A tag within another one is dropped where it would leave, when that is one port.
        let frames = attacks::by(ATTACKER, dst)
            .into_iter()
            .filter(|(_, frame)| dst == all || frame.bytes()[16..18] != [0x81, 0]);
        frames
            .map(|(reason, frame)| dropped(reason, frame))
            .collect()
    };
    let flood = (0..MANY).map(|number| {
        let [high, low] = number.wrapping_mul(40_503).to_be_bytes();
        let made_up = Mac([0x02, high, low, 0x5e, low, high]);
        dropped("mac_not_allowed", Frame::new(made_up, all))
    });
    let ping = body(&echo(addresses(true)));
    let tagged = |tags: &[Tag]| Frame::carrying(own, all, &ping).tagged(tags);
    vec![
        Case {
            what: "what a guest must not send, to everybody",
            frames: listed(all),
        },
        Case {
            what: "the same to the victim alone",
            frames: listed(victim),
        },
        Case {
            what: "sources that are nobody's, or somebody else's",
            frames: vec![
                dropped("mac_source_group", Frame::new(Mac([1, 0, 0, 0, 0, 1]), all)),
                dropped("mac_source_zero", Frame::new(Mac([0; 6]), all)),
                dropped("mac_not_allowed", Frame::new(victim, all)),
                dropped(
                    "mac_not_allowed",
                    Frame::gratuitous_arp(Mac::of(PHYS), PHYS),
                ),
                dropped("arp_sender_ip", Frame::gratuitous_arp(own, PHYS)),
                dropped("arp_sender_ip", Frame::gratuitous_arp(own, VICTIM)),
            ],
        },
        Case {
            what: "tags in front of what would pass",
            frames: vec![
                dropped("vlan_tagged", tagged(&[Tag::c(10)])),
                dropped("vlan_tagged", tagged(&[Tag::s(10)])),
                dropped("vlan_tagged", tagged(&[Tag::s(10), Tag::c(20)])),
                dropped("vlan_tagged", tagged(&[Tag::c(10), Tag::c(20), Tag::c(30)])),
                dropped("double_tag", tagged(&[Tag::c(0), Tag::c(0), Tag::c(0)])),
            ],
        },
        Case {
            what: "a flood of MAC addresses",
            frames: flood.collect(),
        },
    ]
}

/// What the groups decide about: its sources are the attacker's own.
pub fn for_the_groups() -> Vec<Case> {
    vec![
        Case {
            what: "every protocol of IPv4",
            frames: protocols(true),
        },
        Case {
            what: "every protocol of IPv6",
            frames: protocols(false),
        },
        Case {
            what: "fragments of IPv4",
            frames: fragments(true),
        },
        Case {
            what: "fragments of IPv6",
            frames: fragments(false),
        },
        Case {
            what: "IPv6 headers in front of TCP",
            frames: chains(),
        },
    ]
}

/// The attacker's own address and the victim's.
fn addresses(v4: bool) -> [IpAddr; 2] {
    [ATTACKER, VICTIM].map(|number| Addresses::new(number).both()[usize::from(!v4)])
}

/// EtherType and packet.
fn body(packet: &[u8]) -> Vec<u8> {
    craft::frame([0; 6], [0; 6], packet).split_off(12)
}

/// A packet from the attacker to the victim.
fn carrying(packet: &[u8]) -> Frame {
    Frame::carrying(Mac::of(ATTACKER), Mac::of(VICTIM), &body(packet))
}

fn echo([from, to]: [IpAddr; 2]) -> Vec<u8> {
    let message = craft::icmp_message(from, to, [8, 0], b"\0\x01\0\x02ping");
    craft::ip(from, to, 1, &message)
}

/// The first segment of a connection from `sport`.
fn syn(v4: bool, sport: u16, dport: u16) -> Vec<u8> {
    let [from, to] = addresses(v4);
    let ends = [(from, sport), (to, dport)].map(|(address, port)| SocketAddr::new(address, port));
    craft::tcp_segment(ends[0], ends[1], [7, 0], craft::SYN, &[], b"hello there!")
}

/// All that an IP header can say that follows. The same stands behind each: a SYN to the open port, which
/// is "no more headers" (59) to who takes its first bytes for an extension header.
fn protocols(v4: bool) -> Vec<(Frame, Fate)> {
    let [from, to] = addresses(v4);
    let payload = syn(v4, 59 << 8, OPEN);
    (0..=u8::MAX)
        .map(|proto| {
            let frame = carrying(&craft::ip(from, to, proto, &payload));
            let fate = match proto {
                1 | TCP | 58 => Passes,
                // Its offset is the port: not the first.
                FRAGMENT if !v4 => Dropped("policy_fragment"),
                _ => Denied,
            };
            (frame, fate)
        })
        .collect()
}

/// A fragment of a TCP segment, or of what claims to be one: with `word` in units of IPv4.
fn part(v4: bool, id: u16, word: u16, payload: &[u8]) -> Frame {
    let [from, to] = addresses(v4);
    carrying(&match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let rest = V4 {
                id,
                fragment: word,
                ..V4::default()
            };
            craft::ipv4(from, to, TCP, &rest, payload)
        }
        _ => craft::ip(from, to, FRAGMENT, &numbered(id, TCP, word, payload)),
    })
}

/// A fragment header with an identification.
fn numbered(id: u16, next: u8, word: u16, payload: &[u8]) -> Vec<u8> {
    let mut bytes = fragment(next, word & 0x1fff, word & MORE != 0, payload);
    bytes[4..8].copy_from_slice(&u32::from(id).to_be_bytes());
    bytes
}

/// Tiny ones, ones that overlap, and ones without a beginning (RFC 1858, RFC 3128, RFC 5722).
fn fragments(v4: bool) -> Vec<(Frame, Fate)> {
    let (open, closed) = (syn(v4, 4001, OPEN), syn(v4, 4001, CLOSED));
    let first = |id, payload: &[u8]| part(v4, id, MORE, payload);
    let later = |id, units, payload: &[u8]| part(v4, id, units, payload);
    let missing = Dropped("policy_fragment");
    let broken = Dropped("ip_malformed");
    let mut frames = vec![
        // Ports without flags, whatever the port.
        (first(1, &open[..8]), broken),
        (later(1, 1, &open[8..]), missing),
        (first(2, &closed[..8]), broken),
        (later(2, 1, &closed[8..]), missing),
        // What follows what was denied.
        (first(3, &closed[..24]), Denied),
        (later(3, 3, &closed[24..]), missing),
        (later(3, 1, &closed[8..]), missing),
        // What follows what was let through, of which another beginning makes nothing else. Ports cannot be
        // replaced by what begins behind them.
        (first(4, &open[..24]), Passes),
        (first(4, &closed[..24]), Denied),
        (later(4, 3, &open[24..]), Passes),
        (later(4, 1, &closed[8..]), Passes),
        // The end first, and an end beyond the longest packet.
        (later(5, 3, &open[24..]), missing),
        (part(v4, 6, 0x1fff, &open), missing),
    ];
    if !v4 {
        let [from, to] = addresses(v4);
        let carried = |id, next, payload: &[u8]| {
            carrying(&craft::ip(
                from,
                to,
                FRAGMENT,
                &numbered(id, next, MORE, payload),
            ))
        };
        // The first fragment has all headers (RFC 7112).
        frames.extend([
            (carried(7, DESTINATION, &extended(TCP, &[])), broken),
            (later(7, 1, &open), missing),
            (carried(8, DESTINATION, &extended(TCP, &closed)), Denied),
            (carried(9, UDP, &udp(4001, OPEN, &[0; 8])), Denied),
        ]);
    }
    frames
}

/// A packet in which `headers` follow each other, and then a TCP segment.
fn chained(headers: &[u8], segment: Vec<u8>) -> Frame {
    let [from, to] = addresses(false);
    let (next, payload) = headers
        .iter()
        .rev()
        .fold((TCP, segment), |(next, rest), header| {
            let with_it = match *header {
                FRAGMENT => fragment(next, 0, false, &rest),
                _ => extended(next, &rest),
            };
            (*header, with_it)
        });
    carrying(&craft::ip(from, to, next, &payload))
}

/// The port is found behind every chain that is followed; no other chain gets anywhere.
fn chains() -> Vec<(Frame, Fate)> {
    let some: [&[u8]; 10] = [
        &[HOP_BY_HOP],
        &[ROUTING],
        &[DESTINATION],
        &[FRAGMENT],
        &[HOP_BY_HOP, DESTINATION],
        &[HOP_BY_HOP, ROUTING, FRAGMENT],
        &[HOP_BY_HOP, DESTINATION, ROUTING, FRAGMENT, DESTINATION],
        &[DESTINATION, HOP_BY_HOP],
        &[FRAGMENT, FRAGMENT],
        &[DESTINATION; 5],
    ];
    let mut frames = Vec::new();
    let mut sport = 5000;
    let mut put = |headers: &[u8], fates: [Fate; 2]| {
        for (dport, fate) in [CLOSED, OPEN].into_iter().zip(fates) {
            sport += 1;
            frames.push((chained(headers, syn(false, sport, dport)), fate));
        }
    };
    for headers in some {
        put(headers, [Denied, Passes]);
    }
    put(&[DESTINATION; 7], [Dropped("ip_malformed"); 2]);
    for count in [8, 9, 16, 64, 150] {
        put(&vec![DESTINATION; count], [Dropped("ip_headers"); 2]);
    }
    // One header nearly as long as the frame, and one that ends behind it.
    let [from, to] = addresses(false);
    let beyond = [Dropped("ip_malformed"); 2];
    for (units, length, fates) in [(150, 151 * 8, [Denied, Passes]), (255, 64, beyond)] {
        for (dport, fate) in [CLOSED, OPEN].into_iter().zip(fates) {
            let mut header = vec![TCP, units, 1, 4, 0, 0, 0, 0];
            header.resize(length, 0);
            header.extend(syn(false, 6000, dport));
            let packet = craft::ip(from, to, DESTINATION, &header);
            frames.push((carrying(&packet), fate));
        }
    }
    frames
}
