//! How long `up` takes, and how much memory a switch has.

use anyhow::Result;
use serde::Serialize;

use super::Options;
use crate::{
    lane::{more_ports, namespace},
    pins,
    report::{Aim, Bound, number, percent, table},
    run::Findings,
    statistics::Rounds,
    vnet_user::VnetUser,
};

/// Ports of the switch.
const PORTS: u32 = 100;

/// What was measured.
#[derive(Debug, Serialize)]
pub struct Up {
    ports: u32,
    seconds: Rounds,
    /// What the kernel accounts for the pinned maps.
    map_bytes: u64,
}

/// Brings a switch with default sizes up and down.
pub fn run(options: &Options) -> Result<Up> {
    let netns = namespace("up")?;
    let switch = VnetUser::new("vbenchup", netns.name())?;
    switch.write_ports(&more_ports(&netns, PORTS)?)?;
    let mut seconds = Rounds::default();
    let mut map_bytes = 0;
    for _ in 0..options.timing.rounds() {
        seconds.push(switch.run("up")?.as_secs_f64());
        map_bytes = pins::maps(switch.switch())?
            .iter()
            .map(|map| map.bytes)
            .sum();
        switch.run("down")?;
    }
    Ok(Up {
        ports: PORTS,
        seconds,
        map_bytes,
    })
}

impl Up {
    fn mebibytes(&self) -> f64 {
        self.map_bytes as f64 / f64::from(1 << 20)
    }
}

impl Findings for Up {
    fn print(&self) {
        let time = vec![
            format!("`up` with {} ports, s", self.ports),
            number(Some(self.seconds.median()), 2),
            percent(self.seconds.spread(), 1),
        ];
        let memory = vec![
            "maps of a default switch, MiB".to_owned(),
            number(Some(self.mebibytes()), 1),
            "–".to_owned(),
        ];
        table("Up, and memory", &["", "", "spread"], &[time, memory]);
    }

    fn aims(&self) -> Vec<Aim> {
        vec![
            Aim::new(
                format!("`up` with {} ports, s", self.ports),
                self.seconds.median(),
                Bound::Below(1.0),
            ),
            Aim::new(
                "maps of a default switch, MiB",
                self.mebibytes(),
                Bound::Below(64.0),
            ),
        ]
    }
}
