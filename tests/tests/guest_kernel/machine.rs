//! A guest that is a host of a switch: a namespace in it is a VM, or a machine behind the uplink.

use std::{env, path::Path, time::Duration};

use serde_json::Value;
use vnet_tests::{host, host::Host, wait};
use vnet_user::datapath::object::PROGRAMS;
use xtask::{
    guest::Guest,
    paths::find_program,
    setup::{GuestImage, GuestKernel},
};

use crate::baseline::Figures;

/// How long booting and each command may take: all of it is emulated, the verifier too.
const LIMIT: Duration = Duration::from_secs(180);

/// busybox prefers its own `ip` and `tc` to whatever is on the PATH.
const PRELUDE: &str = "\
set -e
export PATH=/usr/sbin:/bin
ip() { /usr/sbin/ip \"$@\"; }
tc() { /usr/sbin/tc \"$@\"; }
";

/// The kernel's modules that a switch and its VMs need here.
const MODULES: &str = "\
for module in 8021q bridge veth sch_ingress cls_bpf; do
    modprobe $module
done";

/// The kernel that is asked for: VNET_TESTS_KERNEL, else the oldest that is supported.
pub fn kernel() -> &'static GuestKernel {
    match env::var("VNET_TESTS_KERNEL") {
        Ok(name) => GuestKernel::named(&name).unwrap_or_else(|error| panic!("{error:#}")),
        Err(_) => GuestKernel::oldest(),
    }
}

/// A guest that is a host of a switch.
pub struct Machine {
    /// Ended before the host is.
    guest: Guest,
    _host: Host,
}

impl Machine {
    /// With the program under test and iproute2, for busybox's `ip` knows neither namespaces nor
    /// veth.
    pub fn boot(kernel: &GuestKernel) -> Self {
        let host = Host::new();
        let image = GuestImage::with(kernel).unwrap_or_else(|error| panic!("{error:#}"));
        let release = image.version.clone();
        let mut config = host.guest_config(1);
        config.image = Some(image);
        config.memory = 512;
        let iproute2 = ["ip", "tc"].map(|name| (name, find_program(name).expect("iproute2")));
        let lister = env!("CARGO_BIN_EXE_loaded_programs");
        let ours = [
            ("vnet-user", host::binary()),
            ("loaded_programs", lister.into()),
        ];
        for (name, program) in ours.into_iter().chain(iproute2) {
            let inside = Path::new("/usr/sbin").join(name);
            config.add_program(inside, &program).unwrap();
        }
        let mut guest = host.boot(config);
        guest.wait_ready(LIMIT).unwrap();
        let mut machine = Self { guest, _host: host };
        assert_eq!(machine.release(), release);
        machine.sh(MODULES);
        machine
    }

    /// The kernel that it runs, as `uname -r` shows it.
    #[track_caller]
    pub fn release(&mut self) -> String {
        self.sh("uname -r").trim().to_owned()
    }

    /// Runs a shell script, which must succeed, and gives its output.
    #[track_caller]
    pub fn sh(&mut self, script: &str) -> String {
        let done = self.guest.run_within(&format!("{PRELUDE}{script}"), LIMIT);
        let done = done.unwrap();
        assert!(done.success(), "`{script}`:\n{}", done.stdout);
        done.stdout
    }

    /// The rows that `vnet-user` prints as JSON.
    #[track_caller]
    pub fn rows(&mut self, line: &str, key: &str) -> Value {
        let text = self.sh(&format!("vnet-user -j {line}"));
        let json: Value = serde_json::from_str(&text).unwrap();
        json[key].clone()
    }

    /// What is counted of a port.
    #[track_caller]
    pub fn stats(&mut self, port: &str) -> Value {
        let rows = self.rows("stats", "stats");
        let mut rows = rows.as_array().into_iter().flatten();
        let row = rows.find(|row| row["port"] == port);
        row.cloned().unwrap_or_default()
    }

    /// Whether pings from the namespace `from` are answered.
    pub fn reaches(&mut self, from: &str, to: &str) -> bool {
        let done = self.guest.run(&format!(
            "/usr/sbin/ip netns exec {from} /bin/ping -c 2 -W 2 {to}"
        ));
        done.unwrap().success()
    }

    /// Sends a text by TCP from one namespace to a listener on the port `listen` in another one, by
    /// way of `address` and the port `connect`; whether that is what arrived.
    #[track_caller]
    pub fn says(&mut self, from: &str, to: &str, address: &str, ports: (u16, u16)) -> bool {
        let (listen, connect) = ports;
        // 0A: TCP_LISTEN, include/net/tcp_states.h.
        let heard = self.sh(&format!(
            "ip netns exec {to} /bin/busybox nc -l -p {listen} > /tmp/heard </dev/null &
until ip netns exec {to} /bin/cat /proc/net/tcp /proc/net/tcp6 | grep -q ':{listen:04X} 0*:0000 0A'
do
    usleep 50000
done
echo said | ip netns exec {from} /bin/busybox nc -w 10 {address} {connect}
wait
cat /tmp/heard"
        ));
        heard == "said\n"
    }

    /// The programs of both hooks of an interface, as `tc` tells.
    pub fn filters(&mut self, interface: &str) -> usize {
        let text = self.sh(&format!(
            "tc filter show dev {interface} ingress; tc filter show dev {interface} egress"
        ));
        let is_ours = |line: &&str| line.contains("tc_ingress") || line.contains("tc_egress");
        text.lines().filter(is_ours).count()
    }

    /// The programs of ours that are in its kernel, each of which is there once, and what the
    /// verifier had to do for them.
    #[track_caller]
    pub fn programs(&mut self) -> Figures {
        let text = self.sh("loaded_programs");
        let mut figures = Figures::new();
        for line in text.lines() {
            let (name, verified) = line.split_once(' ').expect("a name and a number");
            if PROGRAMS.contains(&name) {
                let before = figures.insert(name.to_owned(), verified.parse().unwrap());
                assert_eq!(before, None, "twice in the kernel:\n{text}");
            }
        }
        figures
    }

    /// Waits until no program of ours is in its kernel: the last reference may go a moment after
    /// the command that gave it up.
    #[track_caller]
    pub fn wait_without_programs(&mut self) {
        let script = format!("{PRELUDE}loaded_programs");
        let mut last = String::new();
        let gone = wait::within(LIMIT, || {
            // It fails when a program goes while it lists them.
            let done = self.guest.run(&script).unwrap();
            let is_ours = |line: &str| PROGRAMS.iter().any(|name| line.starts_with(name));
            let is_gone = done.success() && !done.stdout.lines().any(is_ours);
            last = done.stdout;
            is_gone.then_some(())
        });
        assert!(gone.is_some(), "still in the kernel:\n{last}");
    }
}
