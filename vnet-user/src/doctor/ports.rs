//! Each port's interface: whether it is there and in use, its offloads, its MTU, its XDP.

use super::{AS_ROOT, Check, Scope, hooks};
use crate::config::{Config, Mode};
use crate::error::Error;
use crate::gateway::{SwitchPort, switch_ports};
use crate::host::{
    Link, LinkKind, Links, Peers, ethtool, ethtool::Features, netdev, netdev::XdpFeatures,
};
use crate::ports::{Role, XdpPlan, plan_xdp};
use crate::runtime::Session;
use crate::state::PortRun;
use crate::sync;

/// The longest MTU in bytes of which a frame surely fits one buffer of a page, as native XDP wants it
/// of a driver without frames in several: 4,096 less headroom (XDP_PACKET_HEADROOM, 256), the skb's
/// end (320), Ethernet header and tag.
const XDP_MTU: u32 = 3502;

/// What is known of a port.
#[derive(Clone, Debug)]
pub struct Facts {
    /// The interface's name.
    pub name: String,
    /// What it is to the host.
    pub role: Role,
    /// The interface, where there is one.
    pub link: Option<Link>,
    /// The switch is up.
    pub up: bool,
    /// Index of the switch device.
    pub device: Option<u32>,
    /// Members are cut off from the plain bridge.
    pub closed: bool,
    /// How it is attached.
    pub run: Option<PortRun>,
    /// Its offloads.
    pub features: Option<Features>,
    /// Where frames of uplinks are handled.
    pub mode: Mode,
    /// What an uplink is to have at XDP.
    pub plan: Option<Result<XdpPlan, Error>>,
    /// What XDP its driver has, where the kernel tells.
    pub driver: Option<XdpFeatures>,
}

/// Looks at every port, and at what else is in the switch device; at programs when `privileged`.
#[must_use]
pub fn examine(
    session: &Session,
    config: &Config,
    listed: &[Link],
    links: &Links,
    privileged: bool,
) -> Vec<Check> {
    let mut peers = Peers::new();
    let mut checks = Vec::new();
    let device = listed.iter().find(|link| link.name == session.switch());
    for port in switch_ports(config, session.switch()) {
        let made_by_up = matches!(port.role, Role::Device | Role::Gateway);
        let link = listed.iter().find(|link| link.name == port.port.name);
        if made_by_up && link.is_none() && !session.is_up() {
            continue;
        }
        let facts = gather(session, config, &port, link, device, links, &mut peers);
        checks.extend(judge(&facts));
        if let Some(link) = link.filter(|_| privileged) {
            checks.extend(hooks::examine(session, &port, link, links));
        }
    }
    if !privileged {
        let scope = Scope::new("ports");
        let unknown = scope.warn("programs at TC and XDP", AS_ROOT);
        checks.push(unknown.detail("not looked at"));
    }
    if let Some(device) = device {
        checks.push(strangers(config, session.switch(), device, listed));
    }
    checks
}

fn gather(
    session: &Session,
    config: &Config,
    port: &SwitchPort,
    link: Option<&Link>,
    device: Option<&Link>,
    links: &Links,
    peers: &mut Peers,
) -> Facts {
    let name = &port.port.name;
    let uplink = link.filter(|_| port.role == Role::Uplink);
    let state = session.state();
    Facts {
        name: name.clone(),
        role: port.role,
        link: link.cloned(),
        up: session.is_up(),
        device: device.map(|device| device.index),
        closed: state.is_some_and(|state| state.fail_closed),
        run: state.and_then(|state| state.ports.get(name).cloned()),
        features: link.and_then(|_| ethtool::get(name).ok()),
        mode: config.mode,
        plan: uplink.map(|link| plan_xdp(link, config.mode, links, peers)),
        driver: uplink.and_then(|link| netdev::xdp_features(link.index).ok().flatten()),
    }
}

/// What the facts mean.
#[must_use]
pub fn judge(facts: &Facts) -> Vec<Check> {
    let scope = Scope::new(format!("port {}", facts.name));
    let mut checks = vec![interface(&scope, facts)];
    let Some(link) = &facts.link else {
        return checks;
    };
    checks.extend(membership(&scope, facts, link));
    if facts.role != Role::Uplink {
        return checks;
    }
    checks.extend(promiscuous(&scope, facts, link));
    checks.push(native_xdp(&scope, facts, link));
    checks.extend(mtu(&scope, facts, link));
    match &facts.features {
        Some(features) => checks.extend(offloads(&scope, facts, link, features)),
        None => checks.push(
            scope
                .warn("offloads", format!("ethtool -k {}", facts.name))
                .detail("not looked at: the driver does not tell them"),
        ),
    }
    checks
}

fn interface(scope: &Scope, facts: &Facts) -> Check {
    let (what, name) = ("interface", &facts.name);
    let Some(link) = &facts.link else {
        let none = "there is none";
        return match facts.role {
            Role::Vm => scope
                .warn(what, format!("start its VM, or vnet-user port del {name}"))
                .detail(none),
            Role::Uplink => scope
                .fail(
                    what,
                    format!("ip link shows those there are; vnet-user port del {name}"),
                )
                .detail(none),
            Role::Device | Role::Gateway => scope
                .fail(what, "vnet-user down, then up: it makes it again")
                .detail("it is gone"),
        };
    };
    let attached = facts.run.as_ref().map(|run| run.ifindex);
    if facts.up && attached != Some(link.index) {
        return scope
            .fail(what, "vnet-user up")
            .detail(if attached.is_some() {
                "it was made again since it was attached"
            } else {
                "it is there and not attached"
            });
    }
    if !link.up {
        return scope
            .warn(what, format!("ip link set {name} up"))
            .detail("it is down");
    }
    if !link.carrier && facts.role == Role::Uplink {
        return scope
            .warn(what, "look after the cable and its other end")
            .detail("no carrier");
    }
    let carrier = if link.carrier { "" } else { ", no carrier" };
    scope
        .pass(what)
        .detail(format_args!("{}{carrier}", link.kind))
}

/// A member that left the switch device, or is not cut off from the plain bridge behind it.
fn membership(scope: &Scope, facts: &Facts, link: &Link) -> Option<Check> {
    facts.run.as_ref().filter(|run| run.member)?;
    let (what, name) = ("place in the switch device", &facts.name);
    if facts.role == Role::Device {
        return None;
    }
    if link.master != facts.device {
        return Some(
            scope
                .warn(
                    what,
                    format!("vnet-user port del {name}, then port add with its options"),
                )
                .detail("it was taken out: without vnet's programs it is cut off"),
        );
    }
    let isolated = link
        .bridge_port
        .as_ref()
        .is_some_and(|port| port.flags.isolated);
    Some(if facts.closed && !isolated {
        scope
            .fail(what, format!("bridge link set dev {name} isolated on"))
            .detail(
                "it is not isolated: without vnet's programs the plain bridge forwards its frames",
            )
    } else {
        scope.pass(what)
    })
}

/// An uplink outside the bridge gets VMs' frames only if its NIC does not filter their addresses.
fn promiscuous(scope: &Scope, facts: &Facts, link: &Link) -> Option<Check> {
    facts.run.as_ref().filter(|run| !run.member)?;
    let what = "promiscuous mode";
    Some(if link.promiscuity > 0 {
        scope.pass(what)
    } else {
        scope
            .fail(what, format!("ip link set {} promisc on", facts.name))
            .detail("it is off: the NIC lets no frames to VMs' addresses in")
    })
}

fn native_xdp(scope: &Scope, facts: &Facts, link: &Link) -> Check {
    let (what, name) = ("native XDP", &facts.name);
    // TC does it all where XDP is not insisted on.
    let lacking = |mend: String, detail: String| {
        if facts.mode == Mode::Xdp {
            scope.fail(what, mend).detail(detail)
        } else {
            scope
                .warn(what, mend)
                .detail(detail + ": TC handles its frames")
        }
    };
    if facts.run.as_ref().is_some_and(|run| run.xdp) {
        return if link.xdp.is_some() {
            scope.pass(what).detail("attached")
        } else {
            scope
                .fail(what, "vnet-user down, then up")
                .detail("vnet's program was taken away")
        };
    }
    let warning = match &facts.plan {
        Some(Ok(XdpPlan::Without { why })) => {
            return scope.pass(what).detail(format_args!("not used: {why}"));
        }
        Some(Ok(XdpPlan::Attach { warning })) => warning.as_deref(),
        Some(Err(error)) => {
            let mend = error.mend.as_deref().unwrap_or("vnet-user up --mode auto");
            return scope.fail(what, mend).detail(&error.why);
        }
        None => None,
    };
    if let Some(xdp) = link.xdp {
        return lacking(
            format!("ip link set {name} xdp off, then vnet-user up"),
            format!("program {} of other software has it", xdp.prog_id),
        );
    }
    if facts
        .driver
        .is_some_and(|driver| !driver.native || !driver.redirect)
    {
        return lacking(
            "a NIC whose driver has it, or --mode tc".into(),
            "the driver has none".into(),
        );
    }
    if let Some(run) = facts.run.as_ref().filter(|run| !run.note.is_empty()) {
        return lacking("vnet-user up tries again".into(), run.note.clone());
    }
    match warning {
        Some(warning) => scope
            .warn(what, "see to its peer, or vnet-user up --mode auto")
            .detail(warning),
        None if facts.driver.is_none() => scope
            .pass(what)
            .detail("this kernel does not tell what the driver has; `up` tries"),
        None => scope.pass(what).detail("the driver has it"),
    }
}

/// The MTU, where XDP is used or meant to be.
fn mtu(scope: &Scope, facts: &Facts, link: &Link) -> Option<Check> {
    matches!(facts.plan, Some(Ok(XdpPlan::Attach { .. }))).then_some(())?;
    if facts.driver.is_some_and(|driver| !driver.native) {
        return None;
    }
    let what = "MTU for XDP";
    let attached = facts.run.as_ref().is_some_and(|run| run.xdp);
    let any_length = facts.driver.is_some_and(|driver| driver.frags);
    if attached || any_length || link.mtu <= XDP_MTU {
        return Some(scope.pass(what).detail(link.mtu));
    }
    let mend = format!("ip link set {} mtu {XDP_MTU}, or --mode tc", facts.name);
    let detail = format!(
        "{}: a frame does not fit one buffer of the driver",
        link.mtu
    );
    Some(if facts.mode == Mode::Xdp {
        scope.fail(what, mend).detail(detail)
    } else {
        scope.warn(what, mend).detail(detail + ", TC handles it")
    })
}

fn offloads(scope: &Scope, facts: &Facts, link: &Link, features: &Features) -> Vec<Check> {
    let name = &facts.name;
    let mut checks = vec![match (features.lro, facts.run.is_some()) {
        (false, _) => scope.pass("LRO"),
        (true, false) => scope.pass("LRO").detail("on; `up` switches it off"),
        (true, true) => scope
            .fail("LRO", format!("ethtool -K {name} lro off"))
            .detail("on: frames that the NIC merged are too long to be sent on"),
    }];
    let at_xdp = facts.run.as_ref().is_some_and(|run| run.xdp);
    if at_xdp && link.kind != LinkKind::Veth {
        checks.push(if features.rx_vlan {
            scope
                .fail("rxvlan", format!("ethtool -K {name} rxvlan off"))
                .detail("on: XDP does not see tags, and takes tagged frames for untagged ones")
        } else {
            scope.pass("rxvlan")
        });
    }
    let mut off = Vec::new();
    // A veth has it off as the kernel makes it, and its frames come merged all the same.
    if link.kind == LinkKind::Physical && !features.gro {
        off.push("gro");
    }
    if !features.tso {
        off.push("tso");
    }
    if !features.gso {
        off.push("gso");
    }
    checks.push(if off.is_empty() {
        scope.pass("GRO, TSO, GSO")
    } else {
        let switches: Vec<String> = off.iter().map(|feature| format!("{feature} on")).collect();
        scope
            .warn(
                "GRO, TSO, GSO",
                format!(
                    "ethtool -K {name} {}, where its driver has it",
                    switches.join(" ")
                ),
            )
            .detail(format_args!("{} off: bulk TCP costs more", off.join(", ")))
    });
    checks
}

/// Members of the switch device that are no ports.
#[must_use]
pub fn strangers(config: &Config, switch: &str, device: &Link, listed: &[Link]) -> Check {
    let scope = Scope::new(format!("port {switch}"));
    let what = "members that are no ports";
    let found: Vec<&str> = listed
        .iter()
        .filter(|link| link.master == Some(device.index) && config.port(&link.name).is_none())
        .map(|link| link.name.as_str())
        .collect();
    let Some(first) = found.first() else {
        return scope.pass(what);
    };
    let mend = format!(
        "vnet-user port add {first}, with --uplink for a NIC, or ip link set {first} nomaster"
    );
    let names = found.join(", ");
    if sync::is_closed(config) {
        scope.fail(what, mend).detail(format_args!(
            "{names}: the plain bridge serves them, without isolation"
        ))
    } else {
        scope
            .warn(what, mend)
            .detail(format_args!("{names}: the plain bridge serves them"))
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::Verdict::{self, Fail, Pass, Warn};
    use super::*;
    use crate::config::{MacAddr, Port};
    use crate::host::{
        BridgePortFlags,
        link::{BridgePort, BridgePortState, Xdp, XdpMode},
    };

    /// A NIC that is up.
    pub fn link(name: &str, index: u32) -> Link {
        Link {
            index,
            name: name.into(),
            mac: [2, 0, 0, 0, 1, index as u8],
            mtu: 1500,
            up: true,
            carrier: true,
            ethernet: true,
            kind: LinkKind::Physical,
            master: None,
            promiscuous: true,
            promiscuity: 1,
            peer_index: None,
            peer_nsid: None,
            xdp: None,
            num_rx_queues: 1,
            num_tx_queues: 1,
            bridge: None,
            bridge_port: None,
        }
    }

    fn features() -> Features {
        Features {
            rx_checksum: true,
            tx_checksum: true,
            scatter_gather: true,
            tso: true,
            gso: true,
            gro: true,
            gro_hardware: false,
            lro: false,
            rx_vlan: false,
            tx_vlan: true,
            rx_vlan_filter: true,
        }
    }

    fn driver() -> XdpFeatures {
        XdpFeatures {
            native: true,
            redirect: true,
            frags: false,
        }
    }

    /// An uplink outside the bridge, attached at TC and XDP.
    fn uplink() -> Facts {
        let mut nic = link("eth0", 2);
        nic.xdp = Some(Xdp {
            prog_id: 5,
            mode: XdpMode::Native,
        });
        Facts {
            name: "eth0".into(),
            role: Role::Uplink,
            link: Some(nic),
            up: true,
            device: Some(1),
            closed: true,
            run: Some(PortRun {
                ifindex: 2,
                xdp: true,
                ..PortRun::default()
            }),
            features: Some(features()),
            mode: Mode::Auto,
            plan: Some(Ok(XdpPlan::Attach { warning: None })),
            driver: Some(driver()),
        }
    }

    /// A VM's port in a switch that is closed.
    fn vm() -> Facts {
        let mut tap = link("tap0", 3);
        tap.kind = LinkKind::Tun;
        tap.master = Some(1);
        tap.bridge_port = Some(BridgePort {
            state: BridgePortState::Forwarding,
            flags: BridgePortFlags {
                isolated: true,
                flood: false,
                learning: false,
            },
        });
        Facts {
            name: "tap0".into(),
            role: Role::Vm,
            link: Some(tap),
            run: Some(PortRun {
                ifindex: 3,
                member: true,
                ..PortRun::default()
            }),
            plan: None,
            driver: None,
            ..uplink()
        }
    }

    fn with(mut facts: Facts, change: impl FnOnce(&mut Facts)) -> Facts {
        change(&mut facts);
        facts
    }

    fn nic(facts: &mut Facts) -> &mut Link {
        facts.link.as_mut().unwrap()
    }

    fn run(facts: &mut Facts) -> &mut PortRun {
        facts.run.as_mut().unwrap()
    }

    #[track_caller]
    fn verdict(facts: &Facts, what: &str) -> Option<Verdict> {
        let checks = judge(facts);
        let found = checks.iter().find(|check| check.what == what)?;
        assert_eq!(found.mend.is_none(), found.result == Pass, "{found}");
        Some(found.result)
    }

    #[test]
    fn good_ports_pass() {
        for facts in [uplink(), vm()] {
            let checks = judge(&facts);
            assert!(
                checks.iter().all(|check| check.result == Pass),
                "{checks:#?}"
            );
            assert!(checks.len() >= 2);
        }
    }

    #[test]
    fn interfaces() {
        let of = |facts: Facts| verdict(&facts, "interface").unwrap();
        let gone = |facts| with(facts, |facts| facts.link = None);
        assert_eq!(of(gone(vm())), Warn);
        assert_eq!(of(gone(uplink())), Fail);
        assert_eq!(
            of(with(gone(vm()), |facts| facts.role = Role::Device)),
            Fail
        );
        assert_eq!(judge(&gone(uplink())).len(), 1, "nothing else to look at");
        assert_eq!(of(with(vm(), |facts| facts.run = None)), Fail);
        assert_eq!(of(with(vm(), |facts| run(facts).ifindex = 9)), Fail);
        let down = with(vm(), |facts| {
            facts.up = false;
            facts.run = None;
        });
        assert_eq!(of(down), Pass);
        assert_eq!(of(with(vm(), |facts| nic(facts).up = false)), Warn);
        assert_eq!(of(with(uplink(), |facts| nic(facts).carrier = false)), Warn);
        assert_eq!(of(with(vm(), |facts| nic(facts).carrier = false)), Pass);
    }

    #[test]
    fn places_in_the_bridge() {
        let of = |facts: &Facts| verdict(facts, "place in the switch device");
        assert_eq!(of(&vm()), Some(Pass));
        assert_eq!(of(&uplink()), None);
        let left = with(vm(), |facts| nic(facts).master = None);
        assert_eq!(of(&left), Some(Warn));
        let open = |facts: &mut Facts| {
            let port = nic(facts).bridge_port.as_mut().unwrap();
            port.flags.isolated = false;
        };
        let mut opened = with(vm(), open);
        assert_eq!(of(&opened), Some(Fail));
        opened.closed = false;
        assert_eq!(of(&opened), Some(Pass));
    }

    #[test]
    fn nics_that_filter() {
        let quiet = with(uplink(), |facts| nic(facts).promiscuity = 0);
        assert_eq!(verdict(&quiet, "promiscuous mode"), Some(Fail));
        let member = with(quiet, |facts| run(facts).member = true);
        assert_eq!(verdict(&member, "promiscuous mode"), None);
    }

    /// An uplink whose program is not attached.
    fn without_xdp() -> Facts {
        with(uplink(), |facts| {
            nic(facts).xdp = None;
            run(facts).xdp = false;
        })
    }

    /// What `auto` and what `--mode xdp` make of it.
    fn both(facts: Facts, what: &str) -> [Option<Verdict>; 2] {
        [Mode::Auto, Mode::Xdp].map(|mode| {
            let facts = with(facts.clone(), |facts| facts.mode = mode);
            verdict(&facts, what)
        })
    }

    #[test]
    fn xdp() {
        let what = "native XDP";
        let taken_away = with(uplink(), |facts| nic(facts).xdp = None);
        assert_eq!(verdict(&taken_away, what), Some(Fail));
        let plan = |plan| with(without_xdp(), |facts| facts.plan = Some(plan));
        let without = plan(Ok(XdpPlan::Without {
            why: "mode tc".into(),
        }));
        assert_eq!(verdict(&without, what), Some(Pass));
        let refused = plan(Err(Error::new("using XDP on eth0", "its peer")));
        assert_eq!(verdict(&refused, what), Some(Fail));
        let warned = plan(Ok(XdpPlan::Attach {
            warning: Some("its peer".into()),
        }));
        assert_eq!(verdict(&warned, what), Some(Warn));
        let other = with(without_xdp(), |facts| {
            nic(facts).xdp = uplink().link.unwrap().xdp
        });
        assert_eq!(both(other, what), [Some(Warn), Some(Fail)]);
        let none = with(without_xdp(), |facts| {
            facts.driver = Some(XdpFeatures::default())
        });
        assert_eq!(both(none, what), [Some(Warn), Some(Fail)]);
        let failed = with(without_xdp(), |facts| {
            run(facts).note = "no XDP: EINVAL".into()
        });
        assert_eq!(both(failed, what), [Some(Warn), Some(Fail)]);
        let untold = with(without_xdp(), |facts| facts.driver = None);
        assert_eq!(both(untold, what), [Some(Pass), Some(Pass)]);
    }

    #[test]
    fn long_frames() {
        let what = "MTU for XDP";
        let jumbo = with(without_xdp(), |facts| nic(facts).mtu = 9000);
        assert_eq!(both(jumbo.clone(), what), [Some(Warn), Some(Fail)]);
        let frags = with(jumbo.clone(), |facts| {
            facts.driver.as_mut().unwrap().frags = true;
        });
        assert_eq!(both(frags, what), [Some(Pass), Some(Pass)]);
        let tc = with(jumbo, |facts| {
            facts.plan = Some(Ok(XdpPlan::Without {
                why: "mode tc".into(),
            }));
        });
        assert_eq!(verdict(&tc, what), None);
    }

    #[test]
    fn what_nics_do_by_themselves() {
        let on = |change: fn(&mut Features)| {
            with(uplink(), |facts| change(facts.features.as_mut().unwrap()))
        };
        let lro = on(|features| features.lro = true);
        assert_eq!(verdict(&lro, "LRO"), Some(Fail));
        let before_up = with(lro, |facts| {
            facts.up = false;
            facts.run = None;
        });
        assert_eq!(verdict(&before_up, "LRO"), Some(Pass));
        let stripping = on(|features| features.rx_vlan = true);
        assert_eq!(verdict(&stripping, "rxvlan"), Some(Fail));
        for slow in [
            on(|features| features.gro = false),
            on(|features| features.tso = false),
            on(|features| features.gso = false),
        ] {
            assert_eq!(verdict(&slow, "GRO, TSO, GSO"), Some(Warn));
        }
        let silent = with(uplink(), |facts| facts.features = None);
        assert_eq!(verdict(&silent, "offloads"), Some(Warn));
    }

    #[test]
    fn members_that_nobody_listed() {
        let device = link("vsw0", 1);
        let mut tap = link("tap9", 4);
        tap.master = Some(1);
        let listed = [device.clone(), tap];
        let of = |config: &Config| strangers(config, "vsw0", &device, &listed).result;
        let mut config = Config::default();
        assert_eq!(of(&config), Warn);
        config.mac_deny.push(MacAddr([2, 0, 0, 0, 0, 1]));
        assert_eq!(of(&config), Fail, "isolation is promised");
        config.ports.push(Port::new("tap9"));
        assert_eq!(of(&config), Pass);
    }
}
