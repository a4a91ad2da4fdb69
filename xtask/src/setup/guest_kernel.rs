//! The kernels that the datapath is tried on, whatever the machine itself runs: Debian's, by name.

use anyhow::{Context, Result, bail};

use super::{Found, GuestImage};

pub(super) const NAME: &str = "guest kernel";

/// The metapackage that stands for a suite's kernel.
pub(super) const PACKAGE: &str = "linux-image-cloud-amd64";

/// Every kernel that there is a name for, the oldest first.
pub const GUEST_KERNELS: [GuestKernel; 3] = [
    GuestKernel {
        name: "6.1",
        suite: "bookworm",
        release: "6.1.",
    },
    GuestKernel {
        name: "6.12",
        suite: "bookworm-backports",
        release: "6.12.",
    },
    // Whatever Debian's newest backports have.
    GuestKernel {
        name: "newest",
        suite: "trixie-backports",
        release: "",
    },
];

/// A kernel of Debian's that guests can boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GuestKernel {
    /// What `cargo xtask test --kernel` calls it.
    pub name: &'static str,
    /// The suite whose [`PACKAGE`] it is.
    pub(super) suite: &'static str,
    /// What its release begins with, as `uname -r` shows it; empty when any will do.
    release: &'static str,
}

impl GuestKernel {
    /// The oldest one, which is the oldest that vnet supports.
    #[must_use]
    pub const fn oldest() -> &'static Self {
        &GUEST_KERNELS[0]
    }

    /// The kernel called `name`.
    ///
    /// # Errors
    /// When there is none.
    pub fn named(name: &str) -> Result<&'static Self> {
        let found = GUEST_KERNELS.iter().find(|kernel| kernel.name == name);
        found.with_context(|| {
            let names = GUEST_KERNELS.map(|kernel| kernel.name).join(", ");
            format!("looking for the kernel {name:?}: there are only {names}")
        })
    }

    /// Whether a kernel of this release is this one for certain.
    pub(super) fn is_surely(&self, release: &str) -> bool {
        !self.release.is_empty() && release.starts_with(self.release)
    }

    /// Checks that what its suite has is this kernel.
    pub(super) fn check(&self, image: GuestImage) -> Result<GuestImage> {
        if !image.version.starts_with(self.release) {
            bail!(
                "the package {PACKAGE} of {} is Linux {}, not {}; which suite has which kernel is in \
                 xtask/src/setup/guest_kernel.rs",
                self.suite,
                image.version,
                self.name
            );
        }
        Ok(image)
    }
}

/// Makes the image with this kernel unless it is there.
pub(super) fn ensure(kernel: &GuestKernel) -> Result<Found> {
    let what = |image: GuestImage| format!("{}: Linux {}", kernel.name, image.version);
    if let Ok(image) = GuestImage::with(kernel) {
        return Ok(Found::Before(what(image)));
    }
    let made = GuestImage::make_with(kernel).with_context(|| {
        format!(
            "getting the kernel {}, the package {PACKAGE} of Debian's suite {}",
            kernel.name, kernel.suite
        )
    })?;
    Ok(Found::Now(format!("{} made", what(made))))
}

/// The oldest one: the tests that every run has boot it.
pub(super) fn ensure_oldest() -> Result<Found> {
    ensure(GuestKernel::oldest())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_are_known_by_name_and_by_release() {
        let oldest = GuestKernel::named("6.1").unwrap();
        assert_eq!(oldest, GuestKernel::oldest());
        assert!(oldest.is_surely("6.1.0-56-cloud-amd64"));
        assert!(!oldest.is_surely("6.12.95+deb12-cloud-amd64"));
        // No release makes a kernel the newest one.
        let newest = GuestKernel::named("newest").unwrap();
        assert!(!newest.is_surely("6.12.95+deb12-cloud-amd64"));
        let error = GuestKernel::named("5.10").unwrap_err().to_string();
        assert!(error.contains("6.1, 6.12, newest"), "{error}");
    }
}
