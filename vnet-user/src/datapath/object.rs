//! The embedded eBPF object: loading it with its maps pinned, or replacing the programs of a
//! running one.

use std::fs;

use anyhow::{Context as _, Result, anyhow, bail};
use aya::{
    Ebpf, EbpfLoader,
    maps::MapInfo,
    programs::{Program, ProgramError, SchedClassifier, Xdp},
};
use serde::{Deserialize, Serialize};
use vnet_common::{
    SEGMENTS,
    fdb::buckets_for,
    flow::{FLOW_BUCKET, flow_buckets_for},
    guard::LEARNED_IPS,
};

use super::{
    maps,
    pins::{Pins, ignore_absent},
};
use crate::compile::{MEMBERS_PER_PORT, fnv1a};
use crate::error::Error;
use crate::host::{kernel, sysctl};

/// The eBPF programs, built by build.rs.
pub static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("VNET_OBJECT"));

/// The programs in the object.
pub const PROGRAMS: &[&str] = &[
    "tc_flow",
    "tc_ingress",
    "tc_egress",
    "xdp_uplink",
    "control",
];

/// Programs that others go on with, by their place in the map `flow_programs`.
const FLOW_PROGRAMS: &[&str] = &["tc_flow"];

/// What the maps were made with: it stays as long as they do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sizes {
    /// Room for ports; a power of two.
    pub max_ports: u32,
    /// Most addresses in the FDB.
    pub fdb_size: u32,
    /// Random start of the FDB's hash.
    pub fdb_seed: u64,
    /// Most connections in the flow table.
    pub flow_size: u32,
    /// Random start of the flow table's hash.
    pub flow_seed: u64,
}

impl Sizes {
    /// Entries in a generation of `members`.
    #[must_use]
    pub const fn max_members(&self) -> u32 {
        self.max_ports * MEMBERS_PER_PORT
    }

    /// Buckets of the FDB.
    #[must_use]
    pub const fn buckets(&self) -> u32 {
        buckets_for(self.fdb_size)
    }

    /// Buckets of the flow table.
    #[must_use]
    pub const fn flow_buckets(&self) -> u32 {
        flow_buckets_for(self.flow_size)
    }

    /// Maps whose size depends on the configuration, and their entries.
    fn maps(&self) -> [(&'static str, u32); 24] {
        [
            ("PORTS", 2 * self.max_ports),
            ("PORT_ALIASES", 2 * self.max_ports),
            ("PORT_TAGS", 4 * self.max_members()),
            ("PORT_SEGMENTS", 4 * self.max_members()),
            ("SEGMENT_CONF", 2 * SEGMENTS),
            ("MEMBERS", 2 * self.max_members()),
            ("FDB", self.buckets()),
            ("PORT_MACS", self.max_ports),
            ("PORT_COUNTERS", self.max_ports),
            ("PORT_DROPS", self.max_ports),
            ("STORM_STATE", self.max_ports),
            ("MAC_ALLOW", 4 * self.max_members()),
            ("PORT_IPS", 4 * self.max_members()),
            // Twice what the ports' leases are, which two CPUs that write at once may exceed.
            ("LEARNED_IPS", 2 * LEARNED_IPS as u32 * self.max_ports),
            ("PORT_LEASES", self.max_ports),
            ("FLOWS", self.flow_buckets() * FLOW_BUCKET as u32),
            ("FLOW_TAGS", self.flow_buckets()),
            // A connection has at most an internal and an external end of its own, and mostly shares
            // them. Blocks take theirs from what is left.
            ("BINDINGS", (2 * self.flow_size).max(4096)),
            ("CONTACTS", self.flow_size.max(4096)),
            ("PORT_FLOWS", self.max_ports),
            // A source is there as long as it has a connection.
            ("SOURCES", self.flow_size.max(4096)),
            ("FLOW_RATE", self.max_ports),
            ("PORT_GROUPS", 2 * self.max_ports),
            ("FLOW_RULES", self.flow_buckets()),
        ]
    }
}

/// Tells one build of the object from another.
#[must_use]
pub fn object_id() -> String {
    format!("{:016x}", fnv1a(OBJECT))
}

/// Loads the object and pins its maps; maps that are pinned already are used, when they fit.
///
/// # Errors
/// A pinned map has another layout, or the kernel refuses a map or a program.
pub fn load(pins: &Pins, sizes: &Sizes) -> Result<Ebpf> {
    let mut loader = loader(OBJECT, sizes);
    let object = parse()?;
    let names = map_names(&object);
    let paths: Vec<_> = names.iter().map(|name| pins.map(name)).collect();
    for (name, path) in names.iter().zip(&paths) {
        check_pinned(&object, name, path, sizes)?;
        loader.map_pin_path(name, path);
    }
    let mut ebpf = loader
        .load(OBJECT)
        .context("loading the datapath's maps into the kernel")?;
    for name in PROGRAMS {
        load_program(&mut ebpf, name)?;
    }
    link_programs(&mut ebpf, pins)?;
    Ok(ebpf)
}

/// Checks that the maps that are pinned are as this build makes them.
///
/// # Errors
/// One has another layout, or may not be looked at.
pub fn check_layout(pins: &Pins, sizes: &Sizes) -> Result<()> {
    let object = parse()?;
    for name in map_names(&object) {
        check_pinned(&object, &name, &pins.map(&name), sizes)?;
    }
    Ok(())
}

/// A loader for `object` with the maps' sizes set; tests load other builds of it.
#[must_use]
pub fn loader<'a>(_object: &[u8], sizes: &'a Sizes) -> EbpfLoader<'a> {
    let mut loader = EbpfLoader::new();
    for (name, entries) in sizes.maps() {
        loader.map_max_entries(name, entries);
    }
    loader.override_global("MAX_PORTS", &sizes.max_ports, true);
    // Some are worked out, so that the loader gets values that live long enough: leaked, a
    // dozen bytes once a process.
    loader.override_global(
        "MAX_MEMBERS",
        &*Box::leak(Box::new(sizes.max_members())),
        true,
    );
    loader.override_global("FDB_MASK", &*Box::leak(Box::new(sizes.buckets() - 1)), true);
    loader.override_global("FDB_SEED", &sizes.fdb_seed, true);
    loader.override_global(
        "FLOW_BUCKETS",
        &*Box::leak(Box::new(sizes.flow_buckets())),
        true,
    );
    loader.override_global("FLOW_SEED", &sizes.flow_seed, true);
    // As the network namespace has it when the programs are loaded.
    loader.override_global("EPHEMERAL", &*Box::leak(Box::new(ephemeral_ports())), true);
    let fib_src = u32::from(kernel::has_fib_src().unwrap_or(false));
    loader.override_global("FIB_SRC", &*Box::leak(Box::new(fib_src)), true);
    loader
}

/// The host's ports for outgoing connections: the first in the upper half, the last in the lower.
fn ephemeral_ports() -> u32 {
    sysctl::local_ports().map_or(32_768 << 16 | 60_999, |(first, last)| {
        u32::from(first) << 16 | u32::from(last)
    })
}

/// Loads one program of the object into the kernel.
///
/// # Errors
/// The verifier refuses it.
pub fn load_program(ebpf: &mut Ebpf, name: &str) -> Result<()> {
    let program = ebpf
        .program_mut(name)
        .ok_or_else(|| anyhow!("the object holds no program {name}"))?;
    let mut load = || match program {
        Program::SchedClassifier(program) => Ok(program.load()),
        Program::Xdp(program) => Ok(program.load()),
        _ => bail!("the program {name} is of an unexpected type"),
    };
    let mut tries = 1;
    loop {
        match load()? {
            // The verifier gives up when a signal comes (kernel/bpf/verifier.c, do_check); a terminal
            // that changes its size is no reason to fail.
            Err(error) if is_interrupted(&error) && tries < LOAD_TRIES => tries += 1,
            loaded => {
                return loaded
                    .with_context(|| format!("loading the program {name} into the kernel"));
            }
        }
    }
}

/// How often a program is given to the verifier while signals come.
const LOAD_TRIES: u32 = 5;

fn is_interrupted(error: &ProgramError) -> bool {
    matches!(error, ProgramError::LoadError { io_error, .. } if io_error.raw_os_error() == Some(libc::EAGAIN))
}

/// Puts the programs that others go on with where those find them; on a running switch, in place of
/// those of an earlier build. The map is pinned: its last open descriptor would take them along
/// (kernel/bpf/arraymap.c, prog_array_map_clear).
///
/// # Errors
/// The kernel takes no such program into the map.
pub fn link_programs(ebpf: &mut Ebpf, pins: &Pins) -> Result<()> {
    let mut places = maps::program_array(pins, "flow_programs")?;
    for (place, name) in FLOW_PROGRAMS.iter().enumerate() {
        let program: &SchedClassifier = ebpf
            .program(name)
            .ok_or_else(|| anyhow!("the object holds no program {name}"))?
            .try_into()?;
        places
            .set(place as u32, program.fd()?, 0)
            .with_context(|| format!("putting the program {name} into the map flow_programs"))?;
    }
    Ok(())
}

fn parse() -> Result<aya_obj::Object> {
    aya_obj::Object::parse(OBJECT).context("reading the embedded object")
}

/// Names of the maps that the object declares, read-only data aside.
fn map_names(object: &aya_obj::Object) -> Vec<String> {
    let mut names: Vec<String> = object
        .maps
        .keys()
        .filter(|name| !name.starts_with('.'))
        .cloned()
        .collect();
    names.sort_unstable();
    names
}

/// aya takes a pinned map as it is; a map of another layout must not be taken.
fn check_pinned(
    object: &aya_obj::Object,
    name: &str,
    path: &std::path::Path,
    sizes: &Sizes,
) -> Result<()> {
    if !path.exists() {
        return Ok(());
    }
    let Some(wanted) = object.maps.get(name) else {
        return Ok(());
    };
    let found = MapInfo::from_pin(path)
        .with_context(|| format!("looking at the pinned map {}", path.display()))?;
    let entries = sizes
        .maps()
        .iter()
        .find(|(sized, _)| *sized == name)
        .map_or(wanted.max_entries(), |(_, entries)| *entries);
    let wanted = [
        ("type", wanted.map_type()),
        ("key size", wanted.key_size()),
        ("value size", wanted.value_size()),
        ("entries", entries),
    ];
    let found_map_type = found.map_type().map_or(u32::MAX, |t| t as u32);
    let found = [
        found_map_type,
        found.key_size(),
        found.value_size(),
        found.max_entries(),
    ];
    for ((what, wanted), found) in wanted.iter().zip(found) {
        if *wanted != found {
            return Err(Error::new(
                "loading the datapath",
                format_args!(
                    "the pinned map {} has another layout: its {what} is {found}, this vnet-user \
                     needs {wanted}",
                    path.display()
                ),
            )
            .mend("take the switch down and up")
            .into());
        }
    }
    Ok(())
}

/// Pins the programs, in place of those of an earlier build.
pub fn pin_programs(ebpf: &mut Ebpf, pins: &Pins) -> Result<()> {
    for name in PROGRAMS {
        let path = pins.program(name);
        ignore_absent(fs::remove_file(&path))
            .with_context(|| format!("removing {}", path.display()))?;
        ebpf.program_mut(name)
            .ok_or_else(|| anyhow!("the object holds no program {name}"))?
            .pin(&path)
            .with_context(|| format!("pinning the program {name} at {}", path.display()))?;
    }
    Ok(())
}

/// A pinned TC program.
pub fn classifier(pins: &Pins, name: &str) -> Result<SchedClassifier> {
    let path = pins.program(name);
    SchedClassifier::from_pin(&path)
        .with_context(|| format!("opening the pinned program {}", path.display()))
}

/// The pinned XDP program.
pub fn xdp(pins: &Pins) -> Result<Xdp> {
    let path = pins.program("xdp_uplink");
    Xdp::from_pin(&path, aya_obj::programs::XdpAttachType::Interface)
        .with_context(|| format!("opening the pinned program {}", path.display()))
}
