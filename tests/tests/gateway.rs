//! Gateway ports: where the host is in a network, and what is left of it afterwards.

use std::{fs, net::IpAddr};

use vnet_tests::{
    host::{Addresses, Host},
    traffic::{is_cut_off, reaches},
};

/// The gateway of the VMs' subnets.
const GATEWAY: Addresses = Addresses::new(254);

fn add_gateway(host: &Host, network: &str) {
    let [v4, v6] = GATEWAY.both();
    host.vnet(&format!(
        "network add {network} --gateway {v4}/24 --gateway {v6}/64 --mtu 1400"
    ));
}

fn sysctl(host: &Host, key: &str) -> String {
    host.sh(&format!("cat /proc/sys/net/{key}")).trim().into()
}

fn addresses(host: &Host, interface: &str) -> String {
    let line = host.ip(&format!("-br addr show dev {interface} scope global"));
    // Behind its name and whether it has a carrier.
    let words: Vec<&str> = line.split_whitespace().skip(2).collect();
    words.join(" ")
}

fn interfaces(host: &Host) -> Vec<String> {
    host.interfaces().into_keys().collect()
}

#[test]
fn a_network_with_a_gateway_reaches_the_host_and_only_it_does() {
    let host = Host::up();
    let [one, two, other] = [1, 2, 3].map(|number| host.vm(number));
    add_gateway(&host, "red");
    for line in [
        "port add vm1 --network red",
        "port add vm2 --network red",
        "port add vm3",
    ] {
        host.vnet(line);
    }
    for address in GATEWAY.both() {
        assert!(reaches(one.netns(), address), "{address}");
        assert!(is_cut_off(other.netns(), address), "{address}");
    }
    for address in two.addresses().both() {
        assert!(reaches(host.netns(), address), "{address}");
        assert!(reaches(one.netns(), address), "{address}");
    }
    let port = format!("{}.red", host.switch());
    assert_eq!(host.interface(&port).mtu, 1400);
    let rows = host.rows("port list", "ports");
    let row = rows
        .iter()
        .find(|row| row["name"] == port.as_str())
        .unwrap();
    assert_eq!(
        (&row["kind"], &row["state"]),
        (&"internal".into(), &"attached".into())
    );
    assert!(host.counter(&port, "internal", "rx_packets") > 0);
    assert_eq!(host.port_status(&port)["kind"], "internal");
    assert_eq!(host.status()["routed"][0]["network"], "red");
    assert_eq!(host.status()["without_vnet"], "closed");

    // The host routes there, and nowhere else.
    for (key, value) in [
        (format!("ipv4/conf/{port}/forwarding"), "1"),
        (format!("ipv6/conf/{port}/forwarding"), "1"),
        (format!("ipv4/conf/{port}/arp_ignore"), "1"),
        (format!("ipv6/conf/{port}/accept_ra"), "0"),
        ("ipv4/conf/all/forwarding".into(), "0"),
        ("ipv6/conf/all/forwarding".into(), "0"),
        (format!("ipv4/conf/{}/forwarding", host.switch()), "0"),
    ] {
        assert_eq!(sysctl(&host, &key), value, "{key}");
    }
}

#[test]
fn a_gateway_that_is_changed_or_deleted_by_hand_comes_right() {
    let (host, [one]) = Host::with_vms([1]);
    add_gateway(&host, "red");
    host.vnet("port set vm1 --network red");
    let port = format!("{}.red", host.switch());
    let mac = host.interface(&port).mac;
    let text = host.document_text().unwrap();
    fs::write(host.document(), text.replace("10.0.0.254", "10.0.0.250")).unwrap();
    host.vnet("up");
    let now = addresses(&host, &port);
    assert!(
        now.contains("10.0.0.250/24") && !now.contains("10.0.0.254"),
        "{now}"
    );
    assert!(reaches(one.netns(), Addresses::new(250).v4()));
    assert!(reaches(one.netns(), GATEWAY.v6()));

    host.ip(&format!("link del {port}"));
    host.vnet("up");
    assert_eq!(host.interface(&port).mac, mac, "neighbours know it");
    for address in [Addresses::new(250).v4(), GATEWAY.v6()] {
        assert!(reaches(one.netns(), address), "{address}");
    }

    let before = interfaces(&host);
    host.vnet("port set vm1 --network default");
    host.vnet("network del red");
    let left = interfaces(&host);
    assert!(!left.contains(&port));
    assert_eq!(left.len(), before.len() - 2, "the pair: {left:?}");
    let rows = host.rows("stats", "stats");
    assert!(
        rows.iter().all(|row| row["port"] != port.as_str()),
        "{rows:?}"
    );
}

#[test]
fn down_takes_gateways_along() {
    let host = Host::new();
    let one = host.vm(1);
    let before = interfaces(&host);
    host.vnet("up");
    add_gateway(&host, "red");
    host.vnet("network add a-name-that-is-long --gateway 10.7.0.1/24");
    host.vnet("port add vm1 --network red");
    assert!(reaches(one.netns(), GATEWAY.v4()));
    host.vnet("down");
    assert_eq!(interfaces(&host), before);
    host.vnet("up");
    assert!(reaches(one.netns(), GATEWAY.v4()));
    assert!(addresses(&host, &long_port(&host)).contains("10.7.0.1/24"));
}

fn long_port(host: &Host) -> String {
    let rows = host.rows("port list", "ports");
    let is_it = |row: &&serde_json::Value| row["networks"][0]["network"] == "a-name-that-is-long";
    let row = rows.iter().find(is_it).unwrap();
    row["name"].as_str().unwrap().to_owned()
}

#[test]
fn an_adopted_device_gets_the_gateway_of_default_and_is_given_back() {
    let host = Host::new();
    let switch = host.switch();
    let one = host.vm(1);
    host.foreign_bridge(switch);
    host.ip(&format!("link add {switch} type bridge"));
    host.ip(&format!("link set {switch} up"));
    // The user's own, one of them the gateway's.
    host.ip(&format!("addr add 10.0.0.254/24 dev {switch}"));
    host.ip(&format!("addr add 10.9.0.1/24 dev {switch}"));
    let keys = ["ipv4", "ipv6"].map(|family| format!("{family}/conf/{switch}/forwarding"));
    let facts = || {
        let values = keys.each_ref().map(|key| sysctl(&host, key));
        let accept_ra = sysctl(&host, &format!("ipv6/conf/{switch}/accept_ra"));
        (values, accept_ra, addresses(&host, switch))
    };
    let before = facts();
    host.vnet("port add vm1");
    let [v4, v6] = GATEWAY.both();
    let network = format!("[[network]]\nname = 'default'\ngateway = ['{v4}/24', '{v6}/64']\n");
    let document = format!("{}\n{network}", host.document_text().unwrap());
    fs::write(host.document(), document).unwrap();
    host.vnet("up");
    for address in GATEWAY.both() {
        assert!(reaches(one.netns(), address), "{address}");
    }
    let (forwarding, accept_ra, now) = facts();
    assert_eq!(forwarding, ["1", "1"]);
    assert_eq!(accept_ra, "2", "advertisements are still heard");
    assert!(
        now.contains("fd00::fe/64") && now.contains("10.9.0.1/24"),
        "{now}"
    );
    assert_eq!(
        interfaces(&host)
            .iter()
            .filter(|name| name.starts_with(switch))
            .count(),
        1
    );

    host.vnet("down");
    host.ip("link set vm1 nomaster");
    assert_eq!(facts(), before);
}

#[test]
fn an_interface_of_the_same_name_is_not_taken() {
    let host = Host::up();
    let port = format!("{}.red", host.switch());
    host.ip(&format!("link add {port} type bridge"));
    let before = host.document_text();
    host.try_vnet("network add red --gateway 10.0.0.254/24")
        .refused(1, &["the gateway port of the network red", &port]);
    assert_eq!(host.document_text(), before);
    assert!(interfaces(&host).contains(&port));
    host.ip(&format!("link del {port}"));
    host.vnet("network add red --gateway 10.0.0.254/24");
    let taken: IpAddr = "10.0.0.254".parse().unwrap();
    assert!(addresses(&host, &port).contains(&taken.to_string()));
}
