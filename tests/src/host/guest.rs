//! Real VMs of a host: QEMU guests on taps.

use xtask::guest::{Guest, GuestConfig};

use super::{Addresses, Host, Mac};

impl Host {
    /// What a guest is whose port is `tapN` and whose addresses end with `number`. Makes its tap,
    /// which is no port of the switch before `port add`.
    ///
    /// # Panics
    /// When the tap cannot be made.
    #[must_use]
    pub fn guest_config(&self, number: u8) -> GuestConfig {
        let tap = format!("tap{number}");
        // As a virtual machine manager makes it: with room for the offloads' header.
        self.ip(&format!("tuntap add {tap} mode tap vnet_hdr"));
        self.ip(&format!("link set {tap} up"));
        let mac = Mac::of(number).to_string();
        let mut config = GuestConfig::new(&format!("vm{number}"), &tap, &mac);
        let addresses = Addresses::new(number);
        config.ipv4 = Some(format!("{}/24", addresses.v4()));
        config.ipv6 = Some(format!("{}/64", addresses.v6()));
        config.netns = Some(self.netns.name().to_owned());
        config
    }

    /// Starts a guest and returns while it still boots, so that several can boot at once.
    ///
    /// # Panics
    /// When QEMU or the image is missing (the message says what to do) or QEMU does not start: tests
    /// with guests are never left out.
    #[must_use]
    pub fn boot(&self, config: GuestConfig) -> Guest {
        match Guest::boot(config) {
            Ok(guest) => guest,
            Err(error) => panic!("{error:#}"),
        }
    }
}
