//! The eBPF programs that the benchmarks measure with, and those that vnet is measured against.
//!
//! | program | hook | what it does |
//! |---|---|---|
//! | `generate` | XDP; BPF_PROG_TEST_RUN with live frames | sends frames of `FLOWS` flows out of the interface `TARGET` |
//! | `generate_nat` | the same | sends packets of `FLOWS` flows through a NAT gateway, in one direction |
//! | `generate_policy` | the same | sends the same packets untranslated, as between two VMs |
//! | `sink` | XDP | counts and drops |
//! | `redirect_xdp`, `redirect_tc` | XDP, TC ingress | sends everything out of `TARGET`: what the hook itself costs |
//! | `floor_xdp`, `floor_tc` | XDP, TC ingress | the lookups and counters that no switch can do without, and nothing else |
//! | `nat_floor_xdp`, `nat_floor_tc` | XDP, TC ingress | the lookup, rewrite and counters that no NAT gateway can do without, and nothing else |
#![no_std]
#![no_main]
#![allow(
    missing_docs,
    reason = "aya's macros make entry points of their own, without"
)]

use core::mem;

use aya_ebpf::{
    Global,
    bindings::{BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR, TC_ACT_SHOT, xdp_action},
    btf_maps::{Array, HashMap, PerCpuArray},
    helpers::bpf_redirect,
    macros::{btf_map, classifier, xdp},
    programs::{TcContext, XdpContext},
};
use vnet_common::{FdbBucket, FdbKey, FlowKey, Mac, PortConf, PortCounters};
use vnet_ebpf::{
    fdb::{self, Buckets},
    traffic::{
        self, FRAME_LEN,
        nat::{self, Rewrite},
    },
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

/// Whether `generate_nat` and `generate_policy` send what comes back, rather than what the VM sends.
#[unsafe(no_mangle)]
pub static INCOMING: Global<u32> = Global::new(0);
/// The MAC address that `generate_nat` and `generate_policy` send to: the lower 48 bits, in network order.
#[unsafe(no_mangle)]
pub static GATEWAY_MAC: Global<u64> = Global::new(0);

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
/// The NAT floor's flows, both directions.
#[btf_map]
pub static NAT_FLOWS: HashMap<FlowKey, Rewrite, 1> = HashMap::new();

/// Writes one frame and sends it. Live frames are recycled with what the receivers left in them:
/// every byte is written anew.
#[xdp]
pub fn generate(ctx: XdpContext) -> u32 {
    match next_frame(&ctx, traffic::frame) {
        Some(()) => redirect(TARGET.load()) as u32,
        None => xdp_action::XDP_ABORTED,
    }
}

/// As `generate`, with the traffic of a NAT gateway.
#[xdp]
pub fn generate_nat(ctx: XdpContext) -> u32 {
    let mac = GATEWAY_MAC.load().to_be_bytes();
    let mac = [mac[2], mac[3], mac[4], mac[5], mac[6], mac[7]];
    let written = if INCOMING.load() != 0 {
        next_frame(&ctx, |flow| nat::incoming(flow, mac))
    } else {
        next_frame(&ctx, |flow| nat::outgoing(flow, mac))
    };
    match written {
        Some(()) => redirect(TARGET.load()) as u32,
        None => xdp_action::XDP_ABORTED,
    }
}

/// As `generate_nat`, with the same traffic where nobody translates.
#[xdp]
pub fn generate_policy(ctx: XdpContext) -> u32 {
    let mac = GATEWAY_MAC.load().to_be_bytes();
    let mac = [mac[2], mac[3], mac[4], mac[5], mac[6], mac[7]];
    let written = if INCOMING.load() != 0 {
        next_frame(&ctx, |flow| nat::answering(flow, mac))
    } else {
        next_frame(&ctx, |flow| nat::outgoing(flow, mac))
    };
    match written {
        Some(()) => redirect(TARGET.load()) as u32,
        None => xdp_action::XDP_ABORTED,
    }
}

/// Writes the frame that `make` makes of the next flow's number.
#[inline(always)]
fn next_frame(ctx: &XdpContext, make: impl FnOnce(u32) -> [u8; FRAME_LEN]) -> Option<()> {
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
        let words = make(flow);
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

/// The least that a NAT gateway does with what comes in for a VM, in XDP.
#[xdp]
pub fn nat_floor_xdp(ctx: XdpContext) -> u32 {
    match nat_floor_incoming(ctx.data(), ctx.data_end()) {
        Some(target) => redirect(target) as u32,
        None => xdp_action::XDP_DROP,
    }
}

/// The least that a NAT gateway does with what a VM sends, at TC.
#[classifier]
pub fn nat_floor_tc(ctx: TcContext) -> i32 {
    match nat_floor_outgoing(&ctx) {
        Some(target) => redirect(target) as i32,
        None => TC_ACT_SHOT,
    }
}

/// The headers of a packet that the floor translates: UDP over IPv4 without options. Numbers are as
/// they are in the packet, in network order; a frame begins at an even address.
#[repr(C, packed(2))]
struct Headers {
    macs: [Mac; 2],
    ethertype: u16,
    version_ihl: u8,
    tos: u8,
    len: u16,
    id: u16,
    fragment: u16,
    ttl: u8,
    proto: u8,
    ip_sum: u16,
    src: u32,
    dst: u32,
    sport: u16,
    dport: u16,
    udp_len: u16,
    udp_sum: u16,
}

/// The headers, when they are all there.
#[inline(always)]
fn headers(start: usize, end: usize) -> Option<*mut Headers> {
    (start + size_of::<Headers>() <= end).then_some(start as *mut Headers)
}

/// Counts a packet of `bytes` bytes; gives what is to be done with it.
#[inline(always)]
fn nat_lookup(headers: &Headers, bytes: usize) -> Option<&'static Rewrite> {
    let ports = u64::from(u16::from_be(headers.sport))
        | u64::from(u16::from_be(headers.dport)) << 16
        | u64::from(headers.proto) << 48;
    let mapped = |addr: u32| u64::from(addr) << 32 | 0xffff_0000;
    let key = [0, mapped(headers.src), 0, mapped(headers.dst), ports];
    // SAFETY: the words are a key's bytes, of which each can be anything.
    let key: FlowKey = unsafe { mem::transmute::<[u64; 5], FlowKey>(key) };
    let entry = NAT_FLOWS.get_ptr_mut(key)?;
    // SAFETY: entries are never deleted; userspace writes them before packets come, and packets
    // come on one CPU.
    unsafe {
        (*entry).packets += 1;
        (*entry).bytes += bytes as u64;
        Some(&*entry)
    }
}

/// What a checksum becomes when `old` becomes `new` (RFC 1624, equation 3): in any byte order, as
/// long as it is the same.
#[inline(always)]
fn updated(sum: u16, old: &[u16], new: &[u16]) -> u16 {
    let gone: u32 = old.iter().map(|&word| u32::from(!word)).sum();
    let come: u32 = new.iter().map(|&word| u32::from(word)).sum();
    let sum = u32::from(!sum) + gone + come;
    let sum = (sum & 0xffff) + (sum >> 16);
    !((sum & 0xffff) + (sum >> 16)) as u16
}

#[inline(always)]
fn halves(addr: u32) -> [u16; 2] {
    [addr as u16, (addr >> 16) as u16]
}

/// What IPv4's checksum becomes when one is taken off the TTL and `old` becomes `new`.
#[inline(always)]
fn updated_ip_sum(headers: &Headers, old: u32, new: u32) -> u16 {
    let hop = |ttl: u8| u16::from_ne_bytes([ttl, headers.proto]);
    let ([a, b], [c, d]) = (halves(old), halves(new));
    let (before, after) = (hop(headers.ttl), hop(headers.ttl - 1));
    updated(headers.ip_sum, &[a, b, before], &[c, d, after])
}

/// Whether the floor's programs know what to do with it.
#[inline(always)]
fn translatable(headers: &Headers) -> bool {
    headers.ethertype == 0x0800u16.to_be()
        && headers.version_ihl == 0x45
        && headers.proto == 17
        && headers.ttl > 1
}

#[inline(always)]
fn nat_floor_incoming(start: usize, end: usize) -> Option<u32> {
    // SAFETY: compared against the frame's end.
    let headers = unsafe { &mut *headers(start, end)? };
    if !translatable(headers) {
        return None;
    }
    let rewrite = nat_lookup(headers, end - start)?;
    let addr = u32::from_ne_bytes(rewrite.addr);
    let port = u16::from_ne_bytes(rewrite.port);
    headers.ip_sum = updated_ip_sum(headers, headers.dst, addr);
    if headers.udp_sum != 0 {
        let ([a, b], [c, d]) = (halves(headers.dst), halves(addr));
        let sum = updated(headers.udp_sum, &[a, b, headers.dport], &[c, d, port]);
        headers.udp_sum = if sum == 0 { 0xffff } else { sum };
    }
    headers.ttl -= 1;
    headers.dst = addr;
    headers.dport = port;
    headers.macs = rewrite.macs;
    Some(rewrite.ifindex)
}

/// A socket buffer's UDP checksum may be one that a device is to finish, and only the kernel knows:
/// it is changed by helpers. IPv4's is always finished.
#[inline(always)]
fn nat_floor_outgoing(ctx: &TcContext) -> Option<u32> {
    const UDP_SUM: usize = mem::offset_of!(Headers, udp_sum);
    let is_udp = u64::from(BPF_F_MARK_MANGLED_0);
    let in_pseudo_header = is_udp | u64::from(BPF_F_PSEUDO_HDR);

    // SAFETY: compared against the end of the frame's linear part.
    let before = unsafe { &*headers(ctx.data(), ctx.data_end())? };
    if !translatable(before) {
        return None;
    }
    let rewrite = nat_lookup(before, ctx.len() as usize)?;
    let addr = u32::from_ne_bytes(rewrite.addr);
    let port = u16::from_ne_bytes(rewrite.port);
    let (old_addr, old_port) = (before.src, before.sport);
    ctx.l4_csum_replace(
        UDP_SUM,
        u64::from(old_addr),
        u64::from(addr),
        in_pseudo_header | 4,
    )
    .ok()?;
    ctx.l4_csum_replace(UDP_SUM, u64::from(old_port), u64::from(port), is_udp | 2)
        .ok()?;
    // SAFETY: compared again, as the helpers may have moved the frame.
    let headers = unsafe { &mut *headers(ctx.data(), ctx.data_end())? };
    headers.ip_sum = updated_ip_sum(headers, old_addr, addr);
    headers.ttl -= 1;
    headers.src = addr;
    headers.sport = port;
    headers.macs = rewrite.macs;
    Some(rewrite.ifindex)
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
