//! Datagrams longer than a packet, and fragments that come alone or in the wrong order.

use std::net::IpAddr;

use vnet_tests::nat::{Datagrams, FAR, Lab, PHYS, Sniffer, UPLINK, craft, udp};

use crate::{at, udp_out};

/// Longer than one packet, up to the longest datagram that sockets send.
const LONG: [usize; 4] = [1473, 4000, 9001, 60_000];

#[test]
fn fragments_ipv4() {
    let lab = Lab::masquerading("");
    let vm = lab.vm(11);
    udp_out(&vm, 0, lab.phys.netns(), PHYS.v4.into(), &LONG);
    udp_out(&vm, 0, &lab.far, FAR.v4.into(), &LONG);
}

#[test]
fn fragments_ipv6() {
    let lab = Lab::masquerading("");
    let vm = lab.vm(11);
    udp_out(&vm, 0, lab.phys.netns(), PHYS.v6.into(), &LONG);
    udp_out(&vm, 0, &lab.far, FAR.v6.into(), &LONG);
}

#[test]
fn fragments_of_pings() {
    let lab = Lab::masquerading("");
    let vm = lab.vm(11);
    for (_, address) in crate::outside(&lab) {
        let pings = vnet_tests::traffic::ping(vm.netns(), address, 2, 100, "-s 4000");
        assert_eq!(pings.received, 2, "{address}");
    }
}

#[test]
fn fragments_by_a_forward() {
    let lab = Lab::masquerading("");
    let vm = lab.vm(11);
    for (address, inside) in UPLINK.both().into_iter().zip(vm.address.both()) {
        let (listen, to) = (at(address, 5000), at(inside, 5001));
        lab.rule(&format!("dnat --proto udp --listen {listen} --to {to}"));
        let server = udp(vm.netns(), inside, 5001);
        let seen = Datagrams::through(&lab.far, 0, listen, server).exchange(&LONG);
        assert_eq!(seen.by_server.ip(), FAR.like(address));
    }
}

/// Fragments that a VM's kernel would not make: the first one holds ports and nothing else.
#[test]
fn fragments_with_little_in_the_first() {
    let lab = Lab::masquerading("");
    let vm = lab.vm(11);
    for (address, own) in PHYS.both().into_iter().zip(vm.address.both()) {
        let server = udp(lab.phys.netns(), address, 7000);
        let message = craft::udp_message(at(own, 31_000), at(address, 7000), &[0x5a; 200]);
        for packet in craft::fragments(own, address, 17, &message, 8) {
            lab.send_from_vm(&vm, &packet);
        }
        let mut got = [0; 512];
        let (length, peer) = server.recv_from(&mut got).unwrap();
        assert_eq!(&got[..length], &[0x5a; 200]);
        assert_eq!(peer.ip(), UPLINK.like(address));
    }
}

/// A later fragment whose first one has not been seen goes nowhere but to the host that it is for,
/// and does no harm to what comes after it.
#[test]
fn fragments_out_of_order_are_not_leaked() {
    const MARK: &[u8] = b"in the wrong order";
    let lab = Lab::masquerading("");
    let [vm, other] = [11, 12].map(|number| lab.vm(number));
    let ears = [&vm, &other].map(|vm| Sniffer::start(vm.netns(), "eth0"));
    for address in PHYS.both() {
        ears[0].clear();
        let datagrams = Datagrams::between(vm.netns(), 0, lab.phys.netns(), at(address, 0));
        let seen = datagrams.exchange(&[10]);
        let content = MARK.repeat(120);
        let message = craft::udp_message(seen.server, seen.by_server, &content);
        let mut parts = craft::fragments(address, seen.by_server.ip(), 17, &message, 1200);
        // Alone, and then all of a datagram from the last on.
        lab.send_from_outside(&parts[1]);
        parts.reverse();
        for packet in &parts {
            lab.send_from_outside(packet);
        }
        let own: IpAddr = vm.address.like(address);
        for packet in ears[0]
            .packets()
            .iter()
            .filter(|packet| packet.contains(MARK))
        {
            let ip = packet.ip().unwrap();
            assert_eq!((ip.src, ip.dst), (address, own), "{packet:02x?}");
        }
        assert!(!ears[1].packets().iter().any(|packet| packet.contains(MARK)));
        assert!(
            !lab.wire
                .packets()
                .iter()
                .any(|packet| packet.contains(MARK))
        );
        // What came of it, if the datagram was put together, is right; later ones are as ever.
        let short = std::time::Duration::from_millis(200);
        datagrams.client.set_read_timeout(Some(short)).unwrap();
        let mut got = vec![0; 4096];
        while let Ok(length) = datagrams.client.recv(&mut got) {
            assert_eq!(got[..length], content);
        }
        let long = std::time::Duration::from_secs(4);
        datagrams.client.set_read_timeout(Some(long)).unwrap();
        datagrams.exchange(&[4000]);
    }
}

/// A VM's later fragments without a first one do not leave.
#[test]
fn fragments_without_a_first_do_not_leave() {
    const MARK: &[u8] = b"nothing before me";
    let lab = Lab::masquerading("");
    let vm = lab.vm(11);
    for (address, own) in PHYS.both().into_iter().zip(vm.address.both()) {
        let message = MARK.repeat(100);
        let parts = craft::fragments(own, address, 17, &message, 400);
        for packet in &parts[1..] {
            lab.send_from_vm(&vm, packet);
        }
        assert!(
            !lab.wire
                .packets()
                .iter()
                .any(|packet| packet.contains(MARK))
        );
    }
    if lab.lane == vnet_tests::nat::Lane::Vnet {
        let dropped = lab.host.drops("vm11", "nat_fragment");
        assert!(dropped >= 6, "{:?}", lab.host.all_drops());
    }
}
