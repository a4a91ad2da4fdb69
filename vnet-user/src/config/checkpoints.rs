//! The documents that were in force before, each kept when it was changed.
//!
//! One file each, `ID.toml`: a comment line that says when and why it was kept, then the document as
//! it was, byte by byte.

use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader};
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::Source;
use super::staged::{Staged, make_dir, refused};
use crate::error::{Doing as _, Error};

/// How many are kept; the oldest goes first.
pub const KEPT: usize = 20;

/// What the first line begins with; JSON follows.
const HEAD: &str = "# vnet checkpoint ";

/// The checkpoints of one switch.
#[derive(Clone, Debug)]
pub struct Checkpoints {
    dir: PathBuf,
}

/// A document that was kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// Counts up; never used again while later ones are there.
    pub id: u32,
    /// When it ceased to be in force, in seconds since 1970 (UTC).
    pub time_s: u64,
    /// What was being done then.
    pub before: String,
}

/// The first line's JSON.
#[derive(Serialize, Deserialize)]
struct Head {
    time_s: u64,
    before: String,
}

/// A checkpoint on the disk that is not yet one. Dropped, it is gone.
pub(super) struct Keeping<'a> {
    checkpoints: &'a Checkpoints,
    file: Staged,
}

impl Checkpoints {
    /// Those in `dir`. Touches nothing yet.
    #[must_use]
    pub fn new(dir: PathBuf) -> Self {
        Self { dir }
    }

    /// Every checkpoint, the oldest first. A file that is none of ours is left out.
    ///
    /// # Errors
    /// The directory, or a file in it, cannot be read.
    pub fn list(&self) -> Result<Vec<Checkpoint>, Error> {
        let mut checkpoints = Vec::new();
        for id in self.ids()? {
            let file = self.open(id)?;
            let mut line = String::new();
            BufReader::new(file)
                .read_line(&mut line)
                .doing(|| format!("reading {}", self.path(id).display()))?;
            checkpoints.extend(head(&line).map(|Head { time_s, before }| Checkpoint {
                id,
                time_s,
                before,
            }));
        }
        Ok(checkpoints)
    }

    /// The id of the last one, if there is any.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn last(&self) -> Result<Option<u32>, Error> {
        Ok(self.ids()?.last().copied())
    }

    /// The document of a checkpoint, without what was added to it.
    ///
    /// # Errors
    /// There is none with this id, or it cannot be read.
    pub fn load(&self, id: u32) -> Result<Source, Error> {
        let name = self.path(id).display().to_string();
        let mut source = Source::read(name, self.open(id)?)?;
        if let Some((line, document)) = source.text.split_once('\n')
            && head(line).is_some()
        {
            source.text = document.to_owned();
        }
        Ok(source)
    }

    /// Writes the next checkpoint, which `commit` makes one: `text` is the document before what
    /// `doing` says, and `mode` its file's mode.
    pub(super) fn stage(&self, doing: &str, text: &str, mode: u32) -> Result<Keeping<'_>, Error> {
        make_dir(&self.dir, 0o755)?;
        let id = self.ids()?.last().map_or(1, |last| last.saturating_add(1));
        let time_s = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_secs());
        let head = serde_json::to_string(&Head {
            time_s,
            before: doing.to_owned(),
        })
        .doing(|| "keeping the document".into())?;
        let text = format!("{HEAD}{head}\n{text}");
        let target = self.path(id);
        // Whoever stages holds the switch's lock, so that the name is free.
        let file = Staged::write(target.with_extension("new"), target, mode, &text)?;
        Ok(Keeping {
            checkpoints: self,
            file,
        })
    }

    /// Ids, ascending.
    fn ids(&self) -> Result<Vec<u32>, Error> {
        let doing = || format!("reading {}", self.dir.display());
        let entries = match fs::read_dir(&self.dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(refused(doing(), error)),
        };
        let mut ids = Vec::new();
        for entry in entries {
            let name = entry.doing(doing)?.file_name();
            let id = name.to_str().and_then(|name| name.strip_suffix(".toml"));
            ids.extend(id.and_then(|id| id.parse::<u32>().ok()));
        }
        ids.sort_unstable();
        Ok(ids)
    }

    fn open(&self, id: u32) -> Result<File, Error> {
        let path = self.path(id);
        File::open(&path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => Error::new(
                format!("looking for the checkpoint {id}"),
                "there is none with this id",
            )
            .mend("vnet-user config list shows those that there are"),
            _ => refused(format!("reading {}", path.display()), error),
        })
    }

    fn path(&self, id: u32) -> PathBuf {
        self.dir.join(format!("{id}.toml"))
    }
}

impl Keeping<'_> {
    /// Makes it a checkpoint, and removes those that are too many.
    pub(super) fn commit(self) -> Result<(), Error> {
        self.file.commit()?;
        let ids = self.checkpoints.ids()?;
        for id in &ids[..ids.len().saturating_sub(KEPT)] {
            // One too many does no harm, and goes with the next.
            let _ = fs::remove_file(self.checkpoints.path(*id));
        }
        Ok(())
    }
}

fn head(line: &str) -> Option<Head> {
    serde_json::from_str(line.strip_prefix(HEAD)?).ok()
}
