//! Attaching programs to interfaces: TCX links where the kernel has them, clsact filters below 6.6,
//! native XDP links. Everything outlives the process.

use std::{fs, io};

use anyhow::{Context as _, Result, bail};
use aya::{
    programs::{
        LinkOrder, ProgramError, ProgramInfo, SchedClassifier, TcAttachType, XdpMode,
        links::{FdLink, PinnedLink},
        tc::{self, NlOptions, SchedClassifierLink, TcAttachOptions},
    },
    sys::NetlinkError,
};

use crate::datapath::{
    object,
    pins::{Pins, remove_link},
};
use crate::host::{Filter, kernel};

/// A TC hook of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TcHook {
    /// What comes in.
    Ingress,
    /// What the host sends.
    Egress,
}

impl TcHook {
    /// The word in pins and in the state file.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ingress => "ingress",
            Self::Egress => "egress",
        }
    }

    /// The hook that [`TcHook::name`] spells.
    #[must_use]
    pub fn by_name(name: &str) -> Option<Self> {
        [Self::Ingress, Self::Egress]
            .into_iter()
            .find(|hook| hook.name() == name)
    }

    const fn program(self) -> &'static str {
        match self {
            Self::Ingress => "tc_ingress",
            Self::Egress => "tc_egress",
        }
    }

    const fn attach_type(self) -> TcAttachType {
        match self {
            Self::Ingress => TcAttachType::Ingress,
            Self::Egress => TcAttachType::Egress,
        }
    }

    fn pin(self, pins: &Pins, ifindex: u32) -> std::path::PathBuf {
        pins.link(&format!("tc_{}", self.name()), ifindex)
    }
}

/// How TC programs are attached on this kernel.
pub fn tc_kind() -> Result<&'static str> {
    Ok(if kernel::has_tcx()? { "tcx" } else { "clsact" })
}

/// Priority of our clsact filters: before those of others that name none.
const CLSACT_PRIORITY: u16 = 1;

/// Handle of our clsact filters: always the same, so that one is found again and replaced, and no
/// small number, which the kernel gives to filters that name none.
const CLSACT_HANDLE: u32 = u32::from_be_bytes(*b"vnet");

/// Attaches the program of `hook`. Nothing happens when it is attached.
pub fn attach_tc(pins: &Pins, hook: TcHook, name: &str, ifindex: u32) -> Result<()> {
    let doing = || format!("attaching to TC {} of {name}", hook.name());
    let (by_tcx, pin) = (kernel::has_tcx()?, hook.pin(pins, ifindex));
    if by_tcx && pin.exists() {
        return Ok(());
    }
    let mut program = object::classifier(pins, hook.program()).with_context(doing)?;
    if by_tcx {
        let options = TcAttachOptions::TcxOrder(LinkOrder::first());
        let id = program
            .attach_with_options(name, hook.attach_type(), options)
            .with_context(doing)?;
        let link = program.take_link(id).with_context(doing)?;
        let link: FdLink = link.try_into().with_context(doing)?;
        link.pin(&pin)
            .with_context(|| format!("pinning the link {}", pin.display()))?;
        return Ok(());
    }
    attach_clsact(&mut program, hook, name).with_context(doing)
}

fn attach_clsact(program: &mut SchedClassifier, hook: TcHook, name: &str) -> Result<()> {
    match tc::qdisc_add_clsact(name) {
        Err(tc::TcError::NetlinkError(error)) if is_there_already(&error) => {}
        result => result.with_context(|| format!("adding clsact to {name}"))?,
    }
    let (priority, handle, classid) = (CLSACT_PRIORITY, CLSACT_HANDLE.into(), None);
    let options = TcAttachOptions::Netlink(NlOptions {
        priority,
        handle,
        classid,
    });
    let id = match program.attach_with_options(name, hook.attach_type(), options) {
        // A filter outlives the command that made it. It is replaced in place: no frame sees the
        // interface without.
        Err(ProgramError::TcError(tc::TcError::NetlinkError(error)))
            if is_there_already(&error) =>
        {
            let hook = hook.attach_type();
            let there = SchedClassifierLink::attached(name, hook, priority, handle, classid)?;
            program.attach_to_link(there)?
        }
        result => result?,
    };
    let link = program.take_link(id)?;
    // Dropping it would take the filter away.
    std::mem::forget(link);
    Ok(())
}

fn is_there_already(error: &NetlinkError) -> bool {
    error.raw_os_error() == Some(libc::EEXIST)
}

fn detach_clsact(hook: TcHook, name: &str) -> Result<()> {
    match tc::qdisc_detach_program(name, hook.attach_type(), hook.program()) {
        Ok(()) => Ok(()),
        Err(tc::TcError::IoError(error)) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => {
            Err(error).with_context(|| format!("detaching from TC {} of {name}", hook.name()))
        }
    }
}

/// Detaches the program of `hook`; an interface that is gone took it along.
pub fn detach_tc(pins: &Pins, hook: TcHook, name: &str, ifindex: u32, there: bool) -> Result<()> {
    remove_link(&hook.pin(pins, ifindex))?;
    if there && !kernel::has_tcx()? {
        detach_clsact(hook, name)?;
    }
    Ok(())
}

/// The programs at a TCX hook of `name`, by id and name, in the order in which they run.
///
/// # Errors
/// The kernel has no TCX, or does not let this process look.
pub fn programs_at(name: &str, hook: TcHook) -> Result<Vec<(u32, String)>> {
    let (_, programs) = SchedClassifier::query_tcx(name, hook.attach_type())
        .with_context(|| format!("asking for the programs at TC {} of {name}", hook.name()))?;
    Ok(programs
        .iter()
        .map(|program| {
            let name = program.name_as_str().unwrap_or_default();
            (program.id(), name.to_owned())
        })
        .collect())
}

/// The id of the pinned program of `hook`.
///
/// # Errors
/// The switch is down, or its pins may not be looked at.
pub fn own_program(pins: &Pins, hook: TcHook) -> Result<u32> {
    let path = pins.program(hook.program());
    let info = ProgramInfo::from_pin(&path)
        .with_context(|| format!("looking at the pinned program {}", path.display()))?;
    Ok(info.id())
}

/// Whether a filter is one that vnet attaches below 6.6.
#[must_use]
pub fn is_own(filter: &Filter) -> bool {
    filter.kind == "bpf" && filter.priority == CLSACT_PRIORITY && filter.handle == CLSACT_HANDLE
}

/// Attaches the XDP program in the driver.
///
/// # Errors
/// The driver has no native XDP, another program is there, or the MTU is too large for it.
pub fn attach_xdp(pins: &Pins, name: &str, ifindex: u32) -> Result<()> {
    let pin = pins.link("xdp", ifindex);
    if pin.exists() {
        return Ok(());
    }
    let mut program = object::xdp(pins)?;
    let id = program
        .attach_to_if_index(ifindex, XdpMode::Driver)
        .with_context(|| format!("attaching native XDP to {name}"))?;
    let link = program.take_link(id)?;
    let link: FdLink = match link.try_into() {
        Ok(link) => link,
        Err(error) => bail!("attaching native XDP to {name}: no link to pin: {error}"),
    };
    link.pin(&pin)
        .with_context(|| format!("pinning the link {}", pin.display()))?;
    Ok(())
}

/// Detaches the XDP program.
pub fn detach_xdp(pins: &Pins, ifindex: u32) -> Result<()> {
    remove_link(&pins.link("xdp", ifindex))
}

/// Gives every pinned link the pinned programs, in place: no frame sees an interface without.
pub fn replace_programs(pins: &Pins) -> Result<()> {
    let dir = pins.dir().join("links");
    let entries = fs::read_dir(&dir).with_context(|| format!("reading {}", dir.display()))?;
    for entry in entries {
        let path = entry?.path();
        let file = path
            .file_name()
            .and_then(|name| name.to_str())
            .unwrap_or_default()
            .to_owned();
        let link = FdLink::from(
            PinnedLink::from_pin(&path)
                .with_context(|| format!("opening the link {}", path.display()))?,
        );
        let doing = || format!("replacing the program of the link {}", path.display());
        // The link stays pinned: what is given back and dropped here is only another descriptor.
        if file.starts_with("xdp_") {
            let mut program = object::xdp(pins)?;
            let id = program
                .attach_to_link(link.try_into().with_context(doing)?)
                .with_context(doing)?;
            drop(program.take_link(id)?);
        } else {
            let hook = if file.starts_with("tc_egress") {
                TcHook::Egress
            } else {
                TcHook::Ingress
            };
            let mut program = object::classifier(pins, hook.program())?;
            let id = program
                .attach_to_link(link.try_into().with_context(doing)?)
                .with_context(doing)?;
            drop(program.take_link(id)?);
        }
    }
    Ok(())
}
