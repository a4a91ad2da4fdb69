//! A document that is in force until it is confirmed, or else taken back: what was there before and
//! when its time is over, in a file that outlives every process and the host's restart.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::staged::{Staged, make_dir, refused};
use crate::error::{Doing as _, Error};
use crate::host::kernel;

/// What waits to be confirmed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pending {
    /// Which start of the host the deadline is counted from.
    boot: String,
    /// When its time is over, in seconds since the host's start.
    deadline_s: u64,
    /// The document before; `None` when there was none.
    pub before: Option<String>,
}

impl Pending {
    /// What is taken back in `seconds` from now.
    ///
    /// # Errors
    /// The kernel does not say which start this is.
    pub(super) fn new(seconds: u32, before: Option<String>) -> Result<Self, Error> {
        Ok(Self {
            boot: kernel::boot_id().doing(|| "reading the host's boot id".into())?,
            deadline_s: kernel::since_boot_s() + u64::from(seconds),
            before,
        })
    }

    /// Seconds left; 0 when its time is over, as it is after a restart of the host.
    #[must_use]
    pub fn left_s(&self) -> u64 {
        if kernel::boot_id().ok().as_deref() != Some(self.boot.as_str()) {
            return 0;
        }
        self.deadline_s.saturating_sub(kernel::since_boot_s())
    }
}

/// The file of one switch.
#[derive(Clone, Debug)]
pub(super) struct PendingFile(PathBuf);

impl PendingFile {
    pub(super) fn new(path: PathBuf) -> Self {
        Self(path)
    }

    pub(super) fn load(&self) -> Result<Option<Pending>, Error> {
        let doing = || format!("reading {}", self.0.display());
        let text = match fs::read_to_string(&self.0) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(refused(doing(), error)),
        };
        serde_json::from_str(&text).map(Some).map_err(|error| {
            Error::new(doing(), error).mend(format!("remove it: rm {}", self.0.display()))
        })
    }

    pub(super) fn save(&self, pending: &Pending) -> Result<(), Error> {
        make_dir(self.0.parent().unwrap_or(Path::new(".")), 0o755)?;
        let text =
            serde_json::to_string(pending).doing(|| "noting what waits to be confirmed".into())?;
        // It holds a document, which is nobody else's business.
        Staged::write(self.0.with_extension("new"), self.0.clone(), 0o600, &text)?.commit()
    }

    pub(super) fn remove(&self) -> Result<(), Error> {
        match fs::remove_file(&self.0) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(refused(format!("removing {}", self.0.display()), error))
            }
            _ => Ok(()),
        }
    }
}
