//! Shorter waits of the kernel while many programs are attached.

use std::fs;

/// The kernel's switch: with 1, every wait for a grace period is an expedited one
/// (Documentation/admin-guide/kernel-parameters.txt, rcupdate.rcu_expedited).
const EXPEDITED: &str = "/sys/kernel/rcu_expedited";

/// Makes grace periods short until it is dropped, where the kernel lets us.
///
/// Each TCX attachment waits for one while it holds the lock for all network configuration
/// (kernel/bpf/tcx.c, tcx_entry_sync): 10 ms a port, one after the other. Expedited ones take tens of
/// microseconds and cost each CPU an interrupt, which is nothing for the moment that this lasts.
#[derive(Debug)]
pub struct ShortGracePeriods {
    switched_on: bool,
}

impl ShortGracePeriods {
    /// Begins, unless someone else wants them short anyway.
    #[must_use]
    pub fn begin() -> Self {
        let normal = fs::read_to_string(EXPEDITED).is_ok_and(|value| value.trim() == "0");
        Self {
            switched_on: normal && fs::write(EXPEDITED, "1").is_ok(),
        }
    }
}

impl Drop for ShortGracePeriods {
    fn drop(&mut self) {
        if self.switched_on {
            // Left on, it would cost interrupts and nothing else.
            let _ = fs::write(EXPEDITED, "0");
        }
    }
}
