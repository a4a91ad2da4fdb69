//! The timer that forgets stale addresses, in the kernel.

use anyhow::{Result, ensure};
use vnet_common::{Event, EventKind, fdb::FDB_LOCAL};
use vnet_tests::{
    fixture::{Fixture, VSW0},
    frame::{A, B, C, from},
    kernel::{Kernel, in_sandbox},
    runner,
    switch::Switch as _,
};
use vnet_user::host::kernel::monotonic_s;

const DOCUMENT: &str = r#"
    settings = { ageing = 20 }
    port = [{ name = "tap0" }, { name = "tap1" }, { name = "tap2" }]
    fdb = [{ mac = "02:00:00:00:00:0c", network = "default", port = "tap2" }]
"#;

#[test]
fn the_timer_forgets_what_is_stale_and_nothing_else() -> Result<()> {
    let fixture = Fixture::new("ageing", DOCUMENT).fdb_size(1024);
    let setup = fixture.setup()?;
    in_sandbox(|bpffs| {
        let mut kernel = Kernel::new(bpffs, runner::taps(&setup)?, &setup)?;
        for spec in [from("tap0", VSW0, A), from("tap1", VSW0, B)] {
            kernel.run(&spec.frame(&setup)?)?;
        }
        assert_eq!(kernel.events()?.len(), 2, "two addresses were learned");
        assert_eq!(kernel.addresses()?.len(), 4, "and two were there");

        let aged = |mac, port| -> Result<Vec<Event>> {
            Ok(vec![Event {
                kind: EventKind::MacAged as u32,
                mac,
                slot: setup.slot(port)?,
                ..Event::default()
            }])
        };
        let now_s = monotonic_s() as u32;
        kernel.set_seen(A, now_s - 22)?;
        kernel.set_seen(B, now_s)?;
        kernel.start_timer()?;
        assert_eq!(kernel.wait_for_events()?, aged(A, "tap0")?);
        assert_eq!(kernel.addresses()?.len(), 3, "what was seen just now stays");
        kernel.set_seen(B, now_s - 22)?;
        assert_eq!(kernel.wait_for_events()?, aged(B, "tap1")?);

        // What is configured stays.
        let left = kernel.addresses()?;
        ensure!(left.len() == 2, "{left:?}");
        assert_eq!(left[&(VSW0, 0)].flags, FDB_LOCAL);
        assert_eq!(left[&(C, 0)].slot, setup.slot("tap2")?);
        Ok(())
    })
}
