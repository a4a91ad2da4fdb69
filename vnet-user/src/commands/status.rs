//! `status`.

use std::fmt::Write as _;

use serde::Serialize;

use crate::cli::Format;
use crate::commands::load;
use crate::config::{FailMode, Mode};
use crate::datapath::{bans, flows, maps, object};
use crate::error::{Doing as _, Error};
use crate::gateway::{SwitchPort, switch_ports};
use crate::host::Links;
use crate::output::{Listing, Output, or_dash, print};
use crate::runtime::{PortState, Session};
use crate::sync;

/// Runs it.
pub fn run(session: &mut Session, output: &Output) -> Result<(), Error> {
    let row = read(session)?;
    if output.format() != Format::Table {
        return output.list(&[row]);
    }
    print(&row.heading()?)?;
    output.list(&row.ports)
}

/// How the switch is.
pub(super) fn read(session: &Session) -> Result<SwitchRow, Error> {
    let state = session.need_up("showing the switch's status")?.clone();
    let config = load(session)?;
    let links = Links::open()?;
    let mut ports = Vec::new();
    for SwitchPort { port, role, .. } in switch_ports(&config, session.switch()) {
        let run = state.ports.get(&port.name);
        let link = links.by_name(&port.name)?;
        ports.push(PortRow {
            name: port.name.clone(),
            kind: role.name(),
            state: session.port_state(&port.name),
            hooks: run.map_or_else(Vec::new, |run| {
                let mut hooks: Vec<String> = run
                    .hooks
                    .iter()
                    .map(|hook| format!("{} {hook}", run.tc))
                    .collect();
                if run.xdp {
                    hooks.push("xdp native".into());
                }
                hooks
            }),
            member: run.is_some_and(|run| run.member),
            mtu: link.as_ref().map(|link| link.mtu),
            note: run.map(|run| run.note.clone()).unwrap_or_default(),
        });
    }
    let addresses = maps::array::<u32>(session.pins(), "fdb_count")
        .and_then(|map| Ok(map.get(&0, 0)?))
        .doing(|| "reading the FDB's occupancy".into())?;
    let conf = flows::conf(session.pins()).doing(|| "reading the switch's state".into())?;
    let sources = bans::sources(session.pins()).doing(|| "counting the sources".into())?;
    let banned = bans::bans(session.pins()).doing(|| "counting who is banned".into())?;
    let routed = switch_ports(&config, session.switch())
        .into_iter()
        .filter_map(|listed| {
            let network = listed.gateway?;
            Some(RoutedRow {
                network: network.name,
                port: listed.port.name,
                gateway: network.gateway.iter().map(ToString::to_string).collect(),
            })
        })
        .collect();
    Ok(SwitchRow {
        flows: FlowTable::read(session, conf.flow_limit)
            .doing(|| "reading the flow table's occupancy".into())?,
        sources: sources.used,
        sources_limit: sources.limit,
        bans: banned.used,
        bans_limit: banned.limit,
        routed,
        addresses,
        addresses_limit: config.settings.fdb_size.min(state.sizes.fdb_size),
        slots: state.slots.len(),
        slots_limit: state.sizes.max_ports - 1,
        name: session.switch().to_owned(),
        state: "up",
        mode: config.mode,
        fail: config.fail,
        without_vnet: if state.fail_closed { "closed" } else { "open" },
        device: if state.created_device {
            "made by vnet"
        } else {
            "adopted"
        },
        pins: session.pins().dir().display().to_string(),
        programs: if state.object == object::object_id() {
            "current"
        } else {
            "of another build; `up` replaces them in place"
        },
        tables_need_restart: state.sizes.max_ports != config.settings.max_ports
            || state.sizes.fdb_size != config.settings.fdb_size
            || state.sizes.flow_size != config.settings.flow_size,
        closes_at_next_change: sync::is_closed(&config) != state.fail_closed,
        ports,
    })
}

/// The flow table.
#[derive(Serialize)]
struct FlowTable {
    count: u32,
    limit: u32,
    created: u64,
    ended: u64,
    /// Those that ended to make room.
    evicted: u64,
    memory_bytes: u64,
    bytes_per_flow: u64,
    mappings_bytes: u64,
}

impl FlowTable {
    fn read(session: &Session, limit: u32) -> anyhow::Result<Self> {
        let pins = session.pins();
        let counters = flows::counters(pins)?;
        let memory = flows::memory_bytes(pins)?;
        let room = session.state().map_or(0, |state| state.sizes.flow_size);
        Ok(Self {
            count: flows::count(pins)?,
            limit,
            created: counters.created,
            ended: counters.ended,
            evicted: counters.evicted,
            memory_bytes: memory.flows,
            bytes_per_flow: memory.flows / u64::from(room.max(1)),
            mappings_bytes: memory.bindings,
        })
    }
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// A network with a gateway.
#[derive(Serialize)]
struct RoutedRow {
    network: String,
    port: String,
    gateway: Vec<String>,
}

/// What `status` tells.
#[derive(Serialize)]
pub(super) struct SwitchRow {
    name: String,
    state: &'static str,
    mode: Mode,
    fail: FailMode,
    without_vnet: &'static str,
    device: &'static str,
    pins: String,
    programs: &'static str,
    addresses: u32,
    addresses_limit: u32,
    slots: usize,
    slots_limit: u32,
    flows: FlowTable,
    sources: usize,
    sources_limit: u32,
    bans: usize,
    bans_limit: u32,
    routed: Vec<RoutedRow>,
    tables_need_restart: bool,
    #[serde(skip)]
    closes_at_next_change: bool,
    ports: Vec<PortRow>,
}

impl SwitchRow {
    fn heading(&self) -> Result<String, Error> {
        let mut text = String::new();
        let mut line = |name: &str, value: &str| {
            writeln!(text, "{name:<14}{value}")
                .map_err(|error| Error::new("writing the status", error))
        };
        line(
            "switch",
            &format!("{} is up, device {}", self.name, self.device),
        )?;
        line("mode", &format!("{:?}", self.mode).to_lowercase())?;
        let changes = if self.closes_at_next_change {
            ", changes with the next command"
        } else {
            ""
        };
        line(
            "without vnet",
            &format!(
                "{} (fail {}){changes}",
                self.without_vnet,
                format!("{:?}", self.fail).to_lowercase()
            ),
        )?;
        line("pins", &self.pins)?;
        line("programs", self.programs)?;
        line(
            "addresses",
            &format!("{} of {}", self.addresses, self.addresses_limit),
        )?;
        line(
            "port slots",
            &format!("{} of {}", self.slots, self.slots_limit),
        )?;
        let flows = &self.flows;
        line(
            "flows",
            &format!(
                "{} of {}, {:.1} MiB ({} bytes a flow) and {:.1} MiB for mappings",
                flows.count,
                flows.limit,
                mib(flows.memory_bytes),
                flows.bytes_per_flow,
                mib(flows.mappings_bytes),
            ),
        )?;
        line(
            "since up",
            &format!(
                "{} flows begun, {} ended, {} of them to make room",
                flows.created, flows.ended, flows.evicted
            ),
        )?;
        line(
            "sources",
            &format!(
                "{} of {} counted, {} of {} banned",
                self.sources, self.sources_limit, self.bans, self.bans_limit
            ),
        )?;
        for routed in &self.routed {
            line(
                "routed",
                &format!(
                    "{} by {} ({})",
                    routed.network,
                    routed.port,
                    routed.gateway.join(", ")
                ),
            )?;
        }
        if self.tables_need_restart {
            line("tables", "new sizes take effect after `down` and `up`")?;
        }
        text.push('\n');
        Ok(text)
    }
}

impl Listing for SwitchRow {
    const PLURAL: &'static str = "status";
    const COLUMNS: &'static [&'static str] = &["NAME", "STATE"];

    fn cells(&self) -> Vec<String> {
        vec![self.name.clone(), self.state.into()]
    }
}

#[derive(Serialize)]
struct PortRow {
    name: String,
    kind: &'static str,
    state: PortState,
    hooks: Vec<String>,
    member: bool,
    mtu: Option<u32>,
    note: String,
}

impl Listing for PortRow {
    const PLURAL: &'static str = "ports";
    const COLUMNS: &'static [&'static str] =
        &["PORT", "KIND", "STATE", "HOOKS", "MEMBER", "MTU", "NOTE"];

    fn cells(&self) -> Vec<String> {
        vec![
            self.name.clone(),
            self.kind.into(),
            self.state.to_string(),
            self.hooks.join(", "),
            if self.member { "yes" } else { "no" }.into(),
            or_dash(self.mtu),
            self.note.clone(),
        ]
    }
}
