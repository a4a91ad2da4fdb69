//! Where the benchmarks live: a mount namespace of this process's own.
//!
//! Names of network namespaces, pins and run files are made in file systems that only this process
//! and its children see. However the process ends, they end with it, and so do the namespaces, the
//! interfaces in them and the programs.

use std::{ffi::CString, fs, io, path::Path, ptr};

use anyhow::{Context, Result};

/// Where switches keep their documents.
pub const CONFIG_DIR: &str = "/run/vnet/config";

/// Leaves the host's mounts. Once, before there are threads.
pub fn enter() -> Result<()> {
    // SAFETY: takes no pointers.
    if unsafe { libc::unshare(libc::CLONE_NEWNS) } != 0 {
        return Err(io::Error::last_os_error())
            .context("making a mount namespace for the benchmarks: run them as root");
    }
    mount(None, "/", libc::MS_REC | libc::MS_PRIVATE)?;
    for (kind, at) in [
        ("tmpfs", "/run/netns"),
        ("tmpfs", "/run/vnet"),
        ("bpf", "/sys/fs/bpf"),
    ] {
        if !Path::new(at).is_dir() {
            fs::create_dir_all(at).with_context(|| format!("making the directory {at}"))?;
        }
        mount(Some(kind), at, 0)?;
    }
    fs::create_dir_all(CONFIG_DIR).with_context(|| format!("making the directory {CONFIG_DIR}"))
}

fn mount(kind: Option<&str>, at: &str, flags: libc::c_ulong) -> Result<()> {
    let doing = || format!("mounting {} at {at}", kind.unwrap_or("nothing"));
    let path = CString::new(at).with_context(doing)?;
    let kind_text = CString::new(kind.unwrap_or("none")).with_context(doing)?;
    // SAFETY: the strings outlive the call; no data is handed over.
    let done = unsafe {
        libc::mount(
            kind_text.as_ptr(),
            path.as_ptr(),
            kind_text.as_ptr(),
            flags,
            ptr::null(),
        )
    };
    if done != 0 {
        return Err(io::Error::last_os_error()).with_context(doing);
    }
    Ok(())
}
