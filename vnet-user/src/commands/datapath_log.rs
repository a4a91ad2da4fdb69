//! `datapath-log`: the log lines of the bring-up object, through env_logger.

use aya_log::EbpfLogger;
use tokio::{io::unix::AsyncFd, signal};

use crate::datapath::object;
use crate::error::{Doing as _, Error};
use crate::runtime::Session;

const DOING: &str = "reading the datapath's log";

/// Runs it, until it is interrupted.
pub fn run(session: &mut Session) -> Result<(), Error> {
    session.need_up(DOING)?;
    let program = object::classifier(session.pins(), "tc_ingress").doing(|| DOING.into())?;
    let id = program.info().doing(|| DOING.into())?.id();
    let logger = EbpfLogger::init_from_id(id).map_err(|error| {
        Error::new(DOING, error)
            .mend("the switch runs the object without logging: down, then up with this binary")
    })?;
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .doing(|| "starting the runtime".into())?
        .block_on(stream(logger))
}

async fn stream(logger: EbpfLogger<&'static dyn log::Log>) -> Result<(), Error> {
    // SAFETY: the logger keeps its ring buffer's descriptor open and the same while it lives.
    let mut logger = unsafe { AsyncFd::register(logger) }.doing(|| DOING.into())?;
    loop {
        tokio::select! {
            interrupted = signal::ctrl_c() => return interrupted.doing(|| DOING.into()),
            ready = logger.readable_mut() => {
                let mut guard = ready.doing(|| DOING.into())?;
                guard.get_inner_mut().flush();
                guard.clear_ready();
            }
        }
    }
}
