//! Answers to ARP and neighbour solicitations at TC.

use aya_ebpf::{bindings::__sk_buff, helpers::bpf_skb_change_tail};
use vnet_common::{NO_SLOT, PortKind, nat::NatMatch, switch::SWITCH_ANSWERS};
use vnet_ebpf::{
    answer::{ADVERTISEMENT_LEN, ARP, ARP_LEN, advertisement, arp_reply, asks_for},
    decide::{Fate, Plan},
    forward::{Action, Exit},
    frame::is_group,
    ip::IPV6,
    nat::rules::look_up,
    tables::{Effects as _, Tables as _},
    window::Window as _,
};

use super::{
    maps::{SCRATCH, Scratch, WORK},
    tables::Kernel,
    tc::{PASS, Skb, pack, store},
};

/// Whether the frame under way may be a question that is answered here: one to everybody, or one to the
/// host by somebody who asks again (RFC 4861, 7.3.3). Solicitations to the host are IP packets to it.
#[inline(always)]
pub fn may_ask(plan: &Plan, kernel: &Kernel) -> bool {
    matches!(plan.port.kind, PortKind::Uplink)
        && !matches!(plan.verdict.fate, Fate::Drop)
        && (is_group(plan.frame.dst)
            || plan.frame.ether_type == ARP
            || (plan.frame.ether_type == IPV6 && plan.stack_slot != NO_SLOT))
        && kernel.switch().is_some_and(|conf| {
            let flags = if conf.generation & 1 == 0 {
                conf.flags[0]
            } else {
                conf.flags[1]
            };
            flags & SWITCH_ANSWERS != 0
        })
}

/// Makes the frame the answer to itself, when it asks for an address that is answered here; what
/// remains to be done, in one word. [`PASS`] leaves it as it was.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn answer(raw: *mut __sk_buff) -> u64 {
    let (Some(scratch), Some(work)) = (SCRATCH.get_ptr_mut(0), WORK.get_ptr_mut(0)) else {
        return PASS;
    };
    // SAFETY: this CPU's own, and no other program runs here until the frame is sent.
    let (Scratch { meta, plan, .. }, work) = unsafe { (&mut *scratch, &mut *work) };
    let raw = core::hint::black_box(raw);
    let kernel = Kernel { ctx: raw.cast() };
    super::tc::pull(raw, meta.len, 90);
    let window = Skb { skb: raw };
    if !asks_for(plan, &window, &mut work.target) {
        return PASS;
    }
    let scope = plan.port.peer_slot;
    let known = look_up(
        &kernel,
        plan.generation,
        NatMatch::Answer,
        scope,
        &work.target,
        0,
    );
    let (Some(_), Some(stack), Some(back)) = (
        known,
        kernel.port(plan.generation, scope),
        kernel.port(plan.generation, plan.port.slot),
    ) else {
        return PASS;
    };
    let l3 = plan.frame.payload_offset();
    let built = if plan.frame.ether_type == ARP {
        let Some(request) = window.at::<ARP_LEN>(l3) else {
            return PASS;
        };
        let reply = arp_reply(request, &stack.mac);
        store(raw, l3, &reply, false)
    } else {
        let Some(source) = window.at::<16>(l3 + 8) else {
            return PASS;
        };
        work.source = *source;
        advertisement(&work.source, &work.target, &stack.mac, &mut work.message);
        // SAFETY: the context is the program's.
        let ret = unsafe { bpf_skb_change_tail(raw, (l3 + ADVERTISEMENT_LEN) as u32, 0) };
        ret == 0 && store(raw, l3, &work.message, false)
    };
    let (d, s) = (&plan.frame.src, &stack.mac);
    let ethernet = [
        d[0], d[1], d[2], d[3], d[4], d[5], s[0], s[1], s[2], s[3], s[4], s[5],
    ];
    if !built || !store(raw, 0, &ethernet, false) {
        return super::tc::DROP;
    }
    kernel.count_tx(plan.port.slot, 1, meta.len);
    pack(Action::Redirect(Exit::to(back)))
}
