//! Per-port counters.

use crate::{DropCounters, PortKind};

/// Traffic of one port.
///
/// A packet is a frame on the wire: a GSO buffer counts as the segments it stands for. Bytes are
/// those of the buffer, from the Ethernet header on, without the FCS and without the headers that
/// segmentation repeats.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PortCounters {
    /// Packets that came in from the port, dropped ones included.
    pub rx_packets: u64,
    /// Bytes that came in from the port.
    pub rx_bytes: u64,
    /// Packets that went out to the port.
    pub tx_packets: u64,
    /// Bytes that went out to the port.
    pub tx_bytes: u64,
    /// Packets of an uplink that were left to the host's stack, because no network of the switch
    /// carries them or because they were addressed to the host.
    pub to_host_packets: u64,
    /// Packets from the port that were flooded.
    pub flooded_packets: u64,
    /// Source addresses that were not learned because the table is full.
    pub fdb_full: u64,
    /// Source addresses that were not learned because the port holds its limit (`--max-macs`).
    pub fdb_port_limit: u64,
}

crate::pod!(PortCounters);
const _: () = assert!(size_of::<PortCounters>() == 64, "one cache line");

/// A port's traffic with the port it belongs to: a value of the map `port_counters`, by slot and
/// per CPU, so that a dump of the map tells whose counters they are. An array, with zeros where no
/// port is: a hash map would show no empty slots, and cost 30 ns a lookup (measured).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PortReport {
    /// The port's interface index; 0 where there is no port. Slot 0 is for frames whose port is not
    /// known.
    pub ifindex: u32,
    /// What is behind the port.
    pub kind: PortKind,
    /// The traffic.
    pub counters: PortCounters,
}

/// A port's drops with the port they belong to: a value of the map `port_drops`, as above.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DropReport {
    /// The port's interface index.
    pub ifindex: u32,
    /// What is behind the port.
    pub kind: PortKind,
    /// The drops.
    pub drops: DropCounters,
}

crate::pod!(PortReport, DropReport);
const _: () = assert!(size_of::<PortReport>() == 72, "no padding");
