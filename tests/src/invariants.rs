//! What must hold of every frame, whatever it is and whatever the switch's configuration.

use anyhow::{Context as _, Result, ensure};
use vnet_common::{NO_SLOT, PortKind};
use vnet_ebpf::{
    frame::{is_group, is_reserved, is_zero},
    meta::{Hook, VID_MASK, is_tpid},
};
use vnet_user::config::Carried;

use crate::{
    ledger::{self, Ledger},
    setup::{SWITCH, Setup},
    switch::{Addresses, Frame, Outcome, Sent, Verdict, on_wire, outer_tag},
};

/// Holds what became of a frame, and what was counted for it, against everything that must be so.
///
/// # Errors
/// Something is not.
pub fn check(setup: &Setup, frame: &Frame, outcome: &Outcome, counted: &Ledger) -> Result<()> {
    let wire = on_wire(&frame.bytes, frame.tag);
    for sent in outcome.sent() {
        let port = setup.exit_name(sent.ifindex, sent.to_stack);
        check_exit(setup, frame, sent).with_context(|| format!("at {port}"))?;
        if let Some(sent) = &sent.wire {
            check_bytes(&readdressed(setup, &wire, &port, sent), sent)
                .with_context(|| format!("at {port}"))?;
            check_segment(setup, frame, &wire, &port, sent)
                .with_context(|| format!("at {port}"))?;
        }
    }
    let mut ports: Vec<_> = outcome.sent().map(|s| (s.ifindex, s.to_stack)).collect();
    ports.sort_unstable();
    ensure!(
        ports.windows(2).all(|pair| pair[0] != pair[1]),
        "a port got it twice"
    );
    if outcome.verdict == Verdict::Pass {
        ensure!(
            on_wire(&outcome.bytes, outcome.tag) == wire,
            "it passes, and not as it came"
        );
        check_passes(setup, frame, &wire)?;
    }
    check_counters(setup, frame, outcome, counted)
}

/// Holds the addresses that a switch has learned against what an address can be.
///
/// # Errors
/// One cannot be learned.
pub fn check_addresses(setup: &Setup, addresses: &Addresses) -> Result<()> {
    for ((mac, segment), known) in addresses {
        let name = setup.port_name(known.slot);
        ensure!(
            !is_group(*mac) && !is_zero(*mac),
            "{mac:02x?} was learned at {name}"
        );
        let network = setup.image.networks.get(segment);
        let network = network.with_context(|| format!("no network has the segment {segment}"))?;
        ensure!(
            carried(setup, &name)?.carries(network),
            "{mac:02x?} was learned in {network} at {name}, which does not carry it"
        );
    }
    let limit = setup.sizes.fdb_size.min(setup.config.settings.fdb_size);
    let learned = addresses.values().filter(|known| known.flags == 0).count();
    ensure!(
        learned <= limit as usize,
        "{learned} addresses were learned, and {limit} is the limit"
    );
    Ok(())
}

/// What the port with this name in fixtures carries, by the document and not by the tables.
fn carried(setup: &Setup, port: &str) -> Result<Carried> {
    let interface = port.trim_end_matches("/host");
    let ports = setup.config.all_ports(SWITCH);
    let port = ports.iter().find(|port| port.name == interface);
    let port = port.with_context(|| format!("the document has no port {interface}"))?;
    Ok(setup.config.carried(port))
}

/// It does not go back, nor from uplink to uplink, nor to the host that sent it.
fn check_exit(setup: &Setup, frame: &Frame, sent: &Sent) -> Result<()> {
    ensure!(sent.ifindex != frame.ifindex, "it goes back");
    let kind = |ifindex, host_side| {
        let is_side = |kind| (kind == PortKind::UplinkHost) == host_side;
        let mut ports = setup.image.ports.values();
        let port = ports.find(|port| port.ifindex == ifindex && is_side(port.kind));
        port.map(|port| port.kind)
    };
    let from = kind(frame.ifindex, false).context("from no port")?;
    let to = kind(sent.ifindex, false).context("to no port")?;
    ensure!(
        !(from == PortKind::Uplink && to == PortKind::Uplink),
        "it goes from uplink to uplink"
    );
    let from_host = frame.hook == Hook::TcEgress;
    ensure!(!(from_host && sent.to_stack), "it goes from host to host");
    Ok(())
}

/// The frame as it came, but that what is for one of the host's addresses has at a port of the host
/// the one that the stack takes there.
fn readdressed(setup: &Setup, came: &[u8], port: &str, goes: &[u8]) -> Vec<u8> {
    let mut came = came.to_vec();
    let is_host = port == SWITCH || port.ends_with("/host");
    let device = setup.devices.get(port.trim_end_matches("/host"));
    if let (true, Some(device)) = (is_host, device)
        && goes.starts_with(&device.mac)
        && setup.devices.values().any(|d| came.starts_with(&d.mac))
    {
        came[..6].copy_from_slice(&device.mac);
    }
    came
}

/// Nothing changes but the outer tag, of which priority, drop eligibility and TPID stay.
fn check_bytes(came: &[u8], goes: &[u8]) -> Result<()> {
    if came == goes {
        return Ok(());
    }
    let rest = |wire: &[u8], tagged: bool| -> Vec<u8> {
        let from = if tagged { 16 } else { 12 };
        wire.get(from..).unwrap_or_default().to_vec()
    };
    let (old, new) = (outer_tag(came), outer_tag(goes));
    let behind = rest(came, old.is_some());
    let has_inner = behind
        .first_chunk()
        .is_some_and(|ether_type| is_tpid(u16::from_be_bytes(*ether_type)));
    ensure!(
        !has_inner || new.is_some(),
        "an inner tag has come to the front"
    );
    ensure!(came.get(..12) == goes.get(..12), "the addresses changed");
    ensure!(
        behind == rest(goes, new.is_some()),
        "something behind the tag changed"
    );
    if let (Some(old), Some(new)) = (old, new) {
        ensure!(
            old.tpid == new.tpid && (old.tci ^ new.tci) & !VID_MASK == 0,
            "more than the VLAN id changed: {old:?}, {new:?}"
        );
    }
    Ok(())
}

/// It stays in its network, with the port's own tag.
fn check_segment(setup: &Setup, frame: &Frame, came: &[u8], port: &str, goes: &[u8]) -> Result<()> {
    let vid = |wire| outer_tag(wire).map_or(0, |tag| tag.vid());
    let (old, new) = (vid(came), vid(goes));
    if came.first_chunk().is_some_and(|dst| is_reserved(*dst)) {
        // From a member uplink's link partner to the bridge itself, whatever the tag.
        ensure!(port == SWITCH && old == new, "it is not to be forwarded");
        return Ok(());
    }
    let name = |ifindex: u32| {
        let mut devices = setup.devices.iter();
        let device = devices.find(|(_, device)| device.ifindex == ifindex);
        device.map(|(name, _)| name.clone())
    };
    let came_in = carried(setup, &name(frame.ifindex).context("from no port")?)?;
    let by_vid = |carried: &vnet_user::config::CarriedNetwork, vid| match carried.vid {
        Some(own) => own == vid,
        None => vid == 0,
    };
    let network = came_in.networks.iter().find(|n| by_vid(n, old));
    let network = &network.context("it is of no network")?.network;
    let goes_out = carried(setup, port)?;
    let there = goes_out.networks.iter().find(|n| n.network == *network);
    let there = there.with_context(|| format!("it is of {network}, which is not carried here"))?;
    ensure!(
        by_vid(there, new),
        "it is of {network} and leaves with VLAN {new}"
    );
    Ok(())
}

/// A VM's frame never falls through to what is behind the hook, which would be the plain bridge;
/// nor does a member uplink's, unless the bridge keeps it.
fn check_passes(setup: &Setup, frame: &Frame, wire: &[u8]) -> Result<()> {
    if frame.hook != Hook::TcIngress || frame.meta().redirected {
        return Ok(());
    }
    let device = setup.devices.values().find(|d| d.ifindex == frame.ifindex);
    let Some(device) = device.filter(|device| device.member) else {
        return Ok(());
    };
    let is_uplink = setup
        .image
        .ports
        .values()
        .any(|port| port.ifindex == device.ifindex && port.kind == PortKind::Uplink);
    let dst = wire.first_chunk::<6>();
    ensure!(
        is_uplink && dst.is_some_and(|dst| is_reserved(*dst) && dst[5] != 0),
        "it falls through to the bridge"
    );
    Ok(())
}

/// Every frame is accounted for, once.
fn check_counters(setup: &Setup, frame: &Frame, outcome: &Outcome, counted: &Ledger) -> Result<()> {
    let packets = u64::from(frame.meta().packets());
    let total = |counter| ledger::total(counted, counter);
    let passes = outcome.verdict == Verdict::Pass;
    let sent = outcome.sent().filter(|sent| sent.wire.is_some()).count() as u64;
    if total("rx_packets") == 0 {
        ensure!(
            passes && sent == 0 && counted.is_empty(),
            "it was not counted, and did not just pass"
        );
        return Ok(());
    }
    ensure!(
        total("rx_packets") == packets && total("rx_bytes") == frame.bytes.len() as u64,
        "it came in otherwise than counted"
    );

    // A member uplink without a switch device passes frames to a host that is not counted.
    let has_peer = counted
        .keys()
        .filter(|(_, name)| *name == "rx_packets")
        .any(|(slot, _)| match setup.image.ports.get(slot) {
            Some(port) => port.kind != PortKind::Uplink || port.peer_slot != NO_SLOT,
            None => true,
        });
    let out = sent + u64::from(passes && has_peer);
    ensure!(
        total("tx_packets") == out * packets,
        "it went out {out} times, and {} packets of {packets} were counted",
        total("tx_packets")
    );
    let to_host = passes && frame.hook == Hook::TcIngress;
    ensure!(
        total("to_host_packets") == u64::from(to_host) * packets,
        "it was counted for the host otherwise than it went there"
    );

    let drops: u64 = ledger::drops(counted).map(|(_, count)| count).sum();
    let flooded = total("flooded_packets");
    ensure!(
        flooded == 0 || flooded == packets,
        "it was flooded otherwise than counted"
    );
    ensure!(drops.is_multiple_of(packets), "a part of it was dropped");
    if outcome.verdict == Verdict::Drop {
        ensure!(drops > 0, "it was dropped without a reason");
    }
    if flooded == 0 {
        let ends = out + u64::from(passes && !has_peer) + drops / packets;
        ensure!(ends == 1, "it was accounted for {ends} times");
    } else {
        ensure!(out + drops / packets > 0, "it was flooded to nobody");
    }
    Ok(())
}
