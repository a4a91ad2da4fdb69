//! The pipeline at TC.

use core::ffi::c_void;

use aya_ebpf::{
    bindings::{
        __sk_buff, BPF_F_INGRESS, BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR, BPF_F_RECOMPUTE_CSUM,
        TC_ACT_OK, TC_ACT_SHOT,
    },
    helpers::{
        bpf_clone_redirect, bpf_l4_csum_replace, bpf_loop, bpf_redirect, bpf_redirect_neigh,
        bpf_skb_pull_data, bpf_skb_store_bytes, bpf_skb_vlan_pop, bpf_skb_vlan_push,
    },
    programs::TcContext,
};
use vnet_common::{
    DropReason, Mac, NO_SLOT,
    port::{PORT_GATEWAY, PORT_ROUTED},
};
use vnet_ebpf::{
    decide::{Plan, decide},
    flow::{
        table::NO_FLOW,
        translate::{Change, checksum_change, ethernet, fold32, ipv4_tail, port_bytes},
    },
    forward::{Action, Exit, Flood, Packet, forward},
    frame::{ETH_LEN, TAG_LEN},
    gateway::Gateway as _,
    guard::{self, lease},
    ip::{IPV4, IPV4_LEN, IPV6, IPV6_LEN, Icmp, Ip, Part},
    meta::{Hook, Meta, Tag, is_kernel_tpid},
    nat::{Outcome, Step, host},
    route,
    settle::{settle, settle_limited, settle_source},
    tables::{Effects as _, Tables as _},
    window::{MAX_OFFSET, Window},
};

use super::{
    maps::{FLOOD_DEPTH, FLOODS, FLOW_PROGRAMS, SCRATCH, Scratch, TC_FLOW, WORK},
    policy::{policy_ask_members, policy_passes},
    tables::Kernel,
};

/// Bytes that are wanted in the linear head: the header and the tags behind it, two when the host put
/// them there itself, and the longest IP header, whose source may be one that must not leave.
const WANTED: u32 = (ETH_LEN + 2 * TAG_LEN + IPV6_LEN) as u32;

/// As [`WANTED`], for packets that may have to be routed: as far as a TCP header's flags, behind the
/// longest IPv4 header.
pub const ROUTED: u32 = 98;

/// Mark of a frame that the switch redirects to an uplink, in `skb->tc_index`. It names the
/// interface and the direction, so that it means nothing anywhere else: a veth hands a frame to
/// another namespace with the mark still on it.
#[inline(always)]
const fn token(ifindex: u32, to_stack: bool) -> u32 {
    0x8000 | ((to_stack as u32) << 14) | (ifindex & 0x3fff)
}

/// A socket buffer.
#[derive(Clone, Copy)]
pub struct Skb {
    /// The program's context.
    pub skb: *mut __sk_buff,
}

impl Window for Skb {
    #[inline(always)]
    fn at<const N: usize>(&self, offset: usize) -> Option<&[u8; N]> {
        // The very register that is compared has to be the one that is added.
        let offset = core::hint::black_box(offset);
        if offset > MAX_OFFSET {
            return None;
        }
        // SAFETY: the kernel rewrites these accesses into pointer loads, and the verifier holds
        // the comparison against data_end to cover the read. Volatile, since a value kept in a
        // register is widened from 32 bits there, which makes a pointer a number.
        unsafe {
            let start = (&raw const (*self.skb).data).read_volatile() as usize + offset;
            if start + N > (&raw const (*self.skb).data_end).read_volatile() as usize {
                return None;
            }
            Some(&*(start as *const [u8; N]))
        }
    }
}

impl Packet for Skb {
    #[inline(always)]
    fn retag(&mut self, from: Tag, to: Tag) -> bool {
        if from == to {
            return true;
        }
        // SAFETY: the context is the program's.
        unsafe {
            if from.is_some() {
                // A tag that the host built into a frame of another protocol: bpf_skb_vlan_pop would
                // do nothing and say that it did (skb_vlan_pop, net/core/skbuff.c).
                let protocol = u16::from_be((*self.skb).protocol as u16);
                if (*self.skb).vlan_present == 0 && !is_kernel_tpid(protocol) {
                    return false;
                }
                if bpf_skb_vlan_pop(self.skb) != 0 {
                    return false;
                }
            }
            !to.is_some() || bpf_skb_vlan_push(self.skb, to.tpid.to_be(), to.tci) == 0
        }
    }

    #[inline(always)]
    fn readdress(&mut self, to: Mac) -> bool {
        // SAFETY: the context is the program's and the buffer as long as is said.
        unsafe { bpf_skb_store_bytes(self.skb.cast(), 0, to.as_ptr().cast(), 6, 0) == 0 }
    }

    #[inline(always)]
    fn translate(&mut self, ip: &Ip, change: &Change) -> bool {
        translate(self.skb, ip, change)
    }

    #[inline(always)]
    fn send_copy(&mut self, exit: Exit) -> bool {
        self.mark(exit);
        // SAFETY: the context is the program's.
        let sent = unsafe { bpf_clone_redirect(self.skb, exit.ifindex, flags(exit)) == 0 };
        #[cfg(feature = "testing")]
        super::testing::note_copy(self.skb, exit, sent);
        sent
    }
}

/// Writes words, each in its own order.
#[inline(always)]
fn store_words<const N: usize>(skb: *mut __sk_buff, offset: usize, words: &[u32; N]) -> bool {
    // SAFETY: the context is the program's and the buffer as long as is said.
    unsafe {
        bpf_skb_store_bytes(
            skb.cast(),
            offset as u32,
            words.as_ptr().cast(),
            size_of::<[u32; N]>() as u32,
            0,
        ) == 0
    }
}

/// Writes bytes. With `recompute` a checksum that the NIC made over the whole packet follows.
#[inline(always)]
pub fn store<const N: usize>(
    skb: *mut __sk_buff,
    offset: usize,
    bytes: &[u8; N],
    recompute: bool,
) -> bool {
    let flags = if recompute {
        u64::from(BPF_F_RECOMPUTE_CSUM)
    } else {
        0
    };
    // SAFETY: the context is the program's and the buffer as long as is said.
    unsafe {
        bpf_skb_store_bytes(
            skb.cast(),
            offset as u32,
            bytes.as_ptr().cast(),
            N as u32,
            flags,
        ) == 0
    }
}

/// Translates a packet whose checksum may be left to a device to finish: the kernel's helpers know
/// which part of it is in the packet (net/core/utils.c, inet_proto_csum_replace_by_diff).
#[inline(never)]
fn translate(skb: *mut __sk_buff, ip: &Ip, change: &Change) -> bool {
    let (l3, l4) = (ip.l3 as usize, ip.l4 as usize);
    let mut ports_left = false;
    if change.translates && !matches!(ip.part, Part::Later) {
        ports_left = change.sport != ip.key.sport || change.dport != ip.key.dport;
        if !checksum(skb, ip, change, ports_left) {
            return false;
        }
    }
    if ip.v6 {
        let mut tail = [0; 33];
        tail[0] = if change.hop {
            ip.ttl.wrapping_sub(1)
        } else {
            ip.ttl
        };
        let mut i = 0;
        while i < 16 {
            tail[1 + i] = change.src[i];
            tail[17 + i] = change.dst[i];
            i += 1;
        }
        // The addresses are in no checksum of the header's own: what a NIC summed up changes.
        if !store(skb, l3 + 7, &tail, true) {
            return false;
        }
    } else {
        let window = Skb { skb };
        let Some(old) = window.at::<12>(l3 + 8) else {
            return false;
        };
        let tail = ipv4_tail(old, &change.src, &change.dst, change.hop);
        // One store writes the ports, too, where they follow.
        let follow = ports_left && l4 == l3 + IPV4_LEN && matches!(ip.icmp, Icmp::None);
        let stored = if follow {
            ports_left = false;
            let ports = u32::from_ne_bytes(port_bytes(ip, change.sport, change.dport));
            store_words(skb, l3 + 8, &[tail[0], tail[1], tail[2], ports])
        } else {
            store_words(skb, l3 + 8, &tail)
        };
        if !stored {
            return false;
        }
    }
    if ports_left {
        let bytes = port_bytes(ip, change.sport, change.dport);
        let stored = match ip.icmp {
            Icmp::None => store(skb, l4, &bytes, false),
            Icmp::Request | Icmp::Reply => store(skb, l4 + 4, &[bytes[0], bytes[1]], false),
            _ => true,
        };
        if !stored {
            return false;
        }
    }
    store_words(skb, 0, &ethernet(change))
}

/// Has the checksum behind the IP header follow a change, of the ports too when `moved`.
#[inline(always)]
fn checksum(skb: *mut __sk_buff, ip: &Ip, change: &Change, moved: bool) -> bool {
    let sums = checksum_change(ip, change);
    if sums.offset == 0 {
        return true;
    }
    let at = sums.offset as u32;
    let optional = if sums.optional {
        u64::from(BPF_F_MARK_MANGLED_0)
    } else {
        0
    };
    let (pseudo, ports) = (fold32(sums.pseudo), fold32(sums.ports));
    let pseudo_flags = u64::from(BPF_F_PSEUDO_HDR) | optional;
    // SAFETY: the context is the program's.
    unsafe {
        bpf_l4_csum_replace(skb, at, 0, u64::from(pseudo), pseudo_flags) == 0
            && (!moved || bpf_l4_csum_replace(skb, at, 0, u64::from(ports), optional) == 0)
    }
}

/// Has at least `wanted` bytes, or all there are, in the linear head.
#[inline(always)]
pub fn pull(raw: *mut __sk_buff, len: u32, wanted: u32) {
    // SAFETY: the context is the program's.
    unsafe {
        let head = (*raw).data_end - (*raw).data;
        if head < wanted && head < len {
            bpf_skb_pull_data(raw, if len < wanted { len } else { wanted });
        }
    }
}

impl Skb {
    #[inline(always)]
    fn mark(&self, exit: Exit) {
        let mark = if exit.mark {
            token(exit.ifindex, exit.to_stack)
        } else {
            0
        };
        // SAFETY: tc_index is writable for TC programs (tc_cls_act_is_valid_access).
        unsafe { (*self.skb).tc_index = mark };
    }
}

#[inline(always)]
fn flags(exit: Exit) -> u64 {
    if exit.to_stack {
        u64::from(BPF_F_INGRESS)
    } else {
        0
    }
}

/// What is known of the frame besides its bytes. Clears the token.
#[inline(always)]
fn meta(skb: *mut __sk_buff, hook: Hook) -> Meta {
    // SAFETY: the kernel rewrites accesses to the context's fields.
    unsafe {
        let ifindex = (*skb).ifindex;
        let mark = (*skb).tc_index;
        if mark != 0 {
            (*skb).tc_index = 0;
        }
        Meta {
            hook,
            ifindex,
            len: (*skb).len,
            gso_size: (*skb).gso_size,
            gso_segs: (*skb).gso_segs,
            tag: if (*skb).vlan_present != 0 {
                Tag {
                    tpid: u16::from_be((*skb).vlan_proto as u16),
                    tci: (*skb).vlan_tci as u16,
                }
            } else {
                Tag::NONE
            },
            redirected: mark == token(ifindex, matches!(hook, Hook::TcIngress)),
            // What came in by an interface keeps its index; a socket's has none.
            forwarded: matches!(hook, Hook::TcEgress) && (*skb).ingress_ifindex != 0,
        }
    }
}

/// Runs the pipeline on a frame.
#[inline(always)]
pub fn run(ctx: &TcContext, hook: Hook) -> i32 {
    let raw = ctx.skb.skb;
    let Some(scratch) = SCRATCH.get_ptr_mut(0) else {
        return TC_ACT_SHOT;
    };
    let kernel = Kernel { ctx: raw.cast() };
    // SAFETY: this CPU's own, and no other program runs here until the frame is sent.
    let Scratch {
        meta, plan, change, ..
    } = unsafe { &mut *scratch };
    *meta = self::meta(raw, hook);
    let meta = &*kernel.opaque(meta);
    // A frame whose head is short is pulled as far as the headers, never more.
    pull(raw, meta.len, WANTED);
    let mut skb = Skb { skb: raw };
    decide(meta, &skb, &kernel, plan);
    let plan = kernel.opaque(plan);
    if matches!(hook, Hook::TcIngress) && guard::concerns(plan) {
        super::guard::guard_check(raw);
    } else if lease::concerns(plan) && kernel.learns(plan.generation) {
        super::guard::guard_learn(raw);
    }
    let plan = kernel.opaque(plan);
    settle_limited(plan, meta, &kernel);
    let plan = kernel.opaque(plan);
    if matches!(hook, Hook::TcIngress) && plan.stack_slot != NO_SLOT {
        return route_on(ctx, meta, plan, change);
    }
    if matches!(hook, Hook::TcIngress) && super::answer::may_ask(plan, &kernel) {
        let word = super::answer::answer(raw);
        if word != PASS {
            settle_source(plan, meta, &kernel);
            return finish(&Skb { skb: raw }, unpack(word));
        }
    }
    if matches!(hook, Hook::TcEgress) && may_claim(meta, plan, &kernel) {
        host_claim(raw);
    }
    let plan = kernel.opaque(plan);
    if plan.policed && policy_passes(raw) == 0 {
        settle_source(plan, meta, &kernel);
        return go_on(ctx, meta, plan);
    }
    settle(plan, meta, &kernel);
    let plan = kernel.opaque(plan);
    #[cfg(feature = "log")]
    super::log::plan(ctx, meta, plan);
    let action = match forward(plan, meta, &kernel, &mut skb) {
        Some(action) => action,
        None => unpack(flood(plan, meta, raw)),
    };
    finish(&skb, action)
}

/// Sends on what is not for the host itself: at once, when its connection is known and stands, or by
/// way of the program `tc_flow`.
#[inline(always)]
fn route_on(ctx: &TcContext, meta: &Meta, plan: &Plan, change: &mut Change) -> i32 {
    let raw = ctx.skb.skb;
    let kernel = Kernel { ctx: raw.cast() };
    pull(raw, meta.len, ROUTED);
    let index = route_look(raw);
    settle_source(plan, meta, &kernel);
    if index == NO_FLOW {
        if super::answer::may_ask(plan, &kernel) {
            let word = super::answer::answer(raw);
            if word != PASS {
                return finish(&Skb { skb: raw }, unpack(word));
            }
        }
        return go_on(ctx, meta, plan);
    }
    change.index = index;
    let word = route_send(raw, 0);
    finish(&Skb { skb: raw }, unpack(word))
}

/// Goes on in the program `tc_flow`, the frame's source having been settled.
#[inline(always)]
fn go_on(ctx: &TcContext, meta: &Meta, plan: &Plan) -> i32 {
    // SAFETY: goes on in another program with this one's context, or comes back.
    unsafe { FLOW_PROGRAMS.tail_call(ctx, TC_FLOW) };
    // Nobody may pass because a program is missing.
    let kernel = Kernel {
        ctx: ctx.skb.skb.cast(),
    };
    kernel.count_drop(plan.port.slot, DropReason::KernelRefused, meta.packets());
    TC_ACT_SHOT
}

/// Whether a frame of the host may begin a connection that shares addresses with mappings.
#[inline(always)]
fn may_claim(meta: &Meta, plan: &Plan, kernel: &Kernel) -> bool {
    !meta.redirected
        && matches!(plan.frame.ether_type, IPV4 | IPV6)
        && kernel
            .port(plan.generation, plan.port.slot)
            .is_some_and(|port| port.flags & (PORT_ROUTED | PORT_GATEWAY) == PORT_ROUTED)
}

/// Takes back what the host's packet needs for its answers (`vnet_ebpf::nat::host`).
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn host_claim(raw: *mut __sk_buff) -> u32 {
    let (Some(scratch), Some(work)) = (SCRATCH.get_ptr_mut(0), WORK.get_ptr_mut(0)) else {
        return 0;
    };
    // SAFETY: this CPU's own, and no other program runs here until the frame is sent.
    let (Scratch { meta, plan, .. }, work) = unsafe { (&mut *scratch, &mut *work) };
    let raw = core::hint::black_box(raw);
    let kernel = Kernel { ctx: raw.cast() };
    pull(raw, meta.len, ROUTED);
    let read = kernel.step(Step::Read, work, plan, &Skb { skb: raw });
    if read == Outcome::GO_ON && host::may_begin(&work.ip) {
        host::claim(work, &kernel);
    }
    0
}

/// Reads the packet's headers and finds its flow: the entry's index. A global function, which the
/// verifier looks at once (see `steps`).
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn route_look(raw: *mut __sk_buff) -> u32 {
    let Some(scratch) = SCRATCH.get_ptr_mut(0) else {
        return NO_FLOW;
    };
    // SAFETY: this CPU's own, and no other program runs here until the frame is sent.
    let Scratch { meta, plan, ip, .. } = unsafe { &mut *scratch };
    let raw = core::hint::black_box(raw);
    route::look(
        plan,
        meta,
        &Skb { skb: raw },
        &Kernel { ctx: raw.cast() },
        ip,
    )
}

/// Edits the packet as its flow says, whose headers and index are in the scratch space of `tc_ingress`,
/// or with `slow` in that of `tc_flow`; what remains to be done, in one word ([`unpack`]).
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn route_send(raw: *mut __sk_buff, slow: u32) -> u64 {
    let (Some(scratch), Some(work)) = (SCRATCH.get_ptr_mut(0), WORK.get_ptr_mut(0)) else {
        return DROP;
    };
    // SAFETY: as above.
    let (
        Scratch {
            meta,
            plan,
            ip,
            change,
        },
        work,
    ) = unsafe { (&mut *scratch, &mut *work) };
    let (ip, change) = if slow != 0 {
        (&work.ip, &mut work.change)
    } else {
        (&*ip, change)
    };
    let raw = core::hint::black_box(raw);
    let kernel = Kernel { ctx: raw.cast() };
    let mut skb = Skb { skb: raw };
    pack(route::send(ip, change, plan, meta, &kernel, &mut skb))
}

/// Carries out what remains to be done with the frame itself.
#[inline(always)]
pub fn finish(skb: &Skb, action: Action) -> i32 {
    match action {
        Action::Pass => TC_ACT_OK,
        Action::Drop => TC_ACT_SHOT,
        Action::Redirect(exit) => {
            skb.mark(exit);
            #[cfg(feature = "testing")]
            super::testing::note_redirect(exit, false);
            // SAFETY: takes numbers.
            unsafe { bpf_redirect(exit.ifindex, flags(exit)) as i32 }
        }
        Action::Neighbour(exit) => {
            skb.mark(exit);
            #[cfg(feature = "testing")]
            super::testing::note_redirect(exit, true);
            // SAFETY: takes numbers; no parameters has the kernel look up the next hop too.
            unsafe { bpf_redirect_neigh(exit.ifindex, core::ptr::null_mut(), 0, 0) as i32 }
        }
    }
}

/// What a step of `bpf_loop` is given.
struct FloodStep {
    skb: *mut __sk_buff,
    depth: u32,
}

/// [`Action::Pass`] in the word that a subprogram returns.
pub const PASS: u64 = 0;
/// [`Action::Drop`] in the word that a subprogram returns.
pub const DROP: u64 = 1;
/// A bit of every redirect: no redirect is one of the two above.
const REDIRECT: u64 = 1 << 63;
/// The bit of an exit whose next hop the kernel is to find.
const NEIGHBOUR: u64 = 1 << 34;

/// An action in one word, which a subprogram can return.
#[inline(always)]
pub const fn pack(action: Action) -> u64 {
    let (exit, neighbour) = match action {
        Action::Pass => return PASS,
        Action::Drop => return DROP,
        Action::Redirect(exit) => (exit, 0),
        Action::Neighbour(exit) => (exit, NEIGHBOUR),
    };
    REDIRECT
        | neighbour
        | (exit.mark as u64) << 33
        | (exit.to_stack as u64) << 32
        | exit.ifindex as u64
}

/// The action that [`pack`] packed.
#[inline(always)]
pub const fn unpack(word: u64) -> Action {
    if word & REDIRECT == 0 {
        return if word == PASS {
            Action::Pass
        } else {
            Action::Drop
        };
    }
    let exit = Exit {
        ifindex: word as u32,
        to_stack: word & 1 << 32 != 0,
        mark: word & 1 << 33 != 0,
    };
    if word & NEIGHBOUR != 0 {
        Action::Neighbour(exit)
    } else {
        Action::Redirect(exit)
    }
}

/// Floods the frame. In three calls, each with the stack to itself: what members in security groups are
/// asked, the flood's state, and the walk over the members.
#[inline(always)]
pub fn flood(plan: &Plan, meta: &Meta, raw: *mut __sk_buff) -> u64 {
    policy_ask_members(raw);
    if !flood_begin(plan, meta, raw) {
        let kernel = Kernel { ctx: raw.cast() };
        kernel.count_drop(plan.port.slot, DropReason::KernelRefused, meta.packets());
        return DROP;
    }
    flood_walk(raw)
}

/// Writes the state of a flood to its place in a map, for the stack is too small for it. False when too
/// many are under way.
#[inline(never)]
fn flood_begin(plan: &Plan, meta: &Meta, raw: *mut __sk_buff) -> bool {
    let Some(depth) = FLOOD_DEPTH.get(0) else {
        return false;
    };
    let Some(flood) = FLOODS.get_ptr_mut(*depth) else {
        return false;
    };
    let kernel = Kernel { ctx: raw.cast() };
    // SAFETY: this CPU's own at this depth, until the depth goes down again.
    unsafe { Flood::begin(&mut *flood, plan, meta, &Skb { skb: raw }, &kernel) };
    true
}

/// Serves the members of the flood that [`flood_begin`] wrote.
#[inline(never)]
fn flood_walk(raw: *mut __sk_buff) -> u64 {
    let Some(depth) = FLOOD_DEPTH.get_ptr_mut(0) else {
        return DROP;
    };
    // SAFETY: this CPU's own.
    let own = unsafe { *depth };
    let Some(flood) = FLOODS.get_ptr_mut(own) else {
        return DROP;
    };
    // SAFETY: as above.
    let members = unsafe {
        *depth = own + 1;
        (*flood).member_count
    };
    let mut step = FloodStep {
        skb: raw,
        depth: own,
    };
    // SAFETY: the callback takes what it is given here, and the context outlives the loop.
    unsafe {
        bpf_loop(
            members,
            flood_step as *mut c_void,
            (&raw mut step).cast(),
            0,
        );
    }
    // SAFETY: as above; the depth is as it was.
    let action = unsafe {
        *depth = own;
        (*flood).end(&Kernel { ctx: raw.cast() }, &mut Skb { skb: raw })
    };
    pack(action)
}

extern "C" fn flood_step(index: u64, step: *const FloodStep) -> i64 {
    // SAFETY: bpf_loop hands over what flood_walk() gave it, and the flood is this CPU's own.
    unsafe {
        let Some(flood) = FLOODS.get_ptr_mut((*step).depth) else {
            return 1;
        };
        let raw = (*step).skb;
        let mut skb = Skb { skb: raw };
        (*flood).step(index as u32, &Kernel { ctx: raw.cast() }, &mut skb);
    }
    0
}
