//! Bans end to end: who connects to a VM's port more often than a rule allows is cut off, nobody else is,
//! and who is banned and for how long is the user's to see and to change. VMs, host and physical network
//! are network namespaces behind veth pairs with every offload on.

use std::{
    fs,
    net::{IpAddr, SocketAddr, TcpListener},
    sync::Arc,
    time::Duration,
};

use serde_json::Value;
use vnet_tests::{
    host::{Addresses, Host, Station},
    nat::{Connection, FAR, Lab, Lane, UPLINK, tcp_connect, tcp_listener},
    traffic::{is_cut_off, reaches},
    wait,
};
use xtask::netns::Netns;

/// Two connections to port 22 in ten minutes, else nothing for a hundred seconds.
const RULE: &str = "ban rule add --ports 22 --connections 2 --within 600 --time 100";

/// An address with a port.
const fn at(address: IpAddr, port: u16) -> SocketAddr {
    SocketAddr::new(address, port)
}

/// Adds the rule, with `options` besides; its id.
#[track_caller]
fn rule(host: &Host, options: &str) -> u64 {
    let ran = host.vnet(&format!("{RULE} {options}"));
    match ran.stdout.trim().parse() {
        Ok(id) => id,
        Err(error) => panic!("`{}` printed {:?}: {error}", ran.typed, ran.stdout),
    }
}

/// Who is banned.
#[track_caller]
fn banned(host: &Host) -> Vec<Value> {
    host.rows("ban list", "bans")
}

/// The ban of a source, as `ban list` names it.
#[track_caller]
fn ban_of(host: &Host, source: &str) -> Value {
    let bans = banned(host);
    match bans.iter().find(|ban| ban["address"] == source) {
        Some(ban) => ban.clone(),
        None => panic!("no ban of {source} in {bans:?}"),
    }
}

/// Connects and has bytes go both ways.
#[track_caller]
fn connect(from: &Netns, to: &Netns, address: SocketAddr) {
    Connection::open(from, 0, to, address).exchange(10_000, 10_000);
}

/// Connects as often as the rule allows, and once more.
#[track_caller]
fn connect_too_often(from: &Netns, to: &Netns, address: SocketAddr) {
    for _ in 0..2 {
        connect(from, to, address);
    }
    let listener = tcp_listener(to, address.ip(), address.port());
    connect_in_vain(from, address, &listener);
}

/// Connects once more than the rule allows, to what leads to `listener`: it is answered, and the server
/// never hears that the answer came.
#[track_caller]
fn connect_in_vain(from: &Netns, address: SocketAddr, listener: &TcpListener) {
    tcp_connect(from, 0, address).expect("an answer");
    let accepted = wait::within(Duration::from_secs(1), || listener.accept().ok());
    assert!(accepted.is_none(), "{accepted:?}");
}

/// The address of the same family as `like`.
fn own(addresses: Addresses, like: IpAddr) -> IpAddr {
    let both = addresses.both();
    both[usize::from(like.is_ipv6())]
}

/// A server `vm1`, a VM `vm2`, and the physical host by the uplink.
fn bridged() -> (Host, Arc<Station>, Arc<Station>, Arc<Station>) {
    let (host, [server, vm]) = Host::with_vms([1, 2]);
    let phys = host.phys();
    host.vnet("port add up0 --uplink");
    (host, server, vm, phys)
}

#[test]
fn who_connects_too_often_is_cut_off_until_he_is_let_in() {
    let (host, server, vm, phys) = bridged();
    let id = rule(&host, "");
    for (client, port, other) in [(&phys, "up0", &vm), (&vm, "vm2", &phys)] {
        for address in server.addresses().both() {
            let _ = host.events();
            let before = host.drops(port, "source_banned");
            let (to, source) = (at(address, 22), own(client.addresses(), address));
            connect_too_often(client.netns(), server.netns(), to);
            assert!(is_cut_off(client.netns(), address), "{source}");
            assert!(host.drops(port, "source_banned") > before, "{source}");

            let ban = ban_of(&host, &source.to_string());
            assert_eq!(
                (&ban["network"], &ban["rule"]),
                (&"default".into(), &id.into())
            );
            let left_s = ban["left_s"].as_u64().unwrap();
            assert!((80..=100).contains(&left_s), "{ban}");
            assert_eq!(banned(&host).len(), 1);
            // A VM is banned at its port.
            let at = if port == "up0" { "-" } else { port };
            assert_eq!(ban["port"].as_str(), (port != "up0").then_some(port));
            let table = host.vnet("ban list").stdout;
            let row = [&source.to_string(), "default", at, &id.to_string()].map(str::to_owned);
            let mut lines = table.lines().map(|line| line.split_whitespace().take(4));
            assert!(lines.any(|cells| cells.eq(row.iter())), "{table}");
            let rules = host.rows("ban rule list", "rules");
            assert_eq!(rules[0]["banned"], 1, "{rules:?}");
            assert_eq!(host.status()["bans"], 1);

            let mut events = host.events();
            events.retain(|event| event["event"] == "source_banned");
            let [event] = &events[..] else {
                panic!("{events:?}");
            };
            let source = source.to_string();
            for (key, wanted) in [
                ("source", Value::from(source.as_str())),
                ("src", source.as_str().into()),
                ("port", port.into()),
                ("dport", 22.into()),
                ("rule", id.into()),
            ] {
                assert_eq!(event[key], wanted, "{key}: {event}");
            }
            assert!(event.get("nat_addr").is_none(), "{event}");

            // Nobody else is concerned.
            assert!(reaches(other.netns(), address));
            host.vnet(&format!("ban del {source}"));
            assert_eq!(banned(&host), [] as [Value; 0]);
            // What was counted is forgotten.
            connect_too_often(client.netns(), server.netns(), to);
            host.vnet("ban flush");
            assert_eq!(banned(&host), [] as [Value; 0]);
            connect(client.netns(), server.netns(), to);
        }
    }
}

/// A source elsewhere of IPv6 is its /64; the port that counts is the VM's.
#[test]
fn a_forward_bans_who_connects_to_it_too_often() {
    let lab = Lab::in_lane(Lane::Vnet);
    lab.rule("masquerade --network lan --uplink up0");
    let vm = lab.vm(11);
    let host = &lab.host;
    let id = rule(host, "");
    let sources = [FAR.v4.to_string(), "2001:db8:2::/64".to_owned()];
    for ((outside, inside), source) in UPLINK
        .both()
        .into_iter()
        .zip(vm.address.both())
        .zip(sources)
    {
        let (listen, to) = (at(outside, 2222), at(inside, 22));
        lab.rule(&format!("dnat --proto tcp --listen {listen} --to {to}"));
        let _ = host.events();
        let listener = tcp_listener(vm.netns(), inside, 22);
        for _ in 0..2 {
            let mut open = Connection::open_to(&lab.far, 0, listen, &listener).unwrap();
            open.exchange(10_000, 10_000);
        }
        connect_in_vain(&lab.far, listen, &listener);
        drop(listener);
        // From everything that comes in by the uplink, the host's own addresses included.
        assert!(is_cut_off(&lab.far, outside), "{source}");
        let ban = ban_of(host, &source);
        assert_eq!(
            (&ban["network"], &ban["rule"]),
            (&"default".into(), &id.into())
        );
        let mut events = host.events();
        events.retain(|event| event["event"] == "source_banned");
        let [event] = &events[..] else {
            panic!("{events:?}");
        };
        for (key, wanted) in [
            ("source", Value::from(source.as_str())),
            ("dst", outside.to_string().into()),
            ("dport", 2222.into()),
            ("rule", id.into()),
        ] {
            assert_eq!(event[key], wanted, "{key}: {event}");
        }
        assert!(event.get("nat_addr").is_none(), "{event}");
        // The router is another source, of the same network or not.
        let listener = tcp_listener(vm.netns(), inside, 22);
        let mut open = Connection::open_to(lab.phys.netns(), 0, listen, &listener).unwrap();
        open.exchange(10_000, 10_000);
        // He is let in by his address, whatever he was banned as.
        host.vnet(&format!("ban del {}", FAR.like(outside)));
        assert_eq!(banned(host), [] as [Value; 0]);
        let mut open = Connection::open_to(&lab.far, 0, listen, &listener).unwrap();
        open.exchange(10_000, 10_000);
    }
}

#[test]
fn whom_a_rule_excepts_it_does_not_ban() {
    let (host, server, vm, phys) = bridged();
    let [v4, v6] = vm.addresses().both();
    rule(&host, &format!("--except {v4} --except {v6}/127"));
    for address in server.addresses().both() {
        let to = at(address, 22);
        for _ in 0..5 {
            connect(vm.netns(), server.netns(), to);
        }
        // Ports of no rule.
        for _ in 0..5 {
            connect(phys.netns(), server.netns(), at(address, 23));
        }
        assert_eq!(banned(&host), [] as [Value; 0]);
        connect_too_often(phys.netns(), server.netns(), to);
        assert!(is_cut_off(phys.netns(), address));
        assert!(reaches(vm.netns(), address));
        host.vnet("ban flush");
    }
}

#[test]
fn a_user_bans_whom_he_wants() {
    let (host, server, vm, phys) = bridged();
    host.vnet("network add blue --vlan 10");
    for address in server.addresses().both() {
        let source = own(phys.addresses(), address);
        assert!(reaches(phys.netns(), address));
        // He is none in another network.
        host.vnet(&format!("ban add {source} --network blue"));
        assert!(reaches(phys.netns(), address));
        host.try_vnet(&format!("ban del {source} --network default"))
            .refused(1, &["it is not banned in default", "--if-exists"]);
        host.vnet(&format!("ban del {source} --network default --if-exists"));
        assert_eq!(
            host.rows("ban list --network blue", "bans")[0]["rule"],
            Value::Null
        );
        assert_eq!(
            host.rows("ban list --network default", "bans"),
            [] as [Value; 0]
        );

        host.vnet(&format!("ban add {source}"));
        assert!(is_cut_off(phys.netns(), address), "{source}");
        assert!(reaches(vm.netns(), address));
        let left_s = ban_of(&host, &source.to_string())["left_s"].as_u64();
        assert!((580..=600).contains(&left_s.unwrap()), "{left_s:?}");
        // Of IPv6 its /64 as well, in both networks.
        let entries = if source.is_ipv6() { 4 } else { 2 };
        assert_eq!(banned(&host).len(), entries);
        host.vnet(&format!("ban del {source}"));
        assert_eq!(banned(&host), [] as [Value; 0]);
        assert!(reaches(phys.netns(), address));

        // Until it is over.
        host.vnet(&format!("ban add {source} --time 2"));
        assert!(!banned(&host).is_empty());
        wait::until("the ban is over", || banned(&host).is_empty());
        assert!(reaches(phys.netns(), address));
    }
    host.try_vnet("ban del 192.0.2.99")
        .refused(1, &["letting 192.0.2.99 in: it is not banned", "ban list"]);
    host.vnet("ban del 192.0.2.99 --if-exists");
    host.try_vnet("ban add 192.0.2.99 --network red")
        .refused(1, &["there is no network red"]);

    // A /64 is let in as it is listed; a network takes its bans with it.
    host.vnet("ban add 2001:db8::7 --network blue");
    host.vnet("ban del 2001:db8::/64");
    assert_eq!(ban_of(&host, "2001:db8::7")["network"], "blue");
    host.vnet("network del blue");
    host.vnet("network add red --vlan 10");
    assert_eq!(banned(&host), [] as [Value; 0]);
}

/// Bans are in the kernel; rules come and go without them.
#[test]
fn bans_outlive_processes_and_rules() {
    let (host, server, _vm, phys) = bridged();
    let address = server.addresses().v4();
    let source = phys.addresses().v4().to_string();
    let to = at(address, 22);
    let daemon = host.daemon();
    let id = rule(&host, "");
    connect_too_often(phys.netns(), server.netns(), to);
    daemon.kill();
    assert!(is_cut_off(phys.netns(), address));
    host.vnet("up");
    assert!(is_cut_off(phys.netns(), address));
    assert_eq!(ban_of(&host, &source)["rule"], id);

    // The document that allows more, by `config apply`.
    let text = host.document_text().unwrap();
    let file = host.config_dir().join("changed");
    let apply = |text: &str| {
        fs::write(&file, text).unwrap();
        host.vnet(&format!("config apply {}", file.display()));
    };
    apply(&text.replace("connections = 2", "connections = 4"));
    assert!(is_cut_off(phys.netns(), address));
    host.vnet(&format!("ban del {source}"));
    for _ in 0..4 {
        connect(phys.netns(), server.netns(), to);
    }
    assert_eq!(banned(&host), [] as [Value; 0]);
    let listener = tcp_listener(server.netns(), address, 22);
    connect_in_vain(phys.netns(), to, &listener);
    drop(listener);
    assert_eq!(ban_of(&host, &source)["rule"], id);

    let start = text.find("[[ban]]").unwrap();
    apply(&text[..start]);
    assert_eq!(host.rows("ban rule list", "rules"), [] as [Value; 0]);
    assert!(is_cut_off(phys.netns(), address));
    host.vnet("ban flush");
    for _ in 0..8 {
        connect(phys.netns(), server.netns(), to);
    }
    assert_eq!(banned(&host), [] as [Value; 0]);

    // A rule that gets an id again begins with nothing counted.
    for _ in 0..2 {
        assert_eq!(rule(&host, ""), id);
        for _ in 0..2 {
            connect(phys.netns(), server.netns(), to);
        }
        assert_eq!(banned(&host), [] as [Value; 0]);
        assert_eq!(host.dump_values("attempts").len(), 1);
        host.vnet(&format!("ban rule del {id}"));
        assert!(host.dump_values("attempts").is_empty());
    }
    fs::remove_file(file).unwrap();
}
