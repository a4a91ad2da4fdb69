//! [`FlowTable`] and [`Gateway`] over the maps and helpers.

use core::{ffi::c_void, intrinsics};

use aya_ebpf::{
    bindings::{
        BPF_FIB_LKUP_RET_NO_NEIGH, BPF_FIB_LKUP_RET_NO_SRC_ADDR, BPF_FIB_LKUP_RET_SUCCESS,
        BPF_FIB_LOOKUP_SRC, bpf_fib_lookup as FibParams, bpf_sock, bpf_sock_tuple,
    },
    btf_maps::lpm_trie::Key,
    helpers::{
        bpf_fib_lookup, bpf_get_prandom_u32, bpf_loop, bpf_sk_lookup_udp, bpf_sk_release,
        bpf_skc_lookup_tcp,
    },
};
use vnet_common::{
    Addr, Attempts, Ban, BanPorts, BanRule, Binding, BindingKey, Contact, ContactKey, FlowEntry,
    FlowKey, FlowTags, HostPort, NatCounters, NatMatchKey, NatRule, PolicyMatchKey, PolicyNode,
    PolicyRange, PortGroups, Source, SourceKey,
    flow::{FLOW_BUCKET, is_v4, mapped},
    limit::{BAN_PORTS as PORT_PLACES, BAN_RULES as RULES},
    nat::{self, NAT_MATCH_BITS},
    policy::{self, POLICY_MATCH_BITS},
};
use vnet_ebpf::{
    decide::Plan,
    flow::table::{self, FlowTable, Inserted},
    forward::Flood,
    gateway::{
        AnswerKind, Checked, FlowCount, Fragment, FragmentKey, Gateway, HostSocket, Route,
        RouteKind, Work,
    },
    ip::proto,
    limit::{self, SourceSays},
    nat::{Outcome, Step, ports},
    policy::{flood::admits, search::Search},
    rate,
    tables::Tables as _,
    window::Window,
};

use super::{
    maps::{
        ANSWER_LIMITS, ATTEMPTS, BAN_PORTS, BAN_RULES, BANNING, BANS, BINDINGS, CHECKED, CONTACTS,
        EPHEMERAL, FIB_SRC, FLOW_BUCKETS, FLOW_COUNT, FLOW_COUNTERS, FLOW_RATE, FLOW_RULES,
        FLOW_SEED, FLOW_TAGS, FLOWS, FRAGMENTS, HOST_PORTS, MAX_PORTS, NAT_COUNTERS, NAT_MATCH,
        NAT_RULES, POLICY_COUNTERS, POLICY_MATCH, POLICY_NODES, POLICY_RANGES, PORT_FLOWS,
        PORT_GROUPS, SOURCES, WORK,
    },
    tables::{Kernel, atomic_add, atomic_add64},
};

/// Address families, as bpf_fib_lookup names them.
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
/// The network namespace that the packet is in.
const CURRENT_NETNS: u64 = u64::MAX;
/// Nanoseconds between the answers of a kind that one CPU makes.
const ANSWER_INTERVAL_NS: u32 = 1_000_000;

/// Compares and exchanges a word; a full barrier.
///
/// # Safety
/// `word` points to aligned map memory.
#[inline(always)]
unsafe fn exchange(word: *mut u32, old: u32, new: u32) -> bool {
    use intrinsics::AtomicOrdering::SeqCst;
    // SAFETY: the caller's promise.
    unsafe { intrinsics::atomic_cxchg::<u32, { SeqCst }, { SeqCst }>(word, old, new).0 == old }
}

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

/// An IPv4 address in the words that helpers take.
#[inline(always)]
fn v4_word(addr: &Addr) -> u32 {
    u32::from_ne_bytes([addr[12], addr[13], addr[14], addr[15]])
}

/// An IPv6 address in the words that helpers take.
#[inline(always)]
fn v6_words(addr: &Addr) -> [u32; 4] {
    let mut words = [0; 4];
    let mut i = 0;
    while i < 4 {
        words[i] = u32::from_ne_bytes([
            addr[4 * i],
            addr[4 * i + 1],
            addr[4 * i + 2],
            addr[4 * i + 3],
        ]);
        i += 1;
    }
    words
}

/// Asks the host's routing.
#[inline(never)]
fn ask_route(ctx: *mut c_void, ifindex: u32, key: &FlowKey, route: &mut Route) {
    let v4 = is_v4(&key.src);
    *route = Route::NONE;
    // SAFETY: plain data.
    let mut params: FibParams = unsafe { core::mem::zeroed() };
    let mut flags = if FIB_SRC.load() != 0 {
        BPF_FIB_LOOKUP_SRC
    } else {
        0
    };
    let mut tries = 0;
    let mut ret = 0;
    while tries < 2 {
        params.family = if v4 { AF_INET } else { AF_INET6 };
        params.l4_protocol = key.proto;
        params.sport = key.sport.to_be();
        params.dport = key.dport.to_be();
        // With a length the route's MTU is looked at and told; one byte always fits
        // (net/core/filter.c, bpf_ipv4_fib_lookup).
        params.__bindgen_anon_1.tot_len = 1;
        params.ifindex = ifindex;
        if v4 {
            params.__bindgen_anon_3.ipv4_src = v4_word(&key.src);
            params.__bindgen_anon_4.ipv4_dst = v4_word(&key.dst);
        } else {
            params.__bindgen_anon_3.ipv6_src = v6_words(&key.src);
            params.__bindgen_anon_4.ipv6_dst = v6_words(&key.dst);
        }
        // SAFETY: the context is the program's and the parameters as long as is said.
        ret = unsafe { bpf_fib_lookup(ctx, &raw mut params, size_of::<FibParams>() as i32, flags) }
            as u32;
        if ret != BPF_FIB_LKUP_RET_NO_SRC_ADDR {
            break;
        }
        flags = 0;
        tries += 1;
    }
    match ret {
        BPF_FIB_LKUP_RET_SUCCESS => {
            route.next_hop = params.dmac;
            // SAFETY: the lookup has written it.
            route.mtu = u32::from(unsafe { params.__bindgen_anon_1.mtu_result });
        }
        BPF_FIB_LKUP_RET_NO_NEIGH => {}
        // Blackhole, unreachable, prohibited: what the stack does with them is an error to the
        // sender, as with anything it does not forward.
        _ => return,
    }
    route.kind = RouteKind::Out;
    route.ifindex = params.ifindex;
    if flags != 0 {
        // SAFETY: the family's variant was written.
        unsafe {
            if v4 {
                route.src = mapped(params.__bindgen_anon_3.ipv4_src.to_ne_bytes());
            } else {
                let words = params.__bindgen_anon_3.ipv6_src;
                let mut i = 0;
                while i < 4 {
                    let bytes = words[i].to_ne_bytes();
                    route.src[4 * i] = bytes[0];
                    route.src[4 * i + 1] = bytes[1];
                    route.src[4 * i + 2] = bytes[2];
                    route.src[4 * i + 3] = bytes[3];
                    i += 1;
                }
            }
        }
    }
}

/// Which socket of the host takes packets with this key: a [`HostSocket`]'s number, for a subprogram
/// returns numbers.
#[inline(never)]
fn host_socket(ctx: *mut c_void, key: &FlowKey) -> u32 {
    /// `BPF_TCP_LISTEN`.
    const LISTEN: u32 = 10;
    // SAFETY: plain data.
    let mut tuple: bpf_sock_tuple = unsafe { core::mem::zeroed() };
    let size = if is_v4(&key.src) {
        // SAFETY: the variant of the size that is told.
        unsafe {
            let v4 = &mut tuple.__bindgen_anon_1.ipv4;
            v4.saddr = v4_word(&key.src);
            v4.daddr = v4_word(&key.dst);
            v4.sport = key.sport.to_be();
            v4.dport = key.dport.to_be();
        }
        12
    } else {
        // SAFETY: as above.
        unsafe {
            let v6 = &mut tuple.__bindgen_anon_1.ipv6;
            v6.saddr = v6_words(&key.src);
            v6.daddr = v6_words(&key.dst);
            v6.sport = key.sport.to_be();
            v6.dport = key.dport.to_be();
        }
        36
    };
    // SAFETY: the context is the program's; what is found is given back at once.
    unsafe {
        match key.proto {
            proto::TCP => {
                let socket = bpf_skc_lookup_tcp(ctx, &raw mut tuple, size, CURRENT_NETNS, 0);
                if socket.is_null() {
                    return HostSocket::None as u32;
                }
                let listens = (*socket.cast::<bpf_sock>()).state == LISTEN;
                bpf_sk_release(socket.cast());
                if listens {
                    HostSocket::Open as u32
                } else {
                    HostSocket::Connected as u32
                }
            }
            proto::UDP => {
                let socket = bpf_sk_lookup_udp(ctx, &raw mut tuple, size, CURRENT_NETNS, 0);
                if socket.is_null() {
                    return HostSocket::None as u32;
                }
                let is_connected = (*socket).dst_port != 0;
                bpf_sk_release(socket.cast());
                if is_connected {
                    HostSocket::Connected as u32
                } else {
                    HostSocket::Open as u32
                }
            }
            _ => HostSocket::None as u32,
        }
    }
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

/// Tries to hold a mapping that other CPUs are holding at the same instant.
const HOLD_TRIES: u32 = 16;

/// Counts a hold, unless there is none any more.
///
/// # Safety
/// `refs` points to aligned map memory.
#[inline(always)]
unsafe fn hold(refs: *mut u32) -> bool {
    let mut tries = 0;
    while tries < HOLD_TRIES {
        // SAFETY: the caller's promise.
        unsafe {
            let count = core::ptr::read_volatile(refs);
            // Whoever brought it to zero takes it away: it is nobody's any more.
            if count == 0 {
                return false;
            }
            if exchange(refs, count, count + 1) {
                return true;
            }
        }
        tries += 1;
    }
    false
}

/// Whether two addresses differ: without a branch for each byte, nor a call.
#[inline(always)]
fn differ(a: &Addr, b: &Addr) -> bool {
    let mut differs = 0;
    let mut i = 0;
    while i < 16 {
        differs |= a[i] ^ b[i];
        i += 1;
    }
    differs != 0
}

/// Reads a mapping to `binding` and says whether it is there.
#[inline(never)]
fn look_binding(key: &BindingKey, binding: &mut Binding) -> bool {
    let Some(value) = BINDINGS.get_ptr_mut(key) else {
        return false;
    };
    // SAFETY: map memory.
    unsafe {
        *binding = core::ptr::read(value);
    }
    binding.refs != 0
}

/// Holds a mapping, and `contact` with it when that is its remote address: reads it to `binding` and
/// says whether it is there.
#[inline(never)]
fn hold_binding(key: &BindingKey, contact: Option<&Addr>, binding: &mut Binding) -> bool {
    let Some(value) = BINDINGS.get_ptr_mut(key) else {
        return false;
    };
    // SAFETY: map memory; `refs` and `count` are aligned words.
    unsafe {
        let refs = &raw mut (*value).refs;
        if !hold(refs) {
            return false;
        }
        *binding = core::ptr::read(value);
        // The memory of a mapping that went meanwhile may be another one's by now.
        if BINDINGS.get_ptr_mut(key) != Some(value) {
            atomic_add(refs, -1);
            return false;
        }
        // The address is the mapping's as long as that is there, and the hold keeps it there.
        if let Some(contact) = contact
            && !differ(&binding.remote, contact)
        {
            atomic_add(&raw mut (*value).count, 1);
        }
    }
    true
}

/// [`release_binding`] has given back the last hold.
const LAST: u32 = 1;
/// [`release_binding`] has given back the contact.
const CONTACT: u32 = 2;

/// Gives back a hold, and of `contact` when it is the mapping's remote address.
#[inline(never)]
fn release_binding(key: &BindingKey, addr: &Addr, port: u16, contact: Option<&Addr>) -> u32 {
    let Some(value) = BINDINGS.get_ptr_mut(key) else {
        return 0;
    };
    let mut released = 0;
    // SAFETY: map memory; `refs` and `count` are aligned words.
    unsafe {
        // Another mapping by now.
        if (*value).port != port || differ(&(*value).addr, addr) {
            return 0;
        }
        // First: what it holds may be gone after its last hold.
        if let Some(contact) = contact
            && !differ(&(*value).remote, contact)
        {
            atomic_add(&raw mut (*value).count, -1);
            released = CONTACT;
        }
        if atomic_add(&raw mut (*value).refs, -1) != 1 {
            return released;
        }
    }
    if BINDINGS.remove(key).is_ok() {
        released |= LAST;
    }
    released
}

/// Holds a contact, or adds it.
#[inline(never)]
fn hold_contact(key: &ContactKey) -> bool {
    const NO_EXIST: u64 = 1;
    if let Some(value) = CONTACTS.get_ptr_mut(key) {
        // SAFETY: map memory; `refs` is an aligned word.
        unsafe {
            let refs = &raw mut (*value).refs;
            if hold(refs) {
                // As with a mapping.
                if CONTACTS.get_ptr_mut(key) == Some(value) {
                    return true;
                }
                atomic_add(refs, -1);
            }
        }
    }
    CONTACTS.insert(key, Contact { refs: 1 }, NO_EXIST).is_ok()
}

/// Gives back a hold of a contact.
#[inline(never)]
fn release_contact(key: &ContactKey) -> bool {
    let Some(value) = CONTACTS.get_ptr_mut(key) else {
        return false;
    };
    // SAFETY: map memory; `refs` is an aligned word.
    if unsafe { atomic_add(&raw mut (*value).refs, -1) } != 1 {
        return false;
    }
    CONTACTS.remove(key).is_ok()
}

/// Takes from a source's limits.
#[inline(never)]
fn take_source(key: &SourceKey, quota: u32, interval_ns: u32) -> u32 {
    let Some(source) = SOURCES.get_ptr_mut(key) else {
        return SourceSays::Yes as u32;
    };
    // SAFETY: map memory. Two CPUs may both take from the same state, as in `storm_take`.
    unsafe {
        if quota != 0 && (*source).flows >= quota {
            return SourceSays::TooMany as u32;
        }
        if interval_ns != 0 {
            match rate::take((*source).next_ns, Kernel::bare().now_ns(), interval_ns, 1) {
                Some(at) => (*source).next_ns = at,
                None => return SourceSays::TooFast as u32,
            }
        }
    }
    SourceSays::Yes as u32
}

/// Counts a connection for its source.
#[inline(never)]
fn hold_source(key: &SourceKey, interval_ns: u32) -> bool {
    const NO_EXIST: u64 = 1;
    if let Some(source) = SOURCES.get_ptr_mut(key) {
        // SAFETY: map memory; `flows` is an aligned word.
        unsafe {
            let flows = &raw mut (*source).flows;
            if hold(flows) {
                // As with a mapping.
                if SOURCES.get_ptr_mut(key) == Some(source) {
                    return true;
                }
                if atomic_add(flows, -1) == 1 {
                    let _ = SOURCES.remove(key);
                }
            } else {
                // Whoever gave the last one back is about to take it away.
                let _ = SOURCES.remove(key);
            }
        }
    }
    let first = Source {
        next_ns: Kernel::bare().now_ns() + u64::from(interval_ns),
        flows: 1,
        reserved: 0,
    };
    SOURCES.insert(key, first, NO_EXIST).is_ok()
}

/// A source has a connection less.
#[inline(never)]
fn release_source(key: &SourceKey) -> u32 {
    let Some(source) = SOURCES.get_ptr_mut(key) else {
        return 0;
    };
    // SAFETY: map memory; `flows` is an aligned word.
    if unsafe { atomic_add(&raw mut (*source).flows, -1) } == 1 {
        let _ = SOURCES.remove(key);
    }
    0
}

/// Counts a connection of a source under a rule: not 0 when it is within it.
#[inline(never)]
fn attempt(key: &SourceKey, rule: &BanRule) -> u32 {
    let now_ns = Kernel::bare().now_ns();
    let Some(attempts) = ATTEMPTS.get_ptr_mut(key) else {
        let first = Attempts {
            next_ns: now_ns + rule.interval_ns,
        };
        let _ = ATTEMPTS.insert(key, first, 0);
        return 1;
    };
    // SAFETY: map memory; as in `take_source`.
    unsafe {
        if let Some(at) = limit::take(rule, (*attempts).next_ns, now_ns) {
            (*attempts).next_ns = at;
            return 1;
        }
    }
    let _ = ATTEMPTS.remove(key);
    0
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
