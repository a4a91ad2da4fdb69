//! Those who mean well while somebody does not: connections that carry so much a second, and others that
//! are made one after the other.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    os::fd::AsRawFd as _,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use vnet_tests::nat::{Connection, Seen};
use xtask::netns::Netns;

/// Bytes a second of a [`Steady`] connection: 100 Mb/s, far less than the switch carries. Whatever else
/// keeps the machine busy leaves room for it, a connection that loses packets does not reach it.
const RATE: u64 = 12_500_000;

/// Bytes of a segment with an MTU of 1500, at least.
const SEGMENT: u64 = 1428;

/// Bytes at a time.
const PIECE: usize = 1 << 14;

/// How long a connection may take to be made: a SYN that is lost is sent again after a second, and then
/// after two more.
const PATIENCE: Duration = Duration::from_millis(2900);

/// Between one new connection and the next.
const PAUSE: Duration = Duration::from_millis(40);

/// A connection whose client sends [`RATE`], until dropped.
pub struct Steady {
    /// Who is who.
    pub seen: Seen,
    client: TcpStream,
    received: Arc<AtomicU64>,
    over: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Steady {
    /// Lets a connection carry that.
    pub fn new(connection: Connection) -> Self {
        let Connection {
            client,
            mut server,
            seen,
        } = connection;
        let (received, over) = (Arc::<AtomicU64>::default(), Arc::<AtomicBool>::default());
        let sender = {
            let (mut client, over) = (client.try_clone().unwrap(), Arc::clone(&over));
            thread::spawn(move || {
                let began = Instant::now();
                let mut sent = 0;
                while !over.load(Ordering::Relaxed) {
                    let due = (began.elapsed().as_secs_f64() * RATE as f64) as u64;
                    while sent < due && client.write_all(&[5; PIECE]).is_ok() {
                        sent += PIECE as u64;
                    }
                    thread::sleep(Duration::from_millis(1));
                }
            })
        };
        let receiver = {
            let received = Arc::clone(&received);
            thread::spawn(move || {
                let mut bytes = vec![0; 1 << 16];
                while let Ok(count @ 1..) = server.read(&mut bytes) {
                    received.fetch_add(count as u64, Ordering::Relaxed);
                }
            })
        };
        Self {
            seen,
            client,
            received,
            over,
            threads: vec![sender, receiver],
        }
    }

    /// Bytes that have arrived.
    pub fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// Whether the client has sent next to nothing again: where a CPU is busy with other things, an answer
    /// may come so late that TCP asks once more (RFC 8985, 7).
    pub fn is_whole(&self) -> bool {
        u64::from(self.sent_again()) * 1000 <= self.received() / SEGMENT
    }

    /// Segments that the client has sent again, as tcp(7) tells by TCP_INFO.
    fn sent_again(&self) -> u32 {
        // SAFETY: zeros are a value of the structure.
        let mut info: libc::tcp_info = unsafe { std::mem::zeroed() };
        let mut length = size_of_val(&info) as libc::socklen_t;
        // SAFETY: the pointers are to locals, and the length is the structure's.
        let got = unsafe {
            libc::getsockopt(
                self.client.as_raw_fd(),
                libc::IPPROTO_TCP,
                libc::TCP_INFO,
                (&raw mut info).cast(),
                &raw mut length,
            )
        };
        assert_eq!(got, 0, "{}", std::io::Error::last_os_error());
        info.tcpi_total_retrans
    }
}

impl Drop for Steady {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        let _ = self.client.shutdown(std::net::Shutdown::Both);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// What came of attempts to connect.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Attempts {
    /// Connections that were made, and carried something.
    pub came: u32,
    /// Others.
    pub failed: u32,
}

/// Connects from `netns` to each of `listeners` in turn until it is `over`, `most` times at most: what has
/// ended is in the table for a while.
pub fn connect_on(
    netns: &Netns,
    listeners: &[TcpListener],
    most: u32,
    over: &AtomicBool,
) -> Attempts {
    let mut attempts = Attempts::default();
    let addresses: Vec<SocketAddr> = listeners
        .iter()
        .map(|listener| listener.local_addr().unwrap())
        .collect();
    for turn in 0..most as usize {
        if over.load(Ordering::Relaxed) {
            break;
        }
        let turn = turn % listeners.len();
        let began = Instant::now();
        let carried = Connection::open_to(netns, 0, addresses[turn], &listeners[turn])
            .and_then(|mut connection| connection.try_exchange(1000, 1000));
        match carried {
            Ok(()) if began.elapsed() < PATIENCE => attempts.came += 1,
            _ => attempts.failed += 1,
        }
        thread::sleep(PAUSE);
    }
    attempts
}
