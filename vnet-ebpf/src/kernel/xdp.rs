//! The pipeline in XDP: drops and known unicast; the rest goes up to TC unchanged.

use aya_ebpf::{
    EbpfContext as _,
    bindings::{xdp_action, xdp_md},
    helpers::{bpf_redirect, bpf_xdp_adjust_head, bpf_xdp_get_buff_len},
    programs::XdpContext,
};
use vnet_common::Mac;
use vnet_ebpf::{
    decide::{Fate, decide},
    flow::translate::{Change, WindowMut, edit},
    forward::{Action, Exit, Packet, forward},
    frame::{ETH_LEN, TAG_LEN},
    ip::Ip,
    meta::{Hook, Meta, Tag},
    settle::settle,
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
    let Scratch { meta, plan, .. } = unsafe { &mut *SCRATCH.get_ptr_mut(0)? };
    *meta = Meta {
        hook: Hook::Xdp,
        ifindex,
        len,
        gso_size: 0,
        gso_segs: 0,
        tag: Tag::NONE,
        redirected: false,
    };
    let meta = &*kernel.opaque(meta);
    decide(meta, &buffer, &kernel, plan);
    let plan = kernel.opaque(plan);
    if matches!(plan.verdict.fate, Fate::PassUp) {
        return None;
    }
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
