//! From an RTM_NEWLINK message to a [`Link`].

use super::super::netlink::{attributes, text, u16_at, u32_at};
use super::{
    BridgeFacts, BridgePort, BridgePortFlags, BridgePortState, Link, LinkKind, Xdp, XdpMode,
};

// linux/if_link.h, IFLA_XDP_*, and the values of IFLA_XDP_ATTACHED.
const IFLA_XDP_ATTACHED: u16 = 2;
const IFLA_XDP_PROG_ID: u16 = 4;
const IFLA_XDP_DRV_PROG_ID: u16 = 5;
const XDP_ATTACHED_DRV: u8 = 1;
const XDP_ATTACHED_SKB: u8 = 2;
const XDP_ATTACHED_HW: u8 = 3;
const XDP_ATTACHED_MULTI: u8 = 4;

// linux/if_link.h, IFLA_BR_*: a bridge's own options.
pub(super) const IFLA_BR_STP_STATE: u16 = 5;
pub(super) const IFLA_BR_VLAN_FILTERING: u16 = 7;
pub(super) const IFLA_BR_MCAST_SNOOPING: u16 = 23;
pub(super) const IFLA_BR_VLAN_DEFAULT_PVID: u16 = 39;

// linux/if_link.h, IFLA_BRPORT_*: a bridge port's options.
const IFLA_BRPORT_STATE: u16 = 1;
pub(super) const IFLA_BRPORT_LEARNING: u16 = 8;
pub(super) const IFLA_BRPORT_UNICAST_FLOOD: u16 = 9;
pub(super) const IFLA_BRPORT_MCAST_FLOOD: u16 = 27;
pub(super) const IFLA_BRPORT_BCAST_FLOOD: u16 = 30;
pub(super) const IFLA_BRPORT_ISOLATED: u16 = 33;

/// Size of `struct ifinfomsg`.
const IFINFOMSG: usize = 16;

/// Parses the payload of an RTM_NEWLINK message. None if it is too short to be one or is not about
/// an interface of this family. Unknown attributes are ignored, missing ones leave the default.
pub(super) fn link(payload: &[u8]) -> Option<Link> {
    if *payload.first()? != libc::AF_UNSPEC as u8 {
        return None;
    }
    let hardware = u16_at(payload, 2)?;
    let flags = u32_at(payload, 8)?;
    let has = |flag: libc::c_int| flags & flag as u32 != 0;
    let mut link = Link {
        index: u32_at(payload, 4)?,
        name: String::new(),
        mac: [0; 6],
        mtu: 0,
        up: has(libc::IFF_UP),
        carrier: has(libc::IFF_LOWER_UP),
        ethernet: hardware == libc::ARPHRD_ETHER,
        kind: LinkKind::Other(format!("hardware type {hardware}")),
        master: None,
        promiscuous: has(libc::IFF_PROMISC),
        promiscuity: 0,
        peer_index: None,
        peer_nsid: None,
        xdp: None,
        num_rx_queues: 1,
        num_tx_queues: 1,
        bridge: None,
        bridge_port: None,
    };
    if has(libc::IFF_LOOPBACK) {
        link.kind = LinkKind::Loopback;
    } else if link.ethernet {
        link.kind = LinkKind::Physical;
    }
    for (kind, value) in attributes(payload.get(IFINFOMSG..)?) {
        let number = u32_at(value, 0);
        match kind {
            libc::IFLA_IFNAME => link.name = text(value),
            libc::IFLA_ADDRESS => {
                if let Ok(mac) = value.try_into() {
                    link.mac = mac;
                }
            }
            libc::IFLA_MTU => link.mtu = number.unwrap_or(link.mtu),
            libc::IFLA_MASTER => link.master = number.filter(|&index| index != 0),
            libc::IFLA_PROMISCUITY => link.promiscuity = number.unwrap_or(link.promiscuity),
            libc::IFLA_LINK => link.peer_index = number.filter(|&index| index != 0),
            libc::IFLA_LINK_NETNSID => link.peer_nsid = number.map(|nsid| nsid as i32),
            libc::IFLA_NUM_RX_QUEUES => link.num_rx_queues = number.unwrap_or(link.num_rx_queues),
            libc::IFLA_NUM_TX_QUEUES => link.num_tx_queues = number.unwrap_or(link.num_tx_queues),
            libc::IFLA_XDP => link.xdp = xdp(value),
            libc::IFLA_LINKINFO => link_info(value, &mut link),
            _ => {}
        }
    }
    Some(link)
}

/// IFLA_LINKINFO. The kernel puts the kind before its data (rtnetlink.c, rtnl_link_fill).
fn link_info(nested: &[u8], link: &mut Link) {
    let mut master_kind = String::new();
    for (kind, value) in attributes(nested) {
        match kind {
            libc::IFLA_INFO_KIND => {
                link.kind = match text(value).as_str() {
                    "bridge" => LinkKind::Bridge,
                    "veth" => LinkKind::Veth,
                    "tun" => LinkKind::Tun,
                    "vlan" => LinkKind::Vlan,
                    other => LinkKind::Other(other.to_owned()),
                }
            }
            libc::IFLA_INFO_DATA if link.kind == LinkKind::Bridge => {
                link.bridge = Some(bridge(value));
            }
            libc::IFLA_INFO_SLAVE_KIND => master_kind = text(value),
            libc::IFLA_INFO_SLAVE_DATA if master_kind == "bridge" => {
                link.bridge_port = Some(bridge_port(value));
            }
            _ => {}
        }
    }
}

fn bridge(nested: &[u8]) -> BridgeFacts {
    let mut facts = BridgeFacts {
        stp: false,
        vlan_filtering: false,
        default_pvid: None,
        multicast_snooping: false,
    };
    for (kind, value) in attributes(nested) {
        let on = value.first().is_some_and(|&byte| byte != 0);
        match kind {
            // 0 off, 1 the kernel's own, 2 a daemon's (BR_KERNEL_STP, BR_USER_STP): either counts.
            IFLA_BR_STP_STATE => facts.stp = u32_at(value, 0).is_some_and(|state| state != 0),
            IFLA_BR_VLAN_FILTERING => facts.vlan_filtering = on,
            IFLA_BR_VLAN_DEFAULT_PVID => facts.default_pvid = u16_at(value, 0),
            IFLA_BR_MCAST_SNOOPING => facts.multicast_snooping = on,
            _ => {}
        }
    }
    facts
}

fn bridge_port(nested: &[u8]) -> BridgePort {
    let mut port = BridgePort {
        state: BridgePortState::Disabled,
        flags: BridgePortFlags {
            isolated: false,
            flood: false,
            learning: false,
        },
    };
    for (kind, value) in attributes(nested) {
        let number = value.first().copied().unwrap_or(0);
        match kind {
            IFLA_BRPORT_STATE => {
                port.state = match number {
                    1 => BridgePortState::Listening,
                    2 => BridgePortState::Learning,
                    3 => BridgePortState::Forwarding,
                    4 => BridgePortState::Blocking,
                    _ => BridgePortState::Disabled,
                }
            }
            IFLA_BRPORT_LEARNING => port.flags.learning = number != 0,
            IFLA_BRPORT_ISOLATED => port.flags.isolated = number != 0,
            IFLA_BRPORT_UNICAST_FLOOD | IFLA_BRPORT_MCAST_FLOOD | IFLA_BRPORT_BCAST_FLOOD => {
                port.flags.flood |= number != 0;
            }
            _ => {}
        }
    }
    port
}

fn xdp(nested: &[u8]) -> Option<Xdp> {
    let (mut mode, mut only, mut native) = (None, None, None);
    for (kind, value) in attributes(nested) {
        match kind {
            IFLA_XDP_ATTACHED => {
                mode = match *value.first()? {
                    XDP_ATTACHED_DRV => Some(XdpMode::Native),
                    XDP_ATTACHED_SKB => Some(XdpMode::Generic),
                    XDP_ATTACHED_HW => Some(XdpMode::Offloaded),
                    XDP_ATTACHED_MULTI => Some(XdpMode::Several),
                    _ => None,
                }
            }
            IFLA_XDP_PROG_ID => only = u32_at(value, 0),
            IFLA_XDP_DRV_PROG_ID => native = u32_at(value, 0),
            _ => {}
        }
    }
    // With programs in several modes the kernel leaves IFLA_XDP_PROG_ID out.
    Some(Xdp {
        prog_id: only.or(native).unwrap_or(0),
        mode: mode?,
    })
}

#[cfg(test)]
mod tests {
    use super::super::super::netlink::ifinfomsg;
    use super::*;

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let mut bytes = (value.len() as u16 + 4).to_ne_bytes().to_vec();
        bytes.extend_from_slice(&kind.to_ne_bytes());
        bytes.extend_from_slice(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn message(flags: i32, attributes: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = ifinfomsg(0, 7, flags as u32, 0).to_vec();
        bytes[2..4].copy_from_slice(&libc::ARPHRD_ETHER.to_ne_bytes());
        bytes.extend(attributes.concat());
        bytes
    }

    #[test]
    fn a_card_without_link_info_is_physical() {
        let link = link(&message(
            libc::IFF_UP | libc::IFF_PROMISC,
            &[
                attribute(libc::IFLA_IFNAME, b"eth0\0"),
                attribute(libc::IFLA_ADDRESS, &[2, 0, 0, 0, 0, 1]),
                attribute(libc::IFLA_MTU, &1500u32.to_ne_bytes()),
                attribute(libc::IFLA_PROMISCUITY, &2u32.to_ne_bytes()),
                attribute(0x3fff, b"from a later kernel"),
                attribute(libc::IFLA_NUM_TX_QUEUES, &[1]),
            ],
        ))
        .expect("a whole message");
        assert_eq!(
            (link.index, link.name.as_str(), link.mtu),
            (7, "eth0", 1500)
        );
        assert_eq!(link.mac, [2, 0, 0, 0, 0, 1]);
        assert_eq!(link.kind, LinkKind::Physical);
        assert!(link.up && link.promiscuous && link.ethernet && !link.carrier);
        assert_eq!(link.promiscuity, 2);
        assert_eq!(
            link.num_tx_queues, 1,
            "a value that is too short leaves the default"
        );
    }

    #[test]
    fn modes_of_xdp() {
        let mode = |value| attribute(IFLA_XDP_ATTACHED, &[value]);
        let id = |kind| attribute(kind, &42u32.to_ne_bytes());
        assert_eq!(xdp(&mode(0)), None);
        let native = [mode(XDP_ATTACHED_DRV), id(IFLA_XDP_PROG_ID)].concat();
        assert_eq!(
            xdp(&native),
            Some(Xdp {
                prog_id: 42,
                mode: XdpMode::Native
            })
        );
        let several = [mode(XDP_ATTACHED_MULTI), id(IFLA_XDP_DRV_PROG_ID)].concat();
        assert_eq!(
            xdp(&several),
            Some(Xdp {
                prog_id: 42,
                mode: XdpMode::Several
            })
        );
    }

    #[test]
    fn a_short_or_foreign_message_is_no_link() {
        assert_eq!(link(&[]), None);
        assert_eq!(link(&[0; 15]), None);
        let mut bridge_entry = message(0, &[]);
        bridge_entry[0] = libc::AF_BRIDGE as u8;
        assert_eq!(link(&bridge_entry), None);
    }
}
