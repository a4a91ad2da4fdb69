//! Why a document, or a change of it, is refused.

use std::ops::Range;

use crate::error::Error;

/// Why a configuration, or a change of it, is refused. Whoever tried says what was being done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Invalid {
    /// What it is about: "the port tap0".
    pub subject: Option<String>,
    /// Why.
    pub why: String,
    /// What the user can do about it.
    pub mend: Option<String>,
    /// Where in the document.
    pub place: Option<Box<Place>>,
}

/// Where in a document something is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// By its bytes.
    Bytes(Range<usize>),
    /// By its table.
    Table {
        /// The table's name.
        table: &'static str,
        /// Which one of that name, from 0.
        index: usize,
        /// A table of an array in that one: the array's name, and which one of it, from 0.
        inner: Option<(&'static str, usize)>,
        /// The key of it that is meant, where it is there.
        key: Option<&'static str>,
    },
}

impl Invalid {
    /// A refusal.
    pub fn new(why: impl Into<String>) -> Self {
        Self {
            why: why.into(),
            ..Self::default()
        }
    }

    /// The same refusal with what to do about it.
    #[must_use]
    pub fn mend(mut self, mend: impl Into<String>) -> Self {
        self.mend = Some(mend.into());
        self
    }

    /// The same refusal with what it is about.
    #[must_use]
    pub fn about(mut self, subject: impl Into<String>) -> Self {
        self.subject = Some(subject.into());
        self
    }

    /// The same refusal with where in the document it is: in the table `table`, which is number
    /// `index` of that name.
    #[must_use]
    pub fn at(mut self, table: &'static str, index: usize) -> Self {
        let place = || Place::Table {
            table,
            index,
            inner: None,
            key: None,
        };
        self.place = self.place.or_else(|| Some(Box::new(place())));
        self
    }

    /// The same refusal with where in the text it is.
    #[must_use]
    pub fn at_bytes(mut self, place: Range<usize>) -> Self {
        self.place = Some(Box::new(Place::Bytes(place)));
        self
    }

    /// The same refusal, which is about number `index` of the tables `name` within the one that it is
    /// in.
    #[must_use]
    pub fn within(mut self, name: &'static str, index: usize) -> Self {
        if let Some(Place::Table { inner, .. }) = self.place.as_deref_mut() {
            *inner = Some((name, index));
        }
        self
    }

    /// The same refusal, which is about one key of the table that it is in.
    #[must_use]
    pub fn key(mut self, name: &'static str) -> Self {
        if let Some(Place::Table { key, .. }) = self.place.as_deref_mut() {
            *key = Some(name);
        }
        self
    }

    /// The error of whoever tried: exit code 1, as it depends on the document.
    pub fn doing(self, doing: impl Into<String>) -> Error {
        let doing = doing.into();
        let why = match self.subject {
            // "adding the port tap0" need not be told that it is about the port tap0.
            Some(subject) if !format!("{doing} ").contains(&format!("{subject} ")) => {
                format!("{subject}: {}", self.why)
            }
            _ => self.why,
        };
        let error = Error::new(doing, why);
        match self.mend {
            Some(mend) => error.mend(mend),
            None => error,
        }
    }
}
