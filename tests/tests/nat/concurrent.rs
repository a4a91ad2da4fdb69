//! Two CPUs that begin and end connections at the same instant, in a table that is too small for all
//! of them: afterwards the table, the mappings and everything that is counted agree.
//!
//! What a thread sends is carried all the way through the switch, and mostly answered, on the CPU that
//! the thread is on.

use std::{
    hint, io,
    net::{IpAddr, UdpSocket},
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use vnet_tests::{
    connections::Connections,
    host::{Host, Station},
    nat::{Both, Lab, Lane, PHYS, UPLINK, Vm, craft, udp},
    wait,
    wire::{Heard, PacketSocket, Wire as _},
};

use crate::at;

/// Connections that the table is for; more than twice as many are begun.
const TABLE: &str = "flow_size=1024";

/// How long connections are ended by command meanwhile.
const TIME: Duration = Duration::from_secs(3);

/// A port that answers datagrams, another one that answers nothing but errors.
const PORTS: [u16; 2] = [7000, 7001];

/// The sources' ports of a round.
const SOURCES: std::ops::Range<u16> = 20_000..20_250;

/// Packets that a CPU sends before it waits for the other one.
const WINDOW: usize = 16;

/// Two threads that take each step together.
#[derive(Default)]
struct Pace {
    at: [AtomicUsize; 2],
    over: AtomicBool,
}

impl Pace {
    /// Waits until the other one is as far, or has ended.
    fn step(&self, own: usize, number: usize) {
        self.at[own].store(number, Ordering::Release);
        let mut spins = 0;
        while self.at[1 - own].load(Ordering::Acquire) < number {
            if self.over.load(Ordering::Relaxed) {
                return;
            }
            spins += 1;
            if spins > 2000 {
                // The other one's CPU may have something else to do.
                thread::yield_now();
            } else {
                hint::spin_loop();
            }
        }
    }
}

/// Says that it is over, however the thread ends.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Two CPUs that we may run on.
fn two_cpus() -> [usize; 2] {
    // SAFETY: a set of CPUs is bits; zeros are a value of it.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: the set is live and its size is passed with it; 0 is the calling thread.
    let got = unsafe { libc::sched_getaffinity(0, size_of_val(&set), &raw mut set) };
    assert_eq!(got, 0, "{}", io::Error::last_os_error());
    // SAFETY: the number is within the set.
    let mut cpus = (0..1024).filter(|cpu| unsafe { libc::CPU_ISSET(*cpu, &set) });
    match (cpus.next(), cpus.next()) {
        (Some(one), Some(two)) => [one, two],
        _ => panic!("this test is about two CPUs, and there is one"),
    }
}

/// Keeps the calling thread on one CPU.
fn stay_on(cpu: usize) {
    // SAFETY: a set of CPUs is bits; zeros are a value of it.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: the number is within the set.
    unsafe { libc::CPU_SET(cpu, &mut set) };
    // SAFETY: the set is live and its size is passed with it; 0 is the calling thread.
    let done = unsafe { libc::sched_setaffinity(0, size_of_val(&set), &raw const set) };
    assert_eq!(done, 0, "{}", io::Error::last_os_error());
}

/// The packets of a round from one source to each of `to`: datagrams, openings of TCP, some of which
/// are taken back at once, and pings.
fn packets(from: IpAddr, to: IpAddr, ports: [u16; 2]) -> Vec<Vec<u8>> {
    let (echo_proto, echo) = if to.is_ipv4() { (1, 8) } else { (58, 128) };
    SOURCES
        .flat_map(|port| {
            let own = at(from, port);
            let mut packets = Vec::new();
            for there in ports.map(|port| at(to, port)) {
                packets.push(craft::udp_packet(own, there, b"one"));
                let mut segment = |seq, flags| {
                    let segment = craft::tcp_segment(own, there, [seq, 0], flags, &[], &[]);
                    packets.push(craft::ip(from, to, 6, &segment));
                };
                segment(1, craft::SYN);
                if port % 3 == 0 {
                    segment(2, craft::RST);
                }
            }
            let [high, low] = port.to_be_bytes();
            let ping = craft::icmp_message(from, to, [echo, 0], &[high, low, 0, 1, 1, 2, 3, 4]);
            packets.push(craft::ip(from, to, echo_proto, &ping));
            packets
        })
        .collect()
}

/// Answers every datagram until it is `over`.
fn answer(socket: &UdpSocket, over: &AtomicBool) {
    socket
        .set_read_timeout(Some(Duration::from_millis(20)))
        .unwrap();
    let mut got = [0; 64];
    while !over.load(Ordering::Relaxed) {
        if let Ok((length, peer)) = socket.recv_from(&mut got) {
            // A port that is gone already says so, sooner or later.
            let _ = socket.send_to(&got[..length], peer);
        }
    }
}

/// VMs, and the packets that each of them sends.
type Load<'a> = Vec<(&'a Vm, Vec<Vec<u8>>)>;

/// Each of two CPUs sends what its VMs are to send, in step with the other one, while connections are
/// ended by command. Gives how many packets each has sent.
fn at_once(lab: &Lab, loads: [&Load<'_>; 2], servers: &[UdpSocket]) -> usize {
    let (pace, cpus) = (Pace::default(), two_cpus());
    let flushed = AtomicBool::new(false);
    thread::scope(|scope| {
        for server in servers {
            scope.spawn(|| answer(server, &pace.over));
        }
        let threads = [0, 1].map(|own| {
            let (pace, flushed) = (&pace, &flushed);
            let frames: Vec<_> = loads[own]
                .iter()
                .map(|(vm, packets)| {
                    let gateway = lab.gateway_mac(vm);
                    let frame = |packet: &Vec<u8>| craft::frame(gateway, vm.mac().0, packet);
                    let frames: Vec<_> = packets.iter().map(frame).collect();
                    let socket = PacketSocket::open(vm.netns(), Station::NIC, Heard::Delivered);
                    (socket, frames)
                })
                .collect();
            scope.spawn(move || {
                let _over = Over(&pace.over);
                stay_on(cpus[own]);
                let mut sent = 0;
                let mut send_all = || {
                    for (socket, frames) in &frames {
                        for frame in frames {
                            if sent % WINDOW == 0 {
                                pace.step(own, sent + 1);
                            }
                            socket.send_bytes(frame);
                            sent += 1;
                        }
                    }
                };
                // While connections are ended by command, and then once more, so that the table is
                // full in the end.
                while !flushed.load(Ordering::Relaxed) {
                    send_all();
                }
                send_all();
                sent
            })
        });
        let flusher = scope.spawn(|| {
            let _flushed = Over(&flushed);
            let until = Instant::now() + TIME;
            let filters = ["--proto udp", "", "--proto icmp", "--proto tcp"];
            for filter in filters.iter().cycle() {
                if Instant::now() > until {
                    break;
                }
                lab.host.vnet(&format!("flow flush {filter}"));
            }
        });
        let [one, two] = threads.map(|thread| thread.join().unwrap());
        flusher.join().unwrap();
        one.min(two)
    })
}

/// What `nat list` says agrees with what there is, and that with itself.
fn books(lab: &Lab) -> Result<Connections> {
    let connections = lab.host.connections();
    connections.check()?;
    for rule in lab.rules() {
        let told = (rule.flows() as usize, rule.ports_used() as usize);
        let there = connections.of_rule(rule.id() as u16);
        ensure!(
            told == there,
            "rule {} has {told:?} connections and ports by its counts, and {there:?} in the tables",
            rule.id()
        );
    }
    let told = lab.host.status()["flows"]["count"].as_u64();
    ensure!(
        told == Some(connections.count.into()),
        "{told:?} is told, {} are there",
        connections.count
    );
    Ok(connections)
}

/// Everything agrees as soon as nothing is under way any more, and all of it goes.
#[track_caller]
fn books_are_right(lab: &Lab, sent: usize) {
    let mut last = String::new();
    let agreed = wait::within(Duration::from_secs(10), || match books(lab) {
        Ok(connections) => Some(connections),
        Err(error) => {
            last = format!("{error:#}");
            None
        }
    });
    let Some(connections) = agreed else {
        panic!("after {sent} packets on each CPU: {last}");
    };
    assert!(connections.count > 100, "{} connections", connections.count);
    let status = lab.host.status();
    assert!(
        status["flows"]["evicted"].as_u64() > Some(0),
        "the table was never full: {}",
        status["flows"]
    );
    lab.host.vnet("flow flush");
    let left = lab.host.connections();
    assert_eq!(left.held, [], "after {sent} packets on each CPU");
    assert!(left.mappings.is_empty(), "{:?}", left.mappings);
    assert_eq!((left.count, left.owners.len()), (0, 0), "{:?}", left.owners);
    for rule in lab.rules() {
        assert_eq!((rule.flows(), rule.ports_used()), (0, 0), "{rule:?}");
    }
}

fn lab() -> Lab {
    let lab = Lab::on(Host::new(), Lane::Vnet, &[TABLE, "flow_quota=1024"]);
    lab.rule("masquerade --network lan --uplink up0");
    lab
}

/// The packets of a VM to both addresses of `to`.
fn load(vm: &Vm, to: Both, ports: [u16; 2]) -> (&Vm, Vec<Vec<u8>>) {
    let to = to.both().into_iter();
    let packets = to.flat_map(|address| packets(vm.address.like(address), address, ports));
    (vm, packets.collect())
}

/// The very same packets on both CPUs, so that each connection is begun twice.
#[test]
fn concurrent_packets_of_one_connection_leave_the_books_right() {
    let lab = lab();
    let vms = [11, 12].map(|number| lab.vm(number));
    // Two VMs: one may not have the whole table.
    let loads: Load<'_> = vms.iter().map(|vm| load(vm, PHYS, PORTS)).collect();
    let servers = PHYS
        .both()
        .map(|address| udp(lab.phys.netns(), address, PORTS[0]));
    let sent = at_once(&lab, [&loads, &loads], &servers);
    books_are_right(&lab, sent);
}

/// Two VMs, one a CPU, use a forward from the same ports: each connection needs a port of the
/// forward's address to itself.
#[test]
fn concurrent_vms_at_one_forward_leave_the_books_right() {
    let lab = lab();
    let [one, two, server] = [11, 12, 13].map(|number| lab.vm(number));
    for (address, inside) in UPLINK.both().into_iter().zip(server.address.both()) {
        let (listen, to) = (at(address, 8080), at(inside, PORTS[0]));
        lab.rule(&format!(
            "dnat --proto tcp,udp --listen {listen}-8081 --to {to}-7001"
        ));
    }
    let loads = [&one, &two].map(|vm| vec![load(vm, UPLINK, [8080, 8081])]);
    let servers = server
        .address
        .both()
        .map(|address| udp(server.netns(), address, PORTS[0]));
    let sent = at_once(&lab, loads.each_ref(), &servers);
    books_are_right(&lab, sent);
}
