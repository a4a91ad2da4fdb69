//! The standard library's sources, from which `core` is built for BPF: that target has no ready
//! made one.

use std::{fs, os::unix::fs::symlink, path::Path, process::Command, time::Duration};

use anyhow::{Context, Result, anyhow, bail};

use super::{Found, apt, say};
use crate::{
    paths::{cache_dir, find_program, rustc_version, sysroot},
    process::quiet_within,
};

pub(super) const NAME: &str = "rust-src";

/// How long rustup may take. The component is 3 MB; without a network rustup retries for minutes.
const RUSTUP_LIMIT: Duration = Duration::from_secs(90);

pub(super) fn ensure() -> Result<Found> {
    let place = sysroot()?.join("lib/rustlib/src/rust");
    if is_source_tree(&place) {
        return Ok(Found::Before("the standard library's sources".to_owned()));
    }
    let version = rustc_version()?;

    say(NAME, "asking rustup for the component");
    let rustup = match from_rustup() {
        Ok(()) if is_source_tree(&place) => {
            return Ok(Found::Now(format!("{version} installed by rustup")));
        }
        Ok(()) => anyhow!("rustup succeeded, but {} is not there", place.display()),
        Err(error) => error,
    };

    say(
        NAME,
        &format!("rustup has none; looking for Debian's package for rustc {version}"),
    );
    let debian = match from_debian(&version, &place) {
        Ok(()) => {
            return Ok(Found::Now(format!(
                "{version} from Debian's package, linked into the sysroot"
            )));
        }
        Err(error) => error,
    };

    bail!(
        "getting the standard library's sources (rust-src) for rustc {version}, needed to build \
         `core` for BPF\n  by rustup: {rustup:#}\n  by Debian's package: {debian:#}\nRun `rustup \
         component add rust-src`, or put the sources of exactly this version at {}",
        place.display()
    )
}

/// Cargo's build-std reads the library's lock file first, so that file decides.
fn is_source_tree(place: &Path) -> bool {
    place.join("library/Cargo.lock").is_file()
}

fn from_rustup() -> Result<()> {
    let rustup = find_program("rustup").context("there is no rustup on PATH")?;
    quiet_within(
        Command::new(rustup).args(["component", "add", "rust-src"]),
        RUSTUP_LIMIT,
    )
}

fn from_debian(version: &str, place: &Path) -> Result<()> {
    let unpacked = cache_dir()?.join(format!("rust-src-{version}"));
    let tree = unpacked.join(format!("usr/src/rustc-{version}"));
    if !is_source_tree(&tree) {
        apt::unpack_from_newer_suite("rust-src", version, &unpacked)?;
    }
    if !is_source_tree(&tree) {
        bail!("the package has no library/Cargo.lock in usr/src/rustc-{version}");
    }
    link(&tree, place)
}

fn link(tree: &Path, place: &Path) -> Result<()> {
    let doing = || {
        format!(
            "linking {} to {}; setup must be allowed to write to the compiler's sysroot",
            place.display(),
            tree.display()
        )
    };
    if let Some(parent) = place.parent() {
        fs::create_dir_all(parent).with_context(doing)?;
    }
    // What is left of an earlier cache; a real directory is not ours to replace.
    if place.is_symlink() {
        fs::remove_file(place).with_context(doing)?;
    }
    symlink(tree, place).with_context(doing)
}
