//! A server in a group: what its rules are for gets in, in any shape, and nothing else does.

use std::net::IpAddr;

use vnet_tests::{
    host::{Addresses, Host, Station},
    nat::{Connection, Datagrams},
    traffic::{self, reaches},
    wire::{Heard, PacketSocket, Wire as _},
};
use xtask::netns::Netns;

use crate::{
    BULK, at,
    attempt::{Attempt, By, Came, Services, expect},
    policy,
};

/// The longest frame with an MTU of 1500.
const FRAME: usize = 1514;

/// Everything that was dropped was so by a group.
#[track_caller]
fn assert_denied_only(host: &Host) {
    let others: Vec<_> = host
        .all_drops()
        .into_iter()
        .filter(|drop| !drop.contains(" policy_denied "))
        .collect();
    assert_eq!(others, Vec::<String>::new());
}

#[test]
fn a_server_takes_what_its_rules_are_for_and_nothing_else() {
    let (host, [server, client]) = Host::with_vms([1, 2]);
    let phys = host.phys();
    let device = host.device_ip();
    host.vnet("port add up0 --uplink");
    policy(
        &host,
        &[
            "group add ssh",
            "rule add ssh --direction in --action allow --proto tcp --ports 22",
            "bind ssh vm1",
        ],
    );
    let addresses = server.addresses().both();
    let clients = [
        (client.netns(), client.addresses()),
        (phys.netns(), phys.addresses()),
        (host.netns(), device),
    ];
    for (from, _) in clients {
        for address in addresses {
            Connection::open(from, 0, server.netns(), at(address, 22)).exchange(BULK, BULK);
        }
    }
    let _services = Services::new(server.netns(), &addresses, &[22, 23], &[22]);
    let _others: Vec<_> = clients
        .iter()
        .map(|(netns, own)| Services::new(netns, &own.both(), &[22], &[22]))
        .collect();
    let mut wanted = Vec::new();
    for (netns, own) in clients {
        for to in addresses {
            for (by, came) in [
                (By::Tcp(22), Came::Through),
                (By::Tcp(23), Came::Nowhere),
                (By::Udp(22), Came::Nowhere),
                (By::Ping, Came::Nowhere),
            ] {
                wanted.push((Attempt::new(netns, to, by), came));
            }
        }
        // It answers, and asks nobody.
        for to in own.both() {
            for by in [By::Tcp(22), By::Udp(22), By::Ping] {
                wanted.push((Attempt::new(server.netns(), to, by), Came::Nowhere));
            }
        }
    }
    expect(&wanted);
    assert!(host.drops("vm1", "policy_denied") > 0);
    assert_denied_only(&host);
    // The others are in no group.
    for address in client.addresses().both() {
        assert!(reaches(phys.netns(), address));
    }
    host.vnet("policy unbind ssh vm1");
    for address in addresses {
        assert!(reaches(client.netns(), address));
    }
}

/// Pings, TCP one way, and UDP there and back: small, in fragments, and cut by the kernel.
#[track_caller]
fn talk(from: &Netns, to: &Netns, addresses: Addresses) {
    for address in addresses.both() {
        let pings = traffic::ping(from, address, 3, 20, "-s 4000");
        assert_eq!(pings.received, 3, "{} to {address}", from.name());
        traffic::tcp(from, to, address, 4 * BULK);
        traffic::udp(from, to, address, &[1, 1400, 1473, 8000, 60_000]);
        traffic::udp_gso(from, to, address, 1200, 40);
    }
}

/// Two VMs in groups, and everybody else: what is allowed arrives whole, in whichever shape.
#[test]
fn buffers_and_fragments_pass_policed_ports_both_ways() {
    let (host, [one, two]) = Host::with_vms([1, 2]);
    let phys = host.phys();
    let device = host.device_ip();
    host.vnet("port add up0 --uplink");
    policy(
        &host,
        &[
            "group add near",
            "rule add near --direction in --action allow --remote 10.0.0.0/24",
            "rule add near --direction in --action allow --remote fd00::/64",
            "rule add near --direction out --action allow --proto tcp",
            "rule add near --direction out --action allow --proto udp",
            "rule add near --direction out --action allow --proto icmp",
            "rule add near --direction out --action allow --proto icmpv6",
            "bind near vm1",
            "bind near vm2",
        ],
    );
    talk(one.netns(), two.netns(), two.addresses());
    talk(two.netns(), one.netns(), one.addresses());
    talk(one.netns(), phys.netns(), phys.addresses());
    talk(phys.netns(), one.netns(), one.addresses());
    talk(one.netns(), host.netns(), device);
    talk(host.netns(), one.netns(), one.addresses());
    assert_eq!(host.all_drops(), Vec::<String>::new());

    // They come as the buffers that they were sent as, many times longer than the MTU.
    let socket = PacketSocket::open(two.netns(), Station::NIC, Heard::Everything);
    traffic::tcp(one.netns(), two.netns(), two.addresses().v4(), 4 * BULK);
    let longest = std::iter::from_fn(|| socket.receive_bytes())
        .map(|bytes| bytes.len())
        .max();
    assert!(longest > Some(8 * FRAME), "{longest:?}");
}

/// The later fragments of a packet follow the first one, which alone tells the port.
#[test]
fn no_fragment_of_what_is_denied_arrives() {
    let (host, [server, client]) = Host::with_vms([1, 2]);
    policy(
        &host,
        &[
            "group add dns",
            "rule add dns --direction in --action allow --proto udp --ports 53",
            "bind dns vm1",
        ],
    );
    let socket = PacketSocket::open(server.netns(), Station::NIC, Heard::Delivered);
    for address in server.addresses().both() {
        let sizes = [8000, 4000, 60_000];
        Datagrams::between(client.netns(), 0, server.netns(), at(address, 53)).exchange(&sizes);
        while socket.receive_bytes().is_some() {}
        let denied = Datagrams::between(client.netns(), 0, server.netns(), at(address, 54));
        let sent = vec![7; 8000];
        denied.client.send(&sent).unwrap();
        assert!(denied.is_cut_off(), "{address}");
        // The second datagram is in one piece.
        let is_ip = |bytes: &[u8]| match address {
            IpAddr::V4(_) => bytes[12..14] == [0x08, 0x00],
            // Neighbour discovery goes on.
            IpAddr::V6(_) => bytes[12..14] == [0x86, 0xdd] && bytes[20] != 58,
        };
        let arrived = std::iter::from_fn(|| socket.receive_bytes())
            .filter(|bytes| is_ip(bytes))
            .count();
        assert_eq!(arrived, 0, "{address}");
    }
    assert_eq!(host.drops("vm1", "policy_denied"), 4);
    assert_eq!(host.drops("vm2", "policy_fragment"), 2 * 5);
}

/// Who is meant by a group is told by the addresses of its ports, in front of which guards stand.
#[test]
fn members_of_a_group_get_in_wherever_they_are() {
    let host = Host::up();
    let [db, web, other] = [1, 2, 3].map(|number| host.vm(number));
    for vm in [&db, &web, &other] {
        let [v4, v6] = vm.addresses().both();
        host.vnet(&format!("port add {} --ip {v4} --ip {v6}", vm.port()));
    }
    policy(
        &host,
        &[
            "group add web --default allow",
            "group add db",
            "rule add db --direction in --action allow --proto tcp --ports 5432 --remote group:web",
            "bind db vm1",
            "bind web vm2",
        ],
    );
    let addresses = db.addresses().both();
    let services = Services::new(db.netns(), &addresses, &[22, 5432], &[]);
    let mut wanted = Vec::new();
    for to in addresses {
        for (from, by, came) in [
            (&web, By::Tcp(5432), Came::Through),
            (&web, By::Tcp(22), Came::Nowhere),
            (&other, By::Tcp(5432), Came::Nowhere),
        ] {
            wanted.push((Attempt::new(from.netns(), to, by), came));
        }
    }
    expect(&wanted);
    drop(services);
    // Whoever leaves the group is no longer meant.
    let mut open = Connection::open(web.netns(), 0, db.netns(), at(addresses[0], 5432));
    open.exchange(1000, 1000);
    policy(&host, &["unbind web vm2", "bind web vm3"]);
    assert!(open.try_exchange(1000, 1000).is_err());
    let _services = Services::new(db.netns(), &addresses, &[5432], &[]);
    for (vm, came) in [(&web, Came::Nowhere), (&other, Came::Through)] {
        expect(&addresses.map(|to| (Attempt::new(vm.netns(), to, By::Tcp(5432)), came)));
    }
}
