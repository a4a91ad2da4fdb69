//! IPv6 from a guarded port: its source, and what its headers lead to (RFC 8200, RFC 7113).

use vnet_common::{
    DropReason,
    flow::V4_PREFIX,
    port::{PORT_GUARD_IP, PORT_GUARD_STRICT},
};

use super::{SIGHT_FRAGMENT, SIGHT_LATER, Sight, claim, nd, v4};
use crate::{
    decide::Plan,
    ip::{IPV6_LEN, proto},
    tables::Tables,
    window::Window,
};

/// A chain of so many extension headers is not followed to its end: no honest packet has one.
const EXTENSIONS: u32 = 8;

/// Authentication header (RFC 4302).
const AUTHENTICATION: u8 = 51;
/// Mobility header (RFC 6275).
const MOBILITY: u8 = 135;
/// Host identity protocol (RFC 7401).
const HIP: u8 = 139;
/// Shim6 (RFC 5533).
const SHIM6: u8 = 140;

/// UDP port of DHCPv6 clients.
pub(super) const CLIENT: u16 = 546;
/// UDP port of DHCPv6 servers.
pub(super) const SERVER: u16 = 547;

#[inline(always)]
pub(super) fn check<W: Window + ?Sized, T: Tables + ?Sized>(
    plan: &Plan,
    window: &W,
    tables: &T,
    sight: &mut Sight,
) -> Result<(), DropReason> {
    read(window, sight)?;
    let sight = tables.opaque(sight);
    follow(window, tables, sight)?;
    let sight = tables.opaque(sight);
    let icmp = sight.proto == u32::from(proto::ICMPV6) && sight.flags & SIGHT_LATER == 0;
    let mut kind = 0;
    if icmp {
        let h: &[u8; 4] = window.at(sight.l4 as usize).ok_or(DropReason::IpHeaders)?;
        kind = h[0];
    }
    if !is_unspecified(sight) {
        claim(
            plan,
            tables,
            sight,
            DropReason::IpSource,
            DropReason::IpConflict,
        )?;
    } else if plan.port.flags & PORT_GUARD_IP != 0 && !(icmp && nd::needs_no_address(kind)) {
        return Err(DropReason::IpSource);
    }
    if icmp {
        return nd::check(plan, kind, window, tables, sight);
    }
    let first_udp = sight.proto == u32::from(proto::UDP) && sight.flags & SIGHT_LATER == 0;
    if plan.port.flags & PORT_GUARD_STRICT == 0 || !first_udp {
        return Ok(());
    }
    match v4::ports(window, sight)? {
        (SERVER, _) | (_, CLIENT) => Err(DropReason::DhcpServer6),
        _ => Ok(()),
    }
}

/// Whether the source is `::`.
#[inline(always)]
fn is_unspecified(sight: &Sight) -> bool {
    let mut i = 0;
    let mut bits = 0;
    while i < 16 {
        bits |= sight.addr[i];
        i += 1;
    }
    bits == 0
}

/// Reads the header.
#[inline(always)]
pub(super) fn read<W: Window + ?Sized>(window: &W, sight: &mut Sight) -> Result<(), DropReason> {
    let h: &[u8; IPV6_LEN] = window
        .at(sight.l3 as usize)
        .ok_or(DropReason::IpMalformed)?;
    if h[0] >> 4 != 6 {
        return Err(DropReason::IpMalformed);
    }
    let mut i = 0;
    let mut differs = 0;
    while i < 16 {
        sight.addr[i] = h[8 + i];
        if i < 12 {
            differs |= h[8 + i] ^ V4_PREFIX[i];
        }
        i += 1;
    }
    // An IPv4-mapped address is none on the wire (RFC 4291, 2.5.5.2), and would pass for IPv4 here.
    if differs == 0 {
        return Err(DropReason::IpMalformed);
    }
    sight.proto = u32::from(h[6]);
    sight.l4 = sight.l3 + IPV6_LEN as u32;
    sight.end = sight.l4 + u32::from(u16::from_be_bytes([h[4], h[5]]));
    Ok(())
}

/// Follows the extension headers to what is none. All of them have to be there (RFC 7113, 3): of a
/// first fragment too (RFC 7112).
#[inline(always)]
fn follow<W: Window + ?Sized, T: Tables + ?Sized>(
    window: &W,
    tables: &T,
    sight: &mut Sight,
) -> Result<(), DropReason> {
    let mut i = 0;
    while i < EXTENSIONS {
        // Read anew, so that the verifier does not tell one header from the next.
        let sight = tables.opaque(sight);
        let next = sight.proto as u8;
        let extension = matches!(
            next,
            proto::HOP_BY_HOP
                | proto::ROUTING
                | proto::DESTINATION
                | proto::FRAGMENT
                | AUTHENTICATION
                | MOBILITY
                | HIP
                | SHIM6
        );
        if !extension || sight.flags & SIGHT_LATER != 0 {
            return Ok(());
        }
        let h: &[u8; 4] = window.at(sight.l4 as usize).ok_or(DropReason::IpHeaders)?;
        let len = match next {
            proto::FRAGMENT => {
                sight.flags |= SIGHT_FRAGMENT;
                if u16::from_be_bytes([h[2], h[3]]) & 0xfff8 != 0 {
                    sight.flags |= SIGHT_LATER;
                }
                8
            }
            AUTHENTICATION => (u32::from(h[1]) + 2) * 4,
            _ => (u32::from(h[1]) + 1) * 8,
        };
        sight.proto = u32::from(h[0]);
        sight.l4 += len;
        i += 1;
    }
    Err(DropReason::IpHeaders)
}
