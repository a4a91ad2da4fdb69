//! The same packets by vnet and by the kernel's own NAT: what comes out, outside and inside, is the
//! same, byte for byte, but for what either may choose.

use std::net::{IpAddr, SocketAddr};

use vnet_tests::nat::{
    FAR, Ip, Lab, Lane, Packet, Sniffer, UPLINK, Vm, craft, header_sum, transport_sum_is_right,
};

use crate::at;

/// What is in every packet of the script.
const MARK: &[u8] = b"what does become of me";

/// A packet that has come out, as far as it is to be the same.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Out {
    src: IpAddr,
    dst: IpAddr,
    proto: u8,
    ttl: u8,
    offset: usize,
    more: bool,
    ports: Option<[u16; 2]>,
    /// The header without lengths, identification, checksum, time to live and addresses.
    header: Vec<u8>,
    /// The message without ports and checksum.
    message: Vec<u8>,
}

impl Out {
    #[track_caller]
    fn of(packet: &Packet) -> Self {
        let ip = packet.ip().expect("only IP is sent");
        check_sums(&ip);
        let mut header = ip.header.to_vec();
        if ip.src.is_ipv4() {
            for at in [4, 5, 8, 10, 11] {
                header[at] = 0;
            }
            header[12..20].fill(0);
        } else {
            header[7] = 0;
            header[8..40].fill(0);
            if ip.more || ip.offset != 0 {
                // The identification of the fragments, at the end of their header.
                let end = header.len();
                header[end - 4..].fill(0);
            }
        }
        let mut message = ip.payload.to_vec();
        if ip.offset == 0 {
            let (ports, sum) = match ip.proto {
                6 => (0..4, 16..18),
                17 => (0..4, 6..8),
                // The identifier is what a port is elsewhere.
                _ => (4..6, 2..4),
            };
            message[ports].fill(0);
            // None stays none.
            if message[sum.clone()] != [0, 0] {
                message[sum].fill(1);
            }
        }
        Self {
            src: ip.src,
            dst: ip.dst,
            proto: ip.proto,
            ttl: ip.ttl,
            offset: ip.offset,
            more: ip.more,
            ports: ip.ports(),
            header,
            message,
        }
    }
}

#[track_caller]
fn check_sums(ip: &Ip<'_>) {
    if ip.src.is_ipv4() {
        assert_eq!(header_sum(ip.header), 0xffff, "{ip:02x?}");
    }
    if !ip.more && ip.offset == 0 {
        assert!(transport_sum_is_right(ip), "{ip:02x?}");
    }
}

/// Lets the checksum of a UDP message over IPv4 be none.
fn without_sum(mut message: Vec<u8>) -> Vec<u8> {
    message[6..8].fill(0);
    message
}

/// What the VM sends, in order; each begins a connection of its own.
fn script(vm: &Vm) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    for (own, to) in vm.address.both().into_iter().zip(FAR.both()) {
        for (number, length) in (0..).zip([0, 1, 2, 100, 1301]) {
            let content = [MARK, &vec![0xa5; length]].concat();
            let (src, dst) = (at(own, 11_000 + number), at(to, 9000 + number));
            all.push(craft::udp_packet(src, dst, &content));
        }
        let (src, dst) = (at(own, 12_000), at(to, 9100));
        // MSS, SACK permitted, timestamps, window scale.
        let options = [
            2, 4, 5, 180, 4, 2, 8, 10, 1, 2, 3, 4, 0, 0, 0, 0, 1, 3, 3, 7,
        ];
        let syn = craft::tcp_segment(src, dst, [0xffff_fff0, 0], craft::SYN, &options, MARK);
        all.push(craft::ip(own, to, 6, &syn));
        let echo_kind = if own.is_ipv4() { [8, 0] } else { [128, 0] };
        let echo_proto = if own.is_ipv4() { 1 } else { 58 };
        let rest = [&[0x2e, 0xe0, 0, 1][..], MARK].concat();
        let echo = craft::icmp_message(own, to, echo_kind, &rest);
        all.push(craft::ip(own, to, echo_proto, &echo));
        // In fragments, in order.
        let (src, dst) = (at(own, 13_000), at(to, 9200));
        let message = craft::udp_message(src, dst, &MARK.repeat(100));
        // Each part has the mark whole, wherever it is cut.
        all.extend(craft::fragments(own, to, 17, &message, 800));
    }
    let (own, to) = (vm.address.v4, FAR.v4);
    let message = |port: u16, content: &[u8]| {
        craft::udp_message(at(own.into(), port), at(to.into(), 9300), content)
    };
    for (port, rest, message) in [
        (
            14_000,
            craft::V4 {
                tos: 0xb9,
                ..craft::V4::default()
            },
            message(14_000, MARK),
        ),
        (
            14_001,
            craft::V4 {
                fragment: 0x4000,
                ..craft::V4::default()
            },
            message(14_001, MARK),
        ),
        (
            14_002,
            craft::V4 {
                ttl: 3,
                ..craft::V4::default()
            },
            message(14_002, MARK),
        ),
        (
            14_003,
            craft::V4::default(),
            without_sum(message(14_003, MARK)),
        ),
    ] {
        assert!((14_000..15_000).contains(&port));
        all.push(craft::ipv4(own, to, 17, &rest, &message));
    }
    all
}

/// What comes out of one lane: outside, and inside for an answer to each that came out.
fn run(lane: Lane) -> [Vec<Out>; 2] {
    let lab = Lab::in_lane(lane);
    lab.rule("masquerade --network lan --uplink up0");
    let vm = lab.vm(11);
    // Nobody else is to answer.
    lab.far.ip("link set eth0 down").unwrap();
    let inside = Sniffer::start(vm.netns(), "eth0");
    lab.wire.clear();
    for packet in script(&vm) {
        lab.send_from_vm(&vm, &packet);
    }
    let marked = |sniffer: &Sniffer| -> Vec<Packet> {
        let mut packets = sniffer.packets();
        packets.retain(|packet| packet.contains(MARK) && packet.ip().is_some_and(is_no_error));
        packets
    };
    let out = marked(&lab.wire);
    for packet in &out {
        let ip = packet.ip().unwrap();
        if let Some(answer) = answer(&ip) {
            lab.send_from_outside(&answer);
        }
    }
    let back = marked(&inside);
    [&out, &back].map(|packets| packets.iter().map(Out::of).collect())
}

/// An error holds the mark as well, and what is said of it is not compared.
fn is_no_error(ip: Ip<'_>) -> bool {
    ip.subject().is_none()
}

/// The other end's answer to a packet.
fn answer(ip: &Ip<'_>) -> Option<Vec<u8>> {
    if ip.offset != 0 || ip.more {
        return None;
    }
    let message = match (ip.proto, ip.ports()) {
        (17, Some([sport, dport])) => {
            let (from, to): (SocketAddr, SocketAddr) = (at(ip.dst, dport), at(ip.src, sport));
            craft::udp_message(from, to, &ip.payload[8..])
        }
        (6, Some([sport, dport])) => {
            let (from, to) = (at(ip.dst, dport), at(ip.src, sport));
            let sequence = u32::from_be_bytes(*ip.payload[4..].first_chunk()?);
            let ack = sequence.wrapping_add(1 + MARK.len() as u32);
            let flags = craft::SYN | craft::ACK;
            craft::tcp_segment(from, to, [77, ack], flags, &[2, 4, 5, 180], MARK)
        }
        (1, _) => craft::icmp_message(ip.dst, ip.src, [0, 0], &ip.payload[4..]),
        (58, _) => craft::icmp_message(ip.dst, ip.src, [129, 0], &ip.payload[4..]),
        _ => return None,
    };
    Some(craft::ip(ip.dst, ip.src, ip.proto, &message))
}

#[test]
fn differential_frames_are_those_of_the_kernels_nat() {
    let [wanted_out, wanted_back] = run(Lane::Reference);
    assert_eq!(wanted_out.len(), 24, "{wanted_out:?}");
    assert!(
        wanted_out
            .iter()
            .all(|out| UPLINK.both().contains(&out.src))
    );
    assert_eq!(wanted_back.len(), 18, "{wanted_back:?}");
    let [out, back] = run(Lane::of_environment());
    compare("outside", &wanted_out, &out);
    compare("inside", &wanted_back, &back);
}

#[track_caller]
fn compare(place: &str, wanted: &[Out], got: &[Out]) {
    for (number, (wanted, got)) in wanted.iter().zip(got).enumerate() {
        assert_eq!(got, wanted, "{place}, packet {number}");
    }
    assert_eq!(got.len(), wanted.len(), "{place}");
}
