//! What the far end of a veth means for the datapath.
//!
//! A veth hands frames to its peer, so three things that the datapath needs to know are facts of
//! the peer, which usually sits in another network namespace (a container's):
//!
//! - XDP_REDIRECT into a veth needs NAPI on the peer, that is, GRO or a native XDP program there;
//!   without it the frame is dropped, and nothing says so (drivers/net/veth.c, veth_xdp_xmit:
//!   -ENXIO).
//! - XDP on a veth sees TCP and UDP checksums unfinished while the peer has transmit checksum
//!   offload, and redirecting such a frame sends it out like that.
//! - XDP on a veth does not see VLAN tags while the peer has transmit VLAN offload.

use std::collections::HashMap;
use std::os::fd::{AsFd as _, OwnedFd};

use anyhow::{Context as _, Result};

use super::link::{Link, LinkKind, Links, XdpMode};
use super::{ethtool, netns};

/// What is known of a veth's peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Peer {
    /// Its facts.
    Known(PeerFacts),
    /// Nothing, for this reason.
    Unknown(String),
}

/// The facts of a veth's peer, at one moment: whoever owns its namespace may change them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerFacts {
    /// Its name in its own namespace.
    pub name: String,
    /// It is up. Down, it has no NAPI whatever `napi` says, and gets no frames.
    pub up: bool,
    /// GRO is on or a native XDP program is attached, so that it has NAPI while it is up.
    pub napi: bool,
    /// It leaves checksums to the other end: XDP there sees unfinished ones.
    pub tx_checksum: bool,
    /// It leaves VLAN tags beside the frame: XDP on the other end does not see them.
    pub tx_vlan: bool,
    /// Its transmit queues in use; None where the driver does not say. A native XDP program
    /// on the other end needs as many receive queues.
    pub tx_queues: Option<u32>,
}

/// Looks at veth peers. Where the namespaces are is found out once, when first needed: take a new
/// one for each round of looking.
#[derive(Debug, Default)]
pub struct Peers {
    namespaces: Option<HashMap<i32, OwnedFd>>,
}

impl Peers {
    /// Begins a round of looking.
    pub fn new() -> Self {
        Self::default()
    }

    /// The facts of the peer of `link`, a veth that `links` gave. Whatever goes wrong is the reason
    /// why the peer is unknown; the datapath then has to take the careful way.
    pub fn look(&mut self, links: &Links, link: &Link) -> Peer {
        self.facts(links, link)
            .map_or_else(|error| Peer::Unknown(format!("{error:#}")), Peer::Known)
    }

    fn facts(&mut self, links: &Links, link: &Link) -> Result<PeerFacts> {
        anyhow::ensure!(
            link.kind == LinkKind::Veth,
            "{} is a {}, not a veth",
            link.name,
            link.kind
        );
        let index = link
            .peer_index
            .context("the kernel does not name the peer")?;
        let Some(nsid) = link.peer_nsid else {
            return read(links, index);
        };
        let namespaces = match &mut self.namespaces {
            Some(namespaces) => namespaces,
            unknown => unknown.insert(netns::by_nsid()?),
        };
        let namespace = namespaces.get(&nsid).with_context(|| {
            format!(
                "the peer is in network namespace {nsid}, which has neither a name under \
                 /run/netns nor a process that may be looked at"
            )
        })?;
        netns::with_netns(namespace.as_fd(), || read(&Links::open()?, index))
    }
}

/// The facts of interface `index` in the namespace of the calling thread and of `links`.
fn read(links: &Links, index: u32) -> Result<PeerFacts> {
    let peer = links.by_index(index)?.context("the peer went away")?;
    let features = ethtool::get(&peer.name)?;
    let native_xdp = peer
        .xdp
        .is_some_and(|xdp| matches!(xdp.mode, XdpMode::Native | XdpMode::Several));
    Ok(PeerFacts {
        up: peer.up,
        napi: features.gro || native_xdp,
        tx_checksum: features.tx_checksum,
        tx_vlan: features.tx_vlan,
        tx_queues: ethtool::channels(&peer.name)?.map(|channels| channels.tx),
        name: peer.name,
    })
}

#[cfg(test)]
mod tests {
    use super::super::ethtool::Feature;
    use super::super::testing::{
        OtherNamespace, attach_xdp, create_veth, in_new_netns, move_to_namespace,
    };
    use super::*;

    fn look(links: &Links, name: &str) -> Result<PeerFacts> {
        let link = links.by_name(name)?.context("no such interface")?;
        match Peers::new().look(links, &link) {
            Peer::Known(facts) => Ok(facts),
            Peer::Unknown(reason) => anyhow::bail!(reason),
        }
    }

    #[test]
    fn a_peer_in_the_same_namespace() {
        in_new_netns(|| {
            let links = Links::open()?;
            create_veth("v0", "v1")?;
            let fresh = look(&links, "v0")?;
            assert_eq!(
                fresh,
                PeerFacts {
                    name: "v1".to_owned(),
                    up: false,
                    napi: false,
                    tx_checksum: true,
                    tx_vlan: true,
                    tx_queues: Some(1),
                }
            );
            ethtool::set("v1", Feature::Gro, true)?;
            ethtool::set("v1", Feature::TxVlan, false)?;
            ethtool::set("v1", Feature::TxChecksum, false)?;
            let peer = links.by_name("v1")?.context("made above")?;
            links.set_up(peer.index, true)?;
            let facts = look(&links, "v0")?;
            assert!(
                facts.up && facts.napi && !facts.tx_vlan && !facts.tx_checksum,
                "{facts:?}"
            );
            assert!(!look(&links, "v1")?.napi, "each end is its own");
            Ok(())
        });
    }

    #[test]
    fn a_native_program_on_the_peer_gives_napi() {
        in_new_netns(|| {
            let links = Links::open()?;
            create_veth("v0", "v1")?;
            let program = attach_xdp(&links, "v1", XdpMode::Native)?;
            let peer = links.by_name("v1")?.context("made above")?;
            assert_eq!(peer.xdp.map(|xdp| xdp.mode), Some(XdpMode::Native));
            assert_eq!(peer.xdp.map(|xdp| xdp.prog_id), Some(program));
            assert!(look(&links, "v0")?.napi);

            create_veth("w0", "w1")?;
            attach_xdp(&links, "w1", XdpMode::Generic)?;
            let peer = links.by_name("w1")?.context("made above")?;
            assert_eq!(peer.xdp.map(|xdp| xdp.mode), Some(XdpMode::Generic));
            assert!(!look(&links, "w0")?.napi, "generic XDP runs without NAPI");
            Ok(())
        });
    }

    #[test]
    fn peers_in_other_namespaces() {
        in_new_netns(|| {
            let links = Links::open()?;
            let (one, two) = (OtherNamespace::new(), OtherNamespace::new());
            create_veth("v0", "v1")?;
            create_veth("w0", "w1")?;
            move_to_namespace(&links, "v1", one.fd())?;
            move_to_namespace(&links, "w1", two.fd())?;
            netns::with_netns(two.fd(), || ethtool::set("w1", Feature::Gro, true))?;

            let mut peers = Peers::new();
            let mut napi = |name: &str| -> Result<(String, bool)> {
                let link = links.by_name(name)?.context("no such interface")?;
                match peers.look(&links, &link) {
                    Peer::Known(facts) => Ok((facts.name, facts.napi)),
                    Peer::Unknown(reason) => anyhow::bail!(reason),
                }
            };
            assert_eq!(napi("v0")?, ("v1".to_owned(), false));
            assert_eq!(napi("w0")?, ("w1".to_owned(), true));
            Ok(())
        });
    }

    #[test]
    fn a_namespace_that_nobody_can_name_is_a_reason() {
        in_new_netns(|| {
            let links = Links::open()?;
            let hidden = OtherNamespace::hidden();
            create_veth("v0", "v1")?;
            move_to_namespace(&links, "v1", hidden.fd())?;
            let error = look(&links, "v0").expect_err("only a descriptor holds the namespace");
            assert!(error.to_string().contains("/run/netns"), "{error}");
            Ok(())
        });
    }

    #[test]
    fn something_else_than_a_veth_is_a_reason() {
        in_new_netns(|| {
            let links = Links::open()?;
            links.create_bridge("br0", [2, 0, 0, 0, 0, 1])?;
            let error = look(&links, "br0").expect_err("a bridge has no peer");
            assert_eq!(error.to_string(), "br0 is a bridge, not a veth");
            Ok(())
        });
    }
}
