//! The ports' storm limits: how far each is used up.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use vnet_common::{PortConf, StormState};

use super::{maps, pins::Pins};

/// Has limits that are others than `before`, or another port's, begin as new ones: what was used up of a
/// slow one with many frames at once would be waited for at the new one's speed.
///
/// # Errors
/// The map cannot be written.
pub fn begin_anew(
    pins: &Pins,
    before: &BTreeMap<u16, PortConf>,
    now: &BTreeMap<u16, PortConf>,
) -> Result<()> {
    let mut states = maps::array::<StormState>(pins, "storm_state")?;
    for slot in changed(before, now) {
        states
            .set(u32::from(slot), StormState::default(), 0)
            .with_context(|| format!("beginning the storm limits of slot {slot} anew"))?;
    }
    Ok(())
}

/// Slots whose port or whose limits are others.
fn changed(before: &BTreeMap<u16, PortConf>, now: &BTreeMap<u16, PortConf>) -> Vec<u16> {
    let limits = |port: &PortConf| (port.ifindex, port.storm_interval_ns, port.storm_burst);
    now.iter()
        .filter(|(slot, port)| before.get(slot).map(limits) != Some(limits(port)))
        .map(|(slot, _)| *slot)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_ports_and_other_limits_begin_anew() {
        let port = |ifindex, interval_ns, burst, max_macs| PortConf {
            ifindex,
            max_macs,
            storm_interval_ns: [interval_ns; 5],
            storm_burst: [burst; 5],
            ..PortConf::default()
        };
        let before = [
            (1, port(11, 5, 0, 0)),
            (2, port(12, 5, 0, 0)),
            (3, port(13, 5, 0, 0)),
            (4, port(14, 5, 0, 0)),
            (5, port(15, 5, 0, 0)),
        ];
        let now = [
            (1, port(11, 5, 0, 7)),
            (2, port(12, 6, 0, 0)),
            (3, port(13, 5, 1, 0)),
            (4, port(99, 5, 0, 0)),
            (6, port(16, 5, 0, 0)),
        ];
        assert_eq!(changed(&before.into(), &now.into()), [2, 3, 4, 6]);
    }
}
