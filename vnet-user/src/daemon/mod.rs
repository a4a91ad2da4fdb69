//! The daemon: brings the switch up, makes interfaces ports as they come, takes back what nobody
//! confirmed, and serves those who may not do such things themselves.
//!
//! Nothing depends on it that forwards a packet: it may end and begin again at any time. What it
//! does is done by the same transaction that every command is.

pub mod client;
mod places;
pub mod protocol;
mod roles;
mod server;
mod watch;

use std::collections::BTreeSet;
use std::future::pending;
use std::time::{Duration, Instant};

use sd_notify::NotifyState;
use tokio::io::unix::AsyncFd;
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;
use tokio::task::LocalSet;

use crate::adopt::Adopting;
use crate::cli::Global;
use crate::config::{Config, Edited};
use crate::datapath::publish;
use crate::dhcp::keeper::Keeper;
use crate::error::{Doing as _, Error};
use crate::host::lock::ProcessLock;
use crate::host::monitor::{Monitor, News};
use crate::lifecycle;
use crate::runtime::Session;

use self::server::Server;
use self::watch::{Seen, Watch};

/// The first pause after a change that the kernel refused; doubled each time.
const RETRY_FIRST: Duration = Duration::from_millis(500);
/// The longest such pause.
const RETRY_LAST: Duration = Duration::from_secs(30);
/// Least time between two changes of all cached decisions for routes and neighbours.
const WAYS_PAUSE: Duration = Duration::from_millis(100);

/// Runs the daemon, with DHCP or without, until it is told to end; the switch stays up then.
///
/// # Errors
/// The switch cannot be brought up, or another daemon serves it.
pub fn run(session: &mut Session, global: &Global, with_dhcp: bool) -> Result<(), Error> {
    LocalSet::new().block_on(&runtime()?, async {
        let lock = format!("{}.daemon.lock", session.switch());
        let Some(_lock) = ProcessLock::take(&session.run_dir().join(lock))? else {
            let doing = format!("running the daemon of the switch {}", session.switch());
            return Err(Error::new(doing, "another daemon serves this switch")
                .mend("end that one first, or choose another switch with --switch"));
        };
        if !with_dhcp {
            return Daemon::serve(session, global).await;
        }
        let (stop, stopped) = oneshot::channel::<()>();
        let place = global.clone();
        let kept = tokio::task::spawn_local(async move {
            let stopped = async { drop(stopped.await) };
            if let Err(error) = Keeper::serve(&place, stopped).await {
                // The switch is worth more than its addresses.
                log::error!("{error}");
            }
        });
        let served = Daemon::serve(session, global).await;
        drop(stop);
        kept.await.doing(|| "ending the DHCP servers".into())?;
        served
    })
}

/// Serves DHCP and nothing else, until it is told to end.
///
/// # Errors
/// As [`Keeper::serve`].
pub fn run_dhcp(global: &Global) -> Result<(), Error> {
    LocalSet::new().block_on(&runtime()?, serve_dhcp(global))
}

/// One thread, which alone is in the switch's network namespace.
fn runtime() -> Result<Runtime, Error> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .doing(|| "starting the daemon's runtime".into())
}

async fn serve_dhcp(global: &Global) -> Result<(), Error> {
    let doing = || format!("serving DHCP for the switch {}", global.switch);
    let mut terminate = signal(SignalKind::terminate()).doing(doing)?;
    let mut interrupt = signal(SignalKind::interrupt()).doing(doing)?;
    notify(&[NotifyState::Ready]);
    let stop = async {
        let mut watchdog = watchdog().map(tokio::time::interval);
        loop {
            tokio::select! {
                _ = terminate.recv() => break,
                _ = interrupt.recv() => break,
                () = tick(watchdog.as_mut()) => notify(&[NotifyState::Watchdog]),
            }
        }
        notify(&[NotifyState::Stopping]);
    };
    Keeper::serve(global, stop).await
}

struct Daemon<'a> {
    session: &'a mut Session,
    watch: Watch,
    /// When what could not be done is tried again, and the pause before that.
    retry: Option<(Instant, Duration)>,
    /// When cached decisions were last changed for routes and neighbours, and whether they are due.
    ways: (Instant, bool),
    /// When what could not be taken back is tried again.
    revert_after: Instant,
}

impl Daemon<'_> {
    async fn serve(session: &mut Session, global: &Global) -> Result<(), Error> {
        let doing = || format!("running the daemon of the switch {}", session.switch());
        // From before the switch is looked at: what changes meanwhile is heard of.
        let monitor = Monitor::open().map_err(|error| Error::from(error.context(doing())))?;
        // SAFETY: the monitor keeps its descriptor open, and the same, while it lives.
        let mut monitor = unsafe { AsyncFd::register(monitor) }.doing(doing)?;
        let mut terminate = signal(SignalKind::terminate()).doing(doing)?;
        let mut interrupt = signal(SignalKind::interrupt()).doing(doing)?;
        let mut hangup = signal(SignalKind::hangup()).doing(doing)?;
        lifecycle::check_host(session)?;
        lifecycle::check_layout(session)?;
        session.adopt(Adopting::All);
        session.be_impatient();
        let mut daemon = Daemon {
            watch: Watch::default(),
            session,
            retry: None,
            ways: (Instant::now(), false),
            revert_after: Instant::now(),
        };
        daemon.begin()?;
        let server = Server::bind(daemon.session.run_dir(), daemon.session.switch(), global)?;
        notify(&[NotifyState::Ready]);
        log::info!("the switch {} is up and served", daemon.session.switch());
        let mut watchdog = watchdog().map(tokio::time::interval);
        loop {
            daemon.look_after();
            tokio::select! {
                ready = monitor.readable_mut() => {
                    let mut ready = ready.doing(|| "waiting for the kernel's news".into())?;
                    let news = ready.get_inner_mut().take();
                    ready.clear_ready();
                    daemon.hear(news.doing(|| "reading the kernel's news".into())?);
                }
                accepted = server.accept() => server.answer(accepted),
                () = server.poked() => daemon.look(),
                _ = hangup.recv() => daemon.look(),
                _ = terminate.recv() => break,
                _ = interrupt.recv() => break,
                () = sleep_until(daemon.next()) => {}
                () = tick(watchdog.as_mut()) => notify(&[NotifyState::Watchdog]),
            }
        }
        notify(&[NotifyState::Stopping]);
        log::info!(
            "the daemon ends; the switch {} stays up",
            daemon.session.switch()
        );
        Ok(())
    }

    /// Does what `up` does.
    fn begin(&mut self) -> Result<(), Error> {
        // What nobody confirmed before the host or the daemon went goes first.
        self.revert_due();
        let doing = format!("bringing up the switch {}", self.session.switch());
        // Nothing has been dealt with yet: what there is now is looked at once more afterwards.
        match self.edit(&doing, lifecycle::up) {
            Ok(edited) => self.settle(None, &edited),
            Err(error) => {
                // Those that have been ports before do not wait for one that cannot be.
                let adopting = self.session.adopt(Adopting::Known);
                let edited = self.edit(&doing, lifecycle::up);
                self.session.adopt(adopting);
                self.settle(None, &edited?);
                self.try_again(&error);
            }
        }
        // Until the host has been looked at again.
        self.session.adopt(Adopting::Known);
        Ok(())
    }

    /// Makes a change that leaves the document as it is.
    fn edit(
        &mut self,
        doing: &str,
        mut sync: impl FnMut(&mut Session, &Config, &Config) -> Result<Vec<String>, Error>,
    ) -> Result<Edited, Error> {
        let store = self.session.store().clone();
        let session = &mut *self.session;
        store.edit(doing, |_| Ok(()), |old, new| sync(session, old, new))
    }

    /// Acts on what somebody says to have changed, who has perhaps mended what failed.
    fn look(&mut self) {
        self.retry = None;
        self.hear(News::ALL);
    }

    /// Acts on what changed.
    fn hear(&mut self, news: News) {
        let links = news.links && self.watch.has_changed(self.session);
        // An MTU is no part of the tables, but of what was decided.
        self.ways.1 |= news.ways || links;
        // What failed has its time: it makes news by itself.
        if (news.addresses || links) && self.retry.is_none() {
            self.sync();
        }
    }

    /// Makes the kernel equal to the document and to the interfaces that there are.
    fn sync(&mut self) {
        let doing = format!(
            "following changes on the host, for {}",
            self.session.switch()
        );
        if self.watch.config() != &Config::default() && !self.session.store().path().exists() {
            // One that is moved away and back must not take everything down in between.
            let path = self.session.store().path().display().to_string();
            let error = Error::new(doing, format_args!("{path} is gone"))
                .mend("put it back; vnet-user down takes the switch down");
            return self.try_again(&error);
        }
        let seen = self.watch.look(self.session);
        self.session.adopt(self.watch.settled());
        let begun = Instant::now();
        match self.edit(&doing, Session::sync) {
            Ok(edited) => {
                self.retry = None;
                self.settle(seen, &edited);
                log::debug!("{doing}: {} us", begun.elapsed().as_micros());
            }
            Err(error) => {
                // Those that have been ports before do not wait for one that cannot be.
                let adopting = self.session.adopt(Adopting::Known);
                let without = self.edit(&doing, Session::sync);
                self.session.adopt(adopting);
                if let Err(also) = without
                    && also != error
                {
                    log::error!("{also}");
                }
                self.try_again(&error);
            }
        }
    }

    /// Remembers what has been dealt with.
    fn settle(&mut self, seen: Option<BTreeSet<Seen>>, edited: &Edited) {
        for warning in self.watch.remember(seen, &edited.new, &edited.warnings) {
            log::warn!("{warning}");
        }
    }

    fn try_again(&mut self, error: &Error) {
        let pause = self
            .retry
            .map_or(RETRY_FIRST, |(_, pause)| (2 * pause).min(RETRY_LAST));
        log::error!("{error}; tried again in {} ms", pause.as_millis());
        self.retry = Some((Instant::now() + pause, pause));
    }

    /// Does what is due by the clock.
    fn look_after(&mut self) {
        let now = Instant::now();
        let due = match self.retry {
            Some((at, _)) => at <= now,
            None => self.watch.has_settled(),
        };
        if due {
            self.sync();
        }
        if self.ways.1 && now.duration_since(self.ways.0) >= WAYS_PAUSE {
            self.ways = (now, false);
            self.renew_decisions();
        }
        self.revert_due();
    }

    /// The next moment at which [`Self::look_after`] has something to do.
    fn next(&self) -> Option<Instant> {
        let now = Instant::now();
        let pending = self.session.store().pending().ok().flatten();
        let confirm = pending
            .map(|pending| (now + Duration::from_secs(pending.left_s())).max(self.revert_after));
        let ways = self.ways.1.then_some(self.ways.0 + WAYS_PAUSE);
        let sync = match self.retry {
            Some((at, _)) => Some(at),
            None => self.watch.next_settled(),
        };
        [sync, ways, confirm].into_iter().flatten().min()
    }

    /// Has every connection look for its way again with its next packet.
    fn renew_decisions(&mut self) {
        let renewed = self.session.reload().and_then(|()| {
            if !self.session.is_up() {
                return Ok(());
            }
            let _lock = self.session.store().lock()?;
            Ok(publish::renew(self.session.pins())?)
        });
        if let Err(error) = renewed {
            // Within a second the datapath finds out by itself.
            log::warn!("{error}");
        }
    }

    /// Takes back what was applied until it is confirmed, when its time is over.
    fn revert_due(&mut self) {
        let store = self.session.store().clone();
        match store.pending() {
            Ok(Some(pending)) if pending.left_s() == 0 && self.revert_after <= Instant::now() => {}
            Ok(_) => return,
            Err(error) => return log::error!("{error}"),
        }
        let doing = format!(
            "taking back what was not confirmed of the switch {}",
            self.session.switch()
        );
        let session = &mut *self.session;
        match store.revert(&doing, true, |old, new| session.sync(old, new)) {
            Ok(Some(edited)) => {
                log::warn!(
                    "the document was not confirmed in time: the one before is in force again"
                );
                self.settle(None, &edited);
            }
            Ok(None) => {}
            Err(error) => {
                log::error!("{error}; tried again in {} s", RETRY_LAST.as_secs());
                self.revert_after = Instant::now() + RETRY_LAST;
            }
        }
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => pending().await,
    }
}

async fn tick(interval: Option<&mut tokio::time::Interval>) {
    match interval {
        Some(interval) => {
            interval.tick().await;
        }
        None => pending().await,
    }
}

/// How often to tell systemd that the daemon lives: twice as often as it wants to hear it
/// (sd_watchdog_enabled(3)).
fn watchdog() -> Option<Duration> {
    let number = |name| std::env::var(name).ok()?.parse::<u64>().ok();
    let pid = number("WATCHDOG_PID");
    if pid.is_some_and(|pid| pid != u64::from(std::process::id())) {
        return None;
    }
    let micros = number("WATCHDOG_USEC").filter(|micros| *micros > 1)?;
    Some(Duration::from_micros(micros / 2))
}

/// Tells systemd, where it asked to be told.
fn notify(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(false, state) {
        log::warn!("telling systemd: {error}");
    }
}
