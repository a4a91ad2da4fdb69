//! `nat add masquerade`: many VMs appear as the one address of the uplink.

use vnet_tests::{
    nat::{Datagrams, FAR, Lab, Lane, PHYS, UPLINK, is_inside},
    traffic::{is_cut_off, reaches},
};

use crate::{BULK, SIZES, at, outside, tcp_out, udp_out};

#[test]
fn masquerade_ping() {
    let lab = Lab::masquerading("");
    let vm = lab.vm(11);
    for (_, address) in outside(&lab) {
        assert!(reaches(vm.netns(), address), "{address}");
    }
    let pings: Vec<_> = lab
        .wire
        .packets()
        .iter()
        .filter_map(|packet| {
            let ip = packet.ip()?;
            matches!(ip.icmp()?[0], 8 | 128).then_some((ip.src, ip.dst))
        })
        .collect();
    for (_, address) in outside(&lab) {
        assert!(
            pings.contains(&(UPLINK.like(address), address)),
            "{pings:?}"
        );
    }
}

#[test]
fn masquerade_tcp_ipv4() {
    let lab = Lab::masquerading("");
    let vm = lab.vm(11);
    tcp_out(&vm, 0, lab.phys.netns(), PHYS.v4.into(), BULK);
    tcp_out(&vm, 0, &lab.far, FAR.v4.into(), BULK);
}

#[test]
fn masquerade_tcp_ipv6() {
    let lab = Lab::masquerading("");
    let vm = lab.vm(11);
    tcp_out(&vm, 0, lab.phys.netns(), PHYS.v6.into(), BULK);
    tcp_out(&vm, 0, &lab.far, FAR.v6.into(), BULK);
}

/// Buffers cross the gateway uncut, as they cross the switch.
#[test]
fn masquerade_leaves_buffers_whole() {
    let lab = Lab::masquerading("");
    let vm = lab.vm(11);
    tcp_out(&vm, 0, lab.phys.netns(), PHYS.v4.into(), BULK);
    // The sniffer keeps no more of a frame than this.
    let longest = lab
        .wire
        .packets()
        .iter()
        .map(|packet| packet.bytes.len())
        .max();
    assert_eq!(longest, Some(4096), "GSO buffers");
}

#[test]
fn masquerade_udp() {
    let lab = Lab::masquerading("");
    let vm = lab.vm(11);
    for (to, address) in outside(&lab) {
        udp_out(&vm, 0, to, address, &SIZES);
    }
}

/// The source port is kept when it is free, for every protocol and family on its own.
#[test]
fn masquerade_keeps_the_source_port() {
    let lab = Lab::masquerading("");
    let vm = lab.vm(11);
    for (number, (to, address)) in (0..).zip(outside(&lab)) {
        let port = 20_000 + number;
        assert_eq!(tcp_out(&vm, port, to, address, 1000).port(), port);
        assert_eq!(udp_out(&vm, port, to, address, &[10]).port(), port);
    }
}

/// Of two VMs with the same source port one gets another port, and each its own answers.
#[test]
fn masquerade_tells_two_vms_apart() {
    let lab = Lab::masquerading("");
    let [one, two] = [11, 12].map(|number| lab.vm(number));
    for (to, address) in outside(&lab) {
        let datagrams = [&one, &two].map(|vm| {
            let server = vnet_tests::nat::udp(to, address, 0);
            let here = server.local_addr().unwrap();
            Datagrams::through(vm.netns(), 21_000, here, server)
        });
        let [first, second] = datagrams.each_ref().map(|pair| pair.exchange(&SIZES));
        assert_eq!(first.by_server.port(), 21_000);
        if lab.lane == Lane::Vnet {
            // The kernel shares a port between connections to different servers.
            assert_ne!(second.by_server.port(), 21_000);
        }
        for pair in &datagrams {
            pair.exchange(&SIZES);
        }
    }
}

/// Both VMs talk to one and the same server port.
#[test]
fn masquerade_two_vms_to_one_server() {
    let lab = Lab::masquerading("");
    let vms = [11, 12].map(|number| lab.vm(number));
    for address in PHYS.both() {
        let listener = vnet_tests::nat::tcp_listener(lab.phys.netns(), address, 8080);
        let mut connections = vms.each_ref().map(|vm| {
            let there = at(address, 8080);
            vnet_tests::nat::Connection::open_to(vm.netns(), 22_000, there, &listener).unwrap()
        });
        let [one, two] = connections
            .each_ref()
            .map(|connection| connection.seen.by_server);
        assert_ne!(one, two);
        for connection in &mut connections {
            connection.exchange(1 << 20, 1 << 20);
        }
    }
}

/// Nobody outside begins anything with a VM.
#[test]
fn masquerade_lets_nobody_in() {
    let lab = Lab::masquerading("");
    let vm = lab.vm(11);
    let port = udp_out(&vm, 0, lab.phys.netns(), PHYS.v4.into(), &[10]).port();
    // By the VM's own address, as a neighbour who knows the way would try.
    let phys = lab.phys.netns();
    phys.ip(&format!("route add 10.0.0.0/24 via {}", UPLINK.v4))
        .unwrap();
    phys.ip(&format!("route add fd00:10::/64 via {}", UPLINK.v6))
        .unwrap();
    for address in vm.address.both() {
        assert!(is_inside(address));
        assert!(is_cut_off(phys, address), "{address}");
    }
    // By the mapping, from an address that the VM never sent to.
    let inside = vnet_tests::nat::udp(vm.netns(), vm.address.v4.into(), 0);
    inside.send_to(b"hello", at(PHYS.v4.into(), 9)).unwrap();
    let stranger = vnet_tests::nat::udp(&lab.far, FAR.v4.into(), 0);
    let own = inside.local_addr().unwrap().port();
    for port in [port, own] {
        stranger
            .send_to(b"knock", at(UPLINK.v4.into(), port))
            .unwrap();
    }
    let short = std::time::Duration::from_millis(300);
    inside.set_read_timeout(Some(short)).unwrap();
    let mut got = [0; 64];
    let heard = inside.recv_from(&mut got);
    assert!(
        !matches!(heard, Ok((5, peer)) if peer.ip() == FAR.v4),
        "a stranger was let in"
    );
}
