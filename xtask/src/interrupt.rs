//! Ctrl-C, as a request that the foreground commands look at: what they set up is taken down by
//! their guards, not by a dying process.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};

static REQUESTED: AtomicBool = AtomicBool::new(false);

extern "C" fn note(_signal: libc::c_int) {
    REQUESTED.store(true, Ordering::Relaxed);
}

/// From now on SIGINT, SIGTERM and SIGHUP only leave a note.
pub(crate) fn catch() {
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
        // SAFETY: the handler does nothing but store to an atomic, which a signal handler may.
        unsafe {
            libc::signal(
                signal,
                note as extern "C" fn(libc::c_int) as libc::sighandler_t,
            )
        };
    }
}

/// Whether one of them came.
pub(crate) fn requested() -> bool {
    REQUESTED.load(Ordering::Relaxed)
}

/// Between two steps of something long.
pub(crate) fn check() -> Result<()> {
    if requested() {
        bail!("interrupted");
    }
    Ok(())
}

/// Sleeps, shorter when asked to stop; tells whether to go on.
pub(crate) fn pause(time: Duration) -> bool {
    let end = Instant::now() + time;
    while !requested() {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return true;
        }
        sleep(left.min(Duration::from_millis(50)));
    }
    false
}
