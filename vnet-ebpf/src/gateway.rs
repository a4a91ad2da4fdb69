//! What routing and translation are decided from and what they change: the rules, the mappings and
//! flows in force, the host's own routes and sockets.

use vnet_common::{
    Addr, Ban, BanPorts, BanRule, Binding, BindingKey, ContactKey, DropReason, Event, FlowEntry,
    FlowKey, FlowRules, HostPort, Mac, NatMatchKey, NatRule, PolicyMatchKey, PolicyNode,
    PolicyRange, PortGroups, SourceKey,
    flow::{FLOW_DNAT, FLOW_SNAT},
};

use crate::{
    answer::ADVERTISEMENT_LEN,
    decide::Plan,
    flow::{
        table::{FlowTable, Inserted, insert},
        translate::Change,
    },
    forward::Flood,
    ip::Ip,
    limit::SourceSays,
    meta::Meta,
    nat::{self, Outcome, Step},
    policy::{
        flood::Question,
        search::{self, Search},
    },
    tables::Effects,
    window::Window,
};

/// What the host's routing says of a destination.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouteKind {
    /// It is the host's own, or the host would not forward it.
    Stack = 0,
    /// It goes out of an interface.
    Out = 1,
    /// It is to be dropped, or answered with an error.
    Refused = 2,
}

/// A route as the host's routing knows it.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// What becomes of the packet.
    pub kind: RouteKind,
    /// The interface it goes out of.
    pub ifindex: u32,
    /// Most bytes of a packet from its IP header on.
    pub mtu: u32,
    /// MAC address of the next hop; zero while the host does not know it.
    pub next_hop: Mac,
    /// Always zero.
    pub reserved: u16,
    /// The address that the host itself would send from; zero when it has none there.
    pub src: Addr,
}

impl Route {
    /// Before the host was asked.
    pub const NONE: Self = Self {
        kind: RouteKind::Stack,
        ifindex: 0,
        mtu: 0,
        next_hop: [0; 6],
        reserved: 0,
        src: [0; 16],
    };
}

/// A socket of the host.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostSocket {
    /// There is none.
    None = 0,
    /// It takes what anybody sends: it listens, or is not connected.
    Open = 1,
    /// It is connected to the very remote end.
    Connected = 2,
}

/// Key of a fragmented packet, in the map `fragments`.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct FragmentKey {
    /// Source address.
    pub src: Addr,
    /// Destination address.
    pub dst: Addr,
    /// Identification.
    pub id: u32,
    /// Segment that it came in from.
    pub segment: u16,
    /// IP protocol number.
    pub proto: u8,
    /// As in [`FlowKey`], or [`KEY_FLOODED`](vnet_common::flow::KEY_FLOODED).
    pub kind: u8,
}

/// What the first fragment of a packet says of the later ones, a value of the map `fragments`: the flow
/// that it belongs to; of one that is flooded, what the members' groups are asked.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fragment {
    /// Index of the entry; of one that is flooded, as in [`Search::what`].
    pub index: u32,
    /// Its tag, which tells whether it is still the same flow; of one that is flooded the slot that it
    /// comes from, and above 16 bits that of [`Question::known`].
    pub tag: u32,
    /// When the first fragment came, in seconds of CLOCK_MONOTONIC.
    pub seen_s: u32,
}

/// Seconds that fragments are waited for (RFC 791, 3.2; RFC 8200, 4.5 has 60).
pub const FRAGMENT_S: u32 = 30;

/// A way out that was looked up lately, in the map `checked`: flows to the same destination share the
/// look. Two destinations may want the same place; one of them is then looked up each time.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Checked {
    /// Where packets go after translation.
    pub dst: Addr,
    /// The address they leave with, where the source is replaced; else zero.
    pub src: Addr,
    /// MAC address of the next hop.
    pub next_hop: Mac,
    /// Slot of the port whose stack would send them.
    pub via: u16,
    /// Most bytes of a packet.
    pub mtu: u16,
    /// Slot of the port they leave by.
    pub slot: u16,
    /// When it was looked up, in seconds of CLOCK_MONOTONIC.
    pub at_s: u32,
}

/// Places for ways out that were looked up; a power of two.
pub const CHECKED: u32 = 4096;

/// Place of a destination among the ways out that were looked up.
#[inline(always)]
#[must_use]
pub fn checked_place(dst: &Addr) -> u32 {
    nat::rules::spread(dst, CHECKED)
}

/// What a flow shares its way out by: where its packets go, and the address that they leave with.
/// `None` where both ends are replaced.
#[inline(always)]
#[must_use]
pub fn ends<'a>(entry: &'a FlowEntry, dst: &'a Addr) -> Option<(&'a Addr, &'a Addr)> {
    const NONE: Addr = [0; 16];
    match entry.flags & (FLOW_SNAT | FLOW_DNAT) {
        0 => Some((dst, &NONE)),
        FLOW_SNAT => Some((dst, &entry.addr)),
        FLOW_DNAT => Some((&entry.addr, &NONE)),
        _ => None,
    }
}

/// A search for an external port under way.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PortSearch {
    /// First port of the range.
    pub lo: u16,
    /// Last port of the range.
    pub hi: u16,
    /// First port of a part of the range that is searched last.
    pub late_lo: u16,
    /// Last port of that part; below its first when there is none.
    pub late_hi: u16,
    /// Where in the order the search is.
    pub at: u32,
    /// Tries made.
    pub tries: u32,
    /// The port whose parity is to be kept.
    pub like: u16,
    /// The port found; 0 is none.
    pub found: u16,
    /// Number of blocks, when the search is for a block of `like` ports; else 0.
    pub blocks: u32,
    /// Not 0: another CPU is taking the very mapping on.
    pub raced: u32,
}

/// All that the slow path works on for one packet: too large for a program's stack.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Work {
    /// The packet's headers.
    pub ip: Ip,
    /// Headers of the packet that an ICMP error embeds.
    pub inner: Ip,
    /// What of it changes.
    pub change: Change,
    /// The entry of its direction, before it is in the table.
    pub forward: FlowEntry,
    /// The entry of the other direction.
    pub reply: FlowEntry,
    /// What the host's routing said.
    pub route: Route,
    /// A key under construction.
    pub key: FlowKey,
    /// A key under construction.
    pub binding_key: BindingKey,
    /// A key under construction.
    pub contact_key: ContactKey,
    /// A mapping under construction.
    pub binding: Binding,
    /// A mapping that was found.
    pub found: Binding,
    /// A key under construction.
    pub source_key: SourceKey,
    /// An event under construction.
    pub event: Event,
    /// Where the packet is to go after its destination was replaced.
    pub target: Addr,
    /// Whom it comes from after its source was replaced.
    pub source: Addr,
    /// The beginning of a packet that an ICMP error will embed.
    pub embedded: [u8; 48],
    /// A neighbour advertisement under construction.
    pub message: [u8; ADVERTISEMENT_LEN],
    /// A search for a port.
    pub search: PortSearch,
    /// A search for a security group's rule.
    pub policy: Search,
    /// Slot of the port whose connection it is an ICMP error about; 0 is none.
    pub related: u16,
    /// What the members of the flood that begins are asked.
    pub question: Question,
    /// What is known of the packet besides its bytes.
    pub meta: Meta,
    /// The rules of security groups that let it through.
    pub rules: FlowRules,
    /// Half of the tables that is in force.
    pub generation: u32,
    /// Index of the entry of its direction, once it is in the table.
    pub index: u32,
    /// Index of its connection's entry that was first.
    pub first: u32,
    /// Tag of a connection's entry that is to end, at `index`.
    pub tag: u32,
    /// Most bytes of its connection's packets, for an ICMP error.
    pub mtu: u32,
    /// Bytes that it, or each segment of it, has from the IP header on.
    pub l3_len: u32,
    /// What it is dropped for, unless it is the host's.
    pub reason: DropReason,
    /// Its port after its destination was replaced.
    pub target_port: u16,
    /// Its port after its source was replaced.
    pub source_port: u16,
    /// Slot of the stack-side port that it was addressed to.
    pub at: u16,
    /// Slot of the port whose stack would send it on.
    pub via: u16,
    /// Slot of the gateway port of the network that its new destination is in; 0 is none.
    pub inside_slot: u16,
    /// The rule that replaced its destination; 0 is none.
    pub target_rule: u16,
    /// The rule that replaces its source; 0 is none.
    pub source_rule: u16,
    /// First port of the block of its source.
    pub block: u16,
    /// Segment that the answers come in from.
    pub out_segment: u16,
    /// Slot of the VM's port that the connection counts for.
    pub owner: u16,
    /// Slot of the port where it is counted when it is dropped.
    pub drop_slot: u16,
    /// Slot of the port that it goes to when it stays in its segment; 0 is none.
    pub to: u16,
    /// `FLOW_…` bits for the entry of its direction.
    pub flags: u16,
    /// `FLOW_…` bits for the entry of the other direction.
    pub reply_flags: u16,
    /// It came from inside, through a gateway port.
    pub inside: bool,
    /// It leaves to the inside.
    pub to_inside: bool,
    /// It takes a port that no other connection shares.
    pub alone: bool,
    /// Its source becomes the address that it was sent to, which is no mapping of its own.
    pub borrowed: bool,
    /// It is not IP, or hides what it is behind a second tag.
    pub not_ip: bool,
    /// The groups of the port that it comes from are not asked.
    pub exempt_out: bool,
    /// The groups of the port that it goes to are not asked.
    pub exempt_in: bool,
    /// It begins a flow when it is let through.
    pub keeps_flow: bool,
    /// Its flow is to be judged anew.
    pub rejudge: bool,
    /// It comes from another port than its flow's packets did.
    pub moved: bool,
    /// Nobody has answered what its flow would have it answer.
    pub unanswered: bool,
    /// Its connection is counted for its source, and not in the table yet.
    pub held: bool,
}

/// Everything that routing and translation look at and change.
pub trait Gateway: Effects + FlowTable {
    /// Takes a step of the slow path.
    #[inline(always)]
    fn step<W: Window + ?Sized>(
        &self,
        step: Step,
        work: &mut Work,
        plan: &Plan,
        window: &W,
    ) -> Outcome {
        nat::take(step, work, plan, window, self)
    }
    /// [`nat::close::close`].
    #[inline(always)]
    fn close(&self, work: &mut Work) -> bool {
        nat::close::close(work, self)
    }
    /// [`nat::close::evict`].
    #[inline(always)]
    fn evict(&self, work: &mut Work, beyond: bool) -> bool {
        nat::close::evict(work, beyond, self)
    }
    /// Puts the entry of the packet's direction into the table, or that of the other one.
    #[inline(always)]
    fn insert_flow(&self, work: &mut Work, reply: bool) -> Inserted {
        insert(self, if reply { &work.reply } else { &work.forward })
    }
    /// Index of the entry of `key`, or [`NO_FLOW`](crate::flow::table::NO_FLOW).
    fn find_flow(&self, key: &FlowKey) -> u32;
    /// Asks the host's routing where packets of `key` go that come in by `ifindex`.
    fn route(&self, ifindex: u32, key: &FlowKey, route: &mut Route);
    /// Which socket of the host takes packets with this key.
    fn host_socket(&self, key: &FlowKey) -> HostSocket;
    /// The rule with this id.
    fn nat_rule(&self, generation: u32, id: u16) -> Option<&NatRule>;
    /// What the longest prefix of `key` stands for.
    fn nat_match(&self, key: &NatMatchKey) -> Option<u32>;
    /// Reads a mapping that is not on its way out.
    fn binding_look(&self, key: &BindingKey, binding: &mut Binding) -> bool;
    /// Reads a mapping that is not on its way out, and holds it. When `contact` is its remote address,
    /// that is held with it.
    fn binding_hold(&self, key: &BindingKey, contact: Option<&Addr>, binding: &mut Binding)
    -> bool;
    /// Adds a mapping, held once; false when there is one or the table is full.
    fn binding_add(&self, key: &BindingKey, binding: &Binding) -> bool;
    /// Gives back a hold of the mapping of `key` to `addr` and `port`; true when it was the last,
    /// and the mapping is gone.
    fn binding_release(&self, key: &BindingKey, addr: &Addr, port: u16) -> bool;
    /// [`Gateway::binding_release`] of an external end with a contact; true when the contact was the
    /// mapping's remote address, and given back with it.
    fn binding_part(&self, key: &BindingKey, addr: &Addr, port: u16, contact: &Addr) -> bool;
    /// Takes a mapping away, whoever holds it: their releases find another one, or none, and change
    /// nothing.
    fn binding_forget(&self, key: &BindingKey);
    /// Whether there is a contact that is not on its way out.
    fn contact_look(&self, key: &ContactKey) -> bool;
    /// Holds a contact, or adds it; false when the table is full.
    fn contact_hold(&self, key: &ContactKey) -> bool;
    /// Gives back a hold of a contact; with the last one it goes.
    fn contact_release(&self, key: &ContactKey);
    /// Runs [`crate::nat::ports::try_one`] up to `times` times, until it says that it is done.
    fn search_port(&self, work: &mut Work, times: u32);
    /// A random number.
    fn random(&self) -> u32;
    /// The host's own range of ports for outgoing connections.
    fn ephemeral_ports(&self) -> (u16, u16);
    /// Connections in the table.
    fn flow_count(&self) -> u32;
    /// Adds to the number of connections.
    fn add_flow_count(&self, delta: i32);
    /// Connections of a VM's port.
    fn owner_count(&self, slot: u16) -> u32;
    /// Adds to the connections of a VM's port.
    fn add_owner_count(&self, slot: u16, delta: i32);
    /// Takes from the limit of connections that a VM's port begins; false when it is exceeded.
    fn flow_take(&self, slot: u16, interval_ns: u32) -> bool;
    /// What a source's limits say of another connection; 0 is no limit.
    fn source_take(&self, key: &SourceKey, quota: u32, interval_ns: u32) -> SourceSays;
    /// Counts a connection for its source; false when there is no room to.
    fn source_hold(&self, key: &SourceKey, interval_ns: u32) -> bool;
    /// A source has a connection less.
    fn source_release(&self, key: &SourceKey);
    /// The rules of the destination ports at this place.
    fn ban_ports(&self, generation: u32, place: u32) -> Option<&BanPorts>;
    /// The rule with this id.
    fn ban_rule(&self, generation: u32, id: u8) -> Option<&BanRule>;
    /// Counts a connection of a source under a rule; false when it is one too many.
    fn attempt(&self, key: &SourceKey, rule: &BanRule) -> bool;
    /// Keeps a source away.
    fn ban(&self, key: &SourceKey, ban: &Ban);
    /// Counts a connection for the table and for its rules.
    fn count_flow(&self, what: FlowCount, rule: u16);
    /// Remembers the flow of a fragmented packet.
    fn fragment_put(&self, key: &FragmentKey, fragment: &Fragment);
    /// The flow of a fragmented packet.
    fn fragment_find(&self, key: &FragmentKey) -> Option<Fragment>;
    /// When the host last used its port `port`.
    fn host_port(&self, port: u16) -> Option<*mut HostPort>;
    /// A way out that was looked up lately.
    fn checked(&self, place: u32) -> Option<*mut Checked>;
    /// The groups of the port in `slot`.
    fn port_groups(&self, generation: u32, slot: u16) -> Option<&PortGroups>;
    /// The node that the longest prefix of `key` leads to; 0 is none.
    fn policy_match(&self, key: &PolicyMatchKey) -> u32;
    /// The node with this number.
    fn policy_node(&self, generation: u32, number: u32) -> Option<&PolicyNode>;
    /// The range at this place.
    fn policy_range(&self, generation: u32, place: u32) -> Option<&PolicyRange>;
    /// Runs [`search::step`] until it is over.
    fn walk(&self, search: &mut Search);
    /// [`search::ask_group`].
    #[inline(always)]
    fn ask_group(&self, search: &mut Search) {
        search::ask_group(search, self);
    }
    /// [`search::decide`].
    #[inline(always)]
    fn judge_port(&self, search: &mut Search) {
        search::decide(search, self);
    }
    /// [`flood::ask`](crate::policy::flood::ask), for a flood's members.
    fn ask_members<W: Window + ?Sized>(&self, flood: &mut Flood, plan: &Plan, window: &W);
    /// [`flood::admits`](crate::policy::flood::admits), of the member in `slot`.
    fn member_admits(&self, flood: &Flood, slot: u16) -> bool;
    /// The rule of the entry at `index`, as in [`vnet_common::BucketRules`].
    fn flow_rule(&self, index: u32) -> Option<*mut u16>;
    /// Adds to a rule's counters.
    fn count_policy(&self, rule: u16, packets: u64, bytes: u64, flows: u64);
    /// Whether another answer of this kind may be made now.
    fn answer_take(&self, kind: AnswerKind) -> bool;
}

/// Answers whose number a second is limited, each kind by itself: the index into the map
/// `answer_limits`.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AnswerKind {
    /// ICMP errors of the gateway.
    Error = 0,
    /// What a security group's rule that rejects says, a reset included.
    Reject = 1,
}

/// Number of [`AnswerKind`]s.
pub const ANSWER_KINDS: u32 = 2;

/// What is counted of connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlowCount {
    /// One was taken on.
    Created,
    /// One ended.
    Ended,
    /// One that never had an answer made room for another.
    Evicted,
    /// A rule was applied to one.
    Hit,
    /// A connection of a rule ended.
    RuleEnded,
    /// An external port was taken.
    PortTaken,
    /// An external port was given back.
    PortReleased,
    /// No external port was free.
    Exhausted,
}
