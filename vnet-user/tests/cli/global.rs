//! Global options, exit codes, the document's errors.

use super::Switch;

#[test]
fn no_command_is_a_usage_error() {
    let answer = Switch::new().run("");
    assert_eq!(answer.code, 2);
    assert!(answer.stderr.contains("Usage:"), "{}", answer.stderr);
}

#[test]
fn usage_errors() {
    insta::assert_snapshot!(
        Switch::new().each_refused(&[
            "frobnicate",
            "network",
            "--switch vnet0 network list",
            "--switch a/b network list",
            "-q network list -v",
            "-j network list -o jsonl",
            "-o yaml network list",
        ]),
        @r#"
    $ frobnicate
    2: error: unrecognized subcommand 'frobnicate'

    Usage: vnet-user [OPTIONS] <COMMAND>

    For more information, try '--help'.
    $ network
    2: Broadcast domains

    Usage: vnet-user network [OPTIONS] <COMMAND>

    Commands:
      add   Add a network
      del   Delete a network that nothing uses
      list  List the networks
      show  Show one network
      help  Print this message or the help of the given subcommand(s)

    Options:
      -h, --help  Print help (see more with '--help')

    Global options:
          --switch <NAME>      The switch, by the name of its bridge device [env: VNET_SWITCH=]
                               [default: vsw0]
          --netns <NAME|PATH>  The network namespace that the switch lives in, by name or path
          --config-dir <DIR>   Where the switches' documents are [default: /etc/vnet]
          --bpffs <DIR>        The mounted BPF file system that holds the pins [default: /sys/fs/bpf]
      -o, --output <FORMAT>    How listings are printed [default: table] [possible values: table, json,
                               jsonl]
      -j, --json               The same as -o json
      -q, --quiet              Print errors only
      -v, --verbose...         Print what is done; twice: what the libraries say too
    $ --switch vnet0 network list
    2: error: invalid value 'vnet0' for '--switch <NAME>': "vnet0" begins with "vnet", which libvirt takes for its own interfaces

    For more information, try '--help'.
    $ --switch a/b network list
    2: error: invalid value 'a/b' for '--switch <NAME>': "a/b" is not an interface's name: '/', ':', '%', blanks, "." and ".." are not allowed

    For more information, try '--help'.
    $ -q network list -v
    2: error: -q and -v exclude each other

    Usage: vnet-user [OPTIONS] <COMMAND>

    For more information, try '--help'.
    $ -j network list -o jsonl
    2: error: -j is -o json: give one of them

    Usage: vnet-user [OPTIONS] <COMMAND>

    For more information, try '--help'.
    $ -o yaml network list
    2: error: invalid value 'yaml' for '--output <FORMAT>'
      [possible values: table, json, jsonl]

    For more information, try '--help'.
    "#
    );
}

#[test]
fn a_switch_each_has_its_document() {
    let switch = Switch::new();
    switch.ok("--switch br1 network add blue");
    assert_eq!(switch.document(), "");
    assert!(switch.dir.path().join("etc/br1.toml").exists());
    let output = switch
        .command()
        .args(["network", "show", "blue"])
        .env("VNET_SWITCH", "br1")
        .output()
        .unwrap();
    assert!(output.status.success());
}

#[test]
fn what_needs_a_switch_that_is_up_ends_with_3() {
    let switch = Switch::new();
    for line in [
        "status",
        "stats",
        "events",
        "fdb list",
        "fdb flush",
        "flow list",
        "flow flush --proto udp",
    ] {
        let answer = switch.refused(line);
        assert!(answer.starts_with("3: error: "), "{line}: {answer}");
        assert!(answer.contains("vsw0 is not up"), "{line}: {answer}");
    }
}

#[test]
fn a_change_says_when_it_takes_effect() {
    let switch = Switch::new();
    let answer = switch.run("network add blue");
    assert_eq!((answer.code, answer.stdout.as_str()), (0, ""));
    insta::assert_snapshot!(answer.stderr, @"note: the switch vsw0 is down: this takes effect at `up`");
    assert_eq!(switch.run("-q network add red").stderr, "");
    // No change, nothing to take effect.
    assert_eq!(switch.run("network add red --may-exist").stderr, "");
}

#[test]
fn a_wrong_document_is_shown_with_its_line_and_left_alone() {
    let switch = Switch::with_document("schema = 1\n[[port]]\nname = \"tap0\"\nspeed = \"fast\"\n");
    insta::assert_snapshot!(switch.refused("network list"), @r#"
    1: error: reading [DIR]/etc/vsw0.toml: unknown key `speed`, expected one of `name`, `uplink`, `network`, `trunk`, `native`, `mac`, `max_macs`, `ip`, `guard`, `isolated`, `storm`, `groups`
     --> [DIR]/etc/vsw0.toml:4:1
      |
    4 | speed = "fast"
      | ^^^^^
      mend: edit the file
    "#);
    insta::assert_snapshot!(switch.refused("network add blue"), @r#"
    1: error: reading [DIR]/etc/vsw0.toml: unknown key `speed`, expected one of `name`, `uplink`, `network`, `trunk`, `native`, `mac`, `max_macs`, `ip`, `guard`, `isolated`, `storm`, `groups`
     --> [DIR]/etc/vsw0.toml:4:1
      |
    4 | speed = "fast"
      | ^^^^^
      mend: edit the file
    "#);
    let switch = Switch::with_document("schema = 1\n[[port]]\nname = \"tap0\"\nnetwork = \"x\"\n");
    insta::assert_snapshot!(switch.refused("network list"), @r#"
    1: error: reading [DIR]/etc/vsw0.toml: the port tap0: there is no network x; there is default
     --> [DIR]/etc/vsw0.toml:4:11
      |
    4 | network = "x"
      |           ^^^
      mend: vnet-user network add x
    "#);
    let switch = Switch::with_document(
        "schema = 1\n[[nat]]\nid = 1\nkind = \"dnat\"\nproto = \"tcp\"\nlisten = \"192.0.2.1\"\n",
    );
    insta::assert_snapshot!(switch.refused("nat list"), @r#"
    1: error: reading [DIR]/etc/vsw0.toml: "192.0.2.1" is not ADDR:PORT or ADDR:PORT-PORT, with an IPv6 address in brackets
     --> [DIR]/etc/vsw0.toml:6:10
      |
    6 | listen = "192.0.2.1"
      |          ^^^^^^^^^^^
      mend: edit the file
    "#);
    let switch = Switch::with_document(
        "schema = 1\n[[nat]]\nid = 1\nkind = \"snat\"\nto = \"192.0.2.1\"\nuplink = \"eth0\"\n",
    );
    insta::assert_snapshot!(switch.refused("nat list"), @"
    1: error: reading [DIR]/etc/vsw0.toml: the snat rule 1 is without `source`
     --> [DIR]/etc/vsw0.toml:2:1
      |
    2 | [[nat]]
      | ^^^^^^^
      mend: edit the file
    ");
    let switch = Switch::with_document(
        "schema = 1\n[[nat]]\nid = 1\nkind = \"masquerade\"\nnetwork = \"lan\"\nuplink = \"vsw0\"\n",
    );
    insta::assert_snapshot!(switch.refused("nat list"), @"
    1: error: reading [DIR]/etc/vsw0.toml: the masquerade rule 1: there is no network lan; there is default
     --> [DIR]/etc/vsw0.toml:2:1
      |
    2 | [[nat]]
      | ^^^^^^^
      mend: vnet-user network add lan
    ");
    let switch = Switch::with_document("schema = 7\n");
    insta::assert_snapshot!(switch.refused("network list"), @"
    1: error: reading [DIR]/etc/vsw0.toml: its schema is 7; this vnet-user reads schema 1
      mend: use the vnet-user that wrote it
    ");
}

#[test]
fn comments_survive_a_change() {
    let switch =
        Switch::with_document("# mine\nschema = 1 # one\n\n[[network]] # first\nname = 'a'\n");
    switch.ok("network add b --vlan 7");
    insta::assert_snapshot!(switch.document(), @r#"
    # mine
    schema = 1 # one

    [[network]] # first
    name = 'a'

    [[network]]
    name = "b"
    vlan = 7
    "#);
}

#[test]
fn changes_at_the_same_time_all_arrive() {
    let switch = Switch::new();
    let children: Vec<_> = (1..=12)
        .map(|n| {
            let mut command = switch.command();
            command.args(["-q", "network", "add", &format!("n{n}")]);
            command.spawn().unwrap()
        })
        .collect();
    for mut child in children {
        assert!(child.wait().unwrap().success());
    }
    assert_eq!(switch.ok("-o jsonl network list").lines().count(), 13);
}

#[test]
fn a_reader_that_stops_early_is_no_failure() {
    let switch = Switch::new();
    let mut child = switch
        .command()
        .args(["completions", "bash"])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    assert!(output.stderr.is_empty());
}
