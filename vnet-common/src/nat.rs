//! Address translation: rules, what they are found by, and the mappings in force.

use crate::flow::Addr;

/// Rules that a switch has room for; a rule's id is its place.
pub const NAT_RULES: u32 = 16_384;

/// Kind of a rule.
#[repr(u8)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NatKind {
    /// No rule.
    #[default]
    Unused = 0,
    /// The source becomes the uplink's own address.
    Masquerade = 1,
    /// The source becomes one of a pool of addresses.
    Snat = 2,
    /// The destination becomes a VM's.
    Dnat = 3,
    /// An address or prefix stands for another one, in both directions.
    Static = 4,
}

/// `flags` of a rule: a mapping for each remote end (RFC 4787, 4.1: address and port-dependent); else
/// endpoint-independent.
pub const NAT_SYMMETRIC: u8 = 1;
/// `flags`: filtering is address-dependent (RFC 4787, 5).
pub const NAT_ADF: u8 = 2;
/// `flags`: filtering is address and port-dependent (RFC 4787, 5). Neither: endpoint-independent.
pub const NAT_APDF: u8 = 4;
/// `flags`: the external address is the host's own, so that its ports are shared with the host.
pub const NAT_OWN_ADDRESS: u8 = 8;
/// `flags` of a static rule over IPv6 prefixes: RFC 6296, with no checksum to change.
pub const NAT_NPTV6: u8 = 16;

/// A rule, in the map `nat_rules` at `generation * NAT_RULES + id`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NatRule {
    /// First external address: a pool's, a listen's, a static rule's prefix; of a masquerade rule
    /// the uplink's IPv4 address, for kernels that do not tell it.
    pub external: Addr,
    /// The internal address: where a port forward leads, a static rule's prefix; of a masquerade
    /// rule the uplink's IPv6 address.
    pub internal: Addr,
    /// The only source that a port forward is for, with `from_len`.
    pub from: Addr,
    /// Addresses of the pool; 1 elsewhere.
    pub pool_size: u32,
    /// First external port.
    pub port_lo: u16,
    /// Last external port.
    pub port_hi: u16,
    /// First port that a forward leads to.
    pub to_lo: u16,
    /// Last port that a forward leads to.
    pub to_hi: u16,
    /// Ports a VM gets at a time, a power of two or not; 0 is no blocks.
    pub block_size: u16,
    /// Slot of the port whose stack sends to the outside: the uplink's host side, or the switch
    /// device. 0: any.
    pub via: u16,
    /// Slot of the gateway port of the network that `internal` is in.
    pub inside: u16,
    /// Tells a rule from another one that had the same id before.
    pub print: u16,
    /// Bits of `from` that count, of 128.
    pub from_len: u8,
    /// Bits of `external` and `internal` that are their prefix, of 128; 128 elsewhere.
    pub prefix_len: u8,
    /// Kind.
    pub kind: NatKind,
    /// `NAT_…` bits.
    pub flags: u8,
}

/// What an entry of the map `nat_match` is for.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NatMatch {
    /// A source address that is replaced where it leaves by `scope`: the rule.
    Source = 1,
    /// A destination with protocol `scope` and port that leads to a VM: the rule.
    Listen = 2,
    /// An external address or prefix of a static rule: the rule.
    Static = 3,
    /// A source of a network that is translated: its segment, or [`crate::NO_SEGMENT`].
    Guard = 4,
    /// An external address that the host does not hold and that the datapath answers ARP and ND
    /// for, at the stack-side slot `scope`: 1.
    Answer = 5,
    /// A source that the rule `scope` does not ban ([`crate::limit::BanRule`]): 1.
    NeverBanned = 6,
}

/// Key of the map `nat_match`, a longest prefix match; everything in network order.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NatMatchKey {
    /// Generation.
    pub generation: u8,
    /// A [`NatMatch`]'s number.
    pub kind: u8,
    /// See [`NatMatch`].
    pub scope_be: [u8; 2],
    /// The address.
    pub addr: Addr,
    /// The port, for [`NatMatch::Listen`]; else 0.
    pub port_be: [u8; 2],
    /// Always zero.
    pub reserved: [u8; 2],
}

/// Bits of a [`NatMatchKey`] in front of its address.
pub const NAT_MATCH_HEAD_BITS: u32 = 32;
/// Bits of a [`NatMatchKey`] that mean something.
pub const NAT_MATCH_BITS: u32 = 176;

/// What an entry of the map `bindings` is.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BindingKind {
    /// An internal address and port: its external ones.
    Internal = 1,
    /// An external address and port: its internal ones.
    External = 2,
    /// An internal address: its block of external ports.
    BlockOf = 3,
    /// A block of external ports by its first: the internal address that has it.
    Block = 4,
}

/// Key of the map `bindings`.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BindingKey {
    /// Internal or external address.
    pub addr: Addr,
    /// Its port.
    pub port: u16,
    /// Segment of an internal address; else 0.
    pub segment: u16,
    /// IP protocol number; 0 for blocks.
    pub proto: u8,
    /// A [`BindingKind`]'s number.
    pub kind: u8,
    /// The rule, where there can be a mapping a rule: internal addresses and blocks; else 0.
    pub rule: u16,
}

/// A value of the map `bindings`.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Binding {
    /// The address on the other side.
    pub addr: Addr,
    /// Of an external end: the remote address that it sent to first. It stays, also when it is not sent
    /// to any more; else zero.
    pub remote: Addr,
    /// The port on the other side; of a block, its first.
    pub port: u16,
    /// The rule.
    pub rule: u16,
    /// Print of the rule at that time.
    pub rule_print: u16,
    /// Slot of the gateway port of the internal address's network.
    pub inside: u16,
    /// Flows that hold it, or for a block the mappings in it. 0: it is on its way out.
    pub refs: u32,
    /// Of an external end: flows that hold `remote` as a contact. Ports of a block; else 0.
    pub count: u32,
}

/// Key of the map `contacts`: a remote address that an external address and port has sent to, where it
/// is not the one that its [`Binding`] names. Most mappings have no other one, and so no entry here.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ContactKey {
    /// The external address.
    pub addr: Addr,
    /// The remote address, as the source knows it.
    pub remote: Addr,
    /// The external port.
    pub port: u16,
    /// IP protocol number.
    pub proto: u8,
    /// Always zero.
    pub reserved: [u8; 5],
}

/// A value of the map `contacts`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Contact {
    /// Flows that hold it. 0: it is on its way out.
    pub refs: u32,
}

/// Traffic of one rule, a value of the per-CPU map `nat_counters` by id.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NatCounters {
    /// Connections that the rule was applied to.
    pub hits: u64,
    /// Those of them that ended.
    pub ended: u64,
    /// External ports taken.
    pub ports_taken: u64,
    /// External ports given back.
    pub ports_released: u64,
    /// Connections refused because no external port was free.
    pub exhausted: u64,
}

crate::pod!(
    NatRule,
    NatMatchKey,
    BindingKey,
    Binding,
    ContactKey,
    Contact,
    NatCounters
);
const _: () = assert!(size_of::<NatRule>() == 72, "no padding");
const _: () = assert!(size_of::<NatMatchKey>() == 24, "no padding");
const _: () = assert!(size_of::<BindingKey>() == 24, "no padding");
const _: () = assert!(size_of::<ContactKey>() == 40, "no padding");
const _: () = assert!(size_of::<Binding>() == 48, "no padding");
