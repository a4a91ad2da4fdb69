//! Makes a machine ready: everything the build, the tests and the lab need that cargo does not
//! bring by itself. Each item looks first and does nothing when its thing is there.

mod apt;
mod bpf_linker;
mod cargo_deb;
pub(crate) mod cpio;
mod debian_root;
mod guest_image;
mod guest_kernel;
mod packages;
mod rust_src;

use anyhow::{Result, bail};

pub use bpf_linker::{BPF_LINKER_VERSION, bpf_linker_path};
pub use cargo_deb::cargo_deb_path;
pub use debian_root::debian_root;
pub use guest_image::GuestImage;
pub use guest_kernel::{GUEST_KERNELS, GuestKernel};
pub use packages::is_root;

/// Which items get a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Report {
    /// All of them.
    Everything,
    /// Those for which something was done.
    Changes,
}

/// What an item came to; the text says which version is there or what was done.
enum Found {
    Before(String),
    Now(String),
}

type Item = (&'static str, fn() -> Result<Found>);

const FOR_BUILD: [Item; 2] = [
    (rust_src::NAME, rust_src::ensure),
    (bpf_linker::NAME, bpf_linker::ensure),
];
const FOR_PACKAGE: [Item; 2] = [
    (packages::FOR_PACKAGE_NAME, packages::ensure_for_package),
    (cargo_deb::NAME, cargo_deb::ensure),
];
const FOR_TESTS: [Item; 4] = [
    (packages::NAME, packages::ensure),
    (guest_image::NAME, guest_image::ensure),
    (guest_kernel::NAME, guest_kernel::ensure_oldest),
    (debian_root::NAME, debian_root::ensure),
];

/// One line of what setup does.
fn say(item: &str, what: &str) {
    println!("setup: {item:<12} {what}");
}

/// Gets what `cargo xtask build` needs: the standard library's sources and bpf-linker.
///
/// # Errors
/// When one of them is missing and cannot be got; the message says what to do.
pub fn for_build(report: Report) -> Result<()> {
    together(&FOR_BUILD, report)
}

/// Gets what `cargo xtask deb` needs besides the build: dpkg-dev and cargo-deb.
///
/// # Errors
/// As [`for_build`].
pub fn for_package(report: Report) -> Result<()> {
    together(&FOR_PACKAGE, report)
}

/// Gets what the build, the package, the tests, the lab and the benchmarks need.
///
/// # Errors
/// When something is missing and cannot be got; the message lists all of it and what to do.
pub fn everything(report: Report) -> Result<()> {
    together(&[&FOR_BUILD[..], &FOR_PACKAGE, &FOR_TESTS].concat(), report)
}

/// Gets a kernel that the datapath is to be tried on, besides what [`everything`] gets.
///
/// # Errors
/// When Debian does not have it (any more), or it cannot be got; the message says what to do.
pub fn guest_kernel(kernel: &GuestKernel, report: Report) -> Result<()> {
    tell(guest_kernel::NAME, guest_kernel::ensure(kernel)?, report);
    Ok(())
}

/// Fails unless we are root, saying how to become it with the same toolchain.
///
/// # Errors
/// When we are not root.
pub fn require_root(doing: &str) -> Result<()> {
    if !is_root() {
        bail!(
            "{doing}: needs root. Run the same command again behind\n  sudo -E env \
             \"PATH=$PATH:/usr/sbin:/sbin\""
        );
    }
    Ok(())
}

/// One item's failure does not keep the others from being got.
fn together(items: &[Item], report: Report) -> Result<()> {
    let mut failures = Vec::new();
    for (name, ensure) in items {
        match ensure() {
            Ok(found) => tell(name, found, report),
            Err(error) => failures.push(format!("- {error:#}")),
        }
    }
    if !failures.is_empty() {
        bail!("making this machine ready:\n{}", failures.join("\n"));
    }
    Ok(())
}

/// The line of one item, if it gets one.
fn tell(item: &str, found: Found, report: Report) {
    match found {
        Found::Before(what) if report == Report::Everything => {
            say(item, &format!("{what} already here"));
        }
        Found::Before(_) => {}
        Found::Now(what) => say(item, &what),
    }
}
