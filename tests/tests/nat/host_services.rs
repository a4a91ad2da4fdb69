//! The host shares its address with the VMs: its own services and connections come first.

use std::time::Duration;

use vnet_tests::nat::{
    Connection, Datagrams, FAR, Lab, PHYS, PHYS_TWO, UPLINK, any, tcp_listener, udp,
};

use crate::{SIZES, at, outside, tcp_out, udp_out};

/// A service on the uplink's address is reached from outside, whatever the VMs do.
#[test]
fn host_service_stays_reachable() {
    let lab = Lab::masquerading("--filtering eif");
    let vm = lab.vm(11);
    for (from, address) in outside(&lab) {
        let own = UPLINK.like(address);
        let mut ssh = Connection::open(from, 0, lab.host.netns(), at(own, 22));
        ssh.exchange(100_000, 100_000);
        tcp_out(&vm, 0, from, address, 1 << 20);
        udp_out(&vm, 0, from, address, &SIZES);
        ssh.exchange(1 << 20, 1 << 20);
        assert_eq!(ssh.seen.by_server.ip(), address);
        Datagrams::between(from, 0, lab.host.netns(), at(own, 53)).exchange(&SIZES);
    }
}

/// A VM with the source port of a host's connection gets another one, and both go on.
#[test]
fn host_connection_keeps_its_port() {
    let lab = Lab::masquerading("");
    let vm = lab.vm(11);
    for address in PHYS.both() {
        let listener = tcp_listener(lab.phys.netns(), address, 8080);
        let there = at(address, 8080);
        let open = |from| Connection::open_to(from, 45_000, there, &listener).unwrap();
        let mut hosts = open(lab.host.netns());
        assert_eq!(hosts.seen.by_server, at(UPLINK.like(address), 45_000));
        let mut vms = open(vm.netns());
        assert_eq!(vms.seen.by_server.ip(), UPLINK.like(address));
        assert_ne!(vms.seen.by_server.port(), 45_000, "it is the host's");
        hosts.exchange(1 << 20, 1 << 20);
        vms.exchange(1 << 20, 1 << 20);
        hosts.exchange(1 << 20, 1 << 20);
    }
}

#[test]
fn host_udp_socket_keeps_its_port() {
    let lab = Lab::masquerading("");
    let vm = lab.vm(11);
    for address in PHYS.both() {
        let hosts = Datagrams::between(lab.host.netns(), 45_001, lab.phys.netns(), at(address, 0));
        assert_eq!(
            hosts.exchange(&SIZES).by_server,
            at(UPLINK.like(address), 45_001)
        );
        let port = udp_out(&vm, 45_001, lab.phys.netns(), address, &SIZES).port();
        if lab.lane == vnet_tests::nat::Lane::Vnet {
            assert_ne!(port, 45_001);
        }
        hosts.exchange(&SIZES);
    }
}

/// Endpoint-independent filtering lets everybody in, but not by a port that the host listens on.
#[test]
fn host_listener_is_not_hijacked() {
    let lab = Lab::masquerading("--filtering eif");
    let vm = lab.vm(11);
    for address in PHYS.both() {
        let own = UPLINK.like(address);
        let (_tcp, server) = (
            tcp_listener(lab.host.netns(), own, 4000),
            udp(lab.host.netns(), any(own), 4000),
        );
        if lab.lane == vnet_tests::nat::Lane::Vnet {
            let there = lab.phys.netns();
            assert_ne!(udp_out(&vm, 4000, there, address, &[10]).port(), 4000);
            assert_ne!(tcp_out(&vm, 4000, there, address, 10).port(), 4000);
        } else {
            udp_out(&vm, 4000, lab.phys.netns(), address, &[10]);
        }
        // From an address that nobody has sent to.
        let stranger = Datagrams::through(&lab.far, 0, at(own, 4000), server);
        let seen = stranger.exchange(&SIZES);
        assert_eq!(seen.by_server.ip(), FAR.like(address));
    }
}

/// What is for nobody inside is answered by the host as ever.
#[test]
fn host_answers_pings_and_tells_of_closed_ports() {
    let lab = Lab::masquerading("");
    let vm = lab.vm(11);
    tcp_out(&vm, 0, lab.phys.netns(), PHYS.v4.into(), 1000);
    for (from, address) in outside(&lab) {
        let own = UPLINK.like(address);
        assert!(vnet_tests::traffic::reaches(from, own));
        let socket = udp(from, any(own), 0);
        socket.connect(at(own, 33_998)).unwrap();
        socket.send(b"is anybody there?").unwrap();
        let refused = socket.recv(&mut [0; 64]).map_err(|error| error.kind());
        assert_eq!(refused, Err(std::io::ErrorKind::ConnectionRefused), "{own}");
    }
}

/// Other people's pings and the host's own share identifiers with the VMs'.
#[test]
fn host_and_vms_ping_at_once() {
    let lab = Lab::masquerading("");
    let vm = lab.vm(11);
    std::thread::scope(|scope| {
        for netns in [vm.netns(), lab.host.netns()] {
            for address in [PHYS.v4.into(), PHYS_TWO.v4.into(), PHYS.v6.into()] {
                scope.spawn(move || {
                    // With one and the same identifier.
                    let options = format!("-e 4242 -W {}", Duration::from_secs(1).as_secs());
                    let pings = vnet_tests::traffic::ping(netns, address, 20, 20, &options);
                    assert_eq!(pings.received, 20, "{} to {address}", netns.name());
                });
            }
        }
    });
}
