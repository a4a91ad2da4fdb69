//! cargo-deb, which packs the Debian package.

use std::path::PathBuf;

use anyhow::{Context, Result};

use super::{Found, say};
use crate::{
    paths::{cache_dir, cargo},
    process::run,
};

pub(super) const NAME: &str = "cargo-deb";

/// The version that setup installs: packages are the same on every machine.
const VERSION: &str = "3.8.0";

/// Where setup puts cargo-deb; it need not exist.
///
/// # Errors
/// When the cache directory cannot be found out.
pub fn cargo_deb_path() -> Result<PathBuf> {
    Ok(root()?.join("bin/cargo-deb"))
}

fn root() -> Result<PathBuf> {
    Ok(cache_dir()?.join(format!("cargo-deb-{VERSION}")))
}

pub(super) fn ensure() -> Result<Found> {
    if cargo_deb_path()?.exists() {
        return Ok(Found::Before(VERSION.to_owned()));
    }
    say(NAME, &format!("building {VERSION} (about a minute)"));
    run(cargo()
        .args(["install", "cargo-deb", "--quiet", "--locked"])
        .arg(format!("--version={VERSION}"))
        .arg("--root")
        .arg(root()?)
        .env_remove("CARGO_TARGET_DIR"))
    .with_context(|| {
        format!("installing cargo-deb {VERSION}; needed to pack the Debian package. cargo must reach its registry")
    })?;
    Ok(Found::Now(format!("{VERSION} installed")))
}
