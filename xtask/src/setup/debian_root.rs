//! A small Debian with systemd, in which the package is installed by the tests.

use std::{
    env::consts::ARCH,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};

use super::{Found, apt, packages::is_root, say};
use crate::{paths::cache_dir, process::output};

pub(super) const NAME: &str = "Debian root";

/// What is in it besides the essential packages: the first one that runs, and what the tests call.
const PACKAGES: &str = "systemd,dnsmasq-base,iproute2,iputils-ping,man-db,procps";

/// The tree's directory. It is not to be changed: mount an overlay over it.
///
/// # Errors
/// When the cache directory or the machine's release cannot be found out.
pub fn debian_root() -> Result<PathBuf> {
    let release = apt::codename()?;
    Ok(cache_dir()?.join(format!("debian-root-2-{release}-{ARCH}")))
}

pub(super) fn ensure() -> Result<Found> {
    let root = debian_root()?;
    let what = "of the machine's own release";
    if root.is_dir() {
        return Ok(Found::Before(what.to_owned()));
    }
    // Device nodes and other users' files: without root there is none, and no test that needs it.
    if !is_root() {
        return Ok(Found::Before("is made when root calls, not".to_owned()));
    }
    say(NAME, "installing a small Debian (less than a minute)");
    let codename = apt::codename()?;
    let source = apt::own_repository(Path::new("/etc/apt"), &codename)?.line(&codename);
    let work = apt::WorkDir::new("root")?;
    let tree = work.path().join("tree");
    output(
        Command::new("mmdebstrap")
            .args(["--mode=root", "--variant=minbase"])
            .arg(format!("--include={PACKAGES}"))
            .arg(&codename)
            .arg(&tree)
            .arg(source),
    )
    .context("installing a small Debian, which the package's tests need, by mmdebstrap")?;
    fs::rename(&tree, &root)
        .with_context(|| format!("moving the small Debian to {}", root.display()))?;
    Ok(Found::Now(format!("{what} installed")))
}
