//! `ban rule add | del | list`, and what can be said of bans while the switch is down.

use super::Switch;

/// Two rules, of which one excepts.
fn rules() -> Switch {
    Switch::after(&[
        "ban rule add --ports 22 --connections 5 --within 60 --time 3600 --except 198.51.100.7 \
         --except 2001:db8::/32 --except 10.0.0.0/8",
        "ban rule add --ports 8000-8079 --connections 200 --within 10 --time 60",
    ])
}

#[test]
fn a_rule_is_told_by_its_id() {
    let switch = Switch::new();
    let line =
        "ban rule add --ports 22 --connections 5 --within 60 --time 3600 --except 10.0.0.0/8";
    let answer = switch.run(line);
    assert_eq!((answer.code, answer.stdout.as_str()), (0, "1\n"));
    insta::assert_snapshot!(answer.stderr, @"
    note: the switch vsw0 is down: this takes effect at `up`
    note: ban rule 1 added
    ");
    // The very same rule is there, however it is spelled.
    let again = "ban rule add --within 60 --time 3600 --connections 5 --ports 22-22 --except \
                 10.0.0.0/8 --may-exist";
    let answer = switch.run(again);
    assert_eq!(
        (answer.stdout.as_str(), answer.stderr.as_str()),
        ("1\n", "")
    );
    let other = "ban rule add --ports 23 --connections 5 --within 60 --time 3600";
    assert_eq!(
        switch.ok(&format!("{other} -j")),
        "{\"schema\":1,\"id\":2}\n"
    );
    // An id is not given again while there is a higher one.
    switch.ok("ban rule del 1");
    assert_eq!(switch.ok(line), "3\n");
}

#[test]
fn the_document() {
    let switch = rules();
    insta::assert_snapshot!(switch.document(), @r#"
    schema = 1

    [[ban]]
    id = 1
    ports = "22"
    connections = 5
    within = 60
    time = 3600
    except = ["198.51.100.7", "2001:db8::/32", "10.0.0.0/8"]

    [[ban]]
    id = 2
    ports = "8000-8079"
    connections = 200
    within = 10
    time = 60
    "#);
    for id in 1..=2 {
        switch.ok(&format!("ban rule del {id}"));
    }
    assert!(!switch.document().contains("ban"));
}

#[test]
fn the_listing() {
    insta::assert_snapshot!(Switch::new().ok("ban rule list"), @"ID  PORTS  CONNECTIONS  WITHIN  TIME  EXCEPT  BANNED");
    let switch = rules();
    insta::assert_snapshot!(switch.ok("ban rule list"), @"
    ID  PORTS      CONNECTIONS  WITHIN  TIME   EXCEPT                                 BANNED
    1   22         5            60s     3600s  198.51.100.7,2001:db8::/32,10.0.0.0/8  -
    2   8000-8079  200          10s     60s    -                                      -
    ");
    insta::assert_snapshot!(switch.ok("ban rule list -j"), @r#"
    {
      "schema": 1,
      "rules": [
        {
          "id": 1,
          "ports": "22",
          "connections": 5,
          "within": 60,
          "time": 3600,
          "except": [
            "198.51.100.7",
            "2001:db8::/32",
            "10.0.0.0/8"
          ],
          "banned": null
        },
        {
          "id": 2,
          "ports": "8000-8079",
          "connections": 200,
          "within": 10,
          "time": 60,
          "except": [],
          "banned": null
        }
      ]
    }
    "#);
    insta::assert_snapshot!(switch.ok("ban rule list -o jsonl"), @r#"
    {"id":1,"ports":"22","connections":5,"within":60,"time":3600,"except":["198.51.100.7","2001:db8::/32","10.0.0.0/8"],"banned":null}
    {"id":2,"ports":"8000-8079","connections":200,"within":10,"time":60,"except":[],"banned":null}
    "#);
}

#[test]
fn what_the_command_line_alone_tells() {
    insta::assert_snapshot!(
        Switch::new().each_refused(&[
            "ban rule add --ports 22 --connections 5 --within 60",
            "ban rule add --ports 0 --connections 5 --within 60 --time 60",
            "ban rule add --ports 22 --connections 0 --within 60 --time 60",
            "ban rule add --ports 22 --connections 1000001 --within 60 --time 60",
            "ban rule add --ports 22 --connections 5 --within 0 --time 60",
            "ban rule add --ports 22 --connections 5 --within 60 --time 604801",
            "ban rule add --ports 22 --connections 5 --within 60 --time 60 --except 10.0.0.1/8",
            "ban rule add --ports 22 --connections 5 --within 60 --time 60 --except lan",
            "ban rule del 0",
            "ban rule del 256",
            "ban add lan",
            "ban add 192.0.2.0/24",
            "ban add 224.0.0.1",
            "ban add ::ffff:192.0.2.7",
            "ban add 192.0.2.7 --time 0",
            "ban del 192.0.2.0/24",
            "ban del 2001:db8::/48",
            "ban del 2001:db8::7/64",
        ]),
        @r#"
    $ ban rule add --ports 22 --connections 5 --within 60
    2: error: the following required arguments were not provided:
      --time <SECONDS>

    Usage: vnet-user ban rule add --ports <PORT|LO-HI> --connections <N> --within <SECONDS> --time <SECONDS>

    For more information, try '--help'.
    $ ban rule add --ports 0 --connections 5 --within 60 --time 60
    2: error: invalid value '0' for '--ports <PORT|LO-HI>': "0" is not a port: use 1 to 65535

    For more information, try '--help'.
    $ ban rule add --ports 22 --connections 0 --within 60 --time 60
    2: error: invalid value '0' for '--connections <N>': 0 is not in 1..=1000000

    For more information, try '--help'.
    $ ban rule add --ports 22 --connections 1000001 --within 60 --time 60
    2: error: invalid value '1000001' for '--connections <N>': 1000001 is not in 1..=1000000

    For more information, try '--help'.
    $ ban rule add --ports 22 --connections 5 --within 0 --time 60
    2: error: invalid value '0' for '--within <SECONDS>': 0 is not in 1..=604800

    For more information, try '--help'.
    $ ban rule add --ports 22 --connections 5 --within 60 --time 604801
    2: error: invalid value '604801' for '--time <SECONDS>': 604801 is not in 1..=604800

    For more information, try '--help'.
    $ ban rule add --ports 22 --connections 5 --within 60 --time 60 --except 10.0.0.1/8
    2: error: invalid value '10.0.0.1/8' for '--except <ADDR|CIDR>': 10.0.0.1/8 has bits behind its length: the prefix is 10.0.0.0/8

    For more information, try '--help'.
    $ ban rule add --ports 22 --connections 5 --within 60 --time 60 --except lan
    2: error: invalid value 'lan' for '--except <ADDR|CIDR>': "lan" is not a prefix such as 10.0.0.0/24, and not an address

    For more information, try '--help'.
    $ ban rule del 0
    2: error: invalid value '0' for '<ID>': "0" is not a rule's id, a number from 1 to 255

    For more information, try '--help'.
    $ ban rule del 256
    2: error: invalid value '256' for '<ID>': "256" is not a rule's id, a number from 1 to 255

    For more information, try '--help'.
    $ ban add lan
    2: error: invalid value 'lan' for '<ADDR>': "lan" is not an IP address

    For more information, try '--help'.
    $ ban add 192.0.2.0/24
    2: error: invalid value '192.0.2.0/24' for '<ADDR>': "192.0.2.0/24" is not an IP address

    For more information, try '--help'.
    $ ban add 224.0.0.1
    2: error: invalid value '224.0.0.1' for '<ADDR>': 224.0.0.1 is a multicast address

    For more information, try '--help'.
    $ ban add ::ffff:192.0.2.7
    2: error: invalid value '::ffff:192.0.2.7' for '<ADDR>': ::ffff:192.0.2.7 is an IPv4 address in the form of IPv6: write it as IPv4

    For more information, try '--help'.
    $ ban add 192.0.2.7 --time 0
    2: error: invalid value '0' for '--time <SECONDS>': 0 is not in 1..=604800

    For more information, try '--help'.
    $ ban del 192.0.2.0/24
    2: error: invalid value '192.0.2.0/24' for '<ADDR>': 192.0.2.0/24 is neither an address nor a /64 of IPv6: nothing else is banned as one

    For more information, try '--help'.
    $ ban del 2001:db8::/48
    2: error: invalid value '2001:db8::/48' for '<ADDR>': 2001:db8::/48 is neither an address nor a /64 of IPv6: nothing else is banned as one

    For more information, try '--help'.
    $ ban del 2001:db8::7/64
    2: error: invalid value '2001:db8::7/64' for '<ADDR>': 2001:db8::7/64 has bits behind its length: the prefix is 2001:db8::/64

    For more information, try '--help'.
    "#
    );
}

#[test]
fn refusals() {
    insta::assert_snapshot!(
        rules().each_refused(&[
            "ban rule add --ports 20-22 --connections 5 --within 60 --time 60",
            "ban rule add --ports 8000-8079 --connections 200 --within 10 --time 60",
            "ban rule del 3",
            "ban list",
            "ban list --network lan",
            "ban add 192.0.2.7",
            "ban add 192.0.2.7 --network lan",
            "ban del 192.0.2.7",
            "ban del 2001:db8::/64 --if-exists",
            "ban flush",
        ]),
        @"
    $ ban rule add --ports 20-22 --connections 5 --within 60 --time 60
    1: error: adding a ban rule: its ports 20-22 are among those of the rule 1, 22
      mend: a port has one rule: delete or change one of them
    $ ban rule add --ports 8000-8079 --connections 200 --within 10 --time 60
    1: error: adding a ban rule: the rule 2 is the very same
      mend: say --may-exist where that is no mistake
    $ ban rule del 3
    1: error: deleting the ban rule 3: there is no ban rule 3
      mend: vnet-user ban rule list shows the rules
    $ ban list
    3: error: listing who is banned: the switch vsw0 is not up
      mend: vnet-user --switch vsw0 up
    $ ban list --network lan
    3: error: listing who is banned: the switch vsw0 is not up
      mend: vnet-user --switch vsw0 up
    $ ban add 192.0.2.7
    3: error: banning 192.0.2.7: the switch vsw0 is not up
      mend: vnet-user --switch vsw0 up
    $ ban add 192.0.2.7 --network lan
    3: error: banning 192.0.2.7: the switch vsw0 is not up
      mend: vnet-user --switch vsw0 up
    $ ban del 192.0.2.7
    3: error: letting 192.0.2.7 in: the switch vsw0 is not up
      mend: vnet-user --switch vsw0 up
    $ ban del 2001:db8::/64 --if-exists
    3: error: letting 2001:db8::/64 in: the switch vsw0 is not up
      mend: vnet-user --switch vsw0 up
    $ ban flush
    3: error: letting everybody in who is banned: the switch vsw0 is not up
      mend: vnet-user --switch vsw0 up
    "
    );
    insta::assert_snapshot!(Switch::new().refused("ban rule del 3"), @"1: error: deleting the ban rule 3: there is no ban rule 3");
}

#[test]
fn may_exist_and_if_exists_change_nothing() {
    let switch = rules();
    let before = switch.document();
    for line in [
        "ban rule add --ports 8000-8079 --connections 200 --within 10 --time 60 --may-exist",
        "ban rule del 3 --if-exists",
    ] {
        switch.ok(line);
        assert_eq!(switch.document(), before, "{line}");
    }
    switch.ok("ban rule del 2 --if-exists");
    assert!(!switch.document().contains("8000"));
}

#[test]
fn mistakes_in_the_document_are_shown_with_their_place() {
    let rule = "[[ban]]\nid = 1\nports = '22'\nconnections = 5\nwithin = 60\ntime = 60\n";
    let answers = [
        rule.replace("id = 1", "id = 0"),
        rule.replace("connections = 5", "connections = 0"),
        rule.replace("'22'", "'22-20'"),
        format!("{rule}except = ['10.0.0.1/24']\n"),
        format!("{rule}{rule}"),
        format!("{rule}{}", rule.replace("id = 1", "id = 2")),
    ]
    .map(|text| Switch::with_document(&format!("schema = 1\n{text}")).refused("ban rule list"));
    insta::assert_snapshot!(answers.concat(), @"
    1: error: reading [DIR]/etc/vsw0.toml: the ban rule 0: 0 is no id: use 1 to 255
     --> [DIR]/etc/vsw0.toml:3:6
      |
    3 | id = 0
      |      ^
      mend: edit the file
    1: error: reading [DIR]/etc/vsw0.toml: the ban rule 1: 0 connections are out of range: use 1 to 1000000
     --> [DIR]/etc/vsw0.toml:5:15
      |
    5 | connections = 0
      |               ^
      mend: edit the file
    1: error: reading [DIR]/etc/vsw0.toml: the ports 22-20 are none: the first is above the last
     --> [DIR]/etc/vsw0.toml:4:9
      |
    4 | ports = '22-20'
      |         ^^^^^^^
      mend: edit the file
    1: error: reading [DIR]/etc/vsw0.toml: 10.0.0.1/24 has bits behind its length: the prefix is 10.0.0.0/24
     --> [DIR]/etc/vsw0.toml:8:10
      |
    8 | except = ['10.0.0.1/24']
      |          ^^^^^^^^^^^^^^^
      mend: edit the file
    1: error: reading [DIR]/etc/vsw0.toml: the ban rule 1: the id 1 is there twice
     --> [DIR]/etc/vsw0.toml:9:6
      |
    9 | id = 1
      |      ^
      mend: edit the file
    1: error: reading [DIR]/etc/vsw0.toml: the ban rule 2: its ports 22 are among those of the rule 1, 22
      --> [DIR]/etc/vsw0.toml:10:9
       |
    10 | ports = '22'
       |         ^^^^
      mend: a port has one rule: delete or change one of them
    ");
}
