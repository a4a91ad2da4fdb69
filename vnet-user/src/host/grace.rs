//! Shorter waits of the kernel while many programs are attached.

use std::fs;
use std::path::{Path, PathBuf};

use super::lock::ProcessLock;

/// The kernel's switch: with 1, every wait for a grace period is an expedited one
/// (Documentation/admin-guide/kernel-parameters.txt, rcupdate.rcu_expedited).
const EXPEDITED: &str = "/sys/kernel/rcu_expedited";

/// What the note says while vnet has switched it on.
const ON: &str = "on";

/// Makes grace periods short until it is dropped, where the kernel lets us.
///
/// Each TCX attachment waits for one while it holds the lock for all network configuration
/// (kernel/bpf/tcx.c, tcx_entry_sync): 10 ms a port, one after the other. Expedited ones take tens of
/// microseconds and cost each CPU an interrupt, which is nothing for the moment that this lasts.
#[derive(Debug)]
pub struct ShortGracePeriods {
    /// What it takes to switch back.
    switched_on: Option<Note>,
}

/// That vnet has switched it on, for the case that this process is killed before it switches back.
#[derive(Debug)]
struct Note {
    path: PathBuf,
    _lock: ProcessLock,
}

impl Note {
    /// The note in `run_dir`; `None` while another process has it.
    fn take(run_dir: &Path) -> Option<Self> {
        let path = run_dir.join("rcu_expedited");
        // Without it, everything takes longer and no more.
        let lock = ProcessLock::take(&path).ok().flatten()?;
        Some(Self { path, _lock: lock })
    }

    fn is_on(&self) -> bool {
        fs::read_to_string(&self.path).is_ok_and(|text| text == ON)
    }

    fn switch_back(&self) {
        // Left on, it would cost interrupts and nothing else.
        let _ = fs::write(EXPEDITED, "0");
        let _ = fs::remove_file(&self.path);
    }
}

impl ShortGracePeriods {
    /// Begins, unless someone else wants them short anyway.
    #[must_use]
    pub fn begin(run_dir: &Path) -> Self {
        let normal = fs::read_to_string(EXPEDITED).is_ok_and(|value| value.trim() == "0");
        let note = Note::take(run_dir).filter(|note| normal || note.is_on());
        let switched_on = note
            .filter(|note| fs::write(&note.path, ON).is_ok() && fs::write(EXPEDITED, "1").is_ok());
        Self { switched_on }
    }
}

impl Drop for ShortGracePeriods {
    fn drop(&mut self) {
        if let Some(note) = &self.switched_on {
            note.switch_back();
        }
    }
}

/// Switches back what a process left on that was killed.
pub fn end_left_over(run_dir: &Path) {
    if run_dir.join("rcu_expedited").exists()
        && let Some(note) = Note::take(run_dir)
        && note.is_on()
    {
        note.switch_back();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_killed_process_left_on_is_switched_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("rcu_expedited");
        // Nobody left anything.
        end_left_over(dir.path());
        assert!(!path.exists());
        // A process that lives is left alone.
        let note = Note::take(dir.path()).unwrap();
        fs::write(&path, ON).unwrap();
        end_left_over(dir.path());
        assert!(note.is_on());
        drop(note);
        end_left_over(dir.path());
        assert!(!path.exists());
    }
}
