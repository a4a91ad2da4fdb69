//! `cargo xtask test`: every test of the workspace, or those that a guest runs on a kernel of
//! Debian's.

use std::path::Path;

use anyhow::{Context, Result, bail};
use xtask::{
    paths::{cargo, workspace_root},
    process::{run, shown},
    setup::{self, GuestKernel},
};

use crate::build_cmd;

/// Runs the tests whose names contain `filter`, all of them when there is none.
pub(crate) fn test(filter: Option<&str>) -> Result<()> {
    setup::require_root("running the tests, which make network namespaces and load the datapath")?;
    setup::everything(setup::Report::Changes)?;
    let binary = build_cmd::build()?;

    let mut command = cargo();
    command
        .current_dir(workspace_root())
        .args(["test", "--workspace", "--no-fail-fast", "--"])
        .args(filter)
        .env("VNET_USER_BIN", &binary);
    println!(
        "test: VNET_USER_BIN={} {}",
        binary.display(),
        shown(&command)
    );
    run(&mut command).context("running the tests")
}

/// Runs the tests that boot a guest with a kernel of its own, once with each of `kernels`.
pub(crate) fn test_on(kernels: &[&GuestKernel]) -> Result<()> {
    setup::require_root("running the tests, which make network namespaces")?;
    setup::everything(setup::Report::Changes)?;
    for kernel in kernels {
        setup::guest_kernel(kernel, setup::Report::Everything)?;
    }
    let binary = build_cmd::build()?;

    // One kernel's failure does not keep the others from being tried.
    let mut failed = Vec::new();
    for kernel in kernels {
        if let Err(error) = test_on_one(kernel, &binary) {
            eprintln!("test: kernel {}: {error:#}", kernel.name);
            failed.push(kernel.name);
        }
    }
    if !failed.is_empty() {
        bail!("testing on the kernels {}: see above", failed.join(", "));
    }
    Ok(())
}

fn test_on_one(kernel: &GuestKernel, binary: &Path) -> Result<()> {
    let mut command = cargo();
    command
        .current_dir(workspace_root())
        .args(["test", "--package", "vnet-tests"])
        .args(["--test", "guest_kernel", "--", "--nocapture"])
        .env("VNET_TESTS_KERNEL", kernel.name)
        .env("VNET_USER_BIN", binary);
    println!(
        "test: VNET_TESTS_KERNEL={} VNET_USER_BIN={} {}",
        kernel.name,
        binary.display(),
        shown(&command)
    );
    run(&mut command)
}
