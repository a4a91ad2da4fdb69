//! What a switch is to be, with the interfaces that there are: worked out before anything is touched.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::adopt::{self, Adopting, Found};
use crate::compile::{self, Facts, Image, Interface};
use crate::config::{Config, Mode};
use crate::datapath::publish;
use crate::error::Error;
use crate::gateway::{self, SwitchPort};
use crate::host::{Address, Link, Links, Peers};
use crate::ports::{self, Role, Wanted, XdpPlan};
use crate::runtime::Session;
use crate::state::{AdoptedRun, RunState};

/// What is to be, worked out before anything is touched.
pub(super) struct Plan {
    /// Those of `ports` that the document does not list.
    pub(super) adopted: BTreeMap<String, AdoptedRun>,
    pub(super) device: Link,
    pub(super) ports: Vec<Wanted>,
    /// Places in `ports` by name.
    places: HashMap<String, usize>,
    pub(super) xdp: BTreeMap<String, XdpPlan>,
    pub(super) image: Image,
    pub(super) warnings: Vec<String>,
}

impl Plan {
    pub(super) fn make(
        session: &Session,
        links: &Links,
        state: &RunState,
        config: &Config,
    ) -> Result<Self, Error> {
        let switch = session.switch();
        let listed = links.list()?;
        let mut by_name: BTreeMap<String, Link> = listed
            .iter()
            .map(|link| (link.name.clone(), link.clone()))
            .collect();
        let device = by_name.get(switch).cloned().ok_or_else(|| {
            Error::new(
                format!("using the switch device {switch}"),
                "the interface is gone",
            )
            .mend(format!(
                "vnet-user --switch {switch} down, then up: it makes the device again"
            ))
        })?;
        let taken = check_owners(session, config, &by_name)?;
        let (config, adopted, mut warnings) =
            adopt(session, state, config, &device, &listed, &taken);
        let config = &config;

        let mut peers = Peers::new();
        let mut ports = Vec::new();
        let mut xdp = BTreeMap::new();
        for SwitchPort {
            port,
            role,
            gateway,
        } in gateway::switch_ports(config, switch)
        {
            if role == Role::Gateway && config.port(&port.name).is_some() {
                return Err(Error::new(
                    format!("using {} as a port", port.name),
                    "it is the gateway port of a network",
                )
                .mend(format!("vnet-user port del {}", port.name)));
            }
            let Some(link) = by_name.remove(&port.name) else {
                warnings.push(format!(
                    "the interface {} does not exist: the port waits for it, and is attached by \
                     the next `up` or changing command",
                    port.name
                ));
                continue;
            };
            if let Err(error) = ports::check(&port.name, role, &link, &device) {
                // What somebody asks for just now is refused; what has become so keeps nobody waiting.
                if session.names(&port.name) {
                    return Err(error);
                }
                let mend = error.mend.map(|mend| format!("; {mend}"));
                warnings.push(format!(
                    "{} is no port while {}{}",
                    port.name,
                    error.why,
                    mend.unwrap_or_default()
                ));
                continue;
            }
            let ours = state.ports.get(&port.name).is_some_and(|run| run.enslaved);
            let member = match role {
                Role::Vm => true,
                // A port that vnet made a member as a VM's and that is an uplink now leaves.
                Role::Uplink => link.master == Some(device.index) && !ours,
                Role::Device | Role::Gateway => false,
            };
            if role == Role::Uplink {
                // Nobody asked for XDP on one that was found.
                let mode = match adopted.contains_key(&port.name) {
                    true if config.mode == Mode::Xdp => Mode::Auto,
                    _ => config.mode,
                };
                let plan = ports::plan_xdp(&link, mode, links, &mut peers)?;
                xdp.insert(port.name.clone(), plan);
            }
            let target = ports::target(role, &link, config.mode, links, &mut peers);
            ports.push(Wanted {
                name: port.name.clone(),
                role,
                link,
                member,
                target,
                gateway,
            });
        }
        warnings.extend(useless_uplinks(config, switch, &ports));
        let facts = facts(session, state, config, &ports, links.addresses()?)?;
        let image = compile::compile(config, &facts)?;
        let names = ports.iter().map(|wanted| wanted.name.clone());
        Ok(Self {
            adopted,
            device,
            places: names.zip(0..).collect(),
            ports,
            xdp,
            image,
            warnings,
        })
    }

    /// The port of this name.
    pub(super) fn port(&self, name: &str) -> Option<&Wanted> {
        self.places.get(name).map(|place| &self.ports[*place])
    }

    /// Whether an interface is gone that was there when this was made.
    pub(super) fn has_lost_one(&self, links: &Links) -> Result<bool, Error> {
        let there: BTreeSet<u32> = links.list()?.iter().map(|link| link.index).collect();
        Ok(self
            .ports
            .iter()
            .any(|wanted| !there.contains(&wanted.link.index)))
    }
}

/// The configuration with the ports that are adopted: those that are found, in the daemon, and
/// otherwise those of them that have been adopted already.
fn adopt(
    session: &Session,
    state: &RunState,
    config: &Config,
    device: &Link,
    links: &[Link],
    taken: &BTreeSet<u32>,
) -> (Config, BTreeMap<String, AdoptedRun>, Vec<String>) {
    let (mut found, mut warnings) = adopt::find(config, session.switch(), device, links, taken);
    // What a change that was interrupted made a member, nobody else has: it is given back.
    found.retain(|one| {
        let name = &one.port.name;
        one.profile.is_some()
            || state.adopted.contains_key(name)
            || !state.ports.get(name).is_some_and(|run| run.enslaved)
    });
    let is_known = |one: &Found| {
        let known = state.adopted.get(&one.port.name);
        known.is_some_and(|known| known.ifindex == one.ifindex)
    };
    let adopting = session.adopting();
    if *adopting == Adopting::Known {
        warnings.clear();
    }
    let admitted = links.iter().filter(|link| adopting.admits(link));
    let admitted: BTreeSet<u32> = admitted.map(|link| link.index).collect();
    found.retain(|one| is_known(one) || admitted.contains(&one.ifindex));
    // What has its place keeps it.
    found.sort_by_key(|one| !is_known(one));
    let room = state.sizes.max_ports;
    let (config, found, warning) = adopt::extended(config, session.switch(), room, &found);
    warnings.extend(warning);
    let adopted = found.into_iter().map(|one| {
        let run = AdoptedRun {
            ifindex: one.ifindex,
            uplink: one.port.uplink,
            profile: one.profile,
        };
        (one.port.name, run)
    });
    (config, adopted.collect(), warnings)
}

/// Rules that wait for their way out to become one.
fn useless_uplinks(config: &Config, switch: &str, ports: &[Wanted]) -> Vec<String> {
    let mut warnings = Vec::new();
    for rule in &config.nat {
        let Some(uplink) = rule.action.uplink().filter(|uplink| *uplink != switch) else {
            continue;
        };
        let way = ports
            .iter()
            .find(|wanted| wanted.name == uplink && wanted.role == Role::Uplink);
        let why = match way {
            None => format!("{uplink} is no uplink that is there"),
            Some(way) if way.member => format!(
                "{uplink} is a member of {switch}, which has its addresses: --uplink {switch} \
                 is the way out"
            ),
            Some(_) => continue,
        };
        warnings.push(format!(
            "{rule} translates nothing yet, and what it is for stays inside: {why}"
        ));
    }
    warnings
}

/// Another switch's ports are not ours. Returns the indices of their interfaces.
fn check_owners(
    session: &Session,
    config: &Config,
    by_name: &BTreeMap<String, Link>,
) -> Result<BTreeSet<u32>, Error> {
    let here = crate::host::netns::current_id()?;
    let mut taken = BTreeSet::new();
    for (other, state) in RunState::others(session.run_dir(), session.switch()) {
        if state.netns != (here.dev, here.ino) {
            continue;
        }
        let theirs: BTreeSet<u32> = state.ports.values().map(|run| run.ifindex).collect();
        for port in &config.ports {
            let link = by_name.get(&port.name);
            if link.is_some_and(|link| theirs.contains(&link.index)) {
                return Err(Error::new(
                    format!("using {} as a port of {}", port.name, session.switch()),
                    format_args!("it is a port of the switch {other}"),
                )
                .mend(format!("vnet-user --switch {other} port del {}", port.name)));
            }
        }
        taken.extend(theirs);
        taken.insert(state.device);
    }
    Ok(taken)
}

fn facts(
    session: &Session,
    state: &RunState,
    config: &Config,
    ports: &[Wanted],
    addresses: Vec<Address>,
) -> Result<Facts, Error> {
    let in_force = publish::ports_in_force(session.pins(), &state.sizes)?;
    Ok(Facts {
        switch: session.switch().to_owned(),
        interfaces: ports
            .iter()
            .map(|port| {
                let interface = Interface {
                    ifindex: port.link.index,
                    mac: port.link.mac,
                    member: port.member,
                    xdp_target: port.target.allowed,
                };
                (port.name.clone(), interface)
            })
            .collect(),
        addresses,
        slots: publish::slots_in_force(&in_force),
        tcp_at_tc: config.mode != Mode::Xdp,
        max_ports: state.sizes.max_ports,
    })
}
