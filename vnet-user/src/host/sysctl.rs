//! Values under `/proc/sys`. Those under `net` are of the calling thread's network namespace
//! (net/sysctl_net.c, net_ctl_header_lookup), without another mount of procfs.
//!
//! Paths are used, not the dotted spelling: an interface may have a dot in its name.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};

/// The path of an interface's IPv4 option, such as `arp_ignore` or `forwarding`.
///
/// # Errors
/// When the interface or the key is not a name.
pub fn ipv4_conf(interface: &str, key: &str) -> Result<PathBuf> {
    conf("ipv4", interface, key)
}

/// The path of an interface's IPv6 option, such as `forwarding` or `accept_ra`. On a kernel without
/// IPv6 nothing is there: see [`read_if_present`].
///
/// # Errors
/// When the interface or the key is not a name.
pub fn ipv6_conf(interface: &str, key: &str) -> Result<PathBuf> {
    conf("ipv6", interface, key)
}

fn conf(family: &str, interface: &str, key: &str) -> Result<PathBuf> {
    for part in [interface, key] {
        ensure!(
            !matches!(part, "" | "." | "..") && !part.contains(['/', '\0']),
            "{part:?} is not a name under /proc/sys/net/{family}/conf"
        );
    }
    Ok(Path::new("/proc/sys/net")
        .join(family)
        .join("conf")
        .join(interface)
        .join(key))
}

/// The value at `path`, without the white space around it.
///
/// # Errors
/// When there is none (the interface went away, or the kernel lacks it) or it may not be read.
pub fn read(path: &Path) -> Result<String> {
    let value = fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    Ok(value.trim().to_owned())
}

/// The value at `path`, or None if there is no such file.
///
/// # Errors
/// When it is there and may not be read.
pub fn read_if_present(path: &Path) -> Result<Option<String>> {
    match fs::read_to_string(path) {
        Ok(value) => Ok(Some(value.trim().to_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("reading {}", path.display())),
    }
}

/// Sets the value at `path` and returns the one before, with which it can be put back. Nothing is
/// written when it is so already.
///
/// # Errors
/// When there is no such value, the kernel does not take it, or it may not be written.
pub fn set(path: &Path, value: &str) -> Result<String> {
    let previous = read(path)?;
    if previous == value {
        return Ok(previous);
    }
    fs::write(path, value)
        .with_context(|| format!("writing {value:?} to {}", path.display()))
        .map_err(
            |error| {
                match error.downcast_ref::<io::Error>().map(io::Error::kind) {
            Some(io::ErrorKind::PermissionDenied) => error.context("run it with sudo"),
            Some(io::ErrorKind::ReadOnlyFilesystem) => error.context(
                "/proc/sys is read-only, as in an unprivileged container; give it a writable one",
            ),
            _ => error,
        }
            },
        )?;
    Ok(previous)
}

/// The first and the last port that the host takes for outgoing connections.
///
/// # Errors
/// When the range cannot be read.
pub fn local_ports() -> Result<(u16, u16)> {
    let path = Path::new("/proc/sys/net/ipv4/ip_local_port_range");
    let range = read(path)?;
    let mut ports = range.split_whitespace().map(str::parse);
    match (ports.next(), ports.next()) {
        (Some(Ok(first)), Some(Ok(last))) => Ok((first, last)),
        _ => bail!("{} holds no range but {range:?}", path.display()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::link::Links;
    use super::super::netns::with_netns;
    use super::super::testing::{OtherNamespace, create_veth, in_new_netns, move_to_namespace};
    use super::*;

    #[test]
    fn paths() {
        let path = ipv4_conf("eth0.100", "arp_ignore").expect("a dot is part of the name");
        assert_eq!(
            path,
            Path::new("/proc/sys/net/ipv4/conf/eth0.100/arp_ignore")
        );
        for bad in ["", ".", "..", "a/b", "../all"] {
            assert!(ipv6_conf(bad, "forwarding").is_err(), "{bad:?}");
            assert!(ipv6_conf("eth0", bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn set_returns_what_was_before() {
        in_new_netns(|| {
            create_veth("v0.7", "v1")?;
            let path = ipv4_conf("v0.7", "arp_ignore")?;
            let before = read(&path)?;
            assert_eq!(set(&path, "1")?, before);
            assert_eq!(read(&path)?, "1");
            assert_eq!(set(&path, "1")?, "1");
            assert_eq!(set(&path, &before)?, "1");
            let error = format!("{:#}", set(&path, "x").expect_err("not a number"));
            assert!(error.contains("arp_ignore"), "{error}");
            let gone = ipv4_conf("none", "arp_ignore")?;
            assert_eq!(read_if_present(&gone)?, None);
            assert!(read(&gone).is_err());
            Ok(())
        });
    }

    #[test]
    fn local_ports_are_a_range() {
        in_new_netns(|| {
            let range = Path::new("/proc/sys/net/ipv4/ip_local_port_range");
            set(range, "40000\t50001")?;
            assert_eq!(local_ports()?, (40_000, 50_001));
            Ok(())
        });
    }

    #[test]
    fn each_namespace_has_its_own() {
        in_new_netns(|| {
            let links = Links::open()?;
            let other = OtherNamespace::new();
            create_veth("v0", "v1")?;
            move_to_namespace(&links, "v1", other.fd())?;
            assert_eq!(read_if_present(&ipv4_conf("v1", "forwarding")?)?, None);
            let inside = with_netns(other.fd(), || set(&ipv4_conf("v1", "forwarding")?, "1"))?;
            assert!(matches!(inside.as_str(), "0" | "1"));
            Ok(())
        });
    }
}
