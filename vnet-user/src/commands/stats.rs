//! `stats`.

use std::collections::BTreeMap;

use serde::Serialize;
use vnet_common::DropReason;

use crate::cli::StatsArgs;
use crate::datapath::counters;
use crate::error::{Doing as _, Error};
use crate::output::{Listing, Output};
use crate::runtime::Session;

/// Runs it.
pub fn run(session: &mut Session, output: &Output, args: StatsArgs) -> Result<(), Error> {
    let doing = "showing counters";
    let state = session.need_up(doing)?;
    let known: Vec<&str> = state
        .slots
        .values()
        .map(|(name, _)| name.as_str())
        .collect();
    if let Some(port) = &args.port
        && !known.contains(&port.as_str())
    {
        return Err(Error::new(
            doing,
            format_args!("{port} is no attached port of the switch"),
        )
        .mend("vnet-user port list shows the ports"));
    }
    let rows = read(session)?;
    let rows: Vec<Row> = rows
        .into_iter()
        .filter(|row| args.port.as_ref().is_none_or(|port| *port == row.port))
        .collect();
    output.list(&rows)
}

/// Every port's counters, summed over the CPUs. What was dropped before its port was known stands
/// under the port `-`, once there is any.
pub(super) fn read(session: &Session) -> Result<Vec<Row>, Error> {
    let doing = || "reading the counters".to_owned();
    let state = session.need_up("showing counters")?;
    let nobody = ("-".to_owned(), "none".to_owned());
    let slots = std::iter::once((&vnet_common::NO_SLOT, &nobody)).chain(&state.slots);
    let mut rows = Vec::new();
    for (slot, (port, kind)) in slots {
        let (traffic, drops) = counters::read(session.pins(), *slot).doing(doing)?;
        let row = Row {
            port: port.clone(),
            kind: kind.clone(),
            rx_packets: traffic.rx_packets,
            rx_bytes: traffic.rx_bytes,
            tx_packets: traffic.tx_packets,
            tx_bytes: traffic.tx_bytes,
            to_host_packets: traffic.to_host_packets,
            flooded_packets: traffic.flooded_packets,
            fdb_full: traffic.fdb_full,
            fdb_port_limit: traffic.fdb_port_limit,
            drops: DropReason::ALL
                .iter()
                .map(|reason| (reason.name(), drops.get(*reason)))
                .filter(|(_, count)| *count != 0)
                .collect(),
        };
        if kind != "none" || row.rx_packets != 0 || !row.drops.is_empty() {
            rows.push(row);
        }
    }
    rows.sort_by(|a, b| (&a.port, &a.kind).cmp(&(&b.port, &b.kind)));
    Ok(rows)
}

/// One port's counters.
#[derive(Serialize)]
pub(super) struct Row {
    port: String,
    kind: String,
    rx_packets: u64,
    rx_bytes: u64,
    tx_packets: u64,
    tx_bytes: u64,
    to_host_packets: u64,
    flooded_packets: u64,
    fdb_full: u64,
    fdb_port_limit: u64,
    drops: BTreeMap<&'static str, u64>,
}

impl Listing for Row {
    const PLURAL: &'static str = "stats";
    const COLUMNS: &'static [&'static str] = &[
        "PORT",
        "KIND",
        "RX PACKETS",
        "RX BYTES",
        "TX PACKETS",
        "TX BYTES",
        "TO HOST",
        "FLOODED",
        "NOT LEARNED",
        "DROPS",
    ];

    fn cells(&self) -> Vec<String> {
        let drops: Vec<String> = self
            .drops
            .iter()
            .map(|(reason, count)| format!("{reason} {count}"))
            .collect();
        vec![
            self.port.clone(),
            self.kind.clone(),
            self.rx_packets.to_string(),
            self.rx_bytes.to_string(),
            self.tx_packets.to_string(),
            self.tx_bytes.to_string(),
            self.to_host_packets.to_string(),
            self.flooded_packets.to_string(),
            (self.fdb_full + self.fdb_port_limit).to_string(),
            if drops.is_empty() {
                "-".into()
            } else {
                drops.join(", ")
            },
        ]
    }
}
