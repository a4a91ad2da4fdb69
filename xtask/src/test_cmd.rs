//! `cargo xtask test`: every test of the workspace.

use anyhow::{Context, Result};
use xtask::{
    paths::{cargo, workspace_root},
    process::{run, shown},
    setup,
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
