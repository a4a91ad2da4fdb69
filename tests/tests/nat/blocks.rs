//! `--block-size`: what a VM sends outside has ports of one block, which is its alone for so long.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, UdpSocket},
    time::Duration,
};

use serde_json::Value;
use vnet_tests::nat::{Connection, Datagrams, Lab, PHYS, UPLINK, Vm, any, udp};

use crate::at;

/// The rule's first port, the ports of a block, and how many blocks there are.
const FIRST: u16 = 40_000;
const SIZE: u16 = 64;
const BLOCKS: u16 = 4;

/// A source port that no block has.
const OUTSIDE: u16 = 20_000;

fn lab() -> Lab {
    let last = FIRST + BLOCKS * SIZE - 1;
    Lab::masquerading(&format!("--ports {FIRST}-{last} --block-size {SIZE}"))
}

/// The first port of the block that a port is in.
#[track_caller]
fn block_of(port: u16) -> u16 {
    let number = port.checked_sub(FIRST).map(|offset| offset / SIZE);
    match number.filter(|number| *number < BLOCKS) {
        Some(number) => FIRST + number * SIZE,
        None => panic!("{port} is in no block"),
    }
}

/// A server outside that tells by which port a VM's datagram came.
struct Outside {
    server: UdpSocket,
    address: IpAddr,
}

impl Outside {
    #[track_caller]
    fn open(lab: &Lab, address: IpAddr) -> Self {
        let server = udp(lab.phys.netns(), address, 7000);
        Self { server, address }
    }

    /// Sends from a VM's port and gives the port it has outside; `None` when nothing comes.
    #[track_caller]
    fn try_map(&self, vm: &Vm, port: u16) -> Option<u16> {
        let socket = udp(vm.netns(), any(self.address), port);
        let mark = format!("{} {port}", vm.port());
        socket
            .send_to(mark.as_bytes(), at(self.address, 7000))
            .unwrap();
        self.server
            .set_read_timeout(Some(Duration::from_millis(300)))
            .unwrap();
        let mut got = [0; 64];
        let (length, peer) = self.server.recv_from(&mut got).ok()?;
        assert_eq!(&got[..length], mark.as_bytes());
        assert_eq!(peer.ip(), UPLINK.like(self.address));
        Some(peer.port())
    }

    #[track_caller]
    fn map(&self, vm: &Vm, port: u16) -> u16 {
        match self.try_map(vm, port) {
            Some(mapped) => mapped,
            None => panic!("{} port {port} to {} got no port", vm.port(), self.address),
        }
    }
}

#[test]
fn block_holds_every_mapping_of_a_vm() {
    let lab = lab();
    let [one, two] = [11, 12].map(|number| lab.vm(number));
    for address in PHYS.both() {
        let outside = Outside::open(&lab, address);
        let mut blocks = BTreeMap::new();
        for vm in [&one, &two] {
            let mut ports: Vec<u16> = (0..20)
                .map(|number| outside.map(vm, OUTSIDE + number))
                .collect();
            let different: BTreeSet<_> = ports.iter().collect();
            assert_eq!(different.len(), 20, "a mapping has a port of its own");
            for number in 0..5 {
                // A port of a block, which need not be the VM's.
                for own in [OUTSIDE + number, FIRST + SIZE * number.min(3) + 1] {
                    let to = at(address, 0);
                    let mut tcp = Connection::open(vm.netns(), own, lab.phys.netns(), to);
                    ports.push(tcp.seen.by_server.port());
                    tcp.exchange(10_000, 10_000);
                }
            }
            let own: BTreeSet<_> = ports.into_iter().map(block_of).collect();
            assert_eq!(own.len(), 1, "{} has blocks {own:?}", vm.port());
            blocks.insert(own.into_iter().next(), vm.port().to_owned());
        }
        assert_eq!(blocks.len(), 2, "{blocks:?}");
    }
}

/// The block is full with its last port, for its VM alone; and for the protocol that used it up.
#[test]
fn block_that_is_full_hurts_its_own_vm_only() {
    let lab = lab();
    let [greedy, other] = [11, 12].map(|number| lab.vm(number));
    for address in PHYS.both() {
        let outside = Outside::open(&lab, address);
        let ports: BTreeSet<_> = (0..SIZE)
            .map(|number| outside.map(&greedy, OUTSIDE + number))
            .collect();
        let first = *ports.first().expect("there are some");
        assert_eq!(first, block_of(first));
        assert_eq!(ports, (first..first + SIZE).collect());

        let before = lab.host.drops("vm11", "nat_ports_exhausted");
        let exhausted = lab.rules()[0].exhausted();
        assert_eq!(outside.try_map(&greedy, OUTSIDE + SIZE), None);
        let after = lab.host.drops("vm11", "nat_ports_exhausted");
        assert!(after > before, "{:?}", lab.host.all_drops());
        assert!(lab.rules()[0].exhausted() > exhausted);
        // What has a mapping keeps it.
        assert!(ports.contains(&outside.map(&greedy, OUTSIDE)));

        let theirs = outside.map(&other, OUTSIDE);
        assert_ne!(block_of(theirs), first);
        assert_eq!(lab.host.drops("vm12", "nat_ports_exhausted"), 0);
        let to = at(address, 0);
        let mut tcp = Connection::open(greedy.netns(), OUTSIDE, lab.phys.netns(), to);
        assert_eq!(block_of(tcp.seen.by_server.port()), first);
        tcp.exchange(10_000, 10_000);
    }
}

/// Four blocks are for four VMs. What is given back is for whoever comes next.
#[test]
fn blocks_run_out_and_come_back() {
    let lab = lab();
    let vms = [11, 12, 13, 14, 15].map(|number| lab.vm(number));
    let (last, holders) = vms.split_last().expect("there are five");
    for address in PHYS.both() {
        let outside = Outside::open(&lab, address);
        let blocks: BTreeSet<_> = holders
            .iter()
            .map(|vm| block_of(outside.map(vm, OUTSIDE)))
            .collect();
        assert_eq!(
            blocks,
            (0..BLOCKS).map(|number| FIRST + number * SIZE).collect()
        );
        let before = lab.host.drops("vm15", "nat_ports_exhausted");
        assert_eq!(outside.try_map(last, OUTSIDE), None);
        let after = lab.host.drops("vm15", "nat_ports_exhausted");
        assert!(after > before, "{:?}", lab.host.all_drops());

        lab.host.vnet("flow flush");
        let block = block_of(outside.map(last, OUTSIDE));
        assert!(blocks.contains(&block));
        // Three more get one; the fifth is another one now.
        let got = holders
            .iter()
            .filter(|vm| outside.try_map(vm, OUTSIDE).is_some());
        assert_eq!(got.count(), 3);
        lab.host.vnet("flow flush");
    }
}

/// A VM keeps its block as long as it has one mapping in it.
#[test]
fn block_stays_with_the_last_mapping() {
    let lab = lab();
    let vm = lab.vm(11);
    let phys = lab.phys.netns();
    let to = at(PHYS.v4.into(), 0);
    let datagrams = Datagrams::between(vm.netns(), OUTSIDE, phys, to);
    let block = block_of(datagrams.exchange(&[10]).by_server.port());
    for round in 0..3 {
        let mut tcp = Connection::open(vm.netns(), OUTSIDE + round, phys, to);
        tcp.exchange(1000, 1000);
        assert_eq!(block_of(tcp.seen.by_server.port()), block);
        lab.host.vnet("flow flush --proto tcp");
    }
    assert_eq!(block_of(datagrams.exchange(&[10]).by_server.port()), block);
    assert!(block_events(&lab, "block_end").is_empty());
}

fn block_events(lab: &Lab, name: &str) -> Vec<Value> {
    let mut events = lab.host.events();
    events.retain(|event| event["event"] == name);
    events
}

/// Two events are all that a log takes to know who had a port.
#[test]
fn block_is_told_by_events() {
    let lab = lab();
    let vm = lab.vm(11);
    for (address, own) in PHYS.both().into_iter().zip(vm.address.both()) {
        let outside = Outside::open(&lab, address);
        drop(lab.host.events());
        let ports: Vec<_> = (0..3)
            .map(|number| outside.map(&vm, OUTSIDE + number))
            .collect();
        let events = lab.host.events();
        let [begun] = &named(&events, "block_new")[..] else {
            panic!("one block was taken: {events:?}");
        };
        assert_eq!(named(&events, "block_end").len(), 0);
        lab.host.vnet("flow flush");
        let events = lab.host.events();
        let [ended] = &named(&events, "block_end")[..] else {
            panic!("one block was given back: {events:?}");
        };
        assert_eq!(named(&events, "block_new").len(), 0);
        for event in [begun, ended] {
            assert_eq!(event["src"], own.to_string(), "{event}");
            let external = UPLINK.like(address).to_string();
            assert_eq!(event["nat_addr"], external, "{event}");
            assert_eq!(event["nat_port"], block_of(ports[0]), "{event}");
            assert_eq!(event["rule"], lab.rules()[0].id(), "{event}");
        }
        assert_eq!(begun["count"], SIZE, "{begun}");
    }
}

fn named<'a>(events: &'a [Value], name: &str) -> Vec<&'a Value> {
    let wanted = events.iter().filter(|event| event["event"] == name);
    wanted.collect()
}
