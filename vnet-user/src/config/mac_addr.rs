//! MAC addresses as text.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A MAC address in transmission order. As text: six hexadecimal bytes with colons between them
/// (dashes are understood too).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MacAddr(pub [u8; 6]);

impl MacAddr {
    /// The bytes in transmission order, as the datapath's maps hold them.
    #[must_use]
    pub const fn octets(self) -> [u8; 6] {
        self.0
    }

    /// Why this cannot be the address of one station: a group address (IEEE 802, the first byte's
    /// lowest bit) or all zero.
    pub fn check_station(self) -> Result<(), String> {
        if self.0[0] & 1 != 0 {
            Err(format!(
                "{self} is a group address (broadcast or multicast), not one station's"
            ))
        } else if self.0 == [0; 6] {
            Err(format!("{self} is no station's address"))
        } else {
            Ok(())
        }
    }

    /// Parses the address of one station; the command line takes no other kind.
    pub fn parse_station(text: &str) -> Result<Self, String> {
        let mac: Self = text.parse()?;
        mac.check_station()?;
        Ok(mac)
    }
}

impl FromStr for MacAddr {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let malformed = || format!("{text:?} is not a MAC address such as 02:00:00:00:00:01");
        let separator = if text.contains('-') { '-' } else { ':' };
        let mut octets = [0; 6];
        let mut parts = text.split(separator);
        for octet in &mut octets {
            let part = parts.next().ok_or_else(malformed)?;
            // from_str_radix alone would take "+1".
            if part.len() != 2 || !part.bytes().all(|b| b.is_ascii_hexdigit()) {
                return Err(malformed());
            }
            *octet = u8::from_str_radix(part, 16).map_err(|_| malformed())?;
        }
        match parts.next() {
            None => Ok(Self(octets)),
            Some(_) => Err(malformed()),
        }
    }
}

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl From<[u8; 6]> for MacAddr {
    fn from(octets: [u8; 6]) -> Self {
        Self(octets)
    }
}

impl Serialize for MacAddr {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for MacAddr {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_what_it_parsed() {
        let mac: MacAddr = "02:AB:cd:00:00:1f".parse().unwrap();
        assert_eq!(mac.octets(), [2, 0xab, 0xcd, 0, 0, 0x1f]);
        assert_eq!(mac.to_string(), "02:ab:cd:00:00:1f");
        assert_eq!("02-ab-cd-00-00-1f".parse(), Ok(mac));
    }

    #[test]
    fn refuses_what_is_no_mac() {
        for text in [
            "",
            "02:00:00:00:00",
            "02:00:00:00:00:01:02",
            "2:0:0:0:0:1",
            "02:00:00:00:00:+1",
            "02:00:00-00:00:01",
            "0g:00:00:00:00:01",
            "020000000001",
        ] {
            assert!(text.parse::<MacAddr>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn refuses_addresses_of_no_station() {
        for text in [
            "ff:ff:ff:ff:ff:ff",
            "01:80:c2:00:00:00",
            "00:00:00:00:00:00",
        ] {
            assert!(MacAddr::parse_station(text).is_err(), "{text}");
        }
    }
}
