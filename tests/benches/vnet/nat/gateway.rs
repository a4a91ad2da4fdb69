//! A contestant: what stands in a network namespace between the interfaces `up` and `vm1`.

use std::net::Ipv4Addr;

use anyhow::{Context, Result};
use clap::ValueEnum;
use serde::Serialize;
use vnet_common::Mac;
use vnet_ebpf::traffic::nat::{EXTERNAL, GATEWAY, ROUTER, ROUTER_MAC, VM, VM_MAC};
use xtask::netns::Netns;

use super::conntrack;
use crate::{
    lane::{ifindex, mac_text},
    programs::{Interface, Programs, Purpose},
    vnet_user::VnetUser,
};

/// What translates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Contestant {
    /// Programs that redirect everything
    Redirect,
    /// The lookup, rewrite and counters that a NAT gateway cannot do without
    Floor,
    /// vnet
    Vnet,
    /// Linux routing with nft's masquerade
    Nft,
}

impl Contestant {
    /// How it is named in options.
    pub fn name(self) -> String {
        self.to_possible_value()
            .map_or_else(String::new, |value| value.get_name().to_owned())
    }

    /// How it is named in tables.
    pub fn title(self) -> &'static str {
        match self {
            Self::Redirect => "no-op",
            Self::Floor => "floor",
            Self::Vnet => "vnet",
            Self::Nft => "nft masquerade",
        }
    }
}

/// Where vnet gets what comes in from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// `--mode xdp`.
    Xdp,
    /// `--mode tc`.
    Tc,
}

/// A contestant at work.
pub struct Gateway {
    contestant: Contestant,
    programs: Vec<Programs>,
    switch: Option<VnetUser>,
    inside: Side,
    outside: Side,
    /// Flows that the NAT floor knows of.
    filled: u32,
}

/// The interface that holds the gateway's address on one side.
#[derive(Clone, Debug)]
struct Side {
    name: String,
    interface: Interface,
}

impl Gateway {
    /// Puts a contestant with room for `flows` flows into `netns`. `number` is one that no other
    /// gateway has at that time.
    pub fn new(
        contestant: Contestant,
        netns: &Netns,
        number: usize,
        flows: u32,
        mode: Mode,
    ) -> Result<Self> {
        let mut made = Self {
            contestant,
            programs: Vec::new(),
            switch: None,
            inside: Side::named(netns, "vm1")?,
            outside: Side::named(netns, "up")?,
            filled: 0,
        };
        let doing = || format!("preparing {}", contestant.title());
        match contestant {
            Contestant::Redirect => made.redirect(netns),
            Contestant::Floor => made.floor(netns, flows),
            Contestant::Vnet => made.vnet(netns, number, flows, mode),
            Contestant::Nft => made.nft(netns),
        }
        .with_context(doing)?;
        Ok(made)
    }

    fn redirect(&mut self, netns: &Netns) -> Result<()> {
        let mut in_xdp = Programs::new(self.inside.interface.ifindex, 1)?;
        in_xdp.attach_xdp("redirect_xdp", netns.name(), "up")?;
        let mut at_tc = Programs::new(self.outside.interface.ifindex, 1)?;
        at_tc.attach_tc("redirect_tc", netns.name(), "vm1")?;
        self.programs = vec![in_xdp, at_tc];
        Ok(())
    }

    fn floor(&mut self, netns: &Netns, flows: u32) -> Result<()> {
        let mut programs = Programs::made_for(&Purpose {
            fdb_size: 1,
            nat_flows: flows,
            ..Purpose::default()
        })?;
        programs.attach_xdp("nat_floor_xdp", netns.name(), "up")?;
        programs.attach_tc("nat_floor_tc", netns.name(), "vm1")?;
        self.programs = vec![programs];
        Ok(())
    }

    fn vnet(&mut self, netns: &Netns, number: usize, flows: u32, mode: Mode) -> Result<()> {
        address_outside(netns)?;
        let gateway = text(GATEWAY);
        let mode = match mode {
            Mode::Xdp => "xdp",
            Mode::Tc => "tc",
        };
        let switch = VnetUser::new(&format!("vbnat{number}"), netns.name())?;
        for command in [
            &format!("set flow_size={flows} flow_quota={flows}"),
            &format!("network add lan --gateway {gateway}/24"),
            "port add vm1 --network lan",
            &format!("up --uplink up --mode {mode}"),
            "nat add masquerade --network lan --uplink up",
        ] {
            switch.run(command)?;
        }
        self.inside = Side::holding(netns, &gateway)?;
        self.switch = Some(switch);
        Ok(())
    }

    fn nft(&self, netns: &Netns) -> Result<()> {
        address_outside(netns)?;
        netns.ip(&format!("addr add {}/24 dev vm1", text(GATEWAY)))?;
        netns.sh("echo 1 > /proc/sys/net/ipv4/ip_forward")?;
        netns.sh(
            "nft 'table ip nat { chain postrouting { type nat hook postrouting priority srcnat; \
             oifname \"up\" masquerade; }; }'",
        )?;
        conntrack::keep(netns)
    }

    /// Tells it where the VM and the router are, who do not answer by themselves.
    pub fn know_neighbours(&self, netns: &Netns) -> Result<()> {
        if matches!(self.contestant, Contestant::Redirect | Contestant::Floor) {
            return Ok(());
        }
        for (address, mac, side) in [
            (VM, VM_MAC, &self.inside),
            (ROUTER, ROUTER_MAC, &self.outside),
        ] {
            netns.ip(&format!(
                "neigh replace {} lladdr {} dev {} nud permanent",
                text(address),
                mac_text(mac),
                side.name
            ))?;
        }
        if let Some(switch) = &self.switch {
            let mac = mac_text(VM_MAC);
            switch.run(&format!("fdb add {mac} --network lan --port vm1"))?;
        }
        Ok(())
    }

    /// Lets the floor, whose table is filled by hand, know the first `flows` flows.
    pub fn fill(&mut self, flows: u32) -> Result<()> {
        let (outside, inside) = (self.outside.interface, self.inside.interface);
        if self.contestant == Contestant::Floor && self.filled < flows {
            for programs in &mut self.programs {
                programs.fill_nat_floor(self.filled..flows, outside, inside)?;
            }
            self.filled = flows;
        }
        Ok(())
    }

    /// Ends every flow.
    pub fn flush(&self, netns: &Netns) -> Result<()> {
        match &self.switch {
            Some(switch) => switch.run("flow flush").map(drop),
            None => conntrack::flush(netns),
        }
    }

    /// Where the VM sends what is for the outside.
    pub fn inside_mac(&self) -> Mac {
        self.inside.interface.mac
    }

    /// Where the router sends what is for the VM.
    pub fn outside_mac(&self) -> Mac {
        self.outside.interface.mac
    }

    /// vnet's switch.
    pub fn switch(&self) -> Result<&str> {
        let switch = self.switch.as_ref();
        Ok(switch.context("there is no switch")?.switch())
    }
}

/// The gateway's address outside, and the way on.
fn address_outside(netns: &Netns) -> Result<()> {
    netns.ip(&format!("addr add {}/24 dev up", text(EXTERNAL)))?;
    netns.ip(&format!("route add default via {}", text(ROUTER)))?;
    Ok(())
}

impl Side {
    fn named(netns: &Netns, name: &str) -> Result<Self> {
        let link = &json(netns, &format!("-j link show dev {name}"))?[0];
        let mac = link["address"].as_str().and_then(parsed_mac);
        Ok(Self {
            name: name.to_owned(),
            interface: Interface {
                ifindex: ifindex(netns, name)?,
                mac: mac.with_context(|| format!("`ip link` printed no address of {name}"))?,
            },
        })
    }

    /// The interface that has an address.
    fn holding(netns: &Netns, address: &str) -> Result<Self> {
        let list = json(netns, &format!("-j addr show to {address}"))?;
        let mut names = list.as_array().into_iter().flatten();
        let name = names.find_map(|link| link["ifname"].as_str());
        let name = name.with_context(|| format!("no interface has the address {address}"))?;
        Self::named(netns, name)
    }
}

fn json(netns: &Netns, arguments: &str) -> Result<serde_json::Value> {
    serde_json::from_str(&netns.ip(arguments)?).context("reading what `ip -j` printed")
}

/// A MAC address as programs print it.
pub fn parsed_mac(text: &str) -> Option<Mac> {
    let bytes: Option<Vec<u8>> = text
        .split(':')
        .map(|byte| u8::from_str_radix(byte, 16).ok())
        .collect();
    bytes?.try_into().ok()
}

/// An address as programs take it.
pub fn text(address: [u8; 4]) -> String {
    Ipv4Addr::from(address).to_string()
}
