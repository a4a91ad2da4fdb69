//! One daemon a switch.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;

use crate::error::{Doing as _, Error};

/// Held while the daemon runs; the kernel gives it back however that ends.
#[derive(Debug)]
pub(super) struct DaemonLock {
    _file: File,
}

impl DaemonLock {
    /// Takes the lock of `switch` in `run_dir`.
    ///
    /// # Errors
    /// Another daemon has it.
    pub(super) fn take(run_dir: &Path, switch: &str) -> Result<Self, Error> {
        let doing = || format!("starting the daemon of the switch {switch}");
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(run_dir)
            .doing(doing)?;
        let path = run_dir.join(format!("{switch}.daemon.lock"));
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .doing(|| format!("opening {}", path.display()))?;
        match file.try_lock() {
            Ok(()) => Ok(Self { _file: file }),
            Err(TryLockError::WouldBlock) => {
                Err(Error::new(doing(), "another daemon serves this switch")
                    .mend("end that one first, or choose another switch with --switch"))
            }
            Err(TryLockError::Error(error)) => Err(Error::new(doing(), error)),
        }
    }
}
