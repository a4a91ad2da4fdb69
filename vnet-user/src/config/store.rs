//! The document's file: its lock, and the transaction that every change goes through.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::checkpoints::Checkpoints;
use super::pending::{Pending, PendingFile};
use super::staged::{Staged, make_dir, refused};
use super::{Config, Invalid, Source, merge};
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
    checkpoints: Checkpoints,
    pending: PendingFile,
    patience: Duration,
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
    /// The store of the switch called `switch`, with its document in `config_dir`, its lock in
    /// `run_dir` and the documents before in `state_dir`. Touches nothing yet.
    #[must_use]
    pub fn new(config_dir: &Path, run_dir: &Path, state_dir: &Path, switch: &str) -> Self {
        Self {
            switch: switch.to_owned(),
            document: config_dir.join(format!("{switch}.toml")),
            lock: run_dir.join(format!("{switch}.lock")),
            checkpoints: Checkpoints::new(state_dir.join(format!("{switch}.checkpoints"))),
            pending: PendingFile::new(state_dir.join(format!("{switch}.pending"))),
            patience: LOCK_PATIENCE,
        }
    }

    /// The same store, for a process that has other things to do than to wait.
    #[must_use]
    pub fn impatient(mut self) -> Self {
        self.patience = Duration::from_secs(3);
        self
    }

    /// The document's path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.document
    }

    /// The documents that were kept before changes.
    #[must_use]
    pub fn checkpoints(&self) -> &Checkpoints {
        &self.checkpoints
    }

    /// The last of them that is another document than the present one: a change that was interrupted
    /// at its end has kept what it did not replace.
    ///
    /// # Errors
    /// One cannot be read.
    pub fn last_other(&self) -> Result<Option<u32>, Error> {
        let now = self.source()?.map(|document| document.text);
        for checkpoint in self.checkpoints.list()?.iter().rev() {
            if Some(self.checkpoints.load(checkpoint.id)?.text) != now {
                return Ok(Some(checkpoint.id));
            }
        }
        Ok(None)
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
        self.lock_within(self.patience)
    }

    /// Changes the document and the kernel together: lock, load, edit, validate, write the new
    /// document beside the old one, `sync(old, new)`, rename. A `sync` that fails must leave the
    /// kernel as it was, and the document stays as it was. All that can fail for want of space or
    /// permission comes before `sync`. A document that does not change is not written, but `sync`
    /// runs all the same: waiting ports get their chance. The document before is kept as a
    /// checkpoint.
    ///
    /// `doing` says what is being done, for errors.
    pub fn edit(
        &self,
        doing: &str,
        edit: impl FnOnce(&mut Config) -> Result<(), Invalid>,
        sync: impl FnMut(&Config, &Config) -> Result<Vec<String>, Error>,
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
        sync: impl FnMut(&Config, &Config) -> Result<Vec<String>, Error>,
    ) -> Result<Edited, Error> {
        // From here on the kernel and the document change together or not at all.
        let _held = Held::begin();
        self.clear_staged();
        let (text, old) = self.read()?.unwrap_or_default();
        let mut new = old.clone();
        edit(&mut new).map_err(|refusal| refusal.doing(doing))?;
        new.validate(&self.switch)
            .map_err(|refusal| refusal.doing(doing))?;
        if new != old {
            self.refuse_pending(doing)?;
        }
        let rewritten = (new != old).then(|| merge::rewrite(&text, &old, &new));
        self.carry_out(doing, &text, rewritten.as_deref(), old, new, sync)
    }

    /// Puts `source` in the place of the document, as [`Self::edit`] changes it: comments and
    /// spelling are the new one's. A document that cannot be understood is replaced only where
    /// `old_matters` is not true, as while the switch is down; it counts as an empty one then.
    ///
    /// With `confirm_s` the change is [pending](Self::pending) then, unless there is none.
    ///
    /// # Errors
    /// As [`Self::edit`]; and `source` is not right.
    pub fn replace(
        &self,
        doing: &str,
        source: &Source,
        old_matters: bool,
        confirm_s: Option<u32>,
        sync: impl FnMut(&Config, &Config) -> Result<Vec<String>, Error>,
    ) -> Result<Edited, Error> {
        // Before the lock: what is wrong need not wait.
        source.config(&self.switch)?;
        let _lock = self.lock()?;
        let _held = Held::begin();
        self.clear_staged();
        let before = self.source()?.map(|before| before.text);
        let mut noted = false;
        if before.as_ref() != Some(&source.text) {
            self.refuse_pending(doing)?;
            if let Some(seconds) = confirm_s {
                // First, so that there is no moment in which nobody would take it back.
                self.pending.save(&Pending::new(seconds, before)?)?;
                noted = true;
            }
        }
        let unreadable = (!old_matters).then(Config::default);
        let replaced = self.put(doing, source, unreadable, sync);
        if replaced.is_err() && noted {
            self.pending.remove()?;
        }
        replaced
    }

    /// [`Self::replace`], with the lock held. A document that cannot be understood counts as
    /// `unreadable`; it is an error without.
    fn put(
        &self,
        doing: &str,
        source: &Source,
        unreadable: Option<Config>,
        sync: impl FnMut(&Config, &Config) -> Result<Vec<String>, Error>,
    ) -> Result<Edited, Error> {
        let new = source.config(&self.switch)?;
        let before = self.source()?;
        let old = match &before {
            None => Config::default(),
            Some(before) => before
                .config(&self.switch)
                .or_else(|error| unreadable.ok_or(error))?,
        };
        let changed = before.as_ref().map(|before| &before.text) != Some(&source.text);
        let text = before.map(|before| before.text).unwrap_or_default();
        let replacement = changed.then_some(source.text.as_str());
        self.carry_out(doing, &text, replacement, old, new, sync)
    }

    /// What waits to be confirmed. Whoever takes it back waits for the lock first and then asks.
    ///
    /// # Errors
    /// Its file cannot be read.
    pub fn pending(&self) -> Result<Option<Pending>, Error> {
        self.pending.load()
    }

    /// Keeps what waits to be confirmed. Returns whether there was anything.
    ///
    /// # Errors
    /// The file cannot be removed.
    pub fn confirm(&self) -> Result<bool, Error> {
        let _lock = self.lock()?;
        let there = self.waiting()?.is_some();
        self.pending.remove()?;
        Ok(there)
    }

    /// What waits to be confirmed, for who holds the lock. Where the document is the one before,
    /// applying it was interrupted and nothing waits: that is forgotten.
    fn waiting(&self) -> Result<Option<Pending>, Error> {
        let Some(pending) = self.pending.load()? else {
            return Ok(None);
        };
        if pending.before == self.source()?.map(|document| document.text) {
            self.pending.remove()?;
            return Ok(None);
        }
        Ok(Some(pending))
    }

    /// Takes back what waits to be confirmed: the document before is in force again. `None` when
    /// there is nothing of the kind (any more), or when `due` is asked for and its time is not over.
    ///
    /// # Errors
    /// As [`Self::edit`]; it still waits then.
    pub fn revert(
        &self,
        doing: &str,
        due: bool,
        sync: impl FnMut(&Config, &Config) -> Result<Vec<String>, Error>,
    ) -> Result<Option<Edited>, Error> {
        let _lock = self.lock()?;
        let _held = Held::begin();
        let Some(pending) = self.pending.load()? else {
            return Ok(None);
        };
        if due && pending.left_s() > 0 {
            return Ok(None);
        }
        let before = Source {
            name: format!("the document before {}", self.document.display()),
            text: pending.before.unwrap_or_else(|| Source::empty().text),
        };
        // One that cannot be understood came in force by nobody: what is put back counts in its place.
        let config = before.config(&self.switch)?;
        let reverted = self.put(doing, &before, Some(config), sync)?;
        self.pending.remove()?;
        Ok(Some(reverted))
    }

    /// Another change on top of one that is perhaps taken back would be lost with it.
    fn refuse_pending(&self, doing: &str) -> Result<(), Error> {
        let Some(pending) = self.waiting()? else {
            return Ok(());
        };
        Err(Error::new(
            doing,
            format_args!(
                "the document waits to be confirmed, and is taken back in {} s",
                pending.left_s()
            ),
        )
        .mend("vnet-user config confirm keeps it, vnet-user config rollback takes it back now"))
    }

    /// The second half of every change: stage, sync, commit. `before` is the document's text, empty
    /// where there is none, `after` what it becomes, if it changes.
    fn carry_out(
        &self,
        doing: &str,
        before: &str,
        after: Option<&str>,
        old: Config,
        new: Config,
        mut sync: impl FnMut(&Config, &Config) -> Result<Vec<String>, Error>,
    ) -> Result<Edited, Error> {
        let staged = match after {
            None => None,
            Some(after) => {
                let document = self.stage(after)?;
                let checkpoint = match before {
                    "" => None,
                    before => Some(self.checkpoints.stage(doing, before, document.mode)?),
                };
                Some((document, checkpoint))
            }
        };
        // An error drops `staged`, which takes the new files away again.
        let warnings = sync(&old, &new)?;
        if let Some((document, checkpoint)) = staged {
            // First, so that the document before is never nowhere.
            let kept = checkpoint.map_or(Ok(()), |checkpoint| checkpoint.commit());
            if let Err(error) = kept.and_then(|()| document.commit()) {
                // The kernel must not be ahead of the document.
                if let Err(also) = sync(&new, &old) {
                    log::error!("{also}");
                }
                return Err(error);
            }
        }
        Ok(Edited { old, new, warnings })
    }

    /// The document's text and meaning.
    fn read(&self) -> Result<Option<(String, Config)>, Error> {
        let Some(source) = self.source()? else {
            return Ok(None);
        };
        // Commands that would mend it have to read it first.
        let config = source.config(&self.switch)?;
        Ok(Some((source.text, config)))
    }

    /// The document's text, whatever it says; `None` while there is no document.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn source(&self) -> Result<Option<Source>, Error> {
        let name = self.document.display().to_string();
        match File::open(&self.document) {
            Ok(file) => Source::read(name, file).map(Some),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(refused(format!("reading {name}"), error)),
        }
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
            // Sockets and DHCP's files in it are others' to reach.
            make_dir(dir, 0o755)?;
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
        let (target, file) = self.places();
        make_dir(target.parent().unwrap_or(Path::new(".")), 0o755)?;
        let mode = fs::metadata(&target).map_or(0o644, |meta| meta.permissions().mode() & 0o7777);
        Staged::write(file, target, mode, text)
    }

    /// Where the document is, and where the new one is written, which the lock makes ours.
    fn places(&self) -> (PathBuf, PathBuf) {
        // A document that is a link stays one: what it leads to is replaced.
        let target = fs::canonicalize(&self.document).unwrap_or_else(|_| self.document.clone());
        let dir = target.parent().unwrap_or(Path::new("."));
        let file = dir.join(format!(".{}.toml.new", self.switch));
        (target, file)
    }

    /// Removes what a change that was interrupted left beside the document.
    fn clear_staged(&self) {
        let (_, file) = self.places();
        // Nothing reads it.
        let _ = fs::remove_file(file);
    }
}

/// Whether an open file is the one that a path leads to.
fn is_at(file: &File, path: &Path) -> bool {
    match (file.metadata(), fs::metadata(path)) {
        (Ok(open), Ok(there)) => (open.dev(), open.ino()) == (there.dev(), there.ino()),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Network, edits};

    fn blue() -> Network {
        Network {
            vlan: Some(10),
            ..Network::new("blue")
        }
    }

    fn store() -> (tempfile::TempDir, Store) {
        let dir = tempfile::tempdir().unwrap();
        let store = {
            let place = |name| dir.path().join(name);
            Store::new(&place("etc"), &place("run"), &place("lib"), "vsw0")
        };
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
