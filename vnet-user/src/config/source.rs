//! A document's text and where it came from: reading it, and showing where it is wrong.

use std::fs::File;
use std::io::{self, Read};
use std::ops::Range;
use std::path::Path;

use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};
use toml_edit::{Document, Item, TableLike};

use super::{Config, Invalid, Place, document};
use crate::error::{Doing as _, Error};

/// Most bytes of a document: some 50,000 rules.
pub const DOCUMENT_MAX: u64 = 8 << 20;

/// Longest line that is shown, in bytes: drawing takes more than linear time, and nobody reads it.
const LINE_SHOWN_MAX: usize = 1000;

/// A document, or another file, that has been read, but not understood yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// What it is called in errors: a path, or "standard input".
    pub name: String,
    /// All of it.
    pub text: String,
}

impl Source {
    /// Reads the file at `path`; `-` is standard input.
    ///
    /// # Errors
    /// It cannot be read, is longer than [`DOCUMENT_MAX`] or is no UTF-8.
    pub fn open(path: &Path) -> Result<Self, Error> {
        if path.as_os_str() == "-" {
            return Self::read("standard input".into(), io::stdin().lock());
        }
        let name = path.display().to_string();
        let file = File::open(path).map_err(|error| {
            Error::new(format!("opening {name}"), error)
                .mend("name a document that is there, or - for standard input")
        })?;
        Self::read(name, file)
    }

    /// Reads what is called `name` in errors.
    ///
    /// # Errors
    /// As for [`Self::open`].
    pub fn read(name: String, reader: impl Read) -> Result<Self, Error> {
        let doing = || format!("reading {name}");
        let mut bytes = Vec::new();
        // One byte more than there may be: no one can have us read for ever.
        reader
            .take(DOCUMENT_MAX + 1)
            .read_to_end(&mut bytes)
            .doing(doing)?;
        if bytes.len() as u64 > DOCUMENT_MAX {
            return Err(Error::new(
                doing(),
                format_args!("it is longer than the {DOCUMENT_MAX} bytes that a document may have"),
            )
            .mend("leave out what no one needs, or have two switches share it"));
        }
        let text = String::from_utf8(bytes).map_err(|error| {
            let at = error.utf8_error().valid_up_to();
            let before = &error.as_bytes()[..at];
            let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
            Error::new(doing(), format_args!("line {line} is no text in UTF-8"))
                .mend("name a document, which is TOML in UTF-8")
        })?;
        Ok(Self { name, text })
    }

    /// The document of a switch that has none.
    #[must_use]
    pub fn empty() -> Self {
        Self {
            name: "a new switch's document".into(),
            text: document::render(&Config::default()).to_string(),
        }
    }

    /// What it says, checked, for the switch called `switch`.
    ///
    /// # Errors
    /// With the place that is wrong.
    pub fn config(&self, switch: &str) -> Result<Config, Error> {
        let config = document::parse(&self.text).map_err(|refusal| self.refused(refusal))?;
        config
            .validate(switch)
            .map_err(|refusal| self.refused(refusal))?;
        Ok(config)
    }

    /// The error of a text that is refused, with the place concerned.
    #[must_use]
    pub fn refused(&self, refusal: Invalid) -> Error {
        let span = refusal.place.as_ref().and_then(|place| self.span(place));
        let mut error = refusal.doing(format!("reading {}", self.name));
        error.mend.get_or_insert_with(|| "edit the file".into());
        match span {
            Some(span) => error.excerpt(self.excerpt(span)),
            None => error,
        }
    }

    /// The line of a place, which is underlined, and where it is.
    fn excerpt(&self, span: Range<usize>) -> String {
        let start = self.text[..span.start].rfind('\n').map_or(0, |end| end + 1);
        let line = self.text[start..].lines().next().unwrap_or_default();
        let number = self.line(start);
        if line.len() > LINE_SHOWN_MAX {
            let column = self.text[start..span.start].chars().count() + 1;
            return format!(" --> {}:{number}:{column}", self.name);
        }
        let within = span.start - start..span.end - start;
        let snippet = Snippet::source(line)
            .line_start(number)
            .path(&self.name)
            .annotation(AnnotationKind::Primary.span(within));
        let report = [Group::with_level(Level::ERROR).element(snippet)];
        Renderer::plain().render(&report)
    }

    /// The line that the byte `at` is in, from 1.
    #[must_use]
    pub fn line(&self, at: usize) -> usize {
        let before = self.text.as_bytes().iter().take(at);
        before.filter(|byte| **byte == b'\n').count() + 1
    }

    /// The bytes of a place, as far as it is there.
    fn span(&self, place: &Place) -> Option<Range<usize>> {
        let span = match place {
            Place::Bytes(span) => span.clone(),
            Place::Table {
                table,
                index,
                inner,
                key,
            } => {
                let document = Document::parse(self.text.as_str()).ok()?;
                let (mut table, mut whole) = element(document.as_table(), table, *index)?;
                if let Some((name, index)) = inner {
                    (table, whole) = element(table, name, *index)?;
                }
                key.and_then(|key| value_span(table, key)).or(whole)?
            }
        };
        // What is marked begins in one line: a whole table would be the whole screen.
        let start = span.start.min(self.text.len());
        let line_end = self.text[start..]
            .find('\n')
            .map_or(self.text.len(), |length| start + length);
        Some(start..span.end.clamp(start, line_end))
    }
}

/// Number `index` of the tables called `name` in `table`, or the only one; and its bytes.
fn element<'a>(
    table: &'a dyn TableLike,
    name: &str,
    index: usize,
) -> Option<(&'a dyn TableLike, Option<Range<usize>>)> {
    let item = table.get(name)?;
    if let Some(tables) = item.as_array_of_tables() {
        let table = tables.get(index)?;
        Some((table, table.span()))
    } else if let Some(tables) = item.as_array() {
        let table = tables.get(index)?.as_inline_table()?;
        Some((table, table.span()))
    } else {
        Some((item.as_table_like()?, item.span()))
    }
}

/// The bytes of what stands behind `key`, where dots lead into tables.
fn value_span(table: &dyn TableLike, key: &str) -> Option<Range<usize>> {
    match key.split_once('.') {
        Some((first, rest)) => value_span(table.get(first)?.as_table_like()?, rest),
        None => table.get(key).and_then(Item::span),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(text: &str) -> String {
        let source = Source::read("a.toml".into(), text.as_bytes()).unwrap();
        source.config("vsw0").unwrap_err().to_string()
    }

    fn unreadable(bytes: &[u8]) -> String {
        Source::read("a.toml".into(), bytes)
            .unwrap_err()
            .to_string()
    }

    #[test]
    fn the_place_is_marked() {
        insta::assert_snapshot!(refusal("schema = 1\n[[port]]\nname = 'a'\nnetwrok = 'b'\n"), @"
        error: reading a.toml: unknown key `netwrok`, expected one of `name`, `uplink`, `network`, `trunk`, `native`, `mac`, `max_macs`, `ip`, `guard`, `isolated`, `storm`, `groups`
         --> a.toml:4:1
          |
        4 | netwrok = 'b'
          | ^^^^^^^
          mend: did you mean `network`?
        ");
    }

    #[test]
    fn what_contradicts_itself_is_marked_too() {
        for (text, expected) in [
            ("[settings]\nstorm.multicast = 0", "3:19"),
            ("[settings.storm]\nmulticast = 0", "3:13"),
            ("[[port]]\nname = 'a'\n[[port]]\nname = 'a'", "5:8"),
            ("port = [{ name = 'a' }, { name = 'a' }]", "2:34"),
            ("[[network]]\nname = 'a'\nvlan = 4095", "4:8"),
            ("[[network]]\nname = 'a'\ngateway = ['10.0.0.0/24']", "4:11"),
            ("[[port]]\nname = 'a'\ntrunk = ['x', 'y']", "4:9"),
            ("[[port]]\nname = 'a'\nnetwork = 'x'\nnative = 'y'", "2:1"),
            ("[mac]\ndeny = ['01:00:00:00:00:00']", "3:8"),
            (
                "[[nat]]\nid = 1\nkind = 'static'\nexternal = '192.0.2.1'\ninternal = '10.0.0.1'",
                "2:1",
            ),
            (
                "[[group]]\nname = 'a'\n[[group]]\nname = 'b'\n[[group.rule]]\nid = 1\n\
                 direction = 'in'\naction = 'deny'\nremote = 'group:c'",
                "10:10",
            ),
            (
                "[[group]]\nname = 'a'\nrule = [{ id = 0, direction = 'in', action = 'deny' }]",
                "4:16",
            ),
            ("[[port]]\nname = 'a'\ngroups = ['b']", "4:10"),
            ("\n\n[[port]]\n \tname = 'ä/'", "5:10"),
        ] {
            let refusal = refusal(&format!("schema = 1\n{text}\n"));
            let place = format!("--> a.toml:{expected}\n");
            assert!(refusal.contains(&place), "{text}: {refusal}");
        }
    }

    #[test]
    fn a_long_line_is_not_shown() {
        let text = format!("schema = 1\na = '{}", "x".repeat(1 << 20));
        assert_eq!(
            refusal(&text),
            "error: reading a.toml: invalid literal string, expected `'`\n --> a.toml:2:1048582\n  \
             mend: edit the file"
        );
    }

    #[test]
    fn what_is_no_text_or_too_long_is_not_read() {
        assert_eq!(
            unreadable(b"schema = 1\n\xff"),
            "error: reading a.toml: line 2 is no text in UTF-8\n  mend: name a document, which is \
             TOML in UTF-8"
        );
        let most = vec![b'#'; DOCUMENT_MAX as usize + 1];
        assert!(unreadable(&most).contains("longer than"));
        assert!(Source::read("a.toml".into(), &most[1..]).is_ok());
    }
}
