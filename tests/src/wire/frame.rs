//! A frame of a test.

use std::{
    fmt,
    sync::atomic::{AtomicU32, Ordering},
};

use crate::host::Mac;

/// The EtherType of frames that say nothing else: IEEE 802's first one for local experiments.
pub const ETHER_TYPE: u16 = 0x88b5;

/// What every frame of a test carries, followed by its number.
const MARK: &[u8] = b"vnet test frame ";

/// An 802.1Q or 802.1ad tag.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Tag {
    /// 0x8100 or 0x88a8.
    pub tpid: u16,
    /// Priority, drop eligibility, VLAN id.
    pub tci: u16,
}

impl Tag {
    /// A C-tag with priority 0.
    #[must_use]
    pub const fn c(vid: u16) -> Self {
        Self {
            tpid: 0x8100,
            tci: vid,
        }
    }

    /// An S-tag with priority 0.
    #[must_use]
    pub const fn s(vid: u16) -> Self {
        Self {
            tpid: 0x88a8,
            tci: vid,
        }
    }

    /// The same tag with a priority.
    #[must_use]
    pub const fn priority(self, priority: u16) -> Self {
        Self {
            tci: self.tci & 0x1fff | priority << 13,
            ..self
        }
    }
}

impl fmt::Debug for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { tpid, tci } = self;
        write!(f, "{tpid:04x}:{} priority {}", tci & 0xfff, tci >> 13)
    }
}

/// A frame of a test. Each new one has a number of its own.
#[derive(Clone, PartialEq, Eq)]
pub struct Frame {
    dst: Mac,
    src: Mac,
    /// From the outermost on.
    tags: Vec<Tag>,
    ether_type: u16,
    payload: Vec<u8>,
}

impl Frame {
    /// An untagged frame of 60 bytes.
    #[must_use]
    pub fn new(src: Mac, dst: Mac) -> Self {
        Self {
            dst,
            src,
            tags: Vec::new(),
            ether_type: ETHER_TYPE,
            payload: mark_and_number(),
        }
        .padded(46)
    }

    /// An ARP announcement (RFC 5227, 2.3) of the address 10.0.0.`number` by `src`.
    #[must_use]
    pub fn gratuitous_arp(src: Mac, number: u8) -> Self {
        let address = [10, 0, 0, number];
        // Ethernet, IPv4, address lengths 6 and 4, request.
        let mut payload = vec![0, 1, 8, 0, 6, 4, 0, 1];
        payload.extend(src.0);
        payload.extend(address);
        payload.extend([0; 6]);
        payload.extend(address);
        payload.extend(mark_and_number());
        Self {
            ether_type: 0x0806,
            payload,
            ..Self::new(src, Mac::BROADCAST)
        }
    }

    /// A frame with this EtherType and what follows. The mark is behind it: padding to whoever goes by
    /// the lengths in headers.
    #[must_use]
    pub fn carrying(src: Mac, dst: Mac, body: &[u8]) -> Self {
        let (ether_type, payload) = body.split_first_chunk().expect("an EtherType");
        Self {
            ether_type: u16::from_be_bytes(*ether_type),
            payload: [payload, &mark_and_number()].concat(),
            ..Self::new(src, dst)
        }
        .padded(46)
    }

    /// The same frame, number and all, with these tags and no others, the outermost first.
    #[must_use]
    pub fn tagged(&self, tags: &[Tag]) -> Self {
        Self {
            tags: tags.to_vec(),
            ..self.clone()
        }
    }

    /// The same frame with a payload of at least `bytes`.
    #[must_use]
    pub fn padded(mut self, bytes: usize) -> Self {
        let length = self.payload.len().max(bytes);
        self.payload.resize(length, 0);
        self
    }

    /// As it is on a wire.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = [self.dst.0, self.src.0].concat();
        for tag in &self.tags {
            bytes.extend(tag.tpid.to_be_bytes());
            bytes.extend(tag.tci.to_be_bytes());
        }
        bytes.extend(self.ether_type.to_be_bytes());
        bytes.extend(&self.payload);
        bytes
    }

    /// Reads a frame off a wire; `None` for one that is no test's.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let marked = bytes.windows(MARK.len()).any(|window| window == MARK);
        if !marked {
            return None;
        }
        let (dst, rest) = bytes.split_first_chunk()?;
        let (src, mut rest) = rest.split_first_chunk()?;
        let mut tags = Vec::new();
        loop {
            let (word, after) = rest.split_first_chunk()?;
            let ether_type = u16::from_be_bytes(*word);
            if !matches!(ether_type, 0x8100 | 0x88a8) {
                return Some(Self {
                    dst: Mac(*dst),
                    src: Mac(*src),
                    tags,
                    ether_type,
                    payload: after.to_vec(),
                });
            }
            let (tci, after) = after.split_first_chunk()?;
            tags.push(Tag {
                tpid: ether_type,
                tci: u16::from_be_bytes(*tci),
            });
            rest = after;
        }
    }
}

fn mark_and_number() -> Vec<u8> {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    [MARK, &number.to_be_bytes()].concat()
}

impl fmt::Debug for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = self
            .payload
            .windows(MARK.len())
            .position(|window| window == MARK);
        let number = at
            .and_then(|at| self.payload.get(at + MARK.len()..))
            .and_then(|rest| rest.first_chunk())
            .map_or(0, |word| u32::from_be_bytes(*word));
        let Self {
            dst,
            src,
            tags,
            ether_type,
            payload,
        } = self;
        write!(
            f,
            "frame {number} ({src} to {dst}, tags {tags:?}, type {ether_type:04x}, "
        )?;
        write!(f, "payload {} bytes)", payload.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_and_back() {
        let frame = Frame::new(Mac::of(1), Mac::of(2));
        assert_eq!(frame.bytes().len(), 60);
        let tagged = frame.tagged(&[Tag::s(100).priority(5), Tag::c(7)]);
        let bytes = tagged.bytes();
        assert_eq!(bytes[12..20], [0x88, 0xa8, 0xa0, 100, 0x81, 0, 0, 7]);
        assert_eq!(Frame::parse(&bytes), Some(tagged));
        assert_eq!(Frame::parse(&[0; 60]), None);
        assert_ne!(frame, Frame::new(Mac::of(1), Mac::of(2)));
    }
}
