//! The kernel, privileges and the BPF file system.

use std::fs;
use std::os::fd::AsFd as _;
use std::path::Path;

use super::{AS_ROOT, Check, Scope};
use crate::host::{bpffs, kernel, netns, privileges, sysctl};

/// Where the kernel shows its types.
const KERNEL_BTF: &str = "/sys/kernel/btf/vmlinux";
/// Of the first network namespace alone (net/core/sysctl_net_core.c).
const JIT: &str = "/proc/sys/net/core/bpf_jit_enable";

/// What is known of the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// The kernel's release, with its major and minor version where it has one.
    pub kernel: (String, Option<(u32, u32)>),
    /// The kernel shows its types.
    pub btf: bool,
    /// Whether programs become machine code, as the sysctl says; `None` where it cannot be read.
    pub jit: Option<String>,
    /// The kernel has taken the switch's programs.
    pub loaded: bool,
    /// Capabilities that are missing.
    pub missing: Vec<&'static str>,
    /// The process is in a user namespace of its own.
    pub user_namespace: bool,
    /// The directory for pins.
    pub bpffs: String,
    /// What is there.
    pub mount: Mount,
    /// The process has mounts of its own.
    pub private_mounts: bool,
}

/// What is at the directory for pins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mount {
    /// A BPF file system.
    Bpf,
    /// A directory with nothing in it, or none at all: `up` mounts one.
    Free,
    /// Something that a mount would hide.
    Occupied,
    /// It may not be looked at.
    Unknown,
}

impl Facts {
    /// Whether the process may look at programs and packet filters.
    #[must_use]
    pub fn is_privileged(&self) -> bool {
        self.missing.is_empty()
    }

    /// Looks at the host, whose pins are in `dir`. What cannot be found out is a fact too.
    #[must_use]
    pub fn gather(dir: &Path, loaded: bool) -> Self {
        let version = kernel::version().ok();
        let release = kernel::release().unwrap_or_default();
        Self {
            kernel: (release, version),
            btf: Path::new(KERNEL_BTF).exists(),
            jit: jit(),
            loaded,
            missing: privileges::missing_here().unwrap_or_default(),
            user_namespace: privileges::in_user_namespace(),
            bpffs: dir.display().to_string(),
            mount: mount(dir),
            private_mounts: bpffs::mount_namespace_is_private() == Some(true),
        }
    }
}

/// The sysctl, from the first network namespace where this one does not have it.
fn jit() -> Option<String> {
    let here = || sysctl::read_if_present(Path::new(JIT));
    if let Ok(Some(value)) = here() {
        return Some(value);
    }
    let first = fs::File::open("/proc/1/ns/net").ok()?;
    netns::with_netns(first.as_fd(), here).ok()?
}

fn mount(dir: &Path) -> Mount {
    if !dir.try_exists().unwrap_or(true) {
        return Mount::Free;
    }
    match bpffs::is_bpffs(dir) {
        Ok(true) => Mount::Bpf,
        Ok(false) => match fs::read_dir(dir).map(|mut entries| entries.next().is_none()) {
            Ok(true) => Mount::Free,
            Ok(false) => Mount::Occupied,
            Err(_) => Mount::Unknown,
        },
        Err(_) => Mount::Unknown,
    }
}

/// What the facts mean.
#[must_use]
pub fn judge(facts: &Facts) -> Vec<Check> {
    let scope = Scope::new("host");
    let mut checks = kernel_checks(&scope, facts);
    checks.push(if facts.btf {
        scope.pass("BTF")
    } else {
        scope
            .warn(
                "BTF",
                "a kernel with CONFIG_DEBUG_INFO_BTF=y, as distributions have",
            )
            .detail(format_args!("{KERNEL_BTF} is not there"))
    });
    checks.push(judge_jit(&scope, facts));
    checks.push(capabilities(&scope, facts));
    checks.push(file_system(&scope, facts));
    checks
}

fn kernel_checks(scope: &Scope, facts: &Facts) -> Vec<Check> {
    let (release, version) = &facts.kernel;
    let Some(version) = *version else {
        return vec![
            scope
                .warn("kernel version", "vnet needs Linux 6.1 or later")
                .detail(format_args!("{release:?} tells none")),
        ];
    };
    let minimum = kernel::MINIMUM;
    if version < minimum {
        return vec![
            scope
                .fail("kernel version", "use Linux 6.1 or later")
                .detail(release),
        ];
    }
    let mut checks = vec![scope.pass("kernel version").detail(release)];
    checks.push(if version >= kernel::TCX {
        scope.pass("TCX")
    } else {
        scope
            .warn("TCX", "Linux 6.6 or later has it")
            .detail("programs are clsact filters, which anybody's tc may take away")
    });
    checks.push(if version >= kernel::FIB_SRC {
        scope.pass("source address of routes")
    } else {
        scope
            .warn("source address of routes", "Linux 6.7 or later tells it")
            .detail("masquerade does not know which of an uplink's addresses a route prefers")
    });
    checks
}

/// Without machine code the verifier refuses callbacks, which timers and loops are
/// (kernel/bpf/verifier.c, fixup_call_args).
fn judge_jit(scope: &Scope, facts: &Facts) -> Check {
    let mend = "sysctl net.core.bpf_jit_enable=1";
    match facts.jit.as_deref() {
        Some("1") => scope.pass("JIT"),
        Some("0") => scope
            .fail("JIT", mend)
            .detail("it is off: the kernel refuses the programs"),
        Some(other) => scope
            .warn("JIT", mend)
            .detail(format_args!("{other}: the kernel logs every program")),
        None if facts.loaded => scope
            .pass("JIT")
            .detail("the kernel has taken the programs"),
        None => scope
            .warn(
                "JIT",
                "in the first network namespace: sysctl net.core.bpf_jit_enable",
            )
            .detail("not looked at: this network namespace does not show it"),
    }
}

fn capabilities(scope: &Scope, facts: &Facts) -> Check {
    if !facts.missing.is_empty() {
        return scope
            .warn("capabilities", AS_ROOT)
            .detail(format_args!("without {}", facts.missing.join(", ")));
    }
    if facts.user_namespace {
        return scope
            .fail(
                "capabilities",
                "run it outside, or in a container without user namespace",
            )
            .detail("root of a user namespace may not load BPF programs");
    }
    scope.pass("capabilities")
}

fn file_system(scope: &Scope, facts: &Facts) -> Check {
    let (what, dir) = ("BPF file system", &facts.bpffs);
    let mount = format!("mount -t bpf bpf {dir}");
    match facts.mount {
        Mount::Bpf => scope.pass(what).detail(dir),
        Mount::Free if facts.private_mounts => scope.fail(what, mount).detail(format_args!(
            "none at {dir}, and this process has mounts of its own: what is pinned there would go \
             with it"
        )),
        Mount::Free => scope
            .warn(what, format!("`vnet-user up` mounts it, or: {mount}"))
            .detail(format_args!("none at {dir}")),
        Mount::Occupied => scope
            .fail(what, "choose another directory with --bpffs")
            .detail(format_args!(
                "{dir} is of another file system and not empty: a mount would hide what is in it"
            )),
        Mount::Unknown => scope
            .warn(what, AS_ROOT)
            .detail(format_args!("{dir} may not be looked at")),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Verdict::{self, Fail, Pass, Warn};
    use super::*;

    fn good() -> Facts {
        Facts {
            kernel: ("6.12.1".into(), Some((6, 12))),
            btf: true,
            jit: Some("1".into()),
            loaded: false,
            missing: Vec::new(),
            user_namespace: false,
            bpffs: "/sys/fs/bpf".into(),
            mount: Mount::Bpf,
            private_mounts: false,
        }
    }

    fn verdict(facts: &Facts, what: &str) -> Option<Verdict> {
        let found = judge(facts).into_iter().find(|check| check.what == what);
        found.map(|check| {
            assert_eq!(check.mend.is_none(), check.result == Pass, "{check}");
            check.result
        })
    }

    #[test]
    fn a_good_host_passes() {
        let checks = judge(&good());
        assert!(
            checks.iter().all(|check| check.result == Pass),
            "{checks:?}"
        );
        assert_eq!(checks.len(), 7);
    }

    #[test]
    fn kernels() {
        let of = |version: Option<(u32, u32)>| Facts {
            kernel: ("x".into(), version),
            ..good()
        };
        for (version, kernel, tcx, fib) in [
            (Some((5, 15)), Fail, None, None),
            (Some((6, 1)), Pass, Some(Warn), Some(Warn)),
            (Some((6, 6)), Pass, Some(Pass), Some(Warn)),
            (Some((6, 7)), Pass, Some(Pass), Some(Pass)),
            (None, Warn, None, None),
        ] {
            let facts = of(version);
            assert_eq!(
                verdict(&facts, "kernel version"),
                Some(kernel),
                "{version:?}"
            );
            assert_eq!(verdict(&facts, "TCX"), tcx, "{version:?}");
            assert_eq!(
                verdict(&facts, "source address of routes"),
                fib,
                "{version:?}"
            );
        }
    }

    #[test]
    fn types_and_machine_code() {
        let without = Facts {
            btf: false,
            ..good()
        };
        assert_eq!(verdict(&without, "BTF"), Some(Warn));
        for (value, wanted) in [("1", Pass), ("0", Fail), ("2", Warn)] {
            let facts = Facts {
                jit: Some(value.into()),
                ..good()
            };
            assert_eq!(verdict(&facts, "JIT"), Some(wanted), "{value}");
        }
        let hidden = Facts {
            jit: None,
            ..good()
        };
        assert_eq!(verdict(&hidden, "JIT"), Some(Warn));
        let loaded = Facts {
            loaded: true,
            ..hidden
        };
        assert_eq!(verdict(&loaded, "JIT"), Some(Pass));
    }

    #[test]
    fn who_asks() {
        let user = Facts {
            missing: vec!["CAP_BPF"],
            ..good()
        };
        assert_eq!(verdict(&user, "capabilities"), Some(Warn));
        let container = Facts {
            user_namespace: true,
            ..good()
        };
        assert_eq!(verdict(&container, "capabilities"), Some(Fail));
    }

    #[test]
    fn where_pins_go() {
        for (mount, private_mounts, wanted) in [
            (Mount::Bpf, true, Pass),
            (Mount::Free, false, Warn),
            (Mount::Free, true, Fail),
            (Mount::Occupied, false, Fail),
            (Mount::Unknown, false, Warn),
        ] {
            let facts = Facts {
                mount,
                private_mounts,
                ..good()
            };
            assert_eq!(
                verdict(&facts, "BPF file system"),
                Some(wanted),
                "{mount:?}"
            );
        }
    }

    #[test]
    fn the_running_host_is_looked_at() {
        let facts = Facts::gather(Path::new("/no/such/directory"), false);
        assert_eq!(facts.mount, Mount::Free);
        assert_eq!(
            Facts::gather(Path::new("/proc"), false).mount,
            Mount::Occupied
        );
        assert!(facts.kernel.1.is_some());
    }
}
