//! A packet socket on an interface (packet(7)).

use std::{
    ffi::CString,
    io,
    mem::{size_of, zeroed},
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
    ptr,
};

use anyhow::{Context as _, Result, ensure};
use xtask::netns::{self, Netns};

use super::{ETHER_TYPE, Wire};

/// Larger than any frame, GSO or not.
const BUFFER: usize = 1 << 17;

/// Which frames a packet socket hears.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard {
    /// Whatever arrives at the interface, before TC programs get it.
    Everything,
    /// Frames of tests that the host's stack gets, after TC programs have let them pass. The stack
    /// has taken their tag away by then.
    Delivered,
    /// Whatever is sent out of the interface: what whoever is behind it gets.
    Sent,
}

/// A packet socket on an interface. It does not hear what its own host sends, unless that is what it is to
/// hear.
#[derive(Debug)]
pub struct PacketSocket {
    socket: OwnedFd,
    hears_sent: bool,
}

impl PacketSocket {
    /// Opens one on `interface` of `netns`.
    ///
    /// # Panics
    /// When there is no such interface.
    #[must_use]
    pub fn open(netns: &Netns, interface: &str, heard: Heard) -> Self {
        let socket = netns::inside(netns.name(), || open(interface, heard))
            .with_context(|| format!("opening a packet socket on {interface}"))
            .unwrap();
        Self {
            socket,
            hears_sent: heard == Heard::Sent,
        }
    }
}

impl Wire for PacketSocket {
    fn send_bytes(&self, bytes: &[u8]) {
        // SAFETY: the pointer and the length are the slice's.
        let sent = unsafe {
            libc::send(
                self.socket.as_raw_fd(),
                bytes.as_ptr().cast(),
                bytes.len(),
                0,
            )
        };
        assert_eq!(sent, bytes.len() as isize, "{}", io::Error::last_os_error());
    }

    fn receive_bytes(&self) -> Option<Vec<u8>> {
        loop {
            let frame = self.receive_one()?;
            if frame.outgoing == self.hears_sent {
                return Some(frame.bytes);
            }
        }
    }
}

struct Received {
    bytes: Vec<u8>,
    outgoing: bool,
}

impl PacketSocket {
    fn receive_one(&self) -> Option<Received> {
        let mut bytes = vec![0; BUFFER];
        let mut part = libc::iovec {
            iov_base: bytes.as_mut_ptr().cast(),
            iov_len: bytes.len(),
        };
        // Words, so that the control message in it is aligned.
        let mut control = [0u64; 16];
        // SAFETY: zeros are a value of both structures.
        let (mut from, mut message): (libc::sockaddr_ll, libc::msghdr) =
            unsafe { (zeroed(), zeroed()) };
        message.msg_name = (&raw mut from).cast();
        message.msg_namelen = size_of::<libc::sockaddr_ll>() as u32;
        message.msg_iov = &raw mut part;
        message.msg_iovlen = 1;
        message.msg_control = control.as_mut_ptr().cast();
        message.msg_controllen = size_of_val(&control);
        // SAFETY: every pointer in the message is to a local of the length that is given with it.
        let length = unsafe {
            libc::recvmsg(
                self.socket.as_raw_fd(),
                &raw mut message,
                libc::MSG_DONTWAIT,
            )
        };
        if length < 0 {
            let error = io::Error::last_os_error();
            assert_eq!(error.kind(), io::ErrorKind::WouldBlock, "{error}");
            return None;
        }
        bytes.truncate(length as usize);
        if let Some(tag) = tag(&message) {
            bytes.splice(12..12, tag);
        }
        Some(Received {
            bytes,
            outgoing: from.sll_pkttype == libc::PACKET_OUTGOING,
        })
    }
}

/// The tag that the kernel keeps beside the frame, as it would be in it.
fn tag(message: &libc::msghdr) -> Option<[u8; 4]> {
    // SAFETY: the message is one that recvmsg filled; its control buffer is alive.
    let mut control = unsafe { libc::CMSG_FIRSTHDR(message) };
    while !control.is_null() {
        // SAFETY: not null, so within the control buffer.
        let header = unsafe { &*control };
        if (header.cmsg_level, header.cmsg_type) == (libc::SOL_PACKET, libc::PACKET_AUXDATA) {
            // SAFETY: such a message holds this structure, aligned or not.
            let data: libc::tpacket_auxdata =
                unsafe { ptr::read_unaligned(libc::CMSG_DATA(control).cast()) };
            if data.tp_status & libc::TP_STATUS_VLAN_VALID != 0 {
                let ([a, b], [c, d]) = (
                    data.tp_vlan_tpid.to_be_bytes(),
                    data.tp_vlan_tci.to_be_bytes(),
                );
                return Some([a, b, c, d]);
            }
        }
        // SAFETY: as above.
        control = unsafe { libc::CMSG_NXTHDR(message, control) };
    }
    None
}

/// Opens one in the calling thread's network namespace.
fn open(interface: &str, heard: Heard) -> Result<OwnedFd> {
    let name = CString::new(interface)?;
    // SAFETY: the name ends with a NUL.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    ensure!(index != 0, "there is no such interface");
    // SAFETY: takes numbers; protocol 0 hears nothing before it is bound.
    let raw = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
    ensure!(raw >= 0, "{}", io::Error::last_os_error());
    // SAFETY: it was just opened and belongs to nobody else.
    let socket = unsafe { OwnedFd::from_raw_fd(raw) };
    for (level, option, value) in [
        (libc::SOL_PACKET, libc::PACKET_AUXDATA, 1),
        (libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, 64 << 20),
    ] {
        let value: libc::c_int = value;
        // SAFETY: both options are ints, and the pointer is to one.
        let set = unsafe {
            libc::setsockopt(
                raw,
                level,
                option,
                (&raw const value).cast(),
                size_of_val(&value) as libc::socklen_t,
            )
        };
        ensure!(set == 0, "{}", io::Error::last_os_error());
    }
    let protocol = match heard {
        Heard::Everything | Heard::Sent => libc::ETH_P_ALL as u16,
        Heard::Delivered => ETHER_TYPE,
    };
    // SAFETY: zeros are a value of the structure.
    let mut address: libc::sockaddr_ll = unsafe { zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = protocol.to_be();
    address.sll_ifindex = index as i32;
    // SAFETY: the pointer and the length are the structure's.
    let bound = unsafe {
        libc::bind(
            raw,
            (&raw const address).cast(),
            size_of_val(&address) as libc::socklen_t,
        )
    };
    ensure!(bound == 0, "{}", io::Error::last_os_error());
    Ok(socket)
}
