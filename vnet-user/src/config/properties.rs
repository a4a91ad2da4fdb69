//! What holds of documents whatever the commands have made of them.

use proptest::prelude::*;

use super::merge::{
    self,
    tests::{Edit, HAND_WRITTEN, any_edit},
};
use super::{Config, Source, Store, diff, document};
use crate::compile::{self, Facts};

const SWITCH: &str = "vsw0";

/// The document and its meaning after those of `steps` that are not refused.
fn edited(steps: Vec<Edit>) -> (String, Config) {
    let mut text = HAND_WRITTEN.to_owned();
    let mut config = document::parse(&text).unwrap();
    for step in steps {
        let mut after = config.clone();
        if step.apply(&mut after).is_ok() && after.validate(SWITCH).is_ok() {
            text = merge::rewrite(&text, &config, &after);
            config = after;
        }
    }
    (text, config)
}

fn edits() -> impl Strategy<Value = Vec<Edit>> {
    prop::collection::vec(any_edit(), 0..40)
}

fn source(text: &str) -> Source {
    Source {
        name: "a.toml".into(),
        text: text.into(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// A document that commands have edited is right, and keeps the comments on what is left of it.
    #[test]
    fn edited_documents_are_right(steps in edits()) {
        let (text, config) = edited(steps);
        prop_assert_eq!(source(&text).config(SWITCH), Ok(config.clone()));
        for comment in ["# Rack 4, row B", "# the only one", "# the end"] {
            prop_assert!(text.contains(comment), "{comment} is gone:\n{text}");
        }
        let printed = document::render(&config).to_string();
        prop_assert_eq!(document::parse(&printed), Ok(config));
    }

    /// However a configuration is spelled, its tables are the same.
    #[test]
    fn equal_documents_compile_to_equal_images(steps in edits()) {
        let (text, config) = edited(steps);
        let facts = Facts::supposed(&config, SWITCH);
        let image = compile::compile(&config, &facts).unwrap();
        for spelling in [text, document::render(&config).to_string()] {
            let again = document::parse(&spelling).unwrap();
            prop_assert_eq!(diff::changes(&config, &again), []);
            prop_assert_eq!(Facts::supposed(&again, SWITCH), facts.clone());
            prop_assert_eq!(compile::compile(&again, &facts).unwrap(), image.clone());
        }
    }

    /// There is a difference exactly where two configurations mean something else.
    #[test]
    fn a_difference_is_found(before in edits(), after in edits()) {
        let (before, after) = (edited(before).1, edited(after).1);
        if diff::changes(&before, &after).is_empty() {
            let facts = Facts::supposed(&before, SWITCH);
            let sorted = |config: &Config| {
                let mut config = config.clone();
                config.networks.sort_by(|a, b| a.name.cmp(&b.name));
                config.ports.sort_by(|a, b| a.name.cmp(&b.name));
                config.static_fdb.sort_by_key(|entry| (entry.mac, entry.network.clone()));
                config.nat.sort_by_key(|rule| rule.id);
                config.groups.sort_by(|a, b| a.name.cmp(&b.name));
                for group in &mut config.groups {
                    group.rules.sort_by_key(|rule| rule.id);
                }
                compile::compile(&config, &facts).unwrap()
            };
            prop_assert_eq!(sorted(&before), sorted(&after));
        } else {
            prop_assert_ne!(before, after);
        }
    }

    /// What was exported is applied without a change: nothing is written and nothing kept.
    #[test]
    fn applying_what_was_exported_changes_nothing(steps in edits()) {
        let (text, config) = edited(steps);
        let dir = tempfile::tempdir().unwrap();
        let store = Store::new(dir.path(), dir.path(), dir.path(), SWITCH);
        std::fs::write(store.path(), &text).unwrap();
        let exported = store.source().unwrap().unwrap();
        let mut synced = None;
        let applied = store
            .replace("applying", &exported, true, None, |old, new| {
                synced = Some((old.clone(), new.clone()));
                Ok(Vec::new())
            })
            .unwrap();
        prop_assert!(!applied.changed());
        prop_assert_eq!(synced, Some((config.clone(), config)));
        prop_assert_eq!(std::fs::read_to_string(store.path()).unwrap(), text);
        prop_assert_eq!(store.checkpoints().list().unwrap(), []);
    }

    /// Whatever bytes a document has, it is refused or understood, and nothing panics.
    #[test]
    fn damaged_documents_do_no_harm(
        cuts in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
    ) {
        let mut bytes = HAND_WRITTEN.as_bytes().to_vec();
        for (place, byte) in cuts {
            let place = place.index(bytes.len());
            bytes[place] = byte;
        }
        if let Ok(source) = Source::read("a.toml".into(), bytes.as_slice()) {
            let _ = source.config(SWITCH).map_err(|error| error.to_string());
        }
    }
}
