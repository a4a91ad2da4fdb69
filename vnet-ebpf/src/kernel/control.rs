//! Requests of userspace, which come as the frame of a BPF_PROG_TEST_RUN.

use core::ffi::c_void;

use aya_ebpf::{helpers::bpf_loop, helpers::bpf_skb_load_bytes, programs::TcContext};
use vnet_common::{
    ControlOp, ControlReply, ControlRequest, FdbKey,
    control::{FLUSH_SEGMENT, FLUSH_SLOT, FLUSH_STATIC, REQUEST_OFFSET},
};
use vnet_ebpf::{
    fdb::{self, Sweep},
    nat::close::delete,
    tables::Tables as _,
};

use super::{
    ageing,
    maps::{CONTROL_REPLY, SWEEP_WORK},
    tables::Kernel,
};

const ENOSPC: i32 = -28;
const EINVAL: i32 = -22;

/// Serves the request in the frame.
#[inline(always)]
pub fn run(ctx: &TcContext) {
    let mut request = ControlRequest::default();
    // SAFETY: the buffer is as long as is asked for.
    let ret = unsafe {
        bpf_skb_load_bytes(
            ctx.skb.skb.cast(),
            REQUEST_OFFSET as u32,
            (&raw mut request).cast(),
            size_of::<ControlRequest>() as u32,
        )
    };
    let reply = if ret == 0 {
        serve(&request)
    } else {
        ControlReply {
            error: EINVAL,
            changed: 0,
        }
    };
    if let Some(slot) = CONTROL_REPLY.get_ptr_mut(0) {
        // SAFETY: map memory; requests are serialised by the switch's lock.
        unsafe { *slot = reply };
    }
}

#[inline(always)]
fn serve(request: &ControlRequest) -> ControlReply {
    const START_TIMER: u32 = ControlOp::StartTimer as u32;
    const FDB_PUT: u32 = ControlOp::FdbPut as u32;
    const FDB_DELETE: u32 = ControlOp::FdbDelete as u32;
    const FDB_FLUSH: u32 = ControlOp::FdbFlush as u32;
    const FLOW_DELETE: u32 = ControlOp::FlowDelete as u32;
    const FLOW_SWEEP: u32 = ControlOp::FlowSweep as u32;

    let kernel = Kernel::bare();
    let key = FdbKey::new(request.mac, request.segment);
    let (error, changed) = match request.op {
        START_TIMER => (ageing::start() as i32, 1),
        FDB_PUT => {
            let put = fdb::put(
                &kernel,
                key,
                request.slot,
                request.flags as u16,
                kernel.now_s(),
            );
            if put { (0, 1) } else { (ENOSPC, 0) }
        }
        FDB_DELETE => (0, u32::from(fdb::delete(&kernel, key))),
        FDB_FLUSH => (0, flush(request)),
        FLOW_DELETE => (0, delete_flow(request)),
        FLOW_SWEEP => {
            ageing::sweep_flows(request.first_bucket);
            (0, 0)
        }
        _ => (EINVAL, 0),
    };
    ControlReply { error, changed }
}

/// Ends one connection.
#[inline(always)]
fn delete_flow(request: &ControlRequest) -> u32 {
    let Some(work) = SWEEP_WORK.get_ptr_mut(0) else {
        return 0;
    };
    let (index, tag) = (request.first_bucket, request.bucket_count);
    // SAFETY: this CPU's own.
    u32::from(delete(unsafe { &mut *work }, index, tag, &Kernel::bare()))
}

/// What a step of a flush works on.
struct Flush {
    first: u32,
    flags: u32,
    slot: u16,
    segment: u16,
    changed: u32,
}

#[inline(always)]
fn flush(request: &ControlRequest) -> u32 {
    let mut flush = Flush {
        first: request.first_bucket,
        flags: request.flags,
        slot: request.slot,
        segment: request.segment,
        changed: 0,
    };
    // SAFETY: the callback takes what it is given here, and the context outlives the loop.
    unsafe {
        bpf_loop(
            request.bucket_count,
            flush_bucket as *mut c_void,
            (&raw mut flush).cast(),
            0,
        );
    }
    flush.changed
}

extern "C" fn flush_bucket(index: u64, flush: *mut Flush) -> i64 {
    // SAFETY: bpf_loop hands over what flush() gave it.
    let flush = unsafe { &mut *flush };
    let kernel = Kernel::bare();
    let what = Sweep {
        stale: None,
        slot: (flush.flags & FLUSH_SLOT != 0).then_some(flush.slot),
        segment: (flush.flags & FLUSH_SEGMENT != 0).then_some(flush.segment),
        with_static: flush.flags & FLUSH_STATIC != 0,
    };
    flush.changed += fdb::sweep(
        &kernel,
        flush.first.wrapping_add(index as u32),
        &what,
        |_, _, _| {},
    );
    0
}
