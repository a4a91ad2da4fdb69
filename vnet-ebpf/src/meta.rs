//! What is known of a frame besides its bytes.

use network_types::eth::EtherType;

/// Where the frame was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// TC ingress of a port: the frame came from the VM or the wire.
    TcIngress,
    /// TC egress of the switch device or of an uplink: the host's stack sent it.
    TcEgress,
    /// Native XDP on an uplink. What needs TC is passed up.
    Xdp,
}

/// An 802.1Q or 802.1ad tag. TPID 0 is no tag.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tag {
    /// Tag protocol identifier, host order: 0x8100, 0x88a8, or 0.
    pub tpid: u16,
    /// Priority (3 bits), drop eligible (1), VLAN id (12), host order.
    pub tci: u16,
}

/// TPID of an 802.1Q C-tag, host order.
pub const TPID_8021Q: u16 = u16::from_be(EtherType::Ieee8021q as u16);
/// TPID of an 802.1ad S-tag, host order.
pub const TPID_8021AD: u16 = u16::from_be(EtherType::Ieee8021ad as u16);

/// The VLAN id's bits of a TCI.
pub const VID_MASK: u16 = 0x0fff;

impl Tag {
    /// No tag.
    pub const NONE: Self = Self { tpid: 0, tci: 0 };

    /// Whether there is a tag, a priority tag included.
    #[inline(always)]
    #[must_use]
    pub const fn is_some(self) -> bool {
        self.tpid != 0
    }

    /// The VLAN id; 0 for no tag and for a priority tag (802.1Q-2022, 9.6).
    #[inline(always)]
    #[must_use]
    pub const fn vid(self) -> u16 {
        self.tci & VID_MASK
    }

    /// The tag a frame that came in with `self` goes out with as `vid`; 0 is untagged. Priority,
    /// drop eligibility and the TPID stay.
    #[inline(always)]
    #[must_use]
    pub const fn with_vid(self, vid: u16) -> Self {
        if vid == 0 {
            return Self::NONE;
        }
        Self {
            tpid: if self.is_some() {
                self.tpid
            } else {
                TPID_8021Q
            },
            tci: (self.tci & !VID_MASK) | vid,
        }
    }
}

/// Whether a host-order EtherType announces a tag. The tunnelled 0x9100 family included: switches
/// that use them as outer or inner tags exist, and what looks like a tag must not hide one.
#[inline(always)]
#[must_use]
pub const fn is_tpid(ether_type: u16) -> bool {
    matches!(
        ether_type,
        TPID_8021Q | TPID_8021AD | 0x9100 | 0x9200 | 0x9300
    )
}

/// Whether the kernel takes, edits and makes tags with this TPID (`eth_type_vlan`,
/// include/linux/if_vlan.h). Others stay where they are, so that no network can be told by them.
#[inline(always)]
#[must_use]
pub const fn is_kernel_tpid(ether_type: u16) -> bool {
    matches!(ether_type, TPID_8021Q | TPID_8021AD)
}

/// Facts about a frame that its bytes do not show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Meta {
    /// Where it was seen.
    pub hook: Hook,
    /// The interface, in the switch's network namespace.
    pub ifindex: u32,
    /// Bytes of the frame, from the Ethernet header on; up to 64 kB and more with GSO.
    pub len: u32,
    /// Payload bytes a segment of a GSO buffer, 0 when it is a single frame.
    pub gso_size: u32,
    /// Segments of a GSO buffer as the kernel tells; a tap leaves it 0.
    pub gso_segs: u32,
    /// The outer tag when it is in metadata, not in the bytes.
    pub tag: Tag,
    /// The frame carries the token of our own redirect to this hook.
    pub redirected: bool,
    /// The host's stack forwards it for somebody else; else, where it comes from the stack, it is the
    /// host's own.
    pub forwarded: bool,
}

impl Meta {
    /// Frames on the wire that the buffer stands for.
    #[inline(always)]
    #[must_use]
    pub const fn packets(&self) -> u32 {
        if self.gso_size == 0 {
            1
        } else if self.gso_segs != 0 {
            self.gso_segs
        } else {
            // A tap gives a size and no count. Headers count as payload here, which can add one
            // segment when the payload ends just below a multiple: an estimate for counters only.
            let payload = self.len.saturating_sub(54);
            match payload.div_ceil(self.gso_size) {
                0 => 1,
                n => n,
            }
        }
    }
}
