//! How the command line and the daemon talk: one request and one answer a connection, each a line of
//! JSON, over `/run/vnet/<switch>.sock`.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::config::DOCUMENT_MAX;

/// Most bytes of a request: a document as JSON text, and some.
pub const REQUEST_MAX: u64 = 2 * DOCUMENT_MAX + 65_536;
/// Most bytes of an answer.
pub const ANSWER_MAX: u64 = 256 << 20;
/// How long a request may take to come, and an answer to be taken.
pub const PATIENCE: Duration = Duration::from_secs(10);
/// How long a command may run.
pub const COMMAND_LIMIT: Duration = Duration::from_secs(120);

/// What the daemon is asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Request {
    /// Whether it is there; and that something changed which it should look at.
    Look,
    /// To run a command of `vnet-user`.
    Run {
        /// The options that say which switch, and where: those of [`Global::words`].
        ///
        /// [`Global::words`]: crate::cli::Global::words
        place: Vec<String>,
        /// The other words, without the program's name.
        args: Vec<String>,
        /// What it reads from its standard input.
        #[serde(default)]
        input: String,
    },
}

/// The daemon's answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// The command's exit code.
    pub code: u8,
    /// What it printed.
    pub stdout: String,
    /// What it said about what it did.
    pub stderr: String,
}

/// The socket of `switch`'s daemon.
#[must_use]
pub fn socket(run_dir: &Path, switch: &str) -> PathBuf {
    run_dir.join(format!("{switch}.sock"))
}

/// Asks the daemon.
///
/// # Errors
/// None is there, this process may not ask, or it does not answer in time.
pub fn ask(run_dir: &Path, switch: &str, request: &Request) -> io::Result<Answer> {
    let mut stream = UnixStream::connect(socket(run_dir, switch))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.set_read_timeout(Some(COMMAND_LIMIT + PATIENCE))?;
    let mut line = serde_json::to_vec(request)?;
    line.push(b'\n');
    stream.write_all(&line)?;
    let mut answer = String::new();
    BufReader::new(stream.take(ANSWER_MAX)).read_line(&mut answer)?;
    Ok(serde_json::from_str(&answer)?)
}
