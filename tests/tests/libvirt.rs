//! Guests that libvirt starts: their taps become ports of the switch as libvirt makes them, and none
//! any more when it takes them away.

use std::{net::IpAddr, sync::Arc};

use serde_json::{Value, json};
use vnet_tests::{
    adopted::{host_with, row, wait_attached, wait_gone},
    host::{Addresses, BridgePort, Host, Mac, Station},
    libvirt::{Domain, Libvirt, Nic},
    traffic::{is_cut_off, reaches},
    wait,
};

/// Of guests whose taps vnet puts into the bridge, and of those that libvirt does: which network they
/// are on, and for one of them which address it may have.
const DOCUMENT: &str = r#"
schema = 1

[[network]]
name = "web"
vlan = 10

[[profile]]
name = "web-server"
match = { mac = "52:54:00:00:00:02" }
network = "web"
mac = ["52:54:00:00:00:02"]

[[profile]]
name = "taps"
match = { name = "tap*" }
network = "web"
max_macs = 2
"#;

fn index(host: &Host, interface: &str) -> u64 {
    let links = host.ip(&format!("-j link show {interface}"));
    let links: Value = serde_json::from_str(&links).unwrap();
    links[0]["ifindex"].as_u64().unwrap()
}

/// A guest's page, as `from` reads it.
fn page(from: &Station, address: IpAddr) -> String {
    from.sh(&format!("curl -gsS -m 20 http://{address}/"))
}

/// A machine on each of the networks.
struct Neighbours {
    default: Arc<Station>,
    web: Arc<Station>,
}

impl Neighbours {
    fn new(host: &Host) -> Self {
        let [default, web] = [8, 9].map(|number| host.vm(number));
        host.vnet("port add vm8");
        host.vnet("port add vm9 --network web");
        Self { default, web }
    }
}

#[test]
fn the_guests_of_libvirt_are_ports() {
    let host = host_with(DOCUMENT);
    let _daemon = host.daemon();
    let neighbours = Neighbours::new(&host);
    let device = host.interface(host.switch());
    let libvirt = Libvirt::start(&host);
    let mut one = libvirt.define(1, &[Nic::in_bridge(host.switch(), Mac::of(1))]);
    let mut two = libvirt.define(2, &[Nic::ethernet("tap2", Mac::of(2))]);
    one.start();
    two.start();
    one.wait_ready();
    two.wait_ready();

    one_is_in_the_bridge(&host, &one, &neighbours);
    two_is_what_its_profile_says(&host, &mut two, &neighbours);
    let now = host.interface(host.switch());
    assert_eq!((now.mac, now.mtu), (device.mac, device.mtu));
    cards_come_and_go(&host, &mut one, &neighbours);
    a_guest_starts_again(&host, &mut two, &neighbours);

    let tap = one.tap(Mac::of(1)).unwrap();
    one.power_off();
    wait_gone(&host, &tap);
}

/// A tap of libvirt's naming, which no profile is for.
fn one_is_in_the_bridge(host: &Host, one: &Domain<'_>, neighbours: &Neighbours) {
    let tap = one.tap(Mac::of(1)).unwrap();
    let row = wait_attached(host, &tap);
    assert_eq!(row["kind"], "vm");
    assert_eq!(row["networks"][0]["network"], "default");
    let facts = host.interface(&tap);
    assert_eq!(facts.mac, "fe:54:00:00:00:01", "as libvirt makes it");
    assert_eq!(facts.master.as_deref(), Some(host.switch()));
    // Two networks: the plain bridge keeps them apart.
    assert_eq!(facts.bridge_port, Some(BridgePort::CLOSED));
    for address in Addresses::new(1).both() {
        assert!(reaches(neighbours.default.netns(), address), "{address}");
    }
    let address = Addresses::new(1).v4();
    assert_eq!(page(&neighbours.default, address), "This is vm1.\n");
    assert!(is_cut_off(neighbours.web.netns(), address));
}

/// A tap that libvirt leaves alone: vnet puts it into the bridge.
fn two_is_what_its_profile_says(host: &Host, two: &mut Domain<'_>, neighbours: &Neighbours) {
    let mac = Mac::of(2).to_string();
    let row = wait_attached(host, "tap2");
    assert_eq!(row["kind"], "vm");
    assert_eq!(row["networks"][0]["network"], "web");
    assert_eq!(row["macs"], json!([mac]));
    assert_eq!(
        host.interface("tap2").master.as_deref(),
        Some(host.switch())
    );
    let address = Addresses::new(2).v4();
    for address in Addresses::new(2).both() {
        assert!(reaches(neighbours.web.netns(), address), "{address}");
    }
    assert_eq!(page(&neighbours.web, address), "This is vm2.\n");
    assert!(is_cut_off(neighbours.default.netns(), address));

    // With another address it may not send.
    let take = |two: &mut Domain<'_>, mac: &str| {
        two.check(&format!("ip link set eth0 address {mac}"));
    };
    let dropped = host.drops("tap2", "mac_not_allowed");
    take(two, "52:54:00:00:00:77");
    let neighbour = neighbours.web.addresses().v4();
    let pings = two.run(&format!("ping -c 3 -i 0.2 -W 1 {neighbour}"));
    assert!(!pings.success(), "{}", pings.stdout);
    assert!(host.drops("tap2", "mac_not_allowed") > dropped);
    take(two, &mac);
    assert!(reaches(neighbours.web.netns(), address));
}

/// Cards that are plugged in and pulled out while the guest runs, of both kinds.
fn cards_come_and_go(host: &Host, one: &mut Domain<'_>, neighbours: &Neighbours) {
    neighbours.web.ip("addr add 10.9.0.9/24 dev eth0");
    let nics = [
        Nic::in_bridge(host.switch(), Mac::of(3)).on("tap3"),
        Nic::ethernet("tap4", Mac::of(4)),
    ];
    for (nic, address) in nics.into_iter().zip(["10.9.0.3", "10.9.0.4"]) {
        let tap = nic.target.clone().unwrap();
        one.attach(&nic);
        let row = wait_attached(host, &tap);
        assert_eq!(row["networks"][0]["network"], "web", "{tap}");
        assert_eq!(row["max_macs"], 2, "{tap}");
        assert_eq!(host.interface(&tap).master.as_deref(), Some(host.switch()));
        one.check(&format!(
            "n=0; while [ ! -e /sys/class/net/eth1 ] && [ $n -lt 200 ]; do usleep 50000; \
             n=$((n + 1)); done; ip addr add {address}/24 dev eth1 && ip link set eth1 up"
        ));
        assert!(
            reaches(neighbours.web.netns(), address.parse().unwrap()),
            "{tap}"
        );
        one.detach(&nic);
        wait_gone(host, &tap);
        assert!(!host.interfaces().contains_key(&tap));
    }
    assert!(reaches(neighbours.default.netns(), Addresses::new(1).v4()));
}

/// With another interface of the same name it is the same port.
fn a_guest_starts_again(host: &Host, two: &mut Domain<'_>, neighbours: &Neighbours) {
    let before = (row(host, "tap2").unwrap(), index(host, "tap2"));
    two.destroy();
    wait_gone(host, "tap2");
    two.start();
    let after = (wait_attached(host, "tap2"), index(host, "tap2"));
    assert_eq!(after.0, before.0);
    assert_ne!(after.1, before.1, "another interface");
    two.wait_ready();
    assert_eq!(host.interface("tap2").ingress.len(), 1);
    let address = Addresses::new(2).v4();
    assert!(reaches(neighbours.web.netns(), address));
    assert_eq!(page(&neighbours.web, address), "This is vm2.\n");
}

/// libvirt puts a tap into the bridge itself, and a profile is for the tap as well: neither is in the
/// other's way, and what libvirt put there stays there.
#[test]
fn a_profile_is_for_a_tap_that_libvirt_puts_into_the_bridge() {
    let host = host_with(DOCUMENT);
    let bridge = host.switch().to_owned();
    host.ip(&format!("link add {bridge} type bridge forward_delay 0"));
    host.foreign_bridge(&bridge);
    host.ip(&format!("link set {bridge} up"));
    let daemon = host.daemon();
    let libvirt = Libvirt::start(&host);
    let taps = ["tap1", "tap2", "tap3", "tap4"];
    let nics: Vec<_> = (1..)
        .zip(taps)
        .map(|(number, tap)| Nic::in_bridge(&bridge, Mac::of(number)).on(tap))
        .collect();
    libvirt.define(1, &nics);
    for _ in 0..2 {
        libvirt.virsh("start vm1 --paused");
        for tap in taps {
            let row = wait_attached(&host, tap);
            assert_eq!(row["networks"][0]["network"], "web", "{tap}");
        }
        libvirt.virsh("destroy vm1");
        for tap in taps {
            wait_gone(&host, tap);
        }
    }
    libvirt.virsh("start vm1 --paused");
    for tap in taps {
        wait_attached(&host, tap);
    }
    daemon.stop();
    host.vnet("down");
    for tap in taps {
        let facts = host.interface(tap);
        assert_eq!(facts.master.as_deref(), Some(&*bridge), "{tap}");
        assert_eq!(facts.bridge_port, Some(BridgePort::OPEN), "{tap}");
        assert!(facts.ingress.is_empty(), "{tap}");
    }
    libvirt.virsh("destroy vm1");
    // The kernel takes its time where it is busy, and nothing else waits for it here.
    wait::until("the taps are gone", || {
        let links = host.ip("-o link show");
        !taps.iter().any(|tap| links.contains(tap))
    });
    drop(libvirt);
    host.ip(&format!("link del {bridge}"));
}

/// There is no bridge of the switch's name while the switch is down, and libvirt says so.
#[test]
fn without_the_switch_libvirt_refuses_the_guest() {
    let host = Host::new();
    let libvirt = Libvirt::start(&host);
    let mut domain = libvirt.define(1, &[Nic::in_bridge(host.switch(), Mac::of(1))]);
    let refused = libvirt.try_virsh("start vm1").unwrap_err();
    assert!(
        format!("{refused:#}").contains(host.switch()),
        "{refused:#}"
    );
    let _daemon = host.daemon();
    libvirt.virsh("start vm1 --paused");
    let tap = domain.tap(Mac::of(1)).unwrap();
    wait_attached(&host, &tap);
    domain.destroy();
    wait_gone(&host, &tap);
}
