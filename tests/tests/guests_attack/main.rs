//! A real virtual machine that attacks another one: a QEMU guest on a port with a strict guard, its MAC and
//! IP addresses and a group, which sends from inside whatever it likes, byte for byte.
//!
//! Each frame is dropped for the reason that it should be, or is one that the groups allow; nothing else
//! comes to the victim, out of the uplink or to the host. One boot serves all of it. Without QEMU or the
//! image that `cargo xtask setup` makes, these tests fail.

mod cases;

use std::{
    collections::BTreeMap, fmt::Write as _, net::IpAddr, path::PathBuf, sync::Arc, time::Duration,
};

use tempfile::TempDir;
use vnet_tests::{
    host::{Addresses, FdbRow, Host, Mac, Station},
    traffic::reaches,
    wait,
    wire::{Frame, Heard, PacketSocket, Wire as _},
};
use xtask::guest::Guest;

use crate::cases::{Case, Fate};

/// How long the guests may take to boot; they are emulated.
const BOOT_LIMIT: Duration = Duration::from_secs(120);

/// How long frames may take from the guest's card to the last counter.
const LIMIT: Duration = Duration::from_secs(10);

/// The numbers of who takes part: their addresses end with them.
const ATTACKER: u8 = 1;
const VICTIM: u8 = 2;
const PHYS: u8 = 100;

/// Where the attacker has its frames, a file a case.
const FRAMES: &str = "/frames";

/// Drops by port and reason.
type Drops = BTreeMap<(String, String), u64>;

/// Two guests, the host of their switch, and a physical host behind `up0`.
struct Site {
    /// Ended before the host is.
    attacker: Guest,
    victim: Guest,
    phys: Arc<Station>,
    /// What comes out of the victim's port.
    heard: PacketSocket,
    /// What comes out of the uplink, and to the host.
    elsewhere: [PacketSocket; 2],
    host: Host,
}

impl Site {
    /// The guests boot while the switch is being configured; the attacker's frames are in its image.
    fn new(cases: &[Case]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let host = Host::new();
        let mut config = host.guest_config(ATTACKER);
        let sender = env!("CARGO_BIN_EXE_send_frames").as_ref();
        config.add_program("/bin/send_frames", sender).unwrap();
        config.extra_files.extend(files(&dir, cases));
        let mut attacker = host.boot(config);
        let mut victim = host.boot(host.guest_config(VICTIM));
        let phys = host.phys();
        host.vnet("up --uplink up0");
        let (own, [v4, v6]) = (Mac::of(ATTACKER), Addresses::new(ATTACKER).both());
        host.vnet(&format!(
            "port add tap1 --mac {own} --ip {v4} --ip {v6} --guard strict"
        ));
        host.vnet("port add tap2");
        for (group, direction, other) in [("tenant", "out", "in"), ("server", "in", "out")] {
            host.vnet(&format!("policy group add {group}"));
            for proto in ["tcp --ports 80", "icmp", "icmpv6"] {
                host.vnet(&format!(
                    "policy rule add {group} --direction {direction} --action allow --proto {proto}"
                ));
            }
            host.vnet(&format!(
                "policy rule add {group} --direction {other} --action allow"
            ));
        }
        let open = |interface, heard| PacketSocket::open(host.netns(), interface, heard);
        let heard = open("tap2", Heard::Sent);
        let elsewhere = [
            open("up0", Heard::Sent),
            open(host.switch(), Heard::Everything),
        ];
        for guest in [&mut attacker, &mut victim] {
            guest.wait_ready(BOOT_LIMIT).unwrap();
        }
        Self {
            attacker,
            victim,
            phys,
            heard,
            elsewhere,
            host,
        }
    }

    /// Everything that is dropped anywhere.
    #[track_caller]
    fn drops(&self) -> Drops {
        let mut drops = Drops::new();
        for row in self.host.rows("stats", "stats") {
            for (reason, count) in row["drops"].as_object().into_iter().flatten() {
                let port = row["port"].as_str().unwrap_or_default();
                *drops.entry((port.to_owned(), reason.clone())).or_default() +=
                    count.as_u64().unwrap();
            }
        }
        drops
    }

    /// What was dropped since.
    #[track_caller]
    fn drops_since(&self, before: &Drops) -> Drops {
        let mut drops = self.drops();
        for (place, count) in before {
            *drops.entry(place.clone()).or_default() -= count;
        }
        drops.retain(|_, count| *count != 0);
        drops
    }

    /// Has the attacker send the frames of a case, whose place among all is `number`; what groups deny is
    /// counted at `denying`.
    #[track_caller]
    fn attack(&mut self, number: usize, case: &Case, denying: &str) {
        let what = case.what;
        for socket in [&self.heard].into_iter().chain(&self.elsewhere) {
            while socket.receive_bytes().is_some() {}
        }
        let (before, mut wanted, mut passing) = (self.drops(), Drops::new(), Vec::new());
        for (frame, fate) in &case.frames {
            let (port, reason) = match fate {
                Fate::Passes => {
                    passing.push(frame.clone());
                    continue;
                }
                Fate::Dropped(reason) => ("tap1", *reason),
                Fate::Denied => (denying, "policy_denied"),
            };
            *wanted
                .entry((port.to_owned(), reason.to_owned()))
                .or_default() += 1;
        }
        let send = format!("send_frames eth0 {FRAMES}/{number}");
        self.attacker.check(&send).unwrap();

        let mut passed = Vec::new();
        let _ = wait::within(LIMIT, || {
            passed.extend(std::iter::from_fn(|| self.heard.receive()));
            (passed.len() >= passing.len() && self.drops_since(&before) == wanted).then_some(())
        });
        let came = |frame: &Frame| passed.contains(frame);
        for (frame, fate) in &case.frames {
            assert_eq!(
                came(frame),
                *fate == Fate::Passes,
                "{what}: {frame:?}, {fate:?}"
            );
        }
        assert_eq!(passed.len(), passing.len(), "{what}: {passed:?}");
        assert_eq!(self.drops_since(&before), wanted, "{what}");
        for socket in &self.elsewhere {
            let came: Vec<_> = std::iter::from_fn(|| socket.receive()).collect();
            assert!(came.is_empty(), "{what}: {came:?}");
        }
    }

    /// Everybody reaches whom he may, and is taken for nobody else.
    #[track_caller]
    fn all_is_well(&mut self) {
        let [attacker, victim] = [ATTACKER, VICTIM].map(Addresses::new);
        for address in victim.both() {
            let page = self.attacker.check(&format!(
                "timeout 20 wget -q -O - http://{}/",
                in_url(address)
            ));
            assert_eq!(page.unwrap(), "This is vm2.\n", "{address}");
        }
        let phys = self.phys.addresses();
        for (guest, peers) in [
            (&mut self.attacker, [victim, phys]),
            (&mut self.victim, [attacker, phys]),
        ] {
            for address in peers.into_iter().flat_map(Addresses::both) {
                let done = guest.run(&format!("ping -c 1 -W 5 {address}")).unwrap();
                assert!(done.success(), "{} to {address}", guest.config().name);
            }
        }
        for address in victim.both() {
            assert!(reaches(self.phys.netns(), address), "{address}");
        }
        // Whose MAC address is behind an IP address, as the victim knows it.
        let known = self.victim.check("ip neigh show dev eth0").unwrap();
        for (addresses, mac) in [(attacker, Mac::of(ATTACKER)), (phys, Mac::of(PHYS))] {
            for address in addresses.both() {
                let line = known
                    .lines()
                    .find(|line| line.split_whitespace().next() == Some(&*address.to_string()));
                let line = line.unwrap_or_else(|| panic!("{address} is not in\n{known}"));
                assert!(line.contains(&mac.to_string()), "{line}");
            }
        }
        assert!(
            !known.contains("10.0.0.77") && !known.contains("fd00::77"),
            "{known}"
        );
        let routes = self.victim.check("ip -6 route show").unwrap();
        assert!(!routes.contains("default"), "{routes}");
    }

    /// The addresses that are known behind the attacker's port.
    #[track_caller]
    fn behind_the_attacker(&self) -> Vec<String> {
        let rows = self.host.fdb().into_iter();
        rows.filter(|row| row.port == "tap1")
            .map(|FdbRow { mac, kind, .. }| format!("{mac} {kind}"))
            .collect()
    }
}

/// Writes the frames of each case to a file that the guest is to have.
fn files(dir: &TempDir, cases: &[Case]) -> Vec<(PathBuf, PathBuf)> {
    cases
        .iter()
        .enumerate()
        .map(|(number, case)| {
            let mut text = String::new();
            for (frame, _) in &case.frames {
                for byte in frame.bytes() {
                    write!(text, "{byte:02x}").unwrap();
                }
                text.push('\n');
            }
            let path = dir.path().join(number.to_string());
            std::fs::write(&path, text).unwrap();
            (PathBuf::from(format!("{FRAMES}/{number}")), path)
        })
        .collect()
}

/// An address as a URL has it.
fn in_url(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => format!("[{address}]"),
    }
}

#[test]
fn a_guest_that_attacks_gets_nothing_through() {
    let mut cases = cases::for_the_guards();
    let guards = cases.len();
    cases.extend(cases::for_the_groups());
    let mut site = Site::new(&cases);
    let (guards, groups) = cases.split_at(guards);

    // The attacker's group lets it ask for little; then the victim's is the one that lets little in.
    site.host.vnet("policy bind tenant tap1");
    site.all_is_well();
    let own = format!("{} learned", Mac::of(ATTACKER));
    assert_eq!(site.behind_the_attacker(), [&*own]);
    for (number, case) in guards.iter().enumerate() {
        site.attack(number, case, "tap1");
    }
    for (number, case) in groups.iter().enumerate() {
        site.attack(guards.len() + number, case, "tap1");
    }
    assert_eq!(site.behind_the_attacker(), [&*own]);
    site.all_is_well();

    site.host.vnet("policy unbind tenant tap1");
    site.host.vnet("policy bind server tap2");
    site.host.vnet("flow flush");
    for (number, case) in groups.iter().enumerate() {
        site.attack(guards.len() + number, case, "tap2");
    }
    site.all_is_well();
}
