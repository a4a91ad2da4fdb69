//! Everything that decisions are made from, and everything that they change besides the packet.
//!
//! Time comes through here too, so that tests own the clock.

use vnet_common::{
    Addr, DropReason, Event, FdbEntry, FdbKey, LearnedIp, LearnedIpKey, Mac, Member, NO_SLOT,
    PortConf, SegmentConf, SourceKey, StormKind, StormRate, SwitchConf, port::PORT_LEARN_IPS,
    switch::SWITCH_LEARNS,
};

use crate::fdb::Learned;

/// Of no translated network.
pub const UNGUARDED: u32 = u32::MAX;

/// What a decision may look at.
pub trait Tables {
    /// Switch-wide configuration; `None` while there is none.
    fn switch(&self) -> Option<&SwitchConf>;
    /// The port in `slot`.
    fn port(&self, generation: u32, slot: u16) -> Option<&PortConf>;
    /// The port with this interface.
    fn port_by_ifindex(&self, generation: u32, ifindex: u32) -> Option<&PortConf>;
    /// The segment that `vid` (1 to 4094) stands for on a port.
    fn tag_segment(&self, generation: u32, slot: u16, vid: u16) -> Option<u16>;
    /// The tag that `segment` has on a port; `Some(0)` is untagged, `None` not a member.
    fn segment_tag(&self, generation: u32, slot: u16, segment: u16) -> Option<u16>;
    /// Where the members of a segment are.
    fn segment(&self, generation: u32, segment: u16) -> Option<&SegmentConf>;
    /// A segment's member by its index.
    fn member(&self, generation: u32, index: u32) -> Option<Member>;
    /// Whether `mac` is on the switch's deny list.
    fn mac_denied(&self, generation: u32, mac: Mac) -> bool;
    /// Whether `mac` is on the port's list of allowed sources.
    fn mac_allowed(&self, generation: u32, slot: u16, mac: Mac) -> bool;
    /// Segment of the translated network that a source address belongs to, or [`UNGUARDED`]. A
    /// number and not an `Option`: the compiler would compute with the one that is not there, which
    /// the verifier refuses.
    fn guarded(&self, generation: u32, source: &Addr) -> u32;
    /// Slot of the port that has this address in a segment by configuration; [`NO_SLOT`] for none.
    fn port_ip(&self, generation: u32, segment: u16, addr: &Addr) -> u16;
    /// Who was leased this address in a segment, leases that are over included.
    fn learned_ip(&self, segment: u16, addr: &Addr) -> Option<LearnedIp>;
    /// Slot of the port that owns an address in a segment, configured or leased; [`NO_SLOT`] for none.
    /// The host's own addresses are owned by the ports that it is behind.
    #[inline(always)]
    fn ip_owner(&self, generation: u32, segment: u16, addr: &Addr) -> u16 {
        let owner = self.port_ip(generation, segment, addr);
        if owner != NO_SLOT || !self.learns(generation) {
            return owner;
        }
        let Some(learned) = self.learned_ip(segment, addr) else {
            return NO_SLOT;
        };
        match self.port(generation, learned.slot) {
            Some(port)
                if port.ifindex == learned.ifindex
                    && port.flags & PORT_LEARN_IPS != 0
                    && learned.expires_s > self.now_s() =>
            {
                learned.slot
            }
            _ => NO_SLOT,
        }
    }
    /// Whether there are ports whose addresses are those that they are leased.
    #[inline(always)]
    fn learns(&self, generation: u32) -> bool {
        self.switch().is_some_and(|conf| {
            // A choice and no index, which the verifier would have to see bounded.
            let flags = if generation & 1 == 0 {
                conf.flags[0]
            } else {
                conf.flags[1]
            };
            flags & SWITCH_LEARNS != 0
        })
    }
    /// Whether there may be banned sources.
    fn bans(&self) -> bool;
    /// When a source's ban ends, in seconds of CLOCK_MONOTONIC; 0 where it has none. A number and not an
    /// `Option`, as with [`Tables::guarded`].
    fn banned_until(&self, key: &SourceKey) -> u32;
    /// The FDB's entry, stale ones included.
    fn fdb_find(&self, key: FdbKey) -> Option<FdbEntry>;
    /// The device's MTU in bytes, as it is now; `None` when the device is gone.
    fn mtu(&self, ifindex: u32) -> Option<u32>;
    /// Gives back what it is given. In the kernel the compiler cannot see through it, so that values
    /// are read from memory again and the verifier, which follows every path with the values that
    /// it knows, knows them no longer: the paths meet.
    #[inline(always)]
    fn opaque<'a, X>(&self, x: &'a mut X) -> &'a mut X {
        x
    }
    /// Nanoseconds of CLOCK_MONOTONIC, a few milliseconds coarse.
    fn now_ns(&self) -> u64;
    /// Seconds of CLOCK_MONOTONIC.
    #[inline(always)]
    fn now_s(&self) -> u32 {
        (self.now_ns() / 1_000_000_000) as u32
    }
}

/// What booking a plan changes.
pub trait Effects: Tables {
    /// Counts a frame that came in from a port.
    fn count_rx(&self, slot: u16, packets: u32, bytes: u32);
    /// Counts a frame that went out to a port.
    fn count_tx(&self, slot: u16, packets: u32, bytes: u32);
    /// Counts a frame of an uplink that was left to the host's stack.
    fn count_to_host(&self, slot: u16, packets: u32);
    /// Counts a flooded frame.
    fn count_flooded(&self, slot: u16, packets: u32);
    /// Counts a dropped frame.
    fn count_drop(&self, slot: u16, reason: DropReason, packets: u32);
    /// Takes from a port's storm limit; false when it is exceeded.
    fn storm_take(&self, slot: u16, kind: StormKind, rate: StormRate, packets: u32) -> bool;
    /// Learns that `key` is behind `port` or refreshes it, under the table's and the port's limit.
    fn fdb_learn(&self, key: FdbKey, port: &PortConf, conf: &SwitchConf, now_s: u32) -> Learned;
    /// Refreshes a known address without a lock.
    fn fdb_touch(&self, key: FdbKey, now_s: u32);
    /// Counts an address that was not learned: the table is full, or else the port's limit.
    fn count_not_learned(&self, slot: u16, table_full: bool);
    /// Keeps who was leased an address, in place of what is known of it.
    fn lease_put(&self, key: &LearnedIpKey, learned: &LearnedIp);
    /// Forgets who was leased an address.
    fn lease_remove(&self, key: &LearnedIpKey);
    /// Puts an address in the next place of a port's and writes what was there to `oldest`; false
    /// where there is no such port.
    fn lease_swap(&self, slot: u16, key: &LearnedIpKey, oldest: &mut LearnedIpKey) -> bool;
    /// Remembers what a port asks a DHCP server.
    fn lease_ask(&self, slot: u16, transaction: u64);
    /// Whether a port has asked that lately.
    fn lease_asked(&self, slot: u16, transaction: u64) -> bool;
    /// Reports an event, within the kind's rate limit.
    fn report(&self, event: &Event);
}
