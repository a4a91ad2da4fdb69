//! A tap device whose VM is the test itself.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::{fd::AsRawFd as _, unix::fs::OpenOptionsExt as _},
};

use anyhow::{Context as _, ensure};
use xtask::netns;

use super::Wire;
use crate::host::Host;

/// Larger than any frame, GSO or not.
const BUFFER: usize = 1 << 17;

/// A tap device of a host. It stays when this value goes, as `down` has to give it back.
#[derive(Debug)]
pub struct Tap {
    file: File,
}

impl Tap {
    /// Makes the tap `name`, up and with a carrier.
    ///
    /// # Panics
    /// When it cannot be made.
    #[must_use]
    pub fn create(host: &Host, name: &str) -> Self {
        let file = netns::inside(host.netns().name(), || open(name))
            .with_context(|| format!("making the tap {name}"))
            .unwrap();
        host.ip(&format!("link set {name} up"));
        Self { file }
    }
}

impl Wire for Tap {
    fn send_bytes(&self, bytes: &[u8]) {
        let written = (&self.file).write(bytes).unwrap();
        assert_eq!(written, bytes.len());
    }

    fn receive_bytes(&self) -> Option<Vec<u8>> {
        let mut bytes = vec![0; BUFFER];
        match (&self.file).read(&mut bytes) {
            Ok(length) => {
                bytes.truncate(length);
                Some(bytes)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
            Err(error) => panic!("reading a tap: {error}"),
        }
    }
}

/// linux/if_tun.h: makes a device outlive its descriptors.
const TUNSETPERSIST: libc::c_ulong = 0x4004_54cb;
/// linux/if_tun.h: makes a device, or attaches to one.
const TUNSETIFF: libc::c_ulong = 0x4004_54ca;

/// Makes a tap in the calling thread's network namespace.
fn open(name: &str) -> anyhow::Result<File> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK)
        .open("/dev/net/tun")
        .context("opening /dev/net/tun")?;
    // SAFETY: zeros are a value of the structure.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    ensure!(name.len() < libc::IFNAMSIZ, "{name} is too long a name");
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_TAP | libc::IFF_NO_PI) as libc::c_short;
    // SAFETY: the descriptor is open; the structure is the one that the first request takes, and
    // the second takes a number.
    let done = unsafe {
        libc::ioctl(file.as_raw_fd(), TUNSETIFF, &raw mut request) == 0
            && libc::ioctl(file.as_raw_fd(), TUNSETPERSIST, 1) == 0
    };
    ensure!(done, "{}", io::Error::last_os_error());
    Ok(file)
}
