//! `config …`.

use std::fs;
use std::io::Write as _;
use std::process::Stdio;

use super::{Answer, Switch};

/// A document as people write them, with comments.
const LAB: &str = "# the lab\nschema = 1\n\n[[network]] # tagged\nname = 'blue'\nvlan = 10\n\n\
                   [[port]]\nname = 'tap0'\nnetwork = 'blue' # a VM\n";

impl Switch {
    /// Writes a file beside the documents and returns its path.
    fn file(&self, name: &str, bytes: impl AsRef<[u8]>) -> String {
        let path = self.dir.path().join(name);
        fs::write(&path, bytes).expect("file");
        path.display().to_string()
    }

    /// Runs `vnet-user LINE` with `text` on standard input; its code and what it says on stderr.
    fn piped(&self, line: &str, text: &str) -> (Option<i32>, String) {
        let mut child = self
            .command()
            .args(line.split_whitespace())
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("vnet-user runs");
        let mut stdin = child.stdin.take().expect("a pipe");
        stdin.write_all(text.as_bytes()).expect("it reads");
        drop(stdin);
        let output = child.wait_with_output().expect("it ends");
        let stderr = String::from_utf8(output.stderr).expect("UTF-8");
        (output.status.code(), stderr)
    }

    /// The ids and reasons of the checkpoints.
    fn checkpoints(&self) -> Vec<(u64, String)> {
        let listed: serde_json::Value =
            serde_json::from_str(&self.ok("-j config list")).expect("JSON");
        listed["checkpoints"]
            .as_array()
            .expect("an array")
            .iter()
            .map(|row| {
                let time = row["time"].as_str().expect("a time");
                assert!(time.starts_with("20") && time.ends_with('Z'), "{time}");
                let before = row["before"].as_str().expect("a reason");
                let before = before.replace(&self.dir.path().display().to_string(), "[DIR]");
                (row["id"].as_u64().expect("an id"), before)
            })
            .collect()
    }
}

fn lines(answer: &Answer) -> Vec<&str> {
    answer.stderr.lines().collect()
}

#[test]
fn export_prints_the_document_as_it_is() {
    let switch = Switch::new();
    assert_eq!(switch.ok("config export"), "schema = 1\n");
    let switch = Switch::with_document(LAB);
    assert_eq!(switch.ok("config export"), LAB);
    insta::assert_snapshot!(switch.ok("-o jsonl config export"), @r#"{"network":[{"name":"blue","vlan":10}],"port":[{"name":"tap0","network":"blue"}],"schema":1}"#);
    assert!(
        switch
            .ok("-j config export")
            .starts_with("{\n  \"network\"")
    );
    let switch = Switch::with_document("schema = 1\n[[prot]]\n");
    assert!(
        switch
            .refused("config export")
            .contains("did you mean `port`?")
    );
}

#[test]
fn check_says_what_is_wrong_and_where() {
    let switch = Switch::new();
    let good = switch.file("lab.toml", LAB);
    let answer = switch.run(&format!("config check {good}"));
    assert_eq!(answer.code, 0);
    assert_eq!(answer.stderr, "note: [DIR]/lab.toml is right\n");
    assert_eq!(switch.piped("config check -", LAB).0, Some(0));
    let bad = switch.file("bad.toml", LAB.replace("network =", "netwrok ="));
    insta::assert_snapshot!(switch.refused(&format!("config check {bad}")), @"
    1: error: reading [DIR]/bad.toml: unknown key `netwrok`, expected one of `name`, `uplink`, `network`, `trunk`, `native`, `mac`, `max_macs`, `ip`, `guard`, `isolated`, `storm`, `groups`
      --> [DIR]/bad.toml:10:1
       |
    10 | netwrok = 'blue' # a VM
       | ^^^^^^^
      mend: did you mean `network`?
    ");
    let bad = switch.file(
        "bad.toml",
        LAB.replace("network = 'blue'", "network = 'bleu'"),
    );
    insta::assert_snapshot!(switch.refused(&format!("config check {bad}")), @"
    1: error: reading [DIR]/bad.toml: the port tap0: there is no network bleu; there are default, blue
      --> [DIR]/bad.toml:10:11
       |
    10 | network = 'bleu' # a VM
       |           ^^^^^^
      mend: vnet-user network add bleu
    ");
    insta::assert_snapshot!(switch.piped("config check -", "schema = 1\n[[port]\n").1, @"
    error: reading standard input: unclosed array table, expected `]`
     --> standard input:2:8
      |
    2 | [[port]
      |        ^
      mend: edit the file
    ");
    insta::assert_snapshot!(switch.refused("config check /nowhere/a.toml"), @"
    1: error: opening /nowhere/a.toml: No such file or directory (os error 2)
      mend: name a document that is there, or - for standard input
    ");
    assert!(!switch.path().exists());
}

/// Too much for the tables is found without a switch.
#[test]
fn check_works_out_the_tables() {
    let switch = Switch::new();
    let mut text = "schema = 1\n[settings]\nmax_ports = 64\n".to_owned();
    for n in 1..=100 {
        text += &format!("[[network]]\nname = 'n{n}'\nvlan = {n}\n");
    }
    let trunk: Vec<_> = (1..=100).map(|n| format!("'n{n}'")).collect();
    for n in 0..50 {
        text += &format!(
            "[[port]]\nname = 'tap{n}'\ntrunk = [{}]\n",
            trunk.join(", ")
        );
    }
    let file = switch.file("much.toml", text);
    insta::assert_snapshot!(switch.refused(&format!("config check {file}")), @"
    1: error: working out the switch's tables: the ports carry networks 5001 times in all, and there is room for 4096
      mend: set max_ports to more, or have trunks carry fewer networks
    ");
}

#[test]
fn diff_tells_by_its_exit_code() {
    let switch = Switch::with_document(LAB);
    let same = switch.file("same.toml", LAB.replace("# a VM", "# the same VM"));
    let answer = switch.run(&format!("config diff {same}"));
    assert_eq!((answer.code, answer.stdout.as_str()), (0, ""));
    let other = switch.file(
        "other.toml",
        LAB.replace("vlan = 10", "vlan = 11") + "[settings]\nageing = 60\n",
    );
    let answer = switch.run(&format!("config diff {other}"));
    assert_eq!((answer.code, answer.stderr.as_str()), (1, ""));
    insta::assert_snapshot!(answer.stdout, @r#"
    --- [DIR]/etc/vsw0.toml
    +++ [DIR]/other.toml
    @@ settings @@
    +ageing = 60
    @@ network blue @@
     name = "blue"
    -vlan = 10
    +vlan = 11
    "#);
    let answer = switch.run(&format!("-o jsonl config diff {other}"));
    assert_eq!(answer.code, 1);
    insta::assert_snapshot!(answer.stdout, @r#"
    {"object":"settings","name":"","change":"added","before":null,"after":{"ageing":60}}
    {"object":"network","name":"blue","change":"changed","before":{"name":"blue","vlan":10},"after":{"name":"blue","vlan":11}}
    "#);
    let bad = switch.file("bad.toml", "schema = 1\n[[port]]\n");
    for line in [
        format!("config diff {bad}"),
        "config diff /nowhere/a.toml".into(),
        format!("--netns nowhere config diff {same}"),
        "config diff".into(),
    ] {
        assert_eq!(switch.run(&line).code, 2, "{line}");
    }
    assert_eq!(switch.document(), LAB);
}

#[test]
fn apply_replaces_the_document_with_its_comments() {
    let switch = Switch::after(&["network add red --vlan 7"]);
    let lab = switch.file("lab.toml", LAB);
    let answer = switch.run(&format!("config apply {lab}"));
    assert_eq!(answer.code, 0, "{}", answer.stderr);
    assert_eq!(
        lines(&answer),
        [
            "note: the switch vsw0 is down: this takes effect at `up`",
            "note: 3 objects changed"
        ]
    );
    assert_eq!(switch.document(), LAB);
    assert_eq!(
        switch.checkpoints(),
        [(1, "applying [DIR]/lab.toml".into())]
    );
    // Comments alone are a change of the document, too.
    let text = LAB.replace("# a VM", "# the same VM");
    let (code, stderr) = switch.piped("config apply -", &text);
    assert_eq!(
        (code, stderr.as_str()),
        (Some(0), "note: nothing changes\n")
    );
    assert_eq!(switch.document(), text);
}

#[test]
fn what_was_exported_is_applied_without_a_change() {
    let switch = Switch::with_document(LAB);
    let exported = switch.file("exported.toml", switch.ok("config export"));
    let answer = switch.run(&format!("config apply {exported}"));
    assert_eq!(lines(&answer), ["note: nothing changes"]);
    assert_eq!(switch.document(), LAB);
    assert_eq!(switch.checkpoints(), []);
}

#[test]
fn bad_documents_change_nothing() {
    let switch = Switch::with_document(LAB);
    let twice = "schema = 1\n".to_owned() + &"[[port]]\nname = 'tap0'\n".repeat(2);
    let many = "schema = 1\n".to_owned() + &"[[port]]\nname = 'tap0'\n".repeat(45_000);
    let mut random = 7_u32;
    let garbage: Vec<u8> = std::iter::repeat_with(|| {
        random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (random >> 24) as u8
    })
    .take(1 << 20)
    .collect();
    let nested = format!("schema = 1\na = {}", "[".repeat(1 << 20));
    for (what, bytes) in [
        ("empty", &b""[..]),
        ("zeros", &[0; 1 << 20]),
        ("garbage", &garbage),
        ("one string", &[b'"'; 1 << 20]),
        ("nested", nested.as_bytes()),
        ("a name twice", twice.as_bytes()),
        ("too many", many.as_bytes()),
        ("too long", &[b'\n'; 9 << 20]),
        ("another schema", b"schema = 2\n"),
        ("JSON", b"{\"schema\": 1}"),
    ] {
        let file = switch.file("bad.toml", bytes);
        let begun = std::time::Instant::now();
        for verb in ["check", "apply"] {
            let refusal = switch.refused(&format!("config {verb} {file}"));
            assert!(refusal.starts_with("1: error: "), "{what}: {refusal}");
            assert!(refusal.len() < 2000, "{what}: {refusal}");
        }
        assert!(begun.elapsed().as_secs() < 10, "{what}");
    }
    assert_eq!(switch.checkpoints(), []);
}

#[test]
fn every_change_can_be_rolled_back() {
    let switch = Switch::with_document(LAB);
    assert_eq!(switch.ok("config list"), "ID  TIME UTC  BEFORE\n");
    insta::assert_snapshot!(switch.refused("config rollback"), @"
    1: error: rolling back the switch vsw0: no document has been kept: no command has changed it yet
      mend: vnet-user config apply FILE
    ");
    switch.ok("network add red --vlan 7");
    switch.ok("port add tap1 --network red");
    let now = switch.document();
    assert_eq!(
        switch.checkpoints(),
        [
            (1, "adding the network red".into()),
            (2, "adding the port tap1".into())
        ]
    );
    switch.ok("config rollback 1");
    assert_eq!(switch.document(), LAB);
    // What a rollback has undone comes back in the same way.
    switch.ok("config rollback");
    assert_eq!(switch.document(), now);
    let reasons = switch.checkpoints();
    assert_eq!(reasons[2], (3, "rolling back to the checkpoint 1".into()));
    insta::assert_snapshot!(switch.refused("config rollback 9"), @"
    1: error: looking for the checkpoint 9: there is none with this id
      mend: vnet-user config list shows those that there are
    ");
}

#[test]
fn twenty_checkpoints_are_kept() {
    let switch = Switch::with_document(LAB);
    for ageing in 60..85 {
        switch.ok(&format!("set ageing={ageing}"));
    }
    let ids: Vec<_> = switch.checkpoints().iter().map(|(id, _)| *id).collect();
    assert_eq!(ids, (6..=25).collect::<Vec<_>>());
}

/// A document that was broken by hand is replaced while the switch is down, and kept.
#[test]
fn a_broken_document_is_replaced() {
    let broken = "schema = 1\n[[prot]]\n";
    let switch = Switch::with_document(broken);
    switch.ok(&format!("config apply {}", switch.file("lab.toml", LAB)));
    assert_eq!(switch.document(), LAB);
    assert!(
        switch
            .refused("config rollback")
            .contains("did you mean `port`?")
    );
}

#[test]
fn what_needs_the_daemon_ends_with_3() {
    let switch = Switch::with_document(LAB);
    let file = switch.file("other.toml", "schema = 1\n");
    insta::assert_snapshot!(switch.refused(&format!("config apply {file} --confirm 120")), @"
    3: error: applying [DIR]/other.toml: only the daemon can take it back, and none runs
      mend: start the daemon (vnet-user daemon), or apply it without --confirm
    ");
    insta::assert_snapshot!(switch.refused("config confirm"), @"
    1: error: confirming what was applied: nothing waits to be confirmed
      mend: vnet-user config list shows what was taken back or replaced
    ");
    assert!(
        switch
            .refused("config apply x --confirm 0")
            .starts_with("2: ")
    );
}
