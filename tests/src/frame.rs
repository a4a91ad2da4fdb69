//! Frames as fixtures describe them.

pub mod ip;
pub mod raw;

use anyhow::{Context as _, Result, bail, ensure};
use etherparse::PacketBuilder;
use vnet_common::Mac;
use vnet_ebpf::meta::{Hook, TPID_8021AD, TPID_8021Q, Tag};

use crate::{
    setup::Setup,
    switch::{Frame, token},
};

/// ff:ff:ff:ff:ff:ff.
pub const BROADCAST: Mac = [0xff; 6];
/// An IPv6 multicast group's address.
pub const MULTICAST: Mac = [0x33, 0x33, 0, 0, 0, 0xfb];
/// Addresses of VMs and of hosts on the physical network.
pub const A: Mac = [0x02, 0, 0, 0, 0, 0x0a];
/// See [`A`].
pub const B: Mac = [0x02, 0, 0, 0, 0, 0x0b];
/// See [`A`].
pub const C: Mac = [0x02, 0, 0, 0, 0, 0x0c];
/// See [`A`].
pub const D: Mac = [0x02, 0, 0, 0, 0, 0x0d];

/// Address number `n` of a range that nothing else uses.
#[must_use]
pub fn numbered(n: u16) -> Mac {
    let [high, low] = n.to_be_bytes();
    [0x02, 0, 0, 1, high, low]
}

/// EtherType for local experiments (IEEE 802, 9.2.4).
const EXPERIMENTAL: u16 = 0x88b5;
/// Bytes behind the EtherType that make the least frame, the FCS left out.
const LEAST_PAYLOAD: usize = 46;

/// Where the token of an own redirect is to be found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum TokenOf {
    None,
    /// The hook's own: the frame is one that the switch sent here.
    Own,
    /// That of the same interface's other direction.
    OtherDirection,
}

/// A frame at a hook.
#[derive(Clone, Debug)]
pub struct Spec {
    hook: Hook,
    port: &'static str,
    dst: Mac,
    src: Mac,
    tags: Vec<Tag>,
    tags_in_bytes: bool,
    /// EtherType and what follows.
    body: Vec<u8>,
    /// Bytes in all, tags in the bytes included.
    cut: Option<usize>,
    gso_size: u32,
    gso_segs: u32,
    token: TokenOf,
    linear: Option<usize>,
    forwarded: bool,
}

fn spec(hook: Hook, port: &'static str, dst: Mac, src: Mac) -> Spec {
    let mut body = EXPERIMENTAL.to_be_bytes().to_vec();
    body.extend((0..LEAST_PAYLOAD).map(|i| i as u8));
    Spec {
        hook,
        port,
        dst,
        src,
        tags: Vec::new(),
        tags_in_bytes: hook == Hook::Xdp,
        body,
        cut: None,
        gso_size: 0,
        gso_segs: 0,
        token: TokenOf::None,
        linear: None,
        forwarded: false,
    }
}

/// What comes in at a port: from a VM or a wire, 60 bytes unless said otherwise.
#[must_use]
pub fn from(port: &'static str, dst: Mac, src: Mac) -> Spec {
    spec(Hook::TcIngress, port, dst, src)
}

/// What the host sends out of the switch device or an uplink.
#[must_use]
pub fn host(port: &'static str, dst: Mac, src: Mac) -> Spec {
    spec(Hook::TcEgress, port, dst, src)
}

/// What an uplink sees in XDP.
#[must_use]
pub fn xdp(port: &'static str, dst: Mac, src: Mac) -> Spec {
    spec(Hook::Xdp, port, dst, src)
}

impl Spec {
    /// Its tags, the outer one first; see [`parse_tags`].
    #[must_use]
    pub fn tags(mut self, tags: &str) -> Self {
        self.tags = parse_tags(tags).expect("a fixture's tags are readable");
        self
    }

    /// Of what the host sends: it came in elsewhere, and the host sends it on.
    #[must_use]
    pub fn forwarded(mut self) -> Self {
        self.forwarded = true;
        self
    }

    /// At TC, every tag is in the bytes: a frame that a program on the host built so.
    #[must_use]
    pub fn tags_in_bytes(mut self) -> Self {
        self.tags_in_bytes = true;
        self
    }

    /// EtherType and payload, all zeros.
    #[must_use]
    pub fn ether_type(mut self, ether_type: u16, payload: usize) -> Self {
        self.body = ether_type.to_be_bytes().to_vec();
        self.body.resize(2 + payload, 0);
        self
    }

    /// EtherType and what follows.
    #[must_use]
    pub fn body(mut self, body: Vec<u8>) -> Self {
        self.body = body;
        self
    }

    /// An IP packet, and nothing behind it.
    #[must_use]
    pub fn packet(mut self, packet: &ip::Packet) -> Self {
        self.body = packet.ether_type().to_be_bytes().to_vec();
        self.body.extend(packet.bytes());
        self
    }

    /// A payload of `len` bytes behind the EtherType.
    #[must_use]
    pub fn payload(self, len: usize) -> Self {
        self.ether_type(EXPERIMENTAL, len)
    }

    /// TCP over IPv4 with `payload` bytes.
    #[must_use]
    pub fn tcp4(self, payload: usize) -> Self {
        self.ip(
            PacketBuilder::ethernet2([0; 6], [0; 6])
                .ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64)
                .tcp(40_000, 80, 1, 1024),
            payload,
            false,
        )
    }

    /// TCP over IPv4 with twelve bytes of options, as with timestamps.
    #[must_use]
    pub fn tcp4_options(self, payload: usize) -> Self {
        use etherparse::TcpOptionElement::{Noop, Timestamp};
        let builder = PacketBuilder::ethernet2([0; 6], [0; 6])
            .ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64)
            .tcp(40_000, 80, 1, 1024)
            .options(&[Noop, Noop, Timestamp(1, 2)])
            .expect("the options fit");
        self.ip(builder, payload, false)
    }

    /// TCP over IPv6 with `payload` bytes.
    #[must_use]
    pub fn tcp6(self, payload: usize) -> Self {
        self.ip(
            PacketBuilder::ethernet2([0; 6], [0; 6])
                .ipv6([1; 16], [2; 16], 64)
                .tcp(40_000, 80, 1, 1024),
            payload,
            true,
        )
    }

    /// UDP over IPv4 with `payload` bytes.
    #[must_use]
    pub fn udp4(mut self, payload: usize) -> Self {
        let builder = PacketBuilder::ethernet2([0; 6], [0; 6])
            .ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64)
            .udp(40_000, 53);
        let mut frame = Vec::new();
        builder
            .write(&mut frame, &vec![0; payload])
            .expect("a vector takes what is written");
        self.body = frame.split_off(12);
        self
    }

    /// A header of TCP with more payload than an IP header can say, as a GSO buffer holds.
    fn ip(
        mut self,
        builder: etherparse::PacketBuilderStep<etherparse::TcpHeader>,
        payload: usize,
        ipv6: bool,
    ) -> Self {
        let mut frame = Vec::new();
        builder
            .write(&mut frame, &[])
            .expect("a vector takes what is written");
        let headers = frame.len() - 14;
        frame.resize(frame.len() + payload, 0x55);
        // The length fields that the builder could not know. 0 where it does not fit (RFC 2675).
        let (at, len) = if ipv6 {
            (18, headers - 40 + payload)
        } else {
            (16, headers + payload)
        };
        let len = u16::try_from(len).unwrap_or(0);
        frame[at..at + 2].copy_from_slice(&len.to_be_bytes());
        self.body = frame.split_off(12);
        self
    }

    /// It is a GSO buffer of segments with `size` bytes of payload; the kernel tells `segs`, or not.
    #[must_use]
    pub fn gso(mut self, size: u32, segs: u32) -> Self {
        self.gso_size = size;
        self.gso_segs = segs;
        self
    }

    /// Its first `len` bytes alone; tags in metadata are not among them.
    #[must_use]
    pub fn cut(mut self, len: usize) -> Self {
        self.cut = Some(len);
        self
    }

    /// Only `len` bytes are in the linear head, or in the first buffer.
    #[must_use]
    pub fn linear(mut self, len: usize) -> Self {
        self.linear = Some(len);
        self
    }

    /// It carries the token of the switch's own redirect to this hook.
    #[must_use]
    pub fn redirected(mut self) -> Self {
        self.token = TokenOf::Own;
        self
    }

    /// It carries the token of a redirect to this interface in the other direction.
    #[must_use]
    pub fn redirected_the_other_way(mut self) -> Self {
        self.token = TokenOf::OtherDirection;
        self
    }

    /// The frame on a wire, with `tags` in place of its own.
    #[must_use]
    pub fn wire(&self, tags: &[Tag]) -> Vec<u8> {
        let mut wire = [self.dst, self.src].concat();
        for tag in tags {
            wire.extend(tag.tpid.to_be_bytes());
            wire.extend(tag.tci.to_be_bytes());
        }
        wire.extend(&self.body);
        wire
    }

    /// Its tags as it comes in.
    #[must_use]
    pub fn own_tags(&self) -> &[Tag] {
        &self.tags
    }

    /// How many bytes are missing of the whole frame.
    #[must_use]
    pub fn is_cut(&self) -> bool {
        self.cut.is_some()
    }

    /// The frame as the machines take it.
    ///
    /// # Errors
    /// The port has no interface.
    pub fn frame(&self, setup: &Setup) -> Result<Frame> {
        let device = setup
            .devices
            .get(self.port)
            .with_context(|| format!("there is no interface {}", self.port))?;
        // The kernel takes a tag to metadata when it is one that it knows.
        let in_metadata = !self.tags_in_bytes
            && self
                .tags
                .first()
                .is_some_and(|tag| matches!(tag.tpid, TPID_8021Q | TPID_8021AD));
        let (tag, in_bytes) = match self.tags.split_first() {
            Some((tag, rest)) if in_metadata => (*tag, rest),
            _ => (Tag::NONE, self.tags.as_slice()),
        };
        let mut bytes = self.wire(in_bytes);
        if let Some(len) = self.cut {
            ensure!(len <= bytes.len(), "there are {} bytes to cut", bytes.len());
            bytes.truncate(len);
        }
        let to_stack = self.hook == Hook::TcIngress;
        Ok(Frame {
            hook: self.hook,
            ifindex: device.ifindex,
            bytes,
            tag,
            tc_index: match self.token {
                TokenOf::None => 0,
                TokenOf::Own => token(device.ifindex, to_stack),
                TokenOf::OtherDirection => token(device.ifindex, !to_stack),
            },
            gso_size: self.gso_size,
            gso_segs: self.gso_segs,
            forwarded: self.forwarded,
            linear: self.linear,
        })
    }
}

/// Reads tags: `10` is VLAN 10 with the TPID 0x8100, `10,20` has 20 inside, `88a8:10` another TPID,
/// `10p5` priority 5, `10p5d` drop eligible too; nothing is no tag.
///
/// # Errors
/// It is not spelled so.
pub fn parse_tags(text: &str) -> Result<Vec<Tag>> {
    text.split(',')
        .filter(|tag| !tag.is_empty())
        .map(|tag| {
            let (tpid, tci) = match tag.split_once(':') {
                Some((tpid, tci)) => (u16::from_str_radix(tpid, 16)?, tci),
                None => (TPID_8021Q, tag),
            };
            let (tci, drop_eligible) = match tci.strip_suffix('d') {
                Some(tci) => (tci, 1),
                None => (tci, 0),
            };
            let (vid, priority) = match tci.split_once('p') {
                Some((vid, priority)) => (vid.parse::<u16>()?, priority.parse::<u16>()?),
                None => (tci.parse()?, 0),
            };
            if vid > 0xfff || priority > 7 {
                bail!("{tag} is not a tag");
            }
            let tci = priority << 13 | drop_eligible << 12 | vid;
            Ok(Tag { tpid, tci })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_as_fixtures_spell_them() {
        let tag = |tpid, tci| Tag { tpid, tci };
        for (text, tags) in [
            ("", vec![]),
            ("10", vec![tag(0x8100, 10)]),
            ("88a8:10,20", vec![tag(0x88a8, 10), tag(0x8100, 20)]),
            ("0p5", vec![tag(0x8100, 0xa000)]),
            ("1p7d", vec![tag(0x8100, 0xf001)]),
        ] {
            assert_eq!(parse_tags(text).expect(text), tags, "{text}");
        }
        assert!(parse_tags("4096").is_err());
    }

    #[test]
    fn packets_have_the_headers_that_they_say() {
        let len = |spec: Spec| spec.body.len();
        assert_eq!(len(from("p", A, B)), 48);
        assert_eq!(len(from("p", A, B).tcp4(100)), 2 + 20 + 20 + 100);
        assert_eq!(len(from("p", A, B).tcp4_options(100)), 2 + 20 + 32 + 100);
        assert_eq!(len(from("p", A, B).tcp6(64_000)), 2 + 40 + 20 + 64_000);
        assert_eq!(len(from("p", A, B).udp4(8)), 2 + 20 + 8 + 8);
    }
}
