//! The datapath in the kernel: loading and pinning it, filling its tables, attaching it.

pub mod bans;
mod batch;
pub mod control;
pub mod counters;
pub mod fdb;
pub mod flows;
pub mod forgotten;
pub mod learned;
pub mod mapped;
pub mod maps;
pub mod object;
pub mod pins;
pub mod policy;
pub mod publish;
mod storms;
mod tables;
