//! The document's file: its lock, and the transaction that every change goes through.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::unix::fs::{
    DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _,
};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::{Config, Invalid, document, merge};
use crate::error::{Doing as _, Error};
use crate::host::signals::Held;

/// How long to wait for another command that changes the same switch.
const LOCK_PATIENCE: Duration = Duration::from_secs(30);

/// Pause between two tries to get the lock.
const LOCK_PAUSE: Duration = Duration::from_millis(20);

/// Where one switch's document and lock are.
#[derive(Clone, Debug)]
pub struct Store {
    switch: String,
    document: PathBuf,
    lock: PathBuf,
}

/// The switch's lock, held until dropped. Whoever changes the document or the kernel's tables
/// holds it.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

/// What an edit did.
#[derive(Clone, Debug)]
pub struct Edited {
    /// The configuration before.
    pub old: Config,
    /// The configuration now in force and in the document.
    pub new: Config,
    /// What `sync` warned of.
    pub warnings: Vec<String>,
}

impl Edited {
    /// Whether the edit changed anything.
    #[must_use]
    pub fn changed(&self) -> bool {
        self.old != self.new
    }
}

impl Store {
    /// The store of the switch called `switch`, with its document in `config_dir` and its lock in
    /// `run_dir`. Touches nothing yet.
    #[must_use]
    pub fn new(config_dir: &Path, run_dir: &Path, switch: &str) -> Self {
        Self {
            switch: switch.to_owned(),
            document: config_dir.join(format!("{switch}.toml")),
            lock: run_dir.join(format!("{switch}.lock")),
        }
    }

    /// The document's path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.document
    }

    /// The configuration, checked; `None` while there is no document. Needs no lock: the document
    /// is only ever replaced as a whole.
    ///
    /// # Errors
    /// The file cannot be read, or what it says is wrong.
    pub fn load(&self) -> Result<Option<Config>, Error> {
        Ok(self.read()?.map(|(_, config)| config))
    }

    /// Waits for the switch's lock.
    ///
    /// # Errors
    /// Another command held it all the time, or the file cannot be made.
    pub fn lock(&self) -> Result<Lock, Error> {
        self.lock_within(LOCK_PATIENCE)
    }

    /// Changes the document and the kernel together: lock, load, edit, validate, write the new
    /// document beside the old one, `sync(old, new)`, rename. A `sync` that fails must leave the
    /// kernel as it was, and the document stays as it was. All that can fail for want of space or
    /// permission comes before `sync`. A document that does not change is not written, but `sync`
    /// runs all the same: waiting ports get their chance.
    ///
    /// `doing` says what is being done, for errors.
    pub fn edit(
        &self,
        doing: &str,
        edit: impl FnOnce(&mut Config) -> Result<(), Invalid>,
        sync: impl FnOnce(&Config, &Config) -> Result<Vec<String>, Error>,
    ) -> Result<Edited, Error> {
        let lock = self.lock()?;
        self.edit_locked(&lock, doing, edit, sync)
    }

    /// [`Self::edit`] for a caller that holds the lock for more than this.
    pub fn edit_locked(
        &self,
        _lock: &Lock,
        doing: &str,
        edit: impl FnOnce(&mut Config) -> Result<(), Invalid>,
        sync: impl FnOnce(&Config, &Config) -> Result<Vec<String>, Error>,
    ) -> Result<Edited, Error> {
        // From here on the kernel and the document change together or not at all.
        let _held = Held::begin();
        let (text, old) = self.read()?.unwrap_or_default();
        let mut new = old.clone();
        edit(&mut new).map_err(|refusal| refusal.doing(doing))?;
        new.validate(&self.switch)
            .map_err(|refusal| refusal.doing(doing))?;
        let staged = if new == old {
            None
        } else {
            Some(self.stage(&merge::rewrite(&text, &old, &new))?)
        };
        // An error drops `staged`, which takes the new document away again.
        let warnings = sync(&old, &new)?;
        if let Some(staged) = staged {
            staged.commit()?;
        }
        Ok(Edited { old, new, warnings })
    }

    /// The document's text and meaning.
    fn read(&self) -> Result<Option<(String, Config)>, Error> {
        let doing = || format!("reading {}", self.document.display());
        let text = match fs::read_to_string(&self.document) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(refused(doing(), error)),
        };
        let config = document::parse(&text).map_err(|refusal| match refusal.mend {
            Some(_) => refusal.doing(doing()),
            None => refusal.doing(doing()).mend("edit the file"),
        })?;
        // Commands that would mend it have to read it first.
        config
            .validate(&self.switch)
            .map_err(|refusal| refusal.doing(doing()).mend("edit the file"))?;
        Ok(Some((text, config)))
    }

    fn lock_within(&self, patience: Duration) -> Result<Lock, Error> {
        let doing = || format!("locking the switch {}", self.switch);
        let mut file = self.open_lock()?;
        let give_up = Instant::now() + patience;
        loop {
            match file.try_lock() {
                Ok(()) if is_at(&file, &self.lock) => break,
                // `down` removed the file while we waited: the lock is another file now.
                Ok(()) => file = self.open_lock()?,
                Err(TryLockError::WouldBlock) if Instant::now() < give_up => {
                    std::thread::sleep(LOCK_PAUSE);
                }
                Err(TryLockError::WouldBlock) => {
                    let mut holder = String::new();
                    // Only for the message: without it the error is as true.
                    let _ = file.read_to_string(&mut holder);
                    let holder = match holder.trim() {
                        "" => "another process".to_owned(),
                        pid => format!("process {pid}"),
                    };
                    return Err(Error::new(
                        doing(),
                        format_args!("{holder} has held it for {} s", patience.as_secs()),
                    )
                    .mend("wait for it to end, or end it"));
                }
                Err(TryLockError::Error(error)) => return Err(Error::new(doing(), error)),
            }
        }
        // For the message of whoever waits in vain.
        file.set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| write!(file, "{}", std::process::id()))
            .doing(doing)?;
        Ok(Lock { _file: file })
    }

    fn open_lock(&self) -> Result<File, Error> {
        if let Some(dir) = self.lock.parent() {
            make_dir(dir, 0o700)?;
        }
        OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&self.lock)
            .map_err(|error| refused(format!("opening {}", self.lock.display()), error))
    }

    /// Removes the lock's file, and its folder when nothing else is in it. Whoever waits for it
    /// notices and takes a new one.
    pub fn remove_lock(&self, _lock: Lock) {
        // Left behind it does no harm.
        let _ = fs::remove_file(&self.lock);
        if let Some(dir) = self.lock.parent() {
            let _ = fs::remove_dir(dir);
        }
    }

    /// Writes the new document beside the old one, onto the disk.
    fn stage(&self, text: &str) -> Result<Staged, Error> {
        // A document that is a link stays one: what it leads to is replaced.
        let target = fs::canonicalize(&self.document).unwrap_or_else(|_| self.document.clone());
        let doing = || format!("writing {}", target.display());
        let dir = target.parent().unwrap_or(Path::new(".")).to_owned();
        make_dir(&dir, 0o755)?;
        // The lock makes the name ours; what a crash left there is overwritten.
        let staged = Staged {
            file: dir.join(format!(".{}.toml.new", self.switch)),
            target: target.clone(),
            dir,
        };
        let mode = fs::metadata(&target).map_or(0o644, |meta| meta.permissions().mode() & 0o7777);
        let mut file = File::create(&staged.file).map_err(|error| refused(doing(), error))?;
        file.set_permissions(fs::Permissions::from_mode(mode))
            .doing(doing)?;
        file.write_all(text.as_bytes()).doing(doing)?;
        file.sync_all().doing(doing)?;
        Ok(staged)
    }
}

/// Whether an open file is the one that a path leads to.
fn is_at(file: &File, path: &Path) -> bool {
    match (file.metadata(), fs::metadata(path)) {
        (Ok(open), Ok(there)) => (open.dev(), open.ino()) == (there.dev(), there.ino()),
        _ => false,
    }
}

/// A new document on the disk that is not yet the document. Dropped, it is gone.
struct Staged {
    file: PathBuf,
    target: PathBuf,
    dir: PathBuf,
}

impl Staged {
    fn commit(self) -> Result<(), Error> {
        let doing = || format!("replacing {}", self.target.display());
        fs::rename(&self.file, &self.target).doing(doing)?;
        // The rename itself must survive a power cut too.
        File::open(&self.dir)
            .and_then(|dir| dir.sync_all())
            .doing(doing)
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        // After the rename there is nothing left under this name.
        let _ = fs::remove_file(&self.file);
    }
}

fn make_dir(dir: &Path, mode: u32) -> Result<(), Error> {
    DirBuilder::new()
        .recursive(true)
        .mode(mode)
        .create(dir)
        .map_err(|error| refused(format!("making the directory {}", dir.display()), error))
}

/// The error of a file that could not be opened or made.
fn refused(doing: String, error: io::Error) -> Error {
    let denied = error.kind() == io::ErrorKind::PermissionDenied;
    let error = Error::new(doing, error);
    if denied {
        error.mend("run it as root")
    } else {
        error
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Network, edits};

    fn blue() -> Network {
        Network {
            name: "blue".into(),
            vlan: Some(10),
            mtu: None,
            gateway: Vec::new(),
        }
    }

    fn store() -> (tempfile::TempDir, Store) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::new(&dir.path().join("etc"), &dir.path().join("run"), "vsw0");
        (dir, store)
    }

    fn files(store: &Store) -> Vec<String> {
        let dir = fs::read_dir(store.path().parent().unwrap()).unwrap();
        dir.map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect()
    }

    #[test]
    fn an_edit_syncs_and_then_writes() {
        let (_dir, store) = store();
        assert_eq!(store.load().unwrap(), None);
        let edited = store
            .edit(
                "adding",
                |config| edits::add_network(config, blue()),
                |old, new| {
                    assert_eq!(*old, Config::default());
                    assert_eq!(new.networks, [blue()]);
                    assert!(
                        !store.path().exists(),
                        "the document comes after the kernel"
                    );
                    Ok(vec!["careful".into()])
                },
            )
            .unwrap();
        assert!(edited.changed());
        assert_eq!(edited.warnings, ["careful"]);
        assert_eq!(store.load().unwrap(), Some(edited.new));
        assert_eq!(files(&store), ["vsw0.toml"]);
    }

    #[test]
    fn a_failed_sync_leaves_the_document_as_it_was() {
        let (_dir, store) = store();
        fs::create_dir_all(store.path().parent().unwrap()).unwrap();
        let text = "# mine\nschema = 1\n";
        fs::write(store.path(), text).unwrap();
        let error = store
            .edit(
                "adding",
                |config| edits::add_network(config, blue()),
                |_, _| Err(Error::new("swapping", "EIO")),
            )
            .unwrap_err();
        assert_eq!(error.why, "EIO");
        assert_eq!(fs::read_to_string(store.path()).unwrap(), text);
        assert_eq!(files(&store), ["vsw0.toml"]);
    }

    #[test]
    fn a_refused_edit_does_not_sync() {
        let (_dir, store) = store();
        let refused = store.edit(
            "deleting",
            |config| edits::delete_network(config, "blue"),
            |_, _| panic!("nothing to sync"),
        );
        assert_eq!(refused.unwrap_err().doing, "deleting");
        let invalid = store.edit(
            "adding",
            |config| {
                edits::add_network(
                    config,
                    Network {
                        vlan: Some(4095),
                        ..blue()
                    },
                )
            },
            |_, _| panic!("nothing to sync"),
        );
        assert!(invalid.unwrap_err().why.contains("4095"));
        assert!(!store.path().exists());
    }

    #[test]
    fn what_stays_the_same_is_synced_and_not_written() {
        let (_dir, store) = store();
        let mut synced = false;
        let edited = store.edit(
            "nothing",
            |_| Ok(()),
            |_, _| {
                synced = true;
                Ok(Vec::new())
            },
        );
        assert!(!edited.unwrap().changed() && synced);
        assert!(!store.path().exists());
    }

    #[test]
    fn the_lock_names_its_holder() {
        let (_dir, store) = store();
        let held = store.lock().unwrap();
        let error = store.lock_within(Duration::from_millis(1)).unwrap_err();
        assert!(
            error.why.contains(&std::process::id().to_string()),
            "{error}"
        );
        drop(held);
        store.lock_within(Duration::ZERO).unwrap();
    }

    #[test]
    fn a_linked_document_stays_a_link_and_keeps_its_mode() {
        let (dir, store) = store();
        let real = dir.path().join("real.toml");
        fs::write(&real, "schema = 1\n").unwrap();
        fs::set_permissions(&real, fs::Permissions::from_mode(0o640)).unwrap();
        fs::create_dir_all(store.path().parent().unwrap()).unwrap();
        std::os::unix::fs::symlink(&real, store.path()).unwrap();
        store
            .edit(
                "adding",
                |c| edits::add_network(c, blue()),
                |_, _| Ok(Vec::new()),
            )
            .unwrap();
        assert!(fs::symlink_metadata(store.path()).unwrap().is_symlink());
        assert!(fs::read_to_string(&real).unwrap().contains("blue"));
        assert_eq!(
            fs::metadata(&real).unwrap().permissions().mode() & 0o777,
            0o640
        );
    }
}
