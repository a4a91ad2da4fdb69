//! A kernel of Debian's, whatever the machine itself runs: `vnet-user` in a guest that boots it. Every
//! program loads and asks no more of the verifier than is on record, and the switch does what it is
//! for. Below 6.6, TC programs are filters of the clsact qdisc, above they are TCX links.
//!
//! The kernel is the oldest that is supported, or that which `cargo xtask test --kernel` names.

mod baseline;
mod machine;

use vnet_user::datapath::object::PROGRAMS;
use xtask::setup::GuestKernel;

use self::{
    baseline::Baseline,
    machine::{Machine, kernel},
};

/// Two VMs and a machine behind the uplink: each has the host's end of its cable, the port, and a
/// namespace `nsN`.
const HOST: &str = "\
for n in 1 2 3; do
    port=vm$n
    [ $n = 3 ] && port=up0
    ip netns add ns$n
    ip link add $port type veth peer name eth0 netns ns$n
    ip link set $port up
    ip -n ns$n link set eth0 address 52:54:00:00:01:0$n up
    ip -n ns$n addr add 10.1.0.$n/24 dev eth0
    ip -n ns$n addr add fd01::$n/64 dev eth0 nodad
done";

/// Inside: the first VM's address.
const ONE: &str = "52:54:00:00:01:01";

/// A private network for the first VM, and the addresses that it is seen by.
const PRIVATE: &str = "\
ip addr add 192.0.2.1/24 dev up0
ip addr add 2001:db8::1/64 dev up0 nodad
ip -n ns3 addr add 192.0.2.9/24 dev eth0
ip -n ns3 addr add 2001:db8::9/64 dev eth0 nodad
ip -n ns1 addr flush dev eth0
ip -n ns1 addr add 10.9.0.11/24 dev eth0
ip -n ns1 addr add fd09::11/64 dev eth0 nodad
ip -n ns1 route add default via 10.9.0.1
ip -n ns1 -6 route add default via fd09::1
vnet-user network add lan --gateway 10.9.0.1/24 --gateway fd09::1/64
vnet-user port set vm1 --network lan
vnet-user nat add masquerade --network lan --uplink up0
vnet-user nat add dnat --proto tcp --listen 192.0.2.1:8080 --to 10.9.0.11:80
vnet-user nat add dnat --proto tcp --listen [2001:db8::1]:8080 --to [fd09::11]:80";

/// A network of the first VM's own, tagged on the uplink, behind which a machine has the tag too;
/// all three have addresses of one prefix.
const TAGGED: &str = "\
vnet-user network add blue --vlan 10
vnet-user port set vm1 --network blue
ip -n ns3 link add link eth0 name eth0.10 type vlan id 10
ip -n ns3 link set eth0.10 up
ip -n ns3 addr add 10.10.0.3/24 dev eth0.10
ip -n ns3 addr add fd10::3/64 dev eth0.10 nodad
for n in 1 2; do
    ip -n ns$n addr add 10.10.0.$n/24 dev eth0
    ip -n ns$n addr add fd10::$n/64 dev eth0 nodad
done";

/// The VMs are on one network again.
const UNTAGGED: &str = "\
ip -n ns3 link del eth0.10
vnet-user port set vm1 --network default
vnet-user port set vm2 --network default
vnet-user network del blue";

/// Two machines behind members of the bridge that nobody has listed.
const STRANGERS: &str = "\
for n in 8 9; do
    ip netns add ns$n
    ip link add vm$n type veth peer name eth0 netns ns$n
    ip link set vm$n up
    ip link set vm$n master vsw0
    ip -n ns$n link set eth0 up
    ip -n ns$n addr add 10.8.0.$n/24 dev eth0
done";

/// What the plain bridge does with members that are no ports: as long as the switch promises
/// anything it passes nothing of theirs, and serves them otherwise.
#[track_caller]
fn newcomers_pass_nothing(machine: &mut Machine) {
    machine.sh(STRANGERS);
    assert!(!machine.reaches("ns8", "10.8.0.9"));
    machine.sh("vnet-user up --fail open");
    assert!(machine.reaches("ns8", "10.8.0.9"));
    machine.sh("vnet-user up --fail auto");
    assert!(!machine.reaches("ns8", "10.8.0.9"));
    // Those that are ports do not notice.
    assert!(machine.reaches("ns1", "10.9.0.1"));
    machine.sh("ip link del vm8; ip link del vm9");
}

/// Where the programs are, by the switch's own account; `tc` shows those that are filters.
#[track_caller]
fn attached(machine: &mut Machine, by: &str) {
    let status = machine.rows("status", "status")[0].clone();
    let rows = status["ports"].as_array().cloned().unwrap_or_default();
    for (interface, halves) in [
        ("vm1", ["ingress"].as_slice()),
        ("vm2", &["ingress"]),
        ("vsw0", &["egress"]),
        ("up0", &["ingress", "egress"]),
    ] {
        let row = rows.iter().find(|row| row["name"] == interface);
        let hooks: Vec<_> = halves.iter().map(|half| format!("{by} {half}")).collect();
        assert_eq!(
            row.map(|row| &row["hooks"]),
            Some(&hooks.into()),
            "{interface}"
        );
        // One each, however many commands have run since.
        let filters = if by == "clsact" { halves.len() } else { 0 };
        assert_eq!(machine.filters(interface), filters, "{interface}");
    }
}

/// VM to VM, and to and from the physical network: pings and TCP, IPv4 and IPv6.
#[track_caller]
fn switches(machine: &mut Machine) {
    for (from, to) in [("ns1", 2), ("ns2", 1), ("ns1", 3), ("ns3", 2)] {
        for address in [format!("10.1.0.{to}"), format!("fd01::{to}")] {
            assert!(machine.reaches(from, &address), "{from} to {address}");
        }
    }
    for (to, address) in [("ns2", "10.1.0.2"), ("ns2", "fd01::2"), ("ns3", "10.1.0.3")] {
        assert!(
            machine.says("ns1", to, address, (9000, 9000)),
            "ns1 to {address}"
        );
    }
    let stats = machine.stats("vm1");
    assert!(stats["rx_packets"].as_u64() >= Some(8), "{stats}");
    assert_eq!(stats["drops"], serde_json::json!({}));
}

/// A denied MAC sends nothing, and is counted.
#[track_caller]
fn denies(machine: &mut Machine) {
    machine.sh(&format!("vnet-user mac deny {ONE}"));
    assert!(!machine.reaches("ns1", "10.1.0.2"));
    let denied = machine.stats("vm1")["drops"]["mac_denied"].clone();
    assert!(denied.as_u64() >= Some(2), "{denied}");
    machine.sh(&format!("vnet-user mac allow {ONE}"));
    assert!(machine.reaches("ns1", "10.1.0.2"));
}

/// A VLAN: tagged on the uplink, untagged to the VM, and apart from the other network.
#[track_caller]
fn tags(machine: &mut Machine) {
    machine.sh(TAGGED);
    for address in ["10.10.0.3", "fd10::3"] {
        assert!(machine.reaches("ns1", address), "ns1 to {address}");
        assert!(!machine.reaches("ns2", address), "ns2 to {address}");
        assert!(
            machine.says("ns1", "ns3", address, (9000, 9000)),
            "ns1 to {address}"
        );
    }
    assert!(!machine.reaches("ns2", "10.10.0.1"));
    machine.sh("vnet-user port set vm2 --network blue");
    for address in ["10.10.0.1", "10.10.0.3"] {
        assert!(machine.reaches("ns2", address), "ns2 to {address}");
    }
    machine.sh(UNTAGGED);
    assert!(machine.reaches("ns2", "10.1.0.1"));
}

/// The gateway: both directions, TCP and pings, IPv4 and IPv6.
#[track_caller]
fn translates(machine: &mut Machine) {
    let before = machine.stats("up0")["drops"].clone();
    machine.sh(PRIVATE);
    for address in ["10.9.0.1", "192.0.2.9", "2001:db8::9"] {
        assert!(machine.reaches("ns1", address), "ns1 to {address}");
    }
    for address in ["192.0.2.9", "2001:db8::9"] {
        assert!(
            machine.says("ns1", "ns3", address, (9000, 9000)),
            "masqueraded to {address}"
        );
    }
    for address in ["192.0.2.1", "2001:db8::1"] {
        assert!(
            machine.says("ns3", "ns1", address, (80, 8080)),
            "forwarded from {address}"
        );
    }
    // Nobody outside knows a way to the private network: what came was translated.
    let flows = machine.rows("flow list", "flows");
    let flows = flows.as_array().map_or(0, Vec::len);
    assert!(flows >= 6, "{flows}");
    assert_eq!(machine.stats("up0")["drops"], before);
}

/// Nothing is left: no filter, pin, device or program.
#[track_caller]
fn goes_away(machine: &mut Machine) {
    machine.sh("vnet-user down");
    for interface in ["vm1", "vm2", "up0"] {
        assert_eq!(machine.filters(interface), 0, "{interface}");
    }
    let left = "ls -d /sys/fs/bpf/vnet/vsw0 /sys/class/net/vsw0 2>/dev/null || true";
    assert_eq!(machine.sh(left), "");
    machine.wait_without_programs();
}

#[test]
fn every_program_loads_and_grows_by_a_tenth_at_most() {
    let kernel = kernel();
    let mut machine = Machine::boot(kernel);
    machine.sh("vnet-user up");
    let verified = machine.programs();
    let mut names: Vec<_> = verified.keys().map(String::as_str).collect();
    names.sort_by_key(|name| PROGRAMS.iter().position(|program| program == name));
    assert_eq!(names, PROGRAMS);
    assert!(!verified.values().any(|count| *count == 0), "{verified:?}");
    let release = machine.release();
    baseline::hold(kernel.name, Baseline { release, verified });
}

#[test]
fn the_switch_does_what_it_is_for() {
    let kernel = kernel();
    let mut machine = Machine::boot(kernel);
    machine.sh(HOST);
    machine.sh("vnet-user up --uplink up0");
    machine.sh("vnet-user port add vm1");
    machine.sh("vnet-user port add vm2");
    let is_oldest = kernel == GuestKernel::oldest();
    attached(&mut machine, if is_oldest { "clsact" } else { "tcx" });
    switches(&mut machine);
    denies(&mut machine);
    tags(&mut machine);
    translates(&mut machine);
    newcomers_pass_nothing(&mut machine);
    goes_away(&mut machine);
}
