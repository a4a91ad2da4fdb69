//! Address translation as the document says it: rules by id.

mod check;
mod section;
mod text;

use std::fmt;
use std::net::IpAddr;

use clap::ValueEnum;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{Config, Network};

pub use section::NatSection;
pub use text::{Endpoint, Prefix, Protocols};

/// One rule.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "NatSection")]
pub struct NatRule {
    /// Its id, 1 to [`vnet_common::nat::NAT_RULES`] less one; given once and kept.
    pub id: u16,
    /// What it does.
    pub action: NatAction,
}

/// What a rule does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NatAction {
    /// Sources of a network become the uplink's own address.
    Masquerade {
        /// The network; it has a gateway.
        network: String,
        /// The way out: an uplink outside the switch device, or the switch device.
        uplink: String,
        /// How it maps.
        options: NatOptions,
    },
    /// Sources become addresses of a pool.
    Snat {
        /// The sources.
        source: IpNet,
        /// The pool.
        to: AddrRange,
        /// The way out.
        uplink: String,
        /// How it maps.
        options: NatOptions,
    },
    /// A destination address and port leads to a VM.
    Dnat {
        /// TCP.
        tcp: bool,
        /// UDP.
        udp: bool,
        /// The external address.
        listen: IpAddr,
        /// Its ports.
        listen_ports: PortRange,
        /// The VM's address.
        to: IpAddr,
        /// Its ports: as many as `listen_ports`, or one.
        to_ports: PortRange,
        /// The only sources it is for.
        from: Option<IpNet>,
        /// The only way in; the one that holds the address otherwise.
        uplink: Option<String>,
    },
    /// An external address or prefix stands for an internal one.
    Static {
        /// Outside.
        external: IpNet,
        /// Inside; as long a prefix.
        internal: IpNet,
        /// The way out; any otherwise.
        uplink: Option<String>,
    },
}

/// How sources are mapped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NatOptions {
    /// External ports; [`PortRange::EXTERNAL`] unless said.
    pub ports: Option<PortRange>,
    /// Which connections share a mapping.
    pub mapping: Mapping,
    /// Who may answer.
    pub filtering: Filtering,
    /// Ports that a VM gets at a time.
    pub block_size: Option<u16>,
}

/// Which connections share a mapping (RFC 4787, 4.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub enum Mapping {
    /// All from one internal address and port: endpoint-independent.
    #[default]
    Eim,
    /// None.
    Symmetric,
}

/// Who may send to a mapping (RFC 4787, 5).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub enum Filtering {
    /// Everybody: endpoint-independent.
    Eif,
    /// Addresses it has sent to: address-dependent.
    #[default]
    Adf,
    /// Addresses and ports it has sent to: address and port-dependent.
    Apdf,
}

/// Addresses from the first to the last, of one family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddrRange {
    /// The first.
    pub first: IpAddr,
    /// The last.
    pub last: IpAddr,
}

/// Ports from the first to the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PortRange {
    /// The first.
    pub first: u16,
    /// The last.
    pub last: u16,
}

impl PortRange {
    /// External ports of a rule that does not say which.
    pub const EXTERNAL: Self = Self {
        first: 1024,
        last: 65_535,
    };

    /// How many ports it is.
    #[must_use]
    pub fn count(self) -> u32 {
        u32::from(self.last).saturating_sub(u32::from(self.first)) + 1
    }

    /// Whether a port is in both.
    #[must_use]
    pub fn overlaps(self, other: Self) -> bool {
        self.first <= other.last && other.first <= self.last
    }
}

impl AddrRange {
    /// Whether `addr` is one of them.
    #[must_use]
    pub fn contains(self, addr: IpAddr) -> bool {
        same_family(self.first, addr) && self.first <= addr && addr <= self.last
    }

    /// Whether an address is in both.
    #[must_use]
    pub fn overlaps(self, other: Self) -> bool {
        same_family(self.first, other.first) && self.first <= other.last && other.first <= self.last
    }

    /// The addresses of a prefix.
    #[must_use]
    pub fn of(prefix: IpNet) -> Self {
        Self {
            first: prefix.network(),
            last: prefix.broadcast(),
        }
    }
}

impl NatAction {
    /// The word for what it does, as in `nat add WORD`.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Masquerade { .. } => "masquerade",
            Self::Snat { .. } => "snat",
            Self::Dnat { .. } => "dnat",
            Self::Static { .. } => "static",
        }
    }

    /// The way out or in that it names.
    #[must_use]
    pub fn uplink(&self) -> Option<&str> {
        match self {
            Self::Masquerade { uplink, .. } | Self::Snat { uplink, .. } => Some(uplink),
            Self::Dnat { uplink, .. } | Self::Static { uplink, .. } => uplink.as_deref(),
        }
    }
}

impl fmt::Display for NatRule {
    /// "masquerade rule 1".
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} rule {}", self.action.kind(), self.id)
    }
}

impl Config {
    /// The network whose gateway's prefix `prefix` is in, and the gateway.
    #[must_use]
    pub fn network_of(&self, prefix: IpNet) -> Option<(&Network, IpNet)> {
        self.networks.iter().find_map(|network| {
            let gateway = network.gateway.iter();
            gateway
                .copied()
                .find(|gateway| gateway.contains(&prefix))
                .map(|gateway| (network, gateway))
        })
    }

    /// Whether a rule needs the network called `name`: its sources are there, or it leads there.
    #[must_use]
    pub fn leads_into(&self, action: &NatAction, name: &str) -> bool {
        let inside = match action {
            NatAction::Masquerade { network, .. } => return network == name,
            NatAction::Snat { .. } => return false,
            NatAction::Dnat { to, .. } => IpNet::from(*to),
            NatAction::Static { internal, .. } => *internal,
        };
        self.network_of(inside)
            .is_some_and(|(network, _)| network.name == name)
    }
}

/// Whether both are IPv4 or both are IPv6.
#[must_use]
pub fn same_family(a: IpAddr, b: IpAddr) -> bool {
    a.is_ipv4() == b.is_ipv4()
}
