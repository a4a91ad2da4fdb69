//! Guards: a VM that attacks gets nothing through, and one that does not notices nothing.

use std::{net::IpAddr, sync::Arc};

use serde_json::Value;
use vnet_tests::{
    attacks,
    frame::{
        ip::arp,
        raw::{self, ADVERTISEMENT, neighbour, udp, v4, v6},
    },
    host::{Host, Mac, Station},
    traffic::{is_cut_off, reaches},
    wait,
    wire::{Frame, Heard, PacketSocket, Tap, Wire as _},
};

/// The link-local address that is made of the attacker's MAC address.
const LOCAL: &str = "fe80::5054:ff:fe00:b";

/// A socket for whatever a VM's own kernel would not send.
fn cable(vm: &Station) -> PacketSocket {
    PacketSocket::open(vm.netns(), Station::NIC, Heard::Everything)
}

/// A frame from a VM to everybody.
fn all(vm: &Station, body: &[u8]) -> Frame {
    Frame::carrying(vm.mac(), Mac::BROADCAST, body)
}

/// The events of one kind.
fn events_of(host: &Host, kind: &str) -> Vec<Value> {
    let mut events = host.events();
    events.retain(|event| event["event"] == kind);
    events
}

#[test]
fn an_attacker_gets_nothing_through() {
    let host = Host::up();
    let [vm, other] = [11, 12].map(|number| host.vm(number));
    let spy = Tap::create(&host, "spy");
    host.vnet("port add spy");
    host.vnet("port add vm12");
    host.vnet("port add vm11 --guard none");
    let wire = cable(&vm);

    // Without guards all of it goes through, but for a tag that nobody carries and two that would
    // leave with one.
    for (reason, frame) in attacks::by(11, Mac::BROADCAST) {
        wire.send(&frame);
        match reason {
            "vlan_tagged" | "vlan_tags" => spy.expect_nothing(),
            _ if frame.bytes()[12..14] == [0x81, 0] => spy.expect_nothing(),
            _ => spy.expect(&frame),
        }
    }
    host.vnet("fdb flush");

    host.vnet(&format!(
        "port set vm11 --mac {} --ip 10.0.0.11 --ip fd00::b --guard strict",
        vm.mac()
    ));
    for (reason, frame) in attacks::by(11, Mac::BROADCAST) {
        let before = host.drops("vm11", reason);
        wire.send(&frame);
        spy.expect_nothing();
        assert_eq!(
            host.drops("vm11", reason),
            before + 1,
            "{reason}: {frame:?}"
        );
    }
    assert_eq!(host.whereabouts(Mac::of(77), "default"), None);

    // It has not harmed itself or anybody else.
    for address in other.addresses().both() {
        assert!(reaches(vm.netns(), address), "{address}");
    }
    for address in vm.addresses().both() {
        assert!(reaches(other.netns(), address), "{address}");
    }
    assert_eq!(host.whereabouts(vm.mac(), "default").unwrap(), "vm11");
}

/// What an administrator of the VM would do, with the VM's own kernel.
#[test]
fn a_vm_with_other_addresses_is_alone() {
    let (host, [vm, other]) = Host::with_vms([11, 12]);
    host.vnet(&format!(
        "port set vm11 --mac {} --ip 10.0.0.11 --ip fd00::b",
        vm.mac()
    ));
    for address in other.addresses().both() {
        assert!(reaches(vm.netns(), address), "{address}");
    }
    let [v4, v6] = other.addresses().both();
    vm.ip("addr add 10.0.0.77/24 dev eth0");
    vm.ip("addr add fd00::77/64 dev eth0 nodad");
    for (own, to) in [("10.0.0.77", v4), ("fd00::77", v6)] {
        let answered = vm
            .netns()
            .sh(&format!("ping -n -q -c 3 -i 0.2 -W 0.5 -I {own} {to}"));
        assert!(answered.is_err(), "{own}");
    }
    assert!(host.drops("vm11", "arp_sender_ip") + host.drops("vm11", "ip_source") > 0);
    // Nor does it answer for them: what it would say comes from them.
    let before = host.drops("vm11", "ip_source");
    for address in ["10.0.0.77", "fd00::77"] {
        assert!(
            is_cut_off(other.netns(), address.parse().unwrap()),
            "{address}"
        );
    }
    assert!(host.drops("vm11", "ip_source") > before);
    vm.ip("link set eth0 address 52:54:00:00:00:4d");
    assert!(is_cut_off(vm.netns(), v4));
    assert!(host.drops("vm11", "mac_not_allowed") > 0);
}

/// The addresses of the gateway and of other VMs are theirs, without any guard being asked for.
#[test]
fn somebody_elses_address_stays_theirs() {
    let host = Host::up();
    host.vnet("network add lan --gateway 10.0.0.1/24 --gateway fd00::1/64");
    let [thief, owner, victim] = [11, 12, 13].map(|number| host.vm(number));
    for (vm, options) in [(&thief, ""), (&owner, "--ip 10.0.0.12"), (&victim, "")] {
        let (port, mac) = (vm.port(), vm.mac());
        host.vnet(&format!(
            "port add {port} --network lan --mac {mac} {options}"
        ));
    }
    for to in ["10.0.0.1", "10.0.0.12", "fd00::1"] {
        assert!(reaches(victim.netns(), to.parse().unwrap()), "{to}");
    }
    let known = || victim.ip("neigh show dev eth0");
    let before = known();
    let _ = host.events();

    let wire = cable(&thief);
    let own = thief.mac().0;
    let claims = [
        (
            "arp_conflict",
            "10.0.0.1",
            arp(2, (own, "10.0.0.1"), (victim.mac().0, "10.0.0.13")),
        ),
        (
            "arp_conflict",
            "10.0.0.12",
            arp(2, (own, "10.0.0.12"), (victim.mac().0, "10.0.0.13")),
        ),
        (
            "ip_conflict",
            "10.0.0.1",
            v4("10.0.0.1", 17, &udp(1, 2, &[])),
        ),
        (
            "nd_conflict",
            "fd00::1",
            v6(LOCAL, 58, &neighbour(ADVERTISEMENT, "fd00::1", 2, own)),
        ),
    ];
    for (_, _, body) in &claims {
        wire.send(&all(&thief, body));
    }
    let events = events_of(&host, "address_conflict");
    let told: Vec<_> = events
        .iter()
        .map(|event| {
            let text = |key: &str| event[key].as_str().unwrap_or_default().to_owned();
            (text("port"), text("reason"), text("ip"))
        })
        .collect();
    let expected = claims.map(|(reason, ip, _)| ("vm11".to_owned(), reason.into(), ip.into()));
    assert_eq!(told, expected);
    for to in ["10.0.0.1", "10.0.0.12", "fd00::1"] {
        assert!(reaches(victim.netns(), to.parse().unwrap()), "{to}");
    }
    for line in before.lines().filter(|line| line.contains("lladdr")) {
        let words: Vec<_> = line.split_whitespace().take(3).collect();
        assert!(known().contains(&words.join(" ")), "{line}\n{}", known());
    }

    // Nor its MAC address, once it has been heard.
    host.vnet("port set vm11 --mac none");
    wire.send(&Frame::new(owner.mac(), Mac::BROADCAST));
    assert_eq!(host.drops("vm11", "mac_conflict"), 1);
    assert_eq!(host.whereabouts(owner.mac(), "lan").unwrap(), "vm12");
}

#[test]
fn an_isolated_vm_reaches_the_host_and_the_outside_alone() {
    let (host, [vm, other]) = Host::with_vms([11, 12]);
    let phys = host.phys();
    host.vnet("port add up0 --uplink");
    let device = host.device_ip();
    assert!(reaches(vm.netns(), other.addresses().v4()));
    host.vnet("port set vm11 --isolated");
    for address in [device, phys.addresses()].iter().flat_map(|a| a.both()) {
        assert!(reaches(vm.netns(), address), "{address}");
    }
    for address in other.addresses().both() {
        assert!(is_cut_off(vm.netns(), address), "{address}");
    }
    assert!(is_cut_off(other.netns(), vm.addresses().v4()));
    assert!(host.drops("vm11", "port_isolated") > 0);
    host.vnet("port set vm11 --isolated=off");
    assert!(reaches(vm.netns(), other.addresses().v4()));
}

/// A host whose daemon leases addresses, and a VM without any.
fn leasing(options: &str) -> (Host, vnet_tests::host::Daemon, Arc<Station>) {
    let host = Host::new();
    let daemon = host.daemon();
    host.vnet(
        "network add lan --gateway 10.0.0.1/24 --gateway fd00::1/64 \
         --dhcp 10.0.0.100-10.0.0.199 --dhcp fd00::1000-fd00::1fff",
    );
    let vm = host.bare_station("vm11", 11);
    host.vnet(&format!(
        "port add vm11 --network lan --mac {} {options}",
        vm.mac()
    ));
    (host, daemon, vm)
}

/// Asks for an address with a client that changes nothing of the VM, and puts it on the interface.
fn lease(vm: &Station, family: &str) -> IpAddr {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).display().to_string();
    let script = path("script");
    std::fs::write(
        &script,
        "#!/bin/sh\ncase $reason in BOUND*|REBOOT*) \
         echo $new_ip_address$new_ip6_address >\"$VNET_TEST_LEASE\";; esac\n",
    )
    .unwrap();
    let (answer, leases, pid) = (path("answer"), path("leases"), path("pid"));
    let asked = format!(
        "chmod +x {script}; dhclient {family} -1 -sf {script} -cf /dev/null -lf {leases} \
         -pf {pid} -e VNET_TEST_LEASE={answer} eth0; kill $(cat {pid})"
    );
    let address = wait::within(std::time::Duration::from_secs(60), || {
        let _ = vm.netns().sh(&asked);
        let text = std::fs::read_to_string(&answer).ok()?;
        text.trim().parse().ok()
    });
    address.expect("a lease within a minute")
}

/// Everything that a VM does by itself.
#[test]
fn a_normal_vm_does_not_notice_a_strict_guard() {
    let (host, _daemon, vm) = leasing("--guard strict");
    let other = host.bare_station("vm12", 12);
    host.vnet("port add vm12 --network lan");
    other.ip("addr add 10.0.0.12/24 dev eth0");
    let scope = |scope: &str| vm.ip(&format!("-6 addr show dev eth0 scope {scope}"));
    wait::until("its link-local address is found to be free", || {
        let shown = scope("link");
        shown.contains(LOCAL) && !shown.contains("tentative")
    });
    wait::within(std::time::Duration::from_secs(30), || {
        let shown = scope("global");
        let made = shown.contains("fd00::5054:ff:fe00:b/64") && !shown.contains("tentative");
        made.then_some(())
    })
    .expect("it makes an address of what is advertised");
    assert!(reaches(vm.netns(), "fd00::1".parse().unwrap()));
    let address = lease(&vm, "-4");
    vm.ip(&format!("addr add {address}/24 dev eth0"));
    for to in ["10.0.0.1", "10.0.0.12"] {
        assert!(reaches(vm.netns(), to.parse().unwrap()), "{to}");
    }
    assert!(reaches(other.netns(), address));
    let drops = host.all_drops();
    let harmed: Vec<_> = drops.iter().filter(|drop| drop.contains("vm11")).collect();
    assert!(harmed.is_empty(), "{harmed:?}");
}

/// The host's own DHCP gives a VM the one address that it may use.
#[test]
fn a_vm_is_leased_what_it_may_use() {
    let (_host, _daemon, vm) = leasing("--ip 10.0.0.50 --guard strict");
    let address = lease(&vm, "-4");
    assert_eq!(address.to_string(), "10.0.0.50");
    vm.ip(&format!("addr add {address}/24 dev eth0"));
    assert!(reaches(vm.netns(), "10.0.0.1".parse().unwrap()));
}

/// The addresses that it is leased are its own, and no others.
#[test]
fn a_vm_is_what_it_is_leased() {
    let (host, daemon, vm) = leasing("--ip learn --guard strict");
    // Addresses that it made itself are not leased.
    vm.sh("echo 0 >/proc/sys/net/ipv6/conf/eth0/autoconf");
    vm.ip("-6 addr flush dev eth0 scope global");
    wait::until("its link-local address is found to be free", || {
        let shown = vm.ip("-6 addr show dev eth0 scope link");
        shown.contains(LOCAL) && !shown.contains("tentative")
    });
    vm.ip("addr add 10.0.0.77/24 dev eth0");
    let gateways: [IpAddr; 2] = ["10.0.0.1", "fd00::1"].map(|text| text.parse().unwrap());
    assert!(is_cut_off(vm.netns(), gateways[0]));
    vm.ip("addr del 10.0.0.77/24 dev eth0");

    for (family, bits, gateway) in [("-4", 24, gateways[0]), ("-6", 64, gateways[1])] {
        let address = lease(&vm, family);
        vm.ip(&format!("addr add {address}/{bits} dev eth0"));
        wait::until("the address is in use", || reaches(vm.netns(), gateway));
        let told = events_of(&host, "ip_learned");
        assert_eq!(told.len(), 1, "{told:?}");
        assert_eq!(told[0]["ip"], address.to_string());
        assert_eq!(told[0]["port"], "vm11");
    }
    let shown = host.rows("port show vm11", "ports").remove(0);
    assert_eq!(
        shown["learned_ips"].as_array().map(Vec::len),
        Some(2),
        "{shown}"
    );
    // What was learned outlives the daemon and changes of the document.
    daemon.stop();
    host.vnet("network add blue");
    for gateway in gateways {
        assert!(reaches(vm.netns(), gateway), "{gateway}");
    }
    vm.ip("addr add 10.0.0.77/24 dev eth0");
    let spoofed = "ping -n -q -c 3 -i 0.2 -W 0.5 -I 10.0.0.77 10.0.0.1";
    assert!(vm.netns().sh(spoofed).is_err());
    // A server on another VM's port leases nothing.
    let rogue = host.bare_station("vm12", 12);
    host.vnet("port add vm12 --network lan");
    let asks = raw::requested(vm.mac().0);
    cable(&vm).send(&Frame::carrying(vm.mac(), Mac::BROADCAST, &asks));
    let leased = raw::acknowledged("10.0.0.77", vm.mac().0, 600);
    cable(&rogue).send(&Frame::carrying(rogue.mac(), vm.mac(), &leased));
    assert!(vm.netns().sh(spoofed).is_err());
}
