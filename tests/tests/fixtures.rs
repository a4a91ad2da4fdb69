//! Every fixture in both machines. See `vnet_tests`.

use std::process::ExitCode;

use libtest_mimic::{Arguments, Failed, Trial};
use vnet_tests::{fixture::Fixture, fixtures, runner};

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let trials = fixtures::all()
        .into_iter()
        .map(|(theme, fixture)| trial(theme, fixture))
        .collect();
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

/// Every cause on a line of its own, without a backtrace.
fn failed(error: anyhow::Error) -> Failed {
    let causes: Vec<String> = error.chain().map(ToString::to_string).collect();
    Failed::from(causes.join("\n"))
}
