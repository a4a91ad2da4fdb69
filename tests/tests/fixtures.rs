//! Every fixture in both machines. See `vnet_tests`.

use std::{collections::BTreeSet, process::ExitCode};

use libtest_mimic::{Arguments, Failed, Trial};
use vnet_common::{DropReason, EventKind};
use vnet_tests::{fixture::Fixture, fixtures, runner};

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let mut trials: Vec<Trial> = fixtures::all()
        .into_iter()
        .map(|(theme, fixture)| trial(theme, fixture))
        .collect();
    trials.push(Trial::test(
        "every drop reason has a fixture",
        every_drop_reason_has_a_fixture,
    ));
    trials.push(Trial::test(
        "every event but ageing has a fixture",
        every_event_has_a_fixture,
    ));
    libtest_mimic::run(&arguments, trials).exit_code()
}

/// A test for a fixture. Which machines run it is in its kind, so that it shows.
fn trial(theme: &str, fixture: Fixture) -> Trial {
    let name = format!("{theme}: {}", fixture.name);
    let machines = runner::run_pure(&fixture).and_then(|pure| {
        let unfit = runner::unfit(&fixture, &pure)?;
        Ok((pure, unfit))
    });
    let kind = match &machines {
        Ok((_, None)) => "pure and kernel".to_owned(),
        Ok((_, Some(why))) => format!("pure only: {why}"),
        Err(_) => "pure".to_owned(),
    };
    let run = move || {
        let (pure, unfit) = machines.map_err(failed)?;
        if unfit.is_none() {
            runner::run_kernel(&fixture, &pure).map_err(failed)?;
        }
        Ok(())
    };
    Trial::test(name, run).with_kind(kind)
}

fn every_drop_reason_has_a_fixture() -> Result<(), Failed> {
    let mut missing: BTreeSet<DropReason> = DropReason::ALL.iter().copied().collect();
    for (_, fixture) in fixtures::all() {
        for reason in fixture.reasons().map_err(failed)? {
            missing.remove(&reason);
        }
    }
    none_left(missing.into_iter().map(DropReason::name))
}

/// Ageing is the timer's: tests/tests/ageing.rs.
fn every_event_has_a_fixture() -> Result<(), Failed> {
    let mut missing: BTreeSet<&str> = EventKind::ALL.iter().map(|kind| kind.name()).collect();
    missing.remove(EventKind::MacAged.name());
    for (_, fixture) in fixtures::all() {
        for event in fixture.event_counts().map_err(failed)?.keys() {
            missing.remove(event);
        }
    }
    none_left(missing.into_iter())
}

fn none_left(missing: impl Iterator<Item = &'static str>) -> Result<(), Failed> {
    let missing: Vec<&str> = missing.collect();
    if missing.is_empty() {
        return Ok(());
    }
    Err(format!("no fixture shows {}", missing.join(", ")).into())
}

/// Every cause on a line of its own, without a backtrace.
fn failed(error: anyhow::Error) -> Failed {
    let causes: Vec<String> = error.chain().map(ToString::to_string).collect();
    Failed::from(causes.join("\n"))
}
