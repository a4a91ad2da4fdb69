//! `flow list | flush`.

use super::load;
use crate::cli::{FlowArgs, FlowCommand};
use crate::config::edits;
use crate::error::Error;
use crate::flows::{FlowFilter, FlowRow, end};
use crate::output::{Listing, Output, or_dash};
use crate::runtime::Session;

/// Runs the verb.
pub fn run(session: &mut Session, output: &Output, command: FlowCommand) -> Result<(), Error> {
    match command {
        FlowCommand::List(args) => list(session, output, args),
        FlowCommand::Flush(args) => flush(session, output, args),
    }
}

fn list(session: &Session, output: &Output, args: FlowArgs) -> Result<(), Error> {
    let filter = filter(session, args, "listing connections")?;
    output.list(&session.flows(&filter)?)
}

fn flush(session: &mut Session, output: &Output, args: FlowArgs) -> Result<(), Error> {
    let filter = filter(session, args, "ending connections")?;
    let ended = session.flow_flush(&filter)?;
    output.note(&format!("{ended} connections ended"));
    Ok(())
}

/// What the options mean; a port that is not there would only find nothing.
fn filter(session: &Session, args: FlowArgs, doing: &str) -> Result<FlowFilter, Error> {
    session.need_up(doing)?;
    let filter = FlowFilter::from(args);
    if let Some(id) = filter.rule {
        let config = load(session)?;
        if edits::find_nat(&config, id).is_none() {
            return Err(edits::no_nat(&config, id).doing(doing));
        }
    }
    if let Some(vm) = &filter.vm {
        let config = load(session)?;
        if vm != session.switch() && config.port(vm).is_none() {
            return Err(edits::no_port(&config, session.switch(), vm).doing(doing));
        }
    }
    Ok(filter)
}

impl Listing for FlowRow {
    const PLURAL: &'static str = "flows";
    const COLUMNS: &'static [&'static str] = &[
        "PROTO",
        "KIND",
        "STATE",
        "VM",
        "SOURCE",
        "DESTINATION",
        "AS SOURCE",
        "AS DESTINATION",
        "AGE",
        "TIMEOUT",
        "PACKETS",
        "BYTES",
        "RULE",
    ];

    fn cells(&self) -> Vec<String> {
        let [source, destination] =
            [(self.src, self.sport), (self.dst, self.dport)].map(|(addr, port)| end(addr, port));
        let [as_source, as_destination] = [
            (self.nat_src, self.nat_sport),
            (self.nat_dst, self.nat_dport),
        ]
        .map(|(addr, port)| end(addr, port));
        let unless_same = |new: String, old: &str| or_dash((new != old).then_some(new));
        let as_source = unless_same(as_source, &source);
        let as_destination = unless_same(as_destination, &destination);
        vec![
            self.proto.clone(),
            self.kind.into(),
            self.state.clone(),
            or_dash(self.vm.as_ref()),
            source,
            destination,
            as_source,
            as_destination,
            format!("{}s", self.age_s),
            format!("{}s", self.timeout_s),
            format!("{}/{}", self.packets, self.reply_packets),
            format!("{}/{}", self.bytes, self.reply_bytes),
            or_dash(self.rule),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns() {
        let row = FlowRow {
            proto: "tcp".into(),
            kind: "routed",
            state: "established".into(),
            vm: Some("tap0".into()),
            src: [10, 0, 0, 2].into(),
            sport: 40_000,
            dst: [192, 0, 2, 80].into(),
            dport: 80,
            nat_src: [198, 51, 100, 1].into(),
            nat_sport: 40_000,
            nat_dst: [192, 0, 2, 80].into(),
            nat_dport: 80,
            age_s: 3,
            timeout_s: 7437,
            packets: 5,
            bytes: 400,
            reply_packets: 4,
            reply_bytes: 5000,
            rule: Some(1),
        };
        let line = |row: &FlowRow| row.cells().join(" ");
        assert_eq!(FlowRow::COLUMNS.len(), row.cells().len());
        assert_eq!(
            line(&row),
            "tcp routed established tap0 10.0.0.2:40000 192.0.2.80:80 198.51.100.1:40000 - 3s 7437s 5/4 \
             400/5000 1"
        );
        let ping = FlowRow {
            proto: "icmpv6".into(),
            kind: "bridged",
            vm: None,
            src: "fd00::2".parse().unwrap(),
            dst: "2001:db8::1".parse().unwrap(),
            dport: 0,
            nat_src: "fd00::2".parse().unwrap(),
            nat_dst: "2001:db8::1".parse().unwrap(),
            nat_dport: 0,
            rule: None,
            ..row
        };
        assert_eq!(
            line(&ping),
            "icmpv6 bridged established - [fd00::2]:40000 2001:db8::1 - - 3s 7437s 5/4 400/5000 -"
        );
    }
}
