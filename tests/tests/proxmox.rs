//! A host as Proxmox VE sets it up: a bridge that has the NIC and the host's addresses, VMs' taps that
//! its scripts put into it, and for a VM with its firewall a bridge between tap and bridge. The switch
//! adopts the bridge and gives it back.

use std::{fs, sync::Arc, time::Duration};

use serde_json::Value;
use vnet_tests::{
    host::{Addresses, Host, Mac, Station},
    traffic::{is_cut_off, reaches},
    wait,
};
use xtask::guest::Guest;

/// How long a guest may take to boot; it is emulated.
const BOOT_LIMIT: Duration = Duration::from_secs(120);

/// The NIC, and VMs by their number; the firewall's end has an address of its own, so that the VM is
/// known by its name.
const DOCUMENT: &str = r#"
schema = 1

[[network]]
name = "web"
vlan = 10

[[port]]
name = "up0"
uplink = true

[[profile]]
name = "web-server"
match = { name = "tap102i*" }
network = "web"

[[profile]]
name = "firewalled"
match = { name = "fwpr101p*" }
mac = ["52:54:00:00:00:02"]
"#;

/// A Proxmox host: its bridge has the name of the switch.
struct Proxmox {
    phys: Arc<Station>,
    device: Addresses,
    bridge: String,
    host: Host,
}

impl Proxmox {
    /// As ifupdown2 makes it of /etc/network/interfaces: the bridge has the address of its first
    /// port.
    fn new() -> Self {
        let host = Host::new();
        let bridge = host.switch().to_owned();
        host.foreign_bridge(&bridge);
        let phys = host.phys();
        let mac = host.interface("up0").mac;
        host.ip(&format!(
            "link add {bridge} address {mac} type bridge stp_state 0 forward_delay 0"
        ));
        host.ip(&format!("link set up0 master {bridge}"));
        host.ip(&format!("link set {bridge} up"));
        let device = host.device_ip();
        fs::create_dir_all(host.config_dir()).unwrap();
        fs::write(host.document(), DOCUMENT).unwrap();
        Self {
            phys,
            device,
            bridge,
            host,
        }
    }

    /// A machine in the place of a VM. Its end of the cable is named by who plugs it in: a script does
    /// all of that at once.
    fn machine(&self, number: u8) -> Arc<Station> {
        self.host.vm(number)
    }

    /// What its scripts do for a tap without the firewall (PVE::Network, `tap_plug`); `made` is what
    /// the tap was called before.
    fn plug(&self, made: &str, tap: &str) {
        self.batch(&[
            format!("link set {made} down"),
            format!("link set {made} name {tap}"),
            format!("link set {tap} promisc on up"),
            format!("link set {tap} master {}", self.bridge),
        ]);
    }

    /// What they do for one with the firewall: a bridge of its own, and a cable to the other one
    /// (`create_firewall_bridge_linux`).
    fn plug_behind_firewall(&self, vm: u32, made: &str, tap: &str) {
        let (inner, link, peer) = firewall(vm);
        self.batch(&[
            format!("link set {made} down"),
            format!("link set {made} name {tap}"),
            format!("link set {tap} promisc on up"),
            format!("link add {inner} type bridge forward_delay 0"),
            format!("link set {inner} up"),
            format!("link add {link} type veth peer name {peer}"),
            format!("link set {peer} up"),
            format!("link set {link} up"),
            format!("link set {peer} master {}", self.bridge),
            format!("link set {link} master {inner}"),
            format!("link set {tap} master {inner}"),
        ]);
        self.host.foreign_bridge(&inner);
    }

    /// Runs `ip` once for all of `lines`: a busy machine makes no pauses between them that no script
    /// makes.
    fn batch(&self, lines: &[String]) {
        let lines = lines.join("\n");
        self.host.sh(&format!("ip -batch - <<END\n{lines}\nEND"));
    }

    /// What they do when the VM is gone (`tap_unplug`).
    fn unplug_firewall(&self, vm: u32) {
        let (inner, link, _) = firewall(vm);
        self.host.ip(&format!("link del {link}"));
        self.host.ip(&format!("link del {inner}"));
    }

    /// The guest `vmN`, at a tap called `tap` that is plugged in.
    fn boot(&self, number: u8, tap: &str) -> Guest {
        let mut config = self.host.guest_config(number);
        // First: QEMU opens its tap in its own time, and by name.
        self.plug(&config.tap, tap);
        tap.clone_into(&mut config.tap);
        self.host.boot(config)
    }

    fn row(&self, port: &str) -> Option<Value> {
        let rows = self.host.rows("port list", "ports");
        rows.into_iter().find(|row| row["name"] == port)
    }

    #[track_caller]
    fn wait_attached(&self, port: &str) -> Value {
        wait::value(&format!("{port} is a port"), || {
            self.row(port).filter(|row| row["state"] == "attached")
        })
    }

    #[track_caller]
    fn wait_gone(&self, port: &str) {
        wait::until(&format!("{port} is no port"), || self.row(port).is_none());
    }

    /// Everything that the kernel tells of the interfaces and their addresses, but for what goes on
    /// by itself.
    fn facts(&self) -> String {
        let facts = ["-d -j link show", "-j addr show"].map(|line| {
            let mut facts = serde_json::from_str(&self.host.ip(line)).unwrap();
            forget_clocks(&mut facts);
            facts
        });
        serde_json::to_string_pretty(&facts).unwrap()
    }

    /// Where frames go, for who finds out why some did not.
    fn whereabouts(&self) -> String {
        let of_vnet = ["port list", "fdb list", "stats"].map(|line| self.host.vnet(line).stdout);
        let of_kernel = ["-d link show", "neigh show"].map(|line| self.host.ip(line));
        let of_phys = self.phys.ip("neigh show");
        [&of_vnet.join("\n"), &of_kernel.join("\n"), &of_phys]
            .map(String::as_str)
            .join("\nphys: ")
    }

    /// Whether the machines whose addresses end with `numbers`, the host and the physical host reach
    /// each other.
    #[track_caller]
    fn everybody_meets(&self, numbers: &[u8]) {
        for number in numbers {
            for address in Addresses::new(*number).both() {
                let is_there = reaches(self.phys.netns(), address);
                assert!(is_there, "{address} from phys\n{}", self.whereabouts());
                assert!(reaches(self.host.netns(), address), "{address} from host");
            }
        }
        for address in self.device.both() {
            assert!(reaches(self.phys.netns(), address), "host from phys");
        }
    }
}

impl Drop for Proxmox {
    fn drop(&mut self) {
        // Its scripts set it, and the tap goes with it; nothing else may be promiscuous at the end.
        for name in self.host.interfaces().keys() {
            if name.starts_with("tap") {
                let _ = self
                    .host
                    .netns()
                    .ip(&format!("link set {name} promisc off"));
            }
        }
    }
}

/// The names for a VM's first card: the bridge between, and the ends of the cable in it and in the
/// bridge outside.
fn firewall(vm: u32) -> (String, String, String) {
    (
        format!("fwbr{vm}i0"),
        format!("fwln{vm}i0"),
        format!("fwpr{vm}p0"),
    )
}

/// Takes out of what `ip` tells: timers, how far and how long addresses are valid, and the state that
/// the kernel works out from the flags, a second later perhaps.
fn forget_clocks(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|key, _| {
                !key.ends_with("_timer")
                    && !key.ends_with("_life_time")
                    && key != "tentative"
                    && key != "operstate"
            });
            fields.values_mut().for_each(forget_clocks);
        }
        Value::Array(items) => items.iter_mut().for_each(forget_clocks),
        _ => {}
    }
}

#[track_caller]
fn assert_same(before: &str, now: &str) {
    let lines = before.lines().zip(now.lines());
    let differ: Vec<_> = lines.filter(|(before, now)| before != now).collect();
    assert_eq!(differ, []);
    assert_eq!(before.lines().count(), now.lines().count());
}

#[test]
fn a_bridge_of_proxmox_is_given_back_unharmed() {
    let proxmox = Proxmox::new();
    let host = &proxmox.host;
    let plain = proxmox.machine(1);
    proxmox.plug(plain.port(), "tap100i0");
    let firewalled = proxmox.machine(2);
    proxmox.plug_behind_firewall(101, firewalled.port(), "tap101i0");
    proxmox.everybody_meets(&[1, 2]);
    let before = proxmox.facts();

    // Everything is there when the daemon comes.
    let daemon = host.daemon();
    for port in ["up0", "tap100i0", "fwpr101p0"] {
        proxmox.wait_attached(port);
    }
    assert_eq!(host.status()["device"], "adopted");
    assert_eq!(host.port_status("up0")["member"], true);
    for other in ["tap101i0", "fwln101i0", "fwbr101i0"] {
        assert_eq!(proxmox.row(other), None, "{other} is the firewall's");
    }
    proxmox.everybody_meets(&[1, 2]);
    daemon.stop();
    host.vnet("down");
    assert_same(&before, &proxmox.facts());
    proxmox.everybody_meets(&[1, 2]);

    // And by hand, with nothing but the NIC listed: the VMs are members that no one has adopted.
    host.vnet("up --uplink up0");
    host.vnet("port add tap100i0");
    host.vnet("port add fwpr101p0");
    proxmox.everybody_meets(&[1, 2]);
    host.vnet("down");
    assert_same(&before, &proxmox.facts());
    proxmox.everybody_meets(&[1, 2]);
    proxmox.unplug_firewall(101);
}

#[test]
fn the_vms_of_proxmox_are_ports() {
    let proxmox = Proxmox::new();
    let host = &proxmox.host;
    let mut guest = proxmox.boot(1, "tap100i0");
    let daemon = host.daemon();
    assert_eq!(proxmox.wait_attached("tap100i0")["kind"], "vm");

    // With the firewall: what comes out of it is known by the VM's number.
    let firewalled = proxmox.machine(2);
    proxmox.plug_behind_firewall(101, firewalled.port(), "tap101i0");
    let row = proxmox.wait_attached("fwpr101p0");
    assert_eq!(row["kind"], "vm");
    assert_eq!(row["macs"][0], Mac::of(2).to_string());
    // On a network of its own, and put into the bridge by Proxmox.
    let web = proxmox.machine(3);
    proxmox.plug(web.port(), "tap102i0");
    let row = proxmox.wait_attached("tap102i0");
    assert_eq!(row["networks"][0]["network"], "web");

    guest.wait_ready(BOOT_LIMIT).unwrap();
    proxmox.everybody_meets(&[1, 2]);
    let address = Addresses::new(1).v4();
    assert!(reaches(firewalled.netns(), address));
    let page = proxmox
        .phys
        .sh(&format!("curl -gsS -m 20 http://{address}/"));
    assert_eq!(page, "This is vm1.\n");
    assert!(is_cut_off(web.netns(), address));
    assert!(is_cut_off(web.netns(), proxmox.phys.addresses().v4()));
    proxmox.phys.ip("neigh flush all");
    firewalled.ip(&format!(
        "link set {} address 52:54:00:00:00:77",
        Station::NIC
    ));
    assert!(is_cut_off(firewalled.netns(), address));
    assert!(host.drops("fwpr101p0", "mac_not_allowed") > 0);
    firewalled.ip(&format!("link set {} address {}", Station::NIC, Mac::of(2)));
    assert!(reaches(firewalled.netns(), address));

    // It stops and starts again, as any VM does.
    let before = proxmox.row("tap100i0");
    drop(guest);
    host.ip("link del tap100i0");
    proxmox.wait_gone("tap100i0");
    let mut guest = proxmox.boot(1, "tap100i0");
    assert_eq!(Some(proxmox.wait_attached("tap100i0")), before);
    guest.wait_ready(BOOT_LIMIT).unwrap();
    proxmox.everybody_meets(&[1, 2]);
    host.ip("link del tap101i0");
    proxmox.unplug_firewall(101);
    proxmox.wait_gone("fwpr101p0");
    // The VM that runs stays in its bridge, and so does the one that a profile is for.
    daemon.stop();
    host.vnet("down");
    for port in ["tap100i0", "tap102i0", "up0"] {
        let master = host.interface(port).master;
        assert_eq!(master.as_deref(), Some(&*proxmox.bridge), "{port}");
    }
    proxmox.everybody_meets(&[1, 3]);
}
