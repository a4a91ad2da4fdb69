//! TCP throughput and round trips between two VMs, and between a VM and the host.
//!
//! ```text
//!   vm-a ns          switch ns              vm-b ns
//!   eth0 ═════════ a ▸ contestant ▸ b ═════════ eth0
//!                      switch device: the host
//! ```
//!
//! The VMs are network namespaces behind veths whose offloads are as the kernel made them.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context, Result, bail};
use serde::Serialize;
use xtask::{netns::Netns, process::output};

use super::Options;
use crate::{
    cpu,
    iperf::{self, Sender, Server},
    lane::{Contestant, ifindex, namespace, veth},
    programs::Programs,
    report::{Aim, Bound, number, percent, table},
    run::Findings,
    statistics::{Rounds, median},
    vnet_user::VnetUser,
};

const VM_A: &str = "192.0.2.1";
const VM_B: &str = "192.0.2.2";
const HOST: &str = "192.0.2.254";

/// Who speaks to whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Path {
    VmToVm,
    VmToHost,
    HostToVm,
}

impl Path {
    const ALL: [Self; 3] = [Self::VmToVm, Self::VmToHost, Self::HostToVm];

    fn title(self) -> &'static str {
        match self {
            Self::VmToVm => "VM to VM",
            Self::VmToHost => "VM to host",
            Self::HostToVm => "host to VM",
        }
    }
}

/// One contestant on one path.
#[derive(Debug, Default, Serialize)]
struct Figures {
    gigabits: Rounds,
    /// Medians of the rounds' pings; empty where it would be the same as the way back.
    round_trip_us: Rounds,
}

/// By path and contestant.
#[derive(Debug, Serialize)]
pub struct Tcp(BTreeMap<Path, BTreeMap<Contestant, Figures>>);

/// Measures all paths in turns.
pub fn run(options: &Options) -> Result<Tcp> {
    let contestants = [
        Contestant::RedirectTc,
        Contestant::Bridge,
        Contestant::VnetTc,
    ];
    let mut setups = Vec::new();
    for contestant in contestants {
        let setup = Setup::new(contestant)
            .with_context(|| format!("preparing {} for TCP", contestant.title()))?;
        setups.push((contestant, setup));
    }
    let mut all: BTreeMap<_, BTreeMap<_, Figures>> = BTreeMap::new();
    for _ in 0..options.timing.rounds() {
        for path in Path::ALL {
            for (contestant, setup) in &setups {
                // No host is behind a program that redirects everything.
                if *contestant == Contestant::RedirectTc && path != Path::VmToVm {
                    continue;
                }
                let of_path = all.entry(path).or_default();
                let figures = of_path.entry(*contestant).or_default();
                let throughput = setup.throughput(path, 2 * options.timing.time());
                let doing = || format!("TCP, {}, {}", path.title(), contestant.title());
                figures.gigabits.push(throughput.with_context(doing)?);
                if path != Path::HostToVm {
                    let round_trip = setup.round_trip(path).with_context(doing)?;
                    figures.round_trip_us.push(round_trip);
                }
            }
        }
    }
    Ok(Tcp(all))
}

impl Findings for Tcp {
    fn print(&self) {
        let mut rows = Vec::new();
        for (path, contestants) in &self.0 {
            let bridge = contestants.get(&Contestant::Bridge);
            for (&contestant, figures) in contestants {
                let bridge = bridge.filter(|_| contestant != Contestant::Bridge);
                let ratio = |of: fn(&Figures) -> &Rounds| {
                    let ratio = bridge.map(|bridge| of(figures).over(of(bridge)).median());
                    number(ratio, 2)
                };
                rows.push(vec![
                    format!("{}, {}", path.title(), contestant.title()),
                    number(Some(figures.gigabits.median()), 2),
                    percent(figures.gigabits.spread(), 1),
                    ratio(|figures| &figures.gigabits),
                    number(Some(figures.round_trip_us.median()), 1),
                    ratio(|figures| &figures.round_trip_us),
                ]);
            }
        }
        table(
            "TCP, and round trip without load",
            &["", "Gb/s", "spread", "× bridge", "µs", "× bridge's"],
            &rows,
        );
    }

    fn aims(&self) -> Vec<Aim> {
        let mut aims = Vec::new();
        for (path, contestants) in &self.0 {
            let vnet = contestants.get(&Contestant::VnetTc);
            let bridge = contestants.get(&Contestant::Bridge);
            if let Some((vnet, bridge)) = vnet.zip(bridge) {
                let value = vnet.gigabits.over(&bridge.gigabits).median();
                let what = format!("TCP, {}, vnet, TC / Linux bridge", path.title());
                aims.push(Aim::new(what, value, Bound::AtLeast(1.0)));
            }
        }
        aims
    }
}

/// A contestant with two VMs.
struct Setup {
    // Dropped in this order: programs before the interfaces they are attached to.
    _servers: [Server; 2],
    _forwarding: Vec<Programs>,
    _switch: Option<VnetUser>,
    vm_a: Netns,
    _vm_b: Netns,
    _inside: Netns,
    cpus: Vec<usize>,
}

impl Setup {
    fn new(contestant: Contestant) -> Result<Self> {
        let name = contestant.name();
        let inside = namespace(&format!("tcp-{name}-switch"))?;
        let vm_a = namespace(&format!("tcp-{name}-vm-a"))?;
        let vm_b = namespace(&format!("tcp-{name}-vm-b"))?;
        for (near, vm, address) in [("a", &vm_a, VM_A), ("b", &vm_b, VM_B)] {
            veth(&inside, near, vm, "eth0")?;
            vm.ip(&format!("addr add {address}/24 dev eth0"))?;
        }
        let mut forwarding = Vec::new();
        let mut switch = None;
        let mut host = None;
        match contestant {
            Contestant::Bridge => {
                inside.ip("link add br0 up type bridge")?;
                for port in ["a", "b"] {
                    inside.ip(&format!("link set dev {port} master br0"))?;
                }
                host = Some("br0".to_owned());
            }
            Contestant::VnetTc => {
                let vnet = VnetUser::new("vbenchtcp", inside.name())?;
                vnet.write_ports(&["a".to_owned(), "b".to_owned()])?;
                vnet.run("up")?;
                host = Some(vnet.switch().to_owned());
                switch = Some(vnet);
            }
            Contestant::RedirectTc => {
                for (from, to) in [("a", "b"), ("b", "a")] {
                    let mut programs = Programs::new(ifindex(&inside, to)?, 1)?;
                    programs.attach_tc("redirect_tc", inside.name(), from)?;
                    forwarding.push(programs);
                }
            }
            _ => bail!("no VMs are put behind it"),
        }
        if let Some(device) = host {
            inside.ip(&format!("addr add {HOST}/24 dev {device}"))?;
        }
        let cpus = cpu::allowed()?;
        let servers = [Server::start(&vm_b, &cpus)?, Server::start(&inside, &cpus)?];
        Ok(Self {
            _servers: servers,
            _forwarding: forwarding,
            _switch: switch,
            vm_a,
            _vm_b: vm_b,
            _inside: inside,
            cpus,
        })
    }

    /// Gb/s over one connection.
    fn throughput(&self, path: Path, time: Duration) -> Result<f64> {
        let (server, sender) = match path {
            Path::VmToVm => (VM_B, Sender::Client),
            Path::VmToHost => (HOST, Sender::Client),
            Path::HostToVm => (HOST, Sender::Server),
        };
        iperf::gigabits(&self.vm_a, &self.cpus, server, sender, time)
    }

    /// The median round trip of pings without load, in µs.
    fn round_trip(&self, path: Path) -> Result<f64> {
        let to = if path == Path::VmToVm { VM_B } else { HOST };
        let mut ping = self.vm_a.command("ping")?;
        ping.args(["-n", "-i", "0.002", "-c", "500", to]);
        iperf::stay_on(&mut ping, self.cpus.first());
        iperf::end_with_us(&mut ping);
        // `64 bytes from 192.0.2.2: icmp_seq=1 ttl=64 time=0.031 ms`
        let times: Vec<f64> = output(&mut ping)?
            .lines()
            .filter_map(|line| line.split_once(" time=")?.1.strip_suffix(" ms"))
            .filter_map(|time| time.parse().ok())
            .collect();
        if times.is_empty() {
            bail!("ping printed no times");
        }
        Ok(median(&times) * 1000.0)
    }
}
