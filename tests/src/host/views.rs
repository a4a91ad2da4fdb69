//! What the switch tells of itself: `stats`, `fdb list`, `status` and `events`, by their JSON.

use serde_json::Value;

use super::{Host, Mac};

/// A row of `fdb list`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FdbRow {
    /// The address.
    pub mac: String,
    /// The network.
    pub network: String,
    /// The port.
    pub port: String,
    /// `learned`, `static` or `local`.
    pub kind: String,
}

impl Host {
    /// The rows that `line`, a listing, prints as JSON.
    ///
    /// # Panics
    /// When it fails or prints something else.
    #[track_caller]
    pub fn rows(&self, line: &str, plural: &str) -> Vec<Value> {
        let mut json = self.vnet(&format!("-j {line}")).json();
        assert_eq!(json["schema"], 1, "{line}");
        match json[plural].take() {
            Value::Array(rows) => rows,
            other => panic!("`{line}` has no array {plural}: {other}"),
        }
    }

    /// A counter of a port, `kind` as in `stats`.
    ///
    /// # Panics
    /// When there is no such row or counter.
    #[track_caller]
    #[must_use]
    pub fn counter(&self, port: &str, kind: &str, name: &str) -> u64 {
        let rows = self.rows("stats", "stats");
        let row = rows
            .iter()
            .find(|row| row["port"] == port && row["kind"] == kind);
        match row.and_then(|row| row[name].as_u64()) {
            Some(count) => count,
            None => panic!("no counter {name} of the {kind} {port} in {rows:?}"),
        }
    }

    /// How many frames were dropped at a port for `reason`, as `stats` names it.
    #[track_caller]
    #[must_use]
    pub fn drops(&self, port: &str, reason: &str) -> u64 {
        self.rows("stats", "stats")
            .iter()
            .filter(|row| row["port"] == port)
            .filter_map(|row| row["drops"][reason].as_u64())
            .sum()
    }

    /// Every drop that is counted anywhere, as `port: reason`.
    #[track_caller]
    #[must_use]
    pub fn all_drops(&self) -> Vec<String> {
        let mut all = Vec::new();
        for row in self.rows("stats", "stats") {
            for (reason, count) in row["drops"].as_object().into_iter().flatten() {
                all.push(format!(
                    "{} {reason} {count}",
                    row["port"].as_str().unwrap_or("?")
                ));
            }
        }
        all
    }

    /// The forwarding database, sorted.
    #[track_caller]
    #[must_use]
    pub fn fdb(&self) -> Vec<FdbRow> {
        let text = |row: &Value, key: &str| row[key].as_str().unwrap_or_default().to_owned();
        let mut rows: Vec<_> = self
            .rows("fdb list", "fdb")
            .iter()
            .map(|row| FdbRow {
                mac: text(row, "mac"),
                network: text(row, "network"),
                port: text(row, "port"),
                kind: text(row, "kind"),
            })
            .collect();
        rows.sort();
        rows
    }

    /// The port behind which `mac` is known in `network`.
    #[track_caller]
    #[must_use]
    pub fn whereabouts(&self, mac: Mac, network: &str) -> Option<String> {
        let mac = mac.to_string();
        let row = self
            .fdb()
            .into_iter()
            .find(|row| row.mac == mac && row.network == network)?;
        Some(row.port)
    }

    /// What `status` tells of the switch.
    #[track_caller]
    #[must_use]
    pub fn status(&self) -> Value {
        let mut rows = self.rows("status", "status");
        assert_eq!(rows.len(), 1, "{rows:?}");
        rows.remove(0)
    }

    /// What `status` tells of a port.
    ///
    /// # Panics
    /// When there is no such port.
    #[track_caller]
    #[must_use]
    pub fn port_status(&self, port: &str) -> Value {
        let status = self.status();
        let mut ports = status["ports"].as_array().into_iter().flatten();
        match ports.find(|row| row["name"] == port) {
            Some(row) => row.clone(),
            None => panic!("no port {port} in {status}"),
        }
    }

    /// The events since they were last read.
    #[track_caller]
    #[must_use]
    pub fn events(&self) -> Vec<Value> {
        self.rows("events", "events")
    }
}
