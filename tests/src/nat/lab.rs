//! A host with a NATed network, its VMs, and the outside.

use std::{
    net::{IpAddr, SocketAddr},
    ops::Deref,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
};

use xtask::netns::Netns;

use super::{
    Both, FAR, FlowRow, GATEWAY, LAN, Network, Outside, PHYS, PHYS_TWO, ROUTER, RuleRow, Sniffer,
    UPLINK, craft, reference,
};
use crate::{
    host::{Host, Station},
    traffic::reaches,
    wire::{Heard, PacketSocket, Wire as _},
};

/// Who translates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    /// vnet.
    Vnet,
    /// The kernel's routing and NAT, set up by nft.
    Reference,
}

impl Lane {
    /// vnet, unless VNET_TESTS_NAT says otherwise.
    #[must_use]
    pub fn of_environment() -> Self {
        match std::env::var("VNET_TESTS_NAT").as_deref() {
            Ok("nft") => Self::Reference,
            _ => Self::Vnet,
        }
    }
}

/// See the module. When it goes, nothing may have been seen outside that belongs inside.
#[derive(Debug)]
pub struct Lab {
    /// What comes out of the uplink.
    pub wire: Sniffer,
    /// Who may be seen outside.
    allowed: Mutex<Outside>,
    /// The host behind the router.
    pub far: Netns,
    /// The physical host and router.
    pub phys: Arc<Station>,
    /// The interface that has the host's addresses outside: `--uplink` of rules.
    pub device: String,
    /// Who translates.
    pub lane: Lane,
    /// The host.
    pub host: Host,
}

/// A VM on a network with a gateway, which is its way to everywhere.
#[derive(Clone, Debug)]
pub struct Vm {
    station: Arc<Station>,
    /// Its own addresses.
    pub address: Both,
}

impl Deref for Vm {
    type Target = Station;

    fn deref(&self) -> &Station {
        &self.station
    }
}

impl Default for Lab {
    fn default() -> Self {
        Self::new()
    }
}

impl Lab {
    /// The network `lan` and the uplink, without rules.
    #[must_use]
    #[track_caller]
    pub fn new() -> Self {
        Self::in_lane(Lane::of_environment())
    }

    /// The same with `nat add masquerade` for `lan`, to which `options` are added.
    #[must_use]
    #[track_caller]
    pub fn masquerading(options: &str) -> Self {
        let lab = Self::new();
        lab.rule(&format!("masquerade --network lan --uplink up0 {options}"));
        lab
    }

    /// Like [`Self::new`], with somebody else to translate.
    #[must_use]
    #[track_caller]
    pub fn in_lane(lane: Lane) -> Self {
        let host = Host::new();
        Self::on(host, lane, &[])
    }

    /// On a host that was made before; `settings` are words of `set`, in force from the start.
    ///
    /// # Panics
    /// When something cannot be set up.
    #[must_use]
    #[track_caller]
    pub fn on(host: Host, lane: Lane, settings: &[&str]) -> Self {
        let phys = host.bare_station("up0", 100);
        Self::begin(host, phys, "up0".to_owned(), lane, settings)
    }

    /// The uplink is a member of a bridge that is the switch device and has the addresses, as
    /// Proxmox has it.
    ///
    /// # Panics
    /// When something cannot be set up.
    #[must_use]
    #[track_caller]
    pub fn bridged() -> Self {
        let host = Host::new();
        let phys = host.bare_station("up0", 100);
        let bridge = host.switch().to_owned();
        host.foreign_bridge(&bridge);
        host.ip(&format!("link add {bridge} type bridge forward_delay 0"));
        host.ip(&format!("link set {bridge} address 02:00:00:00:00:77 up"));
        host.ip(&format!("link set up0 master {bridge}"));
        Self::begin(host, phys, bridge, Lane::of_environment(), &[])
    }

    /// Sets up everything but the outside's end of the uplink.
    #[track_caller]
    fn begin(
        host: Host,
        phys: Arc<Station>,
        device: String,
        lane: Lane,
        settings: &[&str],
    ) -> Self {
        let far = host.remote("far");
        use_at_once(host.netns(), &device);
        use_at_once(phys.netns(), Station::NIC);
        host.ip(&format!("addr add {}/24 dev {device}", UPLINK.v4));
        host.ip(&format!("addr add {}/64 dev {device} nodad", UPLINK.v6));
        for (here, preference) in [(PHYS, ""), (PHYS_TWO, " preferred_lft 0")] {
            phys.ip(&format!("addr add {}/24 dev eth0", here.v4));
            let v6 = format!("addr add {}/64 dev eth0 nodad{preference}", here.v6);
            phys.ip(&v6);
        }
        connect_far(&phys, &far);
        for to in [PHYS.v4.to_string(), format!("{} dev {device}", PHYS.v6)] {
            host.ip(&format!("route add default via {to}"));
        }

        let wire = Sniffer::start(phys.netns(), Station::NIC);
        let lab = Self {
            wire,
            allowed: Mutex::new(Outside {
                sources: UPLINK.both().to_vec(),
                vms: Vec::new(),
            }),
            far,
            phys,
            device,
            lane,
            host,
        };
        match lane {
            Lane::Vnet => {
                for setting in settings {
                    lab.host.vnet(&format!("set {setting}"));
                }
                lab.host.vnet("up --uplink up0");
            }
            Lane::Reference => reference::begin(&lab.host, &lab.device),
        }
        lab.network(LAN);
        lab
    }

    /// Adds a network with its gateway.
    #[track_caller]
    pub fn network(&self, network: Network) {
        let (name, Both { v4, v6 }) = (network.name, network.gateway());
        match self.lane {
            Lane::Vnet => drop(self.host.vnet(&format!(
                "network add {name} --gateway {v4}/24 --gateway {v6}/{}",
                network.v6_bits
            ))),
            Lane::Reference => reference::network(&self.host, network),
        }
    }

    /// Runs `nat add` with the words of `line`.
    #[track_caller]
    pub fn rule(&self, line: &str) {
        match self.lane {
            Lane::Vnet => drop(self.host.vnet(&format!("nat add {line}"))),
            Lane::Reference => reference::rule(&self.host, line),
        }
    }

    /// A VM on `lan`; its port is `vmN`.
    #[must_use]
    #[track_caller]
    pub fn vm(&self, number: u8) -> Vm {
        self.vm_on(LAN, number)
    }

    /// A VM on a network, which has to have a gateway that answers.
    ///
    /// # Panics
    /// When it cannot be made, or the gateway does not answer.
    #[must_use]
    #[track_caller]
    pub fn vm_on(&self, network: Network, number: u8) -> Vm {
        let station = self.host.bare_station(&format!("vm{number}"), number);
        let vm = Vm {
            station,
            address: network.address(number),
        };
        let (Both { v4, v6 }, gateway) = (vm.address, network.gateway());
        vm.ip(&format!("addr add {v4}/24 dev eth0"));
        vm.ip(&format!("addr add {v6}/{} dev eth0 nodad", network.v6_bits));
        vm.ip(&format!("route add default via {}", gateway.v4));
        vm.ip(&format!("route add default via {} dev eth0", gateway.v6));
        self.port(vm.port(), network);
        for address in gateway.both() {
            assert!(
                reaches(vm.netns(), address),
                "the gateway {address} does not answer {}",
                vm.port()
            );
        }
        vm
    }

    /// Makes an interface of the host a port on a network.
    #[track_caller]
    pub fn port(&self, port: &str, network: Network) {
        match self.lane {
            Lane::Vnet => {
                let network = network.name;
                self.host
                    .vnet(&format!("port add {port} --network {network}"));
            }
            Lane::Reference => reference::port(&self.host, port, network),
        }
    }

    /// Lets a source be seen outside that is not the uplink's own address.
    pub fn allow_outside(&self, address: impl Into<IpAddr>) {
        self.allowed().sources.push(address.into());
    }

    /// Lets a machine be seen outside, by its MAC address and this one.
    pub fn allow_vm_outside(&self, vm: &Station, address: impl Into<IpAddr>) {
        self.allowed().vms.push(vm.mac().0);
        self.allow_outside(address);
    }

    fn allowed(&self) -> MutexGuard<'_, Outside> {
        self.allowed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Everything that was seen outside and belongs inside.
    #[must_use]
    pub fn leaks(&self) -> Vec<String> {
        let allowed = self.allowed().clone();
        self.wire.leaks(&allowed)
    }

    /// Nothing may have been seen outside that belongs inside. Dropping the lab asks the same.
    ///
    /// # Panics
    /// When something was.
    #[track_caller]
    pub fn assert_no_leaks(&self) {
        assert_eq!(self.leaks(), Vec::<String>::new(), "seen outside");
    }

    /// `flow list` with the words of `filter`.
    #[must_use]
    #[track_caller]
    pub fn flows(&self, filter: &str) -> Vec<FlowRow> {
        let rows = self.host.rows(&format!("flow list {filter}"), "flows");
        rows.into_iter().map(FlowRow).collect()
    }

    /// The connection that `source` began, of this protocol.
    ///
    /// # Panics
    /// When there is none in the list, or there are several.
    #[must_use]
    #[track_caller]
    pub fn flow_of(&self, proto: &str, source: SocketAddr) -> FlowRow {
        let mut rows = self.flows("");
        let all = format!("{rows:?}");
        rows.retain(|row| row.proto() == proto && row.source() == source);
        assert_eq!(rows.len(), 1, "{proto} from {source}: {all}");
        rows.remove(0)
    }

    /// `nat list`.
    #[must_use]
    #[track_caller]
    pub fn rules(&self) -> Vec<RuleRow> {
        let rows = self.host.rows("nat list", "nat");
        rows.into_iter().map(RuleRow).collect()
    }

    /// The MAC address that a VM has for its gateway.
    ///
    /// # Panics
    /// When it has none.
    #[must_use]
    #[track_caller]
    pub fn gateway_mac(&self, vm: &Vm) -> [u8; 6] {
        let text = vm.ip(&format!("neigh show {}", GATEWAY.v4));
        let mut words = text.split_whitespace();
        words.find(|word| *word == "lladdr");
        mac_of(words.next().unwrap_or_default())
            .unwrap_or_else(|| panic!("no MAC address of the gateway in {text:?}"))
    }

    /// Sends an IP packet from a VM to its gateway, byte for byte.
    #[track_caller]
    pub fn send_from_vm(&self, vm: &Vm, packet: &[u8]) {
        let frame = craft::frame(self.gateway_mac(vm), vm.mac().0, packet);
        PacketSocket::open(vm.netns(), Station::NIC, Heard::Delivered).send_bytes(&frame);
    }

    /// Sends an IP packet from the physical host to the uplink, byte for byte.
    #[track_caller]
    pub fn send_from_outside(&self, packet: &[u8]) {
        let frame = craft::frame(self.uplink_mac(), self.phys.mac().0, packet);
        PacketSocket::open(self.phys.netns(), Station::NIC, Heard::Delivered).send_bytes(&frame);
    }

    /// The MAC address that the host has outside.
    #[must_use]
    #[track_caller]
    pub fn uplink_mac(&self) -> [u8; 6] {
        mac_of(&self.host.interface(&self.device).mac).expect("it has one")
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if !thread::panicking() {
            self.assert_no_leaks();
        }
    }
}

/// Brings an interface up as one that has been so for long: while its link-local address is being
/// checked (RFC 4862, 5.4), the kernel looks for no neighbour on behalf of others.
fn use_at_once(netns: &Netns, interface: &str) {
    netns
        .sh(&format!(
            "ip link set {interface} down
             echo 0 >/proc/sys/net/ipv6/conf/{interface}/accept_dad
             ip link set {interface} up"
        ))
        .unwrap();
}

/// The physical host becomes the router to the far one.
fn connect_far(phys: &Station, far: &Netns) {
    phys.ip(&format!(
        "link add far0 type veth peer name eth0 netns {}",
        far.name()
    ));
    use_at_once(phys.netns(), "far0");
    phys.ip(&format!("addr add {}/24 dev far0", ROUTER.v4));
    phys.ip(&format!("addr add {}/64 dev far0 nodad", ROUTER.v6));
    for line in [
        "link set eth0 up".to_owned(),
        format!("addr add {}/24 dev eth0", FAR.v4),
        format!("addr add {}/64 dev eth0 nodad", FAR.v6),
        format!("route add default via {}", ROUTER.v4),
        format!("route add default via {} dev eth0", ROUTER.v6),
    ] {
        far.ip(&line).unwrap();
    }
    phys.sh("echo 1 >/proc/sys/net/ipv4/ip_forward
         echo 1 >/proc/sys/net/ipv6/conf/all/forwarding");
}

fn mac_of(text: &str) -> Option<[u8; 6]> {
    let bytes: Vec<_> = text
        .split(':')
        .map(|part| u8::from_str_radix(part, 16))
        .collect::<Result<_, _>>()
        .ok()?;
    bytes.try_into().ok()
}
