//! `nat add static`: an address or a prefix stands for another one, with all its ports and protocols.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use socket2::SockAddr;
use vnet_tests::{
    nat::{
        Connection, Datagrams, FAR, LAN, Lab, Lane, Network, PHYS, UPLINK, Vm, WIDE, raw,
        tcp_listener, udp,
    },
    traffic::{is_cut_off, reaches},
};
use xtask::netns::Netns;

use crate::{BULK, SIZES, at};

/// A protocol without ports (RFC 2784).
const GRE: u8 = 47;

fn external(vm: &Vm) -> [(IpAddr, IpAddr); 2] {
    [
        (Ipv4Addr::new(192, 0, 2, 50).into(), vm.address.v4.into()),
        ("2001:db8:1::50".parse().unwrap(), vm.address.v6.into()),
    ]
}

/// A lab with a VM that has external addresses of its own.
fn one_to_one() -> (Lab, Vm) {
    let lab = Lab::new();
    let vm = lab.vm(11);
    for (outside, inside) in external(&vm) {
        lab.rule(&format!("static --external {outside} --internal {inside}"));
        lab.allow_outside(outside);
    }
    (lab, vm)
}

#[test]
fn static_ping_both_ways() {
    let (lab, vm) = one_to_one();
    for (outside, _) in external(&vm) {
        assert!(
            reaches(lab.phys.netns(), outside),
            "{outside} from its neighbour"
        );
        assert!(
            reaches(&lab.far, outside),
            "{outside} from behind the router"
        );
        for address in [PHYS.like(outside), FAR.like(outside)] {
            assert!(reaches(vm.netns(), address), "{address} from the VM");
        }
    }
}

#[test]
fn static_from_inside() {
    let (lab, vm) = one_to_one();
    for (outside, _) in external(&vm) {
        for (to, address) in [
            (lab.phys.netns(), PHYS.like(outside)),
            (&lab.far, FAR.like(outside)),
        ] {
            let mut tcp = Connection::open(vm.netns(), 500, to, at(address, 0));
            assert_eq!(
                tcp.seen.by_server,
                at(outside, 500),
                "ports stay as they are"
            );
            tcp.exchange(BULK, BULK);
            let seen = Datagrams::between(vm.netns(), 501, to, at(address, 0)).exchange(&SIZES);
            assert_eq!(seen.by_server, at(outside, 501));
        }
    }
}

#[test]
fn static_from_outside() {
    let (lab, vm) = one_to_one();
    for (outside, inside) in external(&vm) {
        let own = FAR.like(outside);
        let listener = tcp_listener(vm.netns(), inside, 22);
        let mut tcp = Connection::open_to(&lab.far, 0, at(outside, 22), &listener).unwrap();
        assert_eq!(tcp.seen.by_server, at(own, tcp.seen.client.port()));
        assert_eq!(tcp.seen.server, at(inside, 22));
        tcp.exchange(BULK, BULK);
        let server = udp(vm.netns(), inside, 53);
        let seen = Datagrams::through(&lab.far, 0, at(outside, 53), server).exchange(&SIZES);
        assert_eq!(seen.by_server, at(own, seen.client.port()));
    }
}

/// Beside masquerading, which serves the other VMs.
#[test]
fn static_beside_masquerade() {
    let (lab, vm) = one_to_one();
    lab.rule("masquerade --network lan --uplink up0");
    let other = lab.vm(12);
    for (outside, _) in external(&vm) {
        let address = PHYS.like(outside);
        let tcp = Connection::open(vm.netns(), 0, lab.phys.netns(), at(address, 0));
        assert_eq!(tcp.seen.by_server.ip(), outside);
        crate::tcp_out(&other, 0, lab.phys.netns(), address, 1000);
    }
}

/// Sends a packet of a protocol without ports and waits for it; gives the source that it came with.
#[track_caller]
fn portless(from: &Netns, own: IpAddr, to: &Netns, address: IpAddr, local: IpAddr) -> IpAddr {
    // Flags and version 0, protocol type 0x88b5 (RFC 2784, 2).
    let packet = [&[0, 0, 0x88, 0xb5][..], b"nothing has ports here"].concat();
    let receiver = raw(to, local, GRE);
    receiver.bind(&SockAddr::from(at(local, 0))).unwrap();
    let sender = raw(from, own, GRE);
    sender.bind(&SockAddr::from(at(own, 0))).unwrap();
    sender
        .send_to(&packet, &SockAddr::from(at(address, 0)))
        .unwrap();
    let mut got = [std::mem::MaybeUninit::uninit(); 256];
    let (length, peer) = match receiver.recv_from(&mut got) {
        Ok(came) => came,
        Err(error) => panic!("{own} to {address}: {error}"),
    };
    // The header is in front, over IPv4.
    assert!(length >= packet.len());
    let peer: Option<SocketAddr> = peer.as_socket();
    peer.expect("it has an address").ip()
}

#[test]
fn static_protocol_without_ports() {
    let (lab, vm) = one_to_one();
    let phys = lab.phys.netns();
    for (outside, inside) in external(&vm) {
        let there = PHYS.like(outside);
        assert_eq!(portless(vm.netns(), inside, phys, there, there), outside);
        assert_eq!(portless(phys, there, vm.netns(), outside, inside), there);
    }
    let seen = lab.wire.packets().iter().any(|packet| {
        packet.contains(b"nothing has ports here") && packet.ip().is_some_and(|ip| ip.proto == GRE)
    });
    assert!(seen, "on the wire too");
}

/// A prefix for a prefix: the host part stays (as iptables' NETMAP).
#[test]
fn static_prefix_ipv4() {
    let lab = Lab::new();
    lab.rule("static --external 192.0.2.64/28 --internal 10.0.0.64/28");
    for last in [66, 79] {
        let vm = lab.vm(last);
        let outside: IpAddr = Ipv4Addr::new(192, 0, 2, last).into();
        lab.allow_outside(outside);
        assert!(reaches(lab.phys.netns(), outside));
        let tcp = Connection::open(vm.netns(), 0, lab.phys.netns(), at(PHYS.v4.into(), 0));
        assert_eq!(tcp.seen.by_server, at(outside, tcp.seen.client.port()));
        let listener = tcp_listener(vm.netns(), vm.address.v4.into(), 80);
        let mut tcp = Connection::open_to(&lab.far, 0, at(outside, 80), &listener).unwrap();
        assert_eq!(tcp.seen.by_server.ip(), FAR.v4);
        tcp.exchange(1 << 20, 1 << 20);
    }
    if lab.lane == Lane::Reference {
        // The kernel sends what it cannot translate as it is.
        return;
    }
    // Who is not in the prefix has no way out.
    let other = lab.vm(11);
    assert!(is_cut_off(other.netns(), PHYS.v4.into()));
}

/// The one's complement sum of a whole number of words (RFC 1071).
fn sum(words: impl IntoIterator<Item = u16>) -> u16 {
    words.into_iter().fold(0, add)
}

/// One's complement addition.
fn add(a: u16, b: u16) -> u16 {
    let (sum, carry) = a.overflowing_add(b);
    sum + u16::from(carry)
}

/// The external address of `inside`, worked out as RFC 6296 says in 3.1 to 3.5, for prefixes of 48
/// bits or fewer (3.4: word 3 is adjusted) and of 49 to 64 bits (3.5: the first word behind them
/// that is not 0xffff).
fn npt(inside: Ipv6Addr, internal: Ipv6Addr, external: Ipv6Addr, bits: usize) -> Ipv6Addr {
    // 3.1: the adjustment makes up for the difference of both prefixes' sums.
    let adjustment = add(sum(internal.segments()), !sum(external.segments()));
    let mut words = inside.segments();
    for (at, word) in words.iter_mut().enumerate() {
        let kept = bits.saturating_sub(at * 16).min(16);
        let mask = if kept == 0 { 0 } else { !0 << (16 - kept) };
        *word = *word & !mask | external.segments()[at] & mask;
    }
    let at = if bits <= 48 {
        3
    } else {
        (4..8)
            .find(|at| words[*at] != 0xffff)
            .expect("such an address cannot be translated")
    };
    words[at] = match add(words[at], adjustment) {
        0xffff => 0,
        word => word,
    };
    Ipv6Addr::from(words)
}

/// The RFC's own example.
#[test]
fn npt_algorithm_matches_the_rfc() {
    let address = |text: &str| text.parse::<Ipv6Addr>().unwrap();
    let [internal, external] = ["fd01:203:405::", "2001:db8:1::"].map(address);
    let outside = npt(address("fd01:203:405:1::1234"), internal, external, 48);
    assert_eq!(outside, address("2001:db8:1:d550::1234"));
    let back = npt(outside, external, internal, 48);
    assert_eq!(back, address("fd01:203:405:1::1234"));
}

/// IPv6 prefixes: no checksum changes (RFC 6296), and every protocol passes.
#[track_caller]
fn static_npt(network: Network, bits: usize, internal: &str, external: &str) {
    let lab = Lab::new();
    if network != LAN {
        lab.network(network);
    }
    let via = UPLINK.v6;
    lab.phys
        .ip(&format!("route add {external}/{bits} via {via}"));
    lab.rule(&format!(
        "static --external {external}/{bits} --internal {internal}/{bits} --uplink up0"
    ));
    let (internal, external) = (internal.parse().unwrap(), external.parse().unwrap());
    for last in [11, 12] {
        let vm = lab.vm_on(network, last);
        let inside = vm.address.v6;
        let outside: IpAddr = npt(inside, internal, external, bits).into();
        lab.allow_outside(outside);
        let mut tcp = Connection::open(vm.netns(), 600, lab.phys.netns(), at(PHYS.v6.into(), 0));
        assert_eq!(tcp.seen.by_server, at(outside, 600));
        tcp.exchange(1 << 20, 1 << 20);
        let seen =
            Datagrams::between(vm.netns(), 601, &lab.far, at(FAR.v6.into(), 0)).exchange(&SIZES);
        assert_eq!(seen.by_server, at(outside, 601));
        assert!(reaches(lab.phys.netns(), outside), "{outside}");
        assert!(reaches(&lab.far, outside), "{outside}");
        let listener = tcp_listener(vm.netns(), inside.into(), 22);
        let mut tcp = Connection::open_to(&lab.far, 0, at(outside, 22), &listener).unwrap();
        assert_eq!(tcp.seen.by_server.ip(), FAR.v6);
        tcp.exchange(1 << 20, 1 << 20);
    }
    let sums_are_right = lab
        .wire
        .packets()
        .iter()
        .filter_map(|packet| packet.ip())
        .filter(|ip| ip.proto == 58 && !ip.more && ip.offset == 0)
        .all(|ip| vnet_tests::nat::transport_sum_is_right(&ip));
    assert!(sums_are_right, "ICMPv6");
}

#[test]
fn static_npt_64() {
    static_npt(LAN, 64, "fd00:10::", "2001:db8:f:e::");
}

#[test]
fn static_npt_48() {
    static_npt(WIDE, 48, "fd00:12::", "2001:db8:f::");
}
