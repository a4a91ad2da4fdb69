//! A switch's life: up, down, up again after a reboot, and ports whose interfaces come and go.

use std::{collections::BTreeMap, fs, net::IpAddr, process::Command, thread};

use vnet_tests::{
    host::{Addresses, BPFFS, Host, Mac, Ran},
    traffic::{self, is_cut_off, reaches},
    wait,
    wire::{Frame, Tap, Wire as _},
};

/// A switch with a bit of everything: two networks, an uplink, a trunk, limits, static addresses.
fn furnished() -> Host {
    let host = Host::new();
    host.vm(1);
    host.vm(2);
    host.vm(3);
    host.phys();
    host.vnet("up --uplink up0");
    for line in [
        "network add blue --vlan 10",
        "port add vm1",
        "port add vm2",
        "port add vm3 --trunk blue --native default --max-macs 5 --storm broadcast=500",
        "fdb add 02:00:00:00:00:aa --network blue --port vm3",
        "mac deny 02:00:00:00:00:bb",
    ] {
        host.vnet(line);
    }
    host
}

fn v4(number: u8) -> IpAddr {
    Addresses::new(number).v4()
}

/// Every counter that the switch keeps.
fn counters(host: &Host) -> Vec<serde_json::Value> {
    host.rows("stats", "stats")
}

#[test]
fn up_twice_changes_nothing() {
    let host = furnished();
    let one = host.vm(4);
    host.vnet("port add vm4");
    assert!(reaches(one.netns(), v4(1)));
    let before = host.fingerprint();
    let counted = counters(&host);
    assert!(before.fdb.iter().any(|row| row.kind == "learned"));
    host.vnet("up");
    host.vnet("up --uplink up0");
    before.assert_same(&host.fingerprint());
    for (before, now) in counted.iter().zip(counters(&host)) {
        for (name, before) in before.as_object().unwrap() {
            if let (Some(before), Some(now)) = (before.as_u64(), now[name].as_u64()) {
                assert!(now >= before, "{name} was {before} and is {now}");
            }
        }
    }
    assert!(reaches(one.netns(), v4(1)));
}

/// Facts about interfaces that a command has to give back.
fn given_back(host: &Host) -> BTreeMap<String, String> {
    host.interfaces()
        .into_iter()
        .map(|(name, facts)| {
            let features = host.sh(&format!("ethtool -k {name}"));
            let settings = host.sh(&format!(
                "cd /proc/sys/net/ipv4/conf/{name} && grep -H . arp_ignore arp_announce forwarding \
                 rp_filter; tc qdisc show dev {name}"
            ));
            (name, format!("{facts:#?}\n{features}\n{settings}"))
        })
        .collect()
}

#[test]
fn down_leaves_nothing_behind() {
    let host = Host::new();
    let vms = [1, 2].map(|number| host.vm(number));
    let phys = host.phys();
    let _tap = Tap::create(&host, "tap1");
    let before = given_back(&host);
    for line in [
        "up --uplink up0",
        "network add blue --vlan 10",
        "port add vm1",
        "port add vm2",
        "port add tap1 --network blue",
    ] {
        host.vnet(line);
    }
    assert!(reaches(vms[0].netns(), v4(2)));
    assert!(reaches(vms[0].netns(), phys.addresses().v4()));
    assert_ne!(given_back(&host), before);
    let document = host.document_text();

    host.vnet("down");
    assert_eq!(given_back(&host), before);
    assert_eq!(host.document_text(), document, "the document stays");
    assert!(!host.pins().exists());
    let left: Vec<_> = fs::read_dir(host.run_dir())
        .into_iter()
        .flatten()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| !name.ends_with(".lock"))
        .collect();
    assert_eq!(left, Vec::<String>::new());
    assert!(host.processes().is_empty());

    let again = host.vnet("down");
    assert!(again.stderr.contains("down already"), "{}", again.stderr);
    assert!(is_cut_off(vms[0].netns(), v4(2)));
    host.vnet("up");
    assert!(reaches(vms[0].netns(), v4(2)));
}

/// No process of ours runs between commands: the kernel does it all.
#[test]
fn the_datapath_lives_without_a_process() {
    let (host, [one, two]) = Host::with_vms([1, 2]);
    assert_eq!(host.processes(), Vec::<String>::new());
    for address in two.addresses().both() {
        traffic::tcp(one.netns(), two.netns(), address, 1 << 20);
    }
}

/// After a reboot there is the document and nothing else: no device, no pins, nothing under /run.
#[test]
fn up_brings_everything_back_after_a_reboot() {
    let host = furnished();
    let listings =
        || ["port list", "network list", "mac list", "get"].map(|line| host.vnet(line).stdout);
    let before = listings();
    let (document, mac) = (host.document_text(), host.interface(host.switch()).mac);
    host.ip(&format!("link del {}", host.switch()));
    host.ip("link set up0 promisc off");
    forget_pins(&host);
    fs::remove_dir_all(host.run_dir()).unwrap();
    host.try_vnet("status").refused(3, &["not up"]);
    assert!(is_cut_off(host.vm(7).netns(), v4(1)));

    host.vnet("up");
    assert_eq!(listings(), before);
    assert_eq!(host.document_text(), document);
    assert_eq!(host.interface(host.switch()).mac, mac, "neighbours know it");
    let vm = host.vm(4);
    host.vnet("port add vm4");
    for number in [1, 2, 3, 100] {
        assert!(reaches(vm.netns(), v4(number)), "{number}");
    }
    let entry = host.whereabouts(Mac([2, 0, 0, 0, 0, 0xaa]), "blue");
    assert_eq!(entry.as_deref(), Some("vm3"));
}

/// Removes the pins by hand: programs go off their interfaces.
fn forget_pins(host: &Host) {
    let done = Command::new("rm").arg("-r").arg(host.pins()).status();
    assert!(done.unwrap().success());
}

/// The device was deleted under a running switch: commands say what to do, and that works.
#[test]
fn a_switch_whose_device_was_deleted_comes_back() {
    let (host, [one, two]) = Host::with_vms([1, 2]);
    host.ip(&format!("link del {}", host.switch()));
    for line in ["set ageing=100", "up"] {
        host.try_vnet(line)
            .refused(1, &[host.switch(), "gone", "down, then up"]);
    }
    host.vnet("down");
    host.vnet("up");
    assert!(reaches(one.netns(), two.addresses().v4()));
}

/// Pins of a switch whose state file is gone: half a switch, which `down` clears away.
#[test]
fn a_switch_whose_state_is_lost_goes_down() {
    let (host, [one, two]) = Host::with_vms([1, 2]);
    fs::remove_dir_all(host.run_dir()).unwrap();
    host.try_vnet("up")
        .refused(1, &["holds a datapath", "down"]);
    host.vnet("down");
    assert!(!host.pins().exists());
    assert!(host.interface("vm1").ingress.is_empty());
    host.vnet("up");
    assert!(reaches(one.netns(), two.addresses().v4()));
    // Nobody knew any more that the device was ours to delete.
    host.vnet("down");
    host.ip(&format!("link del {}", host.switch()));
}

#[test]
fn a_document_that_is_broken_stops_up_and_not_down() {
    let (host, [one, two]) = Host::with_vms([1, 2]);
    let good = host.document_text().unwrap();
    fs::write(host.document(), "schema = \"what\"\n[[").unwrap();
    let path = host.document().display().to_string();
    for line in ["up", "port add vm3", "port list"] {
        host.try_vnet(line).refused(1, &[&path, "edit the file"]);
    }
    assert!(reaches(one.netns(), two.addresses().v4()), "it runs on");
    host.vnet("down");
    fs::write(host.document(), good).unwrap();
    host.vnet("up");
    assert!(reaches(one.netns(), two.addresses().v4()));
}

#[test]
fn commands_while_the_switch_is_down_edit_the_document() {
    let host = Host::new();
    let vms = [1, 2].map(|number| host.vm(number));
    for line in ["network add blue --vlan 10", "port add vm1 --network blue"] {
        let ran = host.vnet(line);
        assert!(
            ran.stderr.contains("takes effect at `up`"),
            "{}",
            ran.stderr
        );
    }
    assert!(!host.pins().exists());
    host.vnet("port add vm2 --network blue");
    let rows = host.rows("port list", "ports");
    assert!(rows.iter().all(|row| row["state"] == "down"), "{rows:?}");
    for line in ["status", "stats", "events", "fdb list", "fdb flush"] {
        host.try_vnet(line).refused(3, &["not up", "up"]);
    }
    assert!(is_cut_off(vms[0].netns(), v4(2)));
    host.vnet("up");
    assert!(reaches(vms[0].netns(), v4(2)));
}

/// The document is for people to edit, too.
#[test]
fn up_takes_over_what_was_edited_by_hand() {
    let (host, [one, two]) = Host::with_vms([1, 2]);
    host.vnet("network add blue --vlan 10");
    let text = host.document_text().unwrap();
    // Beside other files, as an editor leaves them.
    host.vnet("port set vm2 --network blue");
    assert!(is_cut_off(one.netns(), two.addresses().v4()));
    fs::write(host.document(), format!("# by hand\n{text}")).unwrap();
    host.vnet("up");
    assert!(reaches(one.netns(), two.addresses().v4()));
    host.vnet("set ageing=100");
    let text = host.document_text().unwrap();
    assert!(text.starts_with("# by hand\n"), "comments stay: {text}");
}

fn state_of(host: &Host, port: &str) -> String {
    let rows = host.rows("port list", "ports");
    let row = rows.iter().find(|row| row["name"] == port);
    row.unwrap()["state"].as_str().unwrap().to_owned()
}

#[test]
fn a_port_whose_interface_is_absent_waits() {
    let (host, [one]) = Host::with_vms([1]);
    let warned = |ran: &Ran, name: &str| {
        assert!(ran.stderr.contains("warning"), "{}", ran.stderr);
        assert!(ran.stderr.contains(name), "{}", ran.stderr);
    };
    warned(&host.vnet("port add vm2"), "vm2");
    warned(&host.vnet("port add vm3"), "vm3");
    assert_eq!(state_of(&host, "vm2"), "waiting");
    assert_eq!(host.port_status("vm2")["state"], "waiting");

    let two = host.vm(2);
    assert_eq!(state_of(&host, "vm2"), "waiting");
    assert!(is_cut_off(one.netns(), v4(2)));
    // Any changing command, even one that changes nothing.
    let ran = host.vnet("network add blue --vlan 10");
    warned(&ran, "vm3");
    assert!(!ran.stderr.contains("vm2"), "{}", ran.stderr);
    assert_eq!(state_of(&host, "vm2"), "attached");
    assert!(reaches(one.netns(), two.addresses().v4()));

    let three = host.vm(3);
    assert_eq!(host.vnet("up").stderr, "");
    assert_eq!(state_of(&host, "vm3"), "attached");
    assert!(reaches(one.netns(), three.addresses().v4()));
}

/// A VM's interface goes when the VM does, and comes back as another one with the same name.
#[test]
fn an_interface_that_comes_back_is_attached_again() {
    let (host, [one]) = Host::with_vms([1]);
    let tap = Tap::create(&host, "tap2");
    host.vnet("port add tap2");
    let ear = Tap::create(&host, "tap3");
    host.vnet("port add tap3");
    let mac = Mac::of(22);
    let frame = Frame::new(mac, Mac::BROADCAST);
    tap.send(&frame);
    ear.expect(&frame);
    assert_eq!(host.whereabouts(mac, "default").unwrap(), "tap2");
    host.ip("link del tap2");
    assert_eq!(state_of(&host, "tap2"), "waiting");
    // What was learned there goes with the next command, and the counters begin anew.
    let warned = host.vnet("up");
    assert!(warned.stderr.contains("tap2"), "{}", warned.stderr);
    assert_eq!(host.whereabouts(mac, "default"), None);

    let tap = Tap::create(&host, "tap2");
    host.vnet("up");
    assert_eq!(state_of(&host, "tap2"), "attached");
    assert_eq!(host.interface("tap2").ingress.len(), 1);
    assert_eq!(host.counter("tap2", "vm", "rx_bytes"), 0);
    let frame = Frame::new(mac, Mac::BROADCAST);
    tap.send(&frame);
    ear.expect(&frame);
    drop(one);
}

/// Recreated before anybody looked: the name is the same, the interface is not.
#[test]
fn an_interface_that_was_replaced_is_attached_again() {
    let (host, []) = Host::with_vms([]);
    let tap = Tap::create(&host, "tap1");
    host.vnet("port add tap1 --mac 52:54:00:00:00:01");
    let ear = Tap::create(&host, "tap2");
    host.vnet("port add tap2");
    drop(tap);
    host.ip("link del tap1");
    let tap = Tap::create(&host, "tap1");
    assert_eq!(state_of(&host, "tap1"), "waiting", "the new one is no port");
    tap.send(&Frame::new(Mac::of(1), Mac::BROADCAST));
    ear.expect_nothing();
    host.vnet("up");
    let frame = Frame::new(Mac::of(1), Mac::BROADCAST);
    tap.send(&frame);
    ear.expect(&frame);
    tap.send(&Frame::new(Mac::of(2), Mac::BROADCAST));
    assert_eq!(host.drops("tap1", "mac_not_allowed"), 1);
}

#[test]
fn later_ups_add_and_never_reset() {
    let host = furnished();
    host.vnet("port set up0 --trunk blue --native default");
    host.vnet("port set vm1 --max-macs 3");
    let before = host.document_text();
    host.vnet("up --uplink up0");
    assert_eq!(host.document_text(), before);
    let other = host.station("up1", 101);
    host.vnet("up --uplink up1");
    let rows = host.rows("port list", "ports");
    let row = rows.iter().find(|row| row["name"] == "up1").unwrap();
    assert_eq!(
        (&row["kind"], &row["state"]),
        (&"uplink".into(), &"attached".into())
    );
    assert!(host.vnet("port show vm1").stdout.contains("MAX MACS"));
    assert!(reaches(other.netns(), v4(1)));
}

#[test]
fn sizes_of_tables_change_by_down_and_up() {
    let (host, [one, two]) = Host::with_vms([1, 2]);
    let ran = host.vnet("set fdb_size=2048 max_ports=64");
    for word in ["fdb_size", "max_ports", "`down` and `up`"] {
        assert!(ran.stderr.contains(word), "{}", ran.stderr);
    }
    assert_eq!(host.status()["tables_need_restart"], true);
    let ports = |host: &Host| -> u64 {
        let info = Command::new("bpftool")
            .args(["-j", "map", "show", "pinned"])
            .arg(host.version_dir().join("port_counters"))
            .output()
            .unwrap();
        let info: serde_json::Value = serde_json::from_slice(&info.stdout).unwrap();
        info["max_entries"].as_u64().unwrap()
    };
    assert_eq!(ports(&host), 1024);
    assert!(reaches(one.netns(), two.addresses().v4()));
    host.vnet("down");
    host.vnet("up");
    assert_eq!(host.status()["tables_need_restart"], false);
    assert_eq!(ports(&host), 64);
    assert!(reaches(one.netns(), two.addresses().v4()));
}

/// Whoever administers namespaces from outside names one, and everything else is the same.
#[test]
fn a_switch_in_another_namespace_is_named_from_outside() {
    let host = Host::new();
    let [one, two] = [1, 2].map(|number| host.vm(number));
    let vnet = |line: &str| {
        let mut command = Command::new(vnet_tests::host::binary());
        let line = format!("--netns {} {line}", host.netns().name());
        host.configure(&mut command, &line);
        Ran::of(&mut command).succeeded()
    };
    for line in ["up", "port add vm1", "port add vm2"] {
        vnet(line);
    }
    assert!(reaches(one.netns(), two.addresses().v4()));
    assert!(vnet("status").stdout.contains("is up"));
    // The same switch, seen from inside.
    assert_eq!(state_of(&host, "vm1"), "attached");
    vnet("down");
    assert!(is_cut_off(one.netns(), two.addresses().v4()));
}

/// A BPF file system elsewhere, mounted when it is not there yet.
#[test]
fn pins_may_be_elsewhere() {
    let host = Host::new();
    let [one, two] = [1, 2].map(|number| host.vm(number));
    let elsewhere = host.config_dir().with_file_name("bpf");
    let vnet = |line: &str| host.vnet(&format!("--bpffs {} {line}", elsewhere.display()));
    vnet("up");
    vnet("port add vm1");
    vnet("port add vm2");
    assert!(reaches(one.netns(), two.addresses().v4()));
    assert!(elsewhere.join("vnet").join(host.switch()).is_dir());
    assert!(!host.pins().exists(), "nothing in {BPFFS}");
    vnet("down");
    assert!(!elsewhere.join("vnet").exists());
    let unmounted = Command::new("umount").arg(&elsewhere).status();
    assert!(unmounted.unwrap().success());
}

/// Two switches on one host share nothing.
#[test]
fn two_switches_are_two_networks() {
    let (host, [one, two]) = Host::with_vms([1, 2]);
    let other = format!("{}b", host.switch());
    let [three, four] = [3, 4].map(|number| host.vm(number));
    host.vnet(&format!("--switch {other} up"));
    for port in ["vm3", "vm4"] {
        host.vnet(&format!("--switch {other} port add {port}"));
    }
    assert!(reaches(one.netns(), two.addresses().v4()));
    assert!(reaches(three.netns(), four.addresses().v4()));
    assert!(is_cut_off(one.netns(), v4(3)));
    assert!(is_cut_off(four.netns(), v4(2)));
    let before = host.fingerprint();
    host.vnet(&format!("--switch {other} down"));
    assert_eq!(host.fingerprint().pins, before.pins);
    assert!(reaches(one.netns(), two.addresses().v4()));
    assert!(is_cut_off(three.netns(), v4(4)));
}

/// Commands wait for each other, and what each of them asked for is done.
#[test]
fn commands_at_the_same_time_all_land() {
    let host = Host::up();
    let taps: Vec<_> = (0..12)
        .map(|number| Tap::create(&host, &format!("tap{number}")))
        .collect();
    thread::scope(|scope| {
        for number in 0..12 {
            let host = &host;
            scope.spawn(move || host.vnet(&format!("port add tap{number} --max-macs {number}")));
        }
        scope.spawn(|| host.vnet("network add blue --vlan 10"));
        scope.spawn(|| host.vnet("up"));
    });
    let rows = host.rows("port list", "ports");
    assert_eq!(rows.len(), 13, "{rows:?}");
    assert!(
        rows.iter().all(|row| row["state"] == "attached"),
        "{rows:?}"
    );
    for number in 0..12 {
        let name = format!("tap{number}");
        let row = rows
            .iter()
            .find(|row| row["name"] == name.as_str())
            .unwrap();
        assert_eq!(row["max_macs"], number, "{name}");
    }
    let frame = Frame::new(Mac::of(1), Mac::BROADCAST);
    taps[0].send(&frame);
    for tap in &taps[1..] {
        tap.expect(&frame);
    }
    assert_eq!(host.rows("network list", "networks").len(), 2);
}

/// Several processes that bring the same switch up make one of it.
#[test]
fn ups_at_the_same_time_are_one() {
    let host = Host::new();
    let [one, two] = [1, 2].map(|number| host.vm(number));
    thread::scope(|scope| {
        for number in [1, 2] {
            let host = &host;
            scope.spawn(move || host.vnet(&format!("port add vm{number}")));
            scope.spawn(|| host.vnet("up"));
        }
    });
    wait::until("both are attached", || {
        ["vm1", "vm2"]
            .iter()
            .all(|port| state_of(&host, port) == "attached")
    });
    assert!(reaches(one.netns(), two.addresses().v4()));
}

/// Pings of others do not notice while ports, networks and limits change: every generation of the
/// tables is whole.
#[test]
fn changes_lose_no_frame_of_others() {
    let (host, [one, two, three]) = Host::with_vms([1, 2, 3]);
    host.vnet("network add blue --vlan 10");
    for address in two.addresses().both() {
        assert!(reaches(one.netns(), address));
    }
    thread::scope(|scope| {
        let pings = two.addresses().both().map(|address| {
            let from = one.netns();
            scope.spawn(move || traffic::ping(from, address, 1000, 5, ""))
        });
        for round in 0..10 {
            for line in [
                "port set vm3 --network blue",
                "port set vm3 --trunk blue=30 --native default",
                &format!("network add net{round} --vlan {}", 100 + round),
                &format!("port set vm3 --network default --max-macs {round}"),
                &format!("mac deny 02:00:00:00:00:{round:02x}"),
            ] {
                host.vnet(line);
            }
        }
        for ping in pings {
            let pings = ping.join().unwrap();
            assert_eq!((pings.sent, pings.received), (1000, 1000));
        }
    });
    assert!(reaches(one.netns(), three.addresses().v4()));
}

/// A port that joins and leaves under traffic disturbs nobody else, either.
#[test]
fn ports_that_come_and_go_lose_no_frame_of_others() {
    let (host, [one, two]) = Host::with_vms([1, 2]);
    let phys = host.phys();
    host.vm(3);
    for to in [&two, &phys] {
        let _ = reaches(one.netns(), to.addresses().v4());
    }
    thread::scope(|scope| {
        let from = one.netns();
        let ping = scope.spawn(move || traffic::ping(from, v4(2), 800, 5, ""));
        for _ in 0..6 {
            for line in [
                "port add vm3",
                "port add up0 --uplink",
                "port del vm3",
                "port del up0",
            ] {
                host.vnet(line);
            }
        }
        let pings = ping.join().unwrap();
        assert_eq!((pings.sent, pings.received), (800, 800));
    });
}
