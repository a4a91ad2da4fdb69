//! DHCP, router advertisements and DNS for networks behind a gateway: real clients in VMs, a real
//! guest, and a dnsmasq that lives as long as its network does.

use std::{
    collections::BTreeMap,
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket},
    sync::Arc,
    time::Duration,
};

use serde_json::Value;
use vnet_tests::{
    host::{Host, Station},
    traffic::reaches,
    wait,
};
use xtask::netns::{self, Netns};

/// What dhclient calls: it does what it is told and writes it down.
const SCRIPT: &str = r#"#!/bin/sh
set -e
case $reason in
PREINIT|PREINIT6) ip link set "$interface" up ;;
BOUND|RENEW|REBIND|REBOOT)
    ip addr replace "$new_ip_address/$new_subnet_mask" dev "$interface"
    ip route replace default via "$new_routers"
    [ -z "$new_interface_mtu" ] || ip link set "$interface" mtu "$new_interface_mtu" ;;
BOUND6|RENEW6|REBIND6) ip addr replace "$new_ip6_address/128" dev "$interface" ;;
RELEASE|EXPIRE|STOP) ip addr del "$old_ip_address/$old_subnet_mask" dev "$interface" ;;
esac
env | grep ^new_ >"$VNET_TEST_LEASE" || true
"#;

/// A VM that asks for its addresses.
struct Client {
    station: Arc<Station>,
    dir: tempfile::TempDir,
}

/// What a lease said, by dhclient's names (dhclient-script(8)).
struct Leased(BTreeMap<String, String>);

impl Leased {
    #[track_caller]
    fn get(&self, name: &str) -> &str {
        let value = self.0.get(name);
        value.unwrap_or_else(|| panic!("no {name} in {:?}", self.0))
    }

    #[track_caller]
    fn address(&self) -> IpAddr {
        let key = if self.0.contains_key("ip6_address") {
            "ip6_address"
        } else {
            "ip_address"
        };
        self.get(key).parse().unwrap()
    }
}

impl Client {
    /// Asks with one family's client, until it is answered or gives up.
    fn ask(&self, family: &str, more: &str) -> Option<Leased> {
        let script = self.dir.path().join("script");
        let answer = self.dir.path().join("answer");
        fs::write(&script, SCRIPT).unwrap();
        let _ = fs::remove_file(&answer);
        let path = |name: &str| self.dir.path().join(format!("{name}{family}"));
        let configuration = path("conf");
        let name = self.station.port();
        fs::write(
            &configuration,
            format!(
                "send host-name \"{name}\";\nalso request interface-mtu;\ntimeout 20;\nretry 1;\n"
            ),
        )
        .unwrap();
        let asked = self.station.netns().sh(&format!(
            "chmod +x {script}; VNET_TEST_LEASE={answer} dhclient {family} -1 -sf {script} -cf {} \
             -lf {} -pf {} -e VNET_TEST_LEASE={answer} {more} eth0",
            configuration.display(),
            path("leases").display(),
            path("pid").display(),
            script = script.display(),
            answer = answer.display(),
        ));
        asked.ok()?;
        if more.is_empty() {
            self.end(family);
        }
        let text = fs::read_to_string(answer).unwrap_or_default();
        let pairs = text
            .lines()
            .filter_map(|line| line.strip_prefix("new_")?.split_once('='));
        Some(Leased(
            pairs
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .collect(),
        ))
    }

    /// A lease of IPv4.
    ///
    /// # Panics
    /// When there is none for it.
    #[track_caller]
    fn lease(&self) -> Leased {
        let leased = self.ask("-4", "");
        leased.unwrap_or_else(|| panic!("{} is leased nothing", self.station.port()))
    }

    fn netns(&self) -> &Netns {
        self.station.netns()
    }

    /// Ends the client, which would stay to renew what it was leased.
    fn end(&self, family: &str) {
        let path = self.dir.path().join(format!("pid{family}"));
        let pid = wait::value("the client says who it is", || {
            fs::read_to_string(&path).ok()?.trim().parse().ok()
        });
        // SAFETY: no memory is involved; it is the client that this test began.
        unsafe { libc::kill(pid, libc::SIGKILL) };
        // The next one would take it for its own.
        let _ = fs::remove_file(path);
    }
}

/// A VM without addresses, on a network.
fn client(host: &Host, number: u8, network: &str) -> Client {
    let station = host.bare_station(&format!("vm{number}"), number);
    station.sh("echo 0 >/proc/sys/net/ipv6/conf/eth0/accept_dad");
    host.vnet(&format!("port add {} --network {network}", station.port()));
    Client {
        station,
        dir: tempfile::tempdir().unwrap(),
    }
}

/// Addresses of both families on the network `lan`.
fn lan(host: &Host) {
    host.vnet(
        "network add lan --gateway 10.0.0.1/24 --gateway fd00::1/64 --mtu 1400 \
         --dhcp 10.0.0.100-10.0.0.199 --dhcp fd00::1000-fd00::1fff",
    );
}

const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);

/// What `doctor` says of a network's server.
fn server(host: &Host, network: &str) -> Option<Value> {
    let report = host.try_vnet("-j doctor").json();
    let mut checks = report["checks"].as_array().unwrap().iter();
    let what = format!("the network {network}");
    let check = checks.find(|check| check["scope"] == "dhcp" && check["what"] == what.as_str());
    check.cloned()
}

/// The process that serves a network.
fn process(host: &Host, network: &str) -> Option<u32> {
    let check = server(host, network).filter(|check| check["result"] == "pass")?;
    let detail = check["detail"].as_str()?.to_owned();
    let (_, rest) = detail.split_once("process ")?;
    rest.split(',').next()?.parse().ok()
}

#[track_caller]
fn wait_served(host: &Host, network: &str) -> u32 {
    wait::value(&format!("{network} is served"), || process(host, network))
}

/// Whether a process runs: one that ended and that nobody asked for has no command line.
fn is_alive(pid: u32) -> bool {
    fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| !line.is_empty())
}

/// The address of a name, as the gateway has it (RFC 1035, 4.1).
fn resolve(from: &Netns, name: &str) -> Option<Ipv4Addr> {
    let bind = || Ok(UdpSocket::bind("0.0.0.0:0")?);
    let socket = netns::inside(from.name(), bind).unwrap();
    socket
        .set_read_timeout(Some(Duration::from_secs(2)))
        .unwrap();
    // One question, recursion desired: type A, class IN.
    let mut query = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, name.len() as u8];
    query.extend(name.as_bytes());
    query.extend([0, 0, 1, 0, 1]);
    socket
        .send_to(&query, SocketAddr::from((GATEWAY, 53)))
        .unwrap();
    let mut answer = [0; 512];
    let length = socket.recv(&mut answer).ok()?;
    // The one answer's data is at the end.
    let answers = u16::from_be_bytes([answer[6], answer[7]]);
    (answers == 1).then(|| {
        let data: [u8; 4] = answer[length - 4..length].try_into().unwrap();
        data.into()
    })
}

/// Addresses, the way out, the MTU and names.
#[test]
fn a_vm_gets_what_it_needs_by_ipv4() {
    let host = Host::new();
    let daemon = host.daemon();
    lan(&host);
    wait_served(&host, "lan");
    let vm = client(&host, 11, "lan");
    let leased = vm.lease();
    let IpAddr::V4(address) = leased.address() else {
        panic!("{}", leased.address());
    };
    assert!((100..=199).contains(&address.octets()[3]), "{address}");
    assert_eq!(leased.get("routers"), GATEWAY.to_string());
    assert_eq!(leased.get("domain_name_servers"), GATEWAY.to_string());
    assert_eq!(leased.get("interface_mtu"), "1400");
    assert_eq!(leased.get("dhcp_lease_time"), "3600");
    assert!(reaches(vm.netns(), GATEWAY.into()));
    assert_eq!(resolve(vm.netns(), "vm11"), Some(address));

    let shown = host.vnet("-j network show lan").json();
    let lease = &shown["networks"][0]["leases"][0];
    assert_eq!(lease["address"], address.to_string());
    assert_eq!(lease["mac"], vm.station.mac().to_string());
    assert_eq!(lease["hostname"], "vm11");

    let other = client(&host, 12, "lan");
    let second = other.lease().address();
    assert_ne!(second, IpAddr::V4(address));
    assert!(reaches(vm.netns(), second));
    daemon.stop();
}

/// Addresses that VMs make themselves from what is advertised, and those that they are leased.
#[test]
fn a_vm_gets_what_it_needs_by_ipv6() {
    let host = Host::new();
    let _daemon = host.daemon();
    lan(&host);
    wait_served(&host, "lan");
    let vm = client(&host, 11, "lan");
    let addresses = || vm.station.ip("-6 addr show dev eth0 scope global");
    // It solicits by itself once its interface has a link-local address (RFC 4861, 6.3.7).
    wait::until("it has made an address", || {
        addresses().contains("inet6 fd00::5054:ff:fe00:b/64")
    });
    wait::until("it has a way out", || {
        vm.station.ip("-6 route show default").contains("proto ra")
    });
    let route = vm.station.ip("-6 route show default");
    let mtu = vm.station.sh("cat /proc/sys/net/ipv6/conf/eth0/mtu");
    assert_eq!(mtu.trim(), "1400", "{route}");
    assert!(reaches(vm.netns(), "fd00::1".parse().unwrap()));

    let leased = vm.ask("-6", "").expect("a lease");
    let IpAddr::V6(address) = leased.address() else {
        panic!("{}", leased.address());
    };
    assert!(
        (0x1000..=0x1fff).contains(&address.segments()[7]),
        "{address}"
    );
    assert!(
        leased.0.contains_key("dhcp6_name_servers"),
        "{:?}",
        leased.0
    );
    assert!(addresses().contains(&address.to_string()));
}

/// Without a range of IPv6 addresses, VMs make their own.
#[test]
fn a_prefix_is_advertised_without_a_range() {
    let host = Host::new();
    let _daemon = host.daemon();
    host.vnet(
        "network add lan --gateway 10.0.0.1/24 --gateway fd00::1/64 --dhcp 10.0.0.8-10.0.0.9",
    );
    wait_served(&host, "lan");
    let vm = client(&host, 11, "lan");
    wait::until("it has made an address", || {
        let addresses = vm.station.ip("-6 addr show dev eth0 scope global");
        addresses.contains("inet6 fd00::5054:ff:fe00:b/64")
    });
}

/// Each network has a process of its own, which ends with it, and so do its leases.
#[test]
fn a_server_lives_as_long_as_its_network() {
    let host = Host::new();
    let daemon = host.daemon();
    lan(&host);
    host.vnet("network add dmz --gateway 10.0.1.1/24 --dhcp 10.0.1.100-10.0.1.199");
    let (lan, dmz) = (wait_served(&host, "lan"), wait_served(&host, "dmz"));
    assert_ne!(lan, dmz);
    let vm = client(&host, 11, "dmz");
    assert!(vm.lease().get("ip_address").starts_with("10.0.1.1"));
    let leases = host
        .config_dir()
        .join("dhcp")
        .join(host.switch())
        .join("dmz.leases");
    wait::until("the lease is written down", || leases.exists());

    host.vnet(&format!("port del {}", vm.station.port()));
    host.vnet("network del dmz");
    wait::until("its server has ended", || !is_alive(dmz));
    wait::until("its leases are gone", || !leases.exists());
    assert_eq!(server(&host, "dmz"), None);
    assert_eq!(
        process(&host, "lan"),
        Some(lan),
        "the other one has not noticed"
    );

    host.vnet("down");
    wait::until("the other one has ended", || !is_alive(lan));
    // The daemon is there still, and finds it again.
    host.vnet("up");
    wait_served(&host, "lan");
    daemon.stop();
    assert_eq!(host.processes(), Vec::<String>::new());
}

/// A server that dies is begun again, a daemon that dies leaves it, and leases outlive both.
#[test]
fn a_server_that_dies_comes_back() {
    let host = Host::new();
    let daemon = host.daemon();
    lan(&host);
    let first = wait_served(&host, "lan");
    let vm = client(&host, 11, "lan");
    let address = vm.lease().address();
    // SAFETY: no memory is involved; it is the server of this test's own network.
    unsafe { libc::kill(first as libc::pid_t, libc::SIGKILL) };
    let second = wait::value("another one serves", || {
        process(&host, "lan").filter(|pid| *pid != first)
    });
    assert_eq!(vm.lease().address(), address);

    daemon.kill();
    assert!(is_alive(second), "without a daemon it serves on");
    let other = client(&host, 12, "lan");
    let theirs = other.lease().address();
    let warned = host.vnet("network add quiet").stderr;
    assert!(
        warned.contains("no daemon runs that would serve DHCP to lan"),
        "{warned}"
    );

    let _daemon = host.daemon();
    let third = wait::value("the next daemon's serves", || {
        process(&host, "lan").filter(|pid| *pid != second)
    });
    assert!(!is_alive(second) && is_alive(third));
    assert_eq!(vm.lease().address(), address);
    assert_eq!(other.lease().address(), theirs);
}

/// `down` ends what a daemon left that was killed.
#[test]
fn nothing_serves_a_switch_that_is_down() {
    let host = Host::new();
    let daemon = host.daemon();
    lan(&host);
    let pid = wait_served(&host, "lan");
    daemon.kill();
    assert!(is_alive(pid));
    host.vnet("down");
    assert!(!is_alive(pid));
}

/// An address that was once leased to a VM that the document knows is nobody else's.
#[test]
fn a_known_vm_keeps_its_address() {
    let host = Host::new();
    let _daemon = host.daemon();
    host.vnet("network add lan --gateway 10.0.0.1/24 --dhcp 10.0.0.100-10.0.0.101");
    wait_served(&host, "lan");
    let known = client(&host, 11, "lan");
    host.vnet(&format!("port set vm11 --mac {}", known.station.mac()));
    let address = known.lease().address();
    let kept = host
        .config_dir()
        .join("dhcp")
        .join(host.switch())
        .join("lan.hosts");
    wait::until("its address is kept for it", || {
        fs::read_to_string(&kept).is_ok_and(|text| text.contains(&address.to_string()))
    });
    assert!(known.ask("-4", "-r").is_some(), "it gives it back");
    wait::until("the lease has ended", || {
        let shown = host.vnet("-j network show lan").json();
        shown["networks"][0]["leases"]
            .as_array()
            .unwrap()
            .is_empty()
    });

    let others = [12, 13].map(|number| client(&host, number, "lan"));
    let leased = others
        .each_ref()
        .map(|vm| vm.ask("-4", "").map(|leased| leased.address()));
    let given: Vec<_> = leased.iter().flatten().collect();
    assert_eq!(given.len(), 1, "there was one for two: {leased:?}");
    assert_ne!(*given[0], address);
    assert_eq!(known.lease().address(), address);
}

/// No dnsmasq serves a network whose document is wrong or has no ranges, and wrong ranges are refused.
#[test]
fn ranges_that_cannot_be_are_refused() {
    let host = Host::up();
    for (line, words) in [
        ("--dhcp 10.0.0.100-10.0.0.199", "no gateway of it"),
        (
            "--gateway 10.0.0.1/24 --dhcp 10.0.0.1-10.0.0.9",
            "own address",
        ),
        ("--gateway fd00::1/80 --dhcp fd00::2-fd00::9", "80 bits"),
    ] {
        host.try_vnet(&format!("network add lan {line}"))
            .refused(1, &[words]);
    }
    host.try_vnet("network add lan --gateway 10.0.0.1/24 --dhcp 10.0.0.9-10.0.0.2")
        .refused(2, &["ends before it begins"]);
    assert!(
        host.rows("network list", "networks")
            .iter()
            .all(|row| row["name"] != "lan")
    );
    let warned = host
        .vnet("network add lan --gateway 10.0.0.1/24 --dhcp 10.0.0.8-10.0.0.9")
        .stderr;
    assert!(warned.contains("no daemon runs"), "{warned}");
}

/// A real guest boots without being told an address.
#[test]
fn a_guest_boots_with_an_address() {
    let host = Host::new();
    let _daemon = host.daemon();
    lan(&host);
    wait_served(&host, "lan");
    let mut config = host.guest_config(11);
    config.ipv4 = Some("dhcp".into());
    config.ipv6 = None;
    host.vnet("port add tap11 --network lan");
    let mut guest = host.boot(config);
    guest.wait_ready(Duration::from_secs(60)).unwrap();
    let lease = wait::within(Duration::from_secs(60), || {
        let shown = host.vnet("-j network show lan").json();
        let leases = shown["networks"][0]["leases"].as_array().unwrap().clone();
        leases.into_iter().find(|lease| lease["mac"].is_string())
    })
    .expect("it is leased an address");
    let address: IpAddr = lease["address"].as_str().unwrap().parse().unwrap();
    assert!(reaches(host.netns(), address), "{address}");
    let done = guest.run_within(
        &format!("ping -c 1 -W 5 {GATEWAY}"),
        Duration::from_secs(30),
    );
    assert!(done.unwrap().success());
}

/// The command's own process needs no other user's files.
#[test]
fn dnsmasq_is_not_root() {
    let host = Host::new();
    let _daemon = host.daemon();
    lan(&host);
    let pid = wait_served(&host, "lan");
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let uids = status
        .lines()
        .find(|line| line.starts_with("Uid:"))
        .unwrap();
    assert!(!uids.split_whitespace().any(|word| word == "0"), "{uids}");
}

/// Where the daemon may not, a process of its own serves.
#[test]
fn the_parts_of_the_daemon_run_apart() {
    let host = Host::new();
    host.vnet("up");
    lan(&host);
    let dhcp = host.part_of_daemon("dhcp");
    let pid = wait_served(&host, "lan");
    let switch = host.part_of_daemon("switch");
    switch.stop();
    assert_eq!(process(&host, "lan"), Some(pid), "it has not noticed");
    dhcp.stop();
    assert!(!is_alive(pid));
}

/// A document that is gone or wrong takes no lease with it, and what runs is looked after.
#[test]
fn a_spoiled_document_is_served_as_it_was() {
    let host = Host::new();
    let daemon = host.daemon();
    lan(&host);
    let first = wait_served(&host, "lan");
    let vm = client(&host, 11, "lan");
    let address = vm.lease().address();
    let away = host.config_dir().join("away");
    fs::rename(host.document(), &away).unwrap();
    daemon.wait_said("what it said is served until then");
    fs::write(host.document(), "schema = 1\n[[network]\n").unwrap();
    // SAFETY: no memory is involved; it is the server of this test's own network.
    unsafe { libc::kill(first as libc::pid_t, libc::SIGKILL) };
    wait::until("another one serves", || {
        let pid = fs::read_to_string(
            host.run_dir()
                .join("dhcp")
                .join(host.switch())
                .join("lan.pid"),
        );
        let pid = pid.ok().and_then(|pid| pid.trim().parse().ok());
        pid.is_some_and(|pid| pid != first && is_alive(pid))
    });
    fs::rename(&away, host.document()).unwrap();
    assert_eq!(vm.lease().address(), address);
}

/// A VM that the document knows has an address before it has ever asked.
#[test]
fn a_known_vm_has_an_address_before_it_asks() {
    let host = Host::new();
    let _daemon = host.daemon();
    host.vnet("network add lan --gateway 10.0.0.1/24 --dhcp 10.0.0.100-10.0.0.101");
    wait_served(&host, "lan");
    let known = client(&host, 11, "lan");
    host.vnet(&format!("port set vm11 --mac {}", known.station.mac()));
    let kept = host
        .config_dir()
        .join("dhcp")
        .join(host.switch())
        .join("lan.hosts");
    wait::until("an address is kept for it", || {
        fs::read_to_string(&kept).is_ok_and(|text| text.contains("10.0.0.101"))
    });
    let others = [12, 13].map(|number| client(&host, number, "lan"));
    let leased = others
        .each_ref()
        .map(|vm| vm.ask("-4", "").map(|leased| leased.address()));
    assert_eq!(leased.iter().flatten().count(), 1, "{leased:?}");
    assert_eq!(known.lease().address().to_string(), "10.0.0.101");
}
