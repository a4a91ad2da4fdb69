//! Linux's connection tracking: room for many, and none at all.

use std::{fs, io, path::PathBuf};

use anyhow::{Context, Result, bail};
use xtask::netns::{self, Netns};

/// Settings that there is one of for all network namespaces: put back with this value. (Those who
/// are not in the first namespace cannot write them, with kernel 6.18.)
#[derive(Debug)]
pub struct Room(Vec<(PathBuf, u32)>);

impl Room {
    /// Makes room for `flows` connections in a network namespace, and as many buckets: the
    /// proportion that the kernel chooses by itself.
    pub fn for_flows(flows: u32) -> Result<Self> {
        let wanted = flows.next_power_of_two();
        let mut before = Self(Vec::new());
        // In this order: the number of buckets bounds the number of connections at once.
        for name in ["nf_conntrack_buckets", "nf_conntrack_max"] {
            let path = PathBuf::from("/proc/sys/net/netfilter").join(name);
            let doing = || format!("making room for connections: {}", path.display());
            let now = fs::read_to_string(&path).with_context(doing)?;
            let now: u32 = now.trim().parse().with_context(doing)?;
            if now < wanted {
                fs::write(&path, wanted.to_string()).with_context(doing)?;
                before.0.push((path, now));
            }
        }
        Ok(before)
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        for (path, value) in self.0.iter().rev() {
            // Nothing to report it to; more room than before does no harm.
            let _ = fs::write(path, value.to_string());
        }
    }
}

/// Lets UDP connections of a network namespace live until they are flushed.
pub fn keep(netns: &Netns) -> Result<()> {
    netns.sh("for which in timeout timeout_stream; do \
         echo 3600 > /proc/sys/net/netfilter/nf_conntrack_udp_$which; done")?;
    Ok(())
}

/// Ends every connection of a network namespace: what `conntrack -F` does.
pub fn flush(netns: &Netns) -> Result<()> {
    netns::inside(netns.name(), flush_here).context("flushing the connections that Linux tracks")
}

/// An `nlmsghdr` and an `nfgenmsg`.
#[repr(C)]
struct Request {
    len: u32,
    kind: u16,
    flags: u16,
    sequence: u32,
    port: u32,
    family: u8,
    version: u8,
    resource: u16,
}

/// An `nlmsghdr` and the beginning of an `nlmsgerr`.
#[repr(C)]
#[derive(Default)]
struct Answer {
    header: [u32; 4],
    error: i32,
    request: [u32; 8],
}

fn flush_here() -> Result<()> {
    const SUBSYSTEM_CONNTRACK: u16 = 1;
    const DELETE: u16 = 2;
    let request = Request {
        len: size_of::<Request>() as u32,
        kind: SUBSYSTEM_CONNTRACK << 8 | DELETE,
        flags: (libc::NLM_F_REQUEST | libc::NLM_F_ACK) as u16,
        sequence: 1,
        port: 0,
        family: libc::AF_UNSPEC as u8,
        version: 0,
        resource: 0,
    };
    let mut answer = Answer::default();
    // SAFETY: the buffers are as long as the calls are told, and any bytes are an answer.
    let received = unsafe {
        let socket = libc::socket(libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_NETFILTER);
        if socket < 0 {
            return Err(io::Error::last_os_error().into());
        }
        let message = (&raw const request).cast();
        let mut received = libc::send(socket, message, size_of_val(&request), 0);
        if received > 0 {
            let buffer = (&raw mut answer).cast();
            received = libc::recv(socket, buffer, size_of_val(&answer), 0);
        }
        let failed = (received < 0).then(io::Error::last_os_error);
        libc::close(socket);
        match failed {
            Some(error) => return Err(error.into()),
            None => received,
        }
    };
    if received < 20 {
        bail!("the kernel's answer is {received} bytes long");
    }
    match answer.error {
        0 => Ok(()),
        error => Err(io::Error::from_raw_os_error(-error).into()),
    }
}
