//! What holds for every configuration, every frame and every order of events, on the pure machine.

mod arbitrary;
mod crowd;
mod fdb;
mod gateway;
mod machines;
mod pipeline;
mod policy;

use proptest::test_runner::Config;

/// A property is tried this often, or as often as PROPTEST_CASES says. What fails is printed, as
/// small as it could be made: it belongs into a fixture, not into a file of seeds.
fn cases(count: u32) -> Config {
    let asked = std::env::var("PROPTEST_CASES").ok();
    Config {
        failure_persistence: None,
        cases: asked.and_then(|cases| cases.parse().ok()).unwrap_or(count),
        ..Config::default()
    }
}
