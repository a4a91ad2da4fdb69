//! The kernel's own bridge, routing and NAT, set up from the same words as vnet's.

use std::net::IpAddr;

use super::{BLUE, LAN, Network, UPLINK};
use crate::host::Host;

/// Forwarding, and chains without rules.
pub(super) fn begin(host: &Host, device: &str) {
    for line in [
        "echo 1 >/proc/sys/net/ipv4/ip_forward",
        "echo 1 >/proc/sys/net/ipv6/conf/all/forwarding",
        "echo 0 >/proc/sys/net/ipv4/conf/all/send_redirects",
        "echo 0 >/proc/sys/net/ipv4/conf/default/send_redirects",
        "nft add table inet nat",
        "nft 'add chain inet nat pre { type nat hook prerouting priority dstnat; }'",
        "nft 'add chain inet nat out { type nat hook output priority -100; }'",
        "nft 'add chain inet nat post { type nat hook postrouting priority srcnat; }'",
        "nft 'add chain inet nat guard { type filter hook forward priority filter; }'",
    ] {
        host.sh(line);
    }
    host.sh(&format!(
        "nft 'add rule inet nat guard iifname {device} ct state new ct status ! dnat drop'"
    ));
}

/// A bridge of that name with the gateway's addresses.
pub(super) fn network(host: &Host, network: Network) {
    let (name, gateway) = (network.name, network.gateway());
    host.foreign_bridge(name);
    host.ip(&format!("link add {name} type bridge"));
    host.ip(&format!("link set {name} up"));
    host.ip(&format!("addr add {}/24 dev {name}", gateway.v4));
    let bits = network.v6_bits;
    host.ip(&format!("addr add {}/{bits} dev {name} nodad", gateway.v6));
}

/// A member of the network's bridge.
pub(super) fn port(host: &Host, port: &str, network: Network) {
    host.ip(&format!("link set {port} master {}", network.name));
}

/// What `nat add` would do, as far as nft can.
pub(super) fn rule(host: &Host, line: &str) {
    let words: Vec<_> = line.split_whitespace().collect();
    let option = |name: &str| {
        let at = words.iter().position(|word| *word == name)?;
        words.get(at + 1).copied()
    };
    let need = |name: &str| option(name).unwrap_or_else(|| panic!("{line} lacks {name}"));
    let commands = match words[0] {
        "masquerade" => masquerade(need("--network"), need("--uplink"), option("--ports")),
        "snat" => snat(host, need("--source"), need("--to"), need("--uplink")),
        "dnat" => dnat(
            need("--proto"),
            need("--listen"),
            need("--to"),
            option("--from"),
        ),
        "static" => one_to_one(host, need("--external"), need("--internal")),
        other => panic!("{other} is no kind of rule"),
    };
    for command in commands {
        host.sh(&format!("nft 'add rule inet nat {command}'"));
    }
}

const fn family(address: IpAddr) -> &'static str {
    match address {
        IpAddr::V4(_) => "ip",
        IpAddr::V6(_) => "ip6",
    }
}

fn masquerade(network: &str, uplink: &str, ports: Option<&str>) -> Vec<String> {
    let network = [LAN, BLUE]
        .into_iter()
        .find(|known| known.name == network)
        .unwrap_or_else(|| panic!("no network is called {network}"));
    let ports = ports.map_or_else(String::new, |ports| format!(" to :{ports}"));
    let gateway = network.gateway();
    [(gateway.v4.into(), 24), (gateway.v6.into(), 64)]
        .into_iter()
        .flat_map(|(gateway, bits): (IpAddr, u8)| {
            let from = format!(
                "post {} saddr {gateway}/{bits} oifname {uplink}",
                family(gateway)
            );
            [
                format!("{from} meta l4proto {{ tcp, udp }} masquerade{ports}"),
                format!("{from} masquerade"),
            ]
        })
        .collect()
}

fn snat(host: &Host, source: &str, to: &str, uplink: &str) -> Vec<String> {
    let (first, last) = to.split_once('-').unwrap_or((to, to));
    let first: IpAddr = first.parse().unwrap();
    own(host, first, last.parse().unwrap());
    let family = family(first);
    vec![format!(
        "post {family} saddr {source} oifname {uplink} snat {family} to {to}"
    )]
}

/// So that the kernel answers for addresses which are to be translated.
fn own(host: &Host, first: IpAddr, last: IpAddr) {
    match (first, last) {
        (IpAddr::V4(first), IpAddr::V4(last)) => {
            for address in u32::from(first)..=u32::from(last) {
                let address = std::net::Ipv4Addr::from(address);
                host.ip(&format!("addr replace {address}/32 dev up0"));
            }
        }
        (IpAddr::V6(first), IpAddr::V6(last)) => {
            for address in u128::from(first)..=u128::from(last) {
                let address = std::net::Ipv6Addr::from(address);
                host.ip(&format!(
                    "addr replace {address}/128 dev up0 nodad preferred_lft 0"
                ));
            }
        }
        _ => panic!("{first} and {last} are of two families"),
    }
}

/// `ADDR:PORT[-PORT]`.
fn address_and_ports(text: &str) -> (IpAddr, u16, u16) {
    let (address, ports) = text.rsplit_once(':').unwrap();
    let address = address.trim_matches(['[', ']']).parse().unwrap();
    let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
    (address, first.parse().unwrap(), last.parse().unwrap())
}

fn dnat(protos: &str, listen: &str, to: &str, from: Option<&str>) -> Vec<String> {
    let (listen, listen_first, listen_last) = address_and_ports(listen);
    let (to, to_first, _) = address_and_ports(to);
    let family = family(listen);
    let from = from.map_or_else(String::new, |from| format!("{family} saddr {from} "));
    let bracketed = match to {
        IpAddr::V4(to) => to.to_string(),
        IpAddr::V6(to) => format!("[{to}]"),
    };
    let mut commands = Vec::new();
    for proto in protos.split(',') {
        for port in listen_first..=listen_last {
            let to_port = to_first + (port - listen_first);
            for chain in ["pre", "out"] {
                commands.push(format!(
                    "{chain} {from}{family} daddr {listen} {proto} dport {port} \
                     dnat {family} to {bracketed}:{to_port}"
                ));
            }
        }
    }
    // Whoever is inside appears as from outside (RFC 4787, REQ-9).
    let (gateway, bits) = match to {
        IpAddr::V4(_) => (LAN.gateway().like(to), 24),
        IpAddr::V6(_) => (LAN.gateway().like(to), 64),
    };
    commands.push(format!(
        "post {family} saddr {gateway}/{bits} {family} daddr {gateway}/{bits} ct status dnat \
         snat {family} to {}",
        UPLINK.like(to)
    ));
    commands
}

fn one_to_one(host: &Host, external: &str, internal: &str) -> Vec<String> {
    let Some((address, bits)) = external.split_once('/') else {
        let address: IpAddr = external.parse().unwrap();
        own(host, address, address);
        let family = family(address);
        return vec![
            format!("pre {family} daddr {external} dnat {family} to {internal}"),
            format!("post {family} saddr {internal} oifname up0 snat {family} to {external}"),
        ];
    };
    let address: IpAddr = address.parse().unwrap();
    if let IpAddr::V4(first) = address {
        let others = (1u32 << (32 - bits.parse::<u32>().unwrap())) - 1;
        let last = std::net::Ipv4Addr::from(u32::from(first) + others);
        own(host, address, last.into());
    }
    let family = family(address);
    vec![
        format!(
            "pre {family} daddr {external} \
             dnat {family} prefix to {family} daddr map {{ {external} : {internal} }}"
        ),
        format!(
            "post {family} saddr {internal} oifname up0 \
             snat {family} prefix to {family} saddr map {{ {internal} : {external} }}"
        ),
    ]
}
