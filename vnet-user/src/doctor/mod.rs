//! `doctor`: looks at the host, the document, the ports, the datapath and other software for what
//! keeps a switch from working, and says what to do about it.
//!
//! One scope a file. Each gathers facts and then judges them in pure functions, so that every verdict
//! has a test that needs no host:
//!
//! | module | looks at |
//! |---|---|
//! | [`host`] | the kernel, privileges, the BPF file system |
//! | [`document`] | what the configuration says, against itself and the host's addresses |
//! | [`ports`] | each port's interface: presence, offloads, MTU, XDP |
//! | [`hooks`] | programs on the hooks that vnet uses, its own and others' |
//! | [`dhcp`] | who serves DHCP |
//! | [`datapath`] | pins, programs, how full the tables are, telling drops |
//! | [`neighbours`] | other software that works on the same interfaces |
//! | [`bundle`] | all of it in one file for a bug report |

pub mod bundle;
pub mod datapath;
pub mod dhcp;
pub mod document;
pub mod hooks;
pub mod host;
pub mod neighbours;
pub mod ports;

use std::fmt;

use serde::Serialize;

use crate::cli::Global;
use crate::error::Error;
use crate::host::Links;
use crate::runtime::Session;

/// What to do about a check that could not be made for want of privilege.
const AS_ROOT: &str = "run as root";

/// What a check came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// It is as it should be.
    Pass,
    /// It works, or could not be looked at; there is something to know.
    Warn,
    /// Traffic is lost, or the switch does not come up.
    Fail,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pass => "PASS",
            Self::Warn => "WARN",
            Self::Fail => "FAIL",
        })
    }
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What it belongs to: `host`, `switch`, `document`, `port NAME`, `ports`, `datapath`, `dhcp`, `neighbours`.
    pub scope: String,
    /// What was looked at; the same words whatever was found.
    pub what: String,
    /// What it came to.
    pub result: Verdict,
    /// What to do about it; always there unless it passed.
    pub mend: Option<String>,
    /// What was found.
    pub detail: Option<String>,
}

impl Check {
    /// The same check with what was found.
    #[must_use]
    pub fn detail(mut self, detail: impl fmt::Display) -> Self {
        self.detail = Some(detail.to_string());
        self
    }
}

impl fmt::Display for Check {
    /// `SCOPE: what, what was found : PASS | WARN | FAIL (mend)`, one line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut line = format!("{}: {}", self.scope, self.what);
        if let Some(detail) = &self.detail {
            line += &format!(", {detail}");
        }
        line += &format!(" : {}", self.result);
        if let Some(mend) = &self.mend {
            line += &format!(" ({mend})");
        }
        // A parser's message, which quotes a file, has several.
        let words: Vec<&str> = line.split_whitespace().collect();
        f.write_str(&words.join(" "))
    }
}

/// Makes the checks of one scope.
#[derive(Clone, Debug)]
pub struct Scope(String);

impl Scope {
    /// The scope called `name`.
    #[must_use]
    pub fn new(name: impl Into<String>) -> Self {
        Self(name.into())
    }

    /// A check that passed.
    #[must_use]
    pub fn pass(&self, what: impl Into<String>) -> Check {
        self.check(what.into(), Verdict::Pass, None)
    }

    /// A check that found something to know, and what to do about it.
    #[must_use]
    pub fn warn(&self, what: impl Into<String>, mend: impl Into<String>) -> Check {
        self.check(what.into(), Verdict::Warn, Some(mend.into()))
    }

    /// A check that found something that does not work, and what to do about it.
    #[must_use]
    pub fn fail(&self, what: impl Into<String>, mend: impl Into<String>) -> Check {
        self.check(what.into(), Verdict::Fail, Some(mend.into()))
    }

    /// A check that could not be made: the mend of `error`, where it has one.
    #[must_use]
    pub fn unknown(&self, what: impl Into<String>, error: &Error) -> Check {
        let mend = error.mend.clone().unwrap_or_else(|| AS_ROOT.into());
        let why = unquoted(&error.why);
        self.warn(what, mend)
            .detail(format_args!("not looked at: {}: {why}", error.doing))
    }

    fn check(&self, what: String, result: Verdict, mend: Option<String>) -> Check {
        Check {
            scope: self.0.clone(),
            what,
            result,
            mend,
            detail: None,
        }
    }
}

/// Looks at everything that can be looked at. `session` may have failed to open: the host is
/// examined all the same.
#[must_use]
pub fn examine(global: &Global, session: &Result<Session, Error>) -> Vec<Check> {
    let loaded = session.as_ref().is_ok_and(Session::is_up);
    let host = host::Facts::gather(&global.bpffs, loaded);
    let mut checks = host::judge(&host);
    let session = match session {
        Ok(session) => session,
        Err(error) => {
            let mend = error.mend.as_deref();
            checks.push(
                Scope::new("switch")
                    .fail(
                        "opened",
                        mend.unwrap_or("vnet-user --switch NAME names another"),
                    )
                    .detail(format_args!("{}: {}", error.doing, unquoted(&error.why))),
            );
            return checks;
        }
    };
    let (listed, links) = match Links::open().and_then(|links| Ok((links.list()?, links))) {
        Ok(found) => found,
        Err(error) => {
            checks.push(Scope::new("host").unknown("interfaces", &Error::from(error)));
            return checks;
        }
    };
    let (config, document) = document::examine(session, &listed, &links);
    checks.extend(document);
    let privileged = host.is_privileged();
    checks.extend(ports::examine(
        session, &config, &listed, &links, privileged,
    ));
    checks.extend(datapath::examine(session, &config, &listed));
    checks.extend(dhcp::examine(session, &config));
    checks.extend(neighbours::examine(session, &config, &listed, privileged));
    checks
}

/// A parser's message without the lines that it quotes: they may hold what is nobody's business.
fn unquoted(message: &str) -> String {
    let is_quote = |line: &str| {
        let number = line
            .trim_start()
            .trim_start_matches(|c: char| c.is_ascii_digit());
        number.trim_start().starts_with('|')
    };
    let lines: Vec<&str> = message.lines().filter(|line| !is_quote(line)).collect();
    lines.join(" ")
}

/// How many checks failed.
#[must_use]
pub fn failures(checks: &[Check]) -> usize {
    checks
        .iter()
        .filter(|check| check.result == Verdict::Fail)
        .count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_check_is_one_line() {
        let scope = Scope::new("port tap0");
        assert_eq!(
            scope.pass("interface").to_string(),
            "port tap0: interface : PASS"
        );
        assert_eq!(
            scope
                .fail("interface", "start its VM")
                .detail("there is\n  none")
                .to_string(),
            "port tap0: interface, there is none : FAIL (start its VM)"
        );
        assert_eq!(
            scope.warn("LRO", "off with it").to_string(),
            "port tap0: LRO : WARN (off with it)"
        );
    }

    #[test]
    fn what_cannot_be_looked_at_says_why() {
        let error = Error::new("listing addresses", "EPERM");
        let check = Scope::new("datapath").unknown("FDB", &error);
        assert_eq!(
            check.to_string(),
            "datapath: FDB, not looked at: listing addresses: EPERM : WARN (run as root)"
        );
        let error = error.mend("look again");
        assert_eq!(
            Scope::new("x").unknown("y", &error).mend.as_deref(),
            Some("look again")
        );
    }

    #[test]
    fn parsers_quotes_are_left_out() {
        let message = "TOML parse error at line 2, column 1\n  |\n2 | password = \"hunter2\"\n  \
                       | ^^^^^^^^\nunknown field `password`";
        assert_eq!(
            unquoted(message),
            "TOML parse error at line 2, column 1 unknown field `password`"
        );
        assert_eq!(unquoted("a | b"), "a | b");
    }

    #[test]
    fn failures_are_counted() {
        let scope = Scope::new("x");
        let checks = [scope.pass("a"), scope.warn("b", "m"), scope.fail("c", "m")];
        assert_eq!(failures(&checks), 1);
    }
}
