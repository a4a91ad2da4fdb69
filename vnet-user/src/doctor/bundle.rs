//! `doctor --bundle`: what a bug report needs, in one file. Values that are named like secrets are
//! left out; addresses and names are in it.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use aya::maps::MapInfo;
use flate2::{Compression, write::GzEncoder};
use serde_json::{Value, json};
use toml_edit::{DocumentMut, Item, TableLike, Value as TomlValue};

use super::unquoted;
use crate::cli::Global;
use crate::error::{Doing as _, Error};
use crate::flows::FlowFilter;
use crate::host::{Link, Links, ethtool, sysctl};
use crate::runtime::Session;
use crate::state;

/// What stands in a secret's place.
const REDACTED: &str = "[redacted]";

/// The folder that everything is in.
const FOLDER: &str = "vnet-doctor";

/// Options of an interface that vnet sets or that change what it does.
const IPV4_OPTIONS: &[&str] = &[
    "forwarding",
    "arp_ignore",
    "arp_announce",
    "rp_filter",
    "proxy_arp",
];
const IPV6_OPTIONS: &[&str] = &["disable_ipv6", "forwarding", "accept_ra"];

/// Other options of the kernel that do.
const SYSCTLS: &[&str] = &[
    "net/core/bpf_jit_enable",
    "net/core/bpf_jit_harden",
    "net/core/netdev_max_backlog",
    "net/ipv4/ip_forward",
    "net/ipv4/ip_local_port_range",
    "net/bridge/bridge-nf-call-iptables",
    "net/bridge/bridge-nf-call-ip6tables",
    "kernel/unprivileged_bpf_disabled",
];

/// One file of the bundle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    name: String,
    text: String,
}

impl Entry {
    /// A file called `name`.
    #[must_use]
    pub fn new(name: &str, text: String) -> Self {
        Self {
            name: name.into(),
            text,
        }
    }

    /// A file called `name` with what was read, or with the reason why nothing was.
    #[must_use]
    pub fn of(name: &str, text: Result<String, Error>) -> Self {
        let text = text.unwrap_or_else(|error| {
            // A parser quotes lines of the document, in which secrets may be.
            let why = format!("{}: {}", error.doing, unquoted(&error.why));
            if name.ends_with(".json") {
                format!("{:#}\n", json!({ "error": why }))
            } else {
                format!("{why}\n")
            }
        });
        Self::new(name, text)
    }
}

/// Everything but the checks and listings, as far as it can be read.
#[must_use]
pub fn gather(global: &Global, session: Option<&Session>) -> Vec<Entry> {
    let mut entries = vec![
        Entry::new(
            "version.txt",
            concat!(env!("CARGO_PKG_VERSION"), "\n").into(),
        ),
        Entry::of("uname.txt", file("/proc/version")),
        Entry::of("os-release.txt", file("/etc/os-release")),
    ];
    let document = global.config_dir.join(format!("{}.toml", global.switch));
    entries.push(Entry::of(
        "document.toml",
        file(&document).map(|text| redact_toml(&text)),
    ));
    let state = state::path(&global.run_dir(), &global.switch);
    entries.push(Entry::of(
        "state.json",
        file(&state).map(|text| redact_state(&text)),
    ));
    let listed = Links::open()
        .and_then(|links| links.list())
        .unwrap_or_default();
    entries.push(Entry::of("interfaces.json", interfaces(&listed)));
    entries.push(Entry::new("sysctls.txt", sysctls(&listed)));
    if let Some(session) = session {
        entries.push(Entry::of("flows.json", flows(session)));
        entries.push(Entry::of("maps.json", map_sizes(session)));
    }
    entries
}

/// Writes `entries` to a new file that its owner alone may read.
///
/// # Errors
/// There is a file already, or it cannot be written; a half of one does not stay.
pub fn write(path: &Path, entries: &[Entry]) -> Result<(), Error> {
    let doing = || format!("writing the bundle {}", path.display());
    let file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map_err(|error| {
            let exists = error.kind() == io::ErrorKind::AlreadyExists;
            let failed = Error::new(doing(), &error);
            if exists {
                failed.mend("remove it, or name another file")
            } else {
                failed.mend("name a file in a directory that is there and may be written to")
            }
        })?;
    pack(file, entries).map_err(|error| {
        // Nothing to tell about a second failure.
        let _ = fs::remove_file(path);
        Error::new(doing(), error).mend("make room, or name a file elsewhere")
    })
}

fn pack(file: fs::File, entries: &[Entry]) -> io::Result<()> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let mut archive = tar::Builder::new(GzEncoder::new(file, Compression::default()));
    for entry in entries {
        let mut header = tar::Header::new_gnu();
        header.set_size(entry.text.len() as u64);
        header.set_mode(0o600);
        header.set_mtime(now.as_ref().map_or(0, |now| now.as_secs()));
        let name = format!("{FOLDER}/{}", entry.name);
        archive.append_data(&mut header, name, entry.text.as_bytes())?;
    }
    let mut file = archive.into_inner()?.finish()?;
    file.flush()?;
    file.sync_all()
}

fn file(path: impl AsRef<Path>) -> Result<String, Error> {
    let path = path.as_ref();
    fs::read_to_string(path).doing(|| format!("reading {}", path.display()))
}

fn pretty(value: &Value) -> Result<String, Error> {
    serde_json::to_string_pretty(value).doing(|| "spelling JSON".into())
}

fn interfaces(listed: &[Link]) -> Result<String, Error> {
    let addresses = Links::open()?.addresses()?;
    let rows: Vec<Value> = listed
        .iter()
        .map(|link| {
            let nets = addresses
                .iter()
                .filter(|address| address.ifindex == link.index);
            let nets: Vec<String> = nets.map(|address| address.net.to_string()).collect();
            json!({
                "name": link.name,
                "index": link.index,
                "kind": link.kind.to_string(),
                "driver": ethtool::driver(&link.name).ok().flatten(),
                "mac": crate::config::MacAddr(link.mac).to_string(),
                "mtu": link.mtu,
                "up": link.up,
                "carrier": link.carrier,
                "master": link.master,
                "promiscuity": link.promiscuity,
                "xdp": link.xdp.map(|xdp| xdp.prog_id),
                "rx_queues": link.num_rx_queues,
                "tx_queues": link.num_tx_queues,
                "addresses": nets,
                "offloads": ethtool::get(&link.name).ok().map(|features| json!({
                    "rx": features.rx_checksum,
                    "tx": features.tx_checksum,
                    "sg": features.scatter_gather,
                    "tso": features.tso,
                    "gso": features.gso,
                    "gro": features.gro,
                    "lro": features.lro,
                    "rxvlan": features.rx_vlan,
                    "txvlan": features.tx_vlan,
                })),
            })
        })
        .collect();
    pretty(&json!({ "interfaces": rows }))
}

fn sysctls(listed: &[Link]) -> String {
    let mut paths: Vec<String> = SYSCTLS.iter().map(|path| (*path).to_owned()).collect();
    let names = listed.iter().map(|link| link.name.as_str());
    for name in ["all", "default"].into_iter().chain(names) {
        for (family, options) in [("ipv4", IPV4_OPTIONS), ("ipv6", IPV6_OPTIONS)] {
            let path = |option: &&str| format!("net/{family}/conf/{name}/{option}");
            paths.extend(options.iter().map(path));
        }
    }
    let lines = paths.iter().filter_map(|path| {
        let value = sysctl::read_if_present(&Path::new("/proc/sys").join(path));
        Some(format!("{path} = {}\n", value.ok()??))
    });
    lines.collect::<Vec<_>>().concat()
}

/// How many connections there are by protocol and state, and by port; who talks to whom is not told.
fn flows(session: &Session) -> Result<String, Error> {
    let rows = session.flows(&FlowFilter::default())?;
    let (mut states, mut ports) = (BTreeMap::new(), BTreeMap::new());
    for row in &rows {
        *states
            .entry(format!("{} {}", row.proto, row.state))
            .or_insert(0u64) += 1;
        let port = row.vm.clone().unwrap_or_else(|| "-".into());
        *ports.entry(port).or_insert(0u64) += 1;
    }
    pretty(&json!({ "flows": rows.len(), "by_state": states, "by_port": ports }))
}

fn map_sizes(session: &Session) -> Result<String, Error> {
    let dir = session.pins().dir();
    let entries = fs::read_dir(dir).doing(|| format!("reading {}", dir.display()))?;
    let mut rows = BTreeMap::new();
    for entry in entries.filter_map(Result::ok) {
        // Folders of programs and links are no maps.
        let Ok(info) = MapInfo::from_pin(entry.path()) else {
            continue;
        };
        let name = entry.file_name().to_string_lossy().into_owned();
        let row = json!({
            "name": name,
            "type": info.map_type().ok().map(|kind| format!("{kind:?}")),
            "key_bytes": info.key_size(),
            "value_bytes": info.value_size(),
            "entries": info.max_entries(),
        });
        rows.insert(name, row);
    }
    pretty(&json!({ "maps": rows.into_values().collect::<Vec<_>>() }))
}

/// Whether the value of a key of this name is nobody's business.
fn is_secret(key: &str) -> bool {
    let key = key.to_lowercase();
    let words = [
        "password",
        "passwd",
        "passphrase",
        "secret",
        "token",
        "credential",
        "psk",
    ];
    words.iter().any(|word| key.contains(word)) || key.ends_with("key")
}

/// The document with secrets left out, of comments too. Of one that is no TOML, whole lines are.
#[must_use]
pub fn redact_toml(text: &str) -> String {
    let parsed = text.parse::<DocumentMut>().map(|mut document| {
        redact_table(document.as_table_mut());
        document.to_string()
    });
    let (text, is_toml) = match &parsed {
        Ok(redacted) => (redacted.as_str(), true),
        Err(_) => (text, false),
    };
    let lines = text.lines().map(|line| match line.split_once('#') {
        _ if !is_toml && speaks_of_secrets(line) => format!("{REDACTED}\n"),
        // A string may hold the sign as well: better too little than too much.
        Some((before, after)) if speaks_of_secrets(after) => format!("{before}# {REDACTED}\n"),
        _ => format!("{line}\n"),
    });
    lines.collect::<Vec<_>>().concat()
}

fn speaks_of_secrets(text: &str) -> bool {
    text.split(|c: char| !c.is_alphanumeric() && c != '_' && c != '-')
        .any(is_secret)
}

fn redact_table(table: &mut dyn TableLike) {
    for (key, item) in table.iter_mut() {
        if is_secret(key.get()) {
            *item = toml_edit::value(REDACTED);
            continue;
        }
        match item {
            Item::Table(table) => redact_table(table),
            Item::ArrayOfTables(tables) => tables.iter_mut().for_each(|table| redact_table(table)),
            Item::Value(value) => redact_value(value),
            Item::None => {}
        }
    }
}

fn redact_value(value: &mut TomlValue) {
    match value {
        TomlValue::InlineTable(table) => redact_table(table),
        TomlValue::Array(values) => values.iter_mut().for_each(redact_value),
        _ => {}
    }
}

/// The state file with secrets left out; nothing of one that is no JSON.
fn redact_state(text: &str) -> String {
    let Ok(mut value) = serde_json::from_str(text) else {
        return "no JSON\n".into();
    };
    redact_json(&mut value);
    format!("{value:#}\n")
}

/// Leaves secrets out.
fn redact_json(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for (key, value) in fields.iter_mut() {
                if is_secret(key) {
                    *value = REDACTED.into();
                } else {
                    redact_json(value);
                }
            }
        }
        Value::Array(values) => values.iter_mut().for_each(redact_json),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::os::unix::fs::PermissionsExt as _;

    use flate2::read::GzDecoder;

    use super::*;

    #[test]
    fn names_of_secrets() {
        for secret in [
            "password",
            "ApiToken",
            "wg_private_key",
            "key",
            "psk",
            "client-secret",
        ] {
            assert!(is_secret(secret), "{secret}");
        }
        for plain in ["name", "keys", "key_bytes", "mac", "network"] {
            assert!(!is_secret(plain), "{plain}");
        }
    }

    #[test]
    fn documents_without_secrets() {
        let text = "schema = 1 # mine\n[a]\npassword = \"hunter2\"\nname = \"x\"\n\
                    [[port]]\nname = \"tap0\"\nauth = { token = \"hunter2\", user = \"u\" }\n\
                    list = [{ key = [\"hunter2\"] }]\n";
        let redacted = redact_toml(text);
        assert!(!redacted.contains("hunter2"), "{redacted}");
        assert_eq!(redacted.matches(REDACTED).count(), 3, "{redacted}");
        for kept in ["# mine", "name = \"tap0\"", "user = \"u\""] {
            assert!(redacted.contains(kept), "{redacted}");
        }
        let commented = redact_toml("# password = \"hunter2\"\na = 1 # token hunter2\n");
        assert_eq!(commented, format!("# {REDACTED}\na = 1 # {REDACTED}\n"));
        let plain = "schema = 1\n[[port]]\nname = \"tap0\" # a VM\n";
        assert_eq!(redact_toml(plain), plain);
    }

    #[test]
    fn broken_documents_without_secrets() {
        let redacted = redact_toml("schema = \"what\n[[\npassword = hunter2\nname = x\n");
        assert!(!redacted.contains("hunter2"), "{redacted}");
        assert!(redacted.contains("name = x"), "{redacted}");
    }

    #[test]
    fn states_without_secrets() {
        let redacted = redact_state("{\"ports\": [{\"token\": \"hunter2\", \"ifindex\": 7}]}");
        assert!(
            !redacted.contains("hunter2") && redacted.contains('7'),
            "{redacted}"
        );
        assert_eq!(redact_state("hunter2"), "no JSON\n");
    }

    #[test]
    fn a_bundle_is_a_tar_gz_for_its_owner() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("b.tar.gz");
        let entries = [
            Entry::new("a.txt", "first\n".into()),
            Entry::of("b.json", Err(Error::new("reading", "it is gone"))),
        ];
        write(&path, &entries).unwrap();
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let mut archive = tar::Archive::new(GzDecoder::new(fs::File::open(&path).unwrap()));
        let files: Vec<(String, String)> = archive
            .entries()
            .unwrap()
            .map(|entry| {
                let mut entry = entry.unwrap();
                let name = entry.path().unwrap().display().to_string();
                let mut text = String::new();
                entry.read_to_string(&mut text).unwrap();
                (name, text)
            })
            .collect();
        assert_eq!(files[0], ("vnet-doctor/a.txt".into(), "first\n".into()));
        assert_eq!(files[1].0, "vnet-doctor/b.json");
        assert!(files[1].1.contains("it is gone"));
        let error = write(&path, &entries).unwrap_err();
        assert!(
            error.mend.unwrap().contains("remove it"),
            "it is not overwritten"
        );
    }
}
