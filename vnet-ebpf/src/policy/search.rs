//! Finding the rule that decides a connection at one port, in one direction: see
//! [`vnet_common::policy`] for the tables.

use vnet_common::{
    Addr, PolicyMatchKey, PolicyVerdict, PortGroups,
    policy::{GROUP_NAMES_GROUPS, NO_RANK, NOT_IP, PORT_GROUPS, PolicyMatch, group_addr},
    port::PORT_POLICY_ALLOW,
};

use crate::{bytes::word_at, gateway::Gateway};

/// What is searched for, and how far the search is. In a map in the kernel.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Search {
    /// The address of the other end.
    pub remote: Addr,
    /// A key under construction.
    pub key: PolicyMatchKey,
    /// IP protocol times 65,536 and destination port, or [`NOT_IP`].
    pub what: u32,
    /// The groups of the port that the other end is behind.
    pub remote_groups: PortGroups,
    /// The port whose groups are asked.
    pub slot: u16,
    /// 1: what goes out of the VM; 0: what comes in to it.
    pub out: u16,
    /// Half of the tables that is looked at.
    pub generation: u32,
    /// The rank of the best rule so far.
    pub rank: u32,
    /// What it says.
    pub verdict: PolicyVerdict,
    /// 1: it is reported.
    pub log: u8,
    /// The group under way, with [`GROUP_NAMES_GROUPS`].
    pub group: u16,
    /// The node under way; 0 is none.
    pub node: u32,
    /// The first range that may be the one.
    pub lo: u32,
    /// One past the last.
    pub hi: u32,
}

/// Steps that a search takes at most: each of the prefixes around an address, 129 with the empty one, and
/// halving what a node can have in ranges.
pub const STEPS: u32 = 129 * 18;

impl Search {
    /// The id of the rule that decides; 0 is the ports' default.
    #[inline(always)]
    #[must_use]
    pub const fn rule(&self) -> u16 {
        if self.rank == NO_RANK {
            0
        } else {
            self.rank as u16
        }
    }
}

/// Takes one step of the walk from `search.node` on. True when it is over.
#[inline(always)]
pub fn step<G: Gateway + ?Sized>(search: &mut Search, gateway: &G) -> bool {
    if search.hi == 0 {
        let Some(node) = gateway.policy_node(search.generation, search.node) else {
            return true;
        };
        search.node = node.parent;
        search.lo = node.first;
        search.hi = node.first.wrapping_add(node.count);
    }
    let (lo, hi) = (search.lo, search.hi);
    let is_last = hi.wrapping_sub(lo) <= 1;
    let middle = if is_last {
        lo
    } else {
        lo.wrapping_add(hi.wrapping_sub(lo) / 2)
    };
    let Some(range) = gateway.policy_range(search.generation, middle) else {
        return true;
    };
    if is_last {
        if range.rank < search.rank {
            search.rank = range.rank;
            search.verdict = range.verdict;
            search.log = range.log;
        }
        search.hi = 0;
        return search.node == 0;
    }
    if range.start <= search.what {
        search.lo = middle;
    } else {
        search.hi = middle;
    }
    false
}

/// [`vnet_common::flow::is_v4`], by words: comparing bytes takes more of a program's stack than there is.
#[inline(always)]
fn is_v4(addr: &Addr) -> bool {
    let prefix = u32::from_ne_bytes([0, 0, 0xff, 0xff]);
    word_at(addr, 0) | word_at(addr, 4) | (word_at(addr, 8) ^ prefix) == 0
}

/// Meets the rules of the node that `search.key` leads to, and of those around it.
#[inline(always)]
fn walk<G: Gateway + ?Sized>(search: &mut Search, gateway: &G) {
    let node = gateway.policy_match(&search.key);
    if node == 0 {
        return;
    }
    search.node = node;
    search.hi = 0;
    gateway.walk(search);
}

/// Meets the rules of `search.group`.
#[inline(always)]
pub fn ask_group<G: Gateway + ?Sized>(search: &mut Search, gateway: &G) {
    let scope = (search.group & !GROUP_NAMES_GROUPS) << 1 | search.out;
    search.key.generation = search.generation as u8;
    search.key.scope_be = scope.to_be_bytes();
    if search.what == NOT_IP {
        search.key.kind = PolicyMatch::NotIp as u8;
        search.key.addr = [0; 16];
    } else {
        let family = if is_v4(&search.remote) {
            PolicyMatch::V4
        } else {
            PolicyMatch::V6
        };
        search.key.kind = family as u8;
        search.key.addr = search.remote;
    }
    walk(search, gateway);
    if search.group & GROUP_NAMES_GROUPS == 0 {
        return;
    }
    search.key.kind = PolicyMatch::Group as u8;
    let mut i = 0;
    while i < PORT_GROUPS {
        let group = search.remote_groups.groups[i] & !GROUP_NAMES_GROUPS;
        if group == 0 {
            break;
        }
        search.key.addr = group_addr(group);
        walk(search, gateway);
        i += 1;
    }
}

/// Finds the rule that decides, or the default: writes rank, verdict and log.
#[inline(always)]
pub fn decide<G: Gateway + ?Sized>(search: &mut Search, gateway: &G) {
    search.rank = NO_RANK;
    search.verdict = PolicyVerdict::None;
    search.log = 0;
    let (generation, slot) = (search.generation, search.slot);
    let mut i = 0;
    while i < PORT_GROUPS {
        let Some(groups) = gateway.port_groups(generation, slot) else {
            break;
        };
        search.group = groups.groups[i];
        if search.group == 0 {
            break;
        }
        gateway.ask_group(search);
        i += 1;
    }
    if matches!(search.verdict, PolicyVerdict::None) {
        let allows = gateway
            .port(generation, slot)
            .is_some_and(|port| port.flags & PORT_POLICY_ALLOW != 0);
        search.verdict = if allows {
            PolicyVerdict::Allow
        } else {
            PolicyVerdict::Deny
        };
    }
}
