//! Support for tests of address translation.
//!
//! A [`Lab`] is a host with a NATed network, VMs on it, and an outside: a physical host on the
//! uplink's own network, and another one behind that as behind a router. Nobody outside has a route
//! to the inside, so what is not translated gets no answer, and a [`Sniffer`] on the uplink's far
//! end sees whether it was sent at all.
//!
//! The same tests run against the kernel's own NAT ([`Lane::Reference`]): with VNET_TESTS_NAT=nft in
//! the environment, for those that need nothing that only vnet has. That holds the tests themselves
//! to what NAT is known to be, and one of them compares the frames of both.

mod check;
mod connection;
pub mod craft;
mod errors;
mod lab;
mod packet;
mod plan;
mod reference;
mod rows;
mod sniffer;
mod sockets;
mod stun;

pub use self::{
    check::{header_sum, transport_sum_is_right},
    connection::{Connection, Datagrams, Seen},
    errors::{Complaint, complaint, hear_errors},
    lab::{Lab, Lane, Vm},
    packet::{Ip, Packet, ip_of},
    plan::{
        BLUE, BLUE_GATEWAY, Both, FAR, GATEWAY, LAN, Network, PHYS, PHYS_TWO, ROUTER, UPLINK, WIDE,
        is_inside,
    },
    rows::{FlowRow, RuleRow},
    sniffer::{Outside, Sniffer},
    sockets::{any, cut_into, dont_fragment, raw, tcp_connect, tcp_listener, udp},
    stun::{Behaviour, Responder, Scope, behaviour},
};
