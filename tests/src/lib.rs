//! Support for the tests of vnet: one list of fixtures, two machines that run them.
//!
//! A *machine* ([`switch::Switch`]) takes a frame at a hook and tells what became of it:
//!
//! - [`machine::Machine`] is the pipeline of `vnet-ebpf` over plain vectors. The test owns its clock.
//! - [`kernel::Kernel`] is the loaded object, run by BPF_PROG_TEST_RUN over maps that vnet's own
//!   publishing code filled, with taps in a network namespace as ports.
//!
//! A [`fixture::Fixture`] is a switch's document, frames, and everything that is to come of them;
//! [`runner`] holds both machines to it. What must hold for every frame whatsoever is in
//! [`invariants`], for property tests and fuzzers.
//!
//! End-to-end tests drive the real command: a [`host::Host`] is a network namespace with a switch,
//! [`wire`] and [`traffic`] are what goes through it. [`nat`] is what tests of address translation
//! have besides: machines outside, eyes on the wire, and the kernel's own NAT to compare with.

pub mod adopted;
pub mod attacks;
pub mod connections;
pub mod fixture;
pub mod fixtures;
pub mod frame;
pub mod fuzz;
pub mod host;
pub mod invariants;
pub mod kernel;
pub mod ledger;
pub mod libvirt;
pub mod machine;
pub mod nat;
pub mod runner;
pub mod setup;
pub mod switch;
pub mod traffic;
pub mod wait;
pub mod wire;
pub mod world;
