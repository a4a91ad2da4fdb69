//! Nothing leaves untranslated: what a gateway cannot translate it drops.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use vnet_tests::{
    nat::{BLUE, FAR, Lab, Lane, PHYS, UPLINK, Vm, craft, udp},
    traffic::{is_cut_off, reaches},
    wire::{Heard, PacketSocket, Wire as _},
};

use crate::at;

/// What is in every packet that is not to be seen.
const MARK: &[u8] = b"for nobody's eyes outside";

/// Everything odd that a VM may send to the outside.
fn odd_packets(vm: &Vm) -> Vec<(&'static str, Vec<u8>)> {
    let (own4, own6) = (vm.address.v4, vm.address.v6);
    let (far4, far6) = (FAR.v4, FAR.v6);
    let v4 = craft::V4::default;
    let datagram4 = |src: Ipv4Addr| craft::udp_message(at(src.into(), 9), at(far4.into(), 9), MARK);
    let datagram6 = |src: Ipv6Addr| craft::udp_message(at(src.into(), 9), at(far6.into(), 9), MARK);
    let mut all = vec![
        ("protocol 253", craft::ipv4(own4, far4, 253, &v4(), MARK)),
        (
            "protocol 253 over IPv6",
            craft::ipv6(own6, far6, 253, 64, MARK),
        ),
        (
            "GRE",
            craft::ipv4(own4, far4, 47, &v4(), &[&[0, 0, 8, 0], MARK].concat()),
        ),
        (
            "ESP",
            craft::ipv4(own4, far4, 50, &v4(), &[&[0; 8], MARK].concat()),
        ),
        ("no next header", craft::ipv6(own6, far6, 59, 64, MARK)),
        (
            "TCP cut short",
            craft::ipv4(own4, far4, 6, &v4(), &MARK[..12]),
        ),
        (
            "UDP cut short",
            craft::ipv4(own4, far4, 17, &v4(), &MARK[..5]),
        ),
        ("a time to live of 1", {
            let rest = craft::V4 { ttl: 1, ..v4() };
            craft::ipv4(own4, far4, 17, &rest, &datagram4(own4))
        }),
    ];
    for (what, source) in [
        ("a source outside", Ipv4Addr::new(203, 0, 113, 5)),
        ("a source of nobody's network", Ipv4Addr::new(10, 9, 9, 9)),
        ("the physical host's source", PHYS.v4),
        ("the source of the other network", BLUE.address(21).v4),
        ("the loopback's source", Ipv4Addr::LOCALHOST),
        ("no source", Ipv4Addr::UNSPECIFIED),
        ("a source that is a group", Ipv4Addr::new(224, 0, 0, 5)),
    ] {
        all.push((
            what,
            craft::ipv4(source, far4, 17, &v4(), &datagram4(source)),
        ));
        all.push((what, craft::ipv4(source, far4, 253, &v4(), MARK)));
    }
    for (what, source) in [
        ("an IPv6 source outside", "2001:db8:77::5"),
        ("an IPv6 source of nobody's network", "fd00:99::1"),
        ("the source of the other IPv6 network", "fd00:11::21"),
        ("a link-local source", "fe80::1234"),
        ("an IPv6 source that is a group", "ff02::5"),
    ] {
        let source = source.parse().unwrap();
        all.push((what, craft::ipv6(source, far6, 17, 64, &datagram6(source))));
        all.push((what, craft::ipv6(source, far6, 253, 64, MARK)));
    }
    for (what, to) in [
        ("the limited broadcast", Ipv4Addr::BROADCAST),
        ("the uplink's broadcast", Ipv4Addr::new(192, 0, 2, 255)),
        ("a group", Ipv4Addr::new(239, 1, 1, 1)),
    ] {
        all.push((what, craft::ipv4(own4, to, 253, &v4(), MARK)));
    }
    for (what, proto, payload) in [
        ("a later fragment", 17, MARK),
        ("a later fragment of protocol 253", 253, MARK),
        ("a later fragment of TCP", 6, MARK),
    ] {
        let rest = craft::V4 {
            fragment: 0x2000 | 100,
            ..v4()
        };
        all.push((what, craft::ipv4(own4, far4, proto, &rest, payload)));
        let fragment = [&[proto, 0, 0x03, 0x21, 0, 0, 0, 9][..], payload].concat();
        all.push((what, craft::ipv6(own6, far6, 44, 64, &fragment)));
    }
    all
}

/// None of it is seen outside but with a source that is the host's own, and nothing of it is there
/// with an address from inside.
#[track_caller]
fn nothing_leaks(lab: &Lab, vm: &Vm) {
    lab.wire.clear();
    for (what, packet) in odd_packets(vm) {
        lab.send_from_vm(vm, &packet);
        assert_eq!(lab.leaks(), Vec::<String>::new(), "{what}");
    }
    let seen = lab
        .wire
        .packets()
        .into_iter()
        .filter(|packet| packet.contains(MARK));
    for packet in seen {
        let ip = packet.ip().expect("only IP is sent");
        assert!(UPLINK.both().contains(&ip.src), "{packet:02x?}");
    }
}

/// The kernel routes without translating: each of these tests would notice.
#[test]
fn leaks_are_noticed() {
    let lab = Lab::in_lane(Lane::Reference);
    let vm = lab.vm(11);
    for address in PHYS.both() {
        lab.wire.clear();
        assert!(is_cut_off(vm.netns(), address), "there is no way back");
        let own = vm.address.like(address).to_string();
        let leaks = lab.leaks();
        assert!(leaks.iter().any(|leak| leak.contains(&own)), "{leaks:?}");
    }
    // A speaker of ours stands for a frame that is passed on as it is.
    let socket = PacketSocket::open(lab.host.netns(), "up0", Heard::Delivered);
    let packet = craft::udp_packet(at(UPLINK.v4.into(), 9), at(PHYS.v4.into(), 9), MARK);
    for (source, packet) in [
        (vm.mac().0, packet.clone()),
        ([2, 0, 0, 0, 0, 7], {
            // An error about a packet that the VM sent.
            let inner = craft::udp_packet(at(vm.address.v4.into(), 9), at(FAR.v4.into(), 9), MARK);
            let rest = [&[0; 4][..], &inner].concat();
            let (from, to) = (UPLINK.v4.into(), PHYS.v4.into());
            craft::ip(from, to, 1, &craft::icmp_message(from, to, [11, 0], &rest))
        }),
    ] {
        lab.wire.clear();
        socket.send_bytes(&craft::frame(lab.phys.mac().0, source, &packet));
        assert_eq!(lab.leaks().len(), 1);
    }
    lab.wire.clear();
    socket.send_bytes(&craft::frame(lab.phys.mac().0, [2, 0, 0, 0, 0, 7], &packet));
    lab.assert_no_leaks();
}

/// Options may be passed on or not; what is passed on is translated.
#[test]
fn leaks_of_options_and_extension_headers() {
    let lab = Lab::masquerading("");
    let vm = lab.vm(11);
    let (own4, own6) = (vm.address.v4, vm.address.v6);
    // No operation; record route; loose source route by the router (RFC 791, 3.1).
    let hop = PHYS.v4.octets();
    for options in [
        vec![1, 1, 1, 0],
        [&[7, 7, 4][..], &[0; 4], &[0]].concat(),
        [&[131, 7, 4][..], &hop, &[0]].concat(),
        vec![1; 40],
    ] {
        let rest = craft::V4 {
            options,
            ..craft::V4::default()
        };
        let message = craft::udp_message(at(own4.into(), 9), at(FAR.v4.into(), 9), MARK);
        lab.send_from_vm(&vm, &craft::ipv4(own4, FAR.v4, 17, &rest, &message));
        lab.send_from_vm(&vm, &craft::ipv4(own4, FAR.v4, 253, &rest, MARK));
    }
    let message = craft::udp_message(at(own6.into(), 9), at(FAR.v6.into(), 9), MARK);
    // Hop-by-hop and destination options with padding; a routing header of the forbidden type 0.
    for (next, header) in [
        (0, vec![17, 0, 1, 4, 0, 0, 0, 0]),
        (60, vec![17, 0, 1, 4, 0, 0, 0, 0]),
        (
            43,
            [&[17, 2, 0, 1, 0, 0, 0, 0][..], &PHYS.v6.octets()].concat(),
        ),
    ] {
        let payload = [&header[..], &message].concat();
        lab.send_from_vm(&vm, &craft::ipv6(own6, FAR.v6, next, 64, &payload));
    }
    // Sixty headers, more than anybody looks through.
    let many: Vec<u8> = [60, 0, 1, 4, 0, 0, 0, 0].repeat(60);
    lab.send_from_vm(
        &vm,
        &craft::ipv6(own6, FAR.v6, 60, 64, &[&many[..], &message].concat()),
    );
    lab.assert_no_leaks();
}

#[test]
fn leaks_of_odd_packets() {
    let lab = Lab::masquerading("");
    lab.network(BLUE);
    let vm = lab.vm(11);
    nothing_leaks(&lab, &vm);
}

/// The host routes by itself: the last line is the uplink's own program.
#[test]
fn leaks_with_forwarding_on() {
    let lab = Lab::masquerading("");
    lab.network(BLUE);
    let vm = lab.vm(11);
    lab.host.sh("echo 1 >/proc/sys/net/ipv4/ip_forward
         echo 1 >/proc/sys/net/ipv6/conf/all/forwarding");
    nothing_leaks(&lab, &vm);
}

/// The host's own routing sends a packet of a NATed network: it does not get out.
#[test]
fn leaks_of_the_hosts_own_packets() {
    let lab = Lab::masquerading("");
    let vm = lab.vm(11);
    if lab.lane == Lane::Reference {
        return;
    }
    let gateway = vnet_tests::nat::GATEWAY;
    for (own, address) in gateway.both().into_iter().zip(PHYS.both()) {
        // So that it need not be asked for, which the kernel would do with the same address.
        assert!(reaches(lab.host.netns(), address));
        // Bound to the gateway's address, which is no address of the outside.
        let socket = udp(lab.host.netns(), own, 0);
        let _ = socket.send_to(MARK, at(address, 9));
    }
    assert!(
        !lab.wire
            .packets()
            .iter()
            .any(|packet| packet.contains(MARK))
    );
    let dropped = lab.host.all_drops().join("\n");
    assert!(dropped.contains("nat_untranslated"), "{dropped}");
    drop(vm);
}

/// Without a rule there is no way out.
#[test]
fn leaks_without_rules() {
    let lab = Lab::new();
    if lab.lane == Lane::Reference {
        return;
    }
    lab.rule("masquerade --network lan --uplink up0");
    let vm = lab.vm(11);
    assert!(reaches(vm.netns(), PHYS.v4.into()));
    let id = lab.rules()[0].id();
    lab.host.vnet(&format!("nat del {id}"));
    for address in [
        IpAddr::from(PHYS.v4),
        PHYS.v6.into(),
        FAR.v4.into(),
        FAR.v6.into(),
    ] {
        assert!(is_cut_off(vm.netns(), address), "{address}");
    }
    lab.network(BLUE);
    nothing_leaks(&lab, &vm);
}

/// Another network is translated, this one is not.
#[test]
fn leaks_of_a_network_without_a_rule() {
    let lab = Lab::masquerading("");
    if lab.lane == Lane::Reference {
        return;
    }
    lab.network(BLUE);
    let vm = lab.vm_on(BLUE, 21);
    for address in [IpAddr::from(PHYS.v4), PHYS.v6.into()] {
        assert!(is_cut_off(vm.netns(), address), "{address}");
    }
    lab.assert_no_leaks();
}

/// The uplink is no port of the switch any more, or may not be taken away: nothing leaves by it.
#[test]
fn leaks_without_the_uplink() {
    let lab = Lab::masquerading("");
    if lab.lane == Lane::Reference {
        return;
    }
    let vm = lab.vm(11);
    assert!(reaches(vm.netns(), PHYS.v4.into()));
    let gone = lab.host.try_vnet("port del up0");
    if gone.code == 0 {
        for address in [IpAddr::from(PHYS.v4), PHYS.v6.into()] {
            assert!(is_cut_off(vm.netns(), address), "{address}");
        }
        lab.assert_no_leaks();
        lab.host.vnet("port add up0 --uplink");
    } else {
        gone.refused(1, &["up0"]);
    }
    assert!(reaches(vm.netns(), PHYS.v4.into()));
}

/// The way out has no address to translate to.
#[test]
fn leaks_without_an_address_outside() {
    let lab = Lab::masquerading("");
    let vm = lab.vm(11);
    lab.host.ip("addr flush dev up0 scope global");
    let (address, mac) = (PHYS.v4, lab.phys.mac());
    lab.host
        .ip(&format!("neigh replace {address} lladdr {mac} dev up0"));
    lab.host
        .ip(&format!("route replace {}/32 dev up0 scope link", PHYS.v4));
    lab.host
        .ip(&format!("route replace default via {}", PHYS.v4));
    std::thread::sleep(std::time::Duration::from_millis(1200));
    if lab.lane == Lane::Vnet {
        assert!(is_cut_off(vm.netns(), PHYS.v4.into()));
    }
    lab.assert_no_leaks();
}
