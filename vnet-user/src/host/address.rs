//! IP addresses of interfaces: listing, giving and taking them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Context as _, Result};
use ipnet::IpNet;

use super::link::Links;
use super::netlink::{Message, Refused, attributes, u32_at};

/// linux/rtnetlink.h, RT_SCOPE_UNIVERSE.
const SCOPE_GLOBAL: u8 = 0;

/// An address of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address {
    /// The interface's index.
    pub ifindex: u32,
    /// The address, with the length of its prefix.
    pub net: IpNet,
    /// It is valid beyond the link and the host.
    pub global: bool,
    /// Not the one that the kernel chooses as source where it has another: a secondary, temporary,
    /// deprecated or tentative one.
    pub spare: bool,
}

/// `struct ifaddrmsg`.
fn ifaddrmsg(net: Option<IpNet>, ifindex: u32) -> [u8; 8] {
    let mut header = [0; 8];
    if let Some(net) = net {
        header[0] = match net {
            IpNet::V4(_) => libc::AF_INET as u8,
            IpNet::V6(_) => libc::AF_INET6 as u8,
        };
        header[1] = net.prefix_len();
    }
    header[4..8].copy_from_slice(&ifindex.to_ne_bytes());
    header
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// Parses the payload of an RTM_NEWADDR message.
fn parse(payload: &[u8]) -> Option<Address> {
    let (family, prefix_len) = (i32::from(*payload.first()?), *payload.get(1)?);
    let scope = *payload.get(3)?;
    let mut flags = u32::from(*payload.get(2)?);
    let (mut local, mut address) = (None, None);
    for (kind, value) in attributes(payload.get(8..)?) {
        let ip = || match family {
            libc::AF_INET => Some(Ipv4Addr::from(<[u8; 4]>::try_from(value).ok()?).into()),
            libc::AF_INET6 => Some(Ipv6Addr::from(<[u8; 16]>::try_from(value).ok()?).into()),
            _ => None::<IpAddr>,
        };
        match kind {
            libc::IFA_LOCAL => local = ip(),
            // The peer's on a point-to-point link, else the same as the local one.
            libc::IFA_ADDRESS => address = ip(),
            libc::IFA_FLAGS => flags = u32_at(value, 0).unwrap_or(flags),
            _ => {}
        }
    }
    let spare = libc::IFA_F_SECONDARY
        | libc::IFA_F_DADFAILED
        | libc::IFA_F_DEPRECATED
        | libc::IFA_F_TENTATIVE;
    Some(Address {
        ifindex: u32_at(payload, 4)?,
        net: IpNet::new(local.or(address)?, prefix_len).ok()?,
        global: scope == SCOPE_GLOBAL,
        spare: flags & spare != 0,
    })
}

impl Links {
    /// Every address of every interface, in the kernel's order.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn addresses(&self) -> Result<Vec<Address>> {
        self.socket()
            .dump(&Message::new(libc::RTM_GETADDR, &ifaddrmsg(None, 0)), parse)
            .context("listing the host's addresses")
    }

    /// Gives an interface an address. An IPv6 one is in use at once, without duplicate address
    /// detection. Nothing happens when the interface has it.
    ///
    /// # Errors
    /// When there is no such interface, or the kernel refuses the address.
    pub fn add_address(&self, ifindex: u32, net: IpNet) -> Result<()> {
        let address = octets(net.addr());
        let mut message = Message::new(libc::RTM_NEWADDR, &ifaddrmsg(Some(net), ifindex))
            .attribute(libc::IFA_LOCAL, &address)
            .attribute(libc::IFA_ADDRESS, &address);
        if matches!(net, IpNet::V6(_)) {
            message = message.attribute(libc::IFA_FLAGS, &libc::IFA_F_NODAD.to_ne_bytes());
        }
        let flags = libc::NLM_F_CREATE | libc::NLM_F_EXCL;
        match self.socket().change(message, flags) {
            Err(Refused {
                errno: libc::EEXIST,
                ..
            }) => Ok(()),
            result => result.with_context(|| format!("adding {net} to interface number {ifindex}")),
        }
    }

    /// Takes an address from an interface. Nothing happens when it has none such.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn delete_address(&self, ifindex: u32, net: IpNet) -> Result<()> {
        let message = Message::new(libc::RTM_DELADDR, &ifaddrmsg(Some(net), ifindex))
            .attribute(libc::IFA_LOCAL, &octets(net.addr()));
        match self.socket().change(message, 0) {
            Err(Refused {
                errno: libc::EADDRNOTAVAIL | libc::ENODEV,
                ..
            }) => Ok(()),
            result => {
                result.with_context(|| format!("taking {net} from interface number {ifindex}"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::in_new_netns;
    use super::*;

    #[test]
    fn addresses_come_and_go() {
        in_new_netns(|| {
            let links = Links::open()?;
            let bridge = links.create_bridge("br0", [2, 0, 0, 0, 0, 1])?;
            links.set_up(bridge.index, true)?;
            let nets: [IpNet; 3] = ["10.1.0.1/24", "10.1.0.2/24", "fd00:1::1/64"]
                .map(|text| text.parse().expect("an address"));
            for net in nets {
                links.add_address(bridge.index, net)?;
                links.add_address(bridge.index, net)?;
            }
            let ours = || -> Result<Vec<Address>> {
                let mut all = links.addresses()?;
                all.retain(|address| address.ifindex == bridge.index && address.global);
                Ok(all)
            };
            let found = ours()?;
            for net in nets {
                let address = found.iter().find(|address| address.net == net);
                let address = address.with_context(|| format!("{net} is missing"))?;
                assert_eq!(address.spare, net == nets[1], "{net}");
            }
            for net in nets {
                links.delete_address(bridge.index, net)?;
                links.delete_address(bridge.index, net)?;
            }
            assert_eq!(ours()?, []);
            assert!(links.add_address(4000, nets[0]).is_err());
            links.delete_address(4000, nets[0])
        });
    }
}
