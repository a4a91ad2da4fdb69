//! Limits of sources, over maps.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
};

use vnet_common::{Attempts, Ban, BanPorts, BanRule, Source, SourceKey, limit::BAN_RULES};
use vnet_ebpf::{
    limit::{self, SourceSays},
    rate,
    tables::Tables as _,
};

use super::Machine;
use crate::setup::Setup;

/// Everything that is kept of sources.
#[derive(Default)]
pub(super) struct State {
    sources: RefCell<BTreeMap<SourceKey, Source>>,
    room: usize,
    attempts: RefCell<BTreeMap<SourceKey, Attempts>>,
    bans: RefCell<BTreeMap<SourceKey, Ban>>,
    banning: Cell<bool>,
    rules: [Vec<BanRule>; 2],
    ports: [BTreeMap<u32, BanPorts>; 2],
}

/// Ports of no rule.
static NO_PORTS: BanPorts = BanPorts { rules: [0; 64] };

impl State {
    pub(super) fn new(setup: &Setup) -> Self {
        Self {
            // As in `Sizes`.
            room: setup.sizes.flow_size.max(4096) as usize,
            ..Self::default()
        }
    }

    /// Fills a generation's rules.
    pub(super) fn publish(&mut self, setup: &Setup, generation: u32) {
        let image = &setup.image;
        self.rules[generation as usize] = (0..BAN_RULES)
            .map(|id| {
                image
                    .ban_rules
                    .get(&(id as u8))
                    .copied()
                    .unwrap_or_default()
            })
            .collect();
        self.ports[generation as usize].clone_from(&image.ban_ports);
    }

    /// The sources that have connections, and how many.
    pub(super) fn sources(&self) -> BTreeMap<SourceKey, u32> {
        let sources = self.sources.borrow();
        sources.iter().map(|(key, s)| (*key, s.flows)).collect()
    }

    /// The sources that are kept away, ended bans included.
    pub(super) fn banned(&self) -> BTreeMap<SourceKey, Ban> {
        self.bans.borrow().clone()
    }
}

impl Machine {
    pub(super) fn may_be_banned(&self) -> bool {
        self.limits.banning.get()
    }

    pub(super) fn ban_end(&self, key: &SourceKey) -> u32 {
        let bans = self.limits.bans.borrow();
        bans.get(key).map_or(0, |ban| ban.until_s)
    }

    pub(super) fn take_source(&self, key: &SourceKey, quota: u32, interval_ns: u32) -> SourceSays {
        let mut sources = self.limits.sources.borrow_mut();
        let Some(source) = sources.get_mut(key) else {
            return SourceSays::Yes;
        };
        if quota != 0 && source.flows >= quota {
            return SourceSays::TooMany;
        }
        if interval_ns != 0 {
            match rate::take(source.next_ns, self.now_ns(), interval_ns, 1) {
                Some(at) => source.next_ns = at,
                None => return SourceSays::TooFast,
            }
        }
        SourceSays::Yes
    }

    pub(super) fn hold_source(&self, key: &SourceKey, interval_ns: u32) -> bool {
        let mut sources = self.limits.sources.borrow_mut();
        if let Some(source) = sources.get_mut(key) {
            source.flows += 1;
            return true;
        }
        if sources.len() >= self.limits.room {
            return false;
        }
        let first = Source {
            next_ns: self.now_ns() + u64::from(interval_ns),
            flows: 1,
            reserved: 0,
        };
        sources.insert(*key, first);
        true
    }

    pub(super) fn release_source(&self, key: &SourceKey) {
        let mut sources = self.limits.sources.borrow_mut();
        let source = sources.get_mut(key).expect("what is given back was held");
        source.flows -= 1;
        if source.flows == 0 {
            sources.remove(key);
        }
    }

    pub(super) fn rules_of_ports(&self, generation: u32, place: u32) -> Option<&BanPorts> {
        let ports = &self.limits.ports[(generation & 1) as usize];
        Some(ports.get(&place).unwrap_or(&NO_PORTS))
    }

    pub(super) fn rule_that_bans(&self, generation: u32, id: u8) -> Option<&BanRule> {
        self.limits.rules[(generation & 1) as usize].get(usize::from(id))
    }

    pub(super) fn count_attempt(&self, key: &SourceKey, rule: &BanRule) -> bool {
        let mut attempts = self.limits.attempts.borrow_mut();
        let Some(known) = attempts.get_mut(key) else {
            let next_ns = self.now_ns() + rule.interval_ns;
            attempts.insert(*key, Attempts { next_ns });
            return true;
        };
        if let Some(at) = limit::take(rule, known.next_ns, self.now_ns()) {
            known.next_ns = at;
            return true;
        }
        attempts.remove(key);
        false
    }

    pub(super) fn keep_away(&self, key: &SourceKey, ban: &Ban) {
        self.limits.bans.borrow_mut().insert(*key, *ban);
        self.limits.banning.set(true);
    }
}
