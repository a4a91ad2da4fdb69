//! A document of a large host, applied while others talk: a thousand ports, a hundred networks, ten
//! thousand rules.

use std::{
    fmt::Write as _,
    fs,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use vnet_tests::{
    host::Host,
    nat::{Connection, LAN, Lab, Lane, PHYS, UPLINK},
    traffic,
};

use crate::{Done, at};

/// Ports of VMs besides the two that talk, each with an interface.
const PORTS: u32 = 998;
/// Networks besides `default` and `lan`.
const NETWORKS: u32 = 98;
/// Port forwards.
const RULES: u32 = 10_000;
/// The first external port of a forward.
const FIRST_PORT: u32 = 10_000;
/// Where a VM listens.
const SERVICE: u16 = 80;

/// Interfaces that lead nowhere, up, and quiet: the kernel has no addresses there to tell of.
fn make_interfaces(host: &Host) {
    let mut lines = String::new();
    for n in 0..PORTS {
        let _ = write!(
            lines,
            "link add p{n} type veth peer name q{n}\nlink set p{n} addrgenmode none up\n\
             link set q{n} addrgenmode none up\n"
        );
    }
    host.sh(&format!("ip -batch - <<'end'\n{lines}end"));
}

/// What is added to the document of a small host. Every forward leads to a VM of `lan`. Not all
/// networks have gateways: their interfaces are called after a hash of sixteen bits where the names are
/// as long as here, which two of a hundred may share.
fn addition(lab: &Lab) -> String {
    let mut text = String::new();
    for n in 0..NETWORKS {
        let _ = write!(text, "\n[[network]]\nname = '{n}'\nvlan = {}\n", 100 + n);
        if n % 10 == 0 {
            let _ = writeln!(text, "gateway = ['10.{}.0.1/24']", n + 1);
        }
    }
    for n in 0..PORTS {
        let _ = write!(
            text,
            "\n[[port]]\nname = 'p{n}'\nnetwork = '{}'\n",
            n % NETWORKS
        );
    }
    let first = lab.rules().iter().map(|rule| rule.id()).max().unwrap_or(0) + 1;
    for n in 0..RULES {
        let _ = write!(
            text,
            "\n[[nat]]\nid = {}\nkind = 'dnat'\nproto = 'tcp'\nlisten = '{}:{}'\nto = '{}:{SERVICE}'\n",
            first + u64::from(n),
            UPLINK.v4,
            FIRST_PORT + n,
            LAN.address(11 + (n % 2) as u8).v4,
        );
    }
    text
}

#[test]
fn a_large_document_is_applied_and_nobody_notices() {
    let lab = Lab::on(Host::new(), Lane::Vnet, &["max_ports=2048"]);
    let host = &lab.host;
    lab.rule("masquerade --network lan --uplink up0");
    let [one, two] = [11, 12].map(|number| lab.vm(number));
    make_interfaces(host);
    let small = host.document_text().unwrap();
    let large = small.clone() + &addition(&lab);
    let last = format!("'{}:{}'", UPLINK.v4, FIRST_PORT + RULES - 1);
    let changed = large.replace(&last, &format!("'{}:9999'", UPLINK.v4));
    let mut took: Vec<(&str, Duration)> = Vec::new();
    let mut apply = |what: &'static str, text: &str| {
        let path = host.run_dir().join("large.toml");
        fs::write(&path, text).unwrap();
        let began = Instant::now();
        host.vnet(&format!("config apply {}", path.display()));
        took.push((what, began.elapsed()));
    };
    let mut idle = Connection::open(one.netns(), 0, lab.phys.netns(), at(PHYS.v4.into(), 0));
    let through = |port: u32| {
        let listener = vnet_tests::nat::tcp_listener(two.netns(), two.address.v4.into(), SERVICE);
        let address = at(UPLINK.v4.into(), port as u16);
        Connection::open_to(lab.phys.netns(), 0, address, &listener)
    };

    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let pinging = [PHYS.v4.into(), two.address.v4.into()].map(|to| {
            let (from, done) = (one.netns(), &done);
            scope.spawn(move || {
                let (mut sent, mut received) = (0, 0);
                while !done.load(Ordering::Relaxed) {
                    let pings = traffic::ping(from, to, 500, 1, "");
                    sent += pings.sent;
                    received += pings.received;
                }
                (sent, received)
            })
        });
        let ended = Done(&done);
        apply("all of it", &large);
        let rules = host.rows("nat list", "nat");
        assert_eq!(rules.len(), 1 + RULES as usize);
        through(FIRST_PORT + RULES - 1)
            .unwrap()
            .exchange(1000, 1000);
        apply("one rule changed", &changed);
        through(9999).unwrap().exchange(1000, 1000);
        apply("the same once more", &changed);
        apply("all of it taken back", &small);
        drop(ended);
        for pinging in pinging {
            let (sent, received) = pinging.join().unwrap();
            assert!(sent > 1000, "only {sent} pings");
            assert_eq!(received, sent);
        }
    });
    idle.exchange(1000, 1000);
    for (what, took) in took {
        eprintln!("{what}: {} ms", took.as_millis());
    }
}
