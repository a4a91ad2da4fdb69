//! The maps. The loader sets the sizes that depend on configuration; those written here are the
//! defaults' order of magnitude. Pinned under their names in lower case.

use aya_ebpf::{
    Global,
    bindings::{BPF_F_NO_PREALLOC, bpf_timer},
    btf_maps::{Array, HashMap, PerCpuArray, RingBuf},
    macros::btf_map,
};
use vnet_common::{
    ControlReply, DropReport, Event, FdbBucket, MacDenyKey, Member, PortConf, PortMacKey,
    PortReport, PortSegmentKey, PortTagKey, SEGMENTS, SegmentConf, StormState, SwitchConf,
    event::{EVENT_KINDS, EventLimit},
};
use vnet_ebpf::{decide::Plan, forward::Flood, meta::Meta};

/// Room is for the worst case; memory is taken for what is there.
const NO_PREALLOC: usize = BPF_F_NO_PREALLOC as usize;

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

/// What is known and decided of the frame under way on this CPU: too large for the stack. Free
/// again before a frame is sent, since sending can run a program on the same CPU.
#[btf_map]
pub static SCRATCH: PerCpuArray<Scratch, 1> = PerCpuArray::new();

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
