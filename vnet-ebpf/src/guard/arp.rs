//! ARP from a guarded port (RFC 826, RFC 5227).

use vnet_common::{
    DropReason,
    flow::mapped,
    port::{PORT_GUARD_MAC, PORT_GUARD_STRICT},
};

use super::{Sight, claim, same};
use crate::{answer::ARP_LEN, decide::Plan, tables::Tables, window::Window};

/// The sender's addresses have to be its own.
#[inline(always)]
pub(super) fn check<W: Window + ?Sized, T: Tables + ?Sized>(
    plan: &Plan,
    window: &W,
    tables: &T,
    sight: &mut Sight,
) -> Result<(), DropReason> {
    check_hardware(plan, window, sight)?;
    let p: &[u8; ARP_LEN] = window
        .at(sight.l3 as usize)
        .ok_or(DropReason::ArpMalformed)?;
    // A probe says nothing of the sender (RFC 5227, 2.1.1).
    let request = p[6] == 0 && p[7] == 1;
    if request && p[14] | p[15] | p[16] | p[17] == 0 {
        return Ok(());
    }
    sight.addr = mapped([p[14], p[15], p[16], p[17]]);
    claim(
        plan,
        tables,
        sight,
        DropReason::ArpSenderIp,
        DropReason::ArpConflict,
    )
}

/// The sender's MAC address has to be the frame's; of RARP that is all there is to look at.
#[inline(always)]
pub(super) fn check_hardware<W: Window + ?Sized>(
    plan: &Plan,
    window: &W,
    sight: &Sight,
) -> Result<(), DropReason> {
    let p: &[u8; ARP_LEN] = window
        .at(sight.l3 as usize)
        .ok_or(DropReason::ArpMalformed)?;
    // Ethernet and IPv4, and their lengths: nothing else is a VM's business, and the addresses would
    // be elsewhere.
    if p[0] != 0 || p[1] != 1 || p[2] != 8 || p[3] != 0 || p[4] != 6 || p[5] != 4 {
        return Err(DropReason::ArpMalformed);
    }
    let mac = [p[8], p[9], p[10], p[11], p[12], p[13]];
    if plan.port.flags & (PORT_GUARD_MAC | PORT_GUARD_STRICT) != 0 && !same(&mac, &plan.frame.src) {
        return Err(DropReason::ArpSenderMac);
    }
    Ok(())
}
