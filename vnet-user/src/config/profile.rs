//! What ports are to be that the document does not list: interfaces that come and go, known by their
//! name or their MAC address.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::Port;
use vnet_common::Mac;

/// The first byte that libvirt gives to a tap's MAC address in place of the guest's own
/// (libvirt, src/util/virnetdevtap.c), so that the bridge never takes it for its own.
const TAP_FIRST_BYTE: u8 = 0xfe;

/// How a port that is adopted is set up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Profile {
    /// Its name, which listings show.
    pub name: String,
    /// The interfaces that it is for.
    pub matches: Match,
    /// What their ports are, whose name does not count.
    pub options: Port,
}

impl Profile {
    /// The port that the interface called `name` becomes.
    #[must_use]
    pub fn port(&self, name: &str) -> Port {
        Port {
            name: name.to_owned(),
            ..self.options.clone()
        }
    }
}

/// Which interfaces a profile is for: those of which everything that is said is true.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Match {
    /// The interface's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<Pattern>,
    /// The interface's MAC address; of a tap that has fe first, the guest's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mac: Option<Pattern>,
}

impl Match {
    /// Whether an interface is one of those.
    #[must_use]
    pub fn is_met(&self, name: &str, mac: Mac) -> bool {
        let text = |mac: Mac| super::MacAddr(mac).to_string();
        let of_guest = |pattern: &Pattern| {
            // What the guest's first byte was is not to be seen: any that the pattern takes.
            mac[0] == TAP_FIRST_BYTE
                && (0..=u8::MAX)
                    .map(|first| [first, mac[1], mac[2], mac[3], mac[4], mac[5]])
                    .any(|mac| pattern.is_met(&text(mac)))
        };
        self.name
            .as_ref()
            .is_none_or(|pattern| pattern.is_met(name))
            && self
                .mac
                .as_ref()
                .is_none_or(|pattern| pattern.is_met(&text(mac)) || of_guest(pattern))
    }
}

/// A text with wildcards: `*` for any letters, `?` for one, `[abc]` and `[0-9]` for one of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern(glob::Pattern);

impl Pattern {
    /// Whether `text` is one of those.
    #[must_use]
    pub fn is_met(&self, text: &str) -> bool {
        let options = glob::MatchOptions {
            case_sensitive: false,
            ..glob::MatchOptions::default()
        };
        self.0.matches_with(text, options)
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.as_str())
    }
}

impl Serialize for Pattern {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Pattern {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(de::Error::custom)
    }
}

impl FromStr for Pattern {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        glob::Pattern::new(text)
            .map(Self)
            .map_err(|error| format!("`{text}` is no pattern: {}", error.msg))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: Mac = [0x52, 0x54, 0, 0xab, 0, 1];

    fn is_met(text: &str, name: &str, mac: Mac) -> bool {
        toml::from_str::<Match>(text).unwrap().is_met(name, mac)
    }

    #[test]
    fn all_that_is_said_has_to_be_true() {
        assert!(is_met("name = 'tap*'", "tap101i0", MAC));
        assert!(!is_met("name = 'tap[0-9]i?'", "tap101i0", MAC));
        assert!(
            is_met("name = 'TAP*'", "tap0", MAC),
            "case makes no difference"
        );
        assert!(is_met("name = 'tap*'\nmac = '52:54:00:AB:*'", "tap0", MAC));
        assert!(!is_met("name = 'tap*'\nmac = '52:54:00:ac:*'", "tap0", MAC));
        assert!(!is_met("name = 'tap*'\nmac = '52:*'", "veth0", MAC));
    }

    #[test]
    fn a_guest_is_known_by_its_own_address() {
        let tap = [0xfe, 0x54, 0, 0xab, 0, 1];
        assert!(is_met("mac = '52:54:00:ab:00:01'", "vif0", tap));
        assert!(is_met("mac = 'fe:54:*'", "vif0", tap));
        assert!(!is_met("mac = '52:54:00:ab:00:02'", "vif0", tap));
        assert!(!is_met(
            "mac = '52:54:00:ab:00:01'",
            "vif0",
            [0x56, 0x54, 0, 0xab, 0, 1]
        ));
    }

    #[test]
    fn what_is_no_pattern_is_refused() {
        let refusal = toml::from_str::<Match>("name = 'tap['").unwrap_err();
        assert!(refusal.to_string().contains("no pattern"), "{refusal}");
    }
}
