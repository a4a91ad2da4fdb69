//! An independent STUN client and server judge the gateway: Debian's `stun` (RFC 3489) and coturn.

use std::{
    net::{IpAddr, UdpSocket},
    process::{Child, Stdio},
    time::Duration,
};

use vnet_tests::{
    nat::{Lab, PHYS, PHYS_TWO, Vm, udp},
    wait,
};
use xtask::paths::find_program;

use crate::at;

/// A running `turnserver`, ended with this value.
struct Server {
    child: Child,
    _dir: tempfile::TempDir,
}

impl Server {
    #[track_caller]
    fn start(lab: &Lab) -> Self {
        for program in ["turnserver", "stun"] {
            assert!(
                find_program(program).is_some(),
                "{program} is not installed\n  mend: cargo xtask setup"
            );
        }
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str| dir.path().join(name).display().to_string();
        let mut command = lab.phys.netns().command("turnserver").unwrap();
        let child = command
            .args([
                "-n",
                "--stun-only",
                "--no-auth",
                "--no-tls",
                "--no-dtls",
                "--no-cli",
            ])
            .args(["--listening-port", "3478", "--alt-listening-port", "3479"])
            .args(["--listening-ip", &PHYS.v4.to_string()])
            .args(["--listening-ip", &PHYS_TWO.v4.to_string()])
            .args([
                "--log-file",
                "stdout",
                "--pidfile",
                &file("pid"),
                "--db",
                &file("db"),
            ])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let server = Self { child, _dir: dir };
        let asker = udp(&lab.far, IpAddr::from([0; 4]), 0);
        wait::until("the STUN server answers", || answers(&asker));
        server
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself; there is nobody to tell.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Whether a binding request (RFC 8489, 5) is answered.
fn answers(asker: &UdpSocket) -> bool {
    let request = [&[0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42][..], &[7; 12]].concat();
    asker
        .set_read_timeout(Some(Duration::from_millis(200)))
        .unwrap();
    let _ = asker.send_to(&request, at(PHYS.v4.into(), 3478));
    asker.recv_from(&mut [0; 512]).is_ok()
}

/// What the client says of the NAT, in its one line.
#[track_caller]
fn verdict(vm: &Vm) -> String {
    let text = vm.sh(&format!("timeout 20 stun {} || true", PHYS.v4));
    let line = text.lines().find_map(|line| line.strip_prefix("Primary: "));
    match line {
        Some(line) => line.trim().to_owned(),
        None => panic!("the client did not come to an end:\n{text}"),
    }
}

#[track_caller]
fn judged(options: &str, wanted: &[&str]) {
    let lab = Lab::masquerading(options);
    let vm = lab.vm(11);
    let _server = Server::start(&lab);
    let verdict = verdict(&vm);
    for word in wanted {
        assert!(verdict.contains(word), "{options}: {verdict}");
    }
}

#[test]
fn coturn_full_cone() {
    judged(
        "--mapping eim --filtering eif",
        &[
            "Independent Mapping",
            "Independent Filter",
            "preserves ports",
            "will hairpin",
        ],
    );
}

#[test]
fn coturn_restricted_cone() {
    let wanted = [
        "Independent Mapping",
        "Address Dependent Filter",
        "preserves ports",
    ];
    judged("--mapping eim --filtering adf", &wanted);
}

#[test]
fn coturn_port_restricted_cone() {
    let wanted = [
        "Independent Mapping",
        "Port Dependent Filter",
        "preserves ports",
    ];
    judged("--mapping eim --filtering apdf", &wanted);
}

#[test]
fn coturn_symmetric() {
    let lab = Lab::masquerading("--mapping symmetric --filtering apdf");
    let vm = lab.vm(11);
    let _server = Server::start(&lab);
    let verdict = verdict(&vm);
    assert!(verdict.starts_with("Dependent Mapping"), "{verdict}");
}
