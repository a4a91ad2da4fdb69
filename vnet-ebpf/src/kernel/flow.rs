//! The slow path of the gateway at TC: the program `tc_flow`, which `tc_ingress` goes on in.

use aya_ebpf::{
    bindings::{__sk_buff, TC_ACT_SHOT},
    helpers::{bpf_l4_csum_replace, bpf_skb_load_bytes},
    programs::TcContext,
};
use vnet_common::NO_SLOT;
use vnet_ebpf::{
    flow::{mss, table::FlowTable as _},
    forward::{Action, forward},
    ip::TCP_SYN,
    nat::{Outcome, arrive::arrive},
    policy,
    settle::settle_verdict,
    tables::Tables as _,
};

use super::{
    icmp::{icmp_related, icmp_tell},
    maps::{SCRATCH, Scratch, WORK},
    tables::Kernel,
    tc::{Skb, finish, flood, pull, route_send, store, unpack},
};

/// Bytes that are wanted in the linear head: headers, an ICMP error's embedded headers, a few
/// extension headers.
const WANTED: u32 = 256;

/// One byte of the packet, by a helper: the verifier does not follow an offset through a chain of
/// options.
#[inline(always)]
fn byte_at(raw: *mut __sk_buff, offset: usize) -> Option<u8> {
    let mut byte = 0u8;
    // SAFETY: the context is the program's and the buffer as long as is said.
    let ret = unsafe { bpf_skb_load_bytes(raw.cast(), offset as u32, (&raw mut byte).cast(), 1) };
    (ret == 0).then_some(byte)
}

/// Lowers the maximum segment size that a SYN announces to what the setting asks for.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn clamp_mss(raw: *mut __sk_buff) -> u32 {
    let Some(work) = WORK.get_ptr_mut(0) else {
        return 0;
    };
    let raw = core::hint::black_box(raw);
    let kernel = Kernel { ctx: raw.cast() };
    // SAFETY: this CPU's own, and no other program runs here until the frame is sent.
    let work = unsafe { &mut *work };
    let clamp = kernel.switch().map_or(0, |conf| conf.mss_clamp);
    if clamp == 0 {
        return 0;
    }
    let Some((entry, ip)) = kernel.flow(work.index).map(|entry| (entry, &work.ip)) else {
        return 0;
    };
    // SAFETY: the table's own entries; single words.
    let mtu = unsafe {
        let own = (*entry).mtu;
        let back = kernel.flow((*entry).peer).map_or(own, |peer| (*peer).mtu);
        if back < own { back } else { own }
    };
    let limit = mss::limit(clamp, mtu, ip.v6);
    let Some((at, value)) = mss::find(ip, |offset| byte_at(raw, offset)) else {
        return 0;
    };
    if value <= limit {
        return 0;
    }
    let (old, new) = (value.to_be_bytes(), limit.to_be_bytes());
    let checksum = u32::from(ip.l4) + 16;
    // SAFETY: the context is the program's. Only the part of the checksum that covers the packet's
    // bytes changes, which a device that is to finish it sums up itself.
    unsafe {
        // At an odd place the value's bytes lie in two of the words that are summed up, each in the
        // other half.
        let odd = (at - ip.l4 as usize) & 1 != 0;
        let half = |bytes: [u8; 2]| {
            let word = u16::from_ne_bytes(bytes);
            if odd { word.swap_bytes() } else { word }
        };
        let (from, to) = (half(old), half(new));
        if bpf_l4_csum_replace(raw, checksum, u64::from(from), u64::from(to), 2) == 0 {
            store(raw, at, &new, false);
        }
    }
    1
}

/// Decides a packet whose frame `tc_ingress` has decided.
#[inline(always)]
pub fn run(ctx: &TcContext) -> i32 {
    let raw = ctx.skb.skb;
    let (Some(scratch), Some(work)) = (SCRATCH.get_ptr_mut(0), WORK.get_ptr_mut(0)) else {
        return TC_ACT_SHOT;
    };
    let kernel = Kernel { ctx: raw.cast() };
    // SAFETY: this CPU's own, and no other program runs here until the frame is sent.
    let (Scratch { meta, plan, .. }, work) = unsafe { (&mut *scratch, &mut *work) };
    pull(raw, meta.len, WANTED);
    let mut skb = Skb { skb: raw };
    let mut outcome = if plan.stack_slot == NO_SLOT {
        Outcome::STACK
    } else {
        arrive(work, plan, meta, &skb, &kernel)
    };
    let work = kernel.opaque(work);
    let plan = kernel.opaque(plan);
    let meta = kernel.opaque(meta);
    if outcome == Outcome::STACK && plan.policed {
        outcome = policy::arrive::arrive(work, plan, meta, &skb, &kernel);
        plan.related = work.related;
    }
    let work = kernel.opaque(work);
    let plan = kernel.opaque(plan);
    let meta = &*kernel.opaque(meta);
    let action = if outcome == Outcome::SEND || outcome == Outcome::FRAGMENT {
        work.change.index = work.index;
        if work.ip.tcp_flags & TCP_SYN != 0 {
            clamp_mss(raw);
        }
        unpack(route_send(raw, 1))
    } else if outcome == Outcome::STACK {
        settle_verdict(plan, meta, &kernel);
        match forward(plan, meta, &kernel, &mut skb) {
            Some(action) => action,
            None => unpack(flood(plan, meta, raw)),
        }
    } else if outcome == Outcome::RELATED {
        unpack(icmp_related(raw))
    } else {
        kernel.count_drop_number(work.drop_slot, outcome.reason(), meta.packets());
        if outcome.tell() == 0 {
            Action::Drop
        } else {
            unpack(icmp_tell(raw, outcome.tell()))
        }
    };
    finish(&skb, action)
}
