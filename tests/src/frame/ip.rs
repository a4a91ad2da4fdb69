//! IP packets as fixtures describe them, whole to the last checksum, and a check of those that is
//! not the datapath's.

use std::net::{IpAddr, SocketAddr};

/// The flags of TCP by their letters.
const TCP_FLAGS: [(char, u8); 5] = [('F', 1), ('S', 2), ('R', 4), ('P', 8), ('A', 16)];

/// What is behind the IP header.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Inside {
    Udp {
        checksum: bool,
    },
    Tcp {
        flags: u8,
        seq: u32,
        ack: u32,
        mss: Option<u16>,
        /// The option's value is at an odd place.
        odd: bool,
        /// The window is the one with which the checksum is the sum of the pseudo-header: right
        /// whether or not a device is going to finish it.
        finished_twice: bool,
    },
    Echo {
        reply: bool,
        id: u16,
    },
    Error {
        kind: u8,
        code: u8,
        next_mtu: u16,
        about: Vec<u8>,
    },
    /// Neighbour discovery: everything behind the checksum.
    Neighbour {
        kind: u8,
        rest: Vec<u8>,
    },
    Other(u8),
}

/// One fragment of a packet: bytes of what is behind the IP header, and whether more follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Fragment {
    id: u32,
    from: usize,
    to: usize,
}

/// A packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    src: SocketAddr,
    dst: SocketAddr,
    inside: Inside,
    ttl: u8,
    /// Type of service.
    service: u8,
    payload: usize,
    dont_fragment: bool,
    fragment: Option<Fragment>,
    /// Bytes of options behind an IPv4 header, or of a destination options header of IPv6.
    options: usize,
}

/// Reads `10.0.0.2:5000 > 192.0.2.1:53`; ports may be left out.
fn ends(text: &str) -> (SocketAddr, SocketAddr) {
    let end = |text: &str| -> SocketAddr {
        let text = text.trim();
        let address = |ip: IpAddr| SocketAddr::new(ip, 0);
        text.parse()
            .or_else(|_| text.parse().map(address))
            .unwrap_or_else(|_| panic!("{text} is not an address"))
    };
    let (src, dst) = text.split_once('>').expect("ends are FROM > TO");
    (end(src), end(dst))
}

fn packet(text: &str, inside: Inside) -> Packet {
    let (src, dst) = ends(text);
    Packet {
        src,
        dst,
        inside,
        ttl: 64,
        service: 0,
        payload: 32,
        dont_fragment: false,
        fragment: None,
        options: 0,
    }
}

/// A UDP packet: `10.0.0.2:5000 > 192.0.2.1:53`, with 32 bytes of payload.
#[must_use]
pub fn udp(ends: &str) -> Packet {
    packet(ends, Inside::Udp { checksum: true })
}

/// A TCP segment with flags such as `SA`.
#[must_use]
pub fn tcp(ends: &str, flags: &str) -> Packet {
    let bit = |letter| {
        let flag = TCP_FLAGS.iter().find(|(name, _)| *name == letter);
        flag.expect("flags are of FSRPA").1
    };
    let flags = flags.chars().map(bit).fold(0, |sum, bit| sum | bit);
    let inside = Inside::Tcp {
        flags,
        seq: 1000,
        ack: 0,
        mss: None,
        odd: false,
        finished_twice: false,
    };
    packet(ends, inside).payload(0)
}

/// The reset that answers a segment whose packet is lost (RFC 9293, 3.10.7.1), with these numbers.
#[must_use]
pub fn reset(ends: &str, flags: &str, seq: u32, ack: u32) -> Packet {
    let mut packet = tcp(ends, flags).numbers(seq, ack);
    if let Inside::Tcp { finished_twice, .. } = &mut packet.inside {
        *finished_twice = true;
    }
    packet.dont_fragment()
}

/// An ICMP echo request, for the identifier `id`: `10.0.0.2 > 192.0.2.1`.
#[must_use]
pub fn ping(ends: &str, id: u16) -> Packet {
    packet(ends, Inside::Echo { reply: false, id })
}

/// The answer to an ICMP echo request.
#[must_use]
pub fn pong(ends: &str, id: u16) -> Packet {
    packet(ends, Inside::Echo { reply: true, id })
}

/// A packet of another protocol.
#[must_use]
pub fn other(ends: &str, protocol: u8) -> Packet {
    packet(ends, Inside::Other(protocol))
}

/// An ICMP error about a packet, of which it holds what is promised: the IP header and eight bytes
/// (RFC 792), or all of it (RFC 4443).
#[must_use]
pub fn error(ends: &str, (kind, code): (u8, u8), about: &Packet) -> Packet {
    let mut about = about.bytes();
    if packet(ends, Inside::Other(0)).src.is_ipv4() {
        let header = usize::from(about[0] & 0x0f) * 4;
        about.truncate(header + 8);
    }
    let inside = Inside::Error {
        kind,
        code,
        next_mtu: 0,
        about,
    };
    packet(ends, inside).payload(0)
}

/// A neighbour solicitation for `target` from a MAC address (RFC 4861, 4.3).
#[must_use]
pub fn solicitation(ends: &str, target: &str, from: [u8; 6]) -> Packet {
    let target: std::net::Ipv6Addr = target.parse().expect("an address");
    let mut rest = vec![0; 4];
    rest.extend(target.octets());
    rest.extend([1, 1]);
    rest.extend(from);
    let inside = Inside::Neighbour { kind: 135, rest };
    packet(ends, inside).payload(0).ttl(255)
}

/// The answer to a solicitation, for the address that it comes from (RFC 4861, 4.4).
#[must_use]
pub fn advertisement(ends: &str, mac: [u8; 6]) -> Packet {
    let inside = Inside::Other(58);
    let mut packet = packet(ends, inside).payload(0).ttl(255);
    let mut rest = vec![0x60, 0, 0, 0];
    rest.extend(octets(packet.src.ip()));
    rest.extend([2, 1]);
    rest.extend(mac);
    packet.inside = Inside::Neighbour { kind: 136, rest };
    packet
}

/// EtherType and ARP packet: operation, sender and target with their MAC addresses (RFC 826).
#[must_use]
pub fn arp(operation: u8, sender: ([u8; 6], &str), target: ([u8; 6], &str)) -> Vec<u8> {
    let mut body = vec![0x08, 0x06, 0, 1, 8, 0, 6, 4, 0, operation];
    for (mac, ip) in [sender, target] {
        let ip: std::net::Ipv4Addr = ip.parse().expect("an address");
        body.extend(mac);
        body.extend(ip.octets());
    }
    body
}

impl Packet {
    /// Its time to live, or hop limit; 64 unless said.
    #[must_use]
    pub fn ttl(mut self, ttl: u8) -> Self {
        self.ttl = ttl;
        self
    }

    /// One router more has seen it.
    #[must_use]
    pub fn hop(mut self) -> Self {
        self.ttl -= 1;
        self
    }

    /// Its type of service is "internetwork control", as errors have it (RFC 1812, 4.3.2.5).
    #[must_use]
    pub fn service(mut self) -> Self {
        self.service = 0xc0;
        self
    }

    /// The MTU that an error tells of (RFC 1191, 4).
    #[must_use]
    pub fn next_mtu(mut self, mtu: u16) -> Self {
        if let Inside::Error { next_mtu, .. } = &mut self.inside {
            *next_mtu = mtu;
        }
        self
    }

    /// What an error embeds is only so long.
    #[must_use]
    pub fn cut_about(mut self, len: usize) -> Self {
        if let Inside::Error { about, .. } = &mut self.inside {
            about.truncate(len);
        }
        self
    }

    /// Bytes of payload.
    #[must_use]
    pub fn payload(mut self, payload: usize) -> Self {
        self.payload = payload;
        self
    }

    /// TCP's numbers.
    #[must_use]
    pub fn numbers(mut self, seq: u32, ack: u32) -> Self {
        if let Inside::Tcp {
            seq: own_seq,
            ack: own_ack,
            ..
        } = &mut self.inside
        {
            (*own_seq, *own_ack) = (seq, ack);
        }
        self
    }

    /// TCP's option of the maximum segment size, behind another one.
    #[must_use]
    pub fn mss(mut self, size: u16) -> Self {
        if let Inside::Tcp { mss, .. } = &mut self.inside {
            *mss = Some(size);
        }
        self
    }

    /// As [`Self::mss`], with the value at an odd place.
    #[must_use]
    pub fn odd_mss(self, size: u16) -> Self {
        let mut packet = self.mss(size);
        if let Inside::Tcp { odd, .. } = &mut packet.inside {
            *odd = true;
        }
        packet
    }

    /// UDP without a checksum.
    #[must_use]
    pub fn no_checksum(mut self) -> Self {
        self.inside = Inside::Udp { checksum: false };
        self
    }

    /// IPv4: it must not be fragmented.
    #[must_use]
    pub fn dont_fragment(mut self) -> Self {
        self.dont_fragment = true;
        self
    }

    /// With options: eight bytes behind an IPv4 header, or a destination options header.
    #[must_use]
    pub fn options(mut self) -> Self {
        self.options = 8;
        self
    }

    /// Only the bytes from `from` up to `to` of what is behind the IP header: a fragment, the last
    /// one when `to` is past the end.
    #[must_use]
    pub fn fragment(mut self, id: u32, from: usize, to: usize) -> Self {
        self.fragment = Some(Fragment { id, from, to });
        self
    }

    /// Its addresses and ports exchanged.
    #[must_use]
    pub fn back(mut self) -> Self {
        std::mem::swap(&mut self.src, &mut self.dst);
        self
    }

    /// The EtherType.
    #[must_use]
    pub fn ether_type(&self) -> u16 {
        if self.src.is_ipv4() { 0x0800 } else { 0x86dd }
    }

    fn protocol(&self) -> u8 {
        match self.inside {
            Inside::Udp { .. } => 17,
            Inside::Tcp { .. } => 6,
            Inside::Echo { .. } | Inside::Error { .. } if self.src.is_ipv4() => 1,
            Inside::Echo { .. } | Inside::Error { .. } | Inside::Neighbour { .. } => 58,
            Inside::Other(protocol) => protocol,
        }
    }

    /// Source, destination and protocol as the pseudo-header has them (RFC 793, RFC 8200).
    fn pseudo(&self, len: usize) -> Vec<u8> {
        let mut bytes = [octets(self.src.ip()), octets(self.dst.ip())].concat();
        bytes.extend((len as u32).to_be_bytes());
        bytes.extend([0, 0, 0, self.protocol()]);
        bytes
    }

    /// What is behind the IP header, whole.
    fn upper(&self) -> Vec<u8> {
        let payload = (0..self.payload).map(|i| (i * 7) as u8);
        let (sport, dport) = (self.src.port().to_be_bytes(), self.dst.port().to_be_bytes());
        let mut upper = match &self.inside {
            Inside::Udp { .. } => {
                let len = (8 + self.payload) as u16;
                [sport, dport, len.to_be_bytes(), [0, 0]].concat()
            }
            Inside::Tcp {
                flags,
                seq,
                ack,
                mss,
                odd,
                ..
            } => {
                let mut header = [sport, dport].concat();
                header.extend(seq.to_be_bytes());
                header.extend(ack.to_be_bytes());
                let words = if mss.is_some() { 0x70 } else { 0x50 };
                header.extend([words, *flags, 0x20, 0, 0, 0, 0, 0]);
                if let Some(mss) = mss {
                    // SACK permitted, two of no operation, the size; or one before it and one behind.
                    let [high, low] = mss.to_be_bytes();
                    header.extend(if *odd {
                        [4, 2, 1, 2, 4, high, low, 1]
                    } else {
                        [4, 2, 1, 1, 2, 4, high, low]
                    });
                }
                header
            }
            Inside::Echo { reply, id } => {
                let kind = match (self.src.is_ipv4(), reply) {
                    (true, false) => 8,
                    (true, true) => 0,
                    (false, false) => 128,
                    (false, true) => 129,
                };
                let mut header = vec![kind, 0, 0, 0];
                header.extend(id.to_be_bytes());
                header.extend([0, 7]);
                header
            }
            Inside::Error {
                kind,
                code,
                next_mtu,
                about,
            } => {
                let [high, low] = next_mtu.to_be_bytes();
                let mut message = vec![*kind, *code, 0, 0, 0, 0, high, low];
                message.extend(about);
                message
            }
            Inside::Neighbour { kind, rest } => {
                let mut message = vec![*kind, 0, 0, 0];
                message.extend(rest);
                message
            }
            Inside::Other(_) => Vec::new(),
        };
        upper.extend(payload);
        let (at, pseudo) = match self.inside {
            Inside::Udp { checksum: false } | Inside::Other(_) => return upper,
            Inside::Udp { .. } => (6, true),
            Inside::Tcp { .. } => (16, true),
            Inside::Echo { .. } | Inside::Error { .. } | Inside::Neighbour { .. } => {
                (2, self.src.is_ipv6())
            }
        };
        let mut covered = if pseudo {
            self.pseudo(upper.len())
        } else {
            Vec::new()
        };
        covered.extend(&upper);
        if let Inside::Tcp {
            finished_twice: true,
            ..
        } = self.inside
        {
            let window = covered.len() - upper.len() + 14;
            let wanted = ones_sum(&self.pseudo(upper.len()));
            let fitting = (0..=u16::MAX).map(u16::to_be_bytes).find(|bytes| {
                covered[window..window + 2].copy_from_slice(bytes);
                !ones_sum(&covered) == wanted
            });
            upper[14..16].copy_from_slice(&fitting.expect("one of all windows fits"));
        }
        let mut sum = !ones_sum(&covered);
        if matches!(self.inside, Inside::Udp { .. }) && sum == 0 {
            sum = 0xffff;
        }
        upper[at..at + 2].copy_from_slice(&sum.to_be_bytes());
        upper
    }

    /// The packet, from the IP header on.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        let mut upper = self.upper();
        let whole = upper.len();
        let mut more = false;
        let mut offset = 0;
        let mut id = 0;
        if let Some(fragment) = self.fragment {
            assert_eq!(fragment.from % 8, 0, "fragments are cut at eight bytes");
            more = fragment.to < whole;
            offset = fragment.from;
            id = fragment.id;
            upper = upper[fragment.from..fragment.to.min(whole)].to_vec();
        }
        let (src, dst) = (octets(self.src.ip()), octets(self.dst.ip()));
        if self.src.is_ipv4() {
            let header = 20 + self.options;
            let mut bytes = vec![0x40 | (header / 4) as u8, self.service];
            bytes.extend(((header + upper.len()) as u16).to_be_bytes());
            bytes.extend((id as u16).to_be_bytes());
            let field =
                u16::from(self.dont_fragment) << 14 | u16::from(more) << 13 | (offset / 8) as u16;
            bytes.extend(field.to_be_bytes());
            bytes.extend([self.ttl, self.protocol(), 0, 0]);
            bytes.extend(src);
            bytes.extend(dst);
            // No operation.
            bytes.resize(header, 1);
            let sum = (!ones_sum(&bytes)).to_be_bytes();
            bytes[10..12].copy_from_slice(&sum);
            bytes.extend(upper);
            return bytes;
        }
        let mut behind = Vec::new();
        let mut next = self.protocol();
        if self.fragment.is_some() {
            behind.extend([next, 0]);
            behind.extend((offset as u16 | u16::from(more)).to_be_bytes());
            behind.extend(id.to_be_bytes());
            next = 44;
        }
        if self.options != 0 {
            // A destination options header with PadN (RFC 8200, 4.2).
            behind.splice(0..0, [next, 0, 1, 4, 0, 0, 0, 0]);
            next = 60;
        }
        behind.extend(upper);
        let mut bytes = vec![0x60, 0, 0, 0];
        bytes.extend((behind.len() as u16).to_be_bytes());
        bytes.extend([next, self.ttl]);
        bytes.extend(src);
        bytes.extend(dst);
        bytes.extend(behind);
        bytes
    }
}

fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

/// The ones' complement sum of 16-bit words (RFC 1071).
fn ones_sum(bytes: &[u8]) -> u16 {
    let word = |pair: &[u8]| u64::from(pair[0]) << 8 | pair.get(1).map_or(0, |low| u64::from(*low));
    let mut sum: u64 = bytes.chunks(2).map(word).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// Why the checksums of an IP packet without extension headers are not what they should be, if they
/// are not. What is embedded in an ICMP error is not looked at, nor are fragments' upper headers.
#[must_use]
pub fn bad_checksum(packet: &[u8]) -> Option<String> {
    let (header, protocol, addresses, fragment) = match packet.first()? >> 4 {
        4 => {
            let header = usize::from(packet[0] & 0x0f) * 4;
            let sum = ones_sum(&packet[..header]);
            if sum != 0xffff {
                return Some(format!("the IPv4 header sums up to {sum:04x}"));
            }
            let fragment = packet[6] & 0x3f != 0 || packet[7] != 0;
            (header, packet[9], 12..20, fragment)
        }
        _ => (40, packet[6], 8..40, false),
    };
    let upper = &packet[header..];
    let mut covered = Vec::new();
    if protocol != 1 {
        covered.extend(&packet[addresses]);
        covered.extend((upper.len() as u32).to_be_bytes());
        covered.extend([0, 0, 0, protocol]);
    }
    covered.extend(upper);
    match protocol {
        17 if upper[6..8] == [0, 0] && packet[0] >> 4 == 4 => return None,
        1 | 6 | 17 | 58 if !fragment => {}
        _ => return None,
    }
    let sum = ones_sum(&covered);
    (sum != 0xffff).then(|| format!("what is behind the IP header sums up to {sum:04x}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_are_what_etherparse_makes() {
        use etherparse::PacketBuilder;

        let payload: Vec<u8> = (0..32).map(|i| (i * 7) as u8).collect();
        let mut expected = Vec::new();
        PacketBuilder::ipv4([10, 0, 0, 2], [192, 0, 2, 1], 64)
            .udp(5000, 53)
            .write(&mut expected, &payload)
            .expect("a vector takes what is written");
        // etherparse sets "don't fragment".
        let ours = udp("10.0.0.2:5000 > 192.0.2.1:53").dont_fragment().bytes();
        assert_eq!(ours, expected);

        let mut expected = Vec::new();
        PacketBuilder::ipv6([0xfd; 16], [0x20; 16], 63)
            .icmpv6_echo_request(9, 7)
            .write(&mut expected, &payload)
            .expect("a vector takes what is written");
        let [a, b] = [[0xfd; 16], [0x20; 16]].map(std::net::Ipv6Addr::from);
        assert_eq!(ping(&format!("{a} > {b}"), 9).hop().bytes(), expected);
    }

    #[test]
    fn checksums_are_checked() {
        let end = "[fd00::2]:1 > [2001:db8::1]:2";
        for packet in [
            udp("10.0.0.2:1 > 192.0.2.1:2"),
            tcp("10.0.0.2:1 > 192.0.2.1:2", "SA").payload(7),
            ping("10.0.0.2 > 192.0.2.1", 5),
            udp(end).options(),
            tcp(end, "R"),
            pong("fd00::2 > 2001:db8::1", 5),
        ] {
            let mut bytes = packet.bytes();
            assert_eq!(bad_checksum(&bytes), None, "{packet:?}");
            if packet.options != 0 {
                continue;
            }
            let last = bytes.len() - 1;
            bytes[last] ^= 1;
            assert!(bad_checksum(&bytes).is_some(), "{packet:?}");
        }
    }
}
