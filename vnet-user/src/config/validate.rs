//! Whether a configuration makes sense as a whole. Checked on every load and after every edit.

mod guard;
mod nat;
mod policy;

use std::collections::{HashMap, HashSet};

use vnet_common::{FIRST_INNER_SEGMENT, SEGMENTS};

use super::{
    Attachment, Config, DEFAULT_NETWORK, Invalid, MacAddr, Match, Port, PortIp, SETTING_KEYS,
    StaticFdb, TrunkEntry, names, settings::MAX_PORTS_LIMIT,
};

/// Most addresses that a port may be limited to.
pub const MAX_MACS_LIMIT: u32 = 1_000_000;

impl Config {
    /// Checks everything that does not depend on the host. `switch` is the switch device's name.
    ///
    /// # Errors
    /// The first thing that is wrong, with the names concerned.
    pub fn validate(&self, switch: &str) -> Result<(), Invalid> {
        names::check_switch(switch).map_err(Invalid::new)?;
        self.validate_settings(switch)?;
        self.validate_networks()?;
        self.validate_gateways()?;
        self.validate_dhcp()?;
        self.validate_groups()?;
        self.validate_bans()?;
        self.validate_ports(switch)?;
        self.validate_profiles()?;
        self.validate_guards(switch)?;
        self.validate_static_fdb(switch)?;
        self.validate_nat(switch)?;
        check_stations("the deny list", &self.mac_deny)
            .map_err(|refusal| refusal.at("mac", 0).key("deny"))
    }

    /// How many slots the ports take: slot 0 stands for no port, the switch device and the host behind
    /// each uplink have one.
    #[must_use]
    pub fn slots_needed(&self, switch: &str) -> usize {
        let uplinks = self.ports.iter().filter(|port| port.uplink).count();
        1 + self.all_ports(switch).len() + uplinks
    }

    fn validate_settings(&self, switch: &str) -> Result<(), Invalid> {
        for key in &SETTING_KEYS {
            key.check(key.get(&self.settings)).map_err(|why| {
                Invalid::new(why)
                    .about(format!("the setting {}", key.name))
                    .at("settings", 0)
                    .key(key.name)
            })?;
        }
        let needed = self.slots_needed(switch);
        let max_ports = self.settings.max_ports;
        if needed > max_ports as usize {
            let refusal = Invalid::new(format!(
                "{} ports need {needed} slots (an uplink two, the switch itself two) and \
                 max_ports is {max_ports}",
                self.ports.len()
            ));
            let enough = needed.next_power_of_two();
            return Err(if enough <= MAX_PORTS_LIMIT as usize {
                refusal.mend(format!("vnet-user set max_ports={enough}"))
            } else {
                refusal
            });
        }
        Ok(())
    }

    fn validate_networks(&self) -> Result<(), Invalid> {
        let mut seen = HashSet::new();
        let mut vlans = HashMap::new();
        for (index, network) in self.networks.iter().enumerate() {
            let name = network.name.as_str();
            let at = |key| move |refusal: Invalid| refusal.at("network", index).key(key);
            names::check_network(name)
                .map_err(Invalid::new)
                .map_err(at("name"))?;
            if !seen.insert(name) {
                let why = format!("the network {name} is there twice");
                return Err(at("name")(Invalid::new(why)));
            }
            let of = |why: String| Invalid::new(why).about(format!("the network {name}"));
            if let Some(mtu) = network.mtu {
                names::check_mtu(mtu).map_err(of).map_err(at("mtu"))?;
            }
            let Some(vid) = network.vlan else { continue };
            names::check_vlan(vid).map_err(of).map_err(at("vlan"))?;
            if name == DEFAULT_NETWORK {
                return Err(at("vlan")(
                    Invalid::new(format!(
                        "the network {DEFAULT_NETWORK} is the untagged one and has no VLAN id"
                    ))
                    .mend("add another network with the VLAN id"),
                ));
            }
            if let Some(other) = vlans.insert(vid, name) {
                return Err(at("vlan")(
                    Invalid::new(format!(
                        "the networks {other} and {name} both have the VLAN id {vid}"
                    ))
                    .mend(
                        "give one of them another VLAN id; a port may translate it (--trunk \
                         NAME=VID)",
                    ),
                ));
            }
        }
        let inner = self
            .networks
            .iter()
            .filter(|network| network.vlan.is_none() && network.name != DEFAULT_NETWORK)
            .count();
        let most = SEGMENTS as usize - usize::from(FIRST_INNER_SEGMENT);
        if inner > most {
            return Err(Invalid::new(format!(
                "{inner} networks have no VLAN id; {most} are possible"
            )));
        }
        Ok(())
    }

    fn validate_ports(&self, switch: &str) -> Result<(), Invalid> {
        let mut seen = HashSet::new();
        for (index, port) in self.ports.iter().enumerate() {
            let name = port.name.as_str();
            let at = |key| move |refusal: Invalid| refusal.at("port", index).key(key);
            names::check_iface(name)
                .map_err(Invalid::new)
                .map_err(at("name"))?;
            if !seen.insert(name) {
                let why = format!("the port {name} is there twice");
                return Err(at("name")(Invalid::new(why)));
            }
            if port.uplink && name == switch {
                let why = format!("{name} is the switch device and cannot be its own uplink");
                return Err(at("uplink")(Invalid::new(why)));
            }
            let place = |key: &'static str| {
                move |refusal: Invalid| at(key)(refusal.about(format!("the port {name}")))
            };
            self.validate_options(port, name == switch, &place)?;
        }
        Ok(())
    }

    fn validate_profiles(&self) -> Result<(), Invalid> {
        let mut seen = HashSet::new();
        for (index, profile) in self.profiles.iter().enumerate() {
            let name = profile.name.as_str();
            let at = |key| move |refusal: Invalid| refusal.at("profile", index).key(key);
            names::check_name("profile", name)
                .map_err(Invalid::new)
                .map_err(at("name"))?;
            if !seen.insert(name) {
                let why = format!("the profile {name} is there twice");
                return Err(at("name")(Invalid::new(why)));
            }
            let place = |key: &'static str| {
                move |refusal: Invalid| at(key)(refusal.about(format!("the profile {name}")))
            };
            if profile.matches == Match::default() {
                return Err(place("match")(
                    Invalid::new("it does not say which interfaces it is for")
                        .mend("match = { name = \"tap*\" }, or by `mac`"),
                ));
            }
            self.validate_options(&profile.options, false, &place)?;
        }
        Ok(())
    }

    /// What a port has besides its name; `is_device`: it is the switch device; `place` says of a
    /// key's refusal where it stands.
    fn validate_options<P: FnOnce(Invalid) -> Invalid>(
        &self,
        port: &Port,
        is_device: bool,
        place: &impl Fn(&'static str) -> P,
    ) -> Result<(), Invalid> {
        let key = match &port.attachment {
            Attachment::Trunk { .. } => "trunk",
            Attachment::Access(_) | Attachment::Default => "network",
        };
        self.validate_attachment(port).map_err(place(key))?;
        check_stations("its list of sources", &port.macs).map_err(place("mac"))?;
        if port.max_macs.is_some_and(|limit| limit > MAX_MACS_LIMIT) {
            let why = format!("max_macs is at most {MAX_MACS_LIMIT}");
            return Err(place("max_macs")(Invalid::new(why)));
        }
        check_ips(&port.ips).map_err(place("ip"))?;
        for (kind, limit) in port.storm.iter() {
            if let Some(limit) = limit {
                let why = limit
                    .check()
                    .map_err(|why| format!("storm limit {kind}: {why}"));
                why.map_err(|why| place("storm")(Invalid::new(why)))?;
            }
        }
        self.validate_bindings(port, is_device)
            .map_err(place("groups"))
    }

    fn validate_attachment(&self, port: &Port) -> Result<(), Invalid> {
        match &port.attachment {
            Attachment::Default => Ok(()),
            Attachment::Access(network) => self.require_network(network),
            Attachment::Trunk { networks, native } => {
                self.validate_trunk(networks, native.as_deref())
            }
        }
    }

    fn validate_trunk(&self, networks: &[TrunkEntry], native: Option<&str>) -> Result<(), Invalid> {
        if let Some(native) = native {
            self.require_network(native)?;
        }
        let mut seen = HashSet::new();
        let mut tags = HashMap::new();
        for TrunkEntry { network, vid } in networks {
            self.require_network(network)?;
            if !seen.insert(network.as_str()) {
                return Err(Invalid::new(format!("the trunk lists {network} twice")));
            }
            if let Some(vid) = vid {
                names::check_vlan(*vid).map_err(Invalid::new)?;
            }
            if native == Some(network) {
                match vid {
                    None => continue,
                    Some(vid) => {
                        return Err(Invalid::new(format!(
                            "{network} is native, so it goes untagged and cannot have the tag {vid}"
                        ))
                        .mend(format!(
                            "list it as {network}, or name another native network"
                        )));
                    }
                }
            }
            let tag = vid.or_else(|| self.vlan(network)).ok_or_else(|| {
                Invalid::new(format!(
                    "the trunk has no tag for {network}, which has no VLAN id"
                ))
                .mend(format!(
                    "give it a tag on this port ({network}=VID) or make it the native network"
                ))
            })?;
            if let Some(other) = tags.insert(tag, network) {
                return Err(Invalid::new(format!(
                    "the trunk has the tag {tag} for both {other} and {network}"
                ))
                .mend(format!(
                    "give one of them another tag on this port ({network}=VID)"
                )));
            }
        }
        Ok(())
    }

    fn validate_static_fdb(&self, switch: &str) -> Result<(), Invalid> {
        let mut seen = HashSet::new();
        for (index, StaticFdb { mac, network, port }) in self.static_fdb.iter().enumerate() {
            let at = |key| move |refusal: Invalid| refusal.at("fdb", index).key(key);
            let about = |key| {
                move |refusal: Invalid| at(key)(refusal.about(format!("the static address {mac}")))
            };
            mac.check_station()
                .map_err(Invalid::new)
                .map_err(at("mac"))?;
            self.require_network(network).map_err(about("network"))?;
            if !seen.insert((mac, network)) {
                let why = format!("it is there twice for the network {network}");
                return Err(about("mac")(Invalid::new(why)));
            }
            let carried = match self.port(port) {
                Some(port) => self.carried(port),
                None if port == switch => self.carried(&Port::new(switch)),
                None => return Err(about("port")(super::edits::no_port(self, switch, port))),
            };
            if !carried.carries(network) {
                let why = format!("the port {port} does not carry {network}, but {carried}");
                return Err(about("network")(Invalid::new(why)).mend(format!(
                    "have {port} carry {network}, or delete the static address"
                )));
            }
        }
        Ok(())
    }

    /// Refuses a network that does not exist, naming those that do.
    pub fn require_network(&self, name: &str) -> Result<(), Invalid> {
        if self.network_names().any(|known| known == name) {
            return Ok(());
        }
        let known: Vec<_> = self.network_names().collect();
        Err(Invalid::new(format!(
            "there is no network {name}; there {} {}",
            if known.len() == 1 { "is" } else { "are" },
            known.join(", ")
        ))
        .mend(format!("vnet-user network add {name}")))
    }
}

/// Refuses addresses that no host has, and those that are listed twice.
fn check_ips(ips: &[PortIp]) -> Result<(), Invalid> {
    let mut seen = HashSet::new();
    for ip in ips {
        if let PortIp::Is(addr) = ip {
            names::check_host(*addr).map_err(Invalid::new)?;
        }
        if !seen.insert(ip) {
            return Err(Invalid::new(format!(
                "its list of IP addresses has {ip} twice"
            )));
        }
    }
    Ok(())
}

/// Refuses addresses that no station has, and those that are listed twice.
fn check_stations(list: &str, macs: &[MacAddr]) -> Result<(), Invalid> {
    let mut seen = HashSet::new();
    for mac in macs {
        mac.check_station()
            .map_err(|why| Invalid::new(format!("{list}: {why}")))?;
        if !seen.insert(mac) {
            return Err(Invalid::new(format!("{list} has {mac} twice")));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Settings, document};

    fn refusal(rest: &str) -> Invalid {
        let base = "schema = 1\n[[network]]\nname = 'blue'\nvlan = 10\n[[network]]\nname = 'red'\n";
        let config = document::parse(&format!("{base}{rest}")).unwrap();
        config.validate("vsw0").expect_err(rest)
    }

    #[test]
    fn a_new_switch_is_valid() {
        assert_eq!(Config::default().validate("vsw0"), Ok(()));
        assert!(Config::default().validate("vnet0").is_err());
    }

    #[test]
    fn what_is_refused_and_why() {
        for (rest, expected) in [
            ("[settings]\nageing = 9", "9 is out of range"),
            ("[settings]\nmax_ports = 100", "power of two"),
            ("[settings]\nstorm.multicast = 0", "0 is not a storm limit"),
            (
                "[[network]]\nname = 'blue'",
                "the network blue is there twice",
            ),
            ("[[network]]\nname = 'b c'", "is not a network's name"),
            ("[[network]]\nname = 'none'", "empties a list"),
            ("[[network]]\nname = 'x'\nvlan = 0", "VLAN id 0"),
            ("[[network]]\nname = 'x'\nvlan = 4095", "4095 is reserved"),
            (
                "[[network]]\nname = 'x'\nvlan = 10",
                "blue and x both have the VLAN id 10",
            ),
            ("[[network]]\nname = 'x'\nmtu = 67", "67 is not an MTU"),
            ("[[network]]\nname = 'default'\nvlan = 1", "has no VLAN id"),
            ("[[port]]\nname = 'a/b'", "is not an interface's name"),
            (
                "[[port]]\nname = 'vsw0'\nuplink = true",
                "cannot be its own uplink",
            ),
            (
                "[[port]]\nname = 'a'\n[[port]]\nname = 'a'",
                "the port a is there twice",
            ),
            (
                "[[port]]\nname = 'a'\nnetwork = 'x'",
                "no network x; there are default, blue, red",
            ),
            ("[[port]]\nname = 'a'\ntrunk = ['x']", "no network x"),
            (
                "[[port]]\nname = 'a'\ntrunk = []\nnative = 'x'",
                "no network x",
            ),
            ("[[port]]\nname = 'a'\ntrunk = ['red']", "no tag for red"),
            (
                "[[port]]\nname = 'a'\ntrunk = ['default']",
                "no tag for default",
            ),
            (
                "[[port]]\nname = 'a'\ntrunk = ['blue', 'blue=2']",
                "lists blue twice",
            ),
            (
                "[[port]]\nname = 'a'\ntrunk = ['blue', 'red=10']",
                "tag 10 for both blue and red",
            ),
            (
                "[[port]]\nname = 'a'\ntrunk = ['blue=5']\nnative = 'blue'",
                "blue is native, so it goes untagged",
            ),
            (
                "[[port]]\nname = 'a'\nmac = ['01:00:5e:00:00:01']",
                "is a group address",
            ),
            (
                "[[port]]\nname = 'a'\nmac = ['00:00:00:00:00:00']",
                "is no station's address",
            ),
            (
                "[[port]]\nname = 'a'\nmac = ['02:00:00:00:00:0a', '02:00:00:00:00:0A']",
                "has 02:00:00:00:00:0a twice",
            ),
            (
                "[[port]]\nname = 'a'\nip = ['10.0.0.2', '10.0.0.2']",
                "has 10.0.0.2 twice",
            ),
            (
                "[[port]]\nname = 'a'\nip = ['learn', 'learn']",
                "has learn twice",
            ),
            (
                "[[port]]\nname = 'a'\nuplink = true\nip = ['learn']",
                "it is an uplink, and `ip` is for the ports of VMs",
            ),
            (
                "[[port]]\nname = 'vsw0'\nguard = 'strict'",
                "it is the switch device, and `guard` is",
            ),
            (
                "[[profile]]\nname = 'a'\nmatch = { name = 'x*' }\nuplink = true\nisolated = true",
                "it is an uplink, and `isolated` is",
            ),
            (
                "[[port]]\nname = 'a'\nip = ['10.0.0.2']\n\
                 [[port]]\nname = 'b'\ntrunk = ['blue']\nnative = 'default'\nip = ['10.0.0.2']",
                "10.0.0.2 is the address of the port a in the network default",
            ),
            (
                "[[network]]\nname = 'x'\ngateway = ['fd00::1/64']\n\
                 [[port]]\nname = 'a'\nnetwork = 'x'\nip = ['fd00::1']",
                "fd00::1 is the address of the gateway of x in the network x",
            ),
            (
                "[[port]]\nname = 'a'\nmax_macs = 1000001",
                "max_macs is at most",
            ),
            (
                "[[port]]\nname = 'a'\nstorm.broadcast = 0",
                "storm limit broadcast: 0 is not",
            ),
            (
                "[[fdb]]\nmac = '02:00:00:00:00:01'\nnetwork = 'x'\nport = 'vsw0'",
                "no network x",
            ),
            (
                "[[fdb]]\nmac = '02:00:00:00:00:01'\nnetwork = 'blue'\nport = 'a'",
                "there is no port a; there is vsw0",
            ),
            (
                "[[fdb]]\nmac = '02:00:00:00:00:01'\nnetwork = 'blue'\nport = 'vsw0'",
                "the port vsw0 does not carry blue, but default",
            ),
            (
                "[[fdb]]\nmac = 'ff:ff:ff:ff:ff:ff'\nnetwork = 'blue'\nport = 'vsw0'",
                "is a group address",
            ),
            (
                "[[fdb]]\nmac = '02:00:00:00:00:01'\nnetwork = 'default'\nport = 'vsw0'\n\
                 [[fdb]]\nmac = '02:00:00:00:00:01'\nnetwork = 'default'\nport = 'vsw0'",
                "there twice for the network default",
            ),
            (
                "[mac]\ndeny = ['01:80:c2:00:00:00']",
                "the deny list: 01:80:c2:00:00:00 is a group",
            ),
        ] {
            let refusal = refusal(rest);
            assert!(refusal.why.contains(expected), "{rest:?}: {}", refusal.why);
        }
    }

    #[test]
    fn ports_need_slots() {
        let mut config = Config {
            settings: Settings {
                max_ports: 64,
                ..Settings::default()
            },
            ports: (0..62).map(|n| Port::new(format!("tap{n}"))).collect(),
            ..Config::default()
        };
        assert_eq!(config.validate("vsw0"), Ok(()));
        config.ports[0].uplink = true;
        let refusal = config.validate("vsw0").unwrap_err();
        assert_eq!(refusal.mend.as_deref(), Some("vnet-user set max_ports=128"));
    }
}
