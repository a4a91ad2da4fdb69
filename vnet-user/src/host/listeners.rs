//! Which addresses and ports programs of the host listen on: `/proc/net/{tcp,tcp6,udp,udp6}`
//! (Documentation/networking/proc_net_tcp.rst), of the network namespace of the calling thread.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;

use crate::error::{Doing as _, Error};

/// Where a program of the host listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listener {
    /// `tcp` or `udp`.
    pub proto: &'static str,
    /// Its address, which may be the unspecified one, and its port.
    pub local: SocketAddr,
}

impl fmt::Display for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.local, self.proto)
    }
}

/// State TCP_LISTEN (Linux 6.12, include/net/tcp_states.h).
const LISTEN: &str = "0A";
/// State TCP_CLOSE, which of UDP means: bound, and not connected to one peer.
const UNCONNECTED: &str = "07";

/// The first socket that listens on one of `ports` of `addr`, or of every address.
///
/// # Errors
/// The kernel's lists cannot be read.
pub fn find(
    tcp: bool,
    udp: bool,
    addr: IpAddr,
    ports: RangeInclusive<u16>,
) -> Result<Option<Listener>, Error> {
    for (wanted, proto, table, state) in [
        (tcp, "tcp", "tcp", LISTEN),
        (tcp, "tcp", "tcp6", LISTEN),
        (udp, "udp", "udp", UNCONNECTED),
        (udp, "udp", "udp6", UNCONNECTED),
    ] {
        if !wanted {
            continue;
        }
        // Not /proc/net, which is that of the process's first thread.
        let path = format!("/proc/thread-self/net/{table}");
        let text = match std::fs::read_to_string(&path) {
            // A kernel without IPv6.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            text => text.doing(|| format!("reading {path}"))?,
        };
        let found = text
            .lines()
            .skip(1)
            .filter_map(|line| parse(line, state))
            .find(|local| ports.contains(&local.port()) && gets(local.ip(), addr));
        if let Some(local) = found {
            return Ok(Some(Listener { proto, local }));
        }
    }
    Ok(None)
}

/// Whether a socket bound to `local` gets what is sent to `addr`.
fn gets(local: IpAddr, addr: IpAddr) -> bool {
    match local {
        // Unless it is IPV6_V6ONLY, which the list does not tell.
        IpAddr::V6(local) if local.is_unspecified() => true,
        IpAddr::V4(local) if local.is_unspecified() => addr.is_ipv4(),
        local => local.to_canonical() == addr,
    }
}

/// The local address of a line whose socket is in `state`.
fn parse(line: &str, state: &str) -> Option<SocketAddr> {
    let mut words = line.split_ascii_whitespace();
    let (local, _remote, in_state) = (words.nth(1)?, words.next()?, words.next()?);
    if in_state != state {
        return None;
    }
    let (addr, port) = local.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    // Each 32 bits are printed as a number, whose bytes in memory are in network order.
    let word = |index: usize| {
        let digits = addr.get(index * 8..index * 8 + 8)?;
        u32::from_str_radix(digits, 16).ok().map(u32::to_ne_bytes)
    };
    let addr = match addr.len() {
        8 => IpAddr::V4(Ipv4Addr::from(word(0)?)),
        32 => {
            let mut octets = [0; 16];
            for (index, chunk) in octets.chunks_exact_mut(4).enumerate() {
                chunk.copy_from_slice(&word(index)?);
            }
            IpAddr::V6(Ipv6Addr::from(octets))
        }
        _ => return None,
    };
    Some(SocketAddr::new(addr, port))
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream, UdpSocket};

    use super::*;

    fn at(addr: &str, port: u16, tcp: bool) -> Option<SocketAddr> {
        find(tcp, !tcp, addr.parse().unwrap(), port..=port)
            .unwrap()
            .map(|listener| listener.local)
    }

    #[test]
    fn a_listening_socket_is_found() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let local = listener.local_addr().unwrap();
        assert_eq!(at("127.0.0.1", local.port(), true), Some(local));
        assert_eq!(at("127.0.0.2", local.port(), true), None);
        assert_eq!(at("::1", local.port(), true), None);
        // A connection is no listener.
        let stream = TcpStream::connect(local).unwrap();
        let port = stream.local_addr().unwrap().port();
        assert_eq!(at("127.0.0.1", port, true), None);
    }

    #[test]
    fn a_socket_for_every_address_is_found() {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        let local = socket.local_addr().unwrap();
        assert_eq!(at("192.0.2.1", local.port(), false), Some(local));
        assert_eq!(at("2001:db8::1", local.port(), false), None);
        let ports = local.port() - 1..=local.port();
        let found = find(true, true, "192.0.2.1".parse().unwrap(), ports).unwrap();
        assert!(found.is_some());
    }

    #[test]
    #[cfg(target_endian = "little")]
    fn lines() {
        let line = "   0: 0100007F:0016 00000000:0000 0A 00000000:00000000 00:00000000 00000000";
        assert_eq!(parse(line, LISTEN), "127.0.0.1:22".parse().ok());
        assert_eq!(parse(line, UNCONNECTED), None);
        let line = "   1: B80D0120000000000000000001000000:0035 \
                    00000000000000000000000000000000:0000 07 00000000:00000000 00:00000000";
        assert_eq!(parse(line, UNCONNECTED), "[2001:db8::1]:53".parse().ok());
        for bad in ["", "0: x", "0: 0100007F 0 0A", "0: 01:0016 0 0A"] {
            assert_eq!(parse(bad, LISTEN), None, "{bad:?}");
        }
        assert!(gets(
            "::ffff:192.0.2.1".parse().unwrap(),
            [192, 0, 2, 1].into()
        ));
        assert!(gets("::".parse().unwrap(), [192, 0, 2, 1].into()));
    }
}
