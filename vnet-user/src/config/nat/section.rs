//! A rule's spelling: flat keys, named as the options of `nat add`.

use std::fmt::Display;
use std::str::FromStr;

use serde::{Deserialize, Serialize, Serializer};

use super::super::typed;
use super::{
    AddrRange, Endpoint, Filtering, Mapping, NatAction, NatOptions, NatRule, PortRange, Prefix,
    Protocols,
};

/// A rule as a table `[[nat]]` of the document and as an object in JSON. The values are as they
/// are typed; which keys there are depends on the kind.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct NatSection {
    id: u16,
    kind: Kind,
    #[serde(skip_serializing_if = "Option::is_none")]
    network: Option<String>,
    #[serde(default, with = "typed", skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, schemars(with = "Option<String>"))]
    source: Option<Prefix>,
    #[serde(default, with = "typed", skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, schemars(with = "Option<String>"))]
    proto: Option<Protocols>,
    #[serde(default, with = "typed", skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, schemars(with = "Option<String>"))]
    listen: Option<Endpoint>,
    #[serde(default, with = "typed", skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, schemars(with = "Option<String>"))]
    to: Option<To>,
    #[serde(default, with = "typed", skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, schemars(with = "Option<String>"))]
    from: Option<Prefix>,
    #[serde(default, with = "typed", skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, schemars(with = "Option<String>"))]
    external: Option<Prefix>,
    #[serde(default, with = "typed", skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, schemars(with = "Option<String>"))]
    internal: Option<Prefix>,
    #[serde(skip_serializing_if = "Option::is_none")]
    uplink: Option<String>,
    #[serde(default, with = "typed", skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, schemars(with = "Option<String>"))]
    ports: Option<PortRange>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mapping: Option<Mapping>,
    #[serde(skip_serializing_if = "Option::is_none")]
    filtering: Option<Filtering>,
    #[serde(skip_serializing_if = "Option::is_none")]
    block_size: Option<u16>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[cfg_attr(test, derive(schemars::JsonSchema))]
enum Kind {
    #[default]
    Masquerade,
    Snat,
    Dnat,
    Static,
}

/// Where a rule leads to: a pool, or an address with its ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum To {
    Pool(AddrRange),
    Endpoint(Endpoint),
}

impl Display for To {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Pool(pool) => pool.fmt(f),
            Self::Endpoint(endpoint) => endpoint.fmt(f),
        }
    }
}

impl FromStr for To {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        // Of the two only an endpoint can be with brackets or, in IPv4, with a colon.
        if text.starts_with('[') || (text.contains(':') && text.contains('.')) {
            text.parse().map(Self::Endpoint)
        } else {
            text.parse().map(Self::Pool)
        }
    }
}

impl NatSection {
    /// The rule's spelling with its defaults written out, for listings.
    #[must_use]
    pub fn in_full(rule: &NatRule) -> Self {
        let mut section = Self::from(rule);
        if let NatAction::Masquerade { options, .. } | NatAction::Snat { options, .. } =
            &rule.action
        {
            section.ports = Some(options.ports.unwrap_or(PortRange::EXTERNAL));
            section.mapping = Some(options.mapping);
            section.filtering = Some(options.filtering);
        }
        section
    }

    /// The keys that there are, besides those that every rule has.
    fn keys(&self) -> impl Iterator<Item = &'static str> {
        [
            ("network", self.network.is_some()),
            ("source", self.source.is_some()),
            ("proto", self.proto.is_some()),
            ("listen", self.listen.is_some()),
            ("to", self.to.is_some()),
            ("from", self.from.is_some()),
            ("external", self.external.is_some()),
            ("internal", self.internal.is_some()),
            ("uplink", self.uplink.is_some()),
            ("ports", self.ports.is_some()),
            ("mapping", self.mapping.is_some()),
            ("filtering", self.filtering.is_some()),
            ("block_size", self.block_size.is_some()),
        ]
        .into_iter()
        .filter_map(|(key, there)| there.then_some(key))
    }

    /// The keys of `options`; whoever calls it says the rest.
    fn of_options(options: &NatOptions) -> Self {
        fn differing<T: PartialEq + Default>(value: T) -> Option<T> {
            (value != T::default()).then_some(value)
        }
        Self {
            ports: options.ports.filter(|ports| *ports != PortRange::EXTERNAL),
            mapping: differing(options.mapping),
            filtering: differing(options.filtering),
            block_size: options.block_size,
            ..Self::default()
        }
    }

    fn options(&self) -> NatOptions {
        NatOptions {
            ports: self.ports.filter(|ports| *ports != PortRange::EXTERNAL),
            mapping: self.mapping.unwrap_or_default(),
            filtering: self.filtering.unwrap_or_default(),
            block_size: self.block_size,
        }
    }
}

impl Kind {
    const fn name(self) -> &'static str {
        match self {
            Self::Masquerade => "masquerade",
            Self::Snat => "snat",
            Self::Dnat => "dnat",
            Self::Static => "static",
        }
    }

    /// The keys that a rule of this kind has, those that it must have first, and how many these are.
    const fn keys(self) -> (&'static [&'static str], usize) {
        match self {
            Self::Masquerade => (
                &[
                    "network",
                    "uplink",
                    "ports",
                    "mapping",
                    "filtering",
                    "block_size",
                ],
                2,
            ),
            Self::Snat => (
                &[
                    "source",
                    "to",
                    "uplink",
                    "ports",
                    "mapping",
                    "filtering",
                    "block_size",
                ],
                3,
            ),
            Self::Dnat => (&["proto", "listen", "to", "from", "uplink"], 3),
            Self::Static => (&["external", "internal", "uplink"], 2),
        }
    }
}

impl TryFrom<NatSection> for NatRule {
    type Error = String;

    fn try_from(section: NatSection) -> Result<Self, String> {
        let (allowed, needed) = section.kind.keys();
        let kind = section.kind.name();
        if let Some(key) = section.keys().find(|key| !allowed.contains(key)) {
            return Err(format!(
                "the {kind} rule {} has `{key}`, expected {}",
                section.id,
                listed(allowed)
            ));
        }
        if let Some(missing) = allowed[..needed]
            .iter()
            .find(|key| section.keys().all(|there| there != **key))
        {
            return Err(format!(
                "the {kind} rule {} is without `{missing}`",
                section.id
            ));
        }
        let id = section.id;
        let options = section.options();
        let action = match section {
            NatSection {
                kind: Kind::Masquerade,
                network: Some(network),
                uplink: Some(uplink),
                ..
            } => NatAction::Masquerade {
                network,
                uplink,
                options,
            },
            NatSection {
                kind: Kind::Snat,
                source: Some(source),
                to: Some(To::Pool(to)),
                uplink: Some(uplink),
                ..
            } => NatAction::Snat {
                source: source.0,
                to,
                uplink,
                options,
            },
            NatSection {
                kind: Kind::Dnat,
                proto: Some(proto),
                listen: Some(listen),
                to: Some(To::Endpoint(to)),
                from,
                uplink,
                ..
            } => NatAction::Dnat {
                tcp: proto.tcp,
                udp: proto.udp,
                listen: listen.addr,
                listen_ports: listen.ports,
                to: to.addr,
                to_ports: to.ports,
                from: from.map(|from| from.0),
                uplink,
            },
            NatSection {
                kind: Kind::Static,
                external: Some(external),
                internal: Some(internal),
                uplink,
                ..
            } => NatAction::Static {
                external: external.0,
                internal: internal.0,
                uplink,
            },
            // What is missing has been found above: only the form of `to` is left.
            NatSection {
                kind: Kind::Dnat, ..
            } => {
                return Err(format!(
                    "`to` of the dnat rule {id} is not ADDR:PORT or ADDR:PORT-PORT"
                ));
            }
            _ => {
                return Err(format!(
                    "`to` of the {kind} rule {id} is not ADDR or ADDR-ADDR"
                ));
            }
        };
        Ok(Self { id, action })
    }
}

fn listed(keys: &[&str]) -> String {
    let keys: Vec<_> = keys.iter().map(|key| format!("`{key}`")).collect();
    keys.join(", ")
}

impl From<&NatRule> for NatSection {
    fn from(rule: &NatRule) -> Self {
        let id = rule.id;
        match &rule.action {
            NatAction::Masquerade {
                network,
                uplink,
                options,
            } => Self {
                id,
                kind: Kind::Masquerade,
                network: Some(network.clone()),
                uplink: Some(uplink.clone()),
                ..Self::of_options(options)
            },
            NatAction::Snat {
                source,
                to,
                uplink,
                options,
            } => Self {
                id,
                kind: Kind::Snat,
                source: Some(Prefix(*source)),
                to: Some(To::Pool(*to)),
                uplink: Some(uplink.clone()),
                ..Self::of_options(options)
            },
            NatAction::Dnat {
                tcp,
                udp,
                listen,
                listen_ports,
                to,
                to_ports,
                from,
                uplink,
            } => Self {
                id,
                kind: Kind::Dnat,
                proto: Some(Protocols {
                    tcp: *tcp,
                    udp: *udp,
                }),
                listen: Some(Endpoint {
                    addr: *listen,
                    ports: *listen_ports,
                }),
                to: Some(To::Endpoint(Endpoint {
                    addr: *to,
                    ports: *to_ports,
                })),
                from: from.map(Prefix),
                uplink: uplink.clone(),
                ..Self::default()
            },
            NatAction::Static {
                external,
                internal,
                uplink,
            } => Self {
                id,
                kind: Kind::Static,
                external: Some(Prefix(*external)),
                internal: Some(Prefix(*internal)),
                uplink: uplink.clone(),
                ..Self::default()
            },
        }
    }
}

impl Serialize for NatRule {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        NatSection::from(self).serialize(serializer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(rest: &str) -> Result<NatRule, String> {
        toml::from_str(&format!("id = 1\n{rest}")).map_err(|error| error.to_string())
    }

    #[test]
    fn every_kind_survives() {
        for text in [
            "kind = \"masquerade\"\nnetwork = \"lan\"\nuplink = \"eth0\"\n",
            "kind = \"masquerade\"\nnetwork = \"lan\"\nuplink = \"eth0\"\nports = \"1024-2047\"\n\
             mapping = \"symmetric\"\nfiltering = \"eif\"\nblock_size = 64\n",
            "kind = \"snat\"\nsource = \"10.0.0.0/24\"\nto = \"192.0.2.1-192.0.2.9\"\n\
             uplink = \"eth0\"\nfiltering = \"apdf\"\n",
            "kind = \"dnat\"\nproto = \"tcp,udp\"\nlisten = \"[2001:db8::1]:80-81\"\n\
             to = \"[fd00::2]:8080-8081\"\nfrom = \"2001:db8:1::/48\"\nuplink = \"eth0\"\n",
            "kind = \"dnat\"\nproto = \"udp\"\nlisten = \"192.0.2.1:53\"\nto = \"10.0.0.2:53\"\n",
            "kind = \"static\"\nexternal = \"192.0.2.1\"\ninternal = \"10.0.0.2\"\n",
            "kind = \"static\"\nexternal = \"2001:db8::/64\"\ninternal = \"fd00::/64\"\nuplink = \"eth0\"\n",
        ] {
            let rule = rule(text).unwrap();
            let back = toml::to_string(&rule).unwrap();
            assert_eq!(back, format!("id = 1\n{text}"));
        }
    }

    #[test]
    fn defaults_are_left_out() {
        let rule = rule(
            "kind = 'masquerade'\nnetwork = 'lan'\nuplink = 'eth0'\nports = '1024-65535'\n\
             mapping = 'eim'\nfiltering = 'adf'",
        )
        .unwrap();
        assert_eq!(
            toml::to_string(&rule).unwrap(),
            "id = 1\nkind = \"masquerade\"\nnetwork = \"lan\"\nuplink = \"eth0\"\n"
        );
        let full = toml::to_string(&NatSection::in_full(&rule)).unwrap();
        assert!(full.contains("ports = \"1024-65535\"\nmapping = \"eim\"\nfiltering = \"adf\""));
    }

    #[test]
    fn keys_of_another_kind_and_missing_ones_are_refused() {
        for (text, expected) in [
            ("kind = 'nat'", "unknown variant `nat`"),
            ("kind = 'static'\ncolor = 1", "unknown field `color`"),
            (
                "kind = 'masquerade'\nnetwork = 'lan'",
                "the masquerade rule 1 is without `uplink`",
            ),
            (
                "kind = 'masquerade'\nnetwork = 'lan'\nuplink = 'a'\nto = '10.0.0.1'",
                "the masquerade rule 1 has `to`",
            ),
            (
                "kind = 'snat'\nsource = '10.0.0.0/24'\nto = '192.0.2.1:80'\nuplink = 'a'",
                "`to` of the snat rule 1 is not ADDR",
            ),
            (
                "kind = 'dnat'\nproto = 'tcp'\nlisten = '192.0.2.1:80'\nto = '10.0.0.1'",
                "`to` of the dnat rule 1 is not ADDR:PORT",
            ),
            (
                "kind = 'dnat'\nproto = 'tcp'\nlisten = '192.0.2.1'",
                "\"192.0.2.1\" is not ADDR:PORT",
            ),
            ("kind = 'static'\nexternal = '192.0.2.1/24'", "line 3"),
        ] {
            let why = rule(text).unwrap_err();
            assert!(why.contains(expected), "{text:?}: {why}");
        }
    }
}
