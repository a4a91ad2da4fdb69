//! UDP that a program hands over in one buffer and leaves to be cut (UDP_SEGMENT): the gateway
//! translates the buffer whole, and every datagram of it has to come out right.

use std::{
    net::{SocketAddr, UdpSocket},
    time::Duration,
};

use vnet_tests::nat::{
    Datagrams, FAR, GATEWAY, Lab, PHYS, UPLINK, any, complaint, cut_into, dont_fragment,
    header_sum, hear_errors, transport_sum_is_right, udp,
};

use crate::at;

/// How long a datagram's bytes are, and of how many bytes a buffer is made: whole ones only, an odd
/// last one, a last one of one byte, many small ones.
const CUTS: [(u16, usize); 5] = [
    (1200, 6 * 1200),
    (1200, 5 * 1200 + 333),
    (1201, 4 * 1201 + 1),
    (1452, 30 * 1452 + 700),
    (33, 60 * 33 + 7),
];

/// Bytes that differ from place to place, so that a datagram in another's place is noticed.
fn content(length: usize) -> Vec<u8> {
    (0..length)
        .map(|place| (place * 31 + place / 256) as u8)
        .collect()
}

/// Sends a buffer of `length` bytes that is cut into datagrams of `segment`, and compares what arrives
/// at `server`. Gives who it says it is from.
#[track_caller]
fn send_cut(
    client: &UdpSocket,
    to: SocketAddr,
    server: &UdpSocket,
    (segment, length): (u16, usize),
) -> SocketAddr {
    let sent = content(length);
    cut_into(client, segment);
    assert_eq!(client.send_to(&sent, to).unwrap(), length);
    let mut got = vec![0; 1 << 16];
    let (count, mut from) = (sent.chunks(segment.into()).count(), None);
    for (number, part) in sent.chunks(segment.into()).enumerate() {
        let of = format!("datagram {number} of {count}, {segment} bytes each, to {to}");
        let (received, peer) = match server.recv_from(&mut got) {
            Ok(got) => got,
            Err(error) => panic!("{of}: {error}"),
        };
        assert_eq!(received, part.len(), "{of}");
        assert!(got[..received] == *part, "{of} arrived changed");
        assert_eq!(*from.get_or_insert(peer), peer, "{of}");
    }
    from.expect("there is a datagram")
}

/// Every one of [`CUTS`] there and back again.
#[track_caller]
fn both_ways(datagrams: &Datagrams) -> SocketAddr {
    // By an address: the socket is connected to it.
    let mut by_server = None;
    for cut in CUTS {
        let peer = send_cut(&datagrams.client, datagrams.address, &datagrams.server, cut);
        let from = send_cut(&datagrams.server, peer, &datagrams.client, cut);
        assert_eq!(from, datagrams.address);
        assert_eq!(*by_server.get_or_insert(peer), peer);
    }
    by_server.expect("there is a size")
}

#[test]
fn gso_udp_out_and_back() {
    let lab = Lab::masquerading("");
    let vm = lab.vm(11);
    for (to, address) in crate::outside(&lab) {
        let datagrams = Datagrams::between(vm.netns(), 0, to, at(address, 0));
        lab.wire.clear();
        let peer = both_ways(&datagrams);
        assert_eq!(peer.ip(), UPLINK.like(address));
        // The buffers were not cut on the way: else this says nothing of them.
        let packets = lab.wire.packets();
        let whole = packets.iter().filter(|packet| packet.bytes.len() > 2000);
        assert!(whole.count() >= 3, "{address}: they were cut before");
    }
}

#[test]
fn gso_udp_by_a_forward() {
    let lab = Lab::masquerading("");
    let vm = lab.vm(11);
    for (address, inside) in UPLINK.both().into_iter().zip(vm.address.both()) {
        let (listen, to) = (at(address, 5000), at(inside, 5001));
        lab.rule(&format!("dnat --proto udp --listen {listen} --to {to}"));
        let server = udp(vm.netns(), inside, 5001);
        let datagrams = Datagrams::through(&lab.far, 0, listen, server);
        assert_eq!(both_ways(&datagrams).ip(), FAR.like(address));
    }
}

/// Back inside by an external address both ends are replaced.
#[test]
fn gso_udp_from_vm_to_vm_by_a_forward() {
    let lab = Lab::masquerading("");
    let [one, two] = [11, 12].map(|number| lab.vm(number));
    for (address, inside) in UPLINK.both().into_iter().zip(two.address.both()) {
        let (listen, to) = (at(address, 5000), at(inside, 5001));
        lab.rule(&format!("dnat --proto udp --listen {listen} --to {to}"));
        let server = udp(two.netns(), inside, 5001);
        let datagrams = Datagrams::through(one.netns(), 0, listen, server);
        assert_eq!(both_ways(&datagrams).ip(), address);
    }
}

/// An uplink that cuts nothing and sums nothing up has the kernel do it, after the translation: each
/// datagram on the wire is as it would be had the VM cut it.
#[test]
fn gso_udp_is_cut_with_right_checksums() {
    let lab = Lab::masquerading("");
    let vm = lab.vm(11);
    lab.host
        .sh("ethtool -K up0 tx-udp-segmentation off && ethtool -K up0 tx off");
    for address in PHYS.both() {
        let datagrams = Datagrams::between(vm.netns(), 0, lab.phys.netns(), at(address, 0));
        for cut in CUTS {
            lab.wire.clear();
            let (segment, length) = cut;
            let peer = send_cut(&datagrams.client, datagrams.address, &datagrams.server, cut);
            let packets = lab.wire.packets();
            let mut seen = Vec::new();
            for packet in &packets {
                let Some(ip) = packet.ip().filter(|ip| ip.proto == 17) else {
                    continue;
                };
                assert_eq!(ip.ports(), Some([peer.port(), datagrams.address.port()]));
                assert!(transport_sum_is_right(&ip), "{cut:?}: {packet:02x?}");
                assert_ne!(ip.payload[6..8], [0, 0], "{cut:?}: it has none");
                if address.is_ipv4() {
                    assert_eq!(header_sum(ip.header), 0xffff, "{cut:?}: {packet:02x?}");
                }
                seen.push(ip.payload.len() - 8);
            }
            let whole = length / usize::from(segment);
            let mut wanted = vec![usize::from(segment); whole];
            wanted.extend(Some(length % usize::from(segment)).filter(|rest| *rest != 0));
            assert_eq!(seen, wanted, "{address}");
        }
    }
}

/// The segments would be too long for the uplink: whoever sends them is told, and what fits goes on.
#[test]
fn gso_udp_too_long_for_the_uplink_is_told() {
    let lab = Lab::masquerading("");
    let vm = lab.vm(11);
    lab.host.ip("link set up0 mtu 1300");
    lab.phys.ip("link set eth0 mtu 1300");
    for address in FAR.both() {
        let server = udp(&lab.far, address, 7000);
        let client = udp(vm.netns(), any(address), 0);
        hear_errors(&client);
        dont_fragment(&client);
        client.connect(server.local_addr().unwrap()).unwrap();
        cut_into(&client, 1400);
        client.send(&content(5 * 1400 + 9)).unwrap();
        let told = complaint(&client, Duration::from_secs(4))
            .unwrap_or_else(|| panic!("{address}: no error"));
        assert_eq!((told.errno, told.info), (libc::EMSGSIZE, 1300), "{told:?}");
        assert_eq!(told.from, GATEWAY.like(address), "{told:?}");
        assert!(
            client.send(&content(5 * 1400 + 9)).is_err(),
            "the kernel has learned it"
        );
        let short = Some(Duration::from_millis(200));
        server.set_read_timeout(short).unwrap();
        assert!(server.recv_from(&mut [0; 2048]).is_err(), "nothing of it");
        server
            .set_read_timeout(Some(Duration::from_secs(4)))
            .unwrap();
        let headers = if address.is_ipv4() { 28 } else { 48 };
        for segment in [1300 - headers, 1200] {
            let cut = (segment, 5 * usize::from(segment) + 333);
            send_cut(&client, server.local_addr().unwrap(), &server, cut);
        }
    }
}
