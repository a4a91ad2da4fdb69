//! What the kernel tells of a host, without asking `vnet-user`.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::Context as _;
use aya::programs::{SchedClassifier, TcAttachType};
use serde_json::Value;
use vnet_user::datapath::{maps, pins::Pins};
use xtask::{netns, process::output};

use super::{BPFFS, FdbRow, Host};
use crate::connections::Connections;

/// What the kernel tells of an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InterfaceFacts {
    /// The bridge that it is a member of.
    pub master: Option<String>,
    /// Its MAC address.
    pub mac: String,
    /// Its MTU.
    pub mtu: u64,
    /// How many want it promiscuous.
    pub promiscuity: u64,
    /// The programs at TC ingress, by id, first to last.
    pub ingress: Vec<u32>,
    /// The programs at TC egress, by id, first to last.
    pub egress: Vec<u32>,
    /// The XDP program, by id.
    pub xdp: Option<u64>,
    /// What it is to its bridge.
    pub bridge_port: Option<BridgePort>,
}

/// What the plain bridge does with a member's frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BridgePort {
    /// It exchanges frames with members that are not isolated only.
    pub isolated: bool,
    /// It is flooded with unicast, multicast and broadcast.
    pub flood: [bool; 3],
    /// The bridge learns from it.
    pub learning: bool,
}

impl BridgePort {
    /// What a new member is.
    pub const OPEN: Self = Self {
        isolated: false,
        flood: [true; 3],
        learning: true,
    };
    /// A member that is cut off from the others.
    pub const CLOSED: Self = Self {
        isolated: true,
        flood: [false; 3],
        learning: false,
    };
}

/// Everything that a command which changes nothing leaves as it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fingerprint {
    /// The document.
    pub document: Option<String>,
    /// The interfaces of the host.
    pub interfaces: BTreeMap<String, InterfaceFacts>,
    /// Pinned maps, programs and links, with their inodes.
    pub pins: BTreeMap<PathBuf, u64>,
    /// The word that says which half of the tables is in force, as bpftool prints it.
    pub switch_conf: Option<String>,
    /// The forwarding database.
    pub fdb: Vec<FdbRow>,
}

impl Fingerprint {
    /// Holds `now` to be the same. Addresses may have been learned meanwhile, and none forgotten.
    ///
    /// # Panics
    /// When something differs.
    #[track_caller]
    pub fn assert_same(&self, now: &Self) {
        assert_eq!(now.document, self.document, "the document changed");
        assert_eq!(now.pins, self.pins, "pins changed");
        assert_eq!(now.switch_conf, self.switch_conf, "the tables changed");
        assert_eq!(now.interfaces, self.interfaces, "interfaces changed");
        let forgotten: Vec<_> = self
            .fdb
            .iter()
            .filter(|row| !now.fdb.contains(row))
            .collect();
        assert!(forgotten.is_empty(), "forgotten: {forgotten:?}");
    }
}

impl Host {
    /// The host's state, while the switch is up or down.
    ///
    /// # Panics
    /// When it cannot be read.
    #[track_caller]
    #[must_use]
    pub fn fingerprint(&self) -> Fingerprint {
        let mut pins = BTreeMap::new();
        collect_inodes(&self.pins(), &mut pins);
        let is_up = !pins.is_empty();
        Fingerprint {
            document: self.document_text(),
            interfaces: self.interfaces(),
            switch_conf: is_up.then(|| self.dump_map("switch_conf")),
            fdb: if is_up { self.fdb() } else { Vec::new() },
            pins,
        }
    }

    /// A pinned map as bpftool prints it.
    ///
    /// # Panics
    /// When there is no such map.
    #[track_caller]
    #[must_use]
    pub fn dump_map(&self, name: &str) -> String {
        output(
            Command::new("bpftool")
                .args(["map", "dump", "pinned"])
                .arg(self.version_dir().join(name)),
        )
        .unwrap()
    }

    /// Keys and values of a pinned map, with the names of fields that bpftool finds in the map's type
    /// information.
    ///
    /// # Panics
    /// When there is no such map, or bpftool knows no names.
    #[track_caller]
    #[must_use]
    pub fn dump_values(&self, name: &str) -> Vec<(Value, Value)> {
        let text = output(
            Command::new("bpftool")
                .args(["-j", "map", "dump", "pinned"])
                .arg(self.version_dir().join(name)),
        )
        .unwrap();
        let rows: Vec<Value> = serde_json::from_str(&text).unwrap();
        rows.into_iter()
            .map(|mut row| match row["formatted"].take() {
                Value::Object(mut row) => {
                    let mut part = |key| row.remove(key).unwrap_or_default();
                    (part("key"), part("value"))
                }
                _ => panic!("bpftool prints {name} without names: {row}"),
            })
            .collect()
    }

    /// What the datapath knows of connections. Not all of it is of one moment.
    ///
    /// # Panics
    /// When the switch is down.
    #[track_caller]
    #[must_use]
    pub fn connections(&self) -> Connections {
        let pins = Pins::new(Path::new(BPFFS), self.switch());
        let slots = match maps::array::<u32>(&pins, "port_flows") {
            Ok(map) => map.len() as u16,
            Err(error) => panic!("{error:#}"),
        };
        Connections::read(&pins, 0..slots).unwrap()
    }

    /// The folder of pins of the layout that is in use.
    ///
    /// # Panics
    /// When the switch is down.
    #[track_caller]
    #[must_use]
    pub fn version_dir(&self) -> PathBuf {
        let mut entries = fs::read_dir(self.pins())
            .unwrap_or_else(|error| panic!("{}: {error}", self.pins().display()));
        let first = entries.next().expect("there is a layout").unwrap();
        first.path()
    }

    /// The host's interfaces by name.
    ///
    /// # Panics
    /// When they cannot be read.
    #[track_caller]
    #[must_use]
    pub fn interfaces(&self) -> BTreeMap<String, InterfaceFacts> {
        let text = self.ip("-d -j link show");
        let links: Vec<Value> = serde_json::from_str(&text).unwrap();
        netns::inside(self.netns().name(), || {
            links
                .iter()
                .map(|link| {
                    let name = link["ifname"].as_str().context("a link without name")?;
                    Ok((name.to_owned(), facts(name, link)?))
                })
                .collect()
        })
        .unwrap()
    }

    /// What the kernel tells of one interface.
    ///
    /// # Panics
    /// When there is none of this name.
    #[track_caller]
    #[must_use]
    pub fn interface(&self, name: &str) -> InterfaceFacts {
        match self.interfaces().remove(name) {
            Some(facts) => facts,
            None => panic!("there is no interface {name}"),
        }
    }
}

fn facts(name: &str, link: &Value) -> anyhow::Result<InterfaceFacts> {
    let text = |key: &str| link[key].as_str().map(str::to_owned);
    let slave = &link["linkinfo"]["info_slave_data"];
    let flag = |key: &str| slave[key].as_bool().unwrap_or(false);
    let is_member = link["linkinfo"]["info_slave_kind"] == "bridge";
    Ok(InterfaceFacts {
        master: text("master"),
        mac: text("address").unwrap_or_default(),
        mtu: link["mtu"].as_u64().unwrap_or(0),
        promiscuity: link["promiscuity"].as_u64().unwrap_or(0),
        ingress: programs(name, TcAttachType::Ingress)?,
        egress: programs(name, TcAttachType::Egress)?,
        xdp: link["xdp"]["prog"]["id"].as_u64(),
        bridge_port: is_member.then(|| BridgePort {
            isolated: flag("isolated"),
            flood: [flag("flood"), flag("mcast_flood"), flag("bcast_flood")],
            learning: flag("learning"),
        }),
    })
}

/// The programs of an interface of the calling thread's namespace.
fn programs(interface: &str, hook: TcAttachType) -> anyhow::Result<Vec<u32>> {
    let (_, programs) = SchedClassifier::query_tcx(interface, hook)
        .with_context(|| format!("asking for the TC programs of {interface}"))?;
    Ok(programs.iter().map(|program| program.id()).collect())
}

fn collect_inodes(dir: &Path, inodes: &mut BTreeMap<PathBuf, u64>) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            collect_inodes(&path, inodes);
        } else if let Ok(metadata) = fs::symlink_metadata(&path) {
            inodes.insert(path, metadata.ino());
        }
    }
}
