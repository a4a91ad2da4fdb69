//! How long a large document takes to come into force, and a small change of it.

use std::fmt::Write as _;

use anyhow::Result;
use serde::Serialize;

use super::Options;
use crate::{
    lane::{more_ports, namespace},
    report::{Aim, Bound, number, percent, table},
    run::Findings,
    statistics::Rounds,
    vnet_user::VnetUser,
};

/// Ports, each with an interface.
const PORTS: u32 = 1000;
/// Networks, each with a gateway.
const NETWORKS: u32 = 100;
/// Port forwards.
const RULES: u32 = 10_000;

/// What was measured.
#[derive(Debug, Serialize)]
pub struct Apply {
    ports: u32,
    networks: u32,
    rules: u32,
    /// From a switch without ports, networks and rules.
    whole_seconds: Rounds,
    /// One rule of them is another.
    rule_seconds: Rounds,
    /// One port is on another network.
    port_seconds: Rounds,
}

/// Applies a large document to a running switch, changes it, and takes it back.
pub fn run(options: &Options) -> Result<Apply> {
    let netns = namespace("apply")?;
    let switch = VnetUser::new("vb", netns.name())?;
    netns.sh(
        "ip link add up0 up type veth peer name qup0 && ip link set qup0 up &&
         ip addr add 192.0.2.1/24 dev up0",
    )?;
    let ports = more_ports(&netns, PORTS)?;
    let nothing = "schema = 1\n\n[settings]\nmax_ports = 2048\n".to_owned();
    let whole = nothing.clone() + &text(&ports);
    let last = format!("to = '10.{}.0.2:80'\n", NETWORKS - 1);
    let (nothing, rule, port, whole) = (
        switch.file("nothing", &nothing)?,
        switch.file("rule", &replace_last(&whole, &last, "to = '10.1.0.9:81'\n"))?,
        switch.file(
            "port",
            &whole.replacen("network = 'net5'", "network = 'net6'", 1),
        )?,
        switch.file("whole", &whole)?,
    );
    switch.run(&format!("config apply {nothing}"))?;
    switch.run("up")?;
    let apply = |file: &str| switch.run(&format!("config apply {file}"));
    let mut measured = Apply {
        ports: PORTS,
        networks: NETWORKS,
        rules: RULES,
        whole_seconds: Rounds::default(),
        rule_seconds: Rounds::default(),
        port_seconds: Rounds::default(),
    };
    for _ in 0..options.timing.rounds() {
        measured.whole_seconds.push(apply(&whole)?.as_secs_f64());
        measured.rule_seconds.push(apply(&rule)?.as_secs_f64());
        apply(&whole)?;
        measured.port_seconds.push(apply(&port)?.as_secs_f64());
        apply(&nothing)?;
    }
    Ok(measured)
}

/// The networks, ports and rules of the document.
fn text(ports: &[String]) -> String {
    let mut text = String::new();
    for n in 0..NETWORKS {
        let _ = write!(
            text,
            "\n[[network]]\nname = 'net{n}'\nvlan = {}\ngateway = ['10.{n}.0.1/24']\n",
            100 + n
        );
    }
    text.push_str("\n[[port]]\nname = 'up0'\nuplink = true\n");
    for (n, port) in (0..).zip(ports) {
        let network = n % NETWORKS;
        let _ = write!(
            text,
            "\n[[port]]\nname = '{port}'\nnetwork = 'net{network}'\n"
        );
    }
    for n in 0..RULES {
        let _ = write!(
            text,
            "\n[[nat]]\nid = {}\nkind = 'dnat'\nproto = 'tcp'\nlisten = '192.0.2.1:{}'\n\
             to = '10.{}.0.2:80'\n",
            n + 1,
            10_000 + n,
            n % NETWORKS
        );
    }
    text
}

fn replace_last(text: &str, what: &str, by: &str) -> String {
    match text.rsplit_once(what) {
        Some((before, after)) => format!("{before}{by}{after}"),
        None => text.to_owned(),
    }
}

impl Findings for Apply {
    fn print(&self) {
        let row = |what: String, seconds: &Rounds| {
            vec![
                what,
                number(Some(seconds.median()), 2),
                percent(seconds.spread(), 1),
            ]
        };
        let all = format!(
            "{} ports, {} networks and {} rules, s",
            self.ports, self.networks, self.rules
        );
        table(
            "`config apply`",
            &["", "median", "spread"],
            &[
                row(all, &self.whole_seconds),
                row("one rule of them changed, s".into(), &self.rule_seconds),
                row("one port moved, s".into(), &self.port_seconds),
            ],
        );
    }

    fn aims(&self) -> Vec<Aim> {
        let aim =
            |what: &str, seconds: &Rounds| Aim::new(what, seconds.median(), Bound::Below(2.0));
        vec![
            aim("`config apply` of a large document, s", &self.whole_seconds),
            aim("`config apply` of a change in it, s", &self.rule_seconds),
        ]
    }
}
