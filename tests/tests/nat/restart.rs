//! The daemon is killed, the switch is brought up once more, and another build of `vnet-user` takes
//! over: not a packet is lost, no connection is reset, and nothing is forgotten.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use aya::programs::ProgramInfo;
use vnet_tests::{
    host::{BPFFS, Host, Ran, binary},
    nat::{Connection, FlowRow, Lab, PHYS},
    traffic::{self, reaches},
    wait,
};
use vnet_user::datapath::{maps, object::PROGRAMS, pins::Pins};

use crate::{Done, at};

/// Connections that do nothing, through the gateway and between VMs.
const TRANSLATED: usize = 900;
const BRIDGED: usize = 100;

/// Bytes of each connection that runs all the time.
const BULK: u64 = 64 << 20;

/// Pings, one a millisecond.
const PINGS: u32 = 8000;

/// Another build: the program with another object in it. One letter of what the object says of its
/// compiler is another, which is as good as any difference: the object's fingerprint tells builds
/// apart, and every program is loaded anew.
fn other_build(dir: &Path) -> PathBuf {
    /// e_machine of an ELF file, and its place in the head (linux/elf-em.h, elf(5)).
    const EM_BPF: u16 = 247;
    const MACHINE: usize = 18;
    const COMPILER: &[u8] = b"LLVM (rustc version ";

    let mut bytes = fs::read(binary()).unwrap();
    let is_object = |at: &usize| {
        bytes[*at..].starts_with(b"\x7fELF")
            && bytes[at + MACHINE..].starts_with(&EM_BPF.to_le_bytes())
    };
    let object = (0..bytes.len() - 64).find(is_object);
    let object = object.expect("the object is in the program");
    let compiler = bytes[object..]
        .windows(COMPILER.len())
        .position(|window| window == COMPILER)
        .expect("the object names its compiler");
    bytes[object + compiler] = b'l';
    let path = dir.join("vnet-user");
    fs::write(&path, bytes).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

/// Runs `up` of a build.
fn up_with(host: &Host, build: &Path) {
    let mut command = Command::new(build);
    xtask::netns::start_inside(&mut command, host.netns().name()).unwrap();
    host.configure(&mut command, "up");
    let ran = Ran::of(&mut command).succeeded();
    assert_eq!(ran.stderr, "");
}

/// The programs that are pinned, by the kernel's numbers.
fn programs(host: &Host) -> BTreeSet<u32> {
    let pins = Pins::new(Path::new(BPFFS), host.switch());
    let id = |name: &&str| ProgramInfo::from_pin(pins.program(name)).unwrap().id();
    PROGRAMS.iter().map(id).collect()
}

fn is_loaded(program: u32) -> bool {
    let shown = Command::new("bpftool")
        .args(["prog", "show", "id", &program.to_string()])
        .output();
    shown.unwrap().status.success()
}

/// The only value of a map: how many entries a table has, stale ones too.
fn count(host: &Host, map: &str) -> u32 {
    let pins = Pins::new(Path::new(BPFFS), host.switch());
    let map = maps::array::<u32>(&pins, map).unwrap();
    map.get(&0, 0).unwrap()
}

/// What `flow list` says of the connections that `ours` have, ages and counters aside.
fn flows(lab: &Lab, ours: &[Connection]) -> BTreeSet<String> {
    let clients: BTreeSet<_> = ours.iter().map(|one| one.seen.client).collect();
    let said = |row: FlowRow| {
        let state = (row.state().to_owned(), row.rule(), row.vm().to_owned());
        let ends = (row.source(), row.as_source(), row.destination());
        format!(
            "{} {ends:?} {:?} {state:?}",
            row.proto(),
            row.as_destination()
        )
    };
    let rows = lab.flows("--proto tcp").into_iter();
    rows.filter(|row| clients.contains(&row.source()))
        .map(said)
        .collect()
}

#[test]
fn nobody_notices_a_restart_or_an_upgrade() {
    let lab = Lab::masquerading("");
    let host = &lab.host;
    let dir = tempfile::tempdir().unwrap();
    let other = other_build(dir.path());
    host.vnet("set ageing=10 timeouts.icmp=1");
    let [one, two, passing] = [11, 12, 13].map(|number| lab.vm(number));
    let phys = lab.phys.netns();

    let mut idle: Vec<Connection> = Vec::new();
    for n in 0..TRANSLATED {
        let address = PHYS.both()[n % 2];
        idle.push(Connection::open(one.netns(), 0, phys, at(address, 0)));
    }
    for n in 0..BRIDGED {
        let address = two.address.both()[n % 2];
        idle.push(Connection::open(
            one.netns(),
            0,
            two.netns(),
            at(address, 0),
        ));
    }
    let flows_before = flows(&lab, &idle);
    assert_eq!(flows_before.len(), TRANSLATED);
    for to in [PHYS.v4.into(), two.address.v4.into()] {
        assert!(reaches(one.netns(), to));
    }
    let fdb_before = host.fdb();
    let mut seen_programs = programs(host);

    let (done, bytes) = (AtomicBool::new(false), AtomicU64::new(0));
    let (mut restarts, mut upgrades, mut slowest) = (0, 0, Duration::ZERO);
    let pings = thread::scope(|scope| {
        let bulk = scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                traffic::tcp(two.netns(), phys, PHYS.v4.into(), BULK);
                bytes.fetch_add(BULK, Ordering::Relaxed);
            }
        });
        let pinging: Vec<_> = [PHYS.v4.into(), two.address.v4.into()]
            .into_iter()
            .map(|to| {
                let from = one.netns();
                scope.spawn(move || traffic::ping(from, to, PINGS, 1, ""))
            })
            .collect();
        let ended = Done(&done);
        while !pinging.iter().all(thread::ScopedJoinHandle::is_finished) {
            // What the daemon begins with is what `up` does: its build's programs come back.
            let daemon = host.daemon();
            assert!(seen_programs.is_disjoint(&programs(host)) || restarts == 0);
            seen_programs.extend(programs(host));
            daemon.kill();
            restarts += 1;
            host.vnet("up");
            let began = Instant::now();
            up_with(host, &other);
            slowest = slowest.max(began.elapsed());
            assert!(seen_programs.is_disjoint(&programs(host)), "all are others");
            seen_programs.extend(programs(host));
            upgrades += 1;
        }
        drop(ended);
        bulk.join().unwrap();
        pinging
            .into_iter()
            .map(|pinging| pinging.join().unwrap())
            .collect::<Vec<_>>()
    });
    for pings in &pings {
        assert_eq!((pings.sent, pings.received), (PINGS, PINGS));
    }
    let upgraded = bytes.load(Ordering::Relaxed);
    eprintln!(
        "{restarts} restarts, {upgrades} upgrades and back, the slowest {slowest:?}; {} pings and \
         {} MiB of TCP meanwhile, nothing lost",
        2 * PINGS,
        upgraded >> 20,
    );
    assert!(restarts >= 2 && upgrades >= 2 && upgraded > 0);

    assert_eq!(flows(&lab, &idle), flows_before);
    let fdb = host.fdb();
    let forgotten: Vec<_> = fdb_before
        .iter()
        .filter(|row| !fdb.contains(row))
        // It had nothing to say for longer than addresses are kept.
        .filter(|row| row.port != passing.port())
        .collect();
    assert!(forgotten.is_empty(), "{forgotten:?} of {fdb:?}");
    for connection in &mut idle {
        connection.exchange(1000, 1000);
    }

    // A timer holds the program whose callback it calls: with every earlier program gone from the
    // kernel, the timers call the new ones'.
    let now = programs(host);
    wait::until("the programs of before are gone", || {
        !seen_programs
            .iter()
            .any(|id| !now.contains(id) && is_loaded(*id))
    });
    assert!(reaches(passing.netns(), PHYS.v4.into()));
    for map in ["flow_count", "fdb_count"] {
        let full = count(host, map);
        let swept = wait::within(Duration::from_secs(60), || {
            (count(host, map) < full).then_some(())
        });
        assert!(
            swept.is_some(),
            "nothing expires in {map}, which has {full}"
        );
    }
}
