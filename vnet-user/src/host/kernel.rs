//! The running kernel: its version, its clock, and waiting for programs to leave old data.

use std::ffi::CStr;
use std::io;
use std::os::fd::{FromRawFd as _, OwnedFd};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

/// The oldest kernel that vnet supports.
pub const MINIMUM: (u32, u32) = (6, 1);
/// The first kernel with TCX: TC programs in an ordered list, attached by links.
pub const TCX: (u32, u32) = (6, 6);
/// The first kernel whose `bpf_fib_lookup` tells the source address (BPF_FIB_LOOKUP_SRC).
pub const FIB_SRC: (u32, u32) = (6, 7);

/// The running kernel's major and minor version.
///
/// # Errors
/// When its release string does not begin with two numbers.
pub fn version() -> Result<(u32, u32)> {
    let release = release()?;
    parse_version(&release)
        .with_context(|| format!("reading the kernel's version: {release:?} has no number"))
}

/// Checks that the kernel is [`MINIMUM`] or newer.
///
/// # Errors
/// Says which kernel runs and which is needed.
pub fn check() -> Result<()> {
    let running = version()?;
    if running < MINIMUM {
        let (major, minor) = MINIMUM;
        bail!(
            "this kernel is {}.{}, vnet needs {major}.{minor} or newer",
            running.0,
            running.1
        );
    }
    Ok(())
}

/// Whether the kernel has TCX (6.6). Below, programs attach to the clsact qdisc.
///
/// # Errors
/// As [`version`].
pub fn has_tcx() -> Result<bool> {
    Ok(version()? >= TCX)
}

/// Whether `bpf_fib_lookup` tells the address that the host would send from (6.7).
///
/// # Errors
/// As [`version`].
pub fn has_fib_src() -> Result<bool> {
    Ok(version()? >= FIB_SRC)
}

/// CLOCK_MONOTONIC in nanoseconds since boot, sleep not counted: the clock of the datapath
/// (`bpf_ktime_get_ns`), so the two can be compared.
pub fn monotonic_ns() -> u64 {
    let now = monotonic();
    now.as_secs() * 1_000_000_000 + u64::from(now.subsec_nanos())
}

/// CLOCK_MONOTONIC in whole seconds. See [`monotonic_ns`].
pub fn monotonic_s() -> u64 {
    monotonic().as_secs()
}

fn monotonic() -> Duration {
    let mut now = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the pointer is to a live timespec. CLOCK_MONOTONIC is always there, and the one other
    // error is a bad pointer.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) };
    Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
}

/// Returns once every BPF program of XDP and TC that was running when this was called has ended.
///
/// Programs run inside RCU read sections, so what is needed is one grace period. After a new
/// generation of the configuration was switched in, the old half may be rewritten only then: until
/// then a program that read the switch before it moved may still be reading that half.
///
/// The order of the means: membarrier(2), whose global command is a grace period, and which a
/// kernel booted with `nohz_full` refuses; closing a packet socket, which waits for one too
/// (net/packet/af_packet.c, packet_release: synchronize_net), and needs CAP_NET_RAW; a sleep of
/// 20 ms, a thousand times what a program takes, and no guarantee.
///
/// With a single processor the first returns at once. That suffices: programs run with bottom halves
/// off and, PREEMPT_RT apart, are not preempted there, so none is in the middle while this runs.
pub fn membarrier_global() {
    if membarrier() || close_packet_socket() {
        return;
    }
    std::thread::sleep(Duration::from_millis(20));
}

fn membarrier() -> bool {
    let command = libc::MEMBARRIER_CMD_GLOBAL as libc::c_int;
    let (flags, cpu): (libc::c_uint, libc::c_int) = (0, 0);
    // SAFETY: the command takes no pointers.
    unsafe { libc::syscall(libc::SYS_membarrier, command, flags, cpu) == 0 }
}

fn close_packet_socket() -> bool {
    let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC;
    // Protocol 0: it never receives a frame.
    // SAFETY: takes no pointers; the result is checked below.
    let raw = unsafe { libc::socket(libc::AF_PACKET, kind, 0) };
    if raw < 0 {
        return false;
    }
    // SAFETY: `raw` was just opened and belongs to nobody else.
    drop(unsafe { OwnedFd::from_raw_fd(raw) });
    true
}

/// The running kernel's release, such as `6.1.0-18-amd64`.
///
/// # Errors
/// When the kernel does not tell it.
pub fn release() -> Result<String> {
    // SAFETY: utsname is arrays of characters; zeros are a value of it.
    let mut name: libc::utsname = unsafe { std::mem::zeroed() };
    // SAFETY: the pointer is to a live utsname.
    if unsafe { libc::uname(&raw mut name) } != 0 {
        return Err(io::Error::last_os_error()).context("asking for the kernel's version");
    }
    // SAFETY: the kernel NUL-terminates the field, and `name` outlives the borrow.
    let release = unsafe { CStr::from_ptr(name.release.as_ptr()) };
    Ok(release.to_string_lossy().into_owned())
}

/// Major and minor of a release such as `6.1.0-18-amd64` or `6.12-rc1`.
fn parse_version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|character: char| !character.is_ascii_digit());
    let major = numbers.next()?.parse().ok()?;
    let minor = numbers.next()?.parse().ok()?;
    Some((major, minor))
}

/// Which start of the host this is: another text after each.
///
/// # Errors
/// `/proc` is not mounted.
pub fn boot_id() -> io::Result<String> {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").map(|id| id.trim().to_owned())
}

/// Seconds since the host's start, those in which it slept too (CLOCK_BOOTTIME).
#[must_use]
pub fn since_boot_s() -> u64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the time is a live timespec; the clock is there since 2.6.39.
    unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &raw mut time) };
    time.tv_sec as u64
}

#[cfg(test)]
mod tests {
    use super::super::testing::require_root;
    use super::*;

    #[test]
    fn versions() {
        assert_eq!(parse_version("6.1.0-18-amd64"), Some((6, 1)));
        assert_eq!(parse_version("6.12-rc1"), Some((6, 12)));
        assert_eq!(
            parse_version("5.15.167.4-microsoft-standard-WSL2"),
            Some((5, 15))
        );
        assert_eq!(parse_version("6.8+"), Some((6, 8)));
        assert_eq!(parse_version("linux"), None);
        assert_eq!(parse_version("6"), None);
        assert!((6, 10) > MINIMUM, "numbers, not text");
    }

    #[test]
    fn the_running_kernel_has_a_version() {
        let running = version().expect("uname works");
        assert_eq!(has_tcx().expect("uname works"), running >= (6, 6));
        assert_eq!(check().is_ok(), running >= MINIMUM);
    }

    #[test]
    fn the_clock_goes_forward() {
        let (before, seconds) = (monotonic_ns(), monotonic_s());
        std::thread::sleep(Duration::from_millis(2));
        assert!(monotonic_ns() >= before + 2_000_000);
        assert!(monotonic_s() - seconds < 60);
        assert!(seconds <= before / 1_000_000_000 + 1);
    }

    #[test]
    fn both_grace_periods_work() {
        require_root();
        membarrier_global();
        assert!(close_packet_socket());
    }
}
