//! Debian's packages: which are installed, and downloads of single files, also from a suite that
//! the machine does not list.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
};

use anyhow::{Context, Result, bail};

use super::say;
use crate::{
    paths::{cache_dir, find_program},
    process::output,
};

/// Debian's releases in their order, to find the suites newer than the machine's own.
const RELEASES: [&str; 6] = ["bullseye", "bookworm", "trixie", "forky", "duke", "sid"];

/// Which package sources apt looks into.
#[derive(Debug)]
pub(super) struct Apt {
    /// Lists, cache and sources of our own; none means the machine's.
    private: Option<WorkDir>,
}

/// A directory of our own in the cache, removed with this value.
#[derive(Debug)]
pub(super) struct WorkDir(PathBuf);

impl WorkDir {
    pub(super) fn new(what: &str) -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let dir = cache_dir()?.join(format!("work-{}-{number}-{what}", std::process::id()));
        fs::create_dir_all(&dir).with_context(|| format!("creating {}", dir.display()))?;
        Ok(Self(dir))
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for WorkDir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

impl Apt {
    /// The machine's own sources.
    ///
    /// # Errors
    /// When the machine has no apt.
    pub(super) fn machine() -> Result<Self> {
        if find_program("apt-get").is_none() {
            bail!("there is no apt-get on this machine");
        }
        Ok(Self { private: None })
    }

    /// The suite `suite` of the mirror that the machine uses, with a state of its own: the
    /// machine's sources and lists stay as they are.
    ///
    /// # Errors
    /// When the machine has no apt, no repository of its own release, or the mirror lacks the
    /// suite.
    pub(super) fn suite(suite: &str) -> Result<Self> {
        let mut apt = Self::machine()?;
        let repository = own_repository(Path::new("/etc/apt"), &codename()?)?;
        let dir = WorkDir::new("apt")?;
        for sub in ["lists/partial", "cache/archives/partial"] {
            let sub = dir.path().join(sub);
            fs::create_dir_all(&sub).with_context(|| format!("creating {}", sub.display()))?;
        }
        let list = dir.path().join("sources.list");
        fs::write(&list, repository.line(suite) + "\n")
            .with_context(|| format!("writing {}", list.display()))?;
        apt.private = Some(dir);
        output(apt.command("apt-get").arg("update"))
            .with_context(|| format!("reading the package lists of {suite}"))?;
        Ok(apt)
    }

    /// `apt-get` or `apt-cache` with these sources.
    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command
            .env("LC_ALL", "C")
            .env("DEBIAN_FRONTEND", "noninteractive")
            .arg("-q");
        if let Some(dir) = self.private.as_ref().map(WorkDir::path) {
            let mut set = |key: &str, path: &Path| {
                command.arg("-o").arg(format!("{key}={}", path.display()));
            };
            set("Dir::State::Lists", &dir.join("lists"));
            set("Dir::Cache", &dir.join("cache"));
            set("Dir::Etc::SourceList", &dir.join("sources.list"));
            set("Dir::Etc::SourceParts", Path::new("/nonexistent"));
        }
        // The cache may be under a home directory that apt's own user cannot enter.
        command.args(["-o", "APT::Sandbox::User=root"]);
        command
    }

    /// Downloads packages, each a `name` or `name=version` (with `*`), and unpacks them into `into`,
    /// which appears whole or not at all.
    ///
    /// # Errors
    /// When these sources have no such package or it cannot be fetched or unpacked.
    pub(super) fn unpack(&self, packages: &[String], into: &Path) -> Result<()> {
        let work = WorkDir::new("deb")?;
        let names = packages.join(", ");
        output(
            self.command("apt-get")
                .current_dir(work.path())
                .arg("download")
                .args(packages),
        )
        .with_context(|| format!("downloading {names} by apt-get"))?;
        let tree = work.path().join("tree");
        for deb in debs(work.path())? {
            output(Command::new("dpkg").arg("-x").arg(deb).arg(&tree))
                .with_context(|| format!("unpacking {names}"))?;
        }
        let _ = fs::remove_dir_all(into);
        fs::rename(&tree, into).with_context(|| format!("moving {names} to {}", into.display()))
    }

    /// The first dependency of `package` whose name begins with `prefix`: what a metapackage
    /// stands for at present.
    ///
    /// # Errors
    /// When these sources do not know the package, or it depends on nothing of that name.
    pub(super) fn dependency(&self, package: &str, prefix: &str) -> Result<String> {
        let text = output(self.command("apt-cache").args(["depends", package]))
            .with_context(|| format!("looking up the package {package}"))?;
        text.lines()
            .filter_map(|line| line.trim().strip_prefix("Depends: "))
            .find(|name| name.starts_with(prefix))
            .map(str::to_owned)
            .with_context(|| format!("{package} depends on no {prefix}…"))
    }

    /// Fetches the package lists again.
    ///
    /// # Errors
    /// When apt cannot, as when we are not root.
    pub(super) fn update(&self) -> Result<()> {
        output(self.command("apt-get").arg("update")).map(drop)
    }

    /// Installs packages without what they recommend.
    ///
    /// # Errors
    /// When apt cannot.
    pub(super) fn install(&self, packages: &[&str]) -> Result<()> {
        output(
            self.command("apt-get")
                .args(["install", "-y", "--no-install-recommends"])
                .args(packages),
        )
        .map(drop)
    }
}

/// One repository of the machine's own apt sources.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Repository {
    uri: String,
    suites: Vec<String>,
    signed_by: Option<String>,
}

impl Repository {
    /// The line of an apt source with the suite `suite` of this repository.
    pub(super) fn line(&self, suite: &str) -> String {
        let options = match &self.signed_by {
            Some(key) => format!("[signed-by={key}] "),
            None => String::new(),
        };
        format!("deb {options}{} {suite} main", self.uri)
    }
}

/// Unpacks `package` in a version that begins with `version` from the first of the suites after
/// the machine's own that has it.
///
/// # Errors
/// When no suite has it.
pub(super) fn unpack_from_newer_suite(package: &str, version: &str, into: &Path) -> Result<()> {
    let suites = newer_suites(&codename()?);
    for suite in &suites {
        say(package, &format!("looking in {suite}"));
        // A mirror need not have every suite.
        let Ok(apt) = Apt::suite(suite) else { continue };
        if apt.unpack(&[format!("{package}={version}*")], into).is_ok() {
            return Ok(());
        }
    }
    bail!(
        "{package} {version} is in none of the suites {}",
        suites.join(", ")
    )
}

fn debs(dir: &Path) -> Result<Vec<PathBuf>> {
    let doing = || format!("looking for downloaded packages in {}", dir.display());
    let found: Vec<_> = fs::read_dir(dir)
        .with_context(doing)?
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "deb"))
        .collect();
    if found.is_empty() {
        bail!(
            "apt-get said that it downloaded a package, but {} holds none",
            dir.display()
        );
    }
    Ok(found)
}

/// The suites to try for something too new for `codename`: backports first, they are small.
fn newer_suites(codename: &str) -> Vec<String> {
    let at = RELEASES.iter().position(|release| *release == codename);
    let own = at.map(|_| format!("{codename}-backports"));
    let later = &RELEASES[at.map_or(RELEASES.len() - 1, |at| at + 1)..];
    let next = later.iter().flat_map(|release| match *release {
        "sid" => vec!["sid".to_owned()],
        release => vec![format!("{release}-backports"), release.to_owned()],
    });
    own.into_iter().chain(next).collect()
}

pub(super) fn codename() -> Result<String> {
    let text = fs::read_to_string("/etc/os-release").context("reading /etc/os-release")?;
    text.lines()
        .find_map(|line| line.strip_prefix("VERSION_CODENAME="))
        .map(|name| name.trim_matches('"').to_owned())
        .context("/etc/os-release names no VERSION_CODENAME")
}

/// The repository from which this machine gets its release.
pub(super) fn own_repository(dir: &Path, codename: &str) -> Result<Repository> {
    let mut files = vec![dir.join("sources.list")];
    let mut parts: Vec<PathBuf> = fs::read_dir(dir.join("sources.list.d"))
        .map(|entries| entries.flatten().map(|entry| entry.path()).collect())
        .unwrap_or_default();
    parts.sort();
    files.append(&mut parts);

    for file in files {
        let Ok(text) = fs::read_to_string(&file) else {
            continue;
        };
        let found = match file.extension().and_then(|extension| extension.to_str()) {
            Some("sources") => parse_deb822(&text),
            Some("list") => parse_one_line(&text),
            _ => continue,
        };
        let fits = |repository: &Repository| repository.suites.iter().any(|s| s == codename);
        if let Some(repository) = found.into_iter().find(fits) {
            return Ok(repository);
        }
    }
    bail!(
        "no repository with the suite {codename} in the apt sources under {}",
        dir.display()
    )
}

/// The `.sources` format (deb822): stanzas of `Key: value` lines.
fn parse_deb822(text: &str) -> Vec<Repository> {
    let mut found = Vec::new();
    let lines = text
        .lines()
        .filter(|line| !line.starts_with('#'))
        .chain([""]);
    let mut stanza: BTreeMap<String, String> = BTreeMap::new();
    let mut last = String::new();
    for line in lines {
        if line.trim().is_empty() {
            found.extend(deb822_repository(&stanza));
            stanza.clear();
        } else if line.starts_with([' ', '\t']) {
            let value = stanza.entry(last.clone()).or_default();
            value.push('\n');
            value.push_str(line.trim());
        } else if let Some((key, value)) = line.split_once(':') {
            last = key.trim().to_ascii_lowercase();
            stanza.insert(last.clone(), value.trim().to_owned());
        }
    }
    found
}

fn deb822_repository(stanza: &BTreeMap<String, String>) -> Option<Repository> {
    let words = |key: &str| stanza.get(key).map(|value| value.split_whitespace());
    if !words("types")?.any(|kind| kind == "deb") {
        return None;
    }
    if words("enabled").is_some_and(|mut value| value.next() == Some("no")) {
        return None;
    }
    Some(Repository {
        uri: words("uris")?.next()?.to_owned(),
        suites: words("suites")?.map(str::to_owned).collect(),
        // An inline key has lines of its own; only a file can be named in a one-line entry.
        signed_by: stanza
            .get("signed-by")
            .filter(|key| key.starts_with('/'))
            .cloned(),
    })
}

/// The `.list` format: `deb [option=value …] URI SUITE COMPONENT…`.
fn parse_one_line(text: &str) -> Vec<Repository> {
    text.lines().filter_map(one_line_repository).collect()
}

fn one_line_repository(line: &str) -> Option<Repository> {
    let mut rest = line
        .split('#')
        .next()?
        .trim()
        .strip_prefix("deb ")?
        .trim_start();
    let mut signed_by = None;
    if let Some(bracketed) = rest.strip_prefix('[') {
        let (options, after) = bracketed.split_once(']')?;
        signed_by = options
            .split_whitespace()
            .find_map(|option| option.strip_prefix("signed-by="))
            .map(str::to_owned);
        rest = after;
    }
    let mut words = rest.split_whitespace();
    Some(Repository {
        uri: words.next()?.to_owned(),
        suites: vec![words.next()?.to_owned()],
        signed_by,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_deb822_sources() {
        let text = "# a comment\nTypes: deb deb-src\n# another\nURIs: mirror://example/debian\n\
                    Suites: bookworm\n bookworm-updates\nComponents: main\n\
                    Signed-By: /usr/share/keyrings/archive.gpg\n\n\
                    Types: deb\nURIs: file:/off\nSuites: bookworm\nEnabled: no\n\n\
                    Types: deb-src\nURIs: file:/src\nSuites: bookworm\n";
        assert_eq!(
            parse_deb822(text),
            [Repository {
                uri: "mirror://example/debian".into(),
                suites: vec!["bookworm".into(), "bookworm-updates".into()],
                signed_by: Some("/usr/share/keyrings/archive.gpg".into()),
            }]
        );
    }

    #[test]
    fn reads_one_line_sources() {
        let text = "# deb file:/no bookworm main\ndeb-src file:/src bookworm main\n\
                    deb file:/plain bookworm main contrib\n\
                    deb [arch=amd64 signed-by=/k.gpg] file:/signed trixie main # why\n";
        let repository = |uri: &str, suite: &str, signed_by: Option<&str>| Repository {
            uri: uri.into(),
            suites: vec![suite.into()],
            signed_by: signed_by.map(str::to_owned),
        };
        assert_eq!(
            parse_one_line(text),
            [
                repository("file:/plain", "bookworm", None),
                repository("file:/signed", "trixie", Some("/k.gpg")),
            ]
        );
    }

    #[test]
    fn tries_backports_before_whole_suites() {
        let suites = newer_suites("bookworm");
        assert_eq!(
            suites[..3],
            ["bookworm-backports", "trixie-backports", "trixie"]
        );
        assert_eq!(newer_suites("no such release"), ["sid"]);
    }
}
