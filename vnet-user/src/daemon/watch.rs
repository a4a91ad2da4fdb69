//! What the daemon has seen of the host's interfaces, so that it acts on what is new.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use vnet_common::Mac;

use crate::adopt::{Adopting, Identity};
use crate::config::Config;
use crate::gateway;
use crate::host::{Link, Links};
use crate::runtime::Session;

/// How long an interface that is up and in no bridge may be about to be put into one, where vnet made
/// the switch device. Most tools do that first.
const SETTLED_UP: Duration = Duration::from_millis(20);
/// How long one may take that is not up yet, or whose bridge is another tool's: Proxmox's script sets
/// the tap up, and puts it into its bridge in its own time, which is long while the kernel takes many
/// interfaces away: each step waits for that.
const SETTLED: Duration = Duration::from_secs(3);

/// The interfaces that concern a switch, as they were when it was last made equal to them.
#[derive(Debug, Default)]
pub(super) struct Watch {
    config: Config,
    seen: BTreeSet<Seen>,
    /// All interfaces, as they were when they were last looked at.
    links: Vec<Link>,
    newcomers: BTreeMap<u32, Newcomer>,
    /// What was warned of last; a warning is said once while it holds.
    warnings: Vec<String>,
}

/// An interface that a profile is for, and that is in no bridge: who made it may be about to put it
/// into one. That fails where vnet did it before (SIOCBRADDIF, which libvirt and qemu-bridge-helper use,
/// gives EBUSY), and what vnet did it takes back at `down`.
#[derive(Clone, Copy, Debug)]
struct Newcomer {
    first_seen: Instant,
    /// When it was first seen up, where that says that nobody else is busy with it.
    up_since: Option<Instant>,
    /// Whether it was left to the switch when it had settled.
    is_passed_on: bool,
}

impl Newcomer {
    /// When nobody is expected to do anything with it any more.
    fn settles(&self) -> Instant {
        let limit = self.first_seen + SETTLED;
        self.up_since.map_or(limit, |up| limit.min(up + SETTLED_UP))
    }
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
    /// The document that was last put into force.
    pub(super) fn config(&self) -> &Config {
        &self.config
    }

    /// Looks at the host's interfaces. Returns those that concern the switch; `None` where they cannot
    /// be looked at.
    pub(super) fn look(&mut self, session: &Session) -> Option<BTreeSet<Seen>> {
        let links = Links::open().and_then(|links| links.list());
        let links = links.inspect_err(|error| log::warn!("{error:#}")).ok()?;
        self.note_newcomers(session, &links);
        let seen = self.concerning(session, &links);
        self.links = links;
        Some(seen)
    }

    /// Whether interfaces that concern the switch are others than before. A look that fails counts
    /// as a change: whoever acts on it finds out why.
    pub(super) fn has_changed(&mut self, session: &Session) -> bool {
        self.look(session).is_none_or(|seen| seen != self.seen)
    }

    /// The interfaces that are not left to who made them for the moment.
    pub(super) fn settled(&self) -> Adopting {
        let now = Instant::now();
        let is_left = |link: &Link| {
            let newcomer = self.newcomers.get(&link.index);
            newcomer.is_some_and(|newcomer| newcomer.settles() > now)
        };
        let settled = self.links.iter().filter(|link| !is_left(link));
        Adopting::Settled(settled.map(Identity::of).collect())
    }

    /// When the next of these has settled.
    pub(super) fn next_settled(&self) -> Option<Instant> {
        let waiting = self.newcomers.values();
        let waiting = waiting.filter(|newcomer| !newcomer.is_passed_on);
        waiting.map(Newcomer::settles).min()
    }

    /// Whether some have settled since this was last asked.
    pub(super) fn has_settled(&mut self) -> bool {
        let now = Instant::now();
        let mut settled = false;
        for newcomer in self.newcomers.values_mut() {
            if !newcomer.is_passed_on && newcomer.settles() <= now {
                newcomer.is_passed_on = true;
                settled = true;
            }
        }
        settled
    }

    fn note_newcomers(&mut self, session: &Session, links: &[Link]) {
        let now = Instant::now();
        let ports = ports(session);
        let is_ours = session.state().is_some_and(|state| state.created_device);
        let before = std::mem::take(&mut self.newcomers);
        for link in links {
            let is_new = link.master.is_none()
                && !ports.contains(&link.index)
                && self.config.port(&link.name).is_none()
                && self.config.adopted(&link.name, link.mac).is_some();
            if !is_new {
                continue;
            }
            let known = before.get(&link.index);
            let newcomer = Newcomer {
                first_seen: known.map_or(now, |known| known.first_seen),
                up_since: known
                    .and_then(|known| known.up_since)
                    .or(Some(now))
                    .filter(|_| link.up && is_ours),
                is_passed_on: known.is_some_and(|known| known.is_passed_on),
            };
            self.newcomers.insert(link.index, newcomer);
        }
    }

    /// Those of `links` that concern the switch.
    fn concerning(&self, session: &Session, links: &[Link]) -> BTreeSet<Seen> {
        let switch = session.switch();
        let device = links.iter().find(|link| link.name == switch);
        let device = device.map(|device| device.index);
        let own = gateway::interfaces(&self.config, switch);
        let ports = ports(session);
        let concerns = |link: &&Link| {
            Some(link.index) == device
                || device.is_some() && link.master == device
                || ports.contains(&link.index)
                || own.contains(&link.name)
                || self.config.port(&link.name).is_some()
                || self.config.adopted(&link.name, link.mac).is_some()
        };
        links
            .iter()
            .filter(concerns)
            .map(|link| Seen {
                index: link.index,
                name: link.name.clone(),
                mac: link.mac,
                mtu: link.mtu,
                master: link.master,
                promiscuous: link.promiscuous,
            })
            .collect()
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

/// The interfaces that are ports.
fn ports(session: &Session) -> BTreeSet<u32> {
    session
        .state()
        .map(|state| state.ports.values().map(|run| run.ifindex).collect())
        .unwrap_or_default()
}
