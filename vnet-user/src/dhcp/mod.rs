//! DHCP, router advertisements and DNS for networks that have `dhcp` ranges: one dnsmasq a network,
//! on its gateway port.
//!
//! [`servers`] says which there are to be, [`dnsmasq`] how each is configured, [`leases`] what they
//! have given out, and the [`keeper`] runs them: the daemon, or a process of its own beside it that
//! has the privileges which the datapath does not need.

pub mod dnsmasq;
pub mod keeper;
pub mod leases;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use crate::config::{Config, MacAddr, Network, Port, PortIp};
use crate::gateway;
use crate::host::lock;

use self::leases::Lease;

/// What is served to one network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// The network, which has ranges.
    pub network: Network,
    /// The interface that holds its gateway addresses.
    pub interface: String,
    /// VMs that the document knows by address: what one was leased once stays its own.
    pub known: BTreeSet<MacAddr>,
    /// Those of them that may use one address alone, which they are leased.
    pub fixed: BTreeMap<MacAddr, Ipv4Addr>,
    /// Ports by which the network goes on outside, where others may serve and ask.
    pub uplinks: Vec<String>,
}

/// What there is to serve, in the document's order.
#[must_use]
pub fn servers(config: &Config, switch: &str) -> Vec<Server> {
    let ports = config.all_ports(switch);
    let profiles = config.profiles.iter().map(|profile| &profile.options);
    let options: Vec<_> = ports.iter().chain(profiles).collect();
    gateway::switch_ports(config, switch)
        .into_iter()
        .filter_map(|listed| Some((listed.gateway?, listed.port.name)))
        .filter(|(network, _)| !network.dhcp.is_empty())
        .map(|(network, interface)| {
            let here = options
                .iter()
                .filter(|port| config.carried(port).carries(&network.name));
            let fixed = here.clone().filter_map(|port| fixed(port, &network));
            let uplinks = ports.iter().filter(|port| port.uplink);
            let uplinks = uplinks.filter(|port| config.carried(port).carries(&network.name));
            Server {
                uplinks: uplinks.map(|port| port.name.clone()).collect(),
                fixed: fixed.collect(),
                known: here.flat_map(|port| port.macs.iter().copied()).collect(),
                interface,
                network,
            }
        })
        .collect()
}

/// The address that a port's list of addresses has for `network`, and who is to be leased it: the first
/// of its VM's MAC addresses.
fn fixed(port: &Port, network: &Network) -> Option<(MacAddr, Ipv4Addr)> {
    let mac = port.macs.first()?;
    let address = port.ips.iter().find_map(|ip| match ip {
        PortIp::Is(IpAddr::V4(address)) => {
            let mut gateways = network.gateway.iter();
            let is_near = gateways.any(|gateway| gateway.contains(&IpAddr::V4(*address)));
            is_near.then_some(*address)
        }
        _ => None,
    })?;
    Some((*mac, address))
}

/// Where the files of a switch's servers are.
#[derive(Clone, Debug)]
pub struct Place {
    /// What they run by; gone after a restart of the host.
    run: PathBuf,
    /// What they have given out.
    state: PathBuf,
}

impl Place {
    /// Of the switch called `switch`.
    #[must_use]
    pub fn new(run_dir: &Path, state_dir: &Path, switch: &str) -> Self {
        Self {
            run: run_dir.join("dhcp").join(switch),
            state: state_dir.join("dhcp").join(switch),
        }
    }

    /// dnsmasq's configuration.
    fn configuration(&self, network: &str) -> PathBuf {
        self.run.join(format!("{network}.conf"))
    }

    /// The addresses that are kept for known VMs.
    fn hosts(&self, network: &str) -> PathBuf {
        self.state.join(format!("{network}.hosts"))
    }

    /// dnsmasq's process id.
    fn pid(&self, network: &str) -> PathBuf {
        self.run.join(format!("{network}.pid"))
    }

    /// dnsmasq's database of leases.
    fn leases_file(&self, network: &str) -> PathBuf {
        self.state.join(format!("{network}.leases"))
    }

    /// Held by whoever serves.
    fn lock(&self) -> PathBuf {
        self.run.join("lock")
    }

    /// Refuses directories of another user, who could have this one write or run what it should not.
    fn check_owner(&self) -> Result<(), String> {
        let own = nix::unistd::geteuid().as_raw();
        let dirs = [&self.run, &self.state].into_iter();
        let dirs = dirs.flat_map(|dir| dir.parent().into_iter().chain([dir.as_path()]));
        for dir in dirs {
            // One that is not there yet will be ours.
            if let Ok(meta) = fs::symlink_metadata(dir)
                && meta.uid() != own
            {
                return Err(format!("{} is another user's", dir.display()));
            }
        }
        Ok(())
    }

    /// Whether a keeper runs, as far as this user may know.
    #[must_use]
    pub fn is_kept(&self) -> bool {
        lock::is_held(&self.lock())
    }

    /// The process that serves a network.
    #[must_use]
    pub fn process(&self, network: &str) -> Option<u32> {
        let pid = fs::read_to_string(self.pid(network)).ok()?;
        let pid = pid.trim().parse().ok()?;
        self.is_serving(network, pid).then_some(pid)
    }

    /// Whether the process of that id is dnsmasq with our configuration, and not a later one that
    /// was given the number.
    fn is_serving(&self, network: &str, pid: u32) -> bool {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let configuration = dnsmasq::option(&self.configuration(network));
        line.split(|byte| *byte == 0)
            .any(|word| word == configuration.as_encoded_bytes())
    }

    /// What a network's server has given out and not taken back.
    #[must_use]
    pub fn leases(&self, network: &str) -> Vec<Lease> {
        // Without leases there is no file.
        let text = fs::read_to_string(self.leases_file(network)).unwrap_or_default();
        leases::parse(&text)
    }
}

/// What to tell somebody who has DHCP served to whoever is on a physical network.
#[must_use]
pub fn outside(config: &Config, switch: &str) -> Vec<String> {
    let servers = servers(config, switch).into_iter();
    let outside = servers.filter(|server| !server.uplinks.is_empty());
    outside
        .map(|server| {
            format!(
                "DHCP for the network {} serves whoever is on {}, too, which carries it: leave one \
                 of the two out unless it is meant to",
                server.network.name,
                server.uplinks.join(", ")
            )
        })
        .collect()
}

/// What to tell somebody whose networks have DHCP that nobody serves.
#[must_use]
pub fn unserved(config: &Config, switch: &str, place: &Place) -> Option<String> {
    let servers = servers(config, switch);
    if servers.is_empty() || place.is_kept() {
        return None;
    }
    let names = servers.iter().map(|server| server.network.name.as_str());
    let names: Vec<_> = names.collect();
    Some(format!(
        "no daemon runs that would serve DHCP to {}: vnet-user daemon, or systemctl start \
         vnet-dhcp@{switch}",
        names.join(", ")
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Source;

    pub(super) fn config(rest: &str) -> Config {
        let source = Source {
            name: "vsw0.toml".into(),
            text: format!("schema = 1\n{rest}"),
        };
        source.config("vsw0").unwrap()
    }

    #[test]
    fn networks_with_ranges_are_served_where_their_gateway_is() {
        let config = config(
            "[[network]]\nname = 'default'\ngateway = ['10.0.0.1/24']\ndhcp = ['10.0.0.8-10.0.0.9']\n\
             [[network]]\nname = 'lan'\ngateway = ['10.0.1.1/24']\ndhcp = ['10.0.1.8-10.0.1.9']\n\
             [[network]]\nname = 'quiet'\ngateway = ['10.0.2.1/24']\n\
             [[port]]\nname = 'tap0'\nnetwork = 'lan'\nmac = ['02:00:00:00:00:01']\n\
             [[port]]\nname = 'tap1'\nmac = ['02:00:00:00:00:02']\n\
             [[profile]]\nname = 'a'\nmatch = { name = 'x*' }\nnetwork = 'lan'\n\
             mac = ['02:00:00:00:00:03']\n",
        );
        let servers = servers(&config, "vsw0");
        let short: Vec<_> = servers
            .iter()
            .map(|server| {
                let known: Vec<_> = server.known.iter().map(ToString::to_string).collect();
                (server.interface.as_str(), known.join(" "))
            })
            .collect();
        assert_eq!(
            short,
            [
                ("vsw0", "02:00:00:00:00:02".to_owned()),
                ("vsw0.lan", "02:00:00:00:00:01 02:00:00:00:00:03".to_owned()),
            ]
        );
    }

    #[test]
    fn who_serves_outside_is_told() {
        let rest = "[[network]]\nname = 'lan'\nvlan = 5\ngateway = ['10.0.1.1/24']\n\
                    dhcp = ['10.0.1.8-10.0.1.9']\n";
        assert_eq!(outside(&config(rest), "vsw0"), Vec::<String>::new());
        let with_uplink = format!("{rest}[[port]]\nname = 'eth0'\nuplink = true\n");
        let told = outside(&config(&with_uplink), "vsw0");
        assert!(
            told[0].contains("lan serves whoever is on eth0"),
            "{told:?}"
        );
    }

    #[test]
    fn nobody_is_told_where_nothing_is_to_be_served() {
        let dir = tempfile::tempdir().unwrap();
        let place = Place::new(dir.path(), dir.path(), "vsw0");
        assert_eq!(unserved(&Config::default(), "vsw0", &place), None);
        let served = config(
            "[[network]]\nname = 'lan'\ngateway = ['10.0.1.1/24']\ndhcp = ['10.0.1.8-10.0.1.9']\n",
        );
        let told = unserved(&served, "vsw0", &place).unwrap();
        assert!(told.contains("DHCP to lan"), "{told}");
    }
}
