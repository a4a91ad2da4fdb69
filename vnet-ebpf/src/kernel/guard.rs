//! Guards at TC, each a global function, which the verifier looks at once: frames of guarded ports
//! pay for them, others do not.

use aya_ebpf::bindings::__sk_buff;
use vnet_ebpf::{
    decide::Plan,
    guard::{self, Sight, lease},
};

use super::{
    maps::{SCRATCH, SIGHT, Scratch},
    tables::Kernel,
    tc::{Skb, pull},
};

/// Looks at the frame under way, and has it dropped when something is wrong with it.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn guard_check(raw: *mut __sk_buff) -> u32 {
    let (Some(scratch), Some(sight)) = (SCRATCH.get_ptr_mut(0), SIGHT.get_ptr_mut(0)) else {
        return 0;
    };
    // SAFETY: this CPU's own, and no other program runs here until the frame is sent.
    let (Scratch { meta, plan, .. }, sight) = unsafe { (&mut *scratch, &mut *sight) };
    let raw = core::hint::black_box(raw);
    let window = Skb { skb: raw };
    pull(raw, meta.len, guard::wanted(plan, &window));
    // The compiler forgets what it worked out of the context, which the verifier wants whole.
    let raw = core::hint::black_box(raw);
    let window = Skb { skb: raw };
    guard::check(plan, &window, &Kernel { ctx: raw.cast() }, sight);
    0
}

/// Learns an address from the frame under way, which may be a DHCP server's answer.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn guard_learn(raw: *mut __sk_buff) -> u32 {
    let (Some(scratch), Some(sight)) = (SCRATCH.get_ptr_mut(0), SIGHT.get_ptr_mut(0)) else {
        return 0;
    };
    // SAFETY: as above.
    let (Scratch { meta, plan, .. }, sight) = unsafe { (&mut *scratch, &mut *sight) };
    let raw = core::hint::black_box(raw);
    let window = Skb { skb: raw };
    if lease::is_for_client(plan.frame.payload_offset(), plan.frame.ether_type, &window) {
        pull(raw, meta.len, lease::WANTED);
        let raw = core::hint::black_box(raw);
        let window = Skb { skb: raw };
        lease::learn(plan, &window, &Kernel { ctx: raw.cast() }, sight);
    }
    0
}

impl lease::Leases for Kernel {
    #[inline(always)]
    fn keep(&self, _plan: &Plan, _sight: &mut Sight) {
        guard_keep();
    }

    #[inline(always)]
    fn tell(&self, _plan: &Plan, _sight: &Sight) {
        guard_tell();
    }
}

/// [`lease::keep`] of what is in the maps.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn guard_keep() -> u32 {
    let (Some(scratch), Some(sight)) = (SCRATCH.get_ptr_mut(0), SIGHT.get_ptr_mut(0)) else {
        return 0;
    };
    // SAFETY: as above.
    let (Scratch { plan, .. }, sight) = unsafe { (&mut *scratch, &mut *sight) };
    lease::keep(plan, &Kernel::bare(), sight);
    0
}

/// [`lease::tell`] of what is in the maps.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn guard_tell() -> u32 {
    let (Some(scratch), Some(sight)) = (SCRATCH.get_ptr(0), SIGHT.get_ptr(0)) else {
        return 0;
    };
    // SAFETY: as above.
    let (Scratch { plan, .. }, sight) = unsafe { (&*scratch, &*sight) };
    lease::tell(plan, &Kernel::bare(), sight);
    0
}
