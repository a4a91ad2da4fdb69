//! Running other programs, with errors that say which one failed and what it printed.

use std::{
    ffi::OsStr,
    process::{Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

/// The command as one would type it.
pub fn shown(command: &Command) -> String {
    let word = |part: &OsStr| {
        let text = part.to_string_lossy();
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_=./:,+@%~".contains(c);
        if !text.is_empty() && text.chars().all(plain) {
            text.into_owned()
        } else {
            format!("'{}'", text.replace('\'', r"'\''"))
        }
    };
    let mut line = word(command.get_program());
    for arg in command.get_args() {
        line.push(' ');
        line.push_str(&word(arg));
    }
    line
}

/// Runs a command to its end with our own stdin, stdout and stderr.
///
/// # Errors
/// When it cannot be started or does not exit with 0.
pub fn run(command: &mut Command) -> Result<()> {
    let status = command
        .status()
        .with_context(|| format!("starting `{}`", shown(command)))?;
    if !status.success() {
        bail!("`{}` failed: {status}", shown(command));
    }
    Ok(())
}

/// Runs a command to its end and gives what it wrote to stdout.
///
/// # Errors
/// When it cannot be started or does not exit with 0; the error carries what it wrote to stderr.
pub fn output(command: &mut Command) -> Result<String> {
    let done = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("starting `{}`", shown(command)))?;
    if !done.status.success() {
        let said = [done.stderr, done.stdout].concat();
        let said = String::from_utf8_lossy(&said);
        bail!(
            "`{}` failed: {}\n{}",
            shown(command),
            done.status,
            said.trim()
        );
    }
    String::from_utf8(done.stdout)
        .with_context(|| format!("reading the output of `{}`", shown(command)))
}

/// Runs a command silently and ends it when it takes longer than `limit`.
///
/// # Errors
/// When it cannot be started, takes too long or does not exit with 0.
pub fn quiet_within(command: &mut Command, limit: Duration) -> Result<()> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .with_context(|| format!("starting `{}`", shown(command)))?;
    let began = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            if !status.success() {
                bail!("`{}` failed: {status}", shown(command));
            }
            return Ok(());
        }
        if began.elapsed() > limit {
            child.kill()?;
            child.wait()?;
            bail!(
                "`{}` took longer than {} s",
                shown(command),
                limit.as_secs()
            );
        }
        sleep(Duration::from_millis(50));
    }
}
