//! The pipeline in XDP: drops and known unicast; the rest goes up to TC unchanged.

use aya_ebpf::{
    EbpfContext as _,
    bindings::{xdp_action, xdp_md},
    helpers::{bpf_redirect, bpf_xdp_adjust_head, bpf_xdp_get_buff_len},
    programs::XdpContext,
};
use vnet_common::{Mac, NO_SLOT};
use vnet_ebpf::{
    bytes::put,
    decide::{Fate, Plan, decide},
    flow::{
        table::NO_FLOW,
        translate::{Change, WindowMut, edit},
    },
    forward::{Action, Exit, Packet, forward},
    frame::{ETH_LEN, TAG_LEN},
    ip::Ip,
    meta::{Hook, Meta, Tag},
    policy::look::passes,
    route,
    settle::{settle, settle_source},
    tables::Tables as _,
    window::{MAX_OFFSET, Window},
};

use super::{
    maps::{SCRATCH, Scratch},
    tables::Kernel,
};

/// A frame's first buffer.
#[derive(Clone, Copy)]
struct Buffer {
    md: *mut xdp_md,
}

impl Window for Buffer {
    #[inline(always)]
    fn at<const N: usize>(&self, offset: usize) -> Option<&[u8; N]> {
        let offset = core::hint::black_box(offset);
        if offset > MAX_OFFSET {
            return None;
        }
        // SAFETY: as for a socket buffer's window.
        unsafe {
            let start = (&raw const (*self.md).data).read_volatile() as usize + offset;
            if start + N > (&raw const (*self.md).data_end).read_volatile() as usize {
                return None;
            }
            Some(&*(start as *const [u8; N]))
        }
    }
}

impl WindowMut for Buffer {
    #[inline(always)]
    fn at_mut<const N: usize>(&mut self, offset: usize) -> Option<&mut [u8; N]> {
        let offset = core::hint::black_box(offset);
        if offset > MAX_OFFSET {
            return None;
        }
        // SAFETY: as in `at`; the kernel lets XDP programs write.
        unsafe {
            let start = (&raw const (*self.md).data).read_volatile() as usize + offset;
            if start + N > (&raw const (*self.md).data_end).read_volatile() as usize {
                return None;
            }
            Some(&mut *(start as *mut [u8; N]))
        }
    }
}

impl Buffer {
    /// The first `N` bytes, to change them.
    #[inline(always)]
    fn head_mut<const N: usize>(&mut self) -> Option<&mut [u8; N]> {
        // SAFETY: as in `at`; the kernel lets XDP programs write.
        unsafe {
            let start = (&raw const (*self.md).data).read_volatile() as usize;
            if start + N > (&raw const (*self.md).data_end).read_volatile() as usize {
                return None;
            }
            Some(&mut *(start as *mut [u8; N]))
        }
    }

    #[inline(always)]
    fn push(&mut self, tag: Tag) -> Option<()> {
        // SAFETY: the context is the program's; no window is held.
        if unsafe { bpf_xdp_adjust_head(self.md, -(TAG_LEN as i32)) } != 0 {
            return None;
        }
        let head = self.head_mut::<{ ETH_LEN + TAG_LEN }>()?;
        let mut i = 0;
        while i < 12 {
            head[i] = head[i + TAG_LEN];
            i += 1;
        }
        let (tpid, tci) = (tag.tpid.to_be_bytes(), tag.tci.to_be_bytes());
        head[12] = tpid[0];
        head[13] = tpid[1];
        head[14] = tci[0];
        head[15] = tci[1];
        Some(())
    }

    #[inline(always)]
    fn pop(&mut self) -> Option<()> {
        let head = self.head_mut::<{ ETH_LEN + TAG_LEN }>()?;
        let mut i = 12;
        while i > 0 {
            i -= 1;
            head[i + TAG_LEN] = head[i];
        }
        // SAFETY: the context is the program's; no window is held.
        if unsafe { bpf_xdp_adjust_head(self.md, TAG_LEN as i32) } != 0 {
            return None;
        }
        Some(())
    }
}

impl Packet for Buffer {
    #[inline(always)]
    fn retag(&mut self, from: Tag, to: Tag) -> bool {
        if from == to {
            return true;
        }
        match (from.is_some(), to.is_some()) {
            (true, true) => match self.head_mut::<{ ETH_LEN + TAG_LEN }>() {
                Some(head) => {
                    let tci = to.tci.to_be_bytes();
                    head[14] = tci[0];
                    head[15] = tci[1];
                    true
                }
                None => false,
            },
            (true, false) => self.pop().is_some(),
            (false, true) => self.push(to).is_some(),
            (false, false) => true,
        }
    }

    /// Never asked for: what is for the host goes up to TC.
    #[inline(always)]
    fn readdress(&mut self, _to: Mac) -> bool {
        false
    }

    #[inline(always)]
    fn translate(&mut self, ip: &Ip, change: &Change) -> bool {
        edit(self, ip, change)
    }

    /// Never asked for: floods go up to TC.
    #[inline(always)]
    fn send_copy(&mut self, _to: Exit) -> bool {
        false
    }
}

/// Runs the pipeline on a frame. `None` leaves it to TC.
#[inline(always)]
pub fn run(ctx: &XdpContext) -> Option<u32> {
    let md = ctx.ctx;
    // SAFETY: the context is the program's.
    let (len, head, ifindex) = unsafe {
        (
            bpf_xdp_get_buff_len(md) as u32,
            (*md).data_end - (*md).data,
            (*md).ingress_ifindex,
        )
    };
    // Frames in several buffers are for TC: not every device takes them from a redirect.
    if len != head {
        return None;
    }
    let mut buffer = Buffer { md };
    let kernel = Kernel { ctx: ctx.as_ptr() };
    // SAFETY: this CPU's own, and no other program runs here until the frame is sent.
    let Scratch {
        meta, plan, change, ..
    } = unsafe { &mut *SCRATCH.get_ptr_mut(0)? };
    meta.hook = Hook::Xdp;
    meta.ifindex = ifindex;
    meta.len = len;
    put(&mut meta.gso_size, 0);
    put(&mut meta.gso_segs, 0);
    put(&mut meta.tag.tpid, 0);
    put(&mut meta.tag.tci, 0);
    meta.redirected = false;
    let meta = &*kernel.opaque(meta);
    decide(meta, &buffer, &kernel, plan);
    let plan = kernel.opaque(plan);
    if plan.stack_slot != NO_SLOT {
        return route_on(md, plan, meta, change);
    }
    if matches!(plan.verdict.fate, Fate::PassUp) {
        return None;
    }
    if plan.policed && xdp_policy_passes(md) == 0 {
        return None;
    }
    let plan = kernel.opaque(plan);
    settle(plan, meta, &kernel);
    let plan = kernel.opaque(plan);
    #[cfg(feature = "log")]
    super::log::plan(ctx, meta, plan);
    match forward(plan, meta, &kernel, &mut buffer)? {
        Action::Pass | Action::Neighbour(_) => None,
        Action::Drop => Some(xdp_action::XDP_DROP),
        Action::Redirect(exit) => {
            #[cfg(feature = "testing")]
            super::testing::note_redirect(exit, false);
            // SAFETY: takes numbers.
            Some(unsafe { bpf_redirect(exit.ifindex, 0) as u32 })
        }
    }
}

/// Sends on a packet of a connection that is known and stands; everything else is for TC.
#[inline(always)]
fn route_on(md: *mut xdp_md, plan: &Plan, meta: &Meta, change: &mut Change) -> Option<u32> {
    let index = xdp_route_look(md);
    if index == NO_FLOW {
        return None;
    }
    settle_source(plan, meta, &Kernel { ctx: md.cast() });
    change.index = index;
    let target = xdp_route_send(md);
    if target == 0 {
        return Some(xdp_action::XDP_DROP);
    }
    #[cfg(feature = "testing")]
    super::testing::note_redirect(
        Exit {
            ifindex: target,
            to_stack: false,
            mark: false,
        },
        false,
    );
    // SAFETY: takes numbers.
    Some(unsafe { bpf_redirect(target, 0) as u32 })
}

/// The entry that the packet follows and that XDP may send, or [`NO_FLOW`]. A global function, which
/// the verifier looks at once (see `steps`).
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn xdp_route_look(md: *mut xdp_md) -> u32 {
    let Some(scratch) = SCRATCH.get_ptr_mut(0) else {
        return NO_FLOW;
    };
    // SAFETY: this CPU's own, and no other program runs here until the frame is sent.
    let Scratch { meta, plan, ip, .. } = unsafe { &mut *scratch };
    let md = core::hint::black_box(md);
    let kernel = Kernel { ctx: md.cast() };
    let index = route::look(plan, meta, &Buffer { md }, &kernel, ip);
    if index != NO_FLOW && route::xdp_may_send(ip, index, plan, &kernel) {
        index
    } else {
        NO_FLOW
    }
}

/// Whether the frame follows a flow that security groups have let through: 1.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn xdp_policy_passes(md: *mut xdp_md) -> u32 {
    let Some(scratch) = SCRATCH.get_ptr_mut(0) else {
        return 0;
    };
    // SAFETY: as above.
    let Scratch { meta, plan, ip, .. } = unsafe { &mut *scratch };
    let md = core::hint::black_box(md);
    let kernel = Kernel { ctx: md.cast() };
    u32::from(passes(plan, meta, &Buffer { md }, &kernel, ip))
}

/// Edits the packet as its flow says; the interface that it leaves by, or 0 when it is dropped.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn xdp_route_send(md: *mut xdp_md) -> u32 {
    let Some(scratch) = SCRATCH.get_ptr_mut(0) else {
        return 0;
    };
    // SAFETY: as above.
    let Scratch {
        meta,
        plan,
        ip,
        change,
    } = unsafe { &mut *scratch };
    let md = core::hint::black_box(md);
    match route::send(
        ip,
        change,
        plan,
        meta,
        &Kernel { ctx: md.cast() },
        &mut Buffer { md },
    ) {
        Action::Redirect(exit) => exit.ifindex,
        _ => 0,
    }
}
