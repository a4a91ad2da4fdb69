//! What the keys of a mapping say, and that there are no others.

use std::collections::BTreeMap;

use super::yaml::{Entry, Node, Value};
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
        Ok(port) if port > 0 => Ok(port),
        _ => Err(node.refuse(format!("{text} is no port: use 1 to 65535"))),
    }
}

/// Whether YAML, in the version that Kubernetes reads, takes a text without quotes for a truth value
/// or a number.
fn is_other(text: &str) -> bool {
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
