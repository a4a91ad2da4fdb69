//! A machine of a test: a network namespace at the far end of a veth pair.

use xtask::netns::Netns;

use super::address::{Addresses, Mac};

/// A machine with one interface, `eth0`, behind an interface of the host: a VM or a machine on the
/// physical network. Offloads are as the kernel makes them: all on.
#[derive(Debug)]
pub struct Station {
    port: String,
    number: u8,
    netns: Netns,
}

impl Station {
    /// The name of its interface inside.
    pub const NIC: &'static str = "eth0";

    /// # Panics
    /// When something cannot be made.
    pub(super) fn create(host: &Netns, netns: &str, port: &str, number: u8) -> Self {
        let station = Self::create_bare(host, netns, port, number);
        station.addresses().put(&station.netns, Self::NIC);
        station
    }

    /// One without IP addresses.
    ///
    /// # Panics
    /// When something cannot be made.
    pub(super) fn create_bare(host: &Netns, netns: &str, port: &str, number: u8) -> Self {
        let netns = Netns::create(netns).unwrap();
        let nic = Self::NIC;
        let inside = netns.name();
        host.ip(&format!(
            "link add {port} type veth peer name {nic} netns {inside}"
        ))
        .unwrap();
        host.ip(&format!("link set {port} up")).unwrap();
        let station = Self {
            port: port.to_owned(),
            number,
            netns,
        };
        station.ip(&format!("link set {nic} address {} up", station.mac()));
        station
    }

    /// The host's end of the cable, which is or becomes a port of the switch.
    #[must_use]
    pub fn port(&self) -> &str {
        &self.port
    }

    /// Its namespace.
    #[must_use]
    pub fn netns(&self) -> &Netns {
        &self.netns
    }

    /// Its MAC address.
    #[must_use]
    pub fn mac(&self) -> Mac {
        Mac::of(self.number)
    }

    /// Its IP addresses, unless it was made without.
    #[must_use]
    pub fn addresses(&self) -> Addresses {
        Addresses::new(self.number)
    }

    /// Runs `ip` inside with the words of `line`, which must succeed.
    ///
    /// # Panics
    /// When it fails.
    #[track_caller]
    pub fn ip(&self, line: &str) -> String {
        self.netns.ip(line).unwrap()
    }

    /// Runs a shell command inside, which must succeed.
    ///
    /// # Panics
    /// When it fails.
    #[track_caller]
    pub fn sh(&self, command: &str) -> String {
        self.netns.sh(command).unwrap()
    }
}
