//! Counters as a sparse table, for comparing and for saying what is expected.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, bail, ensure};
use vnet_common::{
    DropCounters, DropReason, NatCounters, PolicyCounters, PortCounters, flow::FlowCounters,
};

/// Counters that are not zero, by slot and name. A reason's name is its counter's. Past all slots
/// are those of connections ([`FLOWS`]) and of rules ([`rule_slot`], [`policy_slot`]).
pub type Ledger = BTreeMap<(u16, &'static str), u64>;

/// Where the counters of connections are.
pub const FLOWS: u16 = u16::MAX;

/// Where a rule's counters are.
#[must_use]
pub const fn rule_slot(id: u16) -> u16 {
    0x8000 + id
}

/// Adds counters of connections to `ledger`.
pub fn enter_flows(ledger: &mut Ledger, counters: &FlowCounters) {
    let FlowCounters {
        created,
        ended,
        evicted,
    } = *counters;
    let counts = [("created", created), ("ended", ended), ("evicted", evicted)];
    enter_all(ledger, FLOWS, counts);
}

/// Adds a rule's counters to `ledger`.
pub fn enter_rule(ledger: &mut Ledger, id: u16, counters: &NatCounters) {
    let NatCounters {
        hits,
        ended,
        ports_taken,
        ports_released,
        exhausted,
    } = *counters;
    let counts = [
        ("hits", hits),
        ("ended", ended),
        ("ports_taken", ports_taken),
        ("ports_released", ports_released),
        ("exhausted", exhausted),
    ];
    enter_all(ledger, rule_slot(id), counts);
}

/// Where the counters of a security group's rule are.
#[must_use]
pub const fn policy_slot(id: u16) -> u16 {
    0xc000 + id
}

/// Adds the counters of a security group's rule to `ledger`.
pub fn enter_policy(ledger: &mut Ledger, id: u16, counters: &PolicyCounters) {
    let PolicyCounters {
        packets,
        bytes,
        flows,
    } = *counters;
    let counts = [("packets", packets), ("bytes", bytes), ("flows", flows)];
    enter_all(ledger, policy_slot(id), counts);
}

fn enter_all(
    ledger: &mut Ledger,
    slot: u16,
    counts: impl IntoIterator<Item = (&'static str, u64)>,
) {
    for (name, count) in counts.into_iter().filter(|(_, count)| *count != 0) {
        *ledger.entry((slot, name)).or_default() += count;
    }
}

/// Adds a slot's counters to `ledger`.
pub fn enter(ledger: &mut Ledger, slot: u16, port: &PortCounters, drops: &DropCounters) {
    // Taken apart, so that a new counter cannot be forgotten here.
    let PortCounters {
        rx_packets,
        rx_bytes,
        tx_packets,
        tx_bytes,
        to_host_packets,
        flooded_packets,
        fdb_full,
        fdb_port_limit,
    } = *port;
    let traffic = [
        ("rx_packets", rx_packets),
        ("rx_bytes", rx_bytes),
        ("tx_packets", tx_packets),
        ("tx_bytes", tx_bytes),
        ("to_host_packets", to_host_packets),
        ("flooded_packets", flooded_packets),
        ("fdb_full", fdb_full),
        ("fdb_port_limit", fdb_port_limit),
    ];
    let drops = DropReason::ALL.iter().map(|r| (r.name(), drops.get(*r)));
    enter_all(ledger, slot, traffic.into_iter().chain(drops));
}

/// What was counted between two states.
#[must_use]
pub fn since(before: &Ledger, after: &Ledger) -> Ledger {
    after
        .iter()
        .map(|(key, count)| (*key, count - before.get(key).unwrap_or(&0)))
        .filter(|(_, count)| *count != 0)
        .collect()
}

/// The drops among the counters: reason and slot.
pub fn drops(ledger: &Ledger) -> impl Iterator<Item = ((DropReason, u16), u64)> {
    ledger.iter().filter_map(|((slot, name), count)| {
        let reason = reason(name)?;
        Some(((reason, *slot), *count))
    })
}

/// The sum of one counter over all slots.
#[must_use]
pub fn total(ledger: &Ledger, counter: &str) -> u64 {
    ledger
        .iter()
        .filter(|((_, name), _)| *name == counter)
        .map(|(_, count)| count)
        .sum()
}

/// The reason called `name`.
#[must_use]
pub fn reason(name: &str) -> Option<DropReason> {
    DropReason::ALL.iter().copied().find(|r| r.name() == name)
}

/// Reads counters as fixtures write them, a port a line:
/// `tap0: rx 3/180 flooded 1 mac_denied 1`. `rx` and `tx` are packets and bytes; `slot` finds a
/// port by its name.
///
/// # Errors
/// A name or a number that is none.
pub fn parse(text: &str, slot: impl Fn(&str) -> Result<u16>) -> Result<Ledger> {
    let mut ledger = Ledger::new();
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let (port, counters) = line.split_once(": ").context("a line is `PORT: …`")?;
        let slot = slot(port)?;
        let mut words = counters.split_whitespace();
        while let Some(name) = words.next() {
            let value = words.next().with_context(|| format!("{name} of {port}?"))?;
            let mut put = |name, value: &str| -> Result<()> {
                let count = value
                    .parse()
                    .with_context(|| format!("{name} of {port}: {value}"))?;
                ensure!(count != 0, "{name} of {port}: what is zero is left out");
                ensure!(
                    ledger.insert((slot, name), count).is_none(),
                    "{name} of {port} twice"
                );
                Ok(())
            };
            match name {
                "rx" | "tx" => {
                    let (packets, bytes) = value
                        .split_once('/')
                        .with_context(|| format!("{name} of {port} is PACKETS/BYTES"))?;
                    let rx = name == "rx";
                    put(if rx { "rx_packets" } else { "tx_packets" }, packets)?;
                    put(if rx { "rx_bytes" } else { "tx_bytes" }, bytes)?;
                }
                "to_host" => put("to_host_packets", value)?,
                "flooded" => put("flooded_packets", value)?,
                "fdb_full" => put("fdb_full", value)?,
                "fdb_port_limit" => put("fdb_port_limit", value)?,
                "created" => put("created", value)?,
                "ended" => put("ended", value)?,
                "evicted" => put("evicted", value)?,
                "hits" => put("hits", value)?,
                "ports_taken" => put("ports_taken", value)?,
                "ports_released" => put("ports_released", value)?,
                "exhausted" => put("exhausted", value)?,
                "packets" => put("packets", value)?,
                "bytes" => put("bytes", value)?,
                "flows" => put("flows", value)?,
                other => match reason(other) {
                    Some(reason) => put(reason.name(), value)?,
                    None => bail!("no counter is called {other}"),
                },
            }
        }
    }
    Ok(ledger)
}

/// Counters as [`parse`] reads them; `name` tells a slot's port.
#[must_use]
pub fn render(ledger: &Ledger, name: impl Fn(u16) -> String) -> String {
    let mut ports: BTreeMap<u16, Vec<String>> = BTreeMap::new();
    let get = |slot, counter| ledger.get(&(slot, counter)).copied().unwrap_or(0);
    for ((slot, counter), count) in ledger {
        let words = ports.entry(*slot).or_default();
        match *counter {
            "rx_packets" => words.insert(0, format!("rx {count}/{}", get(*slot, "rx_bytes"))),
            "tx_packets" => words.push(format!("tx {count}/{}", get(*slot, "tx_bytes"))),
            "rx_bytes" | "tx_bytes" => {}
            other => words.push(format!("{} {count}", other.trim_end_matches("_packets"))),
        }
    }
    let lines: Vec<String> = ports
        .into_iter()
        .map(|(slot, words)| format!("{}: {}", name(slot), words.join(" ")))
        .collect();
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_rendered_is_read_again() {
        let ledger = Ledger::from([
            ((1, "rx_packets"), 3),
            ((1, "rx_bytes"), 180),
            ((1, "mac_denied"), 1),
            ((2, "tx_packets"), 2),
            ((2, "tx_bytes"), 120),
            ((2, "flooded_packets"), 2),
        ]);
        let text = render(&ledger, |slot| format!("p{slot}"));
        assert_eq!(text, "p1: rx 3/180 mac_denied 1\np2: flooded 2 tx 2/120");
        let slot = |name: &str| Ok(name[1..].parse()?);
        assert_eq!(parse(&text, slot).expect("readable"), ledger);
    }

    #[test]
    fn mistakes_in_a_fixture_do_not_pass() {
        for text in ["p1 rx 1/2", "p1: rx 1", "p1: mac_denyed 1", "p1: runt 0"] {
            assert!(parse(text, |_| Ok(1)).is_err(), "{text}");
        }
    }
}
