//! `nat add snat`: VMs appear as addresses of a pool, which the host does not hold.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use vnet_tests::{
    nat::{Connection, Datagrams, FAR, Lab, Lane, PHYS},
    traffic::reaches,
    wait,
};

use crate::{SIZES, at};

const POOL: [IpAddr; 4] = [
    IpAddr::V4(Ipv4Addr::new(192, 0, 2, 32)),
    IpAddr::V4(Ipv4Addr::new(192, 0, 2, 35)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 0x32)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 0x35)),
];

fn pooled() -> Lab {
    let lab = Lab::new();
    for (source, [first, last]) in [
        ("10.0.0.0/24", [POOL[0], POOL[1]]),
        ("fd00:10::/64", [POOL[2], POOL[3]]),
    ] {
        lab.rule(&format!(
            "snat --source {source} --to {first}-{last} --uplink up0"
        ));
    }
    for last in 32..=35 {
        lab.allow_outside(Ipv4Addr::new(192, 0, 2, last));
    }
    for last in 0x32..=0x35 {
        lab.allow_outside(Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, last));
    }
    lab
}

fn in_pool(address: IpAddr) -> bool {
    let ends = if address.is_ipv4() {
        [POOL[0], POOL[1]]
    } else {
        [POOL[2], POOL[3]]
    };
    (ends[0]..=ends[1]).contains(&address)
}

/// Neighbours get an answer for each address of the pool, with the uplink's MAC address, and none
/// for what is next to it.
#[test]
fn snat_pool_answers_arp_and_nd() {
    let lab = pooled();
    let mac = lab.host.interface("up0").mac;
    let neighbour = |address: IpAddr| {
        // A datagram to nobody: it is the question about the neighbour that counts.
        let socket = vnet_tests::nat::udp(lab.phys.netns(), PHYS.like(address), 0);
        let _ = socket.send_to(b"who has", at(address, 9));
        lab.phys.ip(&format!("neigh show {address} dev eth0"))
    };
    for address in POOL {
        let text = wait::value("a neighbour answers", || {
            let text = neighbour(address);
            text.contains("lladdr").then_some(text)
        });
        assert!(text.contains(&mac), "{address}: {text}");
    }
    for address in [
        "192.0.2.31",
        "192.0.2.36",
        "2001:db8:1::31",
        "2001:db8:1::36",
    ] {
        let address = address.parse().unwrap();
        for _ in 0..3 {
            let text = neighbour(address);
            assert!(!text.contains("lladdr"), "{text}");
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
    }
}

#[test]
fn snat_pool_is_used() {
    let lab = pooled();
    let vm = lab.vm(11);
    for (to, address) in crate::outside(&lab) {
        assert!(reaches(vm.netns(), address), "{address}");
        let mut tcp = Connection::open(vm.netns(), 0, to, at(address, 0));
        assert!(in_pool(tcp.seen.by_server.ip()), "{:?}", tcp.seen);
        tcp.exchange(2 << 20, 2 << 20);
        let seen = Datagrams::between(vm.netns(), 0, to, at(address, 0)).exchange(&SIZES);
        assert!(in_pool(seen.by_server.ip()), "{seen:?}");
    }
}

/// A VM keeps one address for all that it does (RFC 4787, REQ-2: "paired"), and several VMs do not
/// all get the same one.
#[test]
fn snat_pool_pairs_addresses() {
    let lab = pooled();
    let mut used = BTreeSet::new();
    for number in 11..17 {
        let vm = lab.vm(number);
        let mut of_this_one = BTreeSet::new();
        for (to, address) in [
            (lab.phys.netns(), PHYS.v4.into()),
            (&lab.far, FAR.v4.into()),
        ] {
            let tcp = Connection::open(vm.netns(), 0, to, at(address, 0));
            of_this_one.insert(tcp.seen.by_server.ip());
            let seen = Datagrams::between(vm.netns(), 0, to, at(address, 0)).exchange(&[1]);
            of_this_one.insert(seen.by_server.ip());
        }
        if lab.lane == Lane::Vnet {
            assert_eq!(of_this_one.len(), 1, "{of_this_one:?}");
        }
        used.extend(of_this_one);
    }
    assert!(used.len() > 1, "six VMs on four addresses: {used:?}");
}

/// Of an address in the pool nothing is the host's, and nobody gets in unasked.
#[test]
fn snat_pool_lets_nobody_in() {
    let lab = pooled();
    let vm = lab.vm(11);
    let tcp = Connection::open(vm.netns(), 0, lab.phys.netns(), at(PHYS.v4.into(), 0));
    let outside = tcp.seen.by_server.ip();
    let _on_host =
        vnet_tests::nat::tcp_listener(lab.host.netns(), Ipv4Addr::UNSPECIFIED.into(), 81);
    let _on_vm = vnet_tests::nat::tcp_listener(vm.netns(), Ipv4Addr::UNSPECIFIED.into(), 81);
    if lab.lane == Lane::Vnet {
        let got = vnet_tests::nat::tcp_connect(&lab.far, 0, at(outside, 81));
        assert!(got.is_err(), "{got:?}");
    }
}
