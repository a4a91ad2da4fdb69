//! The BPF file system, in which pins keep the datapath alive without a process.
//!
//! Names in it may not hold a `.` (kernel/bpf/inode.c, bpf_lookup: reserved, -EPERM): an interface
//! name such as `eth0.100` is not a pin's name, an interface index is.

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};

/// linux/magic.h
const BPF_FS_MAGIC: u64 = 0xcafe_4a11;

/// Makes sure that `dir` exists on a BPF file system: creates it, and mounts one on it unless it is
/// in one already. Returns whether it was mounted now.
///
/// A mount is seen in the calling process's mount namespace, and, pins included, goes with it:
/// see [`mount_namespace_is_private`].
///
/// # Errors
/// When the directory cannot be made, holds something that the mount would hide, or the mount is
/// refused.
pub fn ensure_mounted(dir: &Path) -> Result<bool> {
    fs::create_dir_all(dir).with_context(|| {
        let dots = dir
            .components()
            .any(|part| part.as_os_str().as_bytes().contains(&b'.'));
        let hint = if dots {
            " (a name on a BPF file system may not hold a dot)"
        } else {
            ""
        };
        format!("making the directory {}{hint}", dir.display())
    })?;
    if is_bpffs(dir)? {
        return Ok(false);
    }
    let mut entries =
        fs::read_dir(dir).with_context(|| format!("reading the directory {}", dir.display()))?;
    ensure!(
        entries.next().is_none(),
        "mounting a BPF file system on {}: the directory is not empty, and what is in it would be \
         hidden; choose another with --bpffs",
        dir.display()
    );
    mount(dir)?;
    // A mount that succeeds and does not show would lose every pin without a word.
    ensure!(
        is_bpffs(dir)?,
        "mounted a BPF file system on {}, but it does not show there",
        dir.display()
    );
    Ok(true)
}

/// Whether `path`, which must exist, is on a BPF file system.
///
/// # Errors
/// When it does not exist or may not be looked at.
pub fn is_bpffs(path: &Path) -> Result<bool> {
    let c_path = c_path(path)?;
    // SAFETY: statfs is plain integers; zeros are a value of it.
    let mut found: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: the path is NUL-terminated and the buffer a live statfs; both outlive the call.
    if unsafe { libc::statfs(c_path.as_ptr(), &raw mut found) } != 0 {
        return Err(io::Error::last_os_error())
            .with_context(|| format!("asking for the file system of {}", path.display()));
    }
    // The field's width and sign differ between architectures; the number is 32 bits wide.
    Ok(found.f_type as u64 & 0xffff_ffff == BPF_FS_MAGIC)
}

/// Whether `name` can be a file's or directory's on a BPF file system.
pub fn is_pin_name(name: &str) -> bool {
    !name.is_empty() && name.len() <= 255 && !name.contains(['.', '/', '\0'])
}

/// Whether this process sees other mounts than process 1, as the child of `ip netns exec`, of
/// `unshare -m` or in a container does: what it mounts and pins there goes when the last process
/// in that namespace ends. None when process 1 may not be looked at.
pub fn mount_namespace_is_private() -> Option<bool> {
    let own = fs::read_link("/proc/self/ns/mnt").ok()?;
    let first = fs::read_link("/proc/1/ns/mnt").ok()?;
    Some(own != first)
}

fn mount(dir: &Path) -> Result<()> {
    let flags = libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC | libc::MS_RELATIME;
    let target = c_path(dir)?;
    // SAFETY: every pointer is to a NUL-terminated string that outlives the call.
    let result = unsafe {
        libc::mount(
            c"bpf".as_ptr(),
            target.as_ptr(),
            c"bpf".as_ptr(),
            flags,
            c"mode=0700".as_ptr().cast(),
        )
    };
    if result == 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    let doing = format!("mounting a BPF file system on {}", dir.display());
    match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => Err(error).context(format!(
            "{doing}: needs CAP_SYS_ADMIN; run it with sudo, or mount it beforehand: \
             mount -t bpf bpf {}",
            dir.display()
        )),
        Some(libc::ENODEV) => Err(error).context(format!(
            "{doing}: this kernel has none (CONFIG_BPF_SYSCALL)"
        )),
        _ => Err(error).context(doing),
    }
}

fn c_path(path: &Path) -> Result<CString> {
    match CString::new(path.as_os_str().as_bytes()) {
        Ok(path) => Ok(path),
        Err(_) => bail!("{} is not a path: it holds a NUL byte", path.display()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{TempDir, in_new_mount_namespace, without_capabilities};
    use super::*;

    #[test]
    fn other_file_systems_are_told_apart() {
        assert!(!is_bpffs(Path::new("/proc")).expect("/proc is mounted"));
        assert!(is_bpffs(Path::new("/no/such/path")).is_err());
    }

    #[test]
    fn pin_names() {
        assert!(is_pin_name("port_counters"));
        assert!(is_pin_name("7"));
        for name in ["", "eth0.100", "a/b", "..", "a\0b"] {
            assert!(!is_pin_name(name), "{name:?}");
        }
    }

    #[test]
    fn mounted_once_and_found_afterwards() {
        let temporary = TempDir::new().expect("/tmp is writable");
        in_new_mount_namespace(|| {
            let dir = temporary.path().join("a/bpf");
            assert!(ensure_mounted(&dir)?, "mounted now");
            assert!(is_bpffs(&dir)?);
            assert!(!ensure_mounted(&dir)?, "it is there already");
            let below = dir.join("vnet/vsw0");
            assert!(!ensure_mounted(&below)?, "a directory in it will do");
            let dotted = format!(
                "{:#}",
                ensure_mounted(&dir.join("eth0.1")).expect_err("a dot")
            );
            assert!(dotted.contains("may not hold a dot"), "{dotted}");
            Ok(())
        });
    }

    #[test]
    fn a_mount_that_is_not_permitted_names_the_mend() {
        let temporary = TempDir::new().expect("/tmp is writable");
        in_new_mount_namespace(|| {
            without_capabilities(|| {
                let error = ensure_mounted(temporary.path()).expect_err("not permitted");
                let error = format!("{error:#}");
                assert!(
                    error.contains("sudo") && error.contains("mount -t bpf"),
                    "{error}"
                );
                Ok(())
            })
        });
    }

    #[test]
    fn nothing_is_hidden() {
        let temporary = TempDir::new().expect("/tmp is writable");
        in_new_mount_namespace(|| {
            fs::write(temporary.path().join("precious"), "")?;
            let error = ensure_mounted(temporary.path()).expect_err("it is not empty");
            assert!(error.to_string().contains("not empty"), "{error}");
            Ok(())
        });
    }
}
