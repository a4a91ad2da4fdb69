//! Flows: one entry a direction of a connection, with the whole decision that its packets follow.
//!
//! The table is three BPF arrays. `flow_tags` holds buckets of eight tags, half a cache line each;
//! the entry that a tag stands for is at the same place of `flows`, two cache lines. A key has three
//! buckets; it is in one of them. Tags and entries are claimed by compare and exchange, so that no
//! lock is needed. Arrays rather than a BPF hash map: a lookup is inlined by the verifier, and
//! expiry walks contiguous memory a slice at a time.

use crate::Mac;

/// An IPv6 address, or an IPv4 address as `::ffff:a.b.c.d` (RFC 4291, 2.5.5.2); network order.
pub type Addr = [u8; 16];

/// The first twelve bytes of an IPv4 address as an [`Addr`].
pub const V4_PREFIX: [u8; 12] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff];

/// An IPv4 address as an [`Addr`].
#[inline(always)]
#[must_use]
pub const fn mapped(v4: [u8; 4]) -> Addr {
    [
        0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, v4[0], v4[1], v4[2], v4[3],
    ]
}

/// Whether an [`Addr`] stands for an IPv4 address.
#[inline(always)]
#[must_use]
pub fn is_v4(addr: &Addr) -> bool {
    addr[..12] == V4_PREFIX
}

/// What a packet is recognised by: an all-zero key is no key.
///
/// ICMP echo has the identifier as the requester's port and 0 as the other's; protocols without
/// ports have 0 for both.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlowKey {
    /// Source address.
    pub src: Addr,
    /// Destination address.
    pub dst: Addr,
    /// Source port.
    pub sport: u16,
    /// Destination port.
    pub dport: u16,
    /// Segment that the packet comes in from.
    pub segment: u16,
    /// IP protocol number.
    pub proto: u8,
    /// [`KEY_ROUTED`] or [`KEY_BRIDGED`].
    pub kind: u8,
}

impl FlowKey {
    /// No packet's.
    pub const NONE: Self = Self {
        src: [0; 16],
        dst: [0; 16],
        sport: 0,
        dport: 0,
        segment: 0,
        proto: 0,
        kind: 0,
    };

    /// The key of packets that go the other way, untranslated.
    #[inline(always)]
    #[must_use]
    pub const fn reversed(&self) -> Self {
        Self {
            src: self.dst,
            dst: self.src,
            sport: self.dport,
            dport: self.sport,
            ..*self
        }
    }
}

/// `kind` of a key: packets that the gateway sends on.
pub const KEY_ROUTED: u8 = 0;
/// `kind` of a key: packets that stay in their segment, between ports of which one is in security groups.
pub const KEY_BRIDGED: u8 = 1;
/// `kind` of a fragmented packet's key: it is flooded, and has no flow.
pub const KEY_FLOODED: u8 = 2;

/// How far a connection is.
#[repr(u8)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FlowState {
    /// No flow.
    #[default]
    None = 0,
    /// Packets were seen in one direction only (not TCP).
    OneWay = 1,
    /// Packets were seen in both directions (not TCP).
    TwoWay = 2,
    /// TCP: a SYN, and no answer yet.
    SynSent = 3,
    /// TCP: a SYN and its answer.
    SynReceived = 4,
    /// TCP: the handshake is complete.
    Established = 5,
    /// TCP: both ends have sent their FIN, or the inside has sent a RST.
    Closing = 6,
    /// TCP: both FINs have been acknowledged.
    TimeWait = 7,
}

impl FlowState {
    /// Every state that a flow can have.
    pub const ALL: &'static [Self] = &[
        Self::OneWay,
        Self::TwoWay,
        Self::SynSent,
        Self::SynReceived,
        Self::Established,
        Self::Closing,
        Self::TimeWait,
    ];

    /// The word that listings use.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::OneWay => "one-way",
            Self::TwoWay => "two-way",
            Self::SynSent => "syn-sent",
            Self::SynReceived => "syn-received",
            Self::Established => "established",
            Self::Closing => "closing",
            Self::TimeWait => "time-wait",
        }
    }

    /// The state with this number.
    #[must_use]
    pub fn by_number(number: u8) -> Option<Self> {
        Self::ALL
            .iter()
            .copied()
            .find(|state| *state as u8 == number)
    }
}

/// `flags`: the direction that answers; the other one was first.
pub const FLOW_REPLY: u16 = 1;
/// `flags`: the source is replaced, by [`FlowEntry::addr`] unless the destination is too.
pub const FLOW_SNAT: u16 = 2;
/// `flags`: the destination is replaced, by [`FlowEntry::addr`].
pub const FLOW_DNAT: u16 = 4;
/// `flags`: what sends in this direction is inside, behind a gateway port.
pub const FLOW_INSIDE: u16 = 16;
/// `flags`: the source has a mapping ([`crate::nat::BindingKind::Internal`]) that the flow holds.
pub const FLOW_BOUND: u16 = 32;
/// `flags`: the flow holds the remote address as a contact of the source's mapping: in
/// [`crate::nat::Binding::count`], or as a [`crate::nat::Contact`].
pub const FLOW_CONTACT: u16 = 64;
/// `flags`: mapped one to one, with no port of its own taken.
pub const FLOW_STATIC: u16 = 512;
/// `flags`: the flow takes one of its rule's external ports, though it has no mapping
/// (`--mapping symmetric`).
pub const FLOW_PORT: u16 = 1024;
/// `flags`: the flow holds the block of external ports of the source's address.
pub const FLOW_BLOCK: u16 = 2048;
/// `flags` of the direction that was first: the flow counts for its source ([`crate::limit::Source`]).
pub const FLOW_SOURCE: u16 = 4096;
/// `flags` of the direction that was first: a rule counts the connection once its handshake is complete
/// ([`crate::limit::BanRule`]).
pub const FLOW_WATCHED: u16 = 8192;
/// `flags`: with [`FLOW_SOURCE`], the source is a /64.
pub const FLOW_SOURCE_NET: u16 = 16384;
/// `flags`: with [`FLOW_SOURCE`], the source is at the port [`FlowEntry::owner`].
pub const FLOW_SOURCE_PORT: u16 = 32768;

/// One direction of a connection. An all-zero entry is free.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlowEntry {
    /// The packets it is for, as they come in.
    pub key: FlowKey,
    /// Packets of this direction.
    pub packets: u64,
    /// Bytes of this direction, as in [`crate::PortCounters`].
    pub bytes: u64,
    /// When the last packet came, in seconds of CLOCK_MONOTONIC.
    pub seen_s: u32,
    /// Index of the other direction's entry.
    pub peer: u32,

    /// The address that replaces the destination, or else the source. Where both are replaced, the
    /// new source is the destination of the peer's key.
    pub addr: Addr,
    /// The source port that packets leave with.
    pub sport: u16,
    /// The destination port that packets leave with.
    pub dport: u16,
    /// MAC address of the next hop.
    pub next_hop: Mac,
    /// Slot of the port whose stack would have sent the packet: the source of its MAC address. Of a
    /// bridged flow, slot of the port that its packets come from.
    pub via: u16,
    /// Slot of the port that packets leave by; 0: the next hop's MAC address, or where it is, is not
    /// known, and the kernel is to find it.
    pub slot: u16,
    /// Tag that they leave with; 0 is untagged.
    pub vid: u16,
    /// Most bytes of a packet from its IP header on.
    pub mtu: u16,
    /// The rule that made it; 0 is none.
    pub rule: u16,
    /// Print of the rule at that time.
    pub rule_print: u16,
    /// Slot of the VM's port whose quota it counts against; 0 is none.
    pub owner: u16,
    /// `FLOW_…` bits. They say what the connection holds, and stay as it was made with.
    pub flags: u16,
    /// A [`FlowState`]'s number.
    pub state: u8,
    /// `MARK_…` bits. Apart from `flags`: what a packet writes late does no harm to a connection that
    /// has the place since.
    pub marks: u8,
    /// The switch's epoch when the way out was looked up.
    pub epoch: u32,
    /// When the way out was looked up, in seconds of CLOCK_MONOTONIC.
    pub resolved_s: u32,
    /// TCP: one past the highest sequence number sent in this direction.
    pub seq_end: u32,
    /// TCP: the last acknowledgement number sent in this direction.
    pub ack: u32,
    /// When it was made, in seconds of CLOCK_MONOTONIC.
    pub created_s: u32,
}

/// `marks`: this direction's sender has sent its FIN.
pub const MARK_FIN: u8 = 1;
/// `marks`: TCP data and acknowledgements were seen: [`FlowEntry::seq_end`] and `ack` mean something.
pub const MARK_SEQ: u8 = 2;
/// `marks` of the direction that was first: the connection was taken up in its middle. It is none until
/// something comes back: anybody can send a segment without a beginning.
pub const MARK_MIDDLE: u8 = 4;
/// `marks` of the direction that was first: a rule has counted the connection ([`crate::limit::BanRule`]).
pub const MARK_COUNTED: u8 = 8;

/// Entries in one bucket.
pub const FLOW_BUCKET: usize = 8;

/// Eight tags, a value of the map `flow_tags`: 0 is a free place, [`FLOW_BUSY`] one that is being
/// filled, everything else comes from a key's hash.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlowTags {
    /// The tags.
    pub tags: [u32; FLOW_BUCKET],
}

/// Tag of a place that is being filled or emptied.
pub const FLOW_BUSY: u32 = 1;

/// Buckets for a table of at most `flows` connections: two entries each, almost a quarter of the
/// places free. Of a million connections in a table for as many, some thirty then find no room in their
/// buckets (a simulation of the choice that `vnet_ebpf::flow::table::insert` makes).
#[must_use]
pub const fn flow_buckets_for(flows: u32) -> u32 {
    let places = flows as u64 * 21 / 8;
    (places / FLOW_BUCKET as u64) as u32 + 16
}

/// Seconds that flows live without a packet.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlowTimeouts {
    /// TCP before the handshake is complete (RFC 5382, REQ-5: 4 minutes).
    pub tcp_transitory: u32,
    /// TCP with the handshake complete (RFC 5382, REQ-5: 2 hours 4 minutes).
    pub tcp_established: u32,
    /// TCP being closed (RFC 5382, REQ-5: 4 minutes).
    pub tcp_closing: u32,
    /// TCP closed by both ends.
    pub tcp_time_wait: u32,
    /// UDP with packets in both directions (RFC 4787, REQ-5: 5 minutes).
    pub udp: u32,
    /// UDP with packets in one direction (RFC 4787, REQ-5: not below 2 minutes).
    pub udp_one_way: u32,
    /// ICMP echo (RFC 5508, REQ-2: 60 seconds).
    pub icmp: u32,
    /// Every other protocol.
    pub other: u32,
}

impl FlowTimeouts {
    /// Seconds for a flow of this protocol in this state (a [`FlowState`]'s number).
    #[inline(always)]
    #[must_use]
    pub const fn of(&self, proto: u8, state: u8) -> u32 {
        const SYN_SENT: u8 = FlowState::SynSent as u8;
        const SYN_RECEIVED: u8 = FlowState::SynReceived as u8;
        const ESTABLISHED: u8 = FlowState::Established as u8;
        const CLOSING: u8 = FlowState::Closing as u8;
        const TIME_WAIT: u8 = FlowState::TimeWait as u8;
        const ONE_WAY: u8 = FlowState::OneWay as u8;
        match state {
            SYN_SENT | SYN_RECEIVED => self.tcp_transitory,
            ESTABLISHED => self.tcp_established,
            CLOSING => self.tcp_closing,
            TIME_WAIT => self.tcp_time_wait,
            _ => match proto {
                17 if state == ONE_WAY => self.udp_one_way,
                17 => self.udp,
                1 | 58 => self.icmp,
                _ => self.other,
            },
        }
    }
}

/// When the host itself last began a connection from a port of its own, whichever of its addresses it
/// was; a value of the map `host_ports`, by port. Seconds of CLOCK_MONOTONIC, 0 for never.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HostPort {
    /// By TCP.
    pub tcp_s: u32,
    /// By UDP.
    pub udp_s: u32,
    /// By ICMP echo, with the port as identifier.
    pub echo_s: u32,
    /// Always zero.
    pub reserved: u32,
}

/// Values of the map `host_ports`.
pub const HOST_PORTS: u32 = 1 << 16;

/// Traffic of the flow table as a whole, a value of the per-CPU map `flow_counters`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlowCounters {
    /// Connections that were taken on.
    pub created: u64,
    /// Connections that ended.
    pub ended: u64,
    /// Connections that had to go for others: only such as never had an answer.
    pub evicted: u64,
}

crate::pod!(
    FlowKey,
    FlowEntry,
    FlowTags,
    FlowTimeouts,
    HostPort,
    FlowCounters
);
const _: () = assert!(size_of::<FlowKey>() == 40, "no padding");
const _: () = assert!(size_of::<FlowEntry>() == 128, "two cache lines");
const _: () = assert!(size_of::<FlowTags>() == 32, "half a cache line");
