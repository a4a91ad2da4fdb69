//! What dnsmasq is told (dnsmasq(8), 2.90).

use std::ffi::OsString;
use std::fmt::Write as _;
use std::net::IpAddr;
use std::path::Path;

use ipnet::IpNet;

use super::leases::Lease;
use super::{Place, Server};
use crate::config::dhcp::SLAAC_LENGTH;

/// How long a lease is: renewed after half of it (RFC 2131, 4.4.5).
const LEASE: &str = "1h";

/// Most leases of one network's DHCPv6, whose ranges are wider than any memory.
const LEASES_V6: u128 = 65_536;

/// The command line's word for a configuration.
#[must_use]
pub fn option(configuration: &Path) -> OsString {
    let mut option = OsString::from("--conf-file=");
    option.push(configuration);
    option
}

/// The configuration of a network's server. `user` is whom to become once the sockets are open, for a
/// server that root starts.
#[must_use]
pub fn configuration(server: &Server, place: &Place, user: Option<&str>) -> String {
    let Server {
        network, interface, ..
    } = server;
    let name = network.name.as_str();
    let mut text =
        format!("# DHCP and DNS for the network {name}, made from the switch's document\n");
    let mut line = |words: String| {
        text += &words;
        text.push('\n');
    };
    line("keep-in-foreground".into());
    line("log-facility=-".into());
    line(format!("pid-file={}", place.pid(name).display()));
    if let Some(user) = user {
        line(format!("user={user}"));
    }
    // Others listen on other interfaces.
    line("bind-dynamic".into());
    line(format!("interface={interface}"));
    line("except-interface=lo".into());

    // DNS: what the host can resolve, without the host's own names.
    line("no-hosts".into());
    line("domain-needed".into());
    line("bogus-priv".into());

    // A VM is who its address says; a client id changes with whatever boots in it.
    line("dhcp-ignore-clid".into());
    line("dhcp-authoritative".into());
    line(format!(
        "dhcp-leasefile={}",
        place.leases_file(name).display()
    ));
    line(format!("dhcp-hostsfile={}", place.hosts(name).display()));
    line(format!("dhcp-lease-max={}", lease_max(server)));
    for range in &network.dhcp {
        let (first, last) = (range.0.first, range.0.last);
        match network.dhcp_gateway(*range) {
            Some(IpNet::V4(gateway)) => {
                line(format!(
                    "dhcp-range={first},{last},{},{LEASE}",
                    gateway.netmask()
                ));
            }
            // Beside addresses that are made by the hosts themselves: SLAAC.
            Some(IpNet::V6(gateway)) => {
                let length = gateway.prefix_len();
                line(format!("dhcp-range={first},{last},slaac,{length},{LEASE}"));
            }
            // Refused before.
            None => {}
        }
    }
    if let Some(mtu) = network.mtu {
        // Router advertisements have the interface's.
        line(format!("dhcp-option=option:mtu,{mtu}"));
    }
    let advertised: Vec<_> = network.gateway.iter().filter(|net| is_slaac(net)).collect();
    if !advertised.is_empty() {
        line("enable-ra".into());
    }
    for prefix in advertised {
        // Those with a range are advertised for it.
        let has_range = network
            .dhcp
            .iter()
            .any(|range| prefix.contains(&range.0.first));
        if !has_range {
            line(format!("dhcp-range={},ra-stateless", prefix.network()));
        }
    }
    text
}

fn is_slaac(net: &IpNet) -> bool {
    matches!(net, IpNet::V6(_)) && net.prefix_len() == SLAAC_LENGTH
}

/// As many leases as there are addresses.
fn lease_max(server: &Server) -> u128 {
    let count = |range: &crate::config::DhcpRange| match (range.0.first, range.0.last) {
        (IpAddr::V4(first), IpAddr::V4(last)) => {
            u128::from(u32::from(last)) - u128::from(u32::from(first)) + 1
        }
        (IpAddr::V6(first), IpAddr::V6(last)) => (u128::from(last) - u128::from(first))
            .saturating_add(1)
            .min(LEASES_V6),
        // Refused before.
        _ => 0,
    };
    server.network.dhcp.iter().map(count).sum()
}

/// The addresses that are kept for known VMs, a line a VM as in `dhcp-host`: those that they have,
/// or else had when `before` was made of an earlier state.
#[must_use]
pub fn hosts(server: &Server, before: &str, leases: &[Lease]) -> String {
    let mut text = String::new();
    for mac in &server.known {
        let leased = leases.iter().filter(|lease| lease.mac == Some(*mac));
        let leased = leased.map(|lease| lease.address);
        let kept = before.lines().filter_map(|line| line.split_once(','));
        let kept = kept.filter(|(known, _)| known.parse() == Ok(*mac));
        let kept = kept.filter_map(|(_, address)| address.parse().ok());
        let is_free = |address: &IpAddr| {
            let mut ranges = server.network.dhcp.iter();
            let mut others = leases.iter().filter(|lease| lease.mac != Some(*mac));
            ranges.any(|range| range.0.contains(*address))
                && !others.any(|lease| lease.address == *address)
        };
        if let Some(address) = leased.chain(kept).find(is_free) {
            // Writing into a String cannot fail.
            let _ = writeln!(text, "{mac},{address}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::tests::config;
    use super::super::{leases, servers};
    use super::*;

    fn place() -> Place {
        Place::new(Path::new("/run/vnet"), Path::new("/var/lib/vnet"), "vsw0")
    }

    #[test]
    fn one_of_both_families() {
        let config = config(
            "[[network]]\nname = 'lan'\nmtu = 1400\ngateway = ['10.0.1.1/24', 'fd00::1/64', 'fd01::1/64']\n\
             dhcp = ['10.0.1.8-10.0.1.9', 'fd00::100-fd00::1ff']\n",
        );
        let [server] = servers(&config, "vsw0").try_into().unwrap();
        insta::assert_snapshot!(configuration(&server, &place(), Some("nobody")), @r"
        # DHCP and DNS for the network lan, made from the switch's document
        keep-in-foreground
        log-facility=-
        pid-file=/run/vnet/dhcp/vsw0/lan.pid
        user=nobody
        bind-dynamic
        interface=vsw0.lan
        except-interface=lo
        no-hosts
        domain-needed
        bogus-priv
        dhcp-ignore-clid
        dhcp-authoritative
        dhcp-leasefile=/var/lib/vnet/dhcp/vsw0/lan.leases
        dhcp-hostsfile=/var/lib/vnet/dhcp/vsw0/lan.hosts
        dhcp-lease-max=258
        dhcp-range=10.0.1.8,10.0.1.9,255.255.255.0,1h
        dhcp-range=fd00::100,fd00::1ff,slaac,64,1h
        dhcp-option=option:mtu,1400
        enable-ra
        dhcp-range=fd01::,ra-stateless
        ");
    }

    #[test]
    fn one_of_ipv4_alone_advertises_nothing() {
        let config = config(
            "[[network]]\nname = 'lan'\ngateway = ['10.0.1.1/24', 'fd00::1/80']\n\
             dhcp = ['10.0.1.8-10.0.1.9']\n",
        );
        let [server] = servers(&config, "vsw0").try_into().unwrap();
        let text = configuration(&server, &place(), None);
        assert!(
            !text.contains("enable-ra") && !text.contains("user="),
            "{text}"
        );
    }

    #[test]
    fn a_known_vm_keeps_the_address_of_its_last_lease() {
        let config = config(
            "[[network]]\nname = 'lan'\ngateway = ['10.0.1.1/24']\ndhcp = ['10.0.1.8-10.0.1.15']\n\
             [[port]]\nname = 'tap0'\nnetwork = 'lan'\nmac = ['02:00:00:00:00:01', '02:00:00:00:00:02']\n\
             [[port]]\nname = 'tap1'\nnetwork = 'lan'\nmac = ['02:00:00:00:00:04']\n",
        );
        let [server] = servers(&config, "vsw0").try_into().unwrap();
        let first = leases::parse(
            "10 02:00:00:00:00:01 10.0.1.9 * *\n\
             30 02:00:00:00:00:03 10.0.1.10 * *\n\
             30 02:00:00:00:00:04 10.0.9.10 * *\n",
        );
        // One has no lease yet, one is not known, and one has a lease of a range that is no more.
        let kept = hosts(&server, "", &first);
        assert_eq!(kept, "02:00:00:00:00:01,10.0.1.9\n");
        // It has been off for long, and another one has come meanwhile.
        let later = leases::parse("30 02:00:00:00:00:04 10.0.1.10 * *\n");
        let both = "02:00:00:00:00:01,10.0.1.9\n02:00:00:00:00:04,10.0.1.10\n";
        assert_eq!(hosts(&server, &kept, &later), both);
        // What somebody else has by now is nobody's to keep.
        let taken = leases::parse("30 02:00:00:00:00:03 10.0.1.9 * *\n");
        assert_eq!(hosts(&server, &kept, &taken), "");
    }
}
