//! `--action reject`: the sender is told at once, wherever it is, with checksums that its kernel takes.

use std::{
    net::IpAddr,
    time::{Duration, Instant},
};

use vnet_tests::{
    host::Host,
    nat::{any, complaint, hear_errors, udp},
};
use xtask::netns::Netns;

use crate::{
    at,
    attempt::{Attempt, By, Came, Services, expect},
    policy,
};

/// A refusal is an answer, not a time that is over.
const AT_ONCE: Duration = Duration::from_millis(500);

/// What programs are told of ICMP's "administratively prohibited".
const fn prohibited(address: IpAddr) -> Came {
    Came::Refused(if address.is_ipv4() {
        libc::EHOSTUNREACH
    } else {
        libc::EACCES
    })
}

/// Its type and code: RFC 792 with RFC 1812, 5.2.7.1; RFC 4443, 3.1.
const fn type_and_code(address: IpAddr) -> (u8, u8) {
    if address.is_ipv4() { (3, 13) } else { (1, 1) }
}

/// TCP from `from` is reset, everything else is told by ICMP; and what is let through is.
#[track_caller]
fn is_refused(from: &Netns, address: IpAddr) {
    let began = Instant::now();
    let refused = Came::Refused(libc::ECONNREFUSED);
    for _ in 0..3 {
        assert_eq!(Attempt::new(from, address, By::Tcp(80)).come(), refused);
    }
    assert!(began.elapsed() < AT_ONCE, "{:?}", began.elapsed());
    let port = at(address, 80);
    let curl = from.sh(&format!("curl -sS -m 2 'http://{port}/' 2>&1 || true"));
    let curl = curl.unwrap().to_lowercase();
    assert!(
        curl.contains("connection refused") || curl.contains("couldn't connect"),
        "{curl}"
    );

    let began = Instant::now();
    let socket = udp(from, any(address), 0);
    socket.connect(at(address, 53)).unwrap();
    hear_errors(&socket);
    socket.send(b"is anybody there?").unwrap();
    let told = complaint(&socket, AT_ONCE).unwrap_or_else(|| panic!("{address}: no error"));
    assert_eq!((told.kind, told.code), type_and_code(address), "{told:?}");
    assert_eq!(prohibited(address), Came::Refused(told.errno));
    assert!(began.elapsed() < AT_ONCE, "{:?}", began.elapsed());
    expect(&[
        (
            Attempt::new(from, address, By::Udp(53)),
            prohibited(address),
        ),
        (Attempt::new(from, address, By::Ping), prohibited(address)),
        (Attempt::new(from, address, By::Tcp(22)), Came::Through),
        (Attempt::new(from, address, By::Tcp(81)), Came::Nowhere),
    ]);
}

#[test]
fn whoever_asks_is_told() {
    let (host, [server, client]) = Host::with_vms([1, 2]);
    let phys = host.phys();
    host.device_ip();
    host.vnet("port add up0 --uplink");
    policy(
        &host,
        &[
            "group add web",
            "rule add web --direction in --action allow --proto tcp --ports 22",
            "rule add web --direction in --action reject --proto tcp --ports 80",
            "rule add web --direction in --action reject --proto udp",
            "rule add web --direction in --action reject --proto icmp",
            "rule add web --direction in --action reject --proto icmpv6",
            "bind web vm1",
        ],
    );
    let addresses = server.addresses().both();
    // Somebody would answer.
    let _services = Services::new(server.netns(), &addresses, &[22, 80, 81], &[53]);
    for from in [client.netns(), phys.netns(), host.netns()] {
        for address in addresses {
            is_refused(from, address);
        }
    }
    assert!(host.drops("vm1", "policy_rejected") > 0);
}

/// What a VM may not do itself it is told of, too, whomever it asks.
#[test]
fn a_vm_is_told_what_it_may_not_do() {
    let (host, [vm, other]) = Host::with_vms([1, 2]);
    let phys = host.phys();
    let device = host.device_ip();
    host.vnet("port add up0 --uplink");
    policy(
        &host,
        &[
            "group add guest",
            "rule add guest --direction out --action allow --proto tcp --ports 22",
            "rule add guest --direction out --action deny --proto tcp --ports 81",
            "rule add guest --direction out --action reject",
            "bind guest vm1",
        ],
    );
    for (to, addresses) in [
        (other.netns(), other.addresses()),
        (phys.netns(), phys.addresses()),
        (host.netns(), device),
    ] {
        let _services = Services::new(to, &addresses.both(), &[22, 80, 81], &[53]);
        for address in addresses.both() {
            is_refused(vm.netns(), address);
        }
    }
}
