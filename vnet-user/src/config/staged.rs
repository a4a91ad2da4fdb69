//! Files that are replaced as a whole: written beside the old one first, then renamed.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use crate::error::{Doing as _, Error};

/// A new file on the disk that is not yet where it belongs. Dropped, it is gone.
pub(super) struct Staged {
    file: PathBuf,
    target: PathBuf,
    /// The file's mode.
    pub(super) mode: u32,
}

impl Staged {
    /// Writes `text` to `file`, onto the disk, to become `target` in the same directory.
    ///
    /// # Errors
    /// There is no space, or no permission.
    pub(super) fn write(
        file: PathBuf,
        target: PathBuf,
        mode: u32,
        text: &str,
    ) -> Result<Self, Error> {
        let doing = || format!("writing {}", target.display());
        let mut open = File::create(&file).map_err(|error| refused(doing(), error))?;
        let staged = Self {
            file,
            target: target.clone(),
            mode,
        };
        open.set_permissions(fs::Permissions::from_mode(mode))
            .doing(doing)?;
        open.write_all(text.as_bytes()).doing(doing)?;
        open.sync_all().doing(doing)?;
        Ok(staged)
    }

    /// Puts the file where it belongs, in the place of the one that is there.
    ///
    /// # Errors
    /// The file system refuses.
    pub(super) fn commit(self) -> Result<(), Error> {
        fs::rename(&self.file, &self.target)
            .doing(|| format!("replacing {}", self.target.display()))?;
        // The rename itself must survive a power cut too. It has been done, whatever comes of that.
        let dir = self.target.parent().unwrap_or(Path::new("."));
        if let Err(error) = File::open(dir).and_then(|dir| dir.sync_all()) {
            log::warn!(
                "{} may be lost in a power cut: {error}",
                self.target.display()
            );
        }
        Ok(())
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        // After the rename there is nothing left under this name.
        let _ = fs::remove_file(&self.file);
    }
}

/// Makes a directory with those above it, unless it is there.
pub(super) fn make_dir(dir: &Path, mode: u32) -> Result<(), Error> {
    DirBuilder::new()
        .recursive(true)
        .mode(mode)
        .create(dir)
        .map_err(|error| refused(format!("making the directory {}", dir.display()), error))
}

/// The error of a file that could not be opened or made.
pub(super) fn refused(doing: String, error: io::Error) -> Error {
    let denied = error.kind() == io::ErrorKind::PermissionDenied;
    let error = Error::new(doing, error);
    if denied {
        error.mend("run it as root")
    } else {
        error
    }
}
