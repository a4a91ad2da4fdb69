//! What security groups have counted.

use anyhow::{Context as _, Result};
use vnet_common::{BucketRules, FlowRules, PolicyCounters, flow::FLOW_BUCKET};

use super::{flows::Connection, mapped::Mapped, maps, pins::Pins};

/// Rules' counters, without what the connections that stand have carried.
pub fn counters(pins: &Pins, ids: &[u16]) -> Result<Vec<(u16, PolicyCounters)>> {
    let map = maps::array::<PolicyCounters>(pins, "policy_counters")?;
    ids.iter()
        .map(|id| {
            let counters = map
                .get(&u32::from(*id), 0)
                .with_context(|| format!("reading the counters of rule {id}"))?;
            Ok((*id, counters))
        })
        .collect()
}

/// Connections with the rules that let them through; those that no rule was asked about are left out.
pub fn rules_of(pins: &Pins, connections: Vec<Connection>) -> Result<Vec<(Connection, FlowRules)>> {
    let map = Mapped::<BucketRules>::open(pins, "flow_rules")?;
    let rule_of = |index: u32| {
        let index = index as usize;
        map.get(index / FLOW_BUCKET)
            .map_or(0, |bucket| bucket.rules[index % FLOW_BUCKET])
    };
    Ok(connections
        .into_iter()
        .filter_map(|connection| {
            let rules = FlowRules {
                out_rule: rule_of(connection.index),
                in_rule: rule_of(connection.first.peer),
            };
            (rules != FlowRules::default()).then_some((connection, rules))
        })
        .collect())
}
