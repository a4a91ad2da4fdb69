//! Why a frame is dropped: one name from the enum to the counter field, `vnet-user stats` and tests.

/// Declares the reasons once: the enum, the counter struct with a field of the same name each, and
/// the texts.
macro_rules! drop_reasons {
    ($($(#[doc = $doc:literal])+ $variant:ident = $field:ident;)+) => {
        /// The one reason a frame was dropped for.
        #[repr(u32)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum DropReason {
            $($(#[doc = $doc])+ $variant,)+
        }

        /// Frames dropped at one port, a field a reason.
        #[repr(C)]
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct DropCounters {
            $($(#[doc = $doc])+ pub $field: u64,)+
        }

        impl DropReason {
            /// Every reason, in the order of the counters' fields.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The name that counters, `vnet-user stats` and events use.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => stringify!($field),)+
                }
            }

            /// What the reason means, in a sentence.
            #[must_use]
            pub const fn describe(self) -> &'static str {
                match self {
                    $(Self::$variant => concat!($($doc,)+).trim_ascii(),)+
                }
            }
        }

        impl DropCounters {
            /// The counter of `reason`.
            #[must_use]
            pub const fn get(&self, reason: DropReason) -> u64 {
                match reason {
                    $(DropReason::$variant => self.$field,)+
                }
            }

            /// The counter of the reason with this number, to change it; `None` past the last.
            #[inline(always)]
            pub fn by_number(&mut self, number: u32) -> Option<&mut u64> {
                if number as usize >= DropReason::ALL.len() {
                    return None;
                }
                // SAFETY: the struct is repr(C) with one u64 a reason in the order of the enum's
                // discriminants, so the number is the index of the field. Indexing instead of
                // matching keeps the kernel side to one bounded pointer addition.
                Some(unsafe { &mut *core::ptr::from_mut(self).cast::<u64>().add(number as usize) })
            }
        }

        const _: () = assert!(
            size_of::<DropCounters>() == 8 * DropReason::ALL.len(),
            "one u64 a reason"
        );
    };
}

drop_reasons! {
    /// Shorter than an Ethernet header.
    Runt = runt;
    /// It came in on an interface that the switch's configuration does not hold.
    PortUnknown = port_unknown;
    /// The source MAC has the group bit set.
    MacSourceGroup = mac_source_group;
    /// The source MAC is all zero.
    MacSourceZero = mac_source_zero;
    /// Source or destination is on the switch's deny list.
    MacDenied = mac_denied;
    /// The source MAC is not on the port's list of allowed ones.
    MacNotAllowed = mac_not_allowed;
    /// The source MAC is the host's own.
    MacSourceLocal = mac_source_local;
    /// The source MAC has a static entry at another port.
    MacSourceStatic = mac_source_static;
    /// The source MAC is on the list of another VM's port.
    MacConflict = mac_conflict;
    /// A VM sent to 01:80:c2:00:00:0x, which bridges never forward.
    MacReserved = mac_reserved;
    /// The destination is behind the port the frame came from.
    MacSamePort = mac_same_port;
    /// A tagged frame on an access port.
    VlanTagged = vlan_tagged;
    /// A tag that is not on the trunk's list.
    VlanUnlisted = vlan_unlisted;
    /// An untagged frame on a trunk without a native network.
    VlanUntagged = vlan_untagged;
    /// A guarded port sent more than two tags.
    VlanTags = vlan_tags;
    /// A port with a strict guard sent a length where an EtherType belongs: LLC or SNAP.
    LlcFrame = llc_frame;
    /// A frame with an inner tag would have left untagged, or the inner tag says no VLAN.
    DoubleTag = double_tag;
    /// Longer than the MTU of the port it would have left by.
    MtuExceeded = mtu_exceeded;
    /// From one VM's port to another, and one of the two is isolated.
    PortIsolated = port_isolated;
    /// From one uplink to another.
    UplinkToUplink = uplink_to_uplink;
    /// No port of the segment could take it.
    NoDestination = no_destination;
    /// Over the port's limit for broadcast frames.
    StormBroadcast = storm_broadcast;
    /// Over the port's limit for multicast frames.
    StormMulticast = storm_multicast;
    /// Over the port's limit for unicast frames to unknown destinations.
    StormUnknownUnicast = storm_unknown_unicast;
    /// Over the port's limit for ARP.
    StormArp = storm_arp;
    /// Over the port's limit for neighbour discovery.
    StormNd = storm_nd;
    /// Its source is banned.
    SourceBanned = source_banned;
    /// Its source begins connections faster than it may.
    SourceRate = source_rate;
    /// Its source has as many connections as it may.
    SourceQuota = source_quota;
    /// Its IP header is not one: another version, or lengths that cannot be.
    IpMalformed = ip_malformed;
    /// The source IP address is none of the port's.
    IpSource = ip_source;
    /// The source IP address is another port's or the host's.
    IpConflict = ip_conflict;
    /// A guarded port sent headers that do not lead to an end, or whose end is not in the packet.
    IpHeaders = ip_headers;
    /// A port with a strict guard sent an ICMP redirect.
    IpRedirect = ip_redirect;
    /// A guarded port sent ARP that is none of Ethernet and IPv4.
    ArpMalformed = arp_malformed;
    /// The sender's MAC address in ARP is not the frame's.
    ArpSenderMac = arp_sender_mac;
    /// The sender's IP address in ARP is none of the port's.
    ArpSenderIp = arp_sender_ip;
    /// The sender's IP address in ARP is another port's or the host's.
    ArpConflict = arp_conflict;
    /// A guarded port sent a message of neighbour discovery that cannot be read to its end.
    NdMalformed = nd_malformed;
    /// A guarded port sent a message of neighbour discovery in a fragment.
    NdFragment = nd_fragment;
    /// A port with a strict guard sent a router advertisement.
    NdRouter = nd_router;
    /// A port with a strict guard sent a redirect.
    NdRedirect = nd_redirect;
    /// The address that a neighbour advertisement speaks for is none of the port's.
    NdTarget = nd_target;
    /// The address that neighbour discovery claims is another port's or the host's.
    NdConflict = nd_conflict;
    /// The link-layer address in a message of neighbour discovery is not the frame's.
    NdLinkLayer = nd_link_layer;
    /// A port with a strict guard sent what only a DHCP server sends.
    DhcpServer = dhcp_server;
    /// A port with a strict guard sent what only a DHCPv6 server sends.
    DhcpServer6 = dhcp_server6;
    /// A port with a strict guard asked a DHCP server for somebody else's hardware address.
    DhcpClientMac = dhcp_client_mac;
    /// Its time to live is used up.
    IpTtl = ip_ttl;
    /// The host has no route to its destination.
    IpNoRoute = ip_no_route;
    /// From a translated network, and no rule translates it; or its source would leave an uplink
    /// untranslated.
    NatUntranslated = nat_untranslated;
    /// Every external port that the rule may use is taken.
    NatPortsExhausted = nat_ports_exhausted;
    /// The flow table is full of connections that are alive.
    NatTableFull = nat_table_full;
    /// The VM holds its share of the flow table.
    NatQuota = nat_quota;
    /// The VM begins connections faster than it may.
    NatRate = nat_rate;
    /// A later fragment of a packet whose first one has not been seen.
    NatFragment = nat_fragment;
    /// For an external address that no rule leads on from.
    NatNoMapping = nat_no_mapping;
    /// From a remote end that the mapping's filtering does not let in.
    NatFiltered = nat_filtered;
    /// TCP that is not the beginning of a connection, and of none that is known.
    NatMidStream = nat_mid_stream;
    /// An ICMP error about a packet of no connection.
    NatIcmpUnrelated = nat_icmp_unrelated;
    /// A rule of a security group denies it, or none lets it through.
    PolicyDenied = policy_denied;
    /// A rule of a security group rejects it.
    PolicyRejected = policy_rejected;
    /// A later fragment, for or from a port in security groups, of a packet whose first one has not been
    /// let through.
    PolicyFragment = policy_fragment;
    /// The VM holds its share of the flow table, and the connection is bridged.
    PolicyQuota = policy_quota;
    /// The VM begins connections faster than it may, and this one is bridged.
    PolicyRate = policy_rate;
    /// The flow table is full of connections that are alive, and the port is in security groups.
    PolicyTableFull = policy_table_full;
    /// The kernel refused an edit or a redirect of the frame.
    KernelRefused = kernel_refused;
}

crate::pod!(DropCounters);
