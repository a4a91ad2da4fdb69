//! Real virtual machines: QEMU guests on taps that exist already.
//!
//! A guest boots the image that setup made ([`GuestImage`]) in a few seconds. It configures its one
//! network card (`eth0`, virtio-net with all offloads on) from its configuration, serves a page that
//! tells its name on TCP port 80, and runs shell commands that the host sends over a serial port,
//! so that a test can look into it whatever becomes of its network.

mod console;
mod files;
mod shell;
mod spawn;

use std::{
    env,
    fmt::Write,
    fs::{self, File},
    net::IpAddr,
    os::unix::{
        fs::DirBuilderExt,
        process::{CommandExt, ExitStatusExt},
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use anyhow::{Context, Result, bail};

pub use self::shell::{Output, Shell};
use self::spawn::spawn_bound_to_us;
use crate::{netns, paths::find_program, process::shown, setup::GuestImage};

const QEMU: &str = "qemu-system-x86_64";

/// All that QEMU can emulate but cmpxchg16b: under QEMU 7.2, two of seven boots of Linux 6.12
/// crashed, in the slab allocator right behind that instruction; of 26 without it none did.
const CPU: &str = "max,-cx16";

/// What every guest's kernel is told. `panic=1`: a guest that crashes boots again, which `run`
/// notices. `slab_debug`: on a CPU without cmpxchg16b, newer kernels (6.18) allocate without waiting,
/// as BPF timers do, only from caches that are checked (mm/slub.c, kmalloc_nolock): 7.3 had no memory
/// for any timer. Older ones (6.1) pass over the word.
const KERNEL_OPTIONS: &str = "console=ttyS0 quiet panic=1 mitigations=off slab_debug=F,kmalloc-*";

/// How long [`Guest::run`] lets a command take.
const COMMAND_LIMIT: Duration = Duration::from_secs(60);

/// How long a reboot may take; an emulated guest on a busy machine is slow.
const BOOT_LIMIT: Duration = Duration::from_secs(120);

/// What a guest is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuestConfig {
    /// Its host name, which its page on port 80 tells.
    pub name: String,
    /// The tap that its network card hangs on. It must exist; bringing it up is the caller's.
    pub tap: String,
    /// Its MAC address, as in `52:54:00:00:00:01`.
    pub mac: String,
    /// Its IPv4 address with prefix length, as in `10.0.0.1/24`; `dhcp` asks for one.
    pub ipv4: Option<String>,
    /// Its IPv6 address with prefix length, besides the link-local one.
    pub ipv6: Option<String>,
    /// IPv4 default gateway.
    pub gateway4: Option<IpAddr>,
    /// IPv6 default gateway.
    pub gateway6: Option<IpAddr>,
    /// Memory in MiB.
    pub memory: u32,
    /// The network namespace that the tap is in, by name; ours when none.
    pub netns: Option<String>,
    /// What it boots; the image that setup made when none.
    pub image: Option<GuestImage>,
    /// Files that it has besides those of the image: where in the guest, and what each is a copy of.
    pub extra_files: Vec<(PathBuf, PathBuf)>,
}

impl GuestConfig {
    /// A guest of 256 MiB with no addresses, in our own network namespace.
    pub fn new(name: &str, tap: &str, mac: &str) -> Self {
        Self {
            name: name.to_owned(),
            tap: tap.to_owned(),
            mac: mac.to_owned(),
            ipv4: None,
            ipv6: None,
            gateway4: None,
            gateway6: None,
            memory: 256,
            netns: None,
            image: None,
            extra_files: Vec::new(),
        }
    }

    /// Gives it a program of this machine, at the path `inside`, with the shared libraries that it
    /// needs.
    ///
    /// # Errors
    /// When the libraries cannot be found out.
    pub fn add_program(&mut self, inside: impl Into<PathBuf>, program: &Path) -> Result<()> {
        for library in files::libraries(program)? {
            self.extra_files.push((library.clone(), library));
        }
        self.extra_files.push((inside.into(), program.to_owned()));
        Ok(())
    }

    /// What its kernel is to be told.
    ///
    /// # Errors
    /// When the name or an address is none.
    pub fn kernel_command_line(&self) -> Result<String> {
        let cidr = |text: &str| {
            let (address, length) = text.split_once('/')?;
            let address: IpAddr = address.parse().ok()?;
            let longest = if address.is_ipv4() { 32 } else { 128 };
            (length.parse::<u8>().ok()? <= longest).then_some(address)
        };
        // Words of their own on the command line: a blank would smuggle in another parameter.
        if self.name.is_empty() || self.name.contains(char::is_whitespace) {
            bail!("{:?} is no host name", self.name);
        }
        let mut line = format!("{KERNEL_OPTIONS} vnet.name={}", self.name);
        if let Some(ipv4) = &self.ipv4 {
            if ipv4 != "dhcp" && !cidr(ipv4).is_some_and(|address| address.is_ipv4()) {
                bail!("{ipv4} is neither `dhcp` nor an IPv4 address with a prefix length");
            }
            let _ = write!(line, " vnet.ip={ipv4}");
        }
        if let Some(ipv6) = &self.ipv6 {
            if !cidr(ipv6).is_some_and(|address| address.is_ipv6()) {
                bail!("{ipv6} is no IPv6 address with a prefix length");
            }
            let _ = write!(line, " vnet.ip6={ipv6}");
        }
        if let Some(gateway) = self.gateway4 {
            let _ = write!(line, " vnet.gw={gateway}");
        }
        if let Some(gateway) = self.gateway6 {
            let _ = write!(line, " vnet.gw6={gateway}");
        }
        Ok(line)
    }
}

/// A running guest, ended with this value.
#[derive(Debug)]
pub struct Guest {
    config: GuestConfig,
    qemu: Child,
    /// Its sockets and logs, removed with it.
    dir: PathBuf,
    shell: Shell,
    /// Whether it has said so since it last began to boot.
    ready: bool,
}

impl Guest {
    /// Whether guests can run here.
    ///
    /// # Errors
    /// When QEMU or the image is missing; the message says what to do.
    pub fn available() -> Result<()> {
        if find_program(QEMU).is_none() {
            bail!("looking for {QEMU}: it is not installed; run `cargo xtask setup`");
        }
        GuestImage::find().map(drop)
    }

    /// Starts a guest and returns while it still boots, so that several can boot at once.
    ///
    /// # Errors
    /// When QEMU or the image is missing, the configuration is not sound, or QEMU does not start,
    /// as when the tap is taken.
    pub fn boot(config: GuestConfig) -> Result<Self> {
        let doing = format!("starting the guest {}", config.name);
        Self::start(config).context(doing)
    }

    fn start(config: GuestConfig) -> Result<Self> {
        let image = config.image.clone().map_or_else(GuestImage::find, Ok)?;
        let qemu = find_program(QEMU)
            .with_context(|| format!("{QEMU} is not installed; run `cargo xtask setup`"))?;
        let dir = Scratch::new()?;
        let initramfs = if config.extra_files.is_empty() {
            image.initramfs
        } else {
            files::add_to(&image.initramfs, &config.extra_files, &dir.initramfs())
                .context("adding files to the image")?;
            dir.initramfs()
        };

        // KVM is far faster where it works; it does not in every place that has /dev/kvm.
        let accelerator = env::var("VNET_QEMU_ACCEL").unwrap_or_else(|_| "tcg".to_owned());
        let mut command = Command::new(qemu);
        command
            .args(["-nodefaults", "-no-user-config", "-display", "none"])
            .args(["-accel", &accelerator, "-cpu", CPU])
            .args([
                "-name",
                &option(&config.name),
                "-m",
                &config.memory.to_string(),
            ])
            .arg("-kernel")
            .arg(&image.kernel)
            .arg("-initrd")
            .arg(&initramfs)
            .args(["-append", &config.kernel_command_line()?])
            .args([
                "-chardev",
                &format!("file,id=log,path={}", path_option(&dir.log())?),
            ])
            .args(["-serial", "chardev:log"])
            .args(["-chardev"])
            .arg(format!(
                "socket,id=run,path={},server=on,wait=off",
                path_option(&dir.socket())?
            ))
            .args(["-serial", "chardev:run"])
            .arg("-netdev")
            .arg(format!(
                "tap,id=net,ifname={},script=no,downscript=no",
                option(&config.tap)
            ))
            .arg("-device")
            .arg(format!(
                "virtio-net-pci,netdev=net,mac={},romfile=",
                option(&config.mac)
            ))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(dir.errors()).context("making a file for QEMU's messages")?)
            // Ctrl-C is for us: we end it when we are through.
            .process_group(0);
        if let Some(name) = &config.netns {
            netns::start_inside(&mut command, name)?;
        }

        let text = shown(&command);
        let mut qemu = spawn_bound_to_us(command).with_context(|| format!("starting `{text}`"))?;
        let runs = || match qemu.try_wait().context("looking whether QEMU runs")? {
            Some(status) => bail!("QEMU ended: {status}, signal {:?}", status.signal()),
            None => Ok(()),
        };
        match Shell::connect(&dir.socket(), runs) {
            Ok(shell) => Ok(Self {
                config,
                qemu,
                dir: dir.keep(),
                shell,
                ready: false,
            }),
            Err(error) => {
                end(&mut qemu);
                let said = fs::read_to_string(dir.errors()).unwrap_or_default();
                Err(error.context(format!("starting `{text}`: {}", said.trim())))
            }
        }
    }

    /// What it was configured to be.
    pub fn config(&self) -> &GuestConfig {
        &self.config
    }

    /// The process id of its QEMU.
    pub fn pid(&self) -> u32 {
        self.qemu.id()
    }

    /// What its kernel printed since it first booted.
    pub fn kernel_log(&self) -> String {
        let bytes = fs::read(self.dir.join(LOG)).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Waits until it has booted (after a reboot: again), has its addresses and serves its page.
    ///
    /// # Errors
    /// When it takes longer than `timeout` or QEMU ends; the message carries the end of the kernel
    /// log.
    pub fn wait_ready(&mut self, timeout: Duration) -> Result<()> {
        if self.ready {
            return Ok(());
        }
        let ready = self.shell.wait_ready(timeout);
        self.ready = ready.is_ok();
        ready.map_err(|error| self.explain(error, "waiting for it to boot"))
    }

    /// Runs a shell command in it, for at most a minute.
    ///
    /// What is left running in the background must not need the command's end; its output after
    /// that is lost.
    ///
    /// # Errors
    /// When the guest does not answer or reboots meanwhile. A command that fails is no error.
    pub fn run(&mut self, command: &str) -> Result<Output> {
        self.run_within(command, COMMAND_LIMIT)
    }

    /// Runs a shell command in it that may take as long as `limit` (in whole seconds); then it gets
    /// SIGTERM.
    ///
    /// # Errors
    /// As [`Guest::run`].
    pub fn run_within(&mut self, command: &str, limit: Duration) -> Result<Output> {
        let result = self.shell.run(command, limit);
        result.map_err(|error| self.explain(error, &format!("running `{command}` in it")))
    }

    /// Runs a shell command in it that must succeed, and gives its output.
    ///
    /// # Errors
    /// As [`Guest::run`], and when the command exits with anything but 0.
    pub fn check(&mut self, command: &str) -> Result<String> {
        let Output { status, stdout } = self.run(command)?;
        if status != 0 {
            bail!(
                "`{command}` in the guest {} exited with {status}:\n{}",
                self.config.name,
                stdout.trim_end()
            );
        }
        Ok(stdout)
    }

    /// Reboots it, as its user would, and waits until it is ready again. The QEMU process stays.
    ///
    /// # Errors
    /// When it does not come back.
    pub fn reboot(&mut self) -> Result<()> {
        let sent = self.shell.begin("reboot -f", COMMAND_LIMIT).map(drop);
        sent.map_err(|error| self.explain(error, "asking it to reboot"))?;
        self.ready = false;
        self.wait_ready(BOOT_LIMIT)
    }

    fn explain(&self, error: anyhow::Error, doing: &str) -> anyhow::Error {
        let log = self.kernel_log();
        let lines: Vec<_> = log.lines().collect();
        let tail = lines[lines.len().saturating_sub(15)..].join("\n");
        let said = fs::read_to_string(self.dir.join(ERRORS)).unwrap_or_default();
        let mut text = format!("guest {}: {doing}", self.config.name);
        for (what, text_of) in [
            ("QEMU said", said.trim()),
            ("end of its kernel log", tail.trim()),
        ] {
            if !text_of.is_empty() {
                let _ = write!(text, "\n[{what}]\n{text_of}\n");
            }
        }
        error.context(text)
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        end(&mut self.qemu);
        let _ = fs::remove_dir_all(&self.dir);
    }
}

fn end(qemu: &mut Child) {
    // It has no disk to spoil. An error means that it ended by itself.
    let _ = qemu.kill();
    let _ = qemu.wait();
}

/// A value inside one of QEMU's comma-separated options.
fn option(value: &str) -> String {
    value.replace(',', ",,")
}

fn path_option(path: &Path) -> Result<String> {
    let text = path
        .to_str()
        .with_context(|| format!("{} is not UTF-8", path.display()))?;
    Ok(option(text))
}

const LOG: &str = "kernel.log";
const ERRORS: &str = "qemu.err";
const SOCKET: &str = "run.sock";
const INITRAMFS: &str = "initramfs.cpio";

/// A guest's directory before the guest is there; removed unless kept.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        // Short: a socket's path has room for 107 bytes.
        let dir = env::temp_dir().join(format!("vnet-guest-{}-{number}", std::process::id()));
        fs::DirBuilder::new()
            .mode(0o700)
            .create(&dir)
            .with_context(|| format!("making the directory {}", dir.display()))?;
        Ok(Self(dir))
    }

    fn log(&self) -> PathBuf {
        self.0.join(LOG)
    }

    fn errors(&self) -> PathBuf {
        self.0.join(ERRORS)
    }

    fn socket(&self) -> PathBuf {
        self.0.join(SOCKET)
    }

    fn initramfs(&self) -> PathBuf {
        self.0.join(INITRAMFS)
    }

    fn keep(mut self) -> PathBuf {
        std::mem::take(&mut self.0)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if !self.0.as_os_str().is_empty() {
            let _ = fs::remove_dir_all(&self.0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_go_to_the_kernel_command_line() {
        let mut config = GuestConfig::new("vm1", "tap1", "52:54:00:00:00:01");
        config.ipv4 = Some("10.0.0.1/24".into());
        config.ipv6 = Some("fd00::1/64".into());
        config.gateway4 = "10.0.0.254".parse().ok();
        let line = config.kernel_command_line().unwrap();
        assert!(
            line.ends_with(
                "vnet.name=vm1 vnet.ip=10.0.0.1/24 vnet.ip6=fd00::1/64 vnet.gw=10.0.0.254"
            ),
            "{line}"
        );
    }

    #[test]
    fn unsound_addresses_are_refused() {
        for (ipv4, ipv6) in [
            (Some("10.0.0.1"), None),
            (Some("10.0.0.1/33"), None),
            (Some("fd00::1/64"), None),
            (Some("10.0.0.1/24 init=/bin/sh"), None),
            (None, Some("10.0.0.1/24")),
        ] {
            let mut config = GuestConfig::new("vm1", "tap1", "52:54:00:00:00:01");
            config.ipv4 = ipv4.map(str::to_owned);
            config.ipv6 = ipv6.map(str::to_owned);
            assert!(config.kernel_command_line().is_err(), "{ipv4:?} {ipv6:?}");
        }
    }
}
