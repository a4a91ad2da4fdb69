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

/// Set for commands that the daemon runs: it is not asked again.
pub(super) const SERVED: &str = "VNET_SERVED";

/// What the daemon is asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Request {
    /// Whether it is there; and that something changed which it should look at.
    Look {
        /// As for `Run`.
        place: Vec<String>,
    },
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

/// A way to the daemon.
///
/// # Errors
/// None is there, or this process may not ask.
pub fn connect(run_dir: &Path, switch: &str) -> io::Result<UnixStream> {
    UnixStream::connect(socket(run_dir, switch))
}

/// Asks the daemon, and waits for its answer as long as `limit`.
///
/// # Errors
/// It does not answer in time, or what it says is no answer.
pub fn ask(mut stream: UnixStream, request: &Request, limit: Duration) -> io::Result<Answer> {
    stream.set_write_timeout(Some(limit))?;
    stream.set_read_timeout(Some(limit))?;
    let mut line = serde_json::to_vec(request)?;
    line.push(b'\n');
    stream.write_all(&line)?;
    let mut answer = String::new();
    BufReader::new(stream.take(ANSWER_MAX)).read_line(&mut answer)?;
    Ok(serde_json::from_str(&answer)?)
}

/// Asks the daemon of a switch in `place` to look at what changed.
///
/// # Errors
/// None is there that serves it, or it does not answer.
pub fn poke(run_dir: &Path, switch: &str, place: &[String]) -> io::Result<()> {
    /// It may be at work, and somebody waits.
    const LIMIT: Duration = Duration::from_secs(3);
    // Whoever the daemon runs need not tell it: it knows.
    if std::env::var_os(SERVED).is_some() {
        return Ok(());
    }
    let place = place.to_vec();
    let answer = ask(connect(run_dir, switch)?, &Request::Look { place }, LIMIT)?;
    if answer.code != 0 {
        return Err(io::Error::new(io::ErrorKind::NotFound, answer.stderr));
    }
    Ok(())
}
