//! Gateways and translation rules in the tables.

use std::net::IpAddr;

use ipnet::IpNet;
use vnet_common::{
    nat::{
        NAT_ADF, NAT_APDF, NAT_MATCH_HEAD_BITS, NAT_NPTV6, NAT_OWN_ADDRESS, NAT_SYMMETRIC, NatKind,
        NatMatch,
    },
    port::{
        PORT_GATEWAY, PORT_GUARD_IP, PORT_GUARD_MAC, PORT_GUARD_OWNERS, PORT_GUARD_STRICT,
        PORT_GUARDS, PORT_ISOLATED, PORT_LEARN_IPS, PORT_NATED, PORT_ROUTED,
    },
    switch::{SWITCH_ANSWERS, SWITCH_GUARDS, SWITCH_LEARNS, SWITCH_MID_STREAM, SWITCH_ROUTES},
};

use super::*;
use crate::config::{
    AddrRange, Attachment, Filtering, Guard, MacAddr, Mapping, NatAction, NatOptions,
    NatRule as Rule, Network, Port, PortIp, PortRange,
};

const SWITCH: &str = "vsw0";

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn network(name: &str, vlan: Option<u16>, gateway: &[&str]) -> Network {
    Network {
        vlan,
        gateway: gateway.iter().map(|text| net(text)).collect(),
        ..Network::new(name)
    }
}

/// Networks `red` (inner, both families) and `blue` (VLAN 10), an uplink and a VM's port.
fn config(nat: Vec<NatAction>) -> Config {
    let uplink = Port {
        uplink: true,
        ..Port::new("eth0")
    };
    Config {
        networks: vec![
            network("red", None, &["10.1.0.1/24", "fd00:1::1/64"]),
            network("blue", Some(10), &["10.2.0.1/24"]),
        ],
        ports: vec![uplink, Port::new("tap0")],
        nat: (1..)
            .zip(nat)
            .map(|(id, action)| Rule { id, action })
            .collect(),
        ..Config::default()
    }
}

fn facts(config: &Config) -> Facts {
    let mut facts = Facts {
        switch: SWITCH.into(),
        max_ports: 64,
        ..Facts::default()
    };
    for (ifindex, port) in (1..).zip(switch_ports(config, SWITCH)) {
        facts.interfaces.insert(
            port.port.name,
            Interface {
                ifindex,
                mac: [2, 0, 0, 0, 0, ifindex as u8],
                member: port.role == Role::Vm,
                xdp_target: false,
            },
        );
    }
    let eth0 = facts.interfaces["eth0"].ifindex;
    for (text, global, spare) in [
        ("fe80::5/64", false, false),
        ("192.0.2.5/24", true, false),
        ("192.0.2.6/24", true, true),
        ("2001:db8::77/64", true, true),
        ("2001:db8::5/64", true, false),
    ] {
        facts.addresses.push(Address {
            ifindex: eth0,
            net: net(text),
            global,
            spare,
        });
    }
    facts
}

fn tables(nat: Vec<NatAction>) -> Image {
    let config = config(nat);
    compile(&config, &facts(&config)).unwrap()
}

fn slot(image: &Image, name: &str, kind: PortKind) -> u16 {
    *image
        .ports
        .iter()
        .find(|(slot, port)| image.names[*slot] == name && port.kind == kind)
        .unwrap_or_else(|| panic!("no port {name} {kind:?}"))
        .0
}

/// The guards that the networks' private addresses have without a rule, and others.
fn guards(image: &Image, others: &[&str]) -> Vec<String> {
    let red = image.ports[&slot(image, "vsw0.red", PortKind::Internal)].native_segment;
    let blue = image.ports[&slot(image, "vsw0.blue", PortKind::Internal)].native_segment;
    let private = [
        format!("0 10.1.0.0/24: {red}"),
        format!("0 fd00:1::/64: {red}"),
        format!("0 10.2.0.0/24: {blue}"),
    ];
    let others = others.iter().map(|line| (*line).to_owned());
    sorted(private.into_iter().chain(others).collect())
}

/// Matches of a kind, as text: scope, prefix, port with its prefix length, value.
fn matches(image: &Image, kind: NatMatch) -> Vec<String> {
    let lines = image.nat_matches.iter().filter_map(|((bits, key), value)| {
        assert_eq!(key.generation, 0);
        (key.kind == kind as u8).then(|| {
            let scope = u16::from_be_bytes(key.scope_be);
            let bits = bits - NAT_MATCH_HEAD_BITS;
            let mut length = bits.min(128);
            let address = match IpAddr::from(key.addr) {
                IpAddr::V6(address) => match address.to_ipv4_mapped() {
                    Some(v4) if length >= 96 => {
                        length -= 96;
                        IpAddr::from(v4)
                    }
                    _ => IpAddr::from(address),
                },
                v4 => v4,
            };
            let port = u16::from_be_bytes(key.port_be);
            let port = if bits > 128 {
                format!(" {port}/{}", bits - 128)
            } else {
                assert_eq!(port, 0);
                String::new()
            };
            format!("{scope} {address}/{length}{port}: {value}")
        })
    });
    let mut lines: Vec<String> = lines.collect();
    lines.sort();
    lines
}

fn sorted(mut lines: Vec<String>) -> Vec<String> {
    lines.sort();
    lines
}

fn masqueraded(network: &str, uplink: &str) -> NatAction {
    NatAction::Masquerade {
        network: network.into(),
        uplink: uplink.into(),
        options: NatOptions::default(),
    }
}

fn snat(source: &str, first: &str, last: &str) -> NatAction {
    NatAction::Snat {
        source: net(source),
        to: AddrRange {
            first: ip(first),
            last: ip(last),
        },
        uplink: "eth0".into(),
        options: NatOptions::default(),
    }
}

fn one_to_one(external: &str, internal: &str, uplink: Option<&str>) -> NatAction {
    NatAction::Static {
        external: net(external),
        internal: net(internal),
        uplink: uplink.map(Into::into),
    }
}

fn forward(listen: &str, ports: (u16, u16), uplink: Option<&str>) -> NatAction {
    NatAction::Dnat {
        tcp: true,
        udp: false,
        listen: ip(listen),
        listen_ports: PortRange {
            first: ports.0,
            last: ports.1,
        },
        to: ip("10.1.0.7"),
        to_ports: PortRange {
            first: 8080,
            last: 8080,
        },
        from: None,
        uplink: uplink.map(Into::into),
    }
}

#[test]
fn a_network_with_a_gateway_has_a_port_for_it() {
    let image = tables(Vec::new());
    let red = slot(&image, "vsw0.red", PortKind::Internal);
    let port = image.ports[&red];
    assert_eq!(
        port.flags & (PORT_ROUTED | PORT_GATEWAY | PORT_NATED | PORT_ACCESS),
        PORT_ROUTED | PORT_GATEWAY | PORT_ACCESS
    );
    let segment = port.native_segment;
    assert_eq!(image.networks[&segment], "red");
    assert_eq!(image.fdb[&(port.mac, segment)], (red, FDB_LOCAL));
    let blue = slot(&image, "vsw0.blue", PortKind::Internal);
    assert_eq!(image.ports[&blue].native_segment, 10);
    assert!(!image.tags.contains_key(&(blue, 10)), "untagged");

    for (name, kind) in [("eth0", PortKind::UplinkHost), (SWITCH, PortKind::Internal)] {
        let flags = image.ports[&slot(&image, name, kind)].flags;
        assert_eq!(flags & (PORT_ROUTED | PORT_GATEWAY), PORT_ROUTED, "{name}");
    }
    for (name, kind) in [("eth0", PortKind::Uplink), ("tap0", PortKind::Vm)] {
        let flags = image.ports[&slot(&image, name, kind)].flags;
        assert_eq!(flags & (PORT_ROUTED | PORT_GATEWAY), 0, "{name}");
    }
    assert_eq!(image.nat_rules, BTreeMap::new());
    assert_eq!(image.flags, SWITCH_ROUTES | SWITCH_GUARDS);
    assert_eq!(matches(&image, NatMatch::Guard), guards(&image, &[]));
    assert_eq!(image.nat_matches.len(), 3, "guards alone");
}

#[test]
fn public_addresses_are_guarded_by_a_rule_alone() {
    let public = |nat| {
        let config = Config {
            networks: vec![network(
                "red",
                None,
                &["198.51.100.1/24", "2001:db8:100::1/64", "172.32.0.1/16"],
            )],
            ..config(nat)
        };
        compile(&config, &facts(&config)).unwrap()
    };
    let image = public(Vec::new());
    assert_eq!(image.flags, SWITCH_ROUTES);
    assert_eq!(image.nat_matches, BTreeMap::new());

    let image = public(vec![masqueraded("red", "eth0")]);
    assert_eq!(image.flags, SWITCH_ROUTES | SWITCH_GUARDS);
    let red = image.ports[&slot(&image, "vsw0.red", PortKind::Internal)].native_segment;
    assert_eq!(
        matches(&image, NatMatch::Guard),
        sorted(vec![
            format!("0 172.32.0.0/16: {red}"),
            format!("0 198.51.100.0/24: {red}"),
            format!("0 2001:db8:100::/64: {red}"),
        ])
    );
}

#[test]
fn private_addresses_of_every_kind_are_guarded() {
    let nets = [
        "10.255.0.1/16",
        "172.31.0.1/16",
        "192.168.255.1/24",
        "100.127.0.1/16",
        "fdff::1/64",
    ];
    let config = Config {
        networks: vec![network("red", None, &nets)],
        ..config(Vec::new())
    };
    let image = compile(&config, &facts(&config)).unwrap();
    let red = image.ports[&slot(&image, "vsw0.red", PortKind::Internal)].native_segment;
    let wanted = nets.map(|text| format!("0 {}: {red}", net(text).trunc()));
    assert_eq!(matches(&image, NatMatch::Guard), sorted(wanted.into()));
}

#[test]
fn the_switch_device_is_the_gateway_of_default() {
    let config = Config {
        networks: vec![network("default", None, &["10.0.0.1/24"])],
        ..config(vec![
            masqueraded("default", "eth0"),
            one_to_one("192.0.2.9/32", "10.0.0.9/32", None),
        ])
    };
    let image = compile(&config, &facts(&config)).unwrap();
    let device = slot(&image, SWITCH, PortKind::Internal);
    let flags = image.ports[&device].flags;
    assert_eq!(
        flags & (PORT_ROUTED | PORT_GATEWAY | PORT_NATED),
        PORT_ROUTED | PORT_GATEWAY | PORT_NATED
    );
    assert_eq!(
        image.nat_rules[&1].via,
        slot(&image, "eth0", PortKind::UplinkHost)
    );
    assert_eq!(image.nat_rules[&2].inside, device);
    let via = slot(&image, "eth0", PortKind::UplinkHost);
    assert_eq!(
        matches(&image, NatMatch::Source),
        sorted(vec![
            // Back inside, by the address of whatever rule.
            "0 10.0.0.9/32: 2".to_owned(),
            format!("{via} 10.0.0.0/24: 1"),
            format!("{via} 10.0.0.9/32: 2"),
        ]),
        "an inside port is no way out unless it is named"
    );
}

#[test]
fn without_gateways_and_rules_nothing_is_routed() {
    let mut config = config(Vec::new());
    config.networks.clear();
    config.settings.mid_stream = true;
    config.settings.flow_quota = 7;
    let image = compile(&config, &facts(&config)).unwrap();
    assert_eq!(image.flags, SWITCH_MID_STREAM);
    assert!(
        image
            .ports
            .values()
            .all(|port| port.flags & PORT_ROUTED == 0)
    );
    assert_eq!(
        (image.flow_limit, image.flow_quota),
        (config.settings.flow_size, 7)
    );
}

#[test]
fn masquerade() {
    let image = tables(vec![masqueraded("red", "eth0")]);
    let via = slot(&image, "eth0", PortKind::UplinkHost);
    let rule = image.nat_rules[&1];
    assert_eq!(
        (rule.kind, rule.via, rule.pool_size),
        (NatKind::Masquerade, via, 1)
    );
    assert_eq!(IpAddr::from(rule.external), ip("::ffff:192.0.2.5"));
    assert_eq!(IpAddr::from(rule.internal), ip("2001:db8::5"));
    assert_eq!((rule.port_lo, rule.port_hi), (1024, 65_535));
    assert_eq!(rule.flags, NAT_OWN_ADDRESS | NAT_ADF);
    assert_ne!(rule.print, 0);
    assert_eq!(
        matches(&image, NatMatch::Source),
        sorted(vec![
            format!("{via} 10.1.0.0/24: 1"),
            format!("{via} fd00:1::/64: 1"),
        ])
    );
    let red = image.ports[&slot(&image, "vsw0.red", PortKind::Internal)];
    assert_ne!(red.flags & PORT_NATED, 0);
    assert_eq!(matches(&image, NatMatch::Guard), guards(&image, &[]));
    let blue = image.ports[&slot(&image, "vsw0.blue", PortKind::Internal)];
    assert_eq!(blue.flags & PORT_NATED, 0);
    assert_eq!(matches(&image, NatMatch::Answer), Vec::<String>::new());
    assert_eq!(image.flags, SWITCH_ROUTES | SWITCH_GUARDS);
}

#[test]
fn a_print_tells_what_a_rule_says_and_not_what_the_host_has() {
    let config = config(vec![masqueraded("red", "eth0")]);
    let mut facts = facts(&config);
    let before = compile(&config, &facts).unwrap();
    facts.addresses.clear();
    let after = compile(&config, &facts).unwrap();
    assert_eq!(before.nat_rules[&1].print, after.nat_rules[&1].print);
    assert_eq!(after.nat_rules[&1].external, [0; 16]);
    let other = tables(vec![masqueraded("blue", "eth0")]);
    assert_ne!(before.nat_rules[&1].print, other.nat_rules[&1].print);
}

#[test]
fn options_become_flags() {
    let options = NatOptions {
        ports: Some(PortRange {
            first: 5000,
            last: 5999,
        }),
        mapping: Mapping::Symmetric,
        filtering: Filtering::Apdf,
        block_size: Some(64),
    };
    let image = tables(vec![NatAction::Masquerade {
        network: "red".into(),
        uplink: SWITCH.into(),
        options,
    }]);
    let rule = image.nat_rules[&1];
    assert_eq!(rule.via, slot(&image, SWITCH, PortKind::Internal));
    assert_eq!(rule.flags, NAT_OWN_ADDRESS | NAT_APDF | NAT_SYMMETRIC);
    assert_eq!(
        (rule.port_lo, rule.port_hi, rule.block_size),
        (5000, 5999, 64)
    );
    assert_eq!(rule.external, [0; 16], "the device has no address");
}

#[test]
fn a_rule_without_its_uplink_is_left_out_and_still_guards() {
    let image = tables(vec![
        masqueraded("red", "eth9"),
        one_to_one("198.51.100.1/32", "10.2.0.5/32", Some("eth9")),
    ]);
    assert_eq!(image.nat_rules, BTreeMap::new());
    let red = image.ports[&slot(&image, "vsw0.red", PortKind::Internal)];
    assert_eq!(
        matches(&image, NatMatch::Guard),
        guards(&image, &["0 10.2.0.5/32: 10"])
    );
    assert_eq!(image.nat_matches.len(), 4, "guards alone");
    assert_ne!(red.flags & PORT_NATED, 0);

    // A member's stack is the switch device's.
    let config = config(vec![masqueraded("red", "eth0")]);
    let mut facts = facts(&config);
    facts.interfaces.get_mut("eth0").unwrap().member = true;
    let image = compile(&config, &facts).unwrap();
    assert_eq!(image.nat_rules, BTreeMap::new());
}

#[test]
fn pools_are_answered_for_but_the_hosts_own_addresses() {
    let image = tables(vec![
        snat("10.1.0.0/16", "192.0.2.4", "192.0.2.9"),
        snat("10.9.0.0/24", "198.51.100.1", "198.51.100.1"),
    ]);
    let via = slot(&image, "eth0", PortKind::UplinkHost);
    let rule = image.nat_rules[&1];
    assert_eq!(rule.kind, NatKind::Snat);
    assert_eq!(IpAddr::from(rule.external), ip("::ffff:192.0.2.4"));
    assert_eq!(rule.pool_size, 6);
    assert_eq!(rule.flags, NAT_OWN_ADDRESS | NAT_ADF, "it holds .5 and .6");
    assert_eq!(image.nat_rules[&2].flags, NAT_ADF);
    assert_eq!(
        matches(&image, NatMatch::Answer),
        sorted(vec![
            format!("{via} 192.0.2.4/32: 1"),
            format!("{via} 192.0.2.7/32: 1"),
            format!("{via} 192.0.2.8/31: 1"),
            format!("{via} 198.51.100.1/32: 1"),
        ])
    );
    assert_ne!(image.flags & SWITCH_ANSWERS, 0);
    let red = image.ports[&slot(&image, "vsw0.red", PortKind::Internal)];
    let outside = [
        format!("0 10.1.0.0/16: {NO_SEGMENT}"),
        format!("0 10.9.0.0/24: {NO_SEGMENT}"),
    ];
    assert_eq!(
        matches(&image, NatMatch::Guard),
        guards(&image, &outside.each_ref().map(String::as_str))
    );
    assert_ne!(red.flags & PORT_NATED, 0, "its IPv4 sources are covered");
}

#[test]
fn forwards_are_found_by_protocol_address_and_port() {
    let image = tables(vec![
        forward("192.0.2.5", (80, 80), None),
        forward("198.51.100.2", (1000, 1010), None),
        NatAction::Dnat {
            tcp: true,
            udp: true,
            listen: ip("2001:db8::99"),
            listen_ports: PortRange {
                first: 53,
                last: 53,
            },
            to: ip("fd00:1::53"),
            to_ports: PortRange {
                first: 53,
                last: 53,
            },
            from: Some(net("2001:db8:5::/48")),
            uplink: Some("eth0".into()),
        },
    ]);
    let via = slot(&image, "eth0", PortKind::UplinkHost);
    let device = slot(&image, SWITCH, PortKind::Internal);
    let red = slot(&image, "vsw0.red", PortKind::Internal);
    assert_eq!(
        matches(&image, NatMatch::Listen),
        sorted(vec![
            "6 192.0.2.5/32 80/16: 1".into(),
            "6 198.51.100.2/32 1000/13: 2".into(),
            "6 198.51.100.2/32 1008/15: 2".into(),
            "6 198.51.100.2/32 1010/16: 2".into(),
            "6 2001:db8::99/128 53/16: 3".into(),
            "17 2001:db8::99/128 53/16: 3".into(),
        ])
    );
    let own = image.nat_rules[&1];
    assert_eq!((own.kind, own.via, own.inside), (NatKind::Dnat, via, red));
    assert_eq!(own.flags, NAT_OWN_ADDRESS);
    assert_eq!(IpAddr::from(own.internal), ip("::ffff:10.1.0.7"));
    assert_eq!((own.to_lo, own.to_hi, own.from_len), (8080, 8080, 0));
    let pool = image.nat_rules[&2];
    assert_eq!((pool.via, pool.flags), (NO_SLOT, 0), "nobody holds it");
    assert_eq!((pool.port_lo, pool.port_hi), (1000, 1010));
    let v6 = image.nat_rules[&3];
    assert_eq!(
        (v6.from_len, IpAddr::from(v6.from)),
        (48, ip("2001:db8:5::"))
    );
    assert_eq!(
        matches(&image, NatMatch::Answer),
        sorted(vec![
            format!("{via} 198.51.100.2/32: 1"),
            format!("{device} 198.51.100.2/32: 1"),
            format!("{via} 2001:db8::99/128: 1"),
        ])
    );
    assert_eq!(matches(&image, NatMatch::Guard), guards(&image, &[]));
}

#[test]
fn prefixes_stand_for_prefixes() {
    let image = tables(vec![
        one_to_one("2001:db8:7::/48", "fd00:1::/48", Some("eth0")),
        one_to_one("203.0.113.0/28", "10.1.0.16/28", None),
    ]);
    let via = slot(&image, "eth0", PortKind::UplinkHost);
    let device = slot(&image, SWITCH, PortKind::Internal);
    let red = slot(&image, "vsw0.red", PortKind::Internal);
    let rule = image.nat_rules[&1];
    assert_eq!(rule.kind, NatKind::Static);
    assert_eq!((rule.flags, rule.prefix_len), (NAT_NPTV6, 48));
    let rule = image.nat_rules[&2];
    assert_eq!((rule.flags, rule.prefix_len), (0, 124));
    assert_eq!((rule.via, rule.inside), (NO_SLOT, red));
    assert_eq!(IpAddr::from(rule.external), ip("::ffff:203.0.113.0"));
    assert_eq!(IpAddr::from(rule.internal), ip("::ffff:10.1.0.16"));
    assert_eq!(
        matches(&image, NatMatch::Static),
        ["0 2001:db8:7::/48: 1", "0 203.0.113.0/28: 2"]
    );
    assert_eq!(
        matches(&image, NatMatch::Source),
        sorted(vec![
            "0 fd00:1::/48: 1".to_owned(),
            "0 10.1.0.16/28: 2".to_owned(),
            format!("{via} fd00:1::/48: 1"),
            format!("{via} 10.1.0.16/28: 2"),
            format!("{device} 10.1.0.16/28: 2"),
        ])
    );
    assert_eq!(
        matches(&image, NatMatch::Answer),
        sorted(vec![
            format!("{via} 2001:db8:7::/48: 1"),
            format!("{via} 203.0.113.0/28: 1"),
            format!("{device} 203.0.113.0/28: 1"),
        ])
    );
}

#[test]
fn of_equal_sources_the_closest_kind_wins_then_the_lower_id() {
    let image = tables(vec![
        masqueraded("blue", "eth0"),
        snat("10.2.0.0/24", "198.51.100.9", "198.51.100.9"),
        snat("10.2.0.0/24", "198.51.100.8", "198.51.100.8"),
        one_to_one("203.0.113.0/24", "10.2.0.0/24", Some("eth0")),
        one_to_one("203.0.113.0/24", "10.2.0.0/24", Some("eth0")),
    ]);
    let via = slot(&image, "eth0", PortKind::UplinkHost);
    assert_eq!(
        matches(&image, NatMatch::Source),
        sorted(vec![
            "0 10.2.0.0/24: 4".to_owned(),
            format!("{via} 10.2.0.0/24: 4"),
        ])
    );
    assert_eq!(matches(&image, NatMatch::Static), ["0 203.0.113.0/24: 4"]);
    assert_eq!(matches(&image, NatMatch::Guard), guards(&image, &[]));
}

/// An empty bridge has none: a table that took it would find it in every free place.
#[test]
fn no_address_is_no_address_of_the_hosts() {
    let config = config(vec![]);
    let mut facts = facts(&config);
    let device = facts.interfaces.get_mut(SWITCH).unwrap();
    let mac = std::mem::take(&mut device.mac);
    let image = compile(&config, &facts).unwrap();
    let has = |mac| image.fdb.keys().any(|(known, _)| *known == mac);
    assert!(!has([0; 6]) && !has(mac), "{:?}", image.fdb);
    facts.interfaces.get_mut(SWITCH).unwrap().mac = mac;
    let image = compile(&config, &facts).unwrap();
    assert!(image.fdb.keys().any(|(known, _)| *known == mac));
}

/// Whose IP addresses are whose: `10.1.0.1 red: vsw0.red`.
fn owners(image: &Image) -> Vec<String> {
    let owners = image.port_ips.iter().map(|(&(addr, segment), slot)| {
        let addr = std::net::Ipv6Addr::from(addr);
        let addr = addr.to_ipv4_mapped().map_or(addr.into(), IpAddr::V4);
        format!("{addr} {}: {}", image.networks[&segment], image.names[slot])
    });
    sorted(owners.collect())
}

#[test]
fn an_address_is_its_ports_in_every_network_that_the_port_carries() {
    let mut config = config(Vec::new());
    let tap0 = &mut config.ports[1];
    tap0.attachment = Attachment::Trunk {
        networks: vec!["blue".parse().unwrap()],
        native: Some("default".into()),
    };
    tap0.ips = vec![
        PortIp::Is(ip("10.2.0.2")),
        PortIp::Is(ip("fd00:1::2")),
        // The host's own is the host's, whatever a document says.
        PortIp::Is(ip("192.0.2.5")),
    ];
    let image = compile(&config, &facts(&config)).unwrap();
    assert_eq!(
        owners(&image),
        sorted(
            [
                "10.1.0.1 red: vsw0.red",
                "fd00:1::1 red: vsw0.red",
                "10.2.0.1 blue: vsw0.blue",
                "fe80::5 default: eth0",
                "192.0.2.5 default: eth0",
                "192.0.2.6 default: eth0",
                "2001:db8::77 default: eth0",
                "2001:db8::5 default: eth0",
                "10.2.0.2 default: tap0",
                "10.2.0.2 blue: tap0",
                "192.0.2.5 blue: tap0",
                "fd00:1::2 default: tap0",
                "fd00:1::2 blue: tap0",
            ]
            .map(Into::into)
            .into()
        )
    );
    let host = slot(&image, "eth0", PortKind::UplinkHost);
    assert_eq!(
        image.port_ips[&(vnet_common::flow::mapped([192, 0, 2, 5]), 0)],
        host
    );
}

#[test]
fn what_is_checked_of_a_port() {
    const MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 9]);
    let flags = |change: fn(&mut Port)| {
        let mut config = config(Vec::new());
        change(&mut config.ports[1]);
        let image = compile(&config, &facts(&config)).unwrap();
        let port = image.ports[&slot(&image, "tap0", PortKind::Vm)];
        (
            port.flags & (PORT_GUARDS | PORT_LEARN_IPS | PORT_ISOLATED),
            image.flags & SWITCH_LEARNS != 0,
        )
    };
    let known = PORT_GUARD_MAC | PORT_GUARD_OWNERS;
    assert_eq!(
        flags(|_| {}),
        (PORT_GUARD_OWNERS, false),
        "of the VM nothing is known but that it is nobody else"
    );
    assert_eq!(flags(|port| port.guard = Guard::None), (0, false));
    assert_eq!(flags(|port| port.macs = vec![MAC]), (known, false));
    assert_eq!(
        flags(|port| {
            port.macs = vec![MAC];
            port.guard = Guard::None;
        }),
        (0, false)
    );
    assert_eq!(
        flags(|port| port.guard = Guard::Strict),
        (known | PORT_GUARD_STRICT, false)
    );
    assert_eq!(
        flags(|port| {
            port.ips = vec![PortIp::Learn];
            port.guard = Guard::None;
            port.isolated = true;
        }),
        (PORT_GUARD_IP | PORT_LEARN_IPS | PORT_ISOLATED, true)
    );
}
