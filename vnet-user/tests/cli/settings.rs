//! `set`, `get`.

use super::Switch;

#[test]
fn listings() {
    let switch = Switch::after(&["set ageing=60 storm.broadcast=off"]);
    insta::assert_snapshot!(switch.document(), @r#"
    schema = 1

    [settings]
    ageing = 60
    storm.broadcast = "off"
    "#);
    insta::assert_snapshot!(switch.ok("get"), @"
    KEY                    VALUE  DEFAULT  DESCRIPTION
    ageing                 60     300      seconds until an unseen address is forgotten, 10 to 86400
    fdb_size               65536  65536    most addresses in the FDB, 1024 to 1000000; changes by down and up
    max_ports              1024   1024     most ports, a power of two from 64 to 4096; changes by down and up
    max_macs               1024   1024     most addresses learned at a VM port without --max-macs, 0 is no limit
    storm.broadcast        off    1000     broadcast frames a second from a port without --storm, or off
    storm.multicast        10000  10000    multicast frames a second from a port without --storm, or off
    storm.unknown_unicast  2000   2000     flooded unicast frames a second from a port without --storm, or off
    ");
    insta::assert_snapshot!(switch.ok("get -o jsonl"), @r#"
    {"key":"ageing","value":60,"default":300,"description":"seconds until an unseen address is forgotten, 10 to 86400"}
    {"key":"fdb_size","value":65536,"default":65536,"description":"most addresses in the FDB, 1024 to 1000000; changes by down and up"}
    {"key":"max_ports","value":1024,"default":1024,"description":"most ports, a power of two from 64 to 4096; changes by down and up"}
    {"key":"max_macs","value":1024,"default":1024,"description":"most addresses learned at a VM port without --max-macs, 0 is no limit"}
    {"key":"storm.broadcast","value":"off","default":1000,"description":"broadcast frames a second from a port without --storm, or off"}
    {"key":"storm.multicast","value":10000,"default":10000,"description":"multicast frames a second from a port without --storm, or off"}
    {"key":"storm.unknown_unicast","value":2000,"default":2000,"description":"flooded unicast frames a second from a port without --storm, or off"}
    "#);
    assert_eq!(switch.ok("get ageing"), "60\n");
    assert_eq!(switch.ok("get storm.broadcast"), "off\n");
    insta::assert_snapshot!(switch.ok("get storm.broadcast -j"), @r#"
    {
      "schema": 1,
      "settings": [
        {
          "key": "storm.broadcast",
          "value": "off",
          "default": 1000,
          "description": "broadcast frames a second from a port without --storm, or off"
        }
      ]
    }
    "#);
}

#[test]
fn default_resets() {
    let switch = Switch::after(&[
        "set ageing=60 fdb_size=2048",
        "set ageing=default fdb_size=default",
    ]);
    assert_eq!(switch.document(), "schema = 1\n");
}

#[test]
fn one_wrong_value_and_nothing_changes() {
    insta::assert_snapshot!(
        Switch::after(&["set ageing=60"]).each_refused(&[
            "set",
            "set ageing=70 ageing",
            "set ageing=70 color=red",
            "set ageing=70 fdb_size=1",
            "set ageing=70 max_ports=65",
            "set ageing=70 storm.broadcast=0",
            "set ageing=70 ageing=80",
            "get color",
        ]),
        @r#"
    $ set
    2: error: the following required arguments were not provided:
      <KEY=VALUE>...

    Usage: vnet-user set <KEY=VALUE>...

    For more information, try '--help'.
    $ set ageing=70 ageing
    2: error: invalid value 'ageing' for '<KEY=VALUE>...': "ageing" is not KEY=VALUE

    For more information, try '--help'.
    $ set ageing=70 color=red
    2: error: invalid value 'color=red' for '<KEY=VALUE>...': no setting is called "color"; there are ageing, fdb_size, max_ports, max_macs, storm.broadcast, storm.multicast, storm.unknown_unicast

    For more information, try '--help'.
    $ set ageing=70 fdb_size=1
    2: error: invalid value 'fdb_size=1' for '<KEY=VALUE>...': 1 is out of range; fdb_size: most addresses in the FDB, 1024 to 1000000; changes by down and up

    For more information, try '--help'.
    $ set ageing=70 max_ports=65
    2: error: invalid value 'max_ports=65' for '<KEY=VALUE>...': 65 is out of range; max_ports: most ports, a power of two from 64 to 4096; changes by down and up

    For more information, try '--help'.
    $ set ageing=70 storm.broadcast=0
    2: error: invalid value 'storm.broadcast=0' for '<KEY=VALUE>...': 0 is not a storm limit: use 1 to 10000000 frames a second, or off

    For more information, try '--help'.
    $ set ageing=70 ageing=80
    2: error: changing settings: ageing is set twice
    $ get color
    2: error: invalid value 'color' for '[KEY]': no setting is called "color"; there are ageing, fdb_size, max_ports, max_macs, storm.broadcast, storm.multicast, storm.unknown_unicast

    For more information, try '--help'.
    "#
    );
}

#[test]
fn ports_need_the_size_that_they_fill() {
    let switch = Switch::new();
    for n in 0..63 {
        switch.ok(&format!("-q port add tap{n}"));
    }
    insta::assert_snapshot!(switch.refused("set max_ports=64"), @"
    1: error: changing settings: 63 ports need 65 slots (an uplink two, the switch itself two) and max_ports is 64
      mend: vnet-user set max_ports=128
    ");
}
