//! Who may send from which IP address.

use crate::Addr;

/// Key of the map `port_ips`: an address of a port, or of the host, in a segment.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortIpKey {
    /// The address.
    pub addr: Addr,
    /// The segment.
    pub segment: u16,
    /// Generation.
    pub generation: u16,
}

/// Key of the map `learned_ips`: an address that somebody was leased in a segment.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LearnedIpKey {
    /// The address.
    pub addr: Addr,
    /// The segment.
    pub segment: u16,
    /// Always zero.
    pub reserved: u16,
}

/// Who was leased an address: a value of the map `learned_ips`, which no change of the
/// configuration replaces.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LearnedIp {
    /// The port's interface index: a slot may have become another interface's.
    pub ifindex: u32,
    /// When the lease ends, in seconds of CLOCK_MONOTONIC.
    pub expires_s: u32,
    /// The port.
    pub slot: u16,
    /// Always zero.
    pub reserved: u16,
}

/// Addresses that a port may be leased at a time, in both families; with one more the oldest goes.
pub const LEARNED_IPS: usize = 8;

/// The addresses that a port was leased, in the map `port_leases`, indexed by slot.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PortLeases {
    /// The addresses; one that is all zero is none.
    pub leases: [LearnedIpKey; LEARNED_IPS],
    /// The place of the next one.
    pub next: u32,
}

impl PortLeases {
    /// Puts an address in the next place and gives back what was there.
    #[inline(always)]
    pub fn swap(&mut self, key: LearnedIpKey) -> LearnedIpKey {
        const { assert!(LEARNED_IPS.is_power_of_two()) };
        // Bounded where it is used: the verifier wants to see it.
        let place = core::hint::black_box(self.next as usize) & (LEARNED_IPS - 1);
        self.next = self.next.wrapping_add(1);
        core::mem::replace(&mut self.leases[place], key)
    }
}

crate::pod!(PortIpKey, LearnedIpKey, LearnedIp, PortLeases);
const _: () = assert!(size_of::<PortIpKey>() == 20, "no padding");
const _: () = assert!(size_of::<LearnedIpKey>() == 20, "no padding");
const _: () = assert!(size_of::<LearnedIp>() == 12, "no padding");
const _: () = assert!(size_of::<PortLeases>() == 164, "no padding");
