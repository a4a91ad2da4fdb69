//! What a run of `vnet-user` came to.

use std::process::Command;

use serde_json::Value;
use xtask::process::shown;

/// A run of `vnet-user`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ran {
    /// The command, as one would type it.
    pub typed: String,
    /// The exit code.
    pub code: i32,
    /// What it wrote to stdout.
    pub stdout: String,
    /// What it wrote to stderr.
    pub stderr: String,
}

impl Ran {
    /// Runs `command` to its end.
    ///
    /// # Panics
    /// When it cannot be started, or a signal ended it.
    #[track_caller]
    pub fn of(command: &mut Command) -> Self {
        let typed = shown(command);
        let done = match command.output() {
            Ok(done) => done,
            Err(error) => panic!("starting `{typed}`: {error}"),
        };
        let Some(code) = done.status.code() else {
            panic!("`{typed}` ended by {}", done.status);
        };
        Self {
            typed,
            code,
            stdout: String::from_utf8(done.stdout).expect("stdout is UTF-8"),
            stderr: String::from_utf8(done.stderr).expect("stderr is UTF-8"),
        }
    }

    /// The same run, which must have exited with 0.
    ///
    /// # Panics
    /// When it did not.
    #[track_caller]
    #[must_use]
    pub fn succeeded(self) -> Self {
        assert_eq!(
            self.code, 0,
            "`{}` failed:\n{}{}",
            self.typed, self.stderr, self.stdout
        );
        self
    }

    /// The same run, which must have failed with `code`, with an error that has every one of
    /// `words` in it, a mend too.
    ///
    /// # Panics
    /// When it is not so.
    #[track_caller]
    pub fn refused(&self, code: i32, words: &[&str]) -> &Self {
        let Self { typed, stderr, .. } = self;
        assert_eq!(self.code, code, "`{typed}`:\n{stderr}");
        assert!(stderr.starts_with("error: "), "`{typed}`:\n{stderr}");
        // clap's own refusals name the option and what it takes; those need no mend line.
        if !stderr.contains("\nUsage:") && !stderr.contains("--help") {
            assert!(stderr.contains("\n  mend: "), "`{typed}`:\n{stderr}");
        }
        for word in words {
            assert!(
                stderr.contains(word),
                "`{typed}` does not say {word:?}:\n{stderr}"
            );
        }
        assert_eq!(self.stdout, "", "`{typed}`: an error belongs on stderr");
        self
    }

    /// What it printed, as JSON.
    ///
    /// # Panics
    /// When that is none.
    #[track_caller]
    #[must_use]
    pub fn json(&self) -> Value {
        match serde_json::from_str(&self.stdout) {
            Ok(value) => value,
            Err(error) => panic!("`{}` printed no JSON: {error}\n{}", self.typed, self.stdout),
        }
    }
}
