//! Security groups in the tables: see [`vnet_common::policy`] for their shape.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use vnet_common::{
    Addr, PolicyMatchKey, PolicyNode, PolicyRange, PolicyVerdict, PortGroups,
    flow::mapped,
    policy::{
        GROUP_NAMES_GROUPS, NO_RANK, POLICY_MATCH_HEAD_BITS, PORT_GROUPS, PolicyMatch, group_addr,
    },
    port::{PORT_POLICED, PORT_POLICY_ALLOW},
    switch::SWITCH_POLICY,
};

use super::{Image, limit};
use crate::config::{
    Config, Direction, Group, GroupDefault, PolicyAction, PolicyRule, Port, Remote,
};

/// `PORT_…` bits of a port in these groups.
pub(super) fn port_flags(config: &Config, port: &Port) -> u32 {
    let mut groups = port.groups.iter().filter_map(|name| config.group(name));
    if port.groups.is_empty() {
        limit::port_flags(config)
    } else if groups.all(|group| group.default == GroupDefault::Allow) {
        PORT_POLICED | PORT_POLICY_ALLOW
    } else {
        PORT_POLICED
    }
}

/// The number of a group: its place in the document, from 1 on.
fn number(config: &Config, name: &str) -> Option<u16> {
    let place = config.groups.iter().position(|group| group.name == name)?;
    u16::try_from(place + 1).ok()
}

/// Adds what ports' groups are asked by. `ports` are those of VMs, by slot.
pub(super) fn add(image: &mut Image, config: &Config, ports: &BTreeMap<u16, Vec<String>>) {
    let mut asked = BTreeSet::new();
    for (slot, names) in ports.iter().filter(|(_, names)| !names.is_empty()) {
        let mut groups = PortGroups::default();
        for (place, name) in groups.groups.iter_mut().zip(names) {
            let (Some(group), Some(number)) = (config.group(name), number(config, name)) else {
                continue;
            };
            let names_groups = group
                .rules
                .iter()
                .any(|rule| matches!(rule.remote, Some(Remote::Group(_))));
            *place = if names_groups {
                number | GROUP_NAMES_GROUPS
            } else {
                number
            };
            asked.insert((number, name));
        }
        debug_assert!(names.len() <= PORT_GROUPS, "validated");
        image.port_groups.insert(*slot, groups);
    }
    if asked.is_empty() {
        return;
    }
    image.flags |= SWITCH_POLICY;
    // Number 0 is none.
    image.policy_nodes.push(PolicyNode::default());
    for (number, name) in asked {
        let Some(group) = config.group(name) else {
            continue;
        };
        for direction in [Direction::In, Direction::Out] {
            let scope = number << 1 | u16::from(direction == Direction::Out);
            add_side(image, config, group, direction, scope);
        }
    }
}

/// Adds one direction of a group.
fn add_side(image: &mut Image, config: &Config, group: &Group, direction: Direction, scope: u16) {
    let mut any: Vec<&PolicyRule> = Vec::new();
    let mut v4 = Prefixes::new();
    let mut v6 = Prefixes::new();
    let mut groups: BTreeMap<u16, Vec<&PolicyRule>> = BTreeMap::new();
    for rule in group
        .rules
        .iter()
        .filter(|rule| rule.direction == direction)
    {
        match &rule.remote {
            None => any.push(rule),
            Some(Remote::Net(net)) => {
                let family = if net.addr().is_ipv4() {
                    &mut v4
                } else {
                    &mut v6
                };
                family.entry(prefix(net)).or_default().push(rule);
            }
            Some(Remote::Group(name)) => {
                if let Some(number) = number(config, name) {
                    groups.entry(number).or_default().push(rule);
                }
            }
        }
    }
    let key = |kind: PolicyMatch, addr: Addr| PolicyMatchKey {
        generation: 0,
        kind: kind as u8,
        scope_be: scope.to_be_bytes(),
        addr,
    };
    const WHOLE: u32 = POLICY_MATCH_HEAD_BITS + 128;
    let mut any_node = 0;
    if !any.is_empty() {
        any_node = add_node(image, 0, &any);
        let frames = key(PolicyMatch::NotIp, [0; 16]);
        image.policy_matches.insert((WHOLE, frames), any_node);
        for family in [PolicyMatch::V4, PolicyMatch::V6] {
            let all = key(family, [0; 16]);
            image
                .policy_matches
                .insert((POLICY_MATCH_HEAD_BITS, all), any_node);
        }
    }
    for (family, prefixes) in [(PolicyMatch::V4, v4), (PolicyMatch::V6, v6)] {
        // The prefixes around the one under way, the shortest first: they come in the order of their
        // addresses, and of equal ones the shorter first.
        let mut around: Vec<(u128, u8, u32)> = Vec::new();
        for ((addr, bits), rules) in prefixes {
            while around
                .last()
                .is_some_and(|(outer, len, _)| (outer ^ addr) & mask(*len) != 0)
            {
                around.pop();
            }
            let parent = around.last().map_or(any_node, |(.., node)| *node);
            let node = add_node(image, parent, &rules);
            around.push((addr, bits, node));
            let bits = POLICY_MATCH_HEAD_BITS + u32::from(bits);
            let matched = key(family, addr.to_be_bytes());
            image.policy_matches.insert((bits, matched), node);
        }
    }
    for (number, rules) in groups {
        let node = add_node(image, 0, &rules);
        let matched = key(PolicyMatch::Group, group_addr(number));
        image.policy_matches.insert((WHOLE, matched), node);
    }
}

/// Rules by the prefix of the other end: its address and length.
type Prefixes<'a> = BTreeMap<(u128, u8), Vec<&'a PolicyRule>>;

/// Adds a node with these rules; its number.
fn add_node(image: &mut Image, parent: u32, rules: &[&PolicyRule]) -> u32 {
    let ranges = ranges(rules);
    let node = image.policy_nodes.len() as u32;
    image.policy_nodes.push(PolicyNode {
        parent,
        first: image.policy_ranges.len() as u32,
        count: ranges.len() as u32,
    });
    image.policy_ranges.extend(ranges);
    node
}

/// The rules spread out over protocol and port: of those that meet a packet the one with the lowest
/// rank.
fn ranges(rules: &[&PolicyRule]) -> Vec<PolicyRange> {
    // Where each begins and where it is over.
    let mut changes: BTreeMap<u64, Vec<(bool, u32)>> = BTreeMap::new();
    let mut said: BTreeMap<u32, PolicyRange> = BTreeMap::new();
    for rule in rules {
        let rank = u32::from(rule.priority) << 16 | u32::from(rule.id);
        let (first, last) = extent(rule);
        let over = u64::from(last) + 1;
        changes.entry(first.into()).or_default().push((true, rank));
        changes.entry(over).or_default().push((false, rank));
        said.insert(
            rank,
            PolicyRange {
                start: 0,
                rank,
                verdict: match rule.action {
                    PolicyAction::Allow => PolicyVerdict::Allow,
                    PolicyAction::Deny => PolicyVerdict::Deny,
                    PolicyAction::Reject => PolicyVerdict::Reject,
                },
                log: u8::from(rule.log),
                reserved: 0,
            },
        );
    }
    let nothing = PolicyRange {
        rank: NO_RANK,
        ..PolicyRange::default()
    };
    let mut ranges = vec![nothing];
    let mut meeting = BTreeSet::new();
    for (at, changes) in changes {
        for (begins, rank) in changes {
            if begins {
                meeting.insert(rank);
            } else {
                meeting.remove(&rank);
            }
        }
        // Past the last one nothing comes.
        let Ok(start) = u32::try_from(at) else {
            break;
        };
        let best = meeting.first().and_then(|rank| said.get(rank));
        let range = PolicyRange {
            start,
            ..*best.unwrap_or(&nothing)
        };
        let last = ranges.last_mut().expect("it begins with one");
        if last.start == start {
            *last = range;
        } else if last.rank != range.rank {
            ranges.push(range);
        }
    }
    ranges
}

/// What a rule is for: protocol times 65,536 and port, the first and the last.
fn extent(rule: &PolicyRule) -> (u32, u32) {
    let Some(proto) = rule.proto else {
        return (0, u32::MAX);
    };
    let base = u32::from(proto.0) << 16;
    match rule.ports {
        Some(ports) => (base | u32::from(ports.first), base | u32::from(ports.last)),
        None => (base, base | 0xffff),
    }
}

/// A prefix as the tables know it: IPv4 addresses are mapped ones.
fn prefix(net: &IpNet) -> (u128, u8) {
    match net.network() {
        IpAddr::V4(v4) => (
            u128::from_be_bytes(mapped(v4.octets())),
            96 + net.prefix_len(),
        ),
        IpAddr::V6(v6) => (v6.to_bits(), net.prefix_len()),
    }
}

/// The first `bits` bits.
fn mask(bits: u8) -> u128 {
    u128::MAX.checked_shl(128 - u32::from(bits)).unwrap_or(0)
}
