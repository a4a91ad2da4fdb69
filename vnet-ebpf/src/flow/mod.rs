//! Connections: what is known of them, how they live, and what becomes of their packets.

pub mod icmp;
pub mod mss;
pub mod reset;
pub mod state;
pub mod table;
pub mod translate;
