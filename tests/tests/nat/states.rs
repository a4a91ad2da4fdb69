//! How long connections live: what ends them early, and what must not.

use std::{
    net::{Shutdown, SocketAddr},
    time::Duration,
};

use vnet_tests::{
    nat::{Connection, Datagrams, Lab, PHYS, craft, udp},
    traffic::reaches,
    wait,
};

use crate::at;

/// What an established connection has left, with an hour's room below the 7440 s of RFC 5382.
const LONG: u64 = 3600;

/// What a connection has left that is being closed (RFC 5382, REQ-5: 4 minutes).
const CLOSING: u64 = 240;

#[track_caller]
fn open(lab: &Lab, vm: &vnet_tests::nat::Vm) -> Connection {
    let mut tcp = Connection::open(vm.netns(), 0, lab.phys.netns(), at(PHYS.v4.into(), 0));
    tcp.exchange(5000, 5000);
    let row = lab.flow_of("tcp", tcp.seen.client);
    assert_eq!(row.state(), "established");
    assert!(row.timeout_s() > LONG, "{row:?}");
    tcp
}

#[track_caller]
fn is_long(lab: &Lab, client: SocketAddr) {
    std::thread::sleep(Duration::from_millis(50));
    let row = lab.flow_of("tcp", client);
    assert!(row.timeout_s() > LONG, "{row:?}");
}

#[track_caller]
fn becomes_short(lab: &Lab, client: SocketAddr) {
    wait::until("the connection is being closed", || {
        lab.flow_of("tcp", client).timeout_s() <= CLOSING
    });
}

/// The other end may say that it has no more to say, as many servers do, and still listen.
#[test]
fn tcp_fin_from_outside_does_not_shorten() {
    let lab = Lab::masquerading("");
    let vm = lab.vm(11);
    let mut tcp = open(&lab, &vm);
    let client = tcp.seen.client;
    tcp.server.shutdown(Shutdown::Write).unwrap();
    is_long(&lab, client);
    tcp.exchange(100_000, 0);
    is_long(&lab, client);
    // Now the inside has no more to say either.
    tcp.client.shutdown(Shutdown::Write).unwrap();
    becomes_short(&lab, client);
}

#[test]
fn tcp_fin_from_inside_waits_for_the_other() {
    let lab = Lab::masquerading("");
    let vm = lab.vm(11);
    let mut tcp = open(&lab, &vm);
    let client = tcp.seen.client;
    tcp.client.shutdown(Shutdown::Write).unwrap();
    tcp.exchange(0, 100_000);
    tcp.server.shutdown(Shutdown::Write).unwrap();
    becomes_short(&lab, client);
}

/// A real one, with the right sequence number: the VM's kernel believes it, the gateway does not
/// have to (RFC 7857, 2.3).
#[test]
fn tcp_rst_from_outside_does_not_shorten() {
    let lab = Lab::masquerading("");
    let vm = lab.vm(11);
    let tcp = open(&lab, &vm);
    let client = tcp.seen.client;
    let server = socket2::Socket::from(tcp.server);
    server.set_linger(Some(Duration::ZERO)).unwrap();
    drop(server);
    is_long(&lab, client);
}

/// Anybody who guesses the ports can make one up; the connection goes on.
#[test]
fn tcp_forged_rst_does_no_harm() {
    let lab = Lab::masquerading("");
    let vm = lab.vm(11);
    let mut tcp = open(&lab, &vm);
    let (from, to) = (tcp.seen.server, tcp.seen.by_server);
    for seq in [0, 1 << 30, 1 << 31, u32::MAX] {
        let rst = craft::tcp_segment(from, to, [seq, 0], craft::RST, &[], &[]);
        lab.send_from_outside(&craft::ip(from.ip(), to.ip(), 6, &rst));
    }
    is_long(&lab, tcp.seen.client);
    tcp.exchange(100_000, 100_000);
    is_long(&lab, tcp.seen.client);
}

#[test]
fn tcp_rst_from_inside_shortens() {
    let lab = Lab::masquerading("");
    let vm = lab.vm(11);
    let tcp = open(&lab, &vm);
    let seen = tcp.seen;
    let client = socket2::Socket::from(tcp.client);
    client.set_linger(Some(Duration::ZERO)).unwrap();
    drop(client);
    becomes_short(&lab, seen.client);
}

/// A new connection from a port whose last one is being closed is served at once.
#[test]
fn tcp_port_is_used_again() {
    let lab = Lab::masquerading("");
    let vm = lab.vm(11);
    let listener = vnet_tests::nat::tcp_listener(lab.phys.netns(), PHYS.v4.into(), 8080);
    for _ in 0..3 {
        let there = at(PHYS.v4.into(), 8080);
        // A program that another test starts at this moment has the last one's sockets open until it
        // runs, and the port is in use as long.
        let open = || Connection::open_to(vm.netns(), 23_456, there, &listener).ok();
        let mut tcp = wait::within(Duration::from_secs(5), open).expect("it is served");
        tcp.exchange(1000, 1000);
        // No TIME-WAIT at either end.
        for end in [tcp.client, tcp.server] {
            let end = socket2::Socket::from(end);
            end.set_linger(Some(Duration::ZERO)).unwrap();
        }
    }
}

#[test]
fn udp_and_icmp_timeouts_are_those_of_the_rfcs() {
    let lab = Lab::masquerading("");
    let vm = lab.vm(11);
    let quiet = udp(lab.phys.netns(), PHYS.v4.into(), 0);
    let one_way = udp(vm.netns(), vm.address.v4.into(), 0);
    one_way
        .send_to(b"no answer", quiet.local_addr().unwrap())
        .unwrap();
    let two_way = Datagrams::between(vm.netns(), 0, lab.phys.netns(), at(PHYS.v4.into(), 0));
    let client = two_way.exchange(&[1]).client;
    for (source, state, seconds) in [
        (one_way.local_addr().unwrap(), "one-way", 120),
        (client, "two-way", 300),
    ] {
        let row = lab.flow_of("udp", source);
        assert_eq!(row.state(), state, "{row:?}");
        assert!(
            (seconds - 5..=seconds).contains(&row.timeout_s()),
            "{row:?}"
        );
    }
    assert!(reaches(vm.netns(), PHYS.v4.into()));
    let pings = lab.flows("--proto icmp");
    let row = &pings[0];
    assert!((55..=60).contains(&row.timeout_s()), "{row:?}");
}

#[test]
fn timeouts_are_settings() {
    let lab = Lab::masquerading("");
    let vm = lab.vm(11);
    lab.host.vnet("set timeouts.udp=30");
    let pair = Datagrams::between(vm.netns(), 0, lab.phys.netns(), at(PHYS.v4.into(), 0));
    let client = pair.exchange(&[1, 2]).client;
    let row = lab.flow_of("udp", client);
    assert!((25..=30).contains(&row.timeout_s()), "{row:?}");
}

/// Connections whose beginning nobody saw are refused, unless the user wants them.
#[test]
fn tcp_mid_stream() {
    let lab = Lab::masquerading("");
    let vm = lab.vm(11);
    let mut tcp = open(&lab, &vm);
    lab.host.vnet("flow flush");
    tcp.server
        .set_read_timeout(Some(Duration::from_millis(400)))
        .unwrap();
    assert!(tcp.try_exchange(1000, 0).is_err());
    assert!(
        lab.host.drops("vm11", "nat_mid_stream") > 0,
        "{:?}",
        lab.host.all_drops()
    );
    lab.assert_no_leaks();

    lab.host.vnet("set mid_stream=on");
    let mut tcp = Connection::open(vm.netns(), 0, lab.phys.netns(), at(PHYS.v4.into(), 0));
    tcp.exchange(1000, 1000);
    // Until the last acknowledgement has arrived: one that finds no connection would be the host's to
    // refuse.
    std::thread::sleep(Duration::from_millis(300));
    lab.host.vnet("flow flush");
    // The inside first: what comes from outside and is of no connection is the host's to refuse.
    tcp.exchange(1000, 0);
    tcp.exchange(100_000, 100_000);
}
