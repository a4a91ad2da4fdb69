//! Memory of a flow, both directions, and of a mapping.

use anyhow::{Context, Result};
use serde::Serialize;

use super::gateway::{Contestant, Gateway, Mode};
use crate::{
    lane::{namespace, veth},
    pins,
    report::{Aim, Bound, number, table},
    run::Findings,
};

/// Flows that there is room for: the default.
const FLOWS: u32 = 262_144;
/// The maps that hold them.
const FLOW_MAPS: [&str; 2] = ["flows", "flow_tags"];
/// The map that holds the mappings.
const MAPPING_MAP: &str = "bindings";

/// What was found.
#[derive(Debug, Serialize)]
pub struct Memory {
    flows: u32,
    bytes_per_flow: f64,
    mapping_entries: u32,
    bytes_per_mapping_entry: f64,
}

/// Asks the kernel what it accounts for the maps of a gateway.
pub fn run() -> Result<Memory> {
    let netns = namespace("memory-gateway")?;
    let outside = namespace("memory-outside")?;
    for interface in ["up", "vm1"] {
        veth(&netns, interface, &outside, interface)?;
    }
    let gateway = Gateway::new(Contestant::Vnet, &netns, 0, FLOWS, Mode::Tc)?;
    let maps = pins::maps(gateway.switch()?)?;
    let find = |name: &str| {
        let map = maps.iter().find(|map| map.name == name);
        map.with_context(|| format!("the switch has pinned no map {name}"))
    };
    let mut bytes = 0;
    for name in FLOW_MAPS {
        bytes += find(name)?.bytes;
    }
    let mappings = find(MAPPING_MAP)?;
    Ok(Memory {
        flows: FLOWS,
        bytes_per_flow: bytes as f64 / f64::from(FLOWS),
        mapping_entries: mappings.max_entries,
        bytes_per_mapping_entry: mappings.entry_bytes(),
    })
}

impl Findings for Memory {
    fn print(&self) {
        let row = |what: &str, entries: u32, bytes| {
            let bytes = number(Some(bytes), 1);
            vec![what.to_owned(), entries.to_string(), bytes]
        };
        table(
            "Memory",
            &["", "room for", "bytes each"],
            &[
                row("flow, both directions", self.flows, self.bytes_per_flow),
                row(
                    "entry of the mappings, of which a mapping has two",
                    self.mapping_entries,
                    self.bytes_per_mapping_entry,
                ),
            ],
        );
    }

    fn aims(&self) -> Vec<Aim> {
        let what = "memory of a flow, both directions, bytes";
        vec![Aim::new(what, self.bytes_per_flow, Bound::AtMost(352.0))]
    }
}
