//! The verbs that change a configuration. Each refuses what only it can know; what the result must
//! be like as a whole is [`Config::validate`]'s.

mod ban;
mod policy;

use std::collections::HashSet;

use vnet_common::nat::NAT_RULES;

use super::{
    Attachment, Config, DEFAULT_NETWORK, Guard, Invalid, MacAddr, NatAction, NatRule, Network,
    Port, PortIp, StaticFdb, StormOverrides, TrunkEntry,
};

pub use ban::{add_ban, delete_ban, find_ban};
pub use policy::{
    add_group, add_policy_rule, bind_group, delete_group, delete_policy_rule, free_policy_rules,
    policed_port, unbind_group,
};

/// Adds a network.
pub fn add_network(config: &mut Config, network: Network) -> Result<(), Invalid> {
    let name = &network.name;
    if name == DEFAULT_NETWORK {
        return Err(Invalid::new(format!(
            "{DEFAULT_NETWORK} is the network that every switch begins with"
        ))
        .mend("choose another name"));
    }
    if config.network(name).is_some() {
        return Err(Invalid::new(format!("there is a network {name} already"))
            .mend("choose another name, or say --may-exist"));
    }
    config.networks.push(network);
    Ok(())
}

/// Deletes a network that no port, no static address and no translation rule uses.
pub fn delete_network(config: &mut Config, name: &str) -> Result<(), Invalid> {
    if name == DEFAULT_NETWORK {
        return Err(Invalid::new(format!(
            "{DEFAULT_NETWORK} is the network that every switch begins with"
        )));
    }
    config.require_network(name).map_err(|refusal| Invalid {
        mend: None,
        ..refusal
    })?;
    let ports = config
        .ports
        .iter()
        .filter(|port| port.attachment.names(name))
        .map(|port| format!("port {}", port.name));
    let profiles = config
        .profiles
        .iter()
        .filter(|profile| profile.options.attachment.names(name))
        .map(|profile| format!("profile {}", profile.name));
    let addresses = config
        .static_fdb
        .iter()
        .filter(|entry| entry.network == name)
        .map(|entry| format!("static address {}", entry.mac));
    let rules = nat_rules(config, |action| config.leads_into(action, name));
    let users: Vec<_> = ports
        .chain(profiles)
        .chain(addresses)
        .chain(rules)
        .collect();
    if !users.is_empty() {
        return Err(Invalid::new(format!("it is used by {}", users.join(", ")))
            .mend("change or delete those first"));
    }
    config.networks.retain(|network| network.name != name);
    Ok(())
}

/// Adds a port to the switch called `switch`.
pub fn add_port(config: &mut Config, switch: &str, port: Port) -> Result<(), Invalid> {
    let name = &port.name;
    if name == switch {
        return Err(
            Invalid::new(format!("{name} is the switch device and a port already"))
                .mend(format!("vnet-user port set {name} …")),
        );
    }
    if config.port(name).is_some() {
        return Err(Invalid::new(format!("there is a port {name} already"))
            .mend(format!("vnet-user port set {name} …, or say --may-exist")));
    }
    config.ports.push(port);
    Ok(())
}

/// Adds the uplink `name` as `port add NAME --uplink` would; one that is there stays as it is.
pub fn ensure_uplink(config: &mut Config, switch: &str, name: &str) -> Result<(), Invalid> {
    match config.port(name) {
        Some(port) if port.uplink => Ok(()),
        Some(_) => Err(
            Invalid::new(format!("{name} is a port already and not an uplink"))
                .mend(format!("vnet-user port set {name} --uplink")),
        ),
        None => add_port(
            config,
            switch,
            Port {
                uplink: true,
                ..Port::new(name)
            },
        ),
    }
}

/// What `port set` names; the rest stays as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PortChange {
    /// Makes it an uplink.
    pub uplink: bool,
    /// `--network`: one network, untagged.
    pub access: Option<String>,
    /// `--trunk`: the whole list.
    pub trunk: Option<Vec<TrunkEntry>>,
    /// `--native`; the inner `None` is `--native none`.
    pub native: Option<Option<String>>,
    /// `--mac`: the whole list.
    pub macs: Option<Vec<MacAddr>>,
    /// `--max-macs`; the inner `None` is the switch's default.
    pub max_macs: Option<Option<u32>>,
    /// `--ip`: the whole list.
    pub ips: Option<Vec<PortIp>>,
    /// `--guard`.
    pub guard: Option<Guard>,
    /// `--isolated`.
    pub isolated: Option<bool>,
    /// `--storm`: the whole list.
    pub storm: Option<StormOverrides>,
    /// `--group`: the whole list.
    pub groups: Option<Vec<String>>,
}

impl PortChange {
    /// Changes `port`; it is untouched when the change is refused.
    pub fn apply(self, port: &mut Port) -> Result<(), Invalid> {
        let attachment = self.attachment(port)?;
        port.attachment = attachment;
        port.uplink |= self.uplink;
        if let Some(macs) = self.macs {
            port.macs = macs;
        }
        if let Some(max_macs) = self.max_macs {
            port.max_macs = max_macs;
        }
        if let Some(ips) = self.ips {
            port.ips = ips;
        }
        port.guard = self.guard.unwrap_or(port.guard);
        port.isolated = self.isolated.unwrap_or(port.isolated);
        if let Some(storm) = self.storm {
            port.storm = storm;
        }
        if let Some(groups) = self.groups {
            port.groups = groups;
        }
        Ok(())
    }

    fn attachment(&self, port: &Port) -> Result<Attachment, Invalid> {
        if let Some(network) = &self.access {
            return Ok(Attachment::Access(network.clone()));
        }
        if self.trunk.is_none() && self.native.is_none() {
            return Ok(port.attachment.clone());
        }
        let (old_networks, old_native) = match &port.attachment {
            Attachment::Trunk { networks, native } => (Some(networks.clone()), native.clone()),
            Attachment::Default | Attachment::Access(_) => (None, None),
        };
        let Some(networks) = self.trunk.clone().or(old_networks) else {
            return Err(Invalid::new(format!(
                "the port {} is no trunk, only one has a native network",
                port.name
            ))
            .mend("say --trunk too, or --network for one untagged network"));
        };
        Ok(Attachment::Trunk {
            networks,
            native: self.native.clone().unwrap_or(old_native),
        })
    }
}

/// Changes a port; the switch device begins to be listed with its first change.
pub fn set_port(
    config: &mut Config,
    switch: &str,
    name: &str,
    change: PortChange,
) -> Result<(), Invalid> {
    let Some(port) = config.ports.iter_mut().find(|port| port.name == name) else {
        if name != switch {
            return Err(no_port(config, switch, name).mend(format!("vnet-user port add {name} …")));
        }
        let mut port = Port::new(switch);
        change.apply(&mut port)?;
        config.ports.push(port);
        return Ok(());
    };
    change.apply(port)
}

/// The first of `candidates` that may be the address of the port called `name`: no other port or
/// profile lists it, it is no other port's static address, and it is not denied.
pub fn free_mac(
    config: &Config,
    name: &str,
    candidates: impl IntoIterator<Item = MacAddr>,
) -> Option<MacAddr> {
    let ports = config.ports.iter().filter(|port| port.name != name);
    let profiles = config.profiles.iter().map(|profile| &profile.options);
    let listed = ports.chain(profiles).flat_map(|port| &port.macs);
    let others = config.static_fdb.iter().filter(|entry| entry.port != name);
    let taken: HashSet<MacAddr> = listed
        .chain(others.map(|entry| &entry.mac))
        .chain(&config.mac_deny)
        .copied()
        .collect();
    candidates.into_iter().find(|mac| !taken.contains(mac))
}

/// Deletes a port that no static address and no translation rule names.
pub fn delete_port(config: &mut Config, switch: &str, name: &str) -> Result<(), Invalid> {
    if name == switch {
        return Err(Invalid::new(format!(
            "{name} is the switch device, always a port of the switch"
        ))
        .mend(format!("vnet-user port set {name} …")));
    }
    if config.port(name).is_none() {
        return Err(no_port(config, switch, name));
    }
    let users: Vec<_> = config
        .static_fdb
        .iter()
        .filter(|entry| entry.port == name)
        .map(|entry| format!("{} in {}", entry.mac, entry.network))
        .collect();
    if !users.is_empty() {
        return Err(
            Invalid::new(format!("it has static addresses: {}", users.join(", ")))
                .mend("delete them first: vnet-user fdb del MAC --network NAME"),
        );
    }
    let rules: Vec<_> = nat_rules(config, |action| action.uplink() == Some(name)).collect();
    if !rules.is_empty() {
        return Err(Invalid::new(format!("it is used by {}", rules.join(", ")))
            .mend("delete them first: vnet-user nat del ID"));
    }
    config.ports.retain(|port| port.name != name);
    Ok(())
}

/// Refuses a port that does not exist, naming those that do.
pub fn no_port(config: &Config, switch: &str, name: &str) -> Invalid {
    let known: Vec<_> = config
        .all_ports(switch)
        .into_iter()
        .map(|port| port.name)
        .collect();
    Invalid::new(format!(
        "there is no port {name}; there {} {}",
        if known.len() == 1 { "is" } else { "are" },
        known.join(", ")
    ))
}

/// Adds a static address.
pub fn add_fdb(config: &mut Config, switch: &str, entry: StaticFdb) -> Result<(), Invalid> {
    config.require_network(&entry.network)?;
    if entry.port != switch && config.port(&entry.port).is_none() {
        return Err(no_port(config, switch, &entry.port)
            .mend(format!("vnet-user port add {} …", entry.port)));
    }
    if let Some(old) = find_fdb(config, entry.mac, &entry.network) {
        return Err(
            Invalid::new(format!("it is there already, behind the port {}", old.port))
                .mend("delete it first, or say --may-exist"),
        );
    }
    config.static_fdb.push(entry);
    Ok(())
}

/// The static entry of `mac` in `network`.
#[must_use]
pub fn find_fdb<'a>(config: &'a Config, mac: MacAddr, network: &str) -> Option<&'a StaticFdb> {
    config
        .static_fdb
        .iter()
        .find(|entry| entry.mac == mac && entry.network == network)
}

/// Deletes a static address.
pub fn delete_fdb(config: &mut Config, mac: MacAddr, network: &str) -> Result<(), Invalid> {
    config.require_network(network).map_err(|refusal| Invalid {
        mend: None,
        ..refusal
    })?;
    if find_fdb(config, mac, network).is_none() {
        return Err(
            Invalid::new(format!("the network {network} has no static address {mac}"))
                .mend("learned addresses are forgotten by: vnet-user fdb flush"),
        );
    }
    config
        .static_fdb
        .retain(|entry| (entry.mac, entry.network.as_str()) != (mac, network));
    Ok(())
}

/// The rules that `uses` is true of, as texts.
fn nat_rules(config: &Config, uses: impl Fn(&NatAction) -> bool) -> impl Iterator<Item = String> {
    config
        .nat
        .iter()
        .filter(move |rule| uses(&rule.action))
        .map(ToString::to_string)
}

/// Adds a translation rule and returns its id: one above the highest there is, or the lowest that
/// is free where there is none above.
pub fn add_nat(config: &mut Config, action: NatAction) -> Result<u16, Invalid> {
    let taken = |id: &u16| config.nat.iter().any(|rule| rule.id == *id);
    let next = config
        .nat
        .iter()
        .map(|rule| rule.id)
        .max()
        .unwrap_or(0)
        .saturating_add(1);
    let last = (NAT_RULES - 1) as u16;
    let id = std::iter::once(next)
        .filter(|id| *id <= last)
        .chain(1..=last)
        .find(|id| !taken(id))
        .ok_or_else(|| {
            Invalid::new(format!("there are {last} rules, and no more are possible"))
                .mend("delete one first: vnet-user nat del ID")
        })?;
    config.nat.push(NatRule { id, action });
    Ok(id)
}

/// The rule with this id.
#[must_use]
pub fn find_nat(config: &Config, id: u16) -> Option<&NatRule> {
    config.nat.iter().find(|rule| rule.id == id)
}

/// Deletes a translation rule.
pub fn delete_nat(config: &mut Config, id: u16) -> Result<(), Invalid> {
    if find_nat(config, id).is_none() {
        return Err(no_nat(config, id));
    }
    config.nat.retain(|rule| rule.id != id);
    Ok(())
}

/// Refuses a rule that does not exist.
pub fn no_nat(config: &Config, id: u16) -> Invalid {
    let refusal = Invalid::new(format!("there is no rule {id}"));
    if config.nat.is_empty() {
        refusal
    } else {
        refusal.mend("vnet-user nat list shows the rules")
    }
}

/// Puts an address on the deny list, where it may be already.
pub fn deny_mac(config: &mut Config, mac: MacAddr) {
    if !config.mac_deny.contains(&mac) {
        config.mac_deny.push(mac);
    }
}

/// Takes an address off the deny list, where it may not be.
pub fn allow_mac(config: &mut Config, mac: MacAddr) {
    config.mac_deny.retain(|denied| *denied != mac);
}

impl Attachment {
    /// Whether `network` is named here.
    #[must_use]
    pub fn names(&self, network: &str) -> bool {
        match self {
            Self::Default => false,
            Self::Access(name) => name == network,
            Self::Trunk { networks, native } => {
                native.as_deref() == Some(network)
                    || networks.iter().any(|entry| entry.network == network)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Match, NatOptions, Profile};

    const SWITCH: &str = "vsw0";

    fn network(name: &str, vlan: Option<u16>) -> Network {
        Network {
            vlan,
            ..Network::new(name)
        }
    }

    fn trunk(entries: &[&str], native: Option<&str>) -> Attachment {
        Attachment::Trunk {
            networks: entries.iter().map(|entry| entry.parse().unwrap()).collect(),
            native: native.map(Into::into),
        }
    }

    fn entry(network: &str, port: &str) -> StaticFdb {
        StaticFdb {
            mac: MacAddr([2, 0, 0, 0, 0, 1]),
            network: network.into(),
            port: port.into(),
        }
    }

    /// `default`, `blue` (10), `red` (20); uplink `eth0`, `tap0` on `blue`, trunk `tap1`.
    fn config() -> Config {
        let tap0 = Port {
            attachment: Attachment::Access("blue".into()),
            ..Port::new("tap0")
        };
        let tap1 = Port {
            attachment: trunk(&["blue", "red=30"], Some("default")),
            ..Port::new("tap1")
        };
        let mut config = Config {
            networks: vec![network("blue", Some(10)), network("red", Some(20))],
            ports: vec![tap0, tap1],
            ..Config::default()
        };
        ensure_uplink(&mut config, SWITCH, "eth0").unwrap();
        config
    }

    #[test]
    fn a_network_in_use_stays() {
        let mut config = config();
        add_fdb(&mut config, SWITCH, entry("red", "eth0")).unwrap();
        let before = config.clone();
        let why = |result: Result<(), Invalid>| result.unwrap_err().why;
        assert_eq!(
            why(delete_network(&mut config, "blue")),
            "it is used by port tap0, port tap1"
        );
        assert_eq!(
            why(delete_network(&mut config, "red")),
            "it is used by port tap1, static address 02:00:00:00:00:01"
        );
        assert!(delete_network(&mut config, "default").is_err());
        assert!(delete_network(&mut config, "green").is_err());
        assert_eq!(config, before);
        // An uplink that says nothing carries it without naming it.
        add_network(&mut config, network("green", Some(40))).unwrap();
        delete_network(&mut config, "green").unwrap();
        assert_eq!(config, before);
    }

    #[test]
    fn an_address_that_is_made_is_nobody_elses() {
        let mut config = config();
        let mac = |last| MacAddr([2, 0, 0, 0, 0, last]);
        let port = |config: &mut Config, name: &str, macs| {
            let change = PortChange {
                macs: Some(macs),
                ..PortChange::default()
            };
            set_port(config, SWITCH, name, change).unwrap();
        };
        add_fdb(&mut config, SWITCH, entry("red", "tap1")).unwrap();
        port(&mut config, "tap0", vec![mac(2)]);
        port(&mut config, "tap1", vec![mac(3)]);
        deny_mac(&mut config, mac(4));
        config.profiles.push(Profile {
            name: "web".into(),
            matches: Match::default(),
            options: Port {
                macs: vec![mac(5)],
                ..Port::new("web")
            },
        });
        let made = |config, name| free_mac(config, name, (1..8).map(mac));
        assert_eq!(made(&config, "tap2"), Some(mac(6)));
        // Its own are no other's: the port gets the same one again.
        assert_eq!(made(&config, "tap0"), Some(mac(2)));
        assert_eq!(made(&config, "tap1"), Some(mac(1)));
        assert_eq!(free_mac(&config, "tap2", [mac(4)]), None);
    }

    #[test]
    fn a_port_with_static_addresses_stays() {
        let mut config = config();
        add_fdb(&mut config, SWITCH, entry("blue", "tap0")).unwrap();
        assert!(delete_port(&mut config, SWITCH, "tap0").is_err());
        assert!(delete_port(&mut config, SWITCH, SWITCH).is_err());
        delete_fdb(&mut config, MacAddr([2, 0, 0, 0, 0, 1]), "blue").unwrap();
        delete_port(&mut config, SWITCH, "tap0").unwrap();
        assert!(config.port("tap0").is_none());
    }

    #[test]
    fn an_uplink_is_added_once_and_never_reset() {
        let mut config = config();
        let to_access = PortChange {
            access: Some("blue".into()),
            ..PortChange::default()
        };
        set_port(&mut config, SWITCH, "eth0", to_access).unwrap();
        let before = config.clone();
        ensure_uplink(&mut config, SWITCH, "eth0").unwrap();
        assert_eq!(config, before);
        let refusal = ensure_uplink(&mut config, SWITCH, "tap0").unwrap_err();
        assert_eq!(
            refusal.mend.as_deref(),
            Some("vnet-user port set tap0 --uplink")
        );
    }

    #[test]
    fn set_changes_what_is_named() {
        let changed = |name: &str, change: PortChange| {
            let mut config = config();
            set_port(&mut config, SWITCH, name, change)
                .map(|()| config.port(name).cloned().unwrap())
        };
        let attachment =
            |name: &str, change: PortChange| changed(name, change).map(|port| port.attachment);
        let list =
            |entries: &[&str]| Some(entries.iter().map(|entry| entry.parse().unwrap()).collect());

        let change = PortChange {
            max_macs: Some(Some(4)),
            ..PortChange::default()
        };
        assert_eq!(
            changed("tap1", change),
            Ok(Port {
                max_macs: Some(4),
                ..config().port("tap1").cloned().unwrap()
            })
        );

        // A list is replaced as a whole; the native network is not part of it.
        let change = PortChange {
            trunk: list(&["red"]),
            ..PortChange::default()
        };
        assert_eq!(
            attachment("tap1", change),
            Ok(trunk(&["red"], Some("default")))
        );
        let change = PortChange {
            native: Some(None),
            ..PortChange::default()
        };
        assert_eq!(
            attachment("tap1", change),
            Ok(trunk(&["blue", "red=30"], None))
        );

        // --network and --trunk replace each other.
        let change = PortChange {
            access: Some("red".into()),
            ..PortChange::default()
        };
        assert_eq!(
            attachment("tap1", change),
            Ok(Attachment::Access("red".into()))
        );
        let change = PortChange {
            trunk: list(&["red"]),
            ..PortChange::default()
        };
        assert_eq!(attachment("tap0", change), Ok(trunk(&["red"], None)));

        let change = PortChange {
            native: Some(Some("red".into())),
            ..PortChange::default()
        };
        assert!(attachment("tap0", change).is_err());
    }

    #[test]
    fn the_switch_device_is_listed_with_its_first_change() {
        let mut config = config();
        assert!(add_port(&mut config, SWITCH, Port::new(SWITCH)).is_err());
        let change = PortChange {
            access: Some("blue".into()),
            ..PortChange::default()
        };
        set_port(&mut config, SWITCH, SWITCH, change).unwrap();
        let device = config.port(SWITCH).unwrap();
        assert_eq!(device.attachment, Attachment::Access("blue".into()));
        assert_eq!(config.all_ports(SWITCH)[0].name, SWITCH);
        assert_eq!(config.all_ports(SWITCH).len(), 4);
    }

    fn masquerade(network: &str, uplink: &str) -> NatAction {
        NatAction::Masquerade {
            network: network.into(),
            uplink: uplink.into(),
            options: NatOptions::default(),
        }
    }

    #[test]
    fn rules_have_ids_that_grow() {
        let mut config = Config::default();
        assert_eq!(add_nat(&mut config, masquerade("a", "b")), Ok(1));
        assert_eq!(add_nat(&mut config, masquerade("a", "c")), Ok(2));
        delete_nat(&mut config, 1).unwrap();
        assert!(delete_nat(&mut config, 1).is_err());
        assert_eq!(add_nat(&mut config, masquerade("a", "d")), Ok(3));
        config.nat[1].id = 16_383;
        assert_eq!(add_nat(&mut config, masquerade("a", "e")), Ok(1));
        assert_eq!(add_nat(&mut config, masquerade("a", "f")), Ok(3));
        config.nat = (1..16_384)
            .map(|id| NatRule {
                id,
                action: masquerade("a", "b"),
            })
            .collect();
        assert!(add_nat(&mut config, masquerade("a", "g")).is_err());
    }

    #[test]
    fn what_rules_use_stays() {
        let mut config = config();
        let lan = Network {
            gateway: vec!["10.0.0.1/24".parse().unwrap()],
            ..network("lan", None)
        };
        add_network(&mut config, lan).unwrap();
        add_nat(&mut config, masquerade("lan", "eth0")).unwrap();
        let web = NatAction::Dnat {
            tcp: true,
            udp: false,
            listen: "192.0.2.1".parse().unwrap(),
            listen_ports: "80".parse().unwrap(),
            to: "10.0.0.2".parse().unwrap(),
            to_ports: "80".parse().unwrap(),
            from: None,
            uplink: None,
        };
        add_nat(&mut config, web).unwrap();
        let before = config.clone();
        let why = |result: Result<(), Invalid>| result.unwrap_err().why;
        assert_eq!(
            why(delete_network(&mut config, "lan")),
            "it is used by masquerade rule 1, dnat rule 2"
        );
        assert_eq!(
            why(delete_port(&mut config, SWITCH, "eth0")),
            "it is used by masquerade rule 1"
        );
        assert_eq!(config, before);
        delete_nat(&mut config, 1).unwrap();
        delete_port(&mut config, SWITCH, "eth0").unwrap();
        delete_nat(&mut config, 2).unwrap();
        delete_network(&mut config, "lan").unwrap();
    }

    #[test]
    fn the_deny_list_is_a_set() {
        let mut config = Config::default();
        let mac = MacAddr([2, 0, 0, 0, 0, 1]);
        deny_mac(&mut config, mac);
        deny_mac(&mut config, mac);
        assert_eq!(config.mac_deny, [mac]);
        allow_mac(&mut config, mac);
        allow_mac(&mut config, mac);
        assert_eq!(config, Config::default());
    }
}
