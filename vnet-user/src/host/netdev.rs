//! What XDP an interface's driver has, by the generic netlink family `netdev` (6.3).

use anyhow::{Context as _, Result};

use super::netlink::{Message, Refused, Socket, attributes, u16_at};

// linux/genetlink.h: the family that knows the others.
const GENL_ID_CTRL: u16 = 0x10;
const CTRL_CMD_GETFAMILY: u8 = 3;
const CTRL_ATTR_FAMILY_ID: u16 = 1;
const CTRL_ATTR_FAMILY_NAME: u16 = 2;

// linux/netdev.h.
const NETDEV_CMD_DEV_GET: u8 = 1;
const NETDEV_A_DEV_IFINDEX: u16 = 1;
const NETDEV_A_DEV_XDP_FEATURES: u16 = 3;
const NETDEV_XDP_ACT_BASIC: u64 = 1;
const NETDEV_XDP_ACT_REDIRECT: u64 = 2;
const NETDEV_XDP_ACT_RX_SG: u64 = 32;

/// Size of `struct genlmsghdr`.
const GENL_HEADER: usize = 4;

/// What XDP a driver has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct XdpFeatures {
    /// Programs run in the driver.
    pub native: bool,
    /// They may send frames on to other interfaces.
    pub redirect: bool,
    /// They may be handed frames in several buffers, so that the MTU has no limit of theirs.
    pub frags: bool,
}

/// What XDP the driver of interface `index` has; `None` on a kernel that does not tell (below 6.3).
///
/// # Errors
/// When there is no such interface, or the kernel refuses.
pub fn xdp_features(index: u32) -> Result<Option<XdpFeatures>> {
    let doing = || format!("asking what XDP the driver of interface number {index} has");
    let mut socket = Socket::open_generic().with_context(doing)?;
    let Some(family) = family_id(&mut socket).with_context(doing)? else {
        return Ok(None);
    };
    let message = Message::new(family, &[NETDEV_CMD_DEV_GET, 1, 0, 0])
        .attribute(NETDEV_A_DEV_IFINDEX, &index.to_ne_bytes());
    let answer = socket.query(message).with_context(doing)?;
    Ok(parse(&answer))
}

/// The number of the family `netdev`, where the kernel has it.
fn family_id(socket: &mut Socket) -> Result<Option<u16>, Refused> {
    let message = Message::new(GENL_ID_CTRL, &[CTRL_CMD_GETFAMILY, 1, 0, 0])
        .string(CTRL_ATTR_FAMILY_NAME, "netdev");
    match socket.query(message) {
        Ok(answer) => Ok(attributes(answer.get(GENL_HEADER..).unwrap_or(&[]))
            .find(|(kind, _)| *kind == CTRL_ATTR_FAMILY_ID)
            .and_then(|(_, value)| u16_at(value, 0))),
        Err(Refused {
            errno: libc::ENOENT,
            ..
        }) => Ok(None),
        Err(refused) => Err(refused),
    }
}

fn parse(answer: &[u8]) -> Option<XdpFeatures> {
    let (_, value) = attributes(answer.get(GENL_HEADER..)?)
        .find(|(kind, _)| *kind == NETDEV_A_DEV_XDP_FEATURES)?;
    let bits = u64::from_ne_bytes(value.try_into().ok()?);
    let has = |bit| bits & bit != 0;
    Some(XdpFeatures {
        native: has(NETDEV_XDP_ACT_BASIC),
        redirect: has(NETDEV_XDP_ACT_REDIRECT),
        frags: has(NETDEV_XDP_ACT_RX_SG),
    })
}

#[cfg(test)]
mod tests {
    use anyhow::ensure;

    use super::super::kernel;
    use super::super::link::Links;
    use super::super::testing::{create_veth, in_new_netns};
    use super::*;

    #[test]
    fn bits_are_read() {
        let mut answer = vec![NETDEV_CMD_DEV_GET, 1, 0, 0, 12, 0, 3, 0];
        answer.extend_from_slice(&(1u64 | 32).to_ne_bytes());
        let features = parse(&answer).expect("a whole answer");
        assert!(features.native && features.frags && !features.redirect);
        assert_eq!(parse(&answer[..10]), None);
    }

    #[test]
    fn a_veth_has_native_xdp_and_a_bridge_has_not() {
        in_new_netns(|| {
            create_veth("v0", "v1")?;
            let links = Links::open()?;
            let veth = links.by_name("v0")?.context("it was made")?;
            let bridge = links.create_bridge("br0", [2, 0, 0, 0, 0, 1])?;
            let told = xdp_features(veth.index)?;
            ensure!(told.is_some() == (kernel::version()? >= (6, 3)), "{told:?}");
            if let Some(features) = told {
                ensure!(features.native && features.redirect, "{features:?}");
                let bridge = xdp_features(bridge.index)?.context("told of the veth")?;
                ensure!(!bridge.native, "{bridge:?}");
            }
            Ok(())
        });
    }
}
