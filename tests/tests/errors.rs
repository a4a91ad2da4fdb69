//! What is refused: with the exit code, a reason and a mend, and with nothing changed.

use std::{fs, process::Command};

use vnet_tests::{
    host::{Fingerprint, Host, Ran},
    traffic::reaches,
    wire::Tap,
};
use xtask::netns::Netns;

/// A switch in use, and a check that refused commands left all of it as it was.
struct InUse {
    host: Host,
    before: Fingerprint,
}

impl InUse {
    fn new() -> Self {
        let host = Host::up();
        host.vm(1);
        host.vm(2);
        host.vnet("network add blue --vlan 10");
        host.vnet("port add vm1");
        let before = host.fingerprint();
        Self { host, before }
    }

    /// Runs a command that must be refused with `code` and an error that has `words` in it.
    #[track_caller]
    fn refuses(&self, line: &str, code: i32, words: &[&str]) {
        self.host.try_vnet(line).refused(code, words);
        self.before.assert_same(&self.host.fingerprint());
    }

    /// Takes what is there now for what has to stay.
    fn take_stock(&mut self) {
        self.before = self.host.fingerprint();
    }
}

#[test]
fn what_is_mistyped() {
    let used = InUse::new();
    for (line, words) in [
        ("network add red --vlan 4095", &["4095", "--vlan"][..]),
        ("network add red --vlan 0", &["--vlan"]),
        (
            "port add vm2 --mac 01:00:5e:00:00:01",
            &["01:00:5e:00:00:01"],
        ),
        (
            "port add vm2 --mac ff:ff:ff:ff:ff:ff",
            &["ff:ff:ff:ff:ff:ff"],
        ),
        ("port add vm2 --mac 02:00", &["02:00"]),
        ("mac deny 01:80:c2:00:00:00", &["01:80:c2:00:00:00"]),
        ("port add vm2 --trunk blue=4095", &["4095"]),
        ("port add vm2 --network blue --trunk blue", &["--trunk"]),
        ("port add vm2 --native blue", &["native"]),
        ("port add vm2 --storm broadcast=0", &["broadcast=0"]),
        ("port add an-interface-name-too-long", &["too-long"]),
        ("port add lo", &["loopback"]),
        ("up --uplink lo", &["loopback"]),
        ("set ageing=5", &["ageing", "10 to 86400"]),
        ("set colour=blue", &["colour", "ageing"]),
        ("port set vm1", &["nothing to change"]),
        ("up --mode warp", &["warp", "xdp"]),
        ("frobnicate", &["frobnicate"]),
    ] {
        used.refuses(line, 2, words);
    }
}

#[test]
fn what_the_document_does_not_allow() {
    let mut used = InUse::new();
    let switch = used.host.switch().to_owned();
    for (line, words) in [
        (
            "port add vm2 --network red",
            &["vm2", "red", "network add red"][..],
        ),
        ("port add vm1", &["vm1", "port set vm1", "--may-exist"]),
        ("port set vm2 --network blue", &["vm2", "port add vm2"]),
        ("port del vm2", &["vm2"]),
        ("network add blue", &["blue", "--may-exist"]),
        ("network add red --vlan 10", &["10", "blue"]),
        ("network del red", &["red"]),
        ("network del default", &["default"]),
        (
            "port add vm2 --trunk blue,default",
            &["default", "default=VID"],
        ),
        ("port add vm2 --trunk blue=7,default=7", &["7"]),
        ("port set vm1 --native blue", &["--trunk"]),
        (&format!("port add {switch}"), &[&switch]),
        (&format!("port del {switch}"), &[&switch]),
        (
            "fdb add 02:00:00:00:00:01 --network blue --port vm1",
            &["vm1", "blue"],
        ),
        (
            "fdb add 02:00:00:00:00:01 --network default --port vm9",
            &["vm9"],
        ),
        (
            "fdb del 02:00:00:00:00:01 --network default",
            &["02:00:00:00:00:01"],
        ),
    ] {
        let ran = used.host.try_vnet(line);
        assert_eq!(ran.code, 1, "`{line}`: {}", ran.stderr);
        assert!(
            ran.stderr.starts_with("error: "),
            "`{line}`: {}",
            ran.stderr
        );
        for word in words {
            assert!(
                ran.stderr.contains(word),
                "`{line}` lacks {word}: {}",
                ran.stderr
            );
        }
        used.before.assert_same(&used.host.fingerprint());
    }
    used.host.vnet("port set vm1 --network blue");
    used.take_stock();
    used.refuses("network del blue", 1, &["blue", "vm1", "mend"]);
}

/// The words that make commands repeatable.
#[test]
fn what_is_there_or_gone_already_is_fine_when_said() {
    let used = InUse::new();
    for line in [
        "port add vm1 --may-exist",
        "network add blue --may-exist",
        "port del vm9 --if-exists",
        "network del red --if-exists",
        "fdb del 02:00:00:00:00:01 --network default --if-exists",
        "mac allow 02:00:00:00:00:01",
    ] {
        used.host.vnet(line);
    }
    used.before.assert_same(&used.host.fingerprint());
}

#[test]
fn an_absent_uplink() {
    let host = Host::new();
    let words = ["no interface nosuch", "ip link"];
    host.try_vnet("up --uplink nosuch").refused(1, &words);
    assert!(!host.pins().exists());
    assert_eq!(host.document_text(), None, "nothing was written");
    assert!(!host.interfaces().contains_key(host.switch()));
    host.vnet("up");
    host.try_vnet("up --uplink nosuch").refused(1, &words);
    assert!(host.status()["ports"].as_array().unwrap().len() == 1);
}

/// Interfaces that cannot be ports.
#[test]
fn unsuitable_interfaces() {
    let mut used = InUse::new();
    used.host.ip("link add br7 type bridge");
    used.host.foreign_bridge("br7");
    used.host.vm(7);
    used.host.ip("link set vm7 master br7");
    used.host.ip("tuntap add tun7 mode tun");
    used.take_stock();
    for (line, words) in [
        ("port add vm7", &["vm7", "member of", "nomaster"][..]),
        ("port add tun7", &["tun7", "no Ethernet", "tap"]),
        ("port add br7", &["br7", "bridge", "veth"]),
        ("up --uplink vm7", &["vm7", "member of"]),
    ] {
        used.refuses(line, 1, words);
    }
    assert!(used.host.interface("vm7").master.as_deref() == Some("br7"));
}

/// A port of one switch is not another's.
#[test]
fn another_switchs_port() {
    let mut used = InUse::new();
    let other = format!("{}b", used.host.switch());
    used.host.vnet(&format!("--switch {other} up"));
    used.host.vnet(&format!("--switch {other} port add vm2"));
    used.take_stock();
    used.refuses("port add vm2", 1, &["vm2", &other, "port del vm2"]);
    used.host.vnet(&format!("--switch {other} port del vm2"));
    used.host.vnet("port add vm2");
}

/// An uplink is outside the bridge, so its membership does not tell that it is taken.
#[test]
fn another_switchs_uplink() {
    let mut used = InUse::new();
    used.host.phys();
    let other = format!("{}b", used.host.switch());
    used.host.vnet(&format!("--switch {other} up --uplink up0"));
    used.take_stock();
    used.refuses("up --uplink up0", 1, &["up0", &other]);
    used.refuses("port add up0 --uplink", 1, &["up0", &other]);
}

/// The device of another kind that has the switch's name.
#[test]
fn a_name_that_is_taken() {
    let host = Host::new();
    let switch = host.switch().to_owned();
    host.ip(&format!("link add {switch} type veth peer name other"));
    let before = host.interfaces();
    host.try_vnet("up")
        .refused(1, &[&switch, "no bridge but a veth", "--switch"]);
    assert_eq!(host.interfaces(), before);
    assert!(!host.pins().exists());
    host.ip("link del other");
}

#[test]
fn a_bridge_with_spanning_tree() {
    let host = Host::new();
    let switch = host.switch().to_owned();
    host.foreign_bridge(&switch);
    host.ip(&format!("link add {switch} type bridge stp_state 1"));
    let before = host.interfaces();
    host.try_vnet("up")
        .refused(1, &[&switch, "spanning tree", "stp_state 0"]);
    assert_eq!(host.interfaces(), before);
    assert!(!host.pins().exists());
    host.ip(&format!("link set {switch} type bridge stp_state 0"));
    host.vnet("up");
}

/// A name is one switch on the whole host, whatever namespace it is in.
#[test]
fn a_switch_that_is_up_in_another_namespace() {
    let (host, [one, two]) = Host::with_vms([1, 2]);
    let elsewhere = Netns::create(format!("{}-else", host.netns().name())).unwrap();
    for line in ["up", "down", "status", "port add vm9", "stats"] {
        let mut command = Command::new(vnet_tests::host::binary());
        host.configure(
            &mut command,
            &format!("--netns {} {line}", elsewhere.name()),
        );
        Ran::of(&mut command).refused(1, &[host.switch(), "another network namespace", "--netns"]);
    }
    assert!(reaches(one.netns(), two.addresses().v4()));
    let mut command = Command::new(vnet_tests::host::binary());
    host.configure(&mut command, "--netns no-such-namespace up");
    Ran::of(&mut command).refused(1, &["no-such-namespace", "ip netns list"]);
}

/// Pins that another version of vnet made are not ours to take.
#[test]
fn pins_of_another_layout() {
    let host = Host::new();
    let foreign = host.pins().join("v999");
    fs::create_dir_all(&foreign).unwrap();
    host.try_vnet("up")
        .refused(1, &["v999", "another version", "down"]);
    assert!(!host.interfaces().contains_key(host.switch()));
    assert!(foreign.exists());
    fs::remove_dir(&foreign).unwrap();
    host.vnet("up");
}

/// A map of another size under a name of ours: aya would take it as it is.
#[test]
fn a_pinned_map_of_another_size() {
    let host = Host::new();
    host.vnet("up");
    let dir = host.version_dir();
    host.vnet("down");
    fs::create_dir_all(&dir).unwrap();
    let map = dir.join("port_counters");
    let made = Command::new("bpftool")
        .args(["map", "create"])
        .arg(&map)
        .args("type array key 4 value 8 entries 3 name port_counters".split(' '))
        .status();
    assert!(made.unwrap().success());
    host.try_vnet("up")
        .refused(1, &["port_counters", "another layout"]);
    assert!(!host.interfaces().contains_key(host.switch()));
}

#[test]
fn too_little_privilege() {
    let used = InUse::new();
    for line in ["up", "port add vm2", "down"] {
        // Root by its id, without what makes root.
        let program = vnet_tests::host::binary();
        let mut command = Command::new("setpriv");
        command
            .args(["--inh-caps=-all", "--bounding-set=-all"])
            .arg(&program);
        xtask::netns::start_inside(&mut command, used.host.netns().name()).unwrap();
        used.host.configure(&mut command, line);
        Ran::of(&mut command).refused(1, &["sudo"]);
        used.before.assert_same(&used.host.fingerprint());
    }
}

#[test]
fn xdp_where_it_would_do_harm() {
    let mut used = InUse::new();
    let phys = used.host.phys();
    used.take_stock();
    // The peer leaves tags to offload: XDP would take tagged frames for untagged ones.
    used.refuses(
        "up --uplink up0 --mode xdp",
        1,
        &["up0", "VLAN tags", "ethtool -K eth0", "txvlan off"],
    );
    assert_eq!(used.host.status()["mode"], "auto");
    phys.sh("ethtool -K eth0 txvlan off tx-vlan-stag-hw-insert off");
    let ran = used.host.vnet("up --uplink up0 --mode xdp");
    for word in ["warning", "up0", "checksum", "ethtool -K eth0 tx off"] {
        assert!(ran.stderr.contains(word), "{word}: {}", ran.stderr);
    }
}

/// More ports than there is room for.
#[test]
fn a_switch_that_is_full() {
    let host = Host::new();
    host.vnet("set max_ports=64");
    let taps: Vec<_> = (0..63)
        .map(|number| Tap::create(&host, &format!("tap{number}")))
        .collect();
    for number in 0..62 {
        host.vnet(&format!("port add tap{number}"));
    }
    host.vnet("up");
    let before = host.fingerprint();
    host.try_vnet("port add tap62")
        .refused(1, &["max_ports is 64", "set max_ports=128"]);
    before.assert_same(&host.fingerprint());
    drop(taps);
}
