//! [`FlowTable`] and [`Gateway`] over the maps and helpers.

use core::ffi::c_void;

use aya_ebpf::{
    btf_maps::lpm_trie::Key,
    helpers::{bpf_get_prandom_u32, bpf_loop},
};
use vnet_common::{
    Addr, Ban, BanPorts, BanRule, Binding, BindingKey, ContactKey, FlowEntry, FlowKey, FlowTags,
    HostPort, NatCounters, NatMatchKey, NatRule, PolicyMatchKey, PolicyNode, PolicyRange,
    PortGroups, SourceKey,
    flow::FLOW_BUCKET,
    limit::{BAN_PORTS as PORT_PLACES, BAN_RULES as RULES},
    nat::{self, NAT_MATCH_BITS},
    policy::{self, POLICY_MATCH_BITS},
};
use vnet_ebpf::{
    decide::Plan,
    flow::table::{self, FlowTable, Inserted},
    forward::Flood,
    gateway::{
        AnswerKind, Checked, FlowCount, Fragment, FragmentKey, Gateway, HostSocket, Route, Work,
    },
    limit::SourceSays,
    nat::{Outcome, Step, ports},
    policy::{flood::admits, search::Search},
    rate,
    tables::Tables as _,
    window::Window,
};

use super::{
    atomic::{atomic_add, atomic_add64, exchange},
    host::{ask_route, host_socket},
    mappings::{
        CONTACT, LAST, hold_binding, hold_contact, look_binding, release_binding, release_contact,
    },
    maps::{
        ANSWER_LIMITS, BAN_PORTS, BAN_RULES, BANNING, BANS, BINDINGS, CHECKED, CONTACTS, EPHEMERAL,
        FLOW_BUCKETS, FLOW_COUNT, FLOW_COUNTERS, FLOW_RATE, FLOW_RULES, FLOW_SEED, FLOW_TAGS,
        FLOWS, FRAGMENTS, HOST_PORTS, MAX_PORTS, NAT_COUNTERS, NAT_MATCH, NAT_RULES,
        POLICY_COUNTERS, POLICY_MATCH, POLICY_NODES, POLICY_RANGES, PORT_FLOWS, PORT_GROUPS, WORK,
    },
    sources::{attempt, hold_source, release_source, take_source},
    tables::Kernel,
};

/// Nanoseconds between the answers of a kind that one CPU makes.
const ANSWER_INTERVAL_NS: u32 = 1_000_000;

impl FlowTable for Kernel {
    #[inline(always)]
    fn flow_tags(&self, bucket: u32) -> Option<*mut FlowTags> {
        FLOW_TAGS.get_ptr_mut(bucket)
    }

    #[inline(always)]
    fn flow(&self, index: u32) -> Option<*mut FlowEntry> {
        FLOWS.get_ptr_mut(index)
    }

    #[inline(always)]
    fn flow_buckets(&self) -> u32 {
        FLOW_BUCKETS.load()
    }

    #[inline(always)]
    fn flow_seed(&self) -> u64 {
        FLOW_SEED.load()
    }

    #[inline(always)]
    unsafe fn exchange(&self, tag: *mut u32, old: u32, new: u32) -> bool {
        // SAFETY: the caller's promise.
        unsafe { exchange(tag, old, new) }
    }

    #[inline(always)]
    fn count_tag(&self, bucket: u32, tag: u32) -> u32 {
        super::steps::flow_count_tag(bucket, tag)
    }

    #[inline(always)]
    fn position(&self, bucket: u32, tag: u32) -> u32 {
        super::steps::flow_position(bucket, tag)
    }

    #[inline(always)]
    fn claim(&self, bucket: u32) -> u32 {
        super::steps::flow_claim(bucket)
    }
}

/// Finds a flow. A subprogram that returns a number lets the verifier forget in which of many places
/// it was.
#[inline(never)]
fn find_flow(key: &FlowKey) -> u32 {
    table::find(&Kernel::bare(), key)
}

/// A step of the search for a port: the work is this CPU's.
extern "C" fn try_port(_index: u64, kernel: *const Kernel) -> i64 {
    let Some(work) = WORK.get_ptr_mut(0) else {
        return 1;
    };
    // SAFETY: bpf_loop hands over what search_port() gave it, and the work is this CPU's own.
    unsafe { i64::from(ports::try_one(&mut *work, &*kernel)) }
}

/// Changes a rule's counters on this CPU.
#[inline(always)]
fn count_rule(rule: u16, change: impl FnOnce(&mut NatCounters)) {
    if let Some(counters) = NAT_COUNTERS.get_ptr_mut(u32::from(rule)) {
        // SAFETY: this CPU's own counters.
        change(unsafe { &mut *counters });
    }
}

impl Gateway for Kernel {
    #[inline(always)]
    fn step<W: Window + ?Sized>(
        &self,
        step: Step,
        work: &mut Work,
        _plan: &Plan,
        _window: &W,
    ) -> Outcome {
        // The step finds the same work in its map, which the compiler cannot know.
        let work = core::hint::black_box(work);
        let outcome = super::steps::call(step, self.ctx.cast());
        core::hint::black_box(work);
        outcome
    }

    #[inline(always)]
    fn insert_flow(&self, work: &mut Work, reply: bool) -> Inserted {
        let work = core::hint::black_box(work);
        let word = super::steps::flow_insert(u32::from(reply));
        core::hint::black_box(work);
        Inserted::of_word(word)
    }

    #[inline(always)]
    fn close(&self, work: &mut Work) -> bool {
        let work = core::hint::black_box(work);
        let closed = super::steps::close(self.ctx.is_null());
        core::hint::black_box(work);
        closed
    }

    #[inline(always)]
    fn evict(&self, work: &mut Work, beyond: bool) -> bool {
        let work = core::hint::black_box(work);
        let evicted = super::steps::flow_evict(self.ctx.cast(), u32::from(beyond)) != 0;
        core::hint::black_box(work);
        evicted
    }

    #[inline(always)]
    fn find_flow(&self, key: &FlowKey) -> u32 {
        find_flow(key)
    }

    #[inline(always)]
    fn route(&self, ifindex: u32, key: &FlowKey, route: &mut Route) {
        ask_route(self.ctx, ifindex, key, route);
    }

    #[inline(always)]
    fn host_socket(&self, key: &FlowKey) -> HostSocket {
        match host_socket(self.ctx, key) {
            0 => HostSocket::None,
            1 => HostSocket::Open,
            _ => HostSocket::Connected,
        }
    }

    #[inline(always)]
    fn nat_rule(&self, generation: u32, id: u16) -> Option<&NatRule> {
        NAT_RULES.get(generation * nat::NAT_RULES + u32::from(id))
    }

    #[inline(always)]
    fn nat_match(&self, key: &NatMatchKey) -> Option<u32> {
        NAT_MATCH.get(&Key::new(NAT_MATCH_BITS, *key)).copied()
    }

    #[inline(always)]
    fn binding_look(&self, key: &BindingKey, binding: &mut Binding) -> bool {
        look_binding(key, binding)
    }

    #[inline(always)]
    fn binding_hold(
        &self,
        key: &BindingKey,
        contact: Option<&Addr>,
        binding: &mut Binding,
    ) -> bool {
        hold_binding(key, contact, binding)
    }

    #[inline(always)]
    fn binding_add(&self, key: &BindingKey, binding: &Binding) -> bool {
        const NO_EXIST: u64 = 1;
        BINDINGS.insert(key, binding, NO_EXIST).is_ok()
    }

    #[inline(always)]
    fn binding_release(&self, key: &BindingKey, addr: &Addr, port: u16) -> bool {
        release_binding(key, addr, port, None) & LAST != 0
    }

    #[inline(always)]
    fn binding_part(&self, key: &BindingKey, addr: &Addr, port: u16, contact: &Addr) -> bool {
        release_binding(key, addr, port, Some(contact)) & CONTACT != 0
    }

    #[inline(always)]
    fn contact_look(&self, key: &ContactKey) -> bool {
        // SAFETY: one word of map memory.
        unsafe { CONTACTS.get(key) }.is_some_and(|contact| contact.refs != 0)
    }

    #[inline(always)]
    fn contact_hold(&self, key: &ContactKey) -> bool {
        hold_contact(key)
    }

    #[inline(always)]
    fn contact_release(&self, key: &ContactKey) {
        release_contact(key);
    }

    #[inline(always)]
    fn binding_forget(&self, key: &BindingKey) {
        let _ = BINDINGS.remove(key);
    }

    #[inline(always)]
    fn search_port(&self, work: &mut Work, times: u32) {
        // As in `step`.
        let work = core::hint::black_box(work);
        let kernel = *self;
        // SAFETY: the callback takes what it is given here, and the context outlives the loop.
        unsafe {
            bpf_loop(
                times,
                try_port as *mut c_void,
                (&raw const kernel).cast_mut().cast(),
                0,
            );
        }
        core::hint::black_box(work);
    }

    #[inline(always)]
    fn random(&self) -> u32 {
        // SAFETY: takes nothing.
        unsafe { bpf_get_prandom_u32() }
    }

    #[inline(always)]
    fn ephemeral_ports(&self) -> (u16, u16) {
        let range = EPHEMERAL.load();
        ((range >> 16) as u16, range as u16)
    }

    #[inline(always)]
    fn flow_count(&self) -> u32 {
        FLOW_COUNT.get(0).copied().unwrap_or(0)
    }

    #[inline(always)]
    fn add_flow_count(&self, delta: i32) {
        if let Some(count) = FLOW_COUNT.get_ptr_mut(0) {
            // SAFETY: map memory.
            unsafe { atomic_add(count, delta) };
        }
    }

    #[inline(always)]
    fn owner_count(&self, slot: u16) -> u32 {
        PORT_FLOWS.get(u32::from(slot)).copied().unwrap_or(0)
    }

    #[inline(always)]
    fn add_owner_count(&self, slot: u16, delta: i32) {
        if let Some(count) = PORT_FLOWS.get_ptr_mut(u32::from(slot)) {
            // SAFETY: map memory.
            unsafe { atomic_add(count, delta) };
        }
    }

    #[inline(always)]
    fn flow_take(&self, slot: u16, interval_ns: u32) -> bool {
        let Some(next) = FLOW_RATE.get_ptr_mut(u32::from(slot)) else {
            return true;
        };
        // SAFETY: map memory. Two CPUs may both take from the same state, as in `storm_take`.
        unsafe {
            match rate::take(*next, self.now_ns(), interval_ns, 1) {
                Some(at) => {
                    *next = at;
                    true
                }
                None => false,
            }
        }
    }

    #[inline(always)]
    fn source_take(&self, key: &SourceKey, quota: u32, interval_ns: u32) -> SourceSays {
        match take_source(key, quota, interval_ns) {
            0 => SourceSays::Yes,
            1 => SourceSays::TooFast,
            _ => SourceSays::TooMany,
        }
    }

    #[inline(always)]
    fn source_hold(&self, key: &SourceKey, interval_ns: u32) -> bool {
        hold_source(key, interval_ns)
    }

    #[inline(always)]
    fn source_release(&self, key: &SourceKey) {
        release_source(key);
    }

    #[inline(always)]
    fn ban_ports(&self, generation: u32, place: u32) -> Option<&BanPorts> {
        BAN_PORTS.get((generation & 1) * PORT_PLACES + place)
    }

    #[inline(always)]
    fn ban_rule(&self, generation: u32, id: u8) -> Option<&BanRule> {
        BAN_RULES.get((generation & 1) * RULES + u32::from(id))
    }

    #[inline(always)]
    fn attempt(&self, key: &SourceKey, rule: &BanRule) -> bool {
        attempt(key, rule) != 0
    }

    #[inline(always)]
    fn ban(&self, key: &SourceKey, ban: &Ban) {
        // A table that is full forgets who has not tried for the longest time.
        if BANS.insert(key, ban, 0).is_ok()
            && let Some(banning) = BANNING.get_ptr_mut(0)
        {
            // SAFETY: map memory; an aligned word.
            unsafe { *banning = 1 };
        }
    }

    #[inline(always)]
    fn count_flow(&self, what: FlowCount, rule: u16) {
        match what {
            FlowCount::Hit => count_rule(rule, |c| c.hits += 1),
            FlowCount::RuleEnded => count_rule(rule, |c| c.ended += 1),
            FlowCount::PortTaken => count_rule(rule, |c| c.ports_taken += 1),
            FlowCount::PortReleased => count_rule(rule, |c| c.ports_released += 1),
            FlowCount::Exhausted => count_rule(rule, |c| c.exhausted += 1),
            FlowCount::Created | FlowCount::Ended | FlowCount::Evicted => {
                if let Some(counters) = FLOW_COUNTERS.get_ptr_mut(0) {
                    // SAFETY: this CPU's own counters.
                    unsafe {
                        match what {
                            FlowCount::Created => (*counters).created += 1,
                            FlowCount::Ended => (*counters).ended += 1,
                            _ => (*counters).evicted += 1,
                        }
                    }
                }
            }
        }
    }

    #[inline(always)]
    fn fragment_put(&self, key: &FragmentKey, fragment: &Fragment) {
        // A table that is full forgets the oldest.
        let _ = FRAGMENTS.insert(key, fragment, 0);
    }

    #[inline(always)]
    fn fragment_find(&self, key: &FragmentKey) -> Option<Fragment> {
        // SAFETY: copied at once; what replaces it meanwhile is checked by its tag.
        unsafe { FRAGMENTS.get(key) }.copied()
    }

    #[inline(always)]
    fn host_port(&self, port: u16) -> Option<*mut HostPort> {
        HOST_PORTS.get_ptr_mut(u32::from(port))
    }

    #[inline(always)]
    fn checked(&self, place: u32) -> Option<*mut Checked> {
        CHECKED.get_ptr_mut(place)
    }

    #[inline(always)]
    fn port_groups(&self, generation: u32, slot: u16) -> Option<&PortGroups> {
        PORT_GROUPS.get(generation * MAX_PORTS.load() + u32::from(slot))
    }

    #[inline(always)]
    fn policy_match(&self, key: &PolicyMatchKey) -> u32 {
        POLICY_MATCH
            .get(&Key::new(POLICY_MATCH_BITS, *key))
            .copied()
            .unwrap_or(0)
    }

    #[inline(always)]
    fn policy_node(&self, generation: u32, number: u32) -> Option<&PolicyNode> {
        POLICY_NODES.get(generation * policy::POLICY_NODES + number)
    }

    #[inline(always)]
    fn policy_range(&self, generation: u32, place: u32) -> Option<&PolicyRange> {
        POLICY_RANGES.get(generation * policy::POLICY_RANGES + place)
    }

    #[inline(always)]
    fn walk(&self, search: &mut Search) {
        // As in `step`.
        let search = core::hint::black_box(search);
        super::policy::walk();
        core::hint::black_box(search);
    }

    #[inline(always)]
    fn ask_group(&self, search: &mut Search) {
        let search = core::hint::black_box(search);
        super::policy::policy_ask_group();
        core::hint::black_box(search);
    }

    #[inline(always)]
    fn judge_port(&self, search: &mut Search) {
        let search = core::hint::black_box(search);
        super::policy::policy_judge_port();
        core::hint::black_box(search);
    }

    #[inline(always)]
    fn ask_members<W: Window + ?Sized>(&self, flood: &mut Flood, _plan: &Plan, _window: &W) {
        // Written by `policy_ask_members`.
        if let Some(work) = WORK.get_ptr(0) {
            // SAFETY: this CPU's own.
            flood.question = unsafe { (*work).question };
        }
    }

    #[inline(always)]
    fn member_admits(&self, flood: &Flood, slot: u16) -> bool {
        // As in `ask_members`.
        let Some(work) = WORK.get_ptr_mut(0) else {
            return false;
        };
        // SAFETY: this CPU's own, and nobody else's while a flood is under way.
        let Work { policy, event, .. } = unsafe { &mut *work };
        admits(flood, slot, policy, event, self)
    }

    #[inline(always)]
    fn flow_rule(&self, index: u32) -> Option<*mut u16> {
        let bucket = FLOW_RULES.get_ptr_mut(index / FLOW_BUCKET as u32)?;
        let place = core::hint::black_box(index as usize) & (FLOW_BUCKET - 1);
        // SAFETY: within the bucket.
        Some(unsafe { (&raw mut (*bucket).rules).cast::<u16>().add(place) })
    }

    #[inline(always)]
    fn count_policy(&self, rule: u16, packets: u64, bytes: u64, flows: u64) {
        if let Some(counters) = POLICY_COUNTERS.get_ptr_mut(u32::from(rule)) {
            // SAFETY: map memory, aligned.
            unsafe {
                atomic_add64(&raw mut (*counters).packets, packets);
                atomic_add64(&raw mut (*counters).bytes, bytes);
                atomic_add64(&raw mut (*counters).flows, flows);
            }
        }
    }

    #[inline(always)]
    fn answer_take(&self, kind: AnswerKind) -> bool {
        let Some(next) = ANSWER_LIMITS.get_ptr_mut(kind as u32) else {
            return false;
        };
        // SAFETY: this CPU's own state.
        unsafe {
            match rate::take(*next, self.now_ns(), ANSWER_INTERVAL_NS, 1) {
                Some(at) => {
                    *next = at;
                    true
                }
                None => false,
            }
        }
    }
}
