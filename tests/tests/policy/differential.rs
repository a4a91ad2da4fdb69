//! The same rules in force by vnet and by nftables, and the same connections: what comes of each is the
//! same, down to the error that the sender is told.
//!
//! A VM in groups is on one network, whoever speaks to it on another, and the host in between routes. By
//! nftables the rules are in the host's forward chain, behind its connection tracking.

use std::net::IpAddr;

use vnet_tests::{
    nat::{BLUE, Both, LAN, Lab, Lane, Vm},
    traffic::reaches,
};

use crate::{
    attempt::{Attempt, By, Came, Services, come, expect},
    policy,
};

/// The VM that is in a group.
const POLICED: u8 = 11;
/// Numbers of the addresses that the other one has.
const PEERS: [u8; 3] = [12, 13, 14];

const TCP: [u16; 8] = [22, 443, 7999, 8000, 8010, 8011, 8101, 8200];
const UDP: [u16; 5] = [53, 999, 1000, 2000, 2001];

/// A rule as both are told.
struct Rule {
    out: bool,
    action: &'static str,
    proto: Option<&'static str>,
    ports: Option<&'static str>,
    remote: Option<String>,
    priority: u16,
}

impl Rule {
    /// `in tcp 8000-8010`, with `-` for whatever does not matter.
    fn new(
        words: &'static str,
        remote: Option<String>,
        action: &'static str,
        priority: u16,
    ) -> Self {
        let words: Vec<_> = words.split(' ').collect();
        let said = |word: &'static str| (word != "-").then_some(word);
        Self {
            out: words[0] == "out",
            action,
            proto: said(words[1]),
            ports: said(words[2]),
            remote,
            priority,
        }
    }

    /// The words of `policy rule add`.
    fn for_vnet(&self, group: &str) -> String {
        let direction = if self.out { "out" } else { "in" };
        let mut line = format!(
            "rule add {group} --direction {direction} --action {} --priority {}",
            self.action, self.priority
        );
        let options = [
            ("--proto", self.proto),
            ("--ports", self.ports),
            ("--remote", self.remote.as_deref()),
        ];
        for (option, value) in options {
            if let Some(value) = value {
                line += &format!(" {option} {value}");
            }
        }
        line
    }

    /// The same for `nft`, which resets only what is known to be TCP.
    fn for_nft(&self) -> String {
        let whole = self.words_for_nft();
        if self.action != "reject" || self.proto.is_some() {
            return whole;
        }
        let tcp = Self {
            proto: Some("tcp"),
            remote: self.remote.clone(),
            ..*self
        };
        format!("{}\n{whole}", tcp.words_for_nft())
    }

    fn words_for_nft(&self) -> String {
        let mut words = Vec::new();
        if let Some(remote) = &self.remote {
            let family = if remote.contains(':') { "ip6" } else { "ip" };
            let end = if self.out { "daddr" } else { "saddr" };
            words.push(format!("{family} {end} {remote}"));
        }
        match (self.proto, self.ports) {
            (Some(proto), Some(ports)) => words.push(format!("{proto} dport {ports}")),
            (Some(proto), None) => words.push(format!("meta l4proto {proto}")),
            _ => {}
        }
        words.push(
            match (self.action, self.proto) {
                ("allow", _) => "accept",
                ("deny", _) => "drop",
                (_, Some("tcp")) => "reject with tcp reset",
                _ => "reject with icmpx type admin-prohibited",
            }
            .to_owned(),
        );
        words.join(" ")
    }
}

/// Rules whose priorities and prefixes cross.
fn rules() -> Vec<Rule> {
    let one = |number: u8| BLUE.address(number);
    let v4 = |number: u8| Some(format!("{}/32", one(number).v4));
    let v6 = |number: u8| Some(format!("{}/128", one(number).v6));
    let all_v4 = Some("10.0.1.0/24".to_owned());
    let all_v6 = Some("fd00:11::/64".to_owned());
    vec![
        Rule::new("in tcp 22", None, "allow", 1000),
        Rule::new("in tcp 8000-8100", all_v4.clone(), "allow", 1000),
        Rule::new("in tcp 8000-8100", all_v6.clone(), "allow", 900),
        Rule::new("in tcp 8000-8010", v4(12), "deny", 10),
        Rule::new("in tcp 8010", v6(13), "reject", 899),
        Rule::new("in tcp 8200", None, "reject", 1000),
        Rule::new("in udp 53", all_v4, "allow", 1000),
        Rule::new("in udp 1000-2000", None, "reject", 2000),
        Rule::new("in udp 1000", v6(12), "allow", 1999),
        Rule::new("in icmp -", v4(13), "allow", 1000),
        Rule::new("in ipv6-icmp -", all_v6, "allow", 1000),
        Rule::new("in ipv6-icmp -", v6(14), "deny", 5),
        Rule::new("out tcp 443", None, "allow", 1000),
        Rule::new("out udp 53", v4(12), "reject", 1),
        Rule::new("out udp 53", None, "allow", 2),
        Rule::new("out - -", v6(14), "reject", 3),
        Rule::new("out icmp -", v4(14), "deny", 1999),
        Rule::new("out icmp -", None, "allow", 2000),
    ]
}

/// Has the rules decide for what goes to the VM and comes from it.
#[track_caller]
fn enforce(lab: &Lab) {
    let mut rules = rules();
    if lab.lane == Lane::Vnet {
        policy(&lab.host, &["group add all"]);
        for rule in &rules {
            let line = rule.for_vnet("all").replace("ipv6-icmp", "icmpv6");
            policy(&lab.host, &[&line]);
        }
        policy(&lab.host, &[&format!("bind all vm{POLICED}")]);
        return;
    }
    rules.sort_by_key(|rule| rule.priority);
    // The kernel tells only so many a second otherwise.
    lab.host.sh("echo 0 >/proc/sys/net/ipv4/icmp_ratelimit
         echo 0 >/proc/sys/net/ipv6/icmp/ratelimit");
    let chain = |out: bool| -> String {
        let own = rules.iter().filter(|rule| rule.out == out);
        own.map(|rule| rule.for_nft() + "\n").collect()
    };
    let lan = LAN.name;
    lab.host.sh(&format!(
        "nft -f - <<'end'
         table inet verdicts {{
           chain to_vm {{
             {}
             drop
           }}
           chain from_vm {{
             {}
             drop
           }}
           chain forward {{
             type filter hook forward priority filter;
             ct state established,related accept
             oifname {lan} jump to_vm
             iifname {lan} jump from_vm
           }}
         }}\nend",
        chain(false),
        chain(true)
    ));
}

/// Everything that is attempted, from the VM and from each address of the other one.
fn attempts<'a>(policed: &'a Vm, peer: &'a Vm) -> Vec<Attempt<'a>> {
    let all = || {
        let tcp = TCP.into_iter().map(By::Tcp);
        tcp.chain(UDP.into_iter().map(By::Udp)).chain([By::Ping])
    };
    let mut attempts = Vec::new();
    for number in PEERS {
        let Both { v4, v6 } = BLUE.address(number);
        for own in [IpAddr::from(v4), v6.into()] {
            for by in all() {
                attempts.push(Attempt {
                    own: Some(own),
                    ..Attempt::new(peer.netns(), policed.address.like(own), by)
                });
                attempts.push(Attempt::new(policed.netns(), own, by));
            }
        }
    }
    attempts
}

/// What comes of all of it.
#[track_caller]
fn outcome(lane: Lane) -> Vec<String> {
    let lab = Lab::in_lane(lane);
    lab.network(BLUE);
    let (policed, peer) = (lab.vm(POLICED), lab.vm_on(BLUE, PEERS[0]));
    let mut addresses = Vec::new();
    for number in PEERS {
        let Both { v4, v6 } = BLUE.address(number);
        if number != PEERS[0] {
            peer.ip(&format!("addr add {v4}/24 dev eth0"));
            peer.ip(&format!("addr add {v6}/64 dev eth0 nodad"));
        }
        addresses.extend([IpAddr::from(v4), v6.into()]);
    }
    let _services = [
        Services::new(policed.netns(), &policed.address.both(), &TCP, &UDP),
        Services::new(peer.netns(), &addresses, &TCP, &UDP),
    ];
    // While it checks the addresses of a gateway's interface the kernel looks for nobody there.
    for address in &addresses {
        assert!(reaches(policed.netns(), *address), "{address}");
    }
    let attempts = attempts(&policed, &peer);
    // Without rules everything gets through: else what is denied says little.
    let open: Vec<_> = attempts
        .iter()
        .map(|attempt| (*attempt, Came::Through))
        .collect();
    expect(&open);
    enforce(&lab);
    come(&attempts)
        .into_iter()
        .zip(&attempts)
        .map(|(came, Attempt { own, to, by, .. })| match own {
            Some(own) => format!("in from {own} by {by:?}: {came:?}"),
            None => format!("out to {to} by {by:?}: {came:?}"),
        })
        .collect()
}

#[test]
fn nftables_decides_the_same() {
    let (vnet, nft) = (outcome(Lane::Vnet), outcome(Lane::Reference));
    let differing: Vec<_> = vnet
        .iter()
        .zip(&nft)
        .filter(|(vnet, nft)| vnet != nft)
        .collect();
    assert!(differing.is_empty(), "vnet, and nft: {differing:#?}");
    // The rules tell many apart.
    for (word, least) in [("Through", 40), ("Refused", 20), ("Nowhere", 60)] {
        let count = vnet.iter().filter(|line| line.contains(word)).count();
        assert!(count >= least, "{word}: {count} of {}", vnet.len());
    }
}
