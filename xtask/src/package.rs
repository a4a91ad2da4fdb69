//! The Debian package: `cargo xtask deb`, and what its tests build.
//!
//! What it holds is listed in vnet-user/Cargo.toml, `[package.metadata.deb]`. What is made for it,
//! completions and manual pages, lies in `target/release/deb` then.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};

use crate::{
    paths::{target_dir, workspace_root},
    process::{output, run},
    setup::cargo_deb_path,
};

/// The shells whose completions are packed, and the file names that they look for.
const COMPLETIONS: [(&str, &str); 3] = [
    ("bash", "vnet-user"),
    ("zsh", "_vnet-user"),
    ("fish", "vnet-user.fish"),
];

/// Packs the program that `cargo xtask build` left into `directory`, and gives the package's path.
/// `version` is the package's; none is the program's own.
///
/// # Errors
/// When the program cannot tell its completions and manual pages, the changelog does not begin with the
/// program's version, or cargo-deb fails.
pub fn deb(program: &Path, directory: &Path, version: Option<&str>) -> Result<PathBuf> {
    stage(program, &target_dir().join("release/deb")).context("making what is to be packed")?;
    let mut command = Command::new(cargo_deb_path()?);
    command
        .current_dir(workspace_root())
        .args(["--package", "vnet-user", "--no-build", "--quiet"])
        // The release profile keeps line tables, which cargo-deb takes for a wish to ship them.
        .arg("--strip")
        .arg("--output")
        .arg(directory);
    if let Some(version) = version {
        command.args(["--deb-version", version]);
    }
    let package = output(&mut command).context("packing the Debian package")?;
    let package = PathBuf::from(package.trim());
    if !package.is_file() {
        bail!(
            "packing the Debian package: cargo-deb succeeded, but {} is not there",
            package.display()
        );
    }
    Ok(package)
}

fn stage(program: &Path, place: &Path) -> Result<()> {
    let create = |dir: &Path| {
        let _ = fs::remove_dir_all(dir);
        fs::create_dir_all(dir).with_context(|| format!("creating {}", dir.display()))
    };
    let completions = place.join("completions");
    create(&completions)?;
    for (shell, file) in COMPLETIONS {
        let script = output(Command::new(program).args(["completions", shell]))?;
        let file = completions.join(file);
        fs::write(&file, script).with_context(|| format!("writing {}", file.display()))?;
    }

    let man = place.join("man");
    create(&man)?;
    output(Command::new(program).arg("man").arg(&man))?;
    for page in fs::read_dir(&man).context("reading the manual pages")? {
        // `-n`: without a time stamp, so that the same pages make the same package.
        run(Command::new("gzip").arg("-9n").arg(page?.path()))?;
    }

    let changelog = workspace_root().join("vnet-user/packaging/changelog");
    let text = fs::read_to_string(&changelog)
        .with_context(|| format!("reading {}", changelog.display()))?;
    let version = env!("CARGO_PKG_VERSION");
    if !text.starts_with(&format!("vnet ({version}) ")) {
        bail!(
            "{} does not begin with version {version}: add an entry for it",
            changelog.display()
        );
    }
    let packed = place.join("changelog.gz");
    let packed_file =
        File::create(&packed).with_context(|| format!("creating {}", packed.display()))?;
    run(Command::new("gzip")
        .args(["-9nc"])
        .arg(&changelog)
        .stdin(Stdio::null())
        .stdout(packed_file))
}
