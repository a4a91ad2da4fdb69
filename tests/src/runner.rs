//! Runs a fixture in a machine and holds the machine to it, and two machines to each other.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, bail, ensure};
use vnet_common::{Event, EventKind};

use crate::{
    connections::Connections,
    fixture::{Expect, Fixture, Step, split_exit},
    frame::Spec,
    kernel::{self, Kernel, Taps, Wanted, in_sandbox},
    ledger::{self, Ledger},
    machine::Machine,
    setup::Setup,
    switch::{Addresses, Outcome, Sent, Switch, Verdict, on_wire},
    world,
};

/// Everything that a machine did with a fixture.
#[derive(Debug, PartialEq, Eq)]
pub struct Run {
    /// What became of each frame and what was counted for it.
    steps: Vec<(Outcome, Ledger, Connections)>,
    events: Vec<Event>,
    addresses: Addresses,
}

/// Runs a fixture in the pure machine, against what it expects.
///
/// # Errors
/// Something is not as expected.
pub fn run_pure(fixture: &Fixture) -> Result<Run> {
    let setup = fixture.setup()?;
    let mut machine = Machine::new(&setup);
    run(fixture, setup, &mut machine).context("in the pure machine")
}

/// Runs a fixture in the kernel, against what it expects and against what the pure machine did.
///
/// # Errors
/// Something is not as expected, or the machines do not agree.
pub fn run_kernel(fixture: &Fixture, pure: &Run) -> Result<()> {
    let setup = fixture.setup()?;
    let done = in_sandbox(|bpffs| {
        let mut kernel = Kernel::new(bpffs, taps(&setup)?, &setup)?;
        run(fixture, setup, &mut kernel)
    })
    .context("in the kernel")?;
    for (index, (ours, theirs)) in pure.steps.iter().zip(&done.steps).enumerate() {
        let number = index + 1;
        let ((pure, counted, left), (loaded, also_counted, also_left)) = (ours, theirs);
        ensure!(
            pure == loaded && counted == also_counted,
            "the machines do not agree on frame {number}:\npure: {pure:02x?}, {counted:?}\n\
             kernel: {loaded:02x?}, {also_counted:?}"
        );
        ensure!(
            left == also_left,
            "the machines do not agree on what frame {number} leaves behind:\n\
             pure: {left:x?}\nkernel: {also_left:x?}"
        );
    }
    ensure!(
        *pure == done,
        "the machines do not agree:\npure: {:?}, {:?}\nkernel: {:?}, {:?}",
        pure.events,
        pure.addresses,
        done.events,
        done.addresses
    );
    Ok(())
}

/// A tap for every interface of a switch, in the calling thread's network namespace.
///
/// # Errors
/// The kernel refuses one.
pub fn taps(setup: &Setup) -> Result<Taps> {
    let wanted: Vec<Wanted> = setup
        .devices
        .iter()
        .map(|(name, device)| Wanted {
            name: name.clone(),
            ifindex: device.ifindex,
            mtu: device.mtu,
            up: device.up,
        })
        .collect();
    Taps::create(&wanted)
}

/// Why the kernel machine cannot run a fixture, if it cannot. `pure` is what the other machine did.
///
/// # Errors
/// The fixture is not well-formed.
pub fn unfit(fixture: &Fixture, pure: &Run) -> Result<Option<String>> {
    let setup = fixture.setup()?;
    let mut outcomes = pure.steps.iter();
    for step in &fixture.steps {
        let Step::Send { spec, .. } = step else {
            continue;
        };
        let frame = spec.frame(&setup)?;
        let outcome = outcomes.next().context("a frame without an outcome")?;
        if let Some(why) = kernel::unfit(&frame) {
            return Ok(Some(why.to_owned()));
        }
        if frame.gso_size != 0 && !outcome.0.copies.is_empty() {
            // net/core/filter.c, bpf_clone_redirect: "BPF test infra's convert___skb_to_skb() can
            // create type-less GSO packets".
            return Ok(Some("TEST_RUN's GSO frames cannot be copied".to_owned()));
        }
    }
    Ok(None)
}

fn run(fixture: &Fixture, mut setup: Setup, machine: &mut dyn Switch) -> Result<Run> {
    let mut done = Vec::new();
    let mut before = machine.ledger()?;
    ensure!(
        before.is_empty(),
        "there are counters before the first frame"
    );
    for (index, step) in fixture.steps.iter().enumerate() {
        let doing = || format!("step {}", index + 1);
        match step {
            Step::Send { spec, expect } => {
                let frame = spec.frame(&setup)?;
                let outcome = machine.run(&frame).with_context(doing)?;
                let after = machine.ledger()?;
                let counted = ledger::since(&before, &after);
                before = after;
                check(&setup, spec, expect, &outcome, &counted).with_context(|| {
                    format!(
                        "{}, {spec:02x?}:\n{}\n{}",
                        doing(),
                        describe(&setup, &outcome),
                        ledger::render(&counted, |slot| setup.port_name(slot))
                    )
                })?;
                let connections = machine.connections().with_context(doing)?;
                connections.check().with_context(doing)?;
                done.push((outcome, counted, connections));
            }
            Step::Advance(seconds) => machine.advance(*seconds).with_context(doing)?,
            Step::Apply(document) => {
                setup = fixture.next_setup(document, &setup).with_context(doing)?;
                machine.apply(&setup).with_context(doing)?;
            }
            Step::States(expected) => {
                let states = machine.connections()?.states();
                ensure!(
                    states == *expected,
                    "{}: expected {expected:?}, there are {states:?}",
                    doing()
                );
            }
            Step::Sweep => machine.sweep_flows().with_context(doing)?,
            Step::Flush => machine.flush().with_context(doing)?,
            Step::Host(lines) => {
                for line in world::parse(lines).with_context(doing)? {
                    machine.host(&line).with_context(doing)?;
                }
            }
        }
    }
    // Connections that ended between frames.
    before = machine.ledger()?;
    machine.connections()?.check()?;
    let expected = ledger::parse(fixture.counters, |name| setup.slot(name))
        .context("reading the fixture's counters")?;
    if before != expected {
        let text = |ledger| ledger::render(ledger, |slot| setup.port_name(slot));
        bail!(
            "counters, expected:\n{}\ncounted:\n{}",
            text(&expected),
            text(&before)
        );
    }
    let events = machine.events()?;
    let mut counts: BTreeMap<&str, u32> = BTreeMap::new();
    for event in &events {
        let kind = EventKind::ALL.iter().find(|k| **k as u32 == event.kind);
        let kind = kind.with_context(|| format!("an event of the kind {}", event.kind))?;
        *counts.entry(kind.name()).or_default() += 1;
    }
    ensure!(
        counts == fixture.event_counts()?,
        "events, expected: {}; seen: {counts:?}",
        fixture.events
    );
    Ok(Run {
        steps: done,
        events,
        addresses: machine.addresses()?,
    })
}

/// Holds what became of one frame against what is expected.
fn check(
    setup: &Setup,
    spec: &Spec,
    expect: &Expect,
    outcome: &Outcome,
    counted: &Ledger,
) -> Result<()> {
    let sent: Vec<_> = outcome.sent().filter(|sent| sent.wire.is_some()).collect();
    let names: Vec<String> = sent.iter().map(|sent| exit_name(setup, sent)).collect();
    let mut expected = Vec::new();
    for exit in &expect.sent {
        expected.push(split_exit(exit)?);
    }
    let expected_names: Vec<&str> = expected.iter().map(|(name, _)| *name).collect();
    ensure!(
        names == expected_names,
        "expected to leave by {:?}",
        expect.sent
    );
    for (sent, (name, tags)) in sent.iter().zip(&expected) {
        let mut wire = expect.becomes.as_deref().unwrap_or(spec).wire(tags);
        if let Some(destination) = expect.destination {
            wire[..6].copy_from_slice(&destination);
        }
        let seen = sent.wire.as_deref().unwrap_or_default();
        ensure!(
            seen == wire || spec.is_cut() && wire.starts_with(seen),
            "expected at {name}: {wire:02x?}"
        );
    }
    let passes = outcome.verdict == Verdict::Pass;
    ensure!(
        passes == expect.passes,
        "expected that it {}",
        if expect.passes {
            "passes"
        } else {
            "does not pass"
        }
    );
    if passes {
        let wire = on_wire(&outcome.bytes, outcome.tag);
        let own = spec.wire(spec.own_tags());
        ensure!(
            wire == own || spec.is_cut() && own.starts_with(&wire),
            "expected to pass as {own:02x?}"
        );
    }
    let mut drops = BTreeMap::new();
    for (reason, port) in &expect.drops {
        let reason = ledger::reason(reason).with_context(|| format!("no reason is {reason}"))?;
        drops.insert((reason, setup.slot(port)?), ());
    }
    let counted: BTreeMap<_, ()> = ledger::drops(counted).map(|(drop, _)| (drop, ())).collect();
    ensure!(counted == drops, "expected drops: {:?}", expect.drops);
    Ok(())
}

/// A place that a frame was sent to: what the kernel is to find the next hop for has `neigh:` in
/// front of the interface.
fn exit_name(setup: &Setup, sent: &Sent) -> String {
    if !sent.neighbour {
        return setup.exit_name(sent.ifindex, sent.to_stack);
    }
    let mut devices = setup.devices.iter();
    let name = devices.find(|(_, device)| device.ifindex == sent.ifindex);
    format!("neigh:{}", name.map_or("?", |(name, _)| name))
}

/// What became of a frame, for people.
fn describe(setup: &Setup, outcome: &Outcome) -> String {
    let sent: Vec<String> = outcome
        .sent()
        .map(|sent| {
            let name = exit_name(setup, sent);
            match &sent.wire {
                Some(wire) => {
                    let shown = &wire[..wire.len().min(120)];
                    format!("{name} ({} bytes: {shown:02x?})", wire.len())
                }
                None => format!("{name} (refused)"),
            }
        })
        .collect();
    let fate = match outcome.verdict {
        Verdict::Pass => "passed",
        Verdict::Drop => "dropped",
        Verdict::Redirect(_) => "redirected",
    };
    format!("it was {fate}; sent to: [{}]", sent.join(", "))
}
