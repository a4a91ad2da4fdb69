//! How userspace asks the kernel side to change learned state.
//!
//! FDB buckets are written under a lock that only BPF programs can take, so userspace never writes
//! them: it runs the program `control` through BPF_PROG_TEST_RUN with a request as its frame, and
//! reads the answer from the map `control_reply`.

use crate::Mac;

/// What is asked for.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ControlOp {
    /// Start the ageing timer, or give it the running program's callback.
    StartTimer = 1,
    /// Put a static entry, replacing what is there.
    FdbPut = 2,
    /// Delete an entry, static ones included.
    FdbDelete = 3,
    /// Delete what matches in a range of buckets.
    FdbFlush = 4,
    /// End the connection whose entry is at the index `first_bucket` with the tag `bucket_count`.
    FlowDelete = 5,
    /// Run one tick's slice of the flow table's expiry, from `first_bucket` on.
    FlowSweep = 6,
}

/// `flags` of [`ControlOp::FdbFlush`]: only entries at `slot`.
pub const FLUSH_SLOT: u32 = 1;
/// `flags` of [`ControlOp::FdbFlush`]: only entries of `segment`.
pub const FLUSH_SEGMENT: u32 = 2;
/// `flags` of [`ControlOp::FdbFlush`]: static entries too.
pub const FLUSH_STATIC: u32 = 4;

/// Bytes of frame in front of the request: BPF_PROG_TEST_RUN wants an Ethernet header.
pub const REQUEST_OFFSET: usize = 16;

/// A request, at [`REQUEST_OFFSET`] of the frame.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ControlRequest {
    /// A [`ControlOp`]'s number.
    pub op: u32,
    /// `FLUSH_…` bits, or the entry's `FDB_…` flags.
    pub flags: u32,
    /// First bucket of a flush.
    pub first_bucket: u32,
    /// Number of buckets of a flush.
    pub bucket_count: u32,
    /// The entry's address.
    pub mac: Mac,
    /// The entry's segment, or the one to flush.
    pub segment: u16,
    /// The entry's port, or the one to flush.
    pub slot: u16,
    /// Always zero.
    pub reserved: [u8; 6],
}

/// The answer to the last request, in the map `control_reply`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ControlReply {
    /// 0, or a negative errno.
    pub error: i32,
    /// Entries changed.
    pub changed: u32,
}

crate::pod!(ControlRequest, ControlReply);
const _: () = assert!(size_of::<ControlRequest>() == 32, "no padding");
