//! `nat add | del | list | show`.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{edit, load, without_subject};
use crate::cli::{NatAdd, NatAddCommand, NatCommand, NatDelArgs};
use crate::config::{
    Endpoint, Invalid, NatAction, NatOptions, NatRule, NatSection, Prefix, Protocols, edits,
};
use crate::error::Error;
use crate::flows::NatUsage;
use crate::host::listeners;
use crate::output::{Listing, Output, joined, or_dash};
use crate::runtime::Session;

/// Runs the verb.
pub fn run(session: &mut Session, output: &Output, command: NatCommand) -> Result<(), Error> {
    match command {
        NatCommand::Add(command) => add(session, output, command),
        NatCommand::Del(args) => del(session, output, &args),
        NatCommand::List => list(session, output),
        NatCommand::Show { id } => show(session, output, id),
    }
}

fn add(session: &mut Session, output: &Output, command: NatAddCommand) -> Result<(), Error> {
    let kind = command.kind();
    let doing = format!("adding a {kind} rule");
    let NatAdd {
        action,
        may_exist,
        force,
    } = command
        .check()
        .map_err(|why| Error::usage(doing.as_str(), why))?;
    let listener = if force { None } else { host_listener(&action)? };
    let mut id = 0;
    let edited = edit(session, output, &doing, |config| {
        if may_exist && let Some(rule) = config.nat.iter().find(|rule| rule.action == action) {
            id = rule.id;
            return Ok(());
        }
        id = edits::add_nat(config, action)?;
        match listener {
            Some(refusal) => Err(refusal),
            None => Ok(()),
        }
    })
    .map_err(|error| without_subject(error, &format!("the {kind} rule {id}: ")))?;
    if edited.changed() {
        output.note(&format!("{kind} rule {id} added"));
    }
    output.id(id)
}

fn del(session: &mut Session, output: &Output, args: &NatDelArgs) -> Result<(), Error> {
    let id = args.id;
    let doing = format!("deleting the rule {id}");
    edit(session, output, &doing, |config| {
        if args.if_exists && edits::find_nat(config, id).is_none() {
            return Ok(());
        }
        edits::delete_nat(config, id)
    })?;
    Ok(())
}

fn list(session: &Session, output: &Output) -> Result<(), Error> {
    output.list(&rows(session)?)
}

/// Every rule.
pub(super) fn rows(session: &Session) -> Result<Vec<NatRow>, Error> {
    let config = load(session)?;
    let usage = usage(session)?;
    let rules = config.nat.iter();
    Ok(rules
        .map(|rule| NatRow::new(rule, usage.as_ref()))
        .collect())
}

fn show(session: &Session, output: &Output, id: u16) -> Result<(), Error> {
    let config = load(session)?;
    match edits::find_nat(&config, id) {
        Some(rule) => output.show(&NatRow::new(rule, usage(session)?.as_ref())),
        None => Err(edits::no_nat(&config, id).doing(format!("showing the rule {id}"))),
    }
}

/// What the rules have done; `None` while the switch is down.
fn usage(session: &Session) -> Result<Option<BTreeMap<u16, NatUsage>>, Error> {
    if session.is_up() {
        session.nat_usage().map(Some)
    } else {
        Ok(None)
    }
}

/// Why a port forward would take connections from the host itself, if it would.
fn host_listener(action: &NatAction) -> Result<Option<Invalid>, Error> {
    let NatAction::Dnat {
        tcp,
        udp,
        listen,
        listen_ports,
        ..
    } = action
    else {
        return Ok(None);
    };
    let ports = listen_ports.first..=listen_ports.last;
    let found = listeners::find(*tcp, *udp, *listen, ports)?;
    Ok(found.map(|listener| {
        Invalid::new(format!("the host listens on {listener} itself")).mend(
            "choose another port, end that service, or say --force: connections from outside go \
             to the VM then",
        )
    }))
}

/// A rule, and what it has done while the switch is up.
#[derive(Serialize)]
pub(super) struct NatRow {
    #[serde(flatten)]
    rule: NatSection,
    hits: Option<u64>,
    flows: Option<u64>,
    ports_used: Option<u64>,
    ports_free: Option<u64>,
    exhausted: Option<u64>,
    #[serde(skip)]
    cells: [String; 6],
}

impl NatRow {
    fn new(rule: &NatRule, usage: Option<&BTreeMap<u16, NatUsage>>) -> Self {
        let usage = usage.map(|usage| usage.get(&rule.id).copied().unwrap_or_default());
        let (matches, to, options) = texts(&rule.action);
        Self {
            rule: NatSection::in_full(rule),
            hits: usage.map(|usage| usage.hits),
            flows: usage.map(|usage| usage.flows),
            ports_used: usage.map(|usage| usage.ports_used),
            ports_free: usage.and_then(|usage| usage.ports_free),
            exhausted: usage.map(|usage| usage.exhausted),
            cells: [
                rule.id.to_string(),
                rule.action.kind().into(),
                matches,
                or_dash(to),
                or_dash(rule.action.uplink()),
                options,
            ],
        }
    }

    fn ports(&self) -> String {
        match (self.ports_used, self.ports_free) {
            (Some(used), Some(free)) => format!("{used}/{free}"),
            (Some(used), None) if used > 0 => used.to_string(),
            _ => "-".into(),
        }
    }
}

/// What a rule is for, where it leads to and what is said besides.
fn texts(action: &NatAction) -> (String, Option<String>, String) {
    match action {
        NatAction::Masquerade {
            network, options, ..
        } => (network.clone(), None, option_text(options)),
        NatAction::Snat {
            source,
            to,
            options,
            ..
        } => (
            Prefix(*source).to_string(),
            Some(to.to_string()),
            option_text(options),
        ),
        NatAction::Dnat {
            tcp,
            udp,
            listen,
            listen_ports,
            to,
            to_ports,
            from,
            ..
        } => {
            let proto = Protocols {
                tcp: *tcp,
                udp: *udp,
            };
            let listen = Endpoint {
                addr: *listen,
                ports: *listen_ports,
            };
            let to = Endpoint {
                addr: *to,
                ports: *to_ports,
            };
            let from = from.map(|from| format!("from={}", Prefix(from)));
            (
                format!("{proto} {listen}"),
                Some(to.to_string()),
                or_dash(from),
            )
        }
        NatAction::Static {
            external, internal, ..
        } => (
            Prefix(*external).to_string(),
            Some(Prefix(*internal).to_string()),
            or_dash(None::<String>),
        ),
    }
}

/// The options that do not have their defaults.
fn option_text(options: &NatOptions) -> String {
    let default = NatOptions::default();
    let texts = [
        options.ports.map(|ports| format!("ports={ports}")),
        (options.mapping != default.mapping).then(|| format!("mapping={}", options.mapping)),
        (options.filtering != default.filtering)
            .then(|| format!("filtering={}", options.filtering)),
        options.block_size.map(|size| format!("block_size={size}")),
    ];
    let texts: Vec<_> = texts.into_iter().flatten().collect();
    joined(&texts)
}

impl Listing for NatRow {
    const PLURAL: &'static str = "nat";
    const COLUMNS: &'static [&'static str] = &[
        "ID",
        "KIND",
        "MATCH",
        "TO",
        "UPLINK",
        "OPTIONS",
        "HITS",
        "FLOWS",
        "PORTS(used/free)",
    ];

    fn cells(&self) -> Vec<String> {
        let usage = [or_dash(self.hits), or_dash(self.flows), self.ports()];
        self.cells.iter().cloned().chain(usage).collect()
    }

    fn details(&self) -> Vec<(&'static str, String)> {
        let row = Self::COLUMNS.iter().copied().zip(self.cells());
        row.chain([("EXHAUSTED", or_dash(self.exhausted))])
            .collect()
    }
}
