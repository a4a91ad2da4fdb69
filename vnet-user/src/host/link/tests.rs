//! [`Links`] against the running kernel, each test in a namespace of its own.

use super::super::testing::{
    OtherNamespace, Tap, create_veth, in_new_netns, move_to_namespace, promiscuous_packet_socket,
    without_capabilities,
};
use super::*;

/// Higher than any that the kernel draws at random, so a bridge that followed its ports would show.
const MAC: [u8; 6] = [0xfe, 0xff, 0xff, 0xff, 0xff, 0xff];

fn link(links: &Links, name: &str) -> Result<Link> {
    links
        .by_name(name)?
        .with_context(|| format!("no interface {name}"))
}

#[test]
fn a_new_namespace_has_a_loopback() {
    in_new_netns(|| {
        let links = Links::open()?;
        let lo = link(&links, "lo")?;
        assert_eq!(
            (lo.index, &lo.kind, lo.ethernet),
            (1, &LinkKind::Loopback, false)
        );
        assert!(links.list()?.contains(&lo));
        Ok(())
    });
}

#[test]
fn what_is_not_there_is_none() {
    in_new_netns(|| {
        let links = Links::open()?;
        assert_eq!(links.by_name("none")?, None);
        assert_eq!(links.by_name("")?, None);
        assert_eq!(links.by_name("longer-than-fifteen-bytes")?, None);
        assert_eq!(links.by_name(&"x".repeat(500))?, None);
        assert_eq!(links.by_index(4000)?, None);
        assert_eq!(links.by_index(0)?, None);
        let error = format!("{:#}", links.set_up(4000, true).expect_err("there is none"));
        assert!(
            error.contains("4000") && error.contains("No such device"),
            "{error}"
        );
        Ok(())
    });
}

#[test]
fn a_bridge_keeps_its_mac() {
    in_new_netns(|| {
        let links = Links::open()?;
        let bridge = links.create_bridge("br0", MAC)?;
        assert_eq!(bridge.kind, LinkKind::Bridge);
        assert_eq!(bridge.mac, MAC);
        assert!(!bridge.up);
        let facts = bridge.bridge.context("a bridge")?;
        assert!(!facts.stp && !facts.multicast_snooping && !facts.vlan_filtering);
        assert!(!links.bridge_stp_enabled(bridge.index)?);
        assert!(links.bridge_stp_enabled(1).is_err(), "lo is not a bridge");

        let taps: Result<Vec<_>> = (0..3).map(|n| Tap::new(&format!("t{n}"))).collect();
        let taps = taps?;
        for n in 0..taps.len() {
            let tap = link(&links, &format!("t{n}"))?;
            assert_eq!((&tap.kind, tap.ethernet), (&LinkKind::Tun, true));
            assert!(tap.mac < MAC);
            links.set_up(tap.index, true)?;
            links.set_master(tap.index, Some(bridge.index))?;
            assert_eq!(link(&links, &tap.name)?.master, Some(bridge.index));
        }
        links.set_up(bridge.index, true)?;
        assert_eq!(link(&links, "br0")?.mac, MAC);

        let first = link(&links, "t0")?;
        links.set_master(first.index, None)?;
        assert_eq!(link(&links, "t0")?.master, None);
        links.delete(bridge.index)?;
        assert_eq!(links.by_name("br0")?, None);
        assert_eq!(link(&links, "t1")?.master, None);
        Ok(())
    });
}

#[test]
fn a_bridge_is_not_created_twice_or_badly() {
    in_new_netns(|| {
        let links = Links::open()?;
        links.create_bridge("br0", MAC)?;
        let error = format!(
            "{:#}",
            links.create_bridge("br0", MAC).expect_err("it is there")
        );
        assert!(
            error.contains("br0") && error.contains("File exists"),
            "{error}"
        );
        assert!(links.create_bridge("", MAC).is_err());
        assert!(links.create_bridge("sixteen-bytes-xx", MAC).is_err());
        assert!(links.create_bridge("a/b", MAC).is_err());
        assert!(
            links.create_bridge("br1", [1, 0, 0, 0, 0, 0]).is_err(),
            "a multicast address"
        );
        assert!(links.create_bridge("br1", [0; 6]).is_err());
        assert_eq!(links.by_name("br1")?, None);
        Ok(())
    });
}

#[test]
fn a_bridges_mtu_once_set_stays() {
    in_new_netns(|| {
        let links = Links::open()?;
        let bridge = links.create_bridge("br0", MAC)?;
        create_veth("v0", "v1")?;
        create_veth("w0", "w1")?;
        let (small, smaller) = (link(&links, "v0")?, link(&links, "w0")?);
        links.set_mtu(small.index, 1400)?;
        links.set_mtu(smaller.index, 1300)?;
        links.set_master(small.index, Some(bridge.index))?;
        assert_eq!(
            link(&links, "br0")?.mtu,
            1400,
            "not set, it follows the lowest"
        );
        for mtu in [65_535, 9000] {
            links.set_mtu(bridge.index, mtu)?;
            assert_eq!(link(&links, "br0")?.mtu, mtu);
        }
        links.set_master(smaller.index, Some(bridge.index))?;
        assert_eq!(link(&links, "br0")?.mtu, 9000, "set, it does not");
        let error = format!(
            "{:#}",
            links.set_mtu(bridge.index, 65_536).expect_err("too large")
        );
        assert!(
            error.contains("65536") && error.contains("maximum"),
            "{error}"
        );
        Ok(())
    });
}

#[test]
fn promiscuous_is_set_and_released() {
    in_new_netns(|| {
        let links = Links::open()?;
        create_veth("v0", "v1")?;
        let state = || link(&links, "v0").map(|v0| (v0.promiscuous, v0.promiscuity));
        let index = link(&links, "v0")?.index;
        assert_eq!(state()?, (false, 0));
        assert!(!links.set_promiscuous(index, true)?);
        assert_eq!(state()?, (true, 1));
        assert!(links.set_promiscuous(index, true)?, "it was on already");
        assert_eq!(state()?, (true, 1));

        let tcpdump = promiscuous_packet_socket(index)?;
        assert_eq!(state()?, (true, 2));
        assert!(links.set_promiscuous(index, false)?);
        assert_eq!(state()?, (false, 1), "the packet socket's remains");
        assert!(!links.set_promiscuous(index, false)?);
        assert_eq!(state()?, (false, 1), "released once, not twice");
        drop(tcpdump);
        assert_eq!(state()?, (false, 0));

        // The other way round, while a packet socket holds it first.
        let tcpdump = promiscuous_packet_socket(index)?;
        assert!(!links.set_promiscuous(index, true)?);
        drop(tcpdump);
        assert_eq!(state()?, (true, 1), "ours remains");
        // Setting it up must not touch the flag.
        links.set_up(index, true)?;
        assert_eq!(state()?, (true, 1));
        assert!(links.set_promiscuous(4000, true).is_err());
        Ok(())
    });
}

#[test]
fn options_of_a_bridge_port() {
    in_new_netns(|| {
        let links = Links::open()?;
        let bridge = links.create_bridge("br0", MAC)?;
        create_veth("v0", "v1")?;
        let index = link(&links, "v0")?.index;
        let isolated = BridgePortFlags {
            isolated: true,
            flood: false,
            learning: false,
        };
        assert!(
            links.set_bridge_port(index, isolated).is_err(),
            "not a member yet"
        );

        links.set_master(index, Some(bridge.index))?;
        let port = link(&links, "v0")?.bridge_port.context("a member")?;
        let default = BridgePortFlags {
            isolated: false,
            flood: true,
            learning: true,
        };
        assert_eq!(
            port,
            BridgePort {
                state: BridgePortState::Disabled,
                flags: default
            }
        );
        for flags in [isolated, default] {
            links.set_bridge_port(index, flags)?;
            let port = link(&links, "v0")?.bridge_port.context("a member")?;
            assert_eq!(port.flags, flags);
        }

        for up in ["v0", "v1", "br0"] {
            links.set_up(link(&links, up)?.index, true)?;
        }
        let port = link(&links, "v0")?;
        assert!(port.up && port.carrier);
        let state = port.bridge_port.context("a member")?.state;
        assert_eq!(
            state,
            BridgePortState::Forwarding,
            "at once, without spanning tree"
        );
        assert_eq!(link(&links, "v1")?.bridge_port, None);
        Ok(())
    });
}

#[test]
fn peers_of_veths() {
    in_new_netns(|| {
        let links = Links::open()?;
        create_veth("v0", "v1")?;
        let (near, far) = (link(&links, "v0")?, link(&links, "v1")?);
        assert_eq!((near.peer_index, near.peer_nsid), (Some(far.index), None));
        assert_eq!((far.peer_index, far.peer_nsid), (Some(near.index), None));
        assert_eq!(
            (&near.kind, near.num_tx_queues > 0),
            (&LinkKind::Veth, true)
        );

        let other = OtherNamespace::new();
        move_to_namespace(&links, "v1", other.fd())?;
        assert_eq!(links.by_name("v1")?, None);
        let near = link(&links, "v0")?;
        assert_eq!(
            near.peer_index,
            Some(far.index),
            "the index moves along where it is free"
        );
        assert!(near.peer_nsid.is_some_and(|nsid| nsid >= 0));
        let listed = links.list()?.into_iter().find(|link| link.name == "v0");
        assert_eq!(
            listed,
            Some(near),
            "a dump says the same as a single question"
        );
        Ok(())
    });
}

#[test]
fn a_peer_with_the_same_index_elsewhere_is_named() {
    in_new_netns(|| {
        let links = Links::open()?;
        let other = OtherNamespace::new();
        create_veth("v0", "v1")?;
        // Both ends get the lowest free index of their own namespace in time.
        move_to_namespace(&links, "v1", other.fd())?;
        let there = super::super::netns::with_netns(other.fd(), || {
            let far = Links::open()?;
            create_veth("x0", "x1")?;
            Ok(link(&far, "v1")?.index)
        })?;
        let near = link(&links, "v0")?;
        assert_eq!(near.peer_index, Some(there));
        Ok(())
    });
}

#[test]
fn a_thousand_interfaces_in_one_dump() {
    in_new_netns(|| {
        let links = Links::open()?;
        for n in 0..500 {
            create_veth(&format!("a{n}"), &format!("b{n}"))?;
        }
        let all = links.list()?;
        assert_eq!(
            all.iter()
                .filter(|link| link.kind == LinkKind::Veth)
                .count(),
            1000
        );
        assert!(all.is_sorted_by_key(|link| link.index));
        for link in &all {
            assert_eq!(links.by_index(link.index)?.as_ref(), Some(link));
        }
        Ok(())
    });
}

#[test]
fn a_listing_works_while_interfaces_change() {
    in_new_netns(|| {
        let links = Links::open()?;
        for n in 0..100 {
            create_veth(&format!("a{n}"), &format!("b{n}"))?;
        }
        let (_, own) = (
            links.list()?,
            std::fs::File::open("/proc/thread-self/ns/net")?,
        );
        std::thread::scope(|scope| -> Result<()> {
            use std::os::fd::AsFd as _;
            let churn = scope.spawn(|| {
                super::super::netns::with_netns(own.as_fd(), || {
                    let links = Links::open()?;
                    for _ in 0..100 {
                        create_veth("x0", "x1")?;
                        links.delete(link(&links, "x0")?.index)?;
                    }
                    Ok(())
                })
            });
            while !churn.is_finished() {
                let seen = links.list()?;
                for n in 0..100 {
                    let name = format!("a{n}");
                    assert!(
                        seen.iter().any(|link| link.name == name),
                        "{name} is missing"
                    );
                }
            }
            churn.join().expect("no panic")
        })
    });
}

#[test]
fn an_alternative_name_finds_the_interface() {
    /// linux/rtnetlink.h
    const RTM_NEWLINKPROP: u16 = 108;
    in_new_netns(|| {
        let links = Links::open()?;
        create_veth("v0", "v1")?;
        let v0 = link(&links, "v0")?;
        for name in ["short", "a-name-of-more-than-fifteen-bytes"] {
            let message = Message::new(RTM_NEWLINKPROP, &ifinfomsg(0, v0.index, 0, 0))
                .nested(libc::IFLA_PROP_LIST, |list| {
                    list.string(libc::IFLA_ALT_IFNAME, name)
                });
            let flags = libc::NLM_F_CREATE | libc::NLM_F_EXCL | libc::NLM_F_APPEND;
            links.socket().change(message, flags)?;
            assert_eq!(links.by_name(name)?.as_ref(), Some(&v0));
        }
        Ok(())
    });
}

#[test]
fn a_change_without_privilege_names_the_mend() {
    in_new_netns(|| {
        let links = Links::open()?;
        without_capabilities(|| {
            let error = format!("{:#}", links.set_up(1, true).expect_err("not permitted"));
            assert!(error.contains("sudo"), "{error}");
            assert!(link(&links, "lo").is_ok(), "looking needs none");
            Ok(())
        })
    });
}
