//! Network namespaces: made, entered and removed.
//!
//! Programs enter a namespace by setns(2) alone. `ip netns exec` would give them a mount namespace
//! as well, with a fresh /sys, and whatever they pin in its BPF file system would die with them.

use std::{
    fs::File,
    io,
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::process::CommandExt,
    },
    path::{Path, PathBuf},
    process::Command,
    thread,
};

use anyhow::{Context, Result, anyhow};

use crate::process::output;

/// Where a namespace of this name is found; a name with a slash is a path already.
pub fn path_of(name: &str) -> PathBuf {
    if name.contains('/') {
        PathBuf::from(name)
    } else {
        Path::new("/run/netns").join(name)
    }
}

/// Opens the network namespace `name` (a name known to `ip netns`, or a path).
///
/// # Errors
/// When there is none.
pub fn open(name: &str) -> Result<OwnedFd> {
    let path = path_of(name);
    let file = File::open(&path)
        .with_context(|| format!("opening the network namespace {}", path.display()))?;
    Ok(file.into())
}

/// Moves the calling thread, and it alone, into a network namespace.
///
/// # Errors
/// When the descriptor is of something else or we are not privileged.
pub fn enter(namespace: impl AsFd) -> io::Result<()> {
    // SAFETY: the descriptor is open for as long as the borrow lasts; the call touches no memory.
    match unsafe { libc::setns(namespace.as_fd().as_raw_fd(), libc::CLONE_NEWNET) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Lets `command` start inside the network namespace `name`; its mounts stay ours.
///
/// # Errors
/// When there is no such namespace.
pub fn start_inside(command: &mut Command, name: &str) -> Result<()> {
    let namespace = open(name)?;
    // SAFETY: between fork and exec the closure makes one system call and allocates nothing.
    unsafe { command.pre_exec(move || enter(&namespace)) };
    Ok(())
}

/// Runs `work` on a thread of its own inside the network namespace `name`: sockets that it opens
/// belong there for good.
///
/// # Errors
/// When there is no such namespace, it cannot be entered, or `work` fails.
pub fn inside<T: Send>(name: &str, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let namespace = open(name)?;
    let thread = || {
        enter(&namespace).with_context(|| format!("entering the network namespace {name}"))?;
        work()
    };
    thread::scope(|scope| scope.spawn(thread).join()).unwrap_or_else(|_| {
        Err(anyhow!(
            "a thread inside the network namespace {name} panicked"
        ))
    })
}

/// A network namespace that is removed with this value.
#[derive(Debug)]
pub struct Netns {
    name: String,
}

impl Netns {
    /// Makes the namespace `name` and brings its loopback interface up.
    ///
    /// # Errors
    /// When it exists already or we are not root.
    pub fn create(name: impl Into<String>) -> Result<Self> {
        let name = name.into();
        output(Command::new("ip").args(["netns", "add", &name]))
            .with_context(|| format!("making the network namespace {name}"))?;
        let netns = Self { name };
        netns.ip("link set lo up")?;
        Ok(netns)
    }

    /// Its name, as `ip netns` lists it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A program that will start inside.
    ///
    /// # Errors
    /// When the namespace is gone.
    pub fn command(&self, program: &str) -> Result<Command> {
        let mut command = Command::new(program);
        start_inside(&mut command, &self.name)?;
        Ok(command)
    }

    /// Runs `ip` inside, with the words of `arguments`, and gives its output.
    ///
    /// # Errors
    /// When it fails.
    pub fn ip(&self, arguments: &str) -> Result<String> {
        output(
            Command::new("ip")
                .args(["-n", &self.name])
                .args(arguments.split_whitespace()),
        )
    }

    /// Runs a shell command inside and gives its output.
    ///
    /// # Errors
    /// When it exits with anything but 0; the error carries what it wrote.
    pub fn sh(&self, command: &str) -> Result<String> {
        output(self.command("sh")?.args(["-c", command]))
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        // Nothing to report it to; what is left shows in `ip netns`.
        let _ = output(Command::new("ip").args(["netns", "del", &self.name]));
    }
}
