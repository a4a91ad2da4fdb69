//! Any bytes as frames, by `vnet_tests::fuzz::pipeline`.
//!
//! With a nightly compiler and cargo-fuzz: `cargo +nightly fuzz run pipeline`. Without them, in this
//! folder, with the same feedback but no sanitizer (`--target` keeps the flags from build scripts):
//!
//! ```sh
//! RUSTFLAGS="-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
//!   -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
//!   -Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares \
//!   --cfg fuzzing -Cdebug-assertions" \
//!   cargo run --release --target x86_64-unknown-linux-gnu -- -max_total_time=600 corpus
//! ```
//!
//! What it finds becomes a fixture, or a test in tests/tests/properties that hands the input to the
//! same function under a name.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| vnet_tests::fuzz::pipeline(data));
