//! What the tests of this module share: namespaces that go away by themselves, and interfaces to
//! put into them.
//!
//! Tests that need privilege fail without it, with the mend: a test that cannot run must not pass.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context as _, Result};

use super::link::{Links, XdpMode};
use super::netlink::{Message, Socket, ifinfomsg};
use super::netns::NetnsId;

/// Fails the test with the mend unless it runs as root.
pub(super) fn require_root() {
    // SAFETY: takes no arguments and cannot fail.
    let user = unsafe { libc::geteuid() };
    assert!(
        user == 0,
        "this test needs root: run it with sudo (`cargo xtask test` does)"
    );
}

/// Runs `test` in a thread with a network namespace of its own, which ends with the thread.
pub(super) fn in_new_netns(test: impl FnOnce() -> Result<()> + Send) {
    in_thread_with(libc::CLONE_NEWNET, test);
}

/// Runs `test` in a thread that may mount without anyone else seeing it.
pub(super) fn in_new_mount_namespace(test: impl FnOnce() -> Result<()> + Send) {
    in_thread_with(libc::CLONE_NEWNS, || {
        // SAFETY: every pointer is null or to a NUL-terminated string.
        let result = unsafe {
            libc::mount(
                std::ptr::null(),
                c"/".as_ptr(),
                std::ptr::null(),
                libc::MS_REC | libc::MS_PRIVATE,
                std::ptr::null(),
            )
        };
        check(result).context("keeping mounts to the test")?;
        test()
    });
}

fn in_thread_with(namespaces: libc::c_int, test: impl FnOnce() -> Result<()> + Send) {
    require_root();
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            unshare(namespaces).expect("root can make namespaces");
            test()
        });
        match thread.join() {
            Ok(result) => result.expect("the test's own steps work"),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    });
}

/// Runs `test` in a thread without any capability, in the namespaces of the caller.
pub(super) fn without_capabilities(test: impl FnOnce() -> Result<()> + Send) -> Result<()> {
    // linux/capability.h: _LINUX_CAPABILITY_VERSION_3 and thread 0, the calling one; then effective,
    // permitted and inheritable, twice 32 bits of each.
    const HEADER: [u32; 2] = [0x2008_0522, 0];
    const NONE: [u32; 6] = [0; 6];
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            // SAFETY: both pointers are to live arrays of the sizes of this version, and the kernel
            // changes the calling thread alone.
            let result = unsafe { libc::syscall(libc::SYS_capset, HEADER.as_ptr(), NONE.as_ptr()) };
            check(result as libc::c_int).context("dropping the capabilities")?;
            test()
        });
        thread
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

fn unshare(namespaces: libc::c_int) -> io::Result<()> {
    // SAFETY: takes no pointers; it moves the calling thread alone.
    check(unsafe { libc::unshare(namespaces) }).map(|_| ())
}

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

/// Another network namespace, such as a container has: held by a process, or by nothing but a
/// descriptor.
pub(super) struct OtherNamespace {
    process: Option<Child>,
    file: File,
}

impl OtherNamespace {
    /// A namespace with a process in it.
    pub(super) fn new() -> Self {
        require_root();
        let mut command = Command::new("sleep");
        command
            .arg("600")
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        // SAFETY: between fork and exec, unshare is one system call that touches no memory.
        unsafe { command.pre_exec(|| unshare(libc::CLONE_NEWNET)) };
        // spawn returns after the exec, so the process is in its namespace by then.
        let process = command.spawn().expect("sleep can be run");
        let file = File::open(format!("/proc/{}/ns/net", process.id())).expect("it is ours");
        Self {
            process: Some(process),
            file,
        }
    }

    /// A namespace that only a descriptor of this process knows.
    pub(super) fn hidden() -> Self {
        let mut namespace = Self::new();
        namespace.end_process();
        namespace
    }

    /// The namespace.
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// Its identity.
    pub(super) fn id(&self) -> NetnsId {
        let metadata = self.file.metadata().expect("an open file");
        NetnsId {
            dev: metadata.dev(),
            ino: metadata.ino(),
        }
    }

    fn end_process(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().expect("it is a child of ours");
            process.wait().expect("it is a child of ours");
        }
    }
}

impl Drop for OtherNamespace {
    fn drop(&mut self) {
        self.end_process();
    }
}

/// Makes a pair of veths, both down.
pub(super) fn create_veth(name: &str, peer: &str) -> Result<()> {
    Links::open()?.create_veth(name, None, peer).map(|_| ())
}

/// Moves an interface into another namespace.
pub(super) fn move_to_namespace(
    links: &Links,
    name: &str,
    namespace: BorrowedFd<'_>,
) -> Result<()> {
    let link = links
        .by_name(name)?
        .with_context(|| format!("no interface {name}"))?;
    let message = Message::new(libc::RTM_SETLINK, &ifinfomsg(0, link.index, 0, 0))
        .attribute(libc::IFLA_NET_NS_FD, &namespace.as_raw_fd().to_ne_bytes());
    Socket::open()?
        .change(message, 0)
        .with_context(|| format!("moving {name}"))
}

/// Attaches an XDP program that passes everything, for as long as the interface lives, and returns
/// its id.
pub(super) fn attach_xdp(links: &Links, name: &str, mode: XdpMode) -> Result<u32> {
    const IFLA_XDP_FD: u16 = 1;
    const IFLA_XDP_FLAGS: u16 = 3;
    const XDP_FLAGS_SKB_MODE: u32 = 1 << 1;
    const XDP_FLAGS_DRV_MODE: u32 = 1 << 2;
    let link = links
        .by_name(name)?
        .with_context(|| format!("no interface {name}"))?;
    let program = load_xdp_pass().context("loading an XDP program")?;
    let flags = match mode {
        XdpMode::Generic => XDP_FLAGS_SKB_MODE,
        _ => XDP_FLAGS_DRV_MODE,
    };
    let message = Message::new(libc::RTM_SETLINK, &ifinfomsg(0, link.index, 0, 0)).nested(
        libc::IFLA_XDP,
        |xdp| {
            xdp.attribute(IFLA_XDP_FD, &program.as_raw_fd().to_ne_bytes())
                .attribute(IFLA_XDP_FLAGS, &flags.to_ne_bytes())
        },
    );
    Socket::open()?
        .change(message, 0)
        .with_context(|| format!("attaching XDP to {name}"))?;
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", program.as_raw_fd()))?;
    let id = info.lines().find_map(|line| line.strip_prefix("prog_id:"));
    Ok(id.context("no prog_id in fdinfo")?.trim().parse()?)
}

/// Loads `r0 = XDP_PASS; exit`.
fn load_xdp_pass() -> io::Result<OwnedFd> {
    const BPF_PROG_LOAD: libc::c_int = 5;
    const BPF_PROG_TYPE_XDP: u32 = 6;
    let instructions: [u64; 2] = [
        u64::from_ne_bytes([0xb7, 0, 0, 0, 2, 0, 0, 0]),
        u64::from_ne_bytes([0x95, 0, 0, 0, 0, 0, 0, 0]),
    ];
    /// The beginning of `union bpf_attr` for BPF_PROG_LOAD; the rest is zeros.
    #[repr(C)]
    struct Load {
        program_type: u32,
        instruction_count: u32,
        instructions: u64,
        license: u64,
        rest: [u64; 13],
    }
    let attributes = Load {
        program_type: BPF_PROG_TYPE_XDP,
        instruction_count: 2,
        instructions: instructions.as_ptr() as u64,
        license: c"GPL".as_ptr() as u64,
        rest: [0; 13],
    };
    // SAFETY: the attributes, and the program and licence they point to, outlive the call, and their
    // size is passed with them.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_PROG_LOAD,
            &raw const attributes,
            size_of_val(&attributes),
        )
    };
    let fd = check(fd as libc::c_int)?;
    // SAFETY: `fd` was just opened and belongs to nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A tap device, which goes when this does.
pub(super) struct Tap {
    _file: File,
}

impl Tap {
    /// Makes a tap called `name`, at most 15 bytes, down, in the calling thread's namespace.
    pub(super) fn new(name: &str) -> Result<Self> {
        let file = File::options()
            .read(true)
            .write(true)
            .open("/dev/net/tun")?;
        // SAFETY: ifreq is a name and a union of plain integers and pointers; zeros are a value.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        for (to, from) in request.ifr_name.iter_mut().take(15).zip(name.bytes()) {
            *to = from as libc::c_char;
        }
        request.ifr_ifru.ifru_flags = (libc::IFF_TAP | libc::IFF_NO_PI) as libc::c_short;
        // SAFETY: the request is a live ifreq, which this ioctl reads and writes.
        let result =
            unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF as _, &raw mut request) };
        check(result).with_context(|| format!("creating tap {name}"))?;
        Ok(Self { _file: file })
    }
}

/// A packet socket that holds an interface promiscuous, as tcpdump does, until it is dropped.
pub(super) fn promiscuous_packet_socket(index: u32) -> io::Result<OwnedFd> {
    let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC;
    // SAFETY: takes no pointers; the result is checked.
    let raw = check(unsafe { libc::socket(libc::AF_PACKET, kind, 0) })?;
    // SAFETY: `raw` was just opened and belongs to nobody else.
    let socket = unsafe { OwnedFd::from_raw_fd(raw) };
    // SAFETY: packet_mreq is plain integers; zeros are a value of it.
    let mut request: libc::packet_mreq = unsafe { std::mem::zeroed() };
    request.mr_ifindex = index as libc::c_int;
    request.mr_type = libc::PACKET_MR_PROMISC as libc::c_ushort;
    // SAFETY: the value is a live packet_mreq and its size is passed with it.
    check(unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            libc::PACKET_ADD_MEMBERSHIP,
            (&raw const request).cast(),
            size_of_val(&request) as libc::socklen_t,
        )
    })?;
    Ok(socket)
}

/// A directory that goes when this does.
pub(super) struct TempDir(PathBuf);

impl TempDir {
    /// Makes an empty directory of its own.
    pub(super) fn new() -> io::Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("vnet-host-test-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::create_dir(&path)?;
        Ok(Self(path))
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        // A mount made on a directory in it in another mount namespace is detached by the removal
        // (fs/namei.c, vfs_rmdir). What is left after a failure is a directory under /tmp.
        let _ = fs::remove_dir_all(&self.0);
    }
}
