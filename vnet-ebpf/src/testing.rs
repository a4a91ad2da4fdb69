//! What tests and the object with the feature `testing` say to each other.
//!
//! BPF_PROG_TEST_RUN has no way to hand a frame over with a VLAN tag or a `tc_index`, and shows of a
//! redirect only that there was one. The programs `test_tc_ingress` and `test_tc_egress` take the
//! first two from `skb->cb`, run the very pipeline of `tc_ingress` and `tc_egress`, and write what
//! became of the frame to the map `test_result`. `test_tc_flow` is `tc_flow` that does the latter.

use crate::meta::Tag;

/// Word of `skb->cb` that holds the tag to push in front: TPID in the upper half, TCI in the lower;
/// 0 for none.
pub const CB_TAG: usize = 0;
/// Word of `skb->cb` that holds the `tc_index` that the frame comes with.
pub const CB_TC_INDEX: usize = 1;

/// Copies that are recorded; a power of two.
pub const COPIES: usize = 32;

/// Where a frame was sent. Interface 0 is nowhere.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sent {
    /// The interface.
    pub ifindex: u32,
    /// 1: into the interface, to the host's stack; 0: out of it.
    pub to_stack: u32,
    /// `skb->tc_index` at that moment.
    pub tc_index: u32,
    /// 1: the kernel refused.
    pub refused: u32,
    /// 1: the kernel is to find the next hop.
    pub neighbour: u32,
}

/// The only entry of the map `test_result`. Whoever runs a program zeroes it before.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TestResult {
    /// The tag in metadata at the end.
    pub tag: Tag,
    /// `skb->tc_index` at the end.
    pub tc_index: u32,
    /// Where the frame itself was redirected.
    pub redirect: Sent,
    /// Number of copies that were sent, or tried.
    pub copy_count: u32,
    /// The copies, in order.
    pub copies: [Sent; COPIES],
}

const _: () = assert!(
    size_of::<TestResult>() == 4 + 4 + 20 + 4 + 20 * COPIES,
    "no padding"
);
