//! What a running switch has changed on the host, so that `down` can put it back: a file under
//! `/run`, gone after a reboot like the changes themselves.

use std::{
    collections::BTreeMap,
    fmt::{self, Debug, Write as _},
    fs, io,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::compile::{FNV_BASIS, fnv1a_on};
use crate::config::Config;
use crate::datapath::{object::Sizes, pins::ignore_absent};

/// A running switch's state.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RunState {
    /// Device and inode of the network namespace that the switch is in.
    pub netns: (u64, u64),
    /// The switch device was made by `up`, not adopted.
    pub created_device: bool,
    /// The switch device's interface index.
    pub device: u32,
    /// Sizes of the maps.
    pub sizes: Sizes,
    /// The object whose programs are attached.
    pub object: String,
    /// It is being brought up or taken down. Where nobody holds the lock, that was interrupted, and
    /// there is half a switch.
    pub half: bool,
    /// The tables in force, as a fingerprint.
    pub image: String,
    /// The configuration that they are made from, as a fingerprint.
    pub config: String,
    /// The last change of the document.
    pub change: Option<ChangeRun>,
    /// Tables that are on their way into force: as which generation, and made from which
    /// configuration. Until they are there, those of the other generation are untouched.
    pub coming: Option<(u32, String)>,
    /// Members of the switch device are cut off from the plain bridge.
    pub fail_closed: bool,
    /// Whether the switch device filtered by VLAN, and the VLAN that it gave to new members, before
    /// vnet had it pass nothing of theirs.
    pub vlans_before: Option<(bool, u16)>,
    /// Sysctls that were changed on an adopted device, with their values before.
    pub sysctls: Vec<(PathBuf, String)>,
    /// Attached ports by interface name.
    pub ports: BTreeMap<String, PortRun>,
    /// Ports that the document does not list, by interface name.
    pub adopted: BTreeMap<String, AdoptedRun>,
    /// Gateway ports' interfaces by name.
    pub gateways: BTreeMap<String, GatewayRun>,
    /// Who has which slot: interface name and kind.
    pub slots: BTreeMap<u16, (String, String)>,
    /// Networks by segment.
    pub segments: BTreeMap<u16, String>,
}

/// A change that is made to the datapath before the document: which of the two configurations the
/// document is shows afterwards whether it came to its end.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ChangeRun {
    /// The configuration before, as a fingerprint.
    pub from: String,
    /// The configuration that the document becomes, as a fingerprint.
    pub to: String,
}

impl ChangeRun {
    /// The change of `from` to `to`, if it is one.
    #[must_use]
    pub fn of(from: &Config, to: &Config) -> Option<Self> {
        (from != to).then(|| Self {
            from: fingerprint(from),
            to: fingerprint(to),
        })
    }
}

/// Tells one configuration from another.
#[must_use]
pub fn fingerprint(config: &Config) -> String {
    print_of(config)
}

/// Tells one value from another, by all that `Debug` shows of it.
#[must_use]
pub fn print_of(value: &impl Debug) -> String {
    /// Hashes what is written, which is nowhere as a whole: rules come by the ten thousand.
    struct Print(u64);
    impl fmt::Write for Print {
        fn write_str(&mut self, text: &str) -> fmt::Result {
            self.0 = fnv1a_on(self.0, text.as_bytes());
            Ok(())
        }
    }
    let mut print = Print(FNV_BASIS);
    // Nothing that is written to can fail.
    let _ = write!(print, "{value:?}");
    format!("{:016x}", print.0)
}

/// How a port is attached, and what was changed for it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PortRun {
    /// Interface index.
    pub ifindex: u32,
    /// `vm`, `uplink` or `internal`.
    pub kind: String,
    /// A member of the switch device.
    pub member: bool,
    /// Making it a port has begun and did not end.
    pub begun: bool,
    /// vnet made it a member.
    pub enslaved: bool,
    /// vnet set it up.
    pub made_up: bool,
    /// vnet made it promiscuous.
    pub made_promiscuous: bool,
    /// vnet switched LRO off.
    pub lro_off: bool,
    /// vnet switched the stripping of VLAN tags off.
    pub rx_vlan_off: bool,
    /// Its bridge port flags (isolated, flood, learning) before vnet changed them.
    pub bridge_flags: Option<(bool, bool, bool)>,
    /// TC programs: `tcx` or `clsact`.
    pub tc: String,
    /// TC hooks in use: `ingress`, `egress`.
    pub hooks: Vec<String>,
    /// A native XDP program is attached.
    pub xdp: bool,
    /// Why there is none, or what is to be known about it.
    pub note: String,
    /// XDP programs may redirect to it.
    pub xdp_target: bool,
}

/// An interface that became a port by being found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct AdoptedRun {
    /// Interface index: another interface of its name is another matter.
    pub ifindex: u32,
    /// A physical network is behind it.
    pub uplink: bool,
    /// The profile that it was made after; `None` for a member of the switch device that none is for.
    pub profile: Option<String>,
}

/// What was done for a network's gateway addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct GatewayRun {
    /// Interface index; 0 while it is being made.
    pub ifindex: u32,
    /// The network.
    pub network: String,
    /// vnet made the interface; else it is the switch device.
    pub made: bool,
    /// Addresses that vnet gave it.
    pub addresses: Vec<IpNet>,
    /// Sysctls that were changed on an interface that vnet did not make, with their values before.
    pub sysctls: Vec<(PathBuf, String)>,
}

/// The state file of `switch`.
#[must_use]
pub fn path(run_dir: &Path, switch: &str) -> PathBuf {
    run_dir.join(format!("{switch}.state.json"))
}

impl RunState {
    /// The name of the network that a segment is.
    #[must_use]
    pub fn network(&self, segment: u16) -> String {
        let name = self.segments.get(&segment).cloned();
        name.unwrap_or_else(|| format!("segment {segment}"))
    }

    /// The name of the port in a slot, or the slot where it is none any more.
    #[must_use]
    pub fn port(&self, slot: u16) -> String {
        self.slots
            .get(&slot)
            .map_or_else(|| format!("slot {slot}"), |(name, _)| name.clone())
    }

    /// Reads the state; `None` when the switch is down.
    pub fn load(run_dir: &Path, switch: &str) -> Result<Option<Self>> {
        let path = path(run_dir, switch);
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).with_context(|| format!("reading {}", path.display())),
        };
        serde_json::from_str(&text)
            .map(Some)
            .with_context(|| format!("reading {}", path.display()))
    }

    /// Whether there is a state, or the beginning of one.
    #[must_use]
    pub fn has_begun(run_dir: &Path, switch: &str) -> bool {
        let path = path(run_dir, switch);
        path.exists() || path.with_extension("new").exists()
    }

    /// Removes the state of a switch that is down, and what an interrupted [`Self::save`] left.
    pub fn remove(run_dir: &Path, switch: &str) -> Result<()> {
        let path = path(run_dir, switch);
        for file in [&path.with_extension("new"), &path] {
            ignore_absent(fs::remove_file(file))
                .with_context(|| format!("removing {}", file.display()))?;
        }
        Ok(())
    }

    /// Writes the state, as a whole or not at all.
    pub fn save(&self, run_dir: &Path, switch: &str) -> Result<()> {
        let path = path(run_dir, switch);
        let new = path.with_extension("new");
        let text = serde_json::to_string(self).context("spelling the switch's state")?;
        fs::write(&new, text).with_context(|| format!("writing {}", new.display()))?;
        fs::rename(&new, &path).with_context(|| format!("replacing {}", path.display()))
    }

    /// The states of every running switch in `run_dir` but `switch`, by name.
    pub fn others(run_dir: &Path, switch: &str) -> BTreeMap<String, Self> {
        let Ok(entries) = fs::read_dir(run_dir) else {
            return BTreeMap::new();
        };
        entries
            .filter_map(Result::ok)
            .filter_map(|entry| {
                let name = entry.file_name().into_string().ok()?;
                let name = name.strip_suffix(".state.json")?.to_owned();
                if name == switch {
                    return None;
                }
                let state = Self::load(run_dir, &name).ok()??;
                Some((name, state))
            })
            .collect()
    }
}
