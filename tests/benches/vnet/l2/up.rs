//! How long `up` takes, and how much memory a switch has.

use std::{fs, os::fd::AsFd as _, os::fd::AsRawFd as _, path::Path};

use anyhow::{Context, Result};
use aya::maps::MapInfo;
use serde::Serialize;

use super::Options;
use crate::{
    lane::{more_ports, namespace},
    report::{Aim, Bound, number, percent, table},
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
    for _ in 0..options.rounds() {
        seconds.push(switch.run("up")?.as_secs_f64());
        map_bytes = memory(switch.switch())?;
        switch.run("down")?;
    }
    Ok(Up {
        ports: PORTS,
        seconds,
        map_bytes,
    })
}

/// The sum of what the kernel accounts for the maps that a switch has pinned.
fn memory(switch: &str) -> Result<u64> {
    let mut sum = 0;
    for version in entries(&Path::new("/sys/fs/bpf/vnet").join(switch))? {
        for pin in entries(&version)?.iter().filter(|pin| !pin.is_dir()) {
            let doing = || format!("reading the memory of {}", pin.display());
            let map = MapInfo::from_pin(pin).with_context(doing)?;
            let map = map.fd().with_context(doing)?;
            let number = map.as_fd().as_raw_fd();
            let facts = fs::read_to_string(format!("/proc/self/fdinfo/{number}"));
            let facts = facts.with_context(doing)?;
            let bytes = facts.lines().find_map(|line| line.strip_prefix("memlock:"));
            let bytes = bytes.with_context(doing)?.trim();
            sum += bytes.parse::<u64>().with_context(doing)?;
        }
    }
    Ok(sum)
}

fn entries(folder: &Path) -> Result<Vec<std::path::PathBuf>> {
    let list = fs::read_dir(folder).and_then(|list| list.map(|e| Ok(e?.path())).collect());
    list.with_context(|| format!("listing {}", folder.display()))
}

impl Up {
    fn mebibytes(&self) -> f64 {
        self.map_bytes as f64 / f64::from(1 << 20)
    }

    /// A table.
    pub fn print(&self) {
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

    /// What they are to be.
    pub fn aims(&self) -> Vec<Aim> {
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
