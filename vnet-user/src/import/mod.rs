//! Kubernetes NetworkPolicies as security groups.
//!
//! [`manifest`] reads policies and [`pods`] which ports are which pods, both from YAML whose places
//! are known ([`yaml`], [`fields`]); [`groups`] works out what they come to, and [`mod@install`] puts that
//! into a configuration.
//!
//! A policy becomes one group, which is bound to the ports of the pods that it selects: allow rules
//! for what it allows, and behind all of them ([`groups::ISOLATED`]) a rule that denies the rest, for
//! each direction that it isolates. So a port in several of these groups may do what any of them
//! allows, and a direction that none of them isolates stays open, as the API has it. Pods of one
//! namespace and the same labels are in all selectors or in none: they are a group without rules, by
//! which rules name them.

pub mod cidr;
mod fields;
pub mod groups;
pub mod install;
pub mod manifest;
pub mod names;
pub mod pods;
pub mod selector;
pub mod yaml;

#[cfg(test)]
mod properties;

pub use groups::Plan;
pub use install::{Change, Installed, install};
pub use manifest::NetworkPolicy;
pub use pods::Pods;
