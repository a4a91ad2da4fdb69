//! YAML as a tree in which everything knows its place.

use std::collections::HashSet;
use std::ops::Range;

use saphyr_parser::{Event, Parser, ScalarStyle, Span};

use crate::config::Invalid;

/// Most lists and mappings within each other: Kubernetes' own take a dozen.
const DEPTH_MAX: usize = 64;

/// A value, and where it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its bytes; of a list or a mapping where it begins.
    pub place: Range<usize>,
    /// What is there.
    pub value: Value,
}

/// What a node is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// A text, a number, a truth value or nothing.
    Scalar {
        /// As it is read, without quotes.
        text: String,
        /// Written without quotes: it may be other things than text.
        plain: bool,
    },
    /// Values one after the other.
    List(Vec<Node>),
    /// Values by their keys, each of which is there once.
    Map(Vec<Entry>),
}

/// A key with its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The key.
    pub key: String,
    /// The key's bytes.
    pub place: Range<usize>,
    /// What stands behind it.
    pub value: Node,
}

impl Node {
    /// Whether nothing is there.
    #[must_use]
    pub fn is_null(&self) -> bool {
        let Value::Scalar { text, plain } = &self.value else {
            return false;
        };
        *plain && matches!(text.as_str(), "" | "~" | "null" | "Null" | "NULL")
    }

    /// A refusal of it.
    #[must_use]
    pub fn refuse(&self, why: impl Into<String>) -> Invalid {
        Invalid::new(why).at_bytes(self.place.clone())
    }
}

/// The documents of `text`, without those that are empty.
///
/// # Errors
/// It is no YAML, or has what makes it more than a tree: aliases and tags, or a key twice.
pub fn documents(text: &str) -> Result<Vec<Node>, Invalid> {
    let offsets = Offsets::of(text);
    let mut tree = Tree::default();
    for event in Parser::new_from_str(text) {
        let (event, span) = event.map_err(|error| {
            let at = offsets.byte(error.marker().index());
            Invalid::new(format!("it is no YAML: {}", error.info())).at_bytes(at..at)
        })?;
        tree.take(event, offsets.place(span))?;
    }
    tree.documents.retain(|document| !document.is_null());
    Ok(tree.documents)
}

/// Where characters are: the parser counts these, and places are in bytes.
struct Offsets {
    /// The byte of each character; none where each has one.
    bytes: Option<Vec<usize>>,
    len: usize,
}

impl Offsets {
    fn of(text: &str) -> Self {
        let bytes = (!text.is_ascii()).then(|| text.char_indices().map(|(byte, _)| byte).collect());
        Self {
            bytes,
            len: text.len(),
        }
    }

    fn byte(&self, index: usize) -> usize {
        match &self.bytes {
            Some(bytes) => bytes.get(index).copied().unwrap_or(self.len),
            None => index.min(self.len),
        }
    }

    fn place(&self, span: Span) -> Range<usize> {
        let start = self.byte(span.start.index());
        start..self.byte(span.end.index()).max(start)
    }
}

/// The tree as far as it has been read.
#[derive(Default)]
struct Tree {
    documents: Vec<Node>,
    /// The lists and mappings that are not over, the outermost first.
    open: Vec<Open>,
}

enum Open {
    List(Range<usize>, Vec<Node>),
    Map {
        place: Range<usize>,
        entries: Vec<Entry>,
        seen: HashSet<String>,
        /// A key whose value comes next.
        key: Option<(String, Range<usize>)>,
    },
}

impl Tree {
    fn take(&mut self, event: Event<'_>, place: Range<usize>) -> Result<(), Invalid> {
        match event {
            Event::Alias(_) => Err(Invalid::new("aliases are not read")
                .mend("write out what it stands for")
                .at_bytes(place)),
            Event::Scalar(.., Some(_))
            | Event::SequenceStart(_, Some(_))
            | Event::MappingStart(_, Some(_)) => Err(Invalid::new("tags are not read")
                .mend("leave it out; a text in quotes is a text")
                .at_bytes(place)),
            Event::Scalar(text, style, ..) => {
                let plain = style == ScalarStyle::Plain;
                let text = text.into_owned();
                self.scalar(text, plain, place)
            }
            Event::SequenceStart(..) => self.open(place, |place| Open::List(place, Vec::new())),
            Event::MappingStart(..) => self.open(place, |place| Open::Map {
                place,
                entries: Vec::new(),
                seen: HashSet::new(),
                key: None,
            }),
            Event::SequenceEnd | Event::MappingEnd => {
                match self.open.pop() {
                    Some(Open::List(place, items)) => self.add(place, Value::List(items)),
                    Some(Open::Map { place, entries, .. }) => self.add(place, Value::Map(entries)),
                    None => {}
                }
                Ok(())
            }
            Event::Nothing
            | Event::StreamStart
            | Event::StreamEnd
            | Event::DocumentStart(_)
            | Event::DocumentEnd => Ok(()),
        }
    }

    fn open(
        &mut self,
        place: Range<usize>,
        open: impl FnOnce(Range<usize>) -> Open,
    ) -> Result<(), Invalid> {
        if let Some(Open::Map { key: None, .. }) = self.open.last() {
            return Err(Invalid::new("a key is a text").at_bytes(place));
        }
        if self.open.len() == DEPTH_MAX {
            let why = format!("more than {DEPTH_MAX} lists and mappings are within each other");
            return Err(Invalid::new(why).at_bytes(place));
        }
        self.open.push(open(place));
        Ok(())
    }

    fn scalar(&mut self, text: String, plain: bool, place: Range<usize>) -> Result<(), Invalid> {
        if let Some(Open::Map {
            seen,
            key: key @ None,
            ..
        }) = self.open.last_mut()
        {
            if plain && is_other(&text) {
                let why = format!("a key is a text, and `{text}` without quotes is none");
                return Err(Invalid::new(why)
                    .mend(format!("write '{text}'"))
                    .at_bytes(place));
            }
            if !seen.insert(text.clone()) {
                return Err(Invalid::new(format!("`{text}` is there twice")).at_bytes(place));
            }
            *key = Some((text, place));
            return Ok(());
        }
        self.add(place, Value::Scalar { text, plain });
        Ok(())
    }

    /// Puts a value that is over where it belongs.
    fn add(&mut self, place: Range<usize>, value: Value) {
        let node = Node { place, value };
        match self.open.last_mut() {
            None => self.documents.push(node),
            Some(Open::List(_, items)) => items.push(node),
            Some(Open::Map { entries, key, .. }) => {
                // The parser has a key for each value.
                if let Some((key, place)) = key.take() {
                    entries.push(Entry {
                        key,
                        place,
                        value: node,
                    });
                }
            }
        }
    }
}

/// Whether YAML, in the version that Kubernetes reads, takes a text without quotes for a truth value
/// or a number.
pub(super) fn is_other(text: &str) -> bool {
    let lower = text.to_ascii_lowercase();
    if matches!(
        lower.as_str(),
        "true"
            | "false"
            | "yes"
            | "no"
            | "on"
            | "off"
            | "y"
            | "n"
            | ".inf"
            | "+.inf"
            | "-.inf"
            | ".nan"
    ) {
        return true;
    }
    let number = lower.strip_prefix(['+', '-']).unwrap_or(&lower);
    if let Some((base, digits)) = [(16, "0x"), (8, "0o"), (2, "0b")]
        .iter()
        .find_map(|(base, prefix)| Some((*base, number.strip_prefix(prefix)?)))
    {
        return !digits.is_empty() && digits.chars().all(|c| c == '_' || c.is_digit(base));
    }
    let begins = number.starts_with(|c: char| c.is_ascii_digit() || c == '.');
    begins && number.replace('_', "").parse::<f64>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Place;

    /// The tree as JSON, texts that may be other things in angle brackets.
    fn shape(node: &Node) -> String {
        match &node.value {
            Value::Scalar { text, plain: true } => format!("<{text}>"),
            Value::Scalar { text, .. } => format!("{text:?}"),
            Value::List(items) => {
                let items: Vec<_> = items.iter().map(shape).collect();
                format!("[{}]", items.join(","))
            }
            Value::Map(entries) => {
                let entries: Vec<_> = entries
                    .iter()
                    .map(|entry| format!("{}:{}", entry.key, shape(&entry.value)))
                    .collect();
                format!("{{{}}}", entries.join(","))
            }
        }
    }

    fn shapes(text: &str) -> Vec<String> {
        let documents = documents(text).unwrap_or_else(|refusal| panic!("{text:?}: {refusal:?}"));
        documents.iter().map(shape).collect()
    }

    fn refusal(text: &str) -> (String, Range<usize>) {
        let refusal = documents(text).unwrap_err();
        match refusal.place.as_deref() {
            Some(Place::Bytes(place)) => (refusal.why, place.clone()),
            other => panic!("{text:?}: {other:?}"),
        }
    }

    #[test]
    fn documents_are_trees() {
        assert_eq!(
            shapes("a: 1\nb: ['2', x]\nc:\n- d: {}\n  e:\n- ~\n"),
            ["{a:<1>,b:[\"2\",<x>],c:[{d:{},e:<>},<~>]}"]
        );
        assert_eq!(
            shapes("a: b\n---\n# nothing\n---\n[]\n...\n"),
            ["{a:<b>}", "[]"]
        );
        assert_eq!(shapes(""), [""; 0]);
        assert_eq!(
            shapes("{\"a\": {\"b\": [1, \"2\"]}}"),
            ["{a:{b:[<1>,\"2\"]}}"]
        );
        // An anchor that nobody refers to is nothing.
        assert_eq!(shapes("a: &x b"), ["{a:<b>}"]);
    }

    #[test]
    fn places_are_in_bytes() {
        let text = "# ä\nschlüssel: 'wört'\r\nb: c\n";
        let documents = documents(text).unwrap();
        let Value::Map(entries) = &documents[0].value else {
            panic!("{documents:?}");
        };
        let places: Vec<_> = entries
            .iter()
            .map(|entry| (&text[entry.place.clone()], &text[entry.value.place.clone()]))
            .collect();
        assert_eq!(places, [("schlüssel", "'wört'"), ("b", "c")]);
    }

    #[test]
    fn more_than_trees_is_refused() {
        for (text, why, at) in [
            ("a: &x b\nc: *x", "aliases are not read", 11),
            ("a: !!str 8", "tags are not read", 3),
            ("a: 1\nb: 2\na: 3", "`a` is there twice", 10),
            ("? [a]\n: b", "a key is a text", 2),
            (
                "'on': b\non: c",
                "a key is a text, and `on` without quotes is none",
                8,
            ),
        ] {
            let (found, place) = refusal(text);
            assert_eq!((found.as_str(), place.start), (why, at), "{text:?}");
        }
        let (why, place) = refusal("a: b\n c: d\n");
        assert!(why.starts_with("it is no YAML: "), "{why}");
        assert!(place.start >= 4, "{place:?}");
        let deep = "- ".repeat(DEPTH_MAX + 1);
        assert!(refusal(&deep).0.contains("more than 64"));
        assert_eq!(
            documents(&"- ".repeat(DEPTH_MAX)).map(|all| all.len()),
            Ok(1)
        );
    }

    #[test]
    fn nothing_makes_it_panic() {
        for text in [
            "{", "}", "- [", "\"", "'", "a: |", "&", "*", "!", "%YAML", "\t", "\u{feff}",
            "--- |\n", "? ", ": ", "[a, ]]",
        ] {
            let _ = documents(text);
        }
        let _ = documents(&"[".repeat(100_000));
        let _ = documents(&"{a: ".repeat(100_000));
    }

    #[test]
    fn what_is_no_text_without_quotes() {
        for other in [
            "true", "False", "yes", "NO", "on", "0", "80", "-1", "+1", "1.5", ".5", "1e3", "0x1F",
            "0o17", "0b1", "1_000", ".inf", ".NaN",
        ] {
            assert!(is_other(other), "{other}");
        }
        for text in [
            "a",
            "web",
            "1.2.3",
            "10.0.0.0/8",
            "v1",
            "1a",
            "inf",
            "nan",
            "infinity",
            "-",
            "0x",
            "0xg",
            "truth",
            "e3",
            "::1",
            "1-2",
            "_1",
        ] {
            assert!(!is_other(text), "{text}");
        }
    }
}
