//! `fdb add | del`: the part that is in the document.

use super::Switch;

fn switch() -> Switch {
    Switch::after(&[
        "network add blue --vlan 10",
        "port add eth0 --uplink",
        "port add tap0 --network blue",
        "fdb add 02:00:00:00:00:01 --network blue --port tap0",
    ])
}

#[test]
fn static_addresses_are_in_the_document() {
    let switch = switch();
    switch.ok("fdb add 02:00:00:00:00:01 --network default --port vsw0");
    insta::assert_snapshot!(switch.document(), @r#"
    schema = 1

    [[network]]
    name = "blue"
    vlan = 10

    [[port]]
    name = "eth0"
    uplink = true

    [[port]]
    name = "tap0"
    network = "blue"

    [[fdb]]
    mac = "02:00:00:00:00:01"
    network = "blue"
    port = "tap0"

    [[fdb]]
    mac = "02:00:00:00:00:01"
    network = "default"
    port = "vsw0"
    "#);
    switch.ok("fdb del 02:00:00:00:00:01 --network blue");
    switch.ok("fdb del 02:00:00:00:00:01 --network default");
    assert!(!switch.document().contains("fdb"));
}

#[test]
fn refusals() {
    insta::assert_snapshot!(
        switch().each_refused(&[
            "fdb add 02:00:00:00:00 --network blue --port tap0",
            "fdb add ff:ff:ff:ff:ff:ff --network blue --port tap0",
            "fdb add 02:00:00:00:00:02 --network blue",
            "fdb add 02:00:00:00:00:02 --network red --port tap0",
            "fdb add 02:00:00:00:00:02 --network blue --port tap9",
            "fdb add 02:00:00:00:00:02 --network default --port tap0",
            "fdb add 02:00:00:00:00:01 --network blue --port eth0",
            "fdb del 02:00:00:00:00:02 --network blue",
            "fdb del 02:00:00:00:00:02 --network red",
        ]),
        @r#"
    $ fdb add 02:00:00:00:00 --network blue --port tap0
    2: error: invalid value '02:00:00:00:00' for '<MAC>': "02:00:00:00:00" is not a MAC address such as 02:00:00:00:00:01

    For more information, try '--help'.
    $ fdb add ff:ff:ff:ff:ff:ff --network blue --port tap0
    2: error: invalid value 'ff:ff:ff:ff:ff:ff' for '<MAC>': ff:ff:ff:ff:ff:ff is a group address (broadcast or multicast), not one station's

    For more information, try '--help'.
    $ fdb add 02:00:00:00:00:02 --network blue
    2: error: the following required arguments were not provided:
      --port <IFACE>

    Usage: vnet-user fdb add --network <NAME> --port <IFACE> <MAC>

    For more information, try '--help'.
    $ fdb add 02:00:00:00:00:02 --network red --port tap0
    1: error: adding the static address 02:00:00:00:00:02 to red: there is no network red; there are default, blue
      mend: vnet-user network add red
    $ fdb add 02:00:00:00:00:02 --network blue --port tap9
    1: error: adding the static address 02:00:00:00:00:02 to blue: there is no port tap9; there are vsw0, eth0, tap0
      mend: vnet-user port add tap9 …
    $ fdb add 02:00:00:00:00:02 --network default --port tap0
    1: error: adding the static address 02:00:00:00:00:02 to default: the port tap0 does not carry default, but blue
      mend: have tap0 carry default, or delete the static address
    $ fdb add 02:00:00:00:00:01 --network blue --port eth0
    1: error: adding the static address 02:00:00:00:00:01 to blue: it is there already, behind the port tap0
      mend: delete it first, or say --may-exist
    $ fdb del 02:00:00:00:00:02 --network blue
    1: error: deleting the static address 02:00:00:00:00:02 from blue: the network blue has no static address 02:00:00:00:00:02
      mend: learned addresses are forgotten by: vnet-user fdb flush
    $ fdb del 02:00:00:00:00:02 --network red
    1: error: deleting the static address 02:00:00:00:00:02 from red: there is no network red; there are default, blue
    "#
    );
}

#[test]
fn may_exist_and_if_exists_change_nothing() {
    let switch = switch();
    let before = switch.document();
    switch.ok("fdb add 02:00:00:00:00:01 --network blue --port eth0 --may-exist");
    switch.ok("fdb del 02:00:00:00:00:02 --network blue --if-exists");
    assert_eq!(switch.document(), before);
}
