//! The maps. The loader sets the sizes that depend on configuration; those written here are the
//! defaults' order of magnitude. Pinned under their names in lower case.

use aya_ebpf::{
    Global,
    bindings::{BPF_F_MMAPABLE, BPF_F_NO_PREALLOC, bpf_timer},
    btf_maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, ProgramArray, RingBuf},
    macros::btf_map,
};
use vnet_common::{
    Attempts, Ban, BanPorts, BanRule, Binding, BindingKey, BucketRules, Contact, ContactKey,
    ControlReply, DropReport, Event, FdbBucket, FlowEntry, FlowTags, LearnedIp, LearnedIpKey,
    MacDenyKey, Member, NatCounters, NatMatchKey, NatRule, PolicyCounters, PolicyMatchKey,
    PolicyNode, PolicyRange, PortConf, PortGroups, PortIpKey, PortLeases, PortMacKey, PortReport,
    PortSegmentKey, PortTagKey, SEGMENTS, SegmentConf, Source, SourceKey, StormState, SwitchConf,
    event::{EVENT_KINDS, EventLimit},
    flow::{FlowCounters, HostPort},
    limit, nat, policy,
};
use vnet_ebpf::{
    decide::Plan,
    flow::translate::Change,
    forward::Flood,
    gateway::{ANSWER_KINDS, Checked, Fragment, FragmentKey, Work},
    guard::Sight,
    ip::Ip,
    meta::Meta,
};

/// Room is for the worst case; memory is taken for what is there.
const NO_PREALLOC: usize = BPF_F_NO_PREALLOC as usize;

/// Userspace may map it, and its values begin at a page: no value of a power of two in size lies in
/// more cache lines than it must.
const MAPPED: usize = BPF_F_MMAPABLE as usize;

/// Slots in `ports`' halves; a power of two.
#[unsafe(no_mangle)]
pub static MAX_PORTS: Global<u32> = Global::new(1024);
/// Entries in `members`' halves.
#[unsafe(no_mangle)]
pub static MAX_MEMBERS: Global<u32> = Global::new(65536);
/// Buckets of the FDB less one.
#[unsafe(no_mangle)]
pub static FDB_MASK: Global<u32> = Global::new(16383);
/// Random start of the FDB's hash.
#[unsafe(no_mangle)]
pub static FDB_SEED: Global<u64> = Global::new(0);

/// Buckets of the flow table.
#[unsafe(no_mangle)]
pub static FLOW_BUCKETS: Global<u32> = Global::new(81936);
/// Random start of the flow table's hash.
#[unsafe(no_mangle)]
pub static FLOW_SEED: Global<u64> = Global::new(0);
/// Not zero where bpf_fib_lookup tells the address to send from (BPF_FIB_LOOKUP_SRC, 6.7).
#[unsafe(no_mangle)]
pub static FIB_SRC: Global<u32> = Global::new(1);
/// The host's ports for outgoing connections: the first in the upper half, the last in the lower.
#[unsafe(no_mangle)]
pub static EPHEMERAL: Global<u32> = Global::new(32768 << 16 | 60999);

#[btf_map]
pub static SWITCH_CONF: Array<SwitchConf, 1> = Array::new();
#[btf_map]
pub static PORTS: Array<PortConf, 2048> = Array::new();
/// Interface index and generation to slot, for ports whose own place in `ports` was taken.
#[btf_map]
pub static PORT_ALIASES: HashMap<PortAliasKey, u32, 2048> = HashMap::new();
#[btf_map]
pub static PORT_TAGS: HashMap<PortTagKey, u32, 131072, NO_PREALLOC> = HashMap::new();
#[btf_map]
pub static PORT_SEGMENTS: HashMap<PortSegmentKey, u32, 131072, NO_PREALLOC> = HashMap::new();
#[btf_map]
pub static SEGMENT_CONF: Array<SegmentConf, { 2 * SEGMENTS as usize }> = Array::new();
#[btf_map]
pub static MEMBERS: Array<Member, 131072> = Array::new();
#[btf_map]
pub static MAC_DENY: HashMap<MacDenyKey, u32, 131072, NO_PREALLOC> = HashMap::new();
#[btf_map]
pub static MAC_ALLOW: HashMap<PortMacKey, u32, 131072, NO_PREALLOC> = HashMap::new();

/// Slots of ports and of the host by the IP addresses that they have by configuration.
#[btf_map]
pub static PORT_IPS: HashMap<PortIpKey, u32, 131072, NO_PREALLOC> = HashMap::new();
/// Who was leased which IP address.
#[btf_map]
pub static LEARNED_IPS: HashMap<LearnedIpKey, LearnedIp, 16384, NO_PREALLOC> = HashMap::new();
/// The addresses that ports were leased, by slot.
#[btf_map]
pub static PORT_LEASES: Array<PortLeases, 1024> = Array::new();

#[btf_map]
pub static FDB: Array<FdbBucket, 16384> = Array::new();
/// Addresses in the FDB.
#[btf_map]
pub static FDB_COUNT: Array<u32, 1> = Array::new();
/// Learned addresses by slot.
#[btf_map]
pub static PORT_MACS: Array<u32, 1024> = Array::new();
#[btf_map]
pub static FDB_AGEING: Array<FdbAgeing, 1> = Array::new();

/// Seconds of CLOCK_MONOTONIC, which the ageing timer keeps: a load for each frame in place of a
/// helper call and a division.
#[btf_map]
pub static CLOCK: Array<u32, 1> = Array::new();

#[btf_map]
pub static PORT_COUNTERS: PerCpuArray<PortReport, 1024> = PerCpuArray::new();
#[btf_map]
pub static PORT_DROPS: PerCpuArray<DropReport, 1024> = PerCpuArray::new();
#[btf_map]
pub static STORM_STATE: Array<StormState, 1024> = Array::new();

#[btf_map]
pub static EVENTS: RingBuf<Event, 262144> = RingBuf::new();
#[btf_map]
pub static EVENT_LIMITS: PerCpuArray<EventLimit, { EVENT_KINDS as usize }> = PerCpuArray::new();
/// Events that found the ring buffer full, or nobody reading.
#[btf_map]
pub static EVENTS_LOST: PerCpuArray<u64, 1> = PerCpuArray::new();
#[btf_map]
pub static CONTROL_REPLY: Array<ControlReply, 1> = Array::new();

/// Tags of the flow table's entries, by bucket.
#[btf_map]
pub static FLOW_TAGS: Array<FlowTags, 81936, MAPPED> = Array::new();
/// Entries of the flow table.
#[btf_map]
pub static FLOWS: Array<FlowEntry, 655488, MAPPED> = Array::new();
/// Connections in the flow table.
#[btf_map]
pub static FLOW_COUNT: Array<u32, 1> = Array::new();
/// Connections by the slot of the VM's port.
#[btf_map]
pub static PORT_FLOWS: Array<u32, 1024> = Array::new();
/// When each VM's port may begin its next connection, by slot; see `vnet_ebpf::rate`.
#[btf_map]
pub static FLOW_RATE: Array<u64, 1024> = Array::new();
#[btf_map]
pub static FLOW_COUNTERS: PerCpuArray<FlowCounters, 1> = PerCpuArray::new();
#[btf_map]
pub static FLOW_AGEING: Array<FlowAgeing, 1> = Array::new();
/// Flows of packets that come in fragments; the oldest go first.
#[btf_map]
pub static FRAGMENTS: LruHashMap<FragmentKey, Fragment, 16384> = LruHashMap::new();

/// When the host last used its ports, by port.
#[btf_map]
pub static HOST_PORTS: Array<HostPort, { vnet_common::flow::HOST_PORTS as usize }, MAPPED> =
    Array::new();

/// Ways out that were looked up lately; see `vnet_ebpf::gateway::Checked`.
#[btf_map]
pub static CHECKED: Array<Checked, { vnet_ebpf::gateway::CHECKED as usize }> = Array::new();

#[btf_map]
pub static NAT_RULES: Array<NatRule, { 2 * nat::NAT_RULES as usize }> = Array::new();
#[btf_map]
pub static NAT_MATCH: LpmTrie<NatMatchKey, u32, 262144> = LpmTrie::new();
#[btf_map]
pub static BINDINGS: HashMap<BindingKey, Binding, 524288, NO_PREALLOC> = HashMap::new();
#[btf_map]
pub static CONTACTS: HashMap<ContactKey, Contact, 262144, NO_PREALLOC> = HashMap::new();
#[btf_map]
pub static NAT_COUNTERS: PerCpuArray<NatCounters, { nat::NAT_RULES as usize }> = PerCpuArray::new();
/// Groups by generation and slot.
#[btf_map]
pub static PORT_GROUPS: Array<PortGroups, 2048> = Array::new();
#[btf_map]
pub static POLICY_MATCH: LpmTrie<PolicyMatchKey, u32, { policy::POLICY_MATCHES as usize }> =
    LpmTrie::new();
#[btf_map]
pub static POLICY_NODES: Array<PolicyNode, { 2 * policy::POLICY_NODES as usize }> = Array::new();
#[btf_map]
pub static POLICY_RANGES: Array<PolicyRange, { 2 * policy::POLICY_RANGES as usize }> = Array::new();
/// Not per CPU: written when a connection begins and ends, and for what is dropped.
#[btf_map]
pub static POLICY_COUNTERS: Array<PolicyCounters, { policy::POLICY_RULES as usize }> = Array::new();
/// The rules of security groups that let flows through, by bucket.
#[btf_map]
pub static FLOW_RULES: Array<BucketRules, 81936, MAPPED> = Array::new();

/// Connections by their sources.
#[btf_map]
pub static SOURCES: HashMap<SourceKey, Source, 262144, NO_PREALLOC> = HashMap::new();
/// The connections that sources made to the ports of rules that ban.
#[btf_map]
pub static ATTEMPTS: LruHashMap<SourceKey, Attempts, { limit::BANS as usize }> = LruHashMap::new();
/// Sources that are kept away.
#[btf_map]
pub static BANS: LruHashMap<SourceKey, Ban, { limit::BANS as usize }> = LruHashMap::new();
/// Not 0: there may be sources that are kept away. Until then no frame pays for a look.
#[btf_map]
pub static BANNING: Array<u32, 1> = Array::new();
#[btf_map]
pub static BAN_RULES: Array<BanRule, { 2 * limit::BAN_RULES as usize }> = Array::new();
#[btf_map]
pub static BAN_PORTS: Array<BanPorts, { 2 * limit::BAN_PORTS as usize }> = Array::new();

/// The limits of answers made on this CPU, by kind; see `vnet_ebpf::rate`.
#[btf_map]
pub static ANSWER_LIMITS: PerCpuArray<u64, { ANSWER_KINDS as usize }> = PerCpuArray::new();

/// The programs that others go on in: [`TC_FLOW`].
#[btf_map]
pub static FLOW_PROGRAMS: ProgramArray<1> = ProgramArray::new();
/// Place of `tc_flow` in `FLOW_PROGRAMS`.
pub const TC_FLOW: u32 = 0;

/// What `tc_flow` works on: one packet a CPU.
#[btf_map]
pub static WORK: PerCpuArray<Work, 1> = PerCpuArray::new();
/// What expiry and requests of userspace work on.
#[btf_map]
pub static SWEEP_WORK: PerCpuArray<Work, 1> = PerCpuArray::new();

/// What is known and decided of the frame under way on this CPU: too large for the stack. Free
/// again before a frame is sent, since sending can run a program on the same CPU.
#[btf_map]
pub static SCRATCH: PerCpuArray<Scratch, 1> = PerCpuArray::new();

/// What the guards work on: one frame a CPU.
#[btf_map]
pub static SIGHT: PerCpuArray<Sight, 1> = PerCpuArray::new();

/// Floods under way on this CPU, by depth: sending a copy can run the program of another switch
/// that this one is a port of.
#[btf_map]
pub static FLOODS: PerCpuArray<Flood, { MAX_FLOOD_DEPTH as usize }> = PerCpuArray::new();
/// Floods under way on this CPU.
#[btf_map]
pub static FLOOD_DEPTH: PerCpuArray<u32, 1> = PerCpuArray::new();
/// Switches that one frame may cross by being flooded. Beyond, it is a loop.
pub const MAX_FLOOD_DEPTH: u32 = 4;

/// The only entry of `SCRATCH`.
#[repr(C)]
pub struct Scratch {
    /// What is known of the frame besides its bytes.
    pub meta: Meta,
    /// What becomes of it.
    pub plan: Plan,
    /// The headers of a packet that may have to be routed.
    pub ip: Ip,
    /// What of it changes.
    pub change: Change,
}

/// Key of `port_aliases`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct PortAliasKey {
    /// Interface index.
    pub ifindex: u32,
    /// Generation.
    pub generation: u32,
}

/// The FDB's ageing: the only entry of `fdb_ageing`.
#[repr(C)]
pub struct FdbAgeing {
    /// Fires once a tick.
    pub timer: bpf_timer,
    /// The bucket that the next tick begins with.
    pub next_bucket: u32,
    /// Always zero.
    pub reserved: u32,
}

/// The flow table's expiry: the only entry of `flow_ageing`.
#[repr(C)]
pub struct FlowAgeing {
    /// Fires once a tick.
    pub timer: bpf_timer,
    /// The bucket that the next tick begins with.
    pub next_bucket: u32,
    /// Always zero.
    pub reserved: u32,
}
