//! The serial port that commands go through: lines of text, both ways.

use std::{
    io::{ErrorKind, Read, Write},
    os::unix::net::UnixStream,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, bail};

/// The host's end of the serial port that commands go through.
#[derive(Debug)]
pub(super) struct Console {
    stream: UnixStream,
    received: Vec<u8>,
}

impl Console {
    /// Connects as soon as QEMU listens, long before the guest writes; gives up when `check`, which
    /// looks whether QEMU runs, fails.
    pub(super) fn connect(socket: &Path, mut check: impl FnMut() -> Result<()>) -> Result<Self> {
        let began = Instant::now();
        loop {
            check()?;
            match UnixStream::connect(socket) {
                Ok(stream) => {
                    return Ok(Self {
                        stream,
                        received: Vec::new(),
                    });
                }
                Err(error) if began.elapsed() > Duration::from_secs(20) => {
                    return Err(anyhow!(error).context("connecting to the guest's serial port"));
                }
                Err(_) => thread::sleep(Duration::from_millis(20)),
            }
        }
    }

    pub(super) fn send(&mut self, text: &str) -> Result<()> {
        self.stream
            .write_all(text.as_bytes())
            .context("writing to its serial port")
    }

    /// The next line that the guest sends, without its end.
    pub(super) fn line(&mut self, deadline: Instant) -> Result<String> {
        loop {
            if let Some(end) = self.received.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.received.drain(..=end).collect();
                return Ok(String::from_utf8_lossy(&line).trim_end().to_owned());
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                bail!("it did not answer in time");
            }
            self.stream
                .set_read_timeout(Some(left))
                .context("setting a time limit")?;
            let mut some = [0; 4096];
            match self.stream.read(&mut some) {
                Ok(0) => bail!("QEMU closed the serial port"),
                Ok(count) => self.received.extend_from_slice(&some[..count]),
                Err(error)
                    if matches!(
                        error.kind(),
                        ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted
                    ) => {}
                Err(error) => return Err(anyhow!(error).context("reading its serial port")),
            }
        }
    }
}
