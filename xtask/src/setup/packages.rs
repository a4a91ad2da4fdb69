//! The programs that packing, the tests, the lab and the benchmarks call: Debian's packages, installed
//! only when missing.

use anyhow::{Context, Result, bail};

use super::{Found, apt, say};
use crate::paths::find_program;

pub(super) const NAME: &str = "programs";
pub(super) const FOR_PACKAGE_NAME: &str = "packing";

type Needed = [(&'static str, &'static str)];

/// What cargo-deb calls: it asks dpkg-dev which libraries a program needs.
const NEEDED_FOR_PACKAGE: &Needed = &[("binutils", "strip"), ("dpkg-dev", "dpkg-shlibdeps")];

/// A package and the program we call from it. A program that is there counts, wherever it is from.
const NEEDED: &Needed = &[
    ("bpftool", "bpftool"),
    ("coturn", "turnserver"),
    ("curl", "curl"),
    ("dnsmasq-base", "dnsmasq"),
    ("ethtool", "ethtool"),
    ("iperf3", "iperf3"),
    ("iproute2", "ip"),
    ("isc-dhcp-client", "dhclient"),
    ("iputils-ping", "ping"),
    ("libvirt-clients", "virsh"),
    ("libvirt-daemon", "libvirtd"),
    // Its driver for QEMU, a shared object; this program comes with it.
    ("libvirt-daemon-driver-qemu", "virt-qemu-run"),
    ("lintian", "lintian"),
    ("man-db", "man"),
    ("mmdebstrap", "mmdebstrap"),
    ("nftables", "nft"),
    ("qemu-system-x86", "qemu-system-x86_64"),
    ("strace", "strace"),
    ("stun-client", "stun"),
    ("systemd", "systemd-analyze"),
    ("tcpdump", "tcpdump"),
];

pub(super) fn ensure() -> Result<Found> {
    ensure_all(NAME, NEEDED)
}

pub(super) fn ensure_for_package() -> Result<Found> {
    ensure_all(FOR_PACKAGE_NAME, NEEDED_FOR_PACKAGE)
}

fn ensure_all(item: &str, needed: &Needed) -> Result<Found> {
    let absent: Vec<_> = needed
        .iter()
        .filter(|(_, program)| find_program(program).is_none())
        .collect();
    if absent.is_empty() {
        let programs: Vec<_> = needed.iter().map(|(_, program)| *program).collect();
        return Ok(Found::Before(programs.join(", ")));
    }
    let programs: Vec<_> = absent.iter().map(|(_, program)| *program).collect();
    let packages: Vec<_> = absent.iter().map(|(package, _)| *package).collect();
    let Ok(apt) = apt::Apt::machine() else {
        bail!(
            "looking for the programs that packing, tests and the lab call: missing {}. This is not a \
             Debian-like system: install them with its own package manager",
            programs.join(", ")
        );
    };
    let by_hand = format!(
        "apt-get update && sudo apt-get install -y --no-install-recommends {}",
        packages.join(" ")
    );
    if !is_root() {
        bail!(
            "installing {}: only root may. Run\n  sudo {by_hand}\nand start this again",
            packages.join(", ")
        );
    }
    say(item, &format!("installing {}", packages.join(", ")));
    // Old or absent lists show as packages that are unknown or gone from the mirror.
    if apt.install(&packages).is_err() {
        say(item, "fetching apt's package lists first");
        apt.update()
            .and_then(|()| apt.install(&packages))
            .with_context(|| format!("installing packages. By hand: sudo {by_hand}"))?;
    }
    Ok(Found::Now(format!("{} installed", packages.join(", "))))
}

/// Whether we run as root.
pub fn is_root() -> bool {
    // SAFETY: the call has no arguments and cannot fail.
    unsafe { libc::geteuid() == 0 }
}
