//! What security groups have counted.

use std::collections::HashSet;

use anyhow::{Context as _, Result};
use vnet_common::{
    BucketRules, FlowRules, PolicyCounters, flow::FLOW_BUCKET, policy::POLICY_RULES,
};

use super::{batch::Batch, flows::Connection, mapped::Mapped, maps, pins::Pins};

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

/// Forgets what rules have counted that are not among `ids`: one that gets such an id begins with none.
///
/// # Errors
/// The map is not there, or the kernel refuses.
pub fn forget(pins: &Pins, ids: HashSet<u16>) -> Result<()> {
    const NAME: &str = "policy_counters";
    let counted = Batch::<PolicyCounters>::open(pins, NAME)?.read(0, POLICY_RULES as usize)?;
    let gone: HashSet<u16> = (0..)
        .zip(counted)
        .filter(|(id, counters)| *counters != PolicyCounters::default() && !ids.contains(id))
        .map(|(id, _)| id)
        .collect();
    if gone.is_empty() {
        return Ok(());
    }
    // First: a connection that ends counts for the rule that it has.
    take_from_connections(pins, &gone)?;
    let mut map = maps::array::<PolicyCounters>(pins, NAME)?;
    for id in gone {
        map.set(u32::from(id), PolicyCounters::default(), 0)
            .with_context(|| format!("writing to the map {NAME}"))?;
    }
    Ok(())
}

/// Has the connections that `rules` let through know them no longer.
fn take_from_connections(pins: &Pins, rules: &HashSet<u16>) -> Result<()> {
    let map = Mapped::<BucketRules>::open_to_change(pins, "flow_rules")?;
    for bucket in (0..map.len()).filter_map(|index| map.place(index)) {
        for place in 0..FLOW_BUCKET {
            // SAFETY: inside the bucket, whose rules are aligned half-words that the kernel side writes
            // too; it has no reason to write one of a rule that is gone.
            unsafe {
                let rule = (&raw mut (*bucket.as_ptr()).rules).cast::<u16>().add(place);
                if rules.contains(&rule.read_volatile()) {
                    rule.write_volatile(0);
                }
            }
        }
    }
    Ok(())
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
