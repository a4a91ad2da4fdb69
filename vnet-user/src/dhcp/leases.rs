//! dnsmasq's database of leases (dnsmasq 2.90, src/lease.c): a line a lease, those of DHCPv6 after a
//! line with the server's own DUID.

use std::net::IpAddr;

use serde::Serialize;

use crate::config::MacAddr;

/// An address that a VM has for a time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Lease {
    /// The address.
    pub address: IpAddr,
    /// Whose it is; a lease of DHCPv6 names its client in another way.
    pub mac: Option<MacAddr>,
    /// What the VM calls itself.
    pub hostname: Option<String>,
    /// When it ends, in seconds since 1970.
    pub expires: u64,
}

/// Reads the database, whose lines are `EXPIRES MAC|IAID ADDRESS NAME CLIENT`. A line that is none of
/// these is no lease: the server's own DUID is such a one.
#[must_use]
pub fn parse(text: &str) -> Vec<Lease> {
    text.lines()
        .filter_map(|line| {
            let mut words = line.split(' ');
            let expires = words.next()?.parse().ok()?;
            let client = words.next()?;
            let address = words.next()?.parse().ok()?;
            let hostname = words.next()?;
            Some(Lease {
                address,
                mac: client.parse().ok(),
                hostname: (hostname != "*").then(|| hostname.to_owned()),
                expires,
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_families_are_read() {
        let leases = parse(
            "1763856000 52:54:00:00:00:0b 10.0.0.100 vm11 01:52:54:00:00:00:0b\n\
             1763856001 52:54:00:00:00:0c 10.0.0.101 * *\n\
             duid 00:01:00:01:2e:cf:00:00:02:00:00:00:00:01\n\
             1763856002 3735928559 fd00::100 vm11 00:01:00:01:2e\n",
        );
        let short: Vec<_> = leases
            .iter()
            .map(|lease| {
                let mac = lease.mac.map(|mac| mac.to_string());
                let name = lease.hostname.as_deref().unwrap_or("-").to_owned();
                (lease.expires, mac, lease.address.to_string(), name)
            })
            .collect();
        let row = |expires, mac: Option<&str>, address: &str, name: &str| {
            (
                expires,
                mac.map(str::to_owned),
                address.to_owned(),
                name.to_owned(),
            )
        };
        assert_eq!(
            short,
            [
                row(
                    1_763_856_000,
                    Some("52:54:00:00:00:0b"),
                    "10.0.0.100",
                    "vm11"
                ),
                row(1_763_856_001, Some("52:54:00:00:00:0c"), "10.0.0.101", "-"),
                row(1_763_856_002, None, "fd00::100", "vm11"),
            ]
        );
    }
}
