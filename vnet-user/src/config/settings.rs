//! The switch's settings: their keys, defaults and ranges, declared once for `set`, `get` and the
//! document.

use serde::{Deserialize, Serialize};

use vnet_common::FlowTimeouts;

use super::storm::{StormLimit, StormLimits};

/// Most ports that a switch may be given room for.
pub const MAX_PORTS_LIMIT: u32 = 4096;

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
    /// How long connections live without a packet.
    pub timeouts: FlowTimeouts,
    /// TCP connections are taken up in their middle.
    pub mid_stream: bool,
    /// TCP maximum segment size: 0 leaves it alone, 1 makes it fit the way out's MTU, more is the
    /// most it may be.
    pub mss_clamp: u32,
}

/// The timeouts that the RFCs ask for (see [`FlowTimeouts`]).
pub const RFC_TIMEOUTS: FlowTimeouts = FlowTimeouts {
    tcp_transitory: 240,
    tcp_established: 7440,
    tcp_closing: 240,
    tcp_time_wait: 240,
    udp: 300,
    udp_one_way: 120,
    icmp: 60,
    other: 600,
};

impl Default for Settings {
    fn default() -> Self {
        Self {
            ageing: 300,
            fdb_size: 65_536,
            max_ports: 1024,
            max_macs: 1024,
            storm: StormLimits {
                broadcast: StormLimit::Pps(1000),
                multicast: StormLimit::Pps(10_000),
                unknown_unicast: StormLimit::Pps(2000),
            },
            flow_size: 262_144,
            flow_quota: 0,
            timeouts: RFC_TIMEOUTS,
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
}

impl std::fmt::Display for SettingValue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Number(number) => number.fmt(f),
            Self::Storm(limit) => limit.fmt(f),
        }
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
pub static SETTING_KEYS: [SettingKey; 7] = [
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
            },
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
            ..default
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
            "mode=tc",
        ] {
            assert!(bad.parse::<Assignment>().is_err(), "{bad}");
        }
    }

    #[test]
    fn every_key_gets_what_was_put() {
        for key in &SETTING_KEYS {
            let mut settings = Settings::default();
            let value = key.parse("2048").unwrap();
            key.put(&mut settings, value);
            assert_eq!(key.get(&settings), value, "{key:?}");
            let back = Settings::from(SettingsSection::from(&settings));
            assert_eq!(back, settings, "{key:?}");
            key.put(&mut settings, key.default_value());
            assert_eq!(settings, Settings::default(), "{key:?}");
        }
    }

    #[test]
    fn defaults_are_in_range() {
        for key in &SETTING_KEYS {
            assert_eq!(key.check(key.default_value()), Ok(()), "{key:?}");
        }
        assert!(SettingsSection::from(&Settings::default()).is_empty());
    }
}
