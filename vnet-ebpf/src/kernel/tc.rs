//! The pipeline at TC.

use core::ffi::c_void;

use aya_ebpf::{
    bindings::{__sk_buff, BPF_F_INGRESS, TC_ACT_OK, TC_ACT_SHOT},
    helpers::{
        bpf_clone_redirect, bpf_loop, bpf_redirect, bpf_skb_pull_data, bpf_skb_store_bytes,
        bpf_skb_vlan_pop, bpf_skb_vlan_push,
    },
    programs::TcContext,
};
use vnet_common::{DropReason, Mac};
use vnet_ebpf::{
    decide::{Plan, decide},
    forward::{Action, Exit, Flood, Packet, forward},
    frame::{ETH_LEN, TAG_LEN},
    meta::{Hook, Meta, Tag, is_kernel_tpid},
    settle::settle,
    tables::{Effects as _, Tables as _},
    window::{MAX_OFFSET, Window},
};

use super::{
    maps::{FLOOD_DEPTH, FLOODS, SCRATCH, Scratch},
    tables::Kernel,
};

/// Bytes that are wanted in the linear head: the header and the tags behind it, two when the host put
/// them there itself.
const WANTED: u32 = (ETH_LEN + 2 * TAG_LEN) as u32;

/// Mark of a frame that the switch redirects to an uplink, in `skb->tc_index`. It names the
/// interface and the direction, so that it means nothing anywhere else: a veth hands a frame to
/// another namespace with the mark still on it.
#[inline(always)]
const fn token(ifindex: u32, to_stack: bool) -> u32 {
    0x8000 | ((to_stack as u32) << 14) | (ifindex & 0x3fff)
}

/// A socket buffer.
#[derive(Clone, Copy)]
struct Skb {
    skb: *mut __sk_buff,
}

impl Window for Skb {
    #[inline(always)]
    fn at<const N: usize>(&self, offset: usize) -> Option<&[u8; N]> {
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
    fn send_copy(&mut self, exit: Exit) -> bool {
        self.mark(exit);
        // SAFETY: the context is the program's.
        let sent = unsafe { bpf_clone_redirect(self.skb, exit.ifindex, flags(exit)) == 0 };
        #[cfg(feature = "testing")]
        super::testing::note_copy(self.skb, exit, sent);
        sent
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
    let Scratch { meta, plan } = unsafe { &mut *scratch };
    *meta = self::meta(raw, hook);
    let meta = &*kernel.opaque(meta);
    // SAFETY: the context is the program's. A frame whose head is short is pulled as far as the
    // header, never more.
    unsafe {
        let head = (*raw).data_end - (*raw).data;
        if head < WANTED && head < meta.len {
            let wanted = if meta.len < WANTED { meta.len } else { WANTED };
            bpf_skb_pull_data(raw, wanted);
        }
    }
    let mut skb = Skb { skb: raw };
    decide(meta, &skb, &kernel, plan);
    let plan = kernel.opaque(plan);
    settle(plan, meta, &kernel);
    let plan = kernel.opaque(plan);
    #[cfg(feature = "log")]
    super::log::plan(ctx, meta, plan);
    let action = match forward(plan, meta, &kernel, &mut skb) {
        Some(action) => action,
        None => match flood(plan, meta, raw) {
            FLOOD_PASS => Action::Pass,
            FLOOD_DROP => Action::Drop,
            exit => Action::Redirect(unpack(exit)),
        },
    };
    match action {
        Action::Pass => TC_ACT_OK,
        Action::Drop => TC_ACT_SHOT,
        Action::Redirect(exit) => {
            skb.mark(exit);
            #[cfg(feature = "testing")]
            super::testing::note_redirect(exit);
            // SAFETY: takes numbers.
            unsafe { bpf_redirect(exit.ifindex, flags(exit)) as i32 }
        }
    }
}

/// What a step of `bpf_loop` is given.
struct FloodStep {
    skb: *mut __sk_buff,
    depth: u32,
}

/// [`Action::Pass`] in the word that [`flood`] returns.
const FLOOD_PASS: u64 = 0;
/// [`Action::Drop`] in the word that [`flood`] returns.
const FLOOD_DROP: u64 = 1;

/// An exit in one word, which a subprogram can return. Never one of the two above.
#[inline(always)]
const fn pack(exit: Exit) -> u64 {
    1 << 63 | (exit.mark as u64) << 33 | (exit.to_stack as u64) << 32 | exit.ifindex as u64
}

#[inline(always)]
const fn unpack(word: u64) -> Exit {
    Exit {
        ifindex: word as u32,
        to_stack: word & 1 << 32 != 0,
        mark: word & 1 << 33 != 0,
    }
}

/// Floods the frame; its state lives in a map, for the stack is too small for it.
#[inline(never)]
fn flood(plan: &Plan, meta: &Meta, raw: *mut __sk_buff) -> u64 {
    let kernel = Kernel { ctx: raw.cast() };
    let Some(depth) = FLOOD_DEPTH.get_ptr_mut(0) else {
        return FLOOD_DROP;
    };
    // SAFETY: this CPU's own.
    let own = unsafe { *depth };
    let Some(flood) = FLOODS.get_ptr_mut(own) else {
        kernel.count_drop(plan.port.slot, DropReason::KernelRefused, meta.packets());
        return FLOOD_DROP;
    };
    let mut skb = Skb { skb: raw };
    // SAFETY: this CPU's own at this depth, until the depth goes down again.
    let members = unsafe {
        Flood::begin(&mut *flood, plan, meta, &skb, &kernel);
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
        (*flood).end(&kernel, &mut skb)
    };
    match action {
        Action::Pass => FLOOD_PASS,
        Action::Drop => FLOOD_DROP,
        Action::Redirect(exit) => pack(exit),
    }
}

extern "C" fn flood_step(index: u64, step: *const FloodStep) -> i64 {
    // SAFETY: bpf_loop hands over what flood() gave it, and the flood is this CPU's own.
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
