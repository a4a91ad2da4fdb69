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
      set          Change settings
      get          Show settings
      stats        Show traffic counters and drops by reason
      events       Show what the datapath reports: addresses learned, moved and aged, limits reached
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
          --vlan <VID>  The tag it has on trunks, 1 to 4094
          --mtu <N>     Its MTU in bytes
          --may-exist   Change nothing and succeed if it is there already
      -h, --help        Print help (see more with '--help')
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
          --uplink                A physical network is behind it, not a virtual machine
          --network <NAME>        The one network it carries, untagged [default: the network default; on
                                  an uplink also every network that has a VLAN id]
          --trunk <NAME[=VID]>    The networks it carries, tagged with their VLAN id or with VID on this
                                  port only; none empties the list
          --native <NAME>         The trunk's network that goes untagged; without it untagged frames are
                                  dropped
          --mac <MAC>             A MAC address that may send; without any, every address may; none
                                  empties the list
          --max-macs <N>          Most addresses learned here, 0 is no limit; default is the setting
                                  max_macs
          --storm <KIND=PPS|off>  A limit of flooded frames a second: KIND is broadcast, multicast or
                                  unknown-unicast; none empties the list, so that the settings storm.*
                                  apply
          --may-exist             Change nothing and succeed if it is there already
      -h, --help                  Print help (see more with '--help')
    ");
    insta::assert_snapshot!(own_part(&Switch::new().ok("port set -h")), @"
    Change a port: what is not named stays, a list replaces the whole list

    Usage: vnet-user port set [OPTIONS] <IFACE>

    Arguments:
      <IFACE>  The port

    Options:
          --uplink                A physical network is behind it, not a virtual machine
          --network <NAME>        The one network it carries, untagged [default: the network default; on
                                  an uplink also every network that has a VLAN id]
          --trunk <NAME[=VID]>    The networks it carries, tagged with their VLAN id or with VID on this
                                  port only; none empties the list
          --native <NAME>         The trunk's network that goes untagged; without it untagged frames are
                                  dropped
          --mac <MAC>             A MAC address that may send; without any, every address may; none
                                  empties the list
          --max-macs <N>          Most addresses learned here, 0 is no limit; default is the setting
                                  max_macs
          --storm <KIND=PPS|off>  A limit of flooded frames a second: KIND is broadcast, multicast or
                                  unknown-unicast; none empties the list, so that the settings storm.*
                                  apply
      -h, --help                  Print help (see more with '--help')
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
