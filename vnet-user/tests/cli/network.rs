//! `network add | del | list | show`.

use super::Switch;

#[test]
fn a_switch_begins_with_default() {
    let switch = Switch::new();
    insta::assert_snapshot!(switch.ok("network list"), @"
    NAME     VLAN  MTU  PORTS
    default  -     -    vsw0
    ");
    assert!(!switch.path().exists(), "a listing makes no document");
}

fn networks() -> Switch {
    Switch::after(&[
        "network add blue --vlan 10 --mtu 9000",
        "network add inner",
        "port add eth0 --uplink",
        "port add tap0 --network blue",
    ])
}

#[test]
fn listings() {
    let switch = networks();
    insta::assert_snapshot!(switch.document(), @r#"
    schema = 1

    [[network]]
    name = "blue"
    vlan = 10
    mtu = 9000

    [[network]]
    name = "inner"

    [[port]]
    name = "eth0"
    uplink = true

    [[port]]
    name = "tap0"
    network = "blue"
    "#);
    insta::assert_snapshot!(switch.ok("network list"), @"
    NAME     VLAN  MTU   PORTS
    default  -     -     vsw0,eth0
    blue     10    9000  eth0,tap0
    inner    -     -     -
    ");
    insta::assert_snapshot!(switch.ok("network list -o json"), @r#"
    {
      "schema": 1,
      "networks": [
        {
          "name": "default",
          "vlan": null,
          "mtu": null,
          "ports": [
            "vsw0",
            "eth0"
          ]
        },
        {
          "name": "blue",
          "vlan": 10,
          "mtu": 9000,
          "ports": [
            "eth0",
            "tap0"
          ]
        },
        {
          "name": "inner",
          "vlan": null,
          "mtu": null,
          "ports": []
        }
      ]
    }
    "#);
    insta::assert_snapshot!(switch.ok("network list -o jsonl"), @r#"
    {"name":"default","vlan":null,"mtu":null,"ports":["vsw0","eth0"]}
    {"name":"blue","vlan":10,"mtu":9000,"ports":["eth0","tap0"]}
    {"name":"inner","vlan":null,"mtu":null,"ports":[]}
    "#);
    insta::assert_snapshot!(switch.ok("network show blue"), @"
    NAME   blue
    VLAN   10
    MTU    9000
    PORTS  eth0,tap0
    ");
    insta::assert_snapshot!(switch.ok("network show blue -j"), @r#"
    {
      "schema": 1,
      "networks": [
        {
          "name": "blue",
          "vlan": 10,
          "mtu": 9000,
          "ports": [
            "eth0",
            "tap0"
          ]
        }
      ]
    }
    "#);
}

#[test]
fn refusals_of_add() {
    insta::assert_snapshot!(
        networks().each_refused(&[
            "network add red --vlan 0",
            "network add red --vlan 4095",
            "network add red --vlan 70000",
            "network add red --mtu 67",
            "network add none",
            "network add a,b",
            "network add 123456789012345678901234567890123",
            "network add red --vlan 10",
            "network add blue",
            "network add default",
        ]),
        @r#"
    $ network add red --vlan 0
    2: error: invalid value '0' for '--vlan <VID>': VLAN id 0 means "no VLAN, only a priority" (IEEE 802.1Q): use 1 to 4094

    For more information, try '--help'.
    $ network add red --vlan 4095
    2: error: invalid value '4095' for '--vlan <VID>': VLAN id 4095 is reserved (IEEE 802.1Q): use 1 to 4094

    For more information, try '--help'.
    $ network add red --vlan 70000
    2: error: invalid value '70000' for '--vlan <VID>': "70000" is not a VLAN id: use 1 to 4094

    For more information, try '--help'.
    $ network add red --mtu 67
    2: error: invalid value '67' for '--mtu <N>': 67 is not an MTU: use 68 to 65535 bytes

    For more information, try '--help'.
    $ network add none
    2: error: invalid value 'none' for '<NAME>': "none" is the word that empties a list

    For more information, try '--help'.
    $ network add a,b
    2: error: invalid value 'a,b' for '<NAME>': "a,b" is not a network's name: letters, digits, '_', '.' and '-' make one, and it does not begin with '-'

    For more information, try '--help'.
    $ network add 123456789012345678901234567890123
    2: error: invalid value '123456789012345678901234567890123' for '<NAME>': "123456789012345678901234567890123" is longer than the 32 characters of a network's name

    For more information, try '--help'.
    $ network add red --vlan 10
    1: error: adding the network red: the networks blue and red both have the VLAN id 10
      mend: give one of them another VLAN id; a port may translate it (--trunk NAME=VID)
    $ network add blue
    1: error: adding the network blue: there is a network blue already
      mend: choose another name, or say --may-exist
    $ network add default
    1: error: adding the network default: default is the network that every switch begins with
      mend: choose another name
    "#
    );
}

#[test]
fn refusals_of_del_and_show() {
    insta::assert_snapshot!(
        networks().each_refused(&[
            "network del blue",
            "network del default",
            "network del red",
            "network show red",
        ]),
        @"
    $ network del blue
    1: error: deleting the network blue: it is used by port tap0
      mend: change or delete those first
    $ network del default
    1: error: deleting the network default: default is the network that every switch begins with
    $ network del red
    1: error: deleting the network red: there is no network red; there are default, blue, inner
    $ network show red
    1: error: showing the network red: there is no network red; there are default, blue, inner
      mend: vnet-user network add red
    "
    );
}

#[test]
fn may_exist_and_if_exists_change_nothing() {
    let switch = networks();
    let before = switch.document();
    switch.ok("network add blue --vlan 99 --may-exist");
    switch.ok("network add default --may-exist");
    switch.ok("network del red --if-exists");
    assert_eq!(switch.document(), before);
    assert!(
        switch
            .refused("network del blue --if-exists")
            .starts_with("1: ")
    );
    switch.ok("network del inner --if-exists");
    assert!(!switch.document().contains("inner"));
}
