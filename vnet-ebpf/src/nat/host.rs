//! The host's own connections out of the addresses that it shares with mappings: they are never taken
//! over.

use vnet_common::{
    Addr, FlowKey, FlowState,
    flow::{FLOW_HOST, FlowEntry},
};

use crate::{
    flow::table::NO_FLOW,
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

/// Writes the key that notes that the host uses a port of one of its addresses: one without a remote
/// end, which no packet has.
#[inline(always)]
pub fn used_key(key: &mut FlowKey, addr: &Addr, port: u16, proto: u8) {
    key.src = [0; 16];
    key.dst = *addr;
    key.sport = 0;
    key.dport = port;
    key.segment = 0;
    key.proto = proto;
    key.reserved = 0;
}

/// Whether the host has lately sent from a port of one of its addresses.
#[inline(always)]
pub fn uses<G: Gateway + ?Sized>(
    work: &mut Work,
    addr: &Addr,
    port: u16,
    proto: u8,
    gateway: &G,
) -> bool {
    used_key(&mut work.key, addr, port, proto);
    gateway.find_flow(&work.key) != NO_FLOW
}

/// Ends a VM's connection whose answers would be taken for those to the host's packet in `work.ip`, and
/// notes that the host uses its port. A socket shows that only for the remote end that it is connected
/// to, and an echo has none.
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
    if index != NO_FLOW {
        work.index = index;
        gateway.close(work);
    }
    let Work { ip, key, .. } = work;
    used_key(key, &ip.key.src, ip.key.sport, ip.key.proto);
    let index = gateway.find_flow(&work.key);
    let now_s = gateway.now_s();
    if let Some(entry) = gateway.flow(index) {
        // SAFETY: the table's own entry; one aligned word.
        unsafe { (*entry).seen_s = now_s };
        return;
    }
    work.forward = FlowEntry::default();
    work.forward.key = work.key;
    work.forward.seen_s = now_s;
    work.forward.created_s = now_s;
    work.forward.peer = NO_FLOW;
    work.forward.flags = FLOW_HOST;
    work.forward.state = if work.key.proto == proto::TCP {
        FlowState::Established as u8
    } else {
        FlowState::TwoWay as u8
    };
    gateway.insert_flow(work, false);
}
