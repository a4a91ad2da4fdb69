//! A gateway with everything that it needs, apart from all others:
//!
//! ```text
//!   outside ns          gateway ns                 outside ns
//!   wire ═════════════ up ▸ contestant ◂ vm1 ═════════════ vm
//! ```
//!
//! `wire` and `vm`, veths, are each where a generator redirects its frames to, so that they arrive
//! at `up` as from a NIC in native XDP, and at `vm1` as from a VM. A sink is attached to each,
//! which counts and drops what comes out.

use std::time::Duration;

use anyhow::{Result, bail};
use serde::Serialize;
use vnet_common::Mac;
use vnet_ebpf::traffic::nat::{ROUTER_MAC, VM_MAC};
use xtask::netns::Netns;

use super::gateway::{Contestant, Gateway, Mode};
use crate::{
    generator::{self, Measured},
    lane::{ifindex, mac_text, namespace, veth},
    programs::{Programs, Purpose},
};

/// Attempts to establish flows.
const ATTEMPTS: u32 = 3;

/// Where frames go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Direction {
    /// From the uplink to the VM: a program sees them in XDP.
    Incoming,
    /// From the VM to the uplink: a program sees them at TC.
    Outgoing,
}

impl Direction {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Incoming, Self::Outgoing];

    /// How it is named in tables.
    pub fn title(self) -> &'static str {
        match self {
            Self::Incoming => "uplink to VM, XDP",
            Self::Outgoing => "VM to uplink, TC",
        }
    }
}

/// A gateway, ready to be measured.
pub struct Lane {
    // Dropped in this order: programs before the interfaces they are attached to.
    wire: Programs,
    vm: Programs,
    gateway: Gateway,
    outside: Netns,
    netns: Netns,
}

impl Lane {
    /// Makes the lane, with room for `flows` flows. `number` is one that no other lane has.
    pub fn new(number: usize, contestant: Contestant, flows: u32) -> Result<Self> {
        let netns = namespace(&format!("lane{number}-gateway"))?;
        let outside = namespace(&format!("lane{number}-outside"))?;
        for (near, far, mac) in [("up", "wire", ROUTER_MAC), ("vm1", "vm", VM_MAC)] {
            veth(&netns, near, &outside, far)?;
            outside.ip(&format!("link set dev {far} address {}", mac_text(mac)))?;
            // The frames are complete: no checksum and no tag is left to a device.
            outside.sh(&format!(
                "ethtool -K {far} tx off txvlan off tx-vlan-stag-hw-insert off"
            ))?;
            // NAPI, which a NIC has and a veth without XDP has not. At both ends: a VM's that has none
            // when the switch comes up gets its frames by TC.
            netns.sh(&format!("ethtool -K {near} gro on"))?;
            outside.sh(&format!("ethtool -K {far} gro on"))?;
        }
        let gateway = Gateway::new(contestant, &netns, number, flows, Mode::Xdp)?;
        gateway.know_neighbours(&netns)?;
        Ok(Self {
            wire: end(&outside, "wire", true, gateway.outside_mac())?,
            vm: end(&outside, "vm", false, gateway.inside_mac())?,
            gateway,
            outside,
            netns,
        })
    }

    /// Who generates and who counts.
    fn ends(&mut self, direction: Direction) -> (&mut Programs, &Programs, &str) {
        let outside = self.outside.name();
        match direction {
            Direction::Incoming => (&mut self.wire, &self.vm, outside),
            Direction::Outgoing => (&mut self.vm, &self.wire, outside),
        }
    }

    /// Sends a packet of each of the first `flows` flows out, then one of each in, until all arrive.
    pub fn establish(&mut self, flows: u32) -> Result<()> {
        self.gateway.fill(flows)?;
        for direction in [Direction::Outgoing, Direction::Incoming] {
            let (generator, sink, outside) = self.ends(direction);
            generator.set_flows(flows)?;
            let mut attempt = 1;
            loop {
                generator.rewind()?;
                let measured = generator::send(generator, sink, outside, flows)?;
                let missing = measured.sent.saturating_sub(measured.received);
                // In a table that is nearly full a few find no place (docs/limits.md).
                if missing == 0 || (attempt == ATTEMPTS && missing <= measured.sent / 10_000) {
                    break;
                }
                if attempt == ATTEMPTS {
                    bail!(
                        "establishing {flows} flows: {} of {} packets arrived ({})",
                        measured.received,
                        measured.sent,
                        direction.title()
                    );
                }
                attempt += 1;
            }
        }
        Ok(())
    }

    /// Sends frames of established flows for `time`.
    pub fn measure(&mut self, direction: Direction, time: Duration) -> Result<Measured> {
        let (generator, sink, outside) = self.ends(direction);
        generator::measure(generator, sink, outside, 0, time)
    }

    /// From now on every frame that the VM sends is of a flow that was never there.
    pub fn count_on(&mut self) -> Result<()> {
        self.vm.set_flows(u32::MAX)
    }

    /// Sends `frames` frames from the VM.
    pub fn send(&mut self, frames: u32) -> Result<Measured> {
        let (generator, sink, outside) = self.ends(Direction::Outgoing);
        generator::send(generator, sink, outside, frames)
    }

    /// Ends every flow.
    pub fn flush(&self) -> Result<()> {
        self.gateway.flush(&self.netns)
    }

    /// vnet's switch.
    pub fn switch(&self) -> Result<&str> {
        self.gateway.switch()
    }
}

/// A generator and a sink at `interface`.
fn end(outside: &Netns, interface: &str, incoming: bool, gateway: Mac) -> Result<Programs> {
    let mut programs = Programs::made_for(&Purpose {
        target: ifindex(outside, interface)?,
        fdb_size: 1,
        incoming,
        gateway,
        ..Purpose::default()
    })?;
    programs.attach_xdp("sink", outside.name(), interface)?;
    programs.load_generator("generate_nat")?;
    Ok(programs)
}
