//! The switch's settings: their keys, defaults and ranges, declared once for `set`, `get` and the
//! document.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use vnet_common::FlowTimeouts;

use super::storm::{StormLimit, StormLimits};
use super::timeouts::{TIMEOUT_MAX, TimeoutOverrides, TimeoutPreset};

/// Most ports that a switch may be given room for.
pub const MAX_PORTS_LIMIT: u32 = 4096;

/// Most connections that a switch may be given room for.
pub const FLOW_SIZE_MAX: u32 = 4_194_304;

/// Values that are not a port's or a network's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Seconds after which an address that is not seen is forgotten.
    pub ageing: u32,
    /// Most addresses in the FDB.
    pub fdb_size: u32,
    /// Most ports; a power of two.
    pub max_ports: u32,
    /// Most addresses learned at a VM port that does not say otherwise; 0 is no limit.
    pub max_macs: u32,
    /// Storm limits of a port that does not say otherwise.
    pub storm: StormLimits,
    /// Most connections in the flow table.
    pub flow_size: u32,
    /// Most connections of one VM's port; 0 is a quarter of the table.
    pub flow_quota: u32,
    /// Connections a second that one VM's port begins at most; 0 is no limit.
    pub flow_rate: u32,
    /// Connections a second that one source begins at most; 0 is no limit.
    pub source_flow_rate: u32,
    /// Most connections of one source; 0 is no limit.
    pub source_flow_quota: u32,
    /// How long connections live without a packet.
    pub timeouts: FlowTimeouts,
    /// TCP connections are taken up in their middle.
    pub mid_stream: bool,
    /// TCP maximum segment size: 0 leaves it alone, 1 makes it fit the way out's MTU, more is the
    /// most it may be.
    pub mss_clamp: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            ageing: 300,
            fdb_size: 65_536,
            max_ports: 1024,
            max_macs: 1024,
            storm: StormLimits {
                broadcast: StormLimit::pps(1000),
                multicast: StormLimit::pps(10_000),
                unknown_unicast: StormLimit::pps(2000),
                arp: StormLimit::pps(1000),
                nd: StormLimit::pps(1000),
            },
            flow_size: 262_144,
            flow_quota: 0,
            flow_rate: 0,
            source_flow_rate: 0,
            source_flow_quota: 0,
            timeouts: TimeoutPreset::RFC,
            mid_stream: false,
            mss_clamp: 0,
        }
    }
}

/// A setting's value, whatever its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum SettingValue {
    /// A plain number.
    Number(u32),
    /// A storm limit.
    Storm(StormLimit),
    /// `on` or `off`.
    Switch(bool),
    /// What becomes of TCP's maximum segment size.
    Mss(MssClamp),
    /// All timeouts at once.
    Timeouts(TimeoutPreset),
}

impl std::fmt::Display for SettingValue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Number(number) => number.fmt(f),
            Self::Storm(limit) => limit.fmt(f),
            Self::Switch(on) => f.write_str(if *on { "on" } else { "off" }),
            Self::Mss(clamp) => clamp.fmt(f),
            Self::Timeouts(preset) => preset.fmt(f),
        }
    }
}

/// Maximum segment sizes that TCP may be held to: from what every host takes (RFC 9293, 3.7.1) to
/// what fits the largest packet.
const MSS: std::ops::RangeInclusive<u32> = 536..=65_495;

/// What becomes of TCP's maximum segment size. As text: `off`, `auto` or a number of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MssClamp {
    /// It is left alone.
    Off,
    /// It fits the MTU of the way out.
    Auto,
    /// It is no more than this many bytes.
    Most(u32),
}

impl MssClamp {
    /// From [`Settings::mss_clamp`].
    #[must_use]
    pub fn from_number(number: u32) -> Self {
        match number {
            0 => Self::Off,
            1 => Self::Auto,
            most => Self::Most(most),
        }
    }

    /// As in [`Settings::mss_clamp`].
    #[must_use]
    pub fn number(self) -> u32 {
        match self {
            Self::Off => 0,
            Self::Auto => 1,
            Self::Most(most) => most,
        }
    }

    /// Why this cannot be.
    pub fn check(self) -> Result<(), String> {
        match self {
            Self::Most(most) if !MSS.contains(&most) => Err(format!(
                "{most} is not a maximum segment size: use {} to {} bytes, auto, or off",
                MSS.start(),
                MSS.end()
            )),
            _ => Ok(()),
        }
    }
}

impl std::fmt::Display for MssClamp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Off => f.write_str("off"),
            Self::Auto => f.write_str("auto"),
            Self::Most(most) => most.fmt(f),
        }
    }
}

impl std::str::FromStr for MssClamp {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let clamp = match text {
            "off" => Self::Off,
            "auto" => Self::Auto,
            _ => Self::Most(text.parse().map_err(|_| {
                format!("{text:?} is not a maximum segment size: use a number, auto, or off")
            })?),
        };
        clamp.check().map(|()| clamp)
    }
}

impl Serialize for MssClamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Most(most) => serializer.serialize_u32(*most),
            word => serializer.collect_str(word),
        }
    }
}

impl<'de> Deserialize<'de> for MssClamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Spelling {
            Number(u32),
            Word(String),
        }
        let clamp = match Spelling::deserialize(deserializer) {
            Ok(Spelling::Number(most)) => Self::Most(most),
            Ok(Spelling::Word(word)) => return word.parse().map_err(de::Error::custom),
            Err(_) => {
                return Err(de::Error::custom(
                    "a maximum segment size is a number, \"auto\" or \"off\"",
                ));
            }
        };
        clamp.check().map(|()| clamp).map_err(de::Error::custom)
    }
}

/// Where a setting lives and which values it takes.
#[derive(Clone, Copy)]
enum Field {
    Number {
        field: fn(&mut Settings) -> &mut u32,
        min: u32,
        max: u32,
        power_of_two: bool,
    },
    Storm(fn(&mut Settings) -> &mut StormLimit),
    Switch(fn(&mut Settings) -> &mut bool),
    Mss,
    Timeouts,
}

/// A timeout's key.
const fn timeout(
    name: &'static str,
    description: &'static str,
    field: fn(&mut Settings) -> &mut u32,
) -> SettingKey {
    SettingKey {
        name,
        description,
        needs_restart: false,
        field: Field::Number {
            field,
            min: 1,
            max: TIMEOUT_MAX,
            power_of_two: false,
        },
    }
}

/// One key of `set` and `get`.
pub struct SettingKey {
    /// As it is typed.
    pub name: &'static str,
    /// What it is, its unit and its range, in a sentence.
    pub description: &'static str,
    /// Whether it is the size of a table, which changes only by `down` and `up`.
    pub needs_restart: bool,
    field: Field,
}

/// Every key, in the order of listings.
pub static SETTING_KEYS: [SettingKey; 25] = [
    SettingKey {
        name: "ageing",
        description: "seconds until an unseen address is forgotten, 10 to 86400",
        needs_restart: false,
        field: Field::Number {
            field: |settings| &mut settings.ageing,
            min: 10,
            max: 86_400,
            power_of_two: false,
        },
    },
    SettingKey {
        name: "fdb_size",
        description: "most addresses in the FDB, 1024 to 1000000; changes by down and up",
        needs_restart: true,
        field: Field::Number {
            field: |settings| &mut settings.fdb_size,
            min: 1024,
            max: 1_000_000,
            power_of_two: false,
        },
    },
    SettingKey {
        name: "max_ports",
        description: "most ports, a power of two from 64 to 4096; changes by down and up",
        needs_restart: true,
        field: Field::Number {
            field: |settings| &mut settings.max_ports,
            min: 64,
            max: MAX_PORTS_LIMIT,
            power_of_two: true,
        },
    },
    SettingKey {
        name: "max_macs",
        description: "most addresses learned at a VM port without --max-macs, 0 is no limit",
        needs_restart: false,
        field: Field::Number {
            field: |settings| &mut settings.max_macs,
            min: 0,
            max: 1_000_000,
            power_of_two: false,
        },
    },
    SettingKey {
        name: "storm.broadcast",
        description: "broadcast frames a second from a port without --storm, or off",
        needs_restart: false,
        field: Field::Storm(|settings| &mut settings.storm.broadcast),
    },
    SettingKey {
        name: "storm.multicast",
        description: "multicast frames a second from a port without --storm, or off",
        needs_restart: false,
        field: Field::Storm(|settings| &mut settings.storm.multicast),
    },
    SettingKey {
        name: "storm.unknown_unicast",
        description: "flooded unicast frames a second from a port without --storm, or off",
        needs_restart: false,
        field: Field::Storm(|settings| &mut settings.storm.unknown_unicast),
    },
    SettingKey {
        name: "storm.arp",
        description: "ARP packets a second from a VM port without --storm, or off",
        needs_restart: false,
        field: Field::Storm(|settings| &mut settings.storm.arp),
    },
    SettingKey {
        name: "storm.nd",
        description: "neighbour discovery packets a second from a VM port without --storm, or off",
        needs_restart: false,
        field: Field::Storm(|settings| &mut settings.storm.nd),
    },
    SettingKey {
        name: "flow_size",
        description: "most connections, 1024 to 4194304; changes by down and up",
        needs_restart: true,
        field: Field::Number {
            field: |settings| &mut settings.flow_size,
            min: 1024,
            max: FLOW_SIZE_MAX,
            power_of_two: false,
        },
    },
    SettingKey {
        name: "flow_quota",
        description: "most connections of one VM's port, 0 is a quarter of flow_size",
        needs_restart: false,
        field: Field::Number {
            field: |settings| &mut settings.flow_quota,
            min: 0,
            max: FLOW_SIZE_MAX,
            power_of_two: false,
        },
    },
    SettingKey {
        name: "flow_rate",
        description: "connections a second that one VM begins at most, a second's worth at once; 0 is no limit",
        needs_restart: false,
        field: Field::Number {
            field: |settings| &mut settings.flow_rate,
            min: 0,
            max: 1_000_000,
            power_of_two: false,
        },
    },
    SettingKey {
        name: "source_flow_rate",
        description: "connections a second that one source address begins at most, a second's worth at once; 0 is no limit",
        needs_restart: false,
        field: Field::Number {
            field: |settings| &mut settings.source_flow_rate,
            min: 0,
            max: 1_000_000,
            power_of_two: false,
        },
    },
    SettingKey {
        name: "source_flow_quota",
        description: "most connections of one source address, 0 is no limit",
        needs_restart: false,
        field: Field::Number {
            field: |settings| &mut settings.source_flow_quota,
            min: 0,
            max: FLOW_SIZE_MAX,
            power_of_two: false,
        },
    },
    // Before those that it sets, so that they may be set together.
    SettingKey {
        name: "timeouts",
        description: "all of timeouts.* at once: rfc, or linux as conntrack has them",
        needs_restart: false,
        field: Field::Timeouts,
    },
    timeout(
        "timeouts.tcp_transitory",
        "seconds of a TCP connection that is being opened (RFC 5382: 240 or more)",
        |settings| &mut settings.timeouts.tcp_transitory,
    ),
    timeout(
        "timeouts.tcp_established",
        "seconds of an idle TCP connection (RFC 5382: 7440 or more)",
        |settings| &mut settings.timeouts.tcp_established,
    ),
    timeout(
        "timeouts.tcp_closing",
        "seconds of a TCP connection that is being closed (RFC 5382: 240 or more)",
        |settings| &mut settings.timeouts.tcp_closing,
    ),
    timeout(
        "timeouts.tcp_time_wait",
        "seconds of a TCP connection that is closed",
        |settings| &mut settings.timeouts.tcp_time_wait,
    ),
    timeout(
        "timeouts.udp",
        "seconds of idle UDP that was answered (RFC 4787: 120 or more, better 300)",
        |settings| &mut settings.timeouts.udp,
    ),
    timeout(
        "timeouts.udp_one_way",
        "seconds of UDP that was not answered (RFC 4787: 120 or more)",
        |settings| &mut settings.timeouts.udp_one_way,
    ),
    timeout(
        "timeouts.icmp",
        "seconds of idle ICMP queries (RFC 5508: 60 or more)",
        |settings| &mut settings.timeouts.icmp,
    ),
    timeout(
        "timeouts.other",
        "seconds of other protocols without a packet",
        |settings| &mut settings.timeouts.other,
    ),
    SettingKey {
        name: "mid_stream",
        description: "TCP connections are taken up in their middle, on or off",
        needs_restart: false,
        field: Field::Switch(|settings| &mut settings.mid_stream),
    },
    SettingKey {
        name: "mss_clamp",
        description: "TCP's maximum segment size: off, auto to fit the MTU, or 536 to 65495",
        needs_restart: false,
        field: Field::Mss,
    },
];

impl SettingKey {
    /// The key called `name`.
    pub fn find(name: &str) -> Result<&'static Self, String> {
        SETTING_KEYS
            .iter()
            .find(|key| key.name == name)
            .ok_or_else(|| {
                let names: Vec<_> = SETTING_KEYS.iter().map(|key| key.name).collect();
                format!(
                    "no setting is called {name:?}; there are {}",
                    names.join(", ")
                )
            })
    }

    /// The key's value in `settings`.
    #[must_use]
    pub fn get(&self, settings: &Settings) -> SettingValue {
        let mut settings = *settings;
        match self.field {
            Field::Number { field, .. } => SettingValue::Number(*field(&mut settings)),
            Field::Storm(field) => SettingValue::Storm(*field(&mut settings)),
            Field::Switch(field) => SettingValue::Switch(*field(&mut settings)),
            Field::Mss => SettingValue::Mss(MssClamp::from_number(settings.mss_clamp)),
            Field::Timeouts => SettingValue::Timeouts(TimeoutPreset::of(&settings.timeouts)),
        }
    }

    /// The value that a new switch has.
    #[must_use]
    pub fn default_value(&self) -> SettingValue {
        self.get(&Settings::default())
    }

    /// Reads a value of this key as it is typed; `default` is the default.
    pub fn parse(&self, text: &str) -> Result<SettingValue, String> {
        if text == "default" {
            return Ok(self.default_value());
        }
        let value = match self.field {
            Field::Number { .. } => SettingValue::Number(text.parse().map_err(|_| {
                format!(
                    "{text:?} is not a number; {}: {}",
                    self.name, self.description
                )
            })?),
            Field::Storm(_) => SettingValue::Storm(text.parse()?),
            Field::Switch(_) => SettingValue::Switch(match text {
                "on" => true,
                "off" => false,
                _ => return Err(format!("{text:?} is not on or off")),
            }),
            Field::Mss => SettingValue::Mss(text.parse()?),
            Field::Timeouts => SettingValue::Timeouts(text.parse()?),
        };
        self.check(value).map(|()| value)
    }

    /// Why `value` is not in the key's range.
    pub fn check(&self, value: SettingValue) -> Result<(), String> {
        let good = match (self.field, value) {
            (
                Field::Number {
                    min,
                    max,
                    power_of_two,
                    ..
                },
                SettingValue::Number(number),
            ) => (min..=max).contains(&number) && (!power_of_two || number.is_power_of_two()),
            (Field::Storm(_), SettingValue::Storm(limit)) => return limit.check(),
            (Field::Mss, SettingValue::Mss(clamp)) => return clamp.check(),
            (Field::Switch(_), SettingValue::Switch(_))
            | (Field::Timeouts, SettingValue::Timeouts(_)) => true,
            _ => false,
        };
        if good {
            Ok(())
        } else {
            Err(format!(
                "{value} is out of range; {}: {}",
                self.name, self.description
            ))
        }
    }

    /// Puts a value that [`Self::parse`] made. One of another key's kind is left out.
    pub fn put(&self, settings: &mut Settings, value: SettingValue) {
        match (self.field, value) {
            (Field::Number { field, .. }, SettingValue::Number(number)) => {
                *field(settings) = number
            }
            (Field::Storm(field), SettingValue::Storm(limit)) => *field(settings) = limit,
            (Field::Switch(field), SettingValue::Switch(on)) => *field(settings) = on,
            (Field::Mss, SettingValue::Mss(clamp)) => settings.mss_clamp = clamp.number(),
            (Field::Timeouts, SettingValue::Timeouts(preset)) => {
                if let Some(timeouts) = preset.timeouts() {
                    settings.timeouts = timeouts;
                }
            }
            _ => debug_assert!(false, "{value:?} is not a value of {}", self.name),
        }
    }
}

impl std::fmt::Debug for SettingKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

/// One `KEY=VALUE` of `set`, checked.
#[derive(Clone, Copy, Debug)]
pub struct Assignment {
    /// The key.
    pub key: &'static SettingKey,
    /// A value in the key's range.
    pub value: SettingValue,
}

impl std::str::FromStr for Assignment {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, value) = text
            .split_once('=')
            .ok_or_else(|| format!("{text:?} is not KEY=VALUE"))?;
        let key = SettingKey::find(name)?;
        let value = key.parse(value)?;
        Ok(Self { key, value })
    }
}

/// The settings as the document holds them: only what differs from the defaults.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct SettingsSection {
    #[serde(skip_serializing_if = "Option::is_none")]
    ageing: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    fdb_size: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_ports: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_macs: Option<u32>,
    #[serde(default, skip_serializing_if = "super::StormOverrides::is_empty")]
    storm: super::StormOverrides,
    #[serde(skip_serializing_if = "Option::is_none")]
    flow_size: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    flow_quota: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    flow_rate: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    source_flow_rate: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    source_flow_quota: Option<u32>,
    #[serde(default, skip_serializing_if = "TimeoutOverrides::is_empty")]
    timeouts: TimeoutOverrides,
    #[serde(skip_serializing_if = "Option::is_none")]
    mid_stream: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mss_clamp: Option<MssClamp>,
}

impl SettingsSection {
    /// Whether every setting has its default.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl From<&Settings> for SettingsSection {
    fn from(settings: &Settings) -> Self {
        fn differing<T: PartialEq>(value: T, default: T) -> Option<T> {
            (value != default).then_some(value)
        }
        let default = Settings::default();
        Self {
            ageing: differing(settings.ageing, default.ageing),
            fdb_size: differing(settings.fdb_size, default.fdb_size),
            max_ports: differing(settings.max_ports, default.max_ports),
            max_macs: differing(settings.max_macs, default.max_macs),
            storm: super::StormOverrides {
                broadcast: differing(settings.storm.broadcast, default.storm.broadcast),
                multicast: differing(settings.storm.multicast, default.storm.multicast),
                unknown_unicast: differing(
                    settings.storm.unknown_unicast,
                    default.storm.unknown_unicast,
                ),
                arp: differing(settings.storm.arp, default.storm.arp),
                nd: differing(settings.storm.nd, default.storm.nd),
            },
            flow_size: differing(settings.flow_size, default.flow_size),
            flow_quota: differing(settings.flow_quota, default.flow_quota),
            flow_rate: differing(settings.flow_rate, default.flow_rate),
            source_flow_rate: differing(settings.source_flow_rate, default.source_flow_rate),
            source_flow_quota: differing(settings.source_flow_quota, default.source_flow_quota),
            timeouts: TimeoutOverrides::from(&settings.timeouts),
            mid_stream: differing(settings.mid_stream, default.mid_stream),
            mss_clamp: differing(settings.mss_clamp, default.mss_clamp).map(MssClamp::from_number),
        }
    }
}

impl From<SettingsSection> for Settings {
    fn from(section: SettingsSection) -> Self {
        let default = Self::default();
        Self {
            ageing: section.ageing.unwrap_or(default.ageing),
            fdb_size: section.fdb_size.unwrap_or(default.fdb_size),
            max_ports: section.max_ports.unwrap_or(default.max_ports),
            max_macs: section.max_macs.unwrap_or(default.max_macs),
            storm: section.storm.over(default.storm),
            flow_size: section.flow_size.unwrap_or(default.flow_size),
            flow_quota: section.flow_quota.unwrap_or(default.flow_quota),
            flow_rate: section.flow_rate.unwrap_or(default.flow_rate),
            source_flow_rate: section.source_flow_rate.unwrap_or(default.source_flow_rate),
            source_flow_quota: section
                .source_flow_quota
                .unwrap_or(default.source_flow_quota),
            timeouts: section.timeouts.over(default.timeouts),
            mid_stream: section.mid_stream.unwrap_or(default.mid_stream),
            mss_clamp: section
                .mss_clamp
                .map_or(default.mss_clamp, MssClamp::number),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_checked_by_key() {
        for good in [
            "ageing=10",
            "ageing=default",
            "fdb_size=1000000",
            "max_ports=64",
            "max_macs=0",
            "storm.broadcast=off",
            "storm.multicast=10000000",
        ] {
            assert!(good.parse::<Assignment>().is_ok(), "{good}");
        }
        for bad in [
            "ageing",
            "ageing=",
            "ageing=9",
            "ageing=86401",
            "ageing=off",
            "fdb_size=1023",
            "max_ports=65",
            "max_ports=8192",
            "max_macs=-1",
            "storm.broadcast=0",
            "storm.broadcast=10000001",
            "flow_size=1023",
            "flow_size=4194305",
            "timeouts.udp=0",
            "timeouts.udp=2147483648",
            "timeouts.icmp=rfc",
            "timeouts=60",
            "timeouts=custom",
            "mid_stream=1",
            "mss_clamp=on",
            "mss_clamp=535",
            "mss_clamp=65496",
            "mode=tc",
        ] {
            assert!(bad.parse::<Assignment>().is_err(), "{bad}");
        }
    }

    #[test]
    fn every_key_gets_what_was_put() {
        for key in &SETTING_KEYS {
            let mut settings = Settings::default();
            let value = ["2048", "on", "linux"]
                .into_iter()
                .find_map(|text| key.parse(text).ok())
                .unwrap();
            key.put(&mut settings, value);
            assert_eq!(key.get(&settings), value, "{key:?}");
            let back = Settings::from(SettingsSection::from(&settings));
            assert_eq!(back, settings, "{key:?}");
            key.put(&mut settings, key.default_value());
            assert_eq!(settings, Settings::default(), "{key:?}");
        }
    }

    #[test]
    fn a_preset_sets_every_timeout() {
        let preset = SettingKey::find("timeouts").unwrap();
        let udp = SettingKey::find("timeouts.udp").unwrap();
        let mut settings = Settings::default();
        assert_eq!(preset.get(&settings).to_string(), "rfc");
        preset.put(&mut settings, preset.parse("linux").unwrap());
        assert_eq!(preset.get(&settings).to_string(), "linux");
        assert_eq!(udp.get(&settings), SettingValue::Number(120));
        udp.put(&mut settings, SettingValue::Number(7));
        assert_eq!(preset.get(&settings).to_string(), "custom");
        preset.put(&mut settings, preset.default_value());
        assert_eq!(settings, Settings::default());
    }

    #[test]
    fn defaults_are_in_range() {
        for key in &SETTING_KEYS {
            assert_eq!(key.check(key.default_value()), Ok(()), "{key:?}");
        }
        assert!(SettingsSection::from(&Settings::default()).is_empty());
    }
}
