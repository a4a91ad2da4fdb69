//! What must not be there after `down`, and what tests that were killed left behind.

use std::{fs, io, os::unix::fs::MetadataExt as _, path::Path, process::Command};

use xtask::{netns, process::output};

use super::{BPFFS, Host, PREFIX, SWITCH_PREFIX, lock};

impl Host {
    /// What is on the host that `down` should have taken away or given back, a line each.
    pub(super) fn leftovers(&self) -> Vec<String> {
        let mut left = Vec::new();
        let foreign = lock(&self.foreign_bridges).clone();
        for (name, facts) in self.interfaces() {
            let mut add = |what: String| left.push(format!("{name} {what}"));
            let master = facts.master.as_ref();
            let in_foreign = master.is_some_and(|master| foreign.contains(master));
            if let Some(master) = master.filter(|_| !in_foreign) {
                add(format!("is still a member of {master}"));
            }
            // A bridge wants its members promiscuous.
            if facts.promiscuity > u64::from(in_foreign) {
                add("is still promiscuous".into());
            }
            for (hook, programs) in [("ingress", facts.ingress), ("egress", facts.egress)] {
                if !programs.is_empty() {
                    add(format!("still has a program at TC {hook}"));
                }
            }
            if facts.xdp.is_some() {
                add("still has an XDP program".into());
            }
            if name == self.switch() && !foreign.contains(&name) {
                add("is still there".into());
            }
        }
        if self.sh("tc qdisc show").contains("clsact") {
            left.push("a clsact qdisc".into());
        }
        for switch in self.switches() {
            for place in [
                Path::new(BPFFS).join("vnet").join(&switch),
                self.run_dir().join(format!("{switch}.state.json")),
            ] {
                if place.exists() {
                    left.push(format!("{}", place.display()));
                }
            }
        }
        left.extend(self.processes());
        left
    }

    /// Processes of `vnet-user` on this host, and what it starts: there are none between commands.
    #[must_use]
    pub fn processes(&self) -> Vec<String> {
        let here = fs::metadata(netns::path_of(self.netns().name()))
            .expect("the namespace is there")
            .ino();
        fs::read_dir("/proc")
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|entry| {
                let namespace = fs::metadata(entry.path().join("ns/net")).ok()?;
                let name = fs::read_to_string(entry.path().join("comm")).ok()?;
                let name = name.trim();
                (namespace.ino() == here && ["vnet-user", "dnsmasq"].contains(&name))
                    .then(|| format!("process {} is {name}", entry.path().display()))
            })
            .collect()
    }
}

/// Removes a switch's pins by hand, so that a test that fails leaves nothing.
pub(super) fn remove_pins(switch: &str) {
    let dir = Path::new(BPFFS).join("vnet").join(switch);
    // Links first: a program is taken off its interface before its maps are gone.
    let _ = remove_tree(&dir);
}

fn remove_tree(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            remove_tree(&path)?;
        } else {
            fs::remove_file(&path)?;
        }
    }
    fs::remove_dir(dir)
}

/// Takes away what test processes left that were killed: namespaces and pins with the id of a
/// process that is gone.
pub(super) fn sweep() {
    let is_gone = |pid: &str| pid.parse::<u32>().is_ok() && !Path::new("/proc").join(pid).exists();
    let names = |dir: &Path| {
        let entries = fs::read_dir(dir).into_iter().flatten().flatten();
        entries
            .filter_map(|entry| entry.file_name().into_string().ok())
            .collect::<Vec<_>>()
    };
    for switch in names(&Path::new(BPFFS).join("vnet")) {
        let pid = switch
            .strip_prefix(SWITCH_PREFIX)
            .and_then(|rest| rest.split_once('x'));
        if pid.is_some_and(|(pid, _)| is_gone(pid)) {
            remove_pins(&switch);
        }
    }
    for name in names(Path::new("/run/netns")) {
        let pid = name
            .strip_prefix(PREFIX)
            .and_then(|rest| rest.split_once('-'));
        if pid.is_some_and(|(pid, _)| is_gone(pid)) {
            // Another test process may sweep at the same time.
            let _ = output(Command::new("ip").args(["netns", "del", &name]));
        }
    }
}
