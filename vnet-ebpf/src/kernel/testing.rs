//! The wrapper programs' work; see [`vnet_ebpf::testing`].

use aya_ebpf::{
    bindings::__sk_buff, btf_maps::Array, helpers::bpf_skb_vlan_push, macros::btf_map,
    programs::TcContext,
};
use vnet_ebpf::{
    forward::Exit,
    meta::{Hook, Tag},
    testing::{CB_TAG, CB_TC_INDEX, COPIES, Sent, TestResult},
};

/// What became of the last frame.
#[btf_map]
pub static TEST_RESULT: Array<TestResult, 1> = Array::new();

/// Runs the pipeline on a frame whose tag and `tc_index` are in `cb`.
#[inline(always)]
pub fn run(ctx: &TcContext, hook: Hook) -> i32 {
    let skb = ctx.skb.skb;
    // SAFETY: the kernel rewrites accesses to the context's fields.
    unsafe {
        let tag = (&raw const (*skb).cb[CB_TAG]).read_volatile();
        let tc_index = (&raw const (*skb).cb[CB_TC_INDEX]).read_volatile();
        if tag != 0 && bpf_skb_vlan_push(skb, ((tag >> 16) as u16).to_be(), tag as u16) != 0 {
            return -1;
        }
        (*skb).tc_index = tc_index;
    }
    let action = super::tc::run(ctx, hook);
    note_end(skb);
    action
}

/// Runs the slow path on a frame that [`run`] goes on with.
#[inline(always)]
pub fn run_flow(ctx: &TcContext) -> i32 {
    let action = super::flow::run(ctx);
    note_end(ctx.skb.skb);
    action
}

/// Records the frame's end.
#[inline(always)]
fn note_end(skb: *mut __sk_buff) {
    if let Some(result) = TEST_RESULT.get_ptr_mut(0) {
        // SAFETY: map memory; as above.
        unsafe {
            (*result).tag = tag_of(skb);
            (*result).tc_index = (*skb).tc_index;
        }
    }
}

/// # Safety
/// The context is the program's.
#[inline(always)]
unsafe fn tag_of(skb: *mut __sk_buff) -> Tag {
    // SAFETY: the kernel rewrites accesses to the context's fields.
    unsafe {
        if (*skb).vlan_present == 0 {
            return Tag::NONE;
        }
        Tag {
            tpid: u16::from_be((*skb).vlan_proto as u16),
            tci: (*skb).vlan_tci as u16,
        }
    }
}

#[inline(always)]
fn sent(exit: Exit, tc_index: u32, refused: bool) -> Sent {
    Sent {
        ifindex: exit.ifindex,
        to_stack: u32::from(exit.to_stack),
        tc_index,
        refused: u32::from(refused),
        neighbour: 0,
    }
}

/// Records a copy.
#[inline(always)]
pub fn note_copy(skb: *mut __sk_buff, exit: Exit, done: bool) {
    if let Some(result) = TEST_RESULT.get_ptr_mut(0) {
        // SAFETY: map memory, and the index is masked.
        unsafe {
            let index = core::hint::black_box((*result).copy_count as usize) & (COPIES - 1);
            (*result).copy_count += 1;
            let copy = (&raw mut (*result).copies).cast::<Sent>().add(index);
            copy.write(sent(exit, (*skb).tc_index, !done));
        }
    }
}

/// Records where the frame itself goes; with `neighbour` the kernel is to find the next hop.
#[inline(always)]
pub fn note_redirect(exit: Exit, neighbour: bool) {
    if let Some(result) = TEST_RESULT.get_ptr_mut(0) {
        // SAFETY: map memory. The final tc_index is recorded at the end.
        unsafe {
            (*result).redirect = Sent {
                neighbour: u32::from(neighbour),
                ..sent(exit, 0, false)
            };
        }
    }
}
