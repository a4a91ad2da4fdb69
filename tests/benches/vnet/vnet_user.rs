//! Calls of the program under test.

use std::{
    env,
    path::PathBuf,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use xtask::{paths, process::output};

use crate::sandbox::CONFIG_DIR;

/// `vnet-user` with the global options of one switch, which is taken down with this value.
#[derive(Debug)]
pub struct VnetUser {
    binary: PathBuf,
    switch: String,
    netns: String,
}

impl VnetUser {
    /// The switch `switch` in the network namespace `netns`.
    pub fn new(switch: &str, netns: &str) -> Result<Self> {
        let binary = env::var_os("VNET_USER_BIN").map_or_else(paths::vnet_user, PathBuf::from);
        if !binary.is_file() {
            bail!("{} is not there: cargo xtask build", binary.display());
        }
        Ok(Self {
            binary,
            switch: switch.to_owned(),
            netns: netns.to_owned(),
        })
    }

    /// The switch's name.
    pub fn switch(&self) -> &str {
        &self.switch
    }

    /// Runs it with the words of `words`; gives the time that it took.
    pub fn run(&self, words: &str) -> Result<Duration> {
        let began = Instant::now();
        output(
            Command::new(&self.binary)
                .args(["--quiet", "--switch", &self.switch, "--netns", &self.netns])
                .args(["--config-dir", CONFIG_DIR])
                .args(words.split_whitespace()),
        )
        .with_context(|| format!("vnet-user {words}"))?;
        Ok(began.elapsed())
    }
}
