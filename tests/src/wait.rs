//! Waiting for what comes soon: polls with a deadline, so that a test is as fast as the machine.

use std::{
    thread::sleep,
    time::{Duration, Instant},
};

/// How long anything may take that needs no more than a moment; the machine may be busy.
const PATIENCE: Duration = Duration::from_secs(10);

const PAUSE: Duration = Duration::from_millis(10);

/// Polls until `condition` holds.
///
/// # Panics
/// When it does not in ten seconds; `what` completes "waiting until …".
#[track_caller]
pub fn until(what: &str, mut condition: impl FnMut() -> bool) {
    value(what, || condition().then_some(()));
}

/// Polls until `look` finds something.
///
/// # Panics
/// When it does not in ten seconds; `what` completes "waiting until …".
#[track_caller]
pub fn value<T>(what: &str, look: impl FnMut() -> Option<T>) -> T {
    match within(PATIENCE, look) {
        Some(value) => value,
        None => panic!("waited {} s in vain until {what}", PATIENCE.as_secs()),
    }
}

/// Polls until `look` finds something, for as long as `limit`.
pub fn within<T>(limit: Duration, mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + limit;
    loop {
        let found = look();
        if found.is_some() || Instant::now() > deadline {
            return found;
        }
        sleep(PAUSE);
    }
}
