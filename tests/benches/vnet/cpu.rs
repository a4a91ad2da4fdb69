//! Which CPU does what.

use std::{io, mem};

use anyhow::{Context, Result};

/// The CPUs that the calling thread may run on, in order; at least one.
pub fn allowed() -> Result<Vec<usize>> {
    // SAFETY: the set is plain data, as large as the call is told; an index below the set's size in
    // bits is in it.
    let cpus: Vec<_> = unsafe {
        let size = size_of::<libc::cpu_set_t>();
        let mut set: libc::cpu_set_t = mem::zeroed();
        if libc::sched_getaffinity(0, size, &mut set) != 0 {
            return Err(io::Error::last_os_error()).context("asking for the CPUs to run on");
        }
        let all = 0..8 * size;
        all.filter(|&cpu| libc::CPU_ISSET(cpu, &set)).collect()
    };
    cpus.last().context("there is no CPU to run on")?;
    Ok(cpus)
}

/// Binds the calling thread to a CPU, before others who want it. Makes system calls only: it may be
/// called between fork and exec.
pub fn stay_on(cpu: usize) -> io::Result<()> {
    // SAFETY: the set is plain data, as large as the call is told; `cpu` came from such a set.
    unsafe {
        let mut one: libc::cpu_set_t = mem::zeroed();
        libc::CPU_SET(cpu, &mut one);
        if libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &one) != 0 {
            return Err(io::Error::last_os_error());
        }
        // Without the privilege, others do not wait.
        libc::setpriority(libc::PRIO_PROCESS, 0, -20);
    }
    Ok(())
}
