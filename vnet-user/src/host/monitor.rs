//! Hearing of what changes: interfaces, addresses, routes, neighbours.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsRawFd, RawFd};

use anyhow::{Context as _, Result};

use super::netlink::{Socket, attributes, u16_at, u32_at};

/// Most neighbours whose MAC addresses are remembered.
const NEIGHBOURS_MAX: usize = 65_536;

/// The kernel's news about one network namespace: that of the thread which called
/// [`Monitor::open`]. Its descriptor is readable when there are some.
#[derive(Debug)]
pub struct Monitor {
    socket: Socket,
    /// The MAC address of each neighbour, by interface and address, as it was last heard of.
    neighbours: HashMap<(u32, Vec<u8>), Vec<u8>>,
}

/// What has changed since it was last asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct News {
    /// Interfaces came, went or changed.
    pub links: bool,
    /// The host's own addresses.
    pub addresses: bool,
    /// Where packets go: a route, or a neighbour's MAC address.
    pub ways: bool,
}

impl News {
    /// Everything may have changed.
    pub const ALL: Self = Self {
        links: true,
        addresses: true,
        ways: true,
    };
}

impl Monitor {
    /// Begins to listen.
    ///
    /// # Errors
    /// The kernel gives no such socket.
    pub fn open() -> Result<Self> {
        let socket = Socket::open_listening(&[
            libc::RTNLGRP_LINK,
            libc::RTNLGRP_NEIGH,
            libc::RTNLGRP_IPV4_IFADDR,
            libc::RTNLGRP_IPV6_IFADDR,
            libc::RTNLGRP_IPV4_ROUTE,
            libc::RTNLGRP_IPV6_ROUTE,
        ])
        .context("listening to the kernel's news of interfaces and routes")?;
        Ok(Self {
            socket,
            neighbours: HashMap::new(),
        })
    }

    /// Takes what there is, and does not wait for more.
    ///
    /// # Errors
    /// The socket is broken. That news were lost is none: everything may have changed then.
    pub fn take(&mut self) -> io::Result<News> {
        let mut news = News::default();
        loop {
            let neighbours = &mut self.neighbours;
            let heard = self.socket.hear(|kind, payload| match kind {
                libc::RTM_NEWLINK | libc::RTM_DELLINK => news.links = true,
                libc::RTM_NEWADDR | libc::RTM_DELADDR => news.addresses = true,
                libc::RTM_NEWROUTE | libc::RTM_DELROUTE => news.ways = true,
                libc::RTM_NEWNEIGH | libc::RTM_DELNEIGH => {
                    news.ways |= neighbour_moved(neighbours, payload);
                }
                _ => {}
            });
            match heard {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(news),
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => news = News::ALL,
                Err(error) => return Err(error),
            }
        }
    }
}

impl AsRawFd for Monitor {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.fd().as_raw_fd()
    }
}

/// Whether a neighbour has another MAC address than before. What is found out for the first time
/// changes nothing that was decided before; most messages tell of a timer alone.
fn neighbour_moved(known: &mut HashMap<(u32, Vec<u8>), Vec<u8>>, payload: &[u8]) -> bool {
    /// Size of `struct ndmsg`.
    const HEADER: usize = 12;
    /// linux/neighbour.h: states in which it has no usable MAC address.
    const NUD_INCOMPLETE: u16 = 0x01;
    const NUD_FAILED: u16 = 0x20;
    // A bridge's own addresses come by the same messages.
    if payload
        .first()
        .is_none_or(|family| i32::from(*family) == libc::AF_BRIDGE)
    {
        return false;
    }
    let (Some(ifindex), Some(state)) = (u32_at(payload, 4), u16_at(payload, 8)) else {
        return false;
    };
    let (mut address, mut mac) = (None, None);
    for (kind, value) in attributes(payload.get(HEADER..).unwrap_or_default()) {
        match kind {
            libc::NDA_DST => address = Some(value.to_vec()),
            libc::NDA_LLADDR => mac = Some(value.to_vec()),
            _ => {}
        }
    }
    let Some(address) = address else {
        return false;
    };
    let key = (ifindex, address);
    if state & (NUD_INCOMPLETE | NUD_FAILED) != 0 {
        return known.remove(&key).is_some();
    }
    let Some(mac) = mac else {
        return false;
    };
    if known.len() >= NEIGHBOURS_MAX {
        known.clear();
    }
    known
        .insert(key, mac.clone())
        .is_some_and(|before| before != mac)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(state: u16, mac: Option<[u8; 6]>) -> Vec<u8> {
        let mut bytes = vec![libc::AF_INET as u8, 0, 0, 0];
        bytes.extend(7u32.to_ne_bytes());
        bytes.extend(state.to_ne_bytes());
        bytes.extend([0, 1]);
        bytes.extend([8, 0, libc::NDA_DST as u8, 0, 10, 0, 0, 2]);
        if let Some(mac) = mac {
            bytes.extend([10, 0, libc::NDA_LLADDR as u8, 0]);
            bytes.extend(mac);
            bytes.extend([0, 0]);
        }
        bytes
    }

    #[test]
    fn a_neighbour_moves_when_its_address_is_another() {
        const REACHABLE: u16 = 2;
        const STALE: u16 = 4;
        const FAILED: u16 = 0x20;
        let mut known = HashMap::new();
        let mut heard = |state, last: Option<u8>| {
            let mac = last.map(|last| [2, 0, 0, 0, 0, last]);
            neighbour_moved(&mut known, &message(state, mac))
        };
        assert!(!heard(REACHABLE, Some(1)));
        assert!(!heard(STALE, Some(1)));
        assert!(heard(REACHABLE, Some(2)));
        assert!(heard(FAILED, None));
        assert!(!heard(FAILED, None));
        assert!(!heard(REACHABLE, Some(2)));
    }
}
