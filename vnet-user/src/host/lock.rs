//! Locks that say who does something for as long as its process lives.

use std::fs::{File, OpenOptions, TryLockError};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;

use crate::error::{Doing as _, Error};

/// Held while a process does what it alone may do; the kernel gives it back however that ends.
#[derive(Debug)]
pub struct ProcessLock {
    _file: File,
}

impl ProcessLock {
    /// Takes the lock at `path`, whose folder is made where there is none; `None` where another
    /// process has it.
    ///
    /// # Errors
    /// The file cannot be made or locked.
    pub fn take(path: &Path) -> Result<Option<Self>, Error> {
        let doing = || format!("locking {}", path.display());
        if let Some(dir) = path.parent() {
            std::fs::DirBuilder::new()
                .recursive(true)
                .mode(0o755)
                .create(dir)
                .doing(|| format!("making {}", dir.display()))?;
        }
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)
            .doing(doing)?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Self { _file: file })),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(Error::new(doing(), error)),
        }
    }
}

/// Whether a process has the lock at `path`; yes, where this user may not ask.
#[must_use]
pub fn is_held(path: &Path) -> bool {
    match File::open(path) {
        Ok(file) => matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock)),
        Err(error) => error.kind() == std::io::ErrorKind::PermissionDenied,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_process_has_it_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b.lock");
        assert!(!is_held(&path));
        let lock = ProcessLock::take(&path).unwrap().unwrap();
        assert!(is_held(&path));
        assert!(ProcessLock::take(&path).unwrap().is_none());
        drop(lock);
        assert!(!is_held(&path));
        assert!(ProcessLock::take(&path).unwrap().is_some());
    }
}
