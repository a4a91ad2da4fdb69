//! Conversations of two machines whose content is compared, and which tell who each end takes the
//! other for.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use xtask::netns::Netns;

use super::sockets::{any, tcp_connect, tcp_listener, udp};
use crate::{
    traffic::{CHUNK, Pattern},
    wait,
};

/// How long a connection may take to arrive.
const LIMIT: Duration = Duration::from_secs(5);

/// Who is who.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// The client as it is to itself.
    pub client: SocketAddr,
    /// The client as the server sees it.
    pub by_server: SocketAddr,
    /// The server as it is to itself.
    pub server: SocketAddr,
}

/// A TCP connection of which we hold both ends.
#[derive(Debug)]
pub struct Connection {
    /// The end that began.
    pub client: TcpStream,
    /// The end that was waiting.
    pub server: TcpStream,
    /// Who is who.
    pub seen: Seen,
}

impl Connection {
    /// Connects `from` to a listener in `to` at the very address it listens at. Port 0 of either
    /// lets the kernel choose.
    ///
    /// # Panics
    /// When it cannot.
    #[must_use]
    #[track_caller]
    pub fn open(from: &Netns, port: u16, to: &Netns, address: SocketAddr) -> Self {
        let listener = tcp_listener(to, address.ip(), address.port());
        let address = listener.local_addr().unwrap();
        match Self::open_to(from, port, address, &listener) {
            Ok(connection) => connection,
            Err(error) => panic!("TCP from {} to {address}: {error:#}", from.name()),
        }
    }

    /// Connects `from` to `address`, which is to lead to `listener`.
    ///
    /// # Errors
    /// It does not.
    #[track_caller]
    pub fn open_to(
        from: &Netns,
        port: u16,
        address: SocketAddr,
        listener: &TcpListener,
    ) -> Result<Self> {
        let client = tcp_connect(from, port, address).context("connecting")?;
        let own = client.local_addr()?;
        // Connections of tests that went wrong may wait in front of it.
        let (server, by_server) = wait::within(LIMIT, || listener.accept().ok())
            .context("it was accepted, and not by the listener")?;
        server.set_nonblocking(false)?;
        server.set_read_timeout(Some(LIMIT))?;
        server.set_write_timeout(Some(LIMIT))?;
        let seen = Seen {
            client: own,
            by_server,
            server: server.local_addr()?,
        };
        Ok(Self {
            client,
            server,
            seen,
        })
    }

    /// Sends so many bytes from the client and from the server, both at once, and compares what
    /// arrives.
    ///
    /// # Errors
    /// They do not arrive, or changed.
    pub fn try_exchange(&mut self, up: u64, down: u64) -> Result<()> {
        let Self { client, server, .. } = self;
        thread::scope(|scope| {
            let senders = [(&*client, up), (&*server, down)]
                .map(|(stream, bytes)| scope.spawn(move || send(stream, bytes)));
            let receivers = [(&*server, up), (&*client, down)]
                .map(|(stream, bytes)| scope.spawn(move || receive(stream, bytes)));
            for (job, doing) in senders.into_iter().chain(receivers).zip([
                "sending from the client",
                "sending from the server",
                "receiving at the server",
                "receiving at the client",
            ]) {
                job.join().expect("it does not panic").context(doing)?;
            }
            Ok(())
        })
    }

    /// Like [`Self::try_exchange`].
    ///
    /// # Panics
    /// When the bytes do not arrive, or changed.
    #[track_caller]
    pub fn exchange(&mut self, up: u64, down: u64) {
        if let Err(error) = self.try_exchange(up, down) {
            panic!("TCP {:?}: {error:#}", self.seen);
        }
    }
}

fn send(mut stream: &TcpStream, bytes: u64) -> Result<()> {
    let mut pattern = Pattern::new();
    for (number, size) in chunks(bytes) {
        stream.write_all(&pattern.chunk(number)[..size])?;
    }
    Ok(())
}

fn receive(mut stream: &TcpStream, bytes: u64) -> Result<()> {
    let mut pattern = Pattern::new();
    let mut got = vec![0; CHUNK];
    for (number, size) in chunks(bytes) {
        stream.read_exact(&mut got[..size])?;
        ensure!(
            got[..size] == pattern.chunk(number)[..size],
            "chunk {number} arrived changed"
        );
    }
    Ok(())
}

fn chunks(bytes: u64) -> impl Iterator<Item = (u64, usize)> {
    let whole = CHUNK as u64;
    (0..bytes.div_ceil(whole)).map(move |number| {
        let rest = bytes - number * whole;
        (number, rest.min(whole) as usize)
    })
}

/// Datagrams between two sockets, each of which is echoed.
#[derive(Debug)]
pub struct Datagrams {
    /// The end that began.
    pub client: UdpSocket,
    /// The end that was waiting.
    pub server: UdpSocket,
    /// Where the client sends to.
    pub address: SocketAddr,
}

impl Datagrams {
    /// Sockets in `from` and `to`, where the server is at the very address it is bound to. Port 0 of
    /// either lets the kernel choose.
    ///
    /// # Panics
    /// When they cannot be bound.
    #[must_use]
    #[track_caller]
    pub fn between(from: &Netns, port: u16, to: &Netns, address: SocketAddr) -> Self {
        let server = udp(to, address.ip(), address.port());
        let address = server.local_addr().unwrap();
        Self::through(from, port, address, server)
    }

    /// A socket in `from` that sends to `address`, which is to lead to `server`.
    ///
    /// # Panics
    /// When it cannot be bound.
    #[must_use]
    #[track_caller]
    pub fn through(from: &Netns, port: u16, address: SocketAddr, server: UdpSocket) -> Self {
        let client = udp(from, any(address.ip()), port);
        client.connect(address).unwrap();
        Self {
            client,
            server,
            address,
        }
    }

    /// Has a datagram of each of `sizes` echoed, and compares what comes at either end.
    ///
    /// # Errors
    /// One is lost, or changed; or the server sees another client from one datagram to the next.
    pub fn try_exchange(&self, sizes: &[usize]) -> Result<Seen> {
        let mut pattern = Pattern::new();
        let mut got = vec![0; CHUNK];
        let mut by_server = None;
        for (number, &size) in sizes.iter().enumerate() {
            let sent = &pattern.chunk(number as u64)[..size];
            self.client
                .send(sent)
                .with_context(|| format!("sending {size} bytes"))?;
            let (length, peer) = self
                .server
                .recv_from(&mut got)
                .with_context(|| format!("{size} bytes on their way to the server"))?;
            ensure!(got[..length] == *sent, "{size} bytes arrived changed");
            let first = *by_server.get_or_insert(peer);
            ensure!(first == peer, "the client was {first} and is {peer}");
            self.server
                .send_to(&got[..length], peer)
                .with_context(|| format!("sending {size} bytes back to {peer}"))?;
            let length = self
                .client
                .recv(&mut got)
                .with_context(|| format!("{size} bytes on their way back"))?;
            ensure!(got[..length] == *sent, "{size} bytes came back changed");
        }
        Ok(Seen {
            client: self.client.local_addr()?,
            by_server: by_server.context("nothing was to be sent")?,
            server: self.server.local_addr()?,
        })
    }

    /// Like [`Self::try_exchange`].
    ///
    /// # Panics
    /// When a datagram is lost or changed.
    #[track_caller]
    pub fn exchange(&self, sizes: &[usize]) -> Seen {
        match self.try_exchange(sizes) {
            Ok(seen) => seen,
            Err(error) => panic!("UDP to {}: {error:#}", self.address),
        }
    }

    /// Whether a datagram of the client does not get to the server within a moment.
    ///
    /// # Panics
    /// When the kernel refuses.
    #[must_use]
    #[track_caller]
    pub fn is_cut_off(&self) -> bool {
        self.server
            .set_read_timeout(Some(Duration::from_millis(300)))
            .unwrap();
        // An ICMP error for an earlier one may wait.
        let _ = self.client.send(b"is anybody there?");
        let got = self.server.recv_from(&mut [0; 64]);
        self.server.set_read_timeout(Some(LIMIT)).unwrap();
        got.is_err()
    }
}
