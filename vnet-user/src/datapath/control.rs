//! Requests to the kernel side; see `vnet_common::control`.

use std::io;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};
use aya::programs::{SchedClassifier, TestRun as _, TestRunOptions};
use vnet_common::{ControlOp, ControlReply, ControlRequest, control::REQUEST_OFFSET};

use super::{maps, object, pins::Pins};

/// Buckets that one flush walks: a few milliseconds with interrupts' bottom halves off.
const FLUSH_BUCKETS: u32 = 16_384;

/// How often the timer is asked for: the kernel allocates it without waiting (kernel/bpf/helpers.c,
/// __bpf_async_init), which may fail while memory is short for a moment.
const TIMER_TRIES: u32 = 10;

/// The pause between two of these.
const TIMER_PAUSE: Duration = Duration::from_millis(20);

fn is_out_of_memory(error: &anyhow::Error) -> bool {
    error
        .downcast_ref::<io::Error>()
        .is_some_and(|error| error.raw_os_error() == Some(libc::ENOMEM))
}

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
            let error = io::Error::from_raw_os_error(-reply.error);
            return Err(error).context("the datapath's answer");
        }
        Ok(reply.changed)
    }

    /// Starts ageing, or gives the running timer the pinned program's callback.
    pub fn start_timer(&mut self) -> Result<()> {
        let request = ControlRequest {
            op: ControlOp::StartTimer as u32,
            ..ControlRequest::default()
        };
        let mut tries = TIMER_TRIES;
        loop {
            tries -= 1;
            match self.request(&request) {
                Ok(_) => return Ok(()),
                // Where the kernel may not wait for memory, it has some again when others had their turn.
                Err(error) if tries > 0 && is_out_of_memory(&error) => thread::sleep(TIMER_PAUSE),
                Err(error) => return Err(error.context("starting the FDB's ageing timer")),
            }
        }
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
