//! `network add | del | list | show`.

use ipnet::IpNet;
use serde::Serialize;

use super::{edit, load};
use crate::cli::{NetworkAddArgs, NetworkCommand, NetworkDelArgs};
use crate::config::{Config, DhcpRange, Network, edits};
use crate::dhcp::leases::Lease;
use crate::error::Error;
use crate::output::{Listing, Output, joined, or_dash};
use crate::runtime::Session;

/// Runs the verb.
pub fn run(session: &mut Session, output: &Output, command: NetworkCommand) -> Result<(), Error> {
    match command {
        NetworkCommand::Add(args) => add(session, output, args),
        NetworkCommand::Del(args) => del(session, output, &args),
        NetworkCommand::List => list(session, output),
        NetworkCommand::Show { name } => show(session, output, &name),
    }
}

fn add(session: &mut Session, output: &Output, args: NetworkAddArgs) -> Result<(), Error> {
    let doing = format!("adding the network {}", args.name);
    edit(session, output, &doing, |config| {
        if args.may_exist && config.network(&args.name).is_some() {
            return Ok(());
        }
        let network = Network {
            name: args.name,
            vlan: args.vlan,
            mtu: args.mtu,
            gateway: args.gateway,
            dhcp: args.dhcp,
        };
        edits::add_network(config, network)
    })?;
    Ok(())
}

fn del(session: &mut Session, output: &Output, args: &NetworkDelArgs) -> Result<(), Error> {
    let doing = format!("deleting the network {}", args.name);
    edit(session, output, &doing, |config| {
        if args.if_exists && config.network(&args.name).is_none() {
            return Ok(());
        }
        edits::delete_network(config, &args.name)
    })?;
    Ok(())
}

fn list(session: &Session, output: &Output) -> Result<(), Error> {
    let config = load(session)?;
    let rows: Vec<_> = config
        .network_names()
        .filter_map(|name| config.network(name))
        .map(|network| NetworkRow::new(session, &config, network))
        .collect();
    output.list(&rows)
}

fn show(session: &Session, output: &Output, name: &str) -> Result<(), Error> {
    let config = load(session)?;
    let doing = || format!("showing the network {name}");
    config
        .require_network(name)
        .map_err(|refusal| refusal.doing(doing()))?;
    match config.network(name) {
        Some(network) => {
            let row = NetworkRow::new(session, &config, network);
            let leases = session.dhcp().leases(name);
            output.show(&NetworkSheet { row, leases })
        }
        None => Ok(()),
    }
}

#[derive(Serialize)]
struct NetworkRow {
    name: String,
    vlan: Option<u16>,
    gateway: Vec<IpNet>,
    mtu: Option<u32>,
    dhcp: Vec<DhcpRange>,
    ports: Vec<String>,
}

/// A network with what its VMs have been leased.
#[derive(Serialize)]
struct NetworkSheet {
    #[serde(flatten)]
    row: NetworkRow,
    leases: Vec<Lease>,
}

impl NetworkRow {
    fn new(session: &Session, config: &Config, network: Network) -> Self {
        let ports = config.all_ports(session.switch()).into_iter();
        Self {
            ports: ports
                .filter(|port| config.carried(port).carries(&network.name))
                .map(|port| port.name)
                .collect(),
            name: network.name,
            vlan: network.vlan,
            gateway: network.gateway,
            mtu: network.mtu,
            dhcp: network.dhcp,
        }
    }
}

impl Listing for NetworkRow {
    const PLURAL: &'static str = "networks";
    const COLUMNS: &'static [&'static str] = &["NAME", "VLAN", "GATEWAY", "MTU", "DHCP", "PORTS"];

    fn cells(&self) -> Vec<String> {
        vec![
            self.name.clone(),
            or_dash(self.vlan),
            joined(&self.gateway),
            or_dash(self.mtu),
            joined(&self.dhcp),
            joined(&self.ports),
        ]
    }
}

impl Listing for NetworkSheet {
    const PLURAL: &'static str = NetworkRow::PLURAL;
    const COLUMNS: &'static [&'static str] = NetworkRow::COLUMNS;

    fn cells(&self) -> Vec<String> {
        self.row.cells()
    }

    fn details(&self) -> Vec<(&'static str, String)> {
        let mut details = self.row.details();
        let leases = self.leases.iter().map(|lease| {
            let name = lease.hostname.iter().map(|name| format!(" ({name})"));
            let mac = lease.mac.iter().map(|mac| format!(" {mac}"));
            let words: String = mac.chain(name).collect();
            ("LEASE", format!("{}{words}", lease.address))
        });
        details.extend(leases);
        details
    }
}
