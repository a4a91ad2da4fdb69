//! `flow list | flush`: what can be said of them while the switch is down.

use super::Switch;

#[test]
fn refusals() {
    insta::assert_snapshot!(
        Switch::new().each_refused(&[
            "flow",
            "flow list --proto quic",
            "flow list --proto 256",
            "flow list --remote 10.0.0.1/24",
            "flow list --rule 0",
            "flow list --vm a/b",
            "flow list --proto tcp --vm tap0 --remote 192.0.2.1 --rule 1",
            "flow flush --proto 47",
        ]),
        @r#"
    $ flow
    2: Connections that are in force

    Usage: vnet-user flow [OPTIONS] <COMMAND>

    Commands:
      list   List the connections
      flush  End connections; without options, all of them
      help   Print this message or the help of the given subcommand(s)

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
    $ flow list --proto quic
    2: error: invalid value 'quic' for '--proto <P>': "quic" is no protocol: use icmp, igmp, ipip, tcp, udp, gre, esp, ah, icmpv6, ospf, sctp, udplite, or a number up to 255

    For more information, try '--help'.
    $ flow list --proto 256
    2: error: invalid value '256' for '--proto <P>': "256" is no protocol: use icmp, igmp, ipip, tcp, udp, gre, esp, ah, icmpv6, ospf, sctp, udplite, or a number up to 255

    For more information, try '--help'.
    $ flow list --remote 10.0.0.1/24
    2: error: invalid value '10.0.0.1/24' for '--remote <CIDR>': 10.0.0.1/24 has bits behind its length: the prefix is 10.0.0.0/24

    For more information, try '--help'.
    $ flow list --rule 0
    2: error: invalid value '0' for '--rule <ID>': "0" is not a rule's id, a number from 1 to 16383

    For more information, try '--help'.
    $ flow list --vm a/b
    2: error: invalid value 'a/b' for '--vm <IFACE>': "a/b" is not an interface's name: '/', ':', '%', blanks, "." and ".." are not allowed

    For more information, try '--help'.
    $ flow list --proto tcp --vm tap0 --remote 192.0.2.1 --rule 1
    3: error: listing connections: the switch vsw0 is not up
      mend: vnet-user --switch vsw0 up
    $ flow flush --proto 47
    3: error: ending connections: the switch vsw0 is not up
      mend: vnet-user --switch vsw0 up
    "#
    );
}
