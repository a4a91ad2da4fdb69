//! Whether a rule makes sense on its own, whatever else the configuration holds.

use std::net::IpAddr;

use ipnet::IpNet;

use super::super::{Invalid, Prefix};
use super::{PolicyRule, Proto, Remote};

/// ICMP's number (RFC 792).
const ICMP: u8 = 1;

/// ICMPv6's number (RFC 4443).
const ICMPV6: u8 = 58;

impl PolicyRule {
    /// Why the rule cannot be, wherever it is.
    ///
    /// # Errors
    /// The key that is wrong first, and why.
    pub fn check(&self) -> Result<(), (&'static str, Invalid)> {
        self.check_ports().map_err(|refusal| ("ports", refusal))?;
        self.check_remote().map_err(|refusal| ("remote", refusal))
    }

    fn check_ports(&self) -> Result<(), Invalid> {
        let Some(ports) = self.ports else {
            return Ok(());
        };
        ports.check().map_err(Invalid::new)?;
        let it = match self.proto {
            Some(Proto::TCP | Proto::UDP | Proto::SCTP) => return Ok(()),
            Some(proto) => format!("it is for {proto}"),
            None => "it is for every protocol".into(),
        };
        Err(Invalid::new(format!(
            "the ports {ports} are of tcp, udp or sctp, and {it}"
        ))
        .mend("name one of these protocols, in a rule each, or leave out the ports"))
    }

    fn check_remote(&self) -> Result<(), Invalid> {
        let Some(Remote::Net(net)) = self.remote else {
            return Ok(());
        };
        if net.trunc() != net {
            return Err(
                Invalid::new(format!("{net} has bits behind its length")).mend(format!(
                    "write the prefix {}, or the address {}",
                    net.trunc(),
                    net.addr()
                )),
            );
        }
        check_mapped(net)?;
        let (proto, family, other) = match (self.proto, net) {
            (Some(proto @ Proto(ICMP)), IpNet::V6(_)) => (proto, "IPv6", Proto(ICMPV6)),
            (Some(proto @ Proto(ICMPV6)), IpNet::V4(_)) => (proto, "IPv4", Proto(ICMP)),
            _ => return Ok(()),
        };
        Err(
            Invalid::new(format!("{} is {family}, which has no {proto}", Prefix(net)))
                .mend(format!("name the protocol {other}, or another remote")),
        )
    }
}

/// Refuses addresses that no packet has.
pub(crate) fn check_mapped(net: IpNet) -> Result<(), Invalid> {
    match net.addr() {
        IpAddr::V6(addr) if net.prefix_len() >= 96 && addr.to_ipv4_mapped().is_some() => Err(
            Invalid::new(format!("{} is IPv4 in the form of IPv6", Prefix(net)))
                .mend("write it as IPv4"),
        ),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Direction, PolicyAction};

    fn check(
        proto: Option<&str>,
        ports: Option<&str>,
        remote: Option<&str>,
    ) -> Result<(), (&'static str, String)> {
        let rule = PolicyRule {
            id: 1,
            direction: Direction::In,
            action: PolicyAction::Allow,
            proto: proto.map(|text| text.parse().unwrap()),
            ports: ports.map(|text| text.parse().unwrap()),
            remote: remote.map(|text| text.parse().unwrap()),
            priority: 1000,
            log: false,
        };
        rule.check().map_err(|(key, refusal)| (key, refusal.why))
    }

    #[test]
    fn rules_that_may_be() {
        for (proto, ports, remote) in [
            (None, None, None),
            (Some("tcp"), Some("22"), Some("0.0.0.0/0")),
            (Some("udp"), Some("1-65535"), Some("::/0")),
            (Some("sctp"), Some("5060"), Some("group:a")),
            (Some("icmp"), None, Some("10.0.0.1")),
            (Some("icmpv6"), None, Some("fd00::/8")),
            (Some("icmp"), None, Some("group:a")),
            (Some("47"), None, Some("224.0.0.0/4")),
            (None, None, Some("::/0")),
        ] {
            assert_eq!(
                check(proto, ports, remote),
                Ok(()),
                "{proto:?} {ports:?} {remote:?}"
            );
        }
    }

    #[test]
    fn rules_that_may_not() {
        for (proto, ports, remote, key, why) in [
            (None, Some("80"), None, "ports", "for every protocol"),
            (Some("icmp"), Some("8"), None, "ports", "and it is for icmp"),
            (Some("136"), Some("8"), None, "ports", "for udplite"),
            (
                Some("icmp"),
                None,
                Some("fd00::/8"),
                "remote",
                "fd00::/8 is IPv6, which has no icmp",
            ),
            (
                Some("icmpv6"),
                None,
                Some("10.0.0.0/8"),
                "remote",
                "10.0.0.0/8 is IPv4, which has no icmpv6",
            ),
            (
                None,
                None,
                Some("::ffff:10.0.0.0/104"),
                "remote",
                "in the form of IPv6",
            ),
        ] {
            let (at, refusal) = check(proto, ports, remote).unwrap_err();
            assert_eq!(at, key, "{refusal}");
            assert!(refusal.contains(why), "{refusal}");
        }
    }

    #[test]
    fn what_cannot_be_written_is_refused_too() {
        let mut rule = PolicyRule {
            id: 1,
            direction: Direction::In,
            action: PolicyAction::Allow,
            proto: Some(Proto(6)),
            ports: None,
            remote: Some(Remote::Net("10.0.0.1/8".parse().unwrap())),
            priority: 1000,
            log: false,
        };
        let (_, refusal) = rule.check().unwrap_err();
        assert_eq!(
            refusal.mend.as_deref(),
            Some("write the prefix 10.0.0.0/8, or the address 10.0.0.1")
        );
        rule.remote = None;
        rule.ports = Some(crate::config::PortRange { first: 2, last: 1 });
        assert!(rule.check().is_err());
    }
}
