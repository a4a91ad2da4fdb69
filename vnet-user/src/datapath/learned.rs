//! Addresses that ports are leased, as the datapath knows them.

use std::net::IpAddr;

use anyhow::{Context as _, Result};
use vnet_common::{LearnedIp, LearnedIpKey};

use super::{maps, pins::Pins};
use crate::flows::address;
use crate::host::kernel;

/// The addresses that the port with this interface is leased now, sorted.
///
/// # Errors
/// The switch is not up.
pub fn of(pins: &Pins, ifindex: u32) -> Result<Vec<IpAddr>> {
    let map = maps::hash::<LearnedIpKey, LearnedIp>(pins, "learned_ips")?;
    let now_s = kernel::monotonic_s();
    let mut addresses = Vec::new();
    for entry in map.iter() {
        let (key, learned) = entry.context("reading the map learned_ips")?;
        if learned.ifindex == ifindex && u64::from(learned.expires_s) > now_s {
            addresses.push(address(&key.addr));
        }
    }
    addresses.sort_unstable();
    addresses.dedup();
    Ok(addresses)
}
