//! Any bytes as frames. `cd tests/fuzz && cargo +nightly fuzz run pipeline`; a crash's input goes to
//! `vnet_tests::fuzz::pipeline` in tests/tests/properties as a test with a name.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| vnet_tests::fuzz::pipeline(data));
