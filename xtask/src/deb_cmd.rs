//! `cargo xtask deb`: the Debian package.

use std::path::PathBuf;

use anyhow::Result;
use xtask::{package, paths::target_dir, setup};

use crate::build_cmd;

/// Builds the program and packs it; the package lies in `target/debian`.
pub(crate) fn deb() -> Result<PathBuf> {
    setup::for_package(setup::Report::Changes)?;
    let program = build_cmd::build()?;
    package::deb(&program, &target_dir().join("debian"), None)
}
