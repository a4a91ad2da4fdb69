//! The glue: everything here is eBPF only, and the only place with helpers and raw packet access.

pub mod ageing;
pub mod answer;
pub mod atomic;
pub mod control;
pub mod flow;
pub mod gateway;
pub mod guard;
pub mod host;
pub mod icmp;
#[cfg(feature = "log")]
pub mod log;
pub mod mappings;
pub mod maps;
pub mod policy;
pub mod reset;
pub mod sources;
pub mod steps;
pub mod tables;
pub mod tc;
#[cfg(feature = "testing")]
pub mod testing;
pub mod xdp;
