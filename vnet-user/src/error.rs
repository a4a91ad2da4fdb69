//! Errors as users see them, and the one place where exit codes are decided.

use std::fmt;

/// How the command ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExitCode {
    /// 0: it is done.
    Done,
    /// 1: `config diff` has found a difference, which is no error.
    Differs,
    /// 1: it was tried and did not work, or the document or the system does not allow it.
    Failed,
    /// 2: what was typed is wrong on its own, whatever the switch looks like. clap uses it too.
    Usage,
    /// 3: it needs a switch that is up (or, for some commands, a daemon that runs).
    NotUp,
}

impl From<ExitCode> for std::process::ExitCode {
    fn from(code: ExitCode) -> Self {
        Self::from(match code {
            ExitCode::Done => 0,
            ExitCode::Differs | ExitCode::Failed => 1,
            ExitCode::Usage => 2,
            ExitCode::NotUp => 3,
        })
    }
}

/// What was being done, why it failed, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    /// What was being done: "adding the port tap0".
    pub doing: String,
    /// Why it failed.
    pub why: String,
    /// The lines of a file that it is about, with the place marked.
    pub excerpt: Option<String>,
    /// What the user can do about it.
    pub mend: Option<String>,
    /// How the command ends.
    pub code: ExitCode,
}

impl Error {
    /// A failure with exit code 1.
    pub fn new(doing: impl Into<String>, why: impl fmt::Display) -> Self {
        Self {
            doing: doing.into(),
            why: why.to_string(),
            excerpt: None,
            mend: None,
            code: ExitCode::Failed,
        }
    }

    /// A mistake in what was typed: exit code 2.
    pub fn usage(doing: impl Into<String>, why: impl fmt::Display) -> Self {
        Self {
            code: ExitCode::Usage,
            ..Self::new(doing, why)
        }
    }

    /// `doing` needs the switch to be up and it is not: exit code 3.
    pub fn not_up(doing: impl Into<String>, switch: &str) -> Self {
        Self {
            code: ExitCode::NotUp,
            ..Self::new(doing, format_args!("the switch {switch} is not up"))
        }
        .mend(format!("vnet-user --switch {switch} up"))
    }

    /// The same error with the lines of a file that it is about.
    #[must_use]
    pub fn excerpt(mut self, excerpt: impl Into<String>) -> Self {
        self.excerpt = Some(excerpt.into());
        self
    }

    /// The same error with another exit code.
    #[must_use]
    pub fn code(self, code: ExitCode) -> Self {
        Self { code, ..self }
    }

    /// The same error with what to do about it.
    #[must_use]
    pub fn mend(mut self, mend: impl Into<String>) -> Self {
        self.mend = Some(mend.into());
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A library's message may have several lines: those start on their own.
        let gap = if self.why.contains('\n') { "\n" } else { " " };
        write!(f, "error: {}:{gap}{}", self.doing, self.why.trim_end())?;
        if let Some(excerpt) = &self.excerpt {
            write!(f, "\n{}", excerpt.trim_end())?;
        }
        if let Some(mend) = &self.mend {
            write!(f, "\n  mend: {mend}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {}

/// Lower layers say in their outermost context what was being done; the causes below are the why.
impl From<anyhow::Error> for Error {
    fn from(error: anyhow::Error) -> Self {
        match error.downcast::<Self>() {
            Ok(error) => error,
            Err(error) => {
                let causes: Vec<String> = error.chain().skip(1).map(ToString::to_string).collect();
                if causes.is_empty() {
                    Self::new("running the command", error)
                } else {
                    Self::new(error.to_string(), causes.join(": "))
                }
            }
        }
    }
}

/// Says what was being done when a lower layer failed.
pub trait Doing<T> {
    /// Turns any failure into an [`Error`] with exit code 1.
    fn doing(self, doing: impl FnOnce() -> String) -> Result<T, Error>;
}

impl<T, E: Into<anyhow::Error>> Doing<T> for Result<T, E> {
    fn doing(self, doing: impl FnOnce() -> String) -> Result<T, Error> {
        self.map_err(|error| Error::new(doing(), format_args!("{:#}", error.into())))
    }
}

#[cfg(test)]
mod tests {
    use anyhow::Context as _;

    use super::*;

    #[test]
    fn prints_what_why_and_the_mend() {
        let error = Error::new("adding the port tap0", "it is there already").mend("port set tap0");
        assert_eq!(
            error.to_string(),
            "error: adding the port tap0: it is there already\n  mend: port set tap0"
        );
    }

    #[test]
    fn an_anyhow_chain_becomes_doing_and_why() {
        let low: Result<(), _> = Err(std::io::Error::other("EBUSY"));
        let error = Error::from(
            low.context("opening tun")
                .context("attaching tap0")
                .unwrap_err(),
        );
        assert_eq!(
            (error.doing.as_str(), error.why.as_str()),
            ("attaching tap0", "opening tun: EBUSY")
        );
    }

    #[test]
    fn an_error_survives_the_way_through_anyhow() {
        let error = Error::not_up("listing addresses", "vsw0");
        assert_eq!(Error::from(anyhow::Error::from(error.clone())), error);
    }
}
