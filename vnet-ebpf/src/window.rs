//! The one way into a packet.

/// A view of a frame's first bytes.
///
/// At TC that is the linear head of the socket buffer, which may be shorter than the frame; in XDP
/// the first buffer. An outer VLAN tag that the kernel holds in metadata is not in it.
pub trait Window {
    /// The `N` bytes at `offset`, counted from the Ethernet header, or `None` when they are not all
    /// in the window. Never panics, whatever the offset.
    fn at<const N: usize>(&self, offset: usize) -> Option<&[u8; N]>;
}

/// Offsets from here on are refused: no header is that far in, and the verifier needs a bound.
pub const MAX_OFFSET: usize = 0xfff;

impl Window for [u8] {
    fn at<const N: usize>(&self, offset: usize) -> Option<&[u8; N]> {
        if offset > MAX_OFFSET {
            return None;
        }
        self.get(offset..)?.first_chunk()
    }
}
