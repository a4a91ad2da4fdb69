//! The document: how a [`Config`] is spelled in TOML.

use serde::{Deserialize, Serialize};
use toml_edit::{DocumentMut, Item};

use super::settings::SettingsSection;
use super::storm::StormOverrides;
use super::{
    Attachment, BanRule, Config, FailMode, Group, Guard, Invalid, MacAddr, Match, Mode, NatRule,
    Network, Port, PortIp, Profile, StaticFdb, TrunkEntry,
};

/// The version of the document that this build reads and writes.
pub const SCHEMA: i64 = 1;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(super) struct Document {
    /// The version of the document's form.
    schema: i64,
    /// The switch itself.
    #[serde(default, skip_serializing_if = "SwitchSection::is_empty")]
    switch: SwitchSection,
    /// Values that are not a port's or a network's, as `vnet-user get` lists them.
    #[serde(default, skip_serializing_if = "SettingsSection::is_empty")]
    settings: SettingsSection,
    /// Broadcast domains; `default` is there without being listed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    network: Vec<Network>,
    /// Interfaces of the switch.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    port: Vec<PortSection>,
    /// What interfaces become that are not listed but found: the first that matches.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    profile: Vec<ProfileSection>,
    /// Static addresses.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    fdb: Vec<StaticFdb>,
    /// Addresses that may not communicate.
    #[serde(default, skip_serializing_if = "MacSection::is_empty")]
    mac: MacSection,
    /// Address translation.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(test, schemars(with = "Vec<super::nat::NatSection>"))]
    nat: Vec<NatRule>,
    /// Security groups: which connections the ports that are bound to them may have.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    group: Vec<Group>,
    /// Rules that keep sources away for a time which connect too often.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    ban: Vec<BanRule>,
}

#[derive(Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct SwitchSection {
    /// Where frames of uplinks are handled.
    #[serde(default, skip_serializing_if = "is_default")]
    mode: Mode,
    /// What becomes of traffic when vnet's programs are gone.
    #[serde(default, skip_serializing_if = "is_default")]
    fail: FailMode,
}

impl SwitchSection {
    fn is_empty(&self) -> bool {
        is_default(self)
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct PortSection {
    /// The interface.
    name: String,
    /// A physical network is behind it, not a virtual machine.
    #[serde(default, skip_serializing_if = "is_default")]
    uplink: bool,
    /// The one network that it carries, untagged.
    #[serde(skip_serializing_if = "Option::is_none")]
    network: Option<String>,
    /// The networks that it carries: NAME, or NAME=VID for another tag on this port.
    #[serde(skip_serializing_if = "Option::is_none")]
    trunk: Option<Vec<TrunkEntry>>,
    /// The trunk's network that goes untagged.
    #[serde(skip_serializing_if = "Option::is_none")]
    native: Option<String>,
    /// Sources that may send; without any, every one may.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    mac: Vec<MacAddr>,
    /// Most addresses learned here, 0 is no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, schemars(range(max = super::MAX_MACS_LIMIT)))]
    max_macs: Option<u32>,
    /// IP addresses that may send, or "learn" for those that it is leased; without any, every one may.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    ip: Vec<PortIp>,
    /// What else is checked of what it sends.
    #[serde(default, skip_serializing_if = "is_default")]
    guard: Guard,
    /// It is kept apart from other virtual machines.
    #[serde(default, skip_serializing_if = "is_default")]
    isolated: bool,
    /// Limits of flooded frames.
    #[serde(default, skip_serializing_if = "StormOverrides::is_empty")]
    storm: StormOverrides,
    /// Security groups; without any, nothing is filtered.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(test, schemars(length(max = vnet_common::policy::PORT_GROUPS)))]
    groups: Vec<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct ProfileSection {
    /// What listings call it.
    name: String,
    /// Which interfaces it is for; what is said of name and MAC address has to be true.
    #[serde(rename = "match")]
    matches: Match,
    /// A physical network is behind them, not a virtual machine.
    #[serde(default, skip_serializing_if = "is_default")]
    uplink: bool,
    /// The one network that they carry, untagged.
    #[serde(skip_serializing_if = "Option::is_none")]
    network: Option<String>,
    /// The networks that they carry: NAME, or NAME=VID for another tag on these ports.
    #[serde(skip_serializing_if = "Option::is_none")]
    trunk: Option<Vec<TrunkEntry>>,
    /// The trunk's network that goes untagged.
    #[serde(skip_serializing_if = "Option::is_none")]
    native: Option<String>,
    /// Sources that may send; without any, every one may.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    mac: Vec<MacAddr>,
    /// Most addresses learned on each, 0 is no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, schemars(range(max = super::MAX_MACS_LIMIT)))]
    max_macs: Option<u32>,
    /// IP addresses that may send, or "learn" for those that they are leased; without any, every one may.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    ip: Vec<PortIp>,
    /// What else is checked of what they send.
    #[serde(default, skip_serializing_if = "is_default")]
    guard: Guard,
    /// They are kept apart from other virtual machines.
    #[serde(default, skip_serializing_if = "is_default")]
    isolated: bool,
    /// Limits of flooded frames.
    #[serde(default, skip_serializing_if = "StormOverrides::is_empty")]
    storm: StormOverrides,
    /// Security groups; without any, nothing is filtered.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(test, schemars(length(max = vnet_common::policy::PORT_GROUPS)))]
    groups: Vec<String>,
}

#[derive(Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct MacSection {
    /// Those that may be neither source nor destination.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    deny: Vec<MacAddr>,
}

impl MacSection {
    fn is_empty(&self) -> bool {
        self.deny.is_empty()
    }
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// Reads a document. It is well-formed then, but not yet checked by [`Config::validate`].
///
/// # Errors
/// With line and column where it is no TOML or has keys or values that do not belong there.
pub fn parse(text: &str) -> Result<Config, Invalid> {
    /// Read on its own first, so that a newer document is called newer and not full of mistakes.
    #[derive(Deserialize)]
    struct Version {
        schema: Option<i64>,
    }
    let version: Version = toml::from_str(text).map_err(|error| refusal(&error))?;
    match version.schema {
        Some(SCHEMA) => {}
        Some(other) => {
            return Err(Invalid::new(format!(
                "its schema is {other}; this vnet-user reads schema {SCHEMA}"
            ))
            .mend("use the vnet-user that wrote it"));
        }
        None => {
            return Err(Invalid::new("it does not say its schema")
                .mend(format!("begin it with the line: schema = {SCHEMA}")));
        }
    }
    let document: Document = toml::from_str(text).map_err(|error| refusal(&error))?;
    Ok(Config {
        mode: document.switch.mode,
        fail: document.switch.fail,
        settings: document.settings.into(),
        networks: document.network,
        ports: document
            .port
            .into_iter()
            .enumerate()
            .map(|(index, port)| Port::try_from(port).map_err(|refusal| refusal.at("port", index)))
            .collect::<Result<_, _>>()?,
        profiles: document
            .profile
            .into_iter()
            .enumerate()
            .map(|(index, profile)| {
                Profile::try_from(profile).map_err(|refusal| refusal.at("profile", index))
            })
            .collect::<Result<_, _>>()?,
        static_fdb: document.fdb,
        mac_deny: document.mac.deny,
        nat: document.nat,
        groups: document.group,
        bans: document.ban,
    })
}

/// The parser's error in our words.
fn refusal(error: &toml::de::Error) -> Invalid {
    let message = error.message();
    // serde speaks of what it makes of a document: fields and variants.
    let why = [
        ("unknown field", "unknown key"),
        ("missing field", "missing key"),
        ("duplicate field", "duplicate key"),
        ("unknown variant", "unknown value"),
    ]
    .iter()
    .find_map(|(theirs, ours)| Some(format!("{ours}{}", message.strip_prefix(theirs)?)))
    .unwrap_or_else(|| message.to_owned());
    let mut refusal = Invalid::new(why);
    refusal.mend = did_you_mean(message);
    match error.span() {
        Some(span) => refusal.at_bytes(span),
        None => refusal,
    }
}

/// What was meant by a word that is not expected, given a message that names it first and then
/// what is, each in backticks.
fn did_you_mean(message: &str) -> Option<String> {
    let (found, expected) = message.split_once("expected")?;
    let found = found.split('`').nth(1)?;
    let expected = expected.split('`').skip(1).step_by(2);
    alike(found, expected).map(|word| format!("did you mean `{word}`?"))
}

/// The word that was meant by `found`, if it is like one of them.
pub(crate) fn alike<'a>(found: &str, words: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    /// How alike two words must be, from 0 to 1: a letter wrong, missing or in another place.
    const ALIKE: f64 = 0.8;
    words
        .map(|word| (strsim::jaro_winkler(found, word), word))
        .filter(|(alike, _)| *alike >= ALIKE)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, word)| word)
}

/// Spells `config` with nothing that has its default, and always in the same way.
pub fn render(config: &Config) -> DocumentMut {
    let document = Document {
        schema: SCHEMA,
        switch: SwitchSection {
            mode: config.mode,
            fail: config.fail,
        },
        settings: (&config.settings).into(),
        network: config.networks.clone(),
        port: config.ports.iter().map(PortSection::from).collect(),
        profile: config.profiles.iter().map(ProfileSection::from).collect(),
        fdb: config.static_fdb.clone(),
        mac: MacSection {
            deny: config.mac_deny.clone(),
        },
        nat: config.nat.clone(),
        group: config.groups.clone(),
        ban: config.bans.clone(),
    };
    let mut document = toml::to_string(&document)
        .expect("strings and numbers under string keys are always TOML")
        .parse::<DocumentMut>()
        .expect("what toml wrote is TOML");
    // Storm limits and patterns read best on their port's or profile's lines, and settings under the
    // names that `set` knows.
    for key in ["port", "profile"] {
        let tables = document.get_mut(key);
        let Some(tables) = tables.and_then(Item::as_array_of_tables_mut) else {
            continue;
        };
        for table in tables.iter_mut() {
            for key in ["match", "storm"] {
                if let Some(Ok(value)) = table.remove(key).map(Item::into_value) {
                    table.insert(key, Item::Value(value));
                }
            }
            // A profile says first what it is for.
            table.sort_values_by(|a, _, b, _| {
                let rank = |key: &toml_edit::Key| match key.get() {
                    "name" => 0,
                    "match" => 1,
                    _ => 2,
                };
                rank(a).cmp(&rank(b))
            });
        }
    }
    if let Some(settings) = document.get_mut("settings").and_then(Item::as_table_mut) {
        settings.set_implicit(false);
        for group in ["storm", "timeouts"] {
            if let Some(group) = settings.get_mut(group).and_then(Item::as_table_mut) {
                group.set_dotted(true);
            }
        }
    }
    document
}

impl TryFrom<ProfileSection> for Profile {
    type Error = Invalid;

    fn try_from(section: ProfileSection) -> Result<Self, Invalid> {
        let options = PortSection {
            name: section.name.clone(),
            uplink: section.uplink,
            network: section.network,
            trunk: section.trunk,
            native: section.native,
            mac: section.mac,
            max_macs: section.max_macs,
            ip: section.ip,
            guard: section.guard,
            isolated: section.isolated,
            storm: section.storm,
            groups: section.groups,
        };
        Ok(Self {
            options: options.port("profile")?,
            name: section.name,
            matches: section.matches,
        })
    }
}

impl From<&Profile> for ProfileSection {
    fn from(profile: &Profile) -> Self {
        let options = PortSection::from(&profile.options);
        Self {
            name: profile.name.clone(),
            matches: profile.matches.clone(),
            uplink: options.uplink,
            network: options.network,
            trunk: options.trunk,
            native: options.native,
            mac: options.mac,
            max_macs: options.max_macs,
            ip: options.ip,
            guard: options.guard,
            isolated: options.isolated,
            storm: options.storm,
            groups: options.groups,
        }
    }
}

impl TryFrom<PortSection> for Port {
    type Error = Invalid;

    fn try_from(section: PortSection) -> Result<Self, Invalid> {
        section.port("port")
    }
}

impl PortSection {
    /// What it says, of a `what`.
    fn port(self, what: &str) -> Result<Port, Invalid> {
        let section = self;
        let name = section.name;
        let attachment = match (section.network, section.trunk, section.native) {
            (None, None, None) => Attachment::Default,
            (Some(network), None, None) => Attachment::Access(network),
            (None, Some(networks), native) => Attachment::Trunk { networks, native },
            (Some(_), _, _) => {
                return Err(Invalid::new(format!(
                    "the {what} {name} has `network` together with `trunk` or `native`"
                ))
                .mend("a port has either `network`, or `trunk` and perhaps `native`"));
            }
            (None, None, Some(_)) => {
                return Err(Invalid::new(format!(
                    "the {what} {name} has `native` without `trunk`"
                ))
                .mend("write `network` for one untagged network, or add `trunk`"));
            }
        };
        Ok(Port {
            name,
            uplink: section.uplink,
            attachment,
            macs: section.mac,
            max_macs: section.max_macs,
            ips: section.ip,
            guard: section.guard,
            isolated: section.isolated,
            storm: section.storm,
            groups: section.groups,
        })
    }
}

impl From<&Port> for PortSection {
    fn from(port: &Port) -> Self {
        let (network, trunk, native) = match &port.attachment {
            Attachment::Default => (None, None, None),
            Attachment::Access(network) => (Some(network.clone()), None, None),
            Attachment::Trunk { networks, native } => {
                (None, Some(networks.clone()), native.clone())
            }
        };
        Self {
            name: port.name.clone(),
            uplink: port.uplink,
            network,
            trunk,
            native,
            mac: port.macs.clone(),
            max_macs: port.max_macs,
            ip: port.ips.clone(),
            guard: port.guard,
            isolated: port.isolated,
            storm: port.storm,
            groups: port.groups.clone(),
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::config::{Source, StormLimit, edits};

    pub const FULL: &str = r#"
schema = 1

[switch]
mode = "tc"
fail = "closed"

[settings]
ageing = 60
flow_size = 4096
flow_quota = 1000
mid_stream = true
mss_clamp = "auto"
storm.broadcast = 5
storm.multicast = "off"
timeouts.udp = 60
timeouts.icmp = 30

[[network]]
name = "default"
mtu = 9000

[[network]]
name = "blue"
vlan = 10

[[network]]
name = "red"
gateway = ["10.0.0.1/24", "fd00::1/64"]
dhcp = ["10.0.0.100-10.0.0.199", "fd00::100-fd00::1ff"]

[[port]]
name = "eth0"
uplink = true

[[port]]
name = "tap0"
network = "blue"
mac = ["02:00:00:00:00:01"]
max_macs = 4
ip = ["10.0.0.2", "fd00::2", "learn"]
guard = "strict"
isolated = true
groups = ["web", "inside.1"]
storm = { broadcast = 100, unknown_unicast = "off", arp = "50/10" }

[[port]]
name = "tap1"
trunk = ["blue", "red=30"]
native = "default"

[[profile]]
name = "web"
match = { name = "tap*", mac = "52:54:00:*" }
network = "blue"
mac = ["02:00:00:00:00:04"]
groups = ["web"]
storm = { broadcast = 50 }

[[profile]]
name = "rest"
match = { name = "tap*" }

[[fdb]]
mac = "02:00:00:00:00:02"
network = "blue"
port = "eth0"

[mac]
deny = ["02:00:00:00:00:03"]

[[nat]]
id = 1
kind = "masquerade"
network = "red"
uplink = "eth0"

[[nat]]
id = 2
kind = "snat"
source = "10.0.0.128/25"
to = "192.0.2.8-192.0.2.15"
uplink = "eth0"
ports = "1024-2047"
mapping = "symmetric"
filtering = "eif"
block_size = 64

[[nat]]
id = 4
kind = "dnat"
proto = "tcp,udp"
listen = "192.0.2.1:8080-8081"
to = "10.0.0.2:80-81"
from = "198.51.100.0/24"
uplink = "eth0"

[[nat]]
id = 3
kind = "static"
external = "2001:db8:1:2::/64"
internal = "fd00::/64"

[[group]]
name = "web"

[[group.rule]]
id = 2
direction = "in"
action = "allow"
proto = "tcp"
ports = "80-81"
remote = "10.0.0.0/8"
priority = 10
log = true

[[group.rule]]
id = 1
direction = "out"
action = "reject"
remote = "group:inside.1"

[[group]]
name = "inside.1"
default = "allow"

[[group.rule]]
id = 7
direction = "in"
action = "deny"
proto = "99"
remote = "fd00::1"
"#;

    #[test]
    fn every_key_is_read_and_written_as_it_is_spelled_here() {
        let config = parse(FULL).unwrap();
        assert_eq!(config.validate("vsw0"), Ok(()));
        assert_eq!(render(&config).to_string(), FULL.trim_start());
        assert_eq!(config.mode, Mode::Tc);
        assert_eq!(config.settings.storm.multicast, StormLimit::Off);
        assert!(config.ports[2].attachment.names("default"));
        assert_eq!(config.port("tap0").unwrap().max_macs, Some(4));
    }

    #[test]
    fn a_new_switch_needs_no_more_than_its_schema() {
        assert_eq!(render(&Config::default()).to_string(), "schema = 1\n");
        assert_eq!(parse("schema = 1"), Ok(Config::default()));
    }

    #[test]
    fn a_network_without_ports_and_an_empty_trunk_survive() {
        let mut config = Config::default();
        let attachment = Attachment::Trunk {
            networks: Vec::new(),
            native: None,
        };
        let port = Port {
            attachment,
            ..Port::new("tap0")
        };
        edits::add_port(&mut config, "vsw0", port).unwrap();
        assert_eq!(parse(&render(&config).to_string()), Ok(config));
    }

    #[test]
    fn mistakes_are_shown_with_their_line() {
        for (text, expected) in [
            ("schema = 1\n[settings]\nageeing = 3", ":3:"),
            ("schema = 1\n[[port]]\nname = 3", ":3:"),
            (
                "schema = 1\n[[port]]\nname = 'a'\nmac = ['x']",
                "not a MAC address",
            ),
            (
                "schema = 1\n[[port]]\nname = 'a'\ntrunk = ['b=5000']",
                "use 1 to 4094",
            ),
            (
                "schema = 1\n[settings]\nstorm.broadcast = true",
                "frames a second",
            ),
            (
                "schema = 1\n[[network]]\nname = 'a'\ngateway = ['10.0.0.1']",
                ":4:",
            ),
            ("schema = 1\n[[nat]]\nid = -1", ":3:"),
            (
                "schema = 1\n[[nat]]\nid = 1\nkind = 'dnat'\nlisten = ':80'",
                ":5:",
            ),
            (
                "schema = 1\n\n[[nat]]\nid = 1\nkind = 'dnat'\nnetwork = 'a'",
                ":3:",
            ),
            (
                "schema = 1\n[settings]\nmss_clamp = true",
                "a maximum segment size is",
            ),
            ("schema = 1\n[settings]\nmss_clamp = 3", ":3:"),
            ("schema = 1\n[settings]\ntimeouts.tcp = 3", ":3:"),
            (
                "schema = 1\n[[group]]\nname = 'a'\n[[group.rule]]\nid = 1\ndirection = 'up'",
                ":6:",
            ),
            (
                "schema = 1\n[[group]]\nname = 'a'\n[[group.rule]]\nid = 1\ndirection = 'in'\n\
                 action = 'allow'\nremote = '10.0.0.1/8'",
                "the prefix is 10.0.0.0/8",
            ),
            ("schema = 1\n[", ":2:"),
            ("schema = 2\nnew = 1", "its schema is 2"),
            ("", "does not say its schema"),
            (
                "schema = 1\n[[port]]\nname = 'a'\nnetwork = 'b'\ntrunk = ['c']",
                "together with `trunk`",
            ),
            (
                "schema = 1\n[[port]]\nname = 'a'\nnative = 'b'",
                "without `trunk`",
            ),
        ] {
            let source = Source {
                name: "a.toml".into(),
                text: text.into(),
            };
            let refusal = source.config("vsw0").unwrap_err().to_string();
            assert!(refusal.contains(expected), "{text:?}: {refusal}");
        }
    }

    #[test]
    fn a_slip_is_guessed() {
        for (rest, meant) in [
            ("prot = 1", Some("port")),
            ("[settings]\nageeing = 3", Some("ageing")),
            ("[settings]\nstorm.broadcst = 3", Some("broadcast")),
            ("[[nat]]\nid = 1\nkind = 'masqurade'", Some("masquerade")),
            ("[switch]\nfail = 'close'", Some("closed")),
            ("[[group]]\nname = 'a'\ndefault = 'denied'", Some("deny")),
            ("[[port]]\nguard = 'strict'", None),
        ] {
            let refusal = parse(&format!("schema = 1\n{rest}\n")).unwrap_err();
            let expected = meant.map(|meant| format!("did you mean `{meant}`?"));
            assert_eq!(refusal.mend, expected, "{rest}: {}", refusal.why);
        }
    }
}
