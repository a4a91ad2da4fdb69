//! `up`.

use std::io::{self, IsTerminal as _};

use super::down;
use crate::cli::UpArgs;
use crate::config::edits;
use crate::dhcp;
use crate::error::Error;
use crate::host::Links;
use crate::lifecycle;
use crate::output::Output;
use crate::runtime::Session;

/// Runs it.
pub fn run(session: &mut Session, output: &Output, args: UpArgs) -> Result<(), Error> {
    let switch = session.switch().to_owned();
    let doing = format!("bringing up the switch {switch}");
    lifecycle::check_host(session)?;
    if let Err(refusal) = lifecycle::check_layout(session) {
        if !agrees(&refusal) {
            return Err(refusal);
        }
        down::take_down(session)?;
    }
    let links = Links::open()?;
    for uplink in &args.uplink {
        let found = links.by_name(uplink)?;
        if let Some(link) = &found
            && link.name != *uplink
        {
            return Err(Error::new(
                doing,
                format_args!("{uplink} is another name of {}", link.name),
            )
            .mend(format!("up --uplink {}", link.name)));
        }
        if found.is_none() {
            return Err(
                Error::new(doing, format_args!("there is no interface {uplink}"))
                    .mend("ip link shows the interfaces that there are"),
            );
        }
    }
    let store = session.store().clone();
    let edited = store.edit(
        &doing,
        |config| {
            for uplink in &args.uplink {
                edits::ensure_uplink(config, &switch, uplink)?;
            }
            config.mode = args.mode.unwrap_or(config.mode);
            config.fail = args.fail.unwrap_or(config.fail);
            Ok(())
        },
        |old, new| lifecycle::up(session, old, new),
    )?;
    // What it has seen of the host was another switch's. Where none runs, nobody has to know.
    let _ = session.poke_daemon();
    let unserved = dhcp::unserved(&edited.new, &switch, session.dhcp());
    for warning in edited.warnings.iter().chain(&unserved) {
        output.warn(warning);
    }
    Ok(())
}

/// Whether somebody at a terminal wants the switch anew, who is told what that costs.
fn agrees(refusal: &Error) -> bool {
    if !io::stdin().is_terminal() || !io::stderr().is_terminal() {
        return false;
    }
    eprint!(
        "{}: {}\ntake it down and bring it up anew? [y/N] ",
        refusal.doing, refusal.why
    );
    let mut answer = String::new();
    io::stdin().read_line(&mut answer).is_ok() && answer.trim().eq_ignore_ascii_case("y")
}
