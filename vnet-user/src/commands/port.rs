//! `port add | set | del | list | show`.

use std::net::IpAddr;

use serde::Serialize;

use super::{edit, load};
use crate::cli::{PortAddArgs, PortCommand, PortDelArgs, PortSetArgs};
use crate::config::edits::PortChange;
use crate::config::{
    CarriedNetwork, Config, Guard, Invalid, MacAddr, Port, PortIp, StormLimits, edits,
};
use crate::datapath::learned;
use crate::error::Error;
use crate::gateway::{SwitchPort, stable_mac, switch_ports};
use crate::output::{Listing, Output, joined};
use crate::runtime::{PortState, Session};

/// Runs the verb.
pub fn run(session: &mut Session, output: &Output, command: PortCommand) -> Result<(), Error> {
    match command {
        PortCommand::Add(args) => add(session, output, args),
        PortCommand::Set(args) => set(session, output, args),
        PortCommand::Del(args) => del(session, output, &args),
        PortCommand::List => list(session, output),
        PortCommand::Show { iface } => show(session, output, &iface),
    }
}

fn add(session: &mut Session, output: &Output, args: PortAddArgs) -> Result<(), Error> {
    let name = args.iface;
    let doing = format!("adding the port {name}");
    let (options, auto_mac) = args
        .options
        .check()
        .map_err(|why| Error::usage(doing.as_str(), why))?;
    if options.native.is_some() && options.trunk.is_none() {
        return Err(Error::usage(doing, "only a trunk has a native network")
            .mend("say --trunk too, or --network for one untagged network"));
    }
    let switch = session.switch().to_owned();
    let mut made = None;
    let edited = edit(session, output, &doing, |config| {
        if args.may_exist && (config.port(&name).is_some() || name == switch) {
            return Ok(());
        }
        let mut options = options;
        if auto_mac {
            made = Some(make_mac(config, &switch, &name, &mut options)?);
        }
        let mut port = Port::new(name.as_str());
        options.apply(&mut port)?;
        edits::add_port(config, &switch, port)
    })?;
    warn_of_what_is_rarely_meant(output, &edited.new, &name);
    print_made(output, made)
}

fn set(session: &mut Session, output: &Output, args: PortSetArgs) -> Result<(), Error> {
    let name = args.iface;
    let doing = format!("changing the port {name}");
    let (mut change, auto_mac) = args
        .options
        .check()
        .map_err(|why| Error::usage(doing.as_str(), why))?;
    if change == PortChange::default() {
        return Err(Error::usage(doing, "nothing to change is named")
            .mend("vnet-user port set --help lists the options"));
    }
    let switch = session.switch().to_owned();
    let mut made = None;
    let edited = edit(session, output, &doing, |config| {
        if auto_mac {
            made = Some(make_mac(config, &switch, &name, &mut change)?);
        }
        edits::set_port(config, &switch, &name, change)
    })?;
    warn_of_what_is_rarely_meant(output, &edited.new, &name);
    print_made(output, made)
}

fn del(session: &mut Session, output: &Output, args: &PortDelArgs) -> Result<(), Error> {
    let name = args.iface.as_str();
    let switch = session.switch().to_owned();
    edit(
        session,
        output,
        &format!("deleting the port {name}"),
        |config| {
            if args.if_exists && config.port(name).is_none() && name != switch {
                return Ok(());
            }
            edits::delete_port(config, &switch, name)
        },
    )?;
    Ok(())
}

/// How many addresses are tried for a port before there is said to be none.
const MAC_TRIES: u32 = 64;

/// Makes the address that `--mac auto` stands for and adds it to the port's list: the same one
/// whenever a port of this name asks for it, as long as nobody else has it.
fn make_mac(
    config: &Config,
    switch: &str,
    name: &str,
    change: &mut PortChange,
) -> Result<MacAddr, Invalid> {
    let candidates = (0..MAC_TRIES).map(|number| {
        let purpose = match number {
            0 => format!("{switch}/port/{name}"),
            _ => format!("{switch}/port/{name}/{number}"),
        };
        MacAddr(stable_mac(&purpose))
    });
    let listed = change.macs.get_or_insert_default();
    let candidates = candidates.filter(|mac| !listed.contains(mac));
    let mac = edits::free_mac(config, name, candidates)
        .ok_or_else(|| Invalid::new("every address that could be made for it is taken"))?;
    listed.push(mac);
    Ok(mac)
}

/// Prints an address that was made, for whoever sets up the VM.
fn print_made(output: &Output, made: Option<MacAddr>) -> Result<(), Error> {
    match made {
        Some(mac) => output.mac(mac),
        None => Ok(()),
    }
}

/// What is allowed, but rarely meant: an emptied trunk, and a strict guard that knows no address.
fn warn_of_what_is_rarely_meant(output: &Output, config: &Config, name: &str) {
    let Some(port) = config.port(name) else {
        return;
    };
    if config.carried(port).networks.is_empty() {
        output.warn(&format!(
            "the port {name} carries no network: everything from it is dropped"
        ));
    }
    if port.guard == Guard::Strict && port.macs.is_empty() {
        output.warn(&format!(
            "the port {name} has a strict guard and no list of MAC addresses: it may send from any"
        ));
    }
}

fn list(session: &Session, output: &Output) -> Result<(), Error> {
    let config = load(session)?;
    let rows: Vec<_> = switch_ports(&config, session.switch())
        .iter()
        .map(|port| PortRow::new(session, &config, port))
        .collect();
    output.list(&rows)
}

fn show(session: &Session, output: &Output, name: &str) -> Result<(), Error> {
    let config = load(session)?;
    let ports = switch_ports(&config, session.switch());
    match ports.iter().find(|listed| listed.port.name == name) {
        Some(port) => output.show(&PortRow::new(session, &config, port)),
        None => Err(edits::no_port(&config, session.switch(), name)
            .doing(format!("showing the port {name}"))),
    }
}

#[derive(Serialize)]
struct PortRow {
    name: String,
    kind: &'static str,
    state: PortState,
    /// `access` or `trunk`.
    mode: &'static str,
    networks: Vec<CarriedNetwork>,
    macs: Vec<MacAddr>,
    groups: Vec<String>,
    /// 0 is no limit.
    max_macs: u32,
    ips: Vec<PortIp>,
    /// Those that it is leased, where it learns them.
    learned_ips: Vec<IpAddr>,
    guard: &'static str,
    isolated: bool,
    storm: StormLimits,
    #[serde(skip)]
    carried: String,
}

impl PortRow {
    fn new(session: &Session, config: &Config, listed: &SwitchPort) -> Self {
        let port = &listed.port;
        let carried = config.carried(port);
        Self {
            name: port.name.clone(),
            kind: listed.role.name(),
            state: session.port_state(&port.name),
            mode: if carried.access { "access" } else { "trunk" },
            carried: carried.to_string(),
            networks: carried.networks,
            macs: port.macs.clone(),
            groups: port.groups.clone(),
            max_macs: config.max_macs(port, session.switch()),
            ips: port.ips.clone(),
            learned_ips: learned_ips(session, port),
            guard: port.guard.name(),
            isolated: port.isolated,
            storm: port.storm.over(config.settings.storm),
        }
    }
}

/// The addresses that a port which learns them is leased; none while the switch is down.
fn learned_ips(session: &Session, port: &Port) -> Vec<IpAddr> {
    let run = session
        .state()
        .and_then(|state| state.ports.get(&port.name));
    match run {
        Some(run) if port.ips.contains(&PortIp::Learn) => {
            learned::of(session.pins(), run.ifindex).unwrap_or_default()
        }
        _ => Vec::new(),
    }
}

impl Listing for PortRow {
    const PLURAL: &'static str = "ports";
    const COLUMNS: &'static [&'static str] = &[
        "NAME", "KIND", "STATE", "MODE", "NETWORKS", "MACS", "GROUPS",
    ];

    fn cells(&self) -> Vec<String> {
        vec![
            self.name.clone(),
            self.kind.into(),
            self.state.to_string(),
            self.mode.into(),
            self.carried.clone(),
            joined(&self.macs),
            joined(&self.groups),
        ]
    }

    fn details(&self) -> Vec<(&'static str, String)> {
        let max_macs = match self.max_macs {
            0 => "no limit".into(),
            limit => limit.to_string(),
        };
        let row = Self::COLUMNS.iter().copied().zip(self.cells());
        row.chain([
            ("MAX MACS", max_macs),
            ("IPS", joined(&self.ips)),
            ("LEARNED IPS", joined(&self.learned_ips)),
            ("GUARD", self.guard.into()),
            (
                "ISOLATED",
                if self.isolated { "yes" } else { "no" }.to_owned(),
            ),
            ("STORM BROADCAST", self.storm.broadcast.to_string()),
            ("STORM MULTICAST", self.storm.multicast.to_string()),
            (
                "STORM UNKNOWN UNICAST",
                self.storm.unknown_unicast.to_string(),
            ),
            ("STORM ARP", self.storm.arp.to_string()),
            ("STORM ND", self.storm.nd.to_string()),
        ])
        .collect()
    }
}
