//! `cargo xtask run --iface IFACE`: a switch on a real interface, in the foreground.

use std::process::Child;

use anyhow::{Context, Result};
use clap::ValueEnum;
use xtask::setup;

use crate::{
    build_cmd, interrupt, live,
    vnet_user::{Up, VnetUser},
};

/// Which hook forwards; `vnet-user up --mode`.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Mode {
    /// XDP on the uplink where its driver can, TC for the rest.
    Auto,
    /// TC alone.
    Tc,
    /// XDP or nothing.
    Xdp,
}

/// How much the datapath logs.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum LogLevel {
    /// Errors only.
    Error,
    /// And warnings.
    Warn,
    /// And what happens in general.
    Info,
    /// And what is of use in debugging.
    Debug,
    /// Everything.
    Trace,
}

/// What `cargo xtask run --iface` was asked to do.
#[derive(Debug)]
pub(crate) struct Options {
    pub(crate) iface: String,
    pub(crate) switch: String,
    pub(crate) detach: bool,
    pub(crate) mode: Option<Mode>,
    pub(crate) datapath_log: Option<LogLevel>,
}

/// A child that is ended with this value.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub(crate) fn run(options: &Options) -> Result<()> {
    setup::require_root("attaching a switch to an interface")?;
    let binary = match options.datapath_log {
        Some(_) => build_cmd::build_with_datapath_log()?,
        None => build_cmd::given_or_built()?,
    };
    let vnet = VnetUser::new(&binary, &["--switch", &options.switch]);

    interrupt::catch();
    let mut up = format!("up --uplink {}", options.iface);
    if let Some(mode) = options.mode {
        up.push_str(&format!(" --mode {}", word(mode)));
    }
    vnet.show(&up)?;
    if options.detach {
        println!(
            "The switch {} is up. To take it down: {} down",
            options.switch,
            vnet.typed()
        );
        return Ok(());
    }

    let guard = Up(vnet.clone());
    let logging = options
        .datapath_log
        .map(|level| datapath_log(&vnet, level))
        .transpose()?;
    println!(
        "The switch {} is up; Ctrl-C takes it down.\n",
        options.switch
    );
    let watched = live::watch(&vnet, logging.is_some());
    drop(logging);
    drop(guard);
    watched
}

/// Prints what the datapath logs to stderr.
fn datapath_log(vnet: &VnetUser, level: LogLevel) -> Result<Ended> {
    // The programs' crate is called vnet; the loader's own lines at this level are of no use here.
    let filter = format!("vnet={}", word(level));
    println!("$ RUST_LOG={filter} vnet-user datapath-log");
    vnet.command(["datapath-log"])
        .env("RUST_LOG", filter)
        .spawn()
        .map(Ended)
        .context("starting `vnet-user datapath-log`")
}

fn word(value: impl ValueEnum) -> String {
    value
        .to_possible_value()
        .map_or_else(String::new, |value| value.get_name().to_owned())
}
