//! A packet socket that sees what the datapath hands to the host's stack.

use std::{
    collections::VecDeque,
    io,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use vnet_ebpf::meta::Tag;

use super::sandbox::check;
use crate::switch::on_wire;

/// linux/if_packet.h: `tp_vlan_tci` and `tp_vlan_tpid` of the auxiliary data are valid.
const TP_STATUS_VLAN_VALID: u32 = 1 << 4;
const TP_STATUS_VLAN_TPID_VALID: u32 = 1 << 6;
/// linux/if_packet.h: the frame is going out.
const PACKET_OUTGOING: u8 = 4;
const ETH_P_ALL: u16 = 3;

/// `struct tpacket_auxdata` (linux/if_packet.h).
#[repr(C)]
struct AuxData {
    status: u32,
    len: u32,
    snaplen: u32,
    mac: u16,
    net: u16,
    vlan_tci: u16,
    vlan_tpid: u16,
}

/// The socket, on every interface of the namespace it was opened in.
pub(super) struct Sniffer {
    socket: OwnedFd,
    /// Seen and not asked for yet.
    queue: VecDeque<(u32, Vec<u8>)>,
}

impl Sniffer {
    pub(super) fn open() -> Result<Self> {
        let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
        let protocol = libc::c_int::from(ETH_P_ALL.to_be());
        // SAFETY: takes no pointers; the result is checked.
        let raw = check(unsafe { libc::socket(libc::AF_PACKET, kind, protocol) })
            .context("opening a packet socket")?;
        // SAFETY: `raw` was just opened and belongs to nobody else.
        let socket = unsafe { OwnedFd::from_raw_fd(raw) };
        let on: libc::c_int = 1;
        // SAFETY: the value is a live integer and its size is passed with it.
        check(unsafe {
            libc::setsockopt(
                socket.as_raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_AUXDATA,
                (&raw const on).cast(),
                size_of_val(&on) as libc::socklen_t,
            )
        })
        .context("asking the packet socket for tags")?;
        Ok(Self {
            socket,
            queue: VecDeque::new(),
        })
    }

    /// The next frame that came in at an interface.
    pub(super) fn next_from(&mut self, ifindex: u32, patience: Duration) -> Result<Vec<u8>> {
        loop {
            self.fill()?;
            let position = self.queue.iter().position(|(index, _)| *index == ifindex);
            if let Some((_, frame)) = position.and_then(|at| self.queue.remove(at)) {
                return Ok(frame);
            }
            ensure!(
                wait_readable(self.socket.as_raw_fd(), patience)?,
                "nothing came to the host within {patience:?}"
            );
        }
    }

    /// A frame that came in anywhere.
    pub(super) fn any(&mut self) -> Result<Option<(u32, Vec<u8>)>> {
        self.fill()?;
        Ok(self.queue.pop_front())
    }

    fn fill(&mut self) -> Result<()> {
        while let Some((ifindex, outgoing, frame)) = self.receive()? {
            if !outgoing {
                self.queue.push_back((ifindex, frame));
            }
        }
        Ok(())
    }

    fn receive(&self) -> Result<Option<(u32, bool, Vec<u8>)>> {
        let mut frame = vec![0u8; 1 << 16];
        let mut control = [0u64; 16];
        // SAFETY: plain integers; zeros are a value of it.
        let mut from: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        let mut part = libc::iovec {
            iov_base: frame.as_mut_ptr().cast(),
            iov_len: frame.len(),
        };
        // SAFETY: integers and pointers; zeros are a value of it.
        let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
        message.msg_name = (&raw mut from).cast();
        message.msg_namelen = size_of_val(&from) as libc::socklen_t;
        message.msg_iov = &raw mut part;
        message.msg_iovlen = 1;
        message.msg_control = control.as_mut_ptr().cast();
        message.msg_controllen = size_of_val(&control);
        // SAFETY: every pointer of the message is to a live buffer of the length beside it.
        let len = unsafe { libc::recvmsg(self.socket.as_raw_fd(), &raw mut message, 0) };
        let Ok(len) = usize::try_from(len) else {
            let error = io::Error::last_os_error();
            return match error.kind() {
                io::ErrorKind::WouldBlock => Ok(None),
                _ => Err(error).context("reading from the packet socket"),
            };
        };
        frame.truncate(len);
        let outgoing = from.sll_pkttype == PACKET_OUTGOING;
        let frame = on_wire(&frame, tag_of(&message));
        Ok(Some((from.sll_ifindex as u32, outgoing, frame)))
    }
}

/// The tag that a frame had in metadata.
fn tag_of(message: &libc::msghdr) -> Tag {
    // SAFETY: the message is one that the kernel filled; its control buffer is live.
    let mut header = unsafe { libc::CMSG_FIRSTHDR(message) };
    while !header.is_null() {
        // SAFETY: not null, so within the control buffer and whole.
        let (level, kind) = unsafe { ((*header).cmsg_level, (*header).cmsg_type) };
        if level == libc::SOL_PACKET && kind == libc::PACKET_AUXDATA {
            // SAFETY: this kind of message holds this struct.
            let aux: AuxData =
                unsafe { libc::CMSG_DATA(header).cast::<AuxData>().read_unaligned() };
            let valid = TP_STATUS_VLAN_VALID | TP_STATUS_VLAN_TPID_VALID;
            if aux.status & valid == valid {
                return Tag {
                    tpid: aux.vlan_tpid,
                    tci: aux.vlan_tci,
                };
            }
        }
        // SAFETY: as for the first.
        header = unsafe { libc::CMSG_NXTHDR(message, header) };
    }
    Tag::NONE
}

/// Waits until a descriptor can be read; false when the time is up.
pub(super) fn wait_readable(fd: RawFd, patience: Duration) -> Result<bool> {
    let mut poll = libc::pollfd {
        fd,
        events: libc::POLLIN,
        revents: 0,
    };
    // SAFETY: the array of one is live.
    let ready = check(unsafe { libc::poll(&raw mut poll, 1, patience.as_millis() as libc::c_int) })
        .context("waiting for a frame")?;
    Ok(ready == 1)
}
