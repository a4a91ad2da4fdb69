//! `mac deny | allow | list`.

use super::Switch;

#[test]
fn the_deny_list() {
    let switch = Switch::new();
    insta::assert_snapshot!(switch.ok("mac list -j"), @r#"
    {
      "schema": 1,
      "macs": []
    }
    "#);
    switch.ok("mac deny 02:00:00:00:00:0A");
    switch.ok("mac deny 02:00:00:00:00:0b");
    insta::assert_snapshot!(switch.ok("mac list"), @"
    MAC                ACTION
    02:00:00:00:00:0a  deny
    02:00:00:00:00:0b  deny
    ");
    insta::assert_snapshot!(switch.ok("mac list -j"), @r#"
    {
      "schema": 1,
      "macs": [
        {
          "mac": "02:00:00:00:00:0a",
          "action": "deny"
        },
        {
          "mac": "02:00:00:00:00:0b",
          "action": "deny"
        }
      ]
    }
    "#);
    let before = switch.document();
    insta::assert_snapshot!(switch.run("mac deny 02:00:00:00:00:0a").stderr, @"note: 02:00:00:00:00:0a was denied already");
    insta::assert_snapshot!(switch.run("mac allow 02:00:00:00:00:0c").stderr, @"note: 02:00:00:00:00:0c was not denied");
    assert_eq!(switch.document(), before);
    switch.ok("mac allow 02:00:00:00:00:0a");
    switch.ok("mac allow 02:00:00:00:00:0b");
    assert_eq!(switch.document(), "schema = 1\n");
}

#[test]
fn refusals() {
    insta::assert_snapshot!(
        Switch::new().each_refused(&[
            "mac deny 01:80:c2:00:00:00",
            "mac deny 00:00:00:00:00:00",
            "mac deny x",
            "mac allow",
        ]),
        @r#"
    $ mac deny 01:80:c2:00:00:00
    2: error: invalid value '01:80:c2:00:00:00' for '<MAC>': 01:80:c2:00:00:00 is a group address (broadcast or multicast), not one station's

    For more information, try '--help'.
    $ mac deny 00:00:00:00:00:00
    2: error: invalid value '00:00:00:00:00:00' for '<MAC>': 00:00:00:00:00:00 is no station's address

    For more information, try '--help'.
    $ mac deny x
    2: error: invalid value 'x' for '<MAC>': "x" is not a MAC address such as 02:00:00:00:00:01

    For more information, try '--help'.
    $ mac allow
    2: error: the following required arguments were not provided:
      <MAC>

    Usage: vnet-user mac allow <MAC>

    For more information, try '--help'.
    "#
    );
}
