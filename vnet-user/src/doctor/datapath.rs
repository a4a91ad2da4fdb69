//! The datapath in the kernel: pins, programs, how full its tables are, and drops that tell of a
//! mistake.

use std::collections::BTreeMap;

use vnet_common::DropReason;

use super::{AS_ROOT, Check, Scope};
use crate::config::Config;
use crate::datapath::{bans, counters, flows, maps, object};
use crate::host::Link;
use crate::runtime::Session;
use crate::state::RunState;
use crate::sync;

/// From this share of a table on, in per cent, it is told of.
const PRESSURE: u64 = 80;

/// Whether the switch is up, by its two witnesses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Witnesses {
    /// Pins are there; `None` where they may not be looked at.
    pub pins: Option<bool>,
    /// A state file is there.
    pub state: bool,
}

/// A table and what is in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// What it holds.
    pub name: &'static str,
    /// How many there are.
    pub used: u64,
    /// How many there can be.
    pub limit: u64,
    /// How it gets larger.
    pub mend: &'static str,
}

/// Looks at the datapath as far as it is there.
#[must_use]
pub fn examine(session: &Session, config: &Config, listed: &[Link]) -> Vec<Check> {
    let scope = Scope::new("datapath");
    let witnesses = Witnesses {
        pins: session.pins().look().ok(),
        state: RunState::load(session.run_dir(), session.switch()).is_ok_and(|s| s.is_some()),
    };
    let mut checks = vec![presence(&scope, witnesses)];
    let foreign = session.pins().foreign();
    let foreign: Vec<String> = foreign
        .iter()
        .map(|path| path.display().to_string())
        .collect();
    checks.extend(layouts(&scope, &foreign));
    let Some(state) = session.state() else {
        return checks;
    };
    let layout = object::check_layout(session.pins(), &state.sizes);
    checks.push(schema(
        &scope,
        layout.err().map(|error| format!("{error:#}")),
    ));
    checks.push(programs(&scope, &state.object, &object::object_id()));
    let device = listed.iter().find(|link| link.index == state.device);
    checks.push(device_check(&scope, session.switch(), device));
    checks.extend(pending(&scope, config, state));
    match tables(session, config, state) {
        Ok(tables) => checks.extend(tables.iter().map(|table| pressure(&scope, table))),
        Err(error) => checks.push(
            scope
                .fail("tables", "vnet-user down, then up")
                .detail(format_args!("they cannot be read: {error:#}")),
        ),
    }
    match dropped(session, state) {
        Ok(dropped) => checks.extend(telling(&dropped)),
        Err(error) => checks.push(
            scope
                .fail("drops", "vnet-user down, then up")
                .detail(format_args!("they cannot be read: {error:#}")),
        ),
    }
    if let Ok(usage) = session.nat_usage() {
        let exhausted: Vec<(u16, u64)> = usage.iter().map(|(id, u)| (*id, u.exhausted)).collect();
        checks.extend(ports_of_rules(&scope, &exhausted));
    }
    checks
}

/// Whether pins and state file agree.
#[must_use]
pub fn presence(scope: &Scope, witnesses: Witnesses) -> Check {
    let what = "switch";
    match (witnesses.pins, witnesses.state) {
        (Some(true), true) => scope.pass(what).detail("up"),
        (Some(false), false) => scope.pass(what).detail("down"),
        (None, _) => scope
            .warn(what, AS_ROOT)
            .detail("pins may not be looked at"),
        (Some(true), false) => scope
            .fail(what, "vnet-user down, then up")
            .detail("pins are there, and the file that tells what they belong to is not"),
        (Some(false), true) => scope
            .fail(what, "vnet-user down, then up")
            .detail("it was up, and its pins are gone: is the BPF file system mounted?"),
    }
}

/// Folders that another version of vnet left.
#[must_use]
pub fn layouts(scope: &Scope, foreign: &[String]) -> Option<Check> {
    let found = foreign.first()?;
    Some(
        scope
            .fail(
                "schema of the pins",
                "vnet-user down, then up: connections and learned addresses are forgotten",
            )
            .detail(format_args!("{found} is of another version of vnet")),
    )
}

/// Whether the pinned maps are as this build makes them; `differs` says which is not.
#[must_use]
pub fn schema(scope: &Scope, differs: Option<String>) -> Check {
    match differs {
        None => scope.pass("layout of the maps"),
        Some(why) => scope
            .fail(
                "layout of the maps",
                "vnet-user down, then up: connections and learned addresses are forgotten",
            )
            .detail(why),
    }
}

fn programs(scope: &Scope, running: &str, own: &str) -> Check {
    if running == own {
        return scope.pass("programs");
    }
    scope
        .warn("programs", "`vnet-user up` replaces them in place")
        .detail("of another build than this vnet-user")
}

fn device_check(scope: &Scope, switch: &str, device: Option<&Link>) -> Check {
    let (what, mend) = ("switch device", "vnet-user down, then up");
    match device {
        Some(device) if device.name == switch => scope.pass(what),
        Some(device) => scope
            .fail(what, format!("ip link set {} name {switch}", device.name))
            .detail(format_args!("it is called {} now", device.name)),
        None => scope
            .fail(what, mend)
            .detail(format_args!("{switch} is gone")),
    }
}

/// What the document says and the kernel does not do yet.
#[must_use]
pub fn pending(scope: &Scope, config: &Config, state: &RunState) -> Vec<Check> {
    let (sizes, settings) = (&state.sizes, &config.settings);
    let same_sizes = sizes.max_ports == settings.max_ports
        && sizes.fdb_size == settings.fdb_size
        && sizes.flow_size == settings.flow_size;
    let closed = |closed: bool| if closed { "closed" } else { "open" };
    let wanted = sync::is_closed(config);
    vec![
        if same_sizes {
            scope.pass("sizes of the tables")
        } else {
            scope
                .warn("sizes of the tables", "vnet-user down, then up")
                .detail("the document has others than the kernel")
        },
        if wanted == state.fail_closed {
            scope.pass("fail mode").detail(closed(wanted))
        } else {
            scope.warn("fail mode", "vnet-user up").detail(format_args!(
                "{} now, {} as the document says",
                closed(state.fail_closed),
                closed(wanted)
            ))
        },
    ]
}

fn tables(session: &Session, config: &Config, state: &RunState) -> anyhow::Result<Vec<Table>> {
    let pins = session.pins();
    let addresses = maps::array::<u32>(pins, "fdb_count")?.get(&0, 0)?;
    let (mappings, most_mappings) = flows::mappings(pins)?;
    let (contacts, most_contacts) = flows::contacts(pins)?;
    let sources = bans::sources(pins)?;
    let attempts = bans::attempts(pins)?;
    let banned = bans::bans(pins)?;
    let table = |name, used: u64, limit: u32, mend| Table {
        name,
        used,
        limit: limit.into(),
        mend,
    };
    Ok(vec![
        table(
            "addresses",
            addresses.into(),
            config.settings.fdb_size.min(state.sizes.fdb_size),
            "vnet-user set fdb_size=N, down and up; --max-macs limits a port",
        ),
        table(
            "flows",
            flows::count(pins)?.into(),
            flows::conf(pins)?.flow_limit,
            "vnet-user set flow_size=N, down and up; flow list tells whose they are",
        ),
        table(
            "mappings",
            mappings as u64,
            most_mappings,
            "vnet-user set flow_size=N, down and up",
        ),
        table(
            "contacts",
            contacts as u64,
            most_contacts,
            "vnet-user set flow_size=N, down and up",
        ),
        table(
            "sources",
            sources.used as u64,
            sources.limit,
            "vnet-user set flow_size=N, down and up; source_flow_quota=N",
        ),
        table(
            "attempts",
            attempts.used as u64,
            attempts.limit,
            "the sources that have not tried for the longest time are forgotten; shorten --within of \
             ban rules",
        ),
        table(
            "bans",
            banned.used as u64,
            banned.limit,
            "the sources that have not tried for the longest time are let in; shorten --time of ban \
             rules",
        ),
        table(
            "port slots",
            state.slots.len() as u64,
            state.sizes.max_ports - 1,
            "vnet-user set max_ports=N, down and up",
        ),
    ])
}

/// How full a table is.
#[must_use]
pub fn pressure(scope: &Scope, table: &Table) -> Check {
    let what = format!("table of {}", table.name);
    let check = if table.used >= table.limit {
        scope.fail(what, table.mend)
    } else if table.used * 100 >= table.limit * PRESSURE {
        scope.warn(what, table.mend)
    } else {
        scope.pass(what)
    };
    check.detail(format_args!("{} of {}", table.used, table.limit))
}

/// Frames dropped at a port since `up`, by reason.
type Dropped = BTreeMap<String, Vec<(DropReason, u64)>>;

fn dropped(session: &Session, state: &RunState) -> anyhow::Result<Dropped> {
    let mut dropped = Dropped::new();
    for (slot, (port, _)) in &state.slots {
        let (_, drops) = counters::read(session.pins(), *slot)?;
        let counts = DropReason::ALL
            .iter()
            .map(|reason| (*reason, drops.get(*reason)));
        let here = dropped.entry(port.clone()).or_default();
        here.extend(counts.filter(|(_, count)| *count > 0));
    }
    Ok(dropped)
}

/// Drops that tell of a mistake on one side or the other, a check a port.
#[must_use]
pub fn telling(dropped: &Dropped) -> Vec<Check> {
    let mut checks = Vec::new();
    for (port, counts) in dropped {
        let scope = Scope::new(format!("port {port}"));
        let told: Vec<_> = counts
            .iter()
            .filter_map(|(reason, count)| Some((reason, count, mend(*reason)?)))
            .collect();
        if told.is_empty() {
            checks.push(scope.pass("telling drops"));
        }
        for (reason, count, mend) in told {
            checks.push(
                scope
                    .warn("telling drops", mend)
                    .detail(format_args!("{count} for {} since up", reason.name())),
            );
        }
    }
    checks
}

/// What to do about drops that somebody's configuration causes, or that one's own limits make of what may
/// be meant well; `None` for those that a guard makes on purpose.
fn mend(reason: DropReason) -> Option<&'static str> {
    match reason {
        DropReason::VlanUnlisted => Some(
            "the other side sends a tag that this trunk does not list: vnet-user port set IFACE --trunk",
        ),
        DropReason::VlanUntagged => {
            Some("the other side sends untagged frames: vnet-user port set IFACE --native NAME")
        }
        DropReason::VlanTagged => Some(
            "the other side takes this access port for a trunk: vnet-user port set IFACE --trunk",
        ),
        DropReason::MacSourceLocal => {
            Some("a station has an address of the host's: give it another")
        }
        DropReason::MacSourceStatic => Some(
            "an address is static at another port: vnet-user fdb del, or give the station another",
        ),
        DropReason::MtuExceeded => {
            Some("the way out has a smaller MTU: make them equal, or vnet-user set mss_clamp=auto")
        }
        DropReason::NatTableFull => Some("vnet-user set flow_size=N, down and up"),
        DropReason::NatQuota => Some("vnet-user flow list --vm tells which; set flow_quota=N"),
        DropReason::NatRate | DropReason::PolicyRate => {
            Some("vnet-user events tells which VM; set flow_rate=N")
        }
        DropReason::PolicyQuota => Some("vnet-user flow list --vm tells which; set flow_quota=N"),
        DropReason::SourceRate => {
            Some("vnet-user events tells which source; set source_flow_rate=N")
        }
        DropReason::SourceQuota => {
            Some("vnet-user events tells which source; set source_flow_quota=N")
        }
        DropReason::SourceBanned => Some(
            "vnet-user ban list tells whom; ban del ADDR lets one in, --except of ban rule add for good",
        ),
        DropReason::StormArp => Some(
            "what is behind the port asks for too many addresses: vnet-user port set IFACE --storm arp=PPS",
        ),
        DropReason::StormNd => Some(
            "what is behind the port asks for too many addresses: vnet-user port set IFACE --storm nd=PPS",
        ),
        DropReason::PolicyTableFull => Some("vnet-user set flow_size=N, down and up"),
        DropReason::NatUntranslated => {
            Some("no rule translates what this private network sends: vnet-user nat add masquerade")
        }
        DropReason::IpNoRoute => Some("the host has no route: ip route"),
        _ => None,
    }
}

/// Rules that ran out of external ports.
#[must_use]
pub fn ports_of_rules(scope: &Scope, exhausted: &[(u16, u64)]) -> Vec<Check> {
    exhausted
        .iter()
        .map(|(id, count)| {
            let what = format!("external ports of rule {id}");
            if *count == 0 {
                return scope.pass(what);
            }
            scope
                .warn(what, "widen its --ports, or give its pool more addresses")
                .detail(format_args!(
                    "{count} connections were refused for want of one since up"
                ))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::Verdict::{self, Fail, Pass, Warn};
    use super::super::ports::tests::link;
    use super::*;
    use crate::config::FailMode;

    fn scope() -> Scope {
        Scope::new("datapath")
    }

    #[test]
    fn pins_and_state() {
        for (pins, state, wanted) in [
            (Some(true), true, Pass),
            (Some(false), false, Pass),
            (None, true, Warn),
            (Some(true), false, Fail),
            (Some(false), true, Fail),
        ] {
            let check = presence(&scope(), Witnesses { pins, state });
            assert_eq!(check.result, wanted, "{pins:?} {state}");
        }
    }

    #[test]
    fn other_versions() {
        assert_eq!(layouts(&scope(), &[]), None);
        let found = layouts(&scope(), &["/sys/fs/bpf/vnet/vsw0/v1".into()]);
        assert_eq!(found.unwrap().result, Fail);
        assert_eq!(schema(&scope(), None).result, Pass);
        assert_eq!(schema(&scope(), Some("key size".into())).result, Fail);
        assert_eq!(programs(&scope(), "a", "a").result, Pass);
        assert_eq!(programs(&scope(), "a", "b").result, Warn);
    }

    #[test]
    fn devices() {
        let verdict = |device: Option<Link>| device_check(&scope(), "vsw0", device.as_ref()).result;
        assert_eq!(verdict(Some(link("vsw0", 1))), Pass);
        assert_eq!(verdict(Some(link("br0", 1))), Fail);
        assert_eq!(verdict(None), Fail);
    }

    #[test]
    fn what_waits_for_a_restart() {
        let mut config = Config::default();
        let mut state = RunState::default();
        state.sizes.max_ports = config.settings.max_ports;
        state.sizes.fdb_size = config.settings.fdb_size;
        state.sizes.flow_size = config.settings.flow_size;
        let verdicts = |config: &Config, state: &RunState| -> Vec<Verdict> {
            let checks = pending(&scope(), config, state);
            checks.iter().map(|check| check.result).collect()
        };
        assert_eq!(verdicts(&config, &state), [Pass, Pass]);
        config.settings.flow_size *= 2;
        assert_eq!(verdicts(&config, &state), [Warn, Pass]);
        config.fail = FailMode::Closed;
        assert_eq!(verdicts(&config, &state), [Warn, Warn]);
    }

    #[test]
    fn tables_fill() {
        for (used, wanted) in [
            (0, Pass),
            (79, Pass),
            (80, Warn),
            (99, Warn),
            (100, Fail),
            (101, Fail),
        ] {
            let table = Table {
                name: "flows",
                used,
                limit: 100,
                mend: "more",
            };
            assert_eq!(pressure(&scope(), &table).result, wanted, "{used}");
        }
    }

    #[test]
    fn drops_that_tell() {
        let verdicts = |counts: &[(DropReason, u64)]| -> Vec<Verdict> {
            let dropped = Dropped::from([("tap0".into(), counts.to_vec())]);
            telling(&dropped).iter().map(|check| check.result).collect()
        };
        assert_eq!(verdicts(&[]), [Pass]);
        assert_eq!(
            verdicts(&[(DropReason::MacDenied, 7)]),
            [Pass],
            "on purpose"
        );
        let told = [
            (DropReason::VlanUnlisted, 1),
            (DropReason::MacSourceLocal, 2),
        ];
        assert_eq!(verdicts(&told), [Warn, Warn]);
        let limits = [
            (DropReason::SourceRate, 1),
            (DropReason::SourceQuota, 2),
            (DropReason::SourceBanned, 3),
            (DropReason::StormArp, 4),
            (DropReason::StormNd, 5),
        ];
        assert_eq!(verdicts(&limits), [Warn; 5]);
    }

    #[test]
    fn rules_that_ran_out() {
        let checks = ports_of_rules(&scope(), &[(1, 0), (2, 9)]);
        assert_eq!((checks[0].result, checks[1].result), (Pass, Warn));
    }
}
