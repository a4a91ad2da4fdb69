//! `status`.

use std::fmt::Write as _;

use serde::Serialize;

use crate::cli::Format;
use crate::commands::load;
use crate::config::{FailMode, Mode};
use crate::datapath::{maps, object};
use crate::error::{Doing as _, Error};
use crate::gateway::{SwitchPort, switch_ports};
use crate::host::Links;
use crate::output::{Listing, Output, or_dash, print};
use crate::runtime::{PortState, Session};
use crate::sync;

/// Runs it.
pub fn run(session: &mut Session, output: &Output) -> Result<(), Error> {
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
    let row = SwitchRow {
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
    };
    if output.format() != Format::Table {
        return output.list(&[row]);
    }
    print(&row.heading()?)?;
    output.list(&row.ports)
}

#[derive(Serialize)]
struct SwitchRow {
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
