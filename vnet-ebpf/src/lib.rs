//! vnet's packet pipeline: pure logic that runs in the kernel and in host tests alike.
//!
//! A frame is seen through a [`window::Window`] and described by a [`meta::Meta`]; everything that
//! is known about ports, networks and addresses comes from [`tables::Tables`]. [`decide::decide`]
//! turns them into a [`decide::Plan`] and changes nothing. [`settle::settle`] books the plan
//! (counters, learning, limits), and [`forward::forward`] edits and sends the frame through a
//! [`forward::Packet`].
//!
//! No function here panics on any input, and none keeps a reference into the packet.
#![cfg_attr(not(test), no_std)]

pub mod answer;
pub mod bytes;
pub mod decide;
pub mod fdb;
pub mod flow;
pub mod forward;
pub mod frame;
pub mod gateway;
pub mod gso;
pub mod guard;
pub mod ip;
pub mod limit;
pub mod meta;
pub mod nat;
pub mod policy;
pub mod rate;
pub mod route;
pub mod settle;
pub mod tables;
pub mod testing;
pub mod traffic;
pub mod window;
