//! `policy group … | rule … | bind | unbind`.

use std::fs;
use std::path::{Path, PathBuf};

use super::Switch;

/// An uplink `eth0`, VMs `tap0` and `tap1`, and groups without a rule: `web`, and `guests` that
/// allows.
fn switch() -> Switch {
    Switch::after(&[
        "port add eth0 --uplink",
        "port add tap0",
        "port add tap1",
        "policy group add web",
        "policy group add guests --default allow",
    ])
}

/// Groups with rules, and ports that are bound to them.
fn policies() -> Switch {
    let switch = switch();
    for line in [
        "policy rule add web --direction in --action allow --proto tcp --ports 443",
        "policy rule add web --direction in --action allow --proto tcp --ports 22-23 --remote \
         10.0.0.0/8 --priority 10 --log",
        "policy rule add guests --direction out --action reject --remote 169.254.169.254/32",
        "policy rule add web --direction out --action deny --remote group:guests --priority 10",
        "policy rule add guests --direction in --action allow --proto icmpv6 --remote fe80::/10",
        "policy rule add web --direction out --action allow --proto 47",
        "policy bind web tap0",
        "policy bind guests tap0",
        "policy bind guests tap1",
    ] {
        switch.ok(line);
    }
    switch
}

#[test]
fn a_port_comes_with_its_groups() {
    let switch = switch();
    let groups = |port: &str| {
        let shown = switch.ok(&format!("port show {port} -j"));
        let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
        shown["ports"][0]["groups"].clone()
    };
    switch.ok("port add tap2 --group web --group guests");
    assert_eq!(groups("tap2"), serde_json::json!(["web", "guests"]));
    // What is not named stays; a list replaces the whole list.
    switch.ok("port set tap2 --isolated");
    switch.ok("port set tap1 --group guests");
    assert_eq!(groups("tap2"), serde_json::json!(["web", "guests"]));
    assert_eq!(groups("tap1"), serde_json::json!(["guests"]));
    switch.ok("port set tap2 --group none");
    assert_eq!(groups("tap2"), serde_json::json!([]));
    for (line, why) in [
        ("port add tap3 --group nosuch", "nosuch"),
        ("port set eth0 --group web", "uplink"),
        ("port set tap2 --group web --group web", "twice"),
    ] {
        let answer = switch.run(line);
        assert_eq!(answer.code, 1, "{line}");
        assert!(answer.stderr.contains(why), "{line}: {}", answer.stderr);
    }
}

#[test]
fn a_rule_is_told_by_its_id() {
    let switch = switch();
    let answer = switch.run("policy rule add web --direction in --action allow --proto tcp");
    assert_eq!((answer.code, answer.stdout.as_str()), (0, "1\n"));
    insta::assert_snapshot!(answer.stderr, @"
    note: the switch vsw0 is down: this takes effect at `up`
    note: rule 1 added to the group web
    ");
    // Ids are the switch's, not the group's.
    let line = "policy rule add guests --direction in --action deny --proto tcp --ports 80";
    assert_eq!(
        switch.ok(&format!("{line} -j")),
        "{\"schema\":1,\"id\":2}\n"
    );
    // The very same rule is there, however it is spelled.
    let again = "policy rule add guests --action deny --direction in --proto 6 --ports 80-80 \
                 --priority 1000 --may-exist";
    let answer = switch.run(again);
    assert_eq!(
        (answer.stdout.as_str(), answer.stderr.as_str()),
        ("2\n", "")
    );
    // It is not that of another group.
    assert_eq!(switch.ok(&again.replace("guests", "web")), "3\n");
    // An id is not given again.
    switch.ok("policy rule del guests 2");
    assert_eq!(switch.ok(line), "4\n");
}

#[test]
fn the_document() {
    insta::assert_snapshot!(policies().document(), @r#"
    schema = 1

    [[port]]
    name = "eth0"
    uplink = true

    [[port]]
    name = "tap0"
    groups = ["web", "guests"]

    [[port]]
    name = "tap1"
    groups = ["guests"]

    [[group]]
    name = "web"

    [[group.rule]]
    id = 1
    direction = "in"
    action = "allow"
    proto = "tcp"
    ports = "443"

    [[group.rule]]
    id = 2
    direction = "in"
    action = "allow"
    proto = "tcp"
    ports = "22-23"
    remote = "10.0.0.0/8"
    priority = 10
    log = true

    [[group.rule]]
    id = 4
    direction = "out"
    action = "deny"
    remote = "group:guests"
    priority = 10

    [[group.rule]]
    id = 6
    direction = "out"
    action = "allow"
    proto = "gre"

    [[group]]
    name = "guests"
    default = "allow"

    [[group.rule]]
    id = 3
    direction = "out"
    action = "reject"
    remote = "169.254.169.254"

    [[group.rule]]
    id = 5
    direction = "in"
    action = "allow"
    proto = "icmpv6"
    remote = "fe80::/10"
    "#);
}

#[test]
fn groups() {
    insta::assert_snapshot!(Switch::new().ok("policy group list"), @"NAME  DEFAULT  RULES  PORTS  PROFILES");
    insta::assert_snapshot!(Switch::new().ok("policy group list -j"), @r#"
    {
      "schema": 1,
      "groups": []
    }
    "#);
    let switch = policies();
    insta::assert_snapshot!(switch.ok("policy group list"), @"
    NAME    DEFAULT  RULES  PORTS      PROFILES
    web     deny     4      tap0       -
    guests  allow    2      tap0,tap1  -
    ");
    insta::assert_snapshot!(switch.ok("policy group list -o jsonl"), @r#"
    {"name":"web","default":"deny","rules":[{"id":2,"direction":"in","action":"allow","proto":"tcp","ports":"22-23","remote":"10.0.0.0/8","priority":10,"log":true},{"id":4,"direction":"out","action":"deny","proto":null,"ports":null,"remote":"group:guests","priority":10,"log":false},{"id":1,"direction":"in","action":"allow","proto":"tcp","ports":"443","remote":null,"priority":1000,"log":false},{"id":6,"direction":"out","action":"allow","proto":"gre","ports":null,"remote":null,"priority":1000,"log":false}],"ports":["tap0"],"profiles":[]}
    {"name":"guests","default":"allow","rules":[{"id":3,"direction":"out","action":"reject","proto":null,"ports":null,"remote":"169.254.169.254","priority":1000,"log":false},{"id":5,"direction":"in","action":"allow","proto":"icmpv6","ports":null,"remote":"fe80::/10","priority":1000,"log":false}],"ports":["tap0","tap1"],"profiles":[]}
    "#);
    insta::assert_snapshot!(switch.ok("policy group show web"), @"
    NAME      web
    DEFAULT   deny
    RULES     4
    PORTS     tap0
    PROFILES  -
    RULE      2: in allow tcp 22-23 from 10.0.0.0/8 priority=10 log
    RULE      4: out deny to group:guests priority=10
    RULE      1: in allow tcp 443
    RULE      6: out allow gre
    ");
    insta::assert_snapshot!(switch.ok("policy group show guests -j"), @r#"
    {
      "schema": 1,
      "groups": [
        {
          "name": "guests",
          "default": "allow",
          "rules": [
            {
              "id": 3,
              "direction": "out",
              "action": "reject",
              "proto": null,
              "ports": null,
              "remote": "169.254.169.254",
              "priority": 1000,
              "log": false
            },
            {
              "id": 5,
              "direction": "in",
              "action": "allow",
              "proto": "icmpv6",
              "ports": null,
              "remote": "fe80::/10",
              "priority": 1000,
              "log": false
            }
          ],
          "ports": [
            "tap0",
            "tap1"
          ],
          "profiles": []
        }
      ]
    }
    "#);
}

#[test]
fn rules_are_listed_as_they_are_looked_at() {
    let switch = policies();
    insta::assert_snapshot!(switch.ok("policy rule list web"), @"
    ID  DIRECTION  ACTION  PROTO  PORTS  REMOTE        PRIORITY  LOG
    2   in         allow   tcp    22-23  10.0.0.0/8    10        yes
    4   out        deny    -      -      group:guests  10        -
    1   in         allow   tcp    443    -             1000      -
    6   out        allow   gre    -      -             1000      -
    ");
    insta::assert_snapshot!(switch.ok("policy rule list guests"), @"
    ID  DIRECTION  ACTION  PROTO   PORTS  REMOTE           PRIORITY  LOG
    3   out        reject  -       -      169.254.169.254  1000      -
    5   in         allow   icmpv6  -      fe80::/10        1000      -
    ");
    insta::assert_snapshot!(switch.ok("policy rule list guests -j"), @r#"
    {
      "schema": 1,
      "rules": [
        {
          "id": 3,
          "direction": "out",
          "action": "reject",
          "proto": null,
          "ports": null,
          "remote": "169.254.169.254",
          "priority": 1000,
          "log": false
        },
        {
          "id": 5,
          "direction": "in",
          "action": "allow",
          "proto": "icmpv6",
          "ports": null,
          "remote": "fe80::/10",
          "priority": 1000,
          "log": false
        }
      ]
    }
    "#);
    switch.ok("policy group add empty");
    insta::assert_snapshot!(switch.ok("policy rule list empty"), @"ID  DIRECTION  ACTION  PROTO  PORTS  REMOTE  PRIORITY  LOG");
}

#[test]
fn ports_show_what_they_are_bound_to() {
    let switch = policies();
    insta::assert_snapshot!(switch.ok("port list"), @"
    NAME  KIND      STATE  MODE    NETWORKS  MACS  GROUPS
    vsw0  internal  down   access  default   -     -
    eth0  uplink    down   trunk   default   -     -
    tap0  vm        down   access  default   -     web,guests
    tap1  vm        down   access  default   -     guests
    ");
    insta::assert_snapshot!(switch.ok("port show tap0"), @"
    NAME                   tap0
    KIND                   vm
    STATE                  down
    MODE                   access
    NETWORKS               default
    MACS                   -
    GROUPS                 web,guests
    MAX MACS               1024
    IPS                    -
    LEARNED IPS            -
    GUARD                  default
    ISOLATED               no
    STORM BROADCAST        1000
    STORM MULTICAST        10000
    STORM UNKNOWN UNICAST  2000
    STORM ARP              1000
    STORM ND               1000
    ");
    let json = switch.ok("port list -o jsonl");
    assert!(json.contains(r#""name":"tap0","#) && json.contains(r#""groups":["web","guests"]"#));
}

#[test]
fn profiles_bind_too() {
    let switch = Switch::with_document(
        "schema = 1\n[[profile]]\nname = 'vms'\nmatch = { name = 'tap*' }\ngroups = ['web']\n\
         [[group]]\nname = 'web'\n",
    );
    insta::assert_snapshot!(switch.ok("policy group list"), @"
    NAME  DEFAULT  RULES  PORTS  PROFILES
    web   deny     0      -      vms
    ");
    insta::assert_snapshot!(switch.refused("policy group del web"), @"
    1: error: deleting the group web: it is used by profile vms
      mend: unbind, change or delete those first
    ");
}

#[test]
fn bindings_are_a_set() {
    let switch = policies();
    let before = switch.document();
    insta::assert_snapshot!(switch.run("policy bind web tap0").stderr, @"note: tap0 was bound to web already");
    insta::assert_snapshot!(switch.run("policy unbind web tap1").stderr, @"note: tap1 was not bound to web");
    insta::assert_snapshot!(switch.run("policy unbind web vsw0").stderr, @"note: vsw0 was not bound to web");
    assert_eq!(switch.document(), before);
    switch.ok("policy unbind guests tap0");
    switch.ok("policy unbind web tap0");
    switch.ok("policy unbind guests tap1");
    assert!(!switch.document().contains("groups"));
}

#[test]
fn a_port_that_leaves_is_bound_to_nothing() {
    let switch = policies();
    switch.ok("port del tap0");
    switch.ok("policy group del web");
    switch.ok("port add tap0");
    insta::assert_snapshot!(switch.ok("policy group list"), @"
    NAME    DEFAULT  RULES  PORTS  PROFILES
    guests  allow    2      tap1   -
    ");
}

#[test]
fn what_is_wrong_on_its_own() {
    let add = "policy rule add web --direction in --action allow";
    insta::assert_snapshot!(
        policies().each_refused(&[
            "policy group add none",
            "policy group add -a",
            "policy group add a/b",
            "policy group add a --default reject",
            "policy rule add web --direction in",
            "policy rule add web --direction up --action allow",
            "policy rule add web --direction in --action drop",
            &format!("{add} --ports 80"),
            &format!("{add} --proto icmp --ports 8"),
            &format!("{add} --proto tcp --ports 0"),
            &format!("{add} --proto tcp --ports 81-80"),
            &format!("{add} --proto tcp --ports 80,443"),
            &format!("{add} --proto http"),
            &format!("{add} --proto 256"),
            &format!("{add} --remote 10.0.0.1/24"),
            &format!("{add} --remote guests"),
            &format!("{add} --remote group:a/b"),
            &format!("{add} --remote ::ffff:10.0.0.1"),
            &format!("{add} --proto icmp --remote fd00::1"),
            &format!("{add} --proto icmpv6 --remote 10.0.0.0/8"),
            &format!("{add} --priority 65536"),
            "policy rule del web 0",
            "policy rule del web 32768",
            "policy bind web",
            "policy bind web a/b",
        ]),
        @r#"
    $ policy group add none
    2: error: invalid value 'none' for '<NAME>': "none" is the word that empties a list

    For more information, try '--help'.
    $ policy group add -a
    2: error: unexpected argument '-a' found

      tip: to pass '-a' as a value, use '-- -a'

    Usage: vnet-user policy group add [OPTIONS] <NAME>

    For more information, try '--help'.
    $ policy group add a/b
    2: error: invalid value 'a/b' for '<NAME>': "a/b" is not a group's name: letters, digits, '_', '.' and '-' make one, and it does not begin with '-'

    For more information, try '--help'.
    $ policy group add a --default reject
    2: error: invalid value 'reject' for '--default <allow|deny>'
      [possible values: allow, deny]

    For more information, try '--help'.
    $ policy rule add web --direction in
    2: error: the following required arguments were not provided:
      --action <allow|deny|reject>

    Usage: vnet-user policy rule add --direction <in|out> --action <allow|deny|reject> <GROUP>

    For more information, try '--help'.
    $ policy rule add web --direction up --action allow
    2: error: invalid value 'up' for '--direction <in|out>'
      [possible values: in, out]

    For more information, try '--help'.
    $ policy rule add web --direction in --action drop
    2: error: invalid value 'drop' for '--action <allow|deny|reject>'
      [possible values: allow, deny, reject]

    For more information, try '--help'.
    $ policy rule add web --direction in --action allow --ports 80
    2: error: adding a rule to the group web: the ports 80 are of tcp, udp or sctp, and it is for every protocol
      mend: name one of these protocols, in a rule each, or leave out the ports
    $ policy rule add web --direction in --action allow --proto icmp --ports 8
    2: error: adding a rule to the group web: the ports 8 are of tcp, udp or sctp, and it is for icmp
      mend: name one of these protocols, in a rule each, or leave out the ports
    $ policy rule add web --direction in --action allow --proto tcp --ports 0
    2: error: invalid value '0' for '--ports <PORT|LO-HI>': "0" is not a port: use 1 to 65535

    For more information, try '--help'.
    $ policy rule add web --direction in --action allow --proto tcp --ports 81-80
    2: error: invalid value '81-80' for '--ports <PORT|LO-HI>': the ports 81-80 are none: the first is above the last

    For more information, try '--help'.
    $ policy rule add web --direction in --action allow --proto tcp --ports 80,443
    2: error: invalid value '80,443' for '--ports <PORT|LO-HI>': "80,443" is not a port: use 1 to 65535

    For more information, try '--help'.
    $ policy rule add web --direction in --action allow --proto http
    2: error: invalid value 'http' for '--proto <P>': "http" is no protocol: use icmp, igmp, ipip, tcp, udp, gre, esp, ah, icmpv6, ospf, sctp, udplite, or a number up to 255

    For more information, try '--help'.
    $ policy rule add web --direction in --action allow --proto 256
    2: error: invalid value '256' for '--proto <P>': "256" is no protocol: use icmp, igmp, ipip, tcp, udp, gre, esp, ah, icmpv6, ospf, sctp, udplite, or a number up to 255

    For more information, try '--help'.
    $ policy rule add web --direction in --action allow --remote 10.0.0.1/24
    2: error: invalid value '10.0.0.1/24' for '--remote <CIDR|group:NAME>': 10.0.0.1/24 has bits behind its length: the prefix is 10.0.0.0/24

    For more information, try '--help'.
    $ policy rule add web --direction in --action allow --remote guests
    2: error: invalid value 'guests' for '--remote <CIDR|group:NAME>': "guests" is not a prefix such as 10.0.0.0/24, not an address and not group:NAME

    For more information, try '--help'.
    $ policy rule add web --direction in --action allow --remote group:a/b
    2: error: invalid value 'group:a/b' for '--remote <CIDR|group:NAME>': "a/b" is not a group's name: letters, digits, '_', '.' and '-' make one, and it does not begin with '-'

    For more information, try '--help'.
    $ policy rule add web --direction in --action allow --remote ::ffff:10.0.0.1
    2: error: adding a rule to the group web: ::ffff:10.0.0.1 is IPv4 in the form of IPv6
      mend: write it as IPv4
    $ policy rule add web --direction in --action allow --proto icmp --remote fd00::1
    2: error: adding a rule to the group web: fd00::1 is IPv6, which has no icmp
      mend: name the protocol icmpv6, or another remote
    $ policy rule add web --direction in --action allow --proto icmpv6 --remote 10.0.0.0/8
    2: error: adding a rule to the group web: 10.0.0.0/8 is IPv4, which has no icmpv6
      mend: name the protocol icmp, or another remote
    $ policy rule add web --direction in --action allow --priority 65536
    2: error: invalid value '65536' for '--priority <N>': 65536 is not in 0..=65535

    For more information, try '--help'.
    $ policy rule del web 0
    2: error: invalid value '0' for '<ID>': "0" is not a rule's id, a number from 1 to 32767

    For more information, try '--help'.
    $ policy rule del web 32768
    2: error: invalid value '32768' for '<ID>': "32768" is not a rule's id, a number from 1 to 32767

    For more information, try '--help'.
    $ policy bind web
    2: error: the following required arguments were not provided:
      <IFACE>

    Usage: vnet-user policy bind <GROUP> <IFACE>

    For more information, try '--help'.
    $ policy bind web a/b
    2: error: invalid value 'a/b' for '<IFACE>': "a/b" is not an interface's name: '/', ':', '%', blanks, "." and ".." are not allowed

    For more information, try '--help'.
    "#
    );
}

#[test]
fn refusals() {
    let switch = policies();
    for n in 0..6 {
        switch.ok(&format!("policy group add g{n}"));
        switch.ok(&format!("policy bind g{n} tap0"));
    }
    switch.ok("policy group add g6");
    insta::assert_snapshot!(
        switch.each_refused(&[
            "policy group add web",
            "policy group del web",
            "policy group del guests",
            "policy group del webs",
            "policy group show webs",
            "policy rule add webs --direction in --action allow",
            "policy rule add web --direction in --action allow --remote group:webs",
            "policy rule add web --direction in --action allow --proto tcp --ports 443",
            "policy rule list webs",
            "policy rule del webs 1",
            "policy rule del web 9",
            "policy rule del web 3",
            "policy rule del g0 9",
            "policy bind webs tap0",
            "policy bind web tap9",
            "policy bind web eth0",
            "policy bind web vsw0",
            "policy bind g6 tap0",
            "policy unbind webs tap0",
            "policy unbind web tap9",
            "port set tap0 --uplink",
        ]),
        @r#"
    $ policy group add web
    1: error: adding the group web: there is a group web already
      mend: choose another name, or say --may-exist
    $ policy group del web
    1: error: deleting the group web: it is used by port tap0
      mend: unbind, change or delete those first
    $ policy group del guests
    1: error: deleting the group guests: it is used by port tap0, port tap1, rule 4 of the group web
      mend: unbind, change or delete those first
    $ policy group del webs
    1: error: deleting the group webs: there is no group webs; there are web, guests, g0, g1, g2, g3, g4, g5, g6
    $ policy group show webs
    1: error: showing the group webs: there is no group webs; there are web, guests, g0, g1, g2, g3, g4, g5, g6
      mend: vnet-user policy group add webs
    $ policy rule add webs --direction in --action allow
    1: error: adding a rule to the group webs: there is no group webs; there are web, guests, g0, g1, g2, g3, g4, g5, g6
      mend: vnet-user policy group add webs
    $ policy rule add web --direction in --action allow --remote group:webs
    1: error: adding a rule to the group web: there is no group webs; there are web, guests, g0, g1, g2, g3, g4, g5, g6
      mend: vnet-user policy group add webs
    $ policy rule add web --direction in --action allow --proto tcp --ports 443
    1: error: adding a rule to the group web: its rule 1 is the very same
      mend: say --may-exist where that is no mistake
    $ policy rule list webs
    1: error: listing the rules of the group webs: there is no group webs; there are web, guests, g0, g1, g2, g3, g4, g5, g6
      mend: vnet-user policy group add webs
    $ policy rule del webs 1
    1: error: deleting the rule 1 of the group webs: there is no group webs; there are web, guests, g0, g1, g2, g3, g4, g5, g6
    $ policy rule del web 9
    1: error: deleting the rule 9 of the group web: the group web has no rule 9
      mend: vnet-user policy rule list web shows its rules
    $ policy rule del web 3
    1: error: deleting the rule 3 of the group web: the group web has no rule 3
      mend: it is one of the group guests: vnet-user policy rule del guests 3
    $ policy rule del g0 9
    1: error: deleting the rule 9 of the group g0: the group g0 has no rule 9
    $ policy bind webs tap0
    1: error: binding the port tap0 to the group webs: there is no group webs; there are web, guests, g0, g1, g2, g3, g4, g5, g6
      mend: vnet-user policy group add webs
    $ policy bind web tap9
    1: error: binding the port tap9 to the group web: there is no port tap9; there are vsw0, eth0, tap0, tap1
      mend: vnet-user port add tap9 …, or write groups = ["web"] into the profile that it is adopted by
    $ policy bind web eth0
    1: error: binding the port eth0 to the group web: it is an uplink, and groups are for ports with a VM behind them
      mend: bind the VMs' ports instead
    $ policy bind web vsw0
    1: error: binding the port vsw0 to the group web: it is the switch device, and groups are for ports with a VM behind them
      mend: bind the VMs' ports instead
    $ policy bind g6 tap0
    1: error: binding the port tap0 to the group g6: 9 groups are more than the 8 that a port may be bound to
      mend: put rules that belong together into one group
    $ policy unbind webs tap0
    1: error: unbinding the port tap0 from the group webs: there is no group webs; there are web, guests, g0, g1, g2, g3, g4, g5, g6
    $ policy unbind web tap9
    1: error: unbinding the port tap9 from the group web: there is no port tap9; there are vsw0, eth0, tap0, tap1
      mend: what a profile binds is unbound by taking the group out of its `groups`
    $ port set tap0 --uplink
    1: error: changing the port tap0: it is an uplink, and groups are for ports with a VM behind them, but it is bound to web, guests, g0, g1, g2, g3, g4, g5
      mend: unbind it first: vnet-user policy unbind GROUP IFACE, or take its `groups` out of the document
    "#
    );
}

#[test]
fn may_exist_and_if_exists_change_nothing() {
    let switch = policies();
    let before = switch.document();
    for line in [
        "policy group add web --default allow --may-exist",
        "policy group del webs --if-exists",
        "policy rule add web --direction in --action allow --proto tcp --ports 443 --may-exist",
        "policy rule del web 9 --if-exists",
        "policy rule del web 3 --if-exists",
        "policy rule del webs 1 --if-exists",
    ] {
        switch.ok(line);
        assert_eq!(switch.document(), before, "{line}");
    }
    switch.ok("policy rule del web 4 --if-exists");
    assert!(!switch.document().contains("group:guests"));
    // Its own rules go with a group.
    switch.ok("policy unbind web tap0");
    switch.ok("policy group del web --if-exists");
    assert!(!switch.document().contains("name = \"web\""));
    assert_eq!(switch.ok("policy rule list guests").lines().count(), 3);
}

#[test]
fn mistakes_in_the_document_are_shown_with_their_place() {
    let rule = "[[group.rule]]\nid = 1\ndirection = 'in'\naction = 'allow'\n";
    let answers = [
        format!("[[group]]\nname = 'web'\n{rule}ports = '80'\n"),
        format!("[[group]]\nname = 'web'\n{rule}remote = '10.0.0.1/24'\n"),
        format!("[[group]]\nname = 'web'\n{rule}remote = 'group:db'\n"),
        format!("[[group]]\nname = 'web'\n{rule}{rule}"),
        "[[group]]\nname = 'web'\ndefault = 'drop'\n".into(),
        "[[group]]\nname = 'web'\n[[port]]\nname = 'tap0'\ngroups = ['web', 'web']\n".into(),
        "[[group]]\nname = 'web'\n[[port]]\nname = 'eth0'\nuplink = true\ngroups = ['web']\n"
            .into(),
    ]
    .map(|text| Switch::with_document(&format!("schema = 1\n{text}")).refused("policy group list"));
    insta::assert_snapshot!(answers.concat(), @"
    1: error: reading [DIR]/etc/vsw0.toml: the rule 1 of the group web: the ports 80 are of tcp, udp or sctp, and it is for every protocol
     --> [DIR]/etc/vsw0.toml:8:9
      |
    8 | ports = '80'
      |         ^^^^
      mend: name one of these protocols, in a rule each, or leave out the ports
    1: error: reading [DIR]/etc/vsw0.toml: 10.0.0.1/24 has bits behind its length: the prefix is 10.0.0.0/24
     --> [DIR]/etc/vsw0.toml:8:10
      |
    8 | remote = '10.0.0.1/24'
      |          ^^^^^^^^^^^^^
      mend: edit the file
    1: error: reading [DIR]/etc/vsw0.toml: the rule 1 of the group web: there is no group db; there is web
     --> [DIR]/etc/vsw0.toml:8:10
      |
    8 | remote = 'group:db'
      |          ^^^^^^^^^^
      mend: vnet-user policy group add db
    1: error: reading [DIR]/etc/vsw0.toml: the rule 1 of the group web: the group web has another rule 1
     --> [DIR]/etc/vsw0.toml:9:6
      |
    9 | id = 1
      |      ^
      mend: give each rule of the switch an id of its own
    1: error: reading [DIR]/etc/vsw0.toml: unknown value `drop`, expected `allow` or `deny`
     --> [DIR]/etc/vsw0.toml:4:11
      |
    4 | default = 'drop'
      |           ^^^^^^
      mend: edit the file
    1: error: reading [DIR]/etc/vsw0.toml: the port tap0: it is bound to the group web twice
     --> [DIR]/etc/vsw0.toml:6:10
      |
    6 | groups = ['web', 'web']
      |          ^^^^^^^^^^^^^^
      mend: edit the file
    1: error: reading [DIR]/etc/vsw0.toml: the port eth0: it is an uplink, and groups are for ports with a VM behind them, but it is bound to web
     --> [DIR]/etc/vsw0.toml:7:10
      |
    7 | groups = ['web']
      |          ^^^^^^^
      mend: unbind it first: vnet-user policy unbind GROUP IFACE, or take its `groups` out of the document
    ");
}

fn docs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs")
}

/// The commands that a part of the guide lists, without their first word and what is said of them.
fn commands(text: &str) -> Vec<&str> {
    text.lines()
        .filter_map(|line| line.strip_prefix("    vnet-user "))
        .map(|line| line.split(" #").next().unwrap_or(line).trim())
        .collect()
}

#[test]
fn the_templates_are_right_and_the_guide_makes_the_same() {
    let guide = fs::read_to_string(docs().join("guide.md")).unwrap();
    let (_, section) = guide.split_once("\n### Templates\n").unwrap();
    let (section, _) = section.split_once("\n## ").unwrap();
    let mut parts = section.split("\n#### ");
    let set_up = commands(parts.next().unwrap());
    assert!(!set_up.is_empty());
    let templates: Vec<&str> = parts.collect();
    let mut found = 0;
    for file in fs::read_dir(docs().join("policies")).unwrap() {
        let file = file.unwrap().path();
        let name = file.file_name().unwrap().to_str().unwrap();
        let path = file.display().to_string();
        let switch = Switch::new();
        switch.ok(&format!("config check {path}"));
        switch.ok(&format!("config apply {path}"));
        let link = format!("](policies/{name})");
        let template = templates.iter().find(|part| part.contains(&link));
        let template = template.unwrap_or_else(|| panic!("the guide does not show {name}"));
        let switch = Switch::after(&set_up);
        for command in commands(template) {
            switch.ok(command);
        }
        let answer = switch.run(&format!("config diff {path}"));
        assert_eq!((answer.code, answer.stdout.as_str()), (0, ""), "{name}");
        found += 1;
    }
    assert_eq!(found, templates.len(), "a template has no document");
}

#[test]
fn the_commands_of_the_guide_are_right() {
    let guide = fs::read_to_string(docs().join("guide.md")).unwrap();
    let (_, section) = guide.split_once("\n## Security groups\n").unwrap();
    let (section, _) = section.split_once("\n### Templates\n").unwrap();
    let switch = Switch::after(&["port add tap0"]);
    let commands = commands(section);
    let (between_groups, commands) = commands.split_last().unwrap();
    for command in commands {
        switch.ok(command);
    }
    // The listing that it shows is what they have made; what the rules have done comes behind that while
    // the switch is up.
    let words = |line: &str| {
        line.split_whitespace()
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    for line in switch.ok("policy rule list app").lines() {
        let made = words(line);
        let is_shown = section.lines().any(|shown| words(shown).starts_with(&made));
        assert!(is_shown, "{line}");
    }
    switch.ok("policy group add web");
    switch.ok("policy group add db");
    switch.ok(between_groups);
}
