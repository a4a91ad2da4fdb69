//! Rows of `flow list` and `nat list`.

use std::net::{IpAddr, SocketAddr};

use serde_json::Value;

/// The array in a listing's JSON.
#[track_caller]
pub(super) fn array_of(json: &Value) -> Vec<Value> {
    assert_eq!(json["schema"], 1, "{json}");
    let mut arrays = json.as_object().into_iter().flatten();
    match arrays.find_map(|(_, value)| value.as_array()) {
        Some(rows) => rows.clone(),
        None => panic!("no array in {json}"),
    }
}

/// A row of `flow list`.
#[derive(Clone, Debug, PartialEq)]
pub struct FlowRow(pub Value);

impl FlowRow {
    /// Whether the row has this address and port, side by side or in one text.
    #[must_use]
    pub fn has(&self, at: SocketAddr) -> bool {
        let mut leaves = Vec::new();
        collect(&self.0, &mut leaves);
        let (address, port) = (at.ip().to_string(), u64::from(at.port()));
        leaves
            .iter()
            .any(|leaf| leaf.as_str() == Some(&at.to_string()))
            || leaves.iter().any(|leaf| leaf.as_str() == Some(&address))
                && leaves.iter().any(|leaf| leaf.as_u64() == Some(port))
    }

    /// Whether the row has this address anywhere.
    #[must_use]
    pub fn has_address(&self, address: IpAddr) -> bool {
        let mut leaves = Vec::new();
        collect(&self.0, &mut leaves);
        let is_it = |text: &str| {
            text.parse::<IpAddr>() == Ok(address)
                || text
                    .parse::<SocketAddr>()
                    .is_ok_and(|there| there.ip() == address)
        };
        leaves.iter().any(|leaf| leaf.as_str().is_some_and(is_it))
    }

    /// `established` and the like.
    #[must_use]
    #[track_caller]
    pub fn state(&self) -> &str {
        self.text("state")
    }

    /// `tcp` and the like.
    #[must_use]
    #[track_caller]
    pub fn proto(&self) -> &str {
        self.text("proto")
    }

    /// The id of the rule that made it.
    #[must_use]
    #[track_caller]
    pub fn rule(&self) -> u64 {
        self.number("rule")
    }

    /// Seconds that it lives if nothing more comes.
    #[must_use]
    #[track_caller]
    pub fn timeout_s(&self) -> u64 {
        self.number("timeout_s")
    }

    #[track_caller]
    fn text(&self, key: &str) -> &str {
        match self.0[key].as_str() {
            Some(text) => text,
            None => panic!("no text {key} in {}", self.0),
        }
    }

    #[track_caller]
    fn number(&self, key: &str) -> u64 {
        number(&self.0, key)
    }
}

/// A row of `nat list`.
#[derive(Clone, Debug, PartialEq)]
pub struct RuleRow(pub Value);

impl RuleRow {
    /// Its id.
    #[must_use]
    #[track_caller]
    pub fn id(&self) -> u64 {
        number(&self.0, "id")
    }

    /// Connections that it was applied to.
    #[must_use]
    #[track_caller]
    pub fn hits(&self) -> u64 {
        number(&self.0, "hits")
    }

    /// Those of them that are alive.
    #[must_use]
    #[track_caller]
    pub fn flows(&self) -> u64 {
        number(&self.0, "flows")
    }

    /// External ports that are taken.
    #[must_use]
    #[track_caller]
    pub fn ports(&self) -> u64 {
        let row = &self.0;
        row["ports_used"]
            .as_u64()
            .unwrap_or_else(|| number(row, "ports"))
    }
}

#[track_caller]
fn number(row: &Value, key: &str) -> u64 {
    match row[key].as_u64() {
        Some(number) => number,
        None => panic!("no number {key} in {row}"),
    }
}

fn collect<'a>(value: &'a Value, leaves: &mut Vec<&'a Value>) {
    match value {
        Value::Array(values) => values.iter().for_each(|value| collect(value, leaves)),
        Value::Object(fields) => fields.values().for_each(|value| collect(value, leaves)),
        leaf => leaves.push(leaf),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn addresses_are_found_together_and_apart() {
        let client = "10.0.0.11:4000".parse().unwrap();
        for row in [
            json!({"src": "10.0.0.11", "sport": 4000}),
            json!({"src": "10.0.0.11:4000"}),
            json!({"inside": {"address": "10.0.0.11", "port": 4000}}),
        ] {
            let row = FlowRow(row);
            assert!(row.has(client), "{row:?}");
            assert!(row.has_address(client.ip()), "{row:?}");
        }
        let other = FlowRow(json!({"src": "10.0.0.1", "sport": 4000, "note": "10.0.0.111"}));
        assert!(!other.has(client));
        assert!(!other.has_address(client.ip()));
    }
}
