//! What is different between two configurations, object by object. How their documents are spelled
//! and ordered makes no difference.

use std::collections::BTreeMap;

use serde::{Serialize, Serializer, ser};
use similar::{ChangeTag, TextDiff};
use toml_edit::{Item, Table};

use super::{Config, document, merge};

/// An object that is in one of the two configurations only, or that is another in each.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Change {
    /// The name of its table in the document.
    pub object: String,
    /// What tells it from others of that name; empty where there is only one.
    pub name: String,
    /// What became of it.
    pub change: Kind,
    /// Its keys and values before, a line each; empty when it was not there.
    #[serde(serialize_with = "as_object")]
    pub before: String,
    /// Its keys and values after, a line each; empty when it is not there.
    #[serde(serialize_with = "as_object")]
    pub after: String,
}

/// What became of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// It is only in the new configuration.
    Added,
    /// It is only in the old configuration.
    Removed,
    /// It is another.
    Changed,
}

impl Change {
    /// A heading and the lines of the object, those that went and came with a sign each.
    #[must_use]
    pub fn text(&self) -> String {
        let name = match self.name.as_str() {
            "" => String::new(),
            name => format!(" {name}"),
        };
        let mut text = format!("@@ {}{name} @@\n", self.object);
        let diff = TextDiff::from_lines(&self.before, &self.after);
        for change in diff.iter_all_changes() {
            let sign = match change.tag() {
                ChangeTag::Delete => '-',
                ChangeTag::Insert => '+',
                ChangeTag::Equal => ' ',
            };
            text.push(sign);
            text.push_str(change.value());
        }
        text
    }
}

/// What changes from `before` to `after`, in the order of the document: what is in `before` first.
#[must_use]
pub fn changes(before: &Config, after: &Config) -> Vec<Change> {
    let (before, mut after) = (objects(before), objects(after));
    let mut added: BTreeMap<_, _> = after
        .drain(..)
        .map(|(place, (name, text))| (name, (place, text)))
        .collect();
    let mut changes = Vec::new();
    for (place, (name, before)) in before {
        let after = added.remove(&name).map(|(_, text)| text);
        let change = match &after {
            None => Kind::Removed,
            Some(after) if *after != before => Kind::Changed,
            Some(_) => continue,
        };
        let after = after.unwrap_or_default();
        changes.push((place, Change::new(name, change, before, after)));
    }
    changes.extend(
        added.into_iter().map(|(name, (place, text))| {
            (place, Change::new(name, Kind::Added, String::new(), text))
        }),
    );
    changes.sort_by_key(|(place, change)| (place.0, change.change == Kind::Added, place.1));
    changes.into_iter().map(|(_, change)| change).collect()
}

impl Change {
    fn new((object, name): Name, change: Kind, before: String, after: String) -> Self {
        Self {
            object,
            name,
            change,
            before,
            after,
        }
    }
}

/// An object's table and what tells it from others of that table.
type Name = (String, String);

/// The objects of a configuration with where they are, which table and which of that name: each
/// with its name and its text.
fn objects(config: &Config) -> Vec<((usize, usize), (Name, String))> {
    /// Tables in the order that documents have them.
    const TABLES: [&str; 9] = [
        "switch", "settings", "network", "port", "profile", "fdb", "mac", "nat", "group",
    ];
    let document = document::render(config);
    let mut objects = Vec::new();
    for (key, item) in document.iter() {
        let table = TABLES.iter().position(|known| *known == key);
        let table = table.unwrap_or(TABLES.len());
        match item {
            Item::Table(only) => {
                objects.push(((table, 0), ((key.to_owned(), String::new()), lines(only))));
            }
            Item::ArrayOfTables(several) => {
                let mut index = 0;
                for one in several {
                    let name = merge::identity(key, one);
                    // Its text has its values and not the tables in it, which are objects too.
                    let inner = one.iter().filter_map(|(inner, item)| {
                        let tables = item.as_array_of_tables()?;
                        Some(tables.iter().map(move |table| (inner, table)))
                    });
                    let inner = inner.flatten().map(|(inner, table)| {
                        let id = merge::identity(inner, table);
                        ((format!("{key}.{inner}"), format!("{name} {id}")), table)
                    });
                    let whole = ((key.to_owned(), name.clone()), one);
                    for (name, one) in std::iter::once(whole).chain(inner) {
                        objects.push(((table, index), (name, lines(one))));
                        index += 1;
                    }
                }
            }
            // The version of the document, which both have.
            Item::Value(_) | Item::None => {}
        }
    }
    objects
}

/// For programs the object itself, and nothing for none.
fn as_object<S: Serializer>(text: &str, serializer: S) -> Result<S::Ok, S::Error> {
    let object: toml::Table = toml::from_str(text).map_err(ser::Error::custom)?;
    (!object.is_empty()).then_some(object).serialize(serializer)
}

/// A table's keys and values, a line each.
fn lines(table: &Table) -> String {
    table.to_string().trim_start().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::document::parse;

    fn diff(before: &str, after: &str) -> String {
        let [before, after] =
            [before, after].map(|text| parse(&format!("schema = 1\n{text}")).unwrap());
        changes(&before, &after).iter().map(Change::text).collect()
    }

    #[test]
    fn objects_that_came_went_and_changed() {
        insta::assert_snapshot!(
            diff(
                "[settings]\nageing = 60\nstorm.broadcast = 5\n\
                 [[network]]\nname = 'blue'\nvlan = 10\n\
                 [[port]]\nname = 'tap0'\nnetwork = 'blue'\n\
                 [[port]]\nname = 'tap1'\n",
                "[settings]\nageing = 70\nstorm.broadcast = 5\n\
                 [[network]]\nname = 'blue'\nvlan = 10\n\
                 [[network]]\nname = 'red'\n\
                 [[port]]\nname = 'tap2'\n\
                 [[port]]\nname = 'tap0'\nnetwork = 'red'\n\
                 [mac]\ndeny = ['02:00:00:00:00:01']\n",
            ),
            @r#"
        @@ settings @@
        -ageing = 60
        +ageing = 70
         storm.broadcast = 5
        @@ network red @@
        +name = "red"
        @@ port tap0 @@
         name = "tap0"
        -network = "blue"
        +network = "red"
        @@ port tap1 @@
        -name = "tap1"
        @@ port tap2 @@
        +name = "tap2"
        @@ mac @@
        +deny = ["02:00:00:00:00:01"]
        "#
        );
    }

    #[test]
    fn rules_of_groups_are_objects_of_their_own() {
        let rule = |id: u16, action: &str| {
            format!("[[group.rule]]\nid = {id}\ndirection = 'in'\naction = '{action}'\n")
        };
        let before = format!(
            "[[group]]\nname = 'web'\n{}{}[[group]]\nname = 'db'\n{}",
            rule(1, "allow"),
            rule(2, "deny"),
            rule(3, "deny"),
        );
        let after = format!(
            "[[group]]\nname = 'db'\ndefault = 'allow'\n{}[[group]]\nname = 'web'\n{}{}",
            rule(3, "deny"),
            rule(4, "allow"),
            rule(2, "reject"),
        );
        insta::assert_snapshot!(diff(&before, &after), @r#"
        @@ group.rule web 1 @@
        -id = 1
        -direction = "in"
        -action = "allow"
        @@ group.rule web 2 @@
         id = 2
         direction = "in"
        -action = "deny"
        +action = "reject"
        @@ group db @@
         name = "db"
        +default = "allow"
        @@ group.rule web 4 @@
        +id = 4
        +direction = "in"
        +action = "allow"
        "#);
        insta::assert_snapshot!(diff(&before, "[[group]]\nname = 'web'\n"), @r#"
        @@ group.rule web 1 @@
        -id = 1
        -direction = "in"
        -action = "allow"
        @@ group.rule web 2 @@
        -id = 2
        -direction = "in"
        -action = "deny"
        @@ group db @@
        -name = "db"
        @@ group.rule db 3 @@
        -id = 3
        -direction = "in"
        -action = "deny"
        "#);
    }

    #[test]
    fn spelling_and_order_are_no_difference() {
        let one = "[settings]\nageing = 300\n[[port]]\nname = 'a'\n[[port]]\nname = 'b' # two\n";
        let other = "[[port]]\nname = \"b\"\nuplink = false\n[[port]]\nname = \"a\"\n";
        assert_eq!(diff(one, other), "");
    }

    #[test]
    fn every_object_has_a_name() {
        insta::assert_snapshot!(
            diff(
                "",
                "[switch]\nmode = 'tc'\n[[network]]\nname = 'red'\ngateway = ['10.0.0.1/24']\n\
                 [[port]]\nname = 'tap0'\nstorm = { broadcast = 'off' }\n\
                 [[fdb]]\nmac = '02:00:00:00:00:01'\nnetwork = 'red'\nport = 'tap0'\n\
                 [[nat]]\nid = 3\nkind = 'masquerade'\nnetwork = 'red'\nuplink = 'vsw0'\n\
                 [[group]]\nname = 'web'\n\
                 [[group.rule]]\nid = 2\ndirection = 'in'\naction = 'allow'\n",
            ),
            @r#"
        @@ switch @@
        +mode = "tc"
        @@ network red @@
        +name = "red"
        +gateway = ["10.0.0.1/24"]
        @@ port tap0 @@
        +name = "tap0"
        +storm = { broadcast = "off" }
        @@ fdb 02:00:00:00:00:01 red @@
        +mac = "02:00:00:00:00:01"
        +network = "red"
        +port = "tap0"
        @@ nat 3 @@
        +id = 3
        +kind = "masquerade"
        +network = "red"
        +uplink = "vsw0"
        @@ group web @@
        +name = "web"
        @@ group.rule web 2 @@
        +id = 2
        +direction = "in"
        +action = "allow"
        "#
        );
    }
}
