//! `events`.

use std::{fs::File, net::IpAddr, os::fd::AsRawFd as _, ptr};

use aya::maps::{MapData, RingBuf};
use serde::Serialize;
use vnet_common::{Addr, DropReason, Event, EventKind, FlowKey, PolicyVerdict, SourceKey};

use crate::bans::source_text;
use crate::cli::{EventsArgs, Format};
use crate::config::{MacAddr, names::protocol_name};
use crate::datapath::maps;
use crate::error::{Doing as _, Error};
use crate::flows::{address, end};
use crate::host::kernel;
use crate::output::{Listing, Output, or_dash, print};
use crate::runtime::Session;
use crate::state::RunState;

const DOING: &str = "reading events";

/// Runs it. What one reader has taken is gone for others, so there is one at a time.
pub fn run(session: &mut Session, output: &Output, args: EventsArgs) -> Result<(), Error> {
    session.need_up(DOING)?;
    let _only = only_reader(session)?;
    let mut ring = maps::ring_buf(session.pins(), "events").doing(|| DOING.into())?;
    let rows = take(session, &mut ring);
    if !args.follow {
        return output.list(&rows);
    }
    if output.format() == Format::Table {
        print(&format!("{}\n", Row::COLUMNS.join("  ")))?;
    }
    emit(output, &rows)?;
    loop {
        wait(&ring)?;
        // Names change while we wait, and the switch may go down.
        session.reload()?;
        if !session.is_up() {
            return Ok(());
        }
        let rows = take(session, &mut ring);
        emit(output, &rows)?;
    }
}

/// Prints one event a line, as it comes.
fn emit(output: &Output, rows: &[Row]) -> Result<(), Error> {
    for row in rows {
        if output.format() == Format::Table {
            print(&format!("{}\n", row.cells().join("  ")))?;
        } else {
            let line = serde_json::to_string(row).doing(|| "spelling an event".into())?;
            print(&format!("{line}\n"))?;
        }
    }
    Ok(())
}

fn only_reader(session: &Session) -> Result<File, Error> {
    let path = session
        .run_dir()
        .join(format!("{}.events.lock", session.switch()));
    let file = File::create(&path).doing(|| format!("opening {}", path.display()))?;
    file.try_lock().map_err(|_| {
        Error::new(DOING, "another `vnet-user events` is reading them")
            .mend("end that one: an event goes to one reader")
    })?;
    Ok(file)
}

fn wait(ring: &RingBuf<MapData>) -> Result<(), Error> {
    let mut poll = libc::pollfd {
        fd: ring.as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    };
    // SAFETY: one descriptor, which the ring keeps open. A second at most, to notice `down`.
    if unsafe { libc::poll(&raw mut poll, 1, 1000) } < 0 {
        let error = std::io::Error::last_os_error();
        if error.kind() != std::io::ErrorKind::Interrupted {
            return Err(Error::new(DOING, error));
        }
    }
    Ok(())
}

fn take(session: &Session, ring: &mut RingBuf<MapData>) -> Vec<Row> {
    let mut rows = Vec::new();
    while let Some(item) = ring.next() {
        if item.len() < size_of::<Event>() {
            continue;
        }
        // SAFETY: long enough; the record is plain data and may lie anywhere.
        let event = unsafe { ptr::read_unaligned(item.as_ptr().cast::<Event>()) };
        rows.push(Row::new(session.state(), &event));
    }
    rows
}

#[derive(Serialize)]
struct Row {
    /// Milliseconds since the epoch.
    time_ms: u64,
    event: &'static str,
    port: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    old_port: Option<String>,
    network: String,
    mac: MacAddr,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    /// The IP address concerned.
    #[serde(skip_serializing_if = "Option::is_none")]
    ip: Option<IpAddr>,
    /// Who began too many connections, as bans and limits know him: his address, or of IPv6 his /64.
    #[serde(skip_serializing_if = "Option::is_none")]
    source: Option<String>,
    /// What the connection concerned is.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    flow: Option<FlowEnds>,
    /// The external address of a connection or block; of what a security group decided, the address
    /// that it goes to in the end, where that is another one.
    #[serde(skip_serializing_if = "Option::is_none")]
    nat_addr: Option<IpAddr>,
    /// Its port; of a block, the first.
    #[serde(skip_serializing_if = "Option::is_none")]
    nat_port: Option<u16>,
    /// The translation rule, that of a security group, or the one that bans.
    #[serde(skip_serializing_if = "Option::is_none")]
    rule: Option<u16>,
    /// What the rule of a security group says.
    #[serde(skip_serializing_if = "Option::is_none")]
    verdict: Option<&'static str>,
    /// Ports of a block.
    #[serde(skip_serializing_if = "Option::is_none")]
    count: Option<u32>,
    /// Events of this kind that were held back before this one.
    suppressed: u32,
}

/// A connection's packets as they come in.
#[derive(Serialize)]
struct FlowEnds {
    proto: String,
    src: IpAddr,
    sport: u16,
    dst: IpAddr,
    dport: u16,
}

impl FlowEnds {
    fn of(key: &FlowKey) -> Option<Self> {
        (*key != FlowKey::default()).then(|| Self {
            proto: protocol_name(key.proto),
            src: address(&key.src),
            sport: key.sport,
            dst: address(&key.dst),
            dport: key.dport,
        })
    }
}

impl Row {
    fn new(state: Option<&RunState>, event: &Event) -> Self {
        let kind = EventKind::ALL
            .iter()
            .find(|kind| **kind as u32 == event.kind);
        let port =
            |slot: u16| state.map_or_else(|| format!("slot {slot}"), |state| state.port(slot));
        let is_of_source = matches!(
            kind,
            Some(EventKind::SourceRate | EventKind::SourceQuota | EventKind::SourceBanned)
        );
        let is_policy = event.kind == EventKind::PolicyRule as u32;
        let is_untranslated =
            is_policy && (event.nat_addr, event.nat_port) == (event.flow.dst, event.flow.dport);
        let nat = event.nat_addr != Addr::default() && !is_untranslated && !is_of_source;
        // Of an address that is the matter, the event has nothing but that.
        let is_about_address = event.flow.src != Addr::default()
            && event.flow.dst == Addr::default()
            && event.nat_addr == Addr::default();
        let ago_ns = kernel::monotonic_ns().saturating_sub(event.time_ns);
        let now_ms = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .map_or(0, |d| d.as_millis() as u64);
        Self {
            time_ms: now_ms.saturating_sub(ago_ns / 1_000_000),
            event: kind.map_or("unknown", |kind| kind.name()),
            port: port(event.slot),
            old_port: (event.kind == EventKind::MacMoved as u32).then(|| port(event.old_slot)),
            network: state.map_or_else(
                || format!("segment {}", event.segment),
                |state| state.network(event.segment),
            ),
            mac: MacAddr(event.mac),
            reason: (event.kind == EventKind::Storm as u32
                || event.kind == EventKind::AddressConflict as u32)
                .then(|| DropReason::ALL.get(event.reason as usize).map(|r| r.name()))
                .flatten(),
            ip: is_about_address.then(|| address(&event.flow.src)),
            source: is_of_source.then(|| {
                let mut key = SourceKey::new(&event.nat_addr, 0, 0);
                if event.nat_addr != event.flow.src {
                    key.truncate();
                }
                source_text(&key)
            }),
            flow: FlowEnds::of(&event.flow).filter(|_| !is_about_address),
            nat_addr: nat.then(|| address(&event.nat_addr)),
            nat_port: nat.then_some(event.nat_port),
            rule: (event.rule != 0).then_some(event.rule),
            verdict: is_policy.then(|| PolicyVerdict::by_number(event.reason).name()),
            count: (event.count != 0).then_some(event.count),
            suppressed: event.suppressed,
        }
    }
}

impl Listing for Row {
    const PLURAL: &'static str = "events";
    const COLUMNS: &'static [&'static str] = &[
        "TIME UTC",
        "EVENT",
        "PORT",
        "FROM",
        "NETWORK",
        "MAC",
        "IP",
        "REASON",
        "FLOW",
        "AS",
        "RULE",
        "VERDICT",
        "HELD BACK",
    ];

    fn cells(&self) -> Vec<String> {
        let seconds = self.time_ms / 1000 % 86_400;
        vec![
            format!(
                "{:02}:{:02}:{:02}.{:03}",
                seconds / 3600,
                seconds / 60 % 60,
                seconds % 60,
                self.time_ms % 1000
            ),
            self.event.into(),
            self.port.clone(),
            or_dash(self.old_port.as_ref()),
            self.network.clone(),
            self.mac.to_string(),
            or_dash(self.source.clone().or(self.ip.map(|ip| ip.to_string()))),
            or_dash(self.reason),
            or_dash(self.flow.as_ref().map(|flow| {
                format!(
                    "{} {} > {}",
                    flow.proto,
                    end(flow.src, flow.sport),
                    end(flow.dst, flow.dport)
                )
            })),
            or_dash(self.nat_addr.map(|addr| {
                let first = self.nat_port.unwrap_or(0);
                match self.count {
                    Some(count) => {
                        let last = u32::from(first) + count.saturating_sub(1);
                        format!("{}-{last}", end(addr, first))
                    }
                    None => end(addr, first),
                }
            })),
            or_dash(self.rule),
            or_dash(self.verdict),
            self.suppressed.to_string(),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vnet_common::flow::{KEY_BRIDGED, mapped};

    fn state() -> RunState {
        let slot = |name: &str, kind: &str| (name.to_owned(), kind.to_owned());
        RunState {
            slots: [(3, slot("tap0", "vm")), (4, slot("eth0", "uplink"))].into(),
            segments: [(1, "default".to_owned())].into(),
            ..RunState::default()
        }
    }

    /// The event of a connection from `src` to port 22 of `dst`.
    /// It counts for `source`.
    fn event(
        kind: EventKind,
        slot: u16,
        (src, source): (Addr, Addr),
        dst: Addr,
        rule: u16,
    ) -> Event {
        Event {
            kind: kind as u32,
            slot,
            segment: 1,
            flow: FlowKey {
                src,
                dst,
                sport: 5000,
                dport: 22,
                segment: 1,
                proto: 6,
                kind: KEY_BRIDGED,
            },
            rule,
            nat_addr: source,
            ..Event::default()
        }
    }

    fn v6(text: &str) -> Addr {
        text.parse::<std::net::Ipv6Addr>().unwrap().octets()
    }

    #[test]
    fn what_limits_say_of_sources() {
        let (v4, vm4) = (mapped([192, 0, 2, 7]), mapped([10, 0, 0, 2]));
        let (far, vm, near) = (v6("2001:db8::7"), v6("fd00::2"), v6("fd00::7"));
        let events = [
            event(EventKind::SourceBanned, 4, (v4, v4), vm4, 3),
            event(EventKind::SourceBanned, 4, (far, v6("2001:db8::")), vm, 3),
            event(EventKind::SourceBanned, 4, (near, near), vm, 3),
            event(EventKind::SourceQuota, 3, (vm, vm), far, 0),
            event(EventKind::SourceRate, 4, (v4, v4), vm4, 0),
            event(EventKind::FlowRate, 3, (vm4, Addr::default()), v4, 0),
        ];
        let rows = events.map(|event| Row {
            time_ms: 0,
            ..Row::new(Some(&state()), &event)
        });
        let lines: Vec<String> = rows
            .iter()
            .map(|row| row.cells().join("  ") + "\n")
            .collect();
        insta::assert_snapshot!(lines.concat(), @"
    00:00:00.000  source_banned  eth0  -  default  00:00:00:00:00:00  192.0.2.7  -  tcp 192.0.2.7:5000 > 10.0.0.2:22  -  3  -  0
    00:00:00.000  source_banned  eth0  -  default  00:00:00:00:00:00  2001:db8::/64  -  tcp [2001:db8::7]:5000 > [fd00::2]:22  -  3  -  0
    00:00:00.000  source_banned  eth0  -  default  00:00:00:00:00:00  fd00::7  -  tcp [fd00::7]:5000 > [fd00::2]:22  -  3  -  0
    00:00:00.000  source_quota  tap0  -  default  00:00:00:00:00:00  fd00::2  -  tcp [fd00::2]:5000 > [2001:db8::7]:22  -  -  -  0
    00:00:00.000  source_rate  eth0  -  default  00:00:00:00:00:00  192.0.2.7  -  tcp 192.0.2.7:5000 > 10.0.0.2:22  -  -  -  0
    00:00:00.000  flow_rate  tap0  -  default  00:00:00:00:00:00  -  -  tcp 10.0.0.2:5000 > 192.0.2.7:22  -  -  -  0
    ");
        let lines: Vec<String> = rows
            .iter()
            .map(|row| serde_json::to_string(row).unwrap() + "\n")
            .collect();
        insta::assert_snapshot!(lines.concat(), @r#"
    {"time_ms":0,"event":"source_banned","port":"eth0","network":"default","mac":"00:00:00:00:00:00","source":"192.0.2.7","proto":"tcp","src":"192.0.2.7","sport":5000,"dst":"10.0.0.2","dport":22,"rule":3,"suppressed":0}
    {"time_ms":0,"event":"source_banned","port":"eth0","network":"default","mac":"00:00:00:00:00:00","source":"2001:db8::/64","proto":"tcp","src":"2001:db8::7","sport":5000,"dst":"fd00::2","dport":22,"rule":3,"suppressed":0}
    {"time_ms":0,"event":"source_banned","port":"eth0","network":"default","mac":"00:00:00:00:00:00","source":"fd00::7","proto":"tcp","src":"fd00::7","sport":5000,"dst":"fd00::2","dport":22,"rule":3,"suppressed":0}
    {"time_ms":0,"event":"source_quota","port":"tap0","network":"default","mac":"00:00:00:00:00:00","source":"fd00::2","proto":"tcp","src":"fd00::2","sport":5000,"dst":"2001:db8::7","dport":22,"suppressed":0}
    {"time_ms":0,"event":"source_rate","port":"eth0","network":"default","mac":"00:00:00:00:00:00","source":"192.0.2.7","proto":"tcp","src":"192.0.2.7","sport":5000,"dst":"10.0.0.2","dport":22,"suppressed":0}
    {"time_ms":0,"event":"flow_rate","port":"tap0","network":"default","mac":"00:00:00:00:00:00","proto":"tcp","src":"10.0.0.2","sport":5000,"dst":"192.0.2.7","dport":22,"suppressed":0}
    "#);
        assert!(
            rows.iter()
                .all(|row| row.cells().len() == Row::COLUMNS.len())
        );
    }
}
