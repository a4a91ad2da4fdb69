//! Groups of VMs behind a gateway: rules see the VM's own addresses and ports, whatever is translated.

use std::net::IpAddr;

use vnet_tests::nat::{
    Connection, Datagrams, FAR, GATEWAY, Lab, Lane, PHYS, UPLINK, Vm, tcp_listener,
};

use crate::{
    BULK, at,
    attempt::{Attempt, By, Came, Services, expect},
    policy,
};

/// A masquerading gateway, and a VM behind it.
fn lab() -> (Lab, Vm) {
    let lab = Lab::in_lane(Lane::Vnet);
    lab.rule("masquerade --network lan --uplink up0");
    let vm = lab.vm(11);
    (lab, vm)
}

/// The length of the prefix that is one address.
const fn whole(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

#[test]
fn a_vm_that_may_only_ask_one_name_server_does_only_that() {
    let (lab, vm) = lab();
    policy(&lab.host, &["group add client", "bind client vm11"]);
    for server in FAR.both() {
        let bits = whole(server);
        for proto in ["udp", "tcp"] {
            policy(
                &lab.host,
                &[&format!(
                    "rule add client --direction out --action allow --proto {proto} --ports 53 \
                     --remote {server}/{bits}"
                )],
            );
        }
    }
    for server in FAR.both() {
        let seen = Datagrams::between(vm.netns(), 0, &lab.far, at(server, 53))
            .exchange(&[1, 512, 1400, 4000]);
        assert_eq!(seen.by_server.ip(), UPLINK.like(server));
        let mut tcp = Connection::open(vm.netns(), 0, &lab.far, at(server, 53));
        tcp.exchange(BULK, BULK);
        assert_eq!(tcp.seen.by_server.ip(), UPLINK.like(server));
    }
    let (tcp, udp) = ([53, 80], [53, 54]);
    let _services = [
        Services::new(&lab.far, &FAR.both(), &tcp, &udp),
        Services::new(lab.phys.netns(), &PHYS.both(), &tcp, &udp),
        Services::new(vm.netns(), &vm.address.both(), &tcp, &udp),
    ];
    let mut wanted = Vec::new();
    for (far, phys) in FAR.both().into_iter().zip(PHYS.both()) {
        for (to, by, came) in [
            (far, By::Udp(53), Came::Through),
            (far, By::Tcp(53), Came::Through),
            (far, By::Udp(54), Came::Nowhere),
            (far, By::Tcp(80), Came::Nowhere),
            (far, By::Ping, Came::Nowhere),
            (phys, By::Udp(53), Came::Nowhere),
            (phys, By::Tcp(53), Came::Nowhere),
            (phys, By::Ping, Came::Nowhere),
        ] {
            wanted.push((Attempt::new(vm.netns(), to, by), came));
        }
        // Not even the gateway, nor the host's address outside.
        for to in [GATEWAY.like(far), UPLINK.like(far)] {
            wanted.push((Attempt::new(vm.netns(), to, By::Ping), Came::Nowhere));
        }
        // The host, which has a way in, does not come in.
        let own = vm.address.like(far);
        for by in [By::Tcp(53), By::Udp(53), By::Ping] {
            wanted.push((Attempt::new(lab.host.netns(), own, by), Came::Nowhere));
        }
    }
    expect(&wanted);
    assert!(lab.host.drops("vm11", "policy_denied") > 0);
}

/// What a port forward leads to the VM is for a rule with the VM's own port, and its remote is who asks.
#[test]
fn a_forwarded_port_is_let_in_by_the_vms_own_port() {
    let (lab, vm) = lab();
    policy(&lab.host, &["group add web", "bind web vm11"]);
    // The port outside is nothing to the group.
    policy(
        &lab.host,
        &["rule add web --direction in --action allow --proto tcp --ports 8080"],
    );
    for (outside, inside) in UPLINK.both().into_iter().zip(vm.address.both()) {
        let (listen, to) = (at(outside, 8080), at(inside, 80));
        lab.rule(&format!("dnat --proto tcp --listen {listen} --to {to}"));
        let listener = tcp_listener(vm.netns(), inside, 80);
        let own = FAR.like(outside);
        let far = Attempt::new(&lab.far, outside, By::Tcp(8080));
        let phys = Attempt::new(lab.phys.netns(), outside, By::Tcp(8080));
        expect(&[(far, Came::Nowhere), (phys, Came::Nowhere)]);
        policy(
            &lab.host,
            &[&format!(
                "rule add web --direction in --action allow --proto tcp --ports 80 --remote {own}"
            )],
        );
        let mut open = Connection::open_to(&lab.far, 0, listen, &listener).unwrap();
        assert_eq!(open.seen.by_server.ip(), own);
        open.exchange(BULK, BULK);
        expect(&[(far, Came::Through), (phys, Came::Nowhere)]);
    }
}

/// By way of the gateway a VM is told as well, and so is whoever asks by a port forward; both are told by
/// whom they asked.
#[test]
fn refusals_come_back_through_the_translation() {
    let (lab, vm) = lab();
    policy(
        &lab.host,
        &[
            "group add closed",
            "rule add closed --direction out --action reject",
            "rule add closed --direction in --action reject",
            "bind closed vm11",
        ],
    );
    let _services = Services::new(&lab.far, &FAR.both(), &[80], &[53]);
    let mut wanted = Vec::new();
    for (outside, inside) in UPLINK.both().into_iter().zip(vm.address.both()) {
        let (listen, to) = (at(outside, 8080), at(inside, 80));
        lab.rule(&format!("dnat --proto tcp,udp --listen {listen} --to {to}"));
        let prohibited = Came::Refused(if outside.is_ipv4() {
            libc::EHOSTUNREACH
        } else {
            libc::EACCES
        });
        let refused = Came::Refused(libc::ECONNREFUSED);
        let far = FAR.like(outside);
        for (from, to, [tcp, udp]) in [
            (vm.netns(), far, [80, 53]),
            (&lab.far, outside, [8080, 8080]),
            (lab.phys.netns(), outside, [8080, 8080]),
        ] {
            wanted.push((Attempt::new(from, to, By::Tcp(tcp)), refused));
            wanted.push((Attempt::new(from, to, By::Udp(udp)), prohibited));
        }
        wanted.push((Attempt::new(vm.netns(), far, By::Ping), prohibited));
    }
    expect(&wanted);
}
