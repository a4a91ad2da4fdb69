//! `mss_clamp`: what TCP announces when it begins is no more than the way takes, without an ICMP
//! error that somebody may drop.

use std::net::{IpAddr, SocketAddr};

use vnet_tests::{
    host::Station,
    nat::{
        Connection, FAR, Ip, Lab, PHYS, Packet, Sniffer, UPLINK, Vm, craft, header_sum,
        tcp_listener, transport_sum_is_right,
    },
};

use crate::at;

/// What the uplink takes; everything else takes 1500.
const NARROW: u16 = 1400;

/// Only the host knows that its uplink takes less: neither end of a connection does.
fn narrow_uplink(lab: &Lab) {
    lab.host.ip(&format!("link set up0 mtu {NARROW}"));
}

/// Whether checksums are left to the devices of both ends. They can be looked at where they are not.
fn leave_checksums(lab: &Lab, vm: &Vm, left: bool) {
    let line = format!("ethtool -K eth0 tx {}", if left { "on" } else { "off" });
    for netns in [vm.netns(), lab.phys.netns(), &lab.far] {
        netns.sh(&line).unwrap();
    }
}

/// The segment size that a packet announces; `None` for everything but the SYN or SYN-ACK (`ack`) of
/// TCP from one end.
fn announced(ip: &Ip<'_>, from: IpAddr, ack: bool) -> Option<u16> {
    if ip.proto != 6 || ip.offset != 0 || ip.src != from {
        return None;
    }
    let wanted = craft::SYN | if ack { craft::ACK } else { 0 };
    if ip.payload.get(13)? & (craft::SYN | craft::ACK) != wanted {
        return None;
    }
    let header = usize::from(ip.payload.get(12)? >> 4) * 4;
    let mut options = ip.payload.get(20..header)?;
    loop {
        match options {
            [1, rest @ ..] => options = rest,
            [2, 4, high, low, ..] => return Some(u16::from_be_bytes([*high, *low])),
            [_, length, ..] => options = options.get(usize::from(*length).max(2)..)?,
            _ => return None,
        }
    }
}

/// What is announced in the one SYN or SYN-ACK that came, whose checksums have to be right.
#[track_caller]
fn seen(at: &Sniffer, what: &str, from: IpAddr, ack: bool) -> u16 {
    let of = |packet: &Packet| announced(&packet.ip()?, from, ack);
    let packet = at.expect(what, |packet| of(packet).is_some());
    let ip = packet.ip().expect("it was just read");
    assert!(transport_sum_is_right(&ip), "{what}: {packet:02x?}");
    if from.is_ipv4() {
        assert_eq!(header_sum(ip.header), 0xffff, "{what}: {packet:02x?}");
    }
    of(&packet).expect("it was just read")
}

/// Opens a connection each way between the VM and a machine outside, and compares what the ends are
/// told with `wanted`: by family.
#[track_caller]
fn check(lab: &Lab, vm: &Vm, wanted: [u16; 2], bytes: u64) {
    let inside = Sniffer::start(vm.netns(), Station::NIC);
    for (address, wanted) in FAR.both().into_iter().zip(wanted) {
        let own = vm.address.like(address);
        let outside = UPLINK.like(address);
        let clear = || [&inside, &lab.wire].into_iter().for_each(Sniffer::clear);

        clear();
        let mut out = Connection::open(vm.netns(), 0, &lab.far, at(address, 0));
        let syn = seen(&lab.wire, "the VM's SYN is outside", outside, false);
        let answer = seen(&inside, "the answer is at the VM", address, true);
        assert_eq!([syn, answer], [wanted, wanted], "from the VM to {address}");
        out.exchange(bytes, bytes);

        clear();
        let listener = tcp_listener(vm.netns(), own, 80);
        let mut back = open(lab, at(outside, 8080), &listener);
        let syn = seen(&inside, "the SYN is at the VM", address, false);
        let answer = seen(&lab.wire, "the VM's answer is outside", outside, true);
        assert_eq!([syn, answer], [wanted, wanted], "by a forward at {outside}");
        back.exchange(bytes, bytes);
    }
}

#[track_caller]
fn open(lab: &Lab, listen: SocketAddr, listener: &std::net::TcpListener) -> Connection {
    match Connection::open_to(&lab.far, 0, listen, listener) {
        Ok(connection) => connection,
        Err(error) => panic!("{listen}: {error:#}"),
    }
}

/// Masquerading and a forward to port 80 of the VM, without checksums that are left to devices.
fn lab() -> (Lab, Vm) {
    let lab = Lab::masquerading("");
    let vm = lab.vm(11);
    leave_checksums(&lab, &vm, false);
    for (address, inside) in UPLINK.both().into_iter().zip(vm.address.both()) {
        let (listen, to) = (at(address, 8080), at(inside, 80));
        lab.rule(&format!("dnat --proto tcp --listen {listen} --to {to}"));
    }
    (lab, vm)
}

/// Nobody outside hears that the uplink takes less than 1500: what is longer is lost without a word.
#[test]
fn mss_auto_is_what_the_uplink_takes() {
    let (lab, vm) = lab();
    narrow_uplink(&lab);
    lab.host.vnet("set mss_clamp=auto");
    check(&lab, &vm, [NARROW - 40, NARROW - 60], 2 << 20);
}

/// A device that is to finish the checksum sums up what was changed.
#[test]
fn mss_where_devices_finish_checksums() {
    let (lab, vm) = lab();
    narrow_uplink(&lab);
    lab.host.vnet("set mss_clamp=auto");
    leave_checksums(&lab, &vm, true);
    let inside = Sniffer::start(vm.netns(), Station::NIC);
    for (address, wanted) in FAR.both().into_iter().zip([NARROW - 40, NARROW - 60]) {
        let mut tcp = Connection::open(vm.netns(), 0, &lab.far, at(address, 0));
        for (sniffer, from, ack) in [
            (&lab.wire, UPLINK.like(address), false),
            (&inside, address, true),
        ] {
            sniffer.expect("its segments are short", |packet| {
                let ip = packet.ip();
                ip.and_then(|ip| announced(&ip, from, ack)) == Some(wanted)
            });
        }
        tcp.exchange(2 << 20, 2 << 20);
    }
}

#[test]
fn mss_of_a_number_is_that() {
    let (lab, vm) = lab();
    lab.host.vnet("set mss_clamp=1200");
    check(&lab, &vm, [1200, 1200], 1 << 20);
    // No more than is announced anyway.
    lab.host.vnet("set mss_clamp=9000");
    check(&lab, &vm, [1460, 1440], 1 << 20);
}

#[test]
fn mss_is_left_alone_when_off() {
    let (lab, vm) = lab();
    check(&lab, &vm, [1460, 1440], 1 << 20);
    narrow_uplink(&lab);
    check(&lab, &vm, [1460, 1440], 1000);
    lab.host.vnet("set mss_clamp=auto");
    check(&lab, &vm, [NARROW - 40, NARROW - 60], 1000);
    lab.host.vnet("set mss_clamp=off");
    check(&lab, &vm, [1460, 1440], 1000);
}

/// What becomes of a SYN's options.
#[track_caller]
fn check_options(cases: impl Fn([u8; 2]) -> Vec<(Vec<u8>, Vec<u8>)>) {
    let lab = Lab::masquerading("");
    let vm = lab.vm(11);
    narrow_uplink(&lab);
    lab.host.vnet("set mss_clamp=auto");
    for (address, own) in PHYS.both().into_iter().zip(vm.address.both()) {
        let limit = NARROW - if address.is_ipv4() { 40 } else { 60 };
        for (number, (sent, wanted)) in (0..).zip(cases(limit.to_be_bytes())) {
            lab.wire.clear();
            let (from, to) = (at(own, 31_000 + number), at(address, 9));
            let syn = craft::tcp_segment(from, to, [7, 0], craft::SYN, &sent, b"");
            lab.send_from_vm(&vm, &craft::ip(own, address, 6, &syn));
            let packet = lab.wire.expect("the SYN is outside", |packet| {
                let ip = packet.ip();
                ip.is_some_and(|ip| ip.dst == address && ip.ports() == Some([from.port(), 9]))
            });
            let ip = packet.ip().expect("it was just read");
            assert_eq!(ip.payload[20..], wanted, "{sent:02x?}");
            assert!(transport_sum_is_right(&ip), "{sent:02x?}: {packet:02x?}");
        }
    }
}

/// Nothing but the option's value changes; a SYN without it gets none.
#[test]
fn mss_among_other_options() {
    check_options(|[high, low]| {
        let same = |options: &[u8]| (options.to_vec(), options.to_vec());
        vec![
            (vec![2, 4, 5, 0xb4], vec![2, 4, high, low]),
            (
                vec![1, 3, 3, 7, 4, 2, 2, 4, 0x22, 0xc4, 0, 0],
                vec![1, 3, 3, 7, 4, 2, 2, 4, high, low, 0, 0],
            ),
            same(&[2, 4, 2, 0]),
            same(&[4, 2, 1, 1]),
            same(&[]),
            // Behind the end of the list, and cut off: no such option.
            same(&[0, 2, 4, 5, 0xb4, 0, 0, 0]),
            same(&[1, 1, 2, 4]),
        ]
    });
}

/// The value's bytes are in two words of the checksum's.
#[test]
fn mss_at_an_odd_place() {
    check_options(|[high, low]| {
        vec![
            (
                vec![1, 2, 4, 5, 0xb4, 1, 1, 1],
                vec![1, 2, 4, high, low, 1, 1, 1],
            ),
            (
                vec![3, 3, 7, 2, 4, 0x22, 0xc4, 0],
                vec![3, 3, 7, 2, 4, high, low, 0],
            ),
        ]
    });
}
