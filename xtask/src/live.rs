//! A live table of every port's rates.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    io::{IsTerminal, Write},
    time::{Duration, Instant},
};

use anyhow::Result;

use crate::{
    interrupt,
    vnet_user::{PortStats, VnetUser},
};

/// How often the counters are read on a terminal, and where each table stays to be read.
const REDRAWN: Duration = Duration::from_secs(1);
const APPENDED: Duration = Duration::from_secs(5);

/// Shows the switch's counters until Ctrl-C. On a terminal each table replaces the one before,
/// unless `keep` says that other lines come in between.
pub(crate) fn watch(vnet: &VnetUser, keep: bool) -> Result<()> {
    let redraw = std::io::stdout().is_terminal() && !keep;
    let pace = if redraw { REDRAWN } else { APPENDED };
    let mut before = by_port(vnet)?;
    let mut read_at = Instant::now();
    let mut lines_up = 0;
    while interrupt::pause(pace) {
        let now = by_port(vnet)?;
        let elapsed = read_at.elapsed();
        read_at = Instant::now();
        let table = render(&before, &now, elapsed);
        let mut out = std::io::stdout().lock();
        if redraw {
            // Up over the last table, and everything below it erased.
            if lines_up > 0 {
                write!(out, "\x1b[{lines_up}A\x1b[J")?;
            }
            lines_up = table.lines().count();
        }
        write!(out, "{table}")?;
        if !redraw {
            writeln!(out)?;
        }
        out.flush()?;
        before = now;
    }
    Ok(())
}

/// By port and kind: an uplink outside the bridge has its wire and the host behind it under one name.
type Counters = BTreeMap<(String, String), PortStats>;

fn by_port(vnet: &VnetUser) -> Result<Counters> {
    Ok(vnet
        .stats()?
        .stats
        .into_iter()
        .map(|port| ((port.port.clone(), port.kind.clone()), port))
        .collect())
}

fn render(before: &Counters, now: &Counters, elapsed: Duration) -> String {
    let seconds = elapsed.as_secs_f64().max(0.001);
    // A port that is new, or whose counters began again, has no rate yet.
    let rate = |new: u64, old: u64| new.saturating_sub(old) as f64 / seconds;
    let mut table = format!(
        "{:<15} {:<11} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9}\n",
        "PORT", "KIND", "RX PPS", "RX BIT/S", "TX PPS", "TX BIT/S", "HOST PPS", "DROPS"
    );
    for (key, new) in now {
        let name = &key.0;
        let old = before.get(key).unwrap_or(new);
        let drops: u64 = new.drops.values().sum();
        let _ = write!(
            table,
            "{name:<15} {:<11} {:>9} {:>9} {:>9} {:>9} {:>9} {drops:>9}",
            new.kind,
            short(rate(new.rx_packets, old.rx_packets)),
            short(rate(new.rx_bytes, old.rx_bytes) * 8.0),
            short(rate(new.tx_packets, old.tx_packets)),
            short(rate(new.tx_bytes, old.tx_bytes) * 8.0),
            short(rate(new.to_host_packets, old.to_host_packets)),
        );
        if let Some((reason, _)) = new.drops.iter().max_by_key(|(_, count)| **count)
            && drops > 0
        {
            let _ = write!(table, "  {reason}");
        }
        table.push('\n');
    }
    table
}

/// Three digits and a unit: `0`, `950`, `1.25k`, `12.5M`.
fn short(number: f64) -> String {
    let mut scaled = number;
    let mut unit = "";
    for next in ["k", "M", "G"] {
        if scaled < 999.5 {
            break;
        }
        scaled /= 1000.0;
        unit = next;
    }
    let digits = match scaled {
        _ if unit.is_empty() => 0,
        _ if scaled < 9.995 => 2,
        _ if scaled < 99.95 => 1,
        _ => 0,
    };
    format!("{scaled:.digits$}{unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_keep_three_digits() {
        for (number, text) in [
            (0.0, "0"),
            (950.4, "950"),
            (999.7, "1.00k"),
            (1250.0, "1.25k"),
            (12_500_000.0, "12.5M"),
            (999_600_000.0, "1.00G"),
        ] {
            assert_eq!(short(number), text);
        }
    }

    #[test]
    fn rates_come_from_two_readings() {
        let port = |rx_packets, rx_bytes| PortStats {
            port: "tap0".into(),
            kind: "vm".into(),
            rx_packets,
            rx_bytes,
            drops: BTreeMap::from([("vlan_unlisted".into(), 3)]),
            ..PortStats::default()
        };
        let one = BTreeMap::from([(("tap0".to_owned(), "vm".to_owned()), port(100, 10_000))]);
        let two = BTreeMap::from([(("tap0".to_owned(), "vm".to_owned()), port(300, 260_000))]);
        let table = render(&one, &two, Duration::from_secs(2));
        let words: Vec<_> = table.lines().nth(1).unwrap().split_whitespace().collect();
        assert_eq!(
            words,
            [
                "tap0",
                "vm",
                "100",
                "1.00M",
                "0",
                "0",
                "0",
                "3",
                "vlan_unlisted"
            ]
        );
        // Counters that began again after `down` and `up`.
        assert!(render(&two, &one, Duration::from_secs(1)).contains(" 0 "));
    }
}
