//! `doctor`: each test makes a fault on real devices and looks for the line that tells of it.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path, process::Command};

use vnet_tests::{
    host::{BPFFS, Host, Mac, Ran, binary},
    wire::{Frame, Tap, Wire as _},
};
use xtask::process::output;

/// Runs `doctor`, with the words of `line` after it.
#[track_caller]
fn doctor(host: &Host, line: &str) -> Ran {
    host.try_vnet(&format!("doctor {line}"))
}

/// Holds the line that begins with `check` to end as `verdict` says, with every one of `words` in
/// it, and the exit code to fit.
#[track_caller]
fn says(ran: &Ran, check: &str, verdict: &str, words: &[&str]) {
    let found = ran.stdout.lines().filter(|line| line.starts_with(check));
    let mut found = found.peekable();
    assert!(found.peek().is_some(), "no line {check}:\n{}", ran.stdout);
    let is_it = |line: &str| {
        let (_, result) = line.rsplit_once(" : ").unwrap_or_default();
        let mended = result.starts_with(&format!("{verdict} (")) && result.ends_with(')');
        let fits = mended || (verdict == "PASS" && result == verdict);
        fits && words.iter().all(|word| line.contains(word))
    };
    assert!(
        found.any(is_it),
        "{check} is not {verdict} with {words:?}:\n{}",
        ran.stdout
    );
    let failed = ran.stdout.lines().any(|line| line.contains(" : FAIL ("));
    assert_eq!(ran.code, i32::from(failed), "{}{}", ran.stdout, ran.stderr);
    assert_eq!(
        failed,
        ran.stderr.contains("checks failed"),
        "{}",
        ran.stderr
    );
}

/// Holds no check to have failed.
#[track_caller]
fn is_healthy(ran: &Ran) {
    assert_eq!(ran.code, 0, "{}{}", ran.stdout, ran.stderr);
    assert!(!ran.stdout.contains("FAIL"), "{}", ran.stdout);
}

/// A switch in use: two VMs, an uplink with an address, a VLAN on both sides of a trunk.
fn in_use() -> Host {
    let host = Host::new();
    host.vm(1);
    host.vm(2);
    host.phys();
    host.uplink_ip();
    for line in [
        "up --uplink up0",
        "network add blue --vlan 10",
        "port add vm1",
        "port add vm2 --trunk blue --native default",
    ] {
        host.vnet(line);
    }
    host
}

#[test]
fn a_healthy_switch_has_nothing_to_mend() {
    let host = in_use();
    let before = host.fingerprint();
    let ran = doctor(&host, "");
    is_healthy(&ran);
    for line in ran.stdout.lines() {
        let (what, result) = line.rsplit_once(" : ").expect("SCOPE: what : RESULT");
        assert!(what.contains(": "), "{line}");
        assert_eq!(result, "PASS", "{line}");
    }
    for check in [
        "host: kernel version",
        "host: BTF",
        "host: JIT",
        "document: file",
        "document: VLAN 10 of the network blue",
        "port vm1: interface",
        "port up0: vnet's program at TC egress",
        "port up0: LRO",
        "datapath: switch, up",
        "datapath: table of flows",
        "neighbours: nft rules for bridges",
    ] {
        says(&ran, check, "PASS", &[]);
    }
    before.assert_same(&host.fingerprint());
    assert_eq!(doctor(&host, "-q").stdout, "", "-q leaves out what passed");
}

#[test]
fn json_has_the_same_checks() {
    let host = in_use();
    host.ip("link set vm1 down");
    let lines = doctor(&host, "").stdout.lines().count();
    let rows = host.rows("doctor", "checks");
    assert_eq!(rows.len(), lines);
    for row in &rows {
        for key in ["scope", "what", "result"] {
            assert!(row[key].is_string(), "{row}");
        }
        assert_eq!(row["mend"].is_null(), row["result"] == "pass", "{row}");
    }
    let down = rows.iter().find(|row| row["result"] == "warn").unwrap();
    assert_eq!(
        (&down["scope"], &down["what"]),
        (&"port vm1".into(), &"interface".into())
    );
    assert_eq!(down["mend"], "ip link set vm1 up");
}

/// Before anything, and with a document that waits for `up`.
#[test]
fn a_switch_that_is_down_is_examined_as_far_as_it_goes() {
    let host = Host::new();
    let ran = doctor(&host, "");
    is_healthy(&ran);
    says(&ran, "document: file, none", "PASS", &[]);
    says(&ran, "datapath: switch, down", "PASS", &[]);
    assert!(!ran.stdout.contains("table of"), "{}", ran.stdout);

    host.vm(1);
    host.vnet("port add vm1");
    host.vnet("port add vm2");
    let ran = doctor(&host, "");
    says(&ran, "port vm1: interface", "PASS", &[]);
    says(&ran, "port vm2: interface", "WARN", &["there is none"]);
    host.vnet("port add up0 --uplink");
    says(
        &doctor(&host, ""),
        "port up0: interface",
        "FAIL",
        &["port del up0"],
    );
}

#[test]
fn a_user_is_told_what_only_root_sees() {
    let host = in_use();
    fs::set_permissions(host.config_dir(), fs::Permissions::from_mode(0o700)).unwrap();
    let mut command = Command::new("setpriv");
    xtask::netns::start_inside(&mut command, host.netns().name()).unwrap();
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]);
    command.arg(binary());
    host.configure(&mut command, "doctor");
    let ran = Ran::of(&mut command);
    is_healthy(&ran);
    for check in [
        "host: capabilities",
        "document: file",
        "ports: programs at TC and XDP",
        "datapath: switch",
        "neighbours: nft rules",
    ] {
        says(&ran, check, "WARN", &["(run as root)"]);
    }
}

#[test]
fn interfaces_that_are_gone() {
    let host = in_use();
    host.ip("link del vm1");
    says(
        &doctor(&host, ""),
        "port vm1: interface",
        "WARN",
        &["start its VM"],
    );
    host.ip("link del up0");
    says(
        &doctor(&host, ""),
        "port up0: interface",
        "FAIL",
        &["there is none"],
    );
}

#[test]
fn an_interface_that_was_made_again() {
    let host = Host::up();
    let tap = Tap::create(&host, "tap1");
    host.vnet("port add tap1");
    is_healthy(&doctor(&host, ""));
    drop(tap);
    host.ip("link del tap1");
    let _tap = Tap::create(&host, "tap1");
    let ran = doctor(&host, "");
    says(
        &ran,
        "port tap1: interface",
        "FAIL",
        &["made again", "vnet-user up"],
    );
    host.vnet("up");
    is_healthy(&doctor(&host, ""));
}

#[test]
fn filters_of_others() {
    let host = in_use();
    host.sh("tc qdisc add dev vm1 clsact");
    host.sh("tc filter add dev vm1 ingress pref 7 u32 match u32 0 0 classid 1:1");
    let ran = doctor(&host, "");
    is_healthy(&ran);
    says(
        &ran,
        "port vm1: other programs at TC",
        "WARN",
        &["u32 filter of priority 7", "clsact ingress"],
    );
    says(&ran, "port vm2: other programs at TC", "PASS", &[]);
    host.sh("tc qdisc del dev vm1 clsact");
}

#[test]
fn an_xdp_program_of_others() {
    let host = in_use();
    let program = host.version_dir().join("progs/xdp_uplink");
    host.sh(&format!(
        "bpftool net attach xdpgeneric pinned {} dev vm1",
        program.display()
    ));
    let ran = doctor(&host, "");
    says(
        &ran,
        "port vm1: other programs at XDP",
        "WARN",
        &["xdp off"],
    );
    host.sh("bpftool net detach xdpgeneric dev vm1");
}

#[test]
fn a_program_that_was_taken_away() {
    let host = in_use();
    let links = fs::read_dir(host.version_dir().join("links")).unwrap();
    let index = host.ip("-o link show vm1");
    let index = index.split(':').next().unwrap().trim();
    for link in links.flatten() {
        if link.file_name().to_string_lossy() == format!("tc_ingress_{index}") {
            fs::remove_file(link.path()).unwrap();
        }
    }
    let gone = || host.interface("vm1").ingress.is_empty();
    vnet_tests::wait::until("the program is off", gone);
    let ran = doctor(&host, "");
    says(
        &ran,
        "port vm1: vnet's program at TC ingress",
        "FAIL",
        &["taken away"],
    );
    host.vnet("down");
    host.vnet("up");
    is_healthy(&doctor(&host, ""));
}

#[test]
fn addresses_in_two_places() {
    let host = in_use();
    for port in ["vm1", "vm2"] {
        host.vnet(&format!("port set {port} --mac 52:54:00:00:00:07"));
    }
    let check = "document: duplicate MAC addresses";
    let ran = doctor(&host, "");
    is_healthy(&ran);
    says(&ran, check, "WARN", &["52:54:00:00:00:07", "vm1", "vm2"]);
    for port in ["vm1", "vm2"] {
        host.vnet(&format!("port set {port} --mac none"));
    }
    host.station("up1", 101);
    host.vnet("up --uplink up1");
    is_healthy(&doctor(&host, ""));
    let mac = host.interface("up0").mac;
    host.ip(&format!("link set up1 address {mac}"));
    says(&doctor(&host, ""), check, "FAIL", &[&mac, "up0", "up1"]);
}

/// A VM that sends with the address of the switch device.
#[test]
fn a_vm_with_the_hosts_address() {
    let host = Host::up();
    let tap = Tap::create(&host, "tap1");
    host.vnet("port add tap1");
    let mac = host.interface(host.switch()).mac;
    let octets: Vec<u8> = mac
        .split(':')
        .map(|octet| u8::from_str_radix(octet, 16).unwrap())
        .collect();
    tap.send(&Frame::new(Mac(octets.try_into().unwrap()), Mac::BROADCAST));
    vnet_tests::wait::until("it is dropped", || {
        host.drops("tap1", "mac_source_local") == 1
    });
    let ran = doctor(&host, "");
    says(
        &ran,
        "port tap1: telling drops",
        "WARN",
        &["mac_source_local"],
    );
}

#[test]
fn a_vlan_on_one_side_only() {
    let host = in_use();
    host.vnet("port set up0 --trunk none --native default");
    let check = "document: VLAN 10 of the network blue";
    says(&doctor(&host, ""), check, "WARN", &["vm2 alone"]);
    host.vnet("port set vm1 --network blue");
    host.vnet("port set vm2 --network blue");
    says(
        &doctor(&host, ""),
        check,
        "WARN",
        &["no port carries it tagged"],
    );
    host.vnet("port set up0 --trunk blue --native default");
    says(&doctor(&host, ""), check, "PASS", &["up0"]);
    host.vnet("port set vm1 --network default");
    host.vnet("port set vm2 --network default");
    says(&doctor(&host, ""), check, "WARN", &["up0 alone"]);
}

#[test]
fn where_pins_cannot_go() {
    let host = Host::new();
    let dir = tempfile::tempdir().unwrap();
    let at = |dir: &Path| doctor(&host, &format!("--bpffs {}", dir.display()));
    let check = "host: BPF file system";
    let absent = dir.path().join("none");
    says(&at(&absent), check, "WARN", &["none at", "mount -t bpf"]);
    assert!(!absent.exists(), "doctor makes nothing");
    fs::write(dir.path().join("precious"), "").unwrap();
    says(&at(dir.path()), check, "FAIL", &["not empty", "--bpffs"]);
    says(&at(Path::new(BPFFS)), check, "PASS", &[]);
}

#[test]
fn halves_of_a_switch() {
    let host = in_use();
    let state = host.run_dir().join(format!("{}.state.json", host.switch()));
    let kept = fs::read_to_string(&state).unwrap();
    fs::remove_file(&state).unwrap();
    says(
        &doctor(&host, ""),
        "datapath: switch",
        "FAIL",
        &["down, then up"],
    );
    fs::write(&state, &kept).unwrap();
    is_healthy(&doctor(&host, ""));
    // As when the BPF file system was mounted anew.
    host.vnet("down");
    fs::create_dir_all(host.run_dir()).unwrap();
    fs::write(&state, &kept).unwrap();
    says(
        &doctor(&host, ""),
        "datapath: switch",
        "FAIL",
        &["pins are gone"],
    );
}

#[test]
fn pins_of_another_version() {
    let host = in_use();
    let other = host.pins().join("v0");
    fs::create_dir(&other).unwrap();
    let ran = doctor(&host, "");
    says(&ran, "datapath: schema of the pins", "FAIL", &["v0"]);
    fs::remove_dir(&other).unwrap();
}

#[test]
fn a_device_that_was_deleted() {
    let host = in_use();
    host.ip(&format!("link del {}", host.switch()));
    says(
        &doctor(&host, ""),
        "datapath: switch device",
        "FAIL",
        &["down, then up"],
    );
}

#[test]
fn a_table_that_fills() {
    let host = Host::new();
    host.vnet("set fdb_size=1024");
    host.vnet("up");
    let tap = Tap::create(&host, "tap1");
    host.vnet("port add tap1");
    let check = "datapath: table of addresses";
    says(&doctor(&host, ""), check, "PASS", &["of 1024"]);
    for number in 0..900u16 {
        let [high, low] = number.to_be_bytes();
        tap.send(&Frame::new(Mac([2, 0, 0, 1, high, low]), Mac::BROADCAST));
    }
    vnet_tests::wait::until("they are learned", || host.fdb().len() > 850);
    let ran = doctor(&host, "");
    is_healthy(&ran);
    says(&ran, check, "WARN", &["set fdb_size=N"]);
}

#[test]
fn sizes_that_wait_for_a_restart() {
    let host = in_use();
    host.vnet("set flow_size=131072");
    says(
        &doctor(&host, ""),
        "datapath: sizes of the tables",
        "WARN",
        &["down, then up"],
    );
}

#[test]
fn rules_that_frames_do_not_pass() {
    let host = in_use();
    host.vnet("network add lan --gateway 10.77.0.1/24");
    is_healthy(&doctor(&host, ""));
    host.sh(
        "nft 'add table bridge t; add chain bridge t c { type filter hook forward priority 0; }; \
         add rule bridge t c iifname \"vm1\" drop; \
         add table netdev t; add chain netdev t c { type filter hook ingress device vm2 priority 0; }; \
         add rule netdev t c drop; \
         add table inet t; add chain inet t c { type nat hook postrouting priority 100; }; \
         add rule inet t c oifname \"up0\" masquerade'",
    );
    let ran = doctor(&host, "");
    is_healthy(&ran);
    says(
        &ran,
        "neighbours: nft rules for bridges",
        "WARN",
        &["bridge t c"],
    );
    says(
        &ran,
        "neighbours: nft rules at ingress",
        "WARN",
        &["netdev t c"],
    );
    says(
        &ran,
        "neighbours: nft rules that name uplinks",
        "WARN",
        &["inet t c"],
    );
}

#[test]
fn a_member_that_is_no_port() {
    let host = Host::up();
    let _tap = Tap::create(&host, "tap9");
    host.ip(&format!("link set tap9 master {}", host.switch()));
    let check = format!("port {}: members that are no ports", host.switch());
    let ran = doctor(&host, "");
    is_healthy(&ran);
    says(&ran, &check, "WARN", &["tap9", "port add tap9"]);
    host.vnet("network add blue --vlan 10");
    says(&doctor(&host, ""), &check, "FAIL", &["without isolation"]);
    host.ip("link set tap9 nomaster");
}

#[test]
fn what_was_changed_behind_its_back() {
    let host = in_use();
    host.ip("link set up0 promisc off");
    host.sh("bridge link set dev vm1 isolated off");
    host.sh("ethtool -K up0 tso off");
    host.ip("link set vm2 nomaster");
    let ran = doctor(&host, "");
    says(&ran, "port up0: promiscuous mode", "FAIL", &["promisc on"]);
    says(
        &ran,
        "port vm1: place in the switch device",
        "FAIL",
        &["isolated on"],
    );
    says(
        &ran,
        "port up0: GRO, TSO, GSO",
        "WARN",
        &["ethtool -K up0 tso on"],
    );
    says(
        &ran,
        "port vm2: place in the switch device",
        "WARN",
        &["taken out"],
    );
    // The mends, as they are printed.
    host.ip("link set up0 promisc on");
    host.sh("bridge link set dev vm1 isolated on");
    host.sh("ethtool -K up0 tso on");
    host.vnet("port del vm2");
    host.vnet("port add vm2 --trunk blue --native default");
    assert_eq!(doctor(&host, "-q").stdout, "");
}

#[test]
fn translation_without_an_address() {
    let host = Host::new();
    host.vm(1);
    host.phys();
    for line in [
        "up --uplink up0",
        "network add lan --gateway 10.77.0.1/24",
        "port add vm1 --network lan",
        "nat add masquerade --network lan --uplink up0",
    ] {
        host.vnet(line);
    }
    // The physical side has none either, so that the interface holds a link-local one at most.
    let check = "document: address of up0 for masquerade rule 1";
    says(&doctor(&host, ""), check, "FAIL", &["no IPv4 address"]);
    host.uplink_ip();
    says(&doctor(&host, ""), check, "PASS", &[]);
    let check = "document: the host's forwarding from up0";
    says(&doctor(&host, ""), check, "PASS", &[]);
    host.sh("echo 1 > /proc/sys/net/ipv4/conf/up0/forwarding");
    says(
        &doctor(&host, ""),
        check,
        "WARN",
        &["net.ipv4.conf.up0.forwarding=0"],
    );
}

#[test]
fn xdp_that_cannot_be_had() {
    let host = in_use();
    host.sh("ip link add dummy type bridge");
    host.foreign_bridge("dummy");
    // A document that asks for XDP on a device without, as an edit by hand makes it.
    host.vnet("down");
    let text = host.document_text().unwrap();
    let text = text.replace("schema = 1", "schema = 1\n[switch]\nmode = \"xdp\"");
    fs::write(host.document(), text.replace("\"up0\"", "\"dummy\"")).unwrap();
    let ran = doctor(&host, "");
    says(
        &ran,
        "port dummy: native XDP",
        "FAIL",
        &["the driver has none"],
    );
    host.ip("link del dummy");
}

#[test]
fn documents_that_are_broken() {
    let host = in_use();
    let good = host.document_text().unwrap();
    fs::write(host.document(), "schema = 1\n[[port]]\nname = 7\n").unwrap();
    let ran = doctor(&host, "");
    says(&ran, "document: file", "FAIL", &["edit the file"]);
    says(&ran, "host: kernel version", "PASS", &[]);
    says(&ran, "datapath: switch, up", "PASS", &[]);
    fs::remove_file(host.document()).unwrap();
    says(&doctor(&host, ""), "document: file", "WARN", &["is gone"]);
    fs::write(host.document(), good).unwrap();
}

#[test]
fn a_switch_in_another_namespace() {
    let host = in_use();
    let other = host.remote("other");
    let mut command = Command::new(binary());
    xtask::netns::start_inside(&mut command, other.name()).unwrap();
    host.configure(&mut command, "doctor");
    let ran = Ran::of(&mut command);
    says(&ran, "switch: opened", "FAIL", &["--netns"]);
    says(&ran, "host: kernel version", "PASS", &[]);
}

#[test]
fn a_bundle_for_a_bug_report() {
    let host = in_use();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("bundle.tar.gz");
    let ran = doctor(&host, &format!("--bundle {}", file.display()));
    is_healthy(&ran);
    assert!(ran.stderr.contains("addresses"), "{}", ran.stderr);
    let mode = fs::metadata(&file).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);

    output(
        Command::new("tar")
            .arg("-xzf")
            .arg(&file)
            .arg("-C")
            .arg(dir.path()),
    )
    .unwrap();
    let read = |name: &str| {
        let path = dir.path().join("vnet-doctor").join(name);
        fs::read_to_string(&path).unwrap_or_else(|error| panic!("{name}: {error}"))
    };
    let json = |name: &str| -> serde_json::Value { serde_json::from_str(&read(name)).unwrap() };
    assert_eq!(read("doctor.txt"), ran.stdout);
    assert_eq!(json("doctor.json")["schema"], 1);
    assert_eq!(json("status.json")["status"][0]["state"], "up");
    assert_eq!(json("stats.json")["stats"].as_array().unwrap().len(), 5);
    assert_eq!(json("nat.json")["nat"], serde_json::json!([]));
    assert_eq!(json("flows.json")["flows"], 0);
    assert_eq!(json("state.json")["created_device"], true);
    assert!(read("document.toml").contains("name = \"vm1\""));
    assert!(read("interfaces.json").contains("\"vm2\""));
    assert!(read("sysctls.txt").contains("net/ipv4/conf/up0/forwarding = "));
    assert!(read("uname.txt").contains("Linux version"));
    assert!(read("os-release.txt").contains("NAME="));
    assert!(!read("version.txt").trim().is_empty());
    let maps = json("maps.json");
    let maps = maps["maps"].as_array().unwrap();
    assert!(
        maps.iter()
            .any(|map| map["name"] == "flows" && map["entries"].is_u64())
    );

    let again = doctor(&host, &format!("--bundle {}", file.display()));
    assert_eq!(again.code, 1);
    assert!(
        again.stderr.contains("name another file"),
        "{}",
        again.stderr
    );
}

/// A key that is named like a secret, in a document that a later version wrote.
#[test]
fn a_bundle_holds_no_secrets() {
    let host = Host::new();
    fs::create_dir_all(host.config_dir()).unwrap();
    fs::write(
        host.document(),
        "schema = 1\npassword = \"hunter2\"\n[vpn]\ntoken = \"hunter2\"\nuser = \"u\"\n",
    )
    .unwrap();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("bundle.tar.gz");
    let ran = doctor(&host, &format!("--bundle {}", file.display()));
    says(&ran, "document: file", "FAIL", &["password"]);
    let text = output(Command::new("tar").arg("-xzOf").arg(&file)).unwrap();
    assert!(!text.contains("hunter2"), "{text}");
    assert!(
        text.contains("[redacted]") && text.contains("user = \"u\""),
        "{text}"
    );
}
