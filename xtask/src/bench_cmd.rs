//! `cargo xtask bench`: measures vnet against the kernel's own ways and against the least that a
//! switch has to do. What is measured and how is in tests/benches/vnet.

use anyhow::{Context, Result};
use xtask::{
    paths::{cargo, workspace_root},
    process::run,
    setup,
};

use crate::build_cmd;

/// Runs the benchmarks with `arguments`: a suite and its options.
pub(crate) fn bench(arguments: &[String]) -> Result<()> {
    setup::require_root("running the benchmarks, which make network namespaces")?;
    setup::everything(setup::Report::Changes)?;
    let binary = build_cmd::given_or_built()?;
    run(cargo()
        .current_dir(workspace_root())
        .args(["bench", "--quiet", "--package", "vnet-tests"])
        .args(["--bench", "vnet", "--"])
        .args(arguments)
        .env("VNET_USER_BIN", &binary))
    .context("running the benchmarks")
}
