//! A host with a switch, for end-to-end tests: a network namespace that stands for the machine, in
//! which the real `vnet-user` is run, and other namespaces that stand for its VMs and for the
//! machines on its physical network.
//!
//! Each [`Host`] has a switch name, a place for documents and a run directory of its own, so that
//! tests run side by side. Dropping it takes everything down, and the test fails when `down` leaves
//! anything behind.

mod address;
mod daemon;
mod enforced;
mod guest;
mod kernel;
mod killed;
mod leftovers;
mod ran;
mod station;
mod views;

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{
        Arc, Mutex, Once, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    thread,
};

use tempfile::TempDir;
use xtask::{netns::Netns, paths, setup::is_root};

pub use self::{
    address::Mac,
    daemon::Daemon,
    enforced::Enforced,
    kernel::{BridgePort, Fingerprint, InterfaceFacts},
    killed::{Ended, Step},
    ran::Ran,
    station::Station,
    views::FdbRow,
};

/// Where pins are.
pub const BPFFS: &str = "/sys/fs/bpf";

/// What every namespace of these tests is called, followed by the process's id.
const PREFIX: &str = "vnet-e2e-";
/// What every switch of these tests is called, followed by the process's id.
const SWITCH_PREFIX: &str = "e2e";

/// The number that the switch device's addresses end with: [`Host::device_ip`].
const DEVICE_NUMBER: u8 = 254;
/// The number that the uplink's own addresses end with: [`Host::uplink_ip`].
const UPLINK_NUMBER: u8 = 253;

/// A host with a switch. See the module.
#[derive(Debug)]
pub struct Host {
    switch: String,
    prefix: String,
    dir: TempDir,
    /// Stations live as long as the host: `down` has to give their interfaces back.
    stations: Mutex<Vec<Arc<Station>>>,
    /// Bridges of the test's own, whose members stay members.
    foreign_bridges: Mutex<Vec<String>>,
    netns: Netns,
}

impl Host {
    /// A host on which no switch is up yet.
    ///
    /// # Panics
    /// Without root, and when there is no `vnet-user`.
    #[must_use]
    pub fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        static SWEEP: Once = Once::new();
        assert!(
            is_root(),
            "network namespaces and the datapath need root\n  mend: sudo -E cargo xtask test"
        );
        SWEEP.call_once(leftovers::sweep);
        let (pid, number) = (std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let prefix = format!("{PREFIX}{pid}-{number}-");
        Self {
            switch: format!("{SWITCH_PREFIX}{pid}x{number}"),
            netns: Netns::create(format!("{prefix}host")).unwrap(),
            // What it starts may run as another user.
            dir: tempfile::Builder::new()
                .prefix(&prefix)
                .permissions(fs::Permissions::from_mode(0o755))
                .tempdir()
                .unwrap(),
            prefix,
            stations: Mutex::default(),
            foreign_bridges: Mutex::default(),
        }
    }

    /// A host whose switch is up, without ports.
    #[must_use]
    pub fn up() -> Self {
        let host = Self::new();
        host.vnet("up");
        host
    }

    /// A host whose switch is up, with a VM `vmN` on the network `default` for each of `numbers`.
    #[must_use]
    pub fn with_vms<const N: usize>(numbers: [u8; N]) -> (Self, [Arc<Station>; N]) {
        let host = Self::up();
        let vms = numbers.map(|number| {
            let vm = host.vm(number);
            host.vnet(&format!("port add {}", vm.port()));
            vm
        });
        (host, vms)
    }

    /// The switch's name, which is its device's too.
    #[must_use]
    pub fn switch(&self) -> &str {
        &self.switch
    }

    /// The host's namespace.
    #[must_use]
    pub fn netns(&self) -> &Netns {
        &self.netns
    }

    /// Where the switch's pins are.
    #[must_use]
    pub fn pins(&self) -> PathBuf {
        Path::new(BPFFS).join("vnet").join(&self.switch)
    }

    /// Where the switch's document is.
    #[must_use]
    pub fn document(&self) -> PathBuf {
        self.config_dir().join(format!("{}.toml", self.switch))
    }

    /// The directory of documents.
    #[must_use]
    pub fn config_dir(&self) -> PathBuf {
        self.dir.path().join("etc")
    }

    /// The run directory.
    #[must_use]
    pub fn run_dir(&self) -> PathBuf {
        self.dir.path().join("run")
    }

    /// A VM whose port is `vmN` and whose addresses end with `number`. It is no port of the switch
    /// before `port add`.
    ///
    /// # Panics
    /// When it cannot be made.
    pub fn vm(&self, number: u8) -> Arc<Station> {
        self.station(&format!("vm{number}"), number)
    }

    /// A machine on the physical network, behind the host's interface `up0`, with addresses that
    /// end with 100. `up0` is no uplink before the switch is told so.
    ///
    /// # Panics
    /// When it cannot be made.
    pub fn phys(&self) -> Arc<Station> {
        self.station("up0", 100)
    }

    /// A machine of any role behind the host's interface `port`.
    ///
    /// # Panics
    /// When it cannot be made.
    pub fn station(&self, port: &str, number: u8) -> Arc<Station> {
        let netns = format!("{}{port}", self.prefix);
        let station = Arc::new(Station::create(&self.netns, &netns, port, number));
        lock(&self.stations).push(Arc::clone(&station));
        station
    }

    /// Like [`Self::station`], without IP addresses.
    ///
    /// # Panics
    /// When it cannot be made.
    pub fn bare_station(&self, port: &str, number: u8) -> Arc<Station> {
        let netns = format!("{}{port}", self.prefix);
        let station = Arc::new(Station::create_bare(&self.netns, &netns, port, number));
        lock(&self.stations).push(Arc::clone(&station));
        station
    }

    /// A machine that has no cable to the host.
    ///
    /// # Panics
    /// When it cannot be made.
    #[must_use]
    pub fn remote(&self, name: &str) -> Netns {
        Netns::create(format!("{}{name}", self.prefix)).unwrap()
    }

    /// Gives the switch device an address, and gives it.
    ///
    /// # Panics
    /// When it cannot be set.
    pub fn device_ip(&self) -> Addresses {
        self.add_addresses(&self.switch, DEVICE_NUMBER)
    }

    /// Gives the uplink `up0` an address of its own, and gives it.
    ///
    /// # Panics
    /// When it cannot be set.
    pub fn uplink_ip(&self) -> Addresses {
        self.add_addresses("up0", UPLINK_NUMBER)
    }

    fn add_addresses(&self, interface: &str, number: u8) -> Addresses {
        let addresses = Addresses::new(number);
        addresses.put(&self.netns, interface);
        addresses
    }

    /// Tells that `bridge` is the test's own: what is in it stays in it after `down`.
    pub fn foreign_bridge(&self, bridge: &str) {
        lock(&self.foreign_bridges).push(bridge.to_owned());
    }

    /// Runs `vnet-user` with the words of `line`, which must succeed.
    ///
    /// # Panics
    /// When it does not exit with 0.
    #[track_caller]
    pub fn vnet(&self, line: &str) -> Ran {
        self.try_vnet(line).succeeded()
    }

    /// Runs `vnet-user` with the words of `line`, whatever it comes to.
    ///
    /// # Panics
    /// When it cannot be started.
    #[track_caller]
    pub fn try_vnet(&self, line: &str) -> Ran {
        Ran::of(&mut self.vnet_command(line))
    }

    /// `vnet-user` with the words of `line`, ready to start on the host.
    ///
    /// # Panics
    /// When the host's namespace is gone.
    #[must_use]
    pub fn vnet_command(&self, line: &str) -> Command {
        let mut command = Command::new(binary());
        xtask::netns::start_inside(&mut command, self.netns.name()).unwrap();
        self.configure(&mut command, line);
        command
    }

    /// Tells `command`, which runs `vnet-user` somehow, this host's places.
    pub fn configure(&self, command: &mut Command, line: &str) {
        command
            .arg("--config-dir")
            .arg(self.config_dir())
            .args(line.split_whitespace())
            .env("VNET_SWITCH", &self.switch)
            .env("VNET_RUN_DIR", self.run_dir())
            .env_remove("NO_COLOR")
            .stdin(Stdio::null());
    }

    /// Runs a shell command on the host, which must succeed.
    ///
    /// # Panics
    /// When it fails.
    #[track_caller]
    pub fn sh(&self, command: &str) -> String {
        self.netns.sh(command).unwrap()
    }

    /// Runs `ip` on the host with the words of `line`, which must succeed.
    ///
    /// # Panics
    /// When it fails.
    #[track_caller]
    pub fn ip(&self, line: &str) -> String {
        self.netns.ip(line).unwrap()
    }

    /// The document; `None` while there is none.
    #[must_use]
    pub fn document_text(&self) -> Option<String> {
        fs::read_to_string(self.document()).ok()
    }
}

impl Default for Host {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let mut wrong = Vec::new();
        for switch in self.switches() {
            let down = self.try_vnet(&format!("--switch {switch} down"));
            if down.code != 0 {
                wrong.push(format!("`down` of {switch} failed: {}", down.stderr));
            }
        }
        wrong.extend(self.leftovers());
        for switch in self.switches() {
            leftovers::remove_pins(&switch);
        }
        if wrong.is_empty() {
            return;
        }
        let text = format!("left after `down`:\n  {}", wrong.join("\n  "));
        if thread::panicking() {
            eprintln!("{text}");
        } else {
            panic!("{text}");
        }
    }
}

impl Host {
    /// Every switch that was ever configured or brought up here.
    fn switches(&self) -> Vec<String> {
        let mut names = BTreeMap::from([(self.switch.clone(), ())]);
        for (dir, ending) in [
            (self.config_dir(), ".toml"),
            (self.run_dir(), ".state.json"),
        ] {
            for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
                if let Some(name) = entry.file_name().to_string_lossy().strip_suffix(ending) {
                    names.insert(name.to_owned(), ());
                }
            }
        }
        names.into_keys().collect()
    }
}

pub use self::address::Addresses;

/// The program under test: VNET_USER_BIN, else what `cargo xtask build` leaves.
///
/// # Panics
/// When it is not there.
#[must_use]
pub fn binary() -> PathBuf {
    let path = std::env::var_os("VNET_USER_BIN").map_or_else(paths::vnet_user, PathBuf::from);
    assert!(
        path.is_file(),
        "{} is not there\n  mend: cargo xtask build",
        path.display()
    );
    path
}

/// A panic while the lock was held left a whole value behind.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
