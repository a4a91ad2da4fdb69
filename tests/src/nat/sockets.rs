//! Sockets inside namespaces, opened by threads of ours.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::AsRawFd as _,
    time::Duration,
};

use anyhow::Context as _;
use socket2::{Domain, Protocol, Socket, Type};
use xtask::netns::{self, Netns};

use crate::wait;

/// How long an answer may take.
const LIMIT: Duration = Duration::from_secs(4);

/// How long a connection may take; a lost SYN is sent again after a second and three.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// How long an address may be in use that we closed.
const BIND_LIMIT: Duration = Duration::from_secs(2);

/// The address that stands for any, of the same family.
#[must_use]
pub fn any(like: IpAddr) -> IpAddr {
    match like {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    }
}

/// A UDP socket, bound; port 0 lets the kernel choose.
///
/// # Panics
/// When it cannot be bound.
#[must_use]
#[track_caller]
pub fn udp(netns: &Netns, address: IpAddr, port: u16) -> UdpSocket {
    let socket = bound(netns, "UDP", (address, port), || {
        UdpSocket::bind((address, port))
    });
    socket.set_read_timeout(Some(LIMIT)).unwrap();
    socket.set_write_timeout(Some(LIMIT)).unwrap();
    socket
}

/// A TCP listener; port 0 lets the kernel choose. What it accepts does not wait.
///
/// # Panics
/// When it cannot be bound.
#[must_use]
#[track_caller]
pub fn tcp_listener(netns: &Netns, address: IpAddr, port: u16) -> TcpListener {
    let listener = bound(netns, "TCP", (address, port), || {
        TcpListener::bind((address, port))
    });
    listener.set_nonblocking(true).unwrap();
    listener
}

/// Binds a socket inside a namespace. A process that another test is just starting may hold one a
/// moment longer that was closed here.
#[track_caller]
fn bound<T: Send>(
    netns: &Netns,
    proto: &str,
    (address, port): (IpAddr, u16),
    bind: impl Fn() -> io::Result<T> + Sync,
) -> T {
    let within = wait::within(BIND_LIMIT, || {
        match netns::inside(netns.name(), || Ok(bind())).unwrap() {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => None,
            done => Some(done),
        }
    });
    let place = || format!("binding {proto} {address} port {port} in {}", netns.name());
    match within {
        Some(done) => done.with_context(place).unwrap(),
        None => panic!("{}: it is in use", place()),
    }
}

/// A TCP connection from `port`; 0 lets the kernel choose.
///
/// # Errors
/// Nobody answers, or somebody refuses.
///
/// # Panics
/// When the port is taken.
#[track_caller]
pub fn tcp_connect(netns: &Netns, port: u16, to: SocketAddr) -> io::Result<TcpStream> {
    let socket = netns::inside(netns.name(), || {
        let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        socket.bind(&SocketAddr::new(any(to.ip()), port).into())?;
        Ok(socket)
    })
    .unwrap();
    socket.connect_timeout(&to.into(), CONNECT_LIMIT)?;
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(LIMIT))?;
    stream.set_write_timeout(Some(LIMIT))?;
    Ok(stream)
}

/// A raw socket of `proto`; what it receives begins with the IP header when that is IPv4's.
///
/// # Panics
/// When it cannot be opened.
#[must_use]
#[track_caller]
pub fn raw(netns: &Netns, like: IpAddr, proto: u8) -> Socket {
    let domain = if like.is_ipv4() {
        Domain::IPV4
    } else {
        Domain::IPV6
    };
    let socket = netns::inside(netns.name(), || {
        let protocol = Protocol::from(i32::from(proto));
        Ok(Socket::new(domain, Type::RAW, Some(protocol))?)
    })
    .unwrap();
    socket.set_read_timeout(Some(LIMIT)).unwrap();
    socket
}

/// Has datagrams of this socket go in one piece or not at all, so that the path's MTU is found.
///
/// # Panics
/// When the kernel refuses.
pub fn dont_fragment(socket: &UdpSocket) {
    let (level, option) = match socket.local_addr().unwrap() {
        SocketAddr::V4(_) => (libc::IPPROTO_IP, libc::IP_MTU_DISCOVER),
        SocketAddr::V6(_) => (libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER),
    };
    set_int(socket, level, option, libc::IP_PMTUDISC_DO);
}

/// Has what the socket sends in one call cut into datagrams of `segment` bytes, as late as can be
/// (UDP_SEGMENT, udp(7)).
///
/// # Panics
/// When the kernel refuses.
pub fn cut_into(socket: &UdpSocket, segment: u16) {
    set_int(socket, libc::SOL_UDP, libc::UDP_SEGMENT, segment.into());
}

pub(super) fn set_int(socket: &UdpSocket, level: i32, option: i32, value: libc::c_int) {
    // SAFETY: the option is an int, and the pointer is to one that outlives the call.
    let set = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            (&raw const value).cast(),
            size_of_val(&value) as libc::socklen_t,
        )
    };
    assert_eq!(set, 0, "{}", io::Error::last_os_error());
}
