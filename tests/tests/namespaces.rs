//! VMs, the host and a physical network, all of them network namespaces behind veth pairs with
//! every offload on: what works between them, in both IP versions.

use std::net::IpAddr;

use vnet_tests::{
    host::{Addresses, Host, Mac, Station},
    traffic::{self, reaches},
    wait,
    wire::{Heard, PacketSocket, Wire as _},
};
use xtask::netns::Netns;

/// Enough for segmentation offload to grow to its full 64 kB, and then some.
const BULK: u64 = 24 << 20;

/// The longest frame with an MTU of 1500.
const FRAME: usize = 1514;

/// Pings, TCP one way, and UDP there and back: small, in fragments, and cut by the kernel.
#[track_caller]
fn talk(from: &Netns, to: &Netns, addresses: Addresses) {
    for address in addresses.both() {
        assert!(
            reaches(from, address),
            "no answer for {} from {address}",
            from.name()
        );
        traffic::tcp(from, to, address, BULK);
        traffic::udp(from, to, address, &[1, 100, 1400, 1473, 8000, 60_000]);
        traffic::udp_gso(from, to, address, 1200, 40);
    }
}

/// What the switch dropped: nothing, where everything was in order.
#[track_caller]
fn assert_no_drops(host: &Host) {
    assert_eq!(host.all_drops(), Vec::<String>::new());
}

#[test]
fn vms_reach_each_other() {
    let (host, [one, two]) = Host::with_vms([1, 2]);
    talk(one.netns(), two.netns(), two.addresses());
    talk(two.netns(), one.netns(), one.addresses());
    assert_no_drops(&host);
    assert_eq!(host.whereabouts(one.mac(), "default").unwrap(), "vm1");
    assert_eq!(host.whereabouts(two.mac(), "default").unwrap(), "vm2");
}

#[test]
fn vms_and_the_physical_network_reach_each_other() {
    let (host, [vm]) = Host::with_vms([1]);
    let phys = host.phys();
    host.vnet("port add up0 --uplink");
    talk(vm.netns(), phys.netns(), phys.addresses());
    talk(phys.netns(), vm.netns(), vm.addresses());
    assert_no_drops(&host);
    assert_eq!(host.whereabouts(phys.mac(), "default").unwrap(), "up0");
}

#[test]
fn vms_and_the_host_reach_each_other_by_the_switch_device() {
    let (host, [vm]) = Host::with_vms([1]);
    let device = host.device_ip();
    talk(vm.netns(), host.netns(), device);
    talk(host.netns(), vm.netns(), vm.addresses());
    assert_no_drops(&host);
}

/// The uplink keeps its address, and a VM reaches the host by it as by any address of its network.
#[test]
fn vms_and_the_host_reach_each_other_by_the_address_of_the_uplink() {
    let (host, [vm]) = Host::with_vms([1]);
    let phys = host.phys();
    let own = host.uplink_ip();
    host.vnet("port add up0 --uplink");
    talk(vm.netns(), host.netns(), own);
    talk(host.netns(), vm.netns(), vm.addresses());
    assert_no_drops(&host);
    let neighbour = neighbour(&vm, own.v4());
    assert_eq!(neighbour, host.interface("up0").mac, "it is the uplink's");
    assert!(reaches(phys.netns(), own.v4()));
}

/// An uplink of the switch is still the host's own network card.
#[test]
fn the_host_and_the_physical_network_reach_each_other_before_during_and_after() {
    let host = Host::new();
    let phys = host.phys();
    let own = host.uplink_ip();
    assert!(reaches(host.netns(), phys.addresses().v4()));
    host.vnet("up --uplink up0");
    talk(host.netns(), phys.netns(), phys.addresses());
    talk(phys.netns(), host.netns(), own);
    assert_no_drops(&host);
    assert_eq!(host.interface("up0").master, None, "it is no member");
    host.vnet("down");
    talk(phys.netns(), host.netns(), own);
}

/// VMs, host and physical network all at once, so that every pair shares every table.
#[test]
fn everybody_reaches_everybody() {
    let (host, vms) = Host::with_vms([1, 2, 3]);
    let phys = host.phys();
    let device = host.device_ip();
    host.vnet("port add up0 --uplink");
    let mut places: Vec<(&Netns, Addresses)> =
        vms.iter().map(|vm| (vm.netns(), vm.addresses())).collect();
    places.push((phys.netns(), phys.addresses()));
    places.push((host.netns(), device));
    for (from, own) in &places {
        for (to, addresses) in places.iter().filter(|(_, addresses)| addresses != own) {
            for address in addresses.both() {
                assert!(reaches(from, address), "{} to {address}", from.name());
                traffic::tcp(from, to, address, 1 << 20);
            }
        }
    }
    assert_no_drops(&host);
}

#[test]
fn jumbo_frames_go_everywhere() {
    let (host, [vm]) = Host::with_vms([1]);
    let phys = host.phys();
    let device = host.device_ip();
    host.vnet("port add up0 --uplink");
    for station in [&vm, &phys] {
        host.ip(&format!("link set {} mtu 9000", station.port()));
        station.ip("link set eth0 mtu 9000");
    }
    host.ip(&format!("link set {} mtu 9000", host.switch()));
    // Nothing is fragmented: 28 and 48 bytes of header belong to a ping's packet.
    let whole = |from: &Netns, to: Addresses| {
        for (address, size) in [(to.v4(), 8972), (to.v6(), 8952)] {
            let options = format!("-M do -s {size}");
            let pings = traffic::ping(from, address, 2, 100, &options);
            assert_eq!(pings.received, 2, "{} to {address}", from.name());
        }
    };
    whole(vm.netns(), phys.addresses());
    whole(phys.netns(), vm.addresses());
    whole(vm.netns(), device);
    whole(host.netns(), vm.addresses());
    talk(vm.netns(), phys.netns(), phys.addresses());
    talk(vm.netns(), host.netns(), device);
    assert_no_drops(&host);
}

/// What is too long for a port is dropped and counted there, in one piece as well as in a GSO
/// buffer whose segments would be.
#[test]
fn frames_beyond_a_ports_mtu_are_counted() {
    let (host, [one, two]) = Host::with_vms([1, 2]);
    host.ip("link set vm1 mtu 9000");
    one.ip("link set eth0 mtu 9000");
    let to = two.addresses().v4();
    let pings = traffic::ping(one.netns(), to, 3, 100, "-M do -s 1473");
    assert_eq!(pings.received, 0);
    assert_eq!(host.drops("vm2", "mtu_exceeded"), 3);
    let pings = traffic::ping(one.netns(), to, 3, 100, "-M do -s 1472");
    assert_eq!(pings.received, 3);
    assert_eq!(host.drops("vm2", "mtu_exceeded"), 3);
}

/// Offloads are what users have, and what hides in them breaks nothing: frames cross the switch as
/// the buffers they came in as, many times longer than the MTU.
#[test]
fn buffers_cross_the_switch_uncut_and_no_offload_is_turned_off() {
    let host = Host::up();
    let vm = host.vm(1);
    let phys = host.phys();
    let features = || {
        [
            host.sh("ethtool -k vm1; ethtool -k up0"),
            vm.sh("ethtool -k eth0"),
        ]
    };
    let before = features();
    for feature in [
        "tx-checksumming: on",
        "tcp-segmentation-offload: on",
        "tx-udp-segmentation: on",
        "tx-vlan-offload: on",
    ] {
        assert!(before[1].contains(feature), "{feature}\n{}", before[1]);
    }
    host.vnet("port add vm1");
    host.vnet("port add up0 --uplink");
    assert_eq!(features(), before);

    let socket = PacketSocket::open(phys.netns(), Station::NIC, Heard::Everything);
    traffic::tcp(vm.netns(), phys.netns(), phys.addresses().v4(), BULK);
    let longest = std::iter::from_fn(|| socket.receive_bytes())
        .map(|bytes| bytes.len())
        .max();
    assert!(longest > Some(8 * FRAME), "{longest:?}");
}

/// Frames are counted as the segments that they stand for.
#[test]
fn counters_count_packets_and_bytes() {
    let (host, [one, two]) = Host::with_vms([1, 2]);
    traffic::tcp(one.netns(), two.netns(), two.addresses().v4(), BULK);
    let least = BULK / 1460;
    for (port, packets, bytes) in [
        ("vm1", "rx_packets", "rx_bytes"),
        ("vm2", "tx_packets", "tx_bytes"),
    ] {
        let count = host.counter(port, "vm", packets);
        assert!((least..least * 2).contains(&count), "{port}: {count}");
        let count = host.counter(port, "vm", bytes);
        assert!((BULK..BULK * 2).contains(&count), "{port}: {count}");
    }
}

/// The switch device does not answer for the uplink's address, as it would with the kernel's
/// defaults: neighbours get the one answer of the interface that holds it.
#[test]
fn the_switch_device_answers_arp_for_its_own_addresses_only() {
    let host = Host::new();
    let phys = host.phys();
    let own = host.uplink_ip();
    host.vnet("up --uplink up0");
    let vm = host.vm(1);
    host.vnet("port add vm1");
    let uplink_mac = host.interface("up0").mac;
    for station in [&vm, &phys] {
        for _ in 0..3 {
            station.ip("neigh flush all");
            assert!(reaches(station.netns(), own.v4()));
            assert_eq!(neighbour(station, own.v4()), uplink_mac);
        }
    }
}

/// The host takes what is for it by whichever of its MAC addresses it comes: its uplink may answer
/// ARP for the device's address, which is the kernel's default there.
#[test]
fn the_host_is_reached_by_any_of_its_mac_addresses() {
    let host = Host::new();
    let phys = host.phys();
    host.vnet("up --uplink up0");
    let vm = host.vm(1);
    host.vnet("port add vm1");
    let device = host.device_ip();
    let macs = ["up0", host.switch()].map(|name| host.interface(name).mac);
    for station in [&vm, &phys] {
        for mac in &macs {
            let address = device.v4();
            station.ip(&format!("neigh replace {address} lladdr {mac} dev eth0"));
            assert!(reaches(station.netns(), address), "{mac}");
            traffic::tcp(station.netns(), host.netns(), address, 1 << 20);
        }
    }
}

/// A device of the bridge's own kind takes its address from its ports; the switch device does not.
#[test]
fn the_switch_device_keeps_its_address() {
    let host = Host::up();
    let before = host.interface(host.switch()).mac;
    let vm = host.vm(1);
    host.ip("link set vm1 address 02:00:00:00:00:01");
    host.vnet("port add vm1");
    assert_eq!(host.interface(host.switch()).mac, before);
    host.vnet("port del vm1");
    assert_eq!(host.interface(host.switch()).mac, before);
    host.vnet("down");
    host.vnet("up");
    assert_eq!(host.interface(host.switch()).mac, before);
    drop(vm);
}

/// A VM that answers before it ever spoke: unknown unicast is flooded to it.
#[test]
fn a_silent_machine_is_found() {
    let (host, [one, two, three]) = Host::with_vms([1, 2, 3]);
    assert!(reaches(one.netns(), two.addresses().v4()));
    let ear = PacketSocket::open(three.netns(), Station::NIC, Heard::Everything);
    wait::until("a flooded request was heard", || {
        // one still knows the MAC address, the switch no more, unless two has just said something.
        host.vnet("fdb flush");
        assert!(reaches(one.netns(), two.addresses().v4()));
        std::iter::from_fn(|| ear.receive_bytes()).any(|bytes| bytes[..6] == Mac::of(2).0)
    });
    assert!(host.counter("vm1", "vm", "flooded_packets") > 0);
}

/// The MAC address that a station has for `address`.
fn neighbour(station: &Station, address: IpAddr) -> String {
    let text = station.ip(&format!("neigh show {address}"));
    let mut words = text.split_whitespace();
    words.find(|word| *word == "lladdr");
    words.next().unwrap_or_default().to_owned()
}
