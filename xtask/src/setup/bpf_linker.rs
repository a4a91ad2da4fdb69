//! bpf-linker, which turns rustc's LLVM bitcode into a BPF object.

use std::path::PathBuf;

use anyhow::{Context, Result};

use super::{Found, say};
use crate::{
    paths::{cache_dir, cargo, rustc_version},
    process::run,
};

pub(super) const NAME: &str = "bpf-linker";

/// The version that setup installs. From 0.11 on bpf-linker needs a system LLVM as new as rustc's;
/// 0.10 loads the one that rustc itself brings.
pub const BPF_LINKER_VERSION: &str = "0.10.3";

/// Where setup puts bpf-linker for the compiler in use; it need not exist.
///
/// The path names the compiler because the program loads the LLVM of the rustc it was built with.
///
/// # Errors
/// When the cache directory or the compiler's version cannot be found out.
pub fn bpf_linker_path() -> Result<PathBuf> {
    Ok(root()?.join("bin/bpf-linker"))
}

fn root() -> Result<PathBuf> {
    let rustc = rustc_version()?;
    Ok(cache_dir()?.join(format!("bpf-linker-{BPF_LINKER_VERSION}-rustc-{rustc}")))
}

pub(super) fn ensure() -> Result<Found> {
    let root = root()?;
    if root.join("bin/bpf-linker").exists() {
        return Ok(Found::Before(BPF_LINKER_VERSION.to_owned()));
    }
    say(
        NAME,
        &format!("building {BPF_LINKER_VERSION} (about a minute)"),
    );
    run(cargo()
        .args(["install", "bpf-linker", "--quiet", "--locked"])
        .arg(format!("--version={BPF_LINKER_VERSION}"))
        .arg("--root")
        .arg(&root)
        // Its own binary directory is not meant for PATH: build.rs looks there.
        .env_remove("CARGO_TARGET_DIR"))
    .with_context(|| {
        format!(
            "installing bpf-linker {BPF_LINKER_VERSION}; needed to build the datapath. cargo must \
             reach its registry; or install it yourself and name it in VNET_BPF_LINKER"
        )
    })?;
    Ok(Found::Now(format!("{BPF_LINKER_VERSION} installed")))
}
