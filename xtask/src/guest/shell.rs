//! Commands in a guest, whoever runs its QEMU: what the guest's init (setup/guest_init.sh) makes of its
//! second serial port.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use base64::{Engine, prelude::BASE64_STANDARD};

use super::console::Console;

/// What we give the guest on top of a command's own limit before we give up on it.
const GRACE: Duration = Duration::from_secs(15);

/// The longest command: the guest's serial port has no flow control.
const COMMAND_BYTES: usize = 8 << 10;

/// What a command in a guest came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// Its exit status; 143 when it ran out of time.
    pub status: i32,
    /// What it wrote to stdout and stderr, in the order it did.
    pub stdout: String,
}

impl Output {
    /// Whether it exited with 0.
    pub fn success(&self) -> bool {
        self.status == 0
    }
}

/// The host's end of a guest's second serial port.
#[derive(Debug)]
pub struct Shell {
    console: Console,
    commands: u64,
}

impl Shell {
    /// Connects to the socket that QEMU has for the serial port, as soon as it listens; gives up when
    /// `check`, which looks whether QEMU runs, fails.
    ///
    /// # Errors
    /// When nobody listens.
    pub fn connect(socket: &Path, check: impl FnMut() -> Result<()>) -> Result<Self> {
        Ok(Self {
            console: Console::connect(socket, check)?,
            commands: 0,
        })
    }

    /// Waits until the guest has booted, has its addresses and serves its page.
    ///
    /// # Errors
    /// When it takes longer than `limit`, or QEMU ends.
    pub fn wait_ready(&mut self, limit: Duration) -> Result<()> {
        let deadline = Instant::now() + limit;
        while self.console.line(deadline)? != "ready" {}
        Ok(())
    }

    /// Sends a command whose end nobody waits for, and gives its id.
    ///
    /// # Errors
    /// When it is too long, or QEMU is gone.
    pub fn begin(&mut self, command: &str, limit: Duration) -> Result<u64> {
        if command.len() > COMMAND_BYTES {
            bail!("the command is longer than {COMMAND_BYTES} bytes");
        }
        self.commands += 1;
        let seconds = limit.as_secs().max(1);
        let encoded = BASE64_STANDARD.encode(command);
        self.console
            .send(&format!("run {} {seconds} {encoded} .\n", self.commands))?;
        Ok(self.commands)
    }

    /// Runs a shell command in the guest, for at most `limit`, in whole seconds.
    ///
    /// # Errors
    /// When the guest does not answer or reboots meanwhile. A command that fails is no error.
    pub fn run(&mut self, command: &str, limit: Duration) -> Result<Output> {
        let id = self.begin(command, limit)?;
        let deadline = Instant::now() + limit + GRACE;
        let (begin, end) = (format!("begin {id}"), format!("end {id} "));
        let mut encoded = None;
        loop {
            let line = self.console.line(deadline)?;
            if line == "ready" {
                // It is ready already: it said so.
                bail!("it rebooted meanwhile");
            } else if line == begin {
                encoded = Some(String::new());
            } else if let Some(status) = line.strip_prefix(&end) {
                let encoded = encoded.context("its answer lacks a beginning")?;
                let bytes = BASE64_STANDARD
                    .decode(encoded)
                    .context("decoding the command's output")?;
                let status = status
                    .parse()
                    .context("reading the command's exit status")?;
                return Ok(Output {
                    status,
                    stdout: String::from_utf8_lossy(&bytes).into_owned(),
                });
            } else if let Some(encoded) = &mut encoded {
                encoded.push_str(&line);
            }
            // Else the late answer to a command that we gave up on.
        }
    }
}
