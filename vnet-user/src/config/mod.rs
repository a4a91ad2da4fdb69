//! A switch's configuration: what the document says, checked.
//!
//! [`Config`] is the meaning, `document` its spelling in TOML, [`Store`] the file with its lock and
//! its transaction, [`edits`] the verbs that change it.

mod ban;
mod carried;
mod checkpoints;
pub mod dhcp;
pub mod diff;
mod document;
pub mod edits;
mod guard;
mod invalid;
mod mac_addr;
mod merge;
pub mod names;
pub mod nat;
mod pending;
pub mod policy;
mod profile;
#[cfg(test)]
mod properties;
#[cfg(test)]
mod schema;
mod settings;
mod source;
mod staged;
mod store;
mod storm;
mod timeouts;
mod typed;
mod validate;

use std::fmt;
use std::str::FromStr;

use clap::ValueEnum;
use ipnet::IpNet;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

pub use ban::{BAN_CONNECTIONS, BAN_TIME, BanRule};
pub use carried::{Carried, CarriedNetwork};
pub use checkpoints::{Checkpoint, Checkpoints, KEPT};
pub use dhcp::DhcpRange;
pub(crate) use document::alike;
pub use guard::{Guard, PortIp};
pub use invalid::{Invalid, Place};
pub use mac_addr::MacAddr;
pub use names::DEFAULT_NETWORK;
pub use nat::{
    AddrRange, Endpoint, Filtering, Mapping, NatAction, NatOptions, NatRule, NatSection, PortRange,
    Prefix, Protocols,
};
pub use pending::Pending;
pub use policy::{Direction, Group, GroupDefault, PolicyAction, PolicyRule, Proto, Remote};
pub use profile::{Match, Pattern, Profile};
pub use settings::{Assignment, MssClamp, SETTING_KEYS, SettingKey, SettingValue, Settings};
pub use source::{DOCUMENT_MAX, Source};
pub use store::{Edited, Lock, Store};
pub use storm::{FrameRate, StormLimit, StormLimits, StormOverrides};
pub use timeouts::TimeoutPreset;
pub use validate::MAX_MACS_LIMIT;

/// Where frames of an uplink are handled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub enum Mode {
    /// XDP where it is native and safe, else TC.
    #[default]
    Auto,
    /// TC only.
    Tc,
    /// XDP on every uplink, or `up` fails.
    Xdp,
}

/// What becomes of traffic when vnet's programs are gone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub enum FailMode {
    /// Open while the switch has one network and promises nothing, else closed.
    #[default]
    Auto,
    /// The plain bridge forwards.
    Open,
    /// Nothing is forwarded.
    Closed,
}

/// One switch's configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// Where frames of uplinks are handled.
    pub mode: Mode,
    /// What becomes of traffic when vnet's programs are gone.
    pub fail: FailMode,
    /// Ageing, table sizes, default limits.
    pub settings: Settings,
    /// The networks that the document lists. [`DEFAULT_NETWORK`] exists without being here; when it
    /// is here, it is for its MTU.
    pub networks: Vec<Network>,
    /// The ports that the document lists. The switch device is a port without being here; when it
    /// is here, it is for its options.
    pub ports: Vec<Port>,
    /// What ports are to be that are not listed, the first that matches.
    pub profiles: Vec<Profile>,
    /// Static FDB entries.
    pub static_fdb: Vec<StaticFdb>,
    /// Addresses that may be neither source nor destination.
    pub mac_deny: Vec<MacAddr>,
    /// Address translation.
    pub nat: Vec<NatRule>,
    /// Security groups.
    pub groups: Vec<Group>,
    /// Rules that ban who connects too often.
    pub bans: Vec<BanRule>,
}

/// A broadcast domain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Network {
    /// Its name.
    pub name: String,
    /// The tag it has on trunks that do not say otherwise, 1 to 4094.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, schemars(range(min = 1, max = 4094)))]
    pub vlan: Option<u16>,
    /// Its MTU in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, schemars(range(min = 68, max = 65535)))]
    pub mtu: Option<u32>,
    /// The host's addresses in it, with their prefixes: what its VMs use as gateway.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(test, schemars(with = "Vec<String>"))]
    pub gateway: Vec<IpNet>,
    /// Addresses that its VMs are leased, `LO-HI`, by the daemon.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(test, schemars(with = "Vec<String>"))]
    pub dhcp: Vec<DhcpRange>,
}

impl Network {
    /// A network about which nothing is said but its name.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            vlan: None,
            mtu: None,
            gateway: Vec::new(),
            dhcp: Vec::new(),
        }
    }
}

/// An interface of the switch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// The interface's name ([`names::check_iface`]).
    pub name: String,
    /// Whether a physical network is behind it, not a VM.
    pub uplink: bool,
    /// Which networks it carries.
    pub attachment: Attachment,
    /// Sources that may send; empty: any.
    pub macs: Vec<MacAddr>,
    /// Most addresses learned here, 0 is no limit; `None`: the switch's default for VM ports, no
    /// limit for others.
    pub max_macs: Option<u32>,
    /// IP addresses that may send; empty: any.
    pub ips: Vec<PortIp>,
    /// What else is checked of what it sends.
    pub guard: Guard,
    /// Whether it is kept apart from other VMs' ports.
    pub isolated: bool,
    /// What it says about its storm limits.
    pub storm: StormOverrides,
    /// Security groups that it is bound to; empty: it is not filtered.
    pub groups: Vec<String>,
}

impl Port {
    /// A port about which nothing is said but its name.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            uplink: false,
            attachment: Attachment::Default,
            macs: Vec::new(),
            max_macs: None,
            ips: Vec::new(),
            guard: Guard::default(),
            isolated: false,
            storm: StormOverrides::default(),
            groups: Vec::new(),
        }
    }
}

/// Which networks a port carries.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Attachment {
    /// Nothing said: [`DEFAULT_NETWORK`]; on an uplink also every network that has a VLAN id.
    #[default]
    Default,
    /// One network, untagged.
    Access(String),
    /// Several networks.
    Trunk {
        /// Those that are listed. The native one may be among them.
        networks: Vec<TrunkEntry>,
        /// The one that goes untagged; without it, untagged frames are dropped.
        native: Option<String>,
    },
}

/// One network of a trunk. As text: `NAME` or `NAME=VID`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrunkEntry {
    /// The network's name.
    pub network: String,
    /// Its tag on this port, where it is not the network's own.
    pub vid: Option<u16>,
}

impl fmt::Display for TrunkEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.network)?;
        match self.vid {
            Some(vid) => write!(f, "={vid}"),
            None => Ok(()),
        }
    }
}

impl FromStr for TrunkEntry {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (network, vid) = match text.split_once('=') {
            Some((network, vid)) => (network, Some(names::parse_vlan(vid)?)),
            None => (text, None),
        };
        Ok(Self {
            network: names::parse_network(network)?,
            vid,
        })
    }
}

impl Serialize for TrunkEntry {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for TrunkEntry {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(de::Error::custom)
    }
}

/// A static FDB entry: frames for `mac` in `network` go to `port`, and nowhere else may send as
/// `mac`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct StaticFdb {
    /// The address.
    pub mac: MacAddr,
    /// The network it is in.
    pub network: String,
    /// The port it is behind.
    pub port: String,
}

impl Config {
    /// Every network's name: [`DEFAULT_NETWORK`] first, then the document's order.
    pub fn network_names(&self) -> impl Iterator<Item = &str> {
        std::iter::once(DEFAULT_NETWORK).chain(
            self.networks
                .iter()
                .map(|network| network.name.as_str())
                .filter(|name| *name != DEFAULT_NETWORK),
        )
    }

    /// The network called `name`; [`DEFAULT_NETWORK`] always exists.
    #[must_use]
    pub fn network(&self, name: &str) -> Option<Network> {
        let listed = self.networks.iter().find(|network| network.name == name);
        listed
            .cloned()
            .or_else(|| (name == DEFAULT_NETWORK).then(|| Network::new(DEFAULT_NETWORK)))
    }

    /// The VLAN id of the network called `name`, where it exists and has one.
    #[must_use]
    pub fn vlan(&self, name: &str) -> Option<u16> {
        self.networks
            .iter()
            .find(|network| network.name == name)
            .and_then(|network| network.vlan)
    }

    /// The port that an interface becomes which is adopted, and the profile that makes it that.
    #[must_use]
    pub fn adopted(&self, name: &str, mac: vnet_common::Mac) -> Option<(Port, &Profile)> {
        let profile = self
            .profiles
            .iter()
            .find(|profile| profile.matches.is_met(name, mac))?;
        Some((profile.port(name), profile))
    }

    /// The port called `name` that the document lists.
    #[must_use]
    pub fn port(&self, name: &str) -> Option<&Port> {
        self.ports.iter().find(|port| port.name == name)
    }

    /// Every port: the switch device first, listed or not, then the others in the document's order.
    #[must_use]
    pub fn all_ports(&self, switch: &str) -> Vec<Port> {
        let device = self.port(switch).cloned();
        let others = self.ports.iter().filter(|port| port.name != switch);
        std::iter::once(device.unwrap_or_else(|| Port::new(switch)))
            .chain(others.cloned())
            .collect()
    }

    /// Most addresses learned at `port`, 0 is no limit: what it says, else the setting for a VM's
    /// port and no limit for an uplink and for the switch device.
    #[must_use]
    pub fn max_macs(&self, port: &Port, switch: &str) -> u32 {
        match port.max_macs {
            Some(limit) => limit,
            None if port.uplink || port.name == switch => 0,
            None => self.settings.max_macs,
        }
    }
}
