//! Calls of the program under test.

use std::{
    env,
    fmt::Write as _,
    fs::{self, File},
    io::Write as _,
    path::{Path, PathBuf},
    process::{Child, Command},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use xtask::{paths, process::output};

use crate::sandbox::CONFIG_DIR;

/// `vnet-user` with the global options of one switch, which is taken down with this
/// value, and its document removed.
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

    fn document(&self) -> PathBuf {
        Path::new(CONFIG_DIR).join(format!("{}.toml", self.switch))
    }

    /// Runs it with the words of `words`; gives the time that it took.
    pub fn run(&self, words: &str) -> Result<Duration> {
        let began = Instant::now();
        output(&mut self.command(words)).with_context(|| format!("vnet-user {words}"))?;
        Ok(began.elapsed())
    }

    /// Starts it with the words of `words`, to run on.
    pub fn start(&self, words: &str) -> Result<Child> {
        let mut command = self.command(words);
        command
            .spawn()
            .with_context(|| format!("starting vnet-user {words}"))
    }

    /// The daemon's socket.
    pub fn socket(&self) -> PathBuf {
        let run_dir = env::var_os("VNET_RUN_DIR").map_or_else(|| "/run/vnet".into(), PathBuf::from);
        run_dir.join(format!("{}.sock", self.switch))
    }

    fn command(&self, words: &str) -> Command {
        let mut command = Command::new(&self.binary);
        command
            .args(["--quiet", "--switch", &self.switch, "--netns", &self.netns])
            .args(["--config-dir", CONFIG_DIR])
            .args(words.split_whitespace());
        command
    }

    /// Writes a file to apply, beside the document; gives its path.
    pub fn file(&self, name: &str, text: &str) -> Result<String> {
        let path = Path::new(CONFIG_DIR).join(format!("{}.{name}", self.switch));
        fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
        Ok(path.display().to_string())
    }

    /// Writes ports into the document, as one would by hand; the next `up` takes them over.
    pub fn write_ports(&self, ports: &[String]) -> Result<()> {
        let path = self.document();
        let doing = || format!("writing ports into {}", path.display());
        let mut text = String::new();
        if !path.exists() {
            text.push_str("schema = 1\n");
        }
        for port in ports {
            write!(text, "\n[[port]]\nname = \"{port}\"\n").with_context(doing)?;
        }
        let document = File::options().append(true).create(true).open(&path);
        document
            .and_then(|mut file| file.write_all(text.as_bytes()))
            .with_context(doing)
    }
}

impl Drop for VnetUser {
    fn drop(&mut self) {
        // What is left goes with the benchmarks' namespaces.
        let _ = self.run("down");
        let _ = fs::remove_file(self.document());
    }
}
