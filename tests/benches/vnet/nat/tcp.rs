//! TCP throughput and round trips between a VM and a host behind the uplink.
//!
//! ```text
//!   vm ns           gateway ns              remote ns
//!   eth0 ═════════ vm1 ▸ contestant ▸ up ═════════ eth0
//! ```
//!
//! Veths stand for the VM's and for the NIC; their offloads are as the kernel made them.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context, Result};
use serde::Serialize;
use vnet_ebpf::traffic::nat::{GATEWAY, ROUTER, VM};
use xtask::netns::Netns;

use super::{
    Options,
    gateway::{Contestant, Gateway, Mode, text},
    ping_pong::{Protocol, round_trip_us},
};
use crate::{
    cpu,
    iperf::{self, Sender, Server},
    lane::{namespace, veth},
    report::{Aim, Bound, number, percent, table},
    run::Findings,
    statistics::Rounds,
};

/// Flows that there is room for: the default.
const FLOWS: u32 = 262_144;

/// What was measured of one contestant.
#[derive(Debug, Default, Serialize)]
struct Figures {
    /// From the VM to the remote host.
    outgoing_gigabits: Rounds,
    /// From the remote host to the VM.
    incoming_gigabits: Rounds,
    /// Medians of the rounds.
    tcp_round_trip_us: Rounds,
    /// Medians of the rounds.
    udp_round_trip_us: Rounds,
}

/// A figure, how it is named, and the places that it is shown with.
type Column = (&'static str, fn(&Figures) -> &Rounds, usize);

const COLUMNS: [Column; 4] = [
    ("VM to remote host, Gb/s", |f| &f.outgoing_gigabits, 2),
    ("remote host to VM, Gb/s", |f| &f.incoming_gigabits, 2),
    ("TCP round trip, µs", |f| &f.tcp_round_trip_us, 1),
    ("UDP round trip, µs", |f| &f.udp_round_trip_us, 1),
];

/// By contestant.
#[derive(Debug, Serialize)]
pub struct Tcp(BTreeMap<Contestant, Figures>);

/// Measures contestants in turns.
pub fn run(options: &Options) -> Result<Tcp> {
    let mut setups = Vec::new();
    for (number, contestant) in options.contestants().enumerate() {
        // The others have no address to answer ARP for.
        if matches!(contestant, Contestant::Vnet | Contestant::Nft) {
            setups.push((contestant, Setup::new(contestant, number)?));
        }
    }
    let mut all: BTreeMap<_, Figures> = BTreeMap::new();
    for _ in 0..options.timing.rounds() {
        for sender in [Sender::Client, Sender::Server] {
            for (contestant, setup) in &setups {
                let figures = all.entry(*contestant).or_default();
                let doing = || format!("TCP, {}", contestant.title());
                let rate = setup.throughput(sender, 2 * options.timing.time());
                let rate = rate.with_context(doing)?;
                match sender {
                    Sender::Client => figures.outgoing_gigabits.push(rate),
                    Sender::Server => figures.incoming_gigabits.push(rate),
                }
            }
        }
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            for (contestant, setup) in &setups {
                let figures = all.entry(*contestant).or_default();
                let doing = || format!("round trips, {}", contestant.title());
                let time = setup.round_trip(protocol, options.timing.time());
                let time = time.with_context(doing)?;
                match protocol {
                    Protocol::Tcp => figures.tcp_round_trip_us.push(time),
                    Protocol::Udp => figures.udp_round_trip_us.push(time),
                }
            }
        }
    }
    Ok(Tcp(all))
}

impl Tcp {
    /// The median of the rounds' ratios of vnet to nft.
    fn ratio(&self, figure: fn(&Figures) -> &Rounds) -> Option<f64> {
        let vnet = figure(self.0.get(&Contestant::Vnet)?);
        let nft = figure(self.0.get(&Contestant::Nft)?);
        Some(vnet.over(nft).median())
    }
}

impl Findings for Tcp {
    fn print(&self) {
        let mut rows = Vec::new();
        for (what, figure, places) in COLUMNS {
            for (&contestant, figures) in &self.0 {
                let rounds = figure(figures);
                let ratio = self.ratio(figure).filter(|_| contestant != Contestant::Nft);
                rows.push(vec![
                    format!("{what}, {}", contestant.title()),
                    number(Some(rounds.median()), places),
                    percent(rounds.spread(), 1),
                    number(ratio, 2),
                ]);
            }
        }
        table(
            "TCP, and round trips without load",
            &["", "", "spread", "× nft"],
            &rows,
        );
    }

    fn aims(&self) -> Vec<Aim> {
        let throughput = &COLUMNS[..2];
        let aim = |&(what, figure, _): &Column| {
            let what = format!("TCP, {what}: vnet / nft masquerade");
            Some(Aim::new(what, self.ratio(figure)?, Bound::AtLeast(1.0)))
        };
        throughput.iter().filter_map(aim).collect()
    }
}

/// A contestant between a VM and a remote host.
struct Setup {
    // Dropped in this order: programs before the interfaces they are attached to.
    _server: Server,
    _gateway: Gateway,
    vm: Netns,
    remote: Netns,
    _netns: Netns,
    cpus: Vec<usize>,
}

impl Setup {
    fn new(contestant: Contestant, number: usize) -> Result<Self> {
        let name = contestant.name();
        let netns = namespace(&format!("tcp-{name}-gateway"))?;
        let vm = namespace(&format!("tcp-{name}-vm"))?;
        let remote = namespace(&format!("tcp-{name}-remote"))?;
        for (near, far, address) in [("vm1", &vm, VM), ("up", &remote, ROUTER)] {
            veth(&netns, near, far, "eth0")?;
            far.ip(&format!("addr add {}/24 dev eth0", text(address)))?;
        }
        let gateway = Gateway::new(contestant, &netns, number, FLOWS, Mode::Tc)?;
        vm.ip(&format!("route add default via {}", text(GATEWAY)))?;
        let cpus = cpu::allowed()?;
        Ok(Self {
            _server: Server::start(&remote, &cpus)?,
            _gateway: gateway,
            vm,
            remote,
            _netns: netns,
            cpus,
        })
    }

    fn throughput(&self, sender: Sender, time: Duration) -> Result<f64> {
        iperf::gigabits(&self.vm, &self.cpus, &text(ROUTER), sender, time)
    }

    fn round_trip(&self, protocol: Protocol, time: Duration) -> Result<f64> {
        let cpu = *self.cpus.last().context("there is no CPU")?;
        round_trip_us(protocol, &self.vm, &self.remote, ROUTER, cpu, time)
    }
}
