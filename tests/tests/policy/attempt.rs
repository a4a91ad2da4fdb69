//! Attempts to speak to somebody, and what comes of them.

use std::{
    io::{self, ErrorKind},
    net::{IpAddr, SocketAddr, TcpListener, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use socket2::{Domain, Protocol, Socket, Type};
use vnet_tests::nat::{any, tcp_listener, udp};
use xtask::netns::{self, Netns};

/// How long an answer may take: a lost SYN is sent again after a second.
const PATIENCE: Duration = Duration::from_millis(1600);

/// How long an echo waits until it looks whether it is over.
const GLANCE: Duration = Duration::from_millis(50);

/// What came of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Came {
    /// An answer.
    Through,
    /// Word that it may not be: the error that the kernel makes of it for the program.
    Refused(i32),
    /// Nothing.
    Nowhere,
}

/// How it is attempted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// A TCP connection to this port.
    Tcp(u16),
    /// A datagram to this port, which somebody sends back.
    Udp(u16),
    /// A ping.
    Ping,
}

/// Somebody tries to speak to somebody.
#[derive(Clone, Copy, Debug)]
pub struct Attempt<'a> {
    /// Where he is.
    pub from: &'a Netns,
    /// Which of his addresses he uses; any otherwise.
    pub own: Option<IpAddr>,
    /// Whom to.
    pub to: IpAddr,
    /// How.
    pub by: By,
}

impl<'a> Attempt<'a> {
    /// One from any address.
    pub fn new(from: &'a Netns, to: IpAddr, by: By) -> Self {
        Self {
            from,
            own: None,
            to,
            by,
        }
    }

    /// Makes it.
    #[track_caller]
    pub fn come(&self) -> Came {
        let own = SocketAddr::new(self.own.unwrap_or_else(|| any(self.to)), 0);
        match self.by {
            By::Tcp(port) => tcp(self.from, own, SocketAddr::new(self.to, port)),
            By::Udp(port) => datagram(self.from, own, SocketAddr::new(self.to, port)),
            By::Ping => ping(self.from, self.own, self.to),
        }
    }
}

/// Makes all of them, at once; what came of each.
pub fn come(attempts: &[Attempt<'_>]) -> Vec<Came> {
    thread::scope(|scope| {
        let running: Vec<_> = attempts
            .iter()
            .map(|attempt| scope.spawn(|| attempt.come()))
            .collect();
        running
            .into_iter()
            .map(|one| one.join().expect("an attempt does not panic"))
            .collect()
    })
}

/// Makes all of them, at once, and holds what came of each against what is wanted.
#[track_caller]
pub fn expect(wanted: &[(Attempt<'_>, Came)]) {
    let attempts: Vec<_> = wanted.iter().map(|(attempt, _)| *attempt).collect();
    let differing: Vec<_> = come(&attempts)
        .into_iter()
        .zip(wanted)
        .filter(|(came, (_, wanted))| came != wanted)
        .map(|(came, (attempt, wanted))| {
            let Attempt { from, own, to, by } = attempt;
            format!(
                "{} {own:?} to {to} by {by:?} came {came:?}, not {wanted:?}",
                from.name()
            )
        })
        .collect();
    assert!(differing.is_empty(), "{}", differing.join("\n"));
}

fn tcp(from: &Netns, own: SocketAddr, to: SocketAddr) -> Came {
    let socket = netns::inside(from.name(), || {
        let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP))?;
        socket.bind(&own.into())?;
        Ok(socket)
    })
    .unwrap();
    match socket.connect_timeout(&to.into(), PATIENCE) {
        Ok(()) => Came::Through,
        Err(error) => of_error(&error),
    }
}

fn datagram(from: &Netns, own: SocketAddr, to: SocketAddr) -> Came {
    let socket = udp(from, own.ip(), 0);
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let exchanged = socket
        .connect(to)
        .and_then(|()| socket.send(b"is anybody there?"))
        .and_then(|_| socket.recv(&mut [0; 64]));
    match exchanged {
        Ok(_) => Came::Through,
        Err(error) => of_error(&error),
    }
}

fn ping(from: &Netns, own: Option<IpAddr>, to: IpAddr) -> Came {
    let own = own.map_or_else(String::new, |own| format!("-I {own}"));
    let said = from.sh(&format!("ping -n -c 1 -W 2 {own} {to} || true"));
    let said = said.unwrap();
    if said.contains("1 received") {
        Came::Through
    } else if said.contains("Packet filtered") {
        Came::Refused(libc::EHOSTUNREACH)
    } else if said.contains("Administratively prohibited") {
        Came::Refused(libc::EACCES)
    } else {
        Came::Nowhere
    }
}

fn of_error(error: &io::Error) -> Came {
    match error.kind() {
        ErrorKind::TimedOut | ErrorKind::WouldBlock => Came::Nowhere,
        _ => Came::Refused(error.raw_os_error().unwrap_or_default()),
    }
}

/// Somebody who takes connections and sends datagrams back, until dropped.
pub struct Services {
    _listeners: Vec<TcpListener>,
    over: Arc<AtomicBool>,
    echoes: Vec<JoinHandle<()>>,
}

impl Services {
    /// At each of `addresses` of `netns`, on these ports.
    #[track_caller]
    pub fn new(netns: &Netns, addresses: &[IpAddr], tcp: &[u16], udp_ports: &[u16]) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let each = |ports: &[u16]| -> Vec<(IpAddr, u16)> {
            let of = |port: &u16| addresses.iter().map(|address| (*address, *port)).collect();
            ports
                .iter()
                .flat_map(|port| -> Vec<_> { of(port) })
                .collect()
        };
        let listeners = each(tcp)
            .into_iter()
            .map(|(address, port)| tcp_listener(netns, address, port))
            .collect();
        let echoes = each(udp_ports)
            .into_iter()
            .map(|(address, port)| {
                let socket = udp(netns, address, port);
                socket.set_read_timeout(Some(GLANCE)).unwrap();
                let over = Arc::clone(&over);
                thread::spawn(move || echo(&socket, &over))
            })
            .collect();
        Self {
            _listeners: listeners,
            over,
            echoes,
        }
    }
}

fn echo(socket: &UdpSocket, over: &AtomicBool) {
    let mut bytes = vec![0; 1 << 16];
    while !over.load(Ordering::Relaxed) {
        if let Ok((length, peer)) = socket.recv_from(&mut bytes) {
            // Whoever is refused the answer asks in vain.
            let _ = socket.send_to(&bytes[..length], peer);
        }
    }
}

impl Drop for Services {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        for echo in self.echoes.drain(..) {
            let _ = echo.join();
        }
    }
}
