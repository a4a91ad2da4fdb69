//! Requests to the kernel side; see `vnet_common::control`.

use anyhow::{Context as _, Result, bail};
use aya::programs::{SchedClassifier, TestRun as _, TestRunOptions};
use vnet_common::{ControlOp, ControlReply, ControlRequest, control::REQUEST_OFFSET};

use super::{maps, object, pins::Pins};

/// Buckets that one flush walks: a few milliseconds with interrupts' bottom halves off.
const FLUSH_BUCKETS: u32 = 16_384;

/// The pinned `control` program.
pub struct Control {
    program: SchedClassifier,
    reply: aya::maps::Array<aya::maps::MapData, ControlReply>,
}

impl Control {
    /// Opens it.
    pub fn open(pins: &Pins) -> Result<Self> {
        Ok(Self {
            program: object::classifier(pins, "control")?,
            reply: maps::array(pins, "control_reply")?,
        })
    }

    /// Sends a request; returns how many entries it changed. The caller holds the switch's lock.
    pub fn request(&mut self, request: &ControlRequest) -> Result<u32> {
        let mut frame = [0u8; REQUEST_OFFSET + size_of::<ControlRequest>() + 16];
        // SAFETY: repr(C) without padding, so every byte is initialised.
        let bytes = unsafe {
            std::slice::from_raw_parts(
                std::ptr::from_ref(request).cast::<u8>(),
                size_of::<ControlRequest>(),
            )
        };
        frame[REQUEST_OFFSET..REQUEST_OFFSET + bytes.len()].copy_from_slice(bytes);
        let options = TestRunOptions {
            data_in: Some(&frame),
            ..TestRunOptions::new()
        };
        self.program
            .test_run(options)
            .context("running the datapath's control program")?;
        let reply = self
            .reply
            .get(&0, 0)
            .context("reading the control program's answer")?;
        if reply.error != 0 {
            bail!(
                "the datapath answered {}",
                std::io::Error::from_raw_os_error(-reply.error)
            );
        }
        Ok(reply.changed)
    }

    /// Starts ageing, or gives the running timer the pinned program's callback.
    pub fn start_timer(&mut self) -> Result<()> {
        self.request(&ControlRequest {
            op: ControlOp::StartTimer as u32,
            ..ControlRequest::default()
        })
        .context("starting the FDB's ageing timer")?;
        Ok(())
    }

    /// Deletes what matches in a table of `buckets`; returns how many.
    pub fn flush(&mut self, buckets: u32, what: &ControlRequest) -> Result<u64> {
        let mut deleted = 0;
        let mut first = 0;
        while first < buckets {
            let count = FLUSH_BUCKETS.min(buckets - first);
            deleted += u64::from(
                self.request(&ControlRequest {
                    op: ControlOp::FdbFlush as u32,
                    first_bucket: first,
                    bucket_count: count,
                    ..*what
                })
                .context("deleting FDB entries")?,
            );
            first += count;
        }
        Ok(deleted)
    }
}
