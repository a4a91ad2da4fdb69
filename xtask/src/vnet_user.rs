//! Calls of the program `vnet-user`, shown as a user would type them.

use std::{
    collections::BTreeMap,
    io::{Write, stdout},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use xtask::process::{output, shown};

/// The program with the global options of one switch.
#[derive(Debug, Clone)]
pub(crate) struct VnetUser {
    binary: PathBuf,
    globals: Vec<String>,
}

/// What `vnet-user stats -j` prints.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Stats {
    /// One entry a port.
    #[serde(default)]
    pub(crate) stats: Vec<PortStats>,
}

/// The counters of one port, since the switch came up.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct PortStats {
    pub(crate) port: String,
    pub(crate) kind: String,
    pub(crate) rx_packets: u64,
    pub(crate) rx_bytes: u64,
    pub(crate) tx_packets: u64,
    pub(crate) tx_bytes: u64,
    pub(crate) to_host_packets: u64,
    /// Dropped frames by reason.
    pub(crate) drops: BTreeMap<String, u64>,
}

impl VnetUser {
    /// The program at `binary`, called with `globals` before each command's own words.
    pub(crate) fn new(binary: &Path, globals: &[&str]) -> Self {
        Self {
            binary: binary.to_path_buf(),
            globals: globals.iter().map(|word| (*word).to_owned()).collect(),
        }
    }

    /// One call of it.
    pub(crate) fn command<'a>(&self, words: impl IntoIterator<Item = &'a str>) -> Command {
        let mut command = Command::new(&self.binary);
        command.args(&self.globals).args(words);
        // Ctrl-C is for us: what it is in the middle of, it finishes.
        command.process_group(0);
        command
    }

    /// The words that stand for `vnet-user` where a switch of our own is meant.
    pub(crate) fn typed(&self) -> String {
        shown(Command::new(&self.binary).args(&self.globals))
    }

    /// Prints `$ vnet-user WORDS` and runs it, its output going where ours goes.
    pub(crate) fn show(&self, words: &str) -> Result<()> {
        // Also from guards while a panic unwinds, as when our output is a pipe that was closed.
        let _ = writeln!(stdout(), "$ vnet-user {words}");
        let status = self
            .command(words.split_whitespace())
            .stdin(Stdio::null())
            .status()
            .with_context(|| format!("starting {}", self.binary.display()))?;
        if !status.success() {
            bail!("`vnet-user {words}` failed: {status}");
        }
        Ok(())
    }

    /// The counters of all ports.
    pub(crate) fn stats(&self) -> Result<Stats> {
        let text = output(&mut self.command(["stats", "-j"])).context("reading the counters")?;
        serde_json::from_str(&text).context("reading the counters: `stats -j` printed no such JSON")
    }
}

/// A switch that is up, and taken down with this value.
#[derive(Debug)]
pub(crate) struct Up(pub(crate) VnetUser);

impl Drop for Up {
    fn drop(&mut self) {
        if let Err(error) = self.0.show("down") {
            eprintln!("error: {error:#}");
        }
    }
}
