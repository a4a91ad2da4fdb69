//! What is reached untranslated: the gateway, the host, other networks.

use std::net::IpAddr;

use vnet_tests::{
    nat::{BLUE, BLUE_GATEWAY, Connection, Datagrams, GATEWAY, Lab, UPLINK},
    traffic::reaches,
};
use xtask::netns::Netns;

use crate::{SIZES, at};

/// Pings, TCP both ways and UDP, with both ends' addresses as they are.
#[track_caller]
fn untranslated(from: &Netns, own: IpAddr, to: &Netns, address: IpAddr) {
    assert!(reaches(from, address), "{own} to {address}");
    let mut connection = Connection::open(from, 0, to, at(address, 0));
    assert_eq!(connection.seen.by_server.ip(), own);
    assert_eq!(connection.seen.by_server, connection.seen.client);
    connection.exchange(2 << 20, 2 << 20);
    let seen = Datagrams::between(from, 0, to, at(address, 0)).exchange(&SIZES);
    assert_eq!(seen.by_server.ip(), own);
}

#[test]
fn reach_gateway_from_vm() {
    let lab = Lab::masquerading("");
    let vm = lab.vm(11);
    for (address, own) in GATEWAY.both().into_iter().zip(vm.address.both()) {
        untranslated(vm.netns(), own, lab.host.netns(), address);
    }
}

#[test]
fn reach_uplink_address_from_vm() {
    let lab = Lab::masquerading("");
    let vm = lab.vm(11);
    for (address, own) in UPLINK.both().into_iter().zip(vm.address.both()) {
        untranslated(vm.netns(), own, lab.host.netns(), address);
    }
}

#[test]
fn reach_vm_from_host() {
    let lab = Lab::masquerading("");
    let vm = lab.vm(11);
    for (address, own) in vm.address.both().into_iter().zip(GATEWAY.both()) {
        untranslated(lab.host.netns(), own, vm.netns(), address);
    }
}

/// Between networks with gateways nothing is translated, whether or not they are translated to the
/// outside.
#[test]
fn reach_between_networks() {
    let lab = Lab::masquerading("");
    lab.network(BLUE);
    let (one, two) = (lab.vm(11), lab.vm_on(BLUE, 21));
    let pairs = one.address.both().into_iter().zip(two.address.both());
    for (first, second) in pairs {
        untranslated(one.netns(), first, two.netns(), second);
        untranslated(two.netns(), second, one.netns(), first);
    }
    lab.rule("masquerade --network blue --uplink up0");
    for (first, second) in one.address.both().into_iter().zip(two.address.both()) {
        untranslated(one.netns(), first, two.netns(), second);
    }
}

#[test]
fn reach_gateway_of_other_network() {
    let lab = Lab::masquerading("");
    lab.network(BLUE);
    let vm = lab.vm(11);
    for (address, own) in BLUE_GATEWAY.both().into_iter().zip(vm.address.both()) {
        untranslated(vm.netns(), own, lab.host.netns(), address);
    }
}

/// VMs of one network meet at the switch as ever.
#[test]
fn reach_neighbour_vm() {
    let lab = Lab::masquerading("");
    let [one, two] = [11, 12].map(|number| lab.vm(number));
    for (first, second) in one.address.both().into_iter().zip(two.address.both()) {
        untranslated(one.netns(), first, two.netns(), second);
    }
}

/// The host's own way out stays as it is.
#[test]
fn reach_outside_from_host() {
    let lab = Lab::masquerading("");
    let _vm = lab.vm(11);
    for (to, address) in crate::outside(&lab) {
        untranslated(lab.host.netns(), UPLINK.like(address), to, address);
    }
}
