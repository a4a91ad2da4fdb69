//! The eBPF programs that the benchmarks measure with, and those that vnet is measured against.
//!
//! | program | hook | what it does |
//! |---|---|---|
//! | `generate` | XDP; BPF_PROG_TEST_RUN with live frames | sends frames of `FLOWS` flows out of the interface `TARGET` |
//! | `sink` | XDP | counts and drops |
//! | `redirect_xdp`, `redirect_tc` | XDP, TC ingress | sends everything out of `TARGET`: what the hook itself costs |
//! | `floor_xdp`, `floor_tc` | XDP, TC ingress | the lookups and counters that no switch can do without, and nothing else |
#![no_std]
#![no_main]
#![allow(
    missing_docs,
    reason = "aya's macros make entry points of their own, without"
)]

use aya_ebpf::{
    Global,
    bindings::{TC_ACT_SHOT, xdp_action},
    btf_maps::{Array, PerCpuArray},
    helpers::bpf_redirect,
    macros::{btf_map, classifier, xdp},
    programs::{TcContext, XdpContext},
};
use vnet_common::{FdbBucket, FdbKey, Mac, PortConf, PortCounters};
use vnet_ebpf::{
    fdb::{self, Buckets},
    traffic::{self, FRAME_LEN},
};

/// The interface that frames leave by.
#[unsafe(no_mangle)]
pub static TARGET: Global<u32> = Global::new(0);
/// Slots in `PORTS`; a power of two.
#[unsafe(no_mangle)]
pub static MAX_PORTS: Global<u32> = Global::new(1024);
/// Buckets of the FDB less one.
#[unsafe(no_mangle)]
pub static FDB_MASK: Global<u32> = Global::new(16383);
/// Random start of the FDB's hash.
#[unsafe(no_mangle)]
pub static FDB_SEED: Global<u64> = Global::new(0);

/// Number of flows to generate.
#[btf_map]
pub static FLOWS: Array<u32, 1> = Array::new();
/// The flow that the next frame is of.
#[btf_map]
pub static NEXT_FLOW: PerCpuArray<u32, 1> = PerCpuArray::new();
/// Frames that the sink saw.
#[btf_map]
pub static SEEN: PerCpuArray<u64, 1> = PerCpuArray::new();
/// Ports by slot, as in the switch.
#[btf_map]
pub static PORTS: Array<PortConf, 1024> = Array::new();
/// The FDB, as in the switch.
#[btf_map]
pub static FDB: Array<FdbBucket, 16384> = Array::new();
/// Counters by slot, as in the switch.
#[btf_map]
pub static PORT_COUNTERS: PerCpuArray<PortCounters, 1024> = PerCpuArray::new();

/// Writes one frame and sends it. Live frames are recycled with what the receivers left in them:
/// every byte is written anew.
#[xdp]
pub fn generate(ctx: XdpContext) -> u32 {
    match next_frame(&ctx) {
        Some(()) => redirect(TARGET.load()) as u32,
        None => xdp_action::XDP_ABORTED,
    }
}

#[inline(always)]
fn next_frame(ctx: &XdpContext) -> Option<()> {
    let flows = *FLOWS.get(0)?;
    let next = NEXT_FLOW.get_ptr_mut(0)?;
    // SAFETY: this CPU's own.
    let flow = unsafe {
        let flow = *next;
        *next = if flow + 1 < flows { flow + 1 } else { 0 };
        flow
    };
    let start = ctx.data();
    if start + FRAME_LEN > ctx.data_end() {
        return None;
    }
    // SAFETY: compared against the frame's end; a frame begins at a multiple of eight.
    unsafe {
        let words = traffic::frame(flow);
        let words = words.as_ptr();
        let mut i = 0;
        while i < FRAME_LEN {
            let word = words.add(i).cast::<u32>().read_unaligned();
            ((start + i) as *mut u32).write(word);
            i += 4;
        }
    }
    Some(())
}

/// Counts and drops.
#[xdp]
pub fn sink(_ctx: XdpContext) -> u32 {
    if let Some(seen) = SEEN.get_ptr_mut(0) {
        // SAFETY: this CPU's own.
        unsafe { *seen += 1 };
    }
    xdp_action::XDP_DROP
}

/// What a redirect costs in XDP.
#[xdp]
pub fn redirect_xdp(_ctx: XdpContext) -> u32 {
    redirect(TARGET.load()) as u32
}

/// What a redirect costs at TC.
#[classifier]
pub fn redirect_tc(_ctx: TcContext) -> i32 {
    redirect(TARGET.load()) as i32
}

/// The least that a switch does, in XDP.
#[xdp]
pub fn floor_xdp(ctx: XdpContext) -> u32 {
    // SAFETY: the context is the program's.
    let ifindex = unsafe { (*ctx.ctx).ingress_ifindex };
    let (start, end) = (ctx.data(), ctx.data_end());
    match floor(start, end, ifindex, (end - start) as u32) {
        Some(target) => redirect(target) as u32,
        None => xdp_action::XDP_DROP,
    }
}

/// The least that a switch does, at TC.
#[classifier]
pub fn floor_tc(ctx: TcContext) -> i32 {
    // SAFETY: the context is the program's.
    let ifindex = unsafe { (*ctx.skb.skb).ifindex };
    match floor(ctx.data(), ctx.data_end(), ifindex, ctx.len()) {
        Some(target) => redirect(target) as i32,
        None => TC_ACT_SHOT,
    }
}

/// Port, source, destination, target port, counters. The interface that the frame is for.
#[inline(always)]
fn floor(start: usize, end: usize, ifindex: u32, len: u32) -> Option<u32> {
    if start + 2 * size_of::<Mac>() > end {
        return None;
    }
    // SAFETY: compared against the frame's end.
    let macs = unsafe { &*(start as *const [Mac; 2]) };
    let slot = ifindex & (MAX_PORTS.load() - 1);
    let from = PORTS.get(slot)?;
    if from.ifindex != ifindex {
        return None;
    }
    let segment = from.native_segment;
    let source = fdb::find(&Table, FdbKey::new(macs[1], segment))?;
    if source.slot != from.slot {
        return None;
    }
    let target = fdb::find(&Table, FdbKey::new(macs[0], segment))?;
    let to = PORTS.get(u32::from(target.slot))?;
    // SAFETY: this CPU's own counters.
    unsafe {
        let rx = PORT_COUNTERS.get_ptr_mut(u32::from(from.slot))?;
        (*rx).rx_packets += 1;
        (*rx).rx_bytes += u64::from(len);
        let tx = PORT_COUNTERS.get_ptr_mut(u32::from(target.slot))?;
        (*tx).tx_packets += 1;
        (*tx).tx_bytes += u64::from(len);
    }
    Some(to.ifindex)
}

#[inline(always)]
fn redirect(ifindex: u32) -> i64 {
    // SAFETY: takes numbers.
    unsafe { bpf_redirect(ifindex, 0) }
}

/// The FDB, for lookups alone: userspace fills it.
struct Table;

impl Buckets for Table {
    #[inline(always)]
    fn bucket(&self, index: u32) -> Option<*mut FdbBucket> {
        FDB.get_ptr_mut(index)
    }

    #[inline(always)]
    fn mask(&self) -> u32 {
        FDB_MASK.load()
    }

    #[inline(always)]
    fn seed(&self) -> u64 {
        FDB_SEED.load()
    }

    unsafe fn lock(&self, _bucket: *mut FdbBucket) {}
    unsafe fn unlock(&self, _bucket: *mut FdbBucket) {}

    fn count(&self) -> u32 {
        0
    }

    fn port_count(&self, _slot: u16) -> u32 {
        0
    }

    fn add_count(&self, _delta: i32) {}
    fn add_port_count(&self, _slot: u16, _delta: i32) {}
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
