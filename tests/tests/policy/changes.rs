//! What a change of the rules does to connections that there are, and what a restart does not.

use std::{
    io::{Read as _, Write as _},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::Duration,
};

use vnet_tests::{
    host::Host,
    nat::{Connection, Datagrams},
    traffic,
};

use crate::{Done, at, policy, rule};

/// Bytes of each connection that runs all the time.
const BULK: u64 = 64 << 20;

/// Pings, one a millisecond.
const PINGS: u32 = 5000;
/// Pings that nobody answers; ping sends no more than a hundred of these a second.
const IN_VAIN: u32 = 500;

/// How long nothing may come, for nothing to come at all.
const SILENCE: Duration = Duration::from_millis(500);

/// The rule goes while a connection sends as fast as it can: nothing comes any more once the command has
/// returned.
#[test]
fn deleting_a_rule_stops_its_connections_at_the_next_packet() {
    let (host, [server, client]) = Host::with_vms([1, 2]);
    policy(&host, &["group add web", "bind web vm1"]);
    let ssh = rule(
        &host,
        "web --direction in --action allow --proto tcp --ports 22",
    );
    for address in server.addresses().both() {
        let web = rule(
            &host,
            "web --direction in --action allow --proto tcp --ports 80",
        );
        let open = |port| Connection::open(client.netns(), 0, server.netns(), at(address, port));
        let (
            Connection {
                client: sender,
                server: mut receiver,
                ..
            },
            mut other,
        ) = (open(80), open(22));
        other.exchange(1000, 1000);
        sender.set_write_timeout(Some(SILENCE)).unwrap();
        let (done, received) = (AtomicBool::new(false), AtomicU64::new(0));
        thread::scope(|scope| {
            let _ended = Done(&done);
            scope.spawn(|| {
                // Until nothing is taken any more.
                while (&sender).write_all(&[5; 1 << 16]).is_ok() {
                    if done.load(Ordering::Relaxed) {
                        break;
                    }
                }
            });
            let receiving = scope.spawn(|| {
                receiver.set_read_timeout(Some(4 * SILENCE)).unwrap();
                let mut bytes = vec![0; 1 << 16];
                while let Ok(count @ 1..) = receiver.read(&mut bytes) {
                    received.fetch_add(count as u64, Ordering::Relaxed);
                }
            });
            thread::sleep(SILENCE);
            policy(&host, &[&format!("rule del web {web}")]);
            // What the receiver's kernel had by then.
            thread::sleep(SILENCE / 5);
            let before = received.load(Ordering::Relaxed);
            thread::sleep(SILENCE);
            assert!(before > 0);
            assert_eq!(received.load(Ordering::Relaxed), before, "{address}");
            receiving.join().unwrap();
        });
        // Nor does anything from its other end.
        receiver.write_all(b"is anybody there?").unwrap();
        sender.set_read_timeout(Some(SILENCE)).unwrap();
        assert!((&sender).read(&mut [0; 64]).is_err(), "{address}");
        // Another rule's goes on.
        other.exchange(100_000, 100_000);
    }
    policy(&host, &[&format!("rule del web {ssh}")]);
}

/// A denial that comes first stops what a rule behind it lets through, and taking it away again lets
/// datagrams through as before.
#[test]
fn a_denial_in_front_stops_what_is_under_way() {
    let (host, [server, client]) = Host::with_vms([1, 2]);
    policy(
        &host,
        &[
            "group add open --default allow",
            "bind open vm1",
            "rule add open --direction in --action allow --proto udp",
        ],
    );
    for address in server.addresses().both() {
        let datagrams = Datagrams::between(client.netns(), 0, server.netns(), at(address, 9000));
        datagrams.exchange(&[1, 1000]);
        let ban = format!(
            "open --direction in --action deny --remote {} --priority 1",
            {
                client
                    .addresses()
                    .both()
                    .into_iter()
                    .find(|own| own.is_ipv4() == address.is_ipv4())
                    .unwrap()
            }
        );
        let ban = rule(&host, &ban);
        assert!(datagrams.is_cut_off());
        policy(&host, &[&format!("rule del open {ban}")]);
        datagrams.exchange(&[1, 1000]);
    }
}

/// Runs `work` again and again while there are pings, one a millisecond, and TCP through policed ports,
/// of which nothing may be lost; and pings that are denied, none of which may get through.
#[track_caller]
fn nothing_is_lost_during(mut work: impl FnMut(&Host)) {
    let (host, [one, two]) = Host::with_vms([1, 2]);
    let phys = host.phys();
    host.vnet("port add up0 --uplink");
    policy(
        &host,
        &[
            "group add server",
            "rule add server --direction in --action allow --proto tcp",
            "rule add server --direction in --action allow --proto icmp",
            "rule add server --direction out --action allow --proto tcp --remote 10.0.0.0/8",
            "bind server vm1",
            "group add other",
        ],
    );
    let address = one.addresses().v4();
    let denied = one.addresses().v6();
    let (done, bytes) = (AtomicBool::new(false), AtomicU64::new(0));
    let mut idle = Connection::open(phys.netns(), 0, one.netns(), at(denied, 22));
    thread::scope(|scope| {
        let bulk = scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                traffic::tcp(two.netns(), one.netns(), address, BULK);
                bytes.fetch_add(BULK, Ordering::Relaxed);
            }
        });
        let pinging = [
            (two.netns(), address, PINGS),
            (phys.netns(), address, PINGS),
            (two.netns(), denied, IN_VAIN),
        ]
        .map(|(from, to, count)| scope.spawn(move || traffic::ping(from, to, count, 1, "")));
        let ended = Done(&done);
        let mut times = 0;
        while !pinging.iter().all(thread::ScopedJoinHandle::is_finished) {
            work(&host);
            times += 1;
        }
        drop(ended);
        bulk.join().unwrap();
        let [vm, outside, denied] = pinging.map(|pinging| pinging.join().unwrap());
        for pings in [vm, outside] {
            assert_eq!((pings.sent, pings.received), (PINGS, PINGS));
        }
        assert_eq!((denied.sent, denied.received), (IN_VAIN, 0));
        assert!(times >= 3, "{times}");
    });
    assert!(bytes.load(Ordering::Relaxed) > 0);
    idle.exchange(1000, 1000);
}

#[test]
fn an_unrelated_rule_loses_nothing() {
    let mut port = 0;
    nothing_is_lost_during(|host| {
        port += 1;
        let mut ids = Vec::new();
        for group in ["server", "other"] {
            let line = format!("{group} --direction in --action deny --proto udp --ports {port}");
            ids.push((group, rule(host, &line)));
        }
        for (group, id) in ids {
            policy(host, &[&format!("rule del {group} {id}")]);
        }
    });
}

#[test]
fn a_restart_loses_nothing_and_lets_nothing_through() {
    nothing_is_lost_during(|host| {
        host.daemon().kill();
        host.vnet("up");
    });
}
