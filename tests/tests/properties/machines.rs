//! Both machines, on switches and frames that nobody thought of.

use anyhow::{Context as _, Result, ensure};
use proptest::{collection::vec, prelude::*, test_runner::Config};
use vnet_tests::{
    kernel::{Kernel, in_sandbox, unfit},
    machine::Machine,
    runner,
    setup::Setup,
    switch::{Frame, Switch as _},
};
use vnet_user::config::StormLimit;

use crate::arbitrary::{Drawn, frame, setup};

proptest! {
    // Each case loads the programs.
    #![proptest_config(Config { max_shrink_iters: 100, ..crate::cases(12) })]

    /// The loaded programs do what the pure pipeline does, counters, addresses and events included.
    #[test]
    fn the_machines_agree(setup in setup(), drawn in vec(frame(), 60..100)) {
        let done = without_storms(&setup).and_then(|setup| compare(&setup, &drawn));
        done.map_err(|error| TestCaseError::fail(format!("{error:#}")))?;
    }
}

/// The same switch without storm limits: their clock runs by itself in the kernel.
fn without_storms(setup: &Setup) -> Result<Setup> {
    let mut config = setup.config.clone();
    let off = StormLimit::Off;
    let storm = &mut config.settings.storm;
    (storm.broadcast, storm.multicast, storm.unknown_unicast) = (off, off, off);
    for port in &mut config.ports {
        port.storm = Default::default();
    }
    let fdb_size = Some(setup.sizes.fdb_size);
    Setup::new(config, setup.devices.clone(), fdb_size, true, None)
}

fn compare(setup: &Setup, drawn: &[Drawn]) -> Result<()> {
    in_sandbox(|bpffs| {
        let mut kernel = Kernel::new(bpffs, runner::taps(setup)?, setup)?;
        let mut machine = Machine::new(setup);
        for drawn in drawn {
            for frame in [Some(drawn.at_tc(setup)), drawn.at_xdp(setup)]
                .into_iter()
                .flatten()
            {
                // Copies of GSO buffers and heads that are not linear cannot be had there.
                let frame = Frame {
                    gso_size: 0,
                    gso_segs: 0,
                    linear: None,
                    ..frame
                };
                if unfit(&frame).is_some() {
                    continue;
                }
                let pure = Machine::run(&machine, &frame);
                let loaded = kernel
                    .run(&frame)
                    .with_context(|| format!("{frame:02x?}"))?;
                ensure!(
                    pure == loaded,
                    "{frame:02x?}\npure: {pure:02x?}\nkernel: {loaded:02x?}"
                );
                let (pure, loaded) = (machine.ledger()?, kernel.ledger()?);
                ensure!(
                    pure == loaded,
                    "{frame:02x?}\npure: {pure:?}\nkernel: {loaded:?}"
                );
            }
        }
        let (pure, loaded) = (machine.addresses()?, kernel.addresses()?);
        ensure!(pure == loaded, "pure: {pure:?}\nkernel: {loaded:?}");
        let (pure, loaded) = (machine.events()?, kernel.events()?);
        ensure!(pure == loaded, "pure: {pure:?}\nkernel: {loaded:?}");
        Ok(())
    })
}
