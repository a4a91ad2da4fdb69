//! Keeps a dnsmasq running for each network that is to have one.
//!
//! It looks at the document, at the host's interfaces and at what the servers have leased whenever
//! one of them changes, and makes the processes as they should be. One that ends is begun again. A
//! keeper that is killed leaves its servers running; the next one begins them anew, with the leases
//! that they have written down.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, User, geteuid};
use tokio::io::unix::AsyncFd;
use tokio::process::{Child, Command};

use super::{Place, Server, dnsmasq, servers};
use crate::cli::Global;
use crate::config::{Config, MacAddr, Store};
use crate::error::{Doing as _, Error};
use crate::host::Links;
use crate::host::lock::ProcessLock;
use crate::host::monitor::Monitor;

/// How often files are looked at.
const PERIOD: Duration = Duration::from_secs(1);
/// The pause before a server that ended is begun again; doubled each time.
const REST_FIRST: Duration = Duration::from_millis(500);
/// The longest such pause.
const REST_LAST: Duration = Duration::from_secs(30);
/// A server that has run for so long is well.
const WELL: Duration = Duration::from_secs(60);
/// How long a server may take to end.
const GRACE: Duration = Duration::from_secs(2);

/// Whom servers become that root starts, the first that there is.
const USERS: [&str; 3] = ["vnet-dhcp", "dnsmasq", "nobody"];

/// See the module.
#[derive(Debug)]
pub struct Keeper {
    switch: String,
    store: Store,
    place: Place,
    user: Option<String>,
    monitor: AsyncFd<Monitor>,
    _lock: ProcessLock,
    /// What the document says, and which file said it; none before it was read for the first time.
    document: Option<(Option<FileId>, Config)>,
    /// Those that are to run.
    wanted: Vec<Server>,
    /// Those that run, or rest before they run again, by network.
    kept: BTreeMap<String, Kept>,
    /// Whether interfaces or addresses have changed.
    stale: bool,
    /// What was complained of last; said once while it holds.
    complaint: Option<String>,
}

/// What tells whether a file is another one than before.
type FileId = (u64, u64, i64, i64);

#[derive(Debug)]
struct Kept {
    /// The process; none while it rests.
    child: Option<Child>,
    /// When the process was begun, or is to be.
    at: Instant,
    /// The pause before it is begun again, should it end.
    rest: Duration,
    /// What it was told.
    configuration: String,
    /// The addresses that are kept for known VMs, and what they were made of.
    hosts: String,
    known: BTreeSet<MacAddr>,
    /// The addresses that they were kept then, whatever they had been leased.
    fixed: BTreeMap<MacAddr, Ipv4Addr>,
    leases: Option<FileId>,
}

impl Keeper {
    /// Keeps the servers of the switch that `global` names, in the calling thread's network
    /// namespace. `None` where another process does.
    ///
    /// # Errors
    /// The files are another user's or cannot be made, or the kernel gives no news.
    pub fn new(global: &Global) -> Result<Option<Self>, Error> {
        let switch = global.switch.clone();
        let (run_dir, state_dir) = (global.run_dir(), global.state_dir());
        let doing = || format!("serving DHCP for the switch {switch}");
        let place = Place::new(&run_dir, &state_dir, &switch);
        place.check_owner().map_err(|why| {
            Error::new(doing(), why).mend(format!(
                "leave it to systemctl start vnet-dhcp@{switch}, with vnet-user daemon --part switch \
                 beside it, or remove that directory"
            ))
        })?;
        let Some(lock) = ProcessLock::take(&place.lock())? else {
            return Ok(None);
        };
        let monitor = Monitor::open().map_err(|error| Error::from(error.context(doing())))?;
        // SAFETY: the monitor keeps its descriptor open, and the same, while it lives.
        let monitor = unsafe { AsyncFd::register(monitor) }.doing(doing)?;
        let user = geteuid().is_root().then(|| {
            let there = |name: &&str| matches!(User::from_name(name), Ok(Some(_)));
            USERS.into_iter().find(there).unwrap_or("nobody").to_owned()
        });
        Ok(Some(Self {
            store: Store::new(&global.config_dir, &run_dir, &state_dir, &switch),
            switch,
            place,
            user,
            monitor,
            _lock: lock,
            document: None,
            wanted: Vec::new(),
            kept: BTreeMap::new(),
            stale: true,
            complaint: None,
        }))
    }

    /// Serves until `stop` is over, and ends the servers then. Waits for another process that
    /// serves to end.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub async fn serve(global: &Global, stop: impl Future<Output = ()>) -> Result<(), Error> {
        let mut stop = pin!(stop);
        let mut waits = false;
        loop {
            if let Some(keeper) = Self::new(global)? {
                keeper.run(stop).await;
                return Ok(());
            }
            if !waits {
                log::info!("another process serves DHCP");
                waits = true;
            }
            tokio::select! {
                () = &mut stop => return Ok(()),
                () = tokio::time::sleep(PERIOD) => {}
            }
        }
    }

    async fn run(mut self, mut stop: impl Future<Output = ()> + Unpin) {
        loop {
            self.look().await;
            tokio::select! {
                () = &mut stop => break,
                ready = self.monitor.readable_mut() => {
                    let news = ready.and_then(|mut ready| {
                        ready.clear_ready();
                        ready.get_inner_mut().take()
                    });
                    match news {
                        Ok(news) => self.stale |= news.links || news.addresses,
                        Err(error) => {
                            self.complain(&format!("reading the kernel's news: {error}"));
                            tokio::time::sleep(PERIOD).await;
                            self.stale = true;
                        }
                    }
                }
                () = tokio::time::sleep(PERIOD) => {}
            }
        }
        for (network, kept) in std::mem::take(&mut self.kept) {
            self.stop(&network, kept).await;
        }
    }

    /// Makes what runs equal to what should run.
    async fn look(&mut self) {
        let mut complaint = self.read_document().err();
        if self.document.is_none() {
            // Nothing is known of what should run: what an earlier keeper left serves on.
            return self.complain_or_not(complaint);
        }
        if self.stale {
            match self.find_wanted() {
                Ok(wanted) => {
                    self.wanted = wanted;
                    self.stale = false;
                    self.forget();
                }
                // What was wanted before is looked after meanwhile.
                Err(error) => complaint = Some(error),
            }
        }
        let names: BTreeSet<&str> = self.wanted.iter().map(Server::name).collect();
        let gone: Vec<String> = self
            .kept
            .keys()
            .filter(|network| !names.contains(network.as_str()))
            .cloned()
            .collect();
        for network in gone {
            if let Some(kept) = self.kept.remove(&network) {
                self.stop(&network, kept).await;
                remove(&self.place.configuration(&network));
                log::info!("the network {network} is served no more");
            }
        }
        for server in self.wanted.clone() {
            if let Err(error) = self.keep(&server).await {
                complaint = Some(error);
            }
        }
        self.complain_or_not(complaint);
    }

    /// Reads the document, when it is another one than before.
    fn read_document(&mut self) -> Result<(), Error> {
        let id = identify(self.store.path());
        if self
            .document
            .as_ref()
            .is_some_and(|(known, _)| *known == id)
        {
            return Ok(());
        }
        let config = self.store.load()?;
        match (&self.document, config) {
            (Some((Some(_), _)), None) => {
                // Perhaps it is being replaced; leases go with what is deleted.
                let why = format!("{} is gone", self.store.path().display());
                Err(
                    Error::new(format!("serving DHCP for the switch {}", self.switch), why)
                        .mend("put it back; what it said is served until then"),
                )
            }
            (before, config) => {
                if before.is_none() {
                    end_left_over(&self.place);
                }
                self.document = Some((id, config.unwrap_or_default()));
                self.stale = true;
                Ok(())
            }
        }
    }

    /// The servers that the document wants.
    fn listed(&self) -> Vec<Server> {
        let config = self.document.iter().map(|(_, config)| config);
        config
            .flat_map(|config| servers(config, &self.switch))
            .collect()
    }

    /// The servers whose interfaces are there.
    fn find_wanted(&self) -> Result<Vec<Server>, Error> {
        let links = Links::open()?;
        let addresses = links.addresses()?;
        let mut ready = Vec::new();
        for server in self.listed() {
            let Some(link) = links.by_name(&server.interface)? else {
                continue;
            };
            let has = |net| {
                let mut all = addresses.iter();
                all.any(|address| address.ifindex == link.index && address.net == net)
            };
            let mut gateways = server.network.dhcp.iter();
            let gateways =
                gateways.all(|range| server.network.dhcp_gateway(*range).is_some_and(has));
            if link.up && gateways {
                ready.push(server);
            }
        }
        Ok(ready)
    }

    /// Removes what is left of networks that are not served any more, now or later.
    fn forget(&self) {
        let listed = self.listed();
        let files = fs::read_dir(&self.place.state)
            .into_iter()
            .flatten()
            .flatten();
        for file in files.map(|entry| entry.path()) {
            let network = file.file_stem().and_then(|stem| stem.to_str());
            if !listed.iter().any(|server| Some(server.name()) == network) {
                remove(&file);
            }
        }
    }

    /// Makes one server run as it should.
    async fn keep(&mut self, server: &Server) -> Result<(), Error> {
        let name = server.name();
        let configuration = dnsmasq::configuration(server, &self.place, self.user.as_deref());
        let mut kept = match self.kept.remove(name) {
            Some(kept) if kept.configuration == configuration => kept,
            Some(old) => {
                let hosts = old.hosts.clone();
                self.stop(name, old).await;
                Kept::new(configuration, hosts)
            }
            None => Kept::new(configuration, read(&self.place.hosts(name))),
        };
        kept.notice_end(name);
        let done = self.advance(server, &mut kept);
        self.kept.insert(name.to_owned(), kept);
        done
    }

    /// Has known VMs keep what they have been leased, and begins a server that is due.
    fn advance(&self, server: &Server, kept: &mut Kept) -> Result<(), Error> {
        let name = server.name();
        let leases = identify(&self.place.leases_file(name));
        if leases != kept.leases || server.known != kept.known || server.fixed != kept.fixed {
            let hosts = dnsmasq::hosts(server, &kept.hosts, &self.place.leases(name));
            if hosts != kept.hosts {
                write(&self.place.hosts(name), &hosts)?;
                kept.hosts = hosts;
                if let Some(pid) = kept.child.as_ref().and_then(Child::id) {
                    // It reads the file again (dnsmasq(8), NOTES). One that is gone does anyway.
                    let _ = kill(Pid::from_raw(pid as i32), Signal::SIGHUP);
                }
            }
            kept.leases = leases;
            kept.known = server.known.clone();
            kept.fixed = server.fixed.clone();
        }
        if kept.child.is_some() || Instant::now() < kept.at {
            return Ok(());
        }
        let begun = self.begin(server, kept);
        kept.at = Instant::now();
        match begun {
            Ok(child) => {
                kept.child = Some(child);
                Ok(())
            }
            Err(error) => {
                let rest = kept.lengthen_rest();
                kept.at += rest;
                Err(error)
            }
        }
    }

    /// Starts a server.
    fn begin(&self, server: &Server, kept: &Kept) -> Result<Child, Error> {
        let name = server.name();
        let doing = || format!("serving DHCP to the network {name}");
        let path = self.place.configuration(name);
        write(&path, &kept.configuration)?;
        write(&self.place.hosts(name), &kept.hosts)?;
        let mut command = Command::new(program());
        let child = command.arg(dnsmasq::option(&path)).spawn();
        let child = child.map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => Error::new(doing(), "there is no dnsmasq on this host")
                .mend("apt-get install dnsmasq-base"),
            _ => Error::new(doing(), error),
        })?;
        log::info!(
            "dnsmasq, process {}, serves the network {name} on {}",
            child.id().unwrap_or_default(),
            server.interface
        );
        Ok(child)
    }

    async fn stop(&self, network: &str, kept: Kept) {
        let Some(mut child) = kept.child else { return };
        if let Some(pid) = child.id() {
            // One that has ended already needs none.
            let _ = kill(Pid::from_raw(pid as i32), Signal::SIGTERM);
        }
        if tokio::time::timeout(GRACE, child.wait()).await.is_err() {
            log::warn!("dnsmasq of the network {network} does not end by itself");
            if let Err(error) = child.kill().await {
                log::error!("ending dnsmasq of the network {network}: {error}");
            }
        }
    }

    fn complain_or_not(&mut self, complaint: Option<Error>) {
        match complaint {
            Some(error) => self.complain(&error.to_string()),
            None => self.complaint = None,
        }
    }

    fn complain(&mut self, complaint: &str) {
        if self.complaint.as_deref() != Some(complaint) {
            log::error!("{complaint}");
            self.complaint = Some(complaint.to_owned());
        }
    }
}

/// Ends the servers that a keeper left which was killed.
pub fn end_left_over(place: &Place) {
    let files = fs::read_dir(&place.run).into_iter().flatten().flatten();
    let mut ended = Vec::new();
    for file in files.map(|entry| entry.path()) {
        let network = file.file_stem().and_then(|stem| stem.to_str());
        let is_pid = file.extension().is_some_and(|extension| extension == "pid");
        if let Some(network) = network.filter(|_| is_pid)
            && let Some(pid) = place.process(network)
        {
            // One that ends just now needs none.
            let _ = kill(Pid::from_raw(pid as i32), Signal::SIGTERM);
            ended.push((network.to_owned(), pid));
        }
    }
    let give_up = Instant::now() + GRACE;
    ended.retain(|(network, pid)| {
        while place.is_serving(network, *pid) && Instant::now() < give_up {
            std::thread::sleep(Duration::from_millis(5));
        }
        place.is_serving(network, *pid)
    });
    for (_, pid) in ended {
        let _ = kill(Pid::from_raw(pid as i32), Signal::SIGKILL);
    }
}

impl Kept {
    fn new(configuration: String, hosts: String) -> Self {
        Self {
            child: None,
            at: Instant::now(),
            rest: REST_FIRST,
            configuration,
            hosts,
            known: BTreeSet::new(),
            fixed: BTreeMap::new(),
            leases: None,
        }
    }

    /// Notices that the process has ended, and when it is to be begun again.
    fn notice_end(&mut self, network: &str) {
        let Some(child) = &mut self.child else { return };
        let how = match child.try_wait() {
            Ok(None) => {
                if self.at.elapsed() > WELL {
                    self.rest = REST_FIRST;
                }
                return;
            }
            Ok(Some(how)) => how.to_string(),
            Err(error) => error.to_string(),
        };
        self.child = None;
        let rest = self.lengthen_rest();
        self.at = Instant::now() + rest;
        log::warn!(
            "dnsmasq of the network {network} ended ({how}) and is begun again in {} ms",
            rest.as_millis()
        );
    }

    /// The pause that is due now; the next one is longer.
    fn lengthen_rest(&mut self) -> Duration {
        let longer = (2 * self.rest).min(REST_LAST);
        std::mem::replace(&mut self.rest, longer)
    }
}

impl Server {
    fn name(&self) -> &str {
        &self.network.name
    }
}

/// Where dnsmasq is: not every user's PATH has the folders of the host's own programs.
fn program() -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .map(|dir| dir.join("dnsmasq"))
        .find(|program| program.exists())
        .unwrap_or_else(|| "dnsmasq".into())
}

/// Which file is at `path`; `None` where there is none.
fn identify(path: &Path) -> Option<FileId> {
    let meta = fs::metadata(path).ok()?;
    Some((meta.ino(), meta.len(), meta.mtime(), meta.mtime_nsec()))
}

fn read(path: &Path) -> String {
    // One that is not there says nothing.
    fs::read_to_string(path).unwrap_or_default()
}

/// Replaces a file that dnsmasq reads as whoever it has become by then.
fn write(path: &Path, text: &str) -> Result<(), Error> {
    let doing = || format!("writing {}", path.display());
    let readable = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode));
    if let Some(dir) = path.parent().filter(|dir| !dir.exists()) {
        fs::create_dir_all(dir).doing(doing)?;
        readable(dir, 0o755).doing(doing)?;
    }
    let new = path.with_extension("new");
    fs::write(&new, text).doing(doing)?;
    readable(&new, 0o644).doing(doing)?;
    fs::rename(&new, path).doing(doing)
}

fn remove(path: &Path) {
    if let Err(error) = fs::remove_file(path)
        && error.kind() != io::ErrorKind::NotFound
    {
        log::warn!("removing {}: {error}", path.display());
    }
}
