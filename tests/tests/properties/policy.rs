//! Security groups against a plain list of rules: what the compiled tables and the loaded programs say is
//! what reading the rules from the first to the last says.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use anyhow::{Context as _, Result, ensure};
use ipnet::IpNet;
use proptest::{
    collection::vec,
    option,
    prelude::*,
    sample::{select, subsequence},
    strategy::ValueTree as _,
    test_runner::{Config as Runs, RngAlgorithm, TestRng, TestRunner},
};
use vnet_common::Mac;
use vnet_tests::{
    fixture::ETH0,
    frame::{
        A, B, C, Spec, from,
        ip::{Packet, other, ping, tcp, udp},
    },
    kernel::{Kernel, in_sandbox},
    machine::Machine,
    runner,
    setup::{Device, Devices, Options, Setup},
    switch::{Switch, Verdict},
};
use vnet_user::config::{
    Config, Direction, Group, GroupDefault, PolicyAction, PolicyRule, Port, PortRange, Proto,
    Remote, StaticFdb,
};

/// Rule sets that are drawn, and packets for each.
const RULE_SETS: usize = 100;
const PACKETS: usize = 1000;

const GROUPS: [&str; 4] = ["one", "two", "three", "four"];
/// Prefixes around each other and beside each other, of both families.
const NETS: [&str; 14] = [
    "0.0.0.0/0",
    "10.0.0.0/8",
    "10.1.0.0/16",
    "10.1.2.0/24",
    "10.1.2.128/25",
    "10.1.2.3/32",
    "192.0.2.0/24",
    "::/0",
    "fd00::/8",
    "fd00:1::/32",
    "fd00:1:2::/48",
    "fd00:1:2:3::/64",
    "fd00:1:2:3::7/128",
    "2001:db8::/32",
];
const PROTOS: [u8; 6] = [1, 6, 17, 47, 58, 132];
/// Ports that rules begin and end with; packets have them and those beside them.
const PORTS: [u16; 8] = [1, 22, 53, 80, 443, 1024, 8080, 65_534];

fn rule() -> impl Strategy<Value = PolicyRule> {
    let net = select(&NETS[..]).prop_map(|net| Remote::Net(net.parse().expect("a prefix")));
    (
        select(vec![Direction::In, Direction::Out]),
        select(vec![
            PolicyAction::Allow,
            PolicyAction::Deny,
            PolicyAction::Reject,
        ]),
        option::weighted(0.7, select(&PROTOS[..])),
        option::weighted(0.6, (select(&PORTS[..]), select(&PORTS[..]))),
        option::weighted(0.6, net),
        select(vec![5u16, 10, 1000]),
    )
        .prop_map(|(direction, action, proto, ports, remote, priority)| {
            let ports = ports
                .filter(|_| matches!(proto, Some(6 | 17 | 132)))
                .map(|(a, b)| PortRange {
                    first: a.min(b),
                    last: a.max(b),
                });
            PolicyRule {
                id: 0,
                direction,
                action,
                proto: proto.map(Proto),
                ports,
                remote,
                priority,
                log: false,
            }
        })
}

/// Four groups, the rules' ids in the order in which they come, and which of them two VMs are in.
fn groups() -> impl Strategy<Value = (Vec<Group>, Vec<Vec<String>>)> {
    let group = (any::<bool>(), vec(rule(), 0..40));
    let bound = || subsequence(&GROUPS[..], 0..=3);
    (vec(group, GROUPS.len()), vec(bound(), 2)).prop_map(|(drawn, bound)| {
        let mut id = 0;
        let groups = GROUPS
            .iter()
            .zip(drawn)
            .map(|(name, (allow, rules))| Group {
                default: if allow {
                    GroupDefault::Allow
                } else {
                    GroupDefault::Deny
                },
                rules: rules
                    .into_iter()
                    .map(|rule| {
                        id += 1;
                        PolicyRule { id, ..rule }
                    })
                    .collect(),
                ..Group::new(*name)
            });
        let names = |names: Vec<&str>| names.into_iter().map(str::to_owned).collect();
        (groups.collect(), bound.into_iter().map(names).collect())
    })
}

/// Who sends or gets a packet: the VM at tap0, the one at tap1, somebody behind the uplink.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Who {
    A,
    B,
    Outside,
}

impl Who {
    const fn place(self) -> (&'static str, Mac) {
        match self {
            Self::A => ("tap0", A),
            Self::B => ("tap1", B),
            Self::Outside => ("eth0", C),
        }
    }

    fn groups(self, setup: &Setup) -> Vec<&Group> {
        let port = setup.config.port(self.place().0).expect("a port");
        port.groups
            .iter()
            .map(|name| setup.config.group(name).expect("a group"))
            .collect()
    }
}

/// A packet, without the port that tells it from others.
#[derive(Clone, Debug)]
struct Drawn {
    from: Who,
    to: Who,
    src: IpAddr,
    dst: IpAddr,
    proto: u8,
    port: u16,
}

/// An address in or beside the prefixes.
fn addr(v6: bool) -> BoxedStrategy<IpAddr> {
    if v6 {
        (
            select(vec![
                0xfd00_0001_0002_0003_u64,
                0xfd00_0001_0002_0004,
                0xfd00_0001_0003_0000,
                0xfd00_0002_0000_0000,
                0x2001_0db8_0000_0000,
                0x2001_0db9_0000_0000,
            ]),
            prop_oneof![Just(7u64), any::<u64>()],
        )
            .prop_map(|(net, host)| {
                IpAddr::V6(Ipv6Addr::from_bits(
                    u128::from(net) << 64 | u128::from(host),
                ))
            })
            .boxed()
    } else {
        (
            select(vec![
                [10, 1, 2],
                [10, 1, 3],
                [10, 2, 0],
                [11, 0, 0],
                [192, 0, 2],
            ]),
            prop_oneof![Just(3u8), any::<u8>()],
        )
            .prop_map(|([a, b, c], d)| IpAddr::V4(Ipv4Addr::new(a, b, c, d)))
            .boxed()
    }
}

fn packet() -> impl Strategy<Value = Drawn> {
    let ways = vec![
        (Who::A, Who::B),
        (Who::B, Who::A),
        (Who::A, Who::Outside),
        (Who::Outside, Who::A),
        (Who::Outside, Who::B),
    ];
    let port = (select(&PORTS[..]), 0u16..3).prop_map(|(port, by)| port - 1 + by);
    (select(ways), any::<bool>(), select(&PROTOS[..]), port).prop_flat_map(
        |((from, to), v6, proto, port)| {
            (addr(v6), addr(v6)).prop_map(move |(src, dst)| Drawn {
                from,
                to,
                src,
                dst,
                // Each family has its own.
                proto: match (proto, v6) {
                    (1, true) => 58,
                    (58, false) => 1,
                    _ => proto,
                },
                port,
            })
        },
    )
}

impl Drawn {
    /// The packet, from a port that tells it from others.
    fn packet(&self, own: u16) -> Packet {
        let end = |ip: IpAddr, port: u16| std::net::SocketAddr::new(ip, port);
        let ends = match self.proto {
            6 | 17 => format!("{} > {}", end(self.src, own), end(self.dst, self.port)),
            _ => format!("{} > {}", self.src, self.dst),
        };
        match self.proto {
            6 => tcp(&ends, "S"),
            17 => udp(&ends),
            1 | 58 => ping(&ends, own),
            _ => other(&ends, self.proto).payload(24),
        }
    }

    /// SCTP's ports are the first of the payload, which is the same in every packet.
    fn service(&self) -> u16 {
        match self.proto {
            6 | 17 => self.port,
            // 0x0e15: the payload is 0, 7, 14, 21, …
            132 => 0x0e15,
            _ => 0,
        }
    }

    /// What a VM's groups say, read from the first rule to the last.
    fn verdict(
        &self,
        who: Who,
        direction: Direction,
        remote: IpAddr,
        setup: &Setup,
    ) -> PolicyAction {
        let groups = who.groups(setup);
        let mut rules: Vec<&PolicyRule> = groups.iter().flat_map(|group| &group.rules).collect();
        rules.sort_by_key(|rule| (rule.priority, rule.id));
        let met = rules.into_iter().find(|rule| {
            rule.direction == direction
                && rule.proto.is_none_or(|proto| proto.0 == self.proto)
                && rule
                    .ports
                    .is_none_or(|ports| (ports.first..=ports.last).contains(&self.service()))
                && match &rule.remote {
                    None => true,
                    Some(Remote::Net(net)) => net.contains(&remote),
                    Some(Remote::Group(_)) => unreachable!("none is drawn"),
                }
        });
        match met {
            Some(rule) => rule.action,
            None if groups.iter().all(|g| g.default == GroupDefault::Allow) => PolicyAction::Allow,
            None => PolicyAction::Deny,
        }
    }

    /// What becomes of it: the port where it is dropped, and how.
    fn expected(&self, setup: &Setup) -> Option<(&'static str, PolicyAction)> {
        let ends = [
            (self.from, Direction::Out, self.dst),
            (self.to, Direction::In, self.src),
        ];
        ends.into_iter()
            .filter(|(who, ..)| *who != Who::Outside)
            .map(|(who, way, remote)| (who.place().0, self.verdict(who, way, remote, setup)))
            .find(|(_, action)| *action != PolicyAction::Allow)
    }

    fn spec(&self, own: u16) -> Spec {
        let ((port, src), (_, dst)) = (self.from.place(), self.to.place());
        from(port, dst, src).packet(&self.packet(own))
    }
}

/// Two VMs and an uplink.
fn setup((groups, bound): (Vec<Group>, Vec<Vec<String>>)) -> Result<Setup> {
    let mut config = Config {
        groups,
        ..Config::default()
    };
    for (name, groups) in ["tap0", "tap1"].into_iter().zip(bound) {
        config.ports.push(Port {
            groups,
            ..Port::new(name)
        });
    }
    config.ports.push(Port {
        uplink: true,
        ..Port::new("eth0")
    });
    for who in [Who::A, Who::B, Who::Outside] {
        let (port, mac) = who.place();
        let text = mac.map(|byte| format!("{byte:02x}")).join(":");
        config.static_fdb.push(StaticFdb {
            mac: text.parse().expect("a MAC address"),
            network: "default".into(),
            port: port.into(),
        });
    }
    let device = |ifindex: u32, mac: Mac, member: bool| Device {
        ifindex,
        mac,
        mtu: 1500,
        up: true,
        member,
        xdp_target: false,
    };
    let devices: Devices = [
        ("vsw0", device(2, vnet_tests::fixture::VSW0, false)),
        ("tap0", device(3, [2, 0, 0, 0, 9, 0], true)),
        ("tap1", device(4, [2, 0, 0, 0, 9, 1], true)),
        ("eth0", device(5, ETH0, false)),
    ]
    .into_iter()
    .map(|(name, device)| (name.to_owned(), device))
    .collect();
    let options = Options {
        // A quarter of it is one VM's, and every packet is a connection.
        flow_size: Some(8 * PACKETS as u32),
        ..Options::default()
    };
    Setup::with(config, devices, &options, None)
}

/// Sends a packet twice: the second one meets what was remembered of the first.
fn judge(machine: &mut impl Switch, drawn: &Drawn, own: u16, setup: &Setup) -> Result<()> {
    let expected = drawn.expected(setup);
    for time in ["first", "again"] {
        let outcome = machine.run(&drawn.spec(own).frame(setup)?)?;
        let passes = match &outcome.verdict {
            Verdict::Redirect(sent) => {
                setup.exit_name(sent.ifindex, sent.to_stack) == drawn.to.place().0
            }
            _ => false,
        };
        ensure!(
            passes == expected.is_none(),
            "{time}: {drawn:?} is to be {expected:?}: {:?}\n{:#?}",
            outcome.verdict,
            setup.config
        );
    }
    Ok(())
}

/// What is drawn, the same each time.
fn runner() -> TestRunner {
    let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    TestRunner::new_with_rng(Runs::default(), rng)
}

/// Runs every rule set and packet on a machine that `apply` gives another configuration.
fn every_case<M: Switch>(
    mut machine: Option<M>,
    mut make: impl FnMut(&Setup) -> Result<M>,
) -> Result<usize> {
    let mut runner = runner();
    let draw = |runner: &mut TestRunner| -> Result<_> {
        let tree = groups()
            .new_tree(runner)
            .map_err(|e| anyhow::anyhow!("{e}"))?;
        setup(tree.current())
    };
    let mut cases = 0;
    for _ in 0..RULE_SETS {
        let setup = draw(&mut runner)?;
        match &mut machine {
            Some(machine) => {
                machine.flush()?;
                machine.apply(&setup)?;
            }
            None => machine = Some(make(&setup)?),
        }
        let machine = machine.as_mut().context("a machine")?;
        let mut met = BTreeSet::new();
        for own in 1..=PACKETS as u16 {
            let drawn = packet()
                .new_tree(&mut runner)
                .map_err(|e| anyhow::anyhow!("{e}"))?;
            let drawn = drawn.current();
            // Without ports it may belong to a connection that is known, from either end.
            let pair = (
                drawn.src.min(drawn.dst),
                drawn.src.max(drawn.dst),
                drawn.proto,
            );
            if drawn.src == drawn.dst
                || !matches!(drawn.proto, 1 | 6 | 17 | 58) && !met.insert(pair)
            {
                continue;
            }
            judge(machine, &drawn, own, &setup)?;
            cases += 1;
        }
    }
    Ok(cases)
}

#[test]
fn the_tables_say_what_the_list_says() {
    let cases = every_case(None, |setup| Ok(Machine::new(setup))).unwrap();
    assert!(cases > 90 * PACKETS, "{cases}");
}

#[test]
fn the_kernel_says_what_the_list_says() {
    let cases = in_sandbox(|bpffs| {
        every_case(None, |setup| {
            Kernel::new(bpffs, runner::taps(setup)?, setup)
        })
    });
    let cases = cases.unwrap();
    assert!(cases > 90 * PACKETS, "{cases}");
}

/// A prefix's text is one.
#[test]
fn the_prefixes_are_prefixes() {
    for net in NETS {
        let net: IpNet = net.parse().unwrap();
        assert_eq!(net, net.trunc());
    }
}
