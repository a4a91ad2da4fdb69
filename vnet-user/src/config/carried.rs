//! Which networks a port carries, and with which tag: the rules of ports about which little is said.

use serde::Serialize;

use super::{Attachment, Config, DEFAULT_NETWORK, Port};

/// What a port carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Carried {
    /// Whether it is an access port: one network, untagged, and every tagged frame dropped.
    pub access: bool,
    /// The networks, the untagged one first.
    pub networks: Vec<CarriedNetwork>,
}

/// One network on a port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CarriedNetwork {
    /// The network's name.
    pub network: String,
    /// The tag of its frames on this port's wire; `None`: untagged.
    pub vid: Option<u16>,
}

impl Carried {
    /// The network whose frames go untagged.
    #[must_use]
    pub fn native(&self) -> Option<&str> {
        self.networks
            .iter()
            .find(|carried| carried.vid.is_none())
            .map(|carried| carried.network.as_str())
    }

    /// Whether frames of `network` go this way.
    #[must_use]
    pub fn carries(&self, network: &str) -> bool {
        self.networks
            .iter()
            .any(|carried| carried.network == network)
    }
}

impl std::fmt::Display for Carried {
    /// As in `--trunk`: `NAME=VID` where it is tagged, the native one as `NAME` alone; `none`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.networks.is_empty() {
            return f.write_str(super::names::NONE);
        }
        for (index, carried) in self.networks.iter().enumerate() {
            if index > 0 {
                f.write_str(",")?;
            }
            f.write_str(&carried.network)?;
            if let Some(vid) = carried.vid {
                write!(f, "={vid}")?;
            }
        }
        Ok(())
    }
}

impl Config {
    /// What `port` carries. Of a configuration that [`Config::validate`] accepts, every listed
    /// network is there; a trunk entry without any tag is left out.
    #[must_use]
    pub fn carried(&self, port: &Port) -> Carried {
        let untagged = |network: &str| CarriedNetwork {
            network: network.to_owned(),
            vid: None,
        };
        match &port.attachment {
            Attachment::Access(network) => Carried {
                access: true,
                networks: vec![untagged(network)],
            },
            Attachment::Default if !port.uplink => Carried {
                access: true,
                networks: vec![untagged(DEFAULT_NETWORK)],
            },
            Attachment::Default => {
                let tagged = self.networks.iter().filter_map(|network| {
                    Some(CarriedNetwork {
                        network: network.name.clone(),
                        vid: Some(network.vlan?),
                    })
                });
                Carried {
                    access: false,
                    networks: std::iter::once(untagged(DEFAULT_NETWORK))
                        .chain(tagged)
                        .collect(),
                }
            }
            Attachment::Trunk { networks, native } => {
                let tagged = networks
                    .iter()
                    .filter(|entry| native.as_ref() != Some(&entry.network))
                    .filter_map(|entry| {
                        Some(CarriedNetwork {
                            network: entry.network.clone(),
                            vid: Some(entry.vid.or_else(|| self.vlan(&entry.network))?),
                        })
                    });
                Carried {
                    access: false,
                    networks: native
                        .iter()
                        .map(|native| untagged(native))
                        .chain(tagged)
                        .collect(),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Network, TrunkEntry};

    fn config() -> Config {
        let network = |name: &str, vlan| Network {
            vlan,
            ..Network::new(name)
        };
        Config {
            networks: vec![
                network("blue", Some(10)),
                network("inner", None),
                network("red", Some(20)),
            ],
            ..Config::default()
        }
    }

    fn carried(uplink: bool, attachment: Attachment) -> String {
        let port = Port {
            uplink,
            attachment,
            ..Port::new("p")
        };
        let carried = config().carried(&port);
        format!(
            "{} {carried}",
            if carried.access { "access" } else { "trunk" }
        )
    }

    fn trunk(entries: &[&str], native: Option<&str>) -> Attachment {
        Attachment::Trunk {
            networks: entries
                .iter()
                .map(|entry| entry.parse::<TrunkEntry>().unwrap())
                .collect(),
            native: native.map(Into::into),
        }
    }

    #[test]
    fn a_port_without_a_word_is_on_default() {
        assert_eq!(carried(false, Attachment::Default), "access default");
    }

    #[test]
    fn an_uplink_without_a_word_carries_every_network_that_has_a_vlan_id() {
        assert_eq!(
            carried(true, Attachment::Default),
            "trunk default,blue=10,red=20"
        );
    }

    #[test]
    fn what_is_said_replaces_it() {
        assert_eq!(
            carried(true, Attachment::Access("blue".into())),
            "access blue"
        );
        assert_eq!(
            carried(true, trunk(&["blue", "inner=7"], None)),
            "trunk blue=10,inner=7"
        );
        assert_eq!(carried(false, trunk(&[], None)), "trunk none");
    }

    #[test]
    fn the_native_network_goes_untagged_whether_listed_or_not() {
        assert_eq!(
            carried(false, trunk(&["blue", "red=30"], Some("blue"))),
            "trunk blue,red=30"
        );
        assert_eq!(
            carried(false, trunk(&["red=30"], Some("inner"))),
            "trunk inner,red=30"
        );
    }
}
