//! How long connections live without a packet.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use vnet_common::FlowTimeouts;

/// Most seconds of a timeout.
pub const TIMEOUT_MAX: u32 = 2_147_483_647;

/// A value for every timeout.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum TimeoutPreset {
    /// What the RFCs ask for (see [`FlowTimeouts`]).
    Rfc,
    /// What Linux's conntrack has (Linux 6.12, net/netfilter/nf_conntrack_proto_*.c).
    Linux,
    /// None of the presets. It cannot be set.
    Custom,
}

impl TimeoutPreset {
    /// The timeouts that the RFCs ask for.
    pub const RFC: FlowTimeouts = FlowTimeouts {
        tcp_transitory: 240,
        tcp_established: 7440,
        tcp_closing: 240,
        tcp_time_wait: 240,
        udp: 300,
        udp_one_way: 120,
        icmp: 60,
        other: 600,
    };

    /// The timeouts of Linux's conntrack.
    pub const LINUX: FlowTimeouts = FlowTimeouts {
        tcp_transitory: 120,
        tcp_established: 432_000,
        tcp_closing: 120,
        tcp_time_wait: 120,
        udp: 120,
        udp_one_way: 30,
        icmp: 30,
        other: 600,
    };

    /// The preset that `timeouts` are.
    #[must_use]
    pub fn of(timeouts: &FlowTimeouts) -> Self {
        [Self::Rfc, Self::Linux]
            .into_iter()
            .find(|preset| preset.timeouts().as_ref() == Some(timeouts))
            .unwrap_or(Self::Custom)
    }

    /// Its values.
    #[must_use]
    pub fn timeouts(self) -> Option<FlowTimeouts> {
        match self {
            Self::Rfc => Some(Self::RFC),
            Self::Linux => Some(Self::LINUX),
            Self::Custom => None,
        }
    }
}

impl fmt::Display for TimeoutPreset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Rfc => "rfc",
            Self::Linux => "linux",
            Self::Custom => "custom",
        })
    }
}

impl FromStr for TimeoutPreset {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "rfc" => Ok(Self::Rfc),
            "linux" => Ok(Self::Linux),
            _ => Err(format!(
                "{text:?} is no set of timeouts: use rfc or linux, or set one as timeouts.udp=60"
            )),
        }
    }
}

/// The timeouts as the document holds them: only those that differ from the defaults.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct TimeoutOverrides {
    #[serde(skip_serializing_if = "Option::is_none")]
    tcp_transitory: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tcp_established: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tcp_closing: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tcp_time_wait: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    udp: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    udp_one_way: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    icmp: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    other: Option<u32>,
}

impl TimeoutOverrides {
    /// Whether every timeout has its default.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// The timeouts in force.
    #[must_use]
    pub fn over(&self, defaults: FlowTimeouts) -> FlowTimeouts {
        FlowTimeouts {
            tcp_transitory: self.tcp_transitory.unwrap_or(defaults.tcp_transitory),
            tcp_established: self.tcp_established.unwrap_or(defaults.tcp_established),
            tcp_closing: self.tcp_closing.unwrap_or(defaults.tcp_closing),
            tcp_time_wait: self.tcp_time_wait.unwrap_or(defaults.tcp_time_wait),
            udp: self.udp.unwrap_or(defaults.udp),
            udp_one_way: self.udp_one_way.unwrap_or(defaults.udp_one_way),
            icmp: self.icmp.unwrap_or(defaults.icmp),
            other: self.other.unwrap_or(defaults.other),
        }
    }
}

impl From<&FlowTimeouts> for TimeoutOverrides {
    fn from(timeouts: &FlowTimeouts) -> Self {
        let differing = |value: u32, default: u32| (value != default).then_some(value);
        let default = TimeoutPreset::RFC;
        Self {
            tcp_transitory: differing(timeouts.tcp_transitory, default.tcp_transitory),
            tcp_established: differing(timeouts.tcp_established, default.tcp_established),
            tcp_closing: differing(timeouts.tcp_closing, default.tcp_closing),
            tcp_time_wait: differing(timeouts.tcp_time_wait, default.tcp_time_wait),
            udp: differing(timeouts.udp, default.udp),
            udp_one_way: differing(timeouts.udp_one_way, default.udp_one_way),
            icmp: differing(timeouts.icmp, default.icmp),
            other: differing(timeouts.other, default.other),
        }
    }
}
