//! Connections and what translation rules have done, as listings show them.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::Serialize;
use vnet_common::{
    Addr, FlowState, NatCounters,
    flow::{FLOW_INSIDE, KEY_BRIDGED},
};

use crate::compile;
use crate::config::{NatAction, PortRange, names::protocol_name};
use crate::datapath::flows::{self, Connection};
use crate::error::{Doing as _, Error};
use crate::host::kernel;
use crate::runtime::Session;

/// Which connections are meant; what is `None` does not matter.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FlowFilter {
    /// IP protocol number.
    pub proto: Option<u8>,
    /// The port of the VM.
    pub vm: Option<String>,
    /// A prefix that the other end is in.
    pub remote: Option<IpNet>,
    /// The translation rule that it follows.
    pub rule: Option<u16>,
}

/// One connection. Addresses and ports are those of the direction that was first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FlowRow {
    /// The protocol's name, or its number.
    pub proto: String,
    /// `routed`, by the gateway, or `bridged`, within a network.
    pub kind: &'static str,
    /// How far it is ([`vnet_common::FlowState::name`]).
    pub state: String,
    /// The port of the VM whose quota it counts against.
    pub vm: Option<String>,
    /// Source address as its packets come in.
    pub src: IpAddr,
    /// Source port as its packets come in.
    pub sport: u16,
    /// Destination address as its packets come in.
    pub dst: IpAddr,
    /// Destination port as its packets come in.
    pub dport: u16,
    /// Source address as they leave.
    pub nat_src: IpAddr,
    /// Source port as they leave.
    pub nat_sport: u16,
    /// Destination address as they leave.
    pub nat_dst: IpAddr,
    /// Destination port as they leave.
    pub nat_dport: u16,
    /// Seconds since it began.
    pub age_s: u32,
    /// Seconds until it ends if no packet comes.
    pub timeout_s: u32,
    /// Packets of the first direction.
    pub packets: u64,
    /// Bytes of the first direction.
    pub bytes: u64,
    /// Packets of the other direction.
    pub reply_packets: u64,
    /// Bytes of the other direction.
    pub reply_bytes: u64,
    /// The translation rule that it follows.
    pub rule: Option<u16>,
}

/// What a translation rule has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct NatUsage {
    /// Connections that it was applied to.
    pub hits: u64,
    /// Those of them that there are.
    pub flows: u64,
    /// External ports in use.
    pub ports_used: u64,
    /// External ports left, where it has a number of them.
    pub ports_free: Option<u64>,
    /// Connections refused because no external port was free.
    pub exhausted: u64,
}

impl Session {
    /// The connections that `filter` means, the oldest first.
    ///
    /// # Errors
    /// The switch is not up.
    pub fn flows(&self, filter: &FlowFilter) -> Result<Vec<FlowRow>, Error> {
        let doing = "listing connections";
        let slots = &self.need_up(doing)?.slots;
        let conf = flows::conf(self.pins()).doing(|| doing.into())?;
        let now_s = kernel::monotonic_s() as u32;
        let mut rows: Vec<FlowRow> = self
            .connections(filter, doing)?
            .iter()
            .filter_map(|connection| {
                let left_s = connection.left_s(&conf.timeouts, now_s)?;
                Some(row(connection, slots, now_s, left_s))
            })
            .collect();
        rows.sort_by_key(|row| std::cmp::Reverse(row.age_s));
        Ok(rows)
    }

    /// Ends the connections that `filter` means; returns how many.
    ///
    /// # Errors
    /// The switch is not up.
    pub fn flow_flush(&mut self, filter: &FlowFilter) -> Result<u64, Error> {
        let doing = "ending connections";
        self.need_up(doing)?;
        let _lock = self.store().lock()?;
        let found = self.connections(filter, doing)?;
        flows::delete(self.pins(), &found).doing(|| doing.into())
    }

    /// What each translation rule has done, by id.
    ///
    /// # Errors
    /// The switch is not up.
    pub fn nat_usage(&self) -> Result<BTreeMap<u16, NatUsage>, Error> {
        let doing = "reading the counters of translation rules";
        self.need_up(doing)?;
        let rules = self.store().load()?.unwrap_or_default().nat;
        let ids: Vec<u16> = rules.iter().map(|rule| rule.id).collect();
        let counters = flows::rule_counters(self.pins(), &ids).doing(|| doing.into())?;
        Ok(rules
            .iter()
            .zip(counters)
            .map(|(rule, (id, counters))| (id, usage(&rule.action, &counters)))
            .collect())
    }

    /// The connections that `filter` means, expired ones included.
    fn connections(&self, filter: &FlowFilter, doing: &str) -> Result<Vec<Connection>, Error> {
        let slots = &self.need_up(doing)?.slots;
        let mut found = flows::read(self.pins()).doing(|| doing.into())?;
        found.retain(|connection| is_meant(connection, filter, slots));
        Ok(found)
    }
}

/// Names and kinds of ports by slot.
type Slots = BTreeMap<u16, (String, String)>;

fn vm(connection: &Connection, slots: &Slots) -> Option<String> {
    let (name, _) = slots.get(&connection.first.owner)?;
    Some(name.clone())
}

fn is_meant(connection: &Connection, filter: &FlowFilter, slots: &Slots) -> bool {
    let first = &connection.first;
    // The end that is not the VM's.
    let remote = if first.flags & FLOW_INSIDE != 0 {
        first.key.dst
    } else {
        first.key.src
    };
    filter.proto.is_none_or(|proto| proto == first.key.proto)
        && filter.rule.is_none_or(|rule| rule == first.rule)
        && filter
            .remote
            .is_none_or(|net| net.contains(&address(&remote)))
        && filter
            .vm
            .as_ref()
            .is_none_or(|name| vm(connection, slots).as_ref() == Some(name))
}

fn row(connection: &Connection, slots: &Slots, now_s: u32, left_s: u32) -> FlowRow {
    let Connection { first, reply, .. } = connection;
    let state = FlowState::by_number(first.state).unwrap_or_default();
    FlowRow {
        proto: protocol_name(first.key.proto),
        kind: if first.key.kind == KEY_BRIDGED {
            "bridged"
        } else {
            "routed"
        },
        state: state.name().into(),
        vm: vm(connection, slots),
        src: address(&first.key.src),
        sport: first.key.sport,
        dst: address(&first.key.dst),
        dport: first.key.dport,
        // What comes back is what went out, turned round.
        nat_src: address(&reply.key.dst),
        nat_sport: reply.key.dport,
        nat_dst: address(&reply.key.src),
        nat_dport: reply.key.sport,
        age_s: now_s.saturating_sub(first.created_s),
        timeout_s: left_s,
        packets: first.packets,
        bytes: first.bytes,
        reply_packets: reply.packets,
        reply_bytes: reply.bytes,
        rule: (first.rule != 0).then_some(first.rule),
    }
}

/// An address as people write it: one that stands for an IPv4 address is that.
#[must_use]
pub fn address(addr: &Addr) -> IpAddr {
    IpAddr::from(*addr).to_canonical()
}

/// One end of a connection; protocols without ports have 0 for both.
#[must_use]
pub fn end(addr: IpAddr, port: u16) -> String {
    match (addr, port) {
        (addr, 0) => addr.to_string(),
        (IpAddr::V4(addr), port) => format!("{addr}:{port}"),
        (IpAddr::V6(addr), port) => format!("[{addr}]:{port}"),
    }
}

fn usage(action: &NatAction, counters: &NatCounters) -> NatUsage {
    let ports_used = counters.ports_taken.saturating_sub(counters.ports_released);
    NatUsage {
        hits: counters.hits,
        flows: counters.hits.saturating_sub(counters.ended),
        ports_used,
        ports_free: room(action).map(|room| room.saturating_sub(ports_used)),
        exhausted: counters.exhausted,
    }
}

/// External ports that a rule has for one protocol.
fn room(action: &NatAction) -> Option<u64> {
    let (options, addresses) = match action {
        NatAction::Masquerade { options, .. } => (options, 1),
        NatAction::Snat { options, to, .. } => (options, compile::addresses(to)),
        NatAction::Dnat { .. } | NatAction::Static { .. } => return None,
    };
    let ports = options.ports.unwrap_or(PortRange::EXTERNAL).count();
    Some(u64::from(addresses) * u64::from(ports))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{AddrRange, NatOptions};
    use vnet_common::{
        FlowEntry, FlowKey, FlowTimeouts,
        flow::{FLOW_REPLY, mapped},
    };

    /// 10.0.0.2:4000 behind slot 3 to 192.0.2.80:80, leaving as 198.51.100.1:5000 by rule 1.
    fn connection() -> Connection {
        let key = FlowKey {
            src: mapped([10, 0, 0, 2]),
            dst: mapped([192, 0, 2, 80]),
            sport: 4000,
            dport: 80,
            proto: 6,
            ..FlowKey::default()
        };
        let first = FlowEntry {
            key,
            packets: 5,
            bytes: 400,
            seen_s: 100,
            created_s: 60,
            owner: 3,
            rule: 1,
            state: FlowState::Established as u8,
            flags: FLOW_INSIDE,
            ..FlowEntry::default()
        };
        let reply = FlowEntry {
            key: FlowKey {
                src: key.dst,
                dst: mapped([198, 51, 100, 1]),
                sport: 80,
                dport: 5000,
                ..key
            },
            packets: 4,
            bytes: 5000,
            seen_s: 110,
            flags: FLOW_REPLY,
            ..first
        };
        Connection {
            index: 8,
            tag: 77,
            first,
            reply,
        }
    }

    fn slots() -> Slots {
        Slots::from([(3, ("tap0".into(), "vm".into()))])
    }

    #[test]
    fn a_connection_is_shown_with_what_becomes_of_it() {
        let row = row(&connection(), &slots(), 120, 7430);
        let ends = [
            (row.src, row.sport),
            (row.dst, row.dport),
            (row.nat_src, row.nat_sport),
            (row.nat_dst, row.nat_dport),
        ]
        .map(|(addr, port)| format!("{addr}:{port}"));
        assert_eq!(
            ends,
            [
                "10.0.0.2:4000",
                "192.0.2.80:80",
                "198.51.100.1:5000",
                "192.0.2.80:80"
            ]
        );
        assert_eq!(
            (row.proto.as_str(), row.kind, row.state.as_str()),
            ("tcp", "routed", "established")
        );
        assert_eq!((row.vm.as_deref(), row.rule), (Some("tap0"), Some(1)));
        assert_eq!((row.age_s, row.timeout_s), (60, 7430));
        assert_eq!((row.packets, row.reply_packets), (5, 4));
    }

    #[test]
    fn a_connection_within_a_network_is_told_from_one_of_the_gateway() {
        let mut connection = connection();
        connection.first.key.kind = KEY_BRIDGED;
        assert_eq!(row(&connection, &slots(), 120, 7430).kind, "bridged");
    }

    #[test]
    fn a_connection_lives_from_the_last_packet_of_either_direction() {
        let timeouts = FlowTimeouts {
            tcp_established: 50,
            ..FlowTimeouts::default()
        };
        let connection = connection();
        assert_eq!(connection.left_s(&timeouts, 120), Some(40));
        assert_eq!(connection.left_s(&timeouts, 160), Some(0));
        assert_eq!(connection.left_s(&timeouts, 161), None);
        // The clock was read before the packet came.
        assert_eq!(connection.left_s(&timeouts, 109), Some(50));
    }

    #[test]
    fn filters() {
        let is_meant = |filter: &FlowFilter| is_meant(&connection(), filter, &slots());
        let all = FlowFilter::default();
        assert!(is_meant(&all));
        for (proto, meant) in [(6, true), (17, false)] {
            let proto = Some(proto);
            assert_eq!(
                is_meant(&FlowFilter {
                    proto,
                    ..all.clone()
                }),
                meant
            );
        }
        for (vm, meant) in [("tap0", true), ("tap1", false)] {
            let vm = Some(vm.to_owned());
            assert_eq!(is_meant(&FlowFilter { vm, ..all.clone() }), meant);
        }
        for (net, meant) in [
            ("192.0.2.0/24", true),
            ("10.0.0.0/8", false),
            ("::/0", false),
        ] {
            let remote = Some(net.parse().unwrap());
            assert_eq!(
                is_meant(&FlowFilter {
                    remote,
                    ..all.clone()
                }),
                meant,
                "{net}"
            );
        }
        for (rule, meant) in [(1, true), (2, false)] {
            let rule = Some(rule);
            assert_eq!(
                is_meant(&FlowFilter {
                    rule,
                    ..all.clone()
                }),
                meant
            );
        }
    }

    #[test]
    fn a_rule_has_the_ports_of_its_pool() {
        let action = NatAction::Snat {
            source: "10.0.0.0/24".parse().unwrap(),
            to: AddrRange {
                first: [192, 0, 2, 10].into(),
                last: [192, 0, 2, 12].into(),
            },
            uplink: "eth0".into(),
            options: NatOptions {
                ports: Some(PortRange {
                    first: 5000,
                    last: 5999,
                }),
                ..NatOptions::default()
            },
        };
        let counters = NatCounters {
            hits: 12,
            ended: 4,
            ports_taken: 10,
            ports_released: 3,
            exhausted: 2,
        };
        let found = usage(&action, &counters);
        assert_eq!((found.hits, found.flows, found.exhausted), (12, 8, 2));
        assert_eq!((found.ports_used, found.ports_free), (7, Some(2993)));
    }
}
