//! Translation at XDP: what comes in by the uplink for connections that stand. The rest is TC's, and
//! both are one gateway.
//!
//! What XDP sends on never becomes a socket buffer of the uplink's, so a packet socket there does not
//! see it. Once a second a packet of a connection goes up all the same, to look its way out up again.

use std::net::IpAddr;

use vnet_tests::{
    host::Station,
    nat::{
        Connection, Datagrams, FAR, Ip, Lab, PHYS, Sniffer, UPLINK, Vm, any, complaint, craft,
        hear_errors, tcp_listener, udp,
    },
    traffic,
};

use crate::{BULK, SIZES, at, outside};

/// How many packets of a transfer may go up to TC: its beginning and end, and one a second.
const FEW: usize = 40;

/// Masquerading with the uplink at XDP, and a VM that takes frames from there.
fn lab() -> (Lab, Vm) {
    let lab = Lab::masquerading("");
    let vm = lab.vm(11);
    at_xdp(&lab, &[&vm]);
    (lab, vm)
}

fn at_xdp(lab: &Lab, vms: &[&Vm]) {
    lab.phys
        .sh("ethtool -K eth0 tx off txvlan off tx-vlan-stag-hw-insert off");
    for vm in vms {
        vm.sh("ethtool -K eth0 gro on");
    }
    let ran = lab.host.vnet("up --mode xdp");
    assert_eq!(ran.stderr, "", "nothing to warn of");
    assert!(lab.host.interface("up0").xdp.is_some());
    for vm in vms {
        assert_eq!(lab.host.port_status(vm.port())["note"], "");
    }
}

/// What of the uplink's traffic became a socket buffer.
fn uplink(lab: &Lab) -> Sniffer {
    Sniffer::start(lab.host.netns(), "up0")
}

/// How many packets that `wanted` likes were seen.
fn count(at: &Sniffer, wanted: impl Fn(&Ip<'_>) -> bool) -> usize {
    let packets = at.packets();
    let seen = packets.iter().filter_map(|packet| packet.ip());
    seen.filter(wanted).count()
}

/// The protocol's packets from an address.
fn from(proto: u8, address: IpAddr) -> impl Fn(&Ip<'_>) -> bool {
    move |ip| ip.proto == proto && ip.src == address
}

/// Few packets from `address` went up, of the many that came in by the uplink and were at the VM.
#[track_caller]
fn assert_by_xdp(lab: &Lab, [up, inside]: [&Sniffer; 2], proto: u8, address: IpAddr) {
    let wanted = from(proto, address);
    let (up, got) = (count(up, &wanted), count(inside, &wanted));
    // A VM's GRO puts packets together before a packet socket sees them.
    assert!(got > 0 && up <= FEW, "{up} went up, {got} were at the VM");
    let mut drops = lab.host.all_drops();
    // What the gateway's kernel says to groups before there was a VM.
    drops.retain(|line| !line.contains(".lan no_destination "));
    assert_eq!(drops, Vec::<String>::new());
}

#[test]
fn xdp_masqueraded_udp() {
    let (lab, vm) = lab();
    let sniffers = [uplink(&lab), Sniffer::start(vm.netns(), Station::NIC)];
    let [up, inside] = sniffers.each_ref();
    for (to, address) in outside(&lab) {
        let datagrams = Datagrams::between(vm.netns(), 0, to, at(address, 0));
        let seen = datagrams.exchange(&SIZES);
        assert_eq!(seen.by_server.ip(), UPLINK.like(address), "{seen:?}");
        sniffers.iter().for_each(Sniffer::clear);
        for _ in 0..100 {
            datagrams.exchange(&SIZES);
        }
        assert_by_xdp(&lab, [up, inside], 17, address);
        let own = vm.address.like(address);
        let replies = count(inside, |ip| {
            from(17, address)(ip)
                && ip.dst == own
                && ip.ports() == Some([seen.server.port(), seen.client.port()])
        });
        assert_eq!(replies, 100 * SIZES.len(), "replies are translated");
        // Every reply was seen to be counted, whichever hook it took.
        let row = lab.flow_of("udp", at(own, seen.client.port()));
        assert_eq!(row.as_source(), seen.by_server, "{row:?}");
    }
}

#[test]
fn xdp_masqueraded_tcp() {
    let (lab, vm) = lab();
    let sniffers = [uplink(&lab), Sniffer::start(vm.netns(), Station::NIC)];
    let [up, inside] = sniffers.each_ref();
    for (to, address) in outside(&lab) {
        for (bytes_out, bytes_in) in [(BULK, BULK), (BULK, 1000), (1000, BULK)] {
            sniffers.iter().for_each(Sniffer::clear);
            let mut tcp = Connection::open(vm.netns(), 0, to, at(address, 0));
            assert_eq!(tcp.seen.by_server.ip(), UPLINK.like(address));
            tcp.exchange(bytes_out, bytes_in);
            assert_by_xdp(&lab, [up, inside], 6, address);
        }
    }
}

#[test]
fn xdp_forward_from_outside() {
    let (lab, vm) = lab();
    let sniffers = [uplink(&lab), Sniffer::start(vm.netns(), Station::NIC)];
    for (address, inside) in UPLINK.both().into_iter().zip(vm.address.both()) {
        let (listen, to) = (at(address, 8080), at(inside, 80));
        lab.rule(&format!("dnat --proto tcp,udp --listen {listen} --to {to}"));
        for (client, own) in [
            (lab.phys.netns(), PHYS.like(address)),
            (&lab.far, FAR.like(address)),
        ] {
            sniffers.iter().for_each(Sniffer::clear);
            let listener = tcp_listener(vm.netns(), inside, 80);
            let mut tcp = Connection::open_to(client, 0, listen, &listener).unwrap();
            assert_eq!(tcp.seen.by_server.ip(), own, "{:?}", tcp.seen);
            tcp.exchange(BULK, BULK);
            assert_by_xdp(&lab, sniffers.each_ref(), 6, own);

            let server = udp(vm.netns(), inside, 80);
            let datagrams = Datagrams::through(client, 0, listen, server);
            let seen = datagrams.exchange(&SIZES);
            assert_eq!(seen.by_server, at(own, seen.client.port()), "{seen:?}");
            sniffers.iter().for_each(Sniffer::clear);
            for _ in 0..100 {
                datagrams.exchange(&SIZES);
            }
            assert_by_xdp(&lab, sniffers.each_ref(), 17, own);
        }
    }
}

/// First packets, fragments, errors and pings go up, and arrive.
#[test]
fn xdp_leaves_the_rest_to_tc() {
    let (lab, vm) = lab();
    let up = uplink(&lab);
    for (to, address) in outside(&lab) {
        up.clear();
        let datagrams = Datagrams::between(vm.netns(), 0, to, at(address, 0));
        let seen = datagrams.exchange(&[100, 1473, 4000, 9001, 100]);
        assert_eq!(seen.by_server.ip(), UPLINK.like(address));
        let parts = count(&up, |ip| {
            from(17, address)(ip) && (ip.more || ip.offset != 0)
        });
        assert!(parts >= 2 + 3 + 7, "{parts} fragments went up");

        // An error about a packet of a connection that XDP would send on.
        let socket = udp(vm.netns(), any(address), 0);
        hear_errors(&socket);
        let server = udp(to, address, 0);
        socket.connect(server.local_addr().unwrap()).unwrap();
        let mut got = [0; 64];
        for _ in 0..3 {
            socket.send(b"is anybody there?").unwrap();
            let (length, peer) = server.recv_from(&mut got).unwrap();
            server.send_to(&got[..length], peer).unwrap();
            assert_eq!(socket.recv(&mut got).unwrap(), length);
        }
        drop(server);
        socket.send(b"is anybody there?").unwrap();
        let told = complaint(&socket, std::time::Duration::from_secs(3));
        let told = told.unwrap_or_else(|| panic!("{address}: no error"));
        assert_eq!((told.errno, told.from), (libc::ECONNREFUSED, address));
        assert!(count(&up, |ip| ip.subject().is_some()) >= 1);

        let pings = traffic::ping(vm.netns(), address, 50, 5, "");
        assert_eq!(pings.received, 50, "{address}");
        let pings = traffic::ping(vm.netns(), address, 2, 100, "-s 4000");
        assert_eq!(pings.received, 2, "{address}");
    }
    for (address, inside) in UPLINK.both().into_iter().zip(vm.address.both()) {
        let (listen, to) = (at(address, 5000), at(inside, 5001));
        lab.rule(&format!("dnat --proto udp --listen {listen} --to {to}"));
        let server = udp(vm.netns(), inside, 5001);
        Datagrams::through(&lab.far, 0, listen, server).exchange(&[4000, 10, 9001]);
    }
}

/// What XDP may not send on: nothing outside of a connection gets in, and the host has its own.
#[test]
fn xdp_lets_nobody_else_in() {
    const MARK: &[u8] = b"let me in";
    let (lab, vm) = lab();
    let inside = Sniffer::start(vm.netns(), Station::NIC);
    for (address, own) in UPLINK.both().into_iter().zip(vm.address.both()) {
        let remote = PHYS.like(address);
        let datagrams = Datagrams::between(vm.netns(), 0, lab.phys.netns(), at(remote, 0));
        let seen = datagrams.exchange(&SIZES);
        let stranger = at(FAR.like(address), 9);
        let client = at(own, seen.client.port());
        for packet in [
            craft::udp_packet(stranger, seen.by_server, MARK),
            craft::udp_packet(seen.server, client, MARK),
            craft::udp_packet(stranger, client, MARK),
            craft::udp_packet(seen.server, at(address, 9), MARK),
        ] {
            lab.send_from_outside(&packet);
        }
        datagrams.exchange(&SIZES);
        Connection::open(lab.phys.netns(), 0, lab.host.netns(), at(address, 0))
            .exchange(1 << 20, 1 << 20);
        assert!(traffic::reaches(lab.host.netns(), remote));
    }
    let packets = inside.packets();
    let got = packets.iter().find(|packet| packet.contains(MARK));
    assert_eq!(got, None, "a stranger was let in");
}

/// A VM that takes no frames from XDP is served by TC, and one that does beside it by XDP.
#[test]
fn xdp_for_one_vm_and_tc_for_another() {
    let (lab, one) = lab();
    let two = lab.vm(12);
    let up = uplink(&lab);
    for address in PHYS.both() {
        for (vm, by_xdp) in [(&one, true), (&two, false)] {
            let to = at(address, 0);
            let datagrams = Datagrams::between(vm.netns(), 0, lab.phys.netns(), to);
            datagrams.exchange(&SIZES);
            up.clear();
            for _ in 0..100 {
                datagrams.exchange(&SIZES);
            }
            let went_up = count(&up, from(17, address));
            assert_eq!(went_up <= FEW, by_xdp, "{}: {went_up}", vm.port());
            Connection::open(vm.netns(), 0, lab.phys.netns(), to).exchange(BULK, BULK);
        }
    }
}

/// Connections go on while the uplink's packets change hooks.
#[test]
fn xdp_takes_connections_over() {
    let lab = Lab::masquerading("");
    let vm = lab.vm(11);
    let mut connections = PHYS
        .both()
        .map(|address| Connection::open(vm.netns(), 0, lab.phys.netns(), at(address, 0)));
    for mode in ["xdp", "tc", "xdp", "auto"] {
        if mode == "xdp" {
            at_xdp(&lab, &[&vm]);
        } else {
            lab.host.vnet(&format!("up --mode {mode}"));
        }
        for connection in &mut connections {
            connection.exchange(BULK, BULK);
        }
    }
}
