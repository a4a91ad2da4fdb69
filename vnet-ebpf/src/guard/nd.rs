//! Neighbour discovery from a guarded port (RFC 4861; in fragments RFC 6980).

use vnet_common::{
    DropReason,
    port::{PORT_GUARD_MAC, PORT_GUARD_STRICT},
};

use super::{SIGHT_FRAGMENT, Sight, claim, same};
use crate::{decide::Plan, tables::Tables, window::Window};

const ROUTER_SOLICITATION: u8 = 133;
const ROUTER_ADVERTISEMENT: u8 = 134;
const NEIGHBOUR_SOLICITATION: u8 = 135;
const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
const REDIRECT: u8 = 137;

/// Multicast listener query, report and done (RFC 2710), report of version 2 (RFC 3810).
const LISTENER: [u8; 3] = [131, 132, 143];

/// Option: the sender's link-layer address.
const SOURCE_LINK_LAYER: u8 = 1;
/// Option: the target's link-layer address.
const TARGET_LINK_LAYER: u8 = 2;

/// Options that are looked at; a message with more is dropped.
const OPTIONS: u32 = 16;

/// Whether an ICMPv6 message is sent from `::` by who has no address yet: duplicate address detection
/// (RFC 4862, 5.4.2), and reports of the groups that it listens to meanwhile (RFC 3590).
#[inline(always)]
pub(super) const fn needs_no_address(kind: u8) -> bool {
    kind == NEIGHBOUR_SOLICITATION
        || kind == LISTENER[0]
        || kind == LISTENER[1]
        || kind == LISTENER[2]
}

/// Looks at the ICMPv6 message of this type at `l4`. The packet's source, in `sight.addr`, is checked.
#[inline(always)]
pub(super) fn check<W: Window + ?Sized, T: Tables + ?Sized>(
    plan: &Plan,
    kind: u8,
    window: &W,
    tables: &T,
    sight: &mut Sight,
) -> Result<(), DropReason> {
    // Bytes in front of the options.
    let head = match kind {
        ROUTER_SOLICITATION => 8,
        ROUTER_ADVERTISEMENT => 16,
        NEIGHBOUR_SOLICITATION | NEIGHBOUR_ADVERTISEMENT => 24,
        REDIRECT => 40,
        _ => return Ok(()),
    };
    if sight.flags & SIGHT_FRAGMENT != 0 {
        return Err(DropReason::NdFragment);
    }
    if plan.port.flags & PORT_GUARD_STRICT != 0 {
        match kind {
            ROUTER_ADVERTISEMENT => return Err(DropReason::NdRouter),
            REDIRECT => return Err(DropReason::NdRedirect),
            _ => {}
        }
    }
    let mut i = 0;
    let mut source = 0;
    while i < 16 {
        source |= sight.addr[i];
        i += 1;
    }
    let probes = kind == NEIGHBOUR_SOLICITATION && source == 0;
    if probes || kind == NEIGHBOUR_ADVERTISEMENT {
        let target: &[u8; 16] = window
            .at(sight.l4 as usize + 8)
            .ok_or(DropReason::NdMalformed)?;
        sight.addr = *target;
        let sight = tables.opaque(sight);
        let claimed = claim(
            plan,
            tables,
            sight,
            DropReason::NdTarget,
            DropReason::NdConflict,
        );
        // One may ask whether an address is free, if it is not known to be somebody's.
        if !(probes && matches!(claimed, Err(DropReason::NdTarget))) {
            claimed?;
        }
    }
    // A redirect's are another router's.
    if kind == REDIRECT || plan.port.flags & (PORT_GUARD_MAC | PORT_GUARD_STRICT) == 0 {
        return Ok(());
    }
    let sight = tables.opaque(sight);
    sight.l4 += head;
    options(plan, window, tables, sight)
}

/// Looks at the options from `l4` on: a link-layer address is the sender's.
#[inline(always)]
fn options<W: Window + ?Sized, T: Tables + ?Sized>(
    plan: &Plan,
    window: &W,
    tables: &T,
    sight: &mut Sight,
) -> Result<(), DropReason> {
    let mut i = 0;
    while i < OPTIONS {
        // Read anew, so that the verifier does not tell one option from the next.
        let sight = tables.opaque(sight);
        if sight.l4 >= sight.end {
            return Ok(());
        }
        let h: &[u8; 8] = window
            .at(sight.l4 as usize)
            .ok_or(DropReason::NdMalformed)?;
        if h[1] == 0 {
            return Err(DropReason::NdMalformed);
        }
        let mac = [h[2], h[3], h[4], h[5], h[6], h[7]];
        if matches!(h[0], SOURCE_LINK_LAYER | TARGET_LINK_LAYER) && !same(&mac, &plan.frame.src) {
            return Err(DropReason::NdLinkLayer);
        }
        sight.l4 += u32::from(h[1]) * 8;
        i += 1;
    }
    Err(DropReason::NdMalformed)
}
