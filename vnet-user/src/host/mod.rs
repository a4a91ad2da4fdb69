//! The host as vnet sees it: interfaces, namespaces, offloads, sysctls, mounts and the kernel
//! itself. Everything vnet asks of or changes on the machine, except BPF objects, is here.
//!
//! One job a file:
//!
//! | module | job | kernel interface |
//! |---|---|---|
//! | [`link`] | list and change interfaces, bridges and bridge ports | rtnetlink |
//! | [`address`] | list, give and take IP addresses | rtnetlink |
//! | [`listeners`] | which addresses and ports the host listens on | procfs |
//! | [`monitor`] | hear of changes | rtnetlink |
//! | [`netns`] | enter a network namespace, look into another one | setns, rtnetlink |
//! | [`ethtool`] | drivers, offloads, queues | SIOCETHTOOL |
//! | [`veth_peer`] | what the far end of a veth means for the datapath | the three above |
//! | [`filters`] | list the TC filters of an interface | rtnetlink |
//! | [`netdev`] | what XDP a driver has | generic netlink |
//! | [`sysctl`] | read and set `/proc/sys` values | procfs |
//! | [`bpffs`] | the file system that holds pins | statfs, mount |
//! | [`grace`] | shorter waits while many programs are attached | sysfs |
//! | [`signals`] | finish what was begun | pthread_sigmask |
//! | [`privileges`] | may this process do its work? | `/proc/thread-self/status` |
//! | [`kernel`] | version, clock, RCU grace period | uname, clock_gettime, membarrier |
//!
//! Every function blocks, acts in the network namespace of the calling thread, and may be called
//! from any thread, inside an async runtime too: no runtime is started here. Device facts are read
//! by netlink and ioctl, never from `/sys/class/net`, which keeps showing the namespace in which
//! sysfs was mounted.
//!
//! Errors say what was being done, why it failed and, where there is one, the mend.

pub mod address;
pub mod bpffs;
pub mod ethtool;
pub mod filters;
pub mod grace;
pub mod kernel;
pub mod link;
pub mod listeners;
pub mod lock;
pub mod monitor;
pub mod netdev;
pub mod netns;
pub mod privileges;
pub mod signals;
pub mod sysctl;
pub mod veth_peer;

mod netlink;
#[cfg(test)]
mod testing;

pub use address::Address;
pub use filters::Filter;
pub use link::{BridgePortFlags, Link, LinkKind, Links};
pub use netns::NetnsId;
pub use veth_peer::{Peer, PeerFacts, Peers};
