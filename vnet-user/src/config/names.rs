//! Which names and numbers are possible at all, whatever else the configuration holds.

use std::net::IpAddr;
use std::ops::RangeInclusive;

use ipnet::IpNet;

/// The network that every switch begins with.
pub const DEFAULT_NETWORK: &str = "default";

/// The word that empties a list option; no network, profile or group may be called so.
pub const NONE: &str = "none";

/// VLAN ids that a network or a port may use (IEEE 802.1Q).
pub const VLAN_IDS: RangeInclusive<u16> = 1..=4094;

/// MTUs that a network may have, in bytes: from IPv4's minimum (RFC 791) to Linux's maximum.
pub const MTUS: RangeInclusive<u32> = 68..=65535;

/// Longest name of a network, a profile or a group, in bytes.
const NAME_MAX: usize = 32;

/// Longest name of an interface, in bytes (IFNAMSIZ without the final zero).
const IFACE_NAME_MAX: usize = 15;

/// Why `name` cannot be a network's name.
pub fn check_network(name: &str) -> Result<(), String> {
    check_name("network", name)
}

/// Why `name` cannot be a security group's name: the rules of networks' names.
pub fn check_group(name: &str) -> Result<(), String> {
    check_name("group", name)
}

/// Why `name` cannot be the name of a `what`.
pub fn check_name(what: &str, name: &str) -> Result<(), String> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-');
    if name.is_empty() {
        Err(format!("a {what}'s name cannot be empty"))
    } else if name == NONE {
        Err(format!("{NONE:?} is the word that empties a list"))
    } else if name.len() > NAME_MAX {
        Err(format!(
            "{name:?} is longer than the {NAME_MAX} characters of a {what}'s name"
        ))
    } else if name.starts_with('-') || !name.bytes().all(allowed) {
        Err(format!(
            "{name:?} is not a {what}'s name: letters, digits, '_', '.' and '-' make one, \
             and it does not begin with '-'"
        ))
    } else {
        Ok(())
    }
}

/// Why `name` cannot be an interface's name (Linux 6.12, net/core/dev.c, `dev_valid_name` and
/// `__dev_alloc_name`) or cannot be a port.
pub fn check_iface(name: &str) -> Result<(), String> {
    let forbidden = |c: char| c.is_whitespace() || c.is_control() || matches!(c, '/' | ':' | '%');
    if name.is_empty() {
        Err("an interface's name cannot be empty".into())
    } else if name.len() > IFACE_NAME_MAX {
        Err(format!(
            "{name:?} is longer than the {IFACE_NAME_MAX} bytes of an interface's name"
        ))
    } else if name == "." || name == ".." || name.contains(forbidden) {
        Err(format!(
            "{name:?} is not an interface's name: '/', ':', '%', blanks, \".\" and \"..\" are not \
             allowed"
        ))
    } else if matches!(name, "all" | "default") {
        // net.ipv4.conf has them for itself.
        Err(format!(
            "Linux does not allow an interface to be called {name:?}"
        ))
    } else if name == "lo" {
        Err("the loopback interface cannot belong to a switch".into())
    } else {
        Ok(())
    }
}

/// Why `name` cannot be a switch's name, which is the name of its bridge device.
pub fn check_switch(name: &str) -> Result<(), String> {
    check_iface(name)?;
    if name.starts_with("vnet") {
        // libvirt deletes and reuses interfaces of that name.
        return Err(format!(
            "{name:?} begins with \"vnet\", which libvirt takes for its own interfaces"
        ));
    }
    Ok(())
}

/// Why `vid` cannot be used as a VLAN id.
pub fn check_vlan(vid: u16) -> Result<(), String> {
    match vid {
        _ if VLAN_IDS.contains(&vid) => Ok(()),
        0 => {
            Err("VLAN id 0 means \"no VLAN, only a priority\" (IEEE 802.1Q): use 1 to 4094".into())
        }
        4095 => Err("VLAN id 4095 is reserved (IEEE 802.1Q): use 1 to 4094".into()),
        _ => Err(format!("{vid} is not a VLAN id: use 1 to 4094")),
    }
}

/// Why `mtu` cannot be a network's MTU.
pub fn check_mtu(mtu: u32) -> Result<(), String> {
    if MTUS.contains(&mtu) {
        return Ok(());
    }
    Err(format!(
        "{mtu} is not an MTU: use {} to {} bytes",
        MTUS.start(),
        MTUS.end()
    ))
}

/// Lengths of a gateway's IPv4 prefix; 31 is a link of two (RFC 3021).
pub const GATEWAY_LENGTHS_V4: RangeInclusive<u8> = 8..=31;

/// Lengths of a gateway's IPv6 prefix; 127 is a link of two (RFC 6164).
pub const GATEWAY_LENGTHS_V6: RangeInclusive<u8> = 16..=127;

/// Why `addr` is not an address that one host has, in a network or outside.
pub fn check_host(addr: IpAddr) -> Result<(), String> {
    let why = match addr {
        IpAddr::V4(v4) if v4.octets()[0] == 0 => "means this host or none (RFC 1122, 3.2.1.3)",
        IpAddr::V6(v6) if v6.is_unspecified() => "means no address",
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => {
            "is an IPv4 address in the form of IPv6: write it as IPv4"
        }
        IpAddr::V4(v4) if v4.is_broadcast() => "is the broadcast address",
        _ if addr.is_multicast() => "is a multicast address",
        _ if addr.is_loopback() => "is a loopback address",
        _ => return Ok(()),
    };
    Err(format!("{addr} {why}"))
}

/// Why `addr` cannot be a host's in `prefix`: the first and, in IPv4, the last address are not.
pub fn check_host_in(addr: IpAddr, prefix: IpNet) -> Result<(), String> {
    check_host(addr)?;
    let prefix = prefix.trunc();
    // A link of two has nothing but hosts.
    if prefix.max_prefix_len() - prefix.prefix_len() < 2 {
        Ok(())
    } else if addr == prefix.network() {
        Err(match addr {
            IpAddr::V4(_) => format!("{addr} is the address of the network {prefix} itself"),
            IpAddr::V6(_) => {
                format!("{addr} is any router's address in {prefix} (RFC 4291, 2.6.1)")
            }
        })
    } else if addr.is_ipv4() && addr == prefix.broadcast() {
        Err(format!("{addr} is the broadcast address of {prefix}"))
    } else {
        Ok(())
    }
}

/// Why `gateway` cannot be the host's address in a network.
pub fn check_gateway(gateway: IpNet) -> Result<(), String> {
    let (lengths, family) = match gateway {
        IpNet::V4(_) => (GATEWAY_LENGTHS_V4, "IPv4"),
        IpNet::V6(_) => (GATEWAY_LENGTHS_V6, "IPv6"),
    };
    if !lengths.contains(&gateway.prefix_len()) {
        return Err(format!(
            "{gateway}: the length of a gateway's {family} prefix is {} to {}",
            lengths.start(),
            lengths.end()
        ));
    }
    match gateway.addr() {
        IpAddr::V4(addr) if addr.is_link_local() => Err(format!("{addr} is a link-local address")),
        IpAddr::V6(addr) if addr.is_unicast_link_local() => Err(format!(
            "{addr} is a link-local address: the gateway has one without being told"
        )),
        addr => check_host_in(addr, gateway),
    }
}

/// A checked gateway address with its prefix, for the command line.
pub fn parse_gateway(text: &str) -> Result<IpNet, String> {
    let gateway = text
        .parse()
        .map_err(|_| format!("{text:?} is not an address with a prefix, such as 10.0.0.1/24"))?;
    check_gateway(gateway).map(|()| gateway)
}

/// Names of IP protocols (IANA, Assigned Internet Protocol Numbers).
const PROTOCOLS: [(&str, u8); 12] = [
    ("icmp", 1),
    ("igmp", 2),
    ("ipip", 4),
    ("tcp", 6),
    ("udp", 17),
    ("gre", 47),
    ("esp", 50),
    ("ah", 51),
    ("icmpv6", 58),
    ("ospf", 89),
    ("sctp", 132),
    ("udplite", 136),
];

/// An IP protocol's number from its name or number, for the command line.
pub fn parse_protocol(text: &str) -> Result<u8, String> {
    match PROTOCOLS.iter().find(|(name, _)| *name == text) {
        Some((_, number)) => Ok(*number),
        None => match text.parse() {
            // from_str alone would take "+6".
            Ok(number) if !text.starts_with('+') => Ok(number),
            _ => {
                let names = PROTOCOLS.map(|(name, _)| name);
                Err(format!(
                    "{text:?} is no protocol: use {}, or a number up to 255",
                    names.join(", ")
                ))
            }
        },
    }
}

/// An IP protocol's name, or its number where it has none here.
#[must_use]
pub fn protocol_name(number: u8) -> String {
    match PROTOCOLS.iter().find(|(_, known)| *known == number) {
        Some((name, _)) => (*name).to_owned(),
        None => number.to_string(),
    }
}

/// A checked network name, for the command line.
pub fn parse_network(text: &str) -> Result<String, String> {
    check_network(text).map(|()| text.to_owned())
}

/// A checked group name, for the command line.
pub fn parse_group(text: &str) -> Result<String, String> {
    check_group(text).map(|()| text.to_owned())
}

/// A checked interface name, for the command line.
pub fn parse_iface(text: &str) -> Result<String, String> {
    check_iface(text).map(|()| text.to_owned())
}

/// A checked switch name, for the command line.
pub fn parse_switch(text: &str) -> Result<String, String> {
    check_switch(text).map(|()| text.to_owned())
}

/// A checked VLAN id, for the command line and for trunk entries.
pub fn parse_vlan(text: &str) -> Result<u16, String> {
    let vid = text
        .parse()
        .map_err(|_| format!("{text:?} is not a VLAN id: use 1 to 4094"))?;
    check_vlan(vid).map(|()| vid)
}

/// A checked MTU in bytes, for the command line.
pub fn parse_mtu(text: &str) -> Result<u32, String> {
    let mtu = text
        .parse()
        .map_err(|_| format!("{text:?} is not a number of bytes"))?;
    check_mtu(mtu).map(|()| mtu)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn network_names() {
        for good in ["default", "blue", "a", "VM_net.1-b", &"x".repeat(32)] {
            assert_eq!(check_network(good), Ok(()), "{good:?}");
        }
        for bad in [
            "",
            "none",
            "-a",
            "a b",
            "a=1",
            "a,b",
            "ä",
            "a/b",
            &"x".repeat(33),
        ] {
            assert!(check_network(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn interface_names() {
        for good in [
            "eth0",
            "vnet0",
            "tap-1",
            "enp3s0f1np1.100",
            "a@b",
            "0123456789abcde",
        ] {
            assert_eq!(check_iface(good), Ok(()), "{good:?}");
        }
        for bad in [
            "",
            ".",
            "..",
            "a/b",
            "a:1",
            "tap%d",
            "a b",
            "a\n",
            "lo",
            "all",
            "0123456789abcdef",
        ] {
            assert!(check_iface(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_switch_is_never_called_vnet() {
        assert!(check_switch("vsw0").is_ok());
        assert!(check_switch("vnet0").is_err());
        assert!(check_switch("vnet").is_err());
    }

    #[test]
    fn vlan_ids() {
        for good in ["1", "4094"] {
            assert!(parse_vlan(good).is_ok(), "{good}");
        }
        for bad in ["0", "4095", "4096", "65536", "-1", "x", ""] {
            assert!(parse_vlan(bad).is_err(), "{bad}");
        }
    }
}
