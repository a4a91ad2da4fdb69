//! Who has which address.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// An address of each family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Both {
    /// The IPv4 address.
    pub v4: Ipv4Addr,
    /// The IPv6 address.
    pub v6: Ipv6Addr,
}

impl Both {
    /// Both.
    #[must_use]
    pub fn both(self) -> [IpAddr; 2] {
        [self.v4.into(), self.v6.into()]
    }

    /// The one of the same family as `other`.
    #[must_use]
    pub fn like(self, other: IpAddr) -> IpAddr {
        match other {
            IpAddr::V4(_) => self.v4.into(),
            IpAddr::V6(_) => self.v6.into(),
        }
    }
}

const fn outside(last: u8) -> Both {
    Both {
        v4: Ipv4Addr::new(192, 0, 2, last),
        v6: Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, last as u16),
    }
}

const fn far(last: u8) -> Both {
    Both {
        v4: Ipv4Addr::new(198, 51, 100, last),
        v6: Ipv6Addr::new(0x2001, 0xdb8, 2, 0, 0, 0, 0, last as u16),
    }
}

/// The uplink's own addresses, which VMs appear to have.
pub const UPLINK: Both = outside(1);
/// The physical host, which is the router as well.
pub const PHYS: Both = outside(2);
/// Its second addresses.
pub const PHYS_TWO: Both = outside(3);
/// Its addresses on the other side.
pub const ROUTER: Both = far(1);
/// The host behind the router.
pub const FAR: Both = far(2);

/// A network with a gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    /// Its name.
    pub name: &'static str,
    /// The number that its addresses have instead of their zero.
    third: u8,
    /// Length of its IPv6 prefix.
    pub v6_bits: u8,
}

/// The first network.
pub const LAN: Network = Network {
    name: "lan",
    third: 0,
    v6_bits: 64,
};
/// The second one.
pub const BLUE: Network = Network {
    name: "blue",
    third: 1,
    v6_bits: 64,
};
/// One with an IPv6 prefix of 48 bits.
pub const WIDE: Network = Network {
    name: "wide",
    third: 2,
    v6_bits: 48,
};
/// The gateway of [`LAN`].
pub const GATEWAY: Both = LAN.address(1);
/// The gateway of [`BLUE`].
pub const BLUE_GATEWAY: Both = BLUE.address(1);

impl Network {
    /// The machine's addresses whose number is `last`: 10.0.x.`last` and fd00:10+x::`last`, where
    /// the number has the same digits in both.
    #[must_use]
    pub const fn address(self, last: u8) -> Both {
        // Read as hexadecimal, the digits are those of the decimal number.
        let digits = (last as u16 / 100) << 8 | (last as u16 / 10 % 10) << 4 | (last as u16 % 10);
        Both {
            v4: Ipv4Addr::new(10, 0, self.third, last),
            v6: Ipv6Addr::new(0xfd00, 0x10 + self.third as u16, 0, 0, 0, 0, 0, digits),
        }
    }

    /// The gateway's addresses.
    #[must_use]
    pub const fn gateway(self) -> Both {
        self.address(1)
    }
}

/// Whether an address belongs inside, where nobody outside may see it.
#[must_use]
pub fn is_inside(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_private(),
        IpAddr::V6(address) => address.is_unique_local(),
    }
}
