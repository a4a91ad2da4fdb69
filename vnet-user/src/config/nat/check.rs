//! Whether a rule makes sense on its own, whatever else the configuration holds.

use std::net::IpAddr;

use ipnet::IpNet;

use super::super::names::check_host;
use super::{NatAction, NatOptions, PortRange, Prefix, same_family};

impl NatAction {
    /// Why the rule cannot be, wherever it is.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn check(&self) -> Result<(), String> {
        match self {
            Self::Masquerade { options, .. } => options.check(),
            Self::Snat {
                source,
                to,
                options,
                ..
            } => {
                options.check()?;
                check_source(*source)?;
                to.check()?;
                check_host(to.first)?;
                check_host(to.last)?;
                check_families("the source", source.addr(), "the pool", to.first)
            }
            Self::Dnat {
                tcp,
                udp,
                listen,
                listen_ports,
                to,
                to_ports,
                from,
                ..
            } => {
                if !tcp && !udp {
                    return Err("it has no protocol: use tcp, udp or tcp,udp".into());
                }
                check_host(*listen)?;
                check_host(*to)?;
                listen_ports.check()?;
                to_ports.check()?;
                check_families("the address it listens on", *listen, "its VM's", *to)?;
                if let Some(from) = from {
                    check_prefix(*from)?;
                    check_families(
                        "the address it listens on",
                        *listen,
                        "the source",
                        from.addr(),
                    )?;
                }
                if to_ports.count() != 1 && to_ports.count() != listen_ports.count() {
                    return Err(format!(
                        "it listens on {} ports and leads to {}: they must be as many, or one",
                        listen_ports.count(),
                        to_ports.count()
                    ));
                }
                Ok(())
            }
            Self::Static {
                external, internal, ..
            } => check_static(*external, *internal),
        }
    }
}

impl NatOptions {
    /// Why the options do not go together.
    pub fn check(&self) -> Result<(), String> {
        let ports = self.ports.unwrap_or(PortRange::EXTERNAL);
        ports.check()?;
        match self.block_size {
            Some(0) => Err("a block of 0 ports is none: use 1 or more".into()),
            Some(size) if u32::from(size) > ports.count() => Err(format!(
                "a block of {size} ports is larger than the ports {ports}, which are {}",
                ports.count()
            )),
            _ => Ok(()),
        }
    }
}

/// Sources of a rule: some hosts.
fn check_source(source: IpNet) -> Result<(), String> {
    check_prefix(source)?;
    if source.prefix_len() == 0 {
        return Err(format!(
            "{source} is every address there is, the outside too: name the sources inside"
        ));
    }
    check_hosts(source)
}

fn check_prefix(prefix: IpNet) -> Result<(), String> {
    if prefix.trunc() == prefix {
        Ok(())
    } else {
        Err(format!(
            "{prefix} has bits behind its length: the prefix is {}",
            prefix.trunc()
        ))
    }
}

/// Refuses a prefix of addresses that no host has.
fn check_hosts(prefix: IpNet) -> Result<(), String> {
    check_host(prefix.network()).and(check_host(prefix.broadcast()))
}

fn check_families(a: &str, one: IpAddr, b: &str, other: IpAddr) -> Result<(), String> {
    if same_family(one, other) {
        return Ok(());
    }
    let [one, other] = [one, other].map(|addr| if addr.is_ipv4() { "IPv4" } else { "IPv6" });
    Err(format!("{a} is {one} and {b} {other}: they must be alike"))
}

fn check_static(external: IpNet, internal: IpNet) -> Result<(), String> {
    for prefix in [external, internal] {
        check_prefix(prefix)?;
        check_hosts(prefix)?;
    }
    check_families(
        "the outside",
        external.addr(),
        "the inside",
        internal.addr(),
    )?;
    let length = external.prefix_len();
    if length != internal.prefix_len() {
        return Err(format!(
            "{} and {} are not equally long prefixes",
            Prefix(external),
            Prefix(internal)
        ));
    }
    match external {
        IpNet::V4(_) if length < 8 => Err(format!("{external} is too large: use /8 to /32")),
        IpNet::V6(_) if length < 16 => Err(format!("{external} is too large: use /16 to /128")),
        // RFC 6296, 3.4 and 3.5: the checksum is kept by changing 16 bits within the first 64, or
        // one of the words behind them; a longer prefix leaves no whole word for that.
        IpNet::V6(_) if (65..128).contains(&length) => Err(format!(
            "an IPv6 prefix of /{length} leaves no 16 bits that can make up for the change of the \
             checksum (RFC 6296): use /64 or a shorter one, or single addresses"
        )),
        _ if external == internal => Err(format!("{external} already is what it is to become")),
        _ => Ok(()),
    }
}
