//! Sends frames out of an interface as they are: `send_frames INTERFACE FILE`, a line a frame in
//! hexadecimal. Tests take it into guests, whose busybox sends nothing that the kernel would not.

use std::{
    error::Error,
    ffi::CString,
    io,
    mem::{size_of_val, zeroed},
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
    thread,
    time::Duration,
};

/// How often a frame is tried that there is no room for.
const TRIES: u32 = 1000;

fn main() -> Result<(), Box<dyn Error>> {
    let mut words = std::env::args().skip(1);
    let (Some(interface), Some(file)) = (words.next(), words.next()) else {
        return Err("usage: send_frames INTERFACE FILE".into());
    };
    let socket = open(&interface)?;
    for line in std::fs::read_to_string(file)?.lines() {
        send(&socket, &bytes(line)?)?;
    }
    Ok(())
}

fn bytes(line: &str) -> Result<Vec<u8>, Box<dyn Error>> {
    let digits = line.as_bytes().chunks(2);
    digits
        .map(|two| Ok(u8::from_str_radix(std::str::from_utf8(two)?, 16)?))
        .collect()
}

/// A packet socket (packet(7)) that hears nothing.
fn open(interface: &str) -> Result<OwnedFd, Box<dyn Error>> {
    let name = CString::new(interface)?;
    // SAFETY: the name ends with a NUL.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    // SAFETY: takes numbers.
    let raw = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
    if index == 0 || raw < 0 {
        return Err(io::Error::last_os_error().into());
    }
    // SAFETY: it was just opened and belongs to nobody else.
    let socket = unsafe { OwnedFd::from_raw_fd(raw) };
    // SAFETY: zeros are a value of the structure.
    let mut address: libc::sockaddr_ll = unsafe { zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_ifindex = index as i32;
    // SAFETY: the pointer and the length are the structure's.
    let bound = unsafe {
        libc::bind(
            raw,
            (&raw const address).cast(),
            size_of_val(&address) as libc::socklen_t,
        )
    };
    if bound == 0 {
        Ok(socket)
    } else {
        Err(io::Error::last_os_error().into())
    }
}

/// Sends a frame, as soon as the interface has room for it.
fn send(socket: &OwnedFd, frame: &[u8]) -> io::Result<()> {
    let mut error = io::Error::from(io::ErrorKind::TimedOut);
    for _ in 0..TRIES {
        // SAFETY: the pointer and the length are the slice's.
        let sent = unsafe { libc::send(socket.as_raw_fd(), frame.as_ptr().cast(), frame.len(), 0) };
        if sent == frame.len() as isize {
            return Ok(());
        }
        error = io::Error::last_os_error();
        if error.raw_os_error() != Some(libc::ENOBUFS) {
            break;
        }
        thread::sleep(Duration::from_millis(1));
    }
    Err(error)
}
