//! A contestant: what stands in a network namespace between the interfaces `vm1` and `vm2`, and lets what
//! comes from `vm1` out of `vm2` by the last of its rules.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::ValueEnum;
use serde::Serialize;
use vnet_common::Mac;
use vnet_ebpf::traffic::nat::{EXTERNAL, GATEWAY, ROUTER, ROUTER_MAC, VM, VM_MAC};
use xtask::netns::Netns;

use super::rules;
use crate::{
    lane::mac_text,
    nat::{conntrack, text},
    sandbox::CONFIG_DIR,
    vnet_user::VnetUser,
};

/// Who decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Contestant {
    /// vnet, between two ports of a network
    Vnet,
    /// Linux routing with an nftables chain, a rule each
    NftChain,
    /// Linux routing with nftables, all rules in one map
    NftMap,
}

impl Contestant {
    /// How it is named in tables.
    pub fn title(self) -> &'static str {
        match self {
            Self::Vnet => "vnet",
            Self::NftChain => "nft, chain",
            Self::NftMap => "nft, map",
        }
    }

    /// Whether Linux's connection tracking keeps its flows.
    pub fn is_tracked_by_linux(self) -> bool {
        self != Self::Vnet
    }

    /// A ruleset for nft.
    fn ruleset(self, count: u32) -> String {
        match self {
            Self::NftMap => rules::map(count),
            _ => rules::chain(count),
        }
    }
}

/// A contestant at work.
pub struct Filter {
    contestant: Contestant,
    switch: Option<VnetUser>,
    /// Where the VM sends to, and where the answers are sent to.
    pub macs: [Mac; 2],
    number: usize,
}

impl Filter {
    /// Puts a contestant with `count` rules and room for `flows` flows into `netns`. `number` is one that
    /// no other one has. No rules means that nothing is filtered.
    pub fn new(
        contestant: Contestant,
        netns: &Netns,
        number: usize,
        count: u32,
        flows: u32,
    ) -> Result<Self> {
        let mut made = Self {
            contestant,
            switch: None,
            macs: [ROUTER_MAC, VM_MAC],
            number,
        };
        match contestant {
            Contestant::Vnet => {
                let switch = VnetUser::new(&format!("vbp{number}"), netns.name())?;
                let document = switch.file("rules", &document(count, flows))?;
                switch.run(&format!("config apply {document}"))?;
                switch.run("up")?;
                made.switch = Some(switch);
            }
            Contestant::NftChain | Contestant::NftMap => {
                made.macs = route(netns)?;
                if count > 0 {
                    made.apply(netns, count)?;
                }
            }
        }
        Ok(made)
    }

    /// Puts `count` rules in the place of those that there are; gives the time that it took.
    pub fn apply(&self, netns: &Netns, count: u32) -> Result<Duration> {
        if let Some(switch) = &self.switch {
            let document = switch.file("rules", &document(count, ROOM))?;
            return switch.run(&format!("config apply {document}"));
        }
        let path = format!("{CONFIG_DIR}/{}.nft", self.number);
        std::fs::write(&path, self.contestant.ruleset(count))
            .with_context(|| format!("writing {path}"))?;
        timed(|| netns.sh(&format!("nft -f {path}")))
    }

    /// Adds a rule that is about nothing that is sent; gives the time that it took. `turn` is a number
    /// that it was not called with before.
    pub fn add_one(&self, netns: &Netns, turn: u32) -> Result<Duration> {
        let port = 100 + turn;
        if let Some(switch) = &self.switch {
            return switch.run(&format!(
                "policy rule add web --direction in --action deny --proto tcp --ports {port} \
                 --remote 10.9.0.0/16"
            ));
        }
        let added = match self.contestant {
            Contestant::NftMap => {
                format!("add element ip filter rules {{ 10.9.0.0/16 . tcp . {port} : drop }}")
            }
            _ => format!("add rule ip filter forward ip saddr 10.9.0.0/16 tcp dport {port} drop"),
        };
        timed(|| netns.sh(&format!("nft '{added}'")))
    }

    /// Ends every flow.
    pub fn flush(&self, netns: &Netns) -> Result<()> {
        match &self.switch {
            Some(switch) => switch.run("flow flush").map(drop),
            None => conntrack::flush(netns),
        }
    }
}

/// Flows that there is room for: the default size of the table.
pub const ROOM: u32 = 1 << 18;

fn timed<T>(work: impl FnOnce() -> Result<T>) -> Result<Duration> {
    let began = Instant::now();
    work()?;
    Ok(began.elapsed())
}

/// vnet's document: two ports, the second one in a group, unless that has no rules.
fn document(count: u32, flows: u32) -> String {
    let (groups, rules) = if count == 0 {
        ("", String::new())
    } else {
        ("groups = ['web']\n", rules::document(count))
    };
    let [vm, router] = [VM_MAC, ROUTER_MAC].map(mac_text);
    format!(
        "schema = 1\n\n[settings]\nflow_size = {flows}\nflow_quota = {flows}\n\
         \n[[port]]\nname = 'vm1'\n\n[[port]]\nname = 'vm2'\n{groups}\
         \n[[fdb]]\nmac = '{vm}'\nnetwork = 'default'\nport = 'vm1'\n\
         \n[[fdb]]\nmac = '{router}'\nnetwork = 'default'\nport = 'vm2'\n{rules}"
    )
}

/// Linux routes between the two; the MAC addresses to send to.
fn route(netns: &Netns) -> Result<[Mac; 2]> {
    for (interface, address) in [("vm1", GATEWAY), ("vm2", EXTERNAL)] {
        netns.ip(&format!("addr add {}/24 dev {interface}", text(address)))?;
    }
    netns.ip(&format!("route add default via {}", text(ROUTER)))?;
    netns.sh("echo 1 > /proc/sys/net/ipv4/ip_forward")?;
    for (address, mac, interface) in [(VM, VM_MAC, "vm1"), (ROUTER, ROUTER_MAC, "vm2")] {
        netns.ip(&format!(
            "neigh replace {} lladdr {} dev {interface} nud permanent",
            text(address),
            mac_text(mac)
        ))?;
    }
    conntrack::keep(netns)?;
    Ok([mac_of(netns, "vm1")?, mac_of(netns, "vm2")?])
}

fn mac_of(netns: &Netns, interface: &str) -> Result<Mac> {
    let text = netns.ip(&format!("-j link show dev {interface}"))?;
    let links: serde_json::Value =
        serde_json::from_str(&text).context("reading what `ip -j` printed")?;
    links[0]["address"]
        .as_str()
        .and_then(crate::nat::parsed_mac)
        .with_context(|| format!("`ip link` printed no address of {interface}"))
}
