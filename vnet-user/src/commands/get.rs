//! `get [KEY]`.

use serde::Serialize;

use super::load;
use crate::cli::{Format, GetArgs};
use crate::config::{SETTING_KEYS, SettingKey, SettingValue, Settings};
use crate::error::Error;
use crate::output::{Listing, Output, print};
use crate::runtime::Session;

/// Prints all settings, or one: then, on a terminal, its value alone.
pub fn run(session: &mut Session, output: &Output, args: GetArgs) -> Result<(), Error> {
    let settings = load(session)?.settings;
    match args.key {
        None => {
            let rows: Vec<_> = SETTING_KEYS
                .iter()
                .map(|key| SettingRow::new(key, &settings))
                .collect();
            output.list(&rows)
        }
        Some(key) if output.format() == Format::Table => {
            print(&format!("{}\n", key.get(&settings)))
        }
        Some(key) => output.show(&SettingRow::new(key, &settings)),
    }
}

#[derive(Serialize)]
struct SettingRow {
    key: &'static str,
    value: SettingValue,
    default: SettingValue,
    description: &'static str,
}

impl SettingRow {
    fn new(key: &SettingKey, settings: &Settings) -> Self {
        Self {
            key: key.name,
            value: key.get(settings),
            default: key.default_value(),
            description: key.description,
        }
    }
}

impl Listing for SettingRow {
    const PLURAL: &'static str = "settings";
    const COLUMNS: &'static [&'static str] = &["KEY", "VALUE", "DEFAULT", "DESCRIPTION"];

    fn cells(&self) -> Vec<String> {
        vec![
            self.key.into(),
            self.value.to_string(),
            self.default.to_string(),
            self.description.into(),
        ]
    }
}
