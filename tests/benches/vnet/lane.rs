//! A contestant with everything that it needs, apart from all others:
//!
//! ```text
//!   outside ns          switch ns               outside ns
//!   generator ▸ gen ═══ up ▸ contestant ▸ vm1 ═══ sink ▸ counts, drops
//! ```
//!
//! `gen`, a veth, is where the generator redirects its frames to, so that they arrive at `up` as
//! from a NIC in native XDP. The sink is an XDP program, which also gives its veth the NAPI that
//! XDP redirects into it need.

use std::time::Duration;

use anyhow::{Context, Result};
use clap::ValueEnum;
use serde::Serialize;
use vnet_ebpf::traffic;
use xtask::netns::Netns;

use crate::{
    generator::{self, Measured},
    programs::Programs,
    vnet_user::VnetUser,
};

/// What forwards frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Contestant {
    /// An XDP program that redirects everything
    RedirectXdp,
    /// The lookups and counters that a switch cannot do without, in XDP
    FloorXdp,
    /// vnet, --mode xdp
    VnetXdp,
    /// A TC program that redirects everything
    RedirectTc,
    /// The lookups and counters that a switch cannot do without, at TC
    FloorTc,
    /// vnet, --mode tc
    VnetTc,
    /// The Linux bridge
    Bridge,
}

impl Contestant {
    /// How it is named in options.
    pub fn name(self) -> String {
        self.to_possible_value()
            .map_or_else(String::new, |value| value.get_name().to_owned())
    }

    /// How it is named in tables.
    pub fn title(self) -> &'static str {
        match self {
            Self::RedirectXdp => "no-op, XDP",
            Self::FloorXdp => "floor, XDP",
            Self::VnetXdp => "vnet, XDP",
            Self::RedirectTc => "no-op, TC",
            Self::FloorTc => "floor, TC",
            Self::VnetTc => "vnet, TC",
            Self::Bridge => "Linux bridge",
        }
    }

    /// The hook that its program is attached to, if it is a program.
    pub fn hook(self) -> Option<Hook> {
        match self {
            Self::RedirectXdp | Self::FloorXdp | Self::VnetXdp => Some(Hook::Xdp),
            Self::RedirectTc | Self::FloorTc | Self::VnetTc => Some(Hook::Tc),
            Self::Bridge => None,
        }
    }
}

/// Where a program gets its frames.
#[derive(Clone, Copy, Debug)]
pub enum Hook {
    /// In the driver.
    Xdp,
    /// At TC ingress.
    Tc,
}

impl Hook {
    /// Who shows what the hook itself costs.
    pub fn redirect(self) -> Contestant {
        match self {
            Self::Xdp => Contestant::RedirectXdp,
            Self::Tc => Contestant::RedirectTc,
        }
    }

    /// Who does the least that a switch does.
    pub fn floor(self) -> Contestant {
        match self {
            Self::Xdp => Contestant::FloorXdp,
            Self::Tc => Contestant::FloorTc,
        }
    }
}

/// What a lane is to be.
#[derive(Clone, Copy, Debug)]
pub struct Spec {
    /// Who forwards.
    pub contestant: Contestant,
    /// Addresses that there is to be room for.
    pub fdb_size: u32,
    /// Flows that will be sent at most.
    pub flows: u32,
    /// Ports of the switch, those of the lane included.
    pub ports: u32,
}

/// A contestant, ready to be measured.
pub struct Lane {
    // Dropped in this order: programs before the interfaces they are attached to.
    generator: Programs,
    sink: Programs,
    _forwarding: Option<Programs>,
    _switch: Option<VnetUser>,
    outside: Netns,
    inside: Netns,
}

impl Lane {
    /// Makes the lane. `number` is one that no other lane has.
    pub fn new(number: usize, spec: Spec) -> Result<Self> {
        let name = spec.contestant.name();
        Self::make(number, spec).with_context(|| format!("preparing {name}"))
    }

    fn make(number: usize, spec: Spec) -> Result<Self> {
        let inside = namespace(&format!("lane{number}-switch"))?;
        let outside = namespace(&format!("lane{number}-outside"))?;
        for (near, far) in [("up", "gen"), ("vm1", "sink")] {
            veth(&inside, near, &outside, far)?;
        }
        // The frames are complete: no checksum and no tag is left to a device.
        outside.sh("ethtool -K gen tx off txvlan off tx-vlan-stag-hw-insert off")?;

        let up = ifindex(&inside, "up")?;
        let vm1 = ifindex(&inside, "vm1")?;
        let mut sink = Programs::new(0, 1)?;
        sink.attach_xdp("sink", outside.name(), "sink")?;
        let mut generator = Programs::new(ifindex(&outside, "gen")?, 1)?;
        generator.load_generator("generate")?;

        let mut lane = Self {
            generator,
            sink,
            _forwarding: None,
            _switch: None,
            outside,
            inside,
        };
        let netns = lane.inside.name();
        match spec.contestant {
            Contestant::RedirectXdp | Contestant::FloorXdp => {
                let mut programs = Programs::new(vm1, spec.fdb_size)?;
                let name = if spec.contestant == Contestant::RedirectXdp {
                    "redirect_xdp"
                } else {
                    programs.fill_floor(up, vm1, spec.flows)?;
                    "floor_xdp"
                };
                programs.attach_xdp(name, netns, "up")?;
                lane._forwarding = Some(programs);
            }
            Contestant::RedirectTc | Contestant::FloorTc => {
                lane.receive_like_a_nic()?;
                let mut programs = Programs::new(vm1, spec.fdb_size)?;
                let name = if spec.contestant == Contestant::RedirectTc {
                    "redirect_tc"
                } else {
                    programs.fill_floor(up, vm1, spec.flows)?;
                    "floor_tc"
                };
                programs.attach_tc(name, netns, "up")?;
                lane._forwarding = Some(programs);
            }
            Contestant::Bridge => {
                lane.receive_like_a_nic()?;
                lane.inside.ip("link add br0 type bridge")?;
                for port in ["up", "vm1"] {
                    lane.inside.ip(&format!("link set dev {port} master br0"))?;
                }
                lane.inside.ip("link set br0 up")?;
                let mac = mac_text(traffic::DESTINATION);
                lane.inside
                    .sh(&format!("bridge fdb add {mac} dev vm1 master static"))?;
            }
            Contestant::VnetXdp => lane.up(number, "xdp", spec)?,
            Contestant::VnetTc => {
                lane.receive_like_a_nic()?;
                lane.up(number, "tc", spec)?;
            }
        }
        Ok(lane)
    }

    /// Gives `up` NAPI and GRO, which a NIC has and a veth without XDP has not.
    fn receive_like_a_nic(&self) -> Result<()> {
        self.inside.sh("ethtool -K up gro on").map(drop)
    }

    fn up(&mut self, number: usize, mode: &str, spec: Spec) -> Result<()> {
        let switch = VnetUser::new(&format!("vbench{number}"), self.inside.name())?;
        switch.run(&format!("set fdb_size={}", spec.fdb_size))?;
        let mut ports = more_ports(&self.inside, spec.ports - 2)?;
        ports.push("vm1".to_owned());
        switch.write_ports(&ports)?;
        switch.run(&format!("up --uplink up --mode {mode}"))?;
        let mac = mac_text(traffic::DESTINATION);
        switch.run(&format!("fdb add {mac} --network default --port vm1"))?;
        self._switch = Some(switch);
        Ok(())
    }

    /// Sends frames of `flows` flows for `time`.
    pub fn measure(&mut self, flows: u32, time: Duration) -> Result<Measured> {
        self.generator.set_flows(flows)?;
        generator::measure(
            &mut self.generator,
            &self.sink,
            self.outside.name(),
            2 * flows,
            time,
        )
    }
}

/// A network namespace in which nobody speaks unasked.
pub fn namespace(name: &str) -> Result<Netns> {
    let netns = Netns::create(name)?;
    netns.sh("for which in all default; do \
         echo 1 > /proc/sys/net/ipv6/conf/$which/disable_ipv6; done")?;
    Ok(netns)
}

/// A veth between two namespaces, up on both sides.
pub fn veth(here: &Netns, near: &str, there: &Netns, far: &str) -> Result<()> {
    here.ip(&format!(
        "link add name {near} type veth peer name {far} netns {}",
        there.name()
    ))?;
    here.ip(&format!("link set dev {near} up"))?;
    there.ip(&format!("link set dev {far} up"))?;
    Ok(())
}

/// Makes veths that lead nowhere, up on both sides; gives the names of the near ones.
pub fn more_ports(netns: &Netns, count: u32) -> Result<Vec<String>> {
    let names: Vec<_> = (0..count).map(|number| format!("p{number}")).collect();
    let lines: String = names
        .iter()
        .flat_map(|name| {
            [
                format!("link add {name} up type veth peer name q{name}\n"),
                format!("link set q{name} up\n"),
            ]
        })
        .collect();
    if count > 0 {
        netns.sh(&format!("ip -batch - <<'end'\n{lines}end"))?;
    }
    Ok(names)
}

/// An interface's index.
pub fn ifindex(netns: &Netns, interface: &str) -> Result<u32> {
    // `2: up@if3: <BROADCAST,…`
    let text = netns.ip(&format!("-o link show dev {interface}"))?;
    let (number, _) = text.split_once(':').context("`ip link` printed no index")?;
    number.trim().parse().context("`ip link` printed no index")
}

/// A MAC address as programs take it.
pub fn mac_text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}
