//! The host's own connections out of the addresses that it shares with mappings: they are never taken
//! over.

use core::ptr;

use vnet_common::FlowState;

use crate::{
    flow::{
        state::is_stale,
        table::{NO_FLOW, tag_of},
    },
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

/// Where is noted when the host last used a port; `None` for protocols without any.
#[inline(always)]
fn place<G: Gateway + ?Sized>(port: u16, proto: u8, gateway: &G) -> Option<*mut u32> {
    let uses = gateway.host_port(port)?;
    // SAFETY: map memory.
    unsafe {
        match proto {
            proto::TCP => Some(&raw mut (*uses).tcp_s),
            proto::UDP => Some(&raw mut (*uses).udp_s),
            proto::ICMP | proto::ICMPV6 => Some(&raw mut (*uses).echo_s),
            _ => None,
        }
    }
}

/// Whether the host has lately begun a connection from one of its ports. A socket shows that only for
/// the remote end that it is connected to, and an echo has none.
#[inline(always)]
pub fn uses<G: Gateway + ?Sized>(port: u16, proto: u8, gateway: &G) -> bool {
    let (Some(conf), Some(seen)) = (gateway.switch(), place(port, proto, gateway)) else {
        return false;
    };
    // SAFETY: map memory; one aligned word.
    let seen_s = unsafe { ptr::read_volatile(seen) };
    let state = if proto == proto::TCP {
        FlowState::Established
    } else {
        FlowState::TwoWay
    };
    let timeout_s = conf.timeouts.of(proto, state as u8);
    seen_s != 0 && !is_stale(seen_s, gateway.now_s(), timeout_s)
}

/// Ends a VM's connection whose answers would be taken for those to the host's packet in `work.ip`, and
/// notes that the host uses its port.
#[inline(always)]
pub fn claim<G: Gateway + ?Sized>(work: &mut Work, gateway: &G) {
    work.key = work.ip.key.reversed();
    let index = gateway.find_flow(&work.key);
    if index != NO_FLOW {
        work.index = index;
        work.tag = tag_of(gateway, index);
        gateway.close(work);
    }
    let now_s = gateway.now_s();
    if let Some(seen) = place(work.ip.key.sport, work.ip.key.proto, gateway) {
        // SAFETY: map memory; one aligned word. Written once a second: it is shared by all CPUs.
        unsafe {
            if ptr::read_volatile(seen) != now_s {
                ptr::write_volatile(seen, now_s);
            }
        }
    }
}
