//! Properties of the gateway: what it translates stays whole and comes back as it was, what it takes
//! it gives back, and nobody gets what is another one's.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
};

use anyhow::{Result, ensure};
use proptest::{collection::vec, prelude::*, sample::select, test_runner::Config};
use vnet_common::{Binding, BindingKey, FlowEntry, FlowKey, flow::mapped, nat::BindingKind};
use vnet_ebpf::{
    flow::table::{FlowTable as _, Inserted, NO_FLOW, find, insert, remove, tag_of},
    gateway::Gateway as _,
    meta::Hook,
};
use vnet_tests::{
    fixture::{ETH0, Fixture, LAN},
    frame::{
        A, B, from,
        ip::{Packet, bad_checksum, ping, pong, tcp, udp},
    },
    kernel::{Kernel, in_sandbox, unfit},
    ledger,
    machine::Machine,
    runner,
    setup::Setup,
    switch::{Frame, Outcome, Switch, Verdict},
};

const WORLD: &str = "
    address add 203.0.113.1/24 dev eth0
    address add 2001:db8::1/64 dev eth0
    route add default via 203.0.113.254 dev eth0
    route add default via 2001:db8::fe dev eth0
    neigh add 203.0.113.254 lladdr 02:00:00:00:00:fe dev eth0
    neigh add 2001:db8::fe lladdr 02:00:00:00:00:fe dev eth0
    neigh add 10.0.0.2 lladdr 02:00:00:00:00:0a dev vsw0.lan
    neigh add fd00::2 lladdr 02:00:00:00:00:0a dev vsw0.lan
    neigh add 10.0.0.3 lladdr 02:00:00:00:00:0b dev vsw0.lan
    neigh add fd00::3 lladdr 02:00:00:00:00:0b dev vsw0.lan
";

const ROUTER: [u8; 6] = [0x02, 0, 0, 0, 0, 0xfe];

macro_rules! lan {
    ($rules:literal) => {
        concat!(
            r#"
            network = [{ name = "lan", gateway = ["10.0.0.1/24", "fd00::1/64"] }]
            port = [
                { name = "tap0", network = "lan" },
                { name = "tap1", network = "lan" },
                { name = "eth0", uplink = true },
            ]
            fdb = [
                { mac = "02:00:00:00:00:0a", network = "lan", port = "tap0" },
                { mac = "02:00:00:00:00:0b", network = "lan", port = "tap1" },
                { mac = "02:00:00:00:00:fe", network = "default", port = "eth0" },
            ]
            "#,
            $rules
        )
    };
}

macro_rules! range_of {
    ($ports:literal) => {
        concat!(
            lan!(
                r#"nat = [{ id = 1, kind = "snat", source = "10.0.0.0/24", to = "203.0.113.40", uplink = "eth0", ports = ""#
            ),
            $ports,
            r#"" }]"#,
            "\nsettings = { flow_quota = 64 }"
        )
    };
}

/// Rules of every kind, in several documents that may follow each other.
const DOCUMENTS: [&str; 5] = [
    lan!(r#"nat = [{ id = 1, kind = "masquerade", network = "lan", uplink = "eth0" }]"#),
    lan!(
        r#"nat = [
            { id = 1, kind = "masquerade", network = "lan", uplink = "eth0", filtering = "eif", ports = "5000-5005" },
            { id = 2, kind = "dnat", proto = "tcp,udp", listen = "203.0.113.1:5001-5002", to = "10.0.0.3:5000-5001" },
        ]"#
    ),
    lan!(
        r#"nat = [{ id = 1, kind = "masquerade", network = "lan", uplink = "eth0", mapping = "symmetric" }]"#
    ),
    lan!(
        r#"
        settings = { flow_quota = 5 }
        nat = [
            { id = 1, kind = "snat", source = "10.0.0.0/24", to = "203.0.113.40-203.0.113.41", uplink = "eth0", ports = "5000-5031", block_size = 8 },
            { id = 3, kind = "static", external = "2001:db8:ff:1::/64", internal = "fd00::/64" },
        ]"#
    ),
    lan!(
        r#"nat = [
            { id = 1, kind = "masquerade", network = "lan", uplink = "eth0", filtering = "apdf" },
            { id = 3, kind = "static", external = "203.0.113.50", internal = "10.0.0.2" },
        ]"#
    ),
];

fn fixture(document: &'static str, flows: u32) -> Fixture {
    Fixture::new("a gateway", document)
        .world(WORLD)
        .flow_size(flows)
}

fn setup(document: &'static str, flows: u32) -> Setup {
    fixture(document, flows).setup().expect("it is valid")
}

/// The IP packet of a frame without a tag.
fn ip_of(wire: &[u8]) -> Option<&[u8]> {
    let is_ip = matches!(wire.get(12..14)?, [0x08, 0x00] | [0x86, 0xdd]);
    is_ip.then(|| &wire[14..])
}

fn source_of(packet: &[u8]) -> IpAddr {
    if packet[0] >> 4 == 4 {
        let bytes: [u8; 4] = packet[12..16].try_into().expect("four bytes");
        bytes.into()
    } else {
        let bytes: [u8; 16] = packet[8..24].try_into().expect("sixteen bytes");
        bytes.into()
    }
}

fn is_inside(addr: IpAddr) -> bool {
    match addr {
        IpAddr::V4(v4) => v4.octets()[0] == 10,
        IpAddr::V6(v6) => v6.octets()[0] == 0xfd,
    }
}

/// What must hold of whatever becomes of a frame.
fn check(setup: &Setup, outcome: &Outcome) -> Result<(), TestCaseError> {
    let Verdict::Redirect(sent) = &outcome.verdict else {
        return Ok(());
    };
    let Some(packet) = sent.wire.as_deref().and_then(ip_of) else {
        return Ok(());
    };
    prop_assert_eq!(bad_checksum(packet), None, "{:02x?}", packet);
    if sent.ifindex == setup.devices["eth0"].ifindex && !sent.to_stack {
        let source = source_of(packet);
        prop_assert!(!is_inside(source), "{} leaves", source);
    }
    Ok(())
}

/// A packet from one of few ends to one of few others, so that they meet.
#[derive(Clone, Debug)]
struct Drawn {
    v6: bool,
    from: usize,
    to: usize,
    ports: (u16, u16),
    kind: usize,
    ttl: u8,
    payload: usize,
}

const ENDS: [[&str; 2]; 7] = [
    ["10.0.0.2", "fd00::2"],
    ["10.0.0.3", "fd00::3"],
    ["203.0.113.1", "2001:db8::1"],
    ["203.0.113.40", "2001:db8:ff:1:ce47::2"],
    ["203.0.113.50", "2001:db8:ff:1:ce47::3"],
    ["198.51.100.7", "2001:db8:7::7"],
    ["198.51.100.8", "2001:db8:7::8"],
];

impl Drawn {
    fn packet(&self) -> Packet {
        let side = usize::from(self.v6);
        let (src, dst) = (ENDS[self.from][side], ENDS[self.to][side]);
        let (sport, dport) = self.ports;
        let ends = if self.v6 {
            format!("[{src}]:{sport} > [{dst}]:{dport}")
        } else {
            format!("{src}:{sport} > {dst}:{dport}")
        };
        let plain = format!("{src} > {dst}");
        let packet = match self.kind {
            0..3 => udp(&ends),
            3 => ping(&plain, sport),
            4 => pong(&plain, sport),
            5 => tcp(&ends, "S"),
            6 => tcp(&ends, "SA"),
            7 => tcp(&ends, "A"),
            8 => tcp(&ends, "FA"),
            _ => tcp(&ends, "R"),
        };
        packet.ttl(self.ttl).payload(self.payload)
    }

    /// The packet where it comes in: from inside by its VM's port, else by the uplink.
    fn spec(&self) -> vnet_tests::frame::Spec {
        let packet = self.packet();
        match self.from {
            0 => from("tap0", LAN, A).packet(&packet),
            1 => from("tap1", LAN, B).packet(&packet),
            _ => from("eth0", ETH0, ROUTER).packet(&packet),
        }
    }
}

fn drawn() -> impl Strategy<Value = Drawn> {
    let port = || prop_oneof![6 => 4999u16..5004, 1 => any::<u16>()];
    (
        any::<bool>(),
        prop_oneof![5 => 0usize..2, 3 => 0usize..ENDS.len()],
        prop_oneof![5 => 5usize..7, 3 => 2usize..5, 1 => 0usize..2],
        (port(), port()),
        0usize..10,
        prop_oneof![8 => Just(64u8), 1 => 0u8..3],
        prop_oneof![8 => 0usize..64, 1 => 1400usize..1600],
    )
        .prop_map(|(v6, from, to, ports, kind, ttl, payload)| Drawn {
            v6,
            from,
            to,
            ports,
            kind,
            ttl,
            payload,
        })
}

#[derive(Clone, Debug)]
enum Event {
    Packet(Drawn),
    /// The last packet that left comes back with its ends exchanged.
    Answer,
    Seconds(u32),
    Sweep,
    Flush,
    Apply(usize),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        30 => drawn().prop_map(Event::Packet),
        12 => Just(Event::Answer),
        2 => select(vec![1u32, 61, 121, 301, 8000]).prop_map(Event::Seconds),
        1 => Just(Event::Sweep),
        1 => Just(Event::Flush),
        1 => (0..DOCUMENTS.len()).prop_map(Event::Apply),
    ]
}

/// A packet that left, with addresses and ports exchanged, as a frame from the router. UDP, TCP, and an
/// echo request becomes its reply; the checksums hold, for they are sums.
fn answer(wire: &[u8]) -> Option<Vec<u8>> {
    let packet = ip_of(wire)?;
    let mut back = packet.to_vec();
    let (addresses, header, protocol) = if packet[0] >> 4 == 4 {
        (12..20, usize::from(packet[0] & 0xf) * 4, packet[9])
    } else {
        (8..40, 40, packet[6])
    };
    let half = addresses.len() / 2;
    back[addresses].rotate_left(half);
    match protocol {
        6 | 17 => back[header..header + 4].rotate_left(2),
        1 | 58 => {
            let (request, reply) = if protocol == 1 { (8, 0) } else { (128, 129) };
            if back[header] != request {
                return None;
            }
            back[header] = reply;
            // RFC 1624: the type is the upper half of the first word.
            let old = u16::from_be_bytes([back[header + 2], back[header + 3]]);
            let sum =
                u32::from(!old) + u32::from(!(u16::from(request) << 8)) + (u32::from(reply) << 8);
            let sum = (sum & 0xffff) + (sum >> 16);
            let new = !(((sum & 0xffff) + (sum >> 16)) as u16);
            back[header + 2..header + 4].copy_from_slice(&new.to_be_bytes());
        }
        _ => return None,
    }
    let ether_type = &wire[12..14];
    Some([&ETH0[..], &ROUTER[..], ether_type, &back].concat())
}

/// Runs events on a switch of `flows` connections, and checks everything after each.
fn run(first: usize, flows: u32, events: &[Event]) -> Result<(), TestCaseError> {
    let failed = |error: anyhow::Error| TestCaseError::fail(format!("{error:#}"));
    let mut now = setup(DOCUMENTS[first], flows);
    let mut machine = Machine::new(&now);
    let mut last: Option<Vec<u8>> = None;
    for event in events {
        let outcome = match event {
            Event::Packet(drawn) => {
                let frame = drawn.spec().frame(&now).map_err(failed)?;
                Some(Machine::run(&machine, &frame))
            }
            Event::Answer => last.as_deref().and_then(answer).map(|wire| {
                let hook = Hook::TcIngress;
                let ifindex = now.devices["eth0"].ifindex;
                let frame = Frame::received(hook, ifindex, wire);
                Machine::run(&machine, &frame)
            }),
            Event::Seconds(seconds) => {
                machine.advance(*seconds).map_err(failed)?;
                None
            }
            Event::Sweep => {
                Machine::sweep_flows(&machine);
                None
            }
            Event::Flush => {
                machine.flush().map_err(failed)?;
                None
            }
            Event::Apply(next) => {
                now = fixture(DOCUMENTS[first], flows)
                    .next_setup(DOCUMENTS[*next], &now)
                    .map_err(failed)?;
                machine.apply(&now).map_err(failed)?;
                None
            }
        };
        if let Some(outcome) = outcome {
            check(&now, &outcome)?;
            if let Verdict::Redirect(sent) = &outcome.verdict
                && sent.ifindex == now.devices["eth0"].ifindex
            {
                last = sent.wire.clone();
            }
        }
        machine
            .connections()
            .and_then(|connections| connections.check())
            .map_err(failed)?;
    }
    nothing_is_left(&mut machine)
}

/// When every connection has ended, so has all that they held, and the counters agree.
fn nothing_is_left(machine: &mut Machine) -> Result<(), TestCaseError> {
    machine.advance(100_000).expect("it can");
    Machine::sweep_flows(machine);
    let left = machine.connections().expect("it is there");
    prop_assert!(left.held.is_empty(), "{:?}", left.held);
    prop_assert!(left.mappings.is_empty(), "{:?}", left.mappings);
    prop_assert_eq!(left.count, 0);
    prop_assert!(left.owners.is_empty(), "{:?}", left.owners);
    let counted = machine.ledger().expect("the counters are there");
    let of = |slot: u16, name| counted.get(&(slot, name)).copied().unwrap_or(0);
    prop_assert_eq!(of(ledger::FLOWS, "created"), of(ledger::FLOWS, "ended"));
    for id in 1..4 {
        let rule = ledger::rule_slot(id);
        prop_assert_eq!(of(rule, "hits"), of(rule, "ended"), "rule {}", id);
        prop_assert_eq!(
            of(rule, "ports_taken"),
            of(rule, "ports_released"),
            "rule {}",
            id
        );
    }
    Ok(())
}

proptest! {
    #![proptest_config(crate::cases(300))]

    /// Checksums, secrecy, and everything in `Connections::check`, whatever comes and goes.
    #[test]
    fn connections_are_kept_straight(
        first in 0..DOCUMENTS.len(),
        flows in select(vec![4u32, 16, 64]),
        events in vec(event(), 1..80),
    ) {
        run(first, flows, &events)?;
    }

    /// The answer to a packet is the packet with its ends exchanged, however it was translated.
    #[test]
    fn what_goes_out_comes_back(
        document in 0..DOCUMENTS.len(),
        drawn in drawn(),
        other in any::<bool>(),
    ) {
        let drawn = Drawn {
            from: usize::from(drawn.from % 2 == 1),
            to: if other { 5 } else { 6 },
            kind: if matches!(drawn.kind, 4 | 6..) { 5 } else { drawn.kind },
            ttl: 64,
            payload: drawn.payload % 1000,
            ports: (drawn.ports.0.max(1024), drawn.ports.1),
            ..drawn
        };
        let setup = setup(DOCUMENTS[document], 64);
        let machine = Machine::new(&setup);
        let frame = drawn.spec().frame(&setup).expect("it has a port");
        let outcome = Machine::run(&machine, &frame);
        let Verdict::Redirect(sent) = &outcome.verdict else {
            return Err(TestCaseError::reject("it does not leave"));
        };
        prop_assume!(sent.ifindex == setup.devices["eth0"].ifindex);
        let wire = sent.wire.as_deref().expect("it was sent");
        let back = answer(wire).expect("it can be answered");
        let hook = Hook::TcIngress;
        let frame = Frame::received(hook, sent.ifindex, back);
        let outcome = Machine::run(&machine, &frame);
        let Verdict::Redirect(sent) = &outcome.verdict else {
            return Err(TestCaseError::fail(format!("{outcome:02x?}")));
        };
        let arrived = sent.wire.as_deref().expect("it was sent");
        let got = ip_of(arrived).expect("an IP packet").to_vec();
        let own = [&[0; 12][..], &drawn.packet().ether_type().to_be_bytes(), &drawn.packet().bytes()].concat();
        let mut wanted = ip_of(&answer(&own).expect("it can be answered")).expect("IP").to_vec();
        prop_assert_eq!(bad_checksum(&got), None);
        // Two hops: their time to live and what it does to the header's checksum.
        let hop = if got[0] >> 4 == 4 { vec![8, 10, 11] } else { vec![7] };
        for at in hop {
            wanted[at] = got[at];
        }
        prop_assert_eq!(got, wanted);
    }

    /// The flow table is a map.
    #[test]
    fn the_flow_table_is_a_map(
        operations in vec((0u8..8, 0u16..60, any::<u32>()), 1..400),
    ) {
        let machine = Machine::new(&setup(DOCUMENTS[0], 20));
        let mut model: HashMap<u16, (u32, u32)> = HashMap::new();
        let key = |n: u16| FlowKey {
            src: mapped([10, 0, 0, 2]),
            sport: n,
            proto: 17,
            ..FlowKey::default()
        };
        for (operation, n, mark) in operations {
            let found = find(&machine, &key(n));
            match model.get(&n) {
                Some((index, mark)) => {
                    prop_assert_eq!(found, *index);
                    let entry = machine.flow(found).expect("it is in the table");
                    // SAFETY: the table's own entry; this test has one thread.
                    prop_assert_eq!(unsafe { (*entry).ack }, *mark);
                }
                None => prop_assert_eq!(found, NO_FLOW),
            }
            if operation < 5 {
                let entry = FlowEntry { key: key(n), ack: mark, ..FlowEntry::default() };
                match insert(&machine, &entry) {
                    Inserted::At(index) => {
                        prop_assert!(model.insert(n, (index, mark)).is_none());
                    }
                    Inserted::Exists => prop_assert!(model.contains_key(&n)),
                    Inserted::Full => prop_assert!(model.len() > 30, "it is not full"),
                }
            } else if let Some((index, _)) = model.remove(&n) {
                let tag = tag_of(&machine, index);
                prop_assert!(!remove(&machine, index, tag ^ 4));
                prop_assert!(remove(&machine, index, tag));
                prop_assert!(!remove(&machine, index, tag));
            }
        }
        let mut places: Vec<u32> = model.values().map(|(index, _)| *index).collect();
        places.sort_unstable();
        places.dedup();
        prop_assert_eq!(places.len(), model.len(), "two keys have one place");
    }
}

/// Documents under which every connection of [`straight`] keeps its port: there is nothing random in
/// what becomes of it.
const STRAIGHT: [&str; 3] = [
    DOCUMENTS[0],
    DOCUMENTS[4],
    lan!(
        r#"nat = [
            { id = 1, kind = "snat", source = "10.0.0.0/24", to = "203.0.113.40", uplink = "eth0", filtering = "eif" },
            { id = 2, kind = "dnat", proto = "tcp,udp", listen = "203.0.113.1:5000-5003", to = "10.0.0.3:5000-5003", uplink = "eth0" },
            { id = 3, kind = "static", external = "2001:db8:ff:1::/64", internal = "fd00::/64", uplink = "eth0" },
        ]"#
    ),
];

/// A packet whose port no other VM has.
fn straight() -> impl Strategy<Value = Drawn> {
    drawn().prop_map(|drawn| Drawn {
        ports: (
            drawn.ports.0.max(1024) & !1 | drawn.from as u16 & 1,
            drawn.ports.1,
        ),
        ..drawn
    })
}

proptest! {
    // Each case loads the programs.
    #![proptest_config(Config { max_shrink_iters: 60, ..crate::cases(8) })]

    /// The loaded programs do what the pure pipeline does, and leave the same connections behind.
    #[test]
    fn the_machines_agree_on_connections(
        document in 0..STRAIGHT.len(),
        flows in select(vec![4u32, 64]),
        events in vec(
            prop_oneof![
                20 => straight().prop_map(Event::Packet),
                10 => Just(Event::Answer),
                1 => select(vec![1u32, 61, 121, 301]).prop_map(Event::Seconds),
                1 => Just(Event::Sweep),
                1 => Just(Event::Flush),
            ],
            40..80,
        ),
    ) {
        compare(STRAIGHT[document], flows, &events)
            .map_err(|error| TestCaseError::fail(format!("{error:#}")))?;
    }
}

fn compare(document: &'static str, flows: u32, events: &[Event]) -> Result<()> {
    let setup = setup(document, flows);
    in_sandbox(|bpffs| {
        let mut kernel = Kernel::new(bpffs, runner::taps(&setup)?, &setup)?;
        let mut machine = Machine::new(&setup);
        let mut last: Option<Vec<u8>> = None;
        for event in events {
            let frame = match event {
                Event::Packet(drawn) => Some(drawn.spec().frame(&setup)?),
                Event::Answer => last.as_deref().and_then(answer).map(|wire| {
                    let ifindex = setup.devices["eth0"].ifindex;
                    Frame::received(Hook::TcIngress, ifindex, wire)
                }),
                other => {
                    for switch in [&mut kernel as &mut dyn Switch, &mut machine] {
                        match other {
                            Event::Seconds(seconds) => switch.advance(*seconds)?,
                            Event::Sweep => switch.sweep_flows()?,
                            _ => switch.flush()?,
                        }
                    }
                    None
                }
            };
            if let Some(frame) = frame.filter(|frame| unfit(frame).is_none()) {
                let pure = Machine::run(&machine, &frame);
                let loaded = kernel.run(&frame)?;
                ensure!(
                    pure == loaded,
                    "{frame:02x?}\npure: {pure:02x?}\nkernel: {loaded:02x?}"
                );
                if let Verdict::Redirect(sent) = &pure.verdict
                    && sent.ifindex == setup.devices["eth0"].ifindex
                {
                    last = sent.wire.clone();
                }
            }
            let (pure, loaded) = (machine.ledger()?, kernel.ledger()?);
            ensure!(
                pure == loaded,
                "{event:?}\npure: {pure:?}\nkernel: {loaded:?}"
            );
            let (pure, loaded) = (machine.connections()?, kernel.connections()?);
            ensure!(
                pure == loaded,
                "{event:?}\npure: {pure:?}\nkernel: {loaded:?}"
            );
        }
        let (pure, loaded) = (machine.events()?, kernel.events()?);
        ensure!(pure == loaded, "pure: {pure:?}\nkernel: {loaded:?}");
        Ok(())
    })
}

/// Documents with a range of `n` ports from 5000 or 5001 on.
const RANGES: [(&str, u16); 6] = [
    (range_of!("5000"), 1),
    (range_of!("5000-5001"), 2),
    (range_of!("5001-5003"), 3),
    (range_of!("5000-5006"), 7),
    (range_of!("5001-5008"), 8),
    (range_of!("5001-5033"), 33),
];

/// Down to the last port every one is found, whichever port it is for, and one more is none.
#[test]
fn every_port_of_a_range_is_found() {
    for (document, count) in RANGES {
        for like in [6000u16, 6001] {
            let setup = setup(document, 64);
            let machine = Machine::new(&setup);
            let mut seen = BTreeMap::new();
            for n in 0..=count {
                // The same parity each time.
                let ends = format!("10.0.0.2:{} > 198.51.100.7:53", like + 2 * n);
                let frame = from("tap0", LAN, A).packet(&udp(&ends)).frame(&setup);
                let outcome = Machine::run(&machine, &frame.expect("it has a port"));
                let Verdict::Redirect(sent) = &outcome.verdict else {
                    panic!("{outcome:?}");
                };
                let wire = sent.wire.as_deref().expect("it was sent");
                if n == count {
                    assert_ne!(sent.ifindex, setup.devices["eth0"].ifindex, "{document}");
                    continue;
                }
                assert_eq!(
                    sent.ifindex, setup.devices["eth0"].ifindex,
                    "{document} {n}"
                );
                let port = u16::from_be_bytes([wire[34], wire[35]]);
                assert_eq!(seen.insert(port, n), None, "port {port} twice");
            }
            let (first, last) = (seen.first_key_value(), seen.last_key_value());
            let (Some((first, _)), Some((last, _))) = (first, last) else {
                panic!("none was found");
            };
            assert!(*first >= 5000 && last - first < count, "{seen:?}");
        }
    }
}

/// With 99 of 100 ports taken, one is found nearly always.
#[test]
fn a_port_is_found_in_a_range_that_is_nearly_full() {
    let setup = setup(
        lan!(
            r#"nat = [{ id = 1, kind = "snat", source = "10.0.0.0/24", to = "203.0.113.40", uplink = "eth0" }]"#
        ),
        40_000,
    );
    let mut machine = Machine::new(&setup);
    for port in 1024..=u16::MAX {
        // One in a hundred, spread about.
        if (u32::from(port).wrapping_mul(2_654_435_761) >> 16) % 100 == 7 {
            continue;
        }
        let key = BindingKey {
            addr: mapped([203, 0, 113, 40]),
            port,
            proto: 17,
            kind: BindingKind::External as u8,
            ..BindingKey::default()
        };
        let taken = Binding {
            refs: 1,
            ..Binding::default()
        };
        assert!(machine.binding_add(&key, &taken), "there is no room");
    }
    let mut missed = 0;
    for n in 0..500u16 {
        let ends = format!("10.0.0.2:{} > 198.51.100.7:53", 2000 + n);
        let frame = from("tap0", LAN, A).packet(&udp(&ends)).frame(&setup);
        let outcome = Machine::run(&machine, &frame.expect("it has a port"));
        let left = matches!(&outcome.verdict, Verdict::Redirect(sent)
            if sent.ifindex == setup.devices["eth0"].ifindex);
        missed += u32::from(!left);
        machine.flush().expect("it was there");
    }
    assert!(missed <= 1, "{missed} of 500 searches found no port");
}
