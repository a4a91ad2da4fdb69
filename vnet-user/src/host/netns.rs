//! Network namespaces: entering one, and looking into others.
//!
//! Only the network namespace is ever changed. The mount namespace, and with it the bpffs that
//! holds the pins, stays the caller's; `ip netns exec` would give the command a private one.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};

use super::netlink::{Message, Socket, attributes, u32_at};

/// Where `ip netns add` and its kind put names.
const NAMED: &str = "/run/netns";
/// Where Docker puts names, which `ip netns` does not list.
const NAMED_BY_DOCKER: &str = "/run/docker/netns";

// linux/net_namespace.h
const NETNSA_NSID: u16 = 1;
const NETNSA_FD: u16 = 3;

/// What tells network namespaces apart for as long as they live.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct NetnsId {
    /// The device number of the namespace file system.
    pub dev: u64,
    /// The inode number in it.
    pub ino: u64,
}

impl NetnsId {
    fn of(file: &File) -> io::Result<Self> {
        let metadata = file.metadata()?;
        Ok(Self {
            dev: metadata.dev(),
            ino: metadata.ino(),
        })
    }
}

/// Moves the process into a network namespace: a name as `ip netns list` shows it, or, with a
/// slash in it, a path such as `/proc/1234/ns/net`.
///
/// # Errors
/// When the namespace does not exist or may not be entered, or when the process already has more
/// than one thread: the others would stay behind.
pub fn enter(name_or_path: &str) -> Result<()> {
    let path = path_of(name_or_path)?;
    let namespace = File::open(&path).with_context(|| {
        format!(
            "opening the network namespace {}: `ip netns list` shows the names",
            path.display()
        )
    })?;
    let threads = fs::read_dir("/proc/self/task")
        .context("counting the threads")?
        .count();
    ensure!(
        threads == 1,
        "entering the network namespace {}: the process already has {threads} threads, which \
         would stay behind",
        path.display()
    );
    set_current(namespace.as_fd())
        .with_context(|| format!("entering the network namespace {}", path.display()))
}

fn path_of(name_or_path: &str) -> Result<PathBuf> {
    if name_or_path.contains('/') {
        return Ok(PathBuf::from(name_or_path));
    }
    ensure!(
        !matches!(name_or_path, "" | "." | ".."),
        "{name_or_path:?} is not the name of a network namespace"
    );
    Ok(Path::new(NAMED).join(name_or_path))
}

/// The network namespace of the calling thread.
///
/// # Errors
/// When `/proc` is not mounted.
pub fn current_id() -> Result<NetnsId> {
    current().map(|(_, id)| id)
}

fn current() -> Result<(File, NetnsId)> {
    let path = "/proc/thread-self/ns/net";
    let file = File::open(path).with_context(|| format!("opening {path}"))?;
    let id = NetnsId::of(&file).with_context(|| format!("identifying {path}"))?;
    Ok((file, id))
}

/// Runs `f` in the network namespace `namespace`, in a thread of its own, and returns what it
/// returned. The calling thread does not move. A panic of `f` continues here.
///
/// # Errors
/// When the namespace cannot be entered (which needs CAP_SYS_ADMIN), and those of `f`.
pub fn with_netns<T: Send>(
    namespace: BorrowedFd<'_>,
    f: impl FnOnce() -> Result<T> + Send,
) -> Result<T> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new()
            .name("netns".to_owned())
            .spawn_scoped(scope, || {
                set_current(namespace).context("entering another network namespace")?;
                f()
            })
            .context("starting a thread for another network namespace")?;
        thread
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Moves the calling thread alone.
pub(super) fn set_current(namespace: BorrowedFd<'_>) -> Result<()> {
    // SAFETY: takes no pointers, and the descriptor is borrowed for the call.
    if unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNET) } == 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        Some(libc::EPERM) => Err(error).context("needs CAP_SYS_ADMIN; run it with sudo"),
        Some(libc::EINVAL) => Err(error).context("it is not a network namespace"),
        _ => Err(error.into()),
    }
}

/// The namespace that the calling thread's namespace knows as `nsid` ([`Link::peer_nsid`]), if it
/// can be found: by a name, or by a process in it. Each call looks through all of them; for many
/// ids take [`by_nsid`].
///
/// [`Link::peer_nsid`]: super::Link::peer_nsid
///
/// # Errors
/// When `/proc` or netlink cannot be used at all. A namespace that may not be opened counts as not
/// found.
pub fn find_by_nsid(nsid: i32) -> Result<Option<OwnedFd>> {
    if nsid < 0 {
        return Ok(None);
    }
    Ok(by_nsid()?.remove(&nsid))
}

/// Every other namespace to which the calling thread's namespace has given an id and that can be
/// found: by a name, or by a process in it.
///
/// # Errors
/// As [`find_by_nsid`].
pub fn by_nsid() -> Result<HashMap<i32, OwnedFd>> {
    let mut socket = Socket::open().context("opening a netlink socket")?;
    let (_, own) = current()?;
    let mut seen = HashSet::from([own]);
    let mut found = HashMap::new();
    for path in candidates()? {
        // Processes end, and those of others may be hidden: both are as if they were not there.
        let Ok(id) = fs::metadata(&path).map(|it| NetnsId {
            dev: it.dev(),
            ino: it.ino(),
        }) else {
            continue;
        };
        if !seen.insert(id) {
            continue;
        }
        let Ok(file) = File::open(&path) else {
            seen.remove(&id);
            continue;
        };
        // The process may have ended and its number been taken between the two.
        if NetnsId::of(&file).ok() != Some(id) {
            seen.remove(&id);
            continue;
        }
        if let Some(nsid) = nsid_of(&mut socket, file.as_fd())? {
            found.insert(nsid, OwnedFd::from(file));
        }
    }
    Ok(found)
}

fn candidates() -> Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for directory in [NAMED, NAMED_BY_DOCKER] {
        if let Ok(entries) = fs::read_dir(directory) {
            paths.extend(entries.flatten().map(|entry| entry.path()));
        }
    }
    for entry in fs::read_dir("/proc")
        .context("looking through the processes")?
        .flatten()
    {
        let name = entry.file_name();
        if name.as_encoded_bytes().iter().all(u8::is_ascii_digit) {
            paths.push(entry.path().join("ns/net"));
        }
    }
    Ok(paths)
}

/// The id that the socket's namespace has given to `namespace`; None if it has not, or if this is
/// no network namespace (a stale name under `/run/netns` is an empty file).
fn nsid_of(socket: &mut Socket, namespace: BorrowedFd<'_>) -> Result<Option<i32>> {
    // struct rtgenmsg: the family alone, padded.
    let message = Message::new(libc::RTM_GETNSID, &[libc::AF_UNSPEC as u8])
        .attribute(NETNSA_FD, &namespace.as_raw_fd().to_ne_bytes());
    let answer = match socket.query(message) {
        Ok(answer) => answer,
        Err(refused) if refused.errno == libc::EINVAL => return Ok(None),
        Err(refused) => bail!("asking for the id of a network namespace: {refused}"),
    };
    let nsid = attributes(answer.get(4..).unwrap_or(&[]))
        .find(|&(kind, _)| kind == NETNSA_NSID)
        .and_then(|(_, value)| u32_at(value, 0))
        .map(|nsid| nsid as i32);
    // NETNSA_NSID_NOT_ASSIGNED is -1.
    Ok(nsid.filter(|&nsid| nsid >= 0))
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::CommandExt as _;
    use std::process::Command;

    use super::super::link::Links;
    use super::super::testing::{OtherNamespace, create_veth, in_new_netns, move_to_namespace};
    use super::*;

    #[test]
    fn names_and_paths() {
        assert_eq!(path_of("blue").ok(), Some(PathBuf::from("/run/netns/blue")));
        assert_eq!(
            path_of("/proc/1/ns/net").ok(),
            Some(PathBuf::from("/proc/1/ns/net"))
        );
        assert_eq!(path_of("./here").ok(), Some(PathBuf::from("./here")));
        assert!(path_of("").is_err());
        assert!(path_of("..").is_err());
    }

    #[test]
    fn a_missing_namespace_is_named() {
        let error = format!(
            "{:#}",
            enter("no-such-namespace").expect_err("it does not exist")
        );
        assert!(error.contains("/run/netns/no-such-namespace"), "{error}");
        assert!(error.contains("ip netns list"), "{error}");
    }

    #[test]
    fn a_process_with_threads_is_not_torn_apart() {
        // The test harness runs this in a thread of its own beside the main thread.
        let error = format!(
            "{:#}",
            enter("/proc/self/ns/net").expect_err("there are threads")
        );
        assert!(error.contains("threads"), "{error}");
    }

    #[test]
    fn a_process_enters() {
        let other = OtherNamespace::new();
        let own = format!("/proc/self/fd/{}", other.fd().as_raw_fd());
        let mut command = Command::new("readlink");
        command.args(["/proc/self/ns/net", "/proc/self/ns/mnt"]);
        // SAFETY: the child of a fork has one thread, and the C library keeps its allocator usable
        // there; nothing else that another thread may hold is touched before the exec.
        unsafe { command.pre_exec(move || enter(&own).map_err(io::Error::other)) };
        let output = command.output().expect("readlink can be run");
        let mounts = fs::read_link("/proc/self/ns/mnt").expect("procfs is mounted");
        let expected = format!("net:[{}]\n{}\n", other.id().ino, mounts.display());
        assert_eq!(String::from_utf8_lossy(&output.stdout), expected);
    }

    #[test]
    fn only_a_network_namespace_can_be_entered() {
        in_new_netns(|| {
            let null = File::open("/dev/null")?;
            let error = format!("{:#}", set_current(null.as_fd()).expect_err("a device"));
            assert!(error.contains("not a network namespace"), "{error}");
            Ok(())
        });
    }

    #[test]
    fn a_closure_runs_elsewhere_and_the_caller_stays() {
        in_new_netns(|| {
            let before = current_id()?;
            let other = OtherNamespace::new();
            let inside = with_netns(other.fd(), current_id)?;
            assert_ne!(inside, before);
            assert_eq!(current_id()?, before);
            let failed: Result<()> = with_netns(other.fd(), || bail!("on purpose"));
            assert_eq!(failed.expect_err("passed on").to_string(), "on purpose");
            Ok(())
        });
    }

    #[test]
    fn a_namespace_is_found_by_its_id() {
        in_new_netns(|| {
            let links = Links::open()?;
            let other = OtherNamespace::new();
            let another = OtherNamespace::new();
            create_veth("v0", "v1")?;
            create_veth("w0", "w1")?;
            move_to_namespace(&links, "v1", other.fd())?;
            move_to_namespace(&links, "w1", another.fd())?;
            for (near, namespace) in [("v0", &other), ("w0", &another)] {
                let link = links.by_name(near)?.expect("it was made above");
                let nsid = link.peer_nsid.expect("the peer is elsewhere");
                let found = find_by_nsid(nsid)?.expect("a process lives there");
                assert_eq!(NetnsId::of(&File::from(found))?, namespace.id());
            }
            assert!(find_by_nsid(12345)?.is_none());
            assert!(find_by_nsid(-1)?.is_none());
            assert_eq!(by_nsid()?.len(), 2);
            Ok(())
        });
    }
}
