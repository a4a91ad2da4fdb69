//! The host's own connections out of the addresses that it shares with mappings: they are never taken
//! over.

use vnet_common::{
    FlowKey, FlowState,
    flow::{FLOW_HOST, FlowEntry},
};

use crate::{
    flow::table::{NO_FLOW, insert},
    gateway::{Gateway, Work},
    ip::{Icmp, Ip, TCP_ACK, TCP_SYN, proto},
};

/// Whether a packet of the host may begin a connection.
#[inline(always)]
#[must_use]
pub const fn may_begin(ip: &Ip) -> bool {
    match ip.key.proto {
        proto::TCP => ip.tcp_flags & (TCP_SYN | TCP_ACK) == TCP_SYN,
        proto::UDP => true,
        _ => matches!(ip.icmp, Icmp::Request),
    }
}

/// Ends a VM's connection whose answers would be taken for those to the host's packet in `work.ip`.
/// An echo has no socket that would show that its identifier is taken, and is noted.
#[inline(always)]
pub fn claim<G: Gateway + ?Sized>(work: &mut Work, gateway: &G) {
    let own = &work.ip.key;
    work.key = FlowKey {
        src: own.dst,
        dst: own.src,
        sport: own.dport,
        dport: own.sport,
        segment: own.segment,
        proto: own.proto,
        reserved: 0,
    };
    let index = gateway.find_flow(&work.key);
    let now_s = gateway.now_s();
    if index != NO_FLOW
        && let Some(entry) = gateway.flow(index)
    {
        // SAFETY: the table's own entry; single words.
        unsafe {
            if (*entry).flags & FLOW_HOST != 0 {
                (*entry).seen_s = now_s;
                return;
            }
        }
        work.index = index;
        gateway.close(work);
    }
    if matches!(work.ip.icmp, Icmp::Request) {
        work.forward = FlowEntry::default();
        work.forward.key = work.key;
        work.forward.seen_s = now_s;
        work.forward.created_s = now_s;
        work.forward.peer = NO_FLOW;
        work.forward.flags = FLOW_HOST;
        work.forward.state = FlowState::TwoWay as u8;
        insert(gateway, &work.forward);
    }
}
