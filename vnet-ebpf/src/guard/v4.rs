//! IPv4 from a guarded port: its source, DHCP and redirects.

use vnet_common::{
    DropReason,
    flow::mapped,
    port::{PORT_GUARD_IP, PORT_GUARD_STRICT},
};

use super::{SIGHT_LATER, Sight, claim, same};
use crate::{
    decide::Plan,
    ip::{IPV4_LEN, proto},
    tables::Tables,
    window::Window,
};

/// UDP port of DHCP servers.
pub(super) const SERVER: u16 = 67;
/// UDP port of DHCP clients.
pub(super) const CLIENT: u16 = 68;
/// Offset of the client's hardware address in a DHCP message (RFC 2131, 2).
pub(super) const CHADDR: usize = 28;
/// Type of an ICMP redirect.
const REDIRECT: u8 = 5;

#[inline(always)]
pub(super) fn check<W: Window + ?Sized, T: Tables + ?Sized>(
    plan: &Plan,
    window: &W,
    tables: &T,
    sight: &mut Sight,
) -> Result<(), DropReason> {
    let h: &[u8; IPV4_LEN] = window
        .at(sight.l3 as usize)
        .ok_or(DropReason::IpMalformed)?;
    let header = u32::from(h[0] & 0x0f) * 4;
    if h[0] >> 4 != 4 || header < IPV4_LEN as u32 {
        return Err(DropReason::IpMalformed);
    }
    if u16::from_be_bytes([h[6], h[7]]) & 0x1fff != 0 {
        sight.flags |= SIGHT_LATER;
    }
    sight.l4 = sight.l3 + header;
    sight.proto = u32::from(h[9]);
    sight.addr = mapped([h[12], h[13], h[14], h[15]]);
    let nobody = h[12] | h[13] | h[14] | h[15] == 0;
    let sight = tables.opaque(sight);
    if !nobody {
        claim(
            plan,
            tables,
            sight,
            DropReason::IpSource,
            DropReason::IpConflict,
        )?;
    } else if plan.port.flags & PORT_GUARD_IP != 0 {
        // Who has no address yet asks for one, and nothing else (RFC 2131, 4.1).
        return match ports(window, sight) {
            Ok((CLIENT, SERVER)) => client(plan, window, sight),
            _ => Err(DropReason::IpSource),
        };
    }
    if plan.port.flags & PORT_GUARD_STRICT == 0 || sight.flags & SIGHT_LATER != 0 {
        return Ok(());
    }
    match sight.proto as u8 {
        proto::UDP => match ports(window, sight)? {
            // Clients look at the port that they are sent to.
            (SERVER, _) | (_, CLIENT) => Err(DropReason::DhcpServer),
            (_, SERVER) => client(plan, window, sight),
            _ => Ok(()),
        },
        proto::ICMP => {
            let h: &[u8; 4] = window.at(sight.l4 as usize).ok_or(DropReason::IpHeaders)?;
            if h[0] == REDIRECT {
                return Err(DropReason::IpRedirect);
            }
            Ok(())
        }
        _ => Ok(()),
    }
}

/// What a client asks for, it asks for itself: else it could use up the server's addresses.
#[inline(always)]
fn client<W: Window + ?Sized>(plan: &Plan, window: &W, sight: &Sight) -> Result<(), DropReason> {
    if plan.port.flags & PORT_GUARD_STRICT == 0 {
        return Ok(());
    }
    let mac: &[u8; 6] = window
        .at(sight.l4 as usize + 8 + CHADDR)
        .ok_or(DropReason::DhcpClientMac)?;
    if same(mac, &plan.frame.src) {
        Ok(())
    } else {
        Err(DropReason::DhcpClientMac)
    }
}

/// Source and destination port of UDP.
#[inline(always)]
pub(super) fn ports<W: Window + ?Sized>(
    window: &W,
    sight: &Sight,
) -> Result<(u16, u16), DropReason> {
    if sight.proto != u32::from(proto::UDP) || sight.flags & SIGHT_LATER != 0 {
        return Err(DropReason::IpHeaders);
    }
    let h: &[u8; 4] = window.at(sight.l4 as usize).ok_or(DropReason::IpHeaders)?;
    Ok((
        u16::from_be_bytes([h[0], h[1]]),
        u16::from_be_bytes([h[2], h[3]]),
    ))
}
