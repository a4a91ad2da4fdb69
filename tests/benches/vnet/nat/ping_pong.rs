//! Round trips: one byte there, one back, over one connection.

use std::{
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow};
use serde::Serialize;
use xtask::netns::{self, Netns};

use crate::{cpu, statistics::median};

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(2);

/// What carries the byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Protocol {
    /// TCP, without delay.
    Tcp,
    /// UDP.
    Udp,
}

/// Sends a byte from `client` to the address `remote` in `server` and back for `time`; gives the
/// median in µs. Both ends are on one CPU: to wake another one that sleeps takes longer than the way
/// there, the more so in a virtual machine.
pub fn round_trip_us(
    protocol: Protocol,
    client: &Netns,
    server: &Netns,
    remote: [u8; 4],
    cpu: usize,
    time: Duration,
) -> Result<f64> {
    let at = SocketAddr::from((remote, 0));
    let here = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
    // A socket belongs to the namespace that it was made in, whoever uses it.
    match protocol {
        Protocol::Tcp => {
            let listener = netns::inside(server.name(), || Ok(TcpListener::bind(at)?))?;
            let at = listener.local_addr()?;
            let near = netns::inside(client.name(), || {
                TcpStream::connect_timeout(&at, PATIENCE).context("connecting through the gateway")
            })?;
            let (far, _) = listener.accept()?;
            for stream in [&near, &far] {
                stream.set_nodelay(true)?;
                stream.set_read_timeout(Some(PATIENCE))?;
            }
            let (mut near, mut far) = (near, far);
            both(
                cpu,
                move || {
                    let mut byte = [0];
                    // Until the other end closes.
                    while far.read(&mut byte)? == 1 {
                        far.write_all(&byte)?;
                    }
                    Ok(())
                },
                move || {
                    measured(time, || {
                        let mut byte = [0];
                        near.write_all(&byte)?;
                        Ok(near.read_exact(&mut byte)?)
                    })
                },
            )
        }
        Protocol::Udp => {
            let far = netns::inside(server.name(), || Ok(UdpSocket::bind(at)?))?;
            let at = far.local_addr()?;
            let near = netns::inside(client.name(), || {
                let socket = UdpSocket::bind(here)?;
                socket.connect(at)?;
                Ok(socket)
            })?;
            for socket in [&near, &far] {
                socket.set_read_timeout(Some(PATIENCE))?;
            }
            both(
                cpu,
                move || {
                    let mut byte = [0];
                    // Until an empty datagram says that it is over.
                    loop {
                        let (length, from) = far.recv_from(&mut byte)?;
                        if length == 0 {
                            return Ok(());
                        }
                        far.send_to(&byte, from)?;
                    }
                },
                move || {
                    let result = measured(time, || {
                        let mut byte = [0];
                        near.send(&byte)?;
                        near.recv(&mut byte)?;
                        Ok(())
                    });
                    near.send(&[])?;
                    result
                },
            )
        }
    }
}

/// Runs the server and the client at once.
fn both(
    cpu: usize,
    serve: impl FnOnce() -> Result<()> + Send,
    ask: impl FnOnce() -> Result<f64> + Send,
) -> Result<f64> {
    thread::scope(|scope| {
        let server = scope.spawn(|| {
            cpu::stay_on(cpu)?;
            serve()
        });
        let client = scope.spawn(|| {
            cpu::stay_on(cpu)?;
            ask()
        });
        let result = client.join().unwrap_or_else(|_| Err(panicked("client")));
        let served = server.join().unwrap_or_else(|_| Err(panicked("server")));
        let result = result.context("sending a byte there and back")?;
        served.context("sending a byte back")?;
        Ok(result)
    })
}

fn panicked(which: &str) -> anyhow::Error {
    anyhow!("the {which}'s thread panicked")
}

/// The median time that `exchange` takes, in µs, over `time`.
fn measured(time: Duration, mut exchange: impl FnMut() -> Result<()>) -> Result<f64> {
    let mut times = Vec::new();
    let began = Instant::now();
    while began.elapsed() < time {
        let sent = Instant::now();
        exchange()?;
        times.push(sent.elapsed().as_secs_f64() * 1e6);
    }
    Ok(median(&times))
}
