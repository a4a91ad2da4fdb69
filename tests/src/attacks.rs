//! What a VM must not send, so that tests with different VMs send the same.

use crate::{
    frame::{
        ip::arp,
        raw::{
            ADVERTISEMENT, SOLICITATION, dhcp, extended, fragment, icmp6, neighbour, router, udp,
            v4, v6,
        },
    },
    host::{Addresses, Mac},
    wire::{Frame, Tag},
};

/// The link-local address that is made of the MAC address of the machine with this number.
#[must_use]
pub fn link_local(number: u8) -> String {
    format!("fe80::5054:ff:fe00:{number:x}")
}

/// What the VM with this number must not send to `dst`, one frame of each kind, and the reason that it is
/// dropped for at an access port with a strict guard and no addresses but the VM's own.
#[must_use]
pub fn by(number: u8, dst: Mac) -> Vec<(&'static str, Frame)> {
    let (own, other) = (Mac::of(number).0, Mac::of(77).0);
    let (address, local) = (Addresses::new(number).v4().to_string(), link_local(number));
    let all = |body: &[u8]| Frame::carrying(Mac(own), dst, body);
    let icmp = |message: Vec<u8>| v6(&local, 58, &message);
    let offer = dhcp(2, "10.0.0.66", other, &[53, 1, 2, 255]);
    let asked = dhcp(1, "0.0.0.0", other, &[53, 1, 1, 255]);
    let packet = v4(&address, 17, &udp(1, 2, &[]));
    let spoofed = v4("10.0.0.77", 17, &udp(1, 2, &[]));
    let bodies = [
        ("ip_source", spoofed.clone()),
        ("ip_source", v6("fd00::77", 17, &udp(1, 2, &[]))),
        ("ip_source", v6("fe80::77", 17, &udp(1, 2, &[]))),
        (
            "arp_sender_ip",
            arp(2, (own, "10.0.0.77"), (other, "10.0.0.12")),
        ),
        (
            "arp_sender_mac",
            arp(2, (other, &address), (other, "10.0.0.12")),
        ),
        ("arp_malformed", vec![8, 6, 0, 6, 8, 0, 6, 4, 0, 1]),
        (
            "nd_target",
            icmp(neighbour(ADVERTISEMENT, "fd00::77", 2, own)),
        ),
        (
            "nd_link_layer",
            icmp(neighbour(ADVERTISEMENT, &local, 2, other)),
        ),
        (
            "nd_link_layer",
            icmp(neighbour(SOLICITATION, "fd00::c", 1, other)),
        ),
        (
            "nd_malformed",
            icmp(icmp6(133, &[0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0])),
        ),
        ("nd_router", icmp(router(own))),
        ("nd_router", v6(&local, 60, &extended(58, &router(own)))),
        (
            "nd_fragment",
            v6(&local, 44, &fragment(58, 0, false, &router(own))),
        ),
        ("nd_redirect", icmp(icmp6(137, &[0; 36]))),
        ("ip_headers", v6(&local, 60, &[58, 255, 1, 4, 0, 0, 0, 0])),
        ("ip_redirect", v4(&address, 1, &[5, 1, 0, 0, 10, 0, 0, 77])),
        ("dhcp_server", v4(&address, 17, &udp(67, 68, &offer))),
        (
            "dhcp_server6",
            v6(&local, 17, &udp(547, 546, &[7, 0, 0, 1])),
        ),
        ("dhcp_client_mac", v4("0.0.0.0", 17, &udp(68, 67, &asked))),
        ("llc_frame", vec![0, 40, 0xaa, 0xaa, 3, 0, 0, 0, 8, 0]),
    ];
    let frames = bodies.map(|(reason, body)| (reason, all(&body)));
    let others = [
        ("mac_not_allowed", Frame::new(Mac(other), dst)),
        ("vlan_tagged", all(&packet).tagged(&[Tag::c(10)])),
        (
            "vlan_tags",
            all(&packet).tagged(&[Tag::c(0), Tag::c(10), Tag::c(20)]),
        ),
        // Linux takes a priority tag off, and another one behind it.
        ("double_tag", all(&spoofed).tagged(&[Tag::c(0), Tag::c(0)])),
    ];
    frames.into_iter().chain(others).collect()
}
