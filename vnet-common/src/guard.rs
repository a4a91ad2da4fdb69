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

/// What a port has asked DHCP servers lately and is remembered: answers to anything else lease nothing.
pub const LEASES_ASKED: usize = 4;

/// The transaction of a message of DHCP (RFC 2131, 2), host order, as [`PortLeases`] has it.
#[inline(always)]
#[must_use]
pub const fn transaction_v4(id: u32) -> u64 {
    4 << 32 | id as u64
}

/// The transaction of a message of DHCPv6 (RFC 8415, 8), of 24 bits, host order, as [`PortLeases`] has it.
#[inline(always)]
#[must_use]
pub const fn transaction_v6(id: u32) -> u64 {
    6 << 32 | id as u64
}

/// The addresses that a port was leased, in the map `port_leases`, indexed by slot.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PortLeases {
    /// The addresses; one that is all zero is none.
    pub leases: [LearnedIpKey; LEARNED_IPS],
    /// The place of the next one.
    pub next: u32,
    /// The place of the next transaction.
    pub next_asked: u32,
    /// Transactions, as of [`transaction_v4`] and [`transaction_v6`]; 0 is none.
    pub asked: [u64; LEASES_ASKED],
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

    /// Whether the port has asked that.
    #[inline(always)]
    #[must_use]
    pub fn has_asked(&self, transaction: u64) -> bool {
        let [a, b, c, d] = self.asked;
        a == transaction || b == transaction || c == transaction || d == transaction
    }

    /// Remembers what the port asks; asked again it is the same.
    #[inline(always)]
    pub fn ask(&mut self, transaction: u64) {
        if self.has_asked(transaction) {
            return;
        }
        const { assert!(LEASES_ASKED.is_power_of_two()) };
        let place = core::hint::black_box(self.next_asked as usize) & (LEASES_ASKED - 1);
        self.next_asked = self.next_asked.wrapping_add(1);
        self.asked[place] = transaction;
    }
}

crate::pod!(PortIpKey, LearnedIpKey, LearnedIp, PortLeases);
const _: () = assert!(size_of::<PortIpKey>() == 20, "no padding");
const _: () = assert!(size_of::<LearnedIpKey>() == 20, "no padding");
const _: () = assert!(size_of::<LearnedIp>() == 12, "no padding");
const _: () = assert!(size_of::<PortLeases>() == 200, "no padding");
