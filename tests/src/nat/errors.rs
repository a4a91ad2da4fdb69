//! ICMP errors as a program sees them: its kernel has matched them with a socket.

use std::{
    io,
    mem::zeroed,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    os::fd::AsRawFd as _,
    ptr,
    time::Duration,
};

use super::sockets::set_int;
use crate::wait;

/// An ICMP error that reached a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Complaint {
    /// Its type.
    pub kind: u8,
    /// Its code.
    pub code: u8,
    /// What else it says: the MTU, where it is about that.
    pub info: u32,
    /// What the kernel makes of it for the program.
    pub errno: i32,
    /// Who sent it.
    pub from: IpAddr,
}

/// Has the socket keep the ICMP errors about what it sent (`IP_RECVERR`, ip(7)).
///
/// # Panics
/// When the kernel refuses.
pub fn hear_errors(socket: &UdpSocket) {
    match socket.local_addr().unwrap() {
        SocketAddr::V4(_) => set_int(socket, libc::IPPROTO_IP, libc::IP_RECVERR, 1),
        SocketAddr::V6(_) => set_int(socket, libc::IPPROTO_IPV6, libc::IPV6_RECVERR, 1),
    }
}

/// Waits for the next ICMP error about what the socket sent.
#[must_use]
pub fn complaint(socket: &UdpSocket, limit: Duration) -> Option<Complaint> {
    wait::within(limit, || receive(socket))
}

fn receive(socket: &UdpSocket) -> Option<Complaint> {
    // Words, so that what is in it is aligned.
    let (mut control, mut content) = ([0u64; 64], [0u8; 2048]);
    let mut part = libc::iovec {
        iov_base: content.as_mut_ptr().cast(),
        iov_len: content.len(),
    };
    // SAFETY: zeros are a value of the structure.
    let mut message: libc::msghdr = unsafe { zeroed() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = size_of_val(&control);
    // SAFETY: every pointer in the message is to a local of the length that is given with it.
    let got = unsafe {
        libc::recvmsg(
            socket.as_raw_fd(),
            &raw mut message,
            libc::MSG_ERRQUEUE | libc::MSG_DONTWAIT,
        )
    };
    if got < 0 {
        let error = io::Error::last_os_error();
        // An error that waits on the socket is told once here, and is in the queue all the same.
        assert!(
            !matches!(error.raw_os_error(), Some(libc::EBADF | libc::ENOTSOCK)),
            "{error}"
        );
        return None;
    }
    // SAFETY: the message is one that recvmsg filled; its control buffer is alive.
    let mut header = unsafe { libc::CMSG_FIRSTHDR(&raw const message) };
    while !header.is_null() {
        // SAFETY: not null, so within the control buffer.
        let (level, kind) = unsafe { ((*header).cmsg_level, (*header).cmsg_type) };
        let is_error = [
            (libc::IPPROTO_IP, libc::IP_RECVERR),
            (libc::IPPROTO_IPV6, libc::IPV6_RECVERR),
        ]
        .contains(&(level, kind));
        if is_error {
            // SAFETY: such a message holds this structure, followed by the offender's address.
            let data = unsafe { libc::CMSG_DATA(header) };
            // SAFETY: as above, aligned or not.
            let error: libc::sock_extended_err = unsafe { ptr::read_unaligned(data.cast()) };
            // SAFETY: as above.
            let from = unsafe { offender(data.add(size_of::<libc::sock_extended_err>())) };
            return Some(Complaint {
                kind: error.ee_type,
                code: error.ee_code,
                info: error.ee_info,
                errno: error.ee_errno as i32,
                from,
            });
        }
        // SAFETY: as above.
        header = unsafe { libc::CMSG_NXTHDR(&raw const message, header) };
    }
    None
}

/// The address in a `sockaddr_in` or `sockaddr_in6`; zero for an error of this machine's own.
///
/// # Safety
/// `at` points to either.
unsafe fn offender(at: *const u8) -> IpAddr {
    // SAFETY: both begin with the family.
    let family: libc::sa_family_t = unsafe { ptr::read_unaligned(at.cast()) };
    if i32::from(family) == libc::AF_INET6 {
        // SAFETY: the family says so.
        let address: libc::sockaddr_in6 = unsafe { ptr::read_unaligned(at.cast()) };
        Ipv6Addr::from(address.sin6_addr.s6_addr).into()
    } else if i32::from(family) == libc::AF_INET {
        // SAFETY: the family says so.
        let address: libc::sockaddr_in = unsafe { ptr::read_unaligned(at.cast()) };
        Ipv4Addr::from(u32::from_be(address.sin_addr.s_addr)).into()
    } else {
        Ipv4Addr::UNSPECIFIED.into()
    }
}
