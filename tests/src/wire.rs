//! Frames byte by byte: taps that stand for a VM's cable, and packet sockets on any interface.
//!
//! What is sent and received here are frames as they are on a wire, tags in their place. Each
//! [`Frame`] carries a mark and a number, so that what the kernels send of their own accord
//! (neighbour discovery and the like) is told apart and passed over.

mod frame;
mod packet_socket;
mod tap;

use std::time::Duration;

pub use self::{
    frame::{ETHER_TYPE, Frame, Tag},
    packet_socket::{Heard, PacketSocket},
    tap::Tap,
};
use crate::wait;

/// How long a frame may take; the machine may be busy.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long nothing must come before we say that nothing came. Forwarding is done when the call that
/// sends returns, unless the kernel puts it off for a moment.
const SILENCE: Duration = Duration::from_millis(60);

/// An end of a cable.
pub trait Wire {
    /// Sends a frame's bytes.
    ///
    /// # Panics
    /// When the kernel refuses.
    fn send_bytes(&self, bytes: &[u8]);

    /// The next frame's bytes, of whatever kind, if one has come.
    ///
    /// # Panics
    /// When the kernel refuses.
    fn receive_bytes(&self) -> Option<Vec<u8>>;

    /// Sends a frame.
    fn send(&self, frame: &Frame) {
        self.send_bytes(&frame.bytes());
    }

    /// The next frame of a test, if one has come.
    fn receive(&self) -> Option<Frame> {
        std::iter::from_fn(|| self.receive_bytes()).find_map(|bytes| Frame::parse(&bytes))
    }

    /// Waits for the next frame of a test, which must be `wanted`.
    ///
    /// # Panics
    /// When none comes or another one does.
    #[track_caller]
    fn expect(&self, wanted: &Frame) {
        match wait::within(PATIENCE, || self.receive()) {
            Some(got) => assert_eq!(got, *wanted, "another frame came"),
            None => panic!("{wanted:?} did not come"),
        }
    }

    /// Makes sure that no frame of a test comes.
    ///
    /// # Panics
    /// When one does.
    #[track_caller]
    fn expect_nothing(&self) {
        if let Some(got) = wait::within(SILENCE, || self.receive()) {
            panic!("{got:?} came");
        }
    }

    /// How many frames of a test have come.
    fn count(&self) -> usize {
        let mut count = 0;
        while wait::within(SILENCE, || self.receive()).is_some() {
            count += 1;
        }
        count
    }
}
