//! One guest of libvirt's: a domain.

use std::{path::PathBuf, time::Duration};

use xtask::{
    guest::{GuestConfig, Output, Shell},
    setup::GuestImage,
};

use super::Libvirt;
use crate::{
    host::{Addresses, Mac},
    wait,
};

/// How long a guest may take to boot; it is emulated.
const BOOT_LIMIT: Duration = Duration::from_secs(120);

/// How long a command in it may take.
const COMMAND_LIMIT: Duration = Duration::from_secs(60);

/// How long a guest may take to let a card go, or to end.
const FAREWELL_LIMIT: Duration = Duration::from_secs(60);

/// What libvirt hangs a network card on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// `<interface type='bridge'>`: a tap that libvirt makes and puts into the bridge of this name.
    Bridge(String),
    /// `<interface type='ethernet'>`: a tap that libvirt makes and leaves to others.
    Ethernet,
}

/// A network card of a domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nic {
    /// What it hangs on.
    pub source: Source,
    /// The guest's MAC address.
    pub mac: Mac,
    /// The tap's name; libvirt's own choice (`vnetN`) when none.
    pub target: Option<String>,
}

impl Nic {
    /// On a tap in a bridge.
    #[must_use]
    pub fn in_bridge(bridge: &str, mac: Mac) -> Self {
        Self {
            source: Source::Bridge(bridge.to_owned()),
            mac,
            target: None,
        }
    }

    /// On a tap that is in no bridge.
    #[must_use]
    pub fn ethernet(target: &str, mac: Mac) -> Self {
        Self {
            source: Source::Ethernet,
            mac,
            target: Some(target.to_owned()),
        }
    }

    /// The same card, on a tap of this name.
    #[must_use]
    pub fn on(mut self, target: &str) -> Self {
        self.target = Some(target.to_owned());
        self
    }

    /// As libvirt reads it (<https://libvirt.org/formatdomain.html>).
    fn xml(&self) -> String {
        let (kind, source) = match &self.source {
            Source::Bridge(bridge) => ("bridge", format!("<source bridge='{bridge}'/>")),
            Source::Ethernet => ("ethernet", String::new()),
        };
        let target = self.target.as_ref();
        let target = target.map_or_else(String::new, |name| format!("<target dev='{name}'/>"));
        format!(
            "<interface type='{kind}'><mac address='{}'/>{source}{target}<model type='virtio'/>\
             <rom enabled='no'/></interface>",
            self.mac
        )
    }
}

/// A domain that libvirt knows; whether it runs is the test's.
#[derive(Debug)]
pub struct Domain<'a> {
    libvirt: &'a Libvirt,
    name: String,
    shell: Option<Shell>,
}

impl Libvirt {
    /// Defines the domain `vmN`, whose first card has the addresses that end with `number`, with the
    /// image that every guest of these tests boots.
    ///
    /// # Panics
    /// When the image is missing, or libvirt refuses.
    #[track_caller]
    pub fn define(&self, number: u8, nics: &[Nic]) -> Domain<'_> {
        let image = match GuestImage::find() {
            Ok(image) => image,
            Err(error) => panic!("{error:#}"),
        };
        let name = format!("vm{number}");
        let addresses = Addresses::new(number);
        // For its kernel command line alone: tap and MAC address are libvirt's matter.
        let mut config = GuestConfig::new(&name, "", "");
        config.ipv4 = Some(format!("{}/24", addresses.v4()));
        config.ipv6 = Some(format!("{}/64", addresses.v6()));
        let memory = config.memory;
        let told = config.kernel_command_line().unwrap();
        let (kernel, initrd) = (image.kernel.display(), image.initramfs.display());
        let place = self.dir.path().display();
        let nics: String = nics.iter().map(Nic::xml).collect();
        // The CPU is that of `xtask::guest`, for the same reason.
        let xml = format!(
            "<domain type='qemu'>\
             <name>{name}</name><memory unit='MiB'>{memory}</memory><vcpu>1</vcpu>\
             <os><type arch='x86_64' machine='pc'>hvm</type><kernel>{kernel}</kernel>\
             <initrd>{initrd}</initrd><cmdline>{told}</cmdline></os>\
             <features><acpi/></features>\
             <cpu mode='maximum'><feature policy='disable' name='cx16'/></cpu>\
             <devices><controller type='usb' model='none'/><memballoon model='none'/>\
             <serial type='file'><source path='{place}/{name}.log'/></serial>\
             <serial type='unix'><source mode='bind' path='{place}/{name}.sock'/></serial>\
             {nics}</devices></domain>"
        );
        let path = self.write(&format!("{name}.xml"), &xml);
        self.virsh(&format!("define {}", path.display()));
        Domain {
            libvirt: self,
            name,
            shell: None,
        }
    }
}

impl Domain<'_> {
    /// Starts it; returns while it still boots.
    ///
    /// # Panics
    /// When libvirt cannot start it.
    #[track_caller]
    pub fn start(&mut self) {
        self.libvirt.virsh(&format!("start {}", self.name));
        let socket = self.file("sock");
        self.shell = Some(Shell::connect(&socket, || Ok(())).unwrap());
    }

    /// Waits until it has booted.
    ///
    /// # Panics
    /// When it does not.
    #[track_caller]
    pub fn wait_ready(&mut self) {
        if let Err(error) = self.shell().wait_ready(BOOT_LIMIT) {
            let log = std::fs::read_to_string(self.file("log")).unwrap_or_default();
            panic!("{} does not boot: {error:#}\n{log}", self.name);
        }
    }

    /// Runs a shell command in it.
    ///
    /// # Panics
    /// When it does not answer.
    #[track_caller]
    pub fn run(&mut self, command: &str) -> Output {
        match self.shell().run(command, COMMAND_LIMIT) {
            Ok(output) => output,
            Err(error) => panic!("running `{command}` in {}: {error:#}", self.name),
        }
    }

    /// Runs a shell command in it that must succeed, and gives its output.
    ///
    /// # Panics
    /// When it fails.
    #[track_caller]
    pub fn check(&mut self, command: &str) -> String {
        let done = self.run(command);
        assert!(
            done.success(),
            "`{command}` in {}: {}",
            self.name,
            done.stdout
        );
        done.stdout
    }

    /// Ends it as a power failure does.
    ///
    /// # Panics
    /// When libvirt refuses.
    #[track_caller]
    pub fn destroy(&mut self) {
        self.libvirt.virsh(&format!("destroy {}", self.name));
        self.shell = None;
    }

    /// Has it switch itself off, and waits for that.
    ///
    /// # Panics
    /// When it does not.
    #[track_caller]
    pub fn power_off(&mut self) {
        // There is no answer: it is off then.
        self.shell().begin("poweroff -f", COMMAND_LIMIT).unwrap();
        let off = wait::within(FAREWELL_LIMIT, || {
            let state = self.libvirt.virsh(&format!("domstate {}", self.name));
            (state.trim() == "shut off").then_some(())
        });
        assert!(off.is_some(), "{} does not switch itself off", self.name);
        self.shell = None;
    }

    /// Plugs a card in while it runs.
    ///
    /// # Panics
    /// When libvirt refuses.
    #[track_caller]
    pub fn attach(&self, nic: &Nic) {
        let path = self.libvirt.write("nic.xml", &nic.xml());
        let line = format!("attach-device {} {} --live", self.name, path.display());
        self.libvirt.virsh(&line);
    }

    /// Pulls a card out while it runs, and waits until the guest has let go of it.
    ///
    /// # Panics
    /// When that fails.
    #[track_caller]
    pub fn detach(&self, nic: &Nic) {
        let kind = match nic.source {
            Source::Bridge(_) => "bridge",
            Source::Ethernet => "ethernet",
        };
        self.libvirt.virsh(&format!(
            "detach-interface {} {kind} --mac {} --live",
            self.name, nic.mac
        ));
        let gone = wait::within(FAREWELL_LIMIT, || self.tap(nic.mac).is_none().then_some(()));
        assert!(gone.is_some(), "{} keeps its card", self.name);
    }

    /// The tap of the card with this address.
    #[track_caller]
    #[must_use]
    pub fn tap(&self, mac: Mac) -> Option<String> {
        let mac = mac.to_string();
        let table = self.libvirt.virsh(&format!("domiflist {}", self.name));
        let row = table.lines().find(|line| line.contains(&mac))?;
        row.split_whitespace().next().map(str::to_owned)
    }

    fn shell(&mut self) -> &mut Shell {
        match &mut self.shell {
            Some(shell) => shell,
            None => panic!("{} does not run", self.name),
        }
    }

    fn file(&self, ending: &str) -> PathBuf {
        let name = format!("{}.{ending}", self.name);
        self.libvirt.dir.path().join(name)
    }
}
