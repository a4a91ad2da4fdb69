//! Guests that do much: bulk transfers by iperf3, and many connections at once.

use std::{
    collections::BTreeSet,
    fmt::Write as _,
    io::{Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    process::{Child, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use serde_json::Value;
use vnet_tests::{
    nat::{PHYS, UPLINK, tcp_listener},
    wait,
};

use crate::{Over, Site, url};

/// What iperf3 is to send each way.
const MIB: u64 = 24;

/// Connections that one guest has at once.
const MANY: usize = 200;

/// How long many connections of an emulated guest may take.
const LIMIT: Duration = Duration::from_secs(100);

/// A program that is ended with this value.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// iperf3 sends by TCP from a guest to the physical host, and back (`-R`).
pub fn iperf3_runs_both_ways(site: &mut Site) {
    let Site { guests, lab, .. } = site;
    for address in PHYS.both() {
        for reverse in ["", " -R"] {
            let mut server = lab.phys.netns().command("iperf3").unwrap();
            server
                .args(["-s", "-1", "-p", "5201", "-B", &address.to_string()])
                .stdout(Stdio::null())
                .stderr(Stdio::null());
            let _server = Ended(server.spawn().unwrap());
            wait::until("iperf3 listens", || {
                !lab.phys.sh("ss -Hltn sport = :5201").is_empty()
            });
            let line = format!("/usr/bin/iperf3 -J -i 0 -n {MIB}M -p 5201 -c {address}{reverse}");
            let done = guests[0].run(&line).unwrap();
            let report: Value = serde_json::from_str(&done.stdout)
                .unwrap_or_else(|error| panic!("`{line}`: {error}: {}", done.stdout));
            assert!(done.success(), "`{line}`: {}", report["error"]);
            let received = report["end"]["sum_received"]["bytes"].as_u64();
            assert!(
                received >= Some(20_000_000),
                "`{line}`: {}",
                report["end"]["sum_received"]
            );
        }
    }
}

/// Takes [`MANY`] connections and answers none before all are there: each gets the numbers from the one
/// that it asks for on. Gives who asked; fewer when it is over before.
fn answer_many(listener: &TcpListener, over: &AtomicBool) -> Vec<SocketAddr> {
    let mut waiting: Vec<(TcpStream, SocketAddr)> = Vec::new();
    while waiting.len() < MANY && !over.load(Ordering::Relaxed) {
        match listener.accept() {
            Ok(connection) => waiting.push(connection),
            Err(_) => thread::sleep(Duration::from_millis(2)),
        }
    }
    let mut clients = Vec::new();
    for (mut stream, client) in waiting {
        stream.set_nonblocking(false).unwrap();
        let limit = Some(Duration::from_secs(30));
        stream.set_read_timeout(limit).unwrap();
        stream.set_write_timeout(limit).unwrap();
        let (mut request, mut part) = (Vec::new(), [0; 1024]);
        while !request.ends_with(b"\r\n\r\n") {
            match stream.read(&mut part) {
                Ok(length @ 1..) => request.extend(&part[..length]),
                _ => break,
            }
        }
        let request = String::from_utf8_lossy(&request).into_owned();
        let asked = request.split(['/', ' ']).nth(2);
        let Some(first) = asked.and_then(|word| word.parse::<u32>().ok()) else {
            continue;
        };
        let mut content = String::new();
        for number in first..=first + 3000 {
            let _ = writeln!(content, "{number}");
        }
        // Who hangs up early fails by itself.
        let length = content.len();
        let head = format!("HTTP/1.0 200 OK\r\nContent-Length: {length}\r\n\r\n");
        let _ = stream.write_all((head + &content).as_bytes());
        clients.push(client);
    }
    clients
}

/// Each of many connections at once gets its own data, by an external port of its own.
pub fn many_connections_at_once(site: &mut Site) {
    let Site { guests, lab, .. } = site;
    for address in PHYS.both() {
        let listener = tcp_listener(lab.phys.netns(), address, 8080);
        let done = AtomicBool::new(false);
        let (text, clients) = thread::scope(|scope| {
            let over = Over(&done);
            let server = scope.spawn(|| answer_many(&listener, &done));
            let there = url(address, 8080, "");
            let script = format!(
                "rm -rf /run/many; mkdir /run/many; cd /run/many
                 for n in $(seq {MANY}); do wget -q -O $n {there}$n & done
                 wait
                 for n in $(seq {MANY}); do
                     seq $n $((n + 3000)) | cmp - $n || echo $n is wrong
                 done
                 echo compared"
            );
            let text = guests[0].run_within(&script, LIMIT);
            drop(over);
            (text.unwrap().stdout, server.join().unwrap())
        });
        assert_eq!(text, "compared\n", "{address}");
        let ends: BTreeSet<_> = clients.iter().collect();
        assert_eq!(ends.len(), MANY, "{address}: {clients:?}");
        let is_own = |client: &&SocketAddr| client.ip() == UPLINK.like(address);
        assert!(
            ends.into_iter().all(|client| is_own(&client)),
            "{clients:?}"
        );
    }
}

/// The port of the host's own service, which guests use as well.
const SERVICE: u16 = 22;

/// What the host's service says.
const BANNER: &str = "This is the host.\n";

/// Says its banner to everybody until it is over.
fn greet(listener: &TcpListener, over: &AtomicBool) {
    while !over.load(Ordering::Relaxed) {
        match listener.accept() {
            // Who hangs up early fails by itself.
            Ok((mut stream, _)) => drop(stream.write_all(BANNER.as_bytes())),
            Err(_) => thread::sleep(Duration::from_millis(5)),
        }
    }
}

/// Guests hold connections from and to the port of a service of the host: it is reached from outside
/// and from guests all the while, and so are those whom the guests talk to.
pub fn the_hosts_own_service_is_reached(site: &mut Site) {
    let Site { guests, held, lab } = site;
    for address in UPLINK.both() {
        let service = tcp_listener(lab.host.netns(), address, SERVICE);
        let peer = PHYS.like(address);
        let outside = tcp_listener(lab.phys.netns(), peer, SERVICE);
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            let _over = Over(&done);
            scope.spawn(|| greet(&service, &done));
            let mut begun = Vec::new();
            for guest in &mut *guests {
                // It goes on in the background until the guest ends: the shell that reads our
                // commands may lose one when something in the background ends.
                let hold = format!(
                    "rm -f /run/held; sleep 10000 | nc -p {SERVICE} {peer} {SERVICE} >/run/held &"
                );
                guest.check(&hold).unwrap();
                let accepted = wait::value("a guest connects", || outside.accept().ok());
                begun.push(accepted);
            }
            let seen: BTreeSet<_> = begun.iter().map(|(_, client)| *client).collect();
            assert_eq!(seen.len(), guests.len(), "{seen:?}");
            for client in &seen {
                assert_eq!(client.ip(), address);
                assert_ne!(client.port(), SERVICE, "it is the host's");
            }

            for from in [lab.phys.netns(), &lab.far] {
                assert_eq!(read_all(from, address), BANNER, "from {}", from.name());
            }
            for guest in &mut *guests {
                let said = guest.check(&format!("nc {address} {SERVICE} </dev/null"));
                assert_eq!(said.unwrap(), BANNER);
            }

            for (guest, (mut stream, client)) in guests.iter_mut().zip(begun) {
                stream.write_all(b"still here\n").unwrap();
                held.push(stream);
                let heard = wait::value("what is held carries data", || {
                    let heard = guest.check("cat /run/held").unwrap();
                    (!heard.is_empty()).then_some(heard)
                });
                assert_eq!(heard, "still here\n", "{client}");
            }
        });
    }
}

/// What the host's service says to somebody outside.
#[track_caller]
fn read_all(from: &xtask::netns::Netns, address: IpAddr) -> String {
    let to = SocketAddr::new(address, SERVICE);
    let mut stream = vnet_tests::nat::tcp_connect(from, 0, to).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}
