//! Makes the kernel equal to a configuration: ports, tables, addresses.

mod plan;

use std::collections::BTreeMap;

use anyhow::Context as _;
use vnet_common::{
    ControlRequest,
    control::{FLUSH_SEGMENT, FLUSH_SLOT},
};

use crate::adopt::Adopting;
use crate::attach;
use crate::compile::Image;
use crate::config::{Config, FailMode, Guard, Mode, Port};
use crate::datapath::{bans, control::Control, counters, fdb, policy, publish};
use crate::error::Error;
use crate::gateway;
use crate::host::{
    Address, Links,
    grace::{self, ShortGracePeriods},
};
use crate::ports::{self, Role, Steps, Wanted};
use crate::runtime::Session;
use crate::state::{ChangeRun, GatewayRun, PortRun, RunState, fingerprint, print_of};

use self::plan::Plan;

/// From so many ports on that come or go, the kernel's waits for each are worth shortening.
pub const MANY_PORTS: usize = 8;

/// How often ports are attached again when an interface went meanwhile.
const TRIES: u32 = 3;

/// Makes the kernel equal to `new`. Returns the state after it, saved, and warnings.
///
/// # Errors
/// Nothing that was in force is changed then: what was begun is undone.
pub fn sync(
    session: &Session,
    state: RunState,
    old: &Config,
    new: &Config,
) -> Result<(RunState, Vec<String>), Error> {
    let links = Links::open()?;
    let mut state = state;
    grace::end_left_over(session.run_dir());
    let interrupted = settle_interrupted(session, &mut state, old)?;
    state.change = ChangeRun::of(old, new);
    let before = state.clone();
    let mut run = Run {
        session,
        links: &links,
        state,
        warnings: Vec::new(),
        addresses: None,
    };
    let mut tries = 0;
    loop {
        tries += 1;
        let plan = match run.plan(new) {
            Ok(plan) => plan,
            Err(error) if tries == 1 => {
                run.unmake_gateways(&before);
                return Err(error);
            }
            Err(error) => {
                run.undo(&before, old);
                return Err(error);
            }
        };
        let Err(error) = run.reach(&plan, new) else {
            break;
        };
        // Interfaces of VMs come and go as they like.
        if tries == TRIES || !plan.has_lost_one(&links).unwrap_or(false) {
            run.undo(&before, old);
            return Err(error);
        }
    }
    if let Err(error) = run.state.save(session.run_dir(), session.switch()) {
        run.undo(&before, old);
        return Err(error.into());
    }
    let Run {
        state, warnings, ..
    } = run;
    Ok((state, interrupted.into_iter().chain(warnings).collect()))
}

/// Finds out which configuration the tables in force are made from, where a change may have been
/// interrupted: the document, which becomes the new one last, is `document`. Says what was found.
fn settle_interrupted(
    session: &Session,
    state: &mut RunState,
    document: &Config,
) -> Result<Option<String>, Error> {
    let change = state.change.take();
    if let Some((generation, config)) = state.coming.take()
        && publish::generation(session.pins())? == generation
    {
        state.config = config;
    }
    let document = fingerprint(document);
    Ok(change
        .filter(|change| change.from == document && change.to != document)
        .map(|change| {
            if state.config == change.to {
                "a change was interrupted: its tables were in force, and the document is the one \
                 before; what the document says is put into force"
            } else {
                "a change was interrupted before it came into force: the tables in force were the \
                 document's, and what was done beside them is put back"
            }
            .into()
        }))
}

/// Whether the plain bridge behind the switch must not forward.
#[must_use]
pub fn is_closed(config: &Config) -> bool {
    match config.fail {
        FailMode::Open => false,
        FailMode::Closed => true,
        FailMode::Auto => {
            config.network_names().count() > 1
                || !config.mac_deny.is_empty()
                || !config.nat.is_empty()
                || !config.bans.is_empty()
                || config.networks.iter().any(|n| !n.gateway.is_empty())
                || config.ports.iter().any(promises)
                || config
                    .profiles
                    .iter()
                    .any(|profile| promises(&profile.options))
        }
    }
}

/// Whether a port is kept from something that the plain bridge would forward.
fn promises(port: &Port) -> bool {
    !port.macs.is_empty()
        || !port.groups.is_empty()
        || !port.ips.is_empty()
        || port.guard == Guard::Strict
        || port.isolated
}

/// A sync under way.
struct Run<'a> {
    session: &'a Session,
    links: &'a Links,
    state: RunState,
    warnings: Vec<String>,
    /// The addresses that the host had when the first gateway was set up.
    addresses: Option<Vec<Address>>,
}

impl Run<'_> {
    /// Works out what is to be. The tables name gateway ports' interfaces, so those are made here.
    fn plan(&mut self, config: &Config) -> Result<Plan, Error> {
        self.addresses = None;
        gateway::make_missing(self.session, self.links, &mut self.state, config)?;
        let plan = Plan::make(self.session, self.links, &self.state, config)?;
        self.warnings.clone_from(&plan.warnings);
        Ok(plan)
    }

    fn reach(&mut self, plan: &Plan, config: &Config) -> Result<(), Error> {
        self.carry_out(plan, config)?;
        self.follow_device(plan, config)
    }

    /// Deletes interfaces that were made for a plan that came to nothing.
    fn unmake_gateways(&mut self, before: &RunState) {
        let fresh: Vec<String> = self
            .state
            .gateways
            .keys()
            .filter(|name| !before.gateways.contains_key(*name))
            .cloned()
            .collect();
        for name in fresh {
            if let Err(error) = self.release_gateway(&name) {
                log::warn!("{error}");
            }
        }
    }

    fn carry_out(&mut self, plan: &Plan, config: &Config) -> Result<(), Error> {
        let fresh = plan
            .ports
            .iter()
            .filter(|p| !self.state.ports.contains_key(&p.name))
            .count();
        let ports = self.state.ports.iter();
        let stale = ports.filter(|(name, run)| !is_wanted(plan, name, run));
        // Somebody waits for the one that the daemon adopts.
        let many = match self.session.adopting() {
            Adopting::Known => MANY_PORTS,
            Adopting::All | Adopting::Settled(_) => 1,
        };
        let _short = (fresh >= many || stale.count() >= MANY_PORTS)
            .then(|| ShortGracePeriods::begin(self.session.run_dir()));
        // An uplink that leaves goes first: to the new tables its frames would be nobody's, and
        // they are the host's.
        self.release_others(plan, |run| run.kind == Role::Uplink.name())?;
        self.publish(&plan.image, config)?;
        let rules = config.groups.iter().flat_map(|group| &group.rules);
        policy::forget(self.session.pins(), rules.map(|rule| rule.id).collect())
            .context("forgetting what rules have counted that are gone")?;
        bans::forget_rules(self.session.pins(), |id| {
            plan.image.ban_rules.contains_key(&id)
        })?;
        self.release_others(plan, |_| true)?;
        self.release_gateways(plan)?;
        // Before any port is attached: an uplink that does not know the host's own address would
        // flood what is for the host.
        self.settle_fdb(&plan.image)?;
        // Before the first port comes, or after the last one is open.
        let closed = is_closed(config);
        if closed {
            self.guard_newcomers(plan, closed)?;
        }
        let steps = self.intend(plan)?;
        for (wanted, steps) in plan.ports.iter().zip(steps) {
            self.configure_gateway(wanted)?;
            self.attach(plan, wanted, steps, config.mode)?;
        }
        self.close(plan, closed)?;
        if !closed {
            self.guard_newcomers(plan, closed)?;
        }
        Ok(())
    }

    /// Has the plain bridge pass nothing of members that nobody has listed or adopted yet, or takes
    /// that back: with VLAN filtering and no VLAN for their frames there is no moment in between. A
    /// kernel whose bridge knows no VLANs has no such means.
    fn guard_newcomers(&mut self, plan: &Plan, closed: bool) -> Result<(), Error> {
        let index = plan.device.index;
        let facts = self.links.by_index(index)?.and_then(|link| link.bridge);
        let Some((filtering, Some(pvid))) =
            facts.map(|facts| (facts.vlan_filtering, facts.default_pvid))
        else {
            return Ok(());
        };
        if !closed {
            if let Some((filtering, pvid)) = self.state.vlans_before {
                self.links.set_bridge_vlans(index, filtering, pvid)?;
                self.state.vlans_before = None;
            }
            return Ok(());
        }
        if (filtering, pvid) != (true, 0) {
            self.state.vlans_before.get_or_insert((filtering, pvid));
            self.save()?;
            self.links.set_bridge_vlans(index, true, 0)?;
        }
        Ok(())
    }

    /// Puts on record what attaching the ports will change, before it is changed: whatever ends this
    /// process, `down` can undo what was done.
    fn intend(&mut self, plan: &Plan) -> Result<Vec<Steps>, Error> {
        let before = (self.state.ports.clone(), self.state.adopted.clone());
        self.state.adopted.clone_from(&plan.adopted);
        let tc = attach::tc_kind()?;
        let mut steps = Vec::new();
        for wanted in &plan.ports {
            let fresh = || PortRun {
                ifindex: wanted.link.index,
                kind: wanted.role.name().into(),
                member: wanted.member,
                ..PortRun::default()
            };
            let run = self.state.ports.entry(wanted.name.clone());
            let run = run.or_insert_with(fresh);
            run.tc = tc.into();
            run.xdp_target = wanted.target.allowed;
            if wanted.role == Role::Vm {
                run.note.clone_from(&wanted.target.note);
            }
            steps.push(ports::intend(wanted, run));
        }
        if before != (self.state.ports.clone(), self.state.adopted.clone()) {
            self.save()?;
        }
        Ok(steps)
    }

    fn save(&self) -> Result<(), Error> {
        Ok(self
            .state
            .save(self.session.run_dir(), self.session.switch())?)
    }

    /// A bridge whose address nobody set takes another one as members come and go, and the tables
    /// that were worked out before hold the old one.
    fn follow_device(&mut self, plan: &Plan, config: &Config) -> Result<(), Error> {
        let device = self.links.by_index(plan.device.index)?;
        if device.is_none_or(|device| device.mac == plan.device.mac) {
            return Ok(());
        }
        let plan = Plan::make(self.session, self.links, &self.state, config)?;
        self.carry_out(&plan, config)
    }

    /// Releases ports that are no longer wanted as they are.
    fn release_others(&mut self, plan: &Plan, due: impl Fn(&PortRun) -> bool) -> Result<(), Error> {
        let stale: Vec<String> = self
            .state
            .ports
            .iter()
            .filter(|(name, run)| due(run) && !is_wanted(plan, name, run))
            .map(|(name, _)| name.clone())
            .collect();
        for name in stale {
            let Some(mut run) = self.state.ports.remove(&name) else {
                continue;
            };
            let released = ports::release(self.session.pins(), self.links, &name, &mut run);
            if let Err(error) = released {
                // What is left of it stays on record.
                self.state.ports.insert(name.clone(), run);
                return Err(Error::from(
                    error.context(format!("releasing the port {name}")),
                ));
            }
        }
        Ok(())
    }

    /// Takes back what was done for networks that have no gateway any more.
    fn release_gateways(&mut self, plan: &Plan) -> Result<(), Error> {
        let stale: Vec<String> = self
            .state
            .gateways
            .keys()
            .filter(|name| {
                plan.port(name)
                    .is_none_or(|wanted| wanted.gateway.is_none())
            })
            .cloned()
            .collect();
        for name in stale {
            self.release_gateway(&name)?;
        }
        Ok(())
    }

    fn release_gateway(&mut self, name: &str) -> Result<(), Error> {
        let Some(mut run) = self.state.gateways.remove(name) else {
            return Ok(());
        };
        let switch = self.session.switch();
        if let Err(error) = gateway::release(self.links, switch, name, &mut run) {
            // What is left of it stays on record.
            self.state.gateways.insert(name.to_owned(), run);
            return Err(Error::from(
                error.context(format!("releasing the gateway port {name}")),
            ));
        }
        Ok(self.state.save(self.session.run_dir(), switch)?)
    }

    /// Before the port is attached, and with that set up: its addresses and options are there when
    /// its first packet comes.
    fn configure_gateway(&mut self, wanted: &Wanted) -> Result<(), Error> {
        let Some(network) = &wanted.gateway else {
            return Ok(());
        };
        let name = &wanted.name;
        let mut run = self.state.gateways.get(name).cloned().unwrap_or_default();
        let addresses = match &mut self.addresses {
            Some(addresses) => addresses,
            none => none.insert(self.links.addresses()?),
        };
        let (state, session) = (&mut self.state, self.session);
        let mut save = |run: &GatewayRun| {
            if state.gateways.get(name) == Some(run) {
                return Ok(());
            }
            state.gateways.insert(name.clone(), run.clone());
            state.save(session.run_dir(), session.switch())
        };
        gateway::configure(
            self.links,
            addresses,
            &wanted.link,
            network,
            &mut run,
            &mut save,
        )
        .with_context(|| format!("setting up the gateway of the network {}", network.name))?;
        Ok(())
    }

    fn publish(&mut self, image: &Image, config: &Config) -> Result<(), Error> {
        let print = print_of(image);
        if self.state.image == print {
            self.state.config = fingerprint(config);
            return Ok(());
        }
        // Whatever ends this process, nobody takes the tables for what they were.
        self.state.image.clear();
        let next = publish::generation(self.session.pins())? ^ 1;
        self.state.coming = Some((next, fingerprint(config)));
        self.save()?;
        publish::publish(self.session.pins(), &self.state.sizes, image)?;
        self.state.image = print;
        self.state.config = fingerprint(config);
        self.state.coming = None;
        Ok(())
    }

    fn attach(
        &mut self,
        plan: &Plan,
        wanted: &Wanted,
        steps: Steps,
        mode: Mode,
    ) -> Result<(), Error> {
        let pins = self.session.pins();
        ports::attach(pins, self.links, &plan.device, wanted, steps)
            .with_context(|| format!("attaching the port {}", wanted.name))?;
        let Some(run) = self.state.ports.get_mut(&wanted.name) else {
            return Ok(());
        };
        run.begun = false;
        let Some(xdp) = plan.xdp.get(&wanted.name) else {
            return Ok(());
        };
        let mode = match plan.adopted.contains_key(&wanted.name) {
            true if mode == Mode::Xdp => Mode::Auto,
            _ => mode,
        };
        let warnings = ports::apply_xdp(pins, &wanted.link, mode, xdp, run)?;
        self.warnings.extend(warnings);
        self.save()
    }

    fn close(&mut self, plan: &Plan, closed: bool) -> Result<(), Error> {
        let mut links = Vec::new();
        for wanted in plan.ports.iter().filter(|wanted| wanted.member) {
            // Read again where it has just become a member.
            let known = Some(&wanted.link).filter(|link| link.bridge_port.is_some());
            let link = match known {
                Some(link) => Some(link.clone()),
                None => self.links.by_index(wanted.link.index)?,
            };
            let Some(link) = link else {
                continue;
            };
            if let Some(run) = self.state.ports.get_mut(&wanted.name) {
                links.extend(ports::intend_closed(&link, closed, run).then_some((wanted, link)));
            }
        }
        self.state.fail_closed = closed;
        if links.is_empty() {
            return Ok(());
        }
        self.save()?;
        for (wanted, link) in links {
            if let Some(run) = self.state.ports.get_mut(&wanted.name) {
                ports::set_closed(self.links, &link, closed, run)
                    .with_context(|| format!("setting the bridge flags of {}", wanted.name))?;
            }
        }
        Ok(())
    }

    /// Forgets addresses and bans of ports and networks that went, and puts the configured addresses.
    fn settle_fdb(&mut self, image: &Image) -> Result<(), Error> {
        let pins = self.session.pins();
        let mut control = Control::open(pins)?;
        let buckets = self.state.sizes.buckets();
        let slots = slot_names(image);
        let gone = changed(&self.state.slots, &slots);
        let empty: Vec<u16> = gone
            .iter()
            .copied()
            .filter(|slot| !slots.contains_key(slot))
            .collect();
        counters::end(pins, &empty)?;
        for slot in gone {
            let what = ControlRequest {
                flags: FLUSH_SLOT,
                slot,
                ..ControlRequest::default()
            };
            control.flush(buckets, &what)?;
        }
        let gone = changed(&self.state.segments, &image.networks);
        bans::forget_segments(pins, &gone)?;
        for segment in gone {
            let what = ControlRequest {
                flags: FLUSH_SEGMENT,
                segment,
                ..ControlRequest::default()
            };
            control.flush(buckets, &what)?;
        }
        fdb::reconcile(&mut control, pins, &image.fdb)?;
        self.state.slots = slots;
        self.state.segments.clone_from(&image.networks);
        Ok(())
    }

    /// Brings back what was in force, as far as that goes: the error that led here is what the
    /// user is told, this only warns.
    fn undo(&mut self, before: &RunState, old: &Config) {
        let fresh: Vec<String> = self
            .state
            .ports
            .keys()
            .filter(|name| !before.ports.contains_key(*name))
            .cloned()
            .collect();
        for name in fresh {
            if let Some(mut run) = self.state.ports.remove(&name)
                && let Err(error) = ports::release(self.session.pins(), self.links, &name, &mut run)
            {
                log::warn!("releasing {name} again: {error:#}");
            }
        }
        let restored = self.plan(old).and_then(|plan| self.reach(&plan, old));
        self.state.change = None;
        if let Err(error) = restored {
            log::warn!("bringing back the configuration before: {error}");
        }
        if let Err(error) = self
            .state
            .save(self.session.run_dir(), self.session.switch())
        {
            log::warn!("saving the state: {error:#}");
        }
    }
}

fn is_wanted(plan: &Plan, name: &str, run: &PortRun) -> bool {
    plan.port(name).is_some_and(|wanted| {
        wanted.link.index == run.ifindex
            && wanted.role.name() == run.kind
            && wanted.member == run.member
    })
}

fn slot_names(image: &Image) -> BTreeMap<u16, (String, String)> {
    image
        .ports
        .iter()
        .map(|(slot, port)| {
            let name = image.names.get(slot).cloned().unwrap_or_default();
            (*slot, (name, port.kind.name().to_owned()))
        })
        .collect()
}

/// Keys whose value went or became another.
fn changed<K: Copy + Ord, V: PartialEq>(old: &BTreeMap<K, V>, new: &BTreeMap<K, V>) -> Vec<K> {
    old.iter()
        .filter(|(key, value)| new.get(*key) != Some(*value))
        .map(|(key, _)| *key)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Source;

    fn is_closed_after(text: &str) -> bool {
        let source = Source {
            name: "a.toml".into(),
            text: format!("schema = 1\n{text}"),
        };
        is_closed(&source.config("vsw0").unwrap())
    }

    #[test]
    fn what_promises_something_is_closed() {
        for open in [
            "",
            "[[port]]\nname = 'tap0'",
            // Nobody is bound to it.
            "[[group]]\nname = 'web'",
            "[switch]\nfail = 'open'\n[[port]]\nname = 'tap0'\ngroups = ['web']\n\
             [[group]]\nname = 'web'",
        ] {
            assert!(!is_closed_after(open), "{open}");
        }
        for closed in [
            "[switch]\nfail = 'closed'",
            "[[network]]\nname = 'blue'",
            "[[port]]\nname = 'tap0'\nmac = ['02:00:00:00:00:01']",
            "[[port]]\nname = 'tap0'\ngroups = ['web']\n[[group]]\nname = 'web'",
            "[[profile]]\nname = 'a'\nmatch.name = 'tap*'\ngroups = ['web']\n\
             [[group]]\nname = 'web'",
        ] {
            assert!(is_closed_after(closed), "{closed}");
        }
    }
}
