//! The host around a switch under test: addresses, routes and neighbours in the test's network
//! namespace, so that `bpf_fib_lookup` answers, and sockets for the lookups of those.

use std::{
    fs,
    net::{TcpListener, UdpSocket},
    path::Path,
    process::Command,
};

use anyhow::{Context as _, Result, ensure};
use vnet_user::{gateway::switch_ports, host::sysctl};

use crate::{
    setup::{SWITCH, Setup},
    world::{Fact, Line},
};

/// What the test has open.
enum Socket {
    Udp(#[expect(dead_code, reason = "it is there to be found")] UdpSocket),
    Tcp(#[expect(dead_code, reason = "it is there to be found")] TcpListener),
}

/// What was made; the rest goes with the namespace.
pub(super) struct Host {
    sockets: Vec<(Fact, Socket)>,
}

impl Host {
    /// Makes the calling thread's network namespace what the setup says.
    pub(super) fn new(setup: &Setup) -> Result<Self> {
        let mut host = Self {
            sockets: Vec::new(),
        };
        let gateways: Vec<String> = switch_ports(&setup.config, SWITCH)
            .into_iter()
            .filter(|port| port.gateway.is_some())
            .map(|port| port.port.name)
            .collect();
        for fact in setup.routing.facts() {
            if let Fact::Address(net, dev) = fact
                && net.addr().is_ipv6()
            {
                quiet_v6(dev)?;
            }
        }
        // What a frame that the switch leaves to the host makes it say is no frame of the test's.
        for (name, _) in setup
            .devices
            .iter()
            .filter(|_| !setup.routing.facts().is_empty())
        {
            sysctl::set(&sysctl::ipv4_conf(name, "arp_ignore")?, "8")?;
        }
        for name in &gateways {
            sysctl::set(&sysctl::ipv4_conf(name, "forwarding")?, "1")?;
            let v6 = sysctl::ipv6_conf(name, "forwarding")?;
            if v6.exists() {
                sysctl::set(&v6, "1")?;
            }
        }
        // What is linked to the host itself first.
        let (near, far): (Vec<&Fact>, Vec<&Fact>) = setup
            .routing
            .facts()
            .iter()
            .partition(|fact| matches!(fact, Fact::Address(..)));
        for fact in near.into_iter().chain(far) {
            host.change(&Line {
                add: true,
                fact: fact.clone(),
            })?;
        }
        Ok(host)
    }

    /// Makes it so, or no longer.
    pub(super) fn change(&mut self, line: &Line) -> Result<()> {
        let verb = if line.add { "add" } else { "del" };
        let words = match &line.fact {
            Fact::Address(net, dev) => {
                let nodad = if net.addr().is_ipv6() && line.add {
                    " nodad"
                } else {
                    ""
                };
                format!("address {verb} {net} dev {dev}{nodad}")
            }
            Fact::Route(net, Some(via), dev) => format!("route {verb} {net} via {via} dev {dev}"),
            Fact::Route(net, None, dev) => format!("route {verb} {net} dev {dev}"),
            Fact::Neighbour(ip, mac, dev) => {
                let mac: Vec<String> = mac.iter().map(|byte| format!("{byte:02x}")).collect();
                let mac = mac.join(":");
                format!("neigh {verb} {ip} lladdr {mac} dev {dev} nud permanent")
            }
            Fact::Connected(at, to) => {
                if !line.add {
                    self.sockets.retain(|(fact, _)| *fact != line.fact);
                    return Ok(());
                }
                let socket = UdpSocket::bind(at).context("opening a socket")?;
                socket.connect(to).context("connecting a socket")?;
                self.sockets.push((line.fact.clone(), Socket::Udp(socket)));
                return Ok(());
            }
            Fact::Socket(proto, at) => {
                if !line.add {
                    self.sockets.retain(|(fact, _)| *fact != line.fact);
                    return Ok(());
                }
                let socket = match proto {
                    17 => Socket::Udp(UdpSocket::bind(at).context("opening a socket")?),
                    _ => Socket::Tcp(TcpListener::bind(at).context("opening a socket")?),
                };
                self.sockets.push((line.fact.clone(), socket));
                return Ok(());
            }
        };
        let output = Command::new("ip")
            .args(words.split(' '))
            .output()
            .context("running ip")?;
        ensure!(
            output.status.success(),
            "ip {words}: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
        Ok(())
    }
}

/// Has an interface take IPv6 addresses, and say nothing of its own: no address but ours, no
/// question whether it is taken, no solicitation.
fn quiet_v6(name: &str) -> Result<()> {
    for (key, value) in [
        ("addr_gen_mode", "1"),
        ("accept_dad", "0"),
        ("accept_ra", "0"),
        ("router_solicitations", "0"),
        ("disable_ipv6", "0"),
    ] {
        let path = sysctl::ipv6_conf(name, key)?;
        ensure!(Path::new(&path).exists(), "this kernel is without IPv6");
        fs::write(&path, value).with_context(|| format!("setting {key} of {name}"))?;
    }
    Ok(())
}
