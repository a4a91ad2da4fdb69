//! Traffic through a NAT gateway: a VM inside speaks UDP with many remote ends outside.
//!
//! ```text
//!   VM 10.0.0.2 ── 10.0.0.1 gateway 203.0.113.1 ── 203.0.113.254 router ── remote ends 198.18.0.0/15
//! ```
//!
//! A flow is a number. Its remote end and the VM's port follow from it, and the gateway is expected
//! to keep the port, as one does whose mappings are endpoint-independent and whose port is free: so
//! the packets of both directions can be written without asking the gateway.

use vnet_common::{FlowKey, Mac, flow::mapped};

use super::FRAME_LEN;

/// The VM's address.
pub const VM: [u8; 4] = [10, 0, 0, 2];
/// The gateway's address inside.
pub const GATEWAY: [u8; 4] = [10, 0, 0, 1];
/// The gateway's address outside.
pub const EXTERNAL: [u8; 4] = [203, 0, 113, 1];
/// The gateway's next hop outside.
pub const ROUTER: [u8; 4] = [203, 0, 113, 254];
/// The VM's MAC address.
pub const VM_MAC: Mac = [0x02, 0x76, 0, 0, 0, 2];
/// The router's MAC address.
pub const ROUTER_MAC: Mac = [0x02, 0x77, 0, 0, 0, 2];
/// The port of every remote end.
pub const REMOTE_PORT: u16 = 9;

/// Ports that the VM sends from: as many flows in a row differ in their port, then comes another
/// remote end. A multiple of the generator's batch.
pub const PORTS: u32 = 30_720;
/// The first of them. All are below the ports that Linux gives to its own sockets by default.
const FIRST_PORT: u16 = 2048;
/// The first remote end, 198.18.0.1 (RFC 2544, appendix C.2.2).
const FIRST_REMOTE: u32 = 0xc612_0001;

/// The remote end's address of flow number `flow`.
#[inline(always)]
#[must_use]
pub const fn remote(flow: u32) -> [u8; 4] {
    (FIRST_REMOTE + flow / PORTS).to_be_bytes()
}

/// The port of flow number `flow`: the VM's, and the gateway's outside.
#[inline(always)]
#[must_use]
pub const fn port(flow: u32) -> u16 {
    FIRST_PORT + (flow % PORTS) as u16
}

/// A frame of a flow as the VM sends it, to the gateway's MAC address `to`.
#[inline(always)]
#[must_use]
pub const fn outgoing(flow: u32, to: Mac) -> [u8; FRAME_LEN] {
    udp([to, VM_MAC], [VM, remote(flow)], [port(flow), REMOTE_PORT])
}

/// A frame of a flow as the router hands it over, to the gateway's MAC address `to`.
#[inline(always)]
#[must_use]
pub const fn incoming(flow: u32, to: Mac) -> [u8; FRAME_LEN] {
    udp(
        [to, ROUTER_MAC],
        [remote(flow), EXTERNAL],
        [REMOTE_PORT, port(flow)],
    )
}

/// A frame that answers [`outgoing`] where nobody translates: from the router to the VM, to the MAC
/// address `to`.
#[inline(always)]
#[must_use]
pub const fn answering(flow: u32, to: Mac) -> [u8; FRAME_LEN] {
    udp(
        [to, ROUTER_MAC],
        [remote(flow), VM],
        [REMOTE_PORT, port(flow)],
    )
}

/// What a table without segments knows the packets of [`outgoing`] by.
#[must_use]
pub fn outgoing_key(flow: u32) -> FlowKey {
    key([VM, remote(flow)], [port(flow), REMOTE_PORT])
}

/// What a table without segments knows the packets of [`incoming`] by.
#[must_use]
pub fn incoming_key(flow: u32) -> FlowKey {
    key([remote(flow), EXTERNAL], [REMOTE_PORT, port(flow)])
}

fn key([src, dst]: [[u8; 4]; 2], [sport, dport]: [u16; 2]) -> FlowKey {
    FlowKey {
        src: mapped(src),
        dst: mapped(dst),
        sport,
        dport,
        proto: UDP,
        ..FlowKey::default()
    }
}

const UDP: u8 = 17;
/// From the IP header on.
const IP_LEN: u16 = FRAME_LEN as u16 - 14;
/// From the UDP header on.
const UDP_LEN: u16 = IP_LEN - 20;
const TTL: u8 = 64;

/// A frame of UDP over IPv4 with both checksums, its payload zeroes.
#[inline(always)]
const fn udp(
    [to, from]: [Mac; 2],
    [src, dst]: [[u8; 4]; 2],
    [sport, dport]: [u16; 2],
) -> [u8; FRAME_LEN] {
    let addresses =
        word(src[0], src[1]) + word(src[2], src[3]) + word(dst[0], dst[1]) + word(dst[2], dst[3]);
    let ip = fold(0x4500 + IP_LEN as u32 + word(TTL, UDP) + addresses).to_be_bytes();
    // The pseudo-header holds the length once more (RFC 768). That no sum is sent as 0 matters to
    // one flow in 65,536: it goes without.
    let ports = sport as u32 + dport as u32;
    let sum = fold(addresses + UDP as u32 + ports + 2 * UDP_LEN as u32).to_be_bytes();
    let (sport, dport) = (sport.to_be_bytes(), dport.to_be_bytes());
    let header = [
        to[0],
        to[1],
        to[2],
        to[3],
        to[4],
        to[5], // To.
        from[0],
        from[1],
        from[2],
        from[3],
        from[4],
        from[5], // From.
        0x08,
        0x00, // IPv4.
        0x45,
        0,
        0,
        IP_LEN as u8,
        0,
        0,
        0,
        0,
        TTL,
        UDP,
        ip[0],
        ip[1], // No fragment.
        src[0],
        src[1],
        src[2],
        src[3],
        dst[0],
        dst[1],
        dst[2],
        dst[3], // From, to.
        sport[0],
        sport[1],
        dport[0],
        dport[1],
        0,
        UDP_LEN as u8,
        sum[0],
        sum[1], // UDP.
    ];
    let mut frame = [0; FRAME_LEN];
    let mut i = 0;
    while i < header.len() {
        frame[i] = header[i];
        i += 1;
    }
    frame
}

#[inline(always)]
const fn word(high: u8, low: u8) -> u32 {
    u16::from_be_bytes([high, low]) as u32
}

/// The Internet checksum of a sum of 16-bit words (RFC 1071).
#[inline(always)]
const fn fold(sum: u32) -> u16 {
    let sum = (sum & 0xffff) + (sum >> 16);
    !((sum & 0xffff) + (sum >> 16)) as u16
}

/// What the floor's table says of one direction of a flow.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug)]
pub struct Rewrite {
    /// Packets so far.
    pub packets: u64,
    /// Bytes so far.
    pub bytes: u64,
    /// MAC addresses that the frame leaves with: to, from.
    pub macs: [Mac; 2],
    /// The interface that it leaves by.
    pub ifindex: u32,
    /// The address that replaces one, in network order.
    pub addr: [u8; 4],
    /// The port that replaces one, in network order.
    pub port: [u8; 2],
    /// Always zero: an entry is as large as a cache line.
    pub reserved: [u8; 26],
}

const _: () = assert!(size_of::<Rewrite>() == 64, "no padding");

#[cfg(test)]
mod tests {
    use super::*;

    fn sum(bytes: &[u8]) -> u32 {
        let words = bytes.chunks(2);
        words.map(|pair| word(pair[0], pair[1])).sum()
    }

    #[test]
    fn both_checksums_are_true() {
        for flow in [0, 1, PORTS - 1, PORTS, 999_999, u32::MAX] {
            for frame in [
                outgoing(flow, [2; 6]),
                incoming(flow, [4; 6]),
                answering(flow, [6; 6]),
            ] {
                assert_eq!(fold(sum(&frame[14..34])), 0, "the IPv4 header's");
                let pseudo = sum(&frame[26..34]) + u32::from(UDP) + u32::from(UDP_LEN);
                assert_eq!(fold(sum(&frame[34..]) + pseudo), 0, "UDP's");
            }
        }
    }

    #[test]
    fn a_flow_has_a_port_and_a_remote_end_of_its_own() {
        let last = (remote(PORTS - 1), port(PORTS - 1));
        assert_eq!(last, ([198, 18, 0, 1], 32767));
        assert_eq!((remote(PORTS), port(PORTS)), ([198, 18, 0, 2], 2048));
        // Two thousand million flows later all remote ends are still in the range for tests.
        assert!(remote(u32::MAX / 2) < [198, 20, 0, 0]);
    }

    #[test]
    fn directions_mirror_each_other() {
        let (out, back) = (outgoing(70_000, [2; 6]), incoming(70_000, [2; 6]));
        assert_eq!(out[30..34], back[26..30], "the remote end");
        assert_eq!(out[34..36], back[36..38], "the port");
        let answer = answering(70_000, [2; 6]);
        assert_eq!(
            (&out[26..30], &out[30..34]),
            (&answer[30..34], &answer[26..30])
        );
        assert_eq!(outgoing_key(70_000).dst, incoming_key(70_000).src);
    }
}
