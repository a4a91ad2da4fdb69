//! The machines of the lab: QEMU guests, or network namespaces that stand in for them.

use std::time::Duration;

use anyhow::{Context, Result};
use xtask::{
    guest::{Guest, GuestConfig, Output},
    netns::Netns,
};

use super::prompt;
use crate::page::Page;

/// How long the guests may take to boot; they are emulated.
const BOOT_LIMIT: Duration = Duration::from_secs(120);

/// Where a machine's addresses are from.
#[derive(Debug, Clone, Copy)]
pub(super) struct Subnet {
    /// The first three numbers of its IPv4 addresses.
    pub(super) v4: &'static str,
    /// The first word of its IPv6 addresses.
    pub(super) v6: &'static str,
    /// The last number of its gateway's addresses, when it has one.
    pub(super) gateway: Option<u8>,
}

impl Subnet {
    /// Its IPv4 address that ends with `number`.
    pub(super) fn v4(&self, number: u8) -> String {
        format!("{}.{number}", self.v4)
    }

    /// Its IPv6 address that ends with `number`, which is read as hexadecimal.
    pub(super) fn v6(&self, number: u8) -> String {
        format!("{}::{number}", self.v6)
    }
}

/// What a machine is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A virtual machine on a tap.
    Qemu,
    /// A network namespace on a veth pair.
    Namespace,
}

/// A machine with a name, an address and a page that it serves.
pub(super) struct Machine {
    name: String,
    body: Body,
}

enum Body {
    Guest(Box<Guest>),
    /// Fields are dropped in this order: the page's socket would keep the namespace.
    Namespace {
        _page: Page,
        netns: Netns,
    },
}

impl Machine {
    /// Makes a machine whose port in the namespace `host` is `port` and whose addresses are those of
    /// `subnet` that end with `number`. `netns` is the name of its own namespace, if it is one; what
    /// is behind the last dash is the machine's name.
    pub(super) fn make(
        kind: Kind,
        host: &Netns,
        netns: &str,
        port: &str,
        subnet: &Subnet,
        number: u8,
    ) -> Result<Self> {
        let name = netns.rsplit('-').next().unwrap_or(netns).to_owned();
        let ipv4 = format!("{}/24", subnet.v4(number));
        let ipv6 = format!("{}/64", subnet.v6(number));
        let gateways = subnet
            .gateway
            .map(|number| [subnet.v4(number), subnet.v6(number)]);
        let mac = format!("52:54:00:77:00:{number:02x}");
        let body = match kind {
            Kind::Qemu => {
                host.ip(&format!("tuntap add {port} mode tap"))?;
                host.ip(&format!("link set {port} up"))?;
                let mut config = GuestConfig::new(&name, port, &mac);
                config.ipv4 = Some(ipv4);
                config.ipv6 = Some(ipv6);
                config.netns = Some(host.name().to_owned());
                if let Some([v4, v6]) = &gateways {
                    config.gateway4 = v4.parse().ok();
                    config.gateway6 = v6.parse().ok();
                }
                Body::Guest(Box::new(Guest::boot(config)?))
            }
            Kind::Namespace => {
                let own = Netns::create(netns)?;
                host.ip(&format!(
                    "link add {port} type veth peer name eth0 netns {netns}"
                ))?;
                host.ip(&format!("link set {port} up"))?;
                own.ip(&format!("link set eth0 address {mac} up"))?;
                own.ip(&format!("addr add {ipv4} dev eth0"))?;
                own.ip(&format!("addr add {ipv6} dev eth0 nodad"))?;
                for gateway in gateways.iter().flatten() {
                    own.ip(&format!("route add default via {gateway}"))?;
                }
                let page = Page::serve(netns, &format!("This is {name}.\n"))?;
                Body::Namespace {
                    _page: page,
                    netns: own,
                }
            }
        };
        Ok(Self { name, body })
    }

    pub(super) fn wait_ready(&mut self) -> Result<()> {
        match &mut self.body {
            Body::Guest(guest) => guest.wait_ready(BOOT_LIMIT),
            Body::Namespace { .. } => Ok(()),
        }
    }

    /// Its namespace, if it is one.
    pub(super) fn own_netns(&self) -> Option<&Netns> {
        match &self.body {
            Body::Guest(_) => None,
            Body::Namespace { netns, .. } => Some(netns),
        }
    }

    /// The name of the namespace that its network card or its tap is in.
    pub(super) fn netns<'a>(&'a self, host: &'a Netns) -> &'a str {
        self.own_netns().unwrap_or(host).name()
    }

    /// Three pings; whether an answer came. Prints the command and its last lines.
    pub(super) fn ping(&mut self, address: &str) -> Result<bool> {
        println!("{}", prompt(&self.name, &format!("ping -c 3 {address}")));
        let done = self.run(&format!("ping -c 3 -W 2 {address}"))?;
        let summary = done
            .stdout
            .lines()
            .rfind(|line| line.contains("packet loss"));
        println!("{}", summary.unwrap_or_else(|| done.stdout.trim()));
        Ok(done.status == 0)
    }

    /// One ping, silently.
    pub(super) fn ping_once(&mut self, address: &str) -> Result<bool> {
        Ok(self.run(&format!("ping -c 1 -W 1 {address}"))?.status == 0)
    }

    /// The page at `address`, without its last line end.
    pub(super) fn fetch(&mut self, address: &str) -> Result<String> {
        let command = match &self.body {
            // Not wget's own -T: with it, Debian's static busybox 1.35 crashes.
            Body::Guest(_) => format!("timeout 10 wget -q -O - http://{address}/"),
            Body::Namespace { .. } => format!("curl -sS -m 10 http://{address}/"),
        };
        println!("{}", prompt(&self.name, &command));
        let page = self.run(&command)?.stdout.trim_end().to_owned();
        println!("{page}");
        Ok(page)
    }

    fn run(&mut self, command: &str) -> Result<Output> {
        match &mut self.body {
            Body::Guest(guest) => guest.run(command),
            Body::Namespace { netns, .. } => {
                let done = netns
                    .command("sh")?
                    .args(["-c", &format!("exec 2>&1; {command}")])
                    .output()
                    .with_context(|| format!("running `{command}` on {}", self.name))?;
                Ok(Output {
                    status: done.status.code().unwrap_or(-1),
                    stdout: String::from_utf8_lossy(&done.stdout).into_owned(),
                })
            }
        }
    }
}
