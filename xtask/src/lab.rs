//! The lab: virtual machines on a switch and behind its NAT gateway, a physical host behind its
//! uplink, and traffic between them.
//!
//! Everything lives in network namespaces of its own: the machine's network is not touched. The
//! switch is configured by the commands that a user would type, each shown before it runs.

mod machine;

use std::{
    env, fs,
    io::{IsTerminal, stdin},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use xtask::{
    guest::Guest,
    netns::Netns,
    process::{output, quiet_within},
    setup,
};

use self::machine::{Kind, Machine, Subnet};
use crate::{
    build_cmd, interrupt, live,
    vnet_user::{Up, VnetUser},
};

/// Names of the lab's namespaces begin with this and our process id.
const PREFIX: &str = "vnetlab-";
const SWITCH: &str = "lab0";
const BPFFS: &str = "/sys/fs/bpf/vnet";
const UPLINK: &str = "uplink0";
const BLUE_VLAN: u16 = 10;

/// The physical network, which is the switch's network `default`.
const PHYSICAL: Subnet = Subnet {
    v4: "10.77.0",
    v6: "fd77",
    gateway: None,
};
/// The network `lan`: nobody outside has a route to it.
const PRIVATE: Subnet = Subnet {
    v4: "10.78.0",
    v6: "fd78",
    gateway: Some(1),
};
/// What the addresses of the host on the physical network end with.
const HOST: u8 = 254;

const PICTURE: &str = "
  phys  10.77.0.100 ── uplink0 ── [ lab0 ] ─┬─ tap1   vm1  10.77.0.1   network default
                          │                 ├─ tap2   vm2  10.77.0.2   network default
     host  10.77.0.254 ───┘                 ├─ veth3  vm3  10.77.0.3   network blue, VLAN 10
       its gateway into lan, 10.78.0.1 ─────┼─ tap4   vm4  10.78.0.4   network lan, private
                                            └─ veth5  vm5  10.78.0.5   network lan, private
";

/// Makes the lab, shows traffic through it, and keeps it until Ctrl-C unless `once`.
pub(crate) fn lab(once: bool) -> Result<()> {
    setup::require_root("making the lab's network namespaces")?;
    interrupt::catch();
    // The lab does without some of it; what it cannot do without, it misses by itself.
    if let Err(error) = setup::everything(setup::Report::Changes) {
        eprintln!("lab: going on without what setup could not get:\n{error:#}\n");
    }
    let binary = build_cmd::given_or_built()?;
    remove_leftovers(&binary);

    let lab = Lab::make(&binary)?;
    let mut shown = Shown {
        lab,
        checks: Checks::default(),
    };
    shown.traffic()?;
    shown.isolation()?;
    shown.gateway()?;
    shown.counters()?;
    let failed = shown.checks.failed;
    if !once && stdin().is_terminal() {
        shown.what_next();
        live::watch(&shown.lab.vnet, false)?;
    }
    println!("\n== Taking everything down");
    drop(shown);
    if failed > 0 {
        bail!("{failed} of the lab's checks failed; see the lines with FAILED above");
    }
    Ok(())
}

/// What the lab is made of. Fields are dropped in this order: the switch first.
struct Lab {
    /// Only for its end.
    _up: Up,
    vnet: VnetUser,
    vm1: Machine,
    vm2: Machine,
    vm3: Machine,
    vm4: Machine,
    vm5: Machine,
    phys: Machine,
    host: Netns,
    _config: ConfigDir,
}

impl Lab {
    fn make(binary: &Path) -> Result<Self> {
        let pid = std::process::id();
        let name = |what: &str| format!("{PREFIX}{pid}-{what}");
        let config = ConfigDir::new()?;
        let host = Netns::create(name("host"))?;

        let kind = match Guest::available() {
            Ok(()) => Kind::Qemu,
            Err(why) => {
                println!(
                    "No real virtual machines: {why:#}.\nNetwork namespaces stand in for them."
                );
                Kind::Namespace
            }
        };
        heading("The cast");
        println!("{}", PICTURE.trim_matches('\n'));
        println!(
            "vm1, vm2 and vm4 are {}, the others network namespaces.",
            match kind {
                Kind::Qemu => "QEMU guests (booting now)",
                Kind::Namespace => "network namespaces",
            }
        );
        // The guests boot while the switch is being configured.
        let make = |what: &str, port: &str, subnet: &Subnet, number: u8, kind: Kind| {
            Machine::make(kind, &host, &name(what), port, subnet, number)
        };
        let mut vm1 = make("vm1", "tap1", &PHYSICAL, 1, kind)?;
        let mut vm2 = make("vm2", "tap2", &PHYSICAL, 2, kind)?;
        let mut vm4 = make("vm4", "tap4", &PRIVATE, 4, kind)?;
        let vm3 = make("vm3", "veth3", &PHYSICAL, 3, Kind::Namespace)?;
        let vm5 = make("vm5", "veth5", &PRIVATE, 5, Kind::Namespace)?;
        let phys = make("phys", UPLINK, &PHYSICAL, 100, Kind::Namespace)?;
        // The host has its address where it always had it: on its network card.
        let (v4, v6) = (PHYSICAL.v4(HOST), PHYSICAL.v6(HOST));
        host.ip(&format!("addr add {v4}/24 dev {UPLINK}"))?;
        host.ip(&format!("addr add {v6}/64 dev {UPLINK} nodad"))?;

        let config_dir = config
            .0
            .to_str()
            .context("the temporary directory is not UTF-8")?;
        let globals = [
            "--netns",
            host.name(),
            "--config-dir",
            config_dir,
            "--switch",
            SWITCH,
        ];
        let vnet = VnetUser::new(binary, &globals);
        heading("The switch");
        println!("Here, `vnet-user` is short for\n  {}", vnet.typed());
        vnet.show(&format!("up --uplink {UPLINK}"))?;
        let up = Up(vnet.clone());
        let blue = format!("network add blue --vlan {BLUE_VLAN}");
        show_all(
            &vnet,
            &[
                &blue,
                "port add tap1",
                "port add tap2",
                "port add veth3 --network blue",
            ],
        )?;
        heading("A private network, its way out, and a way in");
        let (gateway4, gateway6) = (PRIVATE.v4(1), PRIVATE.v6(1));
        let (web, inside) = (PHYSICAL.v4(HOST), PRIVATE.v4(4));
        show_all(
            &vnet,
            &[
                &format!("network add lan --gateway {gateway4}/24 --gateway {gateway6}/64"),
                "port add tap4 --network lan",
                "port add veth5 --network lan",
                &format!("nat add masquerade --network lan --uplink {UPLINK}"),
                &format!("nat add dnat --proto tcp --listen {web}:8080 --to {inside}:80"),
                "status",
                "port list",
                "nat list",
            ],
        )?;

        for vm in [&mut vm1, &mut vm2, &mut vm4] {
            vm.wait_ready()?;
            interrupt::check()?;
        }
        Ok(Self {
            _up: up,
            vnet,
            vm1,
            vm2,
            vm3,
            vm4,
            vm5,
            phys,
            host,
            _config: config,
        })
    }
}

/// A lab and what its checks came to.
struct Shown {
    lab: Lab,
    checks: Checks,
}

/// How many promises did not hold.
#[derive(Default)]
struct Checks {
    failed: u32,
}

impl Checks {
    fn expect(&mut self, what: &str, good: bool) -> Result<()> {
        println!("  {} {what}", if good { "ok    " } else { "FAILED" });
        self.failed += u32::from(!good);
        interrupt::check()
    }
}

impl Shown {
    fn traffic(&mut self) -> Result<()> {
        heading("Traffic on the network default");
        let Self {
            lab:
                Lab {
                    vm1,
                    vm2,
                    phys,
                    host,
                    ..
                },
            checks,
        } = self;
        checks.expect("vm1 and vm2 reach each other", vm1.ping("10.77.0.2")?)?;
        checks.expect("over IPv6 as well", vm1.ping("fd77::2")?)?;
        checks.expect(
            "vm1 and the physical host behind the uplink",
            vm1.ping("10.77.0.100")?,
        )?;
        checks.expect("phys and vm2", phys.ping("10.77.0.2")?)?;
        println!("{}", prompt("host", "ping -c 3 10.77.0.1"));
        checks.expect(
            "the host the switch is on and vm1",
            host.sh(PING_HOST).is_ok(),
        )?;
        checks.expect(
            "phys reads the page that vm1 serves",
            phys.fetch("10.77.0.1")? == "This is vm1.",
        )?;
        checks.expect(
            "vm2 reads the page that phys serves",
            vm2.fetch("10.77.0.100")? == "This is phys.",
        )
    }

    /// vm3 has an address of the same subnet, and is on another network.
    fn isolation(&mut self) -> Result<()> {
        heading("The network blue is another one");
        let Self {
            lab: Lab { vm1, vm3, phys, .. },
            checks,
        } = self;
        checks.expect("vm3 does not reach vm1", !vm3.ping("10.77.0.1")?)?;
        checks.expect("vm1 does not reach vm3", !vm1.ping("10.77.0.3")?)?;
        let tagged = tag_on_the_wire(phys, vm3)?;
        checks.expect(
            &format!("vm3's frames leave by the uplink with tag {BLUE_VLAN}"),
            tagged,
        )?;
        Ok(())
    }

    /// The network `lan` has addresses that mean nothing outside.
    fn gateway(&mut self) -> Result<()> {
        heading("Out of the private network lan, and into it");
        let Self {
            lab:
                Lab {
                    vnet,
                    vm1,
                    vm4,
                    vm5,
                    phys,
                    ..
                },
            checks,
        } = self;
        checks.expect("vm4 and vm5 reach each other", vm4.ping("10.78.0.5")?)?;
        checks.expect("vm4 and its gateway", vm4.ping("10.78.0.1")?)?;
        checks.expect("vm4 and the physical host", vm4.ping("10.77.0.100")?)?;
        checks.expect("over IPv6 as well", vm4.ping("fd77::100")?)?;
        for (name, vm) in [("vm4", &mut *vm4), ("vm5", vm5)] {
            checks.expect(
                &format!("{name} reads the page that phys serves"),
                vm.fetch("10.77.0.100")? == "This is phys.",
            )?;
        }
        vnet.show("flow list")?;
        let sources = outer_sources(vnet)?;
        checks.expect(
            "outside, all of that came from the host's own addresses",
            !sources.is_empty()
                && sources
                    .iter()
                    .all(|source| [PHYSICAL.v4(HOST), PHYSICAL.v6(HOST)].contains(source)),
        )?;
        if let Some(netns) = phys.own_netns() {
            let route = format!("ip route add {}.0/24 via {}", PRIVATE.v4, PHYSICAL.v4(HOST));
            println!("{}", prompt("phys", &route));
            netns.sh(&route)?;
        }
        checks.expect(
            "phys does not reach vm4's own address, not even with a route to it",
            !phys.ping("10.78.0.4")?,
        )?;
        let web = format!("{}:8080", PHYSICAL.v4(HOST));
        for (name, from) in [
            ("phys", &mut *phys),
            ("vm1, on the physical network,", vm1),
            ("vm5, behind the gateway itself,", vm5),
        ] {
            checks.expect(
                &format!("{name} reads the page that vm4 serves, by the forward"),
                from.fetch(&web)? == "This is vm4.",
            )?;
        }
        vnet.show("nat list")
    }

    fn counters(&mut self) -> Result<()> {
        heading("What the switch learned and counted");
        self.lab.vnet.show("fdb list")?;
        self.lab.vnet.show("stats")?;
        dump("port_counters", 16);
        dump("bindings", 24);
        Ok(())
    }

    fn what_next(&self) {
        let Lab {
            vnet,
            vm3,
            phys,
            host,
            ..
        } = &self.lab;
        heading("What to try next, in another terminal");
        println!("  alias lab='{}'", vnet.typed());
        println!("  lab port set tap2 --network blue      # vm2 leaves vm1 and meets vm3");
        println!(
            "  nsenter --net=/run/netns/{} ping 10.77.0.2",
            vm3.netns(host)
        );
        println!("  lab port set tap2 --network default   # and back");
        println!("  lab fdb list; lab port list; lab events");
        println!(
            "  nsenter --net=/run/netns/{} curl http://10.77.0.1/",
            phys.netns(host)
        );
        println!(
            "  nsenter --net=/run/netns/{} tcpdump -eni {UPLINK}",
            host.name()
        );
        println!("  lab flow list; lab nat list; lab flow flush --vm tap4");
        println!("  lab nat add dnat --proto tcp --listen 10.77.0.254:8085 --to 10.78.0.5:80");
        println!(
            "  nsenter --net=/run/netns/{} curl http://10.77.0.254:8085/",
            phys.netns(host)
        );
        println!("\nCtrl-C takes everything down. The counters meanwhile:\n");
    }
}

const PING_HOST: &str = "ping -c 3 -i 0.2 -W 2 10.77.0.1";

/// Whether a frame of vm3 arrives at the physical host with its network's VLAN tag.
fn tag_on_the_wire(phys: &mut Machine, vm3: &mut Machine) -> Result<bool> {
    let Some(netns) = phys.own_netns() else {
        return Ok(false);
    };
    let filter = format!("vlan {BLUE_VLAN}");
    println!(
        "{}",
        prompt("phys", &format!("tcpdump -nec 1 -i eth0 {filter}"))
    );
    let mut command = netns.command("timeout")?;
    command.args(["10", "tcpdump", "-nlec", "1", "-i", "eth0", &filter]);
    let sniffer = std::thread::spawn(move || output(&mut command));
    // vm3 asks for somebody who is not there, until the frame has been seen.
    for _ in 0..5 {
        let _ = vm3.ping_once("10.77.0.99")?;
        if sniffer.is_finished() {
            break;
        }
    }
    match sniffer.join() {
        Ok(Ok(text)) => {
            println!("{}", text.trim_end());
            Ok(!text.trim().is_empty())
        }
        _ => Ok(false),
    }
}

/// Shows the first lines of what bpftool says of a pinned map.
fn dump(name: &str, lines: usize) {
    let Some(map) = pinned_map(name) else {
        println!("(no pinned map {name} under {BPFFS}/{SWITCH})");
        return;
    };
    println!("$ bpftool map dump pinned {}", map.display());
    let dump = output(
        Command::new("bpftool")
            .args(["map", "dump", "pinned"])
            .arg(&map),
    );
    match dump {
        Ok(text) => {
            let lines: Vec<_> = text.lines().take(lines).collect();
            println!("{}\n…", lines.join("\n"));
        }
        Err(error) => println!("(bpftool cannot: {error:#})"),
    }
}

/// Runs commands one after the other, unless it is time to end.
fn show_all(vnet: &VnetUser, commands: &[&str]) -> Result<()> {
    for words in commands {
        interrupt::check()?;
        vnet.show(words)?;
    }
    Ok(())
}

/// What the sources of the connections out of the private network are seen as outside.
fn outer_sources(vnet: &VnetUser) -> Result<Vec<String>> {
    #[derive(Deserialize)]
    struct List {
        flows: Vec<Flow>,
    }
    #[derive(Deserialize)]
    struct Flow {
        vm: Option<String>,
        dst: String,
        nat_src: String,
    }
    let text = output(&mut vnet.command(["flow", "list", "-j"])).context("listing connections")?;
    let list: List = serde_json::from_str(&text)
        .context("listing connections: `flow list -j` printed no such JSON")?;
    let outward = list.flows.into_iter().filter(|flow| {
        let own = [PRIVATE.v4, PRIVATE.v6];
        flow.vm.is_some() && !own.iter().any(|own| flow.dst.starts_with(own))
    });
    Ok(outward.map(|flow| flow.nat_src).collect())
}

/// The map of that name under the lab's pins, whatever the schema's version.
fn pinned_map(name: &str) -> Option<PathBuf> {
    let versions = fs::read_dir(Path::new(BPFFS).join(SWITCH)).ok()?;
    versions
        .flatten()
        .map(|version| version.path().join(name))
        .find(|map| map.exists())
}

/// Takes away what a lab left that was killed: namespaces whose process is gone, and the switch.
fn remove_leftovers(binary: &Path) {
    let Ok(entries) = fs::read_dir("/run/netns") else {
        return;
    };
    for name in entries
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
    {
        let Some((pid, what)) = name
            .strip_prefix(PREFIX)
            .and_then(|rest| rest.split_once('-'))
        else {
            continue;
        };
        if pid.parse::<u32>().is_err() || Path::new("/proc").join(pid).exists() {
            continue;
        }
        println!("lab: removing {name}, left by a lab that was killed");
        if what == "host" {
            let config = ConfigDir(ConfigDir::of(pid));
            let dir = config.0.to_string_lossy();
            let globals = ["--netns", &name, "--config-dir", &dir, "--switch", SWITCH];
            let mut down = VnetUser::new(binary, &globals).command(["down"]);
            let _ = quiet_within(&mut down, Duration::from_secs(20));
        }
        let _ = output(Command::new("ip").args(["netns", "del", &name]));
    }
}

/// The lab's own place for the switch's document.
struct ConfigDir(PathBuf);

impl ConfigDir {
    fn of(pid: &str) -> PathBuf {
        env::temp_dir().join(format!("{PREFIX}{pid}"))
    }

    fn new() -> Result<Self> {
        let dir = Self::of(&std::process::id().to_string());
        fs::create_dir(&dir).with_context(|| format!("making the directory {}", dir.display()))?;
        Ok(Self(dir))
    }
}

impl Drop for ConfigDir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn heading(text: &str) {
    println!("\n== {text}");
}

/// A command as typed on one of the lab's machines.
fn prompt(machine: &str, command: &str) -> String {
    format!("{machine}# {command}")
}
