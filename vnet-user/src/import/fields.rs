//! What the keys of a mapping say, and that there are no others.

use std::collections::BTreeMap;

use super::yaml::{Entry, Node, Value, is_other};
use crate::config::{Invalid, alike};

/// A mapping that has no keys but those that are known.
pub(super) struct Fields<'a> {
    node: &'a Node,
    entries: &'a [Entry],
}

impl<'a> Fields<'a> {
    /// The mapping `node`, which is a `what`.
    pub(super) fn of(node: &'a Node, what: &str, known: &[&str]) -> Result<Self, Invalid> {
        let entries = entries(node, what)?;
        if let Some(other) = entries
            .iter()
            .find(|entry| !known.contains(&entry.key.as_str()))
        {
            let refusal = Invalid::new(format!("{what} has no field `{}`", other.key));
            let mend = match alike(&other.key, known.iter().copied()) {
                Some(word) => format!("did you mean `{word}`?"),
                None => format!("it has {}", known.join(", ")),
            };
            return Err(refusal.mend(mend).at_bytes(other.place.clone()));
        }
        Ok(Self { node, entries })
    }

    /// What stands behind `key`, if anything does.
    pub(super) fn get(&self, key: &str) -> Option<&'a Node> {
        let entry = self.entries.iter().find(|entry| entry.key == key)?;
        (!entry.value.is_null()).then_some(&entry.value)
    }

    /// What has to stand behind `key`.
    pub(super) fn require(&self, key: &str) -> Result<&'a Node, Invalid> {
        self.get(key)
            .ok_or_else(|| self.node.refuse(format!("`{key}` is missing")))
    }

    /// The values of the list behind `key`, none where there is none.
    pub(super) fn list(&self, key: &str) -> Result<&'a [Node], Invalid> {
        match self.get(key) {
            None => Ok(&[]),
            Some(node) => match &node.value {
                Value::List(items) => Ok(items),
                _ => Err(node
                    .refuse(format!("`{key}` is a list"))
                    .mend("begin each of its values with `- `")),
            },
        }
    }
}

/// The keys and values of `node`, which is a `what`.
fn entries<'a>(node: &'a Node, what: &str) -> Result<&'a [Entry], Invalid> {
    match &node.value {
        Value::Map(entries) => Ok(entries),
        // What is left out by accident should not mean "all".
        _ if node.is_null() => Err(node
            .refuse(format!("{what} is missing"))
            .mend("write {} for an empty one")),
        _ => Err(node.refuse(format!("{what} is a mapping: KEY: VALUE"))),
    }
}

/// The mapping `node` of names to what `read` makes of them.
pub(super) fn by_name<T>(
    node: &Node,
    what: &str,
    mut read: impl FnMut(&Entry) -> Result<T, Invalid>,
) -> Result<BTreeMap<String, T>, Invalid> {
    entries(node, what)?
        .iter()
        .map(|entry| Ok((entry.key.clone(), read(entry)?)))
        .collect()
}

/// The mapping `node` of texts to texts.
pub(super) fn labels(node: &Node) -> Result<BTreeMap<String, String>, Invalid> {
    by_name(node, "a set of labels", |entry| {
        text(&entry.value, "a label's value")
    })
}

/// The text `node`, which is a `what`.
pub(super) fn text(node: &Node, what: &str) -> Result<String, Invalid> {
    let Value::Scalar { text, plain } = &node.value else {
        return Err(node.refuse(format!("{what} is a text")));
    };
    if node.is_null() {
        return Err(node
            .refuse(format!("{what} is missing"))
            .mend("write '' for an empty text"));
    }
    if *plain && is_other(text) {
        return Err(node
            .refuse(format!(
                "{what} is a text, and `{text}` without quotes is none"
            ))
            .mend(format!("write '{text}'")));
    }
    Ok(text.clone())
}

/// The number from 1 to 65535 `node`, which is a `what`.
pub(super) fn port(node: &Node, what: &str) -> Result<u16, Invalid> {
    let Value::Scalar { text, plain } = &node.value else {
        return Err(node.refuse(format!("{what} is a number")));
    };
    if !plain || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(node
            .refuse(format!(
                "{text:?} is a port's name, and ports have no names here"
            ))
            .mend("write its number, without quotes"));
    }
    match text.parse() {
        // YAML's older version takes it for octal.
        Ok(1..) if text.starts_with('0') => Err(node.refuse(format!(
            "{text} begins with 0: it is not sure which number this is"
        ))),
        Ok(port) if port > 0 => Ok(port),
        _ => Err(node.refuse(format!("{text} is no port: use 1 to 65535"))),
    }
}
