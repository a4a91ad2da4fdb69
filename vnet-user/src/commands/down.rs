//! `down`.

use crate::error::Error;
use crate::lifecycle;
use crate::output::Output;
use crate::runtime::Session;
use crate::state::RunState;

/// Runs it. A switch that is down already is what was asked for.
pub fn run(session: &mut Session, output: &Output) -> Result<(), Error> {
    let nothing = session.state().is_none()
        && !session.pins().exist()
        && RunState::load(session.run_dir(), session.switch())?.is_none();
    if nothing {
        output.note(&format!("the switch {} is down already", session.switch()));
        return Ok(());
    }
    let _lock = session.store().lock()?;
    session.reload()?;
    lifecycle::down(session)
}
