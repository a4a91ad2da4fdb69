//! libvirt on a test's host: a real libvirtd and guests that it starts.
//!
//! libvirtd runs as on a host of its own: in the host's network namespace, with a process namespace
//! and with directories and an account file of its own. Nothing of the machine's libvirt is seen or
//! touched, and when the daemon ends, however a test does, its guests end with it.

mod domain;

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    time::Duration,
};

use tempfile::TempDir;
use xtask::{paths::find_program, process::output};

pub use self::domain::{Domain, Nic, Source};
use crate::{host::Host, wait};

/// How long libvirtd may take to answer: at its start it has QEMU tell all that it can do.
const START_LIMIT: Duration = Duration::from_secs(60);

/// Directories of the machine's that libvirtd writes to, and what its own are called.
const PLACES: [(&str, &str); 5] = [
    ("/etc/libvirt", "etc"),
    ("/run", "run"),
    ("/var/cache", "cache"),
    ("/var/lib", "lib"),
    ("/var/log", "log"),
];

/// The account that Debian's libvirtd insists on, which a package makes that we do not need.
const ACCOUNT: &str = "libvirt-qemu";

/// QEMU as it is run everywhere in these tests: as root, without confinement by programs and
/// control groups that a machine need not have.
const QEMU_CONF: &str = r#"
user = "root"
group = "root"
dynamic_ownership = 0
remember_owner = 0
security_driver = "none"
cgroup_controllers = []
namespaces = []
stdio_handler = "file"
"#;

/// Runs as the first process of the namespaces: it takes in what the guests leave behind, and with it
/// everything ends, when whoever started it closes its input or is gone, or libvirtd ends.
const FIRST_PROCESS: &str = r#"
trap 'exit 0' TERM
exec 3<&0
(read -r _ <&3; kill -TERM 1) &
(libvirtd; kill -TERM 1) &
while :; do wait; done
"#;

/// A libvirtd that runs on a host. Dropped, it ends with all its guests.
#[derive(Debug)]
pub struct Libvirt {
    daemon: Child,
    /// Closed, it ends everything.
    keeper: Option<ChildStdin>,
    dir: TempDir,
}

impl Libvirt {
    /// Starts libvirtd in the host's network namespace and waits until it answers.
    ///
    /// # Panics
    /// When libvirt is not installed, or libvirtd does not start: tests with libvirt are never left
    /// out.
    #[must_use]
    pub fn start(host: &Host) -> Self {
        for program in ["libvirtd", "virsh", "virt-qemu-run"] {
            assert!(
                find_program(program).is_some(),
                "{program} is not installed\n  mend: cargo xtask setup"
            );
        }
        let dir = tempfile::tempdir().unwrap();
        let script = script(dir.path());
        let mut command = host.netns().command("unshare").unwrap();
        command
            .args(["--mount", "--propagation", "private"])
            .args(["--pid", "--fork", "--kill-child", "--mount-proc"])
            .args(["sh", "-ec", &script])
            .env("PATH", "/usr/local/sbin:/usr/sbin:/sbin:/usr/bin:/bin")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(fs::File::create(dir.path().join("stderr")).unwrap());
        let mut daemon = command.spawn().unwrap();
        let mut libvirt = Self {
            keeper: daemon.stdin.take(),
            daemon,
            dir,
        };
        let answers = wait::within(START_LIMIT, || {
            let ended = libvirt.daemon.try_wait().unwrap();
            assert!(ended.is_none(), "libvirtd ended: {}", libvirt.log());
            libvirt.try_virsh("version").ok()
        });
        assert!(answers.is_some(), "libvirtd is silent: {}", libvirt.log());
        libvirt
    }

    /// Runs `virsh` with the words of `line`, which must succeed, and gives its output.
    ///
    /// # Panics
    /// When it fails.
    #[track_caller]
    pub fn virsh(&self, line: &str) -> String {
        match self.try_virsh(line) {
            Ok(said) => said,
            Err(error) => panic!("{error:#}\n{}", self.log()),
        }
    }

    /// Runs `virsh` with the words of `line`.
    ///
    /// # Errors
    /// When it fails; the error carries what it wrote.
    pub fn try_virsh(&self, line: &str) -> anyhow::Result<String> {
        let socket = self.dir.path().join("libvirt-sock");
        output(
            Command::new("virsh")
                .arg("--quiet")
                .arg(format!(
                    "--connect=qemu+unix:///system?socket={}",
                    socket.display()
                ))
                .args(line.split_whitespace())
                // What it remembers of its user.
                .env("XDG_CACHE_HOME", self.dir.path())
                .env("LC_ALL", "C"),
        )
    }

    /// What libvirtd said.
    #[must_use]
    pub fn log(&self) -> String {
        ["stderr", "libvirtd.log"]
            .map(|name| fs::read_to_string(self.dir.path().join(name)).unwrap_or_default())
            .concat()
    }

    /// Writes a file that libvirtd and its guests find too.
    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        fs::write(&path, text).unwrap();
        path
    }
}

impl Drop for Libvirt {
    fn drop(&mut self) {
        drop(self.keeper.take());
        // The first process ends when every other one of its namespace has.
        if wait::within(Duration::from_secs(20), || self.daemon.try_wait().ok()?).is_none() {
            let _ = self.daemon.kill();
            let _ = self.daemon.wait();
        }
    }
}

/// Makes libvirtd's directories and files in `dir`; returns what brings them to their places and starts
/// it.
fn script(dir: &Path) -> String {
    let mut script = String::new();
    let mut put = |from: PathBuf, to: &str| {
        script.push_str(&format!("mount --bind {} {to}\n", from.display()));
    };
    for (place, own) in PLACES {
        let own = dir.join(own);
        fs::create_dir(&own).unwrap();
        put(own, place);
    }
    for (file, line) in [
        ("passwd", "x:64055:64055::/nonexistent:/usr/sbin/nologin"),
        ("group", "x:64055:"),
    ] {
        let place = Path::new("/etc").join(file);
        let mut text = fs::read_to_string(&place).unwrap();
        if !text.lines().any(|line| line.starts_with(ACCOUNT)) {
            text.push_str(&format!("{ACCOUNT}:{line}\n"));
        }
        let own = dir.join(file);
        fs::write(&own, text).unwrap();
        put(own, &place.display().to_string());
    }
    let etc = dir.join("etc");
    fs::write(etc.join("qemu.conf"), QEMU_CONF).unwrap();
    let log = dir.join("libvirtd.log");
    let libvirtd = format!(
        "unix_sock_dir = \"{}\"\nauth_unix_rw = \"none\"\nauth_unix_ro = \"none\"\n\
         log_outputs = \"3:file:{}\"\n",
        dir.display(),
        log.display()
    );
    fs::write(etc.join("libvirtd.conf"), libvirtd).unwrap();
    script + FIRST_PROCESS
}
