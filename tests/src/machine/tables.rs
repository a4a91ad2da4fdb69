//! What the pipeline looks at.

use vnet_common::{
    Addr, FdbEntry, FdbKey, LearnedIp, LearnedIpKey, Mac, MacDenyKey, Member, NO_SLOT, NatMatchKey,
    PortConf, PortIpKey, PortKind, PortMacKey, PortSegmentKey, PortTagKey, SEGMENTS, SegmentConf,
    SourceKey, SwitchConf, nat::NatMatch,
};
use vnet_ebpf::{
    fdb::{self, Home},
    gateway::Gateway as _,
    tables::{Tables, UNGUARDED},
};

use super::Machine;

impl Machine {
    fn conf(&self, generation: u32, index: u32) -> Option<&PortConf> {
        self.ports
            .get((generation * self.max_ports + index) as usize)
    }
}

impl Tables for Machine {
    fn switch(&self) -> Option<&SwitchConf> {
        Some(&self.conf)
    }

    fn port(&self, generation: u32, slot: u16) -> Option<&PortConf> {
        self.conf(generation, u32::from(slot))
    }

    fn port_by_ifindex(&self, generation: u32, ifindex: u32) -> Option<&PortConf> {
        let own = self.conf(generation, ifindex & (self.max_ports - 1))?;
        if own.ifindex == ifindex && own.kind != PortKind::UplinkHost {
            return Some(own);
        }
        let slot = self.aliases.get(&(generation, ifindex))?;
        self.port(generation, *slot)
            .filter(|port| port.ifindex == ifindex)
    }

    fn tag_segment(&self, generation: u32, slot: u16, vid: u16) -> Option<u16> {
        let key = PortTagKey {
            generation,
            slot,
            vid,
        };
        self.tags.get(&key).copied()
    }

    fn segment_tag(&self, generation: u32, slot: u16, segment: u16) -> Option<u16> {
        let key = PortSegmentKey {
            generation,
            slot,
            segment,
        };
        self.port_segments.get(&key).copied()
    }

    fn segment(&self, generation: u32, segment: u16) -> Option<&SegmentConf> {
        self.segments
            .get((generation * SEGMENTS + u32::from(segment)) as usize)
    }

    fn member(&self, generation: u32, index: u32) -> Option<Member> {
        self.members
            .get((generation * self.max_members + index) as usize)
            .copied()
    }

    fn mac_denied(&self, generation: u32, mac: Mac) -> bool {
        let generation = generation as u16;
        self.mac_deny.contains_key(&MacDenyKey { mac, generation })
    }

    fn mac_allowed(&self, generation: u32, slot: u16, mac: Mac) -> bool {
        let key = PortMacKey {
            mac,
            slot,
            generation,
        };
        self.mac_allow.contains_key(&key)
    }

    fn guarded(&self, generation: u32, source: &Addr) -> u32 {
        let key = NatMatchKey {
            generation: generation as u8,
            kind: NatMatch::Guard as u8,
            addr: *source,
            ..NatMatchKey::default()
        };
        self.nat_match(&key).unwrap_or(UNGUARDED)
    }

    fn port_ip(&self, generation: u32, segment: u16, addr: &Addr) -> u16 {
        let key = PortIpKey {
            addr: *addr,
            segment,
            generation: generation as u16,
        };
        self.port_ips.get(&key).copied().unwrap_or(NO_SLOT)
    }

    fn learned_ip(&self, segment: u16, addr: &Addr) -> Option<LearnedIp> {
        let key = LearnedIpKey {
            addr: *addr,
            segment,
            reserved: 0,
        };
        self.learned_ips.borrow().get(&key).copied()
    }

    fn fdb_find(&self, key: FdbKey) -> Option<FdbEntry> {
        match fdb::find_home(self, key) {
            Home::Found(entry) => Some(entry),
            Home::Absent => None,
            Home::Overflowed => fdb::find(self, key),
        }
    }

    fn bans(&self) -> bool {
        self.may_be_banned()
    }

    fn banned_until(&self, key: &SourceKey) -> u32 {
        self.ban_end(key)
    }

    fn mtu(&self, ifindex: u32) -> Option<u32> {
        self.devices.get(&ifindex).map(|(mtu, _)| *mtu)
    }

    fn now_ns(&self) -> u64 {
        self.now_ns.get()
    }
}
