//! Traffic between machines, each of which is a network namespace: pings, TCP and UDP with their
//! content compared byte for byte. Sockets are opened inside the namespaces, by threads of ours.

use std::{
    io::{Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::AsRawFd as _,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use xtask::netns::{self, Netns};

/// How long a connection or a datagram may take before it counts as lost.
const LIMIT: Duration = Duration::from_secs(10);

/// What a run of pings came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pings {
    /// Requests sent.
    pub sent: u32,
    /// Replies that came.
    pub received: u32,
}

/// Whether a ping is answered; gives up after five seconds.
#[must_use]
pub fn reaches(from: &Netns, to: IpAddr) -> bool {
    // ping ends at the first "host unreachable", which an address resolution from before may still
    // bring: so several of them.
    let deadline = Instant::now() + Duration::from_secs(5);
    let ping = format!("ping -n -q -c 1 -W 1 {to}");
    loop {
        if from.sh(&ping).is_ok() {
            return true;
        }
        if Instant::now() > deadline {
            return false;
        }
        thread::sleep(Duration::from_millis(100));
    }
}

/// Whether none of four pings is answered.
#[must_use]
pub fn is_cut_off(from: &Netns, to: IpAddr) -> bool {
    from.sh(&format!("ping -n -q -c 4 -i 0.1 -W 0.4 {to}"))
        .is_err()
}

/// Sends `count` pings, `interval_ms` apart, with `options`, and counts the answers.
///
/// # Panics
/// When ping cannot be run.
#[track_caller]
#[must_use]
pub fn ping(from: &Netns, to: IpAddr, count: u32, interval_ms: u32, options: &str) -> Pings {
    let seconds = f64::from(interval_ms) / 1000.0;
    let line = format!("ping -n -q -c {count} -i {seconds} -W 2 {options} {to} || true");
    let text = from.sh(&line).unwrap();
    match parse_pings(&text) {
        Some(pings) => pings,
        None => panic!("`{line}` printed no summary:\n{text}"),
    }
}

fn parse_pings(text: &str) -> Option<Pings> {
    let line = text.lines().find(|line| line.contains("transmitted"))?;
    let mut numbers = line.split(", ").map(|part| {
        part.split_whitespace()
            .next()
            .and_then(|word| word.parse().ok())
    });
    Some(Pings {
        sent: numbers.next()??,
        received: numbers.next()??,
    })
}

/// Sends `bytes` over one TCP connection and compares what arrives. Returns the socket's bytes.
///
/// # Panics
/// When nothing gets through in ten seconds, or what arrives is something else.
#[track_caller]
pub fn tcp(from: &Netns, to: &Netns, address: IpAddr, bytes: u64) {
    if let Err(error) = try_tcp(from, to, address, bytes) {
        panic!("TCP from {} to {address}: {error:#}", from.name());
    }
}

fn try_tcp(from: &Netns, to: &Netns, address: IpAddr, bytes: u64) -> Result<()> {
    let listener = netns::inside(to.name(), || Ok(TcpListener::bind((address, 0))?))
        .with_context(|| format!("listening on {address}"))?;
    let port = listener.local_addr()?.port();
    thread::scope(|scope| {
        let sender = scope.spawn(|| {
            let to = SocketAddr::new(address, port);
            let mut stream =
                netns::inside(from.name(), || Ok(TcpStream::connect_timeout(&to, LIMIT)?))
                    .context("connecting")?;
            stream.set_write_timeout(Some(LIMIT))?;
            let mut pattern = Pattern::new();
            for chunk in 0..bytes.div_ceil(CHUNK as u64) {
                stream
                    .write_all(pattern.chunk(chunk))
                    .with_context(|| format!("sending chunk {chunk}"))?;
            }
            Ok(())
        });
        let received = receive(&listener, bytes);
        let sent = sender.join().expect("the sender does not panic");
        // Of both errors the sender's comes first: without a connection nothing is accepted.
        sent.and(received)
    })
}

fn receive(listener: &TcpListener, bytes: u64) -> Result<()> {
    let mut stream = accept(listener)?;
    stream.set_read_timeout(Some(LIMIT))?;
    let mut pattern = Pattern::new();
    let mut got = vec![0; CHUNK];
    for chunk in 0..bytes.div_ceil(CHUNK as u64) {
        stream
            .read_exact(&mut got)
            .with_context(|| format!("receiving chunk {chunk}"))?;
        ensure!(got == pattern.chunk(chunk), "chunk {chunk} arrived changed");
    }
    ensure!(stream.read(&mut got)? == 0, "more arrived than was sent");
    Ok(())
}

fn accept(listener: &TcpListener) -> Result<TcpStream> {
    listener.set_nonblocking(true)?;
    let accepted = crate::wait::within(LIMIT, || listener.accept().ok());
    let (stream, _) = accepted.context("nobody connected")?;
    stream.set_nonblocking(false)?;
    Ok(stream)
}

/// Has a datagram of each of `sizes` echoed and compares what comes back.
///
/// # Panics
/// When one does not come back in ten seconds, or changed.
#[track_caller]
pub fn udp(from: &Netns, to: &Netns, address: IpAddr, sizes: &[usize]) {
    if let Err(error) = try_udp(from, to, address, sizes) {
        panic!("UDP from {} to {address}: {error:#}", from.name());
    }
}

fn try_udp(from: &Netns, to: &Netns, address: IpAddr, sizes: &[usize]) -> Result<()> {
    let (client, server) = udp_pair(from, to, address)?;
    let mut pattern = Pattern::new();
    let mut got = vec![0; CHUNK];
    for (number, &size) in sizes.iter().enumerate() {
        let sent = &pattern.chunk(number as u64)[..size];
        let context = || format!("a datagram of {size} bytes");
        client.send(sent).with_context(context)?;
        let (length, peer) = server.recv_from(&mut got).with_context(context)?;
        ensure!(got[..length] == *sent, "{size} bytes arrived changed");
        server.send_to(&got[..length], peer).with_context(context)?;
        let length = client.recv(&mut got).with_context(context)?;
        ensure!(got[..length] == *sent, "{size} bytes came back changed");
    }
    Ok(())
}

/// Sends `count` datagrams of `segment` bytes in one buffer that the kernel cuts (UDP GSO), and
/// compares what arrives.
///
/// # Panics
/// When one does not arrive in ten seconds, or changed.
#[track_caller]
pub fn udp_gso(from: &Netns, to: &Netns, address: IpAddr, segment: usize, count: usize) {
    if let Err(error) = try_udp_gso(from, to, address, segment, count) {
        panic!("UDP GSO from {} to {address}: {error:#}", from.name());
    }
}

fn try_udp_gso(
    from: &Netns,
    to: &Netns,
    address: IpAddr,
    segment: usize,
    count: usize,
) -> Result<()> {
    let (client, server) = udp_pair(from, to, address)?;
    let size = libc::c_int::try_from(segment)?;
    // SAFETY: the option is an int, and the pointer is to one that outlives the call.
    let set = unsafe {
        libc::setsockopt(
            client.as_raw_fd(),
            libc::SOL_UDP,
            libc::UDP_SEGMENT,
            (&raw const size).cast(),
            size_of_val(&size) as libc::socklen_t,
        )
    };
    ensure!(set == 0, "UDP_SEGMENT: {}", std::io::Error::last_os_error());
    let mut pattern = Pattern::new();
    let sent = &pattern.chunk(1)[..segment * count];
    client.send(sent).context("sending")?;
    let mut got = vec![0; CHUNK];
    for (number, part) in sent.chunks(segment).enumerate() {
        let length = server
            .recv(&mut got)
            .with_context(|| format!("receiving datagram {number} of {count}"))?;
        ensure!(got[..length] == *part, "datagram {number} arrived changed");
    }
    Ok(())
}

/// A socket in `from` that is connected to one in `to`.
fn udp_pair(from: &Netns, to: &Netns, address: IpAddr) -> Result<(UdpSocket, UdpSocket)> {
    let server = netns::inside(to.name(), || Ok(UdpSocket::bind((address, 0))?))
        .with_context(|| format!("binding to {address}"))?;
    let target = server.local_addr()?;
    let any: IpAddr = match address {
        IpAddr::V4(_) => std::net::Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => std::net::Ipv6Addr::UNSPECIFIED.into(),
    };
    let client = netns::inside(from.name(), || {
        let client = UdpSocket::bind((any, 0))?;
        client.connect(target)?;
        Ok(client)
    })
    .context("connecting")?;
    for socket in [&client, &server] {
        socket.set_read_timeout(Some(LIMIT))?;
    }
    Ok((client, server))
}

/// Bytes in one piece of a [`Pattern`].
pub(crate) const CHUNK: usize = 1 << 16;

/// Content that differs from chunk to chunk and from place to place, the same at both ends.
pub(crate) struct Pattern {
    template: Vec<u8>,
    chunk: Vec<u8>,
}

impl Pattern {
    pub(crate) fn new() -> Self {
        let mut word = 0x9e37_79b9_7f4a_7c15u64;
        let template = std::iter::repeat_with(|| {
            // xorshift64 (Marsaglia 2003).
            word ^= word << 13;
            word ^= word >> 7;
            word ^= word << 17;
            word.to_le_bytes()
        })
        .take(CHUNK / 8)
        .flatten()
        .collect();
        Self {
            template,
            chunk: vec![0; CHUNK],
        }
    }

    /// Piece `number`.
    pub(crate) fn chunk(&mut self, number: u64) -> &[u8] {
        let turn = (number as usize).wrapping_mul(7919) % CHUNK;
        let (head, tail) = self.template.split_at(turn);
        self.chunk[..tail.len()].copy_from_slice(tail);
        self.chunk[tail.len()..].copy_from_slice(head);
        self.chunk[..8].copy_from_slice(&number.to_le_bytes());
        &self.chunk
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ping_summaries() {
        let text = "--- 10.0.0.2 ping statistics ---\n\
                    200 packets transmitted, 199 received, 0.5% packet loss, time 1003ms\n";
        let pings = Pings {
            sent: 200,
            received: 199,
        };
        assert_eq!(parse_pings(text), Some(pings));
        let errors = "3 packets transmitted, 0 received, +3 errors, 100% packet loss, time 2ms\n";
        assert_eq!(parse_pings(errors).map(|pings| pings.received), Some(0));
        assert_eq!(parse_pings("ping: unknown host"), None);
    }

    #[test]
    fn chunks_differ() {
        let mut pattern = Pattern::new();
        let (one, two) = (pattern.chunk(1).to_vec(), pattern.chunk(2).to_vec());
        assert_ne!(one[8..], two[8..]);
        assert_eq!(pattern.chunk(1), one);
    }
}
