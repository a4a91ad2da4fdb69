//! ICMP errors at TC: translating those that pass, and making one in the place of a packet.

use aya_ebpf::{
    bindings::{__sk_buff, bpf_adj_room_mode::BPF_ADJ_ROOM_MAC},
    helpers::{bpf_skb_adjust_room, bpf_skb_change_tail},
};
use vnet_common::{DropReason, FlowKey, NO_SLOT};
use vnet_ebpf::{
    flow::icmp::{
        EMBEDDED, ERROR_V4, ERROR_V6, Store, error_v4, error_v6, is_one_host, translate_error,
    },
    flow::translate::fold32,
    forward::{Action, Exit},
    frame::{ETH_LEN, is_group},
    gateway::{AnswerKind, Gateway as _, Route, Work},
    ip::{IPV4_LEN, IPV6_LEN, Icmp, Part, proto},
    nat::Tell,
    route,
    tables::{Effects as _, Tables as _},
    window::Window,
};

use super::{
    maps::{SCRATCH, Scratch, WORK},
    reset::reset,
    tables::Kernel,
    tc::{DROP, Skb, pack, store},
};

impl Store for Skb {
    #[inline(always)]
    fn store<const N: usize>(&mut self, offset: usize, bytes: &[u8; N]) -> bool {
        store(self.skb, offset, bytes, true)
    }
}

/// Translates the ICMP error whose headers and flow are in the work, and sends it on; what remains to
/// be done, in one word.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn icmp_related(raw: *mut __sk_buff) -> u64 {
    let (Some(scratch), Some(work)) = (SCRATCH.get_ptr_mut(0), WORK.get_ptr_mut(0)) else {
        return DROP;
    };
    // SAFETY: this CPU's own, and no other program runs here until the frame is sent.
    let (Scratch { meta, plan, .. }, work) = unsafe { (&mut *scratch, &mut *work) };
    let raw = core::hint::black_box(raw);
    let kernel = Kernel { ctx: raw.cast() };
    let mut skb = Skb { skb: raw };
    let Some(way) = route::begin_related(work, &kernel) else {
        kernel.count_drop(plan.port.slot, DropReason::NatIcmpUnrelated, 1);
        return DROP;
    };
    let Work {
        ip,
        inner,
        change,
        key,
        ..
    } = work;
    if !translate_error(&mut skb, ip, inner, key, change) {
        kernel.count_drop(plan.port.slot, DropReason::KernelRefused, 1);
        return DROP;
    }
    pack(route::leave(ip, change, way, plan, meta, &kernel, &mut skb))
}

/// Makes the packet an ICMP error for its sender and sends it back; what remains to be done, in one
/// word.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn icmp_tell(raw: *mut __sk_buff, tell: u32) -> u64 {
    let (Some(scratch), Some(work)) = (SCRATCH.get_ptr_mut(0), WORK.get_ptr_mut(0)) else {
        return DROP;
    };
    // SAFETY: as above.
    let (Scratch { plan, .. }, work) = unsafe { (&mut *scratch, &mut *work) };
    let raw = core::hint::black_box(raw);
    let kernel = Kernel { ctx: raw.cast() };
    let tell = match tell {
        1 => Tell::Prohibited,
        2 => Tell::TooBig,
        3 => Tell::TimeExceeded,
        4 => Tell::Refused,
        _ => return DROP,
    };
    let kind = if matches!(tell, Tell::Refused) {
        AnswerKind::Reject
    } else {
        AnswerKind::Error
    };
    let ip = &work.ip;
    let header = if ip.v6 { IPV6_LEN } else { IPV4_LEN };
    // Never about an error or a later fragment (RFC 1122, 3.2.2); behind options or extension headers
    // there would be more to embed than is worth it.
    if matches!(ip.icmp, Icmp::Error)
        || matches!(ip.part, Part::Later)
        || usize::from(ip.l4) != usize::from(ip.l3) + header
        || usize::from(ip.l3) != ETH_LEN
        || !is_one_host(&ip.key.src)
        || !kernel.answer_take(kind)
    {
        return DROP;
    }
    if is_group(plan.frame.dst) || !is_one_host(&ip.key.dst) && matches!(tell, Tell::Refused) {
        return DROP;
    }
    let Some(back) = kernel.port(plan.generation, plan.port.slot) else {
        return DROP;
    };
    let refused = matches!(tell, Tell::Refused);
    if refused || plan.stack_slot == NO_SLOT {
        // As if it came from whom it was for.
        let built = if refused && work.ip.key.proto == proto::TCP {
            reset(raw, work)
        } else {
            work.source = work.ip.key.dst;
            tell_of(raw, work, Tell::Prohibited)
        };
        let addresses = ethernet(&plan.frame.src, &plan.frame.dst);
        if !built || !store(raw, 0, &addresses, false) {
            return DROP;
        }
        return pack(Action::Redirect(Exit::to(back)));
    }
    let Some(at) = kernel.port(plan.generation, plan.stack_slot) else {
        return DROP;
    };
    // From the address that the host would answer this sender from; where it does not say, from the
    // one that was asked for.
    work.key = FlowKey {
        src: work.ip.key.dst,
        dst: work.ip.key.src,
        ..FlowKey::default()
    };
    work.route = Route::NONE;
    kernel.route(at.ifindex, &work.key, &mut work.route);
    let from = if work.route.src != [0; 16] {
        work.route.src
    } else {
        work.ip.key.dst
    };
    work.source = from;
    if !tell_of(raw, work, tell) {
        return DROP;
    }
    let addresses = ethernet(&plan.frame.src, &at.mac);
    if !store(raw, 0, &addresses, false) {
        return DROP;
    }
    pack(Action::Redirect(Exit::to(back)))
}

/// [`build`], for either family.
#[inline(never)]
fn tell_of(raw: *mut __sk_buff, work: &mut Work, tell: Tell) -> bool {
    if work.ip.v6 {
        build::<IPV6_LEN, { IPV6_LEN + EMBEDDED }>(raw, work, tell)
    } else {
        build::<IPV4_LEN, { IPV4_LEN + EMBEDDED }>(raw, work, tell)
    }
}

#[inline(always)]
const fn ethernet(dst: &[u8; 6], src: &[u8; 6]) -> [u8; 12] {
    [
        dst[0], dst[1], dst[2], dst[3], dst[4], dst[5], src[0], src[1], src[2], src[3], src[4],
        src[5],
    ]
}

/// Cuts the packet down to what the error embeds and puts the error's headers in front.
///
/// A packet whose checksum is left to a device stays one: the device will sum up what is left of it and
/// write the result into the embedded header. What that makes of the sum of those bytes is known: the
/// one's complement of what the field holds now, whatever the bytes are. Nothing tells whether a packet
/// is such a one but that the kernel refuses to cut its checksum off (net/core/filter.c,
/// __bpf_skb_min_len).
#[inline(never)]
fn build<const HEADER: usize, const COPY: usize>(
    raw: *mut __sk_buff,
    work: &mut Work,
    tell: Tell,
) -> bool {
    let window = Skb { skb: raw };
    let Some(copy) = window.at::<COPY>(ETH_LEN) else {
        return false;
    };
    // In the work, for the stack is too small.
    let mut header_sum = 0;
    let mut sum = 0;
    let mut i = 0;
    while i < COPY {
        let word = [copy[i], copy[i + 1]];
        work.embedded[i] = word[0];
        work.embedded[i + 1] = word[1];
        sum += u64::from(u16::from_ne_bytes(word));
        if i < HEADER {
            header_sum = sum;
        }
        i += 2;
    }
    let field = match work.ip.key.proto {
        proto::TCP => 16,
        proto::UDP => 6,
        _ => 0,
    } as usize;
    let partial_sum = if field == 0 {
        None
    } else {
        let Some(pseudo) = window.at::<2>(ETH_LEN + HEADER + field) else {
            return false;
        };
        let pseudo = u16::from_ne_bytes(*pseudo);
        let cut = (ETH_LEN + HEADER + field + 1) as u32;
        // SAFETY: the context is the program's.
        if unsafe { bpf_skb_change_tail(raw, cut, 0) } == 0 {
            None
        } else {
            Some(pseudo)
        }
    };
    let (rest, sum) = match partial_sum {
        None => (EMBEDDED, sum),
        Some(pseudo) => (field + 2, header_sum + u64::from(!pseudo)),
    };
    let embedded = (HEADER + rest) as u16;
    // SAFETY: the context is the program's.
    unsafe {
        if bpf_skb_change_tail(raw, (ETH_LEN + HEADER + rest) as u32, 0) != 0 {
            return false;
        }
    }
    // What was cut off to find out comes back.
    if partial_sum.is_none() {
        let Some(copy) = work.embedded.first_chunk::<COPY>() else {
            return false;
        };
        if !store(raw, ETH_LEN, copy, false) {
            return false;
        }
    }
    let room = if HEADER == IPV6_LEN {
        ERROR_V6
    } else {
        ERROR_V4
    };
    // SAFETY: the context is the program's.
    unsafe {
        if bpf_skb_adjust_room(raw, room as i32, BPF_ADJ_ROOM_MAC, 0) != 0 {
            return false;
        }
    }
    let sum = u64::from(fold32(sum));
    if HEADER == IPV6_LEN {
        let head = error_v6(
            tell,
            work.mtu,
            &work.source,
            &work.ip.key.src,
            sum,
            embedded,
        );
        store(raw, ETH_LEN, &head, false)
    } else {
        let head = error_v4(
            tell,
            work.mtu,
            &work.source,
            &work.ip.key.src,
            sum,
            embedded,
        );
        store(raw, ETH_LEN, &head, false)
    }
}
