//! Log lines for bring-up: only in the object with the feature `log`.

use aya_ebpf::EbpfContext;
use aya_log_ebpf::{debug, info, trace};
use vnet_ebpf::{
    decide::{Fate, Plan},
    meta::Meta,
};

/// Says what becomes of a frame: drops at `info`, floods at `debug`, the rest at `trace`.
#[inline(always)]
pub fn plan(ctx: &impl EbpfContext, meta: &Meta, plan: &Plan) {
    let (src, dst) = (plan.frame.src, plan.frame.dst);
    let (ifindex, segment, vid) = (meta.ifindex, plan.segment, plan.frame.tag.vid());
    match plan.verdict.fate {
        Fate::Drop => info!(
            ctx,
            "if {}: {:mac} > {:mac} vlan {} segment {} len {}: drop, reason {} at slot {}",
            ifindex,
            src,
            dst,
            vid,
            segment,
            meta.len,
            plan.verdict.reason as u32,
            plan.verdict.slot
        ),
        Fate::Flood => debug!(
            ctx,
            "if {}: {:mac} > {:mac} vlan {} segment {} len {}: flood",
            ifindex,
            src,
            dst,
            vid,
            segment,
            meta.len
        ),
        Fate::Forward => trace!(
            ctx,
            "if {}: {:mac} > {:mac} vlan {} segment {} len {}: to slot {} with vlan {}",
            ifindex,
            src,
            dst,
            vid,
            segment,
            meta.len,
            plan.verdict.slot,
            plan.verdict.vid
        ),
        Fate::ToHost | Fate::ToWire => trace!(
            ctx,
            "if {}: {:mac} > {:mac} vlan {} len {}: the host's own",
            ifindex,
            src,
            dst,
            vid,
            meta.len
        ),
        Fate::Redirected | Fate::PassUp => {}
    }
}
