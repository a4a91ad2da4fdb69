//! `policy import`.

use std::path::Path;

use serde::Serialize;

use super::edit;
use crate::cli::ImportArgs;
use crate::config::{Config, Direction, Source, edits};
use crate::error::Error;
use crate::import::{Change, Installed, NetworkPolicy, Plan, Pods, install};
use crate::output::{Listing, Output, joined, or_dash};
use crate::runtime::Session;

/// Runs the verb.
pub(super) fn run(session: &mut Session, output: &Output, args: &ImportArgs) -> Result<(), Error> {
    let doing = format!("importing {}", args.file.display());
    let is_stdin = |path: &Path| path.as_os_str() == "-";
    if is_stdin(&args.file) && args.labels.as_deref().is_some_and(is_stdin) {
        return Err(Error::usage(doing, "standard input is one file only")
            .mend("name a file for the policies, or for the labels"));
    }
    let source = Source::open(&args.file)?;
    let policies =
        NetworkPolicy::read_all(&source.text).map_err(|refusal| source.refused(refusal))?;
    if policies.is_empty() {
        return Err(Error::new(doing, "there is no NetworkPolicy in it")
            .mend("name a file that has some, in YAML or JSON"));
    }
    let labels = labels(session, args, &doing)?;
    let pods = Pods::read(&labels.text).map_err(|refusal| labels.refused(refusal))?;
    let plan = Plan::new(&policies, &pods, |at| source.line(at));
    let switch = session.switch().to_owned();
    let mut installed = Vec::new();
    let edited = edit(session, output, &doing, |config| {
        for (port, pod) in &pods.ports {
            let place = || format!("{}, line {}", labels.name, labels.line(pod.place.start));
            let mend = || {
                format!(
                    "vnet-user port add {port} …, or leave it out of the file until it is there"
                )
            };
            edits::policed_port(config, &switch, port, mend)
                .map_err(|refusal| refusal.about(format!("{}: {port}", place())))?;
        }
        installed = install(config, &plan)?;
        Ok(())
    })?;
    for warning in &plan.warnings {
        output.warn(warning);
    }
    let unknown = without_addresses(&edited.new, &installed);
    if !unknown.is_empty() {
        output.warn(&format!(
            "rules know pods by addresses alone, and those of {} are not known: vnet-user port set \
             IFACE --ip ADDR, or --ip learn",
            unknown.join(", ")
        ));
    }
    let rows: Vec<_> = installed.iter().map(Row::new).collect();
    output.list(&rows)
}

/// What says which ports are which pods.
fn labels(session: &Session, args: &ImportArgs, doing: &str) -> Result<Source, Error> {
    if let Some(path) = &args.labels {
        return Source::open(path);
    }
    let path = session.store().path().with_extension("labels.yaml");
    if !path.exists() {
        return Err(Error::new(
            doing,
            format_args!(
                "nothing says which ports are which pods: there is no {}",
                path.display()
            ),
        )
        .mend(
            "write it, or name another with --labels FILE; a line of it: \
             pods: { tap0: { namespace: default, labels: { app: web } } }",
        ));
    }
    Source::open(&path)
}

/// The ports whose pods are named by rules and have no addresses that these would know them by.
fn without_addresses<'a>(config: &Config, installed: &'a [Installed]) -> Vec<&'a str> {
    let pods = installed.iter().filter(|group| group.policy.is_none());
    let ports = pods.flat_map(|group| &group.ports);
    ports
        .map(String::as_str)
        .filter(|name| config.port(name).is_some_and(|port| port.ips.is_empty()))
        .collect()
}

/// A group that the import is about.
#[derive(Serialize)]
struct Row {
    group: String,
    policy: Option<String>,
    isolates: Vec<Direction>,
    rules: usize,
    ports: Vec<String>,
    change: &'static str,
}

impl Row {
    fn new(installed: &Installed) -> Self {
        Self {
            group: installed.group.clone(),
            policy: installed.policy.clone(),
            isolates: installed.isolates.clone(),
            rules: installed.rules,
            ports: installed.ports.clone(),
            change: match installed.change {
                Change::Added => "added",
                Change::Changed => "changed",
                Change::Same => "same",
                Change::Deleted => "deleted",
            },
        }
    }
}

impl Listing for Row {
    const PLURAL: &'static str = "groups";
    const COLUMNS: &'static [&'static str] =
        &["GROUP", "POLICY", "ISOLATES", "RULES", "PORTS", "CHANGE"];

    fn cells(&self) -> Vec<String> {
        vec![
            self.group.clone(),
            or_dash(self.policy.as_ref()),
            joined(&self.isolates),
            self.rules.to_string(),
            joined(&self.ports),
            self.change.to_owned(),
        ]
    }
}
