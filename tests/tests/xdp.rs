//! Native XDP on an uplink: what it redirects itself, what it leaves to TC, and when it is there.
//!
//! What XDP redirects never becomes a socket buffer of the uplink's, so a packet socket there does
//! not see it: that is how these tests tell the two ways apart.

use std::{process::Command, sync::Arc};

use vnet_tests::{
    host::{Host, Mac, Station},
    traffic::{self, reaches},
    wire::{Frame, Heard, PacketSocket, Tag, Tap, Wire as _},
};

const ONE: Mac = Mac::of(1);
const TWO: Mac = Mac::of(2);

/// A host whose uplink `up0` is at XDP, and the machine behind it, whose offloads are off as XDP
/// needs it of a veth's peer.
fn host() -> (Host, Arc<Station>) {
    let host = Host::new();
    let phys = host.phys();
    phys.sh("ethtool -K eth0 tx off txvlan off tx-vlan-stag-hw-insert off");
    let ran = host.vnet("up --uplink up0 --mode xdp");
    assert_eq!(ran.stderr, "", "nothing to warn of");
    (host, phys)
}

fn hooks(host: &Host) -> Vec<String> {
    let status = host.port_status("up0");
    let hooks = status["hooks"].as_array().unwrap();
    let names = hooks.iter().map(|hook| hook.as_str().unwrap().to_owned());
    names.collect()
}

/// A port whose VM is a tap, which XDP redirects to.
fn port(host: &Host, name: &str, options: &str) -> Tap {
    let tap = Tap::create(host, name);
    host.vnet(&format!("port add {name} {options}"));
    tap
}

#[test]
fn known_unicast_is_redirected_and_the_rest_goes_up() {
    let (host, phys) = host();
    assert_eq!(hooks(&host), ["tcx ingress", "tcx egress", "xdp native"]);
    assert!(host.interface("up0").xdp.is_some());
    let tap = port(&host, "tap1", "");
    let wire = PacketSocket::open(phys.netns(), Station::NIC, Heard::Everything);
    let uplink = PacketSocket::open(host.netns(), "up0", Heard::Everything);

    let frame = Frame::new(ONE, Mac::BROADCAST);
    tap.send(&frame);
    wire.expect(&frame);
    uplink.expect(&frame);
    for _ in 0..10 {
        let frame = Frame::new(TWO, ONE);
        wire.send(&frame);
        tap.expect(&frame);
    }
    uplink.expect_nothing();
    // A flood is for TC, and so is what nobody knows.
    for to in [Mac::BROADCAST, Mac::of(99)] {
        let frame = Frame::new(TWO, to);
        wire.send(&frame);
        tap.expect(&frame);
        uplink.expect(&frame);
    }
    assert_eq!(host.all_drops(), Vec::<String>::new());
    // Both hooks count in one place, and each frame once. (Pings of the kernels may be among them.)
    let count = host.counter("tap1", "vm", "tx_packets");
    assert!((12..30).contains(&count), "{count}");
    assert_eq!(host.whereabouts(TWO, "default").unwrap(), "up0");
}

#[test]
fn drops_at_xdp_are_counted_once() {
    let (host, phys) = host();
    let tap = port(&host, "tap1", "");
    let wire = PacketSocket::open(phys.netns(), Station::NIC, Heard::Everything);
    let uplink = PacketSocket::open(host.netns(), "up0", Heard::Everything);
    host.vnet(&format!("mac deny {TWO}"));
    for _ in 0..7 {
        wire.send(&Frame::new(TWO, ONE));
    }
    tap.expect_nothing();
    uplink.expect_nothing();
    assert_eq!(host.drops("up0", "mac_denied"), 7);
}

#[test]
fn tags_are_put_on_and_taken_off() {
    let (host, phys) = host();
    host.vnet("network add blue --vlan 10");
    host.vnet("network add red --vlan 20");
    let blue = port(&host, "blue1", "--network blue");
    let trunk = port(&host, "trunk1", "--trunk blue=11,red");
    let wire = PacketSocket::open(phys.netns(), Station::NIC, Heard::Everything);
    let uplink = PacketSocket::open(host.netns(), "up0", Heard::Everything);
    for (tap, mac, tag) in [(&blue, ONE, None), (&trunk, Mac::of(3), Some(Tag::c(11)))] {
        let tags = |tag: Option<Tag>| tag.into_iter().collect::<Vec<_>>();
        let frame = Frame::new(mac, TWO);
        tap.send(&frame.tagged(&tags(tag)));
        wire.expect(&frame.tagged(&[Tag::c(10)]));
        let _ = [blue.count(), trunk.count()];
        let frame = Frame::new(TWO, mac);
        wire.send(&frame.tagged(&[Tag::c(10).priority(3)]));
        tap.expect(&frame.tagged(&tags(tag.map(|tag| tag.priority(3)))));
        uplink.expect_nothing();
    }
    // An inner tag stays where it is, and does not leave by an access port.
    let frame = Frame::new(TWO, Mac::of(3));
    wire.send(&frame.tagged(&[Tag::c(10), Tag::c(7)]));
    trunk.expect(&frame.tagged(&[Tag::c(11), Tag::c(7)]));
    wire.send(&Frame::new(TWO, ONE).tagged(&[Tag::c(10), Tag::c(7)]));
    blue.expect_nothing();
    assert_eq!(host.drops("blue1", "double_tag"), 1);
    // What no network carries is the host's.
    let stack = PacketSocket::open(host.netns(), "up0", Heard::Delivered);
    let before = host.counter("up0", "uplink", "to_host_packets");
    let frame = Frame::new(TWO, ONE);
    wire.send(&frame.tagged(&[Tag::c(99)]));
    stack.expect(&frame);
    assert_eq!(host.counter("up0", "uplink", "to_host_packets"), before + 1);
}

/// Everything works for VMs behind veth pairs as well, to which XDP redirects only when their end
/// takes that (NAPI): else the kernel would lose the frames without a word.
#[test]
fn a_veth_without_napi_is_served_by_tc_and_one_with_it_by_xdp() {
    let (host, phys) = host();
    let vm = host.vm(1);
    host.vnet("port add vm1");
    let note = || host.port_status("vm1")["note"].as_str().unwrap().to_owned();
    assert!(note().contains("ethtool -K eth0 gro on"), "{}", note());

    let wire = PacketSocket::open(phys.netns(), Station::NIC, Heard::Everything);
    let nic = PacketSocket::open(vm.netns(), Station::NIC, Heard::Everything);
    let uplink = PacketSocket::open(host.netns(), "up0", Heard::Everything);
    let arrives = |seen_at_uplink: bool| {
        let frame = Frame::new(phys.mac(), vm.mac());
        wire.send(&frame);
        nic.expect(&frame);
        if seen_at_uplink {
            uplink.expect(&frame);
        } else {
            uplink.expect_nothing();
        }
    };
    assert!(reaches(phys.netns(), vm.addresses().v4()));
    arrives(true);
    let pings = traffic::ping(phys.netns(), vm.addresses().v4(), 100, 5, "");
    assert_eq!(pings.received, 100);

    vm.sh("ethtool -K eth0 gro on");
    host.vnet("up");
    assert_eq!(note(), "");
    arrives(false);
    let pings = traffic::ping(phys.netns(), vm.addresses().v4(), 100, 5, "");
    assert_eq!(pings.received, 100);
    vm.sh("ethtool -K eth0 gro off");
    host.vnet("up");
    arrives(true);
}

#[test]
fn everything_gets_through() {
    let (host, phys) = host();
    let [one, two] = [host.vm(1), host.vm(2)];
    one.sh("ethtool -K eth0 gro on");
    let own = host.uplink_ip();
    host.vnet("port add vm1");
    host.vnet("port add vm2");
    let pairs = [
        (&one, &phys),
        (&phys, &one),
        (&two, &phys),
        (&phys, &two),
        (&one, &two),
    ];
    for (from, to) in pairs {
        for address in to.addresses().both() {
            assert!(reaches(from.netns(), address), "{address}");
            traffic::tcp(from.netns(), to.netns(), address, 20 << 20);
            traffic::udp(from.netns(), to.netns(), address, &[1, 1400, 8000]);
        }
    }
    for (from, to) in [(&phys, own), (&one, own)] {
        assert!(reaches(from.netns(), to.v4()));
        traffic::tcp(from.netns(), host.netns(), to.v4(), 4 << 20);
    }
    assert_eq!(host.all_drops(), Vec::<String>::new());
}

/// A frame in several buffers goes up to TC: not every device takes one from a redirect.
#[test]
fn jumbo_frames_go_up_to_tc() {
    let (host, phys) = host();
    let vm = host.vm(1);
    host.ip("link set up0 mtu 9000");
    phys.ip("link set eth0 mtu 9000");
    host.ip("link set vm1 mtu 9000");
    vm.ip("link set eth0 mtu 9000");
    vm.sh("ethtool -K eth0 gro on");
    host.vnet("port add vm1");
    for (from, to) in [(&phys, &vm), (&vm, &phys)] {
        let address = to.addresses().v4();
        let pings = traffic::ping(from.netns(), address, 5, 50, "-M do -s 8972");
        assert_eq!(pings.received, 5);
        traffic::tcp(from.netns(), to.netns(), address, 20 << 20);
    }
    assert_eq!(host.all_drops(), Vec::<String>::new());
}

/// By itself vnet takes XDP on physical NICs only: on a veth checksums may be unfinished.
#[test]
fn the_mode_decides() {
    let host = Host::new();
    let phys = host.phys();
    let own = host.uplink_ip();
    host.vnet("up --uplink up0");
    assert_eq!(hooks(&host), ["tcx ingress", "tcx egress"]);
    let note = host.port_status("up0")["note"].to_string();
    assert!(note.contains("veth"), "{note}");
    phys.sh("ethtool -K eth0 tx off txvlan off tx-vlan-stag-hw-insert off");
    for (mode, attached) in [("xdp", true), ("tc", false), ("xdp", true), ("auto", false)] {
        host.vnet(&format!("up --mode {mode}"));
        assert_eq!(host.interface("up0").xdp.is_some(), attached, "{mode}");
        assert_eq!(hooks(&host).len(), if attached { 3 } else { 2 });
        assert_eq!(host.status()["mode"], mode);
        assert!(reaches(phys.netns(), own.v4()), "{mode}");
    }
    host.vnet("up --mode xdp");
    host.vnet("port del up0");
    assert_eq!(host.interface("up0").xdp, None);
}

/// XDP that another program has stays that one's.
#[test]
fn xdp_that_is_taken_is_refused() {
    let host = Host::new();
    let phys = host.phys();
    phys.sh("ethtool -K eth0 tx off txvlan off tx-vlan-stag-hw-insert off");
    let other = format!("{}b", host.switch());
    host.vnet(&format!("--switch {other} up"));
    let program = host
        .pins()
        .with_file_name(&other)
        .join(host_layout(&host, &other))
        .join("progs/xdp_uplink");
    let attach = |words: &str| {
        let mut command = Command::new("bpftool");
        command.args(["net"]).args(words.split(' '));
        xtask::netns::start_inside(&mut command, host.netns().name()).unwrap();
        let done = command.output().unwrap();
        assert!(done.status.success(), "{done:?}");
    };
    attach(&format!(
        "attach xdpdrv pinned {} dev up0",
        program.display()
    ));
    let before = host.interface("up0");
    assert!(before.xdp.is_some());
    host.try_vnet("up --uplink up0 --mode xdp")
        .refused(1, &["XDP on up0", "no other XDP program", "--mode auto"]);
    assert_eq!(host.interface("up0"), before);
    assert!(!host.pins().exists());
    host.vnet("up --uplink up0");
    assert_eq!(host.interface("up0").xdp, before.xdp);
    attach("detach xdpdrv dev up0");
}

fn host_layout(host: &Host, switch: &str) -> String {
    let dir = host.pins().with_file_name(switch);
    let entry = std::fs::read_dir(dir).unwrap().next().unwrap().unwrap();
    entry.file_name().into_string().unwrap()
}
