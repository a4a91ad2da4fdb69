//! Switches and frames to draw from: few names and addresses, so that they meet.

use proptest::{collection::vec, option, prelude::*, sample::select};
use vnet_common::Mac;
use vnet_ebpf::meta::{Hook, TPID_8021AD, TPID_8021Q, Tag};
use vnet_tests::{
    fixture::{ETH0, ETH1, VSW0},
    frame::{A, B, BROADCAST, C, D, MULTICAST, ip, numbered, raw},
    setup::{Device, Devices, SWITCH, Setup},
    switch::{Frame, token},
};
use vnet_user::config::{
    Attachment, Config, Guard, MacAddr, Network, Port, PortIp, StaticFdb, StormLimit,
    StormOverrides, TrunkEntry,
};

const NETWORKS: [&str; 4] = ["default", "blue", "red", "green"];
const VLANS: [(&str, Option<u16>); 3] = [("blue", Some(10)), ("red", Some(20)), ("green", None)];
/// First interface index.
const FIRST: u32 = 2;

/// An address that stations have.
fn station() -> impl Strategy<Value = Mac> {
    select(vec![A, B, C, D, VSW0, ETH0, ETH1])
}

/// Any address, the odd ones too.
fn address() -> impl Strategy<Value = Mac> {
    let odd = vec![
        BROADCAST,
        MULTICAST,
        [0; 6],
        [0x01, 0x80, 0xc2, 0, 0, 0],
        [0x01, 0x80, 0xc2, 0, 0, 0x0e],
        [0x01, 0x80, 0xc2, 0, 0, 0x10],
    ];
    prop_oneof![
        8 => station(),
        3 => select(odd),
        1 => any::<u16>().prop_map(numbered),
        1 => any::<Mac>(),
    ]
}

fn mac_addr(mac: Mac) -> MacAddr {
    let text: Vec<String> = mac.iter().map(|byte| format!("{byte:02x}")).collect();
    text.join(":").parse().expect("six bytes in hexadecimal")
}

fn attachment() -> impl Strategy<Value = Attachment> {
    let network = || select(&NETWORKS[..]).prop_map(str::to_owned);
    let trunk = (
        proptest::sample::subsequence(&NETWORKS[..], 0..=4),
        vec(option::of(select(vec![10u16, 20, 30, 40])), 4),
        option::weighted(0.7, network()),
    )
        .prop_map(|(names, vids, native)| {
            // Every tag once, as the document wants it.
            let mut taken = Vec::new();
            let mut networks = Vec::new();
            for (name, vid) in names.into_iter().zip(vids) {
                let own = VLANS.iter().find(|(n, _)| *n == name).and_then(|(_, v)| *v);
                let is_native = native.as_deref() == Some(name);
                let tag = if is_native { None } else { vid.or(own) };
                if !is_native && tag.is_none_or(|tag| taken.contains(&tag)) {
                    continue;
                }
                taken.extend(tag);
                networks.push(TrunkEntry {
                    network: name.to_owned(),
                    vid: if is_native { None } else { vid },
                });
            }
            Attachment::Trunk { networks, native }
        });
    prop_oneof![
        2 => Just(Attachment::Default),
        3 => network().prop_map(Attachment::Access),
        3 => trunk,
    ]
}

fn storm() -> impl Strategy<Value = StormOverrides> {
    let limit = || {
        let limits = vec![StormLimit::Off, StormLimit::pps(1), "3/2".parse().unwrap()];
        option::weighted(0.3, select(limits))
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

/// IP addresses, guard and isolation of a VM's port, whose number is the last of its addresses'.
fn guards(name: &str) -> impl Strategy<Value = (Vec<PortIp>, Guard, bool)> + use<> {
    let Some(number) = name.strip_prefix("tap") else {
        return Just((Vec::new(), Guard::Default, false)).boxed();
    };
    let own = [
        format!("10.0.{number}.2"),
        format!("fd00::{number}"),
        "learn".to_owned(),
    ];
    let own = own.map(|text| text.parse().expect("an address")).to_vec();
    let guards = vec![Guard::Default, Guard::Strict, Guard::None];
    (
        option::weighted(0.4, proptest::sample::subsequence(own, 1..=3)),
        select(guards),
        prop::bool::weighted(0.2),
    )
        .prop_map(|(ips, guard, isolated)| (ips.unwrap_or_default(), guard, isolated))
        .boxed()
}

fn port(name: String, uplink: bool) -> impl Strategy<Value = Port> {
    (
        attachment(),
        option::weighted(0.2, vec(station(), 1..3)),
        option::weighted(0.3, 0u32..4),
        storm(),
        guards(&name),
    )
        .prop_map(move |(attachment, macs, max_macs, storm, guards)| {
            let (ips, guard, isolated) = guards;
            let mut macs = macs.unwrap_or_default();
            macs.sort_unstable();
            macs.dedup();
            Port {
                uplink,
                attachment,
                macs: macs.into_iter().map(mac_addr).collect(),
                max_macs,
                storm,
                ips,
                guard,
                isolated,
                ..Port::new(name.clone())
            }
        })
}

/// A configuration that a document could hold: VMs, up to two uplinks, and the switch device.
pub fn config() -> impl Strategy<Value = Config> {
    let ports = (1usize..=4, 0usize..=2).prop_flat_map(|(vms, uplinks)| {
        let taps = (0..vms).map(|n| port(format!("tap{n}"), false).boxed());
        let nics = (0..uplinks).map(|n| port(format!("eth{n}"), true).boxed());
        let device = [port(SWITCH.to_owned(), false).boxed()];
        taps.chain(nics).chain(device).collect::<Vec<_>>()
    });
    let mtus = vec(option::weighted(0.2, 68u32..1600), 4);
    let fixed = vec(
        (
            station(),
            select(&NETWORKS[..]),
            any::<prop::sample::Index>(),
        ),
        0..2,
    );
    let denied = option::weighted(0.2, station());
    (ports, mtus, fixed, denied, 10u32..400).prop_filter_map(
        "the document would be refused",
        |(ports, mtus, fixed, denied, ageing)| {
            let mut config = Config::default();
            config.settings.ageing = ageing;
            config.settings.max_ports = 64;
            config.settings.fdb_size = 1024;
            config.networks = VLANS
                .iter()
                .zip(&mtus)
                .map(|((name, vlan), mtu)| Network {
                    vlan: *vlan,
                    mtu: *mtu,
                    ..Network::new(*name)
                })
                .collect();
            config.static_fdb = fixed
                .into_iter()
                .map(|(mac, network, index)| StaticFdb {
                    mac: mac_addr(mac),
                    network: network.to_owned(),
                    port: index.get(&ports).name.clone(),
                })
                .collect();
            config.ports = ports;
            config.mac_deny = denied.map(mac_addr).into_iter().collect();
            if config.validate(SWITCH).is_err() {
                // Static addresses that the port does not carry are the one likely reason.
                config.static_fdb.clear();
            }
            config.validate(SWITCH).ok().map(|()| config)
        },
    )
}

/// What is drawn for an interface: its MTU, whether it is up, an uplink's membership, XDP.
type Traits = (u32, bool, bool, bool);

/// A switch. Interfaces are numbered from 2 in the order of [`Config::all_ports`], now and then past
/// the table's size, so that two want one slot.
pub fn setup() -> impl Strategy<Value = Setup> {
    let traits = (
        select(vec![68u32, 576, 1400, 1500, 9000]),
        prop::bool::weighted(0.9),
        any::<bool>(),
        any::<bool>(),
    );
    (
        config(),
        vec(traits, 8),
        any::<bool>(),
        option::weighted(0.3, 1u32..40),
        prop::bool::weighted(0.2),
    )
        .prop_map(|(config, traits, tcp_at_tc, fdb_size, aliased)| {
            let devices = devices(&config, &traits, aliased);
            let mut fdb_size = fdb_size;
            // Configured addresses must find a place.
            if let Some(size) = &mut fdb_size {
                *size += 16;
            }
            Setup::new(config, devices, fdb_size, tcp_at_tc, None).expect("it is valid")
        })
}

fn devices(config: &Config, traits: &[Traits], aliased: bool) -> Devices {
    config
        .all_ports(SWITCH)
        .into_iter()
        .zip(traits)
        .enumerate()
        .map(|(n, (port, (mtu, up, member, xdp_target)))| {
            let step = if aliased && n % 2 == 1 { 63 } else { 0 };
            let device = Device {
                ifindex: FIRST + n as u32 + step,
                mac: match port.name.as_str() {
                    SWITCH => VSW0,
                    "eth0" => ETH0,
                    _ => ETH1,
                },
                mtu: *mtu,
                up: *up,
                member: port.name != SWITCH && (!port.uplink || *member),
                xdp_target: *xdp_target && !port.uplink && port.name != SWITCH,
            };
            (port.name, device)
        })
        .collect()
}

/// A frame, still without a port.
#[derive(Clone)]
pub struct Drawn {
    pub port: prop::sample::Index,
    pub from_host: bool,
    /// Every tag in its place.
    pub wire: Vec<u8>,
    /// The host built the frame with its tags in the bytes.
    pub in_bytes: bool,
    pub gso: Option<(u32, u32)>,
    pub token: u8,
    pub linear: Option<usize>,
}

impl std::fmt::Debug for Drawn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{:?} from_host {} in_bytes {} gso {:?} token {} linear {:?} {:02x?}",
            self.port, self.from_host, self.in_bytes, self.gso, self.token, self.linear, self.wire
        )
    }
}

fn tags() -> impl Strategy<Value = Vec<Tag>> {
    let tpid = prop_oneof![
        6 => Just(TPID_8021Q),
        2 => Just(TPID_8021AD),
        1 => select(vec![0x9100u16, 0x9200, 0x9300]),
    ];
    let vid = prop_oneof![
        8 => select(vec![0u16, 10, 20, 30, 40]),
        1 => 0u16..4096,
    ];
    let tag =
        (tpid, vid, prop_oneof![3 => Just(0u16), 1 => 0u16..16]).prop_map(|(tpid, vid, high)| {
            Tag {
                tpid,
                tci: high << 12 | vid,
            }
        });
    prop_oneof![
        4 => Just(Vec::new()),
        4 => vec(tag.clone(), 1),
        2 => vec(tag, 2..4),
    ]
}

/// EtherType and payload.
fn body() -> impl Strategy<Value = Vec<u8>> {
    let ether_type = prop_oneof![
        select(vec![0x0800u16, 0x86dd, 0x0806, 0x88b5, 0x8100, 0x9100, 0]),
        any::<u16>(),
    ];
    let len = prop_oneof![
        3 => 0usize..80,
        2 => select(vec![64usize, 68, 69, 1300, 1301, 1400, 1401, 1500, 1501, 9001]),
        1 => 80usize..2000,
    ];
    (ether_type, len, any::<u64>(), any::<[u8; 16]>()).prop_map(|(ether_type, len, seed, head)| {
        let mut body = ether_type.to_be_bytes().to_vec();
        body.extend(
            head.iter()
                .copied()
                .chain((0..len as u64).map(|i| (i ^ seed) as u8)),
        );
        body.truncate(2 + len);
        body
    })
}

/// What guards look at: EtherType and packet, from addresses that ports have or may be leased.
fn guarded_body() -> impl Strategy<Value = Vec<u8>> {
    let v4 = || {
        select(vec![
            "0.0.0.0", "10.0.0.2", "10.0.1.2", "10.0.2.2", "10.0.9.9",
        ])
    };
    let v6 = || {
        let local = vec![raw::LINK_LOCAL_A, raw::LINK_LOCAL_B];
        select([local, vec!["::", "fd00::", "fd00::1", "fd00::9"]].concat())
    };
    let port = || select(vec![53u16, 67, 68, 546, 547]);
    let udp = || {
        (port(), port(), station()).prop_map(|(sport, dport, mac)| {
            raw::udp(
                sport,
                dport,
                &raw::dhcp(1, "0.0.0.0", mac, &[53, 1, 1, 255]),
            )
        })
    };
    let neighbour = (
        select(vec![133u8, 134, 135, 136, 137]),
        v6(),
        0u8..3,
        station(),
    )
        .prop_map(|(kind, target, option, mac)| raw::neighbour(kind, target, option, mac));
    let next = || select(vec![0u8, 17, 43, 44, 51, 58, 59, 60, 135]);
    let v6_payload = prop_oneof![
        udp().prop_map(|payload| (17u8, payload)),
        neighbour.prop_map(|payload| (58u8, payload)),
        (next(), vec(any::<u8>(), 0..40)),
    ];
    let chain = (
        v6_payload,
        vec((select(vec![43u8, 44, 60]), 0u16..3, any::<bool>()), 0..4),
    )
        .prop_map(|((next, payload), headers)| {
            headers.into_iter().fold(
                (next, payload),
                |(next, payload), (header, offset, more)| {
                    let payload = match header {
                        44 => raw::fragment(next, offset, more, &payload),
                        _ => raw::extended(next, &payload),
                    };
                    (header, payload)
                },
            )
        });
    let arp = (1u8..4, station(), v4())
        .prop_map(|(operation, mac, ip)| ip::arp(operation, (mac, ip), ([0; 6], "10.0.0.1")));
    let acknowledged = (v4(), station(), 0u32..100)
        .prop_map(|(addr, client, seconds)| raw::acknowledged(addr, client, seconds));
    let replied = (v6(), 0u32..100).prop_map(|leased| raw::replied(&[leased]));
    let requested = station().prop_map(raw::requested);
    let requested_v6 = v6().prop_map(raw::requested_v6);
    let icmp = vec(any::<u8>(), 0..12);
    let bodies = prop_oneof![
        arp,
        (v4(), udp()).prop_map(|(src, payload)| raw::v4(src, 17, &payload)),
        (v4(), icmp).prop_map(|(src, payload)| raw::v4(src, 1, &payload)),
        (v6(), chain).prop_map(|(src, (next, payload))| raw::v6(src, next, &payload)),
        requested,
        requested_v6,
        acknowledged,
        replied,
    ];
    // Now and then one byte is another.
    let spoiled = option::weighted(0.2, (any::<prop::sample::Index>(), any::<u8>()));
    (bodies, spoiled).prop_map(|(mut body, spoiled)| {
        if let Some((index, byte)) = spoiled {
            let index = index.index(body.len());
            body[index] = byte;
        }
        body
    })
}

/// A frame that may come by any port.
pub fn frame() -> impl Strategy<Value = Drawn> {
    let bytes = (
        address(),
        prop_oneof![6 => station(), 1 => address()],
        tags(),
        prop_oneof![body(), guarded_body()],
        option::weighted(0.1, 0usize..24),
    )
        .prop_map(|(dst, src, tags, body, cut)| {
            let mut wire = [dst, src].concat();
            for tag in tags {
                wire.extend(tag.tpid.to_be_bytes());
                wire.extend(tag.tci.to_be_bytes());
            }
            wire.extend(body);
            wire.truncate(cut.unwrap_or(usize::MAX));
            wire
        });
    (
        any::<prop::sample::Index>(),
        prop::bool::weighted(0.3),
        bytes,
        prop::bool::weighted(0.2),
        option::weighted(0.2, (1u32..3000, 0u32..4)),
        0u8..20,
        option::weighted(0.1, 0usize..64),
    )
        .prop_map(
            |(port, from_host, wire, in_bytes, gso, token, linear)| Drawn {
                port,
                from_host,
                wire,
                in_bytes,
                gso,
                token,
                linear,
            },
        )
}

impl Drawn {
    /// The frame at a port of `setup` that has a program at the hook.
    pub fn at_tc(&self, setup: &Setup) -> Frame {
        let named: Vec<_> = setup
            .config
            .all_ports(SWITCH)
            .into_iter()
            .filter(|port| setup.devices.contains_key(&port.name))
            .collect();
        let port = self.port.get(&named);
        let from_host = port.name == SWITCH || port.uplink && self.from_host;
        let ifindex = setup.devices[&port.name].ifindex;
        let hook = if from_host {
            Hook::TcEgress
        } else {
            Hook::TcIngress
        };
        let mut frame = if from_host && self.in_bytes {
            Frame {
                hook,
                ..Frame::received(Hook::Xdp, ifindex, self.wire.clone())
            }
        } else {
            Frame::received(hook, ifindex, self.wire.clone())
        };
        frame.tc_index = match self.token {
            0 => token(ifindex, hook == Hook::TcIngress),
            1 => token(ifindex, hook != Hook::TcIngress),
            2 => 0xffff,
            _ => 0,
        };
        (frame.gso_size, frame.gso_segs) = self.gso.unwrap_or_default();
        frame.linear = self.linear;
        frame
    }

    /// The frame in XDP of an uplink of `setup`, if it has one.
    pub fn at_xdp(&self, setup: &Setup) -> Option<Frame> {
        let uplinks: Vec<_> = setup
            .config
            .ports
            .iter()
            .filter(|port| port.uplink)
            .collect();
        if uplinks.is_empty() {
            return None;
        }
        let ifindex = setup.devices.get(&self.port.get(&uplinks).name)?.ifindex;
        Some(Frame::received(Hook::Xdp, ifindex, self.wire.clone()))
    }
}
