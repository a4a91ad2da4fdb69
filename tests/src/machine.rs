//! The pure machine: the pipeline over plain vectors.
//!
//! It mirrors what vnet-ebpf/src/kernel does around the pipeline, down to what
//! `bpf_skb_vlan_push` and `bpf_skb_vlan_pop` do to a frame with several tags, and to which program
//! does what of a packet that is routed.

mod effects;
mod flow;
mod gateway;
mod limit;
mod packet;
mod tables;

use std::{
    cell::{Cell, RefCell, UnsafeCell},
    collections::{BTreeMap, HashMap},
    mem::MaybeUninit,
};

use anyhow::{Result, ensure};
use vnet_common::{
    DropCounters, Event, FdbBucket, FdbKey, LearnedIp, LearnedIpKey, Mac, MacDenyKey, Member,
    NO_SLOT, PortConf, PortCounters, PortIpKey, PortLeases, PortMacKey, PortSegmentKey, PortTagKey,
    SEGMENTS, SegmentConf, StormState, SwitchConf,
    event::{EVENT_KINDS, EventLimit},
};
use vnet_ebpf::{
    decide::{Fate, Plan, decide},
    fdb,
    forward::{Action, Flood, forward},
    frame::{ETH_LEN, TAG_LEN},
    guard::{self, Sight, lease},
    ip::Ip,
    meta::{Hook, Meta, Tag},
    policy::look::passes,
    settle::{settle, settle_limited, settle_source},
    tables::Tables as _,
};
use vnet_user::datapath::{object::Sizes, publish::next_conf};

use crate::{
    connections::Connections,
    ledger::{self, Ledger},
    setup::Setup,
    switch::{Addresses, Frame, Known, Outcome, START_S, Sent, Switch, Verdict},
    world::Line,
};
pub(crate) use gateway::begins_alike;
pub use packet::Skb;

/// Bytes that the kernel side pulls into the linear head (`WANTED` in vnet-ebpf/src/kernel/tc.rs).
const PULLED: usize = ETH_LEN + 2 * TAG_LEN;

/// The pure machine.
pub struct Machine {
    conf: SwitchConf,
    sizes: Sizes,
    max_ports: u32,
    max_members: u32,
    fdb_seed: u64,
    // The maps, both generations in each, as the kernel has them.
    ports: Vec<PortConf>,
    aliases: HashMap<(u32, u32), u16>,
    tags: HashMap<PortTagKey, u16>,
    port_segments: HashMap<PortSegmentKey, u16>,
    segments: Vec<SegmentConf>,
    members: Vec<Member>,
    mac_deny: HashMap<MacDenyKey, ()>,
    mac_allow: HashMap<PortMacKey, ()>,
    port_ips: HashMap<PortIpKey, u16>,
    learned_ips: RefCell<HashMap<LearnedIpKey, LearnedIp>>,
    port_leases: RefCell<Vec<PortLeases>>,
    /// MTU and whether it is up, by interface.
    devices: BTreeMap<u32, (u32, bool)>,
    buckets: Box<[UnsafeCell<FdbBucket>]>,
    fdb_count: Cell<u32>,
    port_macs: RefCell<Vec<u32>>,
    counters: RefCell<Vec<PortCounters>>,
    drops: RefCell<Vec<DropCounters>>,
    storms: RefCell<Vec<StormState>>,
    event_limits: RefCell<[EventLimit; EVENT_KINDS as usize]>,
    events: RefCell<Vec<Event>>,
    now_ns: Cell<u64>,
    /// Tags that the next frame may still have made before the kernel is out of memory.
    tags_left: Cell<u32>,
    gateway: gateway::State,
    limits: limit::State,
}

impl Machine {
    /// A switch with its configuration in force, that has learned nothing.
    #[must_use]
    pub fn new(setup: &Setup) -> Self {
        let ports = setup.sizes.max_ports as usize;
        let buckets = (0..setup.sizes.buckets()).map(|_| UnsafeCell::default());
        let mut machine = Self {
            conf: SwitchConf::default(),
            sizes: setup.sizes,
            max_ports: setup.sizes.max_ports,
            max_members: setup.sizes.max_members(),
            fdb_seed: setup.sizes.fdb_seed,
            ports: vec![PortConf::default(); 2 * ports],
            aliases: HashMap::new(),
            tags: HashMap::new(),
            port_segments: HashMap::new(),
            segments: vec![SegmentConf::default(); 2 * SEGMENTS as usize],
            members: vec![Member::default(); 2 * setup.sizes.max_members() as usize],
            mac_deny: HashMap::new(),
            mac_allow: HashMap::new(),
            port_ips: HashMap::new(),
            learned_ips: RefCell::default(),
            port_leases: RefCell::new(vec![PortLeases::default(); ports]),
            devices: BTreeMap::new(),
            buckets: buckets.collect(),
            fdb_count: Cell::new(0),
            port_macs: RefCell::new(vec![0; ports]),
            counters: RefCell::new(vec![PortCounters::default(); ports]),
            drops: RefCell::new(vec![DropCounters::default(); ports]),
            storms: RefCell::new(vec![StormState::default(); ports]),
            event_limits: RefCell::default(),
            events: RefCell::default(),
            now_ns: Cell::new(u64::from(START_S) * 1_000_000_000),
            tags_left: Cell::new(u32::MAX),
            gateway: gateway::State::new(setup),
            limits: limit::State::new(setup),
        };
        machine.publish(setup);
        machine
    }

    /// Fills the other generation and swaps.
    fn publish(&mut self, setup: &Setup) {
        let image = &setup.image;
        let generation = self.conf.generation ^ 1;
        for slot in 0..self.max_ports {
            self.ports[(generation * self.max_ports + slot) as usize] =
                image.ports.get(&(slot as u16)).copied().unwrap_or_default();
        }
        for segment in 0..SEGMENTS {
            self.segments[(generation * SEGMENTS + segment) as usize] = image
                .segments
                .get(&(segment as u16))
                .copied()
                .unwrap_or_default();
        }
        let first = (generation * self.max_members) as usize;
        self.members[first..first + image.members.len()].copy_from_slice(&image.members);
        self.aliases = image
            .aliases
            .iter()
            .map(|(ifindex, slot)| ((generation, *ifindex), *slot))
            .collect();
        self.tags = image
            .tags
            .iter()
            .map(|(&(slot, vid), &segment)| {
                let key = PortTagKey {
                    generation,
                    slot,
                    vid,
                };
                (key, segment)
            })
            .collect();
        self.port_segments = image
            .port_segments
            .iter()
            .map(|(&(slot, segment), &vid)| {
                let key = PortSegmentKey {
                    generation,
                    slot,
                    segment,
                };
                (key, vid)
            })
            .collect();
        self.mac_deny = image
            .mac_deny
            .iter()
            .map(|&mac| {
                let generation = generation as u16;
                (MacDenyKey { mac, generation }, ())
            })
            .collect();
        self.mac_allow = image
            .mac_allow
            .iter()
            .map(|&(slot, mac)| {
                let key = PortMacKey {
                    mac,
                    slot,
                    generation,
                };
                (key, ())
            })
            .collect();
        self.port_ips = image
            .port_ips
            .iter()
            .map(|(&(addr, segment), &slot)| {
                let key = PortIpKey {
                    addr,
                    segment,
                    generation: generation as u16,
                };
                (key, slot)
            })
            .collect();
        self.gateway.publish(setup, generation);
        self.limits.publish(setup, generation);
        self.conf = next_conf(&self.conf, &self.sizes, image, generation);
        self.devices = setup
            .devices
            .values()
            .map(|device| (device.ifindex, (device.mtu, device.up)))
            .collect();
        self.reconcile(setup);
    }

    /// Makes the configured entries of the FDB so.
    fn reconcile(&mut self, setup: &Setup) {
        let wanted = &setup.image.fdb;
        for ((mac, segment), known) in self.entries() {
            if known.flags != 0 && !wanted.contains_key(&(mac, segment)) {
                fdb::delete(self, FdbKey::new(mac, segment));
            }
        }
        let now_s = self.now_s();
        for (&(mac, segment), &(slot, flags)) in wanted {
            let placed = fdb::put(self, FdbKey::new(mac, segment), slot, flags, now_s);
            assert!(placed, "no place for a configured address");
        }
    }

    /// The clock, in seconds.
    #[must_use]
    pub fn now_s(&self) -> u32 {
        (self.now_ns.get() / 1_000_000_000) as u32
    }

    /// From now on, of each frame only the first `count` tags can be made: the next one finds the
    /// kernel out of memory, when the old tag is gone already.
    pub fn limit_tags(&self, count: u32) {
        self.tags_left.set(count);
    }

    /// Sets a device's MTU; `None`: the device is gone.
    pub fn set_mtu(&mut self, ifindex: u32, mtu: Option<u32>) {
        match mtu {
            Some(mtu) => {
                self.devices.insert(ifindex, (mtu, true));
            }
            None => {
                self.devices.remove(&ifindex);
            }
        }
    }

    /// Hands a frame to the program of its hook.
    pub fn run(&self, frame: &Frame) -> Outcome {
        match frame.hook {
            Hook::Xdp => self.run_xdp(frame),
            Hook::TcIngress | Hook::TcEgress => self.run_tc(frame),
        }
    }

    /// As `run` in vnet-ebpf/src/kernel/tc.rs.
    fn run_tc(&self, frame: &Frame) -> Outcome {
        let meta = frame.meta();
        let mut skb = Skb::new(frame, &self.devices, self.tags_left.get());
        skb.pull(PULLED);
        let mut plan = Plan::EMPTY;
        decide(&meta, &skb, self, &mut plan);
        self.guard(&meta, &mut plan, &mut skb);
        settle_limited(&mut plan, &meta, self);
        if meta.hook == Hook::TcIngress && plan.stack_slot != NO_SLOT {
            let action = self.route_on(&mut plan, &meta, &mut skb);
            return skb.end(action);
        }
        if meta.hook == Hook::TcIngress
            && let Some(action) = self.answer(&plan, &meta, &mut skb)
        {
            settle_source(&plan, &meta, self);
            return skb.end(action);
        }
        if meta.hook == Hook::TcEgress {
            self.claim_for_host(&plan, &meta, &mut skb);
        }
        if plan.policed {
            skb.pull(flow::ROUTED);
            if !passes(&plan, &meta, &skb, self, &mut { Ip::EMPTY }) {
                settle_source(&plan, &meta, self);
                let action = self.go_on(&mut plan, &meta, &mut skb);
                return skb.end(action);
            }
        }
        settle(&mut plan, &meta, self);
        let action = forward(&plan, &meta, self, &mut skb)
            .unwrap_or_else(|| self.flood(&plan, &meta, &mut skb));
        skb.end(action)
    }

    /// As vnet-ebpf/src/kernel/guard.rs, and what `run` in tc.rs calls it for.
    fn guard(&self, meta: &Meta, plan: &mut Plan, skb: &mut Skb<'_>) {
        let mut sight = Sight::EMPTY;
        if meta.hook == Hook::TcIngress && guard::concerns(plan) {
            let wanted = guard::wanted(plan, skb);
            skb.pull(wanted as usize);
            guard::check(plan, skb, self, &mut sight);
        } else if lease::concerns(plan) && self.learns(plan.generation) {
            let (l3, ether_type) = (plan.frame.payload_offset(), plan.frame.ether_type);
            if lease::is_for_client(l3, ether_type, skb) {
                skb.pull(lease::WANTED as usize);
                lease::learn(plan, skb, self, &mut sight);
            }
        }
    }

    fn flood(&self, plan: &Plan, meta: &Meta, skb: &mut Skb<'_>) -> Action {
        // SAFETY: a flood is integers, booleans and a `PortKind`, all of which may be zero; `begin`
        // writes all of it.
        let mut flood: Flood = unsafe { MaybeUninit::zeroed().assume_init() };
        Flood::begin(&mut flood, plan, meta, skb, self);
        for index in 0..flood.member_count {
            flood.step(index, self, skb);
        }
        flood.end(self, skb)
    }

    /// As `run` in vnet-ebpf/src/kernel/xdp.rs.
    fn run_xdp(&self, frame: &Frame) -> Outcome {
        let mut buffer = packet::Buffer::new(frame);
        let whole = frame.linear.is_none_or(|n| n >= frame.bytes.len());
        let action = if whole {
            let meta = frame.meta();
            let mut plan = Plan::EMPTY;
            decide(&meta, buffer.bytes.as_slice(), self, &mut plan);
            if plan.stack_slot != NO_SLOT {
                self.route_at_xdp(&plan, &meta, &mut buffer)
            } else if plan.verdict.fate == Fate::PassUp
                || plan.policed
                    && !passes(&plan, &meta, buffer.bytes.as_slice(), self, &mut {
                        Ip::EMPTY
                    })
            {
                Action::Pass
            } else {
                settle(&mut plan, &meta, self);
                forward(&plan, &meta, self, &mut buffer).unwrap_or(Action::Pass)
            }
        } else {
            Action::Pass
        };
        let verdict = match action {
            Action::Pass => Verdict::Pass,
            Action::Drop => Verdict::Drop,
            // XDP redirects out of devices only.
            Action::Redirect(exit) | Action::Neighbour(exit) => Verdict::Redirect(Sent {
                ifindex: exit.ifindex,
                to_stack: exit.to_stack,
                neighbour: false,
                tc_index: 0,
                wire: Some(buffer.bytes.clone()),
            }),
        };
        Outcome {
            verdict,
            bytes: buffer.bytes,
            tag: Tag::NONE,
            copies: Vec::new(),
        }
    }

    /// What is in the FDB, as it lies there.
    fn entries(&self) -> Vec<((Mac, u16), Known)> {
        self.buckets
            .iter()
            // SAFETY: nobody holds a reference into a bucket between two calls of the pipeline.
            .flat_map(|bucket| unsafe { (*bucket.get()).entries })
            .filter(|entry| entry.key().word != 0)
            .map(|e| ((e.mac, e.segment), Known::from(&e)))
            .collect()
    }

    /// Deletes every stale address as the ageing timer does, a whole walk at once. Returns them.
    pub fn sweep(&self) -> Vec<Mac> {
        let what = fdb::Sweep {
            stale: Some((self.now_s(), self.conf.ageing_s)),
            ..fdb::Sweep::default()
        };
        let mut deleted = Vec::new();
        for index in 0..self.buckets.len() as u32 {
            fdb::sweep(self, index, &what, |mac, _, _| deleted.push(mac));
        }
        deleted
    }
}

impl Switch for Machine {
    fn run(&mut self, frame: &Frame) -> Result<Outcome> {
        Ok(Self::run(self, frame))
    }

    fn ledger(&self) -> Result<Ledger> {
        let mut ledger = Ledger::new();
        let (counters, drops) = (self.counters.borrow(), self.drops.borrow());
        for (slot, (counters, drops)) in counters.iter().zip(drops.iter()).enumerate() {
            ledger::enter(&mut ledger, slot as u16, counters, drops);
        }
        ledger::enter_flows(&mut ledger, &self.gateway.counters());
        for (rule, counters) in self.gateway.rule_counters.borrow().iter() {
            ledger::enter_rule(&mut ledger, *rule, counters);
        }
        for (rule, counters) in self.gateway.policy_counters.borrow().iter() {
            ledger::enter_policy(&mut ledger, *rule, counters);
        }
        Ok(ledger)
    }

    fn addresses(&self) -> Result<Addresses> {
        let entries = self.entries();
        let addresses: Addresses = entries.iter().copied().collect();
        ensure!(
            addresses.len() == entries.len(),
            "an address is in the FDB twice"
        );
        check_counts(&addresses, self.fdb_count.get(), |slot| {
            self.port_macs.borrow()[usize::from(slot)]
        })?;
        Ok(addresses)
    }

    fn events(&mut self) -> Result<Vec<Event>> {
        let events = self.events.take();
        Ok(events
            .into_iter()
            .map(|event| Event {
                time_ns: 0,
                ..event
            })
            .collect())
    }

    fn advance(&mut self, seconds: u32) -> Result<()> {
        self.now_ns
            .set(self.now_ns.get() + u64::from(seconds) * 1_000_000_000);
        Ok(())
    }

    fn apply(&mut self, setup: &Setup) -> Result<()> {
        self.publish(setup);
        Ok(())
    }

    fn connections(&self) -> Result<Connections> {
        Ok(self.gateway.connections(&self.limits))
    }

    fn sweep_flows(&mut self) -> Result<()> {
        Self::sweep_flows(self);
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        let held = self.gateway.held();
        for first in held.iter().filter(|held| held.is_first()) {
            ensure!(self.delete_flow(first.index, first.tag), "it is not there");
        }
        Ok(())
    }

    fn host(&mut self, line: &Line) -> Result<()> {
        self.gateway.routing.change(line)
    }
}

/// Holds the counts that the FDB keeps of itself against what is in it.
///
/// # Errors
/// They differ.
pub fn check_counts(
    addresses: &Addresses,
    count: u32,
    port_count: impl Fn(u16) -> u32,
) -> Result<()> {
    ensure!(
        addresses.len() == count as usize,
        "the FDB holds {} addresses and counts {count}",
        addresses.len()
    );
    let mut learned: BTreeMap<u16, u32> = BTreeMap::from([(NO_SLOT, 0)]);
    for known in addresses.values() {
        *learned.entry(known.slot).or_default() += u32::from(known.flags == 0);
    }
    for (slot, learned) in learned {
        ensure!(
            learned == port_count(slot),
            "slot {slot} holds {learned} learned addresses and counts {}",
            port_count(slot)
        );
    }
    Ok(())
}
