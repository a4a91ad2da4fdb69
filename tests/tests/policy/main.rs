//! Security groups end to end, by the commands that a user types: who gets through, who is told that he
//! does not, and what changes of rules do to connections that there are. VMs, host and physical network
//! are network namespaces behind veth pairs with every offload on.

mod attempt;
mod changes;
mod differential;
mod floods;
mod listings;
mod log;
mod quota;
mod reject;
mod routed;
mod server;
mod steady;

use std::{
    net::{IpAddr, SocketAddr},
    sync::atomic::{AtomicBool, Ordering},
};

use vnet_tests::host::Host;

/// Several MiB: enough for segmentation offload to grow to its full 64 kB.
const BULK: u64 = 6 << 20;

/// An address with a port.
const fn at(address: IpAddr, port: u16) -> SocketAddr {
    SocketAddr::new(address, port)
}

/// Runs `vnet-user policy` with the words of each of `lines`, which must succeed.
#[track_caller]
fn policy(host: &Host, lines: &[&str]) {
    for line in lines {
        host.vnet(&format!("policy {line}"));
    }
}

/// Adds a rule; its id.
#[track_caller]
fn rule(host: &Host, line: &str) -> u64 {
    let ran = host.vnet(&format!("policy rule add {line}"));
    match ran.stdout.trim().parse() {
        Ok(id) => id,
        Err(error) => panic!("`{}` printed {:?}: {error}", ran.typed, ran.stdout),
    }
}

/// Says that it is over, however the scope is left.
struct Done<'a>(&'a AtomicBool);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
