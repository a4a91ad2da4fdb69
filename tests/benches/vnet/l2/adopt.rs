//! How long it takes until an interface that somebody makes a member of the bridge is a port.

use std::{
    path::Path,
    process::Child,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use serde::Serialize;

use super::Options;
use crate::{
    lane::{ifindex, more_ports, namespace},
    pins,
    report::{Aim, Bound, number, percent, table},
    run::Findings,
    statistics::Rounds,
    vnet_user::VnetUser,
};

/// Ports that the switch has already.
const PORTS: u32 = 100;
/// Interfaces that come in a round, one after the other.
const COMING: u32 = 10;
/// How long one may take before it counts as never.
const LIMIT: Duration = Duration::from_secs(10);

/// What was measured.
#[derive(Debug, Serialize)]
pub struct Adopt {
    ports: u32,
    milliseconds: Rounds,
}

/// The daemon, ended with this value.
struct Daemon(Child);

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Has a daemon adopt interfaces. The pinned link of an interface's program is there when everything
/// that is its policy is in force.
pub fn run(options: &Options) -> Result<Adopt> {
    let netns = namespace("adopt")?;
    let switch = VnetUser::new("vbenchadopt", netns.name())?;
    switch.write_ports(&more_ports(&netns, PORTS)?)?;
    switch.run("up")?;
    let _daemon = Daemon(switch.start("daemon")?);
    wait(&switch.socket())?;
    let mut milliseconds = Rounds::default();
    for _ in 0..options.timing.rounds() * COMING {
        netns.ip("link add coming type veth peer name beyond")?;
        let index = ifindex(&netns, "coming")?;
        let link = pins::folder(switch.switch())?.join(format!("links/tc_ingress_{index}"));
        let began = Instant::now();
        netns.ip(&format!("link set coming master {}", switch.switch()))?;
        wait(&link)?;
        milliseconds.push(began.elapsed().as_secs_f64() * 1000.0);
        netns.ip("link del coming")?;
        // The next one comes to a switch that has nothing else to do.
        thread::sleep(Duration::from_millis(200));
    }
    Ok(Adopt {
        ports: PORTS,
        milliseconds,
    })
}

fn wait(path: &Path) -> Result<()> {
    let began = Instant::now();
    while !path.exists() {
        ensure!(began.elapsed() < LIMIT, "{} never came", path.display());
        thread::sleep(Duration::from_micros(200));
    }
    Ok(())
}

impl Findings for Adopt {
    fn print(&self) {
        let row = vec![
            format!(
                "from `ip link set … master` to a port of a switch that has {}, ms",
                self.ports
            ),
            number(Some(self.milliseconds.median()), 1),
            percent(self.milliseconds.spread(), 1),
        ];
        table("Adoption", &["", "median", "spread"], &[row]);
    }

    fn aims(&self) -> Vec<Aim> {
        vec![Aim::new(
            "adoption of an interface, ms",
            self.milliseconds.median(),
            Bound::Below(50.0),
        )]
    }
}
