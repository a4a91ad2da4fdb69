//! Where a switch's maps, programs and links are pinned.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use aya::programs::links::PinnedLink;
use vnet_common::SCHEMA;

/// A switch's folder on the BPF file system: maps at the top, `progs/` and `links/` below.
#[derive(Clone, Debug)]
pub struct Pins {
    switch_dir: PathBuf,
    dir: PathBuf,
}

impl Pins {
    /// The folder of `switch` on the file system mounted at `bpffs`. Touches nothing.
    #[must_use]
    pub fn new(bpffs: &Path, switch: &str) -> Self {
        let switch_dir = bpffs.join("vnet").join(switch);
        Self {
            dir: switch_dir.join(format!("v{SCHEMA}")),
            switch_dir,
        }
    }

    /// The switch that they are of.
    #[must_use]
    pub fn switch(&self) -> Option<&str> {
        self.switch_dir.file_name()?.to_str()
    }

    /// The folder itself.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// A map's pin.
    #[must_use]
    pub fn map(&self, name: &str) -> PathBuf {
        self.dir.join(name.to_lowercase())
    }

    /// A program's pin.
    #[must_use]
    pub fn program(&self, name: &str) -> PathBuf {
        self.dir.join("progs").join(name)
    }

    /// A link's pin. Named by interface index: names may hold dots, which the file system refuses.
    #[must_use]
    pub fn link(&self, hook: &str, ifindex: u32) -> PathBuf {
        self.dir.join("links").join(format!("{hook}_{ifindex}"))
    }

    /// Whether a datapath is pinned here, as far as one may look.
    #[must_use]
    pub fn exist(&self) -> bool {
        self.look().unwrap_or(false)
    }

    /// Whether a datapath is pinned here.
    ///
    /// # Errors
    /// The file system is not to be looked into.
    pub fn look(&self) -> io::Result<bool> {
        self.map("switch_conf").try_exists()
    }

    /// Another layout's folders of this switch, which another version of vnet left.
    #[must_use]
    pub fn foreign(&self) -> Vec<PathBuf> {
        let Ok(entries) = fs::read_dir(&self.switch_dir) else {
            return Vec::new();
        };
        entries
            .filter_map(Result::ok)
            .map(|entry| entry.path())
            .filter(|path| *path != self.dir)
            .collect()
    }

    /// The same switch's pins of another layout, in a folder of [`Self::foreign`].
    fn of_layout(&self, dir: PathBuf) -> Self {
        Self {
            switch_dir: self.switch_dir.clone(),
            dir,
        }
    }

    /// Takes away what other versions of vnet pinned for this switch, as [`Self::remove`] does: every
    /// layout has the same folders.
    pub fn remove_foreign(&self) -> Result<()> {
        let mut first = Ok(());
        for dir in self.foreign() {
            let removed = self.of_layout(dir).remove();
            first = first.and(removed);
        }
        first
    }

    /// Makes the folders.
    pub fn create(&self) -> Result<()> {
        for dir in ["progs", "links"] {
            let dir = self.dir.join(dir);
            fs::create_dir_all(&dir).with_context(|| format!("making {}", dir.display()))?;
        }
        Ok(())
    }

    /// Takes everything away, links first: programs are off the interfaces before the maps that
    /// they need are gone. Goes on after an error and tells the first.
    pub fn remove(&self) -> Result<()> {
        let mut first = Ok(());
        let links = self.dir.join("links");
        for dir in [&links, &self.dir.join("progs"), &self.dir] {
            let removed = remove_files(dir, |file| {
                if *dir == links {
                    return remove_link(file);
                }
                Ok(ignore_absent(fs::remove_file(file))?)
            })
            .and_then(|()| Ok(ignore_absent(fs::remove_dir(dir))?));
            if let (Ok(()), Err(error)) = (&first, removed) {
                first = Err(error).with_context(|| format!("removing {}", dir.display()));
            }
        }
        // Shared with other layouts and other switches: they stay while they are not empty.
        let _ = fs::remove_dir(&self.switch_dir);
        if let Some(vnet) = self.switch_dir.parent() {
            let _ = fs::remove_dir(vnet);
        }
        first
    }
}

/// Unpins a link, if it is there; its program is off the interface on return.
///
/// The file system gives up its reference some time after the file is gone (kernel/bpf/inode.c,
/// bpf_free_inode), while closing the last descriptor detaches at once.
pub fn remove_link(pin: &Path) -> Result<()> {
    // What cannot be opened is removed all the same.
    let link = PinnedLink::from_pin(pin);
    ignore_absent(fs::remove_file(pin))
        .with_context(|| format!("removing the link {}", pin.display()))?;
    drop(link);
    Ok(())
}

fn remove_files(dir: &Path, remove: impl Fn(&Path) -> Result<()>) -> Result<()> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) => return Ok(ignore_absent(Err(error))?),
    };
    for entry in entries {
        let entry = entry?;
        if !entry.file_type()?.is_dir() {
            remove(&entry.path())?;
        }
    }
    Ok(())
}

/// Whether something is gone already makes no difference to removing it.
pub fn ignore_absent(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the documents have a user type is where the maps are.
    #[test]
    fn documents_name_the_layout_that_there_is() {
        let documents = [
            include_str!("../../../README.md"),
            include_str!("../../../docs/guide.md"),
        ];
        for document in documents {
            let mut named = 0;
            for path in document.split("/sys/fs/bpf/vnet/").skip(1) {
                let mut parts = path.split(['/', ' ', '`', '\n']);
                let (_switch, layout) = (parts.next(), parts.next().unwrap_or_default());
                assert_eq!(layout, format!("v{SCHEMA}"), "{path:.60}");
                named += 1;
            }
            assert!(named > 0, "no document tells where the maps are");
        }
    }
}
