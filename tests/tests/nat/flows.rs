//! `flow list | flush`, `nat list | del`, and what becomes of connections when rules, addresses and
//! the switch change under them.

use std::{
    net::IpAddr,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use vnet_tests::{
    nat::{Connection, Datagrams, FAR, Lab, PHYS, UPLINK},
    traffic::{is_cut_off, reaches},
    wait,
};

use crate::{Done, SIZES, at};

#[test]
fn flow_list_shows_connections() {
    let lab = Lab::masquerading("");
    let vm = lab.vm(11);
    for address in PHYS.both() {
        let tcp = Connection::open(vm.netns(), 0, lab.phys.netns(), at(address, 0));
        let udp = Datagrams::between(vm.netns(), 0, lab.phys.netns(), at(address, 0));
        let datagrams = udp.exchange(&[10]);
        let rule = lab.rules()[0].id();
        for (proto, state, seen) in [
            ("tcp", "established", tcp.seen),
            ("udp", "two-way", datagrams),
        ] {
            let own = at(vm.address.like(address), seen.client.port());
            let row = lab.flow_of(proto, own);
            assert_eq!((row.state(), row.vm()), (state, "vm11"), "{row:?}");
            assert_eq!(row.as_source(), seen.by_server, "{row:?}");
            assert_eq!(row.destination(), seen.server, "{row:?}");
            assert_eq!(row.as_destination(), seen.server, "{row:?}");
            assert_eq!(row.rule(), rule, "{row:?}");
        }
    }
}

#[test]
fn flow_list_filters() {
    let lab = Lab::masquerading("");
    let [one, two] = [11, 12].map(|number| lab.vm(number));
    let phys = lab.phys.netns();
    let tcp = Connection::open(one.netns(), 0, phys, at(PHYS.v4.into(), 0));
    let near = Datagrams::between(one.netns(), 0, phys, at(PHYS.v4.into(), 0));
    let far = Datagrams::between(two.netns(), 0, &lab.far, at(FAR.v4.into(), 0));
    near.exchange(&[1]);
    far.exchange(&[1]);
    let local = |socket: &Datagrams, vm: &vnet_tests::nat::Vm| {
        at(
            vm.address.v4.into(),
            socket.client.local_addr().unwrap().port(),
        )
    };
    let ends = [tcp.seen.client, local(&near, &one), local(&far, &two)];
    let rule = lab.rules()[0].id();
    for (filter, wanted) in [
        (String::new(), [true, true, true]),
        ("--proto tcp".into(), [true, false, false]),
        ("--proto udp".into(), [false, true, true]),
        ("--vm vm11".into(), [true, true, false]),
        ("--vm vm12".into(), [false, false, true]),
        (format!("--remote {}/32", FAR.v4), [false, false, true]),
        ("--remote 192.0.2.0/24".into(), [true, true, false]),
        (format!("--rule {rule}"), [true, true, true]),
        ("--proto udp --vm vm11".into(), [false, true, false]),
    ] {
        let rows = lab.flows(&filter);
        let got = ends.map(|end| rows.iter().any(|row| row.source() == end));
        assert_eq!(got, wanted, "`flow list {filter}`: {rows:?}");
    }
}

/// What is flushed is gone for both ends; others go on, and a new connection may be begun.
#[test]
fn flow_flush_ends_connections_of_one_vm() {
    let lab = Lab::masquerading("");
    let [one, two] = [11, 12].map(|number| lab.vm(number));
    let open = |vm: &vnet_tests::nat::Vm| {
        Connection::open(vm.netns(), 0, lab.phys.netns(), at(PHYS.v4.into(), 0))
    };
    let (mut gone, mut stays) = (open(&one), open(&two));
    gone.exchange(1000, 1000);
    stays.exchange(1000, 1000);
    lab.host.vnet("flow flush --vm vm11");
    assert!(lab.flows("--vm vm11").is_empty());
    // The server speaks first: nothing of the VM may begin the flow anew.
    gone.server
        .set_write_timeout(Some(Duration::from_millis(300)))
        .unwrap();
    gone.client
        .set_read_timeout(Some(Duration::from_millis(600)))
        .unwrap();
    assert!(gone.try_exchange(0, 1000).is_err(), "it was not ended");
    stays.exchange(100_000, 100_000);
    open(&one).exchange(1000, 1000);
}

#[test]
fn nat_list_counts_hits_flows_and_ports() {
    let lab = Lab::masquerading("");
    let vm = lab.vm(11);
    let before = lab.rules();
    assert_eq!(before.len(), 1, "{before:?}");
    let datagrams: Vec<_> = (0..5)
        .map(|_| {
            let pair = Datagrams::between(vm.netns(), 0, lab.phys.netns(), at(PHYS.v4.into(), 0));
            pair.exchange(&[1]);
            pair
        })
        .collect();
    let [now] = &lab.rules()[..] else {
        panic!("one rule: {:?}", lab.rules());
    };
    assert_eq!(now.hits(), before[0].hits() + 5, "{now:?}");
    assert_eq!(now.flows(), before[0].flows() + 5, "{now:?}");
    assert_eq!(now.ports_used(), before[0].ports_used() + 5, "{now:?}");
    drop(datagrams);
    lab.host.vnet("flow flush");
    wait::until("flows and ports are given back", || {
        lab.rules()
            .iter()
            .all(|rule| (rule.flows(), rule.ports_used()) == (0, 0))
    });
    assert!(lab.rules()[0].hits() >= before[0].hits() + 5);
}

/// From the moment on that the rule is gone, nothing leaves by it.
#[test]
fn nat_del_cuts_connections_off() {
    let lab = Lab::masquerading("");
    let vm = lab.vm(11);
    let datagrams: Vec<_> = PHYS
        .both()
        .map(|address| Datagrams::between(vm.netns(), 0, lab.phys.netns(), at(address, 0)))
        .into();
    let mut tcp = Connection::open(vm.netns(), 0, lab.phys.netns(), at(PHYS.v4.into(), 0));
    tcp.exchange(1000, 1000);
    for pair in &datagrams {
        pair.exchange(&SIZES);
    }
    let id = lab.rules()[0].id();
    lab.host.vnet(&format!("nat del {id}"));
    for pair in &datagrams {
        assert!(pair.is_cut_off(), "to {}", pair.address);
    }
    assert!(is_cut_off(vm.netns(), PHYS.v4.into()));
    for end in [&tcp.client, &tcp.server] {
        end.set_read_timeout(Some(Duration::from_millis(300)))
            .unwrap();
    }
    assert!(tcp.try_exchange(1000, 1000).is_err());
    assert!(reaches(lab.host.netns(), PHYS.v4.into()), "the host's own");
    // A new rule serves new connections.
    lab.rule("masquerade --network lan --uplink up0");
    assert!(reaches(vm.netns(), PHYS.v4.into()));
    Datagrams::between(vm.netns(), 0, lab.phys.netns(), at(PHYS.v6.into(), 0)).exchange(&SIZES);
}

/// Masquerading follows the address of the uplink, with nothing of vnet running.
#[test]
fn masquerade_follows_the_uplinks_address() {
    let lab = Lab::masquerading("");
    let vm = lab.vm(11);
    crate::tcp_out(&vm, 0, lab.phys.netns(), PHYS.v4.into(), 1000);
    crate::udp_out(&vm, 0, lab.phys.netns(), PHYS.v6.into(), &[10]);
    let new: [IpAddr; 2] = [
        "192.0.2.9".parse().unwrap(),
        "2001:db8:1::9".parse().unwrap(),
    ];
    for address in new {
        lab.allow_outside(address);
    }
    lab.host.ip(&format!("addr del {}/24 dev up0", UPLINK.v4));
    lab.host.ip(&format!("addr del {}/64 dev up0", UPLINK.v6));
    lab.host.ip("addr add 192.0.2.9/24 dev up0");
    lab.host.ip("addr add 2001:db8:1::9/64 dev up0 nodad");
    lab.host
        .ip(&format!("route replace default via {}", PHYS.v4));
    lab.host
        .ip(&format!("route replace default via {} dev up0", PHYS.v6));
    let changed = Instant::now();
    for (address, new) in PHYS.both().into_iter().zip(new) {
        let seen = wait::value("the new address is used", || {
            let pair = Datagrams::between(vm.netns(), 0, lab.phys.netns(), at(address, 0));
            pair.server
                .set_read_timeout(Some(Duration::from_millis(200)))
                .unwrap();
            pair.client
                .set_read_timeout(Some(Duration::from_millis(200)))
                .unwrap();
            pair.try_exchange(&[10])
                .ok()
                .filter(|seen| seen.by_server.ip() == new)
        });
        assert_eq!(seen.by_server.ip(), new);
    }
    let took = changed.elapsed();
    assert!(took < Duration::from_secs(3), "it took {took:?}");
    let mut tcp = Connection::open(vm.netns(), 0, &lab.far, at(FAR.v4.into(), 0));
    assert_eq!(tcp.seen.by_server.ip(), new[0]);
    tcp.exchange(1 << 20, 1 << 20);
}

/// What runs goes on while the command sets everything up once more.
#[test]
fn flow_survives_up() {
    let lab = Lab::masquerading("");
    let vm = lab.vm(11);
    let mut connections = PHYS
        .both()
        .map(|address| Connection::open(vm.netns(), 0, lab.phys.netns(), at(address, 0)));
    let (done, rounds) = (AtomicBool::new(false), 3);
    thread::scope(|scope| {
        for connection in &mut connections {
            let done = &done;
            scope.spawn(move || {
                while !done.load(Ordering::Relaxed) {
                    connection.exchange(4 << 20, 1 << 20);
                }
            });
        }
        let ended = Done(&done);
        for _ in 0..rounds {
            lab.host.vnet("up");
            thread::sleep(Duration::from_millis(100));
        }
        drop(ended);
    });
    for connection in &mut connections {
        connection.exchange(1 << 20, 1 << 20);
        let row = lab.flow_of("tcp", connection.seen.client);
        assert_eq!(row.state(), "established");
    }
}

/// Other rules come and go, and connections of this one do not notice.
#[test]
fn flow_survives_changes_of_other_rules() {
    let lab = Lab::masquerading("");
    let vm = lab.vm(11);
    let mut tcp = Connection::open(vm.netns(), 0, lab.phys.netns(), at(PHYS.v4.into(), 0));
    tcp.exchange(1000, 1000);
    let id = lab.rules()[0].id();
    for port in 8080..8083 {
        let (listen, to) = (at(UPLINK.v4.into(), port), at(vm.address.v4.into(), 80));
        lab.rule(&format!("dnat --proto tcp --listen {listen} --to {to}"));
        tcp.exchange(100_000, 100_000);
    }
    for rule in lab.rules().iter().filter(|rule| rule.id() != id) {
        lab.host.vnet(&format!("nat del {}", rule.id()));
        tcp.exchange(100_000, 100_000);
    }
    lab.host.vnet("network add green");
    tcp.exchange(100_000, 100_000);
    assert_eq!(lab.flow_of("tcp", tcp.seen.client).rule(), id);
}
