//! The oldest kernel that is supported: `vnet-user` runs inside a guest with Debian's 6.1 kernel,
//! where TC programs are filters of the clsact qdisc, for TCX came with 6.6.

use std::{path::Path, time::Duration};

use serde_json::Value;
use vnet_tests::host::{self, Host};
use xtask::{guest::Guest, paths::find_program};

/// How long booting and each command may take: all of it is emulated, the verifier too.
const LIMIT: Duration = Duration::from_secs(180);

/// busybox prefers its own `ip` and `tc` to whatever is on the PATH.
const PRELUDE: &str = "\
set -e
export PATH=/usr/sbin:/bin
ip() { /usr/sbin/ip \"$@\"; }
tc() { /usr/sbin/tc \"$@\"; }
";

/// The kernel's modules, two VMs and a machine behind the uplink: each has the host's end of its
/// cable, the port, and a namespace `nsN`.
const HOST: &str = "\
for module in bridge veth sch_ingress cls_bpf; do
    modprobe $module
done
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

/// A guest that is a host of a switch.
struct Machine(Guest);

impl Machine {
    /// With the program under test and iproute2, for busybox's `ip` knows neither namespaces nor
    /// veth.
    fn boot(host: &Host) -> Self {
        let mut config = host.guest_config(1);
        config.memory = 512;
        let programs = ["ip", "tc"].map(|name| (name, find_program(name).expect("iproute2")));
        for (name, program) in [("vnet-user", host::binary())].into_iter().chain(programs) {
            let inside = Path::new("/usr/sbin").join(name);
            config.add_program(inside, &program).unwrap();
        }
        let mut guest = host.boot(config);
        guest.wait_ready(LIMIT).unwrap();
        Self(guest)
    }

    /// Runs a shell script, which must succeed, and gives its output.
    #[track_caller]
    fn sh(&mut self, script: &str) -> String {
        let done = self.0.run_within(&format!("{PRELUDE}{script}"), LIMIT);
        let done = done.unwrap();
        assert!(done.success(), "`{script}`:\n{}", done.stdout);
        done.stdout
    }

    /// The rows that `vnet-user` prints as JSON.
    #[track_caller]
    fn rows(&mut self, line: &str, key: &str) -> Value {
        let text = self.sh(&format!("vnet-user -j {line}"));
        let json: Value = serde_json::from_str(&text).unwrap();
        json[key].clone()
    }

    /// What is counted of a port.
    #[track_caller]
    fn stats(&mut self, port: &str) -> Value {
        let rows = self.rows("stats", "stats");
        let mut rows = rows.as_array().into_iter().flatten();
        let row = rows.find(|row| row["port"] == port);
        row.cloned().unwrap_or_default()
    }

    /// Whether pings from the namespace `from` are answered.
    fn reaches(&mut self, from: &str, to: &str) -> bool {
        let done = self.0.run(&format!(
            "/usr/sbin/ip netns exec {from} /bin/ping -c 2 -W 2 {to}"
        ));
        done.unwrap().success()
    }

    /// The programs of both hooks of an interface, as `tc` tells.
    fn filters(&mut self, interface: &str) -> usize {
        let text = self.sh(&format!(
            "tc filter show dev {interface} ingress; tc filter show dev {interface} egress"
        ));
        let is_ours = |line: &&str| line.contains("tc_ingress") || line.contains("tc_egress");
        text.lines().filter(is_ours).count()
    }
}

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
vnet-user nat add dnat --proto tcp --listen 192.0.2.1:8080 --to 10.9.0.11:80";

/// Sends the text `said` by TCP from one namespace to a listener in another one; what arrived.
fn says(from: &str, to: &str, address: &str, listen: u16, connect: u16) -> String {
    format!(
        "/usr/sbin/ip netns exec {to} /bin/busybox nc -l -p {listen} > /tmp/heard </dev/null &
sleep 2
echo said | /usr/sbin/ip netns exec {from} /bin/busybox nc -w 10 {address} {connect}
wait
cat /tmp/heard"
    )
}

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

/// The gateway: both directions, TCP and pings, IPv4 and IPv6.
#[track_caller]
fn translates(machine: &mut Machine) {
    let before = machine.stats("up0")["drops"].clone();
    machine.sh(PRIVATE);
    for address in ["10.9.0.1", "192.0.2.9", "2001:db8::9"] {
        assert!(machine.reaches("ns1", address), "ns1 to {address}");
    }
    for address in ["192.0.2.9", "2001:db8::9"] {
        let script = says("ns1", "ns3", address, 9000, 9000);
        assert_eq!(machine.sh(&script), "said\n", "{address}");
    }
    let forwarded = says("ns3", "ns1", "192.0.2.1", 80, 8080);
    assert_eq!(machine.sh(&forwarded), "said\n");
    // Nobody outside knows a way to the private network: what came was translated.
    let flows = machine.rows("flow list", "flows");
    let flows = flows.as_array().map_or(0, Vec::len);
    assert!(flows >= 5, "{flows}");
    assert_eq!(machine.stats("up0")["drops"], before);
}

#[test]
fn the_switch_runs_on_linux_6_1_by_clsact() {
    let host = Host::new();
    let mut machine = Machine::boot(&host);
    let release = machine.sh("uname -r");
    assert!(release.starts_with("6.1."), "{release}");
    machine.sh(HOST);
    machine.sh("vnet-user up --uplink up0");
    machine.sh("vnet-user port add vm1");
    machine.sh("vnet-user port add vm2");

    let status = machine.rows("status", "status")[0].clone();
    let hooks = |name: &str| {
        let mut ports = status["ports"].as_array().into_iter().flatten();
        let port = ports.find(|row| row["name"] == name);
        port.map(|row| row["hooks"].clone())
    };
    for port in ["vm1", "vm2"] {
        assert_eq!(hooks(port), Some(["clsact ingress"].as_slice().into()));
        // One each, however many commands have run since.
        assert_eq!(machine.filters(port), 1);
    }
    assert_eq!(hooks("vsw0"), Some(["clsact egress"].as_slice().into()));
    assert_eq!(machine.filters("vsw0"), 1);
    let both = ["clsact ingress", "clsact egress"];
    assert_eq!(hooks("up0"), Some(both.as_slice().into()));
    assert_eq!(machine.filters("up0"), 2);

    for (from, to) in [("ns1", 2), ("ns2", 1), ("ns1", 3), ("ns3", 2)] {
        for address in [format!("10.1.0.{to}"), format!("fd01::{to}")] {
            assert!(machine.reaches(from, &address), "{from} to {address}");
        }
    }
    let stats = machine.stats("vm1");
    assert!(stats["rx_packets"].as_u64() >= Some(8), "{stats}");
    assert_eq!(stats["drops"], serde_json::json!({}));

    machine.sh(&format!("vnet-user mac deny {ONE}"));
    assert!(!machine.reaches("ns1", "10.1.0.2"));
    let denied = machine.stats("vm1")["drops"]["mac_denied"].clone();
    assert!(denied.as_u64() >= Some(2), "{denied}");
    machine.sh(&format!("vnet-user mac allow {ONE}"));
    assert!(machine.reaches("ns1", "10.1.0.2"));

    translates(&mut machine);
    newcomers_pass_nothing(&mut machine);

    machine.sh("vnet-user down");
    for interface in ["vm1", "vm2", "up0"] {
        assert_eq!(machine.filters(interface), 0, "{interface}");
    }
    let left = "ls -d /sys/fs/bpf/vnet/vsw0 /sys/class/net/vsw0 2>/dev/null || true";
    assert_eq!(machine.sh(left), "");
}
