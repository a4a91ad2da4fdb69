// Builds the eBPF object for a build script, which takes this file in by `include!`: a build script
// has no other way to share code that must not be a crate of its own.
//
// Needs `rust-src` and `bpf-linker`, which `cargo xtask setup` gets.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

/// The linker's version. From 0.11 on it needs a system LLVM; 0.10 uses the compiler's own.
const BPF_LINKER: &str = "0.10.3";
const TARGET: &str = "bpfel-unknown-none";

/// Builds the programs in `bin` with one feature of `vnet-ebpf` and tells the crate under
/// construction, by the environment variable `variable`, where the object is. Ends the build script
/// with the mend when that fails.
fn build_object(bin: &str, feature: &str, variable: &str) {
    let built = workspace_root().and_then(|root| {
        for input in ["vnet-ebpf", "vnet-common", "Cargo.lock"] {
            println!("cargo::rerun-if-changed={}", root.join(input).display());
        }
        println!("cargo::rerun-if-env-changed=VNET_BPF_LINKER");
        let out = PathBuf::from(var("OUT_DIR")?);
        compile(&root, &out, bin, feature)
    });
    match built {
        Ok(object) => println!("cargo::rustc-env={variable}={}", object.display()),
        Err(error) => {
            eprintln!("error: building the eBPF object: {error}\n  mend: cargo xtask setup");
            std::process::exit(1);
        }
    }
}

fn var(name: &str) -> Result<String, String> {
    env::var(name).map_err(|error| format!("{name}: {error}"))
}

fn workspace_root() -> Result<PathBuf, String> {
    let package = PathBuf::from(var("CARGO_MANIFEST_DIR")?);
    let root = package.parent().ok_or("the package has no parent folder")?;
    Ok(root.to_owned())
}

/// Compiles the programs; returns the object's path.
fn compile(root: &Path, out: &Path, bin: &str, feature: &str) -> Result<PathBuf, String> {
    let target_dir = out.join("ebpf");
    let linker = linker()?;
    let flags = [
        // BTF is made from debug info.
        "-Cdebuginfo=2".to_owned(),
        format!("-Clinker={}", linker.display()),
        "-Clink-arg=--btf".to_owned(),
        // Instructions that every kernel since 5.12 has: 32-bit jumps, atomics that return.
        "-Ctarget-cpu=v3".to_owned(),
    ];
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo
        .current_dir(root)
        .args(["build", "--release", "--locked", "--package", "vnet-ebpf"])
        .args(["--bin", bin, "--features", feature])
        .args(["-Zbuild-std=core", "--target", TARGET, "--target-dir"])
        .arg(&target_dir)
        // Nightly options for this call alone: the standard library for BPF is built from source.
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"));
    // What cargo and clippy set for the outer build does not belong to the inner one.
    for name in [
        "RUSTC",
        "RUSTC_WRAPPER",
        "RUSTC_WORKSPACE_WRAPPER",
        "RUSTFLAGS",
        "CLIPPY_ARGS",
        "CARGO_TARGET_DIR",
        "CARGO_MAKEFLAGS",
        "MAKEFLAGS",
    ] {
        cargo.env_remove(name);
    }
    let status = cargo
        .status()
        .map_err(|error| format!("starting cargo: {error}"))?;
    if !status.success() {
        return Err(format!("cargo ended with {status}"));
    }
    Ok(target_dir.join(TARGET).join("release").join(bin))
}

/// Where the linker is: named, in the cache that `cargo xtask setup` fills, or on the path.
fn linker() -> Result<PathBuf, String> {
    if let Some(path) = env::var_os("VNET_BPF_LINKER") {
        return Ok(path.into());
    }
    let rustc = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let version = Command::new(rustc)
        .arg("--version")
        .output()
        .map_err(|error| format!("asking rustc for its version: {error}"))?;
    let version = String::from_utf8_lossy(&version.stdout).into_owned();
    let version = version.split_whitespace().nth(1).unwrap_or_default();
    let cache = env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache")));
    if let Some(cache) = cache {
        let path = cache
            .join("vnet")
            .join(format!("bpf-linker-{BPF_LINKER}-rustc-{version}"))
            .join("bin/bpf-linker");
        if path.exists() {
            return Ok(path);
        }
    }
    let on_path = env::var_os("PATH").and_then(|path| {
        env::split_paths(&path)
            .map(|dir| dir.join("bpf-linker"))
            .find(|file| file.exists())
    });
    on_path.ok_or_else(|| format!("bpf-linker {BPF_LINKER} is not installed"))
}
