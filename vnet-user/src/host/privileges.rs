//! May this process do its work?

use std::fs;

use anyhow::{Context as _, Result};

use crate::error::Error;

// linux/capability.h
const CAP_NET_ADMIN: u32 = 12;
const CAP_SYS_ADMIN: u32 = 21;
const CAP_PERFMON: u32 = 38;
const CAP_BPF: u32 = 39;

/// linux/nsfs.h, USER_NS_INIT_INO: the inode of the first user namespace.
const INITIAL_USER_NAMESPACE: &str = "user:[4026531837]";

/// Checks that the calling thread may load programs, attach them and change interfaces: CAP_NET_ADMIN,
/// and CAP_BPF with CAP_PERFMON (5.8) or CAP_SYS_ADMIN in place of both. Mounting a BPF file system
/// and looking into other network namespaces need CAP_SYS_ADMIN besides, and say so themselves.
///
/// # Errors
/// Says what needs them (`doing`), what is missing, and the mend.
pub fn check(doing: &str) -> Result<(), Error> {
    let missing = missing_here().map_err(|error| Error::new(doing, format_args!("{error:#}")))?;
    if !missing.is_empty() {
        let why = format!("this needs {}", missing.join(" and "));
        return Err(Error::new(doing, why).mend("run it with sudo"));
    }
    if in_user_namespace() {
        return Err(Error::new(
            doing,
            "this runs in a user namespace, whose root may not load BPF programs",
        )
        .mend("run it with sudo outside, or in a container without user namespace"));
    }
    Ok(())
}

/// The capabilities that [`check`] asks for and the calling thread lacks, by name.
///
/// # Errors
/// When `/proc` does not tell what it has.
pub fn missing_here() -> Result<Vec<&'static str>> {
    effective().map(missing)
}

/// Whether this process is in a user namespace of its own. The bpf system call asks for capabilities
/// in the first one, whatever this one has.
#[must_use]
pub fn in_user_namespace() -> bool {
    fs::read_link("/proc/self/ns/user")
        .is_ok_and(|namespace| namespace.as_os_str() != INITIAL_USER_NAMESPACE)
}

fn effective() -> Result<u64> {
    let doing = "reading the process's capabilities";
    let status = fs::read_to_string("/proc/thread-self/status").context(doing)?;
    parse_effective(&status)
        .context("no CapEff in /proc/thread-self/status")
        .context(doing)
}

/// The effective capabilities in the text of `/proc/<pid>/status`, a bit each.
fn parse_effective(status: &str) -> Option<u64> {
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(line.trim(), 16).ok()
}

fn missing(effective: u64) -> Vec<&'static str> {
    let has = |capability: u32| effective & (1 << capability) != 0;
    let mut missing = Vec::new();
    if !has(CAP_NET_ADMIN) {
        missing.push("CAP_NET_ADMIN");
    }
    if !has(CAP_SYS_ADMIN) {
        if !has(CAP_BPF) {
            missing.push("CAP_BPF");
        }
        if !has(CAP_PERFMON) {
            missing.push("CAP_PERFMON");
        }
    }
    missing
}

#[cfg(test)]
mod tests {
    use super::super::testing::{require_root, without_capabilities};
    use super::*;

    #[test]
    fn the_effective_set_is_read() {
        let status = "Name:\tvnet\nCapPrm:\t0000000000000001\nCapEff:\t000001fffeffffff\n";
        assert_eq!(parse_effective(status), Some(0x1ff_feff_ffff));
        assert_eq!(parse_effective("CapEff:\tnonsense\n"), None);
        assert_eq!(parse_effective(""), None);
    }

    #[test]
    fn the_thread_itself_is_asked() {
        require_root();
        check("trying").expect("root may do everything, outside of a container");
        without_capabilities(|| {
            let error = check("trying").expect_err("there is none left").to_string();
            assert_eq!(
                error,
                "error: trying: this needs CAP_NET_ADMIN and CAP_BPF and CAP_PERFMON\n  \
                 mend: run it with sudo"
            );
            Ok(())
        })
        .expect("the test's own steps work");
    }

    #[test]
    fn what_is_missing_is_named() {
        assert_eq!(missing(0), ["CAP_NET_ADMIN", "CAP_BPF", "CAP_PERFMON"]);
        assert_eq!(missing(1 << CAP_NET_ADMIN | 1 << CAP_BPF), ["CAP_PERFMON"]);
        assert!(missing(1 << CAP_NET_ADMIN | 1 << CAP_SYS_ADMIN).is_empty());
        assert!(missing(1 << CAP_NET_ADMIN | 1 << CAP_BPF | 1 << CAP_PERFMON).is_empty());
    }
}
