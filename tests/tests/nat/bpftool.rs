//! The tables are open: bpftool, which knows nothing of vnet, prints connections and mappings with
//! the names of their fields.

use std::net::{IpAddr, SocketAddr};

use serde_json::Value;
use vnet_common::{FlowState, flow::FLOW_REPLY, nat::BindingKind};
use vnet_tests::{
    host::Host,
    nat::{Datagrams, Lab, Lane, PHYS},
};

use crate::at;

/// With a table that is printed in a moment.
fn small() -> Lab {
    let lab = Lab::on(Host::new(), Lane::Vnet, &["flow_size=1024"]);
    lab.rule("masquerade --network lan --uplink up0");
    lab
}

/// An address as the tables have it: IPv4 as ::ffff:a.b.c.d, byte by byte.
fn bytes(address: IpAddr) -> Value {
    let octets = match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    };
    octets.to_vec().into()
}

/// The addresses and ports of an entry's key.
fn key(entry: &Value) -> [&Value; 4] {
    ["src", "sport", "dst", "dport"].map(|field| &entry["key"][field])
}

/// The entry for packets from one end to the other one.
#[track_caller]
fn entry(entries: &[Value], [from, to]: [SocketAddr; 2]) -> &Value {
    let (src, sport, dst, dport) = (
        bytes(from.ip()),
        from.port().into(),
        bytes(to.ip()),
        to.port().into(),
    );
    let wanted = [&src, &sport, &dst, &dport];
    let mut found = entries.iter().filter(|entry| key(entry) == wanted);
    match (found.next(), found.next()) {
        (Some(entry), None) => entry,
        found => panic!("from {from} to {to}: {found:?}"),
    }
}

#[test]
fn bpftool_prints_a_flow_by_its_fields() {
    let lab = small();
    let vm = lab.vm(11);
    for address in PHYS.both() {
        let datagrams = Datagrams::between(vm.netns(), 0, lab.phys.netns(), at(address, 0));
        let seen = datagrams.exchange(&[100, 200, 300]);
        let row = lab.flow_of("udp", at(vm.address.like(address), seen.client.port()));
        let entries: Vec<_> = lab
            .host
            .dump_values("flows")
            .into_iter()
            .map(|(_, value)| value)
            .collect();
        let (external, internal) = (seen.by_server, row.source());
        let first = entry(&entries, [internal, seen.server]);
        let reply = entry(&entries, [seen.server, external]);

        for side in [first, reply] {
            assert_eq!(side["key"]["proto"], 17, "{side}");
            assert_eq!(side["packets"], 3, "{side}");
            assert_eq!(side["rule"], row.rule(), "{side}");
            assert_eq!(side["state"], FlowState::TwoWay as u8, "{side}");
        }
        assert_eq!(first["addr"], bytes(external.ip()), "{first}");
        assert_eq!(first["sport"], external.port(), "{first}");
        assert_eq!(reply["addr"], bytes(internal.ip()), "{reply}");
        assert_eq!(reply["dport"], internal.port(), "{reply}");
        let is_reply = |side: &Value| side["flags"].as_u64().unwrap() & u64::from(FLOW_REPLY) != 0;
        assert_eq!([first, reply].map(is_reply), [false, true]);
        // Each names the other's place in the array.
        assert_eq!(entries[first["peer"].as_u64().unwrap() as usize], *reply);
        assert_eq!(entries[reply["peer"].as_u64().unwrap() as usize], *first);
        let mac: Vec<u8> = vm.mac().0.to_vec();
        assert_eq!(reply["next_hop"], Value::from(mac), "{reply}");
    }
}

#[test]
fn bpftool_prints_a_mapping_by_its_fields() {
    let lab = small();
    let vm = lab.vm(11);
    for address in PHYS.both() {
        let datagrams = Datagrams::between(vm.netns(), 0, lab.phys.netns(), at(address, 0));
        let seen = datagrams.exchange(&[1]);
        let internal = at(vm.address.like(address), seen.client.port());
        let rule = lab.flow_of("udp", internal).rule();
        let mappings = lab.host.dump_values("bindings");
        let of = |kind: BindingKind, end: SocketAddr| {
            let is_it = |key: &Value| {
                key["kind"] == kind as u8
                    && key["proto"] == 17
                    && key["addr"] == bytes(end.ip())
                    && key["port"] == end.port()
            };
            let mut found = mappings.iter().filter(|(key, _)| is_it(key));
            match (found.next(), found.next()) {
                (Some((key, value)), None) => (key, value),
                found => panic!("{kind:?} {end}: {found:?}"),
            }
        };
        for (kind, end, other) in [
            (BindingKind::Internal, internal, seen.by_server),
            (BindingKind::External, seen.by_server, internal),
        ] {
            let (_, value) = of(kind, end);
            assert_eq!(value["addr"], bytes(other.ip()), "{value}");
            assert_eq!(value["port"], other.port(), "{value}");
            assert_eq!(value["rule"], rule, "{value}");
            assert_eq!(value["refs"], 1, "{value}");
        }
        // The first that it sent to, whom filtering lets in.
        let (_, value) = of(BindingKind::External, seen.by_server);
        assert_eq!(value["remote"], bytes(address), "{value}");
    }
}
