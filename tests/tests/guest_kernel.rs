//! The oldest kernel that is supported: `vnet-user` runs inside a guest with Debian's 6.1 kernel,
//! where TC programs are attached to the clsact qdisc, for TCX came with 6.6.

use std::{path::Path, time::Duration};

use vnet_tests::host::{self, Host};
use xtask::{guest::Guest, paths::find_program};

/// Kernel modules that this host kernel has as modules: bridge, cables, and the clsact qdisc.
const MODULES: &str = "bridge veth sch_ingress cls_bpf";

/// busybox prefers its own `ip` and `tc` to whatever is on the PATH.
const PRELUDE: &str = "\
set -e
export PATH=/usr/sbin:/bin
ip() { /usr/sbin/ip \"$@\"; }
tc() { /usr/sbin/tc \"$@\"; }";

/// Two VMs on cables, as on any host; each has the host's end `vmN` and its own namespace `nsN`.
const CABLES: &str = "\
for n in 1 2; do
    ip netns add ns$n
    ip link add vm$n type veth peer name eth0 netns ns$n
    ip link set vm$n up
    ip -n ns$n link set eth0 address 52:54:00:00:01:0$n up
    ip -n ns$n addr add 10.1.0.$n/24 dev eth0
    ip -n ns$n addr add fd01::$n/64 dev eth0 nodad
done";

/// A guest that has what a host of a switch needs.
fn boot(host: &Host) -> Guest {
    let mut config = host.guest_config(1);
    config.memory = 512;
    config
        .add_program("/usr/sbin/vnet-user", &host::binary())
        .unwrap();
    for name in ["ip", "tc"] {
        let program = find_program(name).expect("iproute2 is there");
        let inside = Path::new("/usr/sbin").join(name);
        config.add_program(inside, &program).unwrap();
    }
    let mut guest = host.boot(config);
    guest.wait_ready(Duration::from_secs(120)).unwrap();
    guest
}

/// Runs a script in the guest, with iproute2 before busybox's `ip`; it must succeed.
#[track_caller]
fn check(guest: &mut Guest, script: &str) -> String {
    guest.check(&format!("{PRELUDE}\n{script}")).unwrap()
}

#[test]
fn the_switch_works_on_linux_6_1_by_clsact() {
    let host = Host::new();
    let mut guest = boot(&host);
    let guest = &mut guest;
    for module in MODULES.split(' ') {
        check(guest, &format!("modprobe {module}"));
    }
    check(guest, CABLES);
    let r = guest.run("export PATH=/usr/sbin:/bin; ip() { /usr/sbin/ip \"$@\"; };tc() { /usr/sbin/tc \"$@\"; }; uname -r; time vnet-user up 2>&1 | tail -20; vnet-user status; vnet-user port add vm1; vnet-user port add vm2; ip netns exec ns1 ping -c 2 10.1.0.2; tc filter show dev vm1 ingress; vnet-user -j stats; vnet-user status; vnet-user -j status; vnet-user events; dmesg | tail -5");
    eprintln!("{}", r.unwrap().stdout);
}
