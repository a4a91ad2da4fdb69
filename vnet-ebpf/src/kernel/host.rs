//! The host's routing and sockets.

use core::ffi::c_void;

use aya_ebpf::{
    bindings::{
        BPF_FIB_LKUP_RET_NO_NEIGH, BPF_FIB_LKUP_RET_NO_SRC_ADDR, BPF_FIB_LKUP_RET_SUCCESS,
        BPF_FIB_LOOKUP_SRC, bpf_fib_lookup as FibParams, bpf_sock, bpf_sock_tuple,
    },
    helpers::{bpf_fib_lookup, bpf_sk_lookup_udp, bpf_sk_release, bpf_skc_lookup_tcp},
};
use vnet_common::{
    Addr, FlowKey,
    flow::{is_v4, mapped},
};
use vnet_ebpf::{
    gateway::{HostSocket, Route, RouteKind},
    ip::proto,
};

use super::maps::FIB_SRC;

/// Address families, as bpf_fib_lookup names them.
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
/// The network namespace that the packet is in.
const CURRENT_NETNS: u64 = u64::MAX;

/// An IPv4 address in the words that helpers take.
#[inline(always)]
fn v4_word(addr: &Addr) -> u32 {
    u32::from_ne_bytes([addr[12], addr[13], addr[14], addr[15]])
}

/// An IPv6 address in the words that helpers take.
#[inline(always)]
fn v6_words(addr: &Addr) -> [u32; 4] {
    let mut words = [0; 4];
    let mut i = 0;
    while i < 4 {
        words[i] = u32::from_ne_bytes([
            addr[4 * i],
            addr[4 * i + 1],
            addr[4 * i + 2],
            addr[4 * i + 3],
        ]);
        i += 1;
    }
    words
}

/// Asks the host's routing.
#[inline(never)]
pub fn ask_route(ctx: *mut c_void, ifindex: u32, key: &FlowKey, route: &mut Route) {
    let v4 = is_v4(&key.src);
    *route = Route::NONE;
    // SAFETY: plain data.
    let mut params: FibParams = unsafe { core::mem::zeroed() };
    let mut flags = if FIB_SRC.load() != 0 {
        BPF_FIB_LOOKUP_SRC
    } else {
        0
    };
    let mut tries = 0;
    let mut ret = 0;
    while tries < 2 {
        params.family = if v4 { AF_INET } else { AF_INET6 };
        params.l4_protocol = key.proto;
        params.sport = key.sport.to_be();
        params.dport = key.dport.to_be();
        // With a length the route's MTU is looked at and told; one byte always fits
        // (net/core/filter.c, bpf_ipv4_fib_lookup).
        params.__bindgen_anon_1.tot_len = 1;
        params.ifindex = ifindex;
        if v4 {
            params.__bindgen_anon_3.ipv4_src = v4_word(&key.src);
            params.__bindgen_anon_4.ipv4_dst = v4_word(&key.dst);
        } else {
            params.__bindgen_anon_3.ipv6_src = v6_words(&key.src);
            params.__bindgen_anon_4.ipv6_dst = v6_words(&key.dst);
        }
        // SAFETY: the context is the program's and the parameters as long as is said.
        ret = unsafe { bpf_fib_lookup(ctx, &raw mut params, size_of::<FibParams>() as i32, flags) }
            as u32;
        if ret != BPF_FIB_LKUP_RET_NO_SRC_ADDR {
            break;
        }
        flags = 0;
        tries += 1;
    }
    match ret {
        BPF_FIB_LKUP_RET_SUCCESS => {
            route.next_hop = params.dmac;
            // SAFETY: the lookup has written it.
            route.mtu = u32::from(unsafe { params.__bindgen_anon_1.mtu_result });
        }
        BPF_FIB_LKUP_RET_NO_NEIGH => {}
        // Blackhole, unreachable, prohibited: what the stack does with them is an error to the
        // sender, as with anything it does not forward.
        _ => return,
    }
    route.kind = RouteKind::Out;
    route.ifindex = params.ifindex;
    if flags != 0 {
        // SAFETY: the family's variant was written.
        unsafe {
            if v4 {
                route.src = mapped(params.__bindgen_anon_3.ipv4_src.to_ne_bytes());
            } else {
                let words = params.__bindgen_anon_3.ipv6_src;
                let mut i = 0;
                while i < 4 {
                    let bytes = words[i].to_ne_bytes();
                    route.src[4 * i] = bytes[0];
                    route.src[4 * i + 1] = bytes[1];
                    route.src[4 * i + 2] = bytes[2];
                    route.src[4 * i + 3] = bytes[3];
                    i += 1;
                }
            }
        }
    }
}

/// Which socket of the host takes packets with this key: a [`HostSocket`]'s number, for a subprogram
/// returns numbers.
#[inline(never)]
pub fn host_socket(ctx: *mut c_void, key: &FlowKey) -> u32 {
    /// `BPF_TCP_LISTEN`.
    const LISTEN: u32 = 10;
    // SAFETY: plain data.
    let mut tuple: bpf_sock_tuple = unsafe { core::mem::zeroed() };
    let size = if is_v4(&key.src) {
        // SAFETY: the variant of the size that is told.
        unsafe {
            let v4 = &mut tuple.__bindgen_anon_1.ipv4;
            v4.saddr = v4_word(&key.src);
            v4.daddr = v4_word(&key.dst);
            v4.sport = key.sport.to_be();
            v4.dport = key.dport.to_be();
        }
        12
    } else {
        // SAFETY: as above.
        unsafe {
            let v6 = &mut tuple.__bindgen_anon_1.ipv6;
            v6.saddr = v6_words(&key.src);
            v6.daddr = v6_words(&key.dst);
            v6.sport = key.sport.to_be();
            v6.dport = key.dport.to_be();
        }
        36
    };
    // SAFETY: the context is the program's; what is found is given back at once.
    unsafe {
        match key.proto {
            proto::TCP => {
                let socket = bpf_skc_lookup_tcp(ctx, &raw mut tuple, size, CURRENT_NETNS, 0);
                if socket.is_null() {
                    return HostSocket::None as u32;
                }
                let listens = (*socket.cast::<bpf_sock>()).state == LISTEN;
                bpf_sk_release(socket.cast());
                if listens {
                    HostSocket::Open as u32
                } else {
                    HostSocket::Connected as u32
                }
            }
            proto::UDP => {
                let socket = bpf_sk_lookup_udp(ctx, &raw mut tuple, size, CURRENT_NETNS, 0);
                if socket.is_null() {
                    return HostSocket::None as u32;
                }
                let is_connected = (*socket).dst_port != 0;
                bpf_sk_release(socket.cast());
                if is_connected {
                    HostSocket::Connected as u32
                } else {
                    HostSocket::Open as u32
                }
            }
            _ => HostSocket::None as u32,
        }
    }
}
