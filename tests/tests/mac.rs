//! MAC addresses: which ones may send, where they are, how they move and how they are forgotten.
//! Every VM is a tap, so that what comes out of each port is known to the frame.

use std::time::{Duration, Instant};

use serde_json::Value;
use vnet_tests::{
    host::{Host, Mac},
    wait,
    wire::{Frame, Heard, PacketSocket, Tap, Wire as _},
};

const ONE: Mac = Mac::of(1);
const TWO: Mac = Mac::of(2);
const THREE: Mac = Mac::of(3);

/// A host with the ports `names` on `default`.
fn host_with<const N: usize>(names: [&str; N]) -> (Host, [Tap; N]) {
    let host = Host::up();
    let taps = names.map(|name| port(&host, name, ""));
    (host, taps)
}

/// A tap that is a port with these options.
fn port(host: &Host, name: &str, options: &str) -> Tap {
    let tap = Tap::create(host, name);
    host.vnet(&format!("port add {name} {options}"));
    tap
}

/// Has `mac` speak at `tap`, and the others hear it.
fn announce(mac: Mac, tap: &Tap, others: &[&Tap]) {
    let frame = Frame::new(mac, Mac::BROADCAST);
    tap.send(&frame);
    for other in others {
        other.expect(&frame);
    }
}

/// A frame from `from` to `to` goes out of `here` and of nowhere else.
#[track_caller]
fn goes_to_one(from: &Tap, frame: &Frame, here: &Tap, others: &[&Tap]) {
    from.send(frame);
    here.expect(frame);
    for other in others {
        other.expect_nothing();
    }
}

/// The events of one kind that concern `mac`.
fn events_of(events: &[Value], kind: &str, mac: Mac) -> Vec<Value> {
    let mac = mac.to_string();
    let wanted = events
        .iter()
        .filter(|event| event["event"] == kind && event["mac"] == mac.as_str());
    wanted.cloned().collect()
}

#[test]
fn only_listed_addresses_send() {
    let (host, [two]) = host_with(["two"]);
    let one = port(&host, "one", &format!("--mac {ONE} --mac {THREE}"));
    for mac in [ONE, THREE] {
        announce(mac, &one, &[&two]);
    }
    let stranger = Mac::of(9);
    one.send(&Frame::new(stranger, Mac::BROADCAST));
    one.send(&Frame::new(stranger, TWO));
    two.expect_nothing();
    assert_eq!(host.drops("one", "mac_not_allowed"), 2);
    assert_eq!(host.whereabouts(stranger, "default"), None, "nor learned");
    // The list is about who sends, not about who is sent to.
    announce(TWO, &two, &[&one]);
    goes_to_one(&two, &Frame::new(TWO, ONE), &one, &[]);

    host.vnet(&format!("port set one --mac {stranger}"));
    announce(stranger, &one, &[&two]);
    one.send(&Frame::new(ONE, Mac::BROADCAST));
    two.expect_nothing();
    host.vnet("port set one --mac none");
    announce(ONE, &one, &[&two]);
    assert_eq!(host.drops("one", "mac_not_allowed"), 3);
}

#[test]
fn a_denied_address_neither_sends_nor_receives() {
    let (host, [one, two]) = host_with(["one", "two"]);
    let uplink = port(&host, "nic", "--uplink");
    announce(ONE, &one, &[&two, &uplink]);
    announce(TWO, &two, &[&one, &uplink]);
    announce(THREE, &uplink, &[&one, &two]);
    host.vnet(&format!("mac deny {TWO}"));
    host.vnet(&format!("mac deny {THREE}"));

    two.send(&Frame::new(TWO, Mac::BROADCAST));
    two.send(&Frame::new(TWO, ONE));
    assert_eq!(host.drops("two", "mac_denied"), 2);
    one.send(&Frame::new(ONE, TWO));
    one.send(&Frame::new(ONE, THREE));
    assert_eq!(host.drops("one", "mac_denied"), 2);
    uplink.send(&Frame::new(THREE, ONE));
    uplink.send(&Frame::new(Mac::of(8), TWO));
    assert_eq!(host.drops("nic", "mac_denied"), 2);
    for tap in [&one, &two, &uplink] {
        tap.expect_nothing();
    }
    host.vnet(&format!("mac allow {TWO}"));
    goes_to_one(&one, &Frame::new(ONE, TWO), &two, &[&uplink]);
    goes_to_one(&two, &Frame::new(TWO, ONE), &one, &[&uplink]);
    one.send(&Frame::new(ONE, THREE));
    assert_eq!(host.drops("one", "mac_denied"), 3);
}

#[test]
fn a_moved_address_is_followed_at_once() {
    let (host, [one, two, three]) = host_with(["one", "two", "three"]);
    announce(ONE, &one, &[&two, &three]);
    announce(TWO, &two, &[&one, &three]);
    goes_to_one(&two, &Frame::new(TWO, ONE), &one, &[&three]);
    let _ = host.events();

    // Any frame moves it; the very next one to it goes to the new place.
    goes_to_one(&three, &Frame::new(ONE, TWO), &two, &[&one]);
    goes_to_one(&two, &Frame::new(TWO, ONE), &three, &[&one]);
    assert_eq!(host.whereabouts(ONE, "default").unwrap(), "three");
    let events = host.events();
    let [moved] = &events_of(&events, "mac_moved", ONE)[..] else {
        panic!("one move: {events:?}");
    };
    assert_eq!(
        (&moved["old_port"], &moved["port"], &moved["network"]),
        (&"one".into(), &"three".into(), &"default".into()),
    );
}

/// What a VM does after it was migrated here or away (RFC 5227, 3).
#[test]
fn a_gratuitous_arp_moves_an_address_between_a_port_and_an_uplink() {
    let (host, [one, two]) = host_with(["one", "two"]);
    let uplink = port(&host, "nic", "--uplink");
    announce(TWO, &two, &[&one, &uplink]);
    announce(ONE, &one, &[&two, &uplink]);
    for (new, old, name) in [(&uplink, &one, "nic"), (&one, &uplink, "one")] {
        let arp = Frame::gratuitous_arp(ONE, 1);
        new.send(&arp);
        two.expect(&arp);
        old.expect(&arp);
        goes_to_one(&two, &Frame::new(TWO, ONE), new, &[old]);
        assert_eq!(host.whereabouts(ONE, "default").unwrap(), name);
    }
}

/// Networks learn apart: the same address is in several places.
#[test]
fn networks_learn_independently() {
    let host = Host::up();
    host.vnet("network add blue --vlan 10");
    let plain = port(&host, "plain", "");
    let plain_peer = port(&host, "plain2", "");
    let blue = port(&host, "blue1", "--network blue");
    let blue_peer = port(&host, "blue2", "--network blue");
    announce(ONE, &plain, &[&plain_peer]);
    announce(ONE, &blue, &[&blue_peer]);
    assert_eq!(host.whereabouts(ONE, "default").unwrap(), "plain");
    assert_eq!(host.whereabouts(ONE, "blue").unwrap(), "blue1");
    goes_to_one(&plain_peer, &Frame::new(TWO, ONE), &plain, &[&blue]);
    goes_to_one(&blue_peer, &Frame::new(TWO, ONE), &blue, &[&plain]);
    assert!(events_of(&host.events(), "mac_moved", ONE).is_empty());
}

#[test]
fn a_port_learns_no_more_than_its_limit_and_goes_on_forwarding() {
    let (host, [two, three]) = host_with(["two", "three"]);
    let one = port(&host, "one", "--max-macs 2");
    let [first, second, third] = [11, 12, 13].map(Mac::of);
    for mac in [first, second, third, third] {
        announce(mac, &one, &[&two, &three]);
    }
    assert_eq!(host.whereabouts(second, "default").unwrap(), "one");
    assert_eq!(host.whereabouts(third, "default"), None);
    assert_eq!(host.counter("one", "vm", "fdb_port_limit"), 2);
    let events = host.events();
    assert!(!events_of(&events, "fdb_port_limit", third).is_empty());

    // What is not known is flooded: nobody is cut off.
    let frame = Frame::new(TWO, third);
    two.send(&frame);
    one.expect(&frame);
    three.expect(&frame);
    goes_to_one(&two, &Frame::new(TWO, first), &one, &[&three]);
    // The limit is the port's, not the address's.
    announce(third, &three, &[&one, &two]);
    assert_eq!(host.whereabouts(third, "default").unwrap(), "three");
    host.vnet("port set one --max-macs 3");
    announce(Mac::of(14), &one, &[&two, &three]);
    assert_eq!(host.whereabouts(Mac::of(14), "default").unwrap(), "one");
}

#[test]
fn a_static_address_stays_where_it_was_put() {
    let (host, [one, two, three]) = host_with(["one", "two", "three"]);
    host.vnet(&format!("fdb add {ONE} --network default --port one"));
    // It was never seen, and is known.
    goes_to_one(&two, &Frame::new(TWO, ONE), &one, &[&three]);
    three.send(&Frame::new(ONE, Mac::BROADCAST));
    assert_eq!(host.drops("three", "mac_source_static"), 1);
    one.expect_nothing();
    two.expect_nothing();
    assert_eq!(host.whereabouts(ONE, "default").unwrap(), "one");

    host.vnet("fdb flush");
    goes_to_one(&two, &Frame::new(TWO, ONE), &one, &[&three]);
    host.vnet("down");
    host.vnet("up");
    goes_to_one(&two, &Frame::new(TWO, ONE), &one, &[&three]);

    host.vnet(&format!("fdb del {ONE} --network default"));
    assert_eq!(host.whereabouts(ONE, "default"), None);
    announce(ONE, &three, &[&one, &two]);
    assert_eq!(host.whereabouts(ONE, "default").unwrap(), "three");
}

#[test]
fn addresses_that_are_not_seen_are_forgotten() {
    let (host, [one, two, three]) = host_with(["one", "two", "three"]);
    host.vnet(&format!("fdb add {THREE} --network default --port three"));
    announce(ONE, &one, &[&two, &three]);
    announce(TWO, &two, &[&one, &three]);
    // At once, and for addresses that are known already; nothing is forgotten for it.
    host.vnet("set ageing=10");
    let began = Instant::now();
    assert_eq!(host.whereabouts(ONE, "default").unwrap(), "one");
    // The kernel forgets by itself, and says so; TWO is heard all the while.
    let aged = wait::within(Duration::from_secs(16), || {
        announce(TWO, &two, &[&one, &three]);
        std::thread::sleep(Duration::from_millis(300));
        let events = host.events();
        assert!(events_of(&events, "mac_aged", TWO).is_empty());
        events_of(&events, "mac_aged", ONE).pop()
    });
    let aged = aged.expect("the address is forgotten within 16 s");
    assert_eq!(aged["port"], "one");
    assert!(began.elapsed() >= Duration::from_secs(10), "too early");
    assert_eq!(host.whereabouts(ONE, "default"), None);
    assert_eq!(host.whereabouts(TWO, "default").unwrap(), "two");
    assert_eq!(host.whereabouts(THREE, "default").unwrap(), "three");
    let frame = Frame::new(TWO, ONE);
    two.send(&frame);
    one.expect(&frame);
    three.expect(&frame);
}

#[test]
fn a_flush_forgets_what_was_learned() {
    let (host, [one, two, three]) = host_with(["one", "two", "three"]);
    announce(ONE, &one, &[&two, &three]);
    announce(TWO, &two, &[&one, &three]);
    let ran = host.vnet("fdb flush");
    assert!(ran.stderr.contains("2 learned addresses"), "{}", ran.stderr);
    let rows = host.fdb();
    assert!(rows.iter().all(|row| row.kind != "learned"), "{rows:?}");
    assert!(rows.iter().any(|row| row.kind == "local"), "{rows:?}");
    let frame = Frame::new(TWO, ONE);
    two.send(&frame);
    one.expect(&frame);
    three.expect(&frame);
}

/// 01:80:c2:00:00:00 to 0f are for the station at the end of the cable: a VM's reach nobody, the
/// physical network's reach the host.
#[test]
fn link_local_control_frames_do_not_cross() {
    let (host, [one, two]) = host_with(["one", "two"]);
    let uplink = port(&host, "nic", "--uplink");
    let stack = PacketSocket::open(host.netns(), "nic", Heard::Delivered);
    let speaker = PacketSocket::open(host.netns(), "nic", Heard::Everything);
    let device = PacketSocket::open(host.netns(), host.switch(), Heard::Delivered);
    for last in 0..16 {
        let reserved = Mac([0x01, 0x80, 0xc2, 0, 0, last]);
        one.send(&Frame::new(ONE, reserved));
        let frame = Frame::new(THREE, reserved);
        uplink.send(&frame);
        stack.expect(&frame);
        let frame = Frame::new(Mac::of(9), reserved);
        speaker.send(&frame);
        uplink.expect(&frame);
    }
    assert_eq!(host.drops("one", "mac_reserved"), 16);
    assert_eq!(host.counter("nic", "uplink", "to_host_packets"), 16);
    for tap in [&one, &two, &uplink] {
        tap.expect_nothing();
    }
    device.expect_nothing();
    // The next address is an ordinary group.
    let frame = Frame::new(ONE, Mac([0x01, 0x80, 0xc2, 0, 0, 16]));
    one.send(&frame);
    two.expect(&frame);
    uplink.expect(&frame);
}

#[test]
fn sources_that_no_station_has_are_dropped() {
    let (host, [one, two]) = host_with(["one", "two"]);
    let device_mac = parse(&host.interface(host.switch()).mac);
    for (source, reason) in [
        (Mac([0x01, 0, 0x5e, 0, 0, 1]), "mac_source_group"),
        (Mac::BROADCAST, "mac_source_group"),
        (Mac([0; 6]), "mac_source_zero"),
        // The host's own: who sends with it would take over the host's traffic.
        (device_mac, "mac_source_local"),
    ] {
        let before = host.drops("one", reason);
        one.send(&Frame::new(source, Mac::BROADCAST));
        assert_eq!(host.drops("one", reason), before + 1, "{source}");
    }
    two.expect_nothing();
    announce(ONE, &one, &[&two]);
    one.send(&Frame::new(Mac::of(5), ONE));
    assert_eq!(host.drops("one", "mac_same_port"), 1);
    one.expect_nothing();
}

fn parse(text: &str) -> Mac {
    let mut bytes = text
        .split(':')
        .map(|byte| u8::from_str_radix(byte, 16).expect("an address"));
    Mac(std::array::from_fn(|_| bytes.next().expect("six bytes")))
}

/// Two uplinks on one network would be a loop.
#[test]
fn nothing_goes_from_one_uplink_to_another() {
    let (host, [one]) = host_with(["one"]);
    let [first, second] = ["nic1", "nic2"].map(|name| port(&host, name, "--uplink"));
    announce(ONE, &one, &[&first, &second]);
    let frame = Frame::new(TWO, Mac::BROADCAST);
    first.send(&frame);
    one.expect(&frame);
    let frame = Frame::new(THREE, Mac::BROADCAST);
    second.send(&frame);
    one.expect(&frame);
    first.send(&Frame::new(TWO, THREE));
    assert_eq!(host.drops("nic1", "uplink_to_uplink"), 1);
    for tap in [&one, &first, &second] {
        tap.expect_nothing();
    }
}

#[test]
fn storms_are_limited_by_kind() {
    let (host, [two]) = host_with(["two"]);
    let limits = "--storm broadcast=50 --storm multicast=60 --storm unknown-unicast=70";
    let one = port(&host, "one", limits);
    announce(TWO, &two, &[&one]);
    let group = Mac([0x01, 0x00, 0x5e, 0x01, 0x02, 0x03]);
    const BURST: usize = 400;
    for (to, limit, reason) in [
        (Mac::BROADCAST, 50, "storm_broadcast"),
        (group, 60, "storm_multicast"),
        (Mac::of(99), 70, "storm_unknown_unicast"),
    ] {
        let began = Instant::now();
        for _ in 0..BURST {
            one.send(&Frame::new(ONE, to));
        }
        // One second's worth at once, and then at the rate for as long as it took.
        let most = limit + 2 + (limit as f64 * began.elapsed().as_secs_f64()) as usize;
        let passed = two.count();
        assert!((limit..=most).contains(&passed), "{reason}: {passed}");
        let dropped = usize::try_from(host.drops("one", reason)).unwrap();
        assert_eq!(passed + dropped, BURST, "{reason}");
        let events = host.events();
        let storms = events_of(&events, "storm", ONE);
        assert!(
            storms.iter().any(|event| event["reason"] == reason),
            "{events:?}"
        );
    }
    // What is not flooded has no limit.
    for _ in 0..BURST {
        one.send(&Frame::new(ONE, TWO));
    }
    assert_eq!(two.count(), BURST);
}

#[test]
fn storm_limits_have_defaults_and_can_be_switched_off() {
    let (host, [one, two]) = host_with(["one", "two"]);
    host.vnet("set storm.broadcast=50");
    // Uplinks carry what a whole network sends: the default is not theirs.
    let uplink = port(&host, "nic", "--uplink");
    let burst = |tap: &Tap| {
        for _ in 0..400 {
            tap.send(&Frame::new(ONE, Mac::BROADCAST));
        }
        two.count()
    };
    assert!(burst(&one) < 200);
    assert_eq!(burst(&uplink), 400);
    host.vnet("port set one --storm broadcast=off");
    assert_eq!(burst(&one), 400);
    assert_eq!(host.drops("nic", "storm_broadcast"), 0);
    host.vnet("port set one --storm none");
    assert!(burst(&one) < 200);
    host.vnet("set storm.broadcast=off");
    assert_eq!(burst(&one), 400);
    // As many at once as are said; and what was used up of a limit is nothing to the next one.
    host.vnet("port set one --storm broadcast=1/100");
    let passed = burst(&one);
    assert!((100..150).contains(&passed), "{passed}");
    host.vnet("port set one --storm broadcast=300");
    let passed = burst(&one);
    assert!(passed >= 300, "{passed}");
}

/// A full table learns no more, counts it, and goes on by flooding.
#[test]
fn a_full_table_goes_on_by_flooding() {
    let host = Host::new();
    host.vnet("set fdb_size=1024");
    host.vnet("up");
    let one = port(&host, "one", "--max-macs 0 --storm broadcast=off");
    let two = port(&host, "two", "");
    let mac = |number: u32| {
        let [_, b, c, d] = number.to_be_bytes();
        Mac([0x02, 0, 1, b, c, d])
    };
    for number in 0..2000 {
        announce(mac(number), &one, &[&two]);
    }
    let learned = host.fdb().iter().filter(|row| row.port == "one").count();
    let full = usize::try_from(host.counter("one", "vm", "fdb_full")).unwrap();
    assert!((900..=1024).contains(&learned), "{learned}");
    assert_eq!(learned + full, 2000);
    let events = host.events();
    assert!(
        events.iter().any(|event| event["event"] == "fdb_full"),
        "{events:?}"
    );
    let frame = Frame::new(TWO, mac(1999));
    two.send(&frame);
    one.expect(&frame);
}

/// Events wait for whoever reads them, and a follower gets them as they come.
#[test]
fn events_are_followed() {
    let (host, [one, two]) = host_with(["one", "two"]);
    let path = host.config_dir().join("events");
    let file = std::fs::File::create(&path).unwrap();
    let mut follower = host
        .vnet_command("events --follow -o jsonl")
        .stdout(file)
        .spawn()
        .unwrap();
    let lines = || std::fs::read_to_string(&path).unwrap();
    announce(ONE, &one, &[&two]);
    wait::until("the new address was told", || {
        lines().contains(&ONE.to_string())
    });
    // There is one reader at a time, and a second one says so.
    host.try_vnet("events").refused(1, &["another"]);
    announce(ONE, &two, &[&one]);
    wait::until("the move was told", || lines().contains("mac_moved"));
    host.vnet("down");
    let status = wait::value("it ended with the switch", || follower.try_wait().unwrap());
    assert!(status.success(), "{status}");
}
