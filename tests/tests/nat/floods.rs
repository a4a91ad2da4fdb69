//! Floods of SYNs, from outside to a forward and from a VM, into a small table: who has a connection
//! keeps it, who begins one gets it or is refused, and the counters say what became of the rest.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use vnet_tests::{
    host::{Host, Station},
    nat::{
        Connection, Datagrams, FAR, Lab, Lane, PHYS, UPLINK, Vm, craft, tcp_connect, tcp_listener,
    },
    traffic::reaches,
    wait,
    wire::{Heard, PacketSocket, Wire as _},
};

use crate::at;

/// Connections that the table has room for.
const TABLE: u64 = 1024;

/// Most connections that a VM begins during a flood. They stay in the table for a while when they have
/// ended, and count for its share: a flood that takes long on a busy machine must not use that up.
const MOST_BEGUN: u32 = 64;

/// SYNs of a flood, many times what the table holds.
const FLOOD: usize = 20_000;

/// Numbers that look like chance and are the same in each run: xorshift64 (Marsaglia 2003).
struct Chance(u64);

impl Chance {
    fn number(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn port(&mut self) -> u16 {
        1024 + (self.number() % 60_000) as u16
    }
}

fn syn(from: SocketAddr, to: SocketAddr, chance: &mut Chance) -> Vec<u8> {
    let seq = [chance.number() as u32, 0];
    let segment = craft::tcp_segment(from, to, seq, craft::SYN, &[], &[]);
    craft::ip(from.ip(), to.ip(), 6, &segment)
}

fn lab() -> Lab {
    let lab = Lab::on(Host::new(), Lane::Vnet, &[&format!("flow_size={TABLE}")]);
    lab.rule("masquerade --network lan --uplink up0");
    // Whom answers to a flood go to is not there, and nobody says so.
    for nowhere in ["198.18.0.0/15", "2001:db8:f::/48", "203.0.113.0/24"] {
        lab.phys.ip(&format!("route add blackhole {nowhere}"));
    }
    lab
}

/// A number that `status` has of the flow table.
#[track_caller]
fn table(lab: &Lab, what: &str) -> u64 {
    let status = lab.host.status();
    match status["flows"][what].as_u64() {
        Some(number) => number,
        None => panic!("no {what} of flows in {status}"),
    }
}

/// Says that it is over, however the scope is left.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// While `flood` goes on, `established` carry data and `vm` begins connections to the outside. Gives
/// how many of those came about and how many did not.
#[track_caller]
fn while_flooded(
    lab: &Lab,
    vm: &Vm,
    established: &mut [Connection],
    flood: impl FnOnce() + Send,
) -> [u32; 2] {
    let over = AtomicBool::new(false);
    let over = &over;
    thread::scope(|scope| {
        for connection in established {
            scope.spawn(move || {
                let _over = Over(over);
                while !over.load(Ordering::Relaxed) {
                    connection.exchange(20_000, 20_000);
                }
            });
        }
        scope.spawn(move || {
            let _over = Over(over);
            flood();
        });
        let mut came = [0; 2];
        for address in PHYS.both().into_iter().cycle() {
            if over.load(Ordering::Relaxed) {
                break;
            }
            if came[0] == MOST_BEGUN {
                thread::sleep(Duration::from_millis(1));
                continue;
            }
            let listener = tcp_listener(lab.phys.netns(), address, 0);
            let to = listener.local_addr().unwrap();
            let Ok(client) = tcp_connect(vm.netns(), 0, to) else {
                came[1] += 1;
                continue;
            };
            came[0] += 1;
            // Answered: from here on it is one that is never ended for another.
            drop(client);
        }
        came
    })
}

/// They still carry data, and the table knows them as what they are.
#[track_caller]
fn are_alive(lab: &Lab, established: &mut [Connection]) {
    for connection in established {
        connection.exchange(50_000, 50_000);
        let row = lab.flow_of("tcp", connection.seen.client);
        assert_eq!(row.state(), "established", "{row:?}");
    }
}

#[test]
fn flood_of_syns_to_a_forward_ends_nothing_that_is_alive() {
    let lab = lab();
    let [server, vm] = [11, 12].map(|number| lab.vm(number));
    let mut established = Vec::new();
    let mut listeners = Vec::new();
    for (address, inside) in UPLINK.both().into_iter().zip(server.address.both()) {
        let (listen, to) = (at(address, 8080), at(inside, 80));
        lab.rule(&format!("dnat --proto tcp --listen {listen} --to {to}"));
        let listener = tcp_listener(server.netns(), inside, 80);
        established.push(Connection::open_to(&lab.far, 0, listen, &listener).unwrap());
        listeners.push(listener);
        let out = FAR.like(address);
        established.push(Connection::open(vm.netns(), 0, &lab.far, at(out, 0)));
    }
    let datagrams = Datagrams::between(vm.netns(), 0, &lab.far, at(FAR.v6.into(), 0));
    datagrams.exchange(&[100]);

    let mut chance = Chance(0x5eed_0001);
    let socket = PacketSocket::open(lab.phys.netns(), Station::NIC, Heard::Delivered);
    let (to, own) = (lab.uplink_mac(), lab.phys.mac().0);
    let frames: Vec<_> = (0..FLOOD)
        .map(|number| {
            let random = chance.number();
            let (source, listen): (IpAddr, IpAddr) = if number % 2 == 0 {
                let last = (random % (1 << 17)) as u32;
                let first = u32::from(Ipv4Addr::new(198, 18, 0, 0));
                (Ipv4Addr::from(first + last).into(), UPLINK.v4.into())
            } else {
                let first = u128::from("2001:db8:f::".parse::<Ipv6Addr>().unwrap());
                let source = Ipv6Addr::from(first + u128::from(random));
                (source.into(), UPLINK.v6.into())
            };
            let from = at(source, chance.port());
            craft::frame(to, own, &syn(from, at(listen, 8080), &mut chance))
        })
        .collect();
    let (evicted, hits) = (table(&lab, "evicted"), forward_hits(&lab));
    let full = all_drops(&lab, "nat_table_full");
    let [came, _] = while_flooded(&lab, &vm, &mut established, || {
        frames.iter().for_each(|frame| socket.send_bytes(frame));
    });
    assert!(came > 0, "no connection came about during the flood");

    are_alive(&lab, &mut established);
    datagrams.exchange(&[100, 1000]);
    // CPUs that take one on at the same instant may each pass the limit by one.
    let cpus = thread::available_parallelism().unwrap().get() as u64;
    let count = table(&lab, "count");
    assert!(count <= TABLE + cpus, "{count}");
    // Each SYN is in the table, had to go for another one, or was refused by name.
    let (evicted, hits) = (table(&lab, "evicted") - evicted, forward_hits(&lab) - hits);
    let full = all_drops(&lab, "nat_table_full") - full;
    assert_eq!(lab.host.drops("vm12", "nat_quota"), 0, "it has its share");
    assert!(evicted > 0, "the flood made no room for itself");
    assert!(
        hits + full >= FLOOD as u64,
        "of {FLOOD} SYNs {hits} were taken on, {full} refused"
    );
    assert!(
        evicted + TABLE + cpus >= hits,
        "{hits} were taken on, {evicted} ended for others"
    );
    // And then it is as ever, by the forward too: as soon as the host has found its neighbour again,
    // whose answers to ARP and ND the flood may have crowded out of the uplink's queue.
    for (address, listener) in UPLINK.both().into_iter().zip(&listeners) {
        let out = PHYS.like(address);
        let drops = lab.host.all_drops();
        assert!(reaches(vm.netns(), out), "{out}, after {drops:?}");
        let refused = || {
            let drops = lab.host.all_drops();
            let neighbours = lab.host.ip("neigh show");
            format!("{out}: drops {drops:?}, neighbours:\n{neighbours}")
        };
        let near = tcp_listener(lab.phys.netns(), out, 0);
        Connection::open_to(vm.netns(), 0, near.local_addr().unwrap(), &near)
            .unwrap_or_else(|why| panic!("{why:#}: {}", refused()))
            .exchange(1000, 1000);
        let mut connection = Connection::open_to(&lab.far, 0, at(address, 8080), listener).unwrap();
        connection.exchange(1000, 1000);
    }
}

/// Connections that forwards were applied to.
#[track_caller]
fn forward_hits(lab: &Lab) -> u64 {
    let forwards = lab.rules().into_iter();
    forwards
        .filter(|rule| rule.0["kind"] == "dnat")
        .map(|rule| rule.hits())
        .sum()
}

/// The drops for a reason, wherever they are counted.
#[track_caller]
fn all_drops(lab: &Lab, reason: &str) -> u64 {
    let rows = lab.host.rows("stats", "stats");
    rows.iter()
        .filter_map(|row| row["drops"][reason].as_u64())
        .sum()
}

/// Whatever sources a VM makes up: those of its own network count for its own share of the table, the
/// others are nobody's.
#[test]
fn flood_of_syns_from_a_vm_takes_no_more_than_its_share() {
    let lab = lab();
    let [vm, flooder] = [11, 12].map(|number| lab.vm(number));
    let mut established: Vec<_> = FAR
        .both()
        .map(|address| Connection::open(vm.netns(), 0, &lab.far, at(address, 0)))
        .into();
    let mut chance = Chance(0x5eed_0002);
    let nowhere = at(Ipv4Addr::new(203, 0, 113, 5).into(), 80);
    let socket = PacketSocket::open(flooder.netns(), Station::NIC, Heard::Delivered);
    let (to, own) = (lab.gateway_mac(&flooder), flooder.mac().0);
    let mut foreign = 0;
    let frames: Vec<_> = (0..FLOOD)
        .map(|number| {
            let random = chance.number() as u32;
            let source = if number % 4 == 0 {
                foreign += 1;
                Ipv4Addr::from(u32::from(Ipv4Addr::new(172, 16, 0, 0)) + random % (1 << 20))
            } else {
                Ipv4Addr::new(10, 0, 0, 100 + (random % 150) as u8)
            };
            let from = at(source.into(), chance.port());
            craft::frame(to, own, &syn(from, nowhere, &mut chance))
        })
        .collect();
    let [came, refused] = while_flooded(&lab, &vm, &mut established, || {
        frames.iter().for_each(|frame| socket.send_bytes(frame));
    });
    assert!(came > 0 && refused == 0, "{came} came about, {refused} not");
    are_alive(&lab, &mut established);
    let share = lab.flows("--vm vm12").len() as u64;
    assert!((TABLE / 8..=TABLE / 4).contains(&share), "{share}");
    assert_eq!(table(&lab, "evicted"), 0, "there was room");
    wait::until("every SYN is accounted for", || {
        let quota = lab.host.drops("vm12", "nat_quota");
        let untranslated = lab.host.drops("vm12", "nat_untranslated");
        untranslated == foreign && quota + untranslated + share >= FLOOD as u64
    });
    assert_eq!(lab.host.drops("vm11", "nat_quota"), 0);
}
