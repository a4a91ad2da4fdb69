//! `policy rule list` and `flow list` while there are connections.

use std::{thread, time::Duration};

use serde_json::Value;
use vnet_tests::{
    host::Host,
    nat::{Connection, Datagrams},
    traffic, wait,
};

use crate::{at, policy, rule};

/// A rule as `policy rule list` shows it.
#[track_caller]
fn listed(host: &Host, group: &str, id: u64) -> Value {
    let rows = host.rows(&format!("policy rule list {group}"), "rules");
    match rows.iter().find(|row| row["id"] == id) {
        Some(row) => row.clone(),
        None => panic!("no rule {id} in {rows:?}"),
    }
}

/// Packets, bytes and connections of a rule.
#[track_caller]
fn usage(host: &Host, group: &str, id: u64) -> [u64; 3] {
    let row = listed(host, group, id);
    ["packets", "bytes", "flows"].map(|key| match row[key].as_u64() {
        Some(count) => count,
        None => panic!("no {key} in {row}"),
    })
}

#[test]
fn rules_tell_what_went_by_them() {
    let (host, [server, client]) = Host::with_vms([1, 2]);
    policy(
        &host,
        &[
            "group add server",
            "group add client",
            "bind server vm1",
            "bind client vm2",
        ],
    );
    let web = rule(
        &host,
        "server --direction in --action allow --proto tcp --ports 80",
    );
    let ping = rule(&host, "server --direction in --action deny --proto icmp");
    let any = rule(&host, "client --direction out --action allow");
    assert_eq!(usage(&host, "server", web), [0, 0, 0]);

    const SENT: u64 = 200_000;
    let mut connections: Vec<_> = server
        .addresses()
        .both()
        .map(|address| Connection::open(client.netns(), 0, server.netns(), at(address, 80)))
        .into();
    for connection in &mut connections {
        connection.exchange(SENT, SENT);
    }
    // A kernel may take its time to acknowledge the last of it.
    let live = wait::value("nothing is on its way", || {
        let before = usage(&host, "server", web);
        thread::sleep(Duration::from_millis(200));
        Some(before).filter(|before| *before == usage(&host, "server", web))
    });
    let least = 2 * 2 * SENT;
    assert_eq!(live[2], 2);
    assert!((least..least * 2).contains(&live[1]), "{live:?}");
    // Segments, whatever buffers they come in.
    assert!(live[0] >= least / 1448, "{live:?}");
    // The very connections, on their way out of the other VM.
    assert_eq!(usage(&host, "client", any), live);

    let pings = traffic::ping(client.netns(), server.addresses().v4(), 3, 20, "");
    assert_eq!(pings.received, 0);
    // 98 bytes each: Ethernet, IPv4 and ICMP headers, and 56 bytes of content.
    assert_eq!(usage(&host, "server", ping), [3, 3 * 98, 0]);
    let [packets, _, flows] = usage(&host, "client", any);
    assert_eq!(
        (packets, flows),
        (live[0], 2),
        "what is let out and not in is no connection"
    );

    // What has ended stays counted.
    host.vnet("flow flush");
    assert_eq!(host.rows("flow list", "flows"), Vec::<Value>::new());
    assert_eq!(usage(&host, "server", web), live);
    let table = host.vnet("policy rule list server").stdout;
    let mut lines = table.lines();
    let headings = lines.next().unwrap_or_default();
    assert!(headings.ends_with("PACKETS  BYTES   FLOWS"), "{table}");
    let cells: Vec<_> = lines
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .collect();
    let counts = live.map(|count| count.to_string());
    assert!(
        cells.ends_with(&counts.each_ref().map(String::as_str)),
        "{table}"
    );
    drop(connections);
    // A rule that gets an id again begins with nothing.
    host.vnet(&format!("policy rule del client {any}"));
    assert_eq!(rule(&host, "client --direction out --action allow"), any);
    assert_eq!(usage(&host, "client", any), [0, 0, 0]);

    host.vnet("down");
    let row = listed(&host, "server", web);
    assert!(row.get("packets").is_none(), "{row}");
    host.vnet("up");
    assert_eq!(usage(&host, "server", web), [0, 0, 0]);
}

/// Connections within a network are in the list as soon as a group has a say in them.
#[test]
fn connections_between_vms_are_listed_as_bridged() {
    let (host, [one, two]) = Host::with_vms([1, 2]);
    let phys = host.phys();
    host.vnet("port add up0 --uplink");
    policy(
        &host,
        &[
            "group add open",
            "rule add open --direction in --action allow",
            "bind open vm1",
        ],
    );
    let address = one.addresses().v6();
    let mut tcp = Connection::open(two.netns(), 0, one.netns(), at(address, 80));
    tcp.exchange(1000, 1000);
    let udp = Datagrams::between(phys.netns(), 0, one.netns(), at(one.addresses().v4(), 53));
    let udp = udp.exchange(&[100]);
    let rows = host.rows("flow list", "flows");
    for (proto, vm, state, seen) in [
        ("tcp", "vm2", "established", tcp.seen),
        ("udp", "vm1", "two-way", udp),
    ] {
        let ours: Vec<_> = rows
            .iter()
            .filter(|row| row["proto"] == proto && row["sport"] == seen.client.port())
            .collect();
        let [row] = ours[..] else {
            panic!("{proto}: {rows:?}");
        };
        let text = |key: &str| row[key].as_str().unwrap_or_default();
        assert_eq!(
            [text("kind"), text("vm"), text("state")],
            ["bridged", vm, state]
        );
        // Nothing is translated.
        for (address, port, end) in [
            ("src", "sport", seen.client),
            ("nat_src", "nat_sport", seen.client),
            ("dst", "dport", seen.server),
            ("nat_dst", "nat_dport", seen.server),
        ] {
            assert_eq!(text(address), end.ip().to_string(), "{row}");
            assert_eq!(row[port], end.port(), "{row}");
        }
        assert_eq!(row["rule"], Value::Null);
    }
    let table = host.vnet("flow list --vm vm2").stdout;
    let line = table.lines().find(|line| line.starts_with("tcp")).unwrap();
    let cells: Vec<_> = line.split_whitespace().collect();
    let (client, server) = (tcp.seen.client.to_string(), tcp.seen.server.to_string());
    let wanted = [
        "tcp",
        "bridged",
        "established",
        "vm2",
        &client,
        &server,
        "-",
        "-",
    ];
    assert!(cells.starts_with(&wanted), "{table}");
}
