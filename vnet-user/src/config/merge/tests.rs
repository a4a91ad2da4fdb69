//! The merge, case by case, and as a property of whole histories of edits.

use proptest::prelude::*;

use super::*;
use crate::config::edits::{self, PortChange};
use crate::config::{
    Assignment, Attachment, DhcpRange, Direction, Endpoint, Filtering, Group, GroupDefault, Guard,
    Invalid, Mapping, Match, NatAction, NatOptions, Network, PolicyAction, PolicyRule, Port,
    PortIp, PortRange, Profile, Remote, StaticFdb, StormLimit, StormOverrides, TrunkEntry,
};

/// A document as people write them.
pub const HAND_WRITTEN: &str = r#"# Rack 4, row B
schema   =   1   # the only one

[settings]
ageing = 300 # the default, on purpose
[settings.storm]
multicast = 500

# Where the VMs live
[[port]]
name = 'tap0'   # web server
network = "blue"
mac = [
  "02:00:00:00:00:0A", # first NIC
  "02:00:00:00:00:0B", # second NIC
]

[[network]]
name = "blue"
vlan = 10 # see the switch's label

[[network]]
name = 'lan'
gateway = [ '10.0.0.1/24', "FD00::1/64" ] # both families

# the wire
[[port]]
name = "eth0"
uplink = true
[port.storm]
broadcast = "off" # it is filtered upstream

[mac]
deny = ["02-00-00-00-00-0F"] # a stolen laptop

[[nat]] # everybody
kind = 'masquerade'
id = 0x2
network = 'lan'
uplink = 'vsw0'
mapping = "eim" # the default, on purpose

[[nat]]
id = 3
kind = "dnat"
proto = "udp,tcp" # QUIC too
listen = "192.0.2.1:443"
to = "10.0.0.2:443-443"

# what the world sees
[[group]]
name = "web"
default = "deny" # on purpose
[[group.rule]] # everybody
direction = "in"
action = "allow"
proto = "6" # TCP
ports = "443-443"
id = 0x4
[[group.rule]]
id = 2
direction = "out"
action = "deny"
remote = "169.254.169.254/32" # metadata

[[group]] # for the database
name = 'db'

# the end
"#;

fn mac(text: &str) -> MacAddr {
    text.parse().unwrap()
}

/// What `edit` makes of the hand-written document; only the lines that changed, as a diff.
fn diff(edit: impl FnOnce(&mut Config) -> Result<(), Invalid>) -> String {
    let before = document::parse(HAND_WRITTEN).unwrap();
    before.validate("vsw0").unwrap();
    let mut after = before.clone();
    edit(&mut after).unwrap();
    after.validate("vsw0").unwrap();
    let merged = merge(HAND_WRITTEN, &before, &after).expect("merges");
    let old: Vec<_> = HAND_WRITTEN.lines().collect();
    let new: Vec<_> = merged.lines().collect();
    let start = old.iter().zip(&new).take_while(|(a, b)| a == b).count();
    let same_end = old[start..]
        .iter()
        .rev()
        .zip(new[start..].iter().rev())
        .take_while(|(a, b)| a == b)
        .count();
    let removed = old[start..old.len() - same_end].iter();
    let added = new[start..new.len() - same_end].iter();
    removed
        .map(|line| format!("-{line}\n"))
        .chain(added.map(|line| format!("+{line}\n")))
        .collect()
}

fn set(assignment: &str) -> impl FnOnce(&mut Config) -> Result<(), Invalid> {
    let Assignment { key, value } = assignment.parse().unwrap();
    move |config| {
        key.put(&mut config.settings, value);
        Ok(())
    }
}

#[test]
fn nothing_changed_is_the_same_bytes() {
    assert_eq!(diff(|_| Ok(())), "");
}

#[test]
fn a_value_changes_and_its_comment_stays() {
    insta::assert_snapshot!(diff(set("ageing=60")), @"
    -ageing = 300 # the default, on purpose
    +ageing = 60 # the default, on purpose
    ");
    insta::assert_snapshot!(diff(set("storm.multicast=off")), @r#"
    -multicast = 500
    +multicast = "off"
    "#);
}

#[test]
fn a_value_is_added_to_its_table() {
    insta::assert_snapshot!(diff(set("max_macs=7")), @"+max_macs = 7");
    insta::assert_snapshot!(diff(set("storm.broadcast=7")), @"+broadcast = 7");
}

#[test]
fn a_default_is_taken_out_with_its_table_where_that_becomes_empty() {
    insta::assert_snapshot!(diff(set("storm.multicast=default")), @"
    -[settings.storm]
    -multicast = 500
    ");
    let no_storm = PortChange {
        storm: Some(StormOverrides::default()),
        ..PortChange::default()
    };
    insta::assert_snapshot!(diff(|c| edits::set_port(c, "vsw0", "eth0", no_storm)), @r#"
    -[port.storm]
    -broadcast = "off" # it is filtered upstream
    "#);
}

#[test]
fn a_new_port_comes_after_the_others() {
    let port = Port {
        attachment: Attachment::Access("blue".into()),
        storm: StormOverrides {
            broadcast: Some(StormLimit::pps(5)),
            ..StormOverrides::default()
        },
        ..Port::new("tap1")
    };
    insta::assert_snapshot!(diff(|c| edits::add_port(c, "vsw0", port)), @r#"
    +[[port]]
    +name = "tap1"
    +network = "blue"
    +storm = { broadcast = 5 }
    +
    "#);
}

#[test]
fn a_first_entry_makes_its_table() {
    let entry = StaticFdb {
        mac: mac("02:00:00:00:00:01"),
        network: "blue".into(),
        port: "tap0".into(),
    };
    insta::assert_snapshot!(diff(|c| edits::add_fdb(c, "vsw0", entry)), @r#"
    +[[fdb]]
    +mac = "02:00:00:00:00:01"
    +network = "blue"
    +port = "tap0"
    +
    "#);
}

#[test]
fn a_deleted_port_goes_with_its_comments() {
    insta::assert_snapshot!(diff(|c| edits::delete_port(c, "vsw0", "eth0")), @r#"
    -# the wire
    -[[port]]
    -name = "eth0"
    -uplink = true
    -[port.storm]
    -broadcast = "off" # it is filtered upstream
    -
    "#);
}

#[test]
fn elements_of_a_list_keep_their_comments() {
    let macs = |macs: &[&str]| PortChange {
        macs: Some(macs.iter().map(|text| mac(text)).collect()),
        ..PortChange::default()
    };
    let change = macs(&["02:00:00:00:00:0b", "02:00:00:00:00:0c"]);
    insta::assert_snapshot!(diff(|c| edits::set_port(c, "vsw0", "tap0", change)), @r#"
    -  "02:00:00:00:00:0A", # first NIC
    -  "02:00:00:00:00:0B", # second NIC
    +  "02:00:00:00:00:0B", # second NIC
    +  "02:00:00:00:00:0c",
    "#);
    let change = macs(&[]);
    insta::assert_snapshot!(diff(|c| edits::set_port(c, "vsw0", "tap0", change)), @r#"
    -mac = [
    -  "02:00:00:00:00:0A", # first NIC
    -  "02:00:00:00:00:0B", # second NIC
    -]
    "#);
    let denied = mac("02:00:00:00:00:0e");
    insta::assert_snapshot!(diff(|c| { edits::deny_mac(c, denied); Ok(()) }), @r#"
    -deny = ["02-00-00-00-00-0F"] # a stolen laptop
    +deny = ["02-00-00-00-00-0F", "02:00:00:00:00:0e"] # a stolen laptop
    "#);
    let denied = mac("02:00:00:00:00:0f");
    insta::assert_snapshot!(diff(|c| { edits::allow_mac(c, denied); Ok(()) }), @r#"
    -[mac]
    -deny = ["02-00-00-00-00-0F"] # a stolen laptop
    -
    "#);
}

#[test]
fn rules_are_known_by_their_ids() {
    let masquerade = |uplink: &str| NatAction::Masquerade {
        network: "lan".into(),
        uplink: uplink.into(),
        options: NatOptions {
            ports: "1024-2047".parse().ok(),
            ..NatOptions::default()
        },
    };
    insta::assert_snapshot!(diff(|c| edits::add_nat(c, masquerade("eth0")).map(drop)), @r#"
    +[[nat]]
    +id = 4
    +kind = "masquerade"
    +network = "lan"
    +uplink = "eth0"
    +ports = "1024-2047"
    +
    "#);
    insta::assert_snapshot!(diff(|c| edits::delete_nat(c, 2)), @r#"
    -[[nat]] # everybody
    -kind = 'masquerade'
    -id = 0x2
    -network = 'lan'
    -uplink = 'vsw0'
    -mapping = "eim" # the default, on purpose
    -
    "#);
    insta::assert_snapshot!(diff(|c| edits::delete_nat(c, 3)), @r#"
    -[[nat]]
    -id = 3
    -kind = "dnat"
    -proto = "udp,tcp" # QUIC too
    -listen = "192.0.2.1:443"
    -to = "10.0.0.2:443-443"
    -
    "#);
    // A rule that is changed keeps what is not about the change.
    insta::assert_snapshot!(diff(|c| { c.nat[0].action = masquerade("eth0"); Ok(()) }), @r#"
    -uplink = 'vsw0'
    -mapping = "eim" # the default, on purpose
    +uplink = "eth0"
    +mapping = "eim" # the default, on purpose
    +ports = "1024-2047"
    "#);
    // Unless it becomes one of another kind, which does not have the same keys.
    let one = NatAction::Static {
        external: "192.0.2.2/32".parse().unwrap(),
        internal: "10.0.0.2/32".parse().unwrap(),
        uplink: None,
    };
    insta::assert_snapshot!(diff(|c| { c.nat[0].action = one; Ok(()) }), @r#"
    -kind = 'masquerade'
    -id = 0x2
    -network = 'lan'
    -uplink = 'vsw0'
    -mapping = "eim" # the default, on purpose
    +id = 2
    +kind = "static"
    +external = "192.0.2.2"
    +internal = "10.0.0.2"
    "#);
}

#[test]
fn groups_are_known_by_their_names_and_rules_by_their_ids() {
    let ssh = || PolicyRule {
        id: 0,
        direction: Direction::In,
        action: PolicyAction::Allow,
        proto: "tcp".parse().ok(),
        ports: "22".parse().ok(),
        remote: "10.0.0.0/8".parse().ok(),
        priority: 10,
        log: true,
    };
    // Behind the group's other rules, and in front of the next group.
    insta::assert_snapshot!(diff(|c| edits::add_policy_rule(c, "web", ssh()).map(drop)), @r#"
    +[[group.rule]]
    +id = 5
    +direction = "in"
    +action = "allow"
    +proto = "tcp"
    +ports = "22"
    +remote = "10.0.0.0/8"
    +priority = 10
    +log = true
    +
    "#);
    insta::assert_snapshot!(diff(|c| edits::add_policy_rule(c, "db", ssh()).map(drop)), @r#"
    +[[group.rule]]
    +id = 5
    +direction = "in"
    +action = "allow"
    +proto = "tcp"
    +ports = "22"
    +remote = "10.0.0.0/8"
    +priority = 10
    +log = true
    +
    "#);
    insta::assert_snapshot!(diff(|c| edits::delete_policy_rule(c, "web", 4)), @r#"
    -[[group.rule]] # everybody
    -direction = "in"
    -action = "allow"
    -proto = "6" # TCP
    -ports = "443-443"
    -id = 0x4
    "#);
    insta::assert_snapshot!(diff(|c| edits::delete_group(c, "web")), @r#"
    -# what the world sees
    -[[group]]
    -name = "web"
    -default = "deny" # on purpose
    -[[group.rule]] # everybody
    -direction = "in"
    -action = "allow"
    -proto = "6" # TCP
    -ports = "443-443"
    -id = 0x4
    -[[group.rule]]
    -id = 2
    -direction = "out"
    -action = "deny"
    -remote = "169.254.169.254/32" # metadata
    -
    "#);
    insta::assert_snapshot!(diff(|c| edits::add_group(c, Group::new("all"))), @r#"
    +[[group]]
    +name = "all"
    +
    "#);
    // A rule that is changed keeps what is not about the change.
    insta::assert_snapshot!(
        diff(|c| {
            c.groups[0].rules[0].priority = 10;
            Ok(())
        }),
        @"+priority = 10"
    );
    insta::assert_snapshot!(
        diff(|c| {
            c.groups[0].default = GroupDefault::Allow;
            Ok(())
        }),
        @r#"
    -default = "deny" # on purpose
    +default = "allow" # on purpose
    "#
    );
    insta::assert_snapshot!(diff(|c| edits::bind_group(c, "vsw0", "web", "tap0")), @r#"+groups = ["web"]"#);
}

#[test]
fn a_group_with_rules_is_added_as_a_whole() {
    let text = "schema = 1\n\n[[port]]\nname = 'tap0'\n\n# first\n[[group]]\nname = 'a'\n\
                rule = [{ id = 1, direction = 'in', action = 'allow' }]\n\n[mac]\ndeny = []\n";
    let before = document::parse(text).unwrap();
    let mut after = before.clone();
    let rule = |id| PolicyRule {
        id,
        ..before.groups[0].rules[0].clone()
    };
    after.groups.push(Group {
        rules: vec![rule(2), rule(3)],
        ..Group::new("b")
    });
    insta::assert_snapshot!(merge(text, &before, &after).expect("merges"), @r#"
    schema = 1

    [[port]]
    name = 'tap0'

    # first
    [[group]]
    name = 'a'
    rule = [{ id = 1, direction = 'in', action = 'allow' }]

    [[group]]
    name = "b"

    [[group.rule]]
    id = 2
    direction = "in"
    action = "allow"

    [[group.rule]]
    id = 3
    direction = "in"
    action = "allow"

    [mac]
    deny = []
    "#);
    after.groups[0].rules.push(rule(4));
    insta::assert_snapshot!(merge(text, &before, &after).expect("merges"), @r#"
    schema = 1

    [[port]]
    name = 'tap0'

    # first
    [[group]]
    name = 'a'

    [[group.rule]]
    id = 1
    direction = "in"
    action = "allow"

    [[group.rule]]
    id = 4
    direction = "in"
    action = "allow"

    [[group]]
    name = "b"

    [[group.rule]]
    id = 2
    direction = "in"
    action = "allow"

    [[group.rule]]
    id = 3
    direction = "in"
    action = "allow"

    [mac]
    deny = []
    "#);
}

#[test]
fn a_gateway_is_added_to_the_list() {
    let gateway = "10.0.1.1/24".parse().unwrap();
    insta::assert_snapshot!(diff(|c| { c.networks[1].gateway.push(gateway); Ok(()) }), @r#"
    -gateway = [ '10.0.0.1/24', "FD00::1/64" ] # both families
    +gateway = [ '10.0.0.1/24', "FD00::1/64", "10.0.1.1/24"] # both families
    "#);
}

#[test]
fn inline_spelling_is_understood() {
    let text = "schema = 1\nnetwork = [{ name = 'blue', vlan = 1 }, { name = 'red' }]\n\
                settings.storm.broadcast = 5\nport = [{ name = 'tap0' }]\n";
    let before = document::parse(text).unwrap();
    let mut after = before.clone();
    edits::delete_network(&mut after, "red").unwrap();
    set("ageing=10")(&mut after).unwrap();
    insta::assert_snapshot!(merge(text, &before, &after).expect("merges"), @r#"
    schema = 1
    settings.storm.broadcast = 5
    settings.ageing = 10
    port = [{ name = 'tap0' }]

    [[network]]
    name = "blue"
    vlan = 1
    "#);
}

#[derive(Clone, Debug)]
pub enum Edit {
    AddNetwork(Network),
    DeleteNetwork(String),
    AddPort(String, PortChange),
    SetPort(String, PortChange),
    DeletePort(String),
    AddFdb(StaticFdb),
    DeleteFdb(MacAddr, String),
    Deny(MacAddr),
    Allow(MacAddr),
    Set(&'static str),
    AddNat(NatAction),
    DeleteNat(u16),
    ChangeNat(u16, NatAction),
    PutProfile(&'static str, Match, PortChange),
    DeleteProfile(&'static str),
    AddGroup(Group),
    DeleteGroup(String),
    AddRule(String, PolicyRule),
    DeleteRule(String, u16),
    ChangeRule(PolicyRule),
    Bind(String, String),
    Unbind(String, String),
    BindProfile(&'static str, Vec<String>),
}

impl Edit {
    pub fn apply(self, config: &mut Config) -> Result<(), Invalid> {
        match self {
            Self::AddNetwork(network) => edits::add_network(config, network),
            Self::DeleteNetwork(name) => edits::delete_network(config, &name),
            Self::AddPort(name, change) => {
                let mut port = Port::new(name);
                change.apply(&mut port)?;
                edits::add_port(config, "vsw0", port)
            }
            Self::SetPort(name, change) => edits::set_port(config, "vsw0", &name, change),
            Self::DeletePort(name) => edits::delete_port(config, "vsw0", &name),
            Self::AddFdb(entry) => edits::add_fdb(config, "vsw0", entry),
            Self::DeleteFdb(mac, network) => edits::delete_fdb(config, mac, &network),
            Self::Deny(mac) => {
                edits::deny_mac(config, mac);
                Ok(())
            }
            Self::Allow(mac) => {
                edits::allow_mac(config, mac);
                Ok(())
            }
            Self::Set(assignment) => set(assignment)(config),
            Self::AddNat(action) => edits::add_nat(config, action).map(drop),
            Self::DeleteNat(id) => edits::delete_nat(config, id),
            // No command does so, but a whole new document.
            Self::ChangeNat(id, action) => {
                for rule in config.nat.iter_mut().filter(|rule| rule.id == id) {
                    rule.action = action.clone();
                }
                Ok(())
            }
            // Nor so: profiles are the document's alone.
            Self::PutProfile(name, matches, change) => {
                let mut options = Port::new(name);
                change.apply(&mut options)?;
                let profile = Profile {
                    name: name.into(),
                    matches,
                    options,
                };
                match config.profiles.iter_mut().find(|old| old.name == name) {
                    Some(old) => *old = profile,
                    None => config.profiles.push(profile),
                }
                Ok(())
            }
            Self::DeleteProfile(name) => {
                config.profiles.retain(|profile| profile.name != name);
                Ok(())
            }
            Self::AddGroup(group) => edits::add_group(config, group),
            Self::DeleteGroup(name) => edits::delete_group(config, &name),
            Self::AddRule(name, rule) => edits::add_policy_rule(config, &name, rule).map(drop),
            Self::DeleteRule(name, id) => edits::delete_policy_rule(config, &name, id),
            Self::ChangeRule(rule) => {
                let rules = config.groups.iter_mut().flat_map(|group| &mut group.rules);
                for old in rules.filter(|old| old.id == rule.id) {
                    *old = rule.clone();
                }
                Ok(())
            }
            Self::Bind(name, iface) => edits::bind_group(config, "vsw0", &name, &iface),
            Self::Unbind(name, iface) => edits::unbind_group(config, "vsw0", &name, &iface),
            Self::BindProfile(name, groups) => {
                for profile in config.profiles.iter_mut().filter(|p| p.name == name) {
                    profile.options.groups.clone_from(&groups);
                }
                Ok(())
            }
        }
    }
}

fn any_network() -> impl Strategy<Value = String> {
    prop::sample::select(vec!["default", "blue", "red", "green", "lan"]).prop_map(Into::into)
}

fn any_port() -> impl Strategy<Value = String> {
    prop::sample::select(vec!["vsw0", "eth0", "tap0", "tap1"]).prop_map(Into::into)
}

fn any_mac() -> impl Strategy<Value = MacAddr> {
    (9_u8..17).prop_map(|last| MacAddr([2, 0, 0, 0, 0, last]))
}

fn any_storm() -> impl Strategy<Value = StormOverrides> {
    let limit = || {
        prop::option::of(prop_oneof![
            Just(StormLimit::Off),
            (1_u32..9).prop_map(StormLimit::pps)
        ])
    };
    (limit(), limit(), limit(), limit(), limit()).prop_map(
        |(broadcast, multicast, unknown_unicast, arp, nd)| StormOverrides {
            broadcast,
            multicast,
            unknown_unicast,
            arp,
            nd,
        },
    )
}

fn any_ip() -> impl Strategy<Value = PortIp> {
    prop::sample::select(vec!["10.0.0.2", "10.0.0.3", "10.0.1.1", "fd00::2", "learn"])
        .prop_map(|text| text.parse().unwrap())
}

type Checks = (
    Option<Vec<PortIp>>,
    Option<Guard>,
    Option<bool>,
    Option<Vec<String>>,
);

/// What is checked of a port.
fn any_checks() -> impl Strategy<Value = Checks> {
    let guards = vec![Guard::Default, Guard::Strict, Guard::None];
    (
        prop::option::of(prop::collection::vec(any_ip(), 0..3)),
        prop::option::of(prop::sample::select(guards)),
        prop::option::of(any::<bool>()),
        prop::option::of(prop::collection::vec(any_group(), 0..3)),
    )
}

fn any_change() -> impl Strategy<Value = PortChange> {
    let entry = (any_network(), prop::option::of(20_u16..23))
        .prop_map(|(network, vid)| TrunkEntry { network, vid });
    (
        any::<bool>(),
        prop::option::of(any_network()),
        prop::option::of(prop::collection::vec(entry, 0..4)),
        prop::option::of(prop::option::of(any_network())),
        prop::option::of(prop::collection::vec(any_mac(), 0..4)),
        prop::option::of(prop::option::of(0_u32..9)),
        prop::option::of(any_storm()),
        any_checks(),
    )
        .prop_map(
            |(
                uplink,
                access,
                trunk,
                native,
                macs,
                max_macs,
                storm,
                (ips, guard, isolated, groups),
            )| {
                PortChange {
                    uplink,
                    access,
                    trunk,
                    native,
                    macs,
                    max_macs,
                    ips,
                    guard,
                    isolated,
                    storm,
                    groups,
                }
            },
        )
}

fn any_options() -> impl Strategy<Value = NatOptions> {
    (
        prop::option::of((1024_u16..1030, 2000_u16..2003)),
        prop::sample::select(vec![Mapping::Eim, Mapping::Symmetric]),
        prop::sample::select(vec![Filtering::Eif, Filtering::Adf, Filtering::Apdf]),
        prop::option::of(1_u16..65),
    )
        .prop_map(|(ports, mapping, filtering, block_size)| NatOptions {
            ports: ports.map(|(first, last)| PortRange { first, last }),
            mapping,
            filtering,
            block_size,
        })
}

fn any_action() -> impl Strategy<Value = NatAction> {
    let uplink = || prop::sample::select(vec!["eth0", "vsw0", "tap0"]).prop_map(String::from);
    let inside = || prop::sample::select(vec!["10.0.0.2", "10.0.0.3", "10.0.1.2"]);
    let outside = || prop::sample::select(vec!["192.0.2.1", "192.0.2.2", "192.0.2.3"]);
    let ports = || {
        (80_u16..83, 0_u16..2).prop_map(|(first, more)| PortRange {
            first,
            last: first + more,
        })
    };
    let end = |addr: &'static str, ports| Endpoint {
        addr: addr.parse().unwrap(),
        ports,
    };
    prop_oneof![
        (any_network(), uplink(), any_options()).prop_map(|(network, uplink, options)| {
            NatAction::Masquerade {
                network,
                uplink,
                options,
            }
        }),
        (inside(), outside(), uplink(), any_options()).prop_map(|(source, to, uplink, options)| {
            NatAction::Snat {
                source: source.parse::<IpAddr>().unwrap().into(),
                to: to.parse().unwrap(),
                uplink,
                options,
            }
        }),
        (
            (any::<bool>(), any::<bool>()),
            (outside(), ports()),
            (inside(), ports()),
            prop::option::of(Just("198.51.100.0/24".parse().unwrap())),
            prop::option::of(uplink()),
        )
            .prop_map(
                move |((tcp, udp), (listen, ports), (to, to_ports), from, uplink)| {
                    let (listen, to) = (end(listen, ports), end(to, to_ports));
                    NatAction::Dnat {
                        tcp,
                        udp,
                        listen: listen.addr,
                        listen_ports: listen.ports,
                        to: to.addr,
                        to_ports: to.ports,
                        from,
                        uplink,
                    }
                }
            ),
        (outside(), inside(), prop::option::of(uplink())).prop_map(
            |(external, internal, uplink)| NatAction::Static {
                external: external.parse::<IpAddr>().unwrap().into(),
                internal: internal.parse::<IpAddr>().unwrap().into(),
                uplink,
            }
        ),
    ]
}

fn any_gateway() -> impl Strategy<Value = Vec<IpNet>> {
    let gateways = vec!["10.0.0.1/24", "10.0.1.1/24", "fd00::1/64"];
    prop::sample::subsequence(gateways, 0..=3)
        .prop_map(|texts| texts.iter().map(|text| text.parse().unwrap()).collect())
}

/// Of the gateways' prefixes, so that some fit and some do not.
fn any_dhcp() -> impl Strategy<Value = Vec<DhcpRange>> {
    let ranges = vec![
        "10.0.0.8-10.0.0.15",
        "10.0.0.100-10.0.0.199",
        "fd00::8-fd00::ff",
    ];
    prop::sample::subsequence(ranges, 0..=3)
        .prop_map(|texts| texts.iter().map(|text| text.parse().unwrap()).collect())
}

fn any_profile() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec!["web", "rest"])
}

fn any_match() -> impl Strategy<Value = Match> {
    let name = prop::sample::select(vec!["tap*", "vnet[0-9]"]);
    let mac = prop::sample::select(vec!["52:54:00:*", "02:00:00:00:00:0?"]);
    (prop::option::of(name), prop::option::of(mac)).prop_map(|(name, mac)| Match {
        name: name.map(|text| text.parse().unwrap()),
        mac: mac.map(|text| text.parse().unwrap()),
    })
}

fn any_group() -> impl Strategy<Value = String> {
    prop::sample::select(vec!["web", "db", "all"]).prop_map(Into::into)
}

/// Some of them are refused: ports of ICMP, an address of the other family.
fn any_rule() -> impl Strategy<Value = PolicyRule> {
    let proto = prop::sample::select(vec!["tcp", "udp", "icmp", "icmpv6", "99"]);
    let net = prop::sample::select(vec!["10.0.0.0/8", "192.0.2.1", "fd00::/8", "fd00::1"]);
    let remote = prop_oneof![
        net.prop_map(|text| text.parse().unwrap()),
        any_group().prop_map(Remote::Group),
    ];
    (
        1_u16..9,
        prop::sample::select(vec![Direction::In, Direction::Out]),
        prop::sample::select(vec![
            PolicyAction::Allow,
            PolicyAction::Deny,
            PolicyAction::Reject,
        ]),
        prop::option::of(proto.prop_map(|text| text.parse().unwrap())),
        prop::option::of((80_u16..83, 0_u16..2)),
        prop::option::of(remote),
        prop::sample::select(vec![0, 10, 1000]),
        any::<bool>(),
    )
        .prop_map(
            |(id, direction, action, proto, ports, remote, priority, log)| PolicyRule {
                id,
                direction,
                action,
                proto,
                ports: ports.map(|(first, more)| PortRange {
                    first,
                    last: first + more,
                }),
                remote,
                priority,
                log,
            },
        )
}

fn any_policy_edit() -> impl Strategy<Value = Edit> {
    let default = prop::sample::select(vec![GroupDefault::Allow, GroupDefault::Deny]);
    prop_oneof![
        (any_group(), default).prop_map(|(name, default)| Edit::AddGroup(Group {
            default,
            ..Group::new(name)
        })),
        any_group().prop_map(Edit::DeleteGroup),
        (any_group(), any_rule()).prop_map(|(name, rule)| Edit::AddRule(name, rule)),
        (any_group(), any_rule()).prop_map(|(name, rule)| Edit::AddRule(name, rule)),
        (any_group(), 1_u16..9).prop_map(|(name, id)| Edit::DeleteRule(name, id)),
        any_rule().prop_map(Edit::ChangeRule),
        (any_group(), any_port()).prop_map(|(name, port)| Edit::Bind(name, port)),
        (any_group(), any_port()).prop_map(|(name, port)| Edit::Unbind(name, port)),
        (any_profile(), prop::collection::vec(any_group(), 0..3))
            .prop_map(|(name, groups)| Edit::BindProfile(name, groups)),
    ]
}

pub fn any_edit() -> impl Strategy<Value = Edit> {
    let vlan = prop::option::of(10_u16..13);
    let mtu = prop::option::of(Just(9000));
    let network = (any_network(), vlan, mtu, any_gateway(), any_dhcp());
    let settings = vec![
        "ageing=60",
        "ageing=default",
        "fdb_size=4096",
        "fdb_size=default",
        "storm.broadcast=off",
        "storm.broadcast=default",
        "storm.multicast=default",
        "storm.multicast=9",
        "flow_size=4096",
        "timeouts=linux",
        "timeouts=default",
        "timeouts.udp=60",
        "mid_stream=on",
        "mss_clamp=auto",
        "mss_clamp=1400",
        "mss_clamp=default",
    ];
    prop_oneof![
        network.prop_map(
            |(name, vlan, mtu, gateway, dhcp)| Edit::AddNetwork(Network {
                name,
                vlan,
                mtu,
                gateway,
                dhcp
            })
        ),
        any_network().prop_map(Edit::DeleteNetwork),
        (any_port(), any_change()).prop_map(|(port, change)| Edit::AddPort(port, change)),
        (any_port(), any_change()).prop_map(|(port, change)| Edit::SetPort(port, change)),
        (any_port(), any_change()).prop_map(|(port, change)| Edit::SetPort(port, change)),
        any_port().prop_map(Edit::DeletePort),
        (any_mac(), any_network(), any_port())
            .prop_map(|(mac, network, port)| Edit::AddFdb(StaticFdb { mac, network, port })),
        (any_mac(), any_network()).prop_map(|(mac, network)| Edit::DeleteFdb(mac, network)),
        any_mac().prop_map(Edit::Deny),
        any_mac().prop_map(Edit::Allow),
        prop::sample::select(settings).prop_map(Edit::Set),
        any_action().prop_map(Edit::AddNat),
        any_action().prop_map(Edit::AddNat),
        (1_u16..8).prop_map(Edit::DeleteNat),
        (1_u16..8, any_action()).prop_map(|(id, action)| Edit::ChangeNat(id, action)),
        (any_profile(), any_match(), any_change())
            .prop_map(|(name, matches, change)| Edit::PutProfile(name, matches, change)),
        any_profile().prop_map(Edit::DeleteProfile),
        any_policy_edit(),
        any_policy_edit(),
        any_policy_edit(),
        any_policy_edit(),
    ]
}

proptest! {
    /// Whatever is edited, the document says what is in force, and what it says besides stays.
    #[test]
    fn every_edit_merges(
        by_hand in any::<bool>(),
        steps in prop::collection::vec(any_edit(), 1..40),
    ) {
        let start = if by_hand { HAND_WRITTEN } else { "schema = 1 # the only one\n" };
        let mut text = start.to_owned();
        let mut config = document::parse(&text).unwrap();
        for step in steps {
            let mut after = config.clone();
            if step.clone().apply(&mut after).is_err() || after.validate("vsw0").is_err() {
                continue;
            }
            let merged = merge(&text, &config, &after);
            prop_assert!(merged.is_some(), "{step:?} on\n{text}");
            text = merged.unwrap();
            config = after;
            prop_assert_eq!(document::parse(&document::render(&config).to_string()), Ok(config.clone()));
        }
        prop_assert!(text.contains("# the only one"));
        prop_assert!(!by_hand || text.contains("# the end"));
    }
}
