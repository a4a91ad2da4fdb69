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
    KEY                       VALUE   DEFAULT  DESCRIPTION
    ageing                    60      300      seconds until an unseen address is forgotten, 10 to 86400
    fdb_size                  65536   65536    most addresses in the FDB, 1024 to 1000000; changes by down and up
    max_ports                 1024    1024     most ports, a power of two from 64 to 4096; changes by down and up
    max_macs                  1024    1024     most addresses learned at a VM port without --max-macs, 0 is no limit
    storm.broadcast           off     1000     broadcast frames a second from a port without --storm, or off
    storm.multicast           10000   10000    multicast frames a second from a port without --storm, or off
    storm.unknown_unicast     2000    2000     flooded unicast frames a second from a port without --storm, or off
    storm.arp                 1000    1000     ARP packets a second from a VM port without --storm, or off
    storm.nd                  1000    1000     neighbour discovery packets a second from a VM port without --storm, or off
    flow_size                 262144  262144   most connections, 1024 to 4194304; changes by down and up
    flow_quota                0       0        most connections of one VM's port, 0 is a quarter of flow_size
    flow_rate                 0       0        connections a second that one VM begins at most, a second's worth at once; 0 is no limit
    source_flow_rate          0       0        connections a second that one source address begins at most, a second's worth at once; 0 is no limit
    source_flow_quota         0       0        most connections of one source address, 0 is no limit
    timeouts                  rfc     rfc      all of timeouts.* at once: rfc, or linux as conntrack has them
    timeouts.tcp_transitory   240     240      seconds of a TCP connection that is being opened (RFC 5382: 240 or more)
    timeouts.tcp_established  7440    7440     seconds of an idle TCP connection (RFC 5382: 7440 or more)
    timeouts.tcp_closing      240     240      seconds of a TCP connection that is being closed (RFC 5382: 240 or more)
    timeouts.tcp_time_wait    240     240      seconds of a TCP connection that is closed
    timeouts.udp              300     300      seconds of idle UDP that was answered (RFC 4787: 120 or more, better 300)
    timeouts.udp_one_way      120     120      seconds of UDP that was not answered (RFC 4787: 120 or more)
    timeouts.icmp             60      60       seconds of idle ICMP queries (RFC 5508: 60 or more)
    timeouts.other            600     600      seconds of other protocols without a packet
    mid_stream                off     off      TCP connections are taken up in their middle, on or off
    mss_clamp                 off     off      TCP's maximum segment size: off, auto to fit the MTU, or 536 to 65495
    ");
    insta::assert_snapshot!(switch.ok("get -o jsonl"), @r#"
    {"key":"ageing","value":60,"default":300,"description":"seconds until an unseen address is forgotten, 10 to 86400"}
    {"key":"fdb_size","value":65536,"default":65536,"description":"most addresses in the FDB, 1024 to 1000000; changes by down and up"}
    {"key":"max_ports","value":1024,"default":1024,"description":"most ports, a power of two from 64 to 4096; changes by down and up"}
    {"key":"max_macs","value":1024,"default":1024,"description":"most addresses learned at a VM port without --max-macs, 0 is no limit"}
    {"key":"storm.broadcast","value":"off","default":1000,"description":"broadcast frames a second from a port without --storm, or off"}
    {"key":"storm.multicast","value":10000,"default":10000,"description":"multicast frames a second from a port without --storm, or off"}
    {"key":"storm.unknown_unicast","value":2000,"default":2000,"description":"flooded unicast frames a second from a port without --storm, or off"}
    {"key":"storm.arp","value":1000,"default":1000,"description":"ARP packets a second from a VM port without --storm, or off"}
    {"key":"storm.nd","value":1000,"default":1000,"description":"neighbour discovery packets a second from a VM port without --storm, or off"}
    {"key":"flow_size","value":262144,"default":262144,"description":"most connections, 1024 to 4194304; changes by down and up"}
    {"key":"flow_quota","value":0,"default":0,"description":"most connections of one VM's port, 0 is a quarter of flow_size"}
    {"key":"flow_rate","value":0,"default":0,"description":"connections a second that one VM begins at most, a second's worth at once; 0 is no limit"}
    {"key":"source_flow_rate","value":0,"default":0,"description":"connections a second that one source address begins at most, a second's worth at once; 0 is no limit"}
    {"key":"source_flow_quota","value":0,"default":0,"description":"most connections of one source address, 0 is no limit"}
    {"key":"timeouts","value":"rfc","default":"rfc","description":"all of timeouts.* at once: rfc, or linux as conntrack has them"}
    {"key":"timeouts.tcp_transitory","value":240,"default":240,"description":"seconds of a TCP connection that is being opened (RFC 5382: 240 or more)"}
    {"key":"timeouts.tcp_established","value":7440,"default":7440,"description":"seconds of an idle TCP connection (RFC 5382: 7440 or more)"}
    {"key":"timeouts.tcp_closing","value":240,"default":240,"description":"seconds of a TCP connection that is being closed (RFC 5382: 240 or more)"}
    {"key":"timeouts.tcp_time_wait","value":240,"default":240,"description":"seconds of a TCP connection that is closed"}
    {"key":"timeouts.udp","value":300,"default":300,"description":"seconds of idle UDP that was answered (RFC 4787: 120 or more, better 300)"}
    {"key":"timeouts.udp_one_way","value":120,"default":120,"description":"seconds of UDP that was not answered (RFC 4787: 120 or more)"}
    {"key":"timeouts.icmp","value":60,"default":60,"description":"seconds of idle ICMP queries (RFC 5508: 60 or more)"}
    {"key":"timeouts.other","value":600,"default":600,"description":"seconds of other protocols without a packet"}
    {"key":"mid_stream","value":false,"default":false,"description":"TCP connections are taken up in their middle, on or off"}
    {"key":"mss_clamp","value":"off","default":"off","description":"TCP's maximum segment size: off, auto to fit the MTU, or 536 to 65495"}
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
fn settings_of_connections() {
    let switch =
        Switch::after(&["set timeouts.udp=60 timeouts=linux mss_clamp=auto mid_stream=on"]);
    insta::assert_snapshot!(switch.document(), @r#"
    schema = 1

    [settings]
    mid_stream = true
    mss_clamp = "auto"
    timeouts.tcp_transitory = 120
    timeouts.tcp_established = 432000
    timeouts.tcp_closing = 120
    timeouts.tcp_time_wait = 120
    timeouts.udp = 60
    timeouts.udp_one_way = 30
    timeouts.icmp = 30
    "#);
    assert_eq!(switch.ok("get timeouts"), "custom\n");
    switch.ok("set timeouts.udp=120");
    assert_eq!(switch.ok("get timeouts"), "linux\n");
    assert_eq!(switch.ok("get mid_stream"), "on\n");
    assert_eq!(switch.ok("get mss_clamp"), "auto\n");
    insta::assert_snapshot!(switch.ok("get mid_stream -o jsonl"), @r#"{"key":"mid_stream","value":true,"default":false,"description":"TCP connections are taken up in their middle, on or off"}"#);
    insta::assert_snapshot!(switch.ok("get mss_clamp -o jsonl"), @r#"{"key":"mss_clamp","value":"auto","default":"off","description":"TCP's maximum segment size: off, auto to fit the MTU, or 536 to 65495"}"#);
    insta::assert_snapshot!(switch.ok("get timeouts -o jsonl"), @r#"{"key":"timeouts","value":"linux","default":"rfc","description":"all of timeouts.* at once: rfc, or linux as conntrack has them"}"#);
    switch.ok("set timeouts=rfc mss_clamp=1400 mid_stream=off flow_size=4096 flow_quota=100");
    insta::assert_snapshot!(switch.document(), @"
    schema = 1

    [settings]
    mss_clamp = 1400
    flow_size = 4096
    flow_quota = 100
    ");
    switch.ok("set mss_clamp=off flow_size=default flow_quota=0");
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
            "set ageing=70 flow_size=5000000",
            "set ageing=70 timeouts.udp=0",
            "set ageing=70 timeouts=slow",
            "set ageing=70 timeouts=custom",
            "set ageing=70 mid_stream=yes",
            "set ageing=70 mss_clamp=100",
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
    2: error: invalid value 'color=red' for '<KEY=VALUE>...': no setting is called "color"; there are ageing, fdb_size, max_ports, max_macs, storm.broadcast, storm.multicast, storm.unknown_unicast, storm.arp, storm.nd, flow_size, flow_quota, flow_rate, source_flow_rate, source_flow_quota, timeouts, timeouts.tcp_transitory, timeouts.tcp_established, timeouts.tcp_closing, timeouts.tcp_time_wait, timeouts.udp, timeouts.udp_one_way, timeouts.icmp, timeouts.other, mid_stream, mss_clamp

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
    $ set ageing=70 flow_size=5000000
    2: error: invalid value 'flow_size=5000000' for '<KEY=VALUE>...': 5000000 is out of range; flow_size: most connections, 1024 to 4194304; changes by down and up

    For more information, try '--help'.
    $ set ageing=70 timeouts.udp=0
    2: error: invalid value 'timeouts.udp=0' for '<KEY=VALUE>...': 0 is out of range; timeouts.udp: seconds of idle UDP that was answered (RFC 4787: 120 or more, better 300)

    For more information, try '--help'.
    $ set ageing=70 timeouts=slow
    2: error: invalid value 'timeouts=slow' for '<KEY=VALUE>...': "slow" is no set of timeouts: use rfc or linux, or set one as timeouts.udp=60

    For more information, try '--help'.
    $ set ageing=70 timeouts=custom
    2: error: invalid value 'timeouts=custom' for '<KEY=VALUE>...': "custom" is no set of timeouts: use rfc or linux, or set one as timeouts.udp=60

    For more information, try '--help'.
    $ set ageing=70 mid_stream=yes
    2: error: invalid value 'mid_stream=yes' for '<KEY=VALUE>...': "yes" is not on or off

    For more information, try '--help'.
    $ set ageing=70 mss_clamp=100
    2: error: invalid value 'mss_clamp=100' for '<KEY=VALUE>...': 100 is not a maximum segment size: use 536 to 65495 bytes, auto, or off

    For more information, try '--help'.
    $ get color
    2: error: invalid value 'color' for '[KEY]': no setting is called "color"; there are ageing, fdb_size, max_ports, max_macs, storm.broadcast, storm.multicast, storm.unknown_unicast, storm.arp, storm.nd, flow_size, flow_quota, flow_rate, source_flow_rate, source_flow_quota, timeouts, timeouts.tcp_transitory, timeouts.tcp_established, timeouts.tcp_closing, timeouts.tcp_time_wait, timeouts.udp, timeouts.udp_one_way, timeouts.icmp, timeouts.other, mid_stream, mss_clamp

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
