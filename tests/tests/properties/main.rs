//! What holds for every configuration, every frame and every order of events, on the pure machine.

mod arbitrary;
mod fdb;
mod pipeline;
