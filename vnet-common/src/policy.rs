//! Security groups: which connections a VM may have.
//!
//! A group's rules are compiled, a direction each, into a tree of prefixes of the other end's address. A
//! node has the rules that name this very prefix, spread out over protocol and destination port: ranges
//! that lie side by side, each with the one rule of the node that comes first there. A packet finds the
//! longest prefix, and from there on the shorter ones around it; in each node it halves the ranges until
//! one is left. Of all the rules that it meets so the one with the lowest rank counts: neither the number
//! of rules nor what is in the packet adds more than a step here and there.

use crate::flow::{Addr, FLOW_BUCKET};

/// Rules that a switch has room for, number 0 left out: a rule's id is the place of its counters.
pub const POLICY_RULES: u32 = 32_768;
/// Groups that a switch has room for.
pub const POLICY_GROUPS: u32 = 4096;
/// Groups that one port can be in.
pub const PORT_GROUPS: usize = 8;
/// Nodes in a generation of the map `policy_nodes`: one a rule at most, and number 0, which is none.
pub const POLICY_NODES: u32 = POLICY_RULES;
/// Ranges in a generation of the map `policy_ranges`: a node begins with one, and a rule adds two at
/// most.
pub const POLICY_RANGES: u32 = 3 * POLICY_RULES;
/// Entries of the map `policy_match`, both generations.
pub const POLICY_MATCHES: u32 = 4 * POLICY_RULES;

/// What a rule says becomes of a connection.
#[repr(u8)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PolicyVerdict {
    /// No rule says anything.
    #[default]
    None = 0,
    /// It is let through.
    Allow = 1,
    /// Its packets are dropped.
    Deny = 2,
    /// Its packets are dropped, and their sender is told.
    Reject = 3,
}

impl PolicyVerdict {
    /// The verdict with this number.
    #[must_use]
    pub const fn by_number(number: u32) -> Self {
        match number {
            1 => Self::Allow,
            2 => Self::Deny,
            3 => Self::Reject,
            _ => Self::None,
        }
    }

    /// The word for it, as rules have it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Allow => "allow",
            Self::Deny => "deny",
            Self::Reject => "reject",
        }
    }
}

/// The groups of a port, a value of the map `port_groups` at `generation * max_ports + slot`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PortGroups {
    /// Their numbers, with [`GROUP_NAMES_GROUPS`]; 0 behind the last.
    pub groups: [u16; PORT_GROUPS],
}

/// A bit of a group's number among a port's: it has rules whose other end is a group.
pub const GROUP_NAMES_GROUPS: u16 = 1 << 15;

/// What an entry of the map `policy_match` is for.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PolicyMatch {
    /// A prefix of the other end's IPv4 address. Apart from IPv6: `::/0` is not about these.
    V4 = 1,
    /// A group that the other end is in, by its number in the address's last two bytes.
    Group = 2,
    /// Frames that are not IP, or hide what they are behind a second tag: the rules that say nothing
    /// of the other end.
    NotIp = 3,
    /// A prefix of the other end's IPv6 address.
    V6 = 4,
}

/// Key of the map `policy_match`, a longest prefix match; everything in network order. Its values are
/// places in the map `policy_nodes`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PolicyMatchKey {
    /// Generation.
    pub generation: u8,
    /// A [`PolicyMatch`]'s number.
    pub kind: u8,
    /// The group's number, times two; and one more for what goes out of the VM.
    pub scope_be: [u8; 2],
    /// The address.
    pub addr: Addr,
}

/// Bits of a [`PolicyMatchKey`] in front of its address.
pub const POLICY_MATCH_HEAD_BITS: u32 = 32;
/// Bits of a [`PolicyMatchKey`].
pub const POLICY_MATCH_BITS: u32 = 160;

/// The address that stands for a group in a [`PolicyMatchKey`].
#[inline(always)]
#[must_use]
pub const fn group_addr(group: u16) -> Addr {
    let [hi, lo] = group.to_be_bytes();
    [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, hi, lo]
}

/// The rules of one group and direction that name one prefix, in the map `policy_nodes` at
/// `generation * POLICY_NODES + number`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PolicyNode {
    /// Number of the node with the next shorter prefix around this one; 0 is none.
    pub parent: u32,
    /// Its first range, from the generation's half of the map `policy_ranges` on.
    pub first: u32,
    /// Number of its ranges, 1 or more.
    pub count: u32,
}

/// Packets of a node that follow the same rule, in the map `policy_ranges`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PolicyRange {
    /// The first of them: IP protocol times 65,536 and destination port. A node's first range begins
    /// with 0.
    pub start: u32,
    /// The rule's priority times 65,536 and its id; [`NO_RANK`] where there is none.
    pub rank: u32,
    /// What it says.
    pub verdict: PolicyVerdict,
    /// 1: it is reported.
    pub log: u8,
    /// Always zero.
    pub reserved: u16,
}

/// The rank of no rule.
pub const NO_RANK: u32 = u32::MAX;

/// In the place of protocol and port in [`PolicyRange::start`]: frames that are not IP.
pub const NOT_IP: u32 = 256 << 16;

/// The rules that let the eight flows of a bucket through, a value of the map `flow_rules`: of an entry that
/// was first the one that lets its connection out of a VM, of the other direction's the one that lets it in
/// to a VM. 0 is none. By bucket, since an array's values take eight bytes or more (kernel/bpf/arraymap.c).
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BucketRules {
    /// The rules.
    pub rules: [u16; FLOW_BUCKET],
}

/// The rules that let a connection through.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlowRules {
    /// The one that lets it out of a VM; 0 is none.
    pub out_rule: u16,
    /// The one that lets it in to a VM; 0 is none.
    pub in_rule: u16,
}

/// Traffic of one rule, a value of the map `policy_counters` by id. Packets of connections are added when
/// these end: until then the flows' own entries have them.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PolicyCounters {
    /// Packets that it dropped, and those of the connections that it let through and that ended.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Connections that it let through.
    pub flows: u64,
}

crate::pod!(
    PortGroups,
    PolicyMatchKey,
    PolicyNode,
    PolicyRange,
    BucketRules,
    PolicyCounters
);
const _: () = assert!(size_of::<PolicyMatchKey>() == 20, "no padding");
const _: () = assert!(size_of::<PolicyRange>() == 12, "no padding");
const _: () = assert!(size_of::<BucketRules>() == 16, "no padding");
