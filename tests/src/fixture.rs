//! What a fixture says.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use vnet_common::{DropReason, EventKind, Mac};
use vnet_ebpf::meta::Tag;
use vnet_user::{config::Config, gateway::switch_ports, ports::Role};

use crate::{
    frame::{Spec, parse_tags},
    ledger,
    setup::{Device, Devices, Options, SWITCH, Setup, read_document},
    world,
};

/// The switch device's address.
pub const VSW0: Mac = [0x02, 0, 0, 0, 1, 0];
/// The address of the uplink eth0.
pub const ETH0: Mac = [0x02, 0, 0, 0, 1, 1];
/// The address of the uplink eth1.
pub const ETH1: Mac = [0x02, 0, 0, 0, 1, 2];
/// The address of the gateway port of the network lan.
pub const LAN: Mac = [0x02, 0, 0, 0, 1, 3];

/// First interface index; 1 is the loopback interface's.
const FIRST_IFINDEX: u32 = 2;

/// A switch, what it is given, and what is to come of it.
///
/// The switch device `vsw0` is there without being mentioned, on the network `default`, and so is an
/// interface for every port of the document: uplinks outside the switch device, others members.
#[derive(Clone, Debug)]
pub struct Fixture {
    /// What it shows.
    pub name: &'static str,
    document: &'static str,
    changes: Vec<(&'static str, Change)>,
    fdb_size: Option<u32>,
    flow_size: Option<u32>,
    tcp_at_tc: bool,
    world: &'static str,
    /// What happens, in order.
    pub steps: Vec<Step>,
    /// Every counter that is not zero at the end ([`ledger::parse`]).
    pub counters: &'static str,
    /// Every event, by kind: `mac_learned 2 storm 1`.
    pub events: &'static str,
}

/// How an interface differs from what is usual.
#[derive(Clone, Copy, Debug)]
enum Change {
    Mtu(u32),
    Ifindex(u32),
    Down,
    Absent,
    Member,
    XdpTarget,
}

/// One thing that happens.
#[derive(Clone, Debug)]
pub enum Step {
    /// A frame comes in.
    Send {
        /// The frame.
        spec: Box<Spec>,
        /// What is to come of it.
        expect: Expect,
    },
    /// Seconds go by.
    Advance(u32),
    /// Another document is put into force.
    Apply(&'static str),
    /// Every connection that is over ends, as by the expiry timer.
    Sweep,
    /// Every connection ends, as by `flow flush`.
    Flush,
    /// Something becomes so on the host, or no longer is ([`world::parse`]).
    Host(&'static str),
    /// These are the connections ([`crate::connections::Connections::states`]).
    States(&'static str),
}

/// What is to come of a frame.
#[derive(Clone, Debug, Default)]
pub struct Expect {
    /// The ports it leaves by, in order, with its tags there: `tap1`, `eth0@10`, `eth0@10,20`.
    pub sent: Vec<&'static str>,
    /// The frame itself goes on to whatever is behind the hook.
    pub passes: bool,
    /// Reason and port of every drop that is counted.
    pub drops: Vec<(&'static str, &'static str)>,
    /// The destination it leaves with, when that is another.
    pub destination: Option<Mac>,
    /// What it leaves as, when it is another frame altogether.
    pub becomes: Option<Box<Spec>>,
}

/// It leaves by one port.
#[must_use]
pub fn to(port: &'static str) -> Expect {
    flood(&[port])
}

/// It leaves by several ports.
#[must_use]
pub fn flood(ports: &[&'static str]) -> Expect {
    Expect {
        sent: ports.to_vec(),
        ..Expect::default()
    }
}

/// It goes on to whatever is behind the hook.
#[must_use]
pub fn passes() -> Expect {
    Expect {
        passes: true,
        ..Expect::default()
    }
}

/// It is dropped and counted at `port`.
#[must_use]
pub fn dropped(reason: &'static str, port: &'static str) -> Expect {
    Expect::default().refused(reason, port)
}

impl Expect {
    /// The frame itself goes on to whatever is behind the hook, besides.
    #[must_use]
    pub fn and_passes(mut self) -> Self {
        self.passes = true;
        self
    }

    /// It leaves with another destination.
    #[must_use]
    pub fn readdressed(mut self, to: Mac) -> Self {
        self.destination = Some(to);
        self
    }

    /// It leaves as this frame, whose port does not matter.
    #[must_use]
    pub fn becomes(mut self, frame: Spec) -> Self {
        self.becomes = Some(Box::new(frame));
        self
    }

    /// A port would have got it, but for `reason`.
    #[must_use]
    pub fn refused(mut self, reason: &'static str, port: &'static str) -> Self {
        self.drops.push((reason, port));
        self
    }
}

/// Splits `eth0@10` into port and tags.
///
/// # Errors
/// The tags are not spelled so.
pub fn split_exit(text: &str) -> Result<(&str, Vec<Tag>)> {
    let (port, tags) = text.split_once('@').unwrap_or((text, ""));
    Ok((port, parse_tags(tags)?))
}

impl Fixture {
    /// A switch with this document, the line with the schema left out.
    #[must_use]
    pub fn new(name: &'static str, document: &'static str) -> Self {
        Self {
            name,
            document,
            changes: Vec::new(),
            fdb_size: None,
            flow_size: None,
            tcp_at_tc: false,
            world: "",
            steps: Vec::new(),
            counters: "",
            events: "",
        }
    }

    fn change(mut self, port: &'static str, change: Change) -> Self {
        self.changes.push((port, change));
        self
    }

    /// An interface has this MTU and not 1500.
    #[must_use]
    pub fn mtu(self, port: &'static str, mtu: u32) -> Self {
        self.change(port, Change::Mtu(mtu))
    }

    /// An interface has this number.
    #[must_use]
    pub fn ifindex(self, port: &'static str, ifindex: u32) -> Self {
        self.change(port, Change::Ifindex(ifindex))
    }

    /// An interface is down.
    #[must_use]
    pub fn down(self, port: &'static str) -> Self {
        self.change(port, Change::Down)
    }

    /// An interface does not exist.
    #[must_use]
    pub fn absent(self, port: &'static str) -> Self {
        self.change(port, Change::Absent)
    }

    /// An uplink is a member of the switch device.
    #[must_use]
    pub fn member(self, port: &'static str) -> Self {
        self.change(port, Change::Member)
    }

    /// XDP may redirect to an interface.
    #[must_use]
    pub fn xdp_target(self, port: &'static str) -> Self {
        self.change(port, Change::XdpTarget)
    }

    /// TCP from XDP goes up to TC.
    #[must_use]
    pub fn tcp_at_tc(mut self) -> Self {
        self.tcp_at_tc = true;
        self
    }

    /// The FDB holds this many addresses.
    #[must_use]
    pub fn fdb_size(mut self, size: u32) -> Self {
        self.fdb_size = Some(size);
        self
    }

    /// The flow table holds this many connections.
    #[must_use]
    pub fn flow_size(mut self, size: u32) -> Self {
        self.flow_size = Some(size);
        self
    }

    /// What the host knows from the start ([`world::parse`]).
    #[must_use]
    pub fn world(mut self, world: &'static str) -> Self {
        self.world = world;
        self
    }

    /// A frame comes in, and this is to come of it.
    #[must_use]
    pub fn send(mut self, spec: Spec, expect: Expect) -> Self {
        self.steps.push(Step::Send {
            spec: Box::new(spec),
            expect,
        });
        self
    }

    /// Seconds go by. The clock of storm limits also runs by itself in the kernel: there, stay a
    /// second clear of a limit.
    #[must_use]
    pub fn advance(mut self, seconds: u32) -> Self {
        self.steps.push(Step::Advance(seconds));
        self
    }

    /// Another document is put into force, for the same interfaces.
    #[must_use]
    pub fn apply(mut self, document: &'static str) -> Self {
        self.steps.push(Step::Apply(document));
        self
    }

    /// Every connection that is over ends, as by the expiry timer.
    #[must_use]
    pub fn sweep(mut self) -> Self {
        self.steps.push(Step::Sweep);
        self
    }

    /// Every connection ends, as by `flow flush`.
    #[must_use]
    pub fn flush(mut self) -> Self {
        self.steps.push(Step::Flush);
        self
    }

    /// Something becomes so on the host, or no longer is ([`world::parse`]).
    #[must_use]
    pub fn host(mut self, lines: &'static str) -> Self {
        self.steps.push(Step::Host(lines));
        self
    }

    /// By now, these are the connections, in order: `tcp established, udp one-way`.
    #[must_use]
    pub fn states(mut self, states: &'static str) -> Self {
        self.steps.push(Step::States(states));
        self
    }

    /// Every counter that is not zero at the end.
    #[must_use]
    pub fn counters(mut self, counters: &'static str) -> Self {
        self.counters = counters;
        self
    }

    /// Every event, by kind.
    #[must_use]
    pub fn events(mut self, events: &'static str) -> Self {
        self.events = events;
        self
    }

    /// The drop reasons that it expects.
    ///
    /// # Errors
    /// The counters are not spelled as they are.
    pub fn reasons(&self) -> Result<Vec<DropReason>> {
        let setup = self.setup()?;
        let counters = ledger::parse(self.counters, |name| setup.slot(name))?;
        Ok(ledger::drops(&counters)
            .map(|((reason, _), _)| reason)
            .collect())
    }

    /// How often each kind of event is expected.
    ///
    /// # Errors
    /// The events are not spelled as they are.
    pub fn event_counts(&self) -> Result<BTreeMap<&'static str, u32>> {
        let mut counts = BTreeMap::new();
        let mut words = self.events.split_whitespace();
        while let Some(name) = words.next() {
            let kind = EventKind::ALL.iter().find(|kind| kind.name() == name);
            let kind = kind.with_context(|| format!("no event is called {name}"))?;
            let count = words.next().with_context(|| format!("how many {name}?"))?;
            counts.insert(kind.name(), count.parse()?);
        }
        Ok(counts)
    }

    /// The switch as it is at first.
    ///
    /// # Errors
    /// The document is not valid.
    pub fn setup(&self) -> Result<Setup> {
        let config = read_document(self.document)?;
        let devices = self.devices(&config)?;
        Setup::with(config, devices, &self.options()?, None)
    }

    fn options(&self) -> Result<Options> {
        let lines = world::parse(self.world)?;
        Ok(Options {
            fdb_size: self.fdb_size,
            flow_size: self.flow_size,
            tcp_at_tc: self.tcp_at_tc,
            facts: lines.into_iter().map(|line| line.fact).collect(),
        })
    }

    /// The switch with another document in place of the one in `before`.
    ///
    /// # Errors
    /// The document is not valid.
    pub fn next_setup(&self, document: &str, before: &Setup) -> Result<Setup> {
        let config = read_document(document)?;
        let devices = before.devices.clone();
        Setup::with(config, devices, &self.options()?, Some(before))
    }

    /// An interface for every port that any of the documents names.
    fn devices(&self, first: &Config) -> Result<Devices> {
        let mut configs = vec![first.clone()];
        for step in &self.steps {
            if let Step::Apply(document) = step {
                configs.push(read_document(document)?);
            }
        }
        let mut devices = Devices::new();
        let mut next = FIRST_IFINDEX;
        for port in configs
            .iter()
            .flat_map(|config| switch_ports(config, SWITCH))
        {
            let role = port.role;
            let port = port.port;
            if devices.contains_key(&port.name) {
                continue;
            }
            let device = Device {
                ifindex: next,
                mac: match port.name.as_str() {
                    SWITCH => VSW0,
                    "eth0" => ETH0,
                    "eth1" => ETH1,
                    "vsw0.lan" => LAN,
                    _ => [0x02, 0, 0, 0, 2, next as u8],
                },
                mtu: 1500,
                up: true,
                member: role == Role::Vm,
                xdp_target: false,
            };
            devices.insert(port.name, device);
            next += 1;
        }
        for (name, change) in &self.changes {
            let device = devices
                .get_mut(*name)
                .with_context(|| format!("there is no port {name}"))?;
            match change {
                Change::Mtu(mtu) => device.mtu = *mtu,
                Change::Ifindex(ifindex) => device.ifindex = *ifindex,
                Change::Down => device.up = false,
                Change::Member => device.member = true,
                Change::XdpTarget => device.xdp_target = true,
                Change::Absent => {
                    devices.remove(*name);
                }
            }
        }
        let mut numbers: Vec<u32> = devices.values().map(|device| device.ifindex).collect();
        numbers.sort_unstable();
        ensure!(
            numbers.windows(2).all(|pair| pair[0] != pair[1]),
            "two interfaces have one number"
        );
        Ok(devices)
    }
}
