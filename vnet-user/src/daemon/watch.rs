//! What the daemon has seen of the host's interfaces, so that it acts on what is new.

use std::collections::BTreeSet;

use vnet_common::Mac;

use crate::config::Config;
use crate::gateway;
use crate::host::{Link, Links};
use crate::runtime::Session;

/// The interfaces that concern a switch, as they were when it was last made equal to them.
#[derive(Debug, Default)]
pub(super) struct Watch {
    config: Config,
    seen: BTreeSet<Seen>,
    /// What was warned of last; a warning is said once while it holds.
    warnings: Vec<String>,
}

/// What of an interface makes a difference to the switch.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Seen {
    index: u32,
    name: String,
    mac: Mac,
    mtu: u32,
    master: Option<u32>,
    promiscuous: bool,
}

impl Watch {
    /// The interfaces that concern the switch now; `None` where they cannot be looked at.
    pub(super) fn look(&self, session: &Session) -> Option<BTreeSet<Seen>> {
        look(session, &self.config)
    }

    /// Whether interfaces that concern the switch are others than before. A look that fails counts
    /// as a change: whoever acts on it finds out why.
    pub(super) fn has_changed(&self, session: &Session) -> bool {
        self.look(session).is_none_or(|seen| seen != self.seen)
    }

    /// Remembers what has been dealt with: the interfaces as they were before that, for what came
    /// meanwhile has perhaps not been. Returns those of `warnings` that are new.
    pub(super) fn remember<'a>(
        &mut self,
        seen: Option<BTreeSet<Seen>>,
        config: &Config,
        warnings: &'a [String],
    ) -> Vec<&'a str> {
        self.config = config.clone();
        self.seen = seen.unwrap_or_default();
        let before = std::mem::replace(&mut self.warnings, warnings.to_vec());
        warnings
            .iter()
            .filter(|warning| !before.contains(warning))
            .map(String::as_str)
            .collect()
    }
}

fn look(session: &Session, config: &Config) -> Option<BTreeSet<Seen>> {
    let links = Links::open().and_then(|links| links.list());
    let links = links.inspect_err(|error| log::warn!("{error:#}")).ok()?;
    let switch = session.switch();
    let device = links.iter().find(|link| link.name == switch);
    let device = device.map(|device| device.index);
    let own = gateway::interfaces(config, switch);
    let ports: BTreeSet<u32> = session
        .state()
        .map(|state| state.ports.values().map(|run| run.ifindex).collect())
        .unwrap_or_default();
    let concerns = |link: &Link| {
        Some(link.index) == device
            || device.is_some() && link.master == device
            || ports.contains(&link.index)
            || own.contains(&link.name)
            || config.port(&link.name).is_some()
            || config.adopted(&link.name, link.mac).is_some()
    };
    let seen = links
        .into_iter()
        .filter(concerns)
        .map(|link| Seen {
            index: link.index,
            name: link.name,
            mac: link.mac,
            mtu: link.mtu,
            master: link.master,
            promiscuous: link.promiscuous,
        })
        .collect();
    Some(seen)
}
