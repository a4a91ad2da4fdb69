//! Ranges of addresses that a network's VMs are given by DHCP.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::nat::{AddrRange, same_family};
use super::{Config, Invalid, Network, names};

/// The length of an IPv6 prefix that hosts make addresses in by themselves (RFC 4862 with RFC 4291,
/// 2.5.1), and the one that dnsmasq advertises.
pub const SLAAC_LENGTH: u8 = 64;

/// Addresses that are leased, `LO-HI`, of one family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DhcpRange(pub AddrRange);

impl fmt::Display for DhcpRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.0.first, self.0.last)
    }
}

impl FromStr for DhcpRange {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let no_range =
            || format!("{text:?} is not a range of addresses, such as 10.0.0.100-10.0.0.199");
        let (first, last) = text.split_once('-').ok_or_else(no_range)?;
        let address = |text: &str| text.parse::<IpAddr>().map_err(|_| no_range());
        let (first, last) = (address(first)?, address(last)?);
        if !same_family(first, last) {
            return Err(format!(
                "{text:?} begins in one family and ends in the other"
            ));
        }
        if last < first {
            return Err(format!(
                "{text:?} ends before it begins: write {last}-{first}"
            ));
        }
        Ok(Self(AddrRange { first, last }))
    }
}

impl Serialize for DhcpRange {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for DhcpRange {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(de::Error::custom)
    }
}

impl Network {
    /// The gateway whose prefix holds all of a range.
    #[must_use]
    pub fn dhcp_gateway(&self, range: DhcpRange) -> Option<IpNet> {
        let DhcpRange(AddrRange { first, last }) = range;
        let holds = |net: &&IpNet| net.contains(&first) && net.contains(&last);
        self.gateway.iter().find(holds).copied()
    }
}

impl Config {
    /// Checks what networks lease: addresses of VMs beside the gateway's own, each in one range.
    pub(super) fn validate_dhcp(&self) -> Result<(), Invalid> {
        for (index, network) in self.networks.iter().enumerate() {
            for (number, range) in network.dhcp.iter().enumerate() {
                check(network, *range, &network.dhcp[..number]).map_err(|refusal| {
                    refusal
                        .about(format!("the network {}", network.name))
                        .at("network", index)
                        .key("dhcp")
                })?;
            }
        }
        Ok(())
    }
}

fn check(network: &Network, range: DhcpRange, earlier: &[DhcpRange]) -> Result<(), Invalid> {
    let DhcpRange(addresses) = range;
    let Some(gateway) = network.dhcp_gateway(range) else {
        return Err(
            Invalid::new(format!("no gateway of it has a prefix with all of {range}"))
                .mend("give it a gateway there (--gateway ADDR/LENGTH), or another range"),
        );
    };
    if gateway.addr().is_ipv6() && gateway.prefix_len() != SLAAC_LENGTH {
        return Err(Invalid::new(format!(
            "its gateway {gateway} has a prefix of {} bits: router advertisements, without which \
             nobody asks for a lease, are for {SLAAC_LENGTH} (RFC 4862)",
            gateway.prefix_len()
        ))
        .mend(format!(
            "make it a /{SLAAC_LENGTH}, or leave IPv6 out of --dhcp"
        )));
    }
    for end in [addresses.first, addresses.last] {
        names::check_host_in(end, gateway).map_err(Invalid::new)?;
    }
    let own = network.gateway.iter().map(IpNet::addr);
    if let Some(own) = own.into_iter().find(|own| addresses.contains(*own)) {
        return Err(Invalid::new(format!(
            "the range {range} has the gateway's own address {own}"
        ))
        .mend("leave that one out"));
    }
    if let Some(other) = earlier.iter().find(|other| addresses.overlaps(other.0)) {
        return Err(Invalid::new(format!(
            "the ranges {other} and {range} overlap"
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_read_as_it_is_written() {
        for text in [
            "10.0.0.100-10.0.0.199",
            "fd00::100-fd00::1ff",
            "10.0.0.2-10.0.0.2",
        ] {
            assert_eq!(text.parse::<DhcpRange>().unwrap().to_string(), text);
        }
        for (text, expected) in [
            ("10.0.0.1", "is not a range"),
            ("10.0.0.1-", "is not a range"),
            ("10.0.0.9-10.0.0.1", "write 10.0.0.1-10.0.0.9"),
            ("10.0.0.1-fd00::1", "one family"),
        ] {
            let refusal = text.parse::<DhcpRange>().unwrap_err();
            assert!(refusal.contains(expected), "{text}: {refusal}");
        }
    }

    #[test]
    fn ranges_are_of_the_networks_own_addresses() {
        for (gateway, dhcp, expected) in [
            ("'10.0.0.1/24'", "'10.0.0.2-10.0.0.254'", None),
            (
                "'10.0.0.1/24', 'fd00::1/64'",
                "'fd00::2-fd00::ffff:1', '10.0.0.8-10.0.0.9'",
                None,
            ),
            ("", "'10.0.0.2-10.0.0.9'", Some("no gateway of it")),
            (
                "'10.0.0.1/24'",
                "'10.0.0.2-10.0.1.9'",
                Some("no gateway of it"),
            ),
            (
                "'10.0.0.1/24'",
                "'10.0.0.1-10.0.0.9'",
                Some("own address 10.0.0.1"),
            ),
            (
                "'10.0.0.1/24'",
                "'10.0.0.0-10.0.0.9'",
                Some("address of the network"),
            ),
            ("'10.0.0.1/24'", "'10.0.0.2-10.0.0.255'", Some("broadcast")),
            ("'fd00::1/80'", "'fd00::2-fd00::9'", Some("80 bits")),
            (
                "'10.0.0.1/24'",
                "'10.0.0.2-10.0.0.9', '10.0.0.9-10.0.0.12'",
                Some("overlap"),
            ),
        ] {
            let text = format!(
                "schema = 1\n[[network]]\nname = 'red'\ngateway = [{gateway}]\ndhcp = [{dhcp}]\n"
            );
            let config = crate::config::document::parse(&text).unwrap();
            let refusal = config.validate("vsw0").err().map(|refusal| refusal.why);
            match (&refusal, expected) {
                (None, None) => {}
                (Some(why), Some(expected)) => assert!(why.contains(expected), "{why}"),
                _ => panic!("{text}: {refusal:?}"),
            }
        }
    }
}
