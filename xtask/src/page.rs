//! A web server of one page, for hosts that are only a network namespace.

use std::{
    io::{Read, Write},
    net::TcpListener,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle, sleep},
    time::Duration,
};

use anyhow::{Context, Result};
use xtask::netns;

/// Serves the page on TCP port 80 of a network namespace as long as it lives.
#[derive(Debug)]
pub(crate) struct Page {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Page {
    pub(crate) fn serve(netns: &str, text: &str) -> Result<Self> {
        let listener = netns::inside(netns, || {
            let listener = TcpListener::bind("[::]:80").context("listening on TCP port 80")?;
            listener
                .set_nonblocking(true)
                .context("listening on TCP port 80")?;
            Ok(listener)
        })?;
        let answer = format!(
            "HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {}\r\n\r\n{text}",
            text.len()
        );
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                let Ok((mut stream, _)) = listener.accept() else {
                    sleep(Duration::from_millis(20));
                    continue;
                };
                // One request fits into one read; who sends less or nothing is not waited for.
                let _ = stream.set_nonblocking(false);
                let _ = stream.set_read_timeout(Some(Duration::from_secs(1)));
                let _ = stream.read(&mut [0; 2048]);
                let _ = stream.write_all(answer.as_bytes());
            }
        });
        Ok(Self {
            stop,
            thread: Some(thread),
        })
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
