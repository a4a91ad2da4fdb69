//! Address translation end to end: VMs behind a gateway, an outside that has no route to them, and
//! what both see of each other.
//!
//! Every test fails when anything that belongs inside was seen on the uplink's wire. With
//! VNET_TESTS_NAT=nft in the environment the kernel's own NAT stands in for vnet; tests that use no
//! command of vnet's but `nat add` can pass then too.

mod at_xdp;
mod behaviour;
mod blocks;
mod bpftool;
mod bridged;
mod concurrent;
mod differential;
mod errors;
mod floods;
mod flows;
mod forward;
mod fragments;
mod gso;
mod host_services;
mod layout;
mod leaks;
mod limits;
mod masquerade;
mod mss;
mod pool;
mod reach;
mod restart;
mod scale;
mod states;
mod static_rule;
mod stun_client;

use std::{
    net::{IpAddr, SocketAddr},
    sync::atomic::{AtomicBool, Ordering},
};

use vnet_tests::nat::{Connection, Datagrams, FAR, Lab, PHYS, UPLINK, Vm};
use xtask::netns::Netns;

/// Several MiB: enough for segmentation offload to grow to its full 64 kB.
const BULK: u64 = 6 << 20;

/// Sizes of datagrams that fit into one packet, even and odd.
const SIZES: [usize; 5] = [1, 2, 333, 1000, 1400];

/// An address with a port.
const fn at(address: IpAddr, port: u16) -> SocketAddr {
    SocketAddr::new(address, port)
}

/// The machines outside, by one of their addresses: next to the uplink, and behind a router.
fn outside(lab: &Lab) -> [(&Netns, IpAddr); 4] {
    [
        (lab.phys.netns(), PHYS.v4.into()),
        (lab.phys.netns(), PHYS.v6.into()),
        (&lab.far, FAR.v4.into()),
        (&lab.far, FAR.v6.into()),
    ]
}

/// A TCP connection from a VM is seen to come from the uplink's address and carries both ways.
#[track_caller]
fn tcp_out(vm: &Vm, port: u16, to: &Netns, address: IpAddr, bytes: u64) -> SocketAddr {
    let mut connection = Connection::open(vm.netns(), port, to, at(address, 0));
    let seen = connection.seen;
    assert_eq!(seen.by_server.ip(), UPLINK.like(address), "{seen:?}");
    assert_eq!(seen.client.ip(), vm.address.like(address), "{seen:?}");
    connection.exchange(bytes, bytes);
    seen.by_server
}

/// Datagrams from a VM are seen to come from the uplink's address and are answered.
#[track_caller]
fn udp_out(vm: &Vm, port: u16, to: &Netns, address: IpAddr, sizes: &[usize]) -> SocketAddr {
    let datagrams = Datagrams::between(vm.netns(), port, to, at(address, 0));
    let seen = datagrams.exchange(sizes);
    assert_eq!(seen.by_server.ip(), UPLINK.like(address), "{seen:?}");
    seen.by_server
}

/// Says that it is over, however the scope is left.
struct Done<'a>(&'a AtomicBool);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
