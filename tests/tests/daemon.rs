//! The daemon: interfaces become ports as they come, what is not confirmed is taken back, and others
//! may ask it. Nothing that forwards a packet notices whether it runs.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::IpAddr,
    os::unix::{fs::PermissionsExt as _, net::UnixStream, process::CommandExt as _},
    path::PathBuf,
    process::Command,
    thread,
    time::Duration,
};

use serde_json::Value;
use vnet_tests::{
    adopted::{host_with, row, wait_attached, wait_gone},
    host::{Addresses, BPFFS, Host, Ran, binary},
    traffic::{self, is_cut_off, reaches},
    wait,
    wire::Tap,
};

/// The user and the group that have no rights at all.
const NOBODY: u32 = 65_534;

fn v4(number: u8) -> IpAddr {
    Addresses::new(number).v4()
}

fn network(row: &Value) -> &str {
    row["networks"][0]["network"].as_str().unwrap()
}

/// What libvirt, Proxmox and `qemu -netdev bridge` do: the interface is put into the bridge.
#[test]
fn a_member_of_the_bridge_becomes_a_port() {
    let host = Host::new();
    let vms = [1, 2].map(|number| host.vm(number));
    let daemon = host.daemon();
    let before = host.interface("vm1");
    let join = |port: &str| host.ip(&format!("link set {port} master {}", host.switch()));
    for vm in &vms {
        join(vm.port());
        wait_attached(&host, vm.port());
    }
    assert!(reaches(vms[0].netns(), v4(2)));
    assert_eq!(host.interface("vm1").ingress.len(), 1);
    // It is nobody's document entry.
    assert!(!host.document_text().unwrap_or_default().contains("vm1"));

    // A command that knows nothing of the daemon's ports leaves them alone.
    host.vnet("network add blue --vlan 10");
    assert!(reaches(vms[0].netns(), v4(2)));

    for vm in &vms {
        host.ip(&format!("link set {} nomaster", vm.port()));
        wait_gone(&host, vm.port());
    }
    assert!(is_cut_off(vms[0].netns(), v4(2)));
    assert_eq!(host.interface("vm1"), before);

    join("vm1");
    wait_attached(&host, "vm1");
    daemon.stop();
    assert!(
        row(&host, "vm1").is_some(),
        "without the daemon it stays one"
    );
    host.vnet("down");
    assert_eq!(
        host.interfaces()
            .get("vm1")
            .map(|facts| facts.ingress.len()),
        Some(0)
    );
}

#[test]
fn profiles_say_what_an_interface_becomes() {
    let host = host_with(
        "schema = 1\n[[network]]\nname = 'web'\nvlan = 10\n[[network]]\nname = 'db'\nvlan = 20\n\
         [[port]]\nname = 'tap9'\nnetwork = 'db'\n\
         [[profile]]\nname = 'one'\nmatch = { mac = '52:54:00:aa:00:*' }\nnetwork = 'web'\n\
         max_macs = 2\n\
         [[profile]]\nname = 'taps'\nmatch = { name = 'tap*' }\nnetwork = 'db'\n",
    );
    let _daemon = host.daemon();
    let tap = |name: &str, mac: &str| {
        let tap = Tap::create(&host, name);
        host.ip(&format!("link set {name} address {mac}"));
        (tap, wait_attached(&host, name))
    };
    // As libvirt makes it: the guest's own address, with fe in front.
    let (_one, row_one) = tap("tap1", "fe:54:00:aa:00:01");
    wait::until("the profile of its address counts", || {
        row(&host, "tap1").is_some_and(|row| network(&row) == "web")
    });
    assert_eq!(row_one["kind"], "vm");
    assert_eq!(row(&host, "tap1").unwrap()["max_macs"], 2);
    let (_two, row) = tap("tap2", "52:54:00:bb:00:02");
    assert_eq!(network(&row), "db");
    assert_eq!(
        host.interfaces()["tap2"].master.as_deref(),
        Some(host.switch()),
        "it is a member now"
    );
    let (_nine, row) = tap("tap9", "52:54:00:aa:00:09");
    assert_eq!(network(&row), "db", "what is listed is what it says");
    let _other = Tap::create(&host, "vnic0");
    thread::sleep(Duration::from_millis(300));
    assert_eq!(self::row(&host, "vnic0"), None, "no profile is for it");
}

/// A VM that stops and starts has another interface of the same name.
#[test]
fn a_vm_that_starts_again_is_the_same_port() {
    let host = host_with(
        "schema = 1\n[[network]]\nname = 'web'\nvlan = 10\n\
         [[port]]\nname = 'tap7'\nnetwork = 'web'\n\
         [[profile]]\nname = 'taps'\nmatch = { name = 'tap*' }\nnetwork = 'web'\n",
    );
    let daemon = host.daemon();
    for name in ["tap7", "tap8"] {
        let mut before = None;
        for _ in 0..3 {
            let tap = Tap::create(&host, name);
            let now = wait_attached(&host, name);
            assert_eq!(network(&now), "web");
            assert_eq!(host.interface(name).ingress.len(), 1);
            let earlier = before.replace(now.clone());
            assert!(earlier.is_none_or(|earlier| earlier == now));
            drop(tap);
            host.ip(&format!("link del {name}"));
            wait::until("it is none any more", || {
                row(&host, name).is_none_or(|row| row["state"] == "waiting")
            });
        }
    }
    let links = host.version_dir().join("links");
    let left = || fs::read_dir(&links).unwrap().count();
    let ended = wait::within(Duration::from_secs(10), || (left() == 1).then_some(()));
    assert!(
        ended.is_some(),
        "there is something of those that went: {}\n{:?}",
        host.sh(&format!("ls {}; ip -o link", links.display())),
        daemon.log()
    );
}

/// Many at once, and more than there is room for.
#[test]
fn what_has_no_room_is_told_of_and_the_rest_works() {
    let host = host_with(
        "schema = 1\n[settings]\nmax_ports = 64\n\
         [[profile]]\nname = 'taps'\nmatch = { name = 'tap*' }\n",
    );
    let daemon = host.daemon();
    let taps: Vec<_> = (0..80)
        .map(|n| Tap::create(&host, &format!("tap{n}")))
        .collect();
    daemon.wait_said("max_ports=128");
    assert_eq!(host.rows("port list", "ports").len(), 63);
    drop(taps);
    for n in 0..20 {
        host.ip(&format!("link del tap{n}"));
    }
    for n in 20..80 {
        wait_attached(&host, &format!("tap{n}"));
    }
}

#[test]
fn there_is_one_daemon_a_switch() {
    let host = Host::new();
    let daemon = host.daemon();
    host.try_vnet("daemon").refused(1, &["another daemon"]);
    daemon.wait_notified("WATCHDOG=1");
    let log = daemon.stop();
    assert!(log.iter().any(|line| line.contains("stays up")), "{log:?}");
    assert_eq!(host.status()["state"], "up");
    assert!(!host.socket().exists());
}

/// `down` and `up` are the user's, with a daemon as without.
#[test]
fn the_daemon_follows_down_and_up() {
    let host = Host::new();
    let vm = host.vm(1);
    let _daemon = host.daemon();
    host.vnet("down");
    thread::sleep(Duration::from_millis(300));
    host.try_vnet("status").refused(3, &[]);
    host.vnet("up");
    host.ip(&format!("link set {} master {}", vm.port(), host.switch()));
    wait_attached(&host, vm.port());
}

fn document(host: &Host, name: &str, text: &str) -> PathBuf {
    let path = host.run_dir().join(name);
    fs::write(&path, text).unwrap();
    path
}

const BLUE: &str = "schema = 1\n[[network]]\nname = 'blue'\nvlan = 10\n";

fn has_blue(host: &Host) -> bool {
    let text = host.document_text().unwrap_or_default();
    let listed = host.rows("network list", "networks");
    let in_force = listed.iter().any(|row| row["name"] == "blue");
    assert_eq!(text.contains("blue"), in_force);
    in_force
}

#[test]
fn what_nobody_confirms_is_taken_back() {
    let host = Host::new();
    let daemon = host.daemon();
    let blue = document(&host, "blue.toml", BLUE);
    let apply = |seconds: u32| {
        host.vnet(&format!(
            "config apply {} --confirm {seconds}",
            blue.display()
        ));
        assert!(has_blue(&host));
    };
    // The process that applied it is gone, as a terminal that was cut off.
    apply(3);
    daemon.wait_said("not confirmed in time");
    assert!(!has_blue(&host));

    // Nothing else changes meanwhile, and nothing is lost.
    apply(600);
    host.try_vnet("network add red")
        .refused(1, &["waits to be confirmed", "config confirm"]);
    host.vnet("config confirm");
    host.vnet("network add red");
    assert!(has_blue(&host));
    host.try_vnet("config confirm")
        .refused(1, &["nothing waits"]);

    // Taken back at once.
    let plain = document(&host, "plain.toml", "schema = 1\n");
    host.vnet(&format!("config apply {} --confirm 600", plain.display()));
    assert!(!has_blue(&host));
    host.vnet("config rollback");
    assert!(has_blue(&host));
    assert!(host.document_text().unwrap().contains("red"));
}

/// The daemon that would have taken it back was killed: the next one does.
#[test]
fn a_new_daemon_takes_back_what_is_due() {
    let host = Host::new();
    let daemon = host.daemon();
    let blue = document(&host, "blue.toml", BLUE);
    host.vnet(&format!("config apply {} --confirm 3", blue.display()));
    daemon.kill();
    thread::sleep(Duration::from_millis(3500));
    assert!(has_blue(&host));
    let refused = document(&host, "refused.toml", "schema = 1\n[[port]]\nname = 'x'\n");
    host.try_vnet(&format!("config apply {} --confirm 9", refused.display()))
        .refused(3, &["daemon"]);
    let _daemon = host.daemon();
    assert!(!has_blue(&host), "before anything else");
}

/// Said again, it is neither put off nor kept.
#[test]
fn what_waits_goes_on_waiting() {
    let host = Host::new();
    let daemon = host.daemon();
    let tap = Tap::create(&host, "tap1");
    let text = format!("{BLUE}[[port]]\nname = 'tap1'\n");
    let apply = format!(
        "config apply {} --confirm 6",
        document(&host, "blue.toml", &text).display()
    );
    host.vnet(&apply);
    drop(tap);
    host.ip("link add other type bridge");
    host.foreign_bridge("other");
    // At once: the daemon would take one back that is in no bridge.
    host.ip("link set tap1 master other");
    let warned = host.vnet(&apply).stderr;
    assert!(warned.contains("tap1 is no port while"), "{warned}");
    host.ip("link set tap1 nomaster");
    daemon.wait_said("not confirmed in time");
    assert!(!has_blue(&host));
    host.ip("link del other");
}

/// The members of a bridge that was there before are ports again after `down` and `up`.
#[test]
fn an_adopted_bridge_is_adopted_again() {
    let host = Host::new();
    let vms = [1, 2].map(|number| host.vm(number));
    host.ip(&format!("link add {} type bridge", host.switch()));
    host.foreign_bridge(host.switch());
    host.ip(&format!("link set {} up", host.switch()));
    for vm in &vms {
        host.ip(&format!("link set {} master {}", vm.port(), host.switch()));
    }
    let _daemon = host.daemon();
    for _ in 0..2 {
        for vm in &vms {
            wait_attached(&host, vm.port());
        }
        assert!(reaches(vms[0].netns(), v4(2)));
        host.vnet("down");
        assert!(reaches(vms[0].netns(), v4(2)), "by the plain bridge");
        host.vnet("up");
    }
    host.vnet("down");
    host.ip(&format!("link del {}", host.switch()));
}

/// One that cannot be a port keeps nobody else from being one, and the daemon from nothing.
#[test]
fn what_cannot_be_adopted_stops_nobody() {
    let host = host_with("schema = 1\n[[profile]]\nname = 'all'\nmatch = { name = '*' }\n");
    host.ip("link add other type bridge");
    host.foreign_bridge("other");
    let vm = host.vm(1);
    let daemon = host.daemon();
    wait_attached(&host, vm.port());
    let late = host.vm(2);
    wait_attached(&host, late.port());
    assert!(reaches(vm.netns(), v4(2)));
    daemon.wait_said("other is not adopted");
    host.ip("link del other");
}

/// A document that is refused is not pending either.
#[test]
fn what_is_refused_is_not_waited_for() {
    let host = Host::new();
    let _daemon = host.daemon();
    host.vm(1);
    host.ip("link add other type bridge");
    host.foreign_bridge("other");
    host.ip("link set vm1 master other");
    let bad = document(&host, "bad.toml", "schema = 1\n[[port]]\nname = 'vm1'\n");
    host.try_vnet(&format!("config apply {} --confirm 9", bad.display()))
        .refused(1, &["vm1"]);
    host.vnet("network add red");
    host.ip("link set vm1 nomaster");
    host.ip("link del other");
}

/// A port that somebody takes into another bridge, as Proxmox does when a firewall is wanted, is none
/// while it is there; nobody else waits for it.
#[test]
fn a_port_in_another_bridge_keeps_nobody_waiting() {
    let host = host_with("schema = 1\n[[port]]\nname = 'vm1'\n[[port]]\nname = 'vm2'\n");
    let vms = [1, 2, 3].map(|number| host.vm(number));
    let daemon = host.daemon();
    wait_attached(&host, "vm1");
    host.ip("link add other type bridge");
    host.foreign_bridge("other");
    host.ip("link set vm1 master other");
    daemon.wait_said("vm1 is no port while");
    wait::until("it waits", || {
        row(&host, "vm1").unwrap()["state"] == "waiting"
    });
    host.ip(&format!("link set vm3 master {}", host.switch()));
    wait_attached(&host, "vm3");
    assert!(reaches(vms[1].netns(), v4(3)));
    host.vnet("network add blue --vlan 10");
    assert_eq!(host.interface("vm1").master.as_deref(), Some("other"));

    // Nor does the switch wait for it when it comes up.
    daemon.stop();
    host.vnet("down");
    let _daemon = host.daemon();
    host.ip("link set vm1 nomaster");
    wait_attached(&host, "vm1");
    assert!(reaches(vms[0].netns(), v4(2)));
}

/// A document that is moved away, as by who replaces it, takes nothing with it.
#[test]
fn a_document_that_is_gone_for_a_moment_takes_nothing_with_it() {
    let host = host_with("schema = 1\n[[port]]\nname = 'vm1'\n[[port]]\nname = 'vm2'\n");
    let vms = [1, 2].map(|number| host.vm(number));
    let daemon = host.daemon();
    wait_attached(&host, "vm2");
    let away = host.config_dir().join("away");
    fs::rename(host.document(), &away).unwrap();
    daemon.signal(libc::SIGHUP);
    daemon.wait_said("is gone");
    assert!(reaches(vms[0].netns(), v4(2)));
    fs::rename(&away, host.document()).unwrap();
    daemon.signal(libc::SIGHUP);
    let _tap = Tap::create(&host, "tap9");
    host.ip(&format!("link set tap9 master {}", host.switch()));
    wait_attached(&host, "tap9");
    assert!(reaches(vms[0].netns(), v4(2)));
}

/// What was not confirmed is taken back, whatever was made of the document since.
#[test]
fn a_spoiled_document_is_taken_back_too() {
    let host = host_with("schema = 1\n");
    let daemon = host.daemon();
    let new = document(&host, "new.toml", "schema = 1\n[[network]]\nname = 'red'\n");
    host.vnet(&format!("config apply {} --confirm 2", new.display()));
    fs::write(host.document(), "schema = 1\n[[network]\n").unwrap();
    daemon.wait_said("was not confirmed in time");
    assert_eq!(host.document_text().as_deref(), Some("schema = 1\n"));
}

/// Runs `vnet-user` as somebody without rights who may use the socket.
fn as_nobody(host: &Host, line: &str) -> Ran {
    let dir = tempfile::Builder::new()
        .permissions(fs::Permissions::from_mode(0o755))
        .tempdir()
        .unwrap();
    let program = dir.path().join("vnet-user");
    fs::copy(binary(), &program).unwrap();
    let mut command = Command::new(program);
    host.configure(&mut command, line);
    Ran::of(command.uid(NOBODY).gid(NOBODY))
}

/// Gives the socket to a group, as it is given to the group vnet where there is one.
fn open_to_nobody(host: &Host) {
    std::os::unix::fs::chown(host.socket(), None, Some(NOBODY)).unwrap();
    for dir in host.socket().ancestors().skip(1).take(2) {
        fs::set_permissions(dir, fs::Permissions::from_mode(0o755)).unwrap();
    }
}

#[test]
fn others_may_look_and_not_touch() {
    let host = Host::new();
    let vm = host.vm(1);
    host.vnet(&format!("port add {}", vm.port()));
    let daemon = host.daemon();
    let mode = fs::metadata(host.socket()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o660);
    as_nobody(&host, "status").refused(1, &["sudo"]);

    open_to_nobody(&host);
    // The VM may speak between two looks.
    wait::until("both see the same", || {
        let listed = as_nobody(&host, "fdb list -j").succeeded();
        listed.json() == host.vnet("fdb list -j").json()
    });
    let _ = as_nobody(&host, "status").succeeded();
    let before = host.document_text();
    as_nobody(&host, "network add red").refused(1, &["may only look", "vnet-admin"]);
    assert_eq!(host.document_text(), before);
    daemon.wait_said(&format!("uid {NOBODY}"));
    assert!(
        as_nobody(&host, "config diff /etc/shadow")
            .stdout
            .is_empty()
    );
}

/// Whatever somebody writes to the socket, the daemon lives and answers others.
#[test]
fn requests_are_bounded() {
    let host = Host::new();
    let _daemon = host.daemon();
    let ask = |bytes: &[u8]| {
        let mut stream = UnixStream::connect(host.socket()).unwrap();
        let _ = stream.write_all(bytes);
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer);
        answer
    };
    assert!(ask(b"{}\n").contains("reading a request"));
    let config_dir = host.config_dir();
    let config_dir = config_dir.to_str().unwrap();
    let place = [
        "--switch",
        host.switch(),
        "--config-dir",
        config_dir,
        "--bpffs",
        BPFFS,
    ];
    let look = |place: &[&str]| ask(format!("{{\"look\":{{\"place\":{place:?}}}}}\n").as_bytes());
    assert!(look(&place).contains("\"code\":0"));
    assert!(!look(&place[..2]).contains("\"code\":0"));
    let run = |args: &str| {
        let line = format!("{{\"run\":{{\"place\":{place:?},\"args\":[{args}]}}}}\n");
        ask(line.as_bytes())
    };
    assert!(run("\"status\"").contains(host.switch()));
    for refused in [
        "\"down\"",
        "\"events\",\"--follow\"",
        "\"port\",\"list\",\"--switch\",\"other\"",
        "\"config\",\"export\",\"--config-dir\",\"/etc\"",
        "\"doctor\",\"--bundle\",\"/etc/cron.d/x\"",
        "\"nonsense\"",
    ] {
        let answer: Value = serde_json::from_str(&run(refused)).unwrap();
        assert_ne!(answer["code"], 0, "{refused}: {answer}");
    }
    let endless = vec![b'x'; 40 << 20];
    assert!(!ask(&endless).contains("\"code\":0"));
    let idle: Vec<_> = (0..32)
        .map(|_| UnixStream::connect(host.socket()).unwrap())
        .collect();
    drop(idle);
    assert!(run("\"status\"").contains(host.switch()));
}

/// Killed, started again, `up` again: not one of a thousand pings a second is lost, no connection is
/// reset, and what was learned is there.
#[test]
fn nobody_notices_a_restart() {
    let (host, [one, two]) = Host::with_vms([1, 2]);
    let daemon = host.daemon();
    assert!(reaches(one.netns(), v4(2)));
    let learned = host.fdb();
    let mut daemon = Some(daemon);
    let mut restarts = 0;
    thread::scope(|scope| {
        let pinging = scope.spawn(|| traffic::ping(one.netns(), v4(2), 5000, 1, ""));
        let bulk = scope.spawn(|| traffic::tcp(one.netns(), two.netns(), v4(2), 200 << 20));
        while !pinging.is_finished() {
            match restarts % 3 {
                0 => daemon.take().unwrap().kill(),
                1 => {
                    daemon.take().unwrap().stop();
                }
                _ => daemon.take().unwrap().kill(),
            }
            host.vnet("up");
            daemon = Some(host.daemon());
            restarts += 1;
        }
        let pings = pinging.join().unwrap();
        assert_eq!(pings.received, pings.sent);
        bulk.join().unwrap();
    });
    assert!(restarts >= 3, "only {restarts} restarts");
    let now = host.fdb();
    for row in &learned {
        assert!(now.contains(row), "{row:?} is forgotten: {now:?}");
    }
}

/// A thousand documents later the daemon has no more memory and no more descriptors than before.
#[test]
fn nothing_leaks() {
    let host = Host::new();
    let daemon = host.daemon();
    let _tap = Tap::create(&host, "tap1");
    let documents = [
        document(&host, "a.toml", BLUE),
        document(&host, "b.toml", "schema = 1\n[[port]]\nname = 'tap1'\n"),
    ];
    let apply = |times: usize| {
        for n in 0..times {
            host.vnet(&format!("config apply {}", documents[n % 2].display()));
        }
        // It has looked at the last one.
        thread::sleep(Duration::from_millis(300));
    };
    apply(20);
    let (memory, descriptors) = daemon.usage();
    apply(1000);
    let (memory_now, descriptors_now) = daemon.usage();
    assert_eq!(descriptors_now, descriptors);
    assert!(
        memory_now < memory + (1 << 20),
        "{memory} bytes became {memory_now}"
    );
}
