//! Types that both sides of vnet share: what lives in BPF maps and what crosses the ring buffer.
//!
//! Every type is `repr(C)` without implicit padding, so that a value has the same bytes in the
//! kernel and in userspace, and field names are chosen for `bpftool map dump`, which prints them.
//! Integers are in host byte order; MAC addresses are in transmission order.
//!
//! A change of any layout here needs a new [`SCHEMA`].
#![no_std]

pub mod control;
pub mod counters;
pub mod drop_reason;
pub mod event;
pub mod fdb;
pub mod flow;
pub mod guard;
pub mod limit;
pub mod nat;
pub mod policy;
pub mod port;
pub mod switch;

pub use control::{ControlOp, ControlReply, ControlRequest};
pub use counters::{DropReport, PortCounters, PortReport};
pub use drop_reason::{DropCounters, DropReason};
pub use event::{Event, EventKind};
pub use fdb::{FdbBucket, FdbEntry, FdbKey};
pub use flow::{Addr, FlowEntry, FlowKey, FlowState, FlowTags, FlowTimeouts, HostPort};
pub use guard::{LearnedIp, LearnedIpKey, PortIpKey, PortLeases};
pub use limit::{Attempts, Ban, BanPorts, BanRule, Source, SourceKey};
pub use nat::{Binding, BindingKey, Contact, ContactKey, NatCounters, NatMatchKey, NatRule};
pub use policy::{
    BucketRules, FlowRules, PolicyCounters, PolicyMatchKey, PolicyNode, PolicyRange, PolicyVerdict,
    PortGroups,
};
pub use port::{PortConf, PortKind, StormKind, StormRate, StormState};
pub use switch::{
    MacDenyKey, Member, PortMacKey, PortSegmentKey, PortTagKey, SegmentConf, SwitchConf,
};

/// Version of the map layouts; part of the pin directory's name (`v<SCHEMA>`).
pub const SCHEMA: u32 = 4;

/// A MAC address in transmission order.
pub type Mac = [u8; 6];

/// Number of segment ids: 0 is the network `default`, 1 to 4094 are the networks with that VLAN id,
/// from [`FIRST_INNER_SEGMENT`] on are networks without one.
pub const SEGMENTS: u32 = 8192;

/// First segment id of networks without a VLAN id.
pub const FIRST_INNER_SEGMENT: u16 = 4096;

/// "No segment": a trunk without a native network.
pub const NO_SEGMENT: u16 = u16::MAX;

/// The segment of the network `default`.
pub const DEFAULT_SEGMENT: u16 = 0;

/// The slot that stands for "no port": drops before a port is known are counted there.
pub const NO_SLOT: u16 = 0;

/// Marks the impl of `aya::Pod` for map types.
macro_rules! pod {
    ($($ty:ty),+ $(,)?) => {
        $(
            // SAFETY: repr(C) or repr(transparent) plain data, every padding byte is a named
            // field (asserted by the size checks beside the types), valid for any bit pattern
            // that the kernel side writes.
            #[cfg(feature = "user")]
            unsafe impl aya::Pod for $ty {}
        )+
    };
}
pub(crate) use pod;
