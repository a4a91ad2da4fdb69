//! Two guests on a plain bridge: what the switch's own tests with virtual machines rest on.

use std::time::{Duration, Instant};

use xtask::{
    guest::{Guest, GuestConfig},
    netns::Netns,
    setup::is_root,
};

#[test]
fn guests_talk_run_commands_and_reboot() {
    assert!(
        is_root(),
        "making network namespaces needs root\n  mend: sudo -E cargo xtask test"
    );
    if let Err(why) = Guest::available() {
        panic!("{why:#}");
    }
    let netns = Netns::create(format!("vnet-guests-{}", std::process::id())).unwrap();
    netns.ip("link add br0 type bridge").unwrap();
    netns.ip("link set br0 up").unwrap();
    let began = Instant::now();
    let mut guests: Vec<_> = (1..=2)
        .map(|number| {
            let tap = format!("tap{number}");
            netns.ip(&format!("tuntap add {tap} mode tap")).unwrap();
            netns.ip(&format!("link set {tap} master br0 up")).unwrap();
            let mut config = GuestConfig::new(
                &format!("vm{number}"),
                &tap,
                &format!("52:54:00:00:00:0{number}"),
            );
            config.ipv4 = Some(format!("10.0.0.{number}/24"));
            config.ipv6 = Some(format!("fd00::{number}/64"));
            config.netns = Some(netns.name().to_owned());
            Guest::boot(config).unwrap()
        })
        .collect();
    for guest in &mut guests {
        guest.wait_ready(Duration::from_secs(120)).unwrap();
    }
    eprintln!("both guests ready after {:.1?}", began.elapsed());
    let [one, two] = &mut guests[..] else {
        unreachable!()
    };

    assert_eq!(one.check("hostname").unwrap(), "vm1\n");
    let failed = one.run("echo out; echo err >&2; exit 3").unwrap();
    assert_eq!((failed.status, failed.stdout.as_str()), (3, "out\nerr\n"));
    let long = one.check("seq 1 20000").unwrap();
    assert_eq!(long.lines().count(), 20_000);
    let text = "x".repeat(7000);
    assert_eq!(one.check(&format!("echo {text}")).unwrap().trim_end(), text);
    assert_eq!(
        one.run_within("sleep 30", Duration::from_secs(1))
            .unwrap()
            .status,
        143
    );

    one.check("ping -c 1 -W 10 10.0.0.2").unwrap();
    one.check("ping -6 -c 1 -W 10 fd00::2").unwrap();
    assert_eq!(
        one.check("wget -q -O - http://10.0.0.2/").unwrap(),
        "This is vm2.\n"
    );
    one.check("modprobe 8021q && ip link add link eth0 name eth0.10 type vlan id 10")
        .unwrap();

    let pid = two.pid();
    two.check("touch /root/before").unwrap();
    two.reboot().unwrap();
    assert_eq!(two.pid(), pid);
    assert_ne!(two.run("ls /root/before").unwrap().status, 0);
    one.check("ping -c 1 -W 10 10.0.0.2").unwrap();
}
