//! The kernel and the initial root file system of the virtual machines that tests and the lab boot:
//! Debian's cloud kernel, a static busybox and an init of our own.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    hash::{DefaultHasher, Hash, Hasher},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use super::{Found, GuestKernel, apt::Apt, cpio::Archive, guest_kernel::PACKAGE, say};
use crate::{
    paths::cache_dir,
    process::{output, run},
};

pub(super) const NAME: &str = "guest image";

const INIT: &str = include_str!("guest_init.sh");
const UDHCPC: &str = include_str!("guest_udhcpc.sh");

/// Kernel modules in the image, with what they depend on. The init loads the virtio ones; a test
/// loads another with `modprobe`. One that a kernel has built in or lacks is passed over.
const MODULES: &[&str] = &[
    "virtio_pci",
    "virtio_net",
    "8021q",
    "act_bpf",
    "bonding",
    "bridge",
    "cls_bpf",
    "dummy",
    "macvlan",
    "sch_ingress",
    "tun",
    "veth",
    "vxlan",
];

const DIRECTORIES: &[&str] = &[
    "bin",
    "dev",
    "etc",
    "lib",
    "lib/modules",
    "proc",
    "root",
    "run",
    "sys",
    "tmp",
    "www",
];

/// A kernel and an initial root file system that QEMU boots.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuestImage {
    /// The kernel (bzImage).
    pub kernel: PathBuf,
    /// The initial root file system: an uncompressed cpio archive.
    pub initramfs: PathBuf,
    /// The kernel's version, as `uname -r` shows it.
    pub version: String,
}

impl GuestImage {
    /// The image that setup made.
    ///
    /// # Errors
    /// When it is not there (any more), or was made by an older version of setup.
    pub fn find() -> Result<Self> {
        Place::new(None)?
            .image()
            .context("looking for the guest image: it is not there; run `cargo xtask setup`")
    }

    /// The image that setup made with this kernel; the machine's own where that has it.
    ///
    /// # Errors
    /// As [`GuestImage::find`], and when it has another kernel.
    pub fn with(kernel: &GuestKernel) -> Result<Self> {
        let own = Place::new(None)?.image();
        if let Some(own) = own.filter(|image| kernel.is_surely(&image.version)) {
            return Ok(own);
        }
        let image = Place::new(Some(kernel.suite))?.image().with_context(|| {
            format!(
                "looking for the guest image with the kernel {name}: it is not there; run `cargo \
                 xtask test --kernel {name}`, which fetches it",
                name = kernel.name
            )
        })?;
        kernel.check(image)
    }

    /// Makes the image with this kernel from the packages of its suite.
    pub(super) fn make_with(kernel: &GuestKernel) -> Result<Self> {
        let image = Place::new(Some(kernel.suite))?.make(Some(kernel.suite))?;
        kernel.check(image)
    }
}

pub(super) fn ensure() -> Result<Found> {
    let place = Place::new(None)?;
    if let Some(image) = place.image() {
        return Ok(Found::Before(format!("Linux {}", image.version)));
    }
    let image = place.make(None)?;
    Ok(Found::Now(format!("Linux {} made", image.version)))
}

/// The directory of one image in the cache: that with the machine's own kernel package, or with a
/// suite's.
struct Place {
    dir: PathBuf,
}

impl Place {
    fn new(suite: Option<&str>) -> Result<Self> {
        let name = suite.map_or_else(|| "guest".to_owned(), |suite| format!("guest-{suite}"));
        Ok(Self {
            dir: cache_dir()?.join(name),
        })
    }

    fn kernel_tree(&self) -> PathBuf {
        self.dir.join("linux")
    }

    fn busybox_tree(&self) -> PathBuf {
        self.dir.join("busybox")
    }

    /// Named after what goes into it, so that a changed init makes a new one.
    fn initramfs(&self) -> PathBuf {
        let mut hasher = DefaultHasher::new();
        (INIT, UDHCPC, MODULES, DIRECTORIES).hash(&mut hasher);
        self.dir
            .join(format!("initramfs-{:016x}.cpio", hasher.finish()))
    }

    fn image(&self) -> Option<GuestImage> {
        let initramfs = self.initramfs();
        let (kernel, version) = kernel_in(&self.kernel_tree())?;
        initramfs.is_file().then_some(GuestImage {
            kernel,
            initramfs,
            version,
        })
    }

    fn make(&self, suite: Option<&str>) -> Result<GuestImage> {
        if cfg!(not(target_arch = "x86_64")) {
            bail!("making the guest image: only on amd64 machines, for now");
        }
        fs::create_dir_all(&self.dir)
            .with_context(|| format!("creating {}", self.dir.display()))?;
        if kernel_in(&self.kernel_tree()).is_none() || !busybox_in(&self.busybox_tree()).is_file() {
            say(NAME, "fetching a kernel and busybox from Debian's packages");
            self.fetch(suite)
                .context("making the guest image from the packages of a Debian-like system")?;
        }
        let (_, version) = kernel_in(&self.kernel_tree())
            .context("making the guest image: the kernel's package holds no boot/vmlinuz-…")?;
        let archive = self
            .root_file_system(&version)
            .context("making the guest image")?;
        self.put(&archive)?;
        self.image()
            .context("making the guest image: it is not where it was put")
    }

    fn fetch(&self, suite: Option<&str>) -> Result<()> {
        let apt = suite.map_or_else(Apt::machine, Apt::suite)?;
        let kernel = || {
            let image = apt.dependency(PACKAGE, "linux-image-")?;
            // From 6.17 on, the kernel and its modules have packages of their own.
            let parts = ["linux-binary-", "linux-modules-"]
                .into_iter()
                .filter_map(|part| apt.dependency(&image, part).ok());
            let packages: Vec<_> = parts.chain([image.clone()]).collect();
            apt.unpack(&packages, &self.kernel_tree())
        };
        // Old or absent lists: what they name is unknown or gone from the mirror.
        if kernel().is_err() {
            apt.update()
                .context("fetching apt's package lists (`sudo apt-get update`)")?;
            kernel()?;
        }
        // A suite of backports need not have busybox; any version will do.
        Apt::machine()?.unpack(&["busybox-static".to_owned()], &self.busybox_tree())
    }

    fn root_file_system(&self, version: &str) -> Result<Vec<u8>> {
        let mut archive = Archive::default();
        for directory in DIRECTORIES {
            archive.directory(directory);
        }
        // The kernel opens it for init's first messages, before devtmpfs is mounted.
        archive.character_device("dev/console", 5, 1);
        archive.file("init", 0o755, INIT.as_bytes());
        archive.file("etc/udhcpc.script", 0o755, UDHCPC.as_bytes());
        archive.copy("bin/busybox", 0o755, &busybox_in(&self.busybox_tree()))?;
        self.add_modules(&mut archive, version)?;
        Ok(archive.finish())
    }

    fn add_modules(&self, archive: &mut Archive, version: &str) -> Result<()> {
        let modules = modules_dir(&self.kernel_tree()).join(version);
        unpack_modules(&modules)?;
        let all = self.dependencies(version)?;

        let mut needed = BTreeSet::new();
        for name in MODULES {
            let Some(path) = all.keys().find(|path| module_name(path) == *name) else {
                continue;
            };
            needed.extend(all[path].iter().chain([path]));
        }
        let dir = format!("lib/modules/{version}");
        archive.directory(&dir);
        let mut table = String::new();
        for path in needed {
            // In one directory: the kernel does not care where a module lies.
            let file = |path: &str| path.rsplit('/').next().unwrap_or(path).to_owned();
            archive.copy(&format!("{dir}/{}", file(path)), 0o644, &modules.join(path))?;
            let needs: Vec<_> = all[path].iter().map(|path| file(path)).collect();
            table.push_str(&format!("{}: {}\n", file(path), needs.join(" ")));
        }
        archive.file(&format!("{dir}/modules.dep"), 0o644, table.as_bytes());
        Ok(())
    }

    /// What each module of the kernel needs, in the form of `modules.dep`.
    fn dependencies(&self, version: &str) -> Result<BTreeMap<String, Vec<String>>> {
        let base = self.kernel_tree();
        let base = if base.join("lib/modules").is_dir() {
            base
        } else {
            base.join("usr")
        };
        let busybox = busybox_in(&self.busybox_tree());
        output(
            Command::new(busybox)
                .args(["depmod", "-b"])
                .arg(&base)
                .arg(version),
        )
        .context("finding out what the kernel's modules depend on")?;
        let table = base.join("lib/modules").join(version).join("modules.dep");
        let text =
            fs::read_to_string(&table).with_context(|| format!("reading {}", table.display()))?;
        Ok(text
            .lines()
            .filter_map(|line| line.split_once(':'))
            .map(|(path, needs)| {
                (
                    path.to_owned(),
                    needs.split_whitespace().map(str::to_owned).collect(),
                )
            })
            .collect())
    }

    fn put(&self, archive: &[u8]) -> Result<()> {
        let path = self.initramfs();
        let doing = || format!("writing {}", path.display());
        for entry in fs::read_dir(&self.dir).with_context(doing)?.flatten() {
            let old = entry.path();
            if old.extension().is_some_and(|extension| extension == "cpio") {
                // A guest that is running has read it already.
                let _ = fs::remove_file(old);
            }
        }
        let partial = path.with_extension(format!("partial-{}", std::process::id()));
        fs::write(&partial, archive).with_context(doing)?;
        fs::rename(&partial, &path).with_context(doing)
    }
}

/// The kernel and its version: `boot/vmlinuz-VERSION`, or `lib/modules/VERSION/vmlinuz` as newer
/// packages have it.
fn kernel_in(tree: &Path) -> Option<(PathBuf, String)> {
    let names = |dir: PathBuf| {
        let entries = fs::read_dir(dir).into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.file_name().into_string().ok())
    };
    let boot = tree.join("boot");
    for name in names(boot.clone()) {
        if let Some(version) = name.strip_prefix("vmlinuz-") {
            return Some((boot.join(&name), version.to_owned()));
        }
    }
    let modules = modules_dir(tree);
    names(modules.clone())
        .map(|version| (modules.join(&version).join("vmlinuz"), version))
        .find(|(kernel, _)| kernel.is_file())
}

/// Debian 13 and later have everything under `usr`.
fn busybox_in(tree: &Path) -> PathBuf {
    let old = tree.join("bin/busybox");
    if old.is_file() {
        old
    } else {
        tree.join("usr/bin/busybox")
    }
}

fn modules_dir(tree: &Path) -> PathBuf {
    let old = tree.join("lib/modules");
    if old.is_dir() {
        old
    } else {
        tree.join("usr/lib/modules")
    }
}

/// Newer kernels bring their modules compressed, which the guest's busybox does not load.
fn unpack_modules(dir: &Path) -> Result<()> {
    let mut compressed = Vec::new();
    let mut folders = vec![dir.to_path_buf()];
    while let Some(folder) = folders.pop() {
        let entries =
            fs::read_dir(&folder).with_context(|| format!("reading {}", folder.display()))?;
        for entry in entries.flatten() {
            let path = entry.path();
            if path.is_dir() && !path.is_symlink() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "xz") {
                compressed.push(path);
            }
        }
    }
    for some in compressed.chunks(256) {
        run(Command::new("xz").arg("-d").args(some))
            .context("unpacking the kernel's modules; needs the program xz (xz-utils)")?;
    }
    Ok(())
}

/// `kernel/drivers/net/virtio_net.ko` is `virtio_net`.
fn module_name(path: &str) -> &str {
    let file = path.rsplit('/').next().unwrap_or(path);
    file.strip_suffix(".ko").unwrap_or(file)
}
