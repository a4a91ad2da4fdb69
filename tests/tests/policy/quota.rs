//! Shares: a VM that takes all it can get, and one source that does, leave the others theirs.

use std::{
    io,
    net::{IpAddr, Ipv6Addr, SocketAddr, TcpStream},
    sync::{Arc, atomic::AtomicBool},
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;
use socket2::{Domain, Protocol, Socket, Type};
use vnet_tests::{
    host::{Host, Mac, Station},
    nat::{Connection, craft, tcp_listener},
    wire::{Heard, PacketSocket, Wire as _},
};
use xtask::netns::{self, Netns};

use crate::{
    Done, at,
    attempt::{Attempt, By, Came, Services, expect},
    policy,
    steady::{Attempts, Steady, connect_on},
};

/// Connections of a VM, or of a source.
const SHARE: usize = 20;

/// How long a connection may take that is let in: a lost SYN is sent again after a second.
const PATIENCE: Duration = Duration::from_millis(1600);

/// How long the greedy one goes on.
const WHILE: Duration = Duration::from_secs(2);

/// Whom nobody answers for.
const NOBODY: u16 = 9;

/// The events of one kind.
#[track_caller]
fn events_of(host: &Host, kind: &str) -> Vec<Value> {
    let mut events = host.events();
    events.retain(|event| event["event"] == kind);
    events
}

/// Connects from an address of its own.
fn connect(netns: &Netns, own: IpAddr, to: SocketAddr) -> io::Result<TcpStream> {
    let socket = netns::inside(netns.name(), || {
        let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP))?;
        socket.bind(&at(own, 0).into())?;
        Ok(socket)
    })
    .unwrap();
    socket.connect_timeout(&to.into(), PATIENCE)?;
    Ok(socket.into())
}

/// A datagram that seems to begin something.
fn datagram(dst: Mac, src: Mac, from: SocketAddr, to: SocketAddr) -> Vec<u8> {
    craft::frame(
        dst.0,
        src.0,
        &craft::udp_packet(from, to, b"is anybody there?"),
    )
}

/// VMs in groups, and a physical host behind the uplink. `settings` are words of `set`.
fn site<const N: usize>(
    settings: &str,
    numbers: [u8; N],
) -> (Host, [Arc<Station>; N], Arc<Station>) {
    let host = Host::new();
    host.vnet(&format!("set {settings}"));
    host.vnet("up");
    let phys = host.phys();
    host.vnet("port add up0 --uplink");
    policy(
        &host,
        &[
            "group add web",
            "rule add web --direction in --action allow --proto tcp --ports 80",
            "rule add web --direction out --action allow",
        ],
    );
    let vms = numbers.map(|number| {
        let vm = host.vm(number);
        host.vnet(&format!("port add {}", vm.port()));
        policy(&host, &[&format!("bind web {}", vm.port())]);
        vm
    });
    (host, vms, phys)
}

/// The greedy one is refused what is more than its share, is told so, and counted and reported by name; a
/// neighbour begins connections and carries on as if nothing were.
#[test]
fn one_vm_that_takes_all_it_can_get_leaves_another_its_share() {
    let (host, [greedy, other], phys) = site(&format!("flow_quota={SHARE}"), [1, 2]);
    let addresses = phys.addresses().both();
    let listeners = addresses.map(|address| tcp_listener(phys.netns(), address, 80));
    let to = |place: usize| listeners[place].local_addr().unwrap();
    let open = |vm: &Station, place: usize| {
        Connection::open_to(vm.netns(), 0, to(place), &listeners[place]).unwrap()
    };
    let mut own = [0, 1].map(|place| open(&greedy, place));
    let steady = [0, 1].map(|place| Steady::new(open(&other, place)));
    let before = steady.each_ref().map(Steady::received);
    let _ = host.events();

    let socket = PacketSocket::open(greedy.netns(), Station::NIC, Heard::Delivered);
    // What it begins and ends counts for its own share for a while.
    let most = SHARE as u32 / 2;
    let over = AtomicBool::new(false);
    let (sent, attempts) = thread::scope(|scope| {
        let ended = Done(&over);
        let connecting = scope.spawn(|| connect_on(other.netns(), &listeners, most, &over));
        let began = Instant::now();
        let mut sent = 0;
        while began.elapsed() < WHILE {
            for (from, to) in greedy.addresses().both().into_iter().zip(addresses) {
                let from = at(from, 10_000 + sent as u16);
                socket.send_bytes(&datagram(phys.mac(), greedy.mac(), from, at(to, NOBODY)));
                sent += 1;
            }
            thread::sleep(Duration::from_millis(1));
        }
        drop(ended);
        (sent, connecting.join().unwrap())
    });
    let Attempts { came, failed } = attempts;
    assert!(came > 0 && failed == 0, "{attempts:?}");
    for (steady, before) in steady.iter().zip(before) {
        assert!(steady.received() > before, "{:?}", steady.seen);
        assert!(steady.is_whole(), "{:?}", steady.seen);
    }

    let held = host.rows("flow list --vm vm1", "flows").len();
    assert_eq!(held, SHARE);
    let refused = host.drops("vm1", "policy_quota");
    assert_eq!(refused + held as u64, sent + own.len() as u64);
    assert_eq!(host.drops("vm2", "policy_quota"), 0);
    let told = events_of(&host, "flow_quota");
    assert!(!told.is_empty());
    assert!(told.iter().all(|event| event["port"] == "vm1"), "{told:?}");
    // It keeps what it has, and hears why there is nothing more.
    for own in &mut own {
        own.exchange(1000, 1000);
    }
    let prohibited = [libc::EHOSTUNREACH, libc::EACCES].map(Came::Refused);
    let wanted: Vec<_> = addresses
        .into_iter()
        .zip(prohibited)
        .map(|(address, came)| (Attempt::new(greedy.netns(), address, By::Udp(NOBODY)), came))
        .collect();
    expect(&wanted);
    // Until it has room again.
    host.vnet("flow flush --vm vm1 --proto udp");
    let _services = Services::new(phys.netns(), &addresses, &[], &[NOBODY]);
    let wanted = addresses.map(|to| {
        let attempt = Attempt::new(greedy.netns(), to, By::Udp(NOBODY));
        (attempt, Came::Through)
    });
    expect(&wanted);
}

/// Connections of one address to one server, as many as it may have.
#[test]
fn one_source_that_holds_many_connections_is_refused_more() {
    let (host, [server, other], phys) = site(&format!("source_flow_quota={SHARE}"), [1, 2]);
    let elsewhere: [IpAddr; 3] = [
        Ipv6Addr::new(0x2001, 0xdb8, 7, 1, 0, 0, 0, 1),
        Ipv6Addr::new(0x2001, 0xdb8, 7, 1, 0, 0, 0, 2),
        Ipv6Addr::new(0x2001, 0xdb8, 7, 2, 0, 0, 0, 1),
    ]
    .map(IpAddr::from);
    for address in elsewhere {
        phys.ip(&format!("addr add {address}/64 dev eth0 nodad"));
    }
    let second: [IpAddr; 2] = ["10.0.0.101", "fd00::65"].map(|text| text.parse().unwrap());
    phys.ip(&format!("addr add {}/24 dev eth0", second[0]));
    phys.ip(&format!("addr add {}/64 dev eth0 nodad", second[1]));
    let back = phys.addresses().v6();
    server.ip(&format!("route add 2001:db8:7::/48 via {back}"));
    phys.ip(&format!(
        "route replace {} dev eth0",
        server.addresses().v6()
    ));

    let [own4, own6] = phys.addresses().both();
    let [v4, v6] = server.addresses().both().map(|address| at(address, 80));
    let listeners = [v4, v6].map(|to| tcp_listener(server.netns(), to.ip(), 80));
    let from = |own: IpAddr, to| connect(phys.netns(), own, to);
    // Who is greedy, and by how many addresses; and who is somebody else.
    for (greedy, to, others) in [
        (vec![own4], v4, vec![second[0]]),
        // Neighbours on the link are one each, networks elsewhere one as a whole (RFC 6177).
        (vec![own6], v6, vec![second[1], elsewhere[2]]),
        (vec![elsewhere[0], elsewhere[1]], v6, vec![elsewhere[2]]),
    ] {
        let _ = host.events();
        let before = host.drops("up0", "source_quota");
        let mut next = greedy.iter().copied().cycle();
        let held: Vec<_> = (0..SHARE)
            .map(|number| {
                let own = next.next().unwrap();
                from(own, to).unwrap_or_else(|error| panic!("{own}, {number}: {error}"))
            })
            .collect();
        for own in &greedy {
            let more = from(*own, to).map_err(|error| error.kind());
            assert_eq!(more.err(), Some(io::ErrorKind::TimedOut), "{own}");
        }
        let refused = host.drops("up0", "source_quota") - before;
        assert!(refused >= greedy.len() as u64, "{refused}");
        let told = events_of(&host, "source_quota");
        assert!(!told.is_empty(), "{greedy:?}");
        for event in &told {
            let src: IpAddr = event["src"].as_str().unwrap().parse().unwrap();
            assert!(greedy.contains(&src), "{event}");
        }
        // Nobody else is hurt.
        for own in others {
            from(own, to).unwrap_or_else(|error| panic!("{own}: {error}"));
        }
        Connection::open_to(other.netns(), 0, to, &listeners[usize::from(to.is_ipv6())]).unwrap();
        drop(held);
        // When they have ended there is room.
        host.vnet("flow flush");
        for own in greedy {
            from(own, to).unwrap_or_else(|error| panic!("{own}: {error}"));
        }
        host.vnet("flow flush");
    }
}

/// As many at once as it may begin in a second, and then so many a second.
#[test]
fn one_source_begins_connections_no_faster_than_it_may() {
    const RATE: u64 = 10;
    const SENT: u64 = 60;
    let (host, [server], phys) = site(&format!("source_flow_rate={RATE}"), [1]);
    policy(
        &host,
        &["rule add web --direction in --action allow --proto udp"],
    );
    let socket = PacketSocket::open(phys.netns(), Station::NIC, Heard::Delivered);
    // Each greedy source is followed by one that sends less than it may.
    for (v4, last) in [(true, 1), (false, 2)] {
        let source = |last: u8| -> IpAddr {
            if v4 {
                [10, 0, 0, 150 + last].into()
            } else {
                Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 0x150 + u16::from(last)).into()
            }
        };
        let to = at(server.addresses().both()[usize::from(!v4)], NOBODY);
        let flows = || host.rows("flow list --proto udp", "flows").len() as u64;
        let send = |from: IpAddr, count: u64| {
            for number in 0..count {
                let from = at(from, 10_000 + number as u16);
                socket.send_bytes(&datagram(server.mac(), phys.mac(), from, to));
            }
        };
        let before = host.drops("up0", "source_rate");
        let began = Instant::now();
        send(source(last), SENT);
        let took = began.elapsed();
        let begun = flows();
        let refused = host.drops("up0", "source_rate") - before;
        assert_eq!(begun + refused, SENT);
        let most = RATE as f64 * (1.0 + took.as_secs_f64()) + 1.0;
        assert!(begun >= RATE && begun as f64 <= most, "{begun} in {took:?}");
        send(source(last + 10), RATE);
        assert_eq!(flows(), begun + RATE, "another source");
        host.vnet("flow flush");
    }
    assert!(!events_of(&host, "source_rate").is_empty());
}
