//! `nat add dnat`: a port outside leads to a VM.

use std::net::{IpAddr, SocketAddr};

use vnet_tests::nat::{Connection, Datagrams, FAR, Lab, PHYS, UPLINK, any, tcp_listener, udp};
use xtask::netns::Netns;

use crate::{BULK, SIZES, at, tcp_out};

/// An address and port as options have it: that is how `SocketAddr` is written.
fn option(address: IpAddr, port: u16) -> String {
    at(address, port).to_string()
}

/// A TCP connection to the listen address comes out at the VM's listener, from `own` as the VM sees
/// it.
#[track_caller]
fn tcp_in(from: &Netns, own: IpAddr, listen: SocketAddr, vm: &Netns, inside: SocketAddr) {
    let listener = tcp_listener(vm, inside.ip(), inside.port());
    let mut connection = match Connection::open_to(from, 0, listen, &listener) {
        Ok(connection) => connection,
        Err(error) => panic!("{own} to {listen}: {error:#}"),
    };
    assert_eq!(connection.seen.by_server.ip(), own, "{:?}", connection.seen);
    connection.exchange(BULK, BULK);
}

#[track_caller]
fn udp_in(from: &Netns, own: IpAddr, listen: SocketAddr, vm: &Netns, inside: SocketAddr) {
    let server = udp(vm, inside.ip(), inside.port());
    let seen = Datagrams::through(from, 0, listen, server).exchange(&SIZES);
    assert_eq!(seen.by_server.ip(), own, "{seen:?}");
    assert_eq!(seen.by_server.port(), seen.client.port(), "{seen:?}");
}

#[test]
fn forward_tcp() {
    let lab = Lab::masquerading("");
    let vm = lab.vm(11);
    for (address, inside) in UPLINK.both().into_iter().zip(vm.address.both()) {
        let (listen, to) = (option(address, 8080), option(inside, 80));
        lab.rule(&format!("dnat --proto tcp --listen {listen} --to {to}"));
        for (from, own) in [
            (lab.phys.netns(), PHYS.like(address)),
            (&lab.far, FAR.like(address)),
        ] {
            tcp_in(from, own, at(address, 8080), vm.netns(), at(inside, 80));
        }
    }
}

#[test]
fn forward_udp() {
    let lab = Lab::masquerading("");
    let vm = lab.vm(11);
    for (address, inside) in UPLINK.both().into_iter().zip(vm.address.both()) {
        let (listen, to) = (option(address, 5353), option(inside, 53));
        lab.rule(&format!("dnat --proto udp --listen {listen} --to {to}"));
        for (from, own) in [
            (lab.phys.netns(), PHYS.like(address)),
            (&lab.far, FAR.like(address)),
        ] {
            udp_in(from, own, at(address, 5353), vm.netns(), at(inside, 53));
        }
    }
}

/// One rule for both protocols; the other protocols and ports are the host's.
#[test]
fn forward_both_protocols() {
    let lab = Lab::masquerading("");
    let vm = lab.vm(11);
    let (address, inside) = (UPLINK.v4.into(), vm.address.v4.into());
    let (listen, to) = (option(address, 7000), option(inside, 7000));
    lab.rule(&format!("dnat --proto tcp,udp --listen {listen} --to {to}"));
    let phys = lab.phys.netns();
    tcp_in(
        phys,
        PHYS.v4.into(),
        at(address, 7000),
        vm.netns(),
        at(inside, 7000),
    );
    udp_in(
        phys,
        PHYS.v4.into(),
        at(address, 7000),
        vm.netns(),
        at(inside, 7000),
    );
    let own = Connection::open(phys, 0, lab.host.netns(), at(address, 7001));
    assert_eq!(own.seen.server, at(address, 7001));
}

/// Port n of the range is port n of the other one.
#[test]
fn forward_port_range() {
    let lab = Lab::masquerading("");
    let vm = lab.vm(11);
    for (address, inside) in UPLINK.both().into_iter().zip(vm.address.both()) {
        let (listen, to) = (option(address, 8000), option(inside, 9100));
        lab.rule(&format!(
            "dnat --proto tcp,udp --listen {listen}-8010 --to {to}-9110"
        ));
        let own = FAR.like(address);
        for number in [0, 1, 7, 10] {
            let (outside, inside) = (at(address, 8000 + number), at(inside, 9100 + number));
            udp_in(&lab.far, own, outside, vm.netns(), inside);
        }
        tcp_in(
            &lab.far,
            own,
            at(address, 8010),
            vm.netns(),
            at(inside, 9110),
        );
        // Next to the range on either side is the host.
        for port in [7999, 8011] {
            Connection::open(&lab.far, 0, lab.host.netns(), at(address, port)).exchange(10, 10);
        }
    }
}

#[test]
fn forward_from_one_source_only() {
    let lab = Lab::masquerading("");
    let vm = lab.vm(11);
    for (address, inside, from) in [
        (
            IpAddr::from(UPLINK.v4),
            IpAddr::from(vm.address.v4),
            format!("{}/32", PHYS.v4),
        ),
        (
            UPLINK.v6.into(),
            vm.address.v6.into(),
            format!("{}/128", PHYS.v6),
        ),
    ] {
        let (listen, to) = (option(address, 8080), option(inside, 80));
        lab.rule(&format!(
            "dnat --proto tcp --listen {listen} --to {to} --from {from}"
        ));
        let outside = at(address, 8080);
        tcp_in(
            lab.phys.netns(),
            PHYS.like(address),
            outside,
            vm.netns(),
            at(inside, 80),
        );
        let listener = tcp_listener(vm.netns(), inside, 80);
        let refused = Connection::open_to(&lab.far, 0, outside, &listener);
        assert!(refused.is_err(), "{refused:?}");
        assert!(listener.accept().is_err(), "it got through to the VM");
    }
}

/// A VM that uses the listen address gets to the VM behind it, which sees the uplink's address: both
/// would miss each other's answers otherwise (RFC 4787, REQ-9).
#[test]
fn forward_hairpin_to_other_vm() {
    let lab = Lab::masquerading("");
    let [one, two] = [11, 12].map(|number| lab.vm(number));
    for (address, inside) in UPLINK.both().into_iter().zip(two.address.both()) {
        let (listen, to) = (option(address, 8080), option(inside, 80));
        lab.rule(&format!("dnat --proto tcp,udp --listen {listen} --to {to}"));
        tcp_in(
            one.netns(),
            address,
            at(address, 8080),
            two.netns(),
            at(inside, 80),
        );
        let server = udp(two.netns(), inside, 80);
        let seen = Datagrams::through(one.netns(), 0, at(address, 8080), server).exchange(&SIZES);
        assert_eq!(seen.by_server.ip(), address);
    }
}

#[test]
fn forward_hairpin_to_itself() {
    let lab = Lab::masquerading("");
    let vm = lab.vm(11);
    for (address, inside) in UPLINK.both().into_iter().zip(vm.address.both()) {
        let (listen, to) = (option(address, 8080), option(inside, 80));
        lab.rule(&format!("dnat --proto tcp,udp --listen {listen} --to {to}"));
        tcp_in(
            vm.netns(),
            address,
            at(address, 8080),
            vm.netns(),
            at(inside, 80),
        );
        let server = udp(vm.netns(), inside, 80);
        let seen = Datagrams::through(vm.netns(), 0, at(address, 8080), server).exchange(&SIZES);
        assert_eq!(seen.by_server.ip(), address);
    }
}

/// The VM behind a forward has its own way out, from the forwarded port too.
#[test]
fn forward_leaves_the_way_out_alone() {
    let lab = Lab::masquerading("");
    let vm = lab.vm(11);
    let (listen, to) = (
        option(UPLINK.v4.into(), 8080),
        option(vm.address.v4.into(), 80),
    );
    lab.rule(&format!("dnat --proto tcp,udp --listen {listen} --to {to}"));
    let outside = at(UPLINK.v4.into(), 8080);
    let server = udp(vm.netns(), vm.address.v4.into(), 80);
    let datagrams = Datagrams::through(lab.phys.netns(), 30_000, outside, server);
    datagrams.exchange(&SIZES);
    tcp_out(&vm, 0, lab.phys.netns(), PHYS.v4.into(), 1 << 20);
    // What the VM begins from the forwarded port does not break what came in by it.
    let there = udp(&lab.far, any(FAR.v4.into()), 5000);
    datagrams
        .server
        .send_to(b"from the server's port", at(FAR.v4.into(), 5000))
        .unwrap();
    let mut got = [0; 64];
    let (_, peer) = there.recv_from(&mut got).unwrap();
    assert_eq!(peer.ip(), UPLINK.v4);
    datagrams.exchange(&SIZES);
}

/// A forward on another address that the host holds outside.
#[test]
fn forward_from_second_uplink_address() {
    let lab = Lab::masquerading("");
    lab.host.ip("addr add 192.0.2.8/24 dev up0");
    lab.allow_outside("192.0.2.8".parse::<IpAddr>().unwrap());
    let vm = lab.vm(11);
    let listen = at("192.0.2.8".parse().unwrap(), 8080);
    let to = at(vm.address.v4.into(), 80);
    lab.rule(&format!(
        "dnat --proto tcp --listen {listen} --to {to} --uplink up0"
    ));
    tcp_in(lab.phys.netns(), PHYS.v4.into(), listen, vm.netns(), to);
    // The same port of the first address is the host's.
    let own = at(UPLINK.v4.into(), 8080);
    Connection::open(lab.phys.netns(), 0, lab.host.netns(), own).exchange(10, 10);
}
