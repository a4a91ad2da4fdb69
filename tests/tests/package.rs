//! The Debian package: built, checked, and lived with on a machine of its own, from its installation
//! to its purge.
//!
//! The machine is a small Debian whose first process is systemd, in namespaces of its own (mounts,
//! network, processes, control groups): its units run in the very sandbox that they ask for, its BPF file system is
//! nobody else's, and it all goes when that process does.

use std::{
    fs,
    io::Read as _,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use tempfile::TempDir;
use vnet_tests::{
    host::{Ran, binary},
    wait,
};
use xtask::{package, setup};

/// The version that an upgrade is made to. It sorts after the program's own.
const NEXT: &str = concat!(env!("CARGO_PKG_VERSION"), "+next");

/// The least exposure that systemd's own reckoning calls medium is 5; ours is to stay well below.
const MOST_EXPOSURE: f64 = 3.0;

/// What a machine's control group is called, followed by the process's id.
const CGROUP: &str = "vnet-test-";

/// The package as it is and as [`NEXT`], built once.
fn packages() -> &'static [PathBuf; 2] {
    static BUILT: OnceLock<(TempDir, [PathBuf; 2])> = OnceLock::new();
    let (_, packages) = BUILT.get_or_init(|| {
        let dir = tempfile::tempdir().unwrap();
        let pack = |version| package::deb(&binary(), dir.path(), version).unwrap();
        let packages = [pack(None), pack(Some(NEXT))];
        (dir, packages)
    });
    packages
}

/// What makes a root of the tree `$1` and runs systemd in it; `$2` is the control group that is
/// its root, `$3` where packages are.
const BOOT: &str = r#"
set -e
mount --make-rprivate /
top=$(mktemp -d)
mount -t tmpfs tmpfs "$top"
mkdir "$top/upper" "$top/work" "$top/root"
mount -t overlay overlay -o "lowerdir=$1,upperdir=$top/upper,workdir=$top/work" "$top/root"
cd "$top/root"
mkdir -p old packages
mount --bind "$3" packages
mount -t proc proc proc
# What is not this machine's own stays as it is: kernel-wide options that systemd would set.
mount --bind proc/sys proc/sys
mount -o remount,ro,bind proc/sys
mount --bind /proc/sys/net proc/sys/net
mount -t sysfs -o ro sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t bpf -o mode=700 bpf sys/fs/bpf
for dir in run tmp dev; do mount -t tmpfs -o mode=755 tmpfs $dir; done
for node in null zero full random urandom tty; do
    touch dev/$node
    mount --bind /dev/$node dev/$node
done
mkdir dev/shm dev/pts
mount -t devpts -o newinstance,ptmxmode=0666 devpts dev/pts
ln -s pts/ptmx dev/ptmx
pivot_root . old
umount -l /old
exec env -i container=vnet-test PATH=/usr/sbin:/usr/bin:/sbin:/bin /lib/systemd/systemd --unit=multi-user.target
"#;

/// A running machine, ended with this value.
struct Machine {
    unshare: Child,
    /// Its systemd, as we see it.
    first: u32,
    cgroup: PathBuf,
}

impl Machine {
    fn boot() -> Self {
        assert!(
            setup::is_root(),
            "a machine of its own needs root\n  mend: sudo -E cargo xtask test"
        );
        let tree = setup::debian_root().unwrap();
        assert!(
            tree.is_dir(),
            "{} is not there\n  mend: cargo xtask setup",
            tree.display()
        );
        static NEXT_MACHINE: AtomicU32 = AtomicU32::new(0);
        let number = NEXT_MACHINE.fetch_add(1, Ordering::Relaxed);
        sweep_cgroups();
        let cgroup = own_cgroup().join(format!("{CGROUP}{}-{number}", std::process::id()));
        fs::create_dir(&cgroup).unwrap();
        // The shell enters the control group before it takes that for its root.
        let start = r#"echo $$ > "$2/cgroup.procs"
            exec unshare --mount --net --pid --ipc --uts --cgroup --fork --kill-child sh -c "$0" "$0" "$@""#;
        let mut command = Command::new("sh");
        command
            .args(["-c", start, BOOT])
            .arg(&tree)
            .arg(&cgroup)
            .arg(packages()[0].parent().unwrap())
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        // SAFETY: between fork and exec one system call that allocates nothing. A test that is
        // killed takes the machine with it.
        unsafe {
            command.pre_exec(|| {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                Ok(())
            });
        }
        let unshare = command.spawn().unwrap();
        let mut machine = Self {
            unshare,
            first: 0,
            cgroup,
        };
        let pid = machine.unshare.id();
        wait::until("systemd runs", || {
            let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
            machine.first = children
                .ok()
                .and_then(|text| text.split_whitespace().next()?.parse().ok())
                .unwrap_or(0);
            machine.first != 0
                && fs::read_to_string(format!("/proc/{}/comm", machine.first))
                    .is_ok_and(|name| name.trim() == "systemd")
        });
        wait::until("the machine is up", || {
            machine
                .try_sh("systemctl is-system-running")
                .stdout
                .contains("running")
        });
        machine
    }

    fn command(&self, command: &str) -> Command {
        let mut nsenter = Command::new("nsenter");
        nsenter
            .args(["--all", "--target", &self.first.to_string()])
            .args(["env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin"])
            .args(["DEBIAN_FRONTEND=noninteractive", "sh", "-c", command])
            .stdin(Stdio::null());
        nsenter
    }

    #[track_caller]
    fn try_sh(&self, command: &str) -> Ran {
        Ran::of(&mut self.command(command))
    }

    /// Runs a shell command on it that must succeed, and gives its output.
    #[track_caller]
    fn sh(&self, command: &str) -> String {
        self.try_sh(command).succeeded().stdout
    }

    #[track_caller]
    fn install(&self, package: &Path) {
        let name = package.file_name().unwrap().to_str().unwrap();
        self.sh(&format!("dpkg --install /packages/{name}"));
    }

    /// Every pin with its inode: one that was made anew has another.
    fn pins(&self) -> String {
        self.sh("find /sys/fs/bpf/vnet -printf '%p %i\n' 2>/dev/null | sort")
    }

    /// Two VMs and a physical host, in namespaces, behind vm1, vm2 and up0.
    fn cable(&self) {
        for (port, address) in [
            ("vm1", "10.0.0.11"),
            ("vm2", "10.0.0.12"),
            ("up0", "192.0.2.80"),
        ] {
            self.sh(&format!(
                "ip netns add {port}; ip link add {port} type veth peer name eth0 netns {port}
                 ip link set {port} up; ip -n {port} link set eth0 up
                 ip -n {port} addr add {address}/24 dev eth0"
            ));
        }
        self.sh("ip addr add 192.0.2.5/24 dev up0");
        for vm in ["vm1", "vm2"] {
            self.sh(&format!("ip -n {vm} route add default via 10.0.0.1"));
        }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.unshare.kill();
        let _ = self.unshare.wait();
        // Its processes are gone a moment after the first one.
        for _ in 0..100 {
            if remove_cgroups(&self.cgroup).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        eprintln!("{} could not be removed", self.cgroup.display());
    }
}

/// Where our own control group is in the file system.
fn own_cgroup() -> PathBuf {
    let mounts = fs::read_to_string("/proc/mounts").unwrap();
    let mount = mounts
        .lines()
        .map(|line| line.split(' ').collect::<Vec<_>>())
        .find(|words| words[2] == "cgroup2")
        .expect("systemd needs control groups of version 2\n  mend: mount -t cgroup2 cgroup2 DIR")
        [1];
    let own = fs::read_to_string("/proc/self/cgroup").unwrap();
    let own = own.lines().find_map(|line| line.strip_prefix("0::/"));
    Path::new(mount).join(own.unwrap())
}

/// Removes what test processes left that were killed.
fn sweep_cgroups() {
    for entry in fs::read_dir(own_cgroup()).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let pid = name.to_str().and_then(|name| {
            let (pid, _) = name.strip_prefix(CGROUP)?.split_once('-')?;
            pid.parse::<u32>().ok()
        });
        if pid.is_some_and(|pid| !Path::new("/proc").join(pid.to_string()).exists()) {
            let _ = remove_cgroups(&entry.path());
        }
    }
}

fn remove_cgroups(dir: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_cgroups(&entry.path())?;
        }
    }
    fs::remove_dir(dir)
}

#[test]
fn lintian_has_nothing_against_it() {
    let ran = Ran::of(
        Command::new("lintian")
            .args(["--allow-root", "--fail-on", "error,warning"])
            .arg(&packages()[0]),
    );
    assert_eq!(ran.succeeded().stdout, "");
}

const DOCUMENT: &str = r#"schema = 1
[[network]]
name = "lan"
gateway = ["10.0.0.1/24"]
dhcp = ["10.0.0.100-10.0.0.199"]
[[port]]
name = "up0"
uplink = true
[[port]]
name = "vm1"
network = "lan"
[[port]]
name = "vm2"
network = "lan"
[[nat]]
id = 1
kind = "masquerade"
network = "lan"
uplink = "up0"
"#;

#[test]
fn from_installation_to_purge() {
    let machine = Machine::boot();
    let [package, next] = packages();

    machine.install(package);
    let version = machine.sh("vnet-user --version");
    assert_eq!(
        version.trim(),
        concat!("vnet-user ", env!("CARGO_PKG_VERSION"))
    );
    machine.sh("getent group vnet");
    machine.sh("vnet-user config check /usr/share/doc/vnet/examples/vsw0.toml");
    machine.sh(
        "bash -c '. /usr/share/bash-completion/completions/vnet-user && complete -p vnet-user'",
    );
    let page = machine.sh("MANWIDTH=80 man -l /usr/share/man/man1/vnet-user.1.gz");
    assert!(page.contains("SYNOPSIS"), "{page}");

    // The program is where the unit looks for it, and its manual page too: nothing to complain of.
    let verified = machine.try_sh(
        "systemd-analyze verify vnetd@vsw0.service vnet-dhcp@vsw0.service vnet-bpffs.service",
    );
    let verified = verified.succeeded();
    assert_eq!(
        (verified.stdout.as_str(), verified.stderr.as_str()),
        ("", "")
    );
    for unit in ["vnetd@vsw0", "vnet-dhcp@vsw0"] {
        let analyze = "systemd-analyze security --no-pager --offline=yes";
        let text = machine.sh(&format!("{analyze} {unit}.service"));
        let exposure: f64 = text
            .lines()
            .find_map(|line| {
                line.split_once("Overall exposure level for ")?
                    .1
                    .split(' ')
                    .nth(1)
            })
            .and_then(|number| number.parse().ok())
            .unwrap_or_else(|| panic!("no exposure in\n{text}"));
        assert!(exposure < MOST_EXPOSURE, "{text}");
    }

    // The switch comes up in the unit's sandbox, with all that it changes on a host.
    machine.cable();
    machine.sh(&format!("cat > /etc/vnet/vsw0.toml <<'END'\n{DOCUMENT}END"));
    let started = machine.try_sh("systemctl enable --now vnetd@vsw0");
    let log = machine.sh("journalctl --no-pager -u vnetd@vsw0");
    assert_eq!(started.code, 0, "{log}");
    let socket = machine.sh("stat -c '%U:%G' /run/vnet/vsw0.sock");
    assert_eq!(socket.trim(), "root:vnet");
    machine.sh("ip netns exec vm1 ping -c1 -W5 10.0.0.12");
    machine.sh("ip netns exec vm1 ping -c1 -W5 192.0.2.80");

    // DHCP has a unit and a user of its own.
    let serves = |words: &str| {
        let log = || machine.sh("journalctl --no-pager -u vnet-dhcp@vsw0");
        let server = wait::within(Duration::from_secs(20), || {
            let found = machine.try_sh("pgrep -u vnet-dhcp -x dnsmasq").stdout;
            let doctor = machine.try_sh("vnet-user doctor").stdout;
            let line = doctor.lines().find(|line| line.starts_with("dhcp: "))?;
            (!found.is_empty() && line.contains("PASS")).then_some(found)
        });
        server.unwrap_or_else(|| panic!("{words}: {}", log()))
    };
    let server = serves("no dnsmasq");

    // An upgrade: the daemon is another one, the datapath is the same, and loses nothing.
    let before = machine.pins();
    assert!(before.contains("/sys/fs/bpf/vnet/vsw0"), "{before}");
    let process = || machine.sh("systemctl show -P MainPID vnetd@vsw0");
    let daemon = process();
    let mut pings = machine
        .command("ip netns exec vm1 ping -q -i 0.01 -w 60 192.0.2.80")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    machine.install(next);
    assert!(
        machine
            .sh("dpkg -s vnet")
            .contains(&format!("Version: {NEXT}"))
    );
    assert_ne!(process(), daemon);
    assert_eq!(machine.pins(), before);
    assert_ne!(serves("no dnsmasq after the upgrade"), server);
    machine.sh("systemctl is-active vnetd@vsw0; pkill -INT -x ping || kill -INT $(pidof ping)");
    let mut text = String::new();
    let mut output = pings.stdout.take().unwrap();
    output.read_to_string(&mut text).unwrap();
    pings.wait().unwrap();
    assert!(text.contains(" 0% packet loss"), "{text}");

    // Removal: the switch is down, the document stays.
    machine.sh("dpkg --remove vnet");
    assert_eq!(machine.pins(), "");
    assert!(!machine.sh("ip link").contains("vsw0"));
    assert_eq!(machine.sh("cat /etc/vnet/vsw0.toml"), DOCUMENT);
    let units = machine.sh("systemctl list-units --no-legend 'vnetd@*' 'vnet-dhcp@*'");
    assert_eq!(units, "");

    machine.sh("dpkg --purge vnet");
    for gone in [
        "/var/lib/vnet",
        "/run/vnet",
        "/etc/systemd/system/multi-user.target.wants/vnetd@vsw0.service",
    ] {
        machine.sh(&format!("! test -e {gone} && ! test -L {gone}"));
    }
    assert_eq!(
        machine.sh("cat /etc/vnet/vsw0.toml"),
        DOCUMENT,
        "the user wrote it"
    );
}

/// No switch and no document: everything goes, but for the group, which may own files elsewhere.
#[test]
fn a_machine_that_ran_nothing_is_left_clean() {
    let machine = Machine::boot();
    machine.install(&packages()[0]);
    machine.sh("dpkg --purge vnet");
    let left =
        machine.sh("find /etc /usr /var/lib -xdev -path '*vnet*' -not -path '/var/lib/dpkg/*'");
    assert_eq!(left, "");
}
