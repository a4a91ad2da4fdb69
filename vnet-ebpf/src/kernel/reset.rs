//! Answering a TCP segment with a reset, in its place.

use aya_ebpf::{bindings::__sk_buff, helpers::bpf_skb_change_tail};
use vnet_ebpf::{
    flow::reset::{RESET_V4, RESET_V6, may_reset, reset_v4, reset_v6},
    frame::ETH_LEN,
    gateway::Work,
};

use super::tc::store;

/// Makes the segment in the work a reset for its sender, all but the Ethernet header. False when it gets
/// none.
#[inline(never)]
pub fn reset(raw: *mut __sk_buff, work: &Work) -> bool {
    let ip = &work.ip;
    if !may_reset(ip) {
        return false;
    }
    let len = if ip.v6 { RESET_V6 } else { RESET_V4 };
    // SAFETY: the context is the program's.
    if unsafe { bpf_skb_change_tail(raw, (ETH_LEN + len) as u32, 0) } != 0 {
        return false;
    }
    if ip.v6 {
        store(raw, ETH_LEN, &reset_v6(ip), true)
    } else {
        store(raw, ETH_LEN, &reset_v4(ip), true)
    }
}
