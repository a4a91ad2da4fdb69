//! `vnet-user` killed or refused at every step of what it does: what the datapath enforces is the old
//! configuration or the new one and never a mixture, and the next command says which it found and
//! makes everything one again.
//!
//! A step is a system call by which something is changed: maps, programs, links, interfaces, files
//! (see `host::killed`). The sweeps take every n-th, from a start that differs from sweep to sweep;
//! with VNET_EVERY_STEP=1 they take every one.

use std::{collections::BTreeMap, env, fs};

use vnet_tests::{
    host::{Enforced, Host, InterfaceFacts, Mac, Step},
    wire::{Frame, Tap, Wire as _},
};

/// Most steps of a sweep, unless every one is asked for.
const AT_MOST: usize = 18;

/// The machine that the new document denies.
const DENIED: Mac = Mac::of(2);

const OLD: &str = "# the old one\nschema = 1\n\n[switch]\nfail = 'open'\n\n\
                   [[network]]\nname = 'blue'\nvlan = 10\n\n\
                   [[port]]\nname = 'tap1'\n\n[[port]]\nname = 'tap2'\n\n\
                   [[port]]\nname = 'tap3'\nnetwork = 'blue'\n\n[[port]]\nname = 'tap4'\n";

/// A port on another network, one that comes, one that goes, an address denied and one that is
/// static, a gateway; and what happens without vnet.
const NEW: &str = "# the new one\nschema = 1\n\n\
                   [[network]]\nname = 'blue'\nvlan = 10\n\n\
                   [[network]]\nname = 'lan'\ngateway = ['10.99.0.1/24']\n\n\
                   [[port]]\nname = 'tap1'\n\n[[port]]\nname = 'tap2'\n\n\
                   [[port]]\nname = 'tap3'\n\n[[port]]\nname = 'tap5'\nmax_macs = 7\n\n\
                   [[fdb]]\nmac = '02:00:00:00:00:aa'\nnetwork = 'default'\nport = 'tap1'\n\n\
                   [mac]\ndeny = ['52:54:00:00:00:02']\n";

/// Those of `steps` that a sweep takes.
fn sampled(name: &str, steps: Vec<Step>) -> Vec<Step> {
    let all = steps.len();
    let every = env::var_os("VNET_EVERY_STEP").is_some();
    let stride = if every { 1 } else { all.div_ceil(AT_MOST) };
    // Another part of them each time.
    let start = std::process::id() as usize % stride;
    let taken: Vec<_> = steps.into_iter().skip(start).step_by(stride).collect();
    eprintln!("{name}: {} of {all} steps", taken.len());
    taken
}

/// A host with five taps.
struct World {
    host: Host,
    taps: [Tap; 5],
}

impl World {
    fn new() -> Self {
        let host = Host::new();
        let taps = [1, 2, 3, 4, 5].map(|number| Tap::create(&host, &format!("tap{number}")));
        fs::create_dir_all(host.config_dir()).unwrap();
        for (name, text) in [("old", OLD), ("new", NEW)] {
            fs::write(host.config_dir().join(name), text).unwrap();
        }
        Self { host, taps }
    }

    /// The command that applies a document.
    fn apply(&self, name: &str) -> String {
        format!(
            "config apply {}",
            self.host.config_dir().join(name).display()
        )
    }

    /// Whether frames are treated as the new document says: both in what network a port is and in
    /// who may send.
    #[track_caller]
    fn is_new_to_frames(&self) -> bool {
        let [one, two, three, ..] = &self.taps;
        for tap in &self.taps {
            while tap.receive_bytes().is_some() {}
        }
        let denied = Frame::new(DENIED, Mac::BROADCAST);
        two.send(&denied);
        let frame = Frame::new(Mac::of(1), Mac::BROADCAST);
        one.send(&frame);
        // Sent after the other: what that was to reach it has reached.
        two.expect(&frame);
        let heard = |tap: &Tap, wanted: &Frame| {
            std::iter::from_fn(|| tap.receive()).any(|frame| frame == *wanted)
        };
        let (reaches_three, may_send) = (heard(three, &frame), heard(one, &denied));
        assert_ne!(
            reaches_three, may_send,
            "a mixture: tap3 {reaches_three}, {DENIED} {may_send}"
        );
        reaches_three
    }
}

/// A document that is in force, with everything that goes with it.
#[derive(Clone, Debug)]
struct InForce {
    document: String,
    tables: Enforced,
    interfaces: BTreeMap<String, InterfaceFacts>,
    fixed: Vec<String>,
}

impl InForce {
    fn of(host: &Host) -> Self {
        let mut interfaces = host.interfaces();
        // The gateway's are made anew each time, the other end with an address that the kernel draws.
        for (name, facts) in &mut interfaces {
            let is_made = !name.starts_with("tap") && *name != host.switch();
            if is_made {
                facts.mac.clear();
            }
        }
        let fixed = host.fdb();
        let fixed = fixed.iter().filter(|row| row.kind == "static");
        Self {
            document: host.document_text().unwrap(),
            tables: host.enforced(),
            interfaces,
            fixed: fixed.map(|row| format!("{row:?}")).collect(),
        }
    }

    #[track_caller]
    fn assert_same(&self, host: &Host, after: &str) {
        let now = Self::of(host);
        assert_eq!(now.document, self.document, "{after}");
        assert_eq!(now.interfaces, self.interfaces, "{after}");
        assert_eq!(now.fixed, self.fixed, "{after}");
        assert_eq!(
            now.tables.difference(&self.tables),
            Vec::<String>::new(),
            "{after}"
        );
    }
}

/// What is found after a kill, and what the next `up` makes of it.
#[track_caller]
fn check_and_mend(world: &World, [old, new]: [&InForce; 2], after: &str) {
    let host = &world.host;
    let document = host.document_text().unwrap();
    let tables = host.enforced();
    let is_new = tables.difference(&new.tables).is_empty();
    assert!(
        is_new || tables.difference(&old.tables).is_empty(),
        "{after}: neither the old nor the new tables: {:?}",
        tables.difference(&old.tables)
    );
    assert_eq!(world.is_new_to_frames(), is_new, "{after}");
    let right = if document == new.document { new } else { old };
    assert_eq!(document, right.document, "{after}");
    assert!(is_new || document == old.document, "{after}: too early");

    let up = host.vnet("up");
    let said = up.stderr.contains("a change was interrupted");
    if is_new && document == old.document {
        assert!(
            said && up.stderr.contains("tables were in force"),
            "{after}: `up` does not say what it found: {:?}",
            up.stderr
        );
    } else if said {
        assert!(
            up.stderr.contains("before it came into force"),
            "{after}: {:?}",
            up.stderr
        );
        assert_eq!(document, old.document, "{after}: it was complete");
    }
    right.assert_same(host, after);
    assert_eq!(world.is_new_to_frames(), document == new.document);
    let again = host.vnet("up");
    assert!(
        !again.stderr.contains("interrupted"),
        "said once: {again:?}"
    );
    let staged = format!(".{}.toml.new", host.switch());
    assert!(!host.config_dir().join(staged).exists(), "{after}");
}

/// The steps of the shortest of three runs: what is written is what changes, which is all the first time,
/// and a busy machine is waited for in steps that another run does not have.
fn in_every_run(count: impl Fn() -> Vec<Step>) -> Vec<Step> {
    let runs = [count(), count(), count()];
    let shortest = runs.into_iter().min_by_key(Vec::len);
    shortest.unwrap_or_default()
}

/// Kills `line`, which makes `old` into `new`, at steps, and puts `old` back after each.
fn sweep(world: &World, name: &str, line: &str, prepare: &dyn Fn()) {
    let host = &world.host;
    prepare();
    let old = InForce::of(host);
    let steps = in_every_run(|| {
        prepare();
        host.steps(line)
    });
    let new = InForce::of(host);
    assert!(!old.tables.difference(&new.tables).is_empty());
    let (mut killed, mut at_new) = (0, 0);
    for step in sampled(name, steps) {
        prepare();
        let ended = host.kill_at(line, &step);
        killed += u32::from(ended.killed);
        let after = format!("{name}, killed at {step:?}");
        at_new += u32::from(!host.enforced().difference(&old.tables).is_empty());
        check_and_mend(world, [&old, &new], &after);
    }
    eprintln!("{name}: killed {killed} times, {at_new} times with the new tables in force");
    assert!(killed > 10 && at_new > 0 && at_new < killed);
}

#[test]
fn apply_killed_anywhere_is_the_old_or_the_new_document() {
    let world = World::new();
    fs::copy(world.host.config_dir().join("old"), world.host.document()).unwrap();
    world.host.vnet("up");
    let (there, back) = (world.apply("new"), world.apply("old"));
    sweep(&world, "config apply", &there, &|| {
        if world.host.document_text().unwrap() != OLD {
            world.host.vnet(&back);
        }
    });
}

/// A call that fails, whichever: the command fails and everything is as before, or it does without and
/// everything is as it should be. Reading the tables back is among the calls.
#[test]
fn apply_refused_anywhere_is_the_old_or_the_new_document() {
    let world = World::new();
    let host = &world.host;
    fs::copy(host.config_dir().join("old"), host.document()).unwrap();
    host.vnet("up");
    let (there, back) = (world.apply("new"), world.apply("old"));
    // As in `sweep`.
    host.vnet(&there);
    host.vnet(&back);
    let old = InForce::of(host);
    let steps = host.steps_and_looks(&there);
    let new = InForce::of(host);
    let (mut failed, mut done) = (0, 0);
    for step in sampled("config apply, with errors", steps) {
        host.vnet(&back);
        let ended = host.fail_at(&there, &step);
        let after = format!("failed at {step:?}: {}", ended.stderr);
        if ended.code == Some(0) {
            done += 1;
            new.assert_same(host, &after);
        } else {
            failed += 1;
            assert!(ended.stderr.contains("error: "), "{after}");
            old.assert_same(host, &after);
        }
        assert_eq!(world.is_new_to_frames(), ended.code == Some(0), "{after}");
    }
    eprintln!("config apply: {failed} refused, {done} done without");
    assert!(failed > 5, "{failed} refused, {done} done without");
}

#[test]
fn rollback_killed_anywhere_is_one_document_or_the_other() {
    let world = World::new();
    fs::copy(world.host.config_dir().join("old"), world.host.document()).unwrap();
    world.host.vnet("up");
    let there = world.apply("new");
    // What is rolled back to is the document before: the roles are the other way round.
    sweep_back(&world, &there);
}

/// Sweeps `config rollback` from the new document, which `there` applies, to the old one.
fn sweep_back(world: &World, there: &str) {
    let host = &world.host;
    let prepare = || {
        let back = world.apply("old");
        host.vnet(&back);
        host.vnet(there);
    };
    let old = InForce::of(host);
    prepare();
    let new = InForce::of(host);
    let steps = host.steps("config rollback");
    old.assert_same(host, "rolled back");
    let mut killed = 0;
    for step in sampled("config rollback", steps) {
        prepare();
        killed += u32::from(host.kill_at("config rollback", &step).killed);
        let after = format!("config rollback, killed at {step:?}");
        let document = host.document_text().unwrap();
        let found = host.enforced();
        let is_old = found.difference(&old.tables).is_empty();
        assert!(
            is_old || found.difference(&new.tables).is_empty(),
            "{after}: a mixture: {:?}",
            found.difference(&new.tables)
        );
        assert_eq!(world.is_new_to_frames(), !is_old, "{after}");
        assert!(is_old || document == NEW, "{after}: too early");
        // What was to be done is done by the same command again.
        host.vnet("config rollback");
        let done = if document == OLD { &new } else { &old };
        done.assert_same(host, &after);
    }
    assert!(killed > 10);
}

/// Where the daemon would take back what nobody confirms, and applying it was killed: nothing waits,
/// and other changes are not refused.
#[test]
fn apply_to_be_confirmed_killed_anywhere_leaves_nothing_waiting() {
    let world = World::new();
    let host = &world.host;
    fs::copy(host.config_dir().join("old"), host.document()).unwrap();
    let _daemon = host.daemon();
    let old = InForce::of(host);
    let line = format!("{} --confirm 600", world.apply("new"));
    let steps = host.steps(&line);
    host.vnet("config rollback");
    old.assert_same(host, "taken back");
    let mut killed = 0;
    for step in sampled("config apply --confirm", steps) {
        killed += u32::from(host.kill_at(&line, &step).killed);
        let after = format!("killed at {step:?}");
        if host.document_text().unwrap() == NEW {
            host.try_vnet("network add red")
                .refused(1, &["waits to be confirmed"]);
            host.vnet("config rollback");
        } else {
            host.try_vnet("config confirm")
                .refused(1, &["nothing waits"]);
            host.vnet("up");
        }
        old.assert_same(host, &after);
        host.try_vnet("config confirm")
            .refused(1, &["nothing waits"]);
    }
    assert!(killed > 10);
}

/// What is on the host besides the switch, which `down` gives back.
#[track_caller]
fn assert_nothing_left(host: &Host, before: &BTreeMap<String, InterfaceFacts>, after: &str) {
    assert_eq!(&host.interfaces(), before, "{after}");
    assert!(!host.pins().exists(), "{after}: pins");
    let left: Vec<_> = fs::read_dir(host.run_dir())
        .into_iter()
        .flatten()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| !name.ends_with(".lock"))
        .collect();
    assert_eq!(left, Vec::<String>::new(), "{after}");
}

/// Kills `line` at steps; half of the time the next `up` makes a whole switch of what it left, and
/// then, or else at once, `down` leaves nothing of it.
fn sweep_lifecycle(world: &World, line: &str, prepare: &dyn Fn()) {
    let host = &world.host;
    let before = host.interfaces();
    let kept: Vec<_> = ["arp_ignore", "arp_announce"].into();
    let sysctls = || -> Vec<String> {
        let value = |key| {
            let path = format!("/proc/sys/net/ipv4/conf/{}/{key}", host.switch());
            host.sh(&format!("cat {path} 2>/dev/null || true"))
        };
        kept.iter().map(value).collect()
    };
    let sysctls_before = sysctls();
    let count = || {
        prepare();
        let steps = host.steps(line);
        host.vnet("down");
        assert_nothing_left(host, &before, line);
        steps
    };
    let steps = in_every_run(count);
    let mut killed = 0;
    for (number, step) in sampled(line, steps).into_iter().enumerate() {
        prepare();
        killed += u32::from(host.kill_at(line, &step).killed);
        let after = format!("{line}, killed at {step:?}");
        if number % 2 == 0 {
            let up = host.try_vnet("up");
            assert_eq!(up.code, 0, "{after}: {}", up.stderr);
            assert_eq!(host.status()["state"], "up", "{after}");
            assert!(world.is_new_to_frames(), "{after}");
        }
        let down = host.try_vnet("down");
        assert_eq!(down.code, 0, "{after}: {}", down.stderr);
        assert_nothing_left(host, &before, &after);
        assert_eq!(sysctls(), sysctls_before, "{after}");
        assert_eq!(host.document_text().unwrap(), NEW, "{after}");
    }
    assert!(killed > 10);
}

#[test]
fn up_killed_anywhere_is_mended_by_the_next() {
    let world = World::new();
    fs::copy(world.host.config_dir().join("new"), world.host.document()).unwrap();
    sweep_lifecycle(&world, "up", &|| {});
}

#[test]
fn down_killed_anywhere_is_finished_by_the_next() {
    let world = World::new();
    fs::copy(world.host.config_dir().join("new"), world.host.document()).unwrap();
    sweep_lifecycle(&world, "down", &|| drop(world.host.vnet("up")));
}

/// A bridge that was there before is as it was, whatever was interrupted.
#[test]
fn an_adopted_bridge_is_given_back_by_whoever_comes_next() {
    let world = World::new();
    let host = &world.host;
    fs::copy(host.config_dir().join("new"), host.document()).unwrap();
    host.ip(&format!("link add {} type bridge", host.switch()));
    host.foreign_bridge(host.switch());
    let address = "address 02:00:00:00:00:77";
    host.ip(&format!("link set {} {address} up", host.switch()));
    sweep_lifecycle(&world, "up", &|| {});
    sweep_lifecycle(&world, "down", &|| drop(host.vnet("up")));
    host.ip(&format!("link del {}", host.switch()));
}
