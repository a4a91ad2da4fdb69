//! Files that a guest gets besides its image: the kernel unpacks one cpio archive after another.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};

use crate::{process::output, setup::cpio::Archive};

/// Writes to `to` the archive `initramfs` followed by one that holds `files`: where each is to be in
/// the guest, and what it is a copy of.
pub(super) fn add_to(initramfs: &Path, files: &[(PathBuf, PathBuf)], to: &Path) -> Result<()> {
    let mut bytes =
        fs::read(initramfs).with_context(|| format!("reading {}", initramfs.display()))?;
    // Each archive must begin at a multiple of four bytes.
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes.extend(archive(files)?.finish());
    fs::write(to, bytes).with_context(|| format!("writing {}", to.display()))
}

fn archive(files: &[(PathBuf, PathBuf)]) -> Result<Archive> {
    let mut archive = Archive::default();
    let mut directories = BTreeSet::new();
    let mut copied = BTreeSet::new();
    for (inside, from) in files {
        let inside = inside.strip_prefix("/").unwrap_or(inside);
        let name = |path: &Path| {
            let text = path.to_str().map(str::to_owned);
            text.with_context(|| format!("{} is not UTF-8", path.display()))
        };
        // The topmost first. One that the image has already is no obstacle.
        let parents: Vec<_> = inside.ancestors().skip(1).collect();
        for parent in parents.into_iter().rev() {
            let is_new = !parent.as_os_str().is_empty() && directories.insert(parent);
            if is_new {
                archive.directory(&name(parent)?);
            }
        }
        if copied.insert(inside) {
            let metadata =
                fs::metadata(from).with_context(|| format!("reading {}", from.display()))?;
            let mode = metadata.permissions().mode() & 0o777;
            archive.copy(&name(inside)?, mode, from)?;
        }
    }
    Ok(archive)
}

/// The shared libraries of a program, the dynamic loader included, as the loader finds them here.
pub(super) fn libraries(program: &Path) -> Result<Vec<PathBuf>> {
    match output(Command::new("ldd").arg(program)) {
        Ok(text) => Ok(parse(&text)),
        // It says so by failing.
        Err(error) if format!("{error:#}").contains("not a dynamic executable") => Ok(Vec::new()),
        Err(error) => Err(error).context("looking for the libraries of a program"),
    }
}

fn parse(ldd: &str) -> Vec<PathBuf> {
    ldd.lines()
        .filter_map(|line| {
            let place = line.split_once("=>").map_or(line, |(_, place)| place);
            let path = place.split_whitespace().next()?;
            // The kernel's own (vdso) has no path.
            path.starts_with('/').then(|| PathBuf::from(path))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ldd_prints() {
        let text = "\tlinux-vdso.so.1 (0x00007ffe)\n\
                    \tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f8a)\n\
                    \t/lib64/ld-linux-x86-64.so.2 (0x00007f8b)\n";
        let paths: Vec<_> = parse(text);
        assert_eq!(
            paths,
            [
                Path::new("/lib/x86_64-linux-gnu/libc.so.6"),
                Path::new("/lib64/ld-linux-x86-64.so.2")
            ]
        );
        assert!(parse("\tstatically linked\n").is_empty());
    }

    #[test]
    fn directories_come_once_and_before_what_is_in_them() {
        let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml");
        let files = ["/a/b/one", "a/two", "a/b/one"].map(|inside| (inside.into(), from.clone()));
        let bytes = archive(&files).unwrap().finish();
        let text = String::from_utf8_lossy(&bytes);
        let places: Vec<_> = ["a\0", "a/b\0", "a/b/one\0", "a/two\0"]
            .map(|name| text.find(name).unwrap())
            .into();
        assert!(places.is_sorted(), "{places:?}");
        assert_eq!(text.matches("a/b/one\0").count(), 1);
    }
}
