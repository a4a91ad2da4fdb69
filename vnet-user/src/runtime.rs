//! The switch as the command finds it: its document, and its datapath while it is up.

use std::{
    cell::OnceCell,
    collections::{BTreeMap, BTreeSet},
    fmt, io, mem,
    path::{Path, PathBuf},
};

use serde::Serialize;
use vnet_common::{ControlRequest, fdb::FDB_LOCAL};

use crate::adopt::Adopting;
use crate::cli::Global;
use crate::config::{Config, MacAddr, Port, Store};
use crate::daemon::protocol;
use crate::datapath::{control::Control, fdb, pins::Pins};
use crate::dhcp::Place;
use crate::error::{Doing as _, Error};
use crate::host::{Links, kernel, netns, privileges};
use crate::state::RunState;
use crate::sync;

/// One switch, opened.
#[derive(Debug)]
pub struct Session {
    switch: String,
    store: Store,
    run_dir: PathBuf,
    dhcp: Place,
    bpffs: PathBuf,
    pins: Pins,
    state: Option<RunState>,
    adopting: Adopting,
    named: BTreeSet<String>,
    /// As the daemon knows it.
    place: Vec<String>,
    present: OnceCell<BTreeMap<String, u32>>,
}

/// Enters `--netns`, where it is given.
///
/// # Errors
/// There is no such namespace, or this user may not enter it.
pub fn enter(global: &Global) -> Result<(), Error> {
    let Some(name) = &global.netns else {
        return Ok(());
    };
    netns::enter(&name.to_string_lossy()).map_err(|error| {
        Error::from(error).mend("ip netns list shows the namespaces that have names")
    })
}

/// One address of the FDB.
#[derive(Clone, Debug, Serialize)]
pub struct FdbRow {
    /// The address.
    pub mac: MacAddr,
    /// The network it is in.
    pub network: String,
    /// The port it is behind.
    pub port: String,
    /// `learned`, `static` or `local`.
    pub kind: &'static str,
    /// Seconds since it was last seen; `None` unless learned.
    pub age_s: Option<u32>,
}

/// What became of a port's interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum PortState {
    /// The switch is down.
    Down,
    /// The interface is not there, or being made a port.
    Waiting,
    /// It is attached, with everything that belongs to it.
    Attached,
}

impl fmt::Display for PortState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Down => "down",
            Self::Waiting => "waiting",
            Self::Attached => "attached",
        })
    }
}

impl Session {
    /// Opens what the global options name; enters `--netns`.
    ///
    /// # Errors
    /// The namespace does not exist, or the switch is up in another one.
    pub fn open(global: &Global) -> Result<Self, Error> {
        enter(global)?;
        let run_dir = global.run_dir();
        let pins = Pins::new(&global.bpffs, &global.switch);
        let mut session = Self {
            switch: global.switch.clone(),
            store: Store::new(
                &global.config_dir,
                &run_dir,
                &global.state_dir(),
                &global.switch,
            ),
            dhcp: Place::new(&run_dir, &global.state_dir(), &global.switch),
            run_dir,
            bpffs: global.bpffs.clone(),
            pins,
            state: None,
            adopting: Adopting::Known,
            named: BTreeSet::new(),
            place: global
                .words()
                .iter()
                .map(|word| word.to_string_lossy().into_owned())
                .collect(),
            present: OnceCell::new(),
        };
        session.reload()?;
        Ok(session)
    }

    /// A switch's name is unique on the host: its pins are.
    fn check_netns(&self) -> Result<(), Error> {
        let Some(state) = &self.state else {
            return Ok(());
        };
        let here = netns::current_id()?;
        if state.netns == (here.dev, here.ino) {
            return Ok(());
        }
        Err(Error::new(
            format!("opening the switch {}", self.switch),
            "it is up in another network namespace",
        )
        .mend("name that namespace with --netns, or choose another switch name with --switch"))
    }

    /// Whether the datapath is loaded.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.state.is_some()
    }

    /// The switch's document.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Says which interfaces that are found become ports from now on. Returns which did before.
    pub fn adopt(&mut self, adopting: Adopting) -> Adopting {
        mem::replace(&mut self.adopting, adopting)
    }

    /// Takes note of the ports that a change is about, which is refused if one of them cannot be.
    pub fn note_named(&mut self, old: &Config, new: &Config) {
        let ports = new.ports.iter();
        let changed = ports.filter(|port| old.port(&port.name) != Some(port));
        self.named = changed.map(|port| port.name.clone()).collect();
    }

    /// Whether the change under way is about a port.
    #[must_use]
    pub fn names(&self, port: &str) -> bool {
        self.named.contains(port)
    }

    /// Does not wait long for the switch's lock any more: who cannot have it has other things to do.
    pub fn be_impatient(&mut self) {
        self.store = self.store.clone().impatient();
    }

    /// Has the daemon look at what changed.
    ///
    /// # Errors
    /// None serves this switch.
    pub fn poke_daemon(&self) -> io::Result<()> {
        protocol::poke(&self.run_dir, &self.switch, &self.place)
    }

    /// Which interfaces that are found become ports.
    #[must_use]
    pub fn adopting(&self) -> &Adopting {
        &self.adopting
    }

    /// `config` with the ports that the running switch has besides.
    #[must_use]
    pub fn with_adopted(&self, mut config: Config) -> Config {
        let adopted = self.state.iter().flat_map(|state| &state.adopted);
        for (name, run) in adopted {
            if config.port(name).is_some() {
                continue;
            }
            let profile = config
                .profiles
                .iter()
                .find(|profile| Some(&profile.name) == run.profile.as_ref());
            let port = profile.map_or_else(
                || Port {
                    uplink: run.uplink,
                    ..Port::new(name.as_str())
                },
                |profile| profile.port(name),
            );
            config.ports.push(port);
        }
        config
    }

    /// The switch's name.
    #[must_use]
    pub fn switch(&self) -> &str {
        &self.switch
    }

    /// Where locks and state files are.
    #[must_use]
    pub fn run_dir(&self) -> &Path {
        &self.run_dir
    }

    /// Where the files of DHCP servers are.
    #[must_use]
    pub fn dhcp(&self) -> &Place {
        &self.dhcp
    }

    /// The BPF file system.
    #[must_use]
    pub fn bpffs(&self) -> &Path {
        &self.bpffs
    }

    /// The switch's pins.
    #[must_use]
    pub fn pins(&self) -> &Pins {
        &self.pins
    }

    /// What the running switch changed on the host; `None` while it is down.
    #[must_use]
    pub fn state(&self) -> Option<&RunState> {
        self.state.as_ref()
    }

    /// Reads the running switch's state again.
    pub fn reload(&mut self) -> Result<(), Error> {
        let is_there = self.pins.exist();
        self.state = if is_there || !self.pins.foreign().is_empty() {
            RunState::load(&self.run_dir, &self.switch)?
        } else {
            None
        };
        self.present = OnceCell::new();
        self.check_netns()?;
        // Another version's is none of ours to work on, and half a switch is none: `up` makes a
        // whole one.
        self.state.take_if(|state| !is_there || state.half);
        Ok(())
    }

    /// Remembers the state after `up` or `down`.
    pub fn set_state(&mut self, state: Option<RunState>) {
        self.state = state;
        self.present = OnceCell::new();
    }

    /// The running switch's state, for a command that needs it.
    pub fn need_up(&self, doing: &str) -> Result<&RunState, Error> {
        self.state.as_ref().ok_or_else(|| match self.pins.look() {
            // Nobody but root may look.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                Error::new(doing, error).mend("run it with sudo")
            }
            _ => Error::not_up(doing, &self.switch),
        })
    }

    /// Makes the kernel equal to `new`; nothing to do while the switch is down. Returns warnings.
    pub fn sync(&mut self, old: &Config, new: &Config) -> Result<Vec<String>, Error> {
        // Read again: the caller holds the lock now, and another command may have had it before.
        self.reload()?;
        self.note_named(old, new);
        let Some(state) = self.state.clone() else {
            return Ok(Vec::new());
        };
        privileges::check(&format!("changing the switch {}", self.switch))?;
        let (state, warnings) = sync::sync(self, state, old, new)?;
        self.set_state(Some(state));
        Ok(warnings)
    }

    /// Learned and static addresses.
    pub fn fdb(&self) -> Result<Vec<FdbRow>, Error> {
        let doing = "listing addresses";
        let state = self.need_up(doing)?;
        let now = kernel::monotonic_s();
        let ageing = self.store.load()?.unwrap_or_default().settings.ageing;
        let mut rows = Vec::new();
        for entry in fdb::read(&self.pins).doing(|| doing.into())? {
            let age = now.saturating_sub(u64::from(entry.seen_s)) as u32;
            // Expired ones are as good as gone, though not all are swept yet.
            if !entry.is_static() && age > ageing {
                continue;
            }
            rows.push(FdbRow {
                mac: MacAddr(entry.mac),
                network: state.network(entry.segment),
                port: state
                    .slots
                    .get(&entry.slot)
                    .map_or_else(|| format!("slot {}", entry.slot), |(name, _)| name.clone()),
                kind: if entry.flags & FDB_LOCAL != 0 {
                    "local"
                } else if entry.is_static() {
                    "static"
                } else {
                    "learned"
                },
                age_s: (!entry.is_static()).then_some(age),
            });
        }
        rows.sort_by(|a, b| (&a.network, a.mac.octets()).cmp(&(&b.network, b.mac.octets())));
        Ok(rows)
    }

    /// Forgets learned addresses; returns how many.
    pub fn fdb_flush(&mut self) -> Result<u64, Error> {
        let doing = "forgetting learned addresses";
        let buckets = self.need_up(doing)?.sizes.buckets();
        let _lock = self.store.lock()?;
        Control::open(&self.pins)
            .and_then(|mut control| control.flush(buckets, &ControlRequest::default()))
            .doing(|| doing.into())
    }

    /// What became of a port's interface.
    #[must_use]
    pub fn port_state(&self, name: &str) -> PortState {
        let Some(state) = &self.state else {
            return PortState::Down;
        };
        let present = self.present.get_or_init(|| {
            let links = Links::open().and_then(|links| links.list());
            links
                .unwrap_or_default()
                .into_iter()
                .map(|link| (link.name, link.index))
                .collect()
        });
        match (state.ports.get(name), present.get(name)) {
            (Some(port), Some(index)) if port.ifindex == *index && !port.begun => {
                PortState::Attached
            }
            _ => PortState::Waiting,
        }
    }
}
