//! The uplink is a member of the switch device, and that has the address outside (as in Proxmox):
//! `--uplink` names the switch device.

use vnet_tests::{
    nat::{Connection, Datagrams, FAR, Lab, PHYS, UPLINK, tcp_listener, udp},
    traffic::reaches,
};

use crate::{BULK, SIZES, at, outside, tcp_out, udp_out};

fn masquerading() -> Lab {
    let lab = Lab::bridged();
    let device = &lab.device;
    lab.rule(&format!("masquerade --network lan --uplink {device}"));
    lab
}

#[test]
fn bridged_masquerade() {
    let lab = masquerading();
    let vm = lab.vm(11);
    for (to, address) in outside(&lab) {
        assert!(reaches(vm.netns(), address), "{address}");
        tcp_out(&vm, 0, to, address, BULK);
        udp_out(&vm, 0, to, address, &SIZES);
        udp_out(&vm, 0, to, address, &[4000]);
    }
}

#[test]
fn bridged_forward() {
    let lab = masquerading();
    let vm = lab.vm(11);
    for (address, inside) in UPLINK.both().into_iter().zip(vm.address.both()) {
        let (listen, to) = (at(address, 8080), at(inside, 80));
        lab.rule(&format!("dnat --proto tcp,udp --listen {listen} --to {to}"));
        for (from, own) in [
            (lab.phys.netns(), PHYS.like(address)),
            (&lab.far, FAR.like(address)),
        ] {
            let listener = tcp_listener(vm.netns(), inside, 80);
            let mut tcp = Connection::open_to(from, 0, listen, &listener).unwrap();
            assert_eq!(tcp.seen.by_server.ip(), own);
            tcp.exchange(BULK, BULK);
            let server = udp(vm.netns(), inside, 80);
            let seen = Datagrams::through(from, 0, listen, server).exchange(&SIZES);
            assert_eq!(seen.by_server.ip(), own);
        }
    }
}

/// The host is on the physical network as before, and VMs reach it untranslated.
#[test]
fn bridged_host() {
    let lab = masquerading();
    let vm = lab.vm(11);
    for (to, address) in outside(&lab) {
        let own = UPLINK.like(address);
        let mut tcp = Connection::open(lab.host.netns(), 0, to, at(address, 0));
        assert_eq!(tcp.seen.by_server.ip(), own);
        tcp.exchange(1 << 20, 1 << 20);
        Connection::open(to, 0, lab.host.netns(), at(own, 22)).exchange(1 << 20, 1 << 20);
        let tcp = Connection::open(vm.netns(), 0, lab.host.netns(), at(own, 22));
        assert_eq!(tcp.seen.by_server.ip(), vm.address.like(address));
    }
}

/// A VM on the physical network itself, as on any switch, beside those behind the gateway.
#[test]
fn bridged_vm_on_the_physical_network() {
    let lab = masquerading();
    if lab.lane == vnet_tests::nat::Lane::Reference {
        return;
    }
    let vm = lab.vm(11);
    let plain = lab.host.bare_station("vm20", 20);
    plain.ip("addr add 192.0.2.20/24 dev eth0");
    lab.allow_vm_outside(&plain, std::net::Ipv4Addr::new(192, 0, 2, 20));
    lab.host.vnet("port add vm20");
    assert!(reaches(plain.netns(), PHYS.v4.into()));
    let mut tcp = Connection::open(vm.netns(), 0, plain.netns(), at([192, 0, 2, 20].into(), 0));
    assert_eq!(tcp.seen.by_server.ip(), UPLINK.v4, "it is outside");
    tcp.exchange(1 << 20, 1 << 20);
}
