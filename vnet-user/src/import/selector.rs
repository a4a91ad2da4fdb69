//! Label selectors, as Kubernetes has them (meta/v1, LabelSelector).

use std::collections::{BTreeMap, BTreeSet};

use super::fields::{Fields, labels, text};
use super::yaml::Node;
use crate::config::Invalid;

/// What a pod or a namespace is labelled with, by key.
pub type Labels = BTreeMap<String, String>;

/// Which labels are meant: those that meet every requirement. Without any, all are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selector {
    /// What has to be true.
    pub requirements: Vec<Requirement>,
}

/// What has to be true of the label with a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requirement {
    /// The key.
    pub key: String,
    /// What has to be true.
    pub operator: Operator,
}

/// What has to be true of a label.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operator {
    /// It is there, with one of these values.
    In(BTreeSet<String>),
    /// It is not there with one of these values; it may be missing.
    NotIn(BTreeSet<String>),
    /// It is there.
    Exists,
    /// It is not there.
    DoesNotExist,
}

impl Selector {
    /// Reads a selector.
    ///
    /// # Errors
    /// It has something that is not known, with its place.
    pub fn read(node: &Node) -> Result<Self, Invalid> {
        let fields = Fields::of(node, "a selector", &["matchLabels", "matchExpressions"])?;
        let mut requirements = Vec::new();
        if let Some(node) = fields.get("matchLabels") {
            let labels = labels(node)?.into_iter();
            requirements.extend(labels.map(|(key, value)| Requirement {
                key,
                operator: Operator::In(BTreeSet::from([value])),
            }));
        }
        for node in fields.list("matchExpressions")? {
            requirements.push(Requirement::read(node)?);
        }
        Ok(Self { requirements })
    }

    /// Whether who has `labels` is meant.
    #[must_use]
    pub fn selects(&self, labels: &Labels) -> bool {
        self.requirements
            .iter()
            .all(|requirement| requirement.is_met(labels.get(&requirement.key)))
    }
}

impl Requirement {
    fn read(node: &Node) -> Result<Self, Invalid> {
        let fields = Fields::of(node, "a match expression", &["key", "operator", "values"])?;
        let key = text(fields.require("key")?, "a label's key")?;
        let place = fields.require("operator")?;
        let operator = text(place, "an operator")?;
        let values = fields
            .list("values")?
            .iter()
            .map(|node| text(node, "a label's value"))
            .collect::<Result<BTreeSet<_>, _>>()?;
        let operator = match (operator.as_str(), values.is_empty()) {
            ("In", false) => Operator::In(values),
            ("NotIn", false) => Operator::NotIn(values),
            ("Exists", true) => Operator::Exists,
            ("DoesNotExist", true) => Operator::DoesNotExist,
            ("In" | "NotIn", true) => {
                return Err(place.refuse(format!("`{operator}` wants `values`, one or more")));
            }
            ("Exists" | "DoesNotExist", false) => {
                return Err(place.refuse(format!("`{operator}` has no `values`")));
            }
            _ => {
                return Err(place
                    .refuse(format!("the operator `{operator}` is not known"))
                    .mend("use In, NotIn, Exists or DoesNotExist"));
            }
        };
        Ok(Self { key, operator })
    }

    /// Whether it is true of the label with its key.
    fn is_met(&self, value: Option<&String>) -> bool {
        match &self.operator {
            Operator::In(values) => value.is_some_and(|value| values.contains(value)),
            Operator::NotIn(values) => value.is_none_or(|value| !values.contains(value)),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::import::yaml;

    fn read(text: &str) -> Result<Selector, Invalid> {
        Selector::read(&yaml::documents(text).unwrap()[0])
    }

    fn selects(selector: &str, of: &[(&str, &str)]) -> bool {
        let labels = of
            .iter()
            .map(|(key, value)| ((*key).into(), (*value).into()));
        read(selector)
            .unwrap_or_else(|refusal| panic!("{selector}: {}", refusal.why))
            .selects(&labels.collect())
    }

    #[test]
    fn who_is_selected() {
        let web = [("app", "web"), ("tier", "front")];
        for (selector, expected) in [
            ("{}", true),
            ("{matchLabels: {}}", true),
            ("matchLabels:\nmatchExpressions:", true),
            ("{matchLabels: {app: web}}", true),
            ("{matchLabels: {app: web, tier: front}}", true),
            ("{matchLabels: {app: web, tier: back}}", false),
            ("{matchLabels: {app: Web}}", false),
            ("{matchLabels: {role: ''}}", false),
            (
                "{matchExpressions: [{key: app, operator: In, values: [db, web]}]}",
                true,
            ),
            (
                "{matchExpressions: [{key: app, operator: In, values: [db]}]}",
                false,
            ),
            (
                "{matchExpressions: [{key: role, operator: In, values: [db]}]}",
                false,
            ),
            (
                "{matchExpressions: [{key: app, operator: NotIn, values: [db]}]}",
                true,
            ),
            (
                "{matchExpressions: [{key: app, operator: NotIn, values: [db, web]}]}",
                false,
            ),
            // Who has no such label is not in the list either.
            (
                "{matchExpressions: [{key: role, operator: NotIn, values: [db]}]}",
                true,
            ),
            ("{matchExpressions: [{key: app, operator: Exists}]}", true),
            (
                "{matchExpressions: [{key: role, operator: Exists, values: []}]}",
                false,
            ),
            (
                "{matchExpressions: [{key: app, operator: DoesNotExist}]}",
                false,
            ),
            (
                "{matchExpressions: [{key: role, operator: DoesNotExist}]}",
                true,
            ),
            (
                "{matchLabels: {app: web}, matchExpressions: [{key: tier, operator: DoesNotExist}]}",
                false,
            ),
        ] {
            assert_eq!(selects(selector, &web), expected, "{selector}");
        }
        assert!(selects("{}", &[]));
        assert!(!selects("{matchLabels: {app: web}}", &[]));
    }

    #[test]
    fn what_cannot_be_said() {
        for (selector, why) in [
            ("[]", "a selector is a mapping"),
            ("{matchlabels: {}}", "a selector has no field `matchlabels`"),
            ("{matchLabels: [a]}", "a set of labels is a mapping"),
            (
                "{matchLabels: {app: true}}",
                "a label's value is a text, and `true`",
            ),
            ("{matchLabels: {app: }}", "a label's value is missing"),
            (
                "{matchExpressions: {key: a}}",
                "`matchExpressions` is a list",
            ),
            (
                "{matchExpressions: [{operator: Exists}]}",
                "`key` is missing",
            ),
            ("{matchExpressions: [{key: a}]}", "`operator` is missing"),
            (
                "{matchExpressions: [{key: a, operator: In}]}",
                "`In` wants `values`",
            ),
            (
                "{matchExpressions: [{key: a, operator: Exists, values: [b]}]}",
                "`Exists` has no `values`",
            ),
            (
                "{matchExpressions: [{key: a, operator: Gt, values: ['1']}]}",
                "the operator `Gt` is not known",
            ),
        ] {
            let refusal = read(selector).unwrap_err();
            assert!(refusal.why.contains(why), "{selector}: {}", refusal.why);
            assert!(refusal.place.is_some(), "{selector}");
        }
    }
}
