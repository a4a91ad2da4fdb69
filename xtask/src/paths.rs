//! Where things lie: the workspace, the build's output, the cache.

use std::{
    env,
    ffi::OsStr,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use crate::process::output;

/// The workspace's root: the folder that holds the top `Cargo.toml`.
pub fn workspace_root() -> PathBuf {
    let manifest_dir = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest_dir.parent().unwrap_or(manifest_dir).to_path_buf()
}

/// Cargo's target directory: `CARGO_TARGET_DIR` when set, else `target` in the workspace.
pub fn target_dir() -> PathBuf {
    match env::var_os("CARGO_TARGET_DIR").filter(|dir| !dir.is_empty()) {
        Some(dir) => workspace_root().join(dir),
        None => workspace_root().join("target"),
    }
}

/// Where `cargo xtask build` leaves the program.
pub fn vnet_user() -> PathBuf {
    target_dir().join("release/vnet-user")
}

/// What setup downloads and builds once a user: `$XDG_CACHE_HOME/vnet`, else `~/.cache/vnet`.
///
/// `vnet-user/build.rs` looks for bpf-linker in the same place.
///
/// # Errors
/// When neither `XDG_CACHE_HOME` (an absolute path) nor `HOME` is set.
pub fn cache_dir() -> Result<PathBuf> {
    let absolute = |name| {
        env::var_os(name)
            .map(PathBuf::from)
            .filter(|p| p.is_absolute())
    };
    if let Some(cache) = absolute("XDG_CACHE_HOME") {
        return Ok(cache.join("vnet"));
    }
    match absolute("HOME") {
        Some(home) => Ok(home.join(".cache/vnet")),
        None => {
            bail!("finding the cache directory: neither XDG_CACHE_HOME nor HOME is set; set one")
        }
    }
}

/// The cargo that runs us, so that every inner build uses the same toolchain.
pub fn cargo() -> Command {
    Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

/// The compiler that cargo uses.
pub fn rustc() -> Command {
    Command::new(env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()))
}

/// The compiler's version, as in `1.95.0`.
///
/// # Errors
/// When rustc cannot be run or prints no release.
pub fn rustc_version() -> Result<String> {
    let text = output(rustc().arg("-vV")).context("asking rustc for its version")?;
    text.lines()
        .find_map(|line| line.strip_prefix("release: "))
        .map(|release| release.trim().to_owned())
        .context("asking rustc for its version: no `release:` line in the output of `rustc -vV`")
}

/// The compiler's sysroot.
///
/// # Errors
/// When rustc cannot be run.
pub fn sysroot() -> Result<PathBuf> {
    let text =
        output(rustc().args(["--print", "sysroot"])).context("asking rustc for its sysroot")?;
    Ok(PathBuf::from(text.trim()))
}

/// Finds a program on `PATH`, then in the system directories that an ordinary user's `PATH` often
/// lacks.
pub fn find_program(name: impl AsRef<OsStr>) -> Option<PathBuf> {
    let name = name.as_ref();
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|dir| dir.join(name))
        .find(|file| is_executable(file))
}

fn is_executable(file: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    file.metadata()
        .is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}
