//! The daemon's socket: commands for those who may not run them themselves.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::rc::Rc;

use clap::Parser as _;
use nix::unistd::Group;
use tokio::io::{
    AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWriteExt as _, BufReader,
};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Notify;
use tokio::time::timeout;

use super::places::Places;
use super::protocol::{ANSWER_MAX, Answer, COMMAND_LIMIT, PATIENCE, REQUEST_MAX, Request, socket};
use super::roles::{self, Peer, READERS, Role};
use crate::cli::{Cli, Global};
use crate::error::{Doing as _, Error};

/// The socket, bound. Dropped, it is gone.
pub(super) struct Server {
    listener: UnixListener,
    path: PathBuf,
    shared: Rc<Shared>,
}

/// What every connection needs.
struct Shared {
    /// The daemon's own, for the commands that it runs.
    global: Global,
    /// Somebody asked it to look.
    poked: Notify,
    places: Rc<Places>,
}

impl Shared {
    /// Whether `place` is what this daemon serves.
    fn is_here(&self, place: &[String]) -> bool {
        let own = self.global.words();
        own.iter().eq(place.iter().map(OsStr::new))
    }
}

impl Server {
    /// Makes the socket of `switch` in `run_dir`: root's, and the group's that may look.
    ///
    /// # Errors
    /// It cannot be made.
    pub(super) fn bind(run_dir: &Path, switch: &str, global: &Global) -> Result<Self, Error> {
        let path = socket(run_dir, switch);
        let doing = || format!("making the socket {}", path.display());
        // Whoever holds the daemon's lock may: what lies there is a dead daemon's.
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(Error::new(doing(), error));
            }
            _ => {}
        }
        let listener = UnixListener::bind(&path).doing(doing)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o660)).doing(doing)?;
        if let Some(readers) = Group::from_name(READERS).ok().flatten() {
            chown(&path, None, Some(readers.gid.as_raw())).doing(doing)?;
            // They have to get as far as the socket.
            fs::set_permissions(run_dir, fs::Permissions::from_mode(0o755)).doing(doing)?;
        }
        let shared = Shared {
            global: global.clone(),
            poked: Notify::new(),
            places: Places::new(),
        };
        Ok(Self {
            listener,
            path,
            shared: Rc::new(shared),
        })
    }

    /// Waits for a connection.
    pub(super) async fn accept(&self) -> io::Result<UnixStream> {
        Ok(self.listener.accept().await?.0)
    }

    /// Waits until somebody asks the daemon to look.
    pub(super) async fn poked(&self) {
        self.shared.poked.notified().await;
    }

    /// Serves a connection, beside everything else.
    pub(super) fn answer(&self, accepted: io::Result<UnixStream>) {
        let shared = Rc::clone(&self.shared);
        let begun = accepted.and_then(|stream| Ok((Peer::of(&stream)?, stream)));
        let (peer, stream) = match begun {
            Ok(begun) => begun,
            Err(error) => return log::warn!("serving a request: {error}"),
        };
        // Turned away without a word: whoever asks so much does not listen.
        let Some(entry) = shared.places.enter(peer.uid) else {
            return;
        };
        tokio::task::spawn_local(async move {
            let place = entry.place().await;
            if let Err(error) = serve(&shared, peer, stream).await {
                log::warn!("serving a request: {error}");
            }
            drop((place, entry));
        });
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

async fn serve(shared: &Shared, peer: Peer, stream: UnixStream) -> io::Result<()> {
    let (read, mut write) = stream.into_split();
    let mut line = String::new();
    let mut bounded = BufReader::new(read.take(REQUEST_MAX));
    timeout(PATIENCE, bounded.read_line(&mut line)).await??;
    let answer = match serde_json::from_str(&line) {
        Ok(Request::Look { .. }) if peer.role < Role::Write => refused(
            "look",
            "it has the daemon work, and this user may only ask",
            "become a member of the group vnet-admin, or sudo vnet-user",
        ),
        Ok(Request::Look { place }) if shared.is_here(&place) => {
            shared.poked.notify_one();
            said(0, "")
        }
        Ok(Request::Look { .. }) => elsewhere("look"),
        Ok(Request::Run { place, args, input }) => run(shared, peer, &place, args, input).await,
        Err(error) => said(2, &format!("error: reading a request: {error}\n")),
    };
    let mut text = serde_json::to_vec(&answer)?;
    text.push(b'\n');
    timeout(PATIENCE, write.write_all(&text)).await?
}

fn said(code: u8, stderr: &str) -> Answer {
    Answer {
        code,
        stdout: String::new(),
        stderr: stderr.into(),
    }
}

fn elsewhere(line: &str) -> Answer {
    let why = "the daemon serves one switch, in its own place";
    refused(line, why, "sudo vnet-user")
}

/// Runs a command for `peer`, if they may.
async fn run(
    shared: &Shared,
    peer: Peer,
    place: &[String],
    args: Vec<String>,
    input: String,
) -> Answer {
    if !shared.is_here(place) {
        return elsewhere(&args.join(" "));
    }
    let mut words = vec!["vnet-user".into()];
    words.extend(shared.global.words());
    words.extend(args.iter().map(OsString::from));
    let cli = match Cli::try_parse_from(&words) {
        Ok(cli) => cli,
        Err(error) => return said(2, &error.to_string()),
    };
    let line = args.join(" ");
    // Named among the other words they would count, too.
    if cli.global.words() != shared.global.words() {
        return elsewhere(&line);
    }
    let Some(needed) = roles::needed(&cli.command) else {
        return refused(
            &line,
            "the daemon does not run this command for others",
            "sudo vnet-user",
        );
    };
    if peer.role < needed {
        log::warn!("uid {} (pid {}) may not: {line}", peer.uid, peer.pid);
        return refused(
            &line,
            "it changes the switch, and this user may only look",
            "become a member of the group vnet-admin, or sudo vnet-user",
        );
    }
    let answer = match timeout(COMMAND_LIMIT, child(&words[1..], input, needed)).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(error)) => said(1, &format!("error: running {line}: {error}\n")),
        Err(_) => said(
            1,
            &format!(
                "error: running {line}: it took more than {} s\n",
                COMMAND_LIMIT.as_secs()
            ),
        ),
    };
    if needed == Role::Write {
        shared.poked.notify_one();
        log::info!(
            "audit: uid {} (pid {}): {line}: exit code {}",
            peer.uid,
            peer.pid,
            answer.code
        );
    }
    answer
}

fn refused(line: &str, why: &str, mend: &str) -> Answer {
    said(
        1,
        &format!("error: running {line}: {why}\n  mend: {mend}\n"),
    )
}

/// Runs this very program with `args`.
async fn child(args: &[OsString], input: String, role: Role) -> io::Result<Answer> {
    let mut child = tokio::process::Command::new("/proc/self/exe")
        .args(args)
        .env(super::protocol::SERVED, "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        // Nobody waits for what only looks; a change must not be left half done.
        .kill_on_drop(role == Role::Read)
        .spawn()?;
    let mut stdin = child.stdin.take().ok_or(io::ErrorKind::BrokenPipe)?;
    let stdout = child.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?;
    let stderr = child.stderr.take().ok_or(io::ErrorKind::BrokenPipe)?;
    let feed = async move {
        // A command that does not read ends the pipe.
        let _ = stdin.write_all(input.as_bytes()).await;
    };
    let ((), stdout, stderr) = tokio::join!(feed, text_of(stdout), text_of(stderr));
    let status = child.wait().await?;
    Ok(Answer {
        code: status
            .code()
            .and_then(|code| u8::try_from(code).ok())
            .unwrap_or(1),
        stdout: stdout?,
        stderr: stderr?,
    })
}

/// What comes by a pipe, which is closed then. Half of what an answer may have in all, and of that half
/// again, as JSON needs more than the text.
async fn text_of(mut pipe: impl AsyncRead + Unpin) -> io::Result<String> {
    let mut bytes = Vec::new();
    let most = ANSWER_MAX / 4;
    (&mut pipe).take(most).read_to_end(&mut bytes).await?;
    if bytes.len() as u64 == most {
        return Err(io::Error::other("it prints too much to be sent"));
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
