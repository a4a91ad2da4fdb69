//! How the parts of rules are written, on the command line and in the document.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;

use super::{AddrRange, Filtering, Mapping, PortRange, same_family};

/// A prefix, or one address. As text: `ADDR/LENGTH`, or `ADDR` where it is one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prefix(
    /// No bit is set behind its length.
    pub IpNet,
);

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.prefix_len() == self.0.max_prefix_len() {
            self.0.addr().fmt(f)
        } else {
            self.0.fmt(f)
        }
    }
}

impl FromStr for Prefix {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let malformed =
            || format!("{text:?} is not a prefix such as 10.0.0.0/24, and not an address");
        let net = match text.parse::<IpAddr>() {
            Ok(addr) => IpNet::from(addr),
            Err(_) => text.parse::<IpNet>().map_err(|_| malformed())?,
        };
        if net.trunc() != net {
            return Err(format!(
                "{text} has bits behind its length: the prefix is {}",
                net.trunc()
            ));
        }
        Ok(Self(net))
    }
}

/// An address with its ports. As text: `ADDR:PORT` or `ADDR:PORT-PORT`, an IPv6 address in
/// brackets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// The address.
    pub addr: IpAddr,
    /// The ports.
    pub ports: PortRange,
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.addr {
            IpAddr::V4(addr) => write!(f, "{addr}:{}", self.ports),
            IpAddr::V6(addr) => write!(f, "[{addr}]:{}", self.ports),
        }
    }
}

impl FromStr for Endpoint {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let malformed = || {
            format!("{text:?} is not ADDR:PORT or ADDR:PORT-PORT, with an IPv6 address in brackets")
        };
        let (addr, ports) = text.rsplit_once(':').ok_or_else(malformed)?;
        let addr = match addr.strip_prefix('[').and_then(|a| a.strip_suffix(']')) {
            Some(addr) => addr.parse().map(IpAddr::V6),
            None => addr.parse().map(IpAddr::V4),
        };
        Ok(Self {
            addr: addr.map_err(|_| malformed())?,
            ports: ports.parse()?,
        })
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last {
            self.first.fmt(f)
        } else {
            write!(f, "{}-{}", self.first, self.last)
        }
    }
}

impl FromStr for PortRange {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let port = |word: &str| match word.parse() {
            // from_str alone would take "+1".
            Ok(port) if port > 0 && !word.starts_with('+') => Ok(port),
            _ => Err(format!("{word:?} is not a port: use 1 to 65535")),
        };
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let ports = Self {
            first: port(first)?,
            last: port(last)?,
        };
        ports.check().map(|()| ports)
    }
}

impl PortRange {
    /// Why these are no ports.
    pub fn check(self) -> Result<(), String> {
        if self.first == 0 {
            Err("0 is not a port: use 1 to 65535".into())
        } else if self.first > self.last {
            Err(format!(
                "the ports {self} are none: the first is above the last"
            ))
        } else {
            Ok(())
        }
    }
}

impl fmt::Display for AddrRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last {
            self.first.fmt(f)
        } else {
            write!(f, "{}-{}", self.first, self.last)
        }
    }
}

impl FromStr for AddrRange {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let addr = |word: &str| {
            word.parse()
                .map_err(|_| format!("{word:?} is not an address; a pool is ADDR or ADDR-ADDR"))
        };
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let range = Self {
            first: addr(first)?,
            last: addr(last)?,
        };
        range.check().map(|()| range)
    }
}

impl AddrRange {
    /// Most addresses of a pool.
    pub const MOST: u128 = 65_536;

    /// How many addresses it is.
    #[must_use]
    pub fn count(self) -> u128 {
        let number = |addr| match addr {
            IpAddr::V4(addr) => u128::from(addr.to_bits()),
            IpAddr::V6(addr) => addr.to_bits(),
        };
        (number(self.last).saturating_sub(number(self.first))).saturating_add(1)
    }

    /// Why these are no pool.
    pub fn check(self) -> Result<(), String> {
        if !same_family(self.first, self.last) {
            Err(format!("{self} is of two families"))
        } else if self.first > self.last {
            Err(format!(
                "the addresses {self} are none: the first is above the last"
            ))
        } else if self.count() > Self::MOST {
            Err(format!(
                "{self} is {} addresses; a pool has at most {}",
                self.count(),
                Self::MOST
            ))
        } else {
            Ok(())
        }
    }
}

/// Protocols that have ports. As text: `tcp`, `udp` or `tcp,udp`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Protocols {
    /// TCP.
    pub tcp: bool,
    /// UDP.
    pub udp: bool,
}

impl fmt::Display for Protocols {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match (self.tcp, self.udp) {
            (true, true) => "tcp,udp",
            (true, false) => "tcp",
            (false, true) => "udp",
            (false, false) => super::super::names::NONE,
        })
    }
}

impl FromStr for Protocols {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut protocols = Self {
            tcp: false,
            udp: false,
        };
        for word in text.split(',') {
            let protocol = match word {
                "tcp" => &mut protocols.tcp,
                "udp" => &mut protocols.udp,
                _ => {
                    return Err(format!(
                        "{word:?} is no protocol of a port forward: use tcp, udp or tcp,udp"
                    ));
                }
            };
            if std::mem::replace(protocol, true) {
                return Err(format!("{text:?} has {word} twice"));
            }
        }
        Ok(protocols)
    }
}

impl fmt::Display for Mapping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Eim => "eim",
            Self::Symmetric => "symmetric",
        })
    }
}

impl fmt::Display for Filtering {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Eif => "eif",
            Self::Adf => "adf",
            Self::Apdf => "apdf",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round_trip<T: FromStr<Err = String> + fmt::Display>(good: &[(&str, &str)], bad: &[&str]) {
        for (text, canonical) in good {
            match text.parse::<T>() {
                Ok(value) => assert_eq!(value.to_string(), *canonical),
                Err(why) => panic!("{text:?}: {why}"),
            }
        }
        for text in bad {
            assert!(text.parse::<T>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn prefixes() {
        round_trip::<Prefix>(
            &[
                ("10.0.0.0/24", "10.0.0.0/24"),
                ("10.0.0.1", "10.0.0.1"),
                ("10.0.0.1/32", "10.0.0.1"),
                ("0.0.0.0/0", "0.0.0.0/0"),
                ("FD00::/64", "fd00::/64"),
                ("fd00::1", "fd00::1"),
            ],
            &[
                "",
                "10.0.0.1/24",
                "10.0.0.0/33",
                "fd00::1/64",
                "10.0.0",
                "x",
                "10.0.0.0/",
            ],
        );
    }

    #[test]
    fn endpoints() {
        round_trip::<Endpoint>(
            &[
                ("192.0.2.1:80", "192.0.2.1:80"),
                ("192.0.2.1:80-80", "192.0.2.1:80"),
                ("192.0.2.1:1-65535", "192.0.2.1:1-65535"),
                ("[2001:DB8::1]:80-81", "[2001:db8::1]:80-81"),
            ],
            &[
                "",
                "192.0.2.1",
                "192.0.2.1:",
                "192.0.2.1:0",
                "192.0.2.1:81-80",
                "192.0.2.1:65536",
                "192.0.2.1:+8",
                "2001:db8::1:80",
                "[192.0.2.1]:80",
                "[2001:db8::1]",
                ":80",
            ],
        );
    }

    #[test]
    fn pools() {
        round_trip::<AddrRange>(
            &[
                ("192.0.2.1", "192.0.2.1"),
                ("192.0.2.1-192.0.2.1", "192.0.2.1"),
                ("10.0.0.0-10.0.255.255", "10.0.0.0-10.0.255.255"),
                ("2001:db8::1-2001:DB8::2", "2001:db8::1-2001:db8::2"),
            ],
            &[
                "",
                "192.0.2.2-192.0.2.1",
                "192.0.2.1-2001:db8::1",
                "10.0.0.0-10.1.0.0",
                "::-ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
                "192.0.2.0/24",
            ],
        );
    }

    #[test]
    fn protocols() {
        round_trip::<Protocols>(
            &[("tcp", "tcp"), ("udp", "udp"), ("udp,tcp", "tcp,udp")],
            &["", "tcp,", "tcp,tcp", "icmp", "6", "none"],
        );
    }
}
