//! Children that do not outlive us.

use std::{
    io,
    os::unix::process::CommandExt,
    process::{Child, Command},
    sync::{Mutex, PoisonError, mpsc},
    thread,
};

/// Starts a program that the kernel kills when this process ends, however it ends.
///
/// The kernel ties such a child to the *thread* that started it; a test's thread may end long before
/// its guest, so one thread that lives as long as the process starts them all.
pub(super) fn spawn_bound_to_us(mut command: Command) -> io::Result<Child> {
    type Order = (Command, mpsc::Sender<io::Result<Child>>);
    static SPAWNER: Mutex<Option<mpsc::Sender<Order>>> = Mutex::new(None);

    // SAFETY: between fork and exec the closure makes one system call and allocates nothing.
    unsafe {
        command.pre_exec(
            || match libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) {
                0 => Ok(()),
                _ => Err(io::Error::last_os_error()),
            },
        );
    }
    let gone = || io::Error::other("the thread that starts guests is gone");
    let (answer, wait) = mpsc::channel();
    SPAWNER
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .get_or_insert_with(|| {
            let (orders, queue) = mpsc::channel::<Order>();
            thread::spawn(move || {
                for (mut command, answer) in queue {
                    let _ = answer.send(command.spawn());
                }
            });
            orders
        })
        .send((command, answer))
        .map_err(|_| gone())?;
    wait.recv().map_err(|_| gone())?
}
