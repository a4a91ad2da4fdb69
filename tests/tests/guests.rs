//! Real virtual machines: two QEMU guests on taps of one switch, with every offload that virtio-net
//! has, and a physical host behind the uplink.
//!
//! One boot serves all of it; each step leaves the switch as it found it. Without QEMU or the image
//! that `cargo xtask setup` makes, these tests fail.

use std::{
    fs,
    io::Write as _,
    net::{IpAddr, TcpListener},
    process::Command,
    sync::Arc,
    thread,
    time::Duration,
};

use vnet_tests::{
    host::{Addresses, Host, Mac, Station},
    traffic::reaches,
    wait,
    wire::{Heard, PacketSocket, Wire as _},
};
use xtask::{guest::Guest, netns, process::output};

/// How long the guests may take to boot; they are emulated.
const BOOT_LIMIT: Duration = Duration::from_secs(120);

/// What is sent to see whether content survives: enough for segmentation offload to grow.
const BULK: usize = 12 << 20;

/// The longest frame with an MTU of 1500.
const FRAME: usize = 1514;

/// The second guest's address.
const TWO: Mac = Mac::of(2);

/// The network `blue`'s VLAN.
const BLUE: u16 = 10;

/// Two guests, the host of their switch, and a physical host behind `up0`.
struct Site {
    /// Ended before the host is.
    guests: [Guest; 2],
    phys: Arc<Station>,
    device: Addresses,
    host: Host,
}

impl Site {
    /// The guests boot while the switch is being configured.
    fn new() -> Self {
        let host = Host::new();
        let mut guests = [1, 2].map(|number| host.boot(host.guest_config(number)));
        let phys = host.phys();
        host.vnet("up --uplink up0");
        host.vnet(&format!("network add blue --vlan {BLUE}"));
        for guest in &guests {
            host.vnet(&format!("port add {}", guest.config().tap));
        }
        let device = host.device_ip();
        for guest in &mut guests {
            guest.wait_ready(BOOT_LIMIT).unwrap();
        }
        Self {
            guests,
            phys,
            device,
            host,
        }
    }
}

/// A guest's addresses, by its place in [`Site::guests`].
const fn addresses(place: usize) -> Addresses {
    Addresses::new(place as u8 + 1)
}

/// An address as a URL has it.
fn in_url(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => format!("[{address}]"),
    }
}

/// Whether a ping of the guest is answered.
fn guest_reaches(guest: &mut Guest, to: IpAddr) -> bool {
    let done = guest.run(&format!("ping -c 1 -W 5 {to}")).unwrap();
    done.success()
}

/// Whether none of a guest's pings is answered.
fn guest_is_cut_off(guest: &mut Guest, to: IpAddr) -> bool {
    let done = guest.run(&format!("ping -c 3 -i 0.2 -W 1 {to}")).unwrap();
    !done.success()
}

#[test]
fn real_guests_on_the_switch() {
    let mut site = Site::new();
    offloads_are_on(&mut site);
    everybody_reaches_everybody(&mut site);
    pages_are_read(&mut site);
    bulk_arrives_unchanged(&mut site);
    a_network_isolates_and_tags(&mut site);
    a_guest_reboots(&mut site);
    // Nothing of all that was to be dropped: what is on another network has no way to go, and is
    // no drop.
    assert_eq!(site.host.all_drops(), Vec::<String>::new());
}

/// The bits of the virtio specification (5.1.3) that driver and device agreed on.
fn offloads_are_on(site: &mut Site) {
    for guest in &mut site.guests {
        let bits = guest.check("cat /sys/class/net/eth0/device/features");
        let bits = bits.unwrap();
        for (name, bit) in [
            ("VIRTIO_NET_F_CSUM", 0),
            ("VIRTIO_NET_F_GUEST_CSUM", 1),
            ("VIRTIO_NET_F_GUEST_TSO4", 7),
            ("VIRTIO_NET_F_GUEST_TSO6", 8),
            ("VIRTIO_NET_F_HOST_TSO4", 11),
            ("VIRTIO_NET_F_HOST_TSO6", 12),
        ] {
            assert_eq!(bits.as_bytes()[bit], b'1', "{name} is off: {bits}");
        }
    }
}

fn everybody_reaches_everybody(site: &mut Site) {
    for place in 0..2 {
        let guest = &mut site.guests[place];
        for peer in [addresses(1 - place), site.phys.addresses(), site.device] {
            for address in peer.both() {
                assert!(guest_reaches(guest, address), "guest {place} to {address}");
            }
        }
        for netns in [site.phys.netns(), site.host.netns()] {
            for address in addresses(place).both() {
                assert!(reaches(netns, address), "{} to {address}", netns.name());
            }
        }
        let port = site.host.whereabouts(Mac::of(place as u8 + 1), "default");
        assert_eq!(port.as_deref(), Some(&*site.guests[place].config().tap));
    }
}

fn pages_are_read(site: &mut Site) {
    let [one, two] = &mut site.guests;
    for address in addresses(1).both() {
        let url = in_url(address);
        let page = one.check(&format!("timeout 20 wget -q -O - http://{url}/"));
        assert_eq!(page.unwrap(), "This is vm2.\n");
    }
    for (place, page) in ["This is vm1.\n", "This is vm2.\n"].into_iter().enumerate() {
        for address in addresses(place).both() {
            let url = in_url(address);
            let got = site.phys.sh(&format!("curl -gsS -m 20 http://{url}/"));
            assert_eq!(got, page, "{url}");
        }
    }
    let page = two.check("timeout 20 wget -q -O - http://10.0.0.1/");
    assert_eq!(page.unwrap(), "This is vm1.\n");
}

/// Noise goes from the first guest to the physical host and on to the second guest, in buffers many
/// times longer than the MTU.
fn bulk_arrives_unchanged(site: &mut Site) {
    let [one, two] = &mut site.guests;
    let made = format!("head -c {BULK} /dev/urandom >/www/bulk && sha256sum </www/bulk");
    let wanted = one.check(&made).unwrap();
    let wire = PacketSocket::open(site.phys.netns(), Station::NIC, Heard::Everything);
    for address in addresses(0).both() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let path = file.path().display().to_string();
        let url = in_url(address);
        let fetch = format!("curl -gsS -m 60 -o {path} http://{url}/bulk");
        site.phys.sh(&fetch);
        let got = output(Command::new("sh").args(["-c", &format!("sha256sum <{path}")]));
        assert_eq!(got.unwrap(), wanted, "guest to physical host by {address}");

        let content = fs::read(file.path()).unwrap();
        assert_eq!(content.len(), BULK);
        let from = match address {
            IpAddr::V4(_) => site.phys.addresses().v4(),
            IpAddr::V6(_) => site.phys.addresses().v6(),
        };
        let listener = netns::inside(site.phys.netns().name(), || {
            let listener = TcpListener::bind((from, 0))?;
            listener.set_nonblocking(true)?;
            Ok(listener)
        })
        .unwrap();
        let port = listener.local_addr().unwrap().port();
        let got = thread::scope(|scope| {
            scope.spawn(|| serve(&listener, &content));
            // What the guest has to send is over at once; then it reads to the end.
            two.check(&format!("nc {from} {port} </dev/null | sha256sum"))
        });
        assert_eq!(got.unwrap(), wanted, "physical host to guest from {from}");
    }
    let longest = std::iter::from_fn(|| wire.receive_bytes())
        .map(|bytes| bytes.len())
        .max();
    assert!(longest > Some(8 * FRAME), "{longest:?}");
}

/// Sends `content` to the first one who connects.
fn serve(listener: &TcpListener, content: &[u8]) {
    let limit = Duration::from_secs(30);
    let Some((mut stream, _)) = wait::within(limit, || listener.accept().ok()) else {
        panic!("nobody connected");
    };
    stream.set_nonblocking(false).unwrap();
    stream.set_write_timeout(Some(limit)).unwrap();
    stream.write_all(content).unwrap();
}

/// On another network the second guest and the first do not meet, whoever begins, and what it sends
/// leaves the uplink with the network's tag. Back on its own, it is reachable as before.
fn a_network_isolates_and_tags(site: &mut Site) {
    let (v4, v6) = (addresses(1).v4(), addresses(1).v6());
    site.host.vnet("port set tap2 --network blue");
    let wire = PacketSocket::open(site.phys.netns(), Station::NIC, Heard::Everything);
    let [one, two] = &mut site.guests;
    for address in [v4, v6] {
        assert!(guest_is_cut_off(one, address), "vm1 reaches {address}");
    }
    for address in addresses(0).both() {
        assert!(guest_is_cut_off(two, address), "vm2 reaches {address}");
    }
    assert!(guest_is_cut_off(two, site.phys.addresses().v4()));

    let heard: Vec<_> = std::iter::from_fn(|| wire.receive_bytes())
        .filter(|bytes| bytes[6..12] == TWO.0)
        .collect();
    let [high, low] = BLUE.to_be_bytes();
    assert!(
        !heard.is_empty(),
        "vm2 asks for its neighbours by broadcast"
    );
    for bytes in heard {
        assert_eq!(bytes[12..16], [0x81, 0x00, high, low], "{bytes:02x?}");
    }
    let port = site.host.whereabouts(TWO, "blue");
    assert_eq!(port.as_deref(), Some("tap2"));

    site.host.vnet("port set tap2 --network default");
    for address in [v4, v6] {
        assert!(guest_reaches(one, address), "vm1 to {address}");
        assert!(reaches(site.phys.netns(), address), "phys to {address}");
    }
}

/// A guest that its user reboots comes back to the port that it had.
fn a_guest_reboots(site: &mut Site) {
    let Site { host, guests, .. } = site;
    let [one, two] = guests;
    let facts = |host: &Host| (host.interface("tap2"), host.port_status("tap2"));
    let (before, pid) = (facts(host), two.pid());
    let counted = host.counter("tap2", "vm", "rx_packets");
    two.reboot().unwrap();

    assert_eq!(two.pid(), pid);
    assert_eq!(facts(host), before);
    for address in addresses(1).both() {
        assert!(guest_reaches(one, address), "vm1 to {address}");
        assert!(reaches(site.phys.netns(), address), "phys to {address}");
    }
    let page = one.check("timeout 20 wget -q -O - http://10.0.0.2/");
    assert_eq!(page.unwrap(), "This is vm2.\n");
    let now = host.counter("tap2", "vm", "rx_packets");
    assert!(
        now > counted && counted > (BULK / (64 << 10)) as u64,
        "{counted}, {now}"
    );
}
