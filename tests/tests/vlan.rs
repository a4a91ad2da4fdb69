//! Networks and their VLAN ids: who hears whom, and with which tag. Taps show the frames as they
//! are on the cable.

use vnet_tests::{
    host::{Host, Mac, Station},
    traffic::{self, is_cut_off, reaches},
    wire::{Frame, Heard, PacketSocket, Tag, Tap, Wire as _},
};

const ONE: Mac = Mac::of(1);
const TWO: Mac = Mac::of(2);

/// A host with the networks blue (VLAN 10), red (20) and green (no id), without ports.
fn host() -> Host {
    let host = Host::up();
    host.vnet("network add blue --vlan 10");
    host.vnet("network add red --vlan 20");
    host.vnet("network add green");
    host
}

/// A tap that is a port with these options.
fn port(host: &Host, name: &str, options: &str) -> Tap {
    let tap = Tap::create(host, name);
    host.vnet(&format!("port add {name} {options}"));
    tap
}

fn broadcast() -> Frame {
    Frame::new(ONE, Mac::BROADCAST)
}

#[test]
fn networks_are_cut_off_from_each_other() {
    let host = host();
    let [one, two, three, four] = [1, 2, 3, 4].map(|number| host.vm(number));
    for (vm, network) in [
        (&one, "blue"),
        (&two, "blue"),
        (&three, "red"),
        (&four, "default"),
    ] {
        host.vnet(&format!("port add {} --network {network}", vm.port()));
    }
    assert!(reaches(one.netns(), two.addresses().v4()));
    assert!(reaches(two.netns(), one.addresses().v6()));

    let ears =
        [&three, &four].map(|vm| PacketSocket::open(vm.netns(), Station::NIC, Heard::Everything));
    // With and without having to ask for the address first.
    for number in [3, 4] {
        let to = host_address(number);
        assert!(is_cut_off(one.netns(), to.v4()));
        assert!(is_cut_off(one.netns(), to.v6()));
        let mac = Mac::of(number);
        one.ip(&format!("neigh replace {} lladdr {mac} dev eth0", to.v4()));
        assert!(is_cut_off(one.netns(), to.v4()));
    }
    for (from, to) in [(&three, &one), (&four, &one), (&three, &four)] {
        assert!(is_cut_off(from.netns(), to.addresses().v4()));
    }
    let speaker = PacketSocket::open(one.netns(), Station::NIC, Heard::Everything);
    let mate = PacketSocket::open(two.netns(), Station::NIC, Heard::Everything);
    let frame = broadcast();
    speaker.send(&frame);
    mate.expect(&frame);
    for ear in &ears {
        let heard: Vec<_> = std::iter::from_fn(|| ear.receive_bytes())
            .filter(|bytes| [ONE.0, TWO.0].iter().any(|mac| bytes[6..12] == *mac))
            .collect();
        assert_eq!(heard, Vec::<Vec<u8>>::new(), "nothing of blue is heard");
    }
    // The same address may live in each network.
    let rows = host.fdb();
    assert!(
        rows.iter()
            .all(|row| row.mac != ONE.to_string() || row.network == "blue")
    );
}

fn host_address(number: u8) -> vnet_tests::host::Addresses {
    vnet_tests::host::Addresses::new(number)
}

#[test]
fn a_network_without_a_vlan_id_stays_inside() {
    let host = host();
    let one = port(&host, "one", "--network green");
    let two = port(&host, "two", "--network green");
    let uplink = port(&host, "nic", "--uplink");
    let other = port(&host, "other", "--network blue");
    let frame = broadcast();
    one.send(&frame);
    two.expect(&frame);
    uplink.expect_nothing();
    other.expect_nothing();
    // And nothing from outside gets in, whatever its tag.
    for tags in [&[][..], &[Tag::c(10)], &[Tag::c(20)], &[Tag::c(4094)]] {
        uplink.send(&Frame::new(TWO, Mac::BROADCAST).tagged(tags));
    }
    one.expect_nothing();
    two.expect_nothing();
}

/// An uplink carries every network that has an id, tagged, and `default` untagged.
#[test]
fn the_uplink_is_a_trunk_of_all_networks() {
    let host = host();
    let uplink = port(&host, "nic", "--uplink");
    let blue = port(&host, "blue1", "--network blue");
    let red = port(&host, "red1", "--network red");
    let plain = port(&host, "plain1", "");
    for (tap, tags) in [
        (&blue, &[Tag::c(10)][..]),
        (&red, &[Tag::c(20)]),
        (&plain, &[]),
    ] {
        let frame = broadcast();
        tap.send(&frame);
        uplink.expect(&frame.tagged(tags));

        let answer = Frame::new(TWO, Mac::BROADCAST);
        uplink.send(&answer.tagged(tags));
        tap.expect(&answer);
        // Known unicast takes another way through the pipeline than a flood.
        for (from, to, frame) in [
            (tap, &uplink, Frame::new(ONE, TWO)),
            (&uplink, tap, Frame::new(TWO, ONE)),
        ] {
            let towards_uplink = std::ptr::eq(to, &raw const uplink);
            let (out, arrives) = if towards_uplink {
                (frame.clone(), frame.tagged(tags))
            } else {
                (frame.tagged(tags), frame.clone())
            };
            from.send(&out);
            to.expect(&arrives);
        }
    }
    for tap in [&uplink, &blue, &red, &plain] {
        tap.expect_nothing();
    }
    assert_eq!(host.all_drops(), Vec::<String>::new());
    // A network that is added later is carried at once.
    host.vnet("network add late --vlan 30");
    let late = port(&host, "late1", "--network late");
    let frame = broadcast();
    late.send(&frame);
    uplink.expect(&frame.tagged(&[Tag::c(30)]));
}

/// Two hosts, each with a switch, and a cable between their uplinks: the tags match, and segments of
/// TCP keep their offloads all the way.
#[test]
fn two_switches_share_networks_over_a_trunk() {
    let [one, two] = [host(), host()];
    let far = two.netns().name();
    one.ip(&format!("link add up0 type veth peer name up0 netns {far}"));
    for host in [&one, &two] {
        host.ip("link set up0 up");
        host.vnet("port add up0 --uplink");
    }
    let (blue, red) = (one.vm(1), one.vm(2));
    let (far_blue, far_red) = (two.vm(3), two.vm(4));
    for (host, vm, network) in [
        (&one, &blue, "blue"),
        (&one, &red, "red"),
        (&two, &far_blue, "blue"),
        (&two, &far_red, "red"),
    ] {
        host.vnet(&format!("port add {} --network {network}", vm.port()));
    }
    for (from, to) in [
        (&blue, &far_blue),
        (&far_blue, &blue),
        (&red, &far_red),
        (&far_red, &red),
    ] {
        for address in to.addresses().both() {
            assert!(reaches(from.netns(), address), "{address}");
            traffic::tcp(from.netns(), to.netns(), address, 20 << 20);
            traffic::udp(from.netns(), to.netns(), address, &[10, 8000]);
        }
    }
    for (from, to) in [(&blue, &far_red), (&far_red, &blue), (&red, &far_blue)] {
        assert!(is_cut_off(from.netns(), to.addresses().v4()));
    }
    assert_eq!(one.whereabouts(far_blue.mac(), "blue").unwrap(), "up0");
    assert_eq!(two.whereabouts(blue.mac(), "blue").unwrap(), "up0");
}

/// A trunk to a VM: the networks that it lists, one of them untagged, one with a tag of its own.
#[test]
fn a_trunk_port_carries_what_it_lists() {
    let host = host();
    let trunk = port(&host, "trunk", "--trunk blue,red=77 --native default");
    let uplink = port(&host, "nic", "--uplink");
    let blue = port(&host, "blue1", "--network blue");
    let red = port(&host, "red1", "--network red");
    let plain = port(&host, "plain1", "");
    let all = [&trunk, &uplink, &blue, &red, &plain];

    for (access, at_trunk, at_uplink) in [
        (&blue, &[Tag::c(10)][..], &[Tag::c(10)][..]),
        // red has one tag on this port and another on the uplink.
        (&red, &[Tag::c(77)], &[Tag::c(20)]),
        (&plain, &[], &[]),
    ] {
        let frame = broadcast();
        trunk.send(&frame.tagged(at_trunk));
        access.expect(&frame);
        uplink.expect(&frame.tagged(at_uplink));
        let frame = Frame::new(TWO, Mac::BROADCAST);
        access.send(&frame);
        trunk.expect(&frame.tagged(at_trunk));
        uplink.expect(&frame.tagged(at_uplink));
        let frame = Frame::new(TWO, ONE);
        access.send(&frame);
        trunk.expect(&frame.tagged(at_trunk));
        let frame = Frame::new(ONE, TWO);
        trunk.send(&frame.tagged(at_trunk));
        access.expect(&frame);
        for tap in all {
            tap.expect_nothing();
        }
    }
    assert_eq!(host.all_drops(), Vec::<String>::new());

    // The network's own id is not its tag here.
    for vid in [20, 30, 4094] {
        trunk.send(&broadcast().tagged(&[Tag::c(vid)]));
    }
    for tap in all {
        tap.expect_nothing();
    }
    assert_eq!(host.drops("trunk", "vlan_unlisted"), 3);
}

#[test]
fn a_trunk_without_native_drops_untagged_frames() {
    let host = host();
    let trunk = port(&host, "trunk", "--trunk blue");
    let blue = port(&host, "blue1", "--network blue");
    let plain = port(&host, "plain1", "");
    trunk.send(&broadcast());
    trunk.send(&broadcast().tagged(&[Tag::c(0).priority(3)]));
    assert_eq!(host.drops("trunk", "vlan_untagged"), 2);
    plain.send(&Frame::new(TWO, Mac::BROADCAST));
    for tap in [&trunk, &blue, &plain] {
        tap.expect_nothing();
    }
    host.vnet("port set trunk --native default");
    let frame = broadcast();
    trunk.send(&frame);
    plain.expect(&frame);
    blue.expect_nothing();
}

#[test]
fn an_access_port_drops_tagged_frames() {
    let host = host();
    let one = port(&host, "one", "--network blue");
    let two = port(&host, "two", "--network blue");
    // Its own network's tag too: it is not the VM's to choose.
    for tags in [
        &[Tag::c(10)][..],
        &[Tag::c(20)],
        &[Tag::s(10)],
        &[Tag::c(10), Tag::c(20)],
    ] {
        one.send(&broadcast().tagged(tags));
    }
    assert_eq!(host.drops("one", "vlan_tagged"), 4);
    two.expect_nothing();
}

/// A priority tag names no network (802.1Q-2022, 6.9.1): it is as untagged, and its priority goes
/// on where a tag does.
#[test]
fn a_priority_tag_counts_as_untagged() {
    let host = host();
    let one = port(&host, "one", "--network blue");
    let two = port(&host, "two", "--network blue");
    let uplink = port(&host, "nic", "--uplink");
    let frame = broadcast();
    one.send(&frame.tagged(&[Tag::c(0).priority(5)]));
    two.expect(&frame);
    uplink.expect(&frame.tagged(&[Tag::c(10).priority(5)]));
}

#[test]
fn priority_and_kind_of_a_tag_survive_translation() {
    let host = host();
    let one = port(&host, "one", "--trunk blue=11");
    let two = port(&host, "two", "--trunk blue=12");
    for (out, arrives) in [
        (Tag::c(11).priority(7), Tag::c(12).priority(7)),
        (Tag::s(11).priority(2), Tag::s(12).priority(2)),
    ] {
        let frame = broadcast();
        one.send(&frame.tagged(&[out]));
        two.expect(&frame.tagged(&[arrives]));
    }
}

/// Only the outer tag is the switch's: an inner one goes through untouched, but never out of a port
/// where it would become the outer one.
#[test]
fn inner_tags_pass_trunks_and_never_leave_untagged() {
    let host = host();
    let trunk = port(&host, "trunk", "--trunk blue --native default");
    let uplink = port(&host, "nic", "--uplink");
    let blue = port(&host, "blue1", "--network blue");
    let red = port(&host, "red1", "--network red");
    for outer in [Tag::c(10), Tag::s(10)] {
        let frame = broadcast().tagged(&[outer, Tag::c(20).priority(1)]);
        trunk.send(&frame);
        uplink.expect(&frame);
        let frame = Frame::new(TWO, ONE).tagged(&[outer, Tag::c(20)]);
        uplink.send(&frame);
        trunk.expect(&frame);
    }
    assert_eq!(host.drops("blue1", "double_tag"), 2, "one a flood");

    // Known unicast to the access port.
    let frame = Frame::new(Mac::of(7), Mac::BROADCAST);
    blue.send(&frame);
    for tap in [&trunk, &uplink] {
        tap.expect(&frame.tagged(&[Tag::c(10)]));
    }
    uplink.send(&Frame::new(TWO, Mac::of(7)).tagged(&[Tag::c(10), Tag::c(20)]));
    assert_eq!(host.drops("blue1", "double_tag"), 3);

    // A priority tag in front of a tag: untagged where it comes in, and a way round the list of
    // networks were it to leave untagged.
    trunk.send(&broadcast().tagged(&[Tag::c(0), Tag::c(20)]));
    for tap in [&trunk, &uplink, &blue, &red] {
        tap.expect_nothing();
    }
    assert_eq!(
        host.drops("nic", "double_tag"),
        2,
        "the wire, and the host behind it"
    );
}

/// An uplink outside the bridge is first of all the host's: what no network of the switch carries
/// goes to the host and from it, unchanged.
#[test]
fn unlisted_tags_on_an_outside_uplink_are_the_hosts() {
    let host = host();
    let uplink = port(&host, "nic", "--uplink --trunk blue");
    let blue = port(&host, "blue1", "--network blue");
    let plain = port(&host, "plain1", "");
    let stack = PacketSocket::open(host.netns(), "nic", Heard::Delivered);
    let to_host = || host.counter("nic", "uplink", "to_host_packets");
    let before = to_host();

    for tags in [&[Tag::c(99)][..], &[]] {
        let frame = Frame::new(TWO, Mac::BROADCAST);
        uplink.send(&frame.tagged(tags));
        // The stack takes a tag that it has no device for away before sockets see the frame.
        stack.expect(&frame);
    }
    assert_eq!(to_host(), before + 2);

    // What blue carries goes to the switch, and to the host as well when it is for a group.
    let frame = Frame::new(TWO, Mac::BROADCAST);
    uplink.send(&frame.tagged(&[Tag::c(10)]));
    blue.expect(&frame);
    stack.expect(&frame);
    assert_eq!(to_host(), before + 3);
    let frame = Frame::new(ONE, Mac::BROADCAST);
    blue.send(&frame);
    uplink.expect(&frame.tagged(&[Tag::c(10)]));
    stack.expect(&frame);
    let frame = Frame::new(TWO, ONE);
    uplink.send(&frame.tagged(&[Tag::c(10)]));
    blue.expect(&frame);
    stack.expect_nothing();
    assert_eq!(to_host(), before + 3);

    // The other way: the host may send what it likes.
    let speaker = PacketSocket::open(host.netns(), "nic", Heard::Everything);
    for tags in [&[Tag::c(99)][..], &[], &[Tag::c(99), Tag::c(10)]] {
        let frame = Frame::new(Mac::of(9), Mac::BROADCAST).tagged(tags);
        speaker.send(&frame);
        uplink.expect(&frame);
    }
    // And what it sends with a tag that blue carries is blue's too.
    let frame = Frame::new(Mac::of(9), Mac::BROADCAST);
    speaker.send(&frame.tagged(&[Tag::c(10)]));
    uplink.expect(&frame.tagged(&[Tag::c(10)]));
    blue.expect(&frame);
    for tap in [&blue, &plain, &uplink] {
        tap.expect_nothing();
    }
    for reason in ["vlan_unlisted", "vlan_untagged"] {
        assert_eq!(host.drops("nic", reason), 0, "{reason}");
    }
}

/// An uplink that is a member of the bridge is the switch's alone.
#[test]
fn unlisted_tags_on_a_member_uplink_are_dropped() {
    let host = Host::new();
    let switch = host.switch();
    host.foreign_bridge(switch);
    host.ip(&format!("link add {switch} type bridge"));
    host.ip(&format!("link set {switch} up"));
    let uplink = Tap::create(&host, "nic");
    host.ip(&format!("link set nic master {switch}"));
    host.vnet("up --uplink nic");
    host.vnet("network add blue --vlan 10");
    let blue = port(&host, "blue1", "--network blue");
    let plain = port(&host, "plain1", "");
    let stack = PacketSocket::open(host.netns(), switch, Heard::Delivered);

    uplink.send(&Frame::new(TWO, Mac::BROADCAST).tagged(&[Tag::c(99)]));
    assert_eq!(host.drops("nic", "vlan_unlisted"), 1);
    for tap in [&blue, &plain] {
        tap.expect_nothing();
    }
    stack.expect_nothing();
    // The host is a port of the switch, on `default` as VMs are.
    let frame = Frame::new(TWO, Mac::BROADCAST);
    uplink.send(&frame);
    plain.expect(&frame);
    stack.expect(&frame);
    uplink.send(&frame.tagged(&[Tag::c(10)]));
    blue.expect(&frame);
    stack.expect_nothing();
}

/// What a port carries changes while it is attached, and its old networks hear it no more.
#[test]
fn a_port_changes_its_network() {
    let host = host();
    let tap = port(&host, "tap", "--network blue");
    let blue = port(&host, "blue1", "--network blue");
    let red = port(&host, "red1", "--network red");
    let heard_by = |listener: &Tap, deaf: &Tap| {
        let frame = broadcast();
        tap.send(&frame);
        listener.expect(&frame);
        deaf.expect_nothing();
    };
    heard_by(&blue, &red);
    host.vnet("port set tap --network red");
    heard_by(&red, &blue);
    host.vnet("port set tap --trunk blue --native red");
    heard_by(&red, &blue);
    let frame = broadcast();
    tap.send(&frame.tagged(&[Tag::c(10)]));
    blue.expect(&frame);
    host.vnet("port set tap --trunk none --native none");
    tap.send(&broadcast());
    tap.send(&broadcast().tagged(&[Tag::c(10)]));
    for tap in [&blue, &red] {
        tap.expect_nothing();
    }
}

/// The host takes part in the network that its device is put on.
#[test]
fn the_host_joins_a_network_by_its_device() {
    let host = host();
    let (blue, plain) = (host.vm(1), host.vm(2));
    host.vnet("port add vm1 --network blue");
    host.vnet("port add vm2");
    let device = host.device_ip();
    assert!(is_cut_off(blue.netns(), device.v4()));
    assert!(reaches(plain.netns(), device.v4()));
    host.vnet(&format!("port set {} --network blue", host.switch()));
    assert!(reaches(blue.netns(), device.v4()));
    assert!(is_cut_off(plain.netns(), device.v4()));
    traffic::tcp(host.netns(), blue.netns(), blue.addresses().v4(), 20 << 20);
}

/// What the limit of a network's MTU lets through and what not, on ports that take more.
#[test]
fn a_networks_mtu_is_a_limit() {
    let host = Host::up();
    host.vnet("network add small --vlan 10 --mtu 1400");
    let one = port(&host, "one", "--network small");
    let two = port(&host, "two", "--network small");
    let fits = broadcast().padded(1400);
    one.send(&fits);
    two.expect(&fits);
    one.send(&broadcast().padded(1401));
    two.expect_nothing();
    assert_eq!(host.drops("two", "mtu_exceeded"), 1);
}
