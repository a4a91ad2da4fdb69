//! Help texts, completions, manual pages.

use super::Switch;

#[test]
fn the_commands() {
    insta::assert_snapshot!(Switch::new().ok("-h"), @"
    A virtual switch for virtual machines whose datapath is eBPF

    Usage: vnet-user [OPTIONS] <COMMAND>

    Commands:
      up           Make the switch and bring it up
      down         Take the switch down; its configuration stays
      status       Show whether the switch is up, and how
      network      Broadcast domains
      port         Interfaces of the switch
      fdb          MAC addresses and the ports they are behind
      mac          MAC addresses that may not communicate at all
      nat          Address translation
      flow         Connections that are in force
      policy       Which connections virtual machines may have
      ban          Sources that are kept away for a time, for connecting too often
      config       The document as a whole
      set          Change settings
      get          Show settings
      stats        Show traffic counters and drops by reason
      events       Show what the datapath reports: addresses learned, moved and aged, limits reached
      doctor       Look for what keeps the switch from working, and say what to do about it
      daemon       Bring the switch up, stay in the foreground and make interfaces ports as they come
      completions  Print a completion script
      man          Write manual pages, one a command
      help         Print this message or the help of the given subcommand(s)

    Options:
      -h, --help     Print help (see more with '--help')
      -V, --version  Print version

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
    ");
}

#[test]
fn options_of_up() {
    insta::assert_snapshot!(own_part(&Switch::new().ok("up -h")), @"
    Make the switch and bring it up

    Usage: vnet-user up [OPTIONS]

    Options:
          --uplink <IFACE>  An interface to the physical network, added as an uplink if it is not there
                            yet
          --mode <MODE>     Where frames of uplinks are handled [possible values: auto, tc, xdp]
          --fail <FAIL>     What becomes of traffic when vnet's programs are gone [possible values:
                            auto, open, closed]
      -h, --help            Print help (see more with '--help')
    ");
}

#[test]
fn options_of_network() {
    insta::assert_snapshot!(own_part(&Switch::new().ok("network -h")), @"
    Broadcast domains

    Usage: vnet-user network [OPTIONS] <COMMAND>

    Commands:
      add   Add a network
      del   Delete a network that nothing uses
      list  List the networks
      show  Show one network
      help  Print this message or the help of the given subcommand(s)

    Options:
      -h, --help  Print help (see more with '--help')
    ");
    insta::assert_snapshot!(own_part(&Switch::new().ok("network add -h")), @"
    Add a network

    Usage: vnet-user network add [OPTIONS] <NAME>

    Arguments:
      <NAME>  Its name: up to 32 letters, digits, '_', '.', '-'

    Options:
          --vlan <VID>      The tag it has on trunks, 1 to 4094
          --gateway <CIDR>  The host's address in it, with its prefix: what its VMs use as gateway
          --mtu <N>         Its MTU in bytes
          --dhcp <LO-HI>    Addresses that the daemon leases to its VMs; with IPv6, routers are
                            advertised too
          --may-exist       Change nothing and succeed if it is there already
      -h, --help            Print help (see more with '--help')
    ");
}

#[test]
fn options_of_port() {
    insta::assert_snapshot!(own_part(&Switch::new().ok("port -h")), @"
    Interfaces of the switch

    Usage: vnet-user port [OPTIONS] <COMMAND>

    Commands:
      add   Add an interface to the switch
      set   Change a port: what is not named stays, a list replaces the whole list
      del   Take an interface out of the switch
      list  List the ports
      show  Show one port
      help  Print this message or the help of the given subcommand(s)

    Options:
      -h, --help  Print help (see more with '--help')
    ");
    insta::assert_snapshot!(own_part(&Switch::new().ok("port add -h")), @"
    Add an interface to the switch

    Usage: vnet-user port add [OPTIONS] <IFACE>

    Arguments:
      <IFACE>  The interface; it may come later

    Options:
          --uplink                        A physical network is behind it, not a virtual machine
          --network <NAME>                The one network it carries, untagged [default: the network
                                          default; on an uplink also every network that has a VLAN id]
          --trunk <NAME[=VID]>            The networks it carries, tagged with their VLAN id or with VID
                                          on this port only; none empties the list
          --native <NAME>                 The trunk's network that goes untagged; without it untagged
                                          frames are dropped
          --mac <MAC|auto>                A MAC address that may send, auto to have one made and
                                          printed; without any, every address may; none empties the list
          --ip <IP|learn>                 An IP address that may send, learn for those that DHCP leases
                                          it; without any, every address may; none empties the list
          --max-macs <N>                  Most addresses learned here, 0 is no limit; default is the
                                          setting max_macs
          --guard <GUARD>                 What else is checked of what it sends [possible values:
                                          default, strict, none]
          --isolated[=<on|off>]           Keep it apart from other VMs' ports: it reaches uplinks,
                                          gateways and the host alone
          --group <NAME>                  A security group that it is bound to, from its first frame on;
                                          none unbinds it from all
          --storm <KIND=PPS[/BURST]|off>  A limit of frames a second, of which BURST may come at once,
                                          else one second's worth: KIND is broadcast, multicast or
                                          unknown-unicast, of what is flooded, or arp or nd; none
                                          empties the list, so that the settings storm.* apply
          --may-exist                     Change nothing and succeed if it is there already
      -h, --help                          Print help (see more with '--help')
    ");
    insta::assert_snapshot!(own_part(&Switch::new().ok("port set -h")), @"
    Change a port: what is not named stays, a list replaces the whole list

    Usage: vnet-user port set [OPTIONS] <IFACE>

    Arguments:
      <IFACE>  The port

    Options:
          --uplink                        A physical network is behind it, not a virtual machine
          --network <NAME>                The one network it carries, untagged [default: the network
                                          default; on an uplink also every network that has a VLAN id]
          --trunk <NAME[=VID]>            The networks it carries, tagged with their VLAN id or with VID
                                          on this port only; none empties the list
          --native <NAME>                 The trunk's network that goes untagged; without it untagged
                                          frames are dropped
          --mac <MAC|auto>                A MAC address that may send, auto to have one made and
                                          printed; without any, every address may; none empties the list
          --ip <IP|learn>                 An IP address that may send, learn for those that DHCP leases
                                          it; without any, every address may; none empties the list
          --max-macs <N>                  Most addresses learned here, 0 is no limit; default is the
                                          setting max_macs
          --guard <GUARD>                 What else is checked of what it sends [possible values:
                                          default, strict, none]
          --isolated[=<on|off>]           Keep it apart from other VMs' ports: it reaches uplinks,
                                          gateways and the host alone
          --group <NAME>                  A security group that it is bound to, from its first frame on;
                                          none unbinds it from all
          --storm <KIND=PPS[/BURST]|off>  A limit of frames a second, of which BURST may come at once,
                                          else one second's worth: KIND is broadcast, multicast or
                                          unknown-unicast, of what is flooded, or arp or nd; none
                                          empties the list, so that the settings storm.* apply
      -h, --help                          Print help (see more with '--help')
    ");
    insta::assert_snapshot!(own_part(&Switch::new().ok("port del -h")), @"
    Take an interface out of the switch

    Usage: vnet-user port del [OPTIONS] <IFACE>

    Arguments:
      <IFACE>  The port

    Options:
          --if-exists  Succeed if it is not there
      -h, --help       Print help (see more with '--help')
    ");
}

#[test]
fn options_of_fdb_and_mac() {
    insta::assert_snapshot!(own_part(&Switch::new().ok("fdb -h")), @"
    MAC addresses and the ports they are behind

    Usage: vnet-user fdb [OPTIONS] <COMMAND>

    Commands:
      list   List learned and static addresses
      add    Add a static address
      del    Delete a static address
      flush  Forget every learned address
      help   Print this message or the help of the given subcommand(s)

    Options:
      -h, --help  Print help (see more with '--help')
    ");
    insta::assert_snapshot!(own_part(&Switch::new().ok("fdb add -h")), @"
    Add a static address

    Usage: vnet-user fdb add [OPTIONS] --network <NAME> --port <IFACE> <MAC>

    Arguments:
      <MAC>  The address

    Options:
          --network <NAME>  The network it is in
          --port <IFACE>    The port it is behind
          --may-exist       Change nothing and succeed if it is there already
      -h, --help            Print help (see more with '--help')
    ");
    insta::assert_snapshot!(own_part(&Switch::new().ok("mac -h")), @"
    MAC addresses that may not communicate at all

    Usage: vnet-user mac [OPTIONS] <COMMAND>

    Commands:
      deny   Drop every frame from or to an address
      allow  Take an address off the deny list
      list   List the denied addresses
      help   Print this message or the help of the given subcommand(s)

    Options:
      -h, --help  Print help (see more with '--help')
    ");
}

#[test]
fn options_of_nat() {
    insta::assert_snapshot!(own_part(&Switch::new().ok("nat -h")), @"
    Address translation

    Usage: vnet-user nat [OPTIONS] <COMMAND>

    Commands:
      add   Add a rule; its id is printed
      del   Delete a rule; its connections end
      list  List the rules
      show  Show one rule
      help  Print this message or the help of the given subcommand(s)

    Options:
      -h, --help  Print help (see more with '--help')
    ");
    insta::assert_snapshot!(own_part(&Switch::new().ok("nat add -h")), @"
    Add a rule; its id is printed

    Usage: vnet-user nat add [OPTIONS] <COMMAND>

    Commands:
      masquerade  Give a network's sources the uplink's own address
      snat        Give sources addresses of a pool
      dnat        Lead an external address and port to a VM
      static      Have an external address or prefix stand for an internal one
      help        Print this message or the help of the given subcommand(s)

    Options:
      -h, --help  Print help (see more with '--help')
    ");
    insta::assert_snapshot!(own_part(&Switch::new().ok("nat add masquerade -h")), @"
    Give a network's sources the uplink's own address

    Usage: vnet-user nat add masquerade [OPTIONS] --network <NAME> --uplink <IFACE>

    Options:
          --network <NAME>            The network, one with a gateway
          --uplink <IFACE>            The way out: an uplink, or the switch device where that has the
                                      address
          --ports <LO-HI>             External ports [default: 1024-65535]
          --mapping <eim|symmetric>   Which connections share an external port: eim, all from one
                                      internal address and port; symmetric, none [default: eim]
          --filtering <eif|adf|apdf>  Who may send to a mapping: eif, everybody; adf, addresses that it
                                      has sent to; apdf, addresses and ports that it has sent to
                                      [default: adf]
          --block-size <N>            Give an internal address its external ports in blocks of N
          --may-exist                 Succeed with the id of the very same rule if it is there already
      -h, --help                      Print help (see more with '--help')
    ");
    insta::assert_snapshot!(own_part(&Switch::new().ok("nat add snat -h")), @"
    Give sources addresses of a pool

    Usage: vnet-user nat add snat [OPTIONS] --source <CIDR> --to <ADDR[-ADDR]> --uplink <IFACE>

    Options:
          --source <CIDR>             The sources
          --to <ADDR[-ADDR]>          The pool: external addresses of the same family
          --uplink <IFACE>            The way out: an uplink, or the switch device where that has the
                                      address
          --ports <LO-HI>             External ports [default: 1024-65535]
          --mapping <eim|symmetric>   Which connections share an external port: eim, all from one
                                      internal address and port; symmetric, none [default: eim]
          --filtering <eif|adf|apdf>  Who may send to a mapping: eif, everybody; adf, addresses that it
                                      has sent to; apdf, addresses and ports that it has sent to
                                      [default: adf]
          --block-size <N>            Give an internal address its external ports in blocks of N
          --may-exist                 Succeed with the id of the very same rule if it is there already
      -h, --help                      Print help (see more with '--help')
    ");
    insta::assert_snapshot!(own_part(&Switch::new().ok("nat add dnat -h")), @"
    Lead an external address and port to a VM

    Usage: vnet-user nat add dnat [OPTIONS] --proto <PROTO> --listen <ADDR:PORT[-PORT]> --to <ADDR:PORT[-PORT]>

    Options:
          --proto <PROTO>              The protocols: tcp, udp or tcp,udp
          --listen <ADDR:PORT[-PORT]>  The external address and its ports; an IPv6 address in brackets
          --to <ADDR:PORT[-PORT]>      The VM's address and its ports: as many as --listen has, or one
          --from <CIDR>                The only sources that it is for
          --uplink <IFACE>             The only way in [default: the one that has the address]
          --force                      Add it even if the host itself listens there, and no longer gets
                                       those connections
          --may-exist                  Succeed with the id of the very same rule if it is there already
      -h, --help                       Print help (see more with '--help')
    ");
    insta::assert_snapshot!(own_part(&Switch::new().ok("nat add static -h")), @"
    Have an external address or prefix stand for an internal one

    Usage: vnet-user nat add static [OPTIONS] --external <ADDR|CIDR> --internal <ADDR|CIDR>

    Options:
          --external <ADDR|CIDR>  Outside
          --internal <ADDR|CIDR>  Inside, as long a prefix
          --uplink <IFACE>        The only way out and in [default: any]
          --may-exist             Succeed with the id of the very same rule if it is there already
      -h, --help                  Print help (see more with '--help')
    ");
    insta::assert_snapshot!(own_part(&Switch::new().ok("nat del -h")), @"
    Delete a rule; its connections end

    Usage: vnet-user nat del [OPTIONS] <ID>

    Arguments:
      <ID>  The rule

    Options:
          --if-exists  Succeed if it is not there
      -h, --help       Print help (see more with '--help')
    ");
}

#[test]
fn options_of_policy() {
    insta::assert_snapshot!(own_part(&Switch::new().ok("policy -h")), @"
    Which connections virtual machines may have

    Usage: vnet-user policy [OPTIONS] <COMMAND>

    Commands:
      group   Security groups
      rule    Rules of security groups
      bind    Have a group decide for a port too; a port with no group is not filtered
      unbind  Have a group no longer decide for a port
      import  Make groups of Kubernetes' NetworkPolicies; those of an earlier import of the same
              policies are replaced
      help    Print this message or the help of the given subcommand(s)

    Options:
      -h, --help  Print help (see more with '--help')
    ");
    insta::assert_snapshot!(own_part(&Switch::new().ok("policy group -h")), @"
    Security groups

    Usage: vnet-user policy group [OPTIONS] <COMMAND>

    Commands:
      add   Add a group
      del   Delete a group that nothing uses, with its rules
      list  List the groups
      show  Show one group with its rules
      help  Print this message or the help of the given subcommand(s)

    Options:
      -h, --help  Print help (see more with '--help')
    ");
    insta::assert_snapshot!(own_part(&Switch::new().ok("policy group add -h")), @"
    Add a group

    Usage: vnet-user policy group add [OPTIONS] <NAME>

    Arguments:
      <NAME>  Its name: up to 32 letters, digits, '_', '.', '-'

    Options:
          --default <allow|deny>  What becomes of a connection that no rule is for, in both directions;
                                  of several groups on a port one that denies is enough [default: deny]
          --may-exist             Change nothing and succeed if it is there already
      -h, --help                  Print help (see more with '--help')
    ");
    insta::assert_snapshot!(own_part(&Switch::new().ok("policy group del -h")), @"
    Delete a group that nothing uses, with its rules

    Usage: vnet-user policy group del [OPTIONS] <NAME>

    Arguments:
      <NAME>  The group

    Options:
          --if-exists  Succeed if it is not there
      -h, --help       Print help (see more with '--help')
    ");
    insta::assert_snapshot!(own_part(&Switch::new().ok("policy rule -h")), @"
    Rules of security groups

    Usage: vnet-user policy rule [OPTIONS] <COMMAND>

    Commands:
      add   Add a rule to a group; its id is printed
      list  List a group's rules in the order that they are looked at: the first that fits decides
      del   Delete a rule of a group
      help  Print this message or the help of the given subcommand(s)

    Options:
      -h, --help  Print help (see more with '--help')
    ");
    insta::assert_snapshot!(own_part(&Switch::new().ok("policy rule add -h")), @"
    Add a rule to a group; its id is printed

    Usage: vnet-user policy rule add [OPTIONS] --direction <in|out> --action <allow|deny|reject> <GROUP>

    Arguments:
      <GROUP>  The group

    Options:
          --direction <in|out>          Which way the connections go that it is for: in, towards the VM;
                                        out, from it
          --action <allow|deny|reject>  What becomes of them: allow; deny, without a word; reject, with
                                        an answer to the sender
          --proto <P>                   Their protocol: tcp, udp, icmp, icmpv6, sctp, gre, esp… or a
                                        number [default: any]
          --ports <PORT|LO-HI>          Their destination ports, with tcp, udp and sctp alone [default:
                                        any]
          --remote <CIDR|group:NAME>    Their other end: addresses, or those of the ports that are bound
                                        to a group [default: any]
          --priority <N>                Lower numbers are looked at first, equal ones in the order added
                                        [default: 1000]
          --log                         Report each connection that it decides on
          --may-exist                   Succeed with the id of the very same rule if the group has it
                                        already
      -h, --help                        Print help (see more with '--help')
    ");
    insta::assert_snapshot!(own_part(&Switch::new().ok("policy rule del -h")), @"
    Delete a rule of a group

    Usage: vnet-user policy rule del [OPTIONS] <GROUP> <ID>

    Arguments:
      <GROUP>  The group
      <ID>     The rule

    Options:
          --if-exists  Succeed if it is not there
      -h, --help       Print help (see more with '--help')
    ");
    insta::assert_snapshot!(own_part(&Switch::new().ok("policy bind -h")), @"
    Have a group decide for a port too; a port with no group is not filtered

    Usage: vnet-user policy bind [OPTIONS] <GROUP> <IFACE>

    Arguments:
      <GROUP>  The group
      <IFACE>  The port

    Options:
      -h, --help  Print help (see more with '--help')
    ");
}

#[test]
fn options_of_ban() {
    insta::assert_snapshot!(own_part(&Switch::new().ok("ban -h")), @"
    Sources that are kept away for a time, for connecting too often

    Usage: vnet-user ban [OPTIONS] <COMMAND>

    Commands:
      rule   Rules that ban who connects too often
      list   List who is banned
      add    Ban an address, of IPv6 with its /64: whoever is not on the link that he sends to has the
             whole /64 to send from, and counts as that
      del    Let an address in again, of IPv6 with its /64; what rules have counted of it is forgotten
      flush  Let everybody in again; all that rules have counted is forgotten
      help   Print this message or the help of the given subcommand(s)

    Options:
      -h, --help  Print help (see more with '--help')
    ");
    insta::assert_snapshot!(own_part(&Switch::new().ok("ban rule -h")), @"
    Rules that ban who connects too often

    Usage: vnet-user ban rule [OPTIONS] <COMMAND>

    Commands:
      add   Add a rule; its id is printed
      list  List the rules
      del   Delete a rule; whom it has banned stays banned
      help  Print this message or the help of the given subcommand(s)

    Options:
      -h, --help  Print help (see more with '--help')
    ");
    insta::assert_snapshot!(own_part(&Switch::new().ok("ban rule add -h")), @"
    Add a rule; its id is printed

    Usage: vnet-user ban rule add [OPTIONS] --ports <PORT|LO-HI> --connections <N> --within <SECONDS> --time <SECONDS>

    Options:
          --ports <PORT|LO-HI>  The TCP ports of VMs that connections are counted to, all together
          --connections <N>     Connections that one source may make
          --within <SECONDS>    The time that it may make them in
          --time <SECONDS>      How long it is banned when it makes more
          --except <ADDR|CIDR>  Sources that it never bans
          --may-exist           Succeed with the id of the very same rule if it is there already
      -h, --help                Print help (see more with '--help')
    ");
    insta::assert_snapshot!(own_part(&Switch::new().ok("ban rule del -h")), @"
    Delete a rule; whom it has banned stays banned

    Usage: vnet-user ban rule del [OPTIONS] <ID>

    Arguments:
      <ID>  The rule

    Options:
          --if-exists  Succeed if it is not there
      -h, --help       Print help (see more with '--help')
    ");
    insta::assert_snapshot!(own_part(&Switch::new().ok("ban list -h")), @"
    List who is banned

    Usage: vnet-user ban list [OPTIONS]

    Options:
          --network <NAME>  Only bans in this network
      -h, --help            Print help (see more with '--help')
    ");
    insta::assert_snapshot!(own_part(&Switch::new().ok("ban add -h")), @"
    Ban an address, of IPv6 with its /64: whoever is not on the link that he sends to has the whole /64
    to send from, and counts as that

    Usage: vnet-user ban add [OPTIONS] <ADDR>

    Arguments:
      <ADDR>  The address

    Options:
          --network <NAME>  The network that its packets come in from [default: each]
          --time <SECONDS>  How long from now [default: 600]
      -h, --help            Print help (see more with '--help')
    ");
    insta::assert_snapshot!(own_part(&Switch::new().ok("ban del -h")), @"
    Let an address in again, of IPv6 with its /64; what rules have counted of it is forgotten

    Usage: vnet-user ban del [OPTIONS] <ADDR>

    Arguments:
      <ADDR>  The address, or of IPv6 its /64 as `ban list` shows it

    Options:
          --network <NAME>  The network that its packets come in from [default: each]
          --if-exists       Succeed if it is not banned
      -h, --help            Print help (see more with '--help')
    ");
}

#[test]
fn options_of_flow() {
    insta::assert_snapshot!(own_part(&Switch::new().ok("flow -h")), @"
    Connections that are in force

    Usage: vnet-user flow [OPTIONS] <COMMAND>

    Commands:
      list   List the connections
      flush  End connections; without options, all of them
      help   Print this message or the help of the given subcommand(s)

    Options:
      -h, --help  Print help (see more with '--help')
    ");
    insta::assert_snapshot!(own_part(&Switch::new().ok("flow list -h")), @"
    List the connections

    Usage: vnet-user flow list [OPTIONS]

    Options:
          --proto <P>      Only of this protocol: tcp, udp, icmp, icmpv6, sctp, gre, esp… or a number
          --vm <IFACE>     Only of the VM behind this port
          --remote <CIDR>  Only with this other end
          --rule <ID>      Only of this translation rule
      -h, --help           Print help (see more with '--help')
    ");
}

#[test]
fn options_of_config() {
    let switch = Switch::new();
    insta::assert_snapshot!(own_part(&switch.ok("config -h")), @"
    The document as a whole

    Usage: vnet-user config [OPTIONS] <COMMAND>

    Commands:
      export    Print the document as it is, comments included
      check     Say whether a document is right; needs no privileges and changes nothing
      diff      Show what applying a document would change: exit code 0 for nothing, 1 for something, 2
                for an error
      apply     Replace the document, and make the kernel equal to it: all of it or nothing
      confirm   Keep what `apply --confirm` applied
      rollback  Apply a document that was kept before a change
      list      List the documents that were kept, each before a change
      help      Print this message or the help of the given subcommand(s)

    Options:
      -h, --help  Print help (see more with '--help')
    ");
    insta::assert_snapshot!(own_part(&switch.ok("config apply -h")), @"
    Replace the document, and make the kernel equal to it: all of it or nothing

    Usage: vnet-user config apply [OPTIONS] <FILE>

    Arguments:
      <FILE>  The document; - is standard input

    Options:
          --confirm <SECONDS>  Take it back after so many seconds unless `config confirm` comes before;
                               the daemon does it
      -h, --help               Print help (see more with '--help')
    ");
}

#[test]
fn options_of_settings_and_listings() {
    insta::assert_snapshot!(own_part(&Switch::new().ok("set -h")), @"
    Change settings

    Usage: vnet-user set [OPTIONS] <KEY=VALUE>...

    Arguments:
      <KEY=VALUE>...  A setting and its new value; the value default resets it. vnet-user get lists the
                      keys

    Options:
      -h, --help  Print help (see more with '--help')
    ");
    insta::assert_snapshot!(own_part(&Switch::new().ok("get -h")), @"
    Show settings

    Usage: vnet-user get [OPTIONS] [KEY]

    Arguments:
      [KEY]  The setting; without it, all of them

    Options:
      -h, --help  Print help (see more with '--help')
    ");
    insta::assert_snapshot!(own_part(&Switch::new().ok("stats -h")), @"
    Show traffic counters and drops by reason

    Usage: vnet-user stats [OPTIONS]

    Options:
          --port <IFACE>  Only this port
      -h, --help          Print help (see more with '--help')
    ");
    insta::assert_snapshot!(own_part(&Switch::new().ok("events -h")), @"
    Show what the datapath reports: addresses learned, moved and aged, limits reached

    Usage: vnet-user events [OPTIONS]

    Options:
          --follow  Wait for more until interrupted
      -h, --help    Print help (see more with '--help')
    ");
}

#[test]
fn every_shell_has_completions() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = Switch::new().ok(&format!("completions {shell}"));
        assert!(script.contains("may-exist"), "{shell}");
    }
    assert!(Switch::new().refused("completions tcsh").starts_with("2: "));
}

#[test]
fn every_command_has_a_page() {
    let switch = Switch::new();
    let dir = switch.dir.path().join("share/man1");
    switch.ok(&format!("man {}", dir.display()));
    for page in [
        "vnet-user",
        "vnet-user-up",
        "vnet-user-port",
        "vnet-user-port-add",
        "vnet-user-nat-add-masquerade",
    ] {
        let text = std::fs::read_to_string(dir.join(format!("{page}.1"))).expect(page);
        assert!(text.contains(".SH NAME"), "{page}");
    }
    let answer = switch.refused("man /proc/nowhere");
    assert!(
        answer.starts_with("1: error: writing manual pages"),
        "{answer}"
    );
}

/// The help of a command without the global options, which are the same everywhere.
fn own_part(help: &str) -> String {
    help.split("Global options:")
        .next()
        .unwrap_or(help)
        .trim_end()
        .to_owned()
}
