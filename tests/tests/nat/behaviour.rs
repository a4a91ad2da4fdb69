//! What a STUN client finds out about the gateway (RFC 5780), for each way of mapping and filtering.

use std::{net::IpAddr, time::Duration};

use vnet_tests::nat::{
    Behaviour, Lab, PHYS, PHYS_TWO, Responder, Scope, UPLINK, any, behaviour, udp,
};

fn responders(lab: &Lab) -> [Responder; 2] {
    [
        [PHYS.v4.into(), PHYS_TWO.v4.into()],
        [IpAddr::from(PHYS.v6), PHYS_TWO.v6.into()],
    ]
    .map(|addresses| Responder::start(lab.phys.netns(), addresses))
}

#[track_caller]
fn behaves(options: &str, mapping: Scope, filtering: Scope) {
    let lab = Lab::masquerading(options);
    let vm = lab.vm(11);
    for responder in responders(&lab) {
        let wanted = Behaviour {
            mapping,
            filtering,
            preserves_ports: true,
        };
        let got = behaviour(vm.netns(), &responder);
        assert_eq!(got, wanted, "{options}, {}", responder.place(0));
    }
}

/// Where nothing translates, the client finds that.
#[test]
fn stun_finds_no_nat_where_there_is_none() {
    let lab = Lab::new();
    for responder in responders(&lab) {
        let nothing = Behaviour {
            mapping: Scope::Endpoint,
            filtering: Scope::Endpoint,
            preserves_ports: true,
        };
        assert_eq!(behaviour(&lab.far, &responder), nothing);
        assert_eq!(behaviour(lab.host.netns(), &responder), nothing);
    }
}

#[test]
fn stun_eim_eif() {
    behaves(
        "--mapping eim --filtering eif",
        Scope::Endpoint,
        Scope::Endpoint,
    );
}

#[test]
fn stun_eim_adf() {
    behaves(
        "--mapping eim --filtering adf",
        Scope::Endpoint,
        Scope::Address,
    );
}

#[test]
fn stun_eim_apdf() {
    behaves(
        "--mapping eim --filtering apdf",
        Scope::Endpoint,
        Scope::AddressAndPort,
    );
}

#[test]
fn stun_default() {
    behaves("", Scope::Endpoint, Scope::Address);
}

/// A mapping for one remote end alone is of use to that one alone, whatever the filter.
const OF_SYMMETRIC: Scope = Scope::AddressAndPort;

#[test]
fn stun_symmetric_eif() {
    behaves(
        "--mapping symmetric --filtering eif",
        Scope::AddressAndPort,
        OF_SYMMETRIC,
    );
}

#[test]
fn stun_symmetric_adf() {
    behaves(
        "--mapping symmetric --filtering adf",
        Scope::AddressAndPort,
        OF_SYMMETRIC,
    );
}

#[test]
fn stun_symmetric_apdf() {
    behaves(
        "--mapping symmetric --filtering apdf",
        Scope::AddressAndPort,
        OF_SYMMETRIC,
    );
}

/// Two VMs that know each other's mapping talk by it, each seen as from outside (RFC 4787, REQ-9).
#[test]
fn stun_hairpin_of_mappings() {
    let lab = Lab::masquerading("--filtering eif");
    let vms = [11, 12].map(|number| lab.vm(number));
    for responder in responders(&lab) {
        let here = any(responder.place(0).ip());
        let sockets = vms.each_ref().map(|vm| udp(vm.netns(), here, 6000));
        let [one, two] = [0, 1].map(|number: usize| {
            let mapped = responder.ask(&sockets[number], 0, 0);
            let mapped = mapped.expect("the responder answers");
            assert_eq!(mapped.ip(), UPLINK.like(here));
            mapped
        });
        assert_ne!(one, two);
        for socket in &sockets {
            socket
                .set_read_timeout(Some(Duration::from_secs(3)))
                .unwrap();
        }
        let mut got = [0; 64];
        for (from, to, own, there) in [(0, 1, one, two), (1, 0, two, one)] {
            sockets[from].send_to(b"hello, neighbour", there).unwrap();
            let (length, peer) = sockets[to].recv_from(&mut got).unwrap();
            assert_eq!((&got[..length], peer), (&b"hello, neighbour"[..], own));
        }
        // To itself.
        sockets[0].send_to(b"it is me", one).unwrap();
        let (length, peer) = sockets[0].recv_from(&mut got).unwrap();
        assert_eq!((&got[..length], peer), (&b"it is me"[..], one));
    }
}

/// Filtering is for who is outside: between VMs that know each other's mapping it would keep out both,
/// for neither has been let in first.
#[test]
fn stun_hairpin_is_not_filtered() {
    let lab = Lab::masquerading("--filtering apdf");
    let vms = [11, 12].map(|number| lab.vm(number));
    let responder = &responders(&lab)[0];
    let sockets = vms
        .each_ref()
        .map(|vm| udp(vm.netns(), any(PHYS.v4.into()), 6000));
    let [one, two] = [0, 1].map(|number: usize| responder.ask(&sockets[number], 0, 0).unwrap());
    let mut got = [0; 64];
    sockets[0].send_to(b"asked", two).unwrap();
    assert!(matches!(sockets[1].recv_from(&mut got), Ok((5, peer)) if peer == one));
    sockets[1].send_to(b"answer", one).unwrap();
    assert!(matches!(sockets[0].recv_from(&mut got), Ok((6, peer)) if peer == two));
}

/// A mapping stays while its VM sends, to whomever (RFC 4787, REQ-6).
#[test]
fn stun_mapping_is_stable() {
    let lab = Lab::masquerading("");
    let vm = lab.vm(11);
    let responder = &responders(&lab)[0];
    let socket = udp(vm.netns(), any(PHYS.v4.into()), 0);
    let first = responder.ask(&socket, 0, 0).unwrap();
    for round in 0..20 {
        assert_eq!(responder.ask(&socket, round % 4, round % 4), Some(first));
    }
}

/// Well-known ports are not taken by default, so a VM that comes from one gets another one.
#[test]
fn stun_low_ports_become_high() {
    let lab = Lab::masquerading("");
    let vm = lab.vm(11);
    for responder in responders(&lab) {
        let socket = udp(vm.netns(), any(responder.place(0).ip()), 500);
        let mapped = responder.ask(&socket, 0, 0).unwrap();
        if lab.lane == vnet_tests::nat::Lane::Vnet {
            assert!(mapped.port() >= 1024, "{mapped}");
        }
    }
}

/// Ports stay within the range that the rule names.
#[test]
fn stun_ports_in_range() {
    let lab = Lab::masquerading("--ports 40000-40099");
    let vm = lab.vm(11);
    for responder in responders(&lab) {
        for _ in 0..10 {
            let socket = udp(vm.netns(), any(responder.place(0).ip()), 0);
            let mapped = responder.ask(&socket, 0, 0).unwrap();
            assert!((40_000..=40_099).contains(&mapped.port()), "{mapped}");
        }
        let socket = udp(vm.netns(), any(responder.place(0).ip()), 40_050);
        let mapped = responder.ask(&socket, 0, 0).unwrap();
        assert!((40_000..=40_099).contains(&mapped.port()), "{mapped}");
    }
}
