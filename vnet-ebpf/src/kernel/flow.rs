//! The slow path of the gateway at TC: the program `tc_flow`, which `tc_ingress` goes on in.

use aya_ebpf::{bindings::TC_ACT_SHOT, programs::TcContext};
use vnet_ebpf::{
    forward::{Action, forward},
    nat::{Outcome, arrive::arrive},
    settle::settle_verdict,
    tables::Tables as _,
};

use super::{
    icmp::{icmp_related, icmp_tell},
    maps::{SCRATCH, Scratch, WORK},
    tables::Kernel,
    tc::{Skb, finish, pull, route_send, unpack},
};

/// Bytes that are wanted in the linear head: headers, an ICMP error's embedded headers, a few
/// extension headers.
const WANTED: u32 = 256;

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
    let outcome = arrive(work, plan, meta, &skb, &kernel);
    let work = kernel.opaque(work);
    let plan = kernel.opaque(plan);
    let meta = &*kernel.opaque(meta);
    let action = if outcome == Outcome::SEND || outcome == Outcome::FRAGMENT {
        work.change.index = work.index;
        unpack(route_send(raw, 1))
    } else if outcome == Outcome::STACK {
        settle_verdict(plan, meta, &kernel);
        match forward(plan, meta, &kernel, &mut skb) {
            Some(action) => action,
            None => Action::Drop,
        }
    } else if outcome == Outcome::RELATED {
        unpack(icmp_related(raw))
    } else {
        kernel.count_drop_number(plan.port.slot, outcome.reason(), meta.packets());
        if outcome.tell() == 0 {
            Action::Drop
        } else {
            unpack(icmp_tell(raw, outcome.tell()))
        }
    };
    finish(&skb, action)
}
