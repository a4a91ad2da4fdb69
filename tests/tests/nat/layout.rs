//! A datapath of another layout, as a new version of vnet may find it: it runs on, whoever would take
//! it down hears what that costs, and `down` takes all of it away.

use std::{
    fs,
    io::Write as _,
    process::{Command, Stdio},
};

use vnet_tests::{
    host::{Host, binary},
    nat::{Connection, Lab, PHYS},
};

use crate::at;

/// Makes the datapath one of another version, as far as this one can tell.
fn estrange(host: &Host) {
    let own = host.version_dir();
    fs::rename(&own, own.with_file_name("v1")).unwrap();
}

/// Types `up` at a terminal and answers what it asks. Returns what the terminal shows, and whether it
/// was done.
fn up_at_terminal(host: &Host, answer: &str) -> (String, bool) {
    let line = format!(
        "{} --config-dir {} up",
        binary().display(),
        host.config_dir().display()
    );
    let mut command = Command::new("script");
    xtask::netns::start_inside(&mut command, host.netns().name()).unwrap();
    command
        .args(["-q", "-e", "-c", &line, "/dev/null"])
        .env("VNET_SWITCH", host.switch())
        .env("VNET_RUN_DIR", host.run_dir())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    let mut running = command.spawn().unwrap();
    let mut keyboard = running.stdin.take().unwrap();
    writeln!(keyboard, "{answer}").unwrap();
    let done = running.wait_with_output().unwrap();
    drop(keyboard);
    let shown = String::from_utf8_lossy(&done.stdout).into_owned();
    (shown, done.status.success())
}

#[test]
fn another_layout_runs_on_until_somebody_agrees() {
    let lab = Lab::masquerading("");
    let host = &lab.host;
    let vm = lab.vm(11);
    let open = || Connection::open(vm.netns(), 0, lab.phys.netns(), at(PHYS.v4.into(), 0));
    let mut connections = [open(), open(), open()];
    let size = host.vnet("set flow_size=131072").stderr;
    assert!(size.contains("forget 3 connections and"), "{size}");
    estrange(host);
    let lost = "3 connections and";
    for line in ["up", "daemon"] {
        host.try_vnet(line)
            .refused(1, &["v1", "another version", lost, "addresses", "down"]);
    }
    let (shown, done) = up_at_terminal(host, "n");
    assert!(shown.contains(lost) && shown.contains("[y/N]"), "{shown}");
    assert!(!done, "{shown}");
    host.try_vnet("status").refused(3, &[]);
    for connection in &mut connections {
        connection.exchange(10_000, 10_000);
    }

    let (shown, done) = up_at_terminal(host, "y");
    assert!(done, "{shown}");
    assert_eq!(
        host.interface("up0").ingress.len(),
        1,
        "the old ones are gone"
    );
    assert!(!host.pins().join("v1").exists());
    open().exchange(10_000, 10_000);

    // Without a terminal, as the refusal says.
    estrange(host);
    host.vnet("down");
    assert!(host.interface("up0").ingress.is_empty());
    assert!(!host.pins().exists());
    host.vnet("up");
    open().exchange(10_000, 10_000);
}
