//! The bridge behind the switch: adopting one that is there, giving back what was taken, and what
//! it does with frames when vnet's programs are gone.

use std::{fs, process::Command};

use vnet_tests::{
    host::{BridgePort, Host, Mac},
    traffic::{self, is_cut_off, reaches},
    wire::{Frame, Tap, Wire as _},
};

/// A host with a bridge of the switch's name, as a VM tool makes one: `vm8` is in it, and its MAC is
/// its own. vnet is not up.
fn host_with_bridge() -> Host {
    let host = Host::new();
    let switch = host.switch();
    host.foreign_bridge(switch);
    host.ip(&format!("link add {switch} type bridge forward_delay 0"));
    host.ip(&format!("link set {switch} address 02:00:00:00:00:77 up"));
    host.vm(8);
    host.ip(&format!("link set vm8 master {switch}"));
    host
}

fn sysctls(host: &Host) -> String {
    host.sh(&format!(
        "cd /proc/sys/net/ipv4/conf/{} && cat arp_ignore arp_announce rp_filter forwarding",
        host.switch()
    ))
}

#[test]
fn an_adopted_bridge_is_given_back_as_it_was() {
    let host = host_with_bridge();
    let switch = host.switch();
    host.sh(&format!(
        "echo 2 > /proc/sys/net/ipv4/conf/{switch}/arp_ignore"
    ));
    let [one, eight] = [host.vm(1), host.vm(9)];
    host.ip(&format!("link set vm9 master {switch}"));
    let details = |host: &Host| {
        let text = host.ip(&format!("-d -j link show {switch}"));
        let links: serde_json::Value = serde_json::from_str(&text).unwrap();
        let mut data = links[0]["linkinfo"]["info_data"].clone();
        for counting in [
            "hello_timer",
            "tcn_timer",
            "topology_change_timer",
            "gc_timer",
        ] {
            data[counting].take();
        }
        data
    };
    let before = (host.interfaces(), sysctls(&host), details(&host));

    host.vnet("up");
    assert_eq!(host.status()["device"], "adopted");
    let mac = host.interface(switch).mac;
    assert_eq!(mac, "02:00:00:00:00:77", "its address is its own");
    host.vnet("port add vm1");
    host.vnet("port add vm8");
    host.vnet("port add vm9");
    let device = host.device_ip();
    assert!(reaches(one.netns(), eight.addresses().v4()));
    assert!(reaches(one.netns(), device.v4()));
    assert_ne!(sysctls(&host), before.1);

    host.vnet("down");
    assert_eq!(host.interface("vm1").master, None, "it was no member");
    let after = (host.interfaces(), sysctls(&host), details(&host));
    assert_eq!(after, before);
    // And it works as it did.
    host.ip(&format!("link set vm1 master {switch}"));
    assert!(reaches(one.netns(), eight.addresses().v4()));
    host.ip("link set vm1 nomaster");
}

#[test]
fn a_port_that_was_a_member_stays_one() {
    let host = host_with_bridge();
    let switch = host.switch();
    let one = host.vm(1);
    host.vnet("up");
    host.vnet("port add vm1");
    host.vnet("port add vm8");
    assert!(reaches(one.netns(), host_address(8)));
    host.vnet("port del vm1");
    host.vnet("port del vm8");
    let (one, eight) = (host.interface("vm1"), host.interface("vm8"));
    assert_eq!(one.master, None);
    assert_eq!(eight.master.as_deref(), Some(switch));
    assert!(one.ingress.is_empty() && eight.ingress.is_empty());
    assert_eq!(eight.bridge_port, Some(BridgePort::OPEN));
}

fn host_address(number: u8) -> std::net::IpAddr {
    vnet_tests::host::Addresses::new(number).v4()
}

/// An uplink that the user put into the bridge (as Proxmox does) stays in it and works there.
#[test]
fn a_member_uplink_serves_vms_and_the_host() {
    let host = Host::new();
    let switch = host.switch();
    host.foreign_bridge(switch);
    host.ip(&format!("link add {switch} type bridge forward_delay 0"));
    host.ip(&format!("link set {switch} up"));
    let phys = host.phys();
    let vm = host.vm(1);
    host.ip(&format!("link set up0 master {switch}"));
    let device = host.device_ip();
    host.vnet("up --uplink up0");
    host.vnet("port add vm1");
    assert_eq!(host.port_status("up0")["member"], true);
    for (from, to, addresses) in [
        (vm.netns(), phys.netns(), phys.addresses()),
        (phys.netns(), vm.netns(), vm.addresses()),
        (phys.netns(), host.netns(), device),
        (vm.netns(), host.netns(), device),
        (host.netns(), phys.netns(), phys.addresses()),
        (host.netns(), vm.netns(), vm.addresses()),
    ] {
        for address in addresses.both() {
            assert!(reaches(from, address), "{address}");
            traffic::tcp(from, to, address, 4 << 20);
        }
    }
    // The kernel's bridge learned nothing of the VM: it never saw its frames.
    let mac = vm.mac().to_string();
    let kernel_fdb = host.sh(&format!("bridge fdb show br {switch}"));
    assert!(!kernel_fdb.contains(&mac), "{kernel_fdb}");
    host.vnet("down");
    assert_eq!(host.interface("up0").master.as_deref(), Some(switch));
    // The bridge's own address went with the VM's port, which was its lowest perhaps.
    phys.ip("neigh flush all");
    assert!(reaches(phys.netns(), device.v4()));
}

/// A bridge whose address nobody set takes the lowest one of its members, so it changes with them:
/// the host must be found at the new one.
#[test]
fn the_address_of_an_adopted_bridge_is_followed() {
    let host = Host::new();
    let switch = host.switch();
    host.foreign_bridge(switch);
    host.ip(&format!("link add {switch} type bridge forward_delay 0"));
    host.ip(&format!("link set {switch} up"));
    let [one, two] = [host.vm(1), host.vm(2)];
    host.ip("link set vm1 address 02:00:00:00:ee:01");
    host.ip("link set vm2 address 02:00:00:00:00:02");
    let device = host.device_ip();
    host.vnet("up");
    let mac = || host.interface(switch).mac;
    let hosts_own = || {
        let rows = host.fdb();
        let local = rows.iter().filter(|row| row.kind == "local");
        local.map(|row| row.mac.clone()).collect::<Vec<_>>()
    };
    for (line, expected) in [
        ("port add vm1", "02:00:00:00:ee:01"),
        ("port add vm2", "02:00:00:00:00:02"),
        ("port del vm2", "02:00:00:00:ee:01"),
    ] {
        host.vnet(line);
        assert_eq!(mac(), expected, "after `{line}`");
        assert_eq!(hosts_own(), [expected], "after `{line}`");
        one.ip("neigh flush all");
        assert!(reaches(one.netns(), device.v4()), "after `{line}`");
    }
    host.ip(&format!("link set {switch} address 02:00:00:00:00:77"));
    host.vnet("up");
    one.ip("neigh flush all");
    assert!(reaches(one.netns(), device.v4()));
    assert_eq!(hosts_own(), ["02:00:00:00:00:77"]);
    drop(two);
}

/// A bridge whose address nobody set has none while nothing is in it.
#[test]
fn an_empty_bridge_without_an_address_is_served() {
    let host = Host::new();
    let switch = host.switch();
    host.foreign_bridge(switch);
    host.ip(&format!("link add {switch} type bridge forward_delay 0"));
    host.ip(&format!("link set {switch} up"));
    let [one, two] = [host.vm(1), host.vm(2)];
    host.ip(&format!("link set vm1 master {switch}"));
    host.ip("link set vm1 nomaster");
    assert_eq!(host.interface(switch).mac, "00:00:00:00:00:00");
    host.vnet("up");
    host.vnet("network add blue --vlan 10");
    host.vnet("port add vm1");
    host.vnet("port add vm2");
    let device = host.device_ip();
    assert!(reaches(one.netns(), two.addresses().v4()));
    assert!(reaches(one.netns(), device.v4()));
    assert_eq!(
        host.whereabouts(one.mac(), "default").as_deref(),
        Some("vm1")
    );
    // And when the last one leaves.
    host.vnet("port del vm1");
    host.vnet("port del vm2");
    assert_eq!(host.interface(switch).mac, "00:00:00:00:00:00");
    host.vnet("port add vm1");
    host.vnet("port add vm2");
    assert!(reaches(one.netns(), two.addresses().v4()));
    assert_eq!(
        host.whereabouts(one.mac(), "default").as_deref(),
        Some("vm1")
    );
}

/// Promiscuous mode is released when vnet asked for it, and not when the user did.
#[test]
fn promiscuous_mode_is_given_back() {
    let host = Host::new();
    host.phys();
    host.station("up1", 101);
    host.ip("link set up1 promisc on");
    host.vnet("up --uplink up0 --uplink up1");
    assert_eq!(host.interface("up0").promiscuity, 1);
    host.vnet("port del up0");
    assert_eq!(host.interface("up0").promiscuity, 0);
    host.vnet("up --uplink up0");
    assert_eq!(host.interface("up0").promiscuity, 1);
    host.vnet("down");
    assert_eq!(host.interface("up0").promiscuity, 0);
    assert_eq!(host.interface("up1").promiscuity, 1);
    host.ip("link set up1 promisc off");
}

/// A port that becomes an uplink leaves the bridge, and the other way round.
#[test]
fn a_port_changes_its_role() {
    let (host, [one, two]) = Host::with_vms([1, 2]);
    host.vnet("port set vm2 --uplink");
    let facts = host.interface("vm2");
    assert_eq!((facts.master, facts.promiscuity), (None, 1));
    assert_eq!(facts.egress.len(), 1);
    assert!(reaches(one.netns(), two.addresses().v4()));
    host.vnet("port del vm2");
    host.vnet("port add vm2");
    let facts = host.interface("vm2");
    assert_eq!(facts.master.as_deref(), Some(host.switch()));
    assert!(facts.egress.is_empty());
    assert!(reaches(one.netns(), two.addresses().v4()));
}

/// The programs go, as when somebody removes the pins; what was set up for that moment remains.
fn lose_programs(host: &Host) {
    let links = host.version_dir().join("links");
    let done = Command::new("rm").arg("-r").arg(&links).status();
    assert!(done.unwrap().success());
    assert!(host.interface("vm1").ingress.is_empty());
    fs::create_dir(links).unwrap();
}

fn without_vnet(host: &Host) -> String {
    let status = host.status();
    status["without_vnet"].as_str().unwrap().to_owned()
}

fn flags(host: &Host, port: &str) -> BridgePort {
    host.interface(port).bridge_port.expect("it is a member")
}

/// While there is one network and no policy, VMs go on talking without vnet.
#[test]
fn one_network_stays_open_without_the_programs() {
    let (host, [one, two]) = Host::with_vms([1, 2]);
    assert_eq!(without_vnet(&host), "open");
    assert_eq!(flags(&host, "vm1"), BridgePort::OPEN);
    lose_programs(&host);
    assert!(reaches(one.netns(), two.addresses().v4()));
}

/// With several networks, who may not talk does not talk without vnet either.
#[test]
fn several_networks_are_closed_without_the_programs() {
    let (host, [one, two]) = Host::with_vms([1, 2]);
    host.vnet("network add blue --vlan 10");
    host.vnet("port set vm2 --network blue");
    assert_eq!(without_vnet(&host), "closed");
    for port in ["vm1", "vm2"] {
        assert_eq!(flags(&host, port), BridgePort::CLOSED, "{port}");
    }
    lose_programs(&host);
    assert!(is_cut_off(one.netns(), two.addresses().v4()));
    // Even when both know each other's address, and nothing needs to be flooded.
    for (from, to) in [(&one, &two), (&two, &one)] {
        let (address, mac) = (to.addresses().v4(), to.mac());
        from.ip(&format!("neigh replace {address} lladdr {mac} dev eth0"));
    }
    assert!(is_cut_off(one.netns(), two.addresses().v4()));
}

#[test]
fn open_or_closed_follows_the_configuration() {
    let (host, []) = Host::with_vms([]);
    let _tap = Tap::create(&host, "tap1");
    host.vnet("port add tap1");
    let deny = "02:00:00:00:00:bb";
    let is = |closed: bool, fail: &str| {
        let word = if closed { "closed" } else { "open" };
        assert_eq!(without_vnet(&host), word);
        assert_eq!(host.status()["fail"], fail);
        let wanted = if closed {
            BridgePort::CLOSED
        } else {
            BridgePort::OPEN
        };
        assert_eq!(flags(&host, "tap1"), wanted);
    };
    is(false, "auto");
    for (line, back) in [
        ("network add blue --vlan 10", "network del blue"),
        (&*format!("mac deny {deny}"), &*format!("mac allow {deny}")),
        (
            &*format!("port set tap1 --mac {deny}"),
            "port set tap1 --mac none",
        ),
    ] {
        host.vnet(line);
        is(true, "auto");
        host.vnet(back);
        is(false, "auto");
    }
    host.vnet("up --fail closed");
    is(true, "closed");
    host.vnet("up --fail open");
    is(false, "open");
    host.vnet("network add blue --vlan 10");
    is(false, "open");
    host.vnet("up --fail auto");
    is(true, "auto");
    // A member that joins a closed switch is closed from the start.
    let _tap = Tap::create(&host, "tap2");
    host.vnet("port add tap2");
    assert_eq!(flags(&host, "tap2"), BridgePort::CLOSED);
}

/// What the user set on a member is put back, whatever vnet made of it meanwhile.
#[test]
fn bridge_flags_of_the_user_are_put_back() {
    let host = host_with_bridge();
    host.ip("link set vm8 type bridge_slave isolated on learning off");
    let own = flags(&host, "vm8");
    assert_ne!(own, BridgePort::OPEN);
    host.vnet("up");
    host.vnet("port add vm8");
    assert_eq!(flags(&host, "vm8"), own, "open changes nothing");
    host.vnet("network add blue --vlan 10");
    assert_eq!(flags(&host, "vm8"), BridgePort::CLOSED);
    host.vnet("network del blue");
    assert_eq!(flags(&host, "vm8"), own);
    host.vnet("network add blue --vlan 10");
    host.vnet("port del vm8");
    assert_eq!(flags(&host, "vm8"), own);
    host.vnet("port add vm8");
    assert_eq!(flags(&host, "vm8"), BridgePort::CLOSED);
    host.vnet("down");
    assert_eq!(flags(&host, "vm8"), own);
}

/// A member is the switch's and nobody else's: no frame falls through to the bridge behind it.
#[test]
fn the_bridge_behind_the_switch_forwards_nothing() {
    let (host, []) = Host::with_vms([]);
    let one = Tap::create(&host, "tap1");
    host.vnet("port add tap1");
    // In the bridge, and no port of the switch: a tool made it a member behind vnet's back.
    let stranger = Tap::create(&host, "tap2");
    host.ip(&format!("link set tap2 master {}", host.switch()));
    one.send(&Frame::new(Mac::of(1), Mac::BROADCAST));
    one.send(&Frame::new(Mac::of(1), Mac::of(2)));
    stranger.expect_nothing();
    host.vnet("port add tap2");
    let frame = Frame::new(Mac::of(1), Mac::BROADCAST);
    one.send(&frame);
    stranger.expect(&frame);
    host.vnet("port del tap2");
    let facts = host.interface("tap2");
    assert_eq!(facts.master.as_deref(), Some(host.switch()));
}
