//! `doctor`.

use super::{nat, stats, status};
use crate::cli::{DoctorArgs, Format, Global};
use crate::doctor::{self, Check, Verdict, bundle};
use crate::error::Error;
use crate::output::{self, Listing, Output, or_dash, print};
use crate::runtime::Session;

/// Runs it; fails when a check does.
pub fn run(global: &Global, output: &Output, args: &DoctorArgs) -> Result<(), Error> {
    let session = Session::open(global);
    let checks = doctor::examine(global, &session);
    if output.format() == Format::Table {
        let lines = checks.iter().filter(|check| told(check, output));
        let lines: Vec<String> = lines.map(|check| format!("{check}\n")).collect();
        print(&lines.concat())?;
    } else {
        output.list(&checks)?;
    }
    if let Some(file) = &args.bundle {
        let mut entries = findings(&checks)?;
        if let Ok(session) = &session {
            entries.extend(listings(session));
        }
        entries.extend(bundle::gather(global, session.as_ref().ok()));
        bundle::write(file, &entries)?;
        output.note(&format!(
            "{} written: it holds the switch's document, names and addresses; look through it \
             before you send it",
            file.display()
        ));
    }
    match doctor::failures(&checks) {
        0 => Ok(()),
        failed => Err(Error::new(
            format!("examining the switch {}", global.switch),
            format_args!("{failed} of {} checks failed", checks.len()),
        )
        .mend("in brackets after each FAIL")),
    }
}

/// `-q` leaves out what passed.
fn told(check: &Check, output: &Output) -> bool {
    !output.is_quiet() || check.result != Verdict::Pass
}

/// The checks, for people and for programs.
fn findings(checks: &[Check]) -> Result<Vec<bundle::Entry>, Error> {
    let lines: Vec<String> = checks.iter().map(|check| format!("{check}\n")).collect();
    Ok(vec![
        bundle::Entry::new("doctor.txt", lines.concat()),
        bundle::Entry::new("doctor.json", output::json(checks)?),
    ])
}

/// What listings tell; the reason where one tells nothing.
fn listings(session: &Session) -> Vec<bundle::Entry> {
    fn entry<T: Listing>(rows: Result<Vec<T>, Error>) -> bundle::Entry {
        let text = rows.and_then(|rows| output::json(&rows));
        bundle::Entry::of(&format!("{}.json", T::PLURAL), text)
    }
    vec![
        entry(status::read(session).map(|row| vec![row])),
        entry(stats::read(session)),
        entry(nat::rows(session)),
    ]
}

impl Listing for Check {
    const PLURAL: &'static str = "checks";
    const COLUMNS: &'static [&'static str] = &["SCOPE", "WHAT", "RESULT", "DETAIL", "MEND"];

    fn cells(&self) -> Vec<String> {
        vec![
            self.scope.clone(),
            self.what.clone(),
            self.result.to_string(),
            or_dash(self.detail.as_ref()),
            or_dash(self.mend.as_ref()),
        ]
    }
}
