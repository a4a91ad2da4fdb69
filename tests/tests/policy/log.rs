//! `--log`: what `events` tells of connections that a rule has decided.

use std::net::{IpAddr, SocketAddr};

use serde_json::Value;
use vnet_tests::{
    host::Host,
    nat::{Connection, FAR, Lab, Lane, UPLINK, tcp_listener},
};

use crate::{
    at,
    attempt::{Attempt, By, Came, expect},
    policy, rule,
};

/// The events about a rule, those of others taken away too.
#[track_caller]
fn of_rule(host: &Host, id: u64) -> Vec<Value> {
    let mut events = host.events();
    events.retain(|event| event["event"] == "policy_rule" && event["rule"] == id);
    events
}

/// What an event says of a connection.
fn ends(event: &Value) -> (String, SocketAddr, SocketAddr) {
    let end = |address: &str, port: &str| {
        let address: IpAddr = event[address].as_str().unwrap().parse().unwrap();
        at(address, event[port].as_u64().unwrap() as u16)
    };
    (
        event["proto"].as_str().unwrap().to_owned(),
        end("src", "sport"),
        end("dst", "dport"),
    )
}

#[test]
fn each_connection_that_a_rule_decides_is_reported_once() {
    let (host, [server, client]) = Host::with_vms([1, 2]);
    policy(&host, &["group add web", "bind web vm1"]);
    let add = |rest: &str| rule(&host, &format!("web --direction in {rest}"));
    let allow = add("--action allow --proto tcp --ports 22 --log");
    let quiet = add("--action allow --proto tcp --ports 23");
    let deny = add("--action deny --proto udp --ports 53 --log");
    let reject = add("--action reject --proto tcp --ports 80 --log");
    for address in server.addresses().both() {
        let _ = host.events();
        let open = |port| Connection::open(client.netns(), 0, server.netns(), at(address, port));
        let (mut reported, mut unreported) = (open(22), open(23));
        for connection in [&mut reported, &mut unreported] {
            connection.exchange(100_000, 100_000);
        }
        let events = host.events();
        let about = |id: u64| -> Vec<&Value> {
            let own = |event: &&Value| event["event"] == "policy_rule" && event["rule"] == id;
            events.iter().filter(own).collect()
        };
        let [event] = about(allow)[..] else {
            panic!("{events:?}");
        };
        let seen = reported.seen;
        assert_eq!(ends(event), ("tcp".to_owned(), seen.client, seen.server));
        assert_eq!(
            (&event["verdict"], &event["port"]),
            (&"allow".into(), &"vm1".into())
        );
        assert_eq!(event["network"], "default");
        assert!(event.get("nat_addr").is_none(), "{event}");
        assert!(about(quiet).is_empty(), "{events:?}");

        let (udp, tcp) = (By::Udp(53), By::Tcp(80));
        let refused = Came::Refused(libc::ECONNREFUSED);
        expect(&[(Attempt::new(client.netns(), address, udp), Came::Nowhere)]);
        let denied = of_rule(&host, deny);
        assert_eq!(denied.len(), 1, "{denied:?}");
        assert_eq!(denied[0]["verdict"], "deny");
        let (proto, _, to) = ends(&denied[0]);
        assert_eq!((proto.as_str(), to), ("udp", at(address, 53)));

        expect(&[(Attempt::new(client.netns(), address, tcp), refused)]);
        let table = host.vnet("events").stdout;
        let line = table.lines().find(|line| line.contains("policy_rule"));
        let line = line.unwrap_or_else(|| panic!("{table}"));
        for word in [
            "vm1",
            "tcp",
            &at(address, 80).to_string(),
            &reject.to_string(),
            "reject",
        ] {
            assert!(
                line.split_whitespace().any(|cell| cell == word),
                "{word}: {line}"
            );
        }
        assert!(table.contains("VERDICT"), "{table}");
    }
}

/// The connection is as it came in, and besides as the VM sees it.
#[test]
fn a_forwarded_connection_is_reported_with_what_became_of_it() {
    let lab = Lab::in_lane(Lane::Vnet);
    lab.rule("masquerade --network lan --uplink up0");
    let vm = lab.vm(11);
    policy(&lab.host, &["group add web", "bind web vm11"]);
    let web = rule(
        &lab.host,
        "web --direction in --action allow --proto tcp --ports 80 --log",
    );
    for (outside, inside) in UPLINK.both().into_iter().zip(vm.address.both()) {
        let (listen, to) = (at(outside, 8080), at(inside, 80));
        lab.rule(&format!("dnat --proto tcp --listen {listen} --to {to}"));
        let _ = lab.host.events();
        let listener = tcp_listener(vm.netns(), inside, 80);
        let open = Connection::open_to(&lab.far, 0, listen, &listener).unwrap();
        assert_eq!(open.seen.client.ip(), FAR.like(outside));
        // What the host's stack has sent on before the next hop was known is judged once more.
        let events = of_rule(&lab.host, web);
        assert!((1..=2).contains(&events.len()), "{events:?}");
        for event in &events {
            assert_eq!(ends(event), ("tcp".to_owned(), open.seen.client, listen));
            assert_eq!(event["nat_addr"], inside.to_string());
            assert_eq!(
                (&event["nat_port"], &event["verdict"]),
                (&80.into(), &"allow".into())
            );
        }
    }
}
