//! How much the verifier had to do on each kernel when that was last recorded. Growth beyond a
//! tenth fails: what passes on one kernel may be near the limit of another, where nobody looks.

use std::{collections::BTreeMap, env, fmt::Write as _, fs, path::PathBuf};

use serde::{Deserialize, Serialize};
use vnet_user::datapath::object::PROGRAMS;

/// Set, it has the test record what it finds.
const UPDATE: &str = "VNET_UPDATE_BASELINES";

/// What the file begins with.
const HEADING: &str = "\
# Instructions that the verifier looks at, by kernel and program. `cargo xtask test --kernel NAME`
# compares with them; with VNET_UPDATE_BASELINES=1 before it, it writes those of that kernel anew.

";

/// Instructions that the verifier looked at, by program.
pub type Figures = BTreeMap<String, u32>;

/// What was found on one kernel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Baseline {
    /// As `uname -r` shows it.
    pub release: String,
    /// Of every program.
    pub verified: Figures,
}

/// Holds what is found on the kernel called `name` to what is on record, and prints both.
///
/// # Panics
/// When a program has grown by more than a tenth, or nothing is on record of it.
#[track_caller]
pub fn hold(name: &str, found: Baseline) {
    let mut records = read();
    if env::var_os(UPDATE).is_some_and(|value| !value.is_empty()) {
        records.insert(name.to_owned(), found.clone());
        let text = toml::to_string(&records).unwrap();
        fs::write(path(), format!("{HEADING}{text}")).unwrap();
    }
    let Some(record) = records.get(name) else {
        panic!(
            "nothing is on record of the kernel {name}\n  mend: {}",
            mend(name)
        );
    };
    print!("{}", table(name, record, &found));
    let wrong = differences(&record.verified, &found.verified);
    assert!(
        wrong.is_empty(),
        "on the kernel {name}, Linux {}:\n  {}\n  mend: have the programs ask less of the verifier; where \
         it is worth it, {}",
        found.release,
        wrong.join("\n  "),
        mend(name)
    );
}

fn mend(name: &str) -> String {
    format!("{UPDATE}=1 cargo xtask test --kernel {name}")
}

fn path() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("verified_instructions.toml")
}

fn read() -> BTreeMap<String, Baseline> {
    let path = path();
    let text = fs::read_to_string(&path);
    let text = text.unwrap_or_else(|error| panic!("reading {}: {error}", path.display()));
    toml::from_str(&text).unwrap_or_else(|error| panic!("reading {}: {error}", path.display()))
}

/// What must not be.
fn differences(record: &Figures, found: &Figures) -> Vec<String> {
    let mut wrong = Vec::new();
    for (program, now) in found {
        match record.get(program) {
            None => wrong.push(format!("{program}: nothing is on record of it")),
            Some(before) if u64::from(*now) * 10 > u64::from(*before) * 11 => wrong.push(format!(
                "{program}: {now} instructions verified, {} % more than the {before} on record",
                percent(*before, *now)
            )),
            Some(_) => {}
        }
    }
    let gone = record
        .keys()
        .filter(|program| !found.contains_key(*program));
    wrong.extend(gone.map(|program| format!("{program}: on record, but there is no such program")));
    wrong
}

fn percent(before: u32, now: u32) -> String {
    let change = (f64::from(now) / f64::from(before) - 1.0) * 100.0;
    format!("{change:.1}")
}

/// In the order in which the object's programs are listed.
fn table(name: &str, record: &Baseline, found: &Baseline) -> String {
    let mut text = format!(
        "kernel {name}: Linux {}; on record: Linux {}\n{:<12}{:>10}{:>11}{:>9}\n",
        found.release, record.release, "PROGRAM", "VERIFIED", "ON RECORD", "CHANGE"
    );
    for program in PROGRAMS {
        let Some(now) = found.verified.get(*program) else {
            continue;
        };
        let before = record.verified.get(*program);
        let (before, change) = before.map_or_else(
            || ("-".to_owned(), "-".to_owned()),
            |before| (before.to_string(), percent(*before, *now) + " %"),
        );
        let _ = writeln!(text, "{program:<12}{now:>10}{before:>11}{change:>9}");
    }
    text
}

fn figures(rows: &[(&str, u32)]) -> Figures {
    rows.iter()
        .map(|(program, verified)| ((*program).to_owned(), *verified))
        .collect()
}

#[test]
fn more_than_a_tenth_is_too_much() {
    let record = figures(&[("one", 1000), ("two", 1000)]);
    let fits = figures(&[("one", 1100), ("two", 10)]);
    assert_eq!(differences(&record, &fits), Vec::<String>::new());
    let grown = figures(&[("one", 1101), ("two", 1000)]);
    assert_eq!(
        differences(&record, &grown),
        ["one: 1101 instructions verified, 10.1 % more than the 1000 on record"]
    );
}

#[test]
fn every_program_is_on_record_and_no_other() {
    let differ = differences(&figures(&[("old", 1000)]), &figures(&[("new", 1000)]));
    assert_eq!(
        differ,
        [
            "new: nothing is on record of it",
            "old: on record, but there is no such program"
        ]
    );
}

#[test]
fn the_table_shows_both_and_the_change() {
    let baseline = |release: &str, verified| Baseline {
        release: release.to_owned(),
        verified: figures(&[("tc_ingress", verified)]),
    };
    let text = table(
        "6.1",
        &baseline("6.1.0-1", 2000),
        &baseline("6.1.0-2", 1900),
    );
    assert_eq!(
        text,
        "kernel 6.1: Linux 6.1.0-2; on record: Linux 6.1.0-1\n\
         PROGRAM       VERIFIED  ON RECORD   CHANGE\n\
         tc_ingress        1900       2000   -5.0 %\n"
    );
}
