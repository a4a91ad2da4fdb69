//! What goes to stdout (listings) and to stderr (logs, notes). Nothing is coloured.

use std::io::{self, Write as _};

use comfy_table::{ContentArrangement, Table, presets};
use log::LevelFilter;
use serde::ser::SerializeMap as _;
use serde::{Serialize, Serializer};

use crate::cli::{Format, Global};
use crate::config::MacAddr;
use crate::error::{Doing as _, Error};

/// The version of the JSON that listings print.
const SCHEMA: u32 = 1;

/// Something that is listed: one object a row. Its fields are its JSON.
pub trait Listing: Serialize {
    /// What the array of them is called in JSON.
    const PLURAL: &'static str;
    /// The table's headings.
    const COLUMNS: &'static [&'static str];

    /// The row's texts, one a heading.
    fn cells(&self) -> Vec<String>;

    /// What `show` prints on a terminal, a line each: by default the row.
    fn details(&self) -> Vec<(&'static str, String)> {
        Self::COLUMNS.iter().copied().zip(self.cells()).collect()
    }
}

/// The text of a value that may be missing.
pub fn or_dash<T: ToString>(value: Option<T>) -> String {
    value.map_or_else(|| "-".into(), |value| value.to_string())
}

/// The texts one after the other, or a dash.
pub fn joined<T: ToString>(values: &[T]) -> String {
    if values.is_empty() {
        return "-".into();
    }
    let texts: Vec<_> = values.iter().map(ToString::to_string).collect();
    texts.join(",")
}

/// Where and how the command prints.
#[derive(Clone, Copy, Debug)]
pub struct Output {
    format: Format,
    quiet: bool,
}

impl Output {
    /// As the global options say.
    #[must_use]
    pub fn new(global: &Global) -> Self {
        Self {
            format: global.format(),
            quiet: global.quiet,
        }
    }

    /// How listings are printed.
    #[must_use]
    pub fn format(&self) -> Format {
        self.format
    }

    /// Prints a listing.
    pub fn list<T: Listing>(&self, rows: &[T]) -> Result<(), Error> {
        match self.format {
            Format::Table => print(&table(rows)),
            Format::Json | Format::Jsonl => self.print_json(T::PLURAL, rows),
        }
    }

    /// Prints one object: in JSON as a listing of one, on a terminal with its details.
    pub fn show<T: Listing>(&self, object: &T) -> Result<(), Error> {
        match self.format {
            Format::Table => print(&sheet(&object.details())),
            Format::Json | Format::Jsonl => {
                self.print_json(T::PLURAL, std::slice::from_ref(object))
            }
        }
    }

    /// Prints the id of what was made.
    pub fn id(&self, id: u16) -> Result<(), Error> {
        match self.format {
            Format::Table => print(&format!("{id}\n")),
            Format::Json => print(&format!("{{\"schema\":{SCHEMA},\"id\":{id}}}\n")),
            Format::Jsonl => print(&format!("{{\"id\":{id}}}\n")),
        }
    }

    /// Prints the MAC address that was made.
    pub fn mac(&self, mac: MacAddr) -> Result<(), Error> {
        match self.format {
            Format::Table => print(&format!("{mac}\n")),
            Format::Json => print(&format!("{{\"schema\":{SCHEMA},\"mac\":\"{mac}\"}}\n")),
            Format::Jsonl => print(&format!("{{\"mac\":\"{mac}\"}}\n")),
        }
    }

    /// Says something that is no listing, on stderr, unless `-q`.
    pub fn note(&self, text: &str) {
        if !self.quiet {
            eprintln!("note: {text}");
        }
    }

    /// Warns on stderr, unless `-q`.
    pub fn warn(&self, text: &str) {
        if !self.quiet {
            eprintln!("warning: {text}");
        }
    }

    /// Whether errors alone are to be printed.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        self.quiet
    }

    fn print_json<T: Serialize>(&self, plural: &str, rows: &[T]) -> Result<(), Error> {
        let encode = |error| Error::new("printing", error);
        let text = if self.format == Format::Jsonl {
            let mut lines = String::new();
            for row in rows {
                lines += &serde_json::to_string(row).map_err(encode)?;
                lines.push('\n');
            }
            lines
        } else {
            envelope(plural, rows).map_err(encode)? + "\n"
        };
        print(&text)
    }
}

/// A listing as `-o json` prints it.
///
/// # Errors
/// A row cannot be spelled.
pub fn json<T: Listing>(rows: &[T]) -> Result<String, Error> {
    envelope(T::PLURAL, rows).doing(|| format!("spelling the {}", T::PLURAL))
}

fn envelope<T: Serialize>(plural: &str, rows: &[T]) -> serde_json::Result<String> {
    serde_json::to_string_pretty(&Envelope { plural, rows })
}

/// The one object that `-o json` prints.
struct Envelope<'a, T> {
    plural: &'a str,
    rows: &'a [T],
}

impl<T: Serialize> Serialize for Envelope<'_, T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut object = serializer.serialize_map(Some(2))?;
        object.serialize_entry("schema", &SCHEMA)?;
        object.serialize_entry(self.plural, self.rows)?;
        object.end()
    }
}

/// Sets up the log: warnings by default, errors with `-q`, more with `-v`, and what RUST_LOG says.
pub fn init_log(global: &Global, is_daemon: bool) {
    let (ours, others) = match (global.quiet, global.verbose) {
        (true, _) => (LevelFilter::Error, LevelFilter::Error),
        // Nobody sees what a daemon does but in its log.
        (false, 0) if is_daemon => (LevelFilter::Info, LevelFilter::Warn),
        (false, 0) => (LevelFilter::Warn, LevelFilter::Warn),
        (false, 1) => (LevelFilter::Debug, LevelFilter::Warn),
        (false, _) => (LevelFilter::Trace, LevelFilter::Debug),
    };
    env_logger::Builder::new()
        .filter_level(others)
        .filter_module(env!("CARGO_CRATE_NAME"), ours)
        .parse_default_env()
        .write_style(env_logger::WriteStyle::Never)
        .format(|out, record| {
            let level = match record.level() {
                log::Level::Error => "error",
                log::Level::Warn => "warning",
                log::Level::Info => "info",
                log::Level::Debug => "debug",
                log::Level::Trace => "trace",
            };
            writeln!(out, "{level}: {}", record.args())
        })
        .init();
}

/// Prints to stdout. Whoever reads may stop early (`| head`): that is no failure.
pub fn print(text: &str) -> Result<(), Error> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result.doing(|| "printing".into()),
    }
}

fn table<T: Listing>(rows: &[T]) -> String {
    let mut table = plain_table();
    table.set_header(T::COLUMNS.to_vec());
    for row in rows {
        table.add_row(row.cells());
    }
    text(&table)
}

fn sheet(details: &[(&'static str, String)]) -> String {
    let mut table = plain_table();
    for (name, value) in details {
        table.add_row([*name, value]);
    }
    text(&table)
}

fn plain_table() -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    // As wide as the texts: a line that a script cuts up is never broken.
    table.set_content_arrangement(ContentArrangement::Disabled);
    table
}

fn text(table: &Table) -> String {
    let lines: Vec<_> = table
        .lines()
        // Without borders each column still has its padding; the first one's is an indent.
        .map(|line| {
            line.strip_prefix(' ')
                .unwrap_or(&line)
                .trim_end()
                .to_owned()
                + "\n"
        })
        .collect();
    lines.concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Serialize)]
    struct Row(&'static str, Option<u32>);

    impl Listing for Row {
        const PLURAL: &'static str = "rows";
        const COLUMNS: &'static [&'static str] = &["NAME", "LONG HEADING"];

        fn cells(&self) -> Vec<String> {
            vec![self.0.into(), or_dash(self.1)]
        }
    }

    #[test]
    fn a_table_is_columns_and_nothing_else() {
        insta::assert_snapshot!(table(&[Row("a", None), Row("a-longer-name", Some(7))]), @"
        NAME           LONG HEADING
        a              -
        a-longer-name  7
        ");
        insta::assert_snapshot!(table::<Row>(&[]), @"NAME  LONG HEADING");
        insta::assert_snapshot!(sheet(&Row("a", Some(7)).details()), @"
        NAME          a
        LONG HEADING  7
        ");
    }
}
