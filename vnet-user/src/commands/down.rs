//! `down`.

use crate::error::Error;
use crate::host::privileges;
use crate::lifecycle;
use crate::output::Output;
use crate::runtime::Session;
use crate::state::RunState;

/// Runs it. A switch that is down already is what was asked for.
pub fn run(session: &mut Session, output: &Output) -> Result<(), Error> {
    let nothing = session.state().is_none()
        && !session.pins().exist()
        && session.pins().foreign().is_empty()
        && !RunState::has_begun(session.run_dir(), session.switch());
    if nothing {
        output.note(&format!("the switch {} is down already", session.switch()));
        return Ok(());
    }
    take_down(session)
}

/// Takes down what there is of the switch.
pub(super) fn take_down(session: &mut Session) -> Result<(), Error> {
    // Half a switch would be worse than a whole one.
    privileges::check(&format!("taking down the switch {}", session.switch()))?;
    let store = session.store().clone();
    let lock = store.lock()?;
    session.reload()?;
    lifecycle::down(session)?;
    let events = session
        .run_dir()
        .join(format!("{}.events.lock", session.switch()));
    let _ = std::fs::remove_file(events);
    store.remove_lock(lock);
    Ok(())
}
