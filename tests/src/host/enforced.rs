//! The tables that the datapath decides by, read back: those of the generation in force. Ports are
//! told apart by the names of their interfaces: indices and slots are others when an interface was
//! made anew.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Debug,
    path::Path,
};

use aya::Pod;
use serde_json::Value;
use vnet_common::{
    MacDenyKey, Member, NatMatchKey, NatRule, PortConf, PortMacKey, PortSegmentKey, PortTagKey,
    SEGMENTS, SegmentConf, SwitchConf, nat::NAT_RULES,
};
use vnet_user::datapath::{
    maps::{self, PortAliasKey},
    pins::Pins,
};

use super::{BPFFS, Host};

/// Everything of a configuration that the datapath looks up, a line each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Enforced(BTreeSet<String>);

impl Enforced {
    /// What the two do not have in common.
    #[must_use]
    pub fn difference(&self, other: &Self) -> Vec<String> {
        self.0.symmetric_difference(&other.0).cloned().collect()
    }
}

impl Host {
    /// The tables in force.
    ///
    /// # Panics
    /// When the switch is down.
    #[track_caller]
    #[must_use]
    pub fn enforced(&self) -> Enforced {
        let pins = Pins::new(Path::new(BPFFS), self.switch());
        let conf = maps::array::<SwitchConf>(&pins, "switch_conf")
            .and_then(|conf| Ok(conf.get(&0, 0)?))
            .unwrap();
        let generation = conf.generation & 1;
        let this = generation as usize;
        let mut lines = BTreeSet::from([format!(
            "switch {:?}",
            SwitchConf {
                generation: 0,
                epoch: 0,
                // The other generation's half is none of this one's.
                denied_macs: [conf.denied_macs[this]; 2],
                flags: [conf.flags[this]; 2],
                ..conf
            }
        )]);
        let mut add = |name: &str, what: &dyn Debug| {
            lines.insert(format!("{name} {what:?}"));
        };

        let interfaces = self.interface_names();
        let name = |index: u32| match interfaces.get(&index) {
            Some(name) => name.clone(),
            None => format!("the interface {index}, which is gone"),
        };
        let ports = half::<PortConf>(&pins, "ports", generation);
        let at = |slot: u16| name(ports[usize::from(slot)].ifindex);
        for port in ports.iter().filter(|port| port.ifindex != 0) {
            let peer = (port.peer_slot != 0).then(|| at(port.peer_slot));
            let conf = PortConf {
                ifindex: 0,
                slot: 0,
                peer_slot: 0,
                ..*port
            };
            add("port", &(name(port.ifindex), peer, conf));
        }
        let segments = half::<SegmentConf>(&pins, "segment_conf", generation);
        assert_eq!(segments.len(), SEGMENTS as usize);
        let members = maps::array::<Member>(&pins, "members").unwrap();
        let first_member = generation * members.len() / 2;
        for (number, segment) in segments.iter().enumerate() {
            let first = first_member + segment.first_member;
            let own: Vec<_> = (first..first + segment.member_count)
                .map(|index| members.get(&index, 0).unwrap())
                .map(|member| (at(member.slot), member.vid))
                .collect();
            if !own.is_empty() {
                add("segment", &(number, segment.mtu, own));
            }
        }
        let rules = half::<NatRule>(&pins, "nat_rules", generation);
        assert_eq!(rules.len(), NAT_RULES as usize);
        for rule in rules {
            add("rule", &rule);
        }
        for (key, slot) in hash::<PortAliasKey>(&pins, "port_aliases") {
            if key.generation == generation {
                add("alias", &(name(key.ifindex), at(slot as u16)));
            }
        }
        for (key, segment) in hash::<PortTagKey>(&pins, "port_tags") {
            if key.generation == generation {
                add("tag", &(at(key.slot), key.vid, segment));
            }
        }
        for (key, vid) in hash::<PortSegmentKey>(&pins, "port_segments") {
            if key.generation == generation {
                add("carries", &(at(key.slot), key.segment, vid));
            }
        }
        for (key, _) in hash::<MacDenyKey>(&pins, "mac_deny") {
            if u32::from(key.generation) == generation {
                add("denied", &key.mac);
            }
        }
        for (key, _) in hash::<PortMacKey>(&pins, "mac_allow") {
            if key.generation == generation {
                add("allowed", &(at(key.slot), key.mac));
            }
        }
        let matches = maps::lpm_trie::<NatMatchKey, u32>(&pins, "nat_match").unwrap();
        for entry in matches.iter() {
            let (key, value) = entry.unwrap();
            let (bits, key) = (key.prefix_len(), key.data());
            if u32::from(key.generation) == generation {
                let key = NatMatchKey {
                    generation: 0,
                    ..key
                };
                add("match", &(bits, key, value));
            }
        }
        Enforced(lines)
    }
}

impl Host {
    /// The interfaces that there are, by index.
    fn interface_names(&self) -> BTreeMap<u32, String> {
        let links: Vec<Value> = serde_json::from_str(&self.ip("-j link show")).unwrap();
        let links = links.iter().filter_map(|link| {
            let index = u32::try_from(link["ifindex"].as_u64()?).ok()?;
            Some((index, link["ifname"].as_str()?.to_owned()))
        });
        links.collect()
    }
}

/// A generation's half of an array.
fn half<V: Pod>(pins: &Pins, name: &str, generation: u32) -> Vec<V> {
    let array = maps::array::<V>(pins, name).unwrap();
    let half = array.len() / 2;
    let all = (generation * half..).take(half as usize);
    all.map(|index| array.get(&index, 0).unwrap()).collect()
}

fn hash<K: Pod>(pins: &Pins, name: &str) -> Vec<(K, u32)> {
    let map = maps::hash::<K, u32>(pins, name).unwrap();
    map.iter().collect::<Result<_, _>>().unwrap()
}
