//! `nat add | del | list | show`.

use std::net::{TcpListener, UdpSocket};

use super::Switch;

/// A network `lan` with both families, an uplink `eth0`, a VM `tap0`.
fn switch() -> Switch {
    Switch::after(&[
        "network add lan --gateway 10.0.0.1/24 --gateway fd00::1/64",
        "network add wan",
        "port add eth0 --uplink",
        "port add tap0 --network lan",
    ])
}

/// A rule of each kind.
fn rules() -> Switch {
    let switch = switch();
    for line in [
        "nat add masquerade --network lan --uplink eth0 --ports 1024-2047 --mapping symmetric \
         --filtering eif --block-size 64",
        "nat add snat --source 10.0.0.128/25 --to 198.51.100.8-198.51.100.15 --uplink eth0",
        "nat add dnat --proto tcp,udp --listen 192.0.2.1:8080-8081 --to 10.0.0.2:80-81 --from \
         203.0.113.0/24 --uplink eth0",
        "nat add static --external 198.51.100.1/32 --internal 10.0.0.3",
        "nat add static --external 2001:db8:1:2::/64 --internal fd00::/64 --uplink vsw0",
        "nat add dnat --proto tcp --listen [2001:db8::1]:443 --to [fd00::2]:443",
    ] {
        switch.ok(line);
    }
    switch
}

#[test]
fn a_rule_is_told_by_its_id() {
    let switch = switch();
    let answer = switch.run("nat add masquerade --network lan --uplink eth0");
    assert_eq!((answer.code, answer.stdout.as_str()), (0, "1\n"));
    insta::assert_snapshot!(answer.stderr, @"
    note: the switch vsw0 is down: this takes effect at `up`
    note: masquerade rule 1 added
    ");
    let line = "nat add dnat --proto tcp --listen 192.0.2.1:80 --to 10.0.0.2:80";
    assert_eq!(
        switch.ok(&format!("{line} -j")),
        "{\"schema\":1,\"id\":2}\n"
    );
    // The very same rule is there, however it is spelled.
    let again = "nat add dnat --proto tcp --listen 192.0.2.1:80-80 --to 10.0.0.2:80 --may-exist";
    let answer = switch.run(again);
    assert_eq!(
        (answer.stdout.as_str(), answer.stderr.as_str()),
        ("2\n", "")
    );
    // An id is not given again.
    switch.ok("nat del 1");
    assert_eq!(
        switch.ok("nat add masquerade --network lan --uplink eth0"),
        "3\n"
    );
}

#[test]
fn the_document() {
    insta::assert_snapshot!(rules().document(), @r#"
    schema = 1

    [[network]]
    name = "lan"
    gateway = ["10.0.0.1/24", "fd00::1/64"]

    [[network]]
    name = "wan"

    [[port]]
    name = "eth0"
    uplink = true

    [[port]]
    name = "tap0"
    network = "lan"

    [[nat]]
    id = 1
    kind = "masquerade"
    network = "lan"
    uplink = "eth0"
    ports = "1024-2047"
    mapping = "symmetric"
    filtering = "eif"
    block_size = 64

    [[nat]]
    id = 2
    kind = "snat"
    source = "10.0.0.128/25"
    to = "198.51.100.8-198.51.100.15"
    uplink = "eth0"

    [[nat]]
    id = 3
    kind = "dnat"
    proto = "tcp,udp"
    listen = "192.0.2.1:8080-8081"
    to = "10.0.0.2:80-81"
    from = "203.0.113.0/24"
    uplink = "eth0"

    [[nat]]
    id = 4
    kind = "static"
    external = "198.51.100.1"
    internal = "10.0.0.3"

    [[nat]]
    id = 5
    kind = "static"
    external = "2001:db8:1:2::/64"
    internal = "fd00::/64"
    uplink = "vsw0"

    [[nat]]
    id = 6
    kind = "dnat"
    proto = "tcp"
    listen = "[2001:db8::1]:443"
    to = "[fd00::2]:443"
    "#);
}

#[test]
fn listings() {
    let switch = rules();
    insta::assert_snapshot!(Switch::new().ok("nat list"), @"ID  KIND  MATCH  TO  UPLINK  OPTIONS  HITS  FLOWS  PORTS(used/free)");
    insta::assert_snapshot!(switch.ok("nat list"), @"
    ID  KIND        MATCH                        TO                          UPLINK  OPTIONS                                                        HITS  FLOWS  PORTS(used/free)
    1   masquerade  lan                          -                           eth0    ports=1024-2047,mapping=symmetric,filtering=eif,block_size=64  -     -      -
    2   snat        10.0.0.128/25                198.51.100.8-198.51.100.15  eth0    -                                                              -     -      -
    3   dnat        tcp,udp 192.0.2.1:8080-8081  10.0.0.2:80-81              eth0    from=203.0.113.0/24                                            -     -      -
    4   static      198.51.100.1                 10.0.0.3                    -       -                                                              -     -      -
    5   static      2001:db8:1:2::/64            fd00::/64                   vsw0    -                                                              -     -      -
    6   dnat        tcp [2001:db8::1]:443        [fd00::2]:443               -       -                                                              -     -      -
    ");
    insta::assert_snapshot!(switch.ok("nat list -o jsonl"), @r#"
    {"id":1,"kind":"masquerade","network":"lan","uplink":"eth0","ports":"1024-2047","mapping":"symmetric","filtering":"eif","block_size":64,"hits":null,"flows":null,"ports_used":null,"ports_free":null,"exhausted":null}
    {"id":2,"kind":"snat","source":"10.0.0.128/25","to":"198.51.100.8-198.51.100.15","uplink":"eth0","ports":"1024-65535","mapping":"eim","filtering":"adf","hits":null,"flows":null,"ports_used":null,"ports_free":null,"exhausted":null}
    {"id":3,"kind":"dnat","proto":"tcp,udp","listen":"192.0.2.1:8080-8081","to":"10.0.0.2:80-81","from":"203.0.113.0/24","uplink":"eth0","hits":null,"flows":null,"ports_used":null,"ports_free":null,"exhausted":null}
    {"id":4,"kind":"static","external":"198.51.100.1","internal":"10.0.0.3","hits":null,"flows":null,"ports_used":null,"ports_free":null,"exhausted":null}
    {"id":5,"kind":"static","external":"2001:db8:1:2::/64","internal":"fd00::/64","uplink":"vsw0","hits":null,"flows":null,"ports_used":null,"ports_free":null,"exhausted":null}
    {"id":6,"kind":"dnat","proto":"tcp","listen":"[2001:db8::1]:443","to":"[fd00::2]:443","hits":null,"flows":null,"ports_used":null,"ports_free":null,"exhausted":null}
    "#);
    insta::assert_snapshot!(switch.ok("nat show 3"), @"
    ID                3
    KIND              dnat
    MATCH             tcp,udp 192.0.2.1:8080-8081
    TO                10.0.0.2:80-81
    UPLINK            eth0
    OPTIONS           from=203.0.113.0/24
    HITS              -
    FLOWS             -
    PORTS(used/free)  -
    EXHAUSTED         -
    ");
    insta::assert_snapshot!(switch.ok("nat show 2 -j"), @r#"
    {
      "schema": 1,
      "nat": [
        {
          "id": 2,
          "kind": "snat",
          "source": "10.0.0.128/25",
          "to": "198.51.100.8-198.51.100.15",
          "uplink": "eth0",
          "ports": "1024-65535",
          "mapping": "eim",
          "filtering": "adf",
          "hits": null,
          "flows": null,
          "ports_used": null,
          "ports_free": null,
          "exhausted": null
        }
      ]
    }
    "#);
}

#[test]
fn what_is_wrong_on_its_own() {
    insta::assert_snapshot!(
        rules().each_refused(&[
            "nat add",
            "nat add masquerade --network lan",
            "nat add masquerade --network lan --uplink eth0 --ports 2047-1024",
            "nat add masquerade --network lan --uplink eth0 --ports 0-9",
            "nat add masquerade --network lan --uplink eth0 --mapping adm",
            "nat add masquerade --network lan --uplink eth0 --filtering none",
            "nat add masquerade --network lan --uplink eth0 --block-size 0",
            "nat add masquerade --network lan --uplink eth0 --ports 1-9 --block-size 10",
            "nat add snat --source 10.0.0.1/24 --to 192.0.2.1 --uplink eth0",
            "nat add snat --source 10.0.0.0/24 --to 192.0.2.9-192.0.2.1 --uplink eth0",
            "nat add snat --source 10.0.0.0/24 --to 10.64.0.0-10.65.0.0 --uplink eth0",
            "nat add snat --source 10.0.0.0/24 --to 2001:db8::1 --uplink eth0",
            "nat add snat --source 10.0.0.0/24 --to 224.0.0.1 --uplink eth0",
            "nat add dnat --proto icmp --listen 192.0.2.1:80 --to 10.0.0.2:80",
            "nat add dnat --proto tcp --listen 192.0.2.1 --to 10.0.0.2:80",
            "nat add dnat --proto tcp --listen 2001:db8::1:80 --to [fd00::2]:80",
            "nat add dnat --proto tcp --listen 0.0.0.0:80 --to 10.0.0.2:80",
            "nat add dnat --proto tcp --listen 192.0.2.1:80-89 --to 10.0.0.2:80-81",
            "nat add dnat --proto tcp --listen 192.0.2.1:80 --to [fd00::2]:80",
            "nat add static --external 192.0.2.0/24 --internal 10.0.0.0/25",
            "nat add static --external 2001:db8::/96 --internal fd00::/96",
            "nat show 0",
            "nat del 16384",
        ]),
        @r#"
    $ nat add
    2: Add a rule; its id is printed

    Usage: vnet-user nat add [OPTIONS] <COMMAND>

    Commands:
      masquerade  Give a network's sources the uplink's own address
      snat        Give sources addresses of a pool
      dnat        Lead an external address and port to a VM
      static      Have an external address or prefix stand for an internal one
      help        Print this message or the help of the given subcommand(s)

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
    $ nat add masquerade --network lan
    2: error: the following required arguments were not provided:
      --uplink <IFACE>

    Usage: vnet-user nat add masquerade --network <NAME> --uplink <IFACE>

    For more information, try '--help'.
    $ nat add masquerade --network lan --uplink eth0 --ports 2047-1024
    2: error: invalid value '2047-1024' for '--ports <LO-HI>': the ports 2047-1024 are none: the first is above the last

    For more information, try '--help'.
    $ nat add masquerade --network lan --uplink eth0 --ports 0-9
    2: error: invalid value '0-9' for '--ports <LO-HI>': "0" is not a port: use 1 to 65535

    For more information, try '--help'.
    $ nat add masquerade --network lan --uplink eth0 --mapping adm
    2: error: invalid value 'adm' for '--mapping <eim|symmetric>'
      [possible values: eim, symmetric]

    For more information, try '--help'.
    $ nat add masquerade --network lan --uplink eth0 --filtering none
    2: error: invalid value 'none' for '--filtering <eif|adf|apdf>'
      [possible values: eif, adf, apdf]

    For more information, try '--help'.
    $ nat add masquerade --network lan --uplink eth0 --block-size 0
    2: error: invalid value '0' for '--block-size <N>': 0 is not in 1..=65535

    For more information, try '--help'.
    $ nat add masquerade --network lan --uplink eth0 --ports 1-9 --block-size 10
    2: error: adding a masquerade rule: a block of 10 ports is larger than the ports 1-9, which are 9
    $ nat add snat --source 10.0.0.1/24 --to 192.0.2.1 --uplink eth0
    2: error: invalid value '10.0.0.1/24' for '--source <CIDR>': 10.0.0.1/24 has bits behind its length: the prefix is 10.0.0.0/24

    For more information, try '--help'.
    $ nat add snat --source 10.0.0.0/24 --to 192.0.2.9-192.0.2.1 --uplink eth0
    2: error: invalid value '192.0.2.9-192.0.2.1' for '--to <ADDR[-ADDR]>': the addresses 192.0.2.9-192.0.2.1 are none: the first is above the last

    For more information, try '--help'.
    $ nat add snat --source 10.0.0.0/24 --to 10.64.0.0-10.65.0.0 --uplink eth0
    2: error: invalid value '10.64.0.0-10.65.0.0' for '--to <ADDR[-ADDR]>': 10.64.0.0-10.65.0.0 is 65537 addresses; a pool has at most 65536

    For more information, try '--help'.
    $ nat add snat --source 10.0.0.0/24 --to 2001:db8::1 --uplink eth0
    2: error: adding a snat rule: the source is IPv4 and the pool IPv6: they must be alike
    $ nat add snat --source 10.0.0.0/24 --to 224.0.0.1 --uplink eth0
    2: error: adding a snat rule: 224.0.0.1 is a multicast address
    $ nat add dnat --proto icmp --listen 192.0.2.1:80 --to 10.0.0.2:80
    2: error: invalid value 'icmp' for '--proto <PROTO>': "icmp" is no protocol of a port forward: use tcp, udp or tcp,udp

    For more information, try '--help'.
    $ nat add dnat --proto tcp --listen 192.0.2.1 --to 10.0.0.2:80
    2: error: invalid value '192.0.2.1' for '--listen <ADDR:PORT[-PORT]>': "192.0.2.1" is not ADDR:PORT or ADDR:PORT-PORT, with an IPv6 address in brackets

    For more information, try '--help'.
    $ nat add dnat --proto tcp --listen 2001:db8::1:80 --to [fd00::2]:80
    2: error: invalid value '2001:db8::1:80' for '--listen <ADDR:PORT[-PORT]>': "2001:db8::1:80" is not ADDR:PORT or ADDR:PORT-PORT, with an IPv6 address in brackets

    For more information, try '--help'.
    $ nat add dnat --proto tcp --listen 0.0.0.0:80 --to 10.0.0.2:80
    2: error: invalid value '0.0.0.0:80' for '--listen <ADDR:PORT[-PORT]>': 0.0.0.0 means this host or none (RFC 1122, 3.2.1.3)

    For more information, try '--help'.
    $ nat add dnat --proto tcp --listen 192.0.2.1:80-89 --to 10.0.0.2:80-81
    2: error: adding a dnat rule: it listens on 10 ports and leads to 2: they must be as many, or one
    $ nat add dnat --proto tcp --listen 192.0.2.1:80 --to [fd00::2]:80
    2: error: adding a dnat rule: the address it listens on is IPv4 and its VM's IPv6: they must be alike
    $ nat add static --external 192.0.2.0/24 --internal 10.0.0.0/25
    2: error: adding a static rule: 192.0.2.0/24 and 10.0.0.0/25 are not equally long prefixes
    $ nat add static --external 2001:db8::/96 --internal fd00::/96
    2: error: adding a static rule: an IPv6 prefix of /96 leaves no 16 bits that can make up for the change of the checksum (RFC 6296): use /64 or a shorter one, or single addresses
    $ nat show 0
    2: error: invalid value '0' for '<ID>': "0" is not a rule's id, a number from 1 to 16383

    For more information, try '--help'.
    $ nat del 16384
    2: error: invalid value '16384' for '<ID>': "16384" is not a rule's id, a number from 1 to 16383

    For more information, try '--help'.
    "#
    );
}

#[test]
fn refusals() {
    insta::assert_snapshot!(
        rules().each_refused(&[
            "nat add masquerade --network red --uplink eth0",
            "nat add masquerade --network wan --uplink eth0",
            "nat add masquerade --network lan --uplink eth9",
            "nat add masquerade --network lan --uplink tap0",
            "nat add masquerade --network lan --uplink eth0",
            "nat add masquerade --network lan --uplink eth0 --may-exist",
            "nat add snat --source 10.0.0.0/24 --to 198.51.100.1 --uplink vsw0",
            "nat add snat --source 10.0.0.0/24 --to 198.51.100.2 --uplink eth0",
            "nat add snat --source 10.0.0.0/24 --to 10.0.0.9 --uplink vsw0",
            "nat add dnat --proto tcp --listen 192.0.2.1:8081 --to 10.0.0.3:80",
            "nat add dnat --proto tcp --listen 198.51.100.1:80 --to 10.0.0.3:80",
            "nat add dnat --proto tcp --listen 192.0.2.1:80 --to 10.1.0.2:80",
            "nat add static --external 198.51.100.0/30 --internal 10.0.0.4/30",
            "nat add static --external 192.0.2.1 --internal 10.0.0.4",
            "nat add static --external 192.0.2.2 --internal 10.1.0.4",
            "nat show 9",
            "nat del 9",
        ]),
        @r#"
    $ nat add masquerade --network red --uplink eth0
    1: error: adding a masquerade rule: there is no network red; there are default, lan, wan
      mend: vnet-user network add red
    $ nat add masquerade --network wan --uplink eth0
    1: error: adding a masquerade rule: the network wan has no gateway
      mend: make the network anew with --gateway ADDR/LENGTH, or write gateway = ["ADDR/LENGTH"] under it in the document
    $ nat add masquerade --network lan --uplink eth9
    1: error: adding a masquerade rule: there is no port eth9; there are vsw0, eth0, tap0
      mend: vnet-user port add eth9 --uplink
    $ nat add masquerade --network lan --uplink tap0
    1: error: adding a masquerade rule: the port tap0 is not an uplink
      mend: vnet-user port set tap0 --uplink
    $ nat add masquerade --network lan --uplink eth0
    1: error: adding a masquerade rule: the masquerade rule 1 is for lan by eth0 already
      mend: vnet-user nat del 1, then add it again
    $ nat add masquerade --network lan --uplink eth0 --may-exist
    1: error: adding a masquerade rule: the masquerade rule 1 is for lan by eth0 already
      mend: vnet-user nat del 1, then add it again
    $ nat add snat --source 10.0.0.0/24 --to 198.51.100.1 --uplink vsw0
    1: error: adding a snat rule: its pool 198.51.100.1 is outside for the static rule 4, which takes every port of it
      mend: choose other addresses, or: vnet-user nat del 4
    $ nat add snat --source 10.0.0.0/24 --to 198.51.100.2 --uplink eth0
    1: error: adding a snat rule: the masquerade rule 1 translates the source 10.0.0.0/24 there already
      mend: name another source, or: vnet-user nat del 1
    $ nat add snat --source 10.0.0.0/24 --to 10.0.0.9 --uplink vsw0
    1: error: adding a snat rule: its pool 10.0.0.9 overlaps 10.0.0.0/24 of the network lan, which is inside
      mend: name addresses of the outside
    $ nat add dnat --proto tcp --listen 192.0.2.1:8081 --to 10.0.0.3:80
    1: error: adding a dnat rule: the dnat rule 3 listens on tcp 192.0.2.1:8080-8081 already
      mend: choose another address or port, or: vnet-user nat del 3
    $ nat add dnat --proto tcp --listen 198.51.100.1:80 --to 10.0.0.3:80
    1: error: adding a dnat rule: its 198.51.100.1:80 is outside for the static rule 4, which takes every port of it
      mend: choose other addresses, or: vnet-user nat del 4
    $ nat add dnat --proto tcp --listen 192.0.2.1:80 --to 10.1.0.2:80
    1: error: adding a dnat rule: 10.1.0.2 is in no network that has a gateway
      mend: add its network with a gateway: vnet-user network add NAME --gateway ADDR/LENGTH
    $ nat add static --external 198.51.100.0/30 --internal 10.0.0.4/30
    1: error: adding a static rule: its outside 198.51.100.0/30 overlaps that of the static rule 4
      mend: choose other addresses, or: vnet-user nat del 4
    $ nat add static --external 192.0.2.1 --internal 10.0.0.4
    1: error: adding a static rule: it takes every port of 192.0.2.1, which the dnat rule 3 uses
      mend: choose other addresses, or: vnet-user nat del 3
    $ nat add static --external 192.0.2.2 --internal 10.1.0.4
    1: error: adding a static rule: 10.1.0.4 is in no network that has a gateway
      mend: add its network with a gateway: vnet-user network add NAME --gateway ADDR/LENGTH
    $ nat show 9
    1: error: showing the rule 9: there is no rule 9
      mend: vnet-user nat list shows the rules
    $ nat del 9
    1: error: deleting the rule 9: there is no rule 9
      mend: vnet-user nat list shows the rules
    "#
    );
}

#[test]
fn what_the_host_listens_on_is_not_taken_unless_forced() {
    let switch = switch();
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let udp = UdpSocket::bind("0.0.0.0:0").unwrap();
    let port = udp.local_addr().unwrap().port();
    let line = format!("nat add dnat --proto udp --listen 192.0.2.1:{port} --to 10.0.0.2:53");
    let answer = switch.refused(&line).replace(&port.to_string(), "PORT");
    insta::assert_snapshot!(answer, @"
    1: error: adding a dnat rule: the host listens on 0.0.0.0:PORT (udp) itself
      mend: choose another port, end that service, or say --force: connections from outside go to the VM then
    ");
    switch.ok(&format!("{line} --force"));
    assert!(!switch.document().contains("force"));
    // It is there: nothing is taken that was not taken before.
    switch.ok(&format!("{line} --may-exist"));
    // A socket of another address does not get what comes to this one.
    let port = tcp.local_addr().unwrap().port();
    switch.ok(&format!(
        "nat add dnat --proto tcp --listen 192.0.2.2:{port} --to 10.0.0.2:53"
    ));
}

#[test]
fn if_exists_changes_nothing() {
    let switch = rules();
    let before = switch.document();
    switch.ok("nat del 9 --if-exists");
    assert_eq!(switch.document(), before);
    switch.ok("nat del 1 --if-exists");
    assert!(!switch.document().contains("masquerade"));
}
