//! What a guest tells of the eBPF programs in its kernel, a line each: the name, and how many
//! instructions the verifier looked at (0 where the kernel does not say). Tests take it into guests,
//! whose bpftool may be too old to tell.

use anyhow::{Context as _, Result};

fn main() -> Result<()> {
    for program in aya::programs::loaded_programs() {
        let program = program.context("listing the programs in the kernel")?;
        let name = program.name_as_str().unwrap_or("?");
        println!(
            "{name} {}",
            program.verified_instruction_count().unwrap_or(0)
        );
    }
    Ok(())
}
