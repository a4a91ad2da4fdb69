//! How results are shown: tables in Markdown, so that they can be pasted into the documentation,
//! and aims.

use serde::Serialize;

/// Prints a table whose first column is text and whose others are numbers.
pub fn table(title: &str, columns: &[&str], rows: &[Vec<String>]) {
    let length = |text: &str| text.chars().count();
    let widths: Vec<_> = (0..columns.len())
        .map(|i| {
            let cells = rows.iter().map(|row| length(&row[i]));
            cells.fold(length(columns[i]), usize::max)
        })
        .collect();
    let line = |cells: &[&str]| {
        print!("|");
        for (i, (cell, width)) in cells.iter().zip(&widths).enumerate() {
            if i == 0 {
                print!(" {cell:<width$} |");
            } else {
                print!(" {cell:>width$} |");
            }
        }
        println!();
    };
    println!("\n### {title}\n");
    line(columns);
    print!("|");
    for (i, width) in widths.iter().enumerate() {
        let end = if i == 0 { "-" } else { ":" };
        print!("{}{end}|", "-".repeat(width + 1));
    }
    println!();
    for row in rows {
        line(&row.iter().map(String::as_str).collect::<Vec<_>>());
    }
}

/// A number with so many places; a dash when there is none.
pub fn number(value: Option<f64>, places: usize) -> String {
    match value {
        Some(value) if value.is_finite() => format!("{value:.places$}"),
        _ => "–".to_owned(),
    }
}

/// A part as a percentage.
pub fn percent(part: f64, places: usize) -> String {
    format!("{:.places$} %", part * 100.0)
}

/// On which side of its bound a value is to be.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Bound {
    /// The bound or more.
    AtLeast(f64),
    /// Less than the bound.
    Below(f64),
    /// The bound or less.
    AtMost(f64),
}

/// What a value is hoped to be.
#[derive(Debug, Serialize)]
pub struct Aim {
    what: String,
    bound: Bound,
    value: f64,
    reached: bool,
    /// What has to be known to judge it.
    #[serde(skip_serializing_if = "Option::is_none")]
    note: Option<String>,
}

impl Aim {
    /// An aim and what was measured.
    pub fn new(what: impl Into<String>, value: f64, bound: Bound) -> Self {
        let reached = match bound {
            Bound::AtLeast(least) => value >= least,
            Bound::Below(most) => value < most,
            Bound::AtMost(most) => value <= most,
        };
        Self {
            what: what.into(),
            bound,
            value,
            reached,
            note: None,
        }
    }

    /// The same with a note.
    pub fn note(self, note: String) -> Self {
        let note = Some(note);
        Self { note, ..self }
    }
}

/// Prints aims as a table.
pub fn print_aims(aims: &[Aim]) {
    let rows: Vec<_> = aims
        .iter()
        .map(|aim| {
            let bound = match aim.bound {
                Bound::AtLeast(least) => format!("≥ {least}"),
                Bound::Below(most) => format!("< {most}"),
                Bound::AtMost(most) => format!("≤ {most}"),
            };
            let judged = if aim.reached {
                "reached"
            } else {
                "not reached"
            };
            vec![
                aim.what.clone(),
                bound,
                number(Some(aim.value), 2),
                match &aim.note {
                    Some(note) => format!("{judged} ({note})"),
                    None => judged.to_owned(),
                },
            ]
        })
        .collect();
    table("Aims", &["aim", "bound", "value", ""], &rows);
}
