//! What rules of security groups have done, as listings show it.

use std::collections::BTreeMap;

use serde::Serialize;
use vnet_common::FlowRules;

use crate::datapath::flows::{self, Connection};
use crate::datapath::policy;
use crate::error::{Doing as _, Error};
use crate::runtime::Session;

/// What a rule has done since the switch came up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct PolicyUsage {
    /// Packets that it dropped, or those of the connections that it let through, in both directions.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Connections that it let through.
    pub flows: u64,
}

impl Session {
    /// What each of these rules has done, by id.
    ///
    /// # Errors
    /// The switch is not up.
    pub fn policy_usage(&self, ids: &[u16]) -> Result<BTreeMap<u16, PolicyUsage>, Error> {
        let doing = "reading the counters of security groups";
        self.need_up(doing)?;
        let read = || {
            // In this order: what ends meanwhile is missing for once, rather than there twice.
            let ended = policy::counters(self.pins(), ids)?;
            let live = policy::rules_of(self.pins(), flows::read(self.pins())?)?;
            anyhow::Ok((ended, live))
        };
        let (ended, live) = read().doing(|| doing.into())?;
        let mut usage: BTreeMap<u16, PolicyUsage> = ended
            .into_iter()
            .map(|(id, ended)| {
                let usage = PolicyUsage {
                    packets: ended.packets,
                    bytes: ended.bytes,
                    flows: ended.flows,
                };
                (id, usage)
            })
            .collect();
        add_live(&mut usage, &live);
        Ok(usage)
    }
}

/// Adds what connections that stand have carried to the rules that let them through: one out of a VM,
/// and one in to another.
fn add_live(usage: &mut BTreeMap<u16, PolicyUsage>, live: &[(Connection, FlowRules)]) {
    for (connection, rules) in live {
        let Connection { first, reply, .. } = connection;
        for rule in [rules.out_rule, rules.in_rule] {
            if let Some(usage) = usage.get_mut(&rule) {
                usage.packets += first.packets + reply.packets;
                usage.bytes += first.bytes + reply.bytes;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vnet_common::FlowEntry;

    #[test]
    fn what_a_connection_carried_counts_for_both_of_its_rules() {
        let entry = |packets, bytes| FlowEntry {
            packets,
            bytes,
            ..FlowEntry::default()
        };
        let connection = Connection {
            index: 8,
            tag: 77,
            first: entry(5, 400),
            reply: entry(4, 5000),
        };
        let rules = |out_rule, in_rule| (connection, FlowRules { out_rule, in_rule });
        let mut usage = BTreeMap::from([(1, PolicyUsage::default()), (2, PolicyUsage::default())]);
        // Rule 3 is another group's, which is not asked for.
        add_live(&mut usage, &[rules(1, 2), rules(0, 2), rules(3, 0)]);
        let packets_and_bytes = |id| (usage[&id].packets, usage[&id].bytes);
        assert_eq!(packets_and_bytes(1), (9, 5400));
        assert_eq!(packets_and_bytes(2), (18, 10_800));
        assert_eq!(usage.len(), 2);
    }
}
