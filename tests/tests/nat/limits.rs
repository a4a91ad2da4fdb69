//! Full tables, quotas and ports: what is refused, how it is told, and who is not hurt.

use std::{collections::BTreeSet, net::SocketAddr, time::Duration};

use vnet_tests::{
    host::{Host, Station},
    nat::{
        Connection, Datagrams, GATEWAY, Lab, Lane, PHYS, UPLINK, Vm, any, complaint, craft,
        hear_errors, udp,
    },
    wire::{Heard, PacketSocket, Wire as _},
};

use crate::at;

/// The drops of a VM's packets for a reason, wherever they are counted.
#[track_caller]
fn drops(lab: &Lab, reason: &str) -> u64 {
    lab.host
        .rows("stats", "stats")
        .iter()
        .filter_map(|row| row["drops"][reason].as_u64())
        .sum()
}

/// Ten ports serve ten sockets; the eleventh is told that it cannot be served, and served as soon as
/// there is room.
#[test]
fn limit_of_ports() {
    let lab = Lab::masquerading("--ports 40000-40009");
    let vm = lab.vm(11);
    for address in PHYS.both() {
        let server = udp(lab.phys.netns(), address, 0);
        let there = server.local_addr().unwrap();
        let send = |number: u8| {
            let socket = udp(vm.netns(), any(address), 0);
            hear_errors(&socket);
            socket.connect(there).unwrap();
            socket.send(&[number]).unwrap();
            socket
        };
        let mut ports = BTreeSet::new();
        let _held: Vec<_> = (0..10)
            .map(|number| {
                let socket = send(number);
                let mut got = [0; 8];
                let (length, peer) = server.recv_from(&mut got).unwrap();
                assert_eq!(got[..length], [number]);
                assert_eq!(peer.ip(), UPLINK.like(address));
                ports.insert(peer.port());
                socket
            })
            .collect();
        assert_eq!(ports, (40_000..=40_009).collect());
        let refused = send(10);
        server
            .set_read_timeout(Some(Duration::from_millis(300)))
            .unwrap();
        assert!(
            server.recv_from(&mut [0; 8]).is_err(),
            "there is no eleventh port"
        );
        if lab.lane == Lane::Vnet {
            assert!(drops(&lab, "nat_ports_exhausted") >= 1);
            let told = complaint(&refused, Duration::from_secs(2)).expect("an ICMP error");
            let own = [GATEWAY.like(address), UPLINK.like(address)];
            assert!(own.contains(&told.from), "{told:?}");
            let rule = &lab.rules()[0];
            assert!(rule.exhausted() >= 1, "{rule:?}");
            lab.host.vnet("flow flush");
            let again = send(11);
            let (_, peer) = server.recv_from(&mut [0; 8]).unwrap();
            assert!(ports.contains(&peer.port()), "{peer}");
            drop(again);
            lab.host.vnet("flow flush");
        }
    }
}

/// Where one protocol and family have used up their ports, the others have theirs.
#[test]
fn limit_of_ports_is_per_protocol() {
    let lab = Lab::masquerading("--ports 40000-40009");
    let vm = lab.vm(11);
    let phys = lab.phys.netns();
    let held: Vec<_> = (0..10)
        .map(|_| {
            let pair = Datagrams::between(vm.netns(), 0, phys, at(PHYS.v4.into(), 0));
            pair.exchange(&[1]);
            pair
        })
        .collect();
    // TCP has ports of its own, and so has the other family.
    Connection::open(vm.netns(), 0, phys, at(PHYS.v4.into(), 0)).exchange(1000, 1000);
    Datagrams::between(vm.netns(), 0, phys, at(PHYS.v6.into(), 0)).exchange(&[1]);
    for pair in &held {
        pair.exchange(&[1]);
    }
}

/// Sends `count` packets from a VM, each from a port of its own.
fn flood(lab: &Lab, vm: &Vm, count: u16, packet: impl Fn(SocketAddr) -> Vec<u8>) {
    let socket = PacketSocket::open(vm.netns(), Station::NIC, Heard::Delivered);
    let gateway = lab.gateway_mac(vm);
    for number in 0..count {
        let from = at(vm.address.v4.into(), 10_000 + number);
        socket.send_bytes(&craft::frame(gateway, vm.mac().0, &packet(from)));
    }
}

/// Where nobody answers, not even by an error.
fn black_hole(lab: &Lab) -> SocketAddr {
    lab.phys.ip("route add blackhole 203.0.113.0/24");
    "203.0.113.5:80".parse().unwrap()
}

fn small(settings: &[&str]) -> (Lab, [Vm; 2]) {
    let lab = Lab::on(Host::new(), Lane::of_environment(), settings);
    lab.rule("masquerade --network lan --uplink up0");
    let vms = [11, 12].map(|number| lab.vm(number));
    (lab, vms)
}

/// A flood of SYNs fills the table and ends no connection that is alive. Whether a SYN that finds it
/// full is refused or takes the place of an older one is the table's affair.
#[test]
fn limit_of_the_table() {
    let (lab, [vm, flooder]) = small(&["flow_size=1024", "flow_quota=1024"]);
    let mut connections: Vec<_> = (0..8)
        .map(|_| Connection::open(vm.netns(), 0, lab.phys.netns(), at(PHYS.v4.into(), 0)))
        .collect();
    let datagrams = Datagrams::between(vm.netns(), 0, lab.phys.netns(), at(PHYS.v6.into(), 0));
    datagrams.exchange(&[100]);
    for connection in &mut connections {
        connection.exchange(1000, 1000);
    }
    let nowhere = black_hole(&lab);
    flood(&lab, &flooder, 4000, |from| {
        let syn = craft::tcp_segment(from, nowhere, [1, 0], craft::SYN, &[], &[]);
        craft::ip(from.ip(), nowhere.ip(), 6, &syn)
    });
    if lab.lane == Lane::Vnet {
        let flows = lab.flows("").len();
        assert!((500..=1024).contains(&flows), "{flows} flows");
        for connection in &connections {
            assert_eq!(
                lab.flow_of("tcp", connection.seen.client).state(),
                "established"
            );
        }
    }
    for connection in &mut connections {
        connection.exchange(50_000, 50_000);
    }
    datagrams.exchange(&[100, 1000]);
}

/// What was never answered makes room, so that a full table is not the end of it.
#[test]
fn limit_of_the_table_is_not_for_ever() {
    let (lab, [vm, flooder]) = small(&["flow_size=1024", "flow_quota=1024"]);
    let nowhere = black_hole(&lab);
    flood(&lab, &flooder, 4000, |from| {
        craft::udp_packet(from, nowhere, b"flood")
    });
    if lab.lane == Lane::Vnet {
        lab.host.vnet("flow flush --vm vm12");
    }
    Connection::open(vm.netns(), 0, lab.phys.netns(), at(PHYS.v4.into(), 0)).exchange(1000, 1000);
}

/// A VM that takes all it can get leaves the others theirs.
#[test]
fn limit_of_one_vm() {
    let (lab, [vm, greedy]) = small(&["flow_quota=100"]);
    let mut own = Connection::open(greedy.netns(), 0, lab.phys.netns(), at(PHYS.v4.into(), 0));
    own.exchange(1000, 1000);
    let nowhere = black_hole(&lab);
    flood(&lab, &greedy, 400, |from| {
        craft::udp_packet(from, nowhere, b"flood")
    });
    if lab.lane == Lane::Vnet {
        let flows = lab.flows("--vm vm12").len();
        assert!((90..=100).contains(&flows), "{flows} flows");
        let dropped = lab.host.drops("vm12", "nat_quota");
        assert!(dropped >= 290, "{:?}", lab.host.all_drops());
        assert_eq!(lab.host.drops("vm11", "nat_quota"), 0);
    }
    for address in PHYS.both() {
        Connection::open(vm.netns(), 0, lab.phys.netns(), at(address, 0)).exchange(1000, 1000);
    }
    own.exchange(1000, 1000);
}

/// By default a VM gets a quarter of the table.
#[test]
fn limit_of_one_vm_by_default() {
    let (lab, [vm, greedy]) = small(&["flow_size=1024"]);
    let nowhere = black_hole(&lab);
    flood(&lab, &greedy, 1000, |from| {
        craft::udp_packet(from, nowhere, b"flood")
    });
    if lab.lane == Lane::Vnet {
        let flows = lab.flows("--vm vm12").len();
        assert!((200..=256).contains(&flows), "{flows} flows");
    }
    Connection::open(vm.netns(), 0, lab.phys.netns(), at(PHYS.v4.into(), 0)).exchange(1000, 1000);
}
