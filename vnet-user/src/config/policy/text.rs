//! How the parts of rules are written, on the command line and in the document.

use std::fmt;
use std::str::FromStr;

use ipnet::IpNet;

use super::super::Prefix;
use super::super::names::{check_group, parse_protocol, protocol_name};
use super::{Direction, GroupDefault, PolicyAction, PolicyRule, Proto, Remote};

/// What the name of a group stands behind where an address could be.
const GROUP: &str = "group:";

impl fmt::Display for Proto {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&protocol_name(self.0))
    }
}

impl FromStr for Proto {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        parse_protocol(text).map(Self)
    }
}

impl fmt::Display for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Net(net) => Prefix(*net).fmt(f),
            Self::Group(name) => write!(f, "{GROUP}{name}"),
        }
    }
}

impl FromStr for Remote {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(name) = text.strip_prefix(GROUP) {
            return check_group(name).map(|()| Self::Group(name.to_owned()));
        }
        match text.parse() {
            Ok(Prefix(net)) => Ok(Self::Net(net)),
            Err(why) if text.parse::<IpNet>().is_ok() => Err(why),
            Err(_) => Err(format!(
                "{text:?} is not a prefix such as 10.0.0.0/24, not an address and not group:NAME"
            )),
        }
    }
}

impl fmt::Display for GroupDefault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
        })
    }
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::In => "in",
            Self::Out => "out",
        })
    }
}

impl fmt::Display for PolicyAction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
            Self::Reject => "reject",
        })
    }
}

impl fmt::Display for PolicyRule {
    /// "rule 1".
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "rule {}", self.id)
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
    fn protocols() {
        round_trip::<Proto>(
            &[
                ("tcp", "tcp"),
                ("6", "tcp"),
                ("sctp", "sctp"),
                ("58", "icmpv6"),
                ("0", "0"),
                ("255", "255"),
            ],
            &["", "256", "-1", "+6", "TCP", "tcp,udp", "any"],
        );
    }

    #[test]
    fn remotes() {
        round_trip::<Remote>(
            &[
                ("10.0.0.0/8", "10.0.0.0/8"),
                ("10.0.0.1", "10.0.0.1"),
                ("10.0.0.1/32", "10.0.0.1"),
                ("0.0.0.0/0", "0.0.0.0/0"),
                ("FD00::/8", "fd00::/8"),
                ("fd00::1", "fd00::1"),
                ("group:web", "group:web"),
                ("group:web.1_2-3", "group:web.1_2-3"),
            ],
            &[
                "",
                "web",
                "group:",
                "group:-a",
                "group:none",
                "group:a b",
                "GROUP:web",
                "10.0.0.1/8",
                "10.0.0.0/33",
                "fd00::1/8",
                "10.0.0.1-10.0.0.9",
                "10.0.0.1:80",
            ],
        );
        assert_eq!(
            "10.0.0.1/8".parse::<Remote>(),
            Err("10.0.0.1/8 has bits behind its length: the prefix is 10.0.0.0/8".into())
        );
        assert_eq!(
            "web".parse::<Remote>(),
            Err(
                "\"web\" is not a prefix such as 10.0.0.0/24, not an address and not group:NAME"
                    .into()
            )
        );
    }
}
