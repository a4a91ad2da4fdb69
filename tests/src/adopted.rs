//! Hosts whose daemon makes interfaces ports, and waiting for it.

use std::fs;

use serde_json::Value;

use crate::{host::Host, wait};

/// A host whose switch has this document and is not up yet.
///
/// # Panics
/// When it cannot be written.
#[must_use]
pub fn host_with(document: &str) -> Host {
    let host = Host::new();
    fs::create_dir_all(host.config_dir()).unwrap();
    fs::write(host.document(), document).unwrap();
    host
}

/// What `port list` says of a port.
#[must_use]
pub fn row(host: &Host, port: &str) -> Option<Value> {
    let rows = host.rows("port list", "ports");
    rows.into_iter().find(|row| row["name"] == port)
}

/// Waits until an interface is a port, and gives its row.
///
/// # Panics
/// When it does not become one.
#[track_caller]
pub fn wait_attached(host: &Host, port: &str) -> Value {
    wait::value(&format!("{port} is a port"), || {
        row(host, port).filter(|row| row["state"] == "attached")
    })
}

/// Waits until an interface is no port.
///
/// # Panics
/// When it stays one.
#[track_caller]
pub fn wait_gone(host: &Host, port: &str) {
    wait::until(&format!("{port} is no port"), || row(host, port).is_none());
}
