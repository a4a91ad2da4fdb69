//! A switch to be tested: its document, the interfaces it finds, and the tables made of them.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, anyhow};
use vnet_common::{Mac, PortKind};
use vnet_user::{
    compile::{self, Facts, Image, Interface},
    config::{Config, Store},
    datapath::{object::Sizes, publish::slots_in_force},
    gateway::switch_ports,
    host::Address,
};

use crate::{
    ledger,
    world::{Fact, Routing},
};

/// The name of the switch, and of its device.
pub const SWITCH: &str = "vsw0";

/// Start of the FDB's hash. Any will do; a fixed one makes failures repeat.
const FDB_SEED: u64 = 0x5eed;
/// As above, of the flow table's.
const FLOW_SEED: u64 = 0x0f10_5eed;
/// Most connections where nothing else is said.
const FLOWS: u32 = 64;

/// An interface of a switch under test.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Device {
    /// Interface index.
    pub ifindex: u32,
    /// Its address.
    pub mac: Mac,
    /// Its MTU.
    pub mtu: u32,
    /// It is up.
    pub up: bool,
    /// It is a member of the switch device.
    pub member: bool,
    /// An XDP program may redirect frames to it.
    pub xdp_target: bool,
}

/// Interfaces by name.
pub type Devices = BTreeMap<String, Device>;

/// A switch to be tested.
#[derive(Clone)]
pub struct Setup {
    /// What the document says.
    pub config: Config,
    /// The interfaces.
    pub devices: Devices,
    /// What the tables hold.
    pub image: Image,
    /// What the tables are made for.
    pub sizes: Sizes,
    /// What the host knows besides.
    pub routing: Routing,
}

/// What may differ about a switch under test besides its document and interfaces.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// A table of addresses smaller than a document may ask for.
    pub fdb_size: Option<u32>,
    /// A table of connections of another size.
    pub flow_size: Option<u32>,
    /// TCP from XDP goes up to TC.
    pub tcp_at_tc: bool,
    /// What the host knows; the addresses of its gateway ports besides.
    pub facts: Vec<Fact>,
}

impl std::fmt::Debug for Setup {
    /// On one line, whatever the flags: property tests print it when they fail.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?} {:?}", self.config, self.devices)
    }
}

impl Setup {
    /// Compiles `config` for `devices`. `fdb_size` makes a table smaller than a document may ask
    /// for; `before` is what was in force, whose ports keep their slots.
    ///
    /// # Errors
    /// The compiler refuses the configuration.
    pub fn new(
        config: Config,
        devices: Devices,
        fdb_size: Option<u32>,
        tcp_at_tc: bool,
        before: Option<&Self>,
    ) -> Result<Self> {
        let options = Options {
            fdb_size,
            tcp_at_tc,
            ..Options::default()
        };
        Self::with(config, devices, &options, before)
    }

    /// As [`Self::new`], with more that may be said.
    ///
    /// # Errors
    /// The compiler refuses the configuration.
    pub fn with(
        config: Config,
        devices: Devices,
        options: &Options,
        before: Option<&Self>,
    ) -> Result<Self> {
        let mut known = options.facts.clone();
        let mut gateways = Vec::new();
        for port in switch_ports(&config, SWITCH) {
            let Some(network) = port.gateway else {
                continue;
            };
            let name = port.port.name;
            let nets = network.gateway.iter();
            known.extend(nets.map(|net| Fact::Address(*net, name.clone())));
            gateways.push(name);
        }
        let routing = Routing::new(&devices, &gateways, known);
        let facts = Facts {
            switch: SWITCH.to_owned(),
            interfaces: devices
                .iter()
                .map(|(name, device)| {
                    let interface = Interface {
                        ifindex: device.ifindex,
                        mac: device.mac,
                        member: device.member,
                        xdp_target: device.xdp_target,
                    };
                    (name.clone(), interface)
                })
                .collect(),
            addresses: routing
                .addresses()
                .map(|(ifindex, net)| Address {
                    ifindex,
                    net,
                    global: true,
                    spare: false,
                })
                .collect(),
            slots: before.map_or_else(BTreeMap::new, |before| slots_in_force(&before.image.ports)),
            tcp_at_tc: options.tcp_at_tc,
            max_ports: config.settings.max_ports,
        };
        let image = compile::compile(&config, &facts).context("compiling the configuration")?;
        let sizes = Sizes {
            max_ports: config.settings.max_ports,
            fdb_size: options.fdb_size.unwrap_or(config.settings.fdb_size),
            fdb_seed: FDB_SEED,
            flow_size: options.flow_size.unwrap_or(FLOWS),
            flow_seed: FLOW_SEED,
        };
        Ok(Self {
            config,
            devices,
            image,
            sizes,
            routing,
        })
    }

    /// The slot of a port by its name in fixtures: the interface's, with `/host` behind it the host
    /// behind an uplink, or `-` for frames whose port is not known. What is counted for connections
    /// and for a rule is in a [`ledger`] by `flows` and `rule ID`.
    ///
    /// # Errors
    /// There is no such port.
    pub fn slot(&self, name: &str) -> Result<u16> {
        if name == "-" {
            return Ok(vnet_common::NO_SLOT);
        }
        if name == "flows" {
            return Ok(ledger::FLOWS);
        }
        if let Some(id) = name.strip_prefix("rule ") {
            return Ok(ledger::rule_slot(id.parse()?));
        }
        if let Some(id) = name.strip_prefix("policy ") {
            return Ok(ledger::policy_slot(id.parse()?));
        }
        self.image
            .ports
            .keys()
            .copied()
            .find(|slot| self.port_name(*slot) == name)
            .ok_or_else(|| anyhow!("the switch has no port {name}"))
    }

    /// A port's name in fixtures.
    #[must_use]
    pub fn port_name(&self, slot: u16) -> String {
        if slot == ledger::FLOWS {
            return "flows".to_owned();
        }
        if slot >= ledger::policy_slot(0) {
            return format!("policy {}", slot - ledger::policy_slot(0));
        }
        if slot >= ledger::rule_slot(0) {
            return format!("rule {}", slot - ledger::rule_slot(0));
        }
        let name = self.image.names.get(&slot).cloned();
        match (name, self.image.ports.get(&slot)) {
            (Some(name), Some(port)) if port.kind == PortKind::UplinkHost => format!("{name}/host"),
            (Some(name), _) => name,
            (None, _) if slot == vnet_common::NO_SLOT => "-".to_owned(),
            (None, _) => format!("slot {slot}"),
        }
    }

    /// The name in fixtures of the port that is reached by sending to an interface.
    #[must_use]
    pub fn exit_name(&self, ifindex: u32, to_stack: bool) -> String {
        let is_exit = |kind| matches!(kind, PortKind::Internal | PortKind::UplinkHost) == to_stack;
        self.image
            .ports
            .iter()
            .find(|(_, port)| port.ifindex == ifindex && is_exit(port.kind))
            .map_or_else(
                || format!("interface {ifindex}, to_stack {to_stack}"),
                |(slot, _)| self.port_name(*slot),
            )
    }
}

/// Reads a document as the command would, the line with the schema left out.
///
/// # Errors
/// The document is not valid.
pub fn read_document(text: &str) -> Result<Config> {
    let dir = tempfile::tempdir().context("making a folder for the document")?;
    let path = dir.path().join(format!("{SWITCH}.toml"));
    std::fs::write(&path, format!("schema = 1\n{text}")).context("writing the document")?;
    Store::new(dir.path(), dir.path(), dir.path(), SWITCH)
        .load()
        .map_err(|error| anyhow!("{error}"))?
        .context("the document is gone")
}
