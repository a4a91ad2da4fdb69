//! What dnsmasq is told (dnsmasq(8), 2.90).

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

use ipnet::IpNet;

use super::leases::Lease;
use super::{Place, Server};
use crate::config::dhcp::SLAAC_LENGTH;
use crate::config::{AddrRange, DhcpRange, MacAddr};

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

    // DNS: what the host's resolvers know, without what /etc/hosts says here.
    line("no-hosts".into());
    line("domain-needed".into());
    line("bogus-priv".into());

    // A VM is who its address says; a client id changes with whatever boots in it.
    line("dhcp-ignore-clid".into());
    if server.uplinks.is_empty() {
        // Nobody else serves here: who asks for another network's address is told at once.
        line("dhcp-authoritative".into());
    }
    // Names that programs trust are nobody's.
    for name in ["wpad", "localhost", "isatap"] {
        line(format!("dhcp-name-match=set:nameless,{name}"));
    }
    line("dhcp-ignore-names=tag:nameless".into());
    // Lines for each exchange would be as many as a VM likes.
    for what in ["dhcp", "dhcp6", "ra"] {
        line(format!("quiet-{what}"));
    }
    line(format!(
        "dhcp-leasefile={}",
        place.leases_file(name).display()
    ));
    line(format!("dhcp-hostsfile={}", place.hosts(name).display()));
    line(format!("dhcp-lease-max={}", lease_max(server)));
    for range in &network.dhcp {
        let (first, last) = (range.0.first, last_leased(range.0));
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

/// The last address of a range that is leased: one of IPv6 may be wider than what can be kept.
fn last_leased(range: AddrRange) -> IpAddr {
    match (range.first, range.last) {
        (IpAddr::V6(first), IpAddr::V6(last)) => {
            let most = u128::from(first).saturating_add(LEASES_V6 - 1);
            IpAddr::V6(u128::from(last).min(most).into())
        }
        (_, last) => last,
    }
}

/// As many leases as there are addresses, so that no family takes the other's.
fn lease_max(server: &Server) -> u128 {
    let count = |range: &DhcpRange| match (range.0.first, last_leased(range.0)) {
        (IpAddr::V4(first), IpAddr::V4(last)) => u128::from(u32::from(last) - u32::from(first)) + 1,
        (IpAddr::V6(first), IpAddr::V6(last)) => u128::from(last) - u128::from(first) + 1,
        // Refused before.
        _ => 0,
    };
    server.network.dhcp.iter().map(count).sum()
}

/// The IPv4 addresses that are kept for known VMs, a line a VM as in `dhcp-host`: what they have, or
/// had when `before` was made, or else one that nobody has.
#[must_use]
pub fn hosts(server: &Server, before: &str, leases: &[Lease]) -> String {
    let ranges = || server.network.dhcp.iter().map(|range| range.0);
    let mut owners: BTreeMap<Ipv4Addr, Option<MacAddr>> = BTreeMap::new();
    let mut candidates: BTreeMap<MacAddr, Vec<Ipv4Addr>> = BTreeMap::new();
    for lease in leases {
        if let IpAddr::V4(address) = lease.address {
            owners.insert(address, lease.mac);
            let theirs = lease.mac.map(|mac| candidates.entry(mac).or_default());
            theirs.into_iter().for_each(|list| list.push(address));
        }
    }
    for (mac, address) in before.lines().filter_map(|line| line.split_once(',')) {
        if let (Ok(mac), Ok(address)) = (mac.parse(), address.parse()) {
            candidates.entry(mac).or_default().push(address);
        }
    }
    let mut kept = server.fixed.clone();
    owners.extend(
        server
            .fixed
            .iter()
            .map(|(mac, address)| (*address, Some(*mac))),
    );
    for mac in &server.known {
        if kept.contains_key(mac) {
            continue;
        }
        let mut theirs = candidates.get(mac).into_iter().flatten().copied();
        let found = theirs.find(|address| {
            let is_free = owners.get(address).is_none_or(|owner| *owner == Some(*mac));
            is_free && ranges().any(|range| range.contains((*address).into()))
        });
        if let Some(address) = found {
            owners.insert(address, Some(*mac));
            kept.insert(*mac, address);
        }
    }
    // From the end: dnsmasq leases from anywhere.
    let mut free = ranges().flat_map(|range| match (range.first, range.last) {
        (IpAddr::V4(first), IpAddr::V4(last)) => (u32::from(first)..=u32::from(last)).rev(),
        #[expect(clippy::reversed_empty_ranges, reason = "none")]
        _ => (1..=0).rev(),
    });
    for mac in &server.known {
        if kept.contains_key(mac) {
            continue;
        }
        let address = free.find(|address| !owners.contains_key(&Ipv4Addr::from(*address)));
        if let Some(address) = address {
            kept.insert(*mac, address.into());
        }
    }
    let lines = kept
        .iter()
        .map(|(mac, address)| format!("{mac},{address}\n"));
    lines.collect()
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
        dhcp-name-match=set:nameless,wpad
        dhcp-name-match=set:nameless,localhost
        dhcp-name-match=set:nameless,isatap
        dhcp-ignore-names=tag:nameless
        quiet-dhcp
        quiet-dhcp6
        quiet-ra
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
        // One is not known, one has no lease yet, and one has one of a range that is no more: these
        // two get what is free at the end.
        let kept = hosts(&server, "", &first);
        let all = "02:00:00:00:00:01,10.0.1.9\n02:00:00:00:00:02,10.0.1.15\n\
                   02:00:00:00:00:04,10.0.1.14\n";
        assert_eq!(kept, all);
        assert_eq!(
            hosts(&server, &kept, &[]),
            all,
            "they have been off for long"
        );
        // What somebody else has by now is nobody's to keep.
        let later = leases::parse(
            "30 02:00:00:00:00:03 10.0.1.9 * *\n30 02:00:00:00:00:04 10.0.1.10 * *\n",
        );
        assert_eq!(
            hosts(&server, &kept, &later),
            "02:00:00:00:00:01,10.0.1.14\n02:00:00:00:00:02,10.0.1.15\n\
             02:00:00:00:00:04,10.0.1.10\n"
        );
    }

    /// Whatever else it or another was leased before.
    #[test]
    fn a_vm_that_may_use_one_address_is_leased_that() {
        let config = config(
            "[[network]]\nname = 'lan'\ngateway = ['10.0.1.1/24']\ndhcp = ['10.0.1.8-10.0.1.15']\n\
             [[port]]\nname = 'tap0'\nnetwork = 'lan'\nmac = ['02:00:00:00:00:01']\n\
             ip = ['fd00::2', '192.0.2.2', '10.0.1.15']\n\
             [[port]]\nname = 'tap1'\nnetwork = 'lan'\nmac = ['02:00:00:00:00:02']\nip = ['10.0.1.77']\n\
             [[port]]\nname = 'tap2'\nnetwork = 'lan'\nmac = ['02:00:00:00:00:03']\nip = ['learn']\n",
        );
        let [server] = servers(&config, "vsw0").try_into().unwrap();
        let leases = leases::parse(
            "10 02:00:00:00:00:01 10.0.1.9 * *\n30 02:00:00:00:00:03 10.0.1.15 * *\n",
        );
        assert_eq!(
            hosts(&server, "", &leases),
            "02:00:00:00:00:01,10.0.1.15\n02:00:00:00:00:02,10.0.1.77\n\
             02:00:00:00:00:03,10.0.1.14\n"
        );
    }

    #[test]
    fn a_wide_range_takes_no_room_of_the_other_family() {
        let config = config(
            "[[network]]\nname = 'lan'\ngateway = ['10.0.1.1/24', 'fd00::1/64']\n\
             dhcp = ['10.0.1.8-10.0.1.9', 'fd00::2-fd00::ffff:ffff']\n",
        );
        let [server] = servers(&config, "vsw0").try_into().unwrap();
        let text = configuration(&server, &place(), None);
        assert!(
            text.contains("dhcp-range=fd00::2,fd00::1:1,slaac"),
            "{text}"
        );
        assert!(text.contains("dhcp-lease-max=65538\n"), "{text}");
    }
}
