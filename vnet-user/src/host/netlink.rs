//! A small blocking rtnetlink client: messages, attributes, and one request at a time.
//!
//! Written by hand because what is needed is small and two properties matter: it works from any
//! thread, inside an async runtime too, and an attribute that a newer kernel adds or changes costs
//! that attribute at most, never the whole interface.
//!
//! All integers are in host byte order, as rtnetlink defines them.

use std::fmt;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// Size of `struct nlmsghdr`.
const HEADER: usize = 16;
/// Size of `struct nlattr`.
const ATTRIBUTE_HEADER: usize = 4;
/// The nested and byte-order bits of an attribute's type.
const NLA_TYPE_MASK: u16 = !(libc::NLA_F_NESTED as u16 | libc::NLA_F_NET_BYTEORDER as u16);
/// linux/netlink.h: the kernel's words about an error.
const NLMSGERR_ATTR_MSG: u16 = 1;
/// A dump never exceeds 32 KiB a datagram (af_netlink.c, netlink_dump); a single interface without
/// its virtual functions stays far below.
const BUFFER_BYTES: usize = 64 * 1024;

/// A request under construction. The netlink header is filled in when it is sent.
#[derive(Clone, Debug)]
pub(super) struct Message(Vec<u8>);

impl Message {
    /// Begins a message of type `kind` (RTM_*) whose family header is `family_header`.
    pub(super) fn new(kind: u16, family_header: &[u8]) -> Self {
        let mut bytes = vec![0; HEADER];
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        bytes.extend_from_slice(family_header);
        pad(&mut bytes);
        Self(bytes)
    }

    /// Appends an attribute.
    pub(super) fn attribute(mut self, kind: u16, value: &[u8]) -> Self {
        let start = self.0.len();
        self.0.extend_from_slice(&[0; ATTRIBUTE_HEADER]);
        self.0.extend_from_slice(value);
        self.close(start, kind);
        self
    }

    /// Appends a NUL-terminated string.
    pub(super) fn string(self, kind: u16, value: &str) -> Self {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.attribute(kind, &bytes)
    }

    /// Appends an attribute that holds those which `fill` appends.
    pub(super) fn nested(mut self, kind: u16, fill: impl FnOnce(Self) -> Self) -> Self {
        let start = self.0.len();
        self.0.extend_from_slice(&[0; ATTRIBUTE_HEADER]);
        let mut filled = fill(self);
        filled.close(start, kind | libc::NLA_F_NESTED as u16);
        filled
    }

    /// What follows the netlink header: for messages inside an attribute.
    pub(super) fn payload(&self) -> &[u8] {
        &self.0[HEADER..]
    }

    fn close(&mut self, start: usize, kind: u16) {
        let length = u16::try_from(self.0.len() - start).expect("requests are far below 64 KiB");
        self.0[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        self.0[start + 2..start + 4].copy_from_slice(&kind.to_ne_bytes());
        pad(&mut self.0);
    }

    fn finish(mut self, flags: u16, sequence: u32) -> Vec<u8> {
        let length = self.0.len() as u32;
        self.0[0..4].copy_from_slice(&length.to_ne_bytes());
        self.0[6..8].copy_from_slice(&flags.to_ne_bytes());
        self.0[8..12].copy_from_slice(&sequence.to_ne_bytes());
        self.0
    }
}

fn pad(bytes: &mut Vec<u8>) {
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}

/// `struct ifinfomsg`: interface `index` (0: none), with `flags` to set where `change` has a bit.
pub(super) fn ifinfomsg(family: u8, index: u32, flags: u32, change: u32) -> [u8; 16] {
    let mut header = [0; 16];
    header[0] = family;
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header[8..12].copy_from_slice(&flags.to_ne_bytes());
    header[12..16].copy_from_slice(&change.to_ne_bytes());
    header
}

/// The attributes in `bytes`, in order, each with its type (flag bits removed) and value. Ends at
/// the first one that does not fit.
pub(super) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16_at(bytes, 0)?);
        let kind = u16_at(bytes, 2)? & NLA_TYPE_MASK;
        let value = bytes.get(ATTRIBUTE_HEADER..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or(&[]);
        Some((kind, value))
    })
}

/// The 16-bit integer at `offset`, if `bytes` reaches that far.
pub(super) fn u16_at(bytes: &[u8], offset: usize) -> Option<u16> {
    let field = bytes.get(offset..offset + 2)?;
    Some(u16::from_ne_bytes(field.try_into().ok()?))
}

/// The 32-bit integer at `offset`, if `bytes` reaches that far.
pub(super) fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    let field = bytes.get(offset..offset + 4)?;
    Some(u32::from_ne_bytes(field.try_into().ok()?))
}

/// The string in `value`, up to its NUL. Bytes that are not UTF-8 are replaced.
pub(super) fn text(value: &[u8]) -> String {
    let end = value
        .iter()
        .position(|&byte| byte == 0)
        .unwrap_or(value.len());
    String::from_utf8_lossy(&value[..end]).into_owned()
}

/// Why the kernel did not do what a request asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refused {
    /// The error number, positive (libc::ENODEV, …).
    pub(super) errno: i32,
    /// The kernel's own words (extended acknowledgement), where it had any.
    pub(super) explanation: Option<String>,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", io::Error::from_raw_os_error(self.errno))?;
        if let Some(explanation) = &self.explanation {
            write!(f, ": {explanation}")?;
        }
        if matches!(self.errno, libc::EPERM | libc::EACCES) {
            write!(
                f,
                ": needs CAP_NET_ADMIN in this network namespace; run it with sudo"
            )?;
        }
        Ok(())
    }
}

impl std::error::Error for Refused {}

impl From<io::Error> for Refused {
    fn from(error: io::Error) -> Self {
        Self {
            errno: error.raw_os_error().unwrap_or(libc::EIO),
            explanation: Some("talking to the kernel over netlink".to_owned()),
        }
    }
}

/// A netlink socket that stays in the network namespace in which it was opened.
#[derive(Debug)]
pub(super) struct Socket {
    fd: OwnedFd,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Socket {
    /// Opens a rtnetlink socket in the calling thread's network namespace.
    pub(super) fn open() -> io::Result<Self> {
        Self::open_for(libc::NETLINK_ROUTE)
    }

    /// Opens a generic netlink socket in the calling thread's network namespace.
    pub(super) fn open_generic() -> io::Result<Self> {
        Self::open_for(libc::NETLINK_GENERIC)
    }

    /// Opens a rtnetlink socket in the calling thread's network namespace that gets what the kernel
    /// tells the multicast groups `groups` (RTNLGRP_*), and does not wait for it.
    pub(super) fn open_listening(groups: &[u32]) -> io::Result<Self> {
        let socket = Self::open()?;
        for group in groups {
            // SAFETY: the value is a live u32 and its size is passed with it.
            let result = unsafe {
                libc::setsockopt(
                    socket.fd.as_raw_fd(),
                    libc::SOL_NETLINK,
                    libc::NETLINK_ADD_MEMBERSHIP,
                    std::ptr::from_ref(group).cast(),
                    size_of_val(group) as libc::socklen_t,
                )
            };
            if result < 0 {
                return Err(io::Error::last_os_error());
            }
        }
        // SAFETY: changes a flag of a descriptor that this value owns.
        let result = unsafe { libc::fcntl(socket.fd.as_raw_fd(), libc::F_SETFL, libc::O_NONBLOCK) };
        if result < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(socket)
    }

    /// Hands the type and payload of every message of the next datagram to `each`; of a listening
    /// socket.
    ///
    /// # Errors
    /// WouldBlock when there is none; ENOBUFS when some were lost.
    pub(super) fn hear(&mut self, mut each: impl FnMut(u16, &[u8])) -> io::Result<()> {
        let length = self
            .receive_datagram()
            .map_err(|refused| io::Error::from_raw_os_error(refused.errno))?;
        let mut rest = &self.buffer[..length];
        while let Some(message) = next_message(&mut rest) {
            each(message.kind, message.payload);
        }
        Ok(())
    }

    /// The socket's descriptor.
    pub(super) fn fd(&self) -> &OwnedFd {
        &self.fd
    }

    fn open_for(protocol: libc::c_int) -> io::Result<Self> {
        let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC;
        // SAFETY: takes no pointers; the result is checked below.
        let raw = unsafe { libc::socket(libc::AF_NETLINK, kind, protocol) };
        if raw < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: `raw` was just opened and belongs to nobody else.
        let fd = unsafe { OwnedFd::from_raw_fd(raw) };
        // Strict checking makes the kernel refuse what it would otherwise ignore (5.0).
        for option in [
            libc::NETLINK_CAP_ACK,
            libc::NETLINK_EXT_ACK,
            libc::NETLINK_GET_STRICT_CHK,
        ] {
            let on: libc::c_int = 1;
            // SAFETY: the value is a live c_int and its size is passed with it.
            let result = unsafe {
                libc::setsockopt(
                    fd.as_raw_fd(),
                    libc::SOL_NETLINK,
                    option,
                    (&raw const on).cast(),
                    size_of_val(&on) as libc::socklen_t,
                )
            };
            if result < 0 {
                return Err(io::Error::last_os_error());
            }
        }
        // SAFETY: sockaddr_nl is plain integers; all zeros is a value of it, and addresses the
        // kernel once the family is set.
        let mut kernel: libc::sockaddr_nl = unsafe { std::mem::zeroed() };
        kernel.nl_family = libc::AF_NETLINK as libc::sa_family_t;
        // Connected, the socket takes messages from the kernel alone.
        // SAFETY: the address is a live sockaddr_nl and its size is passed with it.
        let result = unsafe {
            libc::connect(
                fd.as_raw_fd(),
                (&raw const kernel).cast(),
                size_of_val(&kernel) as libc::socklen_t,
            )
        };
        if result < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Self {
            fd,
            sequence: 0,
            buffer: vec![0; BUFFER_BYTES],
        })
    }

    /// Sends a change and waits until the kernel has made it. `flags` are NLM_F_CREATE and such.
    pub(super) fn change(&mut self, message: Message, flags: i32) -> Result<(), Refused> {
        self.send(message, flags | libc::NLM_F_ACK)?;
        self.receive(|_| {}).map(|_| ())
    }

    /// Sends a question that has one answer and returns the answer's payload, family header first.
    pub(super) fn query(&mut self, message: Message) -> Result<Vec<u8>, Refused> {
        // With an acknowledgement asked for, the answer comes first and the end is certain.
        self.send(message, libc::NLM_F_ACK)?;
        let mut answer = None;
        self.receive(|payload| answer = Some(payload.to_vec()))?;
        answer.ok_or(Refused {
            errno: libc::ENODATA,
            explanation: None,
        })
    }

    /// Sends a question that has many answers and returns what `parse` makes of each payload. A
    /// dump that the kernel marks as inconsistent, because something changed meanwhile, is
    /// repeated.
    ///
    /// # Errors
    /// EAGAIN when not one of 32 dumps was consistent.
    pub(super) fn dump<T>(
        &mut self,
        message: &Message,
        mut parse: impl FnMut(&[u8]) -> Option<T>,
    ) -> Result<Vec<T>, Refused> {
        for _ in 0..32 {
            self.send(message.clone(), libc::NLM_F_DUMP)?;
            let mut found = Vec::new();
            let interrupted = self.receive(|payload| found.extend(parse(payload)))?;
            if !interrupted {
                return Ok(found);
            }
        }
        Err(Refused {
            errno: libc::EAGAIN,
            explanation: Some("interfaces kept changing while they were listed".to_owned()),
        })
    }

    fn send(&mut self, message: Message, flags: i32) -> Result<(), Refused> {
        self.sequence = self.sequence.wrapping_add(1);
        let bytes = message.finish((flags | libc::NLM_F_REQUEST) as u16, self.sequence);
        loop {
            // SAFETY: the pointer and length describe `bytes`, which outlives the call.
            let sent =
                unsafe { libc::send(self.fd.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), 0) };
            if sent >= 0 {
                return Ok(());
            }
            let error = io::Error::last_os_error();
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(error.into());
            }
        }
    }

    /// Hands every answer to the last request to `each`, until the kernel says that it is done.
    /// Returns whether the kernel called the dump inconsistent.
    fn receive(&mut self, mut each: impl FnMut(&[u8])) -> Result<bool, Refused> {
        let mut interrupted = false;
        loop {
            let length = self.receive_datagram()?;
            let mut rest = &self.buffer[..length];
            while let Some(message) = next_message(&mut rest) {
                // Whatever is left of an earlier request that ended in an error.
                if message.sequence != self.sequence {
                    continue;
                }
                interrupted |= message.flags & libc::NLM_F_DUMP_INTR as u16 != 0;
                match i32::from(message.kind) {
                    libc::NLMSG_ERROR | libc::NLMSG_DONE => {
                        return outcome(&message).map(|()| interrupted);
                    }
                    libc::NLMSG_NOOP => {}
                    _ => each(message.payload),
                }
            }
        }
    }

    fn receive_datagram(&mut self) -> Result<usize, Refused> {
        loop {
            // SAFETY: the pointer and length describe `buffer`, which outlives the call.
            let received = unsafe {
                libc::recv(
                    self.fd.as_raw_fd(),
                    self.buffer.as_mut_ptr().cast(),
                    self.buffer.len(),
                    libc::MSG_TRUNC,
                )
            };
            let Ok(length) = usize::try_from(received) else {
                let error = io::Error::last_os_error();
                if error.kind() == io::ErrorKind::Interrupted {
                    continue;
                }
                return Err(error.into());
            };
            if length > self.buffer.len() {
                return Err(Refused {
                    errno: libc::EMSGSIZE,
                    explanation: Some(format!("an answer of {length} bytes")),
                });
            }
            return Ok(length);
        }
    }
}

struct Received<'a> {
    kind: u16,
    flags: u16,
    sequence: u32,
    payload: &'a [u8],
}

/// Takes the next message off `bytes`; None at the end or where one does not fit.
fn next_message<'a>(bytes: &mut &'a [u8]) -> Option<Received<'a>> {
    let length = u32_at(bytes, 0)? as usize;
    let message = Received {
        kind: u16_at(bytes, 4)?,
        flags: u16_at(bytes, 6)?,
        sequence: u32_at(bytes, 8)?,
        payload: bytes.get(HEADER..length)?,
    };
    *bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or(&[]);
    Some(message)
}

/// What a NLMSG_ERROR or NLMSG_DONE message says.
fn outcome(message: &Received<'_>) -> Result<(), Refused> {
    let code = u32_at(message.payload, 0).map_or(0, |code| code as i32);
    if code == 0 {
        return Ok(());
    }
    // An error repeats the request's header (the header alone, by NETLINK_CAP_ACK) before its
    // attributes; the end of a dump does not.
    let skip = if i32::from(message.kind) == libc::NLMSG_ERROR {
        4 + HEADER
    } else {
        4
    };
    let explanation = attributes(message.payload.get(skip..).unwrap_or(&[]))
        .find(|&(kind, _)| kind == NLMSGERR_ATTR_MSG)
        .map(|(_, value)| text(value));
    Err(Refused {
        errno: code.wrapping_neg(),
        explanation,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_padded_and_nest() {
        let message = Message::new(libc::RTM_NEWLINK, &[0; 16])
            .string(3, "vsw0")
            .nested(18, |inner| {
                inner.attribute(1, b"bridge\0").attribute(2, &[7])
            });
        let bytes = message.finish(0x0501, 9);

        let mut rest = bytes.as_slice();
        let message = next_message(&mut rest).expect("one whole message");
        assert_eq!(
            (message.kind, message.flags, message.sequence),
            (16, 0x0501, 9)
        );
        assert!(rest.is_empty());
        let outer: Vec<_> = attributes(&message.payload[16..]).collect();
        assert_eq!(outer[0], (3, b"vsw0\0".as_slice()));
        assert_eq!(outer[1].0, 18, "the nested bit is not part of the type");
        let inner: Vec<_> = attributes(outer[1].1).collect();
        assert_eq!(inner, [(1, b"bridge\0".as_slice()), (2, &[7])]);
    }

    #[test]
    fn truncated_attributes_end_the_walk() {
        // Length 8, type 1, four bytes; then an attribute that claims more than there is.
        let mut bytes = Vec::new();
        bytes.extend_from_slice(&8u16.to_ne_bytes());
        bytes.extend_from_slice(&1u16.to_ne_bytes());
        bytes.extend_from_slice(&[1, 2, 3, 4]);
        bytes.extend_from_slice(&200u16.to_ne_bytes());
        bytes.extend_from_slice(&2u16.to_ne_bytes());
        assert_eq!(
            attributes(&bytes).collect::<Vec<_>>(),
            [(1, [1, 2, 3, 4].as_slice())]
        );
        // A length shorter than its own header must not loop for ever.
        assert_eq!(attributes(&[0, 0, 0, 0, 0, 0, 0, 0]).count(), 0);
        assert_eq!(attributes(&[1]).count(), 0);
    }

    #[test]
    fn the_kernels_explanation_is_kept() {
        let mut payload = (-libc::EINVAL).to_ne_bytes().to_vec();
        payload.extend_from_slice(&[0; HEADER]);
        let explanation = b"mtu greater than device maximum\0";
        payload.extend_from_slice(&(explanation.len() as u16 + 4).to_ne_bytes());
        payload.extend_from_slice(&NLMSGERR_ATTR_MSG.to_ne_bytes());
        payload.extend_from_slice(explanation);
        let message = Received {
            kind: libc::NLMSG_ERROR as u16,
            flags: 0,
            sequence: 1,
            payload: &payload,
        };
        let refused = outcome(&message).expect_err("the code is -EINVAL");
        assert_eq!(refused.errno, libc::EINVAL);
        assert_eq!(
            refused.explanation.as_deref(),
            Some("mtu greater than device maximum")
        );
    }

    #[test]
    fn strings_end_at_their_nul() {
        assert_eq!(text(b"eth0\0\0\0"), "eth0");
        assert_eq!(text(b"eth0"), "eth0");
        assert_eq!(text(b""), "");
    }
}
