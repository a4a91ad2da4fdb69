//! What comes in at an interface, from the moment on that we look.

use std::{
    net::IpAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use xtask::netns::Netns;

use super::{Packet, is_inside};
use crate::{
    wait,
    wire::{Heard, PacketSocket, Wire as _},
};

/// What is kept of a frame; what is longer is a GSO buffer.
const KEPT: usize = 4096;

/// How often we look, so that the socket's buffer never fills.
const PAUSE: Duration = Duration::from_millis(2);

/// What may rightly be seen outside.
#[derive(Clone, Debug, Default)]
pub struct Outside {
    /// IP sources.
    pub sources: Vec<IpAddr>,
    /// MAC addresses of VMs that are on the network outside themselves.
    pub vms: Vec<[u8; 6]>,
}

/// Collects the frames that come in at an interface.
#[derive(Debug)]
pub struct Sniffer {
    state: Arc<State>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct State {
    packets: Mutex<Vec<Packet>>,
    /// How often the socket was found empty.
    rounds: AtomicU64,
    stop: AtomicBool,
}

impl Sniffer {
    /// Begins to look.
    ///
    /// # Panics
    /// When there is no such interface.
    #[must_use]
    pub fn start(netns: &Netns, interface: &str) -> Self {
        let socket = PacketSocket::open(netns, interface, Heard::Everything);
        let state = Arc::<State>::default();
        let shared = Arc::clone(&state);
        let thread = thread::spawn(move || shared.collect(&socket));
        Self {
            state,
            thread: Some(thread),
        }
    }

    /// Everything that came until now.
    #[must_use]
    pub fn packets(&self) -> Vec<Packet> {
        // The round that is under way may have begun before the last frame came.
        let target = self.state.rounds.load(Ordering::Acquire) + 2;
        wait::until("the sniffer has caught up", || {
            self.state.rounds.load(Ordering::Acquire) >= target
        });
        self.state.lock().clone()
    }

    /// Forgets what came until now.
    pub fn clear(&self) {
        drop(self.packets());
        self.state.lock().clear();
    }

    /// Waits for a packet that `wanted` likes.
    ///
    /// # Panics
    /// When none comes; `what` completes "waiting until …".
    #[track_caller]
    pub fn expect(&self, what: &str, wanted: impl Fn(&Packet) -> bool) -> Packet {
        wait::value(what, || {
            self.state
                .lock()
                .iter()
                .find(|packet| wanted(packet))
                .cloned()
        })
    }

    /// Everything that should not be on a wire outside, a line each: what has or speaks of an
    /// address from inside, and a source or the MAC address of a VM that is none of `allowed`.
    #[must_use]
    pub fn leaks(&self, allowed: &Outside) -> Vec<String> {
        self.packets()
            .iter()
            .filter_map(|packet| Some((leak(packet, allowed)?, packet)))
            .map(|(what, packet)| {
                let length = packet.bytes.len().min(120);
                format!("{what}: {:02x?}", &packet.bytes[..length])
            })
            .collect()
    }
}

impl State {
    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Packet>> {
        self.packets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn collect(&self, socket: &PacketSocket) {
        while !self.stop.load(Ordering::Relaxed) {
            while let Some(mut bytes) = socket.receive_bytes() {
                bytes.truncate(KEPT);
                bytes.shrink_to_fit();
                self.lock().push(Packet { bytes });
            }
            self.rounds.fetch_add(1, Ordering::Release);
            thread::sleep(PAUSE);
        }
    }
}

impl Drop for Sniffer {
    fn drop(&mut self) {
        self.state.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // It has nothing to tell but that it panicked, and has told that already.
            let _ = thread.join();
        }
    }
}

fn leak(packet: &Packet, allowed: &Outside) -> Option<String> {
    if let Some(mac @ [0x52, 0x54, 0, 0, 0, _]) = packet.source_mac()
        && !allowed.vms.contains(mac)
    {
        return Some("the MAC address of a VM".to_owned());
    }
    if let Some(addresses) = packet.arp() {
        let inside = addresses.into_iter().find(|at| is_inside((*at).into()))?;
        return Some(format!("ARP about {inside}"));
    }
    let ip = packet.ip()?;
    let is_own = match ip.src {
        IpAddr::V4(_) => false,
        IpAddr::V6(address) => address.is_unicast_link_local() || address.is_unspecified(),
    };
    if !is_own && !allowed.sources.contains(&ip.src) {
        return Some(format!("a source that nobody has, {}", ip.src));
    }
    if is_inside(ip.dst) {
        return Some(format!("a destination from inside, {}", ip.dst));
    }
    let subject = ip.subject()?;
    let inside = [subject.src, subject.dst]
        .into_iter()
        .find(|at| is_inside(*at))?;
    Some(format!("an ICMP error about {inside}"))
}
