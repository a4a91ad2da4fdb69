//! Namespaces of a test's own, which go with its thread, whatever becomes of the test.

use std::{io, path::Path, thread};

use anyhow::{Context as _, Result, ensure};

/// Runs `test` in a thread with a network and a mount namespace of its own, on one CPU, and hands it
/// a folder for a BPF file system. When the thread ends, after a panic too, its interfaces, mounts,
/// pins, maps and programs are gone.
///
/// # Errors
/// Those of `test`, and the mend when it does not run as root.
pub fn in_sandbox<T: Send>(test: impl FnOnce(&Path) -> Result<T> + Send) -> Result<T> {
    // SAFETY: takes no arguments and cannot fail.
    let user = unsafe { libc::geteuid() };
    ensure!(
        user == 0,
        "this test loads programs into the kernel and needs root: run it with sudo \
         (`sudo cargo xtask test`)"
    );
    let dir = tempfile::tempdir().context("making a folder for the BPF file system")?;
    let bpffs = dir.path().join("bpf");
    std::fs::create_dir(&bpffs).context("making a folder for the BPF file system")?;
    thread::scope(|scope| {
        let thread = scope.spawn(|| {
            enter().context("making namespaces for the test")?;
            test(&bpffs)
        });
        thread
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

fn enter() -> Result<()> {
    // SAFETY: takes no pointers; moves the calling thread alone.
    check(unsafe { libc::unshare(libc::CLONE_NEWNET | libc::CLONE_NEWNS) })?;
    // SAFETY: every pointer is null or to a NUL-terminated string.
    check(unsafe {
        libc::mount(
            std::ptr::null(),
            c"/".as_ptr(),
            std::ptr::null(),
            libc::MS_REC | libc::MS_PRIVATE,
            std::ptr::null(),
        )
    })
    .context("keeping mounts to the test")?;
    // Nothing but the test's frames: no router solicitation, no multicast report. Where there is no
    // IPv6 there is nothing to switch off.
    match std::fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1") {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(error).context("switching IPv6 off");
        }
        _ => {}
    }
    stay_on_this_cpu().context("staying on one CPU")
}

/// Rate limits of events are kept per CPU.
fn stay_on_this_cpu() -> Result<()> {
    // SAFETY: takes nothing.
    let cpu = check(unsafe { libc::sched_getcpu() })?;
    // SAFETY: a set of CPUs is bits; zeros are a value of it.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: the number is one that the kernel gave, within the set.
    unsafe { libc::CPU_SET(cpu as usize, &mut set) };
    // SAFETY: the set is live and its size is passed with it; 0 is the calling thread.
    check(unsafe { libc::sched_setaffinity(0, size_of_val(&set), &raw const set) })?;
    Ok(())
}

pub(super) fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}
