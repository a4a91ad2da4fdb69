//! The document's JSON Schema: what the types say, for editors and for other tools. It is written
//! down in `docs/schema.json`; `VNET_UPDATE_DOCS=1 cargo test -p vnet-user schema` writes it anew.

use std::borrow::Cow;
use std::path::PathBuf;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

use super::document::Document;
use super::{MacAddr, MssClamp, Pattern, PortIp, StormLimit, TrunkEntry};

/// The schema of a type whose values are not what Rust's are.
macro_rules! spelled {
    ($type:ty, $name:literal, $($schema:tt)+) => {
        impl JsonSchema for $type {
            fn schema_name() -> Cow<'static, str> {
                $name.into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!($($schema)+)
            }
        }
    };
}

spelled!(MacAddr, "MacAddr", {
    "type": "string",
    "description": "A MAC address: six hexadecimal bytes with colons or dashes between them.",
    "pattern": "^[0-9A-Fa-f]{2}([:-][0-9A-Fa-f]{2}){5}$",
});
spelled!(PortIp, "PortIp", {
    "description": "An IP address, or \"learn\" for those that the port is leased by DHCP.",
    "anyOf": [
        { "type": "string", "format": "ipv4" },
        { "type": "string", "format": "ipv6" },
        { "const": "learn" },
    ],
});
spelled!(TrunkEntry, "TrunkEntry", {
    "type": "string",
    "description": "A network of a trunk: NAME, or NAME=VID for another tag on this port.",
    "pattern": "^[A-Za-z0-9_.][A-Za-z0-9_.-]{0,31}(=[0-9]{1,4})?$",
});
spelled!(Pattern, "Pattern", {
    "type": "string",
    "description": "A text with wildcards: * for any letters, ? for one, [abc] and [0-9] for one of them.",
});
spelled!(StormLimit, "StormLimit", {
    "description": "Frames a second, \"PPS/BURST\" with the frames that may come at once, or \"off\".",
    "anyOf": [
        { "type": "integer", "minimum": 1, "maximum": 10_000_000 },
        { "type": "string", "pattern": "^(off|[1-9][0-9]{0,7}(/[1-9][0-9]{0,4})?)$" },
    ],
});
spelled!(MssClamp, "MssClamp", {
    "description": "TCP's maximum segment size in bytes, \"auto\" to fit the MTU, or \"off\".",
    "anyOf": [
        { "type": "integer", "minimum": 536, "maximum": 65_495 },
        { "enum": ["auto", "off"] },
    ],
});

fn docs() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs")
}

fn generated() -> serde_json::Value {
    let mut schema = schemars::schema_for!(Document);
    schema.insert("title".into(), "A vnet switch's document".into());
    schema.into()
}

/// Why the schema refuses a document, if it does.
fn refusal(toml: &str) -> Option<String> {
    let document: serde_json::Value = toml::from_str(toml).unwrap();
    let validator = jsonschema::validator_for(&generated()).unwrap();
    validator
        .validate(&document)
        .err()
        .map(|error| error.to_string())
}

#[test]
fn the_schema_is_published() {
    let path = docs().join("schema.json");
    let generated = serde_json::to_string_pretty(&generated()).unwrap() + "\n";
    if std::env::var_os("VNET_UPDATE_DOCS").is_some() {
        std::fs::write(&path, &generated).unwrap();
    }
    let published = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        published == generated,
        "docs/schema.json is not what the types say\n  mend: VNET_UPDATE_DOCS=1 cargo test -p \
         vnet-user schema"
    );
}

/// Whole documents beside the docs.
#[test]
fn templates_are_right() {
    for page in std::fs::read_dir(docs().join("policies")).unwrap() {
        let page = page.unwrap().path();
        let text = std::fs::read_to_string(&page).unwrap();
        assert_eq!(refusal(&text), None, "{}", page.display());
    }
}

/// Every document that the docs show: blocks that begin with the schema's line.
#[test]
fn documents_of_the_docs_are_right() {
    let mut found = 0;
    for page in std::fs::read_dir(docs()).unwrap() {
        let page = page.unwrap().path();
        if page.extension().is_none_or(|extension| extension != "md") {
            continue;
        }
        let text = std::fs::read_to_string(&page).unwrap();
        for block in text.split("```toml\n").skip(1) {
            let block = block.split("```").next().unwrap();
            assert_eq!(refusal(block), None, "{}:\n{block}", page.display());
            let config = super::document::parse(block).unwrap();
            config.validate("vsw0").unwrap();
            found += 1;
        }
    }
    assert!(found > 0, "the docs show no document");
}

#[test]
fn every_key_is_in_the_schema() {
    assert_eq!(refusal(super::document::tests::FULL), None);
    assert_eq!(refusal(super::merge::tests::HAND_WRITTEN), None);
}

#[test]
fn what_the_schema_refuses() {
    for text in [
        "",
        "schema = 1\n[[prot]]",
        "schema = 1\n[[port]]\nnetwork = 'a'",
        "schema = 1\n[[port]]\nname = 'a'\nmac = ['x']",
        "schema = 1\n[[network]]\nname = 'a'\nvlan = 4095",
        "schema = 1\n[settings]\nstorm.broadcast = 'on'",
        "schema = 1\n[switch]\nfail = 'ajar'",
        "schema = 1\n[[nat]]\nid = 1\nkind = 'nat'",
        "schema = 1\n[[group]]\nname = 'a'\ndefault = 'drop'",
        "schema = 1\n[[group]]\nname = 'a'\n[[group.rule]]\nid = 1\ndirection = 'in'",
    ] {
        assert!(refusal(text).is_some(), "{text}");
    }
}
