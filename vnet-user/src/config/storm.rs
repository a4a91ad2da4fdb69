//! Limits of flooded traffic.

use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use vnet_common::StormKind;

/// Frames a second that a limit may allow.
pub const STORM_PPS: RangeInclusive<u32> = 1..=10_000_000;

/// How many frames of one kind a port may send. As text: a number of frames a second, with `/` and a
/// number of frames that may come at once where that is not one second's worth; or `off`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StormLimit {
    /// No limit.
    Off,
    /// At most so many.
    Rate(FrameRate),
}

/// A storm limit that is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameRate {
    /// Frames a second ([`STORM_PPS`]).
    pub pps: u32,
    /// Frames that may come at once, at least one; `None` is one second's worth.
    pub burst: Option<u16>,
}

impl StormLimit {
    /// So many frames a second, of which one second's worth may come at once.
    #[must_use]
    pub const fn pps(pps: u32) -> Self {
        Self::Rate(FrameRate { pps, burst: None })
    }

    /// The limit, if there is one.
    #[must_use]
    pub const fn rate(self) -> Option<FrameRate> {
        match self {
            Self::Off => None,
            Self::Rate(rate) => Some(rate),
        }
    }

    /// Why this cannot be a limit.
    pub fn check(self) -> Result<(), String> {
        match self.rate() {
            Some(rate) if !STORM_PPS.contains(&rate.pps) => Err(format!(
                "{self} is not a storm limit: use {} to {} frames a second, or off",
                STORM_PPS.start(),
                STORM_PPS.end()
            )),
            Some(FrameRate { burst: Some(0), .. }) => Err(format!(
                "{self} is not a storm limit: use 1 to {} frames at once",
                u16::MAX
            )),
            _ => Ok(()),
        }
    }
}

impl fmt::Display for StormLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off => f.write_str("off"),
            Self::Rate(FrameRate { pps, burst: None }) => pps.fmt(f),
            Self::Rate(FrameRate {
                pps,
                burst: Some(burst),
            }) => write!(f, "{pps}/{burst}"),
        }
    }
}

impl FromStr for StormLimit {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "off" {
            return Ok(Self::Off);
        }
        let (pps, burst) = match text.split_once('/') {
            Some((pps, burst)) => (pps, Some(burst)),
            None => (text, None),
        };
        let burst = burst.map(str::parse).transpose().map_err(|_| {
            format!(
                "{text:?} is not a storm limit: use 1 to {} frames at once",
                u16::MAX
            )
        })?;
        let pps = pps.parse().map_err(|_| {
            format!("{text:?} is not a storm limit: use a number of frames a second, or off")
        })?;
        let limit = Self::Rate(FrameRate { pps, burst });
        limit.check().map(|()| limit)
    }
}

impl Serialize for StormLimit {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Rate(FrameRate { pps, burst: None }) => serializer.serialize_u32(*pps),
            Self::Off | Self::Rate(_) => serializer.collect_str(self),
        }
    }
}

impl<'de> Deserialize<'de> for StormLimit {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl de::Visitor<'_> for Visitor {
            type Value = StormLimit;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number of frames a second, \"PPS/BURST\", or \"off\"")
            }

            fn visit_i64<E: de::Error>(self, pps: i64) -> Result<StormLimit, E> {
                u32::try_from(pps)
                    .map(StormLimit::pps)
                    .map_err(|_| E::invalid_value(de::Unexpected::Signed(pps), &self))
            }

            fn visit_u64<E: de::Error>(self, pps: u64) -> Result<StormLimit, E> {
                u32::try_from(pps)
                    .map(StormLimit::pps)
                    .map_err(|_| E::invalid_value(de::Unexpected::Unsigned(pps), &self))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<StormLimit, E> {
                text.parse().map_err(E::custom)
            }
        }

        deserializer.deserialize_any(Visitor)
    }
}

/// The limits of one port, or the defaults of a switch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct StormLimits {
    /// Frames to ff:ff:ff:ff:ff:ff.
    pub broadcast: StormLimit,
    /// Frames to any other group address.
    pub multicast: StormLimit,
    /// Frames to unicast addresses that are not in the FDB.
    pub unknown_unicast: StormLimit,
    /// ARP, whomever it is to.
    pub arp: StormLimit,
    /// Neighbour discovery, whomever it is to.
    pub nd: StormLimit,
}

/// What a port says about its limits; where it says nothing the switch's default applies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct StormOverrides {
    /// Frames to ff:ff:ff:ff:ff:ff.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub broadcast: Option<StormLimit>,
    /// Frames to any other group address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub multicast: Option<StormLimit>,
    /// Frames to unicast addresses that are not in the FDB.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unknown_unicast: Option<StormLimit>,
    /// ARP, whomever it is to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub arp: Option<StormLimit>,
    /// Neighbour discovery, whomever it is to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nd: Option<StormLimit>,
}

impl StormOverrides {
    /// Whether the port says nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// The limits in force, given the switch's defaults.
    #[must_use]
    pub fn over(&self, defaults: StormLimits) -> StormLimits {
        StormLimits {
            broadcast: self.broadcast.unwrap_or(defaults.broadcast),
            multicast: self.multicast.unwrap_or(defaults.multicast),
            unknown_unicast: self.unknown_unicast.unwrap_or(defaults.unknown_unicast),
            arp: self.arp.unwrap_or(defaults.arp),
            nd: self.nd.unwrap_or(defaults.nd),
        }
    }

    /// The limit of one kind, to change it.
    pub fn get_mut(&mut self, kind: StormKind) -> &mut Option<StormLimit> {
        match kind {
            StormKind::Broadcast => &mut self.broadcast,
            StormKind::Multicast => &mut self.multicast,
            StormKind::UnknownUnicast => &mut self.unknown_unicast,
            StormKind::Arp => &mut self.arp,
            StormKind::Nd => &mut self.nd,
        }
    }

    /// Each kind's word in the document and what the port says about it.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, Option<StormLimit>)> {
        [
            ("broadcast", self.broadcast),
            ("multicast", self.multicast),
            ("unknown_unicast", self.unknown_unicast),
            ("arp", self.arp),
            ("nd", self.nd),
        ]
        .into_iter()
    }
}
