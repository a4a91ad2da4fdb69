//! The way that a guest's packets take: its hops, a link that is narrower than its ends believe,
//! datagrams in fragments.

use std::{
    net::{IpAddr, SocketAddr},
    process::Command,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use vnet_tests::nat::{FAR, GATEWAY, PHYS, ROUTER, UPLINK, udp};
use xtask::process::output;

use crate::{BULK, Over, Site, url};

/// What the link behind the router takes.
const NARROW: u32 = 1300;

/// Bytes of a datagram that makes five packets.
const LONG: usize = 7000;

/// The first hop is the gateway, the second one the router, the third one the host behind that.
pub fn hops_are_told(site: &mut Site) {
    for address in FAR.both() {
        let program = if address.is_ipv4() {
            "traceroute"
        } else {
            "traceroute6"
        };
        for guest in &mut site.guests {
            let text = guest
                .check(&format!("{program} -n -q 1 -w 5 -m 5 {address}"))
                .unwrap();
            let hops: Vec<&str> = text
                .lines()
                .filter_map(|line| {
                    let mut words = line.split_whitespace();
                    words.next()?.parse::<u8>().ok()?;
                    words.next()
                })
                .collect();
            let mut wanted = [GATEWAY, PHYS, FAR].map(|place| place.like(address).to_string());
            if address.is_ipv6() && hops.first() == Some(&"*") {
                // busybox's traceroute6 knows its datagrams by their content, and the gateway's own
                // errors embed nothing behind the ports' header.
                wanted[0] = "*".to_owned();
            }
            assert_eq!(hops, wanted, "{program} {address}: {text}");
        }
    }
}

/// Neither end knows of the narrow link between them: the guest is told when what it sends does not
/// fit, believes it, and everything arrives.
pub fn a_narrow_link_is_found(site: &mut Site) {
    let Site { guests, lab, .. } = site;
    lab.phys.ip(&format!("link set far0 mtu {NARROW}"));
    // The far end sends what fits, and announces that it takes what its own link does.
    for (router, device, announced) in [
        (ROUTER.v4.to_string(), "", 1460),
        (ROUTER.v6.to_string(), " dev eth0", 1440),
    ] {
        let route = format!("default via {router}{device} mtu {NARROW} advmss {announced}");
        lab.far.ip(&format!("route replace {route}")).unwrap();
    }
    let wanted = guests[0].check("sha256sum </www/bulk").unwrap();
    for address in UPLINK.both() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let path = file.path().display().to_string();
        let fetch = format!("curl -gsS -m 60 -o {path} {}", url(address, 8080, "bulk"));
        lab.far.sh(&fetch).unwrap();
        let got = output(Command::new("sh").args(["-c", &format!("sha256sum <{path}")]));
        assert_eq!(file.path().metadata().unwrap().len(), BULK as u64);
        assert_eq!(got.unwrap(), wanted, "over the narrow link by {address}");

        let far = FAR.like(address);
        let route = guests[0]
            .check(&format!("/usr/sbin/ip route get {far}"))
            .unwrap();
        assert!(
            route.contains(&format!("mtu {NARROW}")),
            "the guest has not learned it: {route}"
        );
    }
    lab.phys.ip("link set far0 mtu 1500");
    for route in [
        format!("default via {}", ROUTER.v4),
        format!("default via {} dev eth0", ROUTER.v6),
    ] {
        lab.far.ip(&format!("route replace {route}")).unwrap();
    }
}

/// Datagrams of five packets there and back again.
pub fn long_datagrams_arrive(site: &mut Site) {
    let Site { guests, lab, .. } = site;
    for (netns, address) in [
        (lab.phys.netns(), IpAddr::from(PHYS.v4)),
        (lab.phys.netns(), PHYS.v6.into()),
        (&lab.far, FAR.v4.into()),
        (&lab.far, FAR.v6.into()),
    ] {
        let socket = udp(netns, address, 7000);
        socket
            .set_read_timeout(Some(Duration::from_millis(20)))
            .unwrap();
        let done = AtomicBool::new(false);
        let (text, heard) = thread::scope(|scope| {
            let over = Over(&done);
            let server = scope.spawn(|| {
                let (mut heard, mut got) = (Vec::<(SocketAddr, usize)>::new(), vec![0; 1 << 16]);
                while !done.load(Ordering::Relaxed) {
                    if let Ok((length, peer)) = socket.recv_from(&mut got) {
                        socket.send_to(&got[..length], peer).unwrap();
                        heard.push((peer, length));
                    }
                }
                heard
            });
            // A write is a datagram, and so is a read.
            let talk = format!(
                "exec 5<>/dev/udp/{address}/7000
                 dd if=/run/sent bs={LONG} count=1 >&5
                 timeout 10 dd bs=65536 count=1 of=/run/got <&5
                 cmp /run/sent /run/got && echo same"
            );
            let text = guests[0].check(&format!(
                "head -c {LONG} /dev/urandom >/run/sent
                 cat >/run/talk <<'END'\n{talk}\nEND
                 /usr/bin/bash /run/talk"
            ));
            drop(over);
            (text.unwrap(), server.join().unwrap())
        });
        assert!(text.contains("same"), "{address}: {text}{heard:?}");
        assert_eq!(heard.len(), 1, "{heard:?}");
        assert_eq!((heard[0].0.ip(), heard[0].1), (UPLINK.like(address), LONG));
    }
}
