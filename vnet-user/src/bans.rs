//! Who is kept away, as listings show it, and as commands change it.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::Serialize;
use vnet_common::{Addr, Ban, SourceKey, flow::mapped, limit::ANY_PORT};

use crate::datapath::bans;
use crate::error::{Doing as _, Error};
use crate::flows::address;
use crate::host::kernel;
use crate::runtime::Session;

/// A source that is kept away.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BanRow {
    /// Its address, or of IPv6 the /64 that it sends from.
    pub address: String,
    /// The network that its packets come in from.
    pub network: String,
    /// The VM's port that they come from; `None` from outside.
    pub port: Option<String>,
    /// The rule that it came to; `None` when somebody said so.
    pub rule: Option<u16>,
    /// Seconds until it is let in again.
    pub left_s: u64,
}

impl Session {
    /// Who is kept away, in the order of networks and addresses.
    ///
    /// # Errors
    /// The switch is not up.
    pub fn bans(&self) -> Result<Vec<BanRow>, Error> {
        let doing = "listing who is banned";
        let state = self.need_up(doing)?;
        let now_s = kernel::monotonic_s();
        let bans = bans::read(self.pins()).doing(|| doing.into())?;
        let mut found: Vec<_> = bans
            .iter()
            .filter(|(key, _)| is_listed(key))
            .map(|(key, ban)| (state.network(key.segment), key, ban))
            .collect();
        found.sort_by(|a, b| (&a.0, a.1).cmp(&(&b.0, b.1)));
        let rows = found.into_iter().map(|(network, key, ban)| BanRow {
            address: source_text(key),
            network,
            port: (key.slot != 0).then(|| state.port(key.slot)),
            rule: (ban.rule != 0).then_some(ban.rule),
            left_s: u64::from(ban.until_s).saturating_sub(now_s),
        });
        Ok(rows.collect())
    }

    /// Keeps a source away for `time_s`, in one network or in each; one that is kept away already has
    /// that time from now.
    ///
    /// # Errors
    /// The switch is not up.
    pub fn ban(
        &mut self,
        source: IpNet,
        network: Option<&str>,
        time_s: u32,
        doing: &str,
    ) -> Result<(), Error> {
        self.need_up(doing)?;
        let _lock = self.store().lock()?;
        let keys = self.source_keys(source, network, doing)?;
        let until_s = kernel::monotonic_s() + u64::from(time_s);
        let ban = Ban {
            until_s: u32::try_from(until_s).unwrap_or(u32::MAX),
            ..Ban::default()
        };
        bans::put(self.pins(), &keys, ban).doing(|| doing.into())
    }

    /// Lets a source in, in one network or in each; whether it was kept away.
    ///
    /// # Errors
    /// The switch is not up.
    pub fn unban(
        &mut self,
        source: IpNet,
        network: Option<&str>,
        doing: &str,
    ) -> Result<bool, Error> {
        self.need_up(doing)?;
        let _lock = self.store().lock()?;
        // At whichever port.
        let meant = self.source_keys(source, network, doing)?;
        let mut keys: Vec<_> = bans::read(self.pins())
            .doing(|| doing.into())?
            .into_keys()
            .collect();
        keys.retain(|key| meant.contains(&SourceKey { slot: 0, ..*key }));
        bans::remove(self.pins(), &keys).doing(|| doing.into())?;
        Ok(!keys.is_empty())
    }

    /// Lets everybody in; returns how many were kept away.
    ///
    /// # Errors
    /// The switch is not up.
    pub fn unban_all(&mut self) -> Result<usize, Error> {
        let doing = "letting everybody in who is banned";
        self.need_up(doing)?;
        let _lock = self.store().lock()?;
        let bans = bans::read(self.pins()).doing(|| doing.into())?;
        bans::flush(self.pins()).doing(|| doing.into())?;
        Ok(bans.iter().filter(|(key, _)| is_listed(key)).count())
    }

    /// What a source is known as in a network that is in force, or in each.
    fn source_keys(
        &self,
        source: IpNet,
        network: Option<&str>,
        doing: &str,
    ) -> Result<Vec<SourceKey>, Error> {
        let segments = &self.need_up(doing)?.segments;
        let meant = segments
            .iter()
            .filter(|(_, name)| network.is_none_or(|network| **name == network));
        Ok(meant
            .flat_map(|(segment, _)| keys_of(source, *segment))
            .collect())
    }
}

/// What the datapath may know a source as in a segment. An address of IPv6 is one by itself on the link
/// that it sends to, and one with its /64 anywhere else.
fn keys_of(source: IpNet, segment: u16) -> Vec<SourceKey> {
    let octets: Addr = match source.addr() {
        IpAddr::V4(v4) => mapped(v4.octets()),
        IpAddr::V6(v6) => v6.octets(),
    };
    let itself = SourceKey::new(&octets, segment, 0);
    let at_vms = SourceKey::new(&octets, segment, ANY_PORT);
    let mut net = itself;
    net.truncate();
    match source {
        IpNet::V4(_) => vec![itself, at_vms],
        IpNet::V6(v6) if v6.prefix_len() == 128 => vec![itself, at_vms, net],
        IpNet::V6(_) => vec![net],
    }
}

/// Whether an entry is a ban by itself: whom somebody has banned at every port is there from outside, too.
const fn is_listed(key: &SourceKey) -> bool {
    key.slot != ANY_PORT
}

/// A source as texts have it: its address, or `PREFIX/64`.
#[must_use]
pub fn source_text(key: &SourceKey) -> String {
    let address = address(&key.addr);
    if key.bits == 128 {
        address.to_string()
    } else {
        format!("{address}/{}", key.bits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_source_is_known_as() {
        let texts = |source: &str| -> Vec<String> {
            let keys = keys_of(source.parse().unwrap(), 7);
            assert!(keys.iter().all(|key| (key.segment, key.rule) == (7, 0)));
            keys.iter().map(source_text).collect()
        };
        assert_eq!(texts("192.0.2.7/32"), ["192.0.2.7", "192.0.2.7"]);
        assert_eq!(
            texts("2001:db8:0:1::7/128"),
            ["2001:db8:0:1::7", "2001:db8:0:1::7", "2001:db8:0:1::/64"]
        );
        assert_eq!(texts("2001:db8:0:1::/64"), ["2001:db8:0:1::/64"]);
    }
}
