//! The addresses of the tests' machines, all made from one number.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use xtask::netns::Netns;

/// A MAC address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// ff:ff:ff:ff:ff:ff.
    pub const BROADCAST: Self = Self([0xff; 6]);

    /// The address of the machine with this number.
    #[must_use]
    pub const fn of(number: u8) -> Self {
        Self([0x52, 0x54, 0, 0, 0, number])
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// A machine's addresses of both families, all in one subnet each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addresses {
    number: u8,
}

impl Addresses {
    /// Those that end with `number`.
    #[must_use]
    pub const fn new(number: u8) -> Self {
        Self { number }
    }

    /// The IPv4 address.
    #[must_use]
    pub const fn v4(self) -> IpAddr {
        IpAddr::V4(Ipv4Addr::new(10, 0, 0, self.number))
    }

    /// The IPv6 address.
    #[must_use]
    pub const fn v6(self) -> IpAddr {
        IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, self.number as u16))
    }

    /// Both.
    #[must_use]
    pub const fn both(self) -> [IpAddr; 2] {
        [self.v4(), self.v6()]
    }

    /// Puts both on an interface of `netns`.
    ///
    /// # Panics
    /// When they cannot be put.
    pub fn put(self, netns: &Netns, interface: &str) {
        netns
            .ip(&format!("addr add {}/24 dev {interface}", self.v4()))
            .unwrap();
        netns
            .ip(&format!("addr add {}/64 dev {interface} nodad", self.v6()))
            .unwrap();
    }
}
