//! ICMP errors and the path's MTU: what a router outside says about a VM's packets reaches the VM as
//! if it were about those, and the other way round.

use std::{io, net::IpAddr, time::Duration};

use vnet_tests::nat::{
    Connection, FAR, GATEWAY, Lab, PHYS, UPLINK, any, complaint, dont_fragment, hear_errors, udp,
};

use crate::at;

/// How long an error may take.
const LIMIT: Duration = Duration::from_secs(3);

/// A port that nobody has.
const CLOSED: u16 = 33_999;

#[test]
fn icmp_port_unreachable_reaches_the_vm() {
    let lab = Lab::masquerading("");
    let vm = lab.vm(11);
    for (_, address) in crate::outside(&lab) {
        // The kernel matches the error by the packet in it, ports and addresses, all of which must
        // have been translated back.
        let socket = udp(vm.netns(), any(address), 0);
        hear_errors(&socket);
        socket.connect(at(address, CLOSED)).unwrap();
        socket.send(b"is anybody there?").unwrap();
        let told = complaint(&socket, LIMIT).unwrap_or_else(|| panic!("{address}: no error"));
        assert_eq!(told.errno, libc::ECONNREFUSED, "{told:?}");
        assert_eq!(told.from, address, "{told:?}");
        // As programs without the option see it.
        let socket = udp(vm.netns(), any(address), 0);
        socket.connect(at(address, CLOSED)).unwrap();
        socket.send(b"is anybody there?").unwrap();
        let refused = socket.recv(&mut [0; 64]).map_err(|error| error.kind());
        assert_eq!(refused, Err(io::ErrorKind::ConnectionRefused), "{address}");
    }
}

#[test]
fn icmp_tcp_to_a_closed_port_is_refused() {
    let lab = Lab::masquerading("");
    let vm = lab.vm(11);
    for (_, address) in crate::outside(&lab) {
        let refused = vnet_tests::nat::tcp_connect(vm.netns(), 0, at(address, CLOSED));
        let refused = refused.map(drop).map_err(|error| error.kind());
        assert_eq!(refused, Err(io::ErrorKind::ConnectionRefused), "{address}");
    }
}

/// What traceroute does: the first hop is the gateway, the second the router outside.
#[test]
fn icmp_time_exceeded_from_each_hop() {
    let lab = Lab::masquerading("");
    let vm = lab.vm(11);
    for (address, gateway, router) in [
        (
            IpAddr::from(FAR.v4),
            IpAddr::from(GATEWAY.v4),
            IpAddr::from(PHYS.v4),
        ),
        (FAR.v6.into(), GATEWAY.v6.into(), PHYS.v6.into()),
    ] {
        for (hops, hop) in [(1, gateway), (2, router)] {
            let socket = udp(vm.netns(), any(address), 0);
            hear_errors(&socket);
            socket.connect(at(address, 33_434)).unwrap();
            socket2::SockRef::from(&socket).set_ttl_of(address, hops);
            socket.send(b"how far is it?").unwrap();
            let told = complaint(&socket, LIMIT)
                .unwrap_or_else(|| panic!("{address}: no error from hop {hops}"));
            let time_exceeded = if address.is_ipv4() { 11 } else { 3 };
            assert_eq!((told.kind, told.code), (time_exceeded, 0), "{told:?}");
            assert_eq!(told.from, hop, "hop {hops}: {told:?}");
        }
        let ping = |hops: u32| {
            let line = format!("ping -n -c 1 -W 2 -t {hops} {address} || true");
            vm.sh(&line)
        };
        for (hops, hop) in [(1, gateway), (2, router)] {
            let text = ping(hops);
            let said = format!("From {hop}");
            assert!(text.contains(&said), "hop {hops}: {text}");
        }
        assert!(ping(3).contains(" 1 received"), "{}", ping(3));
    }
}

/// Sets what a packet may cross, whatever the family.
trait SetTtl {
    fn set_ttl_of(&self, address: IpAddr, hops: u32);
}

impl SetTtl for socket2::SockRef<'_> {
    fn set_ttl_of(&self, address: IpAddr, hops: u32) {
        match address {
            IpAddr::V4(_) => self.set_ttl_v4(hops).unwrap(),
            IpAddr::V6(_) => self.set_unicast_hops_v6(hops).unwrap(),
        }
    }
}

/// A VM's own error about what a forward brought it is sent as the listen address's.
#[test]
fn icmp_port_unreachable_from_a_vm_leaves_translated() {
    let lab = Lab::masquerading("");
    let vm = lab.vm(11);
    for (address, inside) in UPLINK.both().into_iter().zip(vm.address.both()) {
        let (listen, to) = (at(address, 5000), at(inside, CLOSED));
        lab.rule(&format!("dnat --proto udp --listen {listen} --to {to}"));
        for from in [lab.phys.netns(), &lab.far] {
            let socket = udp(from, any(address), 0);
            hear_errors(&socket);
            socket.connect(listen).unwrap();
            socket.send(b"is anybody there?").unwrap();
            let told = complaint(&socket, LIMIT)
                .unwrap_or_else(|| panic!("no error from {listen} in {}", from.name()));
            assert_eq!(told.errno, libc::ECONNREFUSED, "{told:?}");
            assert_eq!(told.from, address, "{told:?}");
        }
    }
    lab.assert_no_leaks();
    // The packets in those errors are whole and as they were outside.
    let subjects: Vec<_> = lab
        .wire
        .packets()
        .iter()
        .filter_map(|packet| {
            let subject = packet.ip()?.subject()?;
            Some((subject.dst, subject.ports()?[1]))
        })
        .collect();
    for address in UPLINK.both() {
        assert!(subjects.contains(&(address, 5000)), "{subjects:?}");
    }
}

/// The link behind the router takes less than the VM's.
fn narrow_far_link(lab: &Lab) {
    lab.phys.ip("link set far0 mtu 1300");
    lab.far.ip("link set eth0 mtu 1300").unwrap();
}

/// The uplink takes less than the VM's link.
fn narrow_uplink(lab: &Lab) {
    lab.host.ip("link set up0 mtu 1400");
    lab.phys.ip("link set eth0 mtu 1400");
}

/// Both directions of TCP work over a path narrower than its ends believe.
#[track_caller]
fn tcp_finds_the_mtu(lab: &Lab) {
    let vm = lab.vm(11);
    for (to, address) in [(&lab.far, FAR.v4.into()), (&lab.far, FAR.v6.into())] {
        // The far end would announce what it can take, and the path's MTU would never be found.
        let mut tcp = Connection::open(vm.netns(), 0, to, at(address, 0));
        tcp.exchange(2 << 20, 2 << 20);
    }
}

/// A datagram that must not be cut is too long once the path is known.
#[track_caller]
fn udp_is_told_the_mtu(lab: &Lab, mtu: u32, teller: [IpAddr; 2]) {
    let vm = lab.vm(12);
    for (address, teller) in FAR.both().into_iter().zip(teller) {
        let server = udp(&lab.far, address, 7000);
        let socket = udp(vm.netns(), any(address), 0);
        hear_errors(&socket);
        dont_fragment(&socket);
        socket.connect(at(address, 7000)).unwrap();
        socket.send(&[7; 1420]).unwrap();
        let told = complaint(&socket, LIMIT).unwrap_or_else(|| panic!("{address}: no error"));
        assert_eq!((told.errno, told.info), (libc::EMSGSIZE, mtu), "{told:?}");
        assert_eq!(told.from, teller, "{told:?}");
        let error = socket
            .send(&[7; 1420])
            .expect_err("the kernel has learned it");
        assert_eq!(error.raw_os_error(), Some(libc::EMSGSIZE));
        // What just fits gets through.
        let headers = if address.is_ipv4() { 28 } else { 48 };
        let fits = vec![7; mtu as usize - headers];
        socket.send(&fits).unwrap();
        let mut got = [0; 2048];
        assert_eq!(server.recv(&mut got).unwrap(), fits.len());
    }
}

#[test]
fn mtu_of_a_far_link_tcp() {
    let lab = Lab::masquerading("");
    narrow_far_link(&lab);
    tcp_finds_the_mtu(&lab);
}

#[test]
fn mtu_of_a_far_link_udp() {
    let lab = Lab::masquerading("");
    narrow_far_link(&lab);
    udp_is_told_the_mtu(&lab, 1300, PHYS.both());
}

#[test]
fn mtu_of_the_uplink_tcp() {
    let lab = Lab::masquerading("");
    narrow_uplink(&lab);
    tcp_finds_the_mtu(&lab);
}

/// The gateway itself tells the VM.
#[test]
fn mtu_of_the_uplink_udp() {
    let lab = Lab::masquerading("");
    narrow_uplink(&lab);
    udp_is_told_the_mtu(&lab, 1400, GATEWAY.both());
}

/// What comes from outside is too long for the VM's network: whoever sent it is told, by an address
/// from outside.
#[test]
fn mtu_of_the_vm_is_told_outside() {
    let lab = Lab::masquerading("");
    lab.host.ip("link set up0 mtu 9000");
    lab.phys.ip("link set eth0 mtu 9000");
    lab.phys.ip("link set far0 mtu 9000");
    lab.far.ip("link set eth0 mtu 9000").unwrap();
    let vm = lab.vm(11);
    for (address, inside) in UPLINK.both().into_iter().zip(vm.address.both()) {
        let (listen, to) = (at(address, 5000), at(inside, 5000));
        lab.rule(&format!("dnat --proto udp --listen {listen} --to {to}"));
        let server = udp(vm.netns(), inside, 5000);
        let socket = udp(&lab.far, any(address), 0);
        hear_errors(&socket);
        dont_fragment(&socket);
        socket.connect(listen).unwrap();
        socket.send(&[7; 4000]).unwrap();
        let told = complaint(&socket, LIMIT).unwrap_or_else(|| panic!("{address}: no error"));
        assert_eq!((told.errno, told.info), (libc::EMSGSIZE, 1500), "{told:?}");
        assert_eq!(told.from, address, "{told:?}");
        let headers = if address.is_ipv4() { 28 } else { 48 };
        let fits = vec![7; 1500 - headers];
        socket.send(&fits).unwrap();
        let mut got = [0; 2048];
        assert_eq!(server.recv(&mut got).unwrap(), fits.len());
    }
}
