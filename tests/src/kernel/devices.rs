//! Taps as ports: what leaves by one is read from its descriptor.

use std::{
    fs::File,
    io::{self, Read as _},
    os::{fd::AsRawFd as _, unix::fs::OpenOptionsExt as _},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use vnet_user::host::Links;

use super::{sandbox::check, sniffer::wait_readable};

/// A tap to be made.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Its name.
    pub name: String,
    /// Its interface index.
    pub ifindex: u32,
    /// Its MTU.
    pub mtu: u32,
    /// It is up.
    pub up: bool,
}

/// The taps of a test, which go when this does.
pub struct Taps(Vec<(u32, File)>);

impl Taps {
    /// Makes taps in the calling thread's network namespace.
    ///
    /// # Errors
    /// The kernel has no taps, or refuses a value.
    pub fn create(wanted: &[Wanted]) -> Result<Self> {
        let links = Links::open()?;
        let mut taps = Vec::new();
        for tap in wanted {
            let file = create(&tap.name, tap.ifindex)
                .with_context(|| format!("making the tap {}", tap.name))?;
            let link = links
                .by_name(&tap.name)?
                .with_context(|| format!("the tap {} is gone", tap.name))?;
            ensure!(
                link.index == tap.ifindex,
                "the tap {} has number {} and not {}",
                tap.name,
                link.index,
                tap.ifindex
            );
            links.set_mtu(link.index, tap.mtu)?;
            links.set_up(link.index, tap.up)?;
            taps.push((link.index, file));
        }
        Ok(Self(taps))
    }

    /// The next frame that left by an interface.
    ///
    /// # Errors
    /// None does in time.
    pub(super) fn next_from(&mut self, ifindex: u32, patience: Duration) -> Result<Vec<u8>> {
        let (_, file) = self
            .0
            .iter()
            .find(|(index, _)| *index == ifindex)
            .context("there is no such tap")?;
        loop {
            if let Some(frame) = read(file)? {
                return Ok(frame);
            }
            ensure!(
                wait_readable(file.as_raw_fd(), patience)?,
                "nothing came out of the tap within {patience:?}"
            );
        }
    }

    /// A frame that left by any of them, with the interface.
    pub(super) fn any(&mut self) -> Result<Option<(u32, Vec<u8>)>> {
        for (index, file) in &self.0 {
            if let Some(frame) = read(file)? {
                return Ok(Some((*index, frame)));
            }
        }
        Ok(None)
    }
}

/// Where an interface that takes IPv6 addresses tells of its groups (RFC 3810, 5.2.14): no test's
/// frame.
const MLD: [u8; 6] = [0x33, 0x33, 0, 0, 0, 0x16];

fn read(mut file: &File) -> Result<Option<Vec<u8>>> {
    let mut frame = vec![0; 1 << 16];
    match file.read(&mut frame) {
        Ok(_) if frame.starts_with(&MLD) => read(file),
        Ok(len) => {
            frame.truncate(len);
            Ok(Some(frame))
        }
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error).context("reading from a tap"),
    }
}

fn create(name: &str, ifindex: u32) -> Result<File> {
    let file = File::options()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK)
        .open("/dev/net/tun")
        .context("opening /dev/net/tun")?;
    let fd = file.as_raw_fd();
    let index = ifindex as libc::c_uint;
    // SAFETY: the ioctl reads a live unsigned integer.
    check(unsafe { libc::ioctl(fd, libc::TUNSETIFINDEX as _, &raw const index) })
        .context("choosing its number")?;
    // SAFETY: ifreq is a name and a union of plain integers and pointers; zeros are a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().take(15).zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_TAP | libc::IFF_NO_PI) as libc::c_short;
    // SAFETY: the ioctl reads and writes a live ifreq.
    check(unsafe { libc::ioctl(fd, libc::TUNSETIFF as _, &raw mut request) })?;
    Ok(file)
}
