//! `port add | set | del | list | show`.

use super::Switch;

fn ports() -> Switch {
    Switch::after(&[
        "network add blue --vlan 10",
        "network add red",
        "port add eth0 --uplink",
        "port add vnet3 --network blue --mac 02:00:00:00:00:01 --mac 02:00:00:00:00:02 --max-macs 2",
        "port add tap1 --trunk blue,red=30 --native default --storm broadcast=100 --storm unknown-unicast=off",
    ])
}

/// The port's line in the table.
fn row(switch: &Switch, port: &str) -> String {
    let table = switch.ok("port list");
    table
        .lines()
        .find(|line| line.starts_with(port))
        .unwrap_or_default()
        .to_owned()
}

#[test]
fn listings() {
    let switch = ports();
    insta::assert_snapshot!(switch.document(), @r#"
    schema = 1

    [[network]]
    name = "blue"
    vlan = 10

    [[network]]
    name = "red"

    [[port]]
    name = "eth0"
    uplink = true

    [[port]]
    name = "vnet3"
    network = "blue"
    mac = ["02:00:00:00:00:01", "02:00:00:00:00:02"]
    max_macs = 2

    [[port]]
    name = "tap1"
    trunk = ["blue", "red=30"]
    native = "default"
    storm = { broadcast = 100, unknown_unicast = "off" }
    "#);
    insta::assert_snapshot!(switch.ok("port list"), @"
    NAME   KIND      STATE  MODE    NETWORKS                MACS                                 GROUPS
    vsw0   internal  down   access  default                 -                                    -
    eth0   uplink    down   trunk   default,blue=10         -                                    -
    vnet3  vm        down   access  blue                    02:00:00:00:00:01,02:00:00:00:00:02  -
    tap1   vm        down   trunk   default,blue=10,red=30  -                                    -
    ");
    insta::assert_snapshot!(switch.ok("port list -o jsonl"), @r#"
    {"name":"vsw0","kind":"internal","state":"down","mode":"access","networks":[{"network":"default","vid":null}],"macs":[],"groups":[],"max_macs":0,"ips":[],"learned_ips":[],"guard":"default","isolated":false,"storm":{"broadcast":1000,"multicast":10000,"unknown_unicast":2000,"arp":1000,"nd":1000}}
    {"name":"eth0","kind":"uplink","state":"down","mode":"trunk","networks":[{"network":"default","vid":null},{"network":"blue","vid":10}],"macs":[],"groups":[],"max_macs":0,"ips":[],"learned_ips":[],"guard":"default","isolated":false,"storm":{"broadcast":1000,"multicast":10000,"unknown_unicast":2000,"arp":1000,"nd":1000}}
    {"name":"vnet3","kind":"vm","state":"down","mode":"access","networks":[{"network":"blue","vid":null}],"macs":["02:00:00:00:00:01","02:00:00:00:00:02"],"groups":[],"max_macs":2,"ips":[],"learned_ips":[],"guard":"default","isolated":false,"storm":{"broadcast":1000,"multicast":10000,"unknown_unicast":2000,"arp":1000,"nd":1000}}
    {"name":"tap1","kind":"vm","state":"down","mode":"trunk","networks":[{"network":"default","vid":null},{"network":"blue","vid":10},{"network":"red","vid":30}],"macs":[],"groups":[],"max_macs":1024,"ips":[],"learned_ips":[],"guard":"default","isolated":false,"storm":{"broadcast":100,"multicast":10000,"unknown_unicast":"off","arp":1000,"nd":1000}}
    "#);
    insta::assert_snapshot!(switch.ok("port show tap1"), @"
    NAME                   tap1
    KIND                   vm
    STATE                  down
    MODE                   trunk
    NETWORKS               default,blue=10,red=30
    MACS                   -
    GROUPS                 -
    MAX MACS               1024
    IPS                    -
    LEARNED IPS            -
    GUARD                  default
    ISOLATED               no
    STORM BROADCAST        100
    STORM MULTICAST        10000
    STORM UNKNOWN UNICAST  off
    STORM ARP              1000
    STORM ND               1000
    ");
    insta::assert_snapshot!(switch.ok("port show vnet3 -j"), @r#"
    {
      "schema": 1,
      "ports": [
        {
          "name": "vnet3",
          "kind": "vm",
          "state": "down",
          "mode": "access",
          "networks": [
            {
              "network": "blue",
              "vid": null
            }
          ],
          "macs": [
            "02:00:00:00:00:01",
            "02:00:00:00:00:02"
          ],
          "groups": [],
          "max_macs": 2,
          "ips": [],
          "learned_ips": [],
          "guard": "default",
          "isolated": false,
          "storm": {
            "broadcast": 1000,
            "multicast": 10000,
            "unknown_unicast": 2000,
            "arp": 1000,
            "nd": 1000
          }
        }
      ]
    }
    "#);
}

#[test]
fn refusals_of_add() {
    insta::assert_snapshot!(
        ports().each_refused(&[
            "port add a/b",
            "port add lo",
            "port add 0123456789abcdef",
            "port add tap2 --network blue --trunk blue",
            "port add tap2 --native blue",
            "port add tap2 --trunk blue=4095",
            "port add tap2 --mac 01:00:5e:00:00:01",
            "port add tap2 --mac 00:00:00:00:00:00",
            "port add tap2 --mac none --mac 02:00:00:00:00:01",
            "port add tap2 --max-macs 1000001",
            "port add tap2 --storm broadcast=0",
            "port add tap2 --storm broadcast=1 --storm broadcast=2",
            "port add tap2 --storm flood=1",
            "port add tap2 --network green",
            "port add tap2 --trunk red",
            "port add tap2 --trunk blue,blue=11",
            "port add tap2 --trunk blue,red=10",
            "port add tap2 --trunk blue=11 --native blue",
            "port add tap1",
            "port add vsw0",
        ]),
        @r#"
    $ port add a/b
    2: error: invalid value 'a/b' for '<IFACE>': "a/b" is not an interface's name: '/', ':', '%', blanks, "." and ".." are not allowed

    For more information, try '--help'.
    $ port add lo
    2: error: invalid value 'lo' for '<IFACE>': the loopback interface cannot belong to a switch

    For more information, try '--help'.
    $ port add 0123456789abcdef
    2: error: invalid value '0123456789abcdef' for '<IFACE>': "0123456789abcdef" is longer than the 15 bytes of an interface's name

    For more information, try '--help'.
    $ port add tap2 --network blue --trunk blue
    2: error: the argument '--network <NAME>' cannot be used with '--trunk <NAME[=VID]>'

    Usage: vnet-user port add --network <NAME> <IFACE>

    For more information, try '--help'.
    $ port add tap2 --native blue
    2: error: adding the port tap2: only a trunk has a native network
      mend: say --trunk too, or --network for one untagged network
    $ port add tap2 --trunk blue=4095
    2: error: invalid value 'blue=4095' for '--trunk <NAME[=VID]>': VLAN id 4095 is reserved (IEEE 802.1Q): use 1 to 4094

    For more information, try '--help'.
    $ port add tap2 --mac 01:00:5e:00:00:01
    2: error: invalid value '01:00:5e:00:00:01' for '--mac <MAC|auto>': 01:00:5e:00:00:01 is a group address (broadcast or multicast), not one station's

    For more information, try '--help'.
    $ port add tap2 --mac 00:00:00:00:00:00
    2: error: invalid value '00:00:00:00:00:00' for '--mac <MAC|auto>': 00:00:00:00:00:00 is no station's address

    For more information, try '--help'.
    $ port add tap2 --mac none --mac 02:00:00:00:00:01
    2: error: adding the port tap2: --mac none empties the list and stands alone
    $ port add tap2 --max-macs 1000001
    2: error: invalid value '1000001' for '--max-macs <N>': "1000001" is not a number up to 1000000

    For more information, try '--help'.
    $ port add tap2 --storm broadcast=0
    2: error: invalid value 'broadcast=0' for '--storm <KIND=PPS[/BURST]|off>': 0 is not a storm limit: use 1 to 10000000 frames a second, or off

    For more information, try '--help'.
    $ port add tap2 --storm broadcast=1 --storm broadcast=2
    2: error: adding the port tap2: --storm names one kind twice
    $ port add tap2 --storm flood=1
    2: error: invalid value 'flood=1' for '--storm <KIND=PPS[/BURST]|off>': "flood" is no kind of storm: use broadcast, multicast, unknown-unicast, arp or nd

    For more information, try '--help'.
    $ port add tap2 --network green
    1: error: adding the port tap2: there is no network green; there are default, blue, red
      mend: vnet-user network add green
    $ port add tap2 --trunk red
    1: error: adding the port tap2: the trunk has no tag for red, which has no VLAN id
      mend: give it a tag on this port (red=VID) or make it the native network
    $ port add tap2 --trunk blue,blue=11
    1: error: adding the port tap2: the trunk lists blue twice
    $ port add tap2 --trunk blue,red=10
    1: error: adding the port tap2: the trunk has the tag 10 for both blue and red
      mend: give one of them another tag on this port (red=VID)
    $ port add tap2 --trunk blue=11 --native blue
    1: error: adding the port tap2: blue is native, so it goes untagged and cannot have the tag 11
      mend: list it as blue, or name another native network
    $ port add tap1
    1: error: adding the port tap1: there is a port tap1 already
      mend: vnet-user port set tap1 …, or say --may-exist
    $ port add vsw0
    1: error: adding the port vsw0: vsw0 is the switch device and a port already
      mend: vnet-user port set vsw0 …
    "#
    );
}

#[test]
fn refusals_of_set_del_and_show() {
    let switch = ports();
    switch.ok("fdb add 02:00:00:00:00:01 --network blue --port vnet3");
    insta::assert_snapshot!(
        switch.each_refused(&[
            "port set tap1",
            "port set tap2 --network blue",
            "port set vnet3 --native blue",
            "port set vnet3 --network red",
            "port set vsw0 --uplink",
            "port del vnet3",
            "port del vsw0",
            "port del tap2",
            "port show tap2",
        ]),
        @"
    $ port set tap1
    2: error: changing the port tap1: nothing to change is named
      mend: vnet-user port set --help lists the options
    $ port set tap2 --network blue
    1: error: changing the port tap2: there is no port tap2; there are vsw0, eth0, vnet3, tap1
      mend: vnet-user port add tap2 …
    $ port set vnet3 --native blue
    1: error: changing the port vnet3: the port vnet3 is no trunk, only one has a native network
      mend: say --trunk too, or --network for one untagged network
    $ port set vnet3 --network red
    1: error: changing the port vnet3: the static address 02:00:00:00:00:01: the port vnet3 does not carry blue, but red
      mend: have vnet3 carry blue, or delete the static address
    $ port set vsw0 --uplink
    1: error: changing the port vsw0: vsw0 is the switch device and cannot be its own uplink
    $ port del vnet3
    1: error: deleting the port vnet3: it has static addresses: 02:00:00:00:00:01 in blue
      mend: delete them first: vnet-user fdb del MAC --network NAME
    $ port del vsw0
    1: error: deleting the port vsw0: vsw0 is the switch device, always a port of the switch
      mend: vnet-user port set vsw0 …
    $ port del tap2
    1: error: deleting the port tap2: there is no port tap2; there are vsw0, eth0, vnet3, tap1
    $ port show tap2
    1: error: showing the port tap2: there is no port tap2; there are vsw0, eth0, vnet3, tap1
    "
    );
}

#[test]
fn set_changes_what_is_named_and_replaces_lists() {
    let switch = ports();
    switch.ok("port set vnet3 --mac 02:00:00:00:00:03");
    insta::assert_snapshot!(row(&switch, "vnet3"), @"vnet3  vm        down   access  blue                    02:00:00:00:00:03  -");
    switch.ok("port set vnet3 --mac none");
    insta::assert_snapshot!(row(&switch, "vnet3"), @"vnet3  vm        down   access  blue                    -     -");
    switch.ok("port set vnet3 --trunk blue");
    insta::assert_snapshot!(row(&switch, "vnet3"), @"vnet3  vm        down   trunk   blue=10                 -     -");
    switch.ok("port set vnet3 --native red");
    insta::assert_snapshot!(row(&switch, "vnet3"), @"vnet3  vm        down   trunk   red,blue=10             -     -");
    switch.ok("port set vnet3 --network red");
    insta::assert_snapshot!(row(&switch, "vnet3"), @"vnet3  vm        down   access  red                     -     -");
    switch.ok("port set tap1 --native none --storm multicast=7 --max-macs 0");
    insta::assert_snapshot!(switch.ok("port show tap1"), @"
    NAME                   tap1
    KIND                   vm
    STATE                  down
    MODE                   trunk
    NETWORKS               blue=10,red=30
    MACS                   -
    GROUPS                 -
    MAX MACS               no limit
    IPS                    -
    LEARNED IPS            -
    GUARD                  default
    ISOLATED               no
    STORM BROADCAST        1000
    STORM MULTICAST        7
    STORM UNKNOWN UNICAST  2000
    STORM ARP              1000
    STORM ND               1000
    ");
    switch.ok("port set tap1 --storm none --max-macs default");
    insta::assert_snapshot!(switch.ok("port show tap1"), @"
    NAME                   tap1
    KIND                   vm
    STATE                  down
    MODE                   trunk
    NETWORKS               blue=10,red=30
    MACS                   -
    GROUPS                 -
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
}

#[test]
fn guards() {
    let switch = ports();
    switch.ok("port set vnet3 --ip 10.0.0.2 --ip fd00::2 --guard strict --isolated");
    insta::assert_snapshot!(switch.ok("port show vnet3"), @"
    NAME                   vnet3
    KIND                   vm
    STATE                  down
    MODE                   access
    NETWORKS               blue
    MACS                   02:00:00:00:00:01,02:00:00:00:00:02
    GROUPS                 -
    MAX MACS               2
    IPS                    10.0.0.2,fd00::2
    LEARNED IPS            -
    GUARD                  strict
    ISOLATED               yes
    STORM BROADCAST        1000
    STORM MULTICAST        10000
    STORM UNKNOWN UNICAST  2000
    STORM ARP              1000
    STORM ND               1000
    ");
    switch.ok("port set vnet3 --ip learn --guard none --isolated=off");
    insta::assert_snapshot!(switch.ok("port show vnet3"), @"
    NAME                   vnet3
    KIND                   vm
    STATE                  down
    MODE                   access
    NETWORKS               blue
    MACS                   02:00:00:00:00:01,02:00:00:00:00:02
    GROUPS                 -
    MAX MACS               2
    IPS                    learn
    LEARNED IPS            -
    GUARD                  none
    ISOLATED               no
    STORM BROADCAST        1000
    STORM MULTICAST        10000
    STORM UNKNOWN UNICAST  2000
    STORM ARP              1000
    STORM ND               1000
    ");
    switch.ok("port set vnet3 --ip none --guard default");
    insta::assert_snapshot!(switch.ok("port show vnet3"), @"
    NAME                   vnet3
    KIND                   vm
    STATE                  down
    MODE                   access
    NETWORKS               blue
    MACS                   02:00:00:00:00:01,02:00:00:00:00:02
    GROUPS                 -
    MAX MACS               2
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
}

#[test]
fn refusals_of_guards() {
    insta::assert_snapshot!(
        ports().each_refused(&[
            "port add tap2 --ip 10.0.0.2/24",
            "port add tap2 --ip ff02::1",
            "port add tap2 --ip none --ip learn",
            "port add tap2 --ip learn --ip learn",
            "port add tap2 --guard all",
            "port add tap2 --isolated off",
            "port add tap2 --isolated=maybe",
            "port add tap2 --mac auto --mac auto",
            "port add tap2 --mac auto --mac none",
            "port set eth0 --ip learn",
            "port set vsw0 --isolated",
        ]),
        @r#"
    $ port add tap2 --ip 10.0.0.2/24
    2: error: invalid value '10.0.0.2/24' for '--ip <IP|learn>': "10.0.0.2/24" is not an IP address such as 10.0.0.2, nor learn

    For more information, try '--help'.
    $ port add tap2 --ip ff02::1
    2: error: invalid value 'ff02::1' for '--ip <IP|learn>': ff02::1 is a multicast address

    For more information, try '--help'.
    $ port add tap2 --ip none --ip learn
    2: error: adding the port tap2: --ip none empties the list and stands alone
    $ port add tap2 --ip learn --ip learn
    1: error: adding the port tap2: its list of IP addresses has learn twice
    $ port add tap2 --guard all
    2: error: invalid value 'all' for '--guard <GUARD>'
      [possible values: default, strict, none]

    For more information, try '--help'.
    $ port add tap2 --isolated off
    2: error: unexpected argument 'off' found

    Usage: vnet-user port add [OPTIONS] <IFACE>

    For more information, try '--help'.
    $ port add tap2 --isolated=maybe
    2: error: invalid value 'maybe' for '--isolated[=<on|off>]': "maybe" is neither on nor off

    For more information, try '--help'.
    $ port add tap2 --mac auto --mac auto
    2: error: adding the port tap2: --mac auto is given twice, and a port has one such address
    $ port add tap2 --mac auto --mac none
    2: error: adding the port tap2: --mac none empties the list and stands alone
    $ port set eth0 --ip learn
    1: error: changing the port eth0: it is an uplink, and `ip` is for the ports of VMs
    $ port set vsw0 --isolated
    1: error: changing the port vsw0: it is the switch device, and `isolated` is for the ports of VMs
    "#
    );
}

/// The address is the port's: the same one whenever it is asked for, and nobody else's.
#[test]
fn an_address_is_made() {
    let switch = Switch::new();
    let made = switch.ok("-q port add tap0 --mac auto --guard strict");
    let mac = made.trim();
    let first = u8::from_str_radix(&mac[..2], 16).unwrap();
    assert_eq!(
        (mac.len(), first & 3),
        (17, 2),
        "locally administered: {mac}"
    );
    assert!(switch.document().contains(&format!("mac = [\"{mac}\"]")));
    switch.ok("-q port set tap0 --mac none");
    assert_eq!(switch.ok("-q port set tap0 --mac auto"), made);
    switch.ok("-q port del tap0");
    switch.ok(&format!("-q port add tap1 --mac {mac}"));
    let other = switch.ok("-q port add tap0 --mac auto --mac 02:00:00:00:00:01");
    assert_ne!(other, made);
    assert!(switch.document().contains(&format!(
        "mac = [\"02:00:00:00:00:01\", \"{}\"]",
        other.trim()
    )));
    assert_eq!(
        switch.ok("-q -j port set tap0 --mac auto"),
        format!("{{\"schema\":1,\"mac\":\"{}\"}}\n", other.trim())
    );
    // Nothing is made for a port that is there.
    assert_eq!(switch.ok("-q port add tap0 --mac auto --may-exist"), "");
}

#[test]
fn an_emptied_trunk_carries_nothing_and_says_so() {
    let switch = ports();
    let answer = switch.run("port set tap1 --trunk none --native none");
    assert_eq!(answer.code, 0);
    insta::assert_snapshot!(answer.stderr, @"
    note: the switch vsw0 is down: this takes effect at `up`
    warning: the port tap1 carries no network: everything from it is dropped
    ");
    insta::assert_snapshot!(row(&switch, "tap1"), @"tap1   vm        down   trunk   none             -                                    -");
}

#[test]
fn the_switch_device_is_a_port() {
    let switch = ports();
    switch.ok("port set vsw0 --trunk blue --native default");
    insta::assert_snapshot!(row(&switch, "vsw0"), @"vsw0   internal  down   trunk   default,blue=10         -                                    -");
}

#[test]
fn may_exist_and_if_exists_change_nothing() {
    let switch = ports();
    let before = switch.document();
    switch.ok("port add tap1 --network red --may-exist");
    switch.ok("port add vsw0 --may-exist");
    switch.ok("port del tap2 --if-exists");
    assert_eq!(switch.document(), before);
    switch.ok("port del tap1");
    assert_eq!(row(&switch, "tap1"), "");
}
