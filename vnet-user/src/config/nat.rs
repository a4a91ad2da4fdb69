//! Address translation as the document says it: rules by id.

use std::net::IpAddr;

use ipnet::IpNet;

/// One rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NatRule {
    /// Its id, 1 to [`vnet_common::nat::NAT_RULES`] less one; given once and kept.
    pub id: u16,
    /// What it does.
    pub action: NatAction,
}

/// What a rule does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NatAction {
    /// Sources of a network become the uplink's own address.
    Masquerade {
        /// The network; it has a gateway.
        network: String,
        /// The way out: an uplink outside the switch device, or the switch device.
        uplink: String,
        /// How it maps.
        options: NatOptions,
    },
    /// Sources become addresses of a pool.
    Snat {
        /// The sources.
        source: IpNet,
        /// The pool.
        to: AddrRange,
        /// The way out.
        uplink: String,
        /// How it maps.
        options: NatOptions,
    },
    /// A destination address and port leads to a VM.
    Dnat {
        /// TCP.
        tcp: bool,
        /// UDP.
        udp: bool,
        /// The external address.
        listen: IpAddr,
        /// Its ports.
        listen_ports: PortRange,
        /// The VM's address.
        to: IpAddr,
        /// Its ports: as many as `listen_ports`, or one.
        to_ports: PortRange,
        /// The only sources it is for.
        from: Option<IpNet>,
        /// The only way in; the one that holds the address otherwise.
        uplink: Option<String>,
    },
    /// An external address or prefix stands for an internal one.
    Static {
        /// Outside.
        external: IpNet,
        /// Inside; as long a prefix.
        internal: IpNet,
        /// The way out; any otherwise.
        uplink: Option<String>,
    },
}

/// How sources are mapped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NatOptions {
    /// External ports; [`PortRange::EXTERNAL`] unless said.
    pub ports: Option<PortRange>,
    /// Which connections share a mapping.
    pub mapping: Mapping,
    /// Who may answer.
    pub filtering: Filtering,
    /// Ports that a VM gets at a time.
    pub block_size: Option<u16>,
}

/// Which connections share a mapping (RFC 4787, 4.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mapping {
    /// All from one internal address and port: endpoint-independent.
    #[default]
    Eim,
    /// None.
    Symmetric,
}

/// Who may send to a mapping (RFC 4787, 5).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Filtering {
    /// Everybody: endpoint-independent.
    Eif,
    /// Addresses it has sent to: address-dependent.
    #[default]
    Adf,
    /// Addresses and ports it has sent to: address and port-dependent.
    Apdf,
}

/// Addresses from the first to the last, of one family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddrRange {
    /// The first.
    pub first: IpAddr,
    /// The last.
    pub last: IpAddr,
}

/// Ports from the first to the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortRange {
    /// The first.
    pub first: u16,
    /// The last.
    pub last: u16,
}

impl PortRange {
    /// External ports of a rule that does not say which.
    pub const EXTERNAL: Self = Self {
        first: 1024,
        last: 65_535,
    };
}
