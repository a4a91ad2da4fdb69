//! TCP throughput, by iperf3.

use std::{
    os::unix::process::CommandExt as _,
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use xtask::{netns::Netns, process::output};

use crate::cpu;

/// An iperf3 server, ended with this value and with the benchmarks however they end.
pub struct Server(Child);

impl Server {
    /// Starts one that listens on every address of a network namespace, on the last CPU.
    pub fn start(netns: &Netns, cpus: &[usize]) -> Result<Self> {
        let mut command = netns.command("iperf3")?;
        command
            .arg("-s")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        stay_on(&mut command, cpus.last());
        end_with_us(&mut command);
        let server = Self(command.spawn().context("starting the iperf3 server")?);
        for _ in 0..200 {
            if !netns.sh("ss -Hltn 'sport = :5201'")?.is_empty() {
                return Ok(server);
            }
            thread::sleep(Duration::from_millis(25));
        }
        bail!("the iperf3 server does not listen");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It has ended already, or it does now.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Who sends the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sender {
    /// The one that opens the connection.
    Client,
    /// The one that it is opened to.
    Server,
}

/// Gb/s that arrive over one connection, opened from a network namespace on the first CPU.
pub fn gigabits(
    netns: &Netns,
    cpus: &[usize],
    server: &str,
    sender: Sender,
    time: Duration,
) -> Result<f64> {
    let mut client = netns.command("iperf3")?;
    let seconds = time.as_secs_f64().ceil();
    client.args(["-J", "-t", &seconds.to_string(), "-c", server]);
    if sender == Sender::Server {
        client.arg("-R");
    }
    stay_on(&mut client, cpus.first());
    end_with_us(&mut client);
    let report: serde_json::Value =
        serde_json::from_str(&output(&mut client)?).context("reading iperf3's report")?;
    let rate = report["end"]["sum_received"]["bits_per_second"].as_f64();
    Ok(rate.context("iperf3's report names no rate")? / 1e9)
}

/// Lets a program run on one CPU.
pub fn stay_on(command: &mut Command, cpu: Option<&usize>) {
    if let Some(&cpu) = cpu {
        // SAFETY: between fork and exec the closure makes system calls and allocates nothing.
        unsafe { command.pre_exec(move || cpu::stay_on(cpu)) };
    }
}

/// Lets the kernel end a program when the thread that starts it ends.
pub fn end_with_us(command: &mut Command) {
    let ask = || {
        // SAFETY: takes numbers.
        match unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) } {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        }
    };
    // SAFETY: between fork and exec the closure makes one system call and allocates nothing.
    unsafe { command.pre_exec(ask) };
}
