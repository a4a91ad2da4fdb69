//! `cargo xtask build`: the program `vnet-user` with the datapath inside it.

use std::{env, path::PathBuf};

use anyhow::{Context, Result, bail};
use xtask::{
    paths::{cargo, target_dir, vnet_user, workspace_root},
    process::run,
    setup,
};

/// The feature that makes the datapath log, and the name of its target directory.
const DATAPATH_LOG: &str = "datapath-log";

/// Builds the program; its build script builds the datapath. What the build needs is got first.
pub(crate) fn build() -> Result<PathBuf> {
    built(&[], vnet_user())
}

/// Builds the program with logging in the datapath. It has a target directory of its own, so that
/// the next plain build does not begin anew.
pub(crate) fn build_with_datapath_log() -> Result<PathBuf> {
    let target = target_dir().join(DATAPATH_LOG);
    let dir = target
        .to_str()
        .context("the target directory's path is not UTF-8")?;
    built(
        &["--features", DATAPATH_LOG, "--target-dir", dir],
        target.join("release").join("vnet-user"),
    )
}

fn built(options: &[&str], binary: PathBuf) -> Result<PathBuf> {
    setup::for_build(setup::Report::Changes)?;
    run(cargo()
        .current_dir(workspace_root())
        .args(["build", "--release", "--package", "vnet-user"])
        .args(options))
    .context("building vnet-user")?;
    if !binary.is_file() {
        bail!(
            "building vnet-user: cargo succeeded, but {} is not there",
            binary.display()
        );
    }
    Ok(binary)
}

/// The program to demonstrate: the one named in `VNET_USER_BIN`, else one built now.
pub(crate) fn given_or_built() -> Result<PathBuf> {
    match env::var_os("VNET_USER_BIN") {
        Some(binary) => Ok(PathBuf::from(binary)),
        None => build(),
    }
}
