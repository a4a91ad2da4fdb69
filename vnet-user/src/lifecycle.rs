//! Bringing a switch up and taking it down.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};

use crate::attach;
use crate::config::Config;
use crate::datapath::{
    control::Control,
    forgotten::Forgotten,
    object::{self, Sizes},
};
use crate::dhcp::keeper;
use crate::error::Error;
use crate::gateway;
use crate::host::{
    Link, LinkKind, Links, bpffs,
    grace::{self, ShortGracePeriods},
    kernel, netns, privileges,
    signals::Held,
    sysctl,
};
use crate::ports;
use crate::runtime::Session;
use crate::state::{self, ChangeRun, RunState};
use crate::sync;

/// What a host must have before anything is changed.
pub fn check_host(session: &Session) -> Result<(), Error> {
    let doing = || format!("bringing up the switch {}", session.switch());
    privileges::check(&doing())?;
    kernel::check().map_err(|error| Error::from(error.context(doing())))?;
    if !bpffs::is_pin_name(session.switch()) {
        return Err(
            Error::new(doing(), "the BPF file system takes no names with a dot")
                .mend("choose a switch name without one"),
        );
    }
    let mounted = bpffs::ensure_mounted(session.bpffs())
        .map_err(|error| Error::from(error.context(doing())))?;
    if mounted && bpffs::mount_namespace_is_private() == Some(true) {
        return Err(Error::new(
            doing(),
            "this process has mounts of its own, as under `ip netns exec`: what is pinned there \
             would go when it ends",
        )
        .mend("name the network namespace with --netns, or mount a BPF file system first"));
    }
    Ok(())
}

/// Whether the datapath that is there, if any, can be gone on with.
///
/// # Errors
/// It is another version's, with maps that this one cannot read: says what is lost with it.
pub fn check_layout(session: &Session) -> Result<(), Error> {
    let Some(other) = session.pins().foreign().into_iter().next() else {
        return Ok(());
    };
    Err(Error::new(
        format!("bringing up the switch {}", session.switch()),
        format_args!(
            "{} holds a datapath of another layout, made by another version of vnet; it runs on, \
             and what it knows cannot be taken over: {}",
            other.display(),
            Forgotten::of(&other)
        ),
    )
    .mend(format!(
        "vnet-user --switch {} down, then up: that is forgotten, and no frame passes in between",
        session.switch()
    )))
}

/// Makes a switch that is down run with `config`, or makes one that is up equal to it. Returns
/// warnings.
///
/// # Errors
/// A switch that was down is down again then, with nothing left of it.
pub fn up(session: &mut Session, old: &Config, config: &Config) -> Result<Vec<String>, Error> {
    session.reload()?;
    if session.is_up() {
        refresh_programs(session)?;
        return session.sync(old, config);
    }
    let mended = clear_half(session)?;
    if session.pins().exist() {
        return Err(Error::new(
            format!("bringing up the switch {}", session.switch()),
            format_args!(
                "{} holds a datapath, but {} does not tell what it belongs to",
                session.pins().dir().display(),
                state::path(session.run_dir(), session.switch()).display()
            ),
        )
        .mend(format!("vnet-user --switch {} down", session.switch())));
    }
    session.note_named(old, config);
    let begun = begin(session, config);
    let result = begun.and_then(|state| {
        session.set_state(Some(state.clone()));
        sync::sync(session, state, &Config::default(), config)
    });
    match result {
        Ok((mut state, warnings)) => {
            state.half = false;
            state.change = ChangeRun::of(old, config);
            state.save(session.run_dir(), session.switch())?;
            session.set_state(Some(state));
            let mut all: Vec<String> = mended.into_iter().collect();
            all.extend(warnings);
            all.extend(strangers(session)?);
            Ok(all)
        }
        Err(error) => {
            if let Err(also) = down(session) {
                log::warn!("taking the switch down again: {also}");
            }
            Err(error)
        }
    }
}

/// Takes away what an `up` or a `down` left that was interrupted. Says so.
fn clear_half(session: &mut Session) -> Result<Option<String>, Error> {
    let Some(state) = RunState::load(session.run_dir(), session.switch())? else {
        return Ok(None);
    };
    let here = netns::current_id()?;
    // Of another namespace there is nothing here to take away.
    if !state.half || state.netns != (here.dev, here.ino) {
        return Ok(None);
    }
    down(session)?;
    Ok(Some(format!(
        "an `up` or a `down` of {} was interrupted: what it left was taken away, and the switch was \
         brought up anew",
        session.switch()
    )))
}

/// Members of an adopted device that are no ports: vnet does not see their frames.
fn strangers(session: &Session) -> Result<Vec<String>> {
    let ports = session.state().map(|state| &state.ports);
    let is_port = |name: &str| ports.is_some_and(|ports| ports.contains_key(name));
    let links = Links::open()?.list()?;
    let device = links.iter().find(|link| link.name == session.switch());
    let Some(device) = device.map(|link| link.index) else {
        return Ok(Vec::new());
    };
    Ok(links
        .iter()
        .filter(|link| link.master == Some(device) && !is_port(&link.name))
        .map(|link| {
            format!(
                "{} is a member of {} but no port: the plain bridge serves it; \
                 `vnet-user port add {0}`, with --uplink for a NIC, makes it one, and so does the \
                 daemon",
                link.name,
                session.switch()
            )
        })
        .collect())
}

/// Makes the device and loads the datapath, without ports.
fn begin(session: &mut Session, config: &Config) -> Result<RunState, Error> {
    let switch = session.switch().to_owned();
    let links = Links::open()?;
    let there = links.by_name(&switch)?;
    let here = netns::current_id()?;
    let sizes = Sizes {
        max_ports: config.settings.max_ports,
        fdb_size: config.settings.fdb_size,
        fdb_seed: random_seed()?,
        flow_size: config.settings.flow_size,
        flow_seed: random_seed()?,
    };
    let mut state = RunState {
        netns: (here.dev, here.ino),
        created_device: there.is_none(),
        device: there.as_ref().map_or(0, |device| device.index),
        sizes,
        object: object::object_id(),
        half: true,
        image: String::new(),
        config: String::new(),
        change: None,
        coming: None,
        fail_closed: false,
        vlans_before: None,
        sysctls: Vec::new(),
        ports: BTreeMap::new(),
        adopted: BTreeMap::new(),
        gateways: BTreeMap::new(),
        slots: BTreeMap::new(),
        segments: BTreeMap::new(),
    };
    // From here on there is something to take down.
    state.save(session.run_dir(), &switch)?;
    match &there {
        Some(device) => check_adopted(&switch, device)?,
        None => {
            let device = links.create_bridge(&switch, gateway::stable_mac(&switch))?;
            state.device = device.index;
            state.save(session.run_dir(), &switch)?;
        }
    }
    session.set_state(Some(state.clone()));
    set_sysctls(session, &mut state)?;
    session.set_state(Some(state.clone()));

    let pins = session.pins();
    pins.create()?;
    let mut ebpf = object::load(pins, &sizes)?;
    object::pin_programs(&mut ebpf, pins)?;
    Control::open(pins)?.start_timer()?;
    Ok(state)
}

/// Whether a device that is there can be a switch's.
fn check_adopted(switch: &str, device: &Link) -> Result<(), Error> {
    let doing = format!("adopting the interface {switch} as the switch device");
    let Some(facts) = device.bridge.filter(|_| device.kind == LinkKind::Bridge) else {
        return Err(
            Error::new(doing, format_args!("it is no bridge but a {}", device.kind))
                .mend("choose another name with --switch"),
        );
    };
    if facts.stp {
        return Err(Error::new(
            doing,
            "it runs spanning tree, whose port states the datapath does not follow",
        )
        .mend(format!("ip link set {switch} type bridge stp_state 0")));
    }
    Ok(())
}

fn random_seed() -> Result<u64, Error> {
    let mut bytes = [0; 8];
    // SAFETY: the buffer is as long as is asked for; so few bytes come whole or not at all.
    let got = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
    if got != bytes.len() as isize {
        return Err(Error::new(
            "drawing the hash's random start",
            std::io::Error::last_os_error(),
        ));
    }
    Ok(u64::from_ne_bytes(bytes))
}

/// The host answers ARP for an address only on the interface that holds it: with the kernel's
/// defaults an uplink outside the switch and the switch device would both answer.
fn set_sysctls(session: &Session, state: &mut RunState) -> Result<()> {
    let switch = session.switch();
    let doing = || format!("setting up the switch device {switch}");
    if state.created_device {
        // Router advertisements of the uplink's network reach the host by the uplink; a second
        // address and default route by the switch device is nothing that anyone asked for.
        let path = sysctl::ipv6_conf(switch, "accept_ra")?;
        if path.exists() {
            sysctl::set(&path, "0").with_context(doing)?;
        }
    }
    for (key, value) in [("arp_ignore", "1"), ("arp_announce", "2")] {
        let path = sysctl::ipv4_conf(switch, key)?;
        let before = sysctl::read(&path).with_context(doing)?;
        if !state.created_device && before != value {
            // On record first: whatever ends this process, it is put back.
            state.sysctls.push((path.clone(), before));
            state.save(session.run_dir(), switch)?;
        }
        sysctl::set(&path, value).with_context(doing)?;
    }
    Ok(())
}

/// Gives a running switch this binary's programs, in place, when it has others.
fn refresh_programs(session: &mut Session) -> Result<(), Error> {
    let Some(mut state) = session.state().cloned() else {
        return Ok(());
    };
    if state.object == object::object_id() {
        return Ok(());
    }
    let pins = session.pins();
    object::check_layout(pins, &state.sizes).map_err(|error| {
        let error = Error::from(error);
        let why = format!(
            "{}; it runs on, and what it knows cannot be taken over: {}",
            error.why,
            Forgotten::of(pins.dir())
        );
        Error::new(error.doing, why).mend(format!(
            "vnet-user --switch {} down, then up: that is forgotten, and no frame passes in between",
            session.switch()
        ))
    })?;
    let mut ebpf = object::load(pins, &state.sizes)?;
    object::pin_programs(&mut ebpf, pins)?;
    attach::replace_programs(pins)?;
    Control::open(pins)?.start_timer()?;
    state.object = object::object_id();
    state.save(session.run_dir(), session.switch())?;
    session.set_state(Some(state));
    Ok(())
}

/// Takes the switch down: ports given back, datapath unloaded, device deleted when `up` made it.
/// Goes on after an error and tells the first.
pub fn down(session: &mut Session) -> Result<(), Error> {
    let _held = Held::begin();
    grace::end_left_over(session.run_dir());
    let links = Links::open()?;
    let mut first: Result<()> = Ok(());
    let mut keep = |result: Result<()>| {
        if first.is_ok() {
            first = result;
        }
    };
    let saved = RunState::load(session.run_dir(), session.switch())?;
    if let Some(mut state) = saved {
        if !state.half {
            state.half = true;
            keep(state.save(session.run_dir(), session.switch()));
        }
        let mut ports = std::mem::take(&mut state.ports);
        let _short =
            (ports.len() >= sync::MANY_PORTS).then(|| ShortGracePeriods::begin(session.run_dir()));
        // The device last: its members leave it first.
        let mut names: Vec<String> = ports.keys().cloned().collect();
        names.sort_by_key(|name| name == session.switch());
        for name in names {
            if let Some(run) = ports.get_mut(&name) {
                keep(
                    ports::release(session.pins(), &links, &name, run)
                        .with_context(|| format!("releasing the port {name}")),
                );
            }
        }
        for (name, mut run) in std::mem::take(&mut state.gateways) {
            keep(
                gateway::release(&links, session.switch(), &name, &mut run)
                    .with_context(|| format!("releasing the gateway port {name}")),
            );
        }
        if state.created_device {
            match links.by_name(session.switch()) {
                // A device of the same name that somebody made since is not ours. One without a
                // number was on its way to being made.
                Ok(Some(device))
                    if device.index == state.device
                        || state.device == 0
                            && device.mac == gateway::stable_mac(session.switch()) =>
                {
                    keep(links.delete(device.index));
                }
                Ok(_) => {}
                Err(error) => keep(Err(error)),
            }
        }
        if let Some((filtering, pvid)) = state.vlans_before.filter(|_| !state.created_device)
            && let Ok(Some(device)) = links.by_index(state.device)
        {
            keep(links.set_bridge_vlans(device.index, filtering, pvid));
        }
        for (path, value) in &state.sysctls {
            if path.exists() {
                keep(sysctl::set(path, value).map(|_| ()));
            }
        }
    }
    if !session.dhcp().is_kept() {
        // A daemon that was killed leaves them behind. One that runs has heard that the gateways went.
        keeper::end_left_over(session.dhcp());
    }
    keep(session.pins().remove());
    keep(session.pins().remove_foreign());
    keep(RunState::remove(session.run_dir(), session.switch()));
    session.set_state(None);
    Ok(first?)
}
