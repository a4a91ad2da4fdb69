//! `network add | del | list | show`.

use super::Switch;

#[test]
fn a_switch_begins_with_default() {
    let switch = Switch::new();
    insta::assert_snapshot!(switch.ok("network list"), @"
    NAME     VLAN  GATEWAY  MTU  DHCP  PORTS
    default  -     -        -    -     vsw0
    ");
    assert!(!switch.path().exists(), "a listing makes no document");
}

fn networks() -> Switch {
    Switch::after(&[
        "network add blue --vlan 10 --mtu 9000",
        "network add inner --gateway 10.0.0.1/24 --gateway fd00::1/64",
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
    gateway = ["10.0.0.1/24", "fd00::1/64"]

    [[port]]
    name = "eth0"
    uplink = true

    [[port]]
    name = "tap0"
    network = "blue"
    "#);
    insta::assert_snapshot!(switch.ok("network list"), @"
    NAME     VLAN  GATEWAY                 MTU   DHCP  PORTS
    default  -     -                       -     -     vsw0,eth0
    blue     10    -                       9000  -     eth0,tap0
    inner    -     10.0.0.1/24,fd00::1/64  -     -     -
    ");
    insta::assert_snapshot!(switch.ok("network list -o json"), @r#"
    {
      "schema": 1,
      "networks": [
        {
          "name": "default",
          "vlan": null,
          "gateway": [],
          "mtu": null,
          "dhcp": [],
          "ports": [
            "vsw0",
            "eth0"
          ]
        },
        {
          "name": "blue",
          "vlan": 10,
          "gateway": [],
          "mtu": 9000,
          "dhcp": [],
          "ports": [
            "eth0",
            "tap0"
          ]
        },
        {
          "name": "inner",
          "vlan": null,
          "gateway": [
            "10.0.0.1/24",
            "fd00::1/64"
          ],
          "mtu": null,
          "dhcp": [],
          "ports": []
        }
      ]
    }
    "#);
    insta::assert_snapshot!(switch.ok("network list -o jsonl"), @r#"
    {"name":"default","vlan":null,"gateway":[],"mtu":null,"dhcp":[],"ports":["vsw0","eth0"]}
    {"name":"blue","vlan":10,"gateway":[],"mtu":9000,"dhcp":[],"ports":["eth0","tap0"]}
    {"name":"inner","vlan":null,"gateway":["10.0.0.1/24","fd00::1/64"],"mtu":null,"dhcp":[],"ports":[]}
    "#);
    insta::assert_snapshot!(switch.ok("network show blue"), @"
    NAME     blue
    VLAN     10
    GATEWAY  -
    MTU      9000
    DHCP     -
    PORTS    eth0,tap0
    ");
    insta::assert_snapshot!(switch.ok("network show blue -j"), @r#"
    {
      "schema": 1,
      "networks": [
        {
          "name": "blue",
          "vlan": 10,
          "gateway": [],
          "mtu": 9000,
          "dhcp": [],
          "ports": [
            "eth0",
            "tap0"
          ],
          "leases": []
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
            "network add red --gateway 10.0.1.1",
            "network add red --gateway 10.0.1.0/24",
            "network add red --gateway fd00:1::/64",
            "network add red --gateway 10.0.1.1/32",
            "network add red --gateway 10.0.0.9/16",
            "network add red --gateway 10.0.1.1/24 --gateway 10.0.1.1/24",
            "network add red --gateway fd00:1::1/64 --mtu 1000",
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
    $ network add red --gateway 10.0.1.1
    2: error: invalid value '10.0.1.1' for '--gateway <CIDR>': "10.0.1.1" is not an address with a prefix, such as 10.0.0.1/24

    For more information, try '--help'.
    $ network add red --gateway 10.0.1.0/24
    2: error: invalid value '10.0.1.0/24' for '--gateway <CIDR>': 10.0.1.0 is the address of the network 10.0.1.0/24 itself

    For more information, try '--help'.
    $ network add red --gateway fd00:1::/64
    2: error: invalid value 'fd00:1::/64' for '--gateway <CIDR>': fd00:1:: is any router's address in fd00:1::/64 (RFC 4291, 2.6.1)

    For more information, try '--help'.
    $ network add red --gateway 10.0.1.1/32
    2: error: invalid value '10.0.1.1/32' for '--gateway <CIDR>': 10.0.1.1/32: the length of a gateway's IPv4 prefix is 8 to 31

    For more information, try '--help'.
    $ network add red --gateway 10.0.0.9/16
    1: error: adding the network red: its prefix 10.0.0.0/16 overlaps 10.0.0.0/24 of the network inner
      mend: give each network a prefix of its own
    $ network add red --gateway 10.0.1.1/24 --gateway 10.0.1.1/24
    1: error: adding the network red: it has the gateway address 10.0.1.1 twice
    $ network add red --gateway fd00:1::1/64 --mtu 1000
    1: error: adding the network red: it has the IPv6 gateway fd00:1::1/64 and the MTU 1000: IPv6 needs 1280 (RFC 8200, 5)
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

#[test]
fn a_network_that_rules_use_stays() {
    let switch = networks();
    switch.ok("nat add masquerade --network inner --uplink eth0");
    switch.ok("nat add dnat --proto tcp --listen 192.0.2.1:80 --to 10.0.0.2:80");
    insta::assert_snapshot!(switch.each_refused(&["network del inner", "port del eth0"]), @"
    $ network del inner
    1: error: deleting the network inner: it is used by masquerade rule 1, dnat rule 2
      mend: change or delete those first
    $ port del eth0
    1: error: deleting the port eth0: it is used by masquerade rule 1
      mend: delete them first: vnet-user nat del ID
    ");
}
