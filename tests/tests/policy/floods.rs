//! Floods of SYNs to a port that a group lets in, at a table that is full: who has a connection keeps it
//! and what it carries, who begins one gets it.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener},
    sync::{Arc, atomic::AtomicBool},
    thread,
    time::{Duration, Instant},
};

use vnet_tests::{
    host::{Host, Mac, Station},
    nat::{Connection, craft, tcp_listener},
    wire::{Heard, PacketSocket, Wire as _},
};

use crate::{
    Done, at, policy, rule,
    steady::{Attempts, Steady, connect_on},
};

/// Connections that the table has room for.
const TABLE: u64 = 1024;

/// How long a flood and what it is compared with take, in turns.
const TURN: Duration = Duration::from_millis(400);
/// Of each.
const TURNS: usize = 5;

/// SYNs in one go, and the time from one go to the next: 20,000 a second.
const VOLLEY: usize = 100;
const BEAT: Duration = Duration::from_millis(5);

/// The port that the server is asked for, and one that its group lets nobody ask for.
const OPEN: u16 = 80;
const CLOSED: u16 = 81;

/// New connections during a test; well below a VM's share of the table.
const MOST_BEGUN: u32 = 64;

/// Part of what it carries otherwise that a connection carries during a flood.
const KEPT: f64 = 0.9;

/// Numbers that look like chance and are the same in each run: xorshift64 (Marsaglia 2003).
struct Chance(u64);

impl Chance {
    fn number(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

/// A switch with a small table, a server in a group, and who uses it.
struct Site {
    /// Ended before the host is.
    steady: [Steady; 2],
    listeners: Vec<TcpListener>,
    server: Arc<Station>,
    client: Arc<Station>,
    phys: Arc<Station>,
    /// The rule that lets them in.
    open: u64,
    host: Host,
}

impl Site {
    #[track_caller]
    fn new() -> Self {
        let host = Host::new();
        host.vnet(&format!("set flow_size={TABLE}"));
        host.vnet("up");
        let [server, client] = [1, 2].map(|number| host.vm(number));
        let phys = host.phys();
        for port in ["vm1", "vm2", "up0 --uplink"] {
            host.vnet(&format!("port add {port}"));
        }
        policy(&host, &["group add web", "bind web vm1"]);
        let line = format!("web --direction in --action allow --proto tcp --ports {OPEN}");
        let open = rule(&host, &line);
        // The server answers whoever asks, and nobody gets the answers.
        for (nowhere, via) in [
            ("198.18.0.0/15", phys.addresses().v4()),
            ("2001:db8:f::/48", phys.addresses().v6()),
        ] {
            server.ip(&format!("route add {nowhere} via {via}"));
            phys.ip(&format!("route add blackhole {nowhere}"));
        }
        let listeners: Vec<_> = server
            .addresses()
            .both()
            .into_iter()
            .map(|address| tcp_listener(server.netns(), address, OPEN))
            .collect();
        let steady = [(&client, &listeners[0]), (&phys, &listeners[1])].map(|(user, listener)| {
            let to = listener.local_addr().unwrap();
            Steady::new(Connection::open_to(user.netns(), 0, to, listener).unwrap())
        });
        Self {
            steady,
            listeners,
            server,
            client,
            phys,
            open,
            host,
        }
    }

    /// A number that `status` has of the flow table.
    #[track_caller]
    fn table(&self, what: &str) -> u64 {
        let status = self.host.status();
        match status["flows"][what].as_u64() {
            Some(number) => number,
            None => panic!("no {what} of flows in {status}"),
        }
    }

    /// Connections that the group has let in.
    #[track_caller]
    fn let_in(&self) -> u64 {
        let rows = self.host.rows("policy rule list web", "rules");
        let row = rows.iter().find(|row| row["id"] == self.open).unwrap();
        row["flows"].as_u64().unwrap()
    }

    /// Has `send` send to a closed port and to the open one, in turns, while connections carry what they
    /// carry and others are made; gives how many SYNs went to the open one.
    ///
    /// What goes to the closed one is a fair thing to compare with: the same frames from the same sender
    /// at the same pace, which are received, read, looked up and judged as the others are. Only then they
    /// are dropped, and neither get into the table nor to the server.
    #[track_caller]
    fn flood(&self, mut send: impl FnMut(u16)) -> u64 {
        let over = AtomicBool::new(false);
        let mut carried: [[Vec<u64>; 2]; 2] = Default::default();
        let mut sent = 0;
        let attempts = thread::scope(|scope| {
            let ended = Done(&over);
            let connecting =
                scope.spawn(|| connect_on(self.client.netns(), &self.listeners, MOST_BEGUN, &over));
            for _ in 0..TURNS {
                for (place, port) in [CLOSED, OPEN].into_iter().enumerate() {
                    let before = self.steady.each_ref().map(Steady::received);
                    let count = volleys(|| send(port));
                    if port == OPEN {
                        sent += count;
                    }
                    for (one, before) in before.into_iter().enumerate() {
                        carried[one][place].push(self.steady[one].received() - before);
                    }
                }
            }
            drop(ended);
            connecting.join().unwrap()
        });
        for (connection, mut turns) in self.steady.iter().zip(carried) {
            let [without, with] = turns.each_mut().map(|bytes| {
                bytes.sort_unstable();
                bytes[TURNS / 2] as f64
            });
            let client = connection.seen.client;
            assert!(
                without > 0.0 && with >= KEPT * without,
                "{client}: {turns:?}"
            );
        }
        self.is_untouched();
        let Attempts { came, failed } = attempts;
        assert!(came >= 10 && came >= failed * 9, "{attempts:?}");
        sent
    }

    /// The connections are the very same since they were made, and nothing of them was lost.
    #[track_caller]
    fn is_untouched(&self) {
        let rows = self.host.rows("flow list", "flows");
        for connection in &self.steady {
            let client = connection.seen.client;
            let row = rows
                .iter()
                .find(|row| row["src"] == client.ip().to_string() && row["sport"] == client.port());
            let row =
                row.unwrap_or_else(|| panic!("{client} has none of {} connections", rows.len()));
            assert_eq!(row["state"], "established", "{row}");
            let age = Duration::from_secs(row["age_s"].as_u64().unwrap());
            assert!(
                age >= 2 * TURN * TURNS as u32 - Duration::from_secs(1),
                "{row}"
            );
            assert!(connection.is_whole(), "{client}");
        }
    }
}

/// Sends volley after volley for a turn; how many frames that were.
fn volleys(mut send: impl FnMut()) -> u64 {
    let began = Instant::now();
    let mut sent = 0;
    while began.elapsed() < TURN {
        for _ in 0..VOLLEY {
            send();
            sent += 1;
        }
        thread::sleep(BEAT);
    }
    sent
}

/// The first packet of a connection, which is never to come about.
fn syn(dst: Mac, src: Mac, from: SocketAddr, to: SocketAddr, seq: u32) -> Vec<u8> {
    let segment = craft::tcp_segment(from, to, [seq, 0], craft::SYN, &[], &[]);
    craft::frame(dst.0, src.0, &craft::ip(from.ip(), to.ip(), 6, &segment))
}

/// From anywhere, by way of the uplink: nobody's share of the table.
#[test]
fn flood_of_syns_from_outside_takes_nothing_from_who_is_there() {
    let site = Site::new();
    let (server, phys) = (&site.server, &site.phys);
    let socket = PacketSocket::open(phys.netns(), Station::NIC, Heard::Delivered);
    let mut chance = Chance(0x5eed_0003);
    let (evicted, let_in) = (site.table("evicted"), site.let_in());
    let sent = site.flood(|port| {
        let random = chance.number();
        let to = server.addresses().both()[(random >> 63) as usize];
        let from: IpAddr = match to {
            IpAddr::V4(_) => {
                let first = u32::from(Ipv4Addr::new(198, 18, 0, 0));
                Ipv4Addr::from(first + random as u32 % (1 << 17)).into()
            }
            IpAddr::V6(_) => {
                let first = u128::from("2001:db8:f::".parse::<Ipv6Addr>().unwrap());
                Ipv6Addr::from(first + u128::from(random as u32)).into()
            }
        };
        let from = at(from, 1024 + (random >> 32) as u16 % 60_000);
        let frame = syn(server.mac(), phys.mac(), from, at(to, port), random as u32);
        socket.send_bytes(&frame);
    });
    // CPUs that take one on at the same instant may each pass the limit by one.
    let cpus = thread::available_parallelism().unwrap().get() as u64;
    let count = site.table("count");
    assert!(count <= TABLE + cpus, "{count}");
    // Each SYN is in the table, had to go for another one, or was refused by name.
    let (evicted, let_in) = (site.table("evicted") - evicted, site.let_in() - let_in);
    let refused = site.host.drops("up0", "policy_table_full");
    assert!(evicted > 0, "the flood made no room for itself");
    assert!(
        let_in + refused >= sent,
        "of {sent} SYNs {let_in} were let in, {refused} refused"
    );
    assert!(
        evicted + TABLE + cpus >= let_in,
        "{let_in} were let in, {evicted} ended for others"
    );
}

/// From a VM, with its own address and with any that it makes up: they are its share of the table, and
/// there is room for all others.
#[test]
fn flood_of_syns_from_a_vm_takes_its_own_share() {
    let site = Site::new();
    let flooder = site.host.vm(3);
    site.host.vnet("port add vm3");
    let socket = PacketSocket::open(flooder.netns(), Station::NIC, Heard::Delivered);
    let (to, own) = (site.server.addresses().v4(), flooder.addresses().v4());
    let mut chance = Chance(0x5eed_0004);
    let _ = site.host.events();
    let mut own_port = 1024;
    let sent = site.flood(|port| {
        let random = chance.number();
        let from = if random & 1 == 0 {
            let first = u32::from(Ipv4Addr::new(198, 18, 0, 0));
            let address = Ipv4Addr::from(first + (random >> 8) as u32 % (1 << 17));
            at(address.into(), 1024 + (random >> 48) as u16 % 60_000)
        } else {
            // Of those that may come into the table, none is sent again.
            own_port += u16::from(port == OPEN);
            at(own, own_port)
        };
        let (dst, src) = (site.server.mac(), flooder.mac());
        socket.send_bytes(&syn(dst, src, from, at(to, port), random as u32));
    });
    assert_eq!(site.table("evicted"), 0, "there was room");
    let share = site.host.rows("flow list --vm vm3", "flows").len() as u64;
    let refused = site.host.drops("vm3", "policy_quota");
    assert!((TABLE / 8..=TABLE / 4).contains(&share), "{share}");
    assert!(share + refused >= sent, "of {sent} {share} and {refused}");
    assert_eq!(site.host.drops("vm2", "policy_quota"), 0);
    let events = site.host.events();
    let mut told = events.iter().filter(|event| event["event"] == "flow_quota");
    assert!(told.clone().count() > 0, "{events:?}");
    assert!(told.all(|event| event["port"] == "vm3"), "{events:?}");
}
