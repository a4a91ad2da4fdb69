//! What is checked of the frames that a VM sends.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use clap::ValueEnum;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::names;

/// How much of what a port sends is checked besides its lists of addresses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub enum Guard {
    /// What can harm no VM: one with a list of MAC addresses claims no other in ARP and neighbour
    /// discovery, and takes nobody's address
    #[default]
    Default,
    /// Everything: besides, no DHCP server, no router, no headers that hide what follows
    Strict,
    /// Nothing
    None,
}

impl Guard {
    /// The word that it has in documents and on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::Strict => "strict",
            Self::None => "none",
        }
    }
}

/// An IP address that a port may send from. As text: the address, or `learn`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PortIp {
    /// This one.
    Is(IpAddr),
    /// Those that it is leased by DHCP, for as long as it is.
    Learn,
}

/// The word for [`PortIp::Learn`].
const LEARN: &str = "learn";

impl fmt::Display for PortIp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Is(addr) => addr.fmt(f),
            Self::Learn => f.write_str(LEARN),
        }
    }
}

impl FromStr for PortIp {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == LEARN {
            return Ok(Self::Learn);
        }
        let addr = text
            .parse()
            .map_err(|_| format!("{text:?} is not an IP address such as 10.0.0.2, nor {LEARN}"))?;
        names::check_host(addr).map(|()| Self::Is(addr))
    }
}

impl Serialize for PortIp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for PortIp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_ports() {
        assert_eq!("learn".parse(), Ok(PortIp::Learn));
        for text in ["10.0.0.2", "fd00::2", "fe80::1"] {
            let ip: PortIp = text.parse().unwrap();
            assert_eq!(ip.to_string(), text);
        }
        for bad in [
            "",
            "10.0.0.2/24",
            "0.0.0.0",
            "::",
            "224.0.0.1",
            "ff02::1",
            "127.0.0.1",
            "255.255.255.255",
            "::ffff:10.0.0.2",
            "Learn",
        ] {
            assert!(bad.parse::<PortIp>().is_err(), "{bad:?}");
        }
    }
}
