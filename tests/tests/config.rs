//! The document as a whole: applied, refused and rolled back on a running switch.

use std::{
    fs,
    net::IpAddr,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use vnet_tests::{
    host::{Addresses, Host, Ran, binary},
    traffic::{self, is_cut_off, reaches},
    wait,
};

/// The user that has no rights at all.
const NOBODY: u32 = 65_534;

fn v4(number: u8) -> IpAddr {
    Addresses::new(number).v4()
}

/// Writes a document beside those of the host's switches.
fn file(host: &Host, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
    let path = host.run_dir().join(name);
    fs::write(&path, text).unwrap();
    path
}

fn config(host: &Host, verb: &str, file: &Path) -> Ran {
    host.try_vnet(&format!("config {verb} {}", file.display()))
}

#[track_caller]
fn apply(host: &Host, file: &Path) -> Ran {
    config(host, "apply", file).succeeded()
}

/// Three VMs: the first two on `default`, the third on `blue`.
const THREE: &str = "# three VMs\nschema = 1\n\n[[network]]\nname = 'blue'\nvlan = 10\n\n\
                     [[port]]\nname = 'vm1'\n\n[[port]]\nname = 'vm2'\n\n\
                     [[port]]\nname = 'vm3'\nnetwork = 'blue' # apart\n";

#[test]
fn apply_changes_document_and_kernel_together() {
    let host = Host::up();
    let vms = [1, 2, 3].map(|number| host.vm(number));
    let three = file(&host, "three.toml", THREE);
    assert_eq!(config(&host, "diff", &three).code, 1);
    let applied = apply(&host, &three);
    assert!(
        applied.stderr.contains("4 objects changed"),
        "{}",
        applied.stderr
    );
    assert_eq!(host.document_text().unwrap(), THREE);
    assert_eq!(config(&host, "diff", &three).code, 0);
    assert!(reaches(vms[0].netns(), v4(2)));
    assert!(is_cut_off(vms[0].netns(), v4(3)));

    // The switch device has a link-local address of its own a while after its first port is up: that is in
    // the tables. Then there is nothing to change, and not a word of them is written.
    let exported = file(&host, "exported.toml", host.vnet("config export").stdout);
    wait::until("the host's addresses are in the tables", || {
        let before = host.fingerprint();
        apply(&host, &exported);
        before.switch_conf == host.fingerprint().switch_conf
    });
    let before = host.fingerprint();
    apply(&host, &exported);
    before.assert_same(&host.fingerprint());

    let together = file(
        &host,
        "together.toml",
        THREE.replace("network = 'blue' # apart", "# with the others"),
    );
    apply(&host, &together);
    assert!(reaches(vms[0].netns(), v4(3)));
    host.vnet("config rollback");
    assert_eq!(host.document_text().unwrap(), THREE);
    assert!(is_cut_off(vms[0].netns(), v4(3)));
}

/// Ports that a document does not change lose no packet while it is applied.
#[test]
fn untouched_ports_are_not_interrupted() {
    let host = Host::up();
    let vms = [1, 2, 3].map(|number| host.vm(number));
    let one = file(&host, "one.toml", THREE);
    let other = file(
        &host,
        "other.toml",
        THREE.replace("vlan = 10", "vlan = 11") + "[[network]]\nname = 'red'\nvlan = 12\n",
    );
    apply(&host, &one);
    assert!(reaches(vms[0].netns(), v4(2)));
    let pings = std::thread::scope(|scope| {
        let pinging = scope.spawn(|| traffic::ping(vms[0].netns(), v4(2), 3000, 2, ""));
        let mut applied = 0;
        while !pinging.is_finished() {
            let next = if applied % 2 == 0 { &other } else { &one };
            apply(&host, next);
            applied += 1;
        }
        assert!(applied >= 10, "only {applied} documents were applied");
        pinging.join().unwrap()
    });
    assert_eq!(pings.received, pings.sent);
}

/// A document whose second half the kernel refuses: nothing of it is in force.
#[test]
fn what_fails_on_the_way_is_undone() {
    let (host, [one, two]) = Host::with_vms([1, 2]);
    host.vm(3);
    host.ip("link add other type bridge");
    host.foreign_bridge("other");
    host.vm(4);
    host.ip("link set vm4 master other");
    let before = host.fingerprint();
    // vm1 leaves the network, vm3 comes, and vm4 is somebody else's.
    let text = "schema = 1\n[[network]]\nname = 'red'\n[[port]]\nname = 'vm1'\nnetwork = 'red'\n\
                [[port]]\nname = 'vm3'\n[[port]]\nname = 'vm4'\n";
    let refused = config(&host, "apply", &file(&host, "half.toml", text));
    refused.refused(1, &["vm4"]);
    assert_same_tables(&host, &before);
    assert!(reaches(one.netns(), two.addresses().v4()));
    let listed = host.rows("config list", "checkpoints");
    assert!(
        listed
            .iter()
            .all(|row| row["before"] != "applying half.toml")
    );
    host.ip("link set vm4 nomaster");
    host.ip("link del other");
}

/// Everything but the number of the generation.
#[track_caller]
fn assert_same_tables(host: &Host, before: &vnet_tests::host::Fingerprint) {
    let now = host.fingerprint();
    assert_eq!(now.document, before.document);
    assert_eq!(now.interfaces, before.interfaces);
    assert_eq!(now.pins, before.pins);
}

#[test]
fn bad_documents_change_nothing() {
    let (host, [one, two]) = Host::with_vms([1, 2]);
    let before = host.fingerprint();
    let garbage: Vec<u8> = (0_u32..1 << 20)
        .map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8)
        .collect();
    let many = "schema = 1\n".to_owned() + &"[[port]]\nname = 'vm1'\n".repeat(45_000);
    for (bytes, words) in [
        (&garbage[..], &["UTF-8"][..]),
        (many.as_bytes(), &["max_ports"]),
        (
            b"schema = 1\n[[port]]\nname = 'vm1'\n[[port]]\nname = 'vm1'\n",
            &["vm1 is there twice", ":5:8", "^^^^^"],
        ),
        (
            b"schema = 1\n[[port]]\nname = 'vm1'\nmax_mac = 3\n",
            &[":4:1", "did you mean `max_macs`?"],
        ),
        (
            b"schema = 1\n[[network]]\nname = 'lan'\ngateway = ['10.0.0.0/24']\n",
            &[":4:11"],
        ),
    ] {
        let bad = file(&host, "bad.toml", bytes);
        for verb in ["check", "apply"] {
            config(&host, verb, &bad).refused(1, words);
        }
        config(&host, "diff", &bad).refused(2, words);
        before.assert_same(&host.fingerprint());
    }
    host.try_vnet("config rollback 99").refused(1, &["99"]);
    let good = file(&host, "good.toml", THREE);
    host.try_vnet(&format!("config apply {} --confirm 5", good.display()))
        .refused(3, &["daemon"]);
    host.try_vnet("config confirm")
        .refused(1, &["nothing waits"]);
    before.assert_same(&host.fingerprint());
    assert!(reaches(one.netns(), two.addresses().v4()));
}

/// Whoever writes documents need not be root, nor on a machine with a switch.
#[test]
fn check_needs_no_privileges() {
    // In a place that nobody may enter.
    let dir = tempfile::Builder::new()
        .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o755))
        .tempdir()
        .unwrap();
    let program = dir.path().join("vnet-user");
    fs::copy(binary(), &program).unwrap();
    for (text, code) in [(THREE, 0), ("schema = 1\n[[prot]]\n", 1)] {
        let document = dir.path().join("a.toml");
        fs::write(&document, text).unwrap();
        let ran = Ran::of(
            Command::new(&program)
                .args(["config", "check"])
                .arg(&document)
                .uid(NOBODY)
                .gid(NOBODY),
        );
        assert_eq!(ran.code, code, "{}", ran.stderr);
    }
}
