//! What a NAT does, found out from both its sides as STUN does (RFC 5780, 4): a responder with two
//! addresses and two ports tells who it sees, and answers from another of them when asked to.

use std::{
    net::{IpAddr, SocketAddr, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use xtask::netns::Netns;

use super::sockets::{any, udp};

/// How long an answer may take before we ask again.
const PATIENCE: Duration = Duration::from_millis(250);

/// How often we ask before we say that there is no answer.
const TRIES: u32 = 3;

/// The responder's ports.
const PORTS: [u16; 2] = [3478, 3479];

/// What a mapping or a filter depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Nothing: endpoint-independent.
    Endpoint,
    /// The remote address.
    Address,
    /// The remote address and port.
    AddressAndPort,
}

/// What was found out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Behaviour {
    /// What mappings depend on.
    pub mapping: Scope,
    /// What filtering depends on.
    pub filtering: Scope,
    /// The port inside is the port outside.
    pub preserves_ports: bool,
}

/// A responder. Its places are numbered: bit 0 is the port, bit 1 the address.
#[derive(Debug)]
pub struct Responder {
    places: [SocketAddr; 4],
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Responder {
    /// Starts one.
    ///
    /// # Panics
    /// When an address or port cannot be used.
    #[must_use]
    #[track_caller]
    pub fn start(netns: &Netns, addresses: [IpAddr; 2]) -> Self {
        let places = [0, 1, 2, 3]
            .map(|place: usize| SocketAddr::new(addresses[place >> 1], PORTS[place & 1]));
        let sockets = Arc::new(places.map(|at| udp(netns, at.ip(), at.port())));
        let stop = Arc::<AtomicBool>::default();
        let threads = (0..places.len())
            .map(|place| {
                let (sockets, stop) = (Arc::clone(&sockets), Arc::clone(&stop));
                thread::spawn(move || {
                    while !stop.load(Ordering::Relaxed) {
                        respond(&sockets, place);
                    }
                })
            })
            .collect();
        Self {
            places,
            stop,
            threads,
        }
    }

    /// A place's address and port.
    #[must_use]
    pub fn place(&self, number: usize) -> SocketAddr {
        self.places[number]
    }

    /// Asks place `to` who we are, to be answered from place `from`.
    ///
    /// # Panics
    /// When the kernel refuses.
    #[must_use]
    #[track_caller]
    pub fn ask(&self, socket: &UdpSocket, to: usize, from: usize) -> Option<SocketAddr> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        for _ in 0..TRIES {
            let number = NEXT.fetch_add(1, Ordering::Relaxed);
            socket
                .send_to(format!("{number} {from}").as_bytes(), self.places[to])
                .unwrap();
            if let Some(mapped) = answer(socket, number, self.places[from]) {
                return Some(mapped);
            }
        }
        None
    }
}

/// Waits for the answer to question `number`, which is to come from `from`.
fn answer(socket: &UdpSocket, number: u64, from: SocketAddr) -> Option<SocketAddr> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let left = deadline.checked_duration_since(Instant::now())?;
        let left = left.max(Duration::from_millis(1));
        socket.set_read_timeout(Some(left)).unwrap();
        let mut got = [0; 256];
        let Ok((length, peer)) = socket.recv_from(&mut got) else {
            continue;
        };
        let text = String::from_utf8_lossy(&got[..length]).into_owned();
        let mut words = text.split_whitespace();
        if peer == from && words.next() == Some(&number.to_string()) {
            return words.next()?.parse().ok();
        }
    }
}

fn respond(sockets: &[UdpSocket; 4], place: usize) {
    let own = &sockets[place];
    let _ = own.set_read_timeout(Some(Duration::from_millis(50)));
    let mut got = [0; 256];
    let Ok((length, peer)) = own.recv_from(&mut got) else {
        return;
    };
    let text = String::from_utf8_lossy(&got[..length]).into_owned();
    let mut words = text.split_whitespace();
    let number = words.next().unwrap_or_default();
    let from = words.next().and_then(|word| word.parse::<usize>().ok());
    if let Some(socket) = from.and_then(|from| sockets.get(from)) {
        let _ = socket.send_to(format!("{number} {peer}").as_bytes(), peer);
    }
}

impl Drop for Responder {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // It has nothing to tell.
            let _ = thread.join();
        }
    }
}

/// Finds out what the NAT between `client` and the responder does.
///
/// # Panics
/// When nothing gets through at all.
#[must_use]
#[track_caller]
pub fn behaviour(client: &Netns, responder: &Responder) -> Behaviour {
    let here = any(responder.place(0).ip());
    let socket = udp(client, here, 0);
    let mapped = |to: usize| match responder.ask(&socket, to, to) {
        Some(mapped) => mapped,
        None => panic!("no answer from {}", responder.place(to)),
    };
    let [first, other_port, other_address] = [0, 1, 2].map(mapped);
    let mapping = if first != other_port {
        Scope::AddressAndPort
    } else if first != other_address {
        Scope::Address
    } else {
        Scope::Endpoint
    };
    // A socket that has sent to one place only.
    let fresh = udp(client, here, 0);
    let own = fresh.local_addr().unwrap().port();
    let seen = responder.ask(&fresh, 0, 0);
    let filtering = if responder.ask(&fresh, 0, 3).is_some() {
        Scope::Endpoint
    } else if responder.ask(&fresh, 0, 1).is_some() {
        Scope::Address
    } else {
        Scope::AddressAndPort
    };
    Behaviour {
        mapping,
        filtering,
        preserves_ports: seen.is_some_and(|seen| seen.port() == own),
    }
}
