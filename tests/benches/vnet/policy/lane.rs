//! A contestant with everything that it needs, apart from all others:
//!
//! ```text
//!   outside ns          filter ns               outside ns
//!   one ═════════════ vm1 ▸ contestant ▸ vm2 ═════════════ two
//! ```
//!
//! `one` and `two`, veths, are each where a generator redirects its frames to, so that they arrive as
//! from a VM. A sink is attached to each, which counts and drops what comes out.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use vnet_common::Mac;
use vnet_ebpf::traffic::nat::{ROUTER_MAC, VM_MAC};
use xtask::netns::Netns;

use super::contestant::{Contestant, Filter, ROOM};
use crate::{
    generator::{self, Measured},
    lane::{ifindex, mac_text, namespace, veth},
    programs::{Programs, Purpose},
};

/// Frames in one go while something else is done.
const PIECE: u32 = 1 << 13;

/// A contestant, ready to be measured.
pub struct Lane {
    // Dropped in this order: programs before the interfaces they are attached to.
    one: Programs,
    two: Programs,
    filter: Filter,
    outside: Netns,
    netns: Netns,
}

impl Lane {
    /// Makes the lane. `number` is one that no other lane has.
    pub fn new(number: usize, contestant: Contestant, rules: u32) -> Result<Self> {
        let netns = namespace(&format!("lane{number}-filter"))?;
        let outside = namespace(&format!("lane{number}-outside"))?;
        for (near, far, mac) in [("vm1", "one", VM_MAC), ("vm2", "two", ROUTER_MAC)] {
            veth(&netns, near, &outside, far)?;
            outside.ip(&format!("link set dev {far} address {}", mac_text(mac)))?;
            // The frames are complete: no checksum and no tag is left to a device.
            outside.sh(&format!(
                "ethtool -K {far} tx off txvlan off tx-vlan-stag-hw-insert off"
            ))?;
            // NAPI, which a tap has and a veth without XDP has not.
            netns.sh(&format!("ethtool -K {near} gro on"))?;
            outside.sh(&format!("ethtool -K {far} gro on"))?;
        }
        let filter = Filter::new(contestant, &netns, number, rules, ROOM)
            .with_context(|| format!("preparing {} with {rules} rules", contestant.title()))?;
        let [to, back] = filter.macs;
        Ok(Self {
            one: end(&outside, "one", false, to)?,
            two: end(&outside, "two", true, back)?,
            filter,
            outside,
            netns,
        })
    }

    /// Sends a packet of each of the first `flows` flows, and an answer; all have to arrive.
    pub fn establish(&mut self, flows: u32) -> Result<()> {
        for answers in [false, true] {
            let (generator, sink) = if answers {
                (&mut self.two, &self.one)
            } else {
                (&mut self.one, &self.two)
            };
            generator.set_flows(flows)?;
            generator.rewind()?;
            let measured = generator::send(generator, sink, self.outside.name(), flows)?;
            if measured.received < measured.sent {
                bail!(
                    "establishing {flows} flows: {} of {} packets arrived{}",
                    measured.received,
                    measured.sent,
                    if answers { " of the answers" } else { "" }
                );
            }
        }
        Ok(())
    }

    /// Sends frames of established flows for `time`.
    pub fn measure(&mut self, time: Duration) -> Result<Measured> {
        generator::measure(&mut self.one, &self.two, self.outside.name(), 0, time)
    }

    /// From now on every frame that is sent is of a flow that was never there.
    pub fn count_on(&mut self) -> Result<()> {
        self.one.set_flows(u32::MAX)
    }

    /// Sends `frames` frames.
    pub fn send(&mut self, frames: u32) -> Result<Measured> {
        generator::send(&mut self.one, &self.two, self.outside.name(), frames)
    }

    /// Ends every flow.
    pub fn flush(&self) -> Result<()> {
        self.filter.flush(&self.netns)
    }

    /// Sends frames of established flows for as long as `work` takes. What `work` gives, and how many
    /// frames were lost of how many.
    pub fn send_during<T>(
        &mut self,
        work: impl FnOnce(&Filter, &Netns) -> Result<T>,
    ) -> Result<(T, u64, u64)> {
        let Self {
            one,
            two,
            filter,
            outside,
            netns,
        } = self;
        let over = AtomicBool::new(false);
        let seen = two.seen()?;
        let (done, sent) = thread::scope(|scope| {
            let sending = scope.spawn(|| {
                let mut sent = 0;
                generator::on_one_cpu(outside.name(), || {
                    while !over.load(Ordering::Relaxed) {
                        sent += one.generate(PIECE)?;
                    }
                    Ok(sent)
                })
            });
            let done = work(filter, netns);
            over.store(true, Ordering::Relaxed);
            (done, sending.join().expect("it does not panic"))
        });
        // What another CPU holds, if it holds anything, gets a moment.
        thread::sleep(Duration::from_millis(20));
        let (done, sent) = (done?, sent?);
        let received = two.seen()? - seen;
        Ok((done, sent - received.min(sent), sent))
    }
}

/// A generator and a sink at `interface`.
fn end(outside: &Netns, interface: &str, answers: bool, to: Mac) -> Result<Programs> {
    let mut programs = Programs::made_for(&Purpose {
        target: ifindex(outside, interface)?,
        fdb_size: 1,
        incoming: answers,
        gateway: to,
        ..Purpose::default()
    })?;
    programs.attach_xdp("sink", outside.name(), interface)?;
    programs.load_generator("generate_policy")?;
    Ok(programs)
}
