//! One port's interface: what it takes to make it a port of the switch, and to give it back.

use anyhow::{Context as _, Result};

use crate::attach::{self, TcHook};
use crate::config::{Mode, Network};
use crate::datapath::pins::Pins;
use crate::error::Error;
use crate::host::{BridgePortFlags, Link, LinkKind, Links, Peer, Peers, ethtool};
use crate::state::PortRun;

/// What a port is to the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// A VM's interface, a member of the switch device.
    Vm,
    /// To the physical network.
    Uplink,
    /// The switch device itself.
    Device,
    /// An interface of vnet's that holds a network's gateway addresses.
    Gateway,
}

impl Role {
    /// The word in listings and in the state file.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Vm => "vm",
            Self::Uplink => "uplink",
            Self::Device | Self::Gateway => "internal",
        }
    }
}

/// A port that is to be, with its interface.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// The interface's name.
    pub name: String,
    /// What it is.
    pub role: Role,
    /// The interface.
    pub link: Link,
    /// It is, or will be, a member of the switch device.
    pub member: bool,
    /// Whether and why XDP programs may redirect to it.
    pub target: Target,
    /// The network whose gateway addresses it holds.
    pub gateway: Option<Network>,
}

impl Wanted {
    /// Whether the host's stack stays behind it.
    #[must_use]
    pub fn is_outside(&self) -> bool {
        self.role == Role::Uplink && !self.member
    }

    /// The TC hooks that it has a program at.
    #[must_use]
    pub fn hooks(&self) -> &'static [TcHook] {
        match self.role {
            Role::Vm => &[TcHook::Ingress],
            Role::Device | Role::Gateway => &[TcHook::Egress],
            Role::Uplink if self.is_outside() => &[TcHook::Ingress, TcHook::Egress],
            Role::Uplink => &[TcHook::Ingress],
        }
    }
}

/// Whether XDP programs may redirect to a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// They may.
    pub allowed: bool,
    /// Why not, when a user could change that.
    pub note: String,
}

/// Whether an interface can be what it is to be.
///
/// # Errors
/// It cannot; says why and what to do.
pub fn check(name: &str, role: Role, link: &Link, device: &Link) -> Result<(), Error> {
    let doing = format!("using {name} as a port");
    if !link.ethernet {
        return Err(Error::new(doing, "it carries no Ethernet frames")
            .mend("use a tap device in place of a tun device"));
    }
    if let Some(master) = link.master
        && master != device.index
    {
        return Err(Error::new(
            doing,
            format_args!("it is a member of the interface with index {master}"),
        )
        .mend(format!("ip link set {name} nomaster")));
    }
    if role == Role::Vm && link.kind == LinkKind::Bridge {
        return Err(
            Error::new(doing, "it is a bridge, and a bridge cannot be in a bridge")
                .mend("connect the two with a veth pair"),
        );
    }
    Ok(())
}

/// Whether XDP programs may redirect to an interface.
pub fn target(role: Role, link: &Link, mode: Mode, links: &Links, peers: &mut Peers) -> Target {
    let no = |note: &str| Target {
        allowed: false,
        note: note.into(),
    };
    match (&link.kind, role) {
        (_, Role::Device | Role::Gateway | Role::Uplink) => no(""),
        (LinkKind::Tun, Role::Vm) => Target {
            allowed: true,
            note: String::new(),
        },
        // A redirect into a veth whose peer has no NAPI is lost without a trace (veth_xdp_xmit,
        // drivers/net/veth.c), and the peer can change at any time: only where XDP was asked for,
        // and only when the peer is seen to have it.
        (LinkKind::Veth, Role::Vm) if mode == Mode::Xdp => match peers.look(links, link) {
            Peer::Known(facts) if facts.napi => Target {
                allowed: true,
                note: String::new(),
            },
            Peer::Known(facts) => no(&format!(
                "frames from XDP reach it by TC: its peer has no NAPI; ethtool -K {} gro on",
                facts.name
            )),
            Peer::Unknown(why) => no(&format!("frames from XDP reach it by TC: {why}")),
        },
        _ => no(""),
    }
}

/// What an uplink is to have at XDP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum XdpPlan {
    /// The program, with a warning perhaps.
    Attach {
        /// What the user should know.
        warning: Option<String>,
    },
    /// None, and why.
    Without {
        /// For `status`.
        why: String,
    },
}

/// Whether an uplink gets an XDP program.
///
/// # Errors
/// `--mode xdp` asks for one where it would do harm.
pub fn plan_xdp(
    link: &Link,
    mode: Mode,
    links: &Links,
    peers: &mut Peers,
) -> Result<XdpPlan, Error> {
    let without = |why: &str| Ok(XdpPlan::Without { why: why.into() });
    match (mode, &link.kind) {
        (Mode::Tc, _) => without("mode tc"),
        (Mode::Auto, LinkKind::Physical) => Ok(XdpPlan::Attach { warning: None }),
        (Mode::Auto, kind) => Ok(XdpPlan::Without {
            why: format!("a {kind} carries unfinished checksums"),
        }),
        (Mode::Xdp, LinkKind::Veth) => veth_xdp(link, links, peers),
        (Mode::Xdp, _) => Ok(XdpPlan::Attach { warning: None }),
    }
}

/// XDP on a veth: its peer must finish checksums and put tags into the frame, for XDP sees neither
/// what is left to offloads.
fn veth_xdp(link: &Link, links: &Links, peers: &mut Peers) -> Result<XdpPlan, Error> {
    let name = &link.name;
    let warning = match peers.look(links, link) {
        Peer::Known(facts) => {
            if facts.tx_vlan {
                return Err(Error::new(
                    format!("using XDP on {name}"),
                    format_args!(
                        "its peer {} leaves VLAN tags to offload, where XDP does not see them: \
                         tagged frames would pass for untagged ones",
                        facts.name
                    ),
                )
                .mend(format!(
                    "ethtool -K {} txvlan off tx-vlan-stag-hw-insert off, or --mode auto",
                    facts.name
                )));
            }
            facts.tx_checksum.then(|| {
                format!(
                    "{name}: its peer {} leaves checksums to offload, and XDP sends them on \
                     unfinished: ethtool -K {} tx off",
                    facts.name, facts.name
                )
            })
        }
        Peer::Unknown(why) => Some(format!(
            "{name} is a veth whose peer cannot be looked at ({why}): it must have tx checksum \
             and tx VLAN offload off"
        )),
    };
    Ok(XdpPlan::Attach { warning })
}

/// What is to be done to an interface, besides attaching programs, to make it a port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Steps {
    lro_off: bool,
    enslave: bool,
    make_promiscuous: bool,
    make_up: bool,
}

/// Works out what has to be done to make an interface a port, and notes it in `run`, so that
/// [`release`] can undo it, or as much of it as came to be.
pub fn intend(wanted: &Wanted, run: &mut PortRun) -> Steps {
    let link = &wanted.link;
    let fresh = run.hooks.is_empty() || run.begun;
    run.begun = fresh;
    for hook in wanted.hooks() {
        if !run.hooks.iter().any(|known| known == hook.name()) {
            run.hooks.push(hook.name().into());
        }
    }
    let steps = Steps {
        // Frames that the NIC merged cannot be sent on.
        lro_off: wanted.role == Role::Uplink
            && ethtool::get(&wanted.name).is_ok_and(|features| features.lro),
        enslave: wanted.role == Role::Vm && link.master.is_none(),
        make_promiscuous: wanted.is_outside() && !link.promiscuous,
        // Once: a port that is taken down later is meant to be.
        make_up: fresh && !link.up,
    };
    run.lro_off |= steps.lro_off;
    run.enslaved |= steps.enslave;
    run.made_promiscuous |= steps.make_promiscuous;
    run.made_up |= steps.make_up;
    steps
}

/// Makes an interface a port: features, programs, membership.
pub fn attach(
    pins: &Pins,
    links: &Links,
    device: &Link,
    wanted: &Wanted,
    steps: Steps,
) -> Result<()> {
    let (name, link) = (&wanted.name, &wanted.link);
    if steps.lro_off {
        ethtool::set_lro(name, false)
            .with_context(|| format!("switching LRO off on {name}; ethtool -K {name} lro off"))?;
    }
    for hook in wanted.hooks() {
        attach::attach_tc(pins, *hook, name, link.index)?;
    }
    if steps.enslave {
        links.set_master(link.index, Some(device.index))?;
    }
    if steps.make_promiscuous {
        links.set_promiscuous(link.index, true)?;
    }
    if steps.make_up {
        links.set_up(link.index, true)?;
    }
    Ok(())
}

/// Attaches or detaches an uplink's XDP program as planned. Returns warnings.
///
/// # Errors
/// `mode` insists on XDP and it cannot be had.
pub fn apply_xdp(
    pins: &Pins,
    link: &Link,
    mode: Mode,
    plan: &XdpPlan,
    run: &mut PortRun,
) -> Result<Vec<String>, Error> {
    let name = &link.name;
    let warning = match plan {
        XdpPlan::Without { why } => {
            detach_xdp(pins, name, run)?;
            run.note.clone_from(why);
            return Ok(Vec::new());
        }
        XdpPlan::Attach { warning } => warning.clone(),
    };
    if run.xdp {
        return Ok(warning.into_iter().collect());
    }
    let attached = see_tags(link, run).and_then(|()| attach::attach_xdp(pins, name, link.index));
    match attached {
        Ok(()) => {
            run.xdp = true;
            run.note.clear();
            Ok(warning.into_iter().collect())
        }
        Err(error) if mode == Mode::Xdp => {
            let _ = detach_xdp(pins, name, run);
            Err(
                Error::from(error.context(format!("using XDP on {name}"))).mend(
                    "the driver must have native XDP, with no other XDP program and an MTU that it \
                 takes; --mode auto does without",
                ),
            )
        }
        Err(error) => {
            detach_xdp(pins, name, run)?;
            run.note = format!("no XDP: {error:#}");
            Ok(vec![format!("{name} is handled at TC alone: {error:#}")])
        }
    }
}

/// Native XDP sees only tags that the NIC leaves in the frame.
fn see_tags(link: &Link, run: &mut PortRun) -> Result<()> {
    let name = &link.name;
    if link.kind == LinkKind::Veth || !ethtool::get(name).is_ok_and(|f| f.rx_vlan) {
        return Ok(());
    }
    ethtool::set_rx_vlan(name, false).with_context(|| {
        format!("{name} takes VLAN tags out of frames before XDP sees them; ethtool -K {name} rxvlan off")
    })?;
    run.rx_vlan_off = true;
    Ok(())
}

fn detach_xdp(pins: &Pins, name: &str, run: &mut PortRun) -> Result<()> {
    attach::detach_xdp(pins, run.ifindex)?;
    run.xdp = false;
    if std::mem::take(&mut run.rx_vlan_off) {
        ethtool::set_rx_vlan(name, true)?;
    }
    Ok(())
}

/// What a member's bridge port flags are while it is cut off from the plain bridge.
const CLOSED: BridgePortFlags = BridgePortFlags {
    isolated: true,
    flood: false,
    learning: false,
};

/// Notes a member's bridge port flags before [`set_closed`] changes them. Returns whether it has
/// anything to change.
pub fn intend_closed(link: &Link, closed: bool, run: &mut PortRun) -> bool {
    let Some(now) = link.bridge_port.map(|port| port.flags) else {
        return false;
    };
    if !closed {
        return run.bridge_flags.is_some();
    }
    run.bridge_flags
        .get_or_insert((now.isolated, now.flood, now.learning));
    now != CLOSED
}

/// Cuts a member off from the plain bridge, or opens it, by its bridge port flags. With the
/// programs gone, an isolated port reaches no other isolated one, and nothing is flooded to it.
pub fn set_closed(links: &Links, link: &Link, closed: bool, run: &mut PortRun) -> Result<()> {
    if !intend_closed(link, closed, run) {
        return Ok(());
    }
    if closed {
        return links.set_bridge_port(link.index, CLOSED);
    }
    if let Some((isolated, flood, learning)) = run.bridge_flags {
        links.set_bridge_port(
            link.index,
            BridgePortFlags {
                isolated,
                flood,
                learning,
            },
        )?;
        run.bridge_flags = None;
    }
    Ok(())
}

/// Gives a port's interface back as it was. Goes on after an error and tells the first.
pub fn release(pins: &Pins, links: &Links, name: &str, run: &mut PortRun) -> Result<()> {
    let before = run.clone();
    // By its index: it may have another name by now.
    let link = links.by_index(run.ifindex).unwrap_or_default();
    let there = link.is_some();
    let released = release_link(pins, links, name, link, run);
    if released.is_err() && there && matches!(links.by_index(run.ifindex), Ok(None)) {
        // It went meanwhile, and took with it what could not be undone.
        *run = before;
        return release_link(pins, links, name, None, run);
    }
    released
}

/// [`release`], of an interface that is `link`, or is gone.
fn release_link(
    pins: &Pins,
    links: &Links,
    name: &str,
    link: Option<Link>,
    run: &mut PortRun,
) -> Result<()> {
    let name = link.as_ref().map_or(name, |link| link.name.as_str());
    let mut first = Ok(());
    // What could not be undone stays on record, for who tries again. Whether it could is returned.
    let mut keep = |result: Result<()>| {
        let done = result.is_ok();
        if first.is_ok() {
            first = result;
        }
        done
    };
    if let Some(link) = &link {
        // Where somebody has put it since is not the switch's to say.
        let is_elsewhere = match link.master.map(|master| links.by_index(master)) {
            Some(Ok(Some(master))) => pins.switch() != Some(&*master.name),
            _ => false,
        };
        if is_elsewhere {
            run.enslaved = false;
            run.bridge_flags = None;
        }
        // Out of the bridge first: nothing is forwarded plainly while the programs go.
        if run.enslaved && (link.master.is_none() || keep(links.set_master(link.index, None))) {
            run.enslaved = false;
            run.bridge_flags = None;
        }
        if !is_elsewhere && !run.enslaved {
            keep(set_closed(links, link, false, run));
        }
    }
    if link.is_some() {
        keep(detach_xdp(pins, name, run));
    } else {
        keep(attach::detach_xdp(pins, run.ifindex));
    }
    let ifindex = run.ifindex;
    run.hooks.retain(|hook| {
        TcHook::by_name(hook).is_some_and(|hook| {
            let detached = attach::detach_tc(pins, hook, name, ifindex, link.is_some());
            !keep(detached)
        })
    });
    if let Some(link) = &link {
        if run.made_promiscuous {
            let undone = links.set_promiscuous(link.index, false).map(|_| ());
            run.made_promiscuous = !keep(undone);
        }
        // An uplink stays up: the host may use it by now.
        if run.made_up {
            let is_vm = run.kind == Role::Vm.name();
            run.made_up = is_vm && !keep(links.set_up(link.index, false));
        }
        if run.lro_off {
            run.lro_off = !keep(ethtool::set_lro(name, true).map(|_| ()));
        }
    }
    first
}
