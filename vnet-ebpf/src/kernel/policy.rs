//! Security groups over the maps: the parts of a search, each a global function (see `steps`). All of them
//! work on the search in the work of a packet; floods use it too, which have none else.

use core::{ffi::c_void, ptr};

use aya_ebpf::{bindings::__sk_buff, helpers::bpf_loop};
use vnet_ebpf::{
    gateway::Work,
    policy::{
        flood,
        look::passes,
        search::{self, STEPS},
    },
};

use super::{
    maps::{SCRATCH, Scratch, WORK},
    tables::Kernel,
    tc::{ROUTED, Skb, pull},
};

/// Runs [`search::step`] until it is over.
#[inline(always)]
pub fn walk() {
    // SAFETY: the callback takes nothing.
    unsafe {
        bpf_loop(STEPS, walk_step as *mut c_void, ptr::null_mut(), 0);
    }
}

extern "C" fn walk_step(_index: u64, _nothing: *const c_void) -> i64 {
    let Some(work) = WORK.get_ptr_mut(0) else {
        return 1;
    };
    // SAFETY: this CPU's own.
    i64::from(unsafe { search::step(&mut (*work).policy, &Kernel::bare()) })
}

/// [`search::ask_group`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn policy_ask_group() -> u32 {
    if let Some(work) = WORK.get_ptr_mut(0) {
        // SAFETY: this CPU's own.
        search::ask_group(unsafe { &mut (*work).policy }, &Kernel::bare());
    }
    0
}

/// [`search::decide`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn policy_judge_port() -> u32 {
    if let Some(work) = WORK.get_ptr_mut(0) {
        // SAFETY: this CPU's own.
        search::decide(unsafe { &mut (*work).policy }, &Kernel::bare());
    }
    0
}

/// Whether the frame in the scratch space of `tc_ingress` or `tc_egress` follows a flow: 1.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn policy_passes(raw: *mut __sk_buff) -> u32 {
    let Some(scratch) = SCRATCH.get_ptr_mut(0) else {
        return 0;
    };
    // SAFETY: this CPU's own, and no other program runs here until the frame is sent.
    let Scratch { meta, plan, ip, .. } = unsafe { &mut *scratch };
    let raw = core::hint::black_box(raw);
    pull(raw, meta.len, ROUTED);
    let kernel = Kernel { ctx: raw.cast() };
    u32::from(passes(plan, meta, &Skb { skb: raw }, &kernel, ip))
}

/// Writes what the members of the flood that begins are asked to the work: before the flood, whose own
/// calls leave no room on the stack.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn policy_ask_members(raw: *mut __sk_buff) -> u32 {
    let (Some(scratch), Some(work)) = (SCRATCH.get_ptr(0), WORK.get_ptr_mut(0)) else {
        return 0;
    };
    // SAFETY: this CPU's own, and no other program runs here until the frame is sent.
    let (plan, work) = unsafe { (&(*scratch).plan, &mut *work) };
    let Work { ip, question, .. } = work;
    let raw = core::hint::black_box(raw);
    let kernel = Kernel { ctx: raw.cast() };
    flood::ask(question, plan, &Skb { skb: raw }, &kernel, ip);
    0
}
