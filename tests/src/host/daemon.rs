//! The switch's daemon, run by a test.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    os::unix::net::UnixDatagram,
    path::PathBuf,
    process::{Child, Stdio},
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use super::{Host, lock};
use crate::wait;

/// A daemon that runs. Dropped, it is killed, and the switch stays as it is.
#[derive(Debug)]
pub struct Daemon {
    child: Child,
    log: Arc<Mutex<Vec<String>>>,
    /// What it told systemd.
    notified: Arc<Mutex<Vec<String>>>,
    _place: tempfile::TempDir,
}

impl Host {
    /// Starts the daemon and waits until it says that it is ready, as systemd does.
    ///
    /// # Panics
    /// When it ends before that, or takes more than ten seconds.
    #[must_use]
    pub fn daemon(&self) -> Daemon {
        self.part_of_daemon("all")
    }

    /// Starts a part of the daemon, as [`Self::daemon`] starts all of it.
    ///
    /// # Panics
    /// As that does.
    #[must_use]
    pub fn part_of_daemon(&self, part: &str) -> Daemon {
        let place = tempfile::tempdir().unwrap();
        let socket = place.path().join("notify");
        let systemd = UnixDatagram::bind(&socket).unwrap();
        let mut command = self.vnet_command(&format!("-v daemon --part {part}"));
        command
            .env("NOTIFY_SOCKET", &socket)
            .env("WATCHDOG_USEC", "400000")
            .stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let log = Arc::new(Mutex::new(Vec::new()));
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let heard = Arc::clone(&log);
        thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                lock(&heard).push(line);
            }
        });
        let notified = Arc::new(Mutex::new(Vec::new()));
        let told = Arc::downgrade(&notified);
        systemd
            .set_read_timeout(Some(Duration::from_secs(1)))
            .unwrap();
        // For as long as the daemon is there: unread, what it tells would stop it.
        thread::spawn(move || {
            let mut bytes = [0; 256];
            while let Some(told) = told.upgrade() {
                if let Ok(length) = systemd.recv(&mut bytes) {
                    let text = String::from_utf8_lossy(&bytes[..length]);
                    lock(&told).extend(text.lines().map(str::to_owned));
                }
            }
        });
        let daemon = Daemon {
            child,
            log,
            notified,
            _place: place,
        };
        daemon.wait_notified("READY=1");
        daemon
    }

    /// The daemon's socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.run_dir().join(format!("{}.sock", self.switch()))
    }
}

impl Daemon {
    /// The process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until the daemon tells systemd `what`.
    ///
    /// # Panics
    /// When it does not in ten seconds.
    #[track_caller]
    pub fn wait_notified(&self, what: &str) {
        let said = wait::within(Duration::from_secs(10), || {
            lock(&self.notified)
                .iter()
                .any(|line| line == what)
                .then_some(())
        });
        assert!(said.is_some(), "it does not say {what}: {:?}", self.log());
    }

    /// What it has said so far.
    #[must_use]
    pub fn log(&self) -> Vec<String> {
        lock(&self.log).clone()
    }

    /// Waits until it says something with `words` in it.
    ///
    /// # Panics
    /// When it does not in a minute.
    #[track_caller]
    pub fn wait_said(&self, words: &str) {
        let said = wait::within(Duration::from_secs(60), || {
            let log = self.log();
            log.iter().any(|line| line.contains(words)).then_some(())
        });
        assert!(said.is_some(), "it does not say {words}");
    }

    /// Tells it to end, as systemd does, and waits for that.
    ///
    /// # Panics
    /// When it does not end well in ten seconds.
    #[track_caller]
    pub fn stop(mut self) -> Vec<String> {
        self.signal(libc::SIGTERM);
        let status = wait::value("the daemon ends", || self.child.try_wait().unwrap());
        assert!(status.success(), "{status}: {:?}", self.log());
        self.log()
    }

    /// Kills it, which it cannot prepare for.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: libc::c_int) {
        // SAFETY: a process of ours that has not been waited for: the number is its own.
        assert_eq!(unsafe { libc::kill(self.pid() as libc::pid_t, signal) }, 0);
    }

    /// Resident memory in bytes, and open descriptors.
    #[must_use]
    pub fn usage(&self) -> (u64, usize) {
        let proc = format!("/proc/{}", self.pid());
        let pages: u64 = fs::read_to_string(format!("{proc}/statm"))
            .unwrap()
            .split_whitespace()
            .nth(1)
            .unwrap()
            .parse()
            .unwrap();
        (
            pages * 4096,
            fs::read_dir(format!("{proc}/fd")).unwrap().count(),
        )
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let ended = self.child.try_wait();
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            eprintln!("the daemon ({ended:?}) said:\n{}", self.log().join("\n"));
        }
    }
}
