//! Limits of sources in the tables: see [`vnet_common::limit`] for their shape.

use std::net::IpAddr;

use vnet_common::{
    BanPorts, NatMatchKey,
    flow::mapped,
    limit::{BAN_PORTS_EACH, BanRule},
    nat::{NAT_MATCH_HEAD_BITS, NatMatch},
    port::{PORT_POLICED, PORT_POLICY_ALLOW},
    switch::SWITCH_BANS,
};

use super::Image;
use crate::config::{self, Config, Prefix};

/// Nanoseconds of a second.
const SECOND_NS: u64 = 1_000_000_000;

/// Whether connections are counted: those of all VMs are in the flow table then.
fn counts(config: &Config) -> bool {
    let settings = &config.settings;
    settings.flow_rate != 0
        || settings.source_flow_rate != 0
        || settings.source_flow_quota != 0
        || !config.bans.is_empty()
}

/// `PORT_…` bits of a VM's port in no group: what is counted has to be followed.
pub(super) fn port_flags(config: &Config) -> u32 {
    if counts(config) {
        PORT_POLICED | PORT_POLICY_ALLOW
    } else {
        0
    }
}

/// Adds the rules that ban.
pub(super) fn add(image: &mut Image, config: &Config) {
    for rule in &config.bans {
        image.flags |= SWITCH_BANS;
        image.ban_rules.insert(rule.id, compiled(rule));
        for port in rule.ports.first..=rule.ports.last {
            let place = u32::from(port) / BAN_PORTS_EACH;
            let ports: &mut BanPorts = image.ban_ports.entry(place).or_default();
            ports.rules[usize::from(port) % BAN_PORTS_EACH as usize] = rule.id;
        }
        for Prefix(net) in &rule.except {
            let (addr, bits) = match net.network() {
                IpAddr::V4(v4) => (mapped(v4.octets()), 96 + u32::from(net.prefix_len())),
                IpAddr::V6(v6) => (v6.octets(), u32::from(net.prefix_len())),
            };
            let key = NatMatchKey {
                kind: NatMatch::NeverBanned as u8,
                scope_be: u16::from(rule.id).to_be_bytes(),
                addr,
                ..NatMatchKey::default()
            };
            image
                .nat_matches
                .insert((NAT_MATCH_HEAD_BITS + bits, key), 1);
        }
    }
}

fn compiled(rule: &config::BanRule) -> BanRule {
    let within_ns = u64::from(rule.within) * SECOND_NS;
    BanRule {
        interval_ns: within_ns / u64::from(rule.connections),
        within_ns,
        time_s: rule.time,
        reserved: 0,
    }
}
