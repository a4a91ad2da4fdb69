//! Rows of `flow list` and `nat list`.

use std::net::{IpAddr, SocketAddr};

use serde_json::Value;

/// A row of `flow list`.
#[derive(Clone, Debug, PartialEq)]
pub struct FlowRow(pub Value);

impl FlowRow {
    /// Who began, as it is inside, or outside for what came in.
    #[must_use]
    #[track_caller]
    pub fn source(&self) -> SocketAddr {
        self.end("src", "sport")
    }

    /// Whom it was for, before anything was translated.
    #[must_use]
    #[track_caller]
    pub fn destination(&self) -> SocketAddr {
        self.end("dst", "dport")
    }

    /// What the source became.
    #[must_use]
    #[track_caller]
    pub fn as_source(&self) -> SocketAddr {
        self.end("nat_src", "nat_sport")
    }

    /// What the destination became.
    #[must_use]
    #[track_caller]
    pub fn as_destination(&self) -> SocketAddr {
        self.end("nat_dst", "nat_dport")
    }

    /// `established` and the like.
    #[must_use]
    #[track_caller]
    pub fn state(&self) -> &str {
        text(&self.0, "state")
    }

    /// `tcp` and the like.
    #[must_use]
    #[track_caller]
    pub fn proto(&self) -> &str {
        text(&self.0, "proto")
    }

    /// The VM's port.
    #[must_use]
    #[track_caller]
    pub fn vm(&self) -> &str {
        text(&self.0, "vm")
    }

    /// The id of the rule that made it.
    #[must_use]
    #[track_caller]
    pub fn rule(&self) -> u64 {
        number(&self.0, "rule")
    }

    /// Seconds that it lives if nothing more comes.
    #[must_use]
    #[track_caller]
    pub fn timeout_s(&self) -> u64 {
        number(&self.0, "timeout_s")
    }

    #[track_caller]
    fn end(&self, address: &str, port: &str) -> SocketAddr {
        let address: IpAddr = match text(&self.0, address).parse() {
            Ok(address) => address,
            Err(error) => panic!("{address}: {error} in {}", self.0),
        };
        let port = number(&self.0, port);
        SocketAddr::new(address, port.try_into().expect("it is a port"))
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
    pub fn ports_used(&self) -> u64 {
        number(&self.0, "ports_used")
    }

    /// Connections refused because no external port was free.
    #[must_use]
    #[track_caller]
    pub fn exhausted(&self) -> u64 {
        number(&self.0, "exhausted")
    }
}

#[track_caller]
fn text<'a>(row: &'a Value, key: &str) -> &'a str {
    match row[key].as_str() {
        Some(text) => text,
        None => panic!("no text {key} in {row}"),
    }
}

#[track_caller]
fn number(row: &Value, key: &str) -> u64 {
    match row[key].as_u64() {
        Some(number) => number,
        None => panic!("no number {key} in {row}"),
    }
}
