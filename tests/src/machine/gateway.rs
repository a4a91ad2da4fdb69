//! Connections, mappings, rules and the host's routing, over vectors and maps.

use std::{
    cell::{Cell, RefCell, UnsafeCell},
    collections::{BTreeMap, HashMap},
    mem::MaybeUninit,
};

use vnet_common::{
    Addr, Ban, BanPorts, BanRule, Binding, BindingKey, Contact, ContactKey, Event, FlowEntry,
    FlowKey, FlowTags, HostPort, NatCounters, NatMatchKey, NatRule, PolicyCounters, PolicyMatchKey,
    PolicyNode, PolicyRange, PortGroups, SourceKey,
    flow::{FLOW_BUCKET, FlowCounters},
    nat::NAT_RULES,
};
use vnet_ebpf::{
    decide::Plan,
    flow::table::{FlowTable, find},
    forward::Flood,
    gateway::{
        ANSWER_KINDS, AnswerKind, CHECKED, Checked, FlowCount, Fragment, FragmentKey, Gateway,
        HostSocket, Route, Work,
    },
    ip::Ip,
    limit::SourceSays,
    nat::{close, ports},
    policy::{
        flood,
        search::{self, Search},
    },
    rate,
    window::Window,
};

use super::{Machine, limit};
use crate::{
    connections::{Addressed, Connections, Held, Mapping},
    setup::Setup,
    world::Routing,
};

/// Nanoseconds between the answers of a kind that a CPU makes (vnet-ebpf/src/kernel/gateway.rs).
const ANSWER_INTERVAL_NS: u32 = 1_000_000;

/// Linux's own ports for outgoing connections, as a new network namespace has them.
const EPHEMERAL: (u16, u16) = (32_768, 60_999);

/// Of a port in no group.
static NO_GROUPS: PortGroups = PortGroups { groups: [0; 8] };

/// What a place without a rule holds.
static UNUSED: NatRule = NatRule {
    external: [0; 16],
    internal: [0; 16],
    from: [0; 16],
    pool_size: 0,
    port_lo: 0,
    port_hi: 0,
    to_lo: 0,
    to_hi: 0,
    block_size: 0,
    via: 0,
    inside: 0,
    print: 0,
    from_len: 0,
    prefix_len: 0,
    kind: vnet_common::nat::NatKind::Unused,
    flags: 0,
};

/// Everything that the gateway keeps.
pub(super) struct State {
    tags: Box<[UnsafeCell<FlowTags>]>,
    entries: Box<[UnsafeCell<FlowEntry>]>,
    seed: u64,
    count: Cell<u32>,
    owners: RefCell<Vec<u32>>,
    counters: Cell<FlowCounters>,
    pub(super) rule_counters: RefCell<BTreeMap<u16, NatCounters>>,
    pub(super) policy_counters: RefCell<BTreeMap<u16, PolicyCounters>>,
    groups: BTreeMap<(u32, u16), PortGroups>,
    flow_rates: RefCell<BTreeMap<u16, u64>>,
    policy_matches: Vec<(u32, PolicyMatchKey, u32)>,
    policy_nodes: [Vec<PolicyNode>; 2],
    policy_ranges: [Vec<PolicyRange>; 2],
    flow_rules: Box<[UnsafeCell<u16>]>,
    bindings: RefCell<BTreeMap<Mapping, Binding>>,
    binding_room: usize,
    contacts: RefCell<BTreeMap<Addressed, Contact>>,
    contact_room: usize,
    fragments: RefCell<HashMap<FragmentKey, Fragment>>,
    checked: Box<[UnsafeCell<Checked>]>,
    /// In boxes, so that they stay where they are.
    host_ports: RefCell<BTreeMap<u16, Box<UnsafeCell<HostPort>>>>,
    answers_next_ns: [Cell<u64>; ANSWER_KINDS as usize],
    random: Cell<u64>,
    rules: BTreeMap<(u32, u16), NatRule>,
    matches: Vec<(u32, NatMatchKey, u32)>,
    pub(super) routing: Routing,
    /// Kept from packet to packet, as the kernel side's is.
    pub(super) work: RefCell<Box<Work>>,
}

/// Work as it is before the first packet.
fn no_work() -> Box<Work> {
    // SAFETY: integers, booleans and enums, all of which may be zero.
    unsafe { Box::new(MaybeUninit::zeroed().assume_init()) }
}

impl State {
    pub(super) fn new(setup: &Setup) -> Self {
        let buckets = setup.sizes.flow_buckets() as usize;
        Self {
            tags: (0..buckets).map(|_| UnsafeCell::default()).collect(),
            entries: (0..buckets * FLOW_BUCKET)
                .map(|_| UnsafeCell::default())
                .collect(),
            seed: setup.sizes.flow_seed,
            count: Cell::new(0),
            owners: RefCell::new(vec![0; setup.sizes.max_ports as usize]),
            counters: Cell::default(),
            rule_counters: RefCell::default(),
            policy_counters: RefCell::default(),
            groups: BTreeMap::new(),
            flow_rates: RefCell::default(),
            policy_matches: Vec::new(),
            policy_nodes: Default::default(),
            policy_ranges: Default::default(),
            flow_rules: (0..buckets * FLOW_BUCKET)
                .map(|_| UnsafeCell::default())
                .collect(),
            bindings: RefCell::default(),
            // As in `Sizes`.
            binding_room: (2 * setup.sizes.flow_size).max(4096) as usize,
            contacts: RefCell::default(),
            contact_room: setup.sizes.flow_size.max(4096) as usize,
            fragments: RefCell::default(),
            host_ports: RefCell::default(),
            checked: (0..CHECKED).map(|_| UnsafeCell::default()).collect(),
            answers_next_ns: Default::default(),
            random: Cell::new(0x5eed),
            rules: BTreeMap::new(),
            matches: Vec::new(),
            routing: setup.routing.clone(),
            work: RefCell::new(no_work()),
        }
    }

    /// Fills a generation's rules.
    pub(super) fn publish(&mut self, setup: &Setup, generation: u32) {
        let image = &setup.image;
        let groups = image.port_groups.iter();
        self.groups = groups
            .map(|(slot, groups)| ((generation, *slot), *groups))
            .collect();
        let matches = image.policy_matches.iter();
        self.policy_matches = matches
            .map(|((bits, key), node)| {
                let key = PolicyMatchKey {
                    generation: generation as u8,
                    ..*key
                };
                (*bits, key, *node)
            })
            .collect();
        self.policy_nodes[generation as usize].clone_from(&image.policy_nodes);
        self.policy_ranges[generation as usize].clone_from(&image.policy_ranges);
        self.rules = setup
            .image
            .nat_rules
            .iter()
            .map(|(id, rule)| ((generation, *id), *rule))
            .collect();
        self.matches = setup
            .image
            .nat_matches
            .iter()
            .map(|((bits, key), value)| {
                let key = NatMatchKey {
                    generation: generation as u8,
                    ..*key
                };
                (*bits, key, *value)
            })
            .collect();
    }

    pub(super) fn counters(&self) -> FlowCounters {
        self.counters.get()
    }

    /// The entries, as they lie there.
    pub(super) fn held(&self) -> Vec<Held> {
        let mut held = Vec::new();
        for (bucket, tags) in self.tags.iter().enumerate() {
            // SAFETY: nobody holds a reference into the table between two calls of the pipeline.
            let tags = unsafe { *tags.get() };
            for (place, tag) in tags.tags.into_iter().enumerate().filter(|(_, t)| *t != 0) {
                let index = bucket * FLOW_BUCKET + place;
                // SAFETY: as above.
                let entry = unsafe { *self.entries[index].get() };
                held.push(Held {
                    index: index as u32,
                    tag,
                    entry,
                });
            }
        }
        held
    }

    /// What there is.
    fn host_ports(&self) -> BTreeMap<u16, [u32; 3]> {
        let mut used = BTreeMap::new();
        for (port, uses) in self.host_ports.borrow().iter() {
            // SAFETY: nobody else has it while the machine is between packets.
            let uses = unsafe { *uses.get() };
            if uses != HostPort::default() {
                used.insert(*port, [uses.tcp_s, uses.udp_s, uses.echo_s]);
            }
        }
        used
    }

    pub(super) fn connections(&self, limits: &limit::State) -> Connections {
        Connections {
            held: self.held(),
            mappings: self.bindings.borrow().clone(),
            contacts: self.contacts.borrow().clone(),
            count: self.count.get(),
            owners: (0u16..)
                .zip(self.owners.borrow().iter().copied())
                .filter(|(_, count)| *count != 0)
                .collect(),
            host_ports: self.host_ports(),
            sources: limits.sources(),
            bans: limits.banned(),
        }
    }
}

/// Bytes of a key, as a longest prefix match sees them.
fn policy_bytes(key: &PolicyMatchKey) -> [u8; 20] {
    let mut bytes = [0; 20];
    bytes[0] = key.generation;
    bytes[1] = key.kind;
    bytes[2..4].copy_from_slice(&key.scope_be);
    bytes[4..].copy_from_slice(&key.addr);
    bytes
}

/// Bytes of a key, as a longest prefix match sees them.
fn bytes(key: &NatMatchKey) -> [u8; 24] {
    let mut bytes = [0; 24];
    bytes[0] = key.generation;
    bytes[1] = key.kind;
    bytes[2..4].copy_from_slice(&key.scope_be);
    bytes[4..20].copy_from_slice(&key.addr);
    bytes[20..22].copy_from_slice(&key.port_be);
    bytes
}

/// Whether the first `bits` bits are the same.
pub(crate) fn begins_alike(a: &[u8], b: &[u8], bits: u32) -> bool {
    let whole = bits as usize / 8;
    let rest = bits % 8;
    a[..whole] == b[..whole] && (rest == 0 || (a[whole] ^ b[whole]) >> (8 - rest) == 0)
}

impl FlowTable for Machine {
    fn flow_tags(&self, bucket: u32) -> Option<*mut FlowTags> {
        self.gateway.tags.get(bucket as usize).map(UnsafeCell::get)
    }

    fn flow(&self, index: u32) -> Option<*mut FlowEntry> {
        self.gateway
            .entries
            .get(index as usize)
            .map(UnsafeCell::get)
    }

    fn flow_buckets(&self) -> u32 {
        self.gateway.tags.len() as u32
    }

    fn flow_seed(&self) -> u64 {
        self.gateway.seed
    }

    unsafe fn exchange(&self, tag: *mut u32, old: u32, new: u32) -> bool {
        // SAFETY: the caller's promise; this machine has one thread.
        unsafe {
            let same = *tag == old;
            if same {
                *tag = new;
            }
            same
        }
    }
}

impl Gateway for Machine {
    fn find_flow(&self, key: &FlowKey) -> u32 {
        find(self, key)
    }

    fn route(&self, ifindex: u32, key: &FlowKey, route: &mut Route) {
        *route = self.gateway.routing.route(ifindex, &key.dst, |ifindex| {
            self.devices.get(&ifindex).map_or(0, |(mtu, _)| *mtu)
        });
    }

    fn host_socket(&self, key: &FlowKey) -> HostSocket {
        self.gateway.routing.socket(key)
    }

    fn nat_rule(&self, generation: u32, id: u16) -> Option<&NatRule> {
        if u32::from(id) >= NAT_RULES {
            return None;
        }
        Some(self.gateway.rules.get(&(generation, id)).unwrap_or(&UNUSED))
    }

    fn nat_match(&self, key: &NatMatchKey) -> Option<u32> {
        let wanted = bytes(key);
        self.gateway
            .matches
            .iter()
            .filter(|(bits, key, _)| begins_alike(&bytes(key), &wanted, *bits))
            .max_by_key(|(bits, _, _)| *bits)
            .map(|(_, _, value)| *value)
    }

    fn binding_look(&self, key: &BindingKey, binding: &mut Binding) -> bool {
        let found = self.gateway.bindings.borrow().get(&key.into()).copied();
        if let Some(found) = found {
            *binding = found;
        }
        found.is_some()
    }

    fn binding_hold(
        &self,
        key: &BindingKey,
        contact: Option<&Addr>,
        binding: &mut Binding,
    ) -> bool {
        let mut bindings = self.gateway.bindings.borrow_mut();
        let Some(found) = bindings.get_mut(&key.into()) else {
            return false;
        };
        found.refs += 1;
        *binding = *found;
        if contact == Some(&found.remote) {
            found.count += 1;
        }
        true
    }

    fn binding_add(&self, key: &BindingKey, binding: &Binding) -> bool {
        let mut bindings = self.gateway.bindings.borrow_mut();
        if bindings.len() >= self.gateway.binding_room || bindings.contains_key(&key.into()) {
            return false;
        }
        bindings.insert(key.into(), *binding);
        true
    }

    fn binding_forget(&self, key: &BindingKey) {
        self.gateway.bindings.borrow_mut().remove(&key.into());
    }

    fn binding_release(&self, key: &BindingKey, addr: &Addr, port: u16) -> bool {
        let mut bindings = self.gateway.bindings.borrow_mut();
        let Some(found) = bindings.get_mut(&key.into()) else {
            return false;
        };
        if found.addr != *addr || found.port != port {
            return false;
        }
        found.refs -= 1;
        if found.refs > 0 {
            return false;
        }
        bindings.remove(&key.into());
        true
    }

    fn binding_part(&self, key: &BindingKey, addr: &Addr, port: u16, contact: &Addr) -> bool {
        let mut met = false;
        if let Some(found) = self.gateway.bindings.borrow_mut().get_mut(&key.into()) {
            met = found.addr == *addr && found.port == port && found.remote == *contact;
            found.count -= u32::from(met);
        }
        self.binding_release(key, addr, port);
        met
    }

    fn contact_look(&self, key: &ContactKey) -> bool {
        self.gateway.contacts.borrow().contains_key(&key.into())
    }

    fn contact_hold(&self, key: &ContactKey) -> bool {
        let mut contacts = self.gateway.contacts.borrow_mut();
        let room = contacts.len() < self.gateway.contact_room;
        if !room && !contacts.contains_key(&key.into()) {
            return false;
        }
        contacts.entry(key.into()).or_default().refs += 1;
        true
    }

    fn contact_release(&self, key: &ContactKey) {
        let mut contacts = self.gateway.contacts.borrow_mut();
        let found = contacts.get_mut(&key.into()).expect("it is held");
        found.refs -= 1;
        if found.refs == 0 {
            contacts.remove(&key.into());
        }
    }

    fn search_port(&self, work: &mut Work, times: u32) {
        for _ in 0..times {
            if ports::try_one(work, self) {
                break;
            }
        }
    }

    fn random(&self) -> u32 {
        // Knuth's MMIX.
        let next = self
            .gateway
            .random
            .get()
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        self.gateway.random.set(next);
        (next >> 32) as u32
    }

    fn ephemeral_ports(&self) -> (u16, u16) {
        EPHEMERAL
    }

    fn flow_count(&self) -> u32 {
        self.gateway.count.get()
    }

    fn add_flow_count(&self, delta: i32) {
        let count = self.gateway.count.get().checked_add_signed(delta);
        let count = count.expect("the number of connections stays above zero");
        self.gateway.count.set(count);
    }

    fn owner_count(&self, slot: u16) -> u32 {
        let owners = self.gateway.owners.borrow();
        owners.get(usize::from(slot)).copied().unwrap_or(0)
    }

    fn add_owner_count(&self, slot: u16, delta: i32) {
        if let Some(count) = self.gateway.owners.borrow_mut().get_mut(usize::from(slot)) {
            *count = count
                .checked_add_signed(delta)
                .expect("a port's connections stay above zero");
        }
    }

    fn flow_take(&self, slot: u16, interval_ns: u32) -> bool {
        let mut rates = self.gateway.flow_rates.borrow_mut();
        let next = rates.entry(slot).or_default();
        match rate::take(*next, self.now_ns.get(), interval_ns, 1) {
            Some(at) => {
                *next = at;
                true
            }
            None => false,
        }
    }

    fn source_take(&self, key: &SourceKey, quota: u32, interval_ns: u32) -> SourceSays {
        self.take_source(key, quota, interval_ns)
    }

    fn source_hold(&self, key: &SourceKey, interval_ns: u32) -> bool {
        self.hold_source(key, interval_ns)
    }

    fn source_release(&self, key: &SourceKey) {
        self.release_source(key);
    }

    fn ban_ports(&self, generation: u32, place: u32) -> Option<&BanPorts> {
        self.rules_of_ports(generation, place)
    }

    fn ban_rule(&self, generation: u32, id: u8) -> Option<&BanRule> {
        self.rule_that_bans(generation, id)
    }

    fn attempt(&self, key: &SourceKey, rule: &BanRule) -> bool {
        self.count_attempt(key, rule)
    }

    fn ban(&self, key: &SourceKey, ban: &Ban) {
        self.keep_away(key, ban);
    }

    fn count_flow(&self, what: FlowCount, rule: u16) {
        let mut counters = self.gateway.counters.get();
        let mut rules = self.gateway.rule_counters.borrow_mut();
        let rule = rules.entry(rule);
        match what {
            FlowCount::Created => counters.created += 1,
            FlowCount::Ended => counters.ended += 1,
            FlowCount::Evicted => counters.evicted += 1,
            FlowCount::Hit => rule.or_default().hits += 1,
            FlowCount::RuleEnded => rule.or_default().ended += 1,
            FlowCount::PortTaken => rule.or_default().ports_taken += 1,
            FlowCount::PortReleased => rule.or_default().ports_released += 1,
            FlowCount::Exhausted => rule.or_default().exhausted += 1,
        }
        self.gateway.counters.set(counters);
    }

    fn fragment_put(&self, key: &FragmentKey, fragment: &Fragment) {
        self.gateway.fragments.borrow_mut().insert(*key, *fragment);
    }

    fn fragment_find(&self, key: &FragmentKey) -> Option<Fragment> {
        self.gateway.fragments.borrow().get(key).copied()
    }

    fn host_port(&self, port: u16) -> Option<*mut HostPort> {
        let mut ports = self.gateway.host_ports.borrow_mut();
        Some(ports.entry(port).or_default().get())
    }

    fn checked(&self, place: u32) -> Option<*mut Checked> {
        self.gateway
            .checked
            .get(place as usize)
            .map(UnsafeCell::get)
    }

    fn port_groups(&self, generation: u32, slot: u16) -> Option<&PortGroups> {
        Some(
            self.gateway
                .groups
                .get(&(generation, slot))
                .unwrap_or(&NO_GROUPS),
        )
    }

    fn policy_match(&self, key: &PolicyMatchKey) -> u32 {
        let wanted = policy_bytes(key);
        self.gateway
            .policy_matches
            .iter()
            .filter(|(bits, key, _)| begins_alike(&policy_bytes(key), &wanted, *bits))
            .max_by_key(|(bits, _, _)| *bits)
            .map_or(0, |(_, _, node)| *node)
    }

    fn policy_node(&self, generation: u32, number: u32) -> Option<&PolicyNode> {
        self.gateway.policy_nodes[generation as usize].get(number as usize)
    }

    fn policy_range(&self, generation: u32, place: u32) -> Option<&PolicyRange> {
        self.gateway.policy_ranges[generation as usize].get(place as usize)
    }

    fn walk(&self, search: &mut Search) {
        let over = (0..search::STEPS).any(|_| search::step(search, self));
        assert!(over, "a search takes no more steps than there may be");
    }

    fn ask_members<W: Window + ?Sized>(&self, flood: &mut Flood, plan: &Plan, window: &W) {
        let mut ip = Ip::EMPTY;
        flood::ask(&mut flood.question, plan, window, self, &mut ip);
    }

    fn member_admits(&self, flood: &Flood, slot: u16) -> bool {
        // SAFETY: integers and an enum, all of which may be zero.
        let mut search = unsafe { MaybeUninit::<Search>::zeroed().assume_init() };
        flood::admits(flood, slot, &mut search, &mut Event::default(), self)
    }

    fn flow_rule(&self, index: u32) -> Option<*mut u16> {
        self.gateway
            .flow_rules
            .get(index as usize)
            .map(UnsafeCell::get)
    }

    fn count_policy(&self, rule: u16, packets: u64, bytes: u64, flows: u64) {
        let mut counters = self.gateway.policy_counters.borrow_mut();
        let counters = counters.entry(rule).or_default();
        counters.packets += packets;
        counters.bytes += bytes;
        counters.flows += flows;
    }

    fn answer_take(&self, kind: AnswerKind) -> bool {
        let limit = &self.gateway.answers_next_ns[kind as usize];
        match rate::take(limit.get(), self.now_ns.get(), ANSWER_INTERVAL_NS, 1) {
            Some(next) => {
                limit.set(next);
                true
            }
            None => false,
        }
    }
}

impl Machine {
    /// Ends every connection that is over, as the expiry timer does, a whole walk at once.
    pub fn sweep_flows(&self) {
        let mut work = no_work();
        for bucket in 0..self.flow_buckets() {
            close::sweep_bucket(&mut work, bucket, self);
        }
    }

    /// Ends a connection, as `vnet-user flow flush` does. False when it is another one by now.
    pub fn delete_flow(&self, index: u32, tag: u32) -> bool {
        close::delete(&mut no_work(), index, tag, self)
    }
}
