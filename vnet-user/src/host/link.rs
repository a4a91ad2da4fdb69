//! Interfaces: listing them, and creating, changing and deleting what a switch needs.

mod parse;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context as _, Result, bail, ensure};

use super::netlink::{Message, Refused, Socket, ifinfomsg};

/// linux/rtnetlink.h: leave the counters out of an answer, which halves a dump.
const RTEXT_FILTER_SKIP_STATS: u32 = 1 << 3;
/// linux/if.h, IFNAMSIZ less the NUL: longer names are alternative names.
const NAME_BYTES_MAX: usize = 15;
/// linux/netdevice.h, ALTIFNAMSIZ less the NUL.
const ALTERNATIVE_NAME_BYTES_MAX: usize = 127;

/// An interface, as the kernel described it at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// The interface index, never 0.
    pub index: u32,
    /// The interface name, at most 15 bytes.
    pub name: String,
    /// The MAC address; zeros for an interface that has none of six bytes.
    pub mac: [u8; 6],
    /// The MTU in bytes, without the Ethernet header.
    pub mtu: u32,
    /// Set up by its administrator (IFF_UP).
    pub up: bool,
    /// A cable, a peer that is up, or a VM is there (IFF_LOWER_UP).
    pub carrier: bool,
    /// Carries Ethernet frames. A `tun` device in IP mode and a WireGuard tunnel do not.
    pub ethernet: bool,
    /// What the interface is.
    pub kind: LinkKind,
    /// The index of the bridge, bond or VRF it belongs to.
    pub master: Option<u32>,
    /// The administrator's promiscuous flag, the one of [`Links::set_promiscuous`]. Packet sockets
    /// and bridges do not show in it.
    pub promiscuous: bool,
    /// How many want it promiscuous: the administrator, bridges, packet sockets.
    pub promiscuity: u32,
    /// A veth's peer, or the interface below a VLAN or tunnel device; an index in the namespace
    /// of `peer_nsid`.
    pub peer_index: Option<u32>,
    /// The namespace of `peer_index`, as an id of this namespace; None: this namespace. Negative
    /// when the kernel could not name it.
    pub peer_nsid: Option<i32>,
    /// The XDP program attached to it.
    pub xdp: Option<Xdp>,
    /// Receive queues allocated, used or not.
    pub num_rx_queues: u32,
    /// Transmit queues allocated, used or not.
    pub num_tx_queues: u32,
    /// Options of a bridge.
    pub bridge: Option<BridgeFacts>,
    /// Options of a bridge's member.
    pub bridge_port: Option<BridgePort>,
}

/// What an interface is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkKind {
    /// A Linux bridge.
    Bridge,
    /// One end of a virtual Ethernet cable.
    Veth,
    /// A tap (with [`Link::ethernet`]) or tun device.
    Tun,
    /// An 802.1Q or 802.1ad device on another interface.
    Vlan,
    /// The loopback interface.
    Loopback,
    /// An Ethernet interface of no software kind: a network card, a virtual machine's too.
    Physical,
    /// Another kind, by the kernel's name.
    Other(String),
}

impl fmt::Display for LinkKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bridge => "bridge",
            Self::Veth => "veth",
            Self::Tun => "tun",
            Self::Vlan => "vlan",
            Self::Loopback => "loopback",
            Self::Physical => "physical",
            Self::Other(kind) => kind,
        })
    }
}

/// An attached XDP program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Xdp {
    /// The program's id; the native one's where programs are attached in several modes.
    pub prog_id: u32,
    /// How it is attached.
    pub mode: XdpMode,
}

/// How an XDP program is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum XdpMode {
    /// In the driver.
    Native,
    /// In the stack, after the driver built an skb.
    Generic,
    /// On the card.
    Offloaded,
    /// In more than one of these.
    Several,
}

/// Options of a bridge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BridgeFacts {
    /// Spanning tree runs, by the kernel or by a daemon.
    pub stp: bool,
    /// The bridge filters by VLAN.
    pub vlan_filtering: bool,
    /// The VLAN that the bridge gives to untagged frames of members that come, 0 is none; `None` where
    /// the kernel's bridge knows no VLANs.
    pub default_pvid: Option<u16>,
    /// The bridge snoops IGMP and MLD.
    pub multicast_snooping: bool,
}

/// A bridge's member, as its bridge sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BridgePort {
    /// The port's state.
    pub state: BridgePortState,
    /// The port's options.
    pub flags: BridgePortFlags,
}

/// A bridge port's state (linux/if_bridge.h, BR_STATE_*). Without spanning tree it is forwarding
/// while the interface is up and has a carrier, else disabled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BridgePortState {
    /// Not in use.
    Disabled,
    /// Spanning tree listens.
    Listening,
    /// Spanning tree learns addresses, nothing is forwarded.
    Learning,
    /// In use.
    Forwarding,
    /// Shut by spanning tree.
    Blocking,
}

/// What the plain bridge does with a port's frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BridgePortFlags {
    /// Frames go from and to ports that are not isolated only.
    pub isolated: bool,
    /// Frames to unknown unicast, multicast and broadcast addresses are sent to this port. When
    /// read: any one of the three.
    pub flood: bool,
    /// The bridge learns addresses from this port.
    pub learning: bool,
}

/// The interfaces of one network namespace: that of the thread which called [`Links::open`], for
/// as long as this value lives.
#[derive(Debug)]
pub struct Links {
    socket: Mutex<Socket>,
}

impl Links {
    /// Opens the way to the interfaces of the calling thread's network namespace. Needs no
    /// privilege; changes need CAP_NET_ADMIN.
    ///
    /// # Errors
    /// When no netlink socket can be opened.
    pub fn open() -> Result<Self> {
        let socket = Socket::open().context("opening a netlink socket")?;
        Ok(Self {
            socket: Mutex::new(socket),
        })
    }

    /// Every interface, in one dump, ascending by index.
    ///
    /// # Errors
    /// When the kernel refuses, or interfaces change faster than they can be listed.
    pub fn list(&self) -> Result<Vec<Link>> {
        let message = Message::new(libc::RTM_GETLINK, &ifinfomsg(0, 0, 0, 0))
            .attribute(libc::IFLA_EXT_MASK, &RTEXT_FILTER_SKIP_STATS.to_ne_bytes());
        let mut links = self
            .socket()
            .dump(&message, parse::link)
            .context("listing the interfaces")?;
        links.sort_by_key(|link| link.index);
        Ok(links)
    }

    /// The interface called `name`, if there is one. An alternative name finds it too (5.5), and
    /// then [`Link::name`] differs from `name`.
    ///
    /// # Errors
    /// When the kernel refuses for another reason than that there is none.
    pub fn by_name(&self, name: &str) -> Result<Option<Link>> {
        if name.is_empty() || name.len() > ALTERNATIVE_NAME_BYTES_MAX || name.contains('\0') {
            return Ok(None);
        }
        let kind = if name.len() <= NAME_BYTES_MAX {
            libc::IFLA_IFNAME
        } else {
            libc::IFLA_ALT_IFNAME
        };
        self.get(Message::new(libc::RTM_GETLINK, &ifinfomsg(0, 0, 0, 0)).string(kind, name))
            .with_context(|| format!("looking for interface {name}"))
    }

    /// The interface with `index`, if there is one.
    ///
    /// # Errors
    /// When the kernel refuses for another reason than that there is none.
    pub fn by_index(&self, index: u32) -> Result<Option<Link>> {
        if index == 0 {
            return Ok(None);
        }
        self.get(Message::new(libc::RTM_GETLINK, &ifinfomsg(0, index, 0, 0)))
            .with_context(|| format!("looking for interface number {index}"))
    }

    /// Creates a bridge, down, without ports, that keeps `mac`: a bridge whose address nobody set
    /// takes the lowest of its ports' (br_stp_if.c, br_stp_recalculate_bridge_id).
    ///
    /// Spanning tree is off, so that a port forwards at once, and multicast snooping is off, so
    /// that the bridge neither holds back multicast nor sends queries. Everything else, ageing
    /// among it, stays at the kernel's default. The MTU follows the lowest of the ports' until
    /// [`Links::set_mtu`] fixes it.
    ///
    /// # Errors
    /// When the name is taken or not valid, the MAC is a multicast address or zero, or the kernel
    /// has no bridges.
    pub fn create_bridge(&self, name: &str, mac: [u8; 6]) -> Result<Link> {
        let doing = || format!("creating bridge {name}");
        ensure!(
            !name.is_empty() && name.len() <= NAME_BYTES_MAX,
            "creating bridge {name:?}: an interface name has 1 to {NAME_BYTES_MAX} bytes"
        );
        let message = Message::new(libc::RTM_NEWLINK, &ifinfomsg(0, 0, 0, 0))
            .string(libc::IFLA_IFNAME, name)
            .attribute(libc::IFLA_ADDRESS, &mac)
            .nested(libc::IFLA_LINKINFO, |info| {
                info.string(libc::IFLA_INFO_KIND, "bridge")
                    .nested(libc::IFLA_INFO_DATA, |data| {
                        data.attribute(parse::IFLA_BR_STP_STATE, &0u32.to_ne_bytes())
                            .attribute(parse::IFLA_BR_MCAST_SNOOPING, &[0])
                    })
            });
        let created = self
            .socket()
            .change(message, libc::NLM_F_CREATE | libc::NLM_F_EXCL);
        if let Err(Refused {
            errno: libc::EOPNOTSUPP,
            ..
        }) = created
        {
            bail!("{}: this kernel has no bridges (CONFIG_BRIDGE)", doing());
        }
        created.with_context(doing)?;
        self.by_name(name)?
            .with_context(|| format!("{}: it went away again at once", doing()))
    }

    /// Creates a virtual Ethernet cable, both ends down; returns the end called `name`, which gets
    /// `mac` or one that the kernel draws.
    ///
    /// # Errors
    /// When a name is taken or not valid, or the kernel has no such cables.
    pub fn create_veth(&self, name: &str, mac: Option<[u8; 6]>, peer: &str) -> Result<Link> {
        /// linux/veth.h.
        const VETH_INFO_PEER: u16 = 1;
        let doing = || format!("creating the veths {name} and {peer}");
        let mut message =
            Message::new(libc::RTM_NEWLINK, &ifinfomsg(0, 0, 0, 0)).string(libc::IFLA_IFNAME, name);
        if let Some(mac) = mac {
            message = message.attribute(libc::IFLA_ADDRESS, &mac);
        }
        let message = message.nested(libc::IFLA_LINKINFO, |info| {
            info.string(libc::IFLA_INFO_KIND, "veth")
                .nested(libc::IFLA_INFO_DATA, |data| {
                    // The peer is described by a whole ifinfomsg with attributes behind it.
                    let peer =
                        Message::new(0, &ifinfomsg(0, 0, 0, 0)).string(libc::IFLA_IFNAME, peer);
                    data.attribute(VETH_INFO_PEER, peer.payload())
                })
        });
        self.socket()
            .change(message, libc::NLM_F_CREATE | libc::NLM_F_EXCL)
            .with_context(doing)?;
        self.by_name(name)?
            .with_context(|| format!("{}: it went away again at once", doing()))
    }

    /// Deletes an interface that software made. A veth's peer goes with it.
    ///
    /// # Errors
    /// When there is none, or it is a card, which cannot be deleted.
    pub fn delete(&self, index: u32) -> Result<()> {
        self.socket()
            .change(
                Message::new(libc::RTM_DELLINK, &ifinfomsg(0, index, 0, 0)),
                0,
            )
            .with_context(|| format!("deleting interface number {index}"))
    }

    /// Sets an interface up or down.
    ///
    /// # Errors
    /// When there is none, or its driver refuses.
    pub fn set_up(&self, index: u32, up: bool) -> Result<()> {
        let flag = libc::IFF_UP as u32;
        self.set_flags(index, if up { flag } else { 0 }, flag)
            .with_context(|| {
                format!(
                    "setting interface number {index} {}",
                    if up { "up" } else { "down" }
                )
            })
    }

    /// Sets an interface's MTU in bytes. A bridge takes 68 to 65,535, whatever its ports have, and
    /// no longer follows them.
    ///
    /// # Errors
    /// When there is none, or the driver's bounds are exceeded; the kernel says which.
    pub fn set_mtu(&self, index: u32, mtu: u32) -> Result<()> {
        self.set(index, |message| {
            message.attribute(libc::IFLA_MTU, &mtu.to_ne_bytes())
        })
        .with_context(|| format!("setting the MTU of interface number {index} to {mtu}"))
    }

    /// Makes an interface a member of the bridge with index `master`, or of none.
    ///
    /// # Errors
    /// When either does not exist, `master` takes no members, or the interface cannot be one
    /// (a bridge, the loopback interface, one without Ethernet).
    pub fn set_master(&self, index: u32, master: Option<u32>) -> Result<()> {
        let value = master.unwrap_or(0).to_ne_bytes();
        self.set(index, |message| {
            message.attribute(libc::IFLA_MASTER, &value)
        })
        .with_context(|| match master {
            Some(master) => {
                format!("making interface number {index} a member of number {master}")
            }
            None => format!("taking interface number {index} out of its bridge"),
        })
    }

    /// Sets the administrator's promiscuous flag and returns what it was before.
    ///
    /// The kernel counts promiscuity, and this flag is one in that count (net/core/dev.c,
    /// `gflags`): clearing it leaves the interface promiscuous while a packet socket or a bridge
    /// wants it so. Another administrator's `ip link set … promisc on` is the same flag, though:
    /// who sets it should clear it only if this returned false.
    ///
    /// # Errors
    /// When there is no such interface.
    pub fn set_promiscuous(&self, index: u32, on: bool) -> Result<bool> {
        let link = self
            .by_index(index)?
            .with_context(|| format!("setting promiscuous mode: no interface number {index}"))?;
        if link.promiscuous != on {
            let flag = libc::IFF_PROMISC as u32;
            self.set_flags(index, if on { flag } else { 0 }, flag)
                .with_context(|| {
                    let word = if on { "on" } else { "off" };
                    format!("switching promiscuous mode of {} {word}", link.name)
                })?;
        }
        Ok(link.promiscuous)
    }

    /// Sets what the plain bridge does with a member's frames. Flooding is set for unicast,
    /// multicast and broadcast alike.
    ///
    /// # Errors
    /// When the interface does not exist or is not a bridge's member.
    pub fn set_bridge_port(&self, index: u32, flags: BridgePortFlags) -> Result<()> {
        let family = libc::AF_BRIDGE as u8;
        let message = Message::new(libc::RTM_SETLINK, &ifinfomsg(family, index, 0, 0)).nested(
            libc::IFLA_PROTINFO,
            |port| {
                port.attribute(parse::IFLA_BRPORT_ISOLATED, &[flags.isolated.into()])
                    .attribute(parse::IFLA_BRPORT_LEARNING, &[flags.learning.into()])
                    .attribute(parse::IFLA_BRPORT_UNICAST_FLOOD, &[flags.flood.into()])
                    .attribute(parse::IFLA_BRPORT_MCAST_FLOOD, &[flags.flood.into()])
                    .attribute(parse::IFLA_BRPORT_BCAST_FLOOD, &[flags.flood.into()])
            },
        );
        self.socket().change(message, 0).with_context(|| {
            format!("setting the bridge port options of interface number {index} (a member?)")
        })
    }

    /// Sets whether a bridge filters by VLAN, and the VLAN that it gives to untagged frames of members
    /// that come; 0 is none. It passes nothing of theirs then (net/bridge/br_vlan.c,
    /// `__allowed_ingress`).
    ///
    /// # Errors
    /// When it is no bridge, or the kernel's bridge knows no VLANs.
    pub fn set_bridge_vlans(&self, index: u32, filtering: bool, default_pvid: u16) -> Result<()> {
        let message = Message::new(libc::RTM_NEWLINK, &ifinfomsg(0, index, 0, 0)).nested(
            libc::IFLA_LINKINFO,
            |info| {
                info.string(libc::IFLA_INFO_KIND, "bridge")
                    .nested(libc::IFLA_INFO_DATA, |data| {
                        data.attribute(parse::IFLA_BR_VLAN_FILTERING, &[filtering.into()])
                            .attribute(
                                parse::IFLA_BR_VLAN_DEFAULT_PVID,
                                &default_pvid.to_ne_bytes(),
                            )
                    })
            },
        );
        self.socket()
            .change(message, 0)
            .with_context(|| format!("setting the VLAN filter of the bridge number {index}"))
    }

    /// Whether spanning tree runs on a bridge, by the kernel or by a daemon.
    ///
    /// # Errors
    /// When there is no such interface or it is not a bridge.
    pub fn bridge_stp_enabled(&self, index: u32) -> Result<bool> {
        let link = self
            .by_index(index)?
            .with_context(|| format!("reading spanning tree: no interface number {index}"))?;
        let bridge = link
            .bridge
            .with_context(|| format!("reading spanning tree: {} is not a bridge", link.name))?;
        Ok(bridge.stp)
    }

    fn get(&self, message: Message) -> Result<Option<Link>, Refused> {
        let message =
            message.attribute(libc::IFLA_EXT_MASK, &RTEXT_FILTER_SKIP_STATS.to_ne_bytes());
        match self.socket().query(message) {
            Ok(payload) => parse::link(&payload).map(Some).ok_or(Refused {
                errno: libc::EBADMSG,
                explanation: Some("the kernel's answer cannot be read".to_owned()),
            }),
            Err(Refused {
                errno: libc::ENODEV,
                ..
            }) => Ok(None),
            Err(refused) => Err(refused),
        }
    }

    fn set(&self, index: u32, fill: impl FnOnce(Message) -> Message) -> Result<(), Refused> {
        let message = fill(Message::new(libc::RTM_SETLINK, &ifinfomsg(0, index, 0, 0)));
        self.socket().change(message, 0)
    }

    fn set_flags(&self, index: u32, flags: u32, change: u32) -> Result<(), Refused> {
        let message = Message::new(libc::RTM_SETLINK, &ifinfomsg(0, index, flags, change));
        self.socket().change(message, 0)
    }

    pub(super) fn socket(&self) -> std::sync::MutexGuard<'_, Socket> {
        // A panic between two requests leaves nothing half done: answers to an earlier request are
        // told apart by their sequence number.
        self.socket.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
