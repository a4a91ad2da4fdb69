//! Which interfaces become ports without being listed: those that somebody made members of the
//! switch device, and those that a profile of the document is for.

use std::collections::BTreeSet;

use vnet_common::Mac;

use crate::config::{Config, Port};
use crate::gateway;
use crate::host::{Link, LinkKind};
use crate::ports::{self, Role};

/// Which interfaces that nobody listed become ports.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Adopting {
    /// None but those that have become ports already.
    #[default]
    Known,
    /// All that are found.
    All,
    /// All members of the switch device, and these of those that are in no bridge. Others have come
    /// since the host was looked at, and who made them may be about to put them into a bridge.
    Settled(BTreeSet<Identity>),
}

impl Adopting {
    /// Whether an interface may become a port that is none yet.
    #[must_use]
    pub fn admits(&self, link: &Link) -> bool {
        match self {
            Self::Known => false,
            Self::All => true,
            Self::Settled(settled) => {
                link.master.is_some() || settled.contains(&Identity::of(link))
            }
        }
    }
}

/// What says which profile is for an interface, and that it is the same one as before.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Identity {
    index: u32,
    name: String,
    mac: Mac,
}

impl Identity {
    /// That of an interface.
    #[must_use]
    pub fn of(link: &Link) -> Self {
        Self {
            index: link.index,
            name: link.name.clone(),
            mac: link.mac,
        }
    }
}

/// An interface that becomes a port, or would.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Its index.
    pub ifindex: u32,
    /// The port that it becomes.
    pub port: Port,
    /// The profile that it is made after, if any.
    pub profile: Option<String>,
}

/// The interfaces among `links` that become ports of the switch called `switch`, whose device is
/// `device`, and are not listed in `config`; in the order of `links`. `taken` are indices of
/// interfaces that are another switch's. The second list says of those that match but cannot be
/// ports why not.
#[must_use]
pub fn find(
    config: &Config,
    switch: &str,
    device: &Link,
    links: &[Link],
    taken: &BTreeSet<u32>,
) -> (Vec<Found>, Vec<String>) {
    let own = gateway::interfaces(config, switch);
    let (mut found, mut refused) = (Vec::new(), Vec::new());
    for link in links {
        let is_other = link.index == device.index
            || link.kind == LinkKind::Loopback
            || link.master.is_some_and(|master| master != device.index)
            || own.contains(&link.name)
            || taken.contains(&link.index)
            || config.port(&link.name).is_some();
        if is_other {
            continue;
        }
        let matched = config.adopted(&link.name, link.mac);
        let is_member = link.master == Some(device.index);
        let (port, profile) = match matched {
            Some((port, profile)) => (port, Some(profile.name.clone())),
            None if is_member => (of_member(link), None),
            None => continue,
        };
        let role = if port.uplink { Role::Uplink } else { Role::Vm };
        if let Err(error) = ports::check(&link.name, role, link, device) {
            refused.push(format!("{} is not adopted: {}", link.name, error.why));
            continue;
        }
        found.push(Found {
            ifindex: link.index,
            port,
            profile,
        });
    }
    (found, refused)
}

/// What a member that no profile is for becomes: behind a NIC is a physical network, behind what VMs
/// use a VM.
fn of_member(link: &Link) -> Port {
    let is_vm = matches!(link.kind, LinkKind::Tun | LinkKind::Veth);
    Port {
        uplink: !is_vm,
        ..Port::new(link.name.as_str())
    }
}

/// `config` with the ports that `found` names, as many as the tables have room for; and a warning
/// where that is not all.
#[must_use]
pub fn extended(
    config: &Config,
    switch: &str,
    max_ports: u32,
    found: &[Found],
) -> (Config, Vec<Found>, Option<String>) {
    let mut extended = config.clone();
    let mut adopted = Vec::new();
    for one in found {
        extended.ports.push(one.port.clone());
        if extended.slots_needed(switch) > max_ports as usize {
            extended.ports.pop();
            let left = found.len() - adopted.len();
            let warning = format!(
                "{left} interfaces are not adopted, {} among them: there is no room for more \
                 ports; vnet-user set max_ports={}, then down and up",
                one.port.name,
                u64::from(max_ports) * 2,
            );
            return (extended, adopted, Some(warning));
        }
        adopted.push(one.clone());
    }
    (extended, adopted, None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Attachment, Source};

    const DOCUMENT: &str = r#"
        schema = 1
        [[network]]
        name = "blue"
        gateway = ["10.0.0.1/24"]
        [[port]]
        name = "tap7"
        [[profile]]
        name = "web"
        match = { name = "tap*", mac = "52:54:00:00:00:*" }
        network = "blue"
        [[profile]]
        name = "nics"
        match = { name = "eth*" }
        uplink = true
    "#;

    fn config() -> Config {
        let source = Source {
            name: "a.toml".into(),
            text: DOCUMENT.into(),
        };
        source.config("vsw0").unwrap()
    }

    fn link(index: u32, name: &str, kind: LinkKind, master: Option<u32>) -> Link {
        Link {
            index,
            name: name.into(),
            mac: [0xfe, 0x54, 0, 0, 0, index as u8],
            mtu: 1500,
            up: true,
            carrier: true,
            ethernet: true,
            kind,
            master,
            promiscuous: false,
            promiscuity: 0,
            peer_index: None,
            peer_nsid: None,
            xdp: None,
            num_rx_queues: 1,
            num_tx_queues: 1,
            bridge: None,
            bridge_port: None,
        }
    }

    fn look(links: &[Link]) -> (Vec<Found>, Vec<String>) {
        let device = link(1, "vsw0", LinkKind::Bridge, None);
        find(&config(), "vsw0", &device, links, &BTreeSet::from([99]))
    }

    #[test]
    fn members_and_what_profiles_are_for_become_ports() {
        use LinkKind::{Physical, Tun, Veth};
        let (found, refused) = look(&[
            link(1, "vsw0", LinkKind::Bridge, None),
            link(2, "tap0", Tun, None),
            link(3, "vif0", Veth, Some(1)),
            link(4, "vif1", Veth, None),
            link(5, "nic0", Physical, Some(1)),
            link(6, "eth0", Physical, None),
            link(7, "tap7", Tun, Some(1)),
        ]);
        assert_eq!(refused, [""; 0]);
        let said: Vec<_> = found
            .iter()
            .map(|one| (one.ifindex, one.port.uplink, one.profile.as_deref()))
            .collect();
        assert_eq!(
            said,
            [
                (2, false, Some("web")),
                (3, false, None),
                (5, true, None),
                (6, true, Some("nics")),
            ]
        );
        assert_eq!(found[0].port.name, "tap0");
        assert_eq!(found[0].port.attachment, Attachment::Access("blue".into()));
    }

    #[test]
    fn what_is_somebody_elses_stays_that() {
        let (found, refused) = look(&[
            link(2, "tap0", LinkKind::Tun, Some(50)),
            link(3, "tap1.100", LinkKind::Bridge, None),
            link(99, "tap2", LinkKind::Tun, None),
            link(4, "vsw0.blue", LinkKind::Veth, None),
            link(5, "vsw0.blue.peer", LinkKind::Veth, Some(1)),
        ]);
        assert_eq!(found, []);
        assert_eq!(refused.len(), 1, "{refused:?}");
        assert!(refused[0].contains("it is a bridge"), "{refused:?}");
    }

    #[test]
    fn what_came_since_is_left_to_who_made_it() {
        use LinkKind::Tun;
        let seen = link(2, "tap0", Tun, None);
        let settled = Adopting::Settled(BTreeSet::from([Identity::of(&seen)]));
        let mut down = seen.clone();
        down.up = false;
        assert!(settled.admits(&down), "it is the same one");
        for other in [link(3, "tap0", Tun, None), link(2, "tap1", Tun, None)] {
            assert!(!settled.admits(&other), "{other:?}");
            assert!(Adopting::All.admits(&other), "{other:?}");
        }
        let member = link(4, "tap2", Tun, Some(1));
        assert!(settled.admits(&member), "who made it has put it there");
        assert!(!Adopting::Known.admits(&member));
    }

    #[test]
    fn more_than_there_is_room_for_are_left() {
        let links: Vec<_> = (10..20)
            .map(|index| link(index, &format!("tap{index}"), LinkKind::Tun, None))
            .collect();
        let (found, _) = look(&links);
        let (extended, adopted, warning) = extended(&config(), "vsw0", 8, &found);
        assert_eq!(extended.ports.len(), 1 + adopted.len());
        assert!(extended.slots_needed("vsw0") <= 8);
        let warning = warning.unwrap();
        assert!(warning.contains("max_ports=16"), "{warning}");
    }
}
