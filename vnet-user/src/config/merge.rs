//! Rewrites a document so that only what changed is touched: the user's comments, order and
//! spelling of the rest stay.
//!
//! A three-way merge: the canonical spellings of the configuration before and after tell what
//! changed, and exactly that is changed in the document. So a default that the user wrote down
//! stays written down.

use std::collections::HashMap;
use std::net::IpAddr;

use ipnet::IpNet;
use toml_edit::{Array, ArrayOfTables, DocumentMut, Item, RawString, Table, TableLike, Value};

use super::{Config, MacAddr, document};

/// The document `text`, which says `before`, changed to say `after`.
pub fn rewrite(text: &str, before: &Config, after: &Config) -> String {
    if text.is_empty() {
        return document::render(after).to_string();
    }
    // Whatever spelling the merge was not made for: a document that says something else than what
    // is in force is never written.
    merge(text, before, after).unwrap_or_else(|| {
        log::warn!("the document is written anew: its comments could not be kept");
        document::render(after).to_string()
    })
}

/// The merged document, if it says what it should.
fn merge(text: &str, before: &Config, after: &Config) -> Option<String> {
    let doc = text.parse::<DocumentMut>().ok()?;
    let merged = |before: &Config, after: &Config| {
        let mut doc = doc.clone();
        merge_table(
            doc.as_table_mut(),
            document::render(before).as_table(),
            document::render(after).as_table(),
        );
        doc.to_string()
    };
    let is_right = |merged: &String| document::parse(merged).as_ref() == Ok(after);
    let (less, more) = what_differs(before, after);
    // A list that the document spells in another way is written as a whole, and needs to be known so.
    Some(merged(&less, &more))
        .filter(is_right)
        .or_else(|| Some(merged(before, after)).filter(is_right))
}

/// Both without the rules of groups that stay as they are: there may be many thousands.
fn what_differs(before: &Config, after: &Config) -> (Config, Config) {
    let (mut before, mut after) = (before.clone(), after.clone());
    for new in &mut after.groups {
        if let Some(old) = before.groups.iter_mut().find(|old| old.name == new.name) {
            strip_common(&mut old.rules, &mut new.rules);
        }
    }
    (before, after)
}

/// Takes away what two lists begin and end with alike.
fn strip_common<T: PartialEq>(a: &mut Vec<T>, b: &mut Vec<T>) {
    let alike = |(a, b): &(&T, &T)| a == b;
    let end = a.iter().rev().zip(b.iter().rev());
    let end = end.take_while(alike).count();
    a.truncate(a.len() - end);
    b.truncate(b.len() - end);
    let start = a.iter().zip(b.iter()).take_while(alike).count();
    a.drain(..start);
    b.drain(..start);
}

fn merge_table(doc: &mut dyn TableLike, before: &dyn TableLike, after: &dyn TableLike) {
    let added = after
        .iter()
        .map(|(key, _)| key)
        .filter(|key| !before.contains_key(key));
    for key in before.iter().map(|(key, _)| key).chain(added) {
        let (before, after) = (before.get(key), after.get(key));
        if spelled(before) == spelled(after) {
            continue;
        }
        let Some(item) = doc.get_mut(key) else {
            if let Some(after) = after {
                doc.insert(key, fresh(after));
            }
            continue;
        };
        let was_value = item.is_value();
        merge_item(key, item, before, after);
        if item.is_none() {
            doc.remove(key);
        } else if was_value && !item.is_value() {
            // The key's blanks were those before an equals sign.
            let item = std::mem::take(item);
            doc.remove(key);
            doc.insert(key, item);
        }
    }
}

/// Changes `doc`, the value of `key`; `Item::None` is left where nothing remains.
fn merge_item(key: &str, doc: &mut Item, before: Option<&Item>, after: Option<&Item>) {
    let nothing = Item::Table(Table::new());
    let [old, new] = [before, after].map(|item| item.unwrap_or(&nothing));
    if let (Some(table), Some(old), Some(new)) = (
        doc.as_table_like_mut(),
        old.as_table_like(),
        new.as_table_like(),
    ) {
        merge_table(table, old, new);
        if table.is_empty() {
            *doc = Item::None;
        }
        return;
    }
    let no_tables = ArrayOfTables::new();
    let [old, new] = [before, after].map(|item| match item {
        None => Some(&no_tables),
        Some(item) => item.as_array_of_tables(),
    });
    if let (Some(doc_tables), Some(old), Some(new)) = (doc.as_array_of_tables_mut(), old, new) {
        merge_tables(key, doc_tables, old, new);
        if doc_tables.is_empty() {
            *doc = Item::None;
        }
        return;
    }
    match (doc.as_value_mut(), after) {
        (_, None) => *doc = Item::None,
        (Some(Value::Array(doc)), Some(Item::Value(Value::Array(new)))) => merge_array(doc, new),
        (Some(doc), Some(Item::Value(new))) => {
            // The comment behind the old value stays.
            let decor = doc.decor().clone();
            *doc = new.clone();
            *doc.decor_mut() = decor;
        }
        (_, Some(new)) => *doc = fresh(new),
    }
}

fn merge_tables(key: &str, doc: &mut ArrayOfTables, before: &ArrayOfTables, after: &ArrayOfTables) {
    let places = |tables: &ArrayOfTables| {
        let mut places = HashMap::new();
        for (place, table) in tables.iter().enumerate() {
            places.entry(identity(key, table)).or_insert(place);
        }
        places
    };
    let (places_before, places_after) = (places(before), places(after));
    doc.retain(|table| {
        let name = identity(key, table);
        !places_before.contains_key(&name) || places_after.contains_key(&name)
    });
    let places_now = places(doc);
    for new in after {
        let name = identity(key, new);
        let old = places_before
            .get(&name)
            .and_then(|place| before.get(*place));
        let present = places_now.get(&name).and_then(|place| doc.get_mut(*place));
        match (present, old) {
            (Some(table), Some(old)) if same_keys(old, new) => merge_table(table, old, new),
            (Some(table), Some(_)) => {
                let position = table.position();
                let decor = table.decor().clone();
                *table = new.clone();
                unplace(table);
                table.set_position(position);
                *table.decor_mut() = decor;
            }
            _ => {
                let mut table = new.clone();
                unplace(&mut table);
                doc.push(table);
            }
        }
    }
}

/// Whether what the document says besides about one table may stay with the other: a translation
/// rule of another kind has other keys.
fn same_keys(old: &Table, new: &Table) -> bool {
    spelled(old.get("kind")) == spelled(new.get("kind"))
}

/// What tells one element of the array `key` from the others.
pub(super) fn identity(key: &str, table: &Table) -> String {
    let text = |field| table.get(field).and_then(Item::as_str).unwrap_or_default();
    match key {
        "fdb" => format!("{} {}", canonical_text(text("mac")), text("network")),
        "nat" | "rule" | "ban" => table
            .get("id")
            .and_then(Item::as_integer)
            .unwrap_or_default()
            .to_string(),
        _ => text("name").to_owned(),
    }
}

/// An element of an array with the comments that belong to it.
struct Element {
    /// Blanks and comment lines above it.
    lead: String,
    value: Value,
    /// What stands behind it on its line.
    tail: String,
}

fn merge_array(doc: &mut Array, new: &Array) {
    let (mut old, end) = take_apart(doc);
    // A new element is indented like the last one.
    let indent = match old.last().map(|element| element.lead.rsplit_once('\n')) {
        Some(Some((_, blanks))) => format!("\n{blanks}"),
        _ => String::new(),
    };
    let mut elements: Vec<Element> = Vec::new();
    for value in new {
        let kept = old
            .iter()
            .position(|element| same_value(&element.value, value))
            .map(|index| old.remove(index));
        elements.push(kept.unwrap_or_else(|| Element {
            lead: if indent.is_empty() && !elements.is_empty() {
                " ".into()
            } else {
                indent.clone()
            },
            value: value.clone(),
            tail: String::new(),
        }));
    }
    put_together(doc, elements, end);
}

/// The elements, and what stands before the closing bracket on lines of its own.
fn take_apart(array: &Array) -> (Vec<Element>, String) {
    let raw = |text: Option<&RawString>| text.and_then(RawString::as_str).unwrap_or("").to_owned();
    // A comment behind an element's comma is stored in front of the next element.
    let split = |text: &str| match text.find('\n') {
        Some(line_end) => (text[..line_end].to_owned(), text[line_end..].to_owned()),
        None => (String::new(), text.to_owned()),
    };
    let mut elements: Vec<Element> = Vec::new();
    for value in array {
        let prefix = raw(value.decor().prefix());
        let (tail, lead) = match elements.last() {
            Some(_) => split(&prefix),
            None => (String::new(), prefix),
        };
        if let Some(previous) = elements.last_mut() {
            previous.tail.push_str(&tail);
        }
        elements.push(Element {
            lead,
            // Without a comma the comment is the value's own, with its line's end.
            tail: raw(value.decor().suffix()).trim_end().to_owned(),
            value: value.clone().decorated("", ""),
        });
    }
    let (tail, end) = split(&raw(Some(array.trailing())));
    if let Some(last) = elements.last_mut() {
        last.tail.push_str(&tail);
    }
    (elements, end)
}

fn put_together(array: &mut Array, elements: Vec<Element>, end: String) {
    array.clear();
    let mut tail = String::new();
    let mut several_lines = false;
    for element in elements {
        let mut lead = element.lead;
        if tail.contains('#') && !lead.contains('\n') {
            lead.insert(0, '\n');
        }
        several_lines |= lead.contains('\n');
        array.push_formatted(element.value.decorated(tail + &lead, ""));
        tail = element.tail;
    }
    several_lines |= tail.contains('#');
    if several_lines && !end.contains('\n') {
        tail.push('\n');
    }
    array.set_trailing_comma(several_lines);
    array.set_trailing(tail + &end);
}

fn same_value(a: &Value, b: &Value) -> bool {
    match (a.as_str(), b.as_str()) {
        (Some(a), Some(b)) => canonical_text(a) == canonical_text(b),
        _ => false,
    }
}

/// A MAC or IP address or a prefix as we spell it, any other text as it is.
fn canonical_text(text: &str) -> String {
    if let Ok(mac) = text.parse::<MacAddr>() {
        mac.to_string()
    } else if let Ok(prefix) = text.parse::<IpNet>() {
        prefix.to_string()
    } else if let Ok(addr) = text.parse::<IpAddr>() {
        addr.to_string()
    } else {
        text.to_owned()
    }
}

/// Canonical documents are spelled alike, so equal spelling is equal meaning.
fn spelled(item: Option<&Item>) -> Option<String> {
    item.map(|item| item.to_string().trim().to_owned())
}

/// A copy that takes its place by where it is put, not by where it was in the canonical document.
fn fresh(item: &Item) -> Item {
    let mut item = item.clone();
    unplace_item(&mut item);
    item
}

/// Has the tables of `item` follow what stands in front of them.
fn unplace_item(item: &mut Item) {
    if let Some(table) = item.as_table_mut() {
        unplace(table);
    }
    if let Some(tables) = item.as_array_of_tables_mut() {
        tables.iter_mut().for_each(unplace);
    }
}

/// Has a table and those in it follow what stands in front of them.
fn unplace(table: &mut Table) {
    table.set_position(None);
    for (_, item) in table.iter_mut() {
        unplace_item(item);
    }
}

#[cfg(test)]
pub(super) mod tests;
