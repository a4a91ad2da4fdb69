//! Real virtual machines behind the gateway: two QEMU guests on a network that is translated, with
//! every offload that virtio-net has, and a physical host that has no route to them.
//!
//! One boot serves all of it. Without QEMU or the image that `cargo xtask setup` makes, these tests
//! fail.

mod load;
mod paths;

use std::{
    io::{Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    path::Path,
    process::Command,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use vnet_tests::{
    nat::{FAR, GATEWAY, LAN, Lab, Lane, PHYS, UPLINK, tcp_listener, udp},
    wait,
};
use xtask::{guest::Guest, paths::find_program, process::output};

/// How long the guests may take to boot; they are emulated.
const BOOT_LIMIT: Duration = Duration::from_secs(120);

/// What is sent to see whether content survives: enough for segmentation offload to grow.
const BULK: usize = 12 << 20;

/// What the physical host's page says.
const PAGE: &[u8] = b"This is the outside.\n";

/// The numbers that the guests' addresses end with.
const NUMBERS: [u8; 2] = [11, 12];

struct Site {
    /// Ended before the host is.
    guests: [Guest; 2],
    /// Connections of guests that last as long as they do.
    held: Vec<TcpStream>,
    lab: Lab,
}

impl Site {
    /// The guests boot while the rest is being set up.
    fn new() -> Self {
        let lab = Lab::masquerading("");
        let mut guests = NUMBERS.map(|number| {
            let mut config = lab.host.guest_config(number);
            let own = LAN.address(number);
            config.ipv4 = Some(format!("{}/24", own.v4));
            config.ipv6 = Some(format!("{}/64", own.v6));
            config.gateway4 = Some(GATEWAY.v4.into());
            config.gateway6 = Some(GATEWAY.v6.into());
            // busybox has no iperf3, its `ip` does not tell what MTU was learned, and nothing of it sends
            // UDP, which bash does.
            for (inside, name) in [
                ("/usr/bin", "iperf3"),
                ("/usr/bin", "bash"),
                ("/usr/sbin", "ip"),
            ] {
                let Some(program) = find_program(name) else {
                    panic!("{name} is not installed\n  mend: cargo xtask setup");
                };
                let inside = Path::new(inside).join(name);
                config.add_program(inside, &program).unwrap();
            }
            lab.host.boot(config)
        });
        for guest in &guests {
            lab.port(&guest.config().tap, LAN);
        }
        for guest in &mut guests {
            guest.wait_ready(BOOT_LIMIT).unwrap();
        }
        Self {
            guests,
            held: Vec::new(),
            lab,
        }
    }
}

/// Says that it is over, however a scope is left.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn real_guests_behind_the_gateway() {
    let mut site = Site::new();
    guests_ping(&mut site);
    pages_are_read(&mut site);
    names_are_looked_up(&mut site);
    a_forward_leads_to_a_guest(&mut site);
    bulk_arrives_unchanged(&mut site);
    paths::hops_are_told(&mut site);
    paths::long_datagrams_arrive(&mut site);
    load::many_connections_at_once(&mut site);
    load::the_hosts_own_service_is_reached(&mut site);
    load::iperf3_runs_both_ways(&mut site);
    paths::a_narrow_link_is_found(&mut site);
    nothing_was_dropped(&site);
}

fn guests_ping(site: &mut Site) {
    for guest in &mut site.guests {
        let places = [GATEWAY, UPLINK, PHYS, FAR];
        for address in places.into_iter().flat_map(|place| place.both()) {
            let done = guest.run(&format!("ping -c 1 -W 5 {address}")).unwrap();
            assert!(done.success(), "{address}: {}", done.stdout);
        }
    }
}

/// An address and port as a URL has them.
fn url(address: IpAddr, port: u16, page: &str) -> String {
    format!("http://{}/{page}", SocketAddr::new(address, port))
}

/// Serves `content` by HTTP to whoever asks for a page, until `done`. Gives who asked.
fn serve_pages(listener: &TcpListener, content: &[u8], done: &AtomicBool) -> Vec<SocketAddr> {
    let mut clients = Vec::new();
    while !done.load(Ordering::Relaxed) {
        let Ok((mut stream, client)) = listener.accept() else {
            thread::sleep(Duration::from_millis(5));
            continue;
        };
        stream.set_nonblocking(false).unwrap();
        let limit = Some(Duration::from_secs(30));
        stream.set_read_timeout(limit).unwrap();
        stream.set_write_timeout(limit).unwrap();
        let mut request = Vec::new();
        let mut part = [0; 1024];
        while !request.ends_with(b"\r\n\r\n") {
            match stream.read(&mut part) {
                Ok(length @ 1..) => request.extend(&part[..length]),
                _ => break,
            }
        }
        let length = content.len();
        let head = format!("HTTP/1.0 200 OK\r\nContent-Length: {length}\r\n\r\n");
        // Who hangs up early fails by itself.
        let _ = stream.write_all(head.as_bytes());
        let _ = stream.write_all(content);
        clients.push(client);
    }
    clients
}

/// Runs `work` while the physical host serves `content` at its address of this family, port 8080.
/// Every client must have been seen as the uplink.
#[track_caller]
fn while_serving<T>(lab: &Lab, like: IpAddr, content: &[u8], work: impl FnOnce() -> T) -> T {
    let listener = tcp_listener(lab.phys.netns(), PHYS.like(like), 8080);
    let done = AtomicBool::new(false);
    let (result, clients) = thread::scope(|scope| {
        let server = scope.spawn(|| serve_pages(&listener, content, &done));
        // The server is to end when the work panics, too.
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
        done.store(true, Ordering::Relaxed);
        (result, server.join().expect("the server does not panic"))
    });
    let result = result.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    assert!(!clients.is_empty());
    for client in clients {
        assert_eq!(client.ip(), UPLINK.like(like));
    }
    result
}

fn pages_are_read(site: &mut Site) {
    let Site { guests, lab, .. } = site;
    for address in PHYS.both() {
        while_serving(lab, address, PAGE, || {
            for guest in &mut *guests {
                let fetch = format!("timeout 20 wget -q -O - {}", url(address, 8080, ""));
                let page = guest.check(&fetch).unwrap();
                assert_eq!(page.as_bytes(), PAGE);
            }
        });
    }
    // Between guests of one network nobody translates.
    for (number, page) in [(0, "This is vm12.\n"), (1, "This is vm11.\n")] {
        for address in LAN.address(NUMBERS[1 - number]).both() {
            let fetch = format!("timeout 20 wget -q -O - {}", url(address, 80, ""));
            assert_eq!(guests[number].check(&fetch).unwrap(), page);
        }
    }
}

/// Answers one question after the other (RFC 1035): 203.0.113.80 for an A record, nothing else.
fn answer_names(socket: &UdpSocket, done: &AtomicBool) {
    socket
        .set_read_timeout(Some(Duration::from_millis(20)))
        .unwrap();
    let mut got = [0; 512];
    while !done.load(Ordering::Relaxed) {
        let Ok((length, client)) = socket.recv_from(&mut got) else {
            continue;
        };
        let request = &got[..length];
        let name_end = 12 + request[12..].iter().position(|byte| *byte == 0).unwrap();
        let question = &request[12..name_end + 5];
        let is_a = question.ends_with(&[0, 1, 0, 1]);
        // A response, authoritative, no error; one question, and one answer or none.
        let mut answer = [
            &request[..2],
            &[0x84, 0, 0, 1, 0, u8::from(is_a), 0, 0, 0, 0],
        ]
        .concat();
        answer.extend(question);
        if is_a {
            // The name is the question's; an hour to live.
            answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0x0e, 0x10, 0, 4]);
            answer.extend([203, 0, 113, 80]);
        }
        socket.send_to(&answer, client).unwrap();
    }
}

fn names_are_looked_up(site: &mut Site) {
    let Site { guests, lab, .. } = site;
    for address in PHYS.both() {
        let socket = udp(lab.phys.netns(), address, 53);
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| answer_names(&socket, &done));
            let results = guests
                .each_mut()
                .map(|guest| guest.run(&format!("nslookup www.example.com {address}")));
            done.store(true, Ordering::Relaxed);
            for result in results {
                let text = result.unwrap().stdout;
                assert!(text.contains("203.0.113.80"), "{address}: {text}");
            }
        });
    }
}

fn a_forward_leads_to_a_guest(site: &mut Site) {
    let Site { guests, lab, .. } = site;
    let inside = LAN.address(NUMBERS[0]);
    for (address, inside) in UPLINK.both().into_iter().zip(inside.both()) {
        let (listen, to) = (SocketAddr::new(address, 8080), SocketAddr::new(inside, 80));
        lab.rule(&format!("dnat --proto tcp --listen {listen} --to {to}"));
        for from in [lab.phys.netns(), &lab.far] {
            let fetch = format!("curl -gsS -m 20 {}", url(address, 8080, ""));
            assert_eq!(from.sh(&fetch).unwrap(), "This is vm11.\n");
        }
        // The other guest takes the same way, as if it were outside.
        let fetch = format!("timeout 20 wget -q -O - {}", url(address, 8080, ""));
        assert_eq!(guests[1].check(&fetch).unwrap(), "This is vm11.\n");
    }
}

/// Noise goes from the first guest to the physical host by its forward, and from the physical host
/// to the second guest.
fn bulk_arrives_unchanged(site: &mut Site) {
    let Site { guests, lab, .. } = site;
    let [one, two] = guests;
    let made = format!("head -c {BULK} /dev/urandom >/www/bulk && sha256sum </www/bulk");
    let wanted = one.check(&made).unwrap();
    for address in UPLINK.both() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let path = file.path().display().to_string();
        let fetch = format!("curl -gsS -m 60 -o {path} {}", url(address, 8080, "bulk"));
        lab.phys.sh(&fetch);
        let got = output(Command::new("sh").args(["-c", &format!("sha256sum <{path}")]));
        assert_eq!(got.unwrap(), wanted, "from a guest by {address}");

        let content = std::fs::read(file.path()).unwrap();
        assert_eq!(content.len(), BULK);
        let there = url(PHYS.like(address), 8080, "bulk");
        let got = while_serving(lab, address, &content, || {
            two.check(&format!("timeout 60 wget -q -O - {there} | sha256sum"))
        });
        assert_eq!(got.unwrap(), wanted, "to a guest from {there}");
    }
}

/// Of all that, nothing was to be dropped for want of a translation.
fn nothing_was_dropped(site: &Site) {
    if site.lab.lane == Lane::Reference {
        return;
    }
    let bad = |drop: &String| {
        [
            "nat_ports",
            "nat_table",
            "nat_quota",
            "ip_malformed",
            "mtu_exceeded",
            "kernel_refused",
        ]
        .iter()
        .any(|reason| drop.contains(reason))
    };
    let drops = site.lab.host.all_drops();
    assert!(!drops.iter().any(bad), "{drops:?}");
    wait::until("the counters say that rules were used", || {
        site.lab.rules().iter().all(|rule| rule.hits() > 0)
    });
}
