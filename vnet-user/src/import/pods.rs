//! Which ports are which pods: what a cluster would know.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use super::fields::{Fields, by_name, labels};
use super::manifest::{DEFAULT_NAMESPACE, NetworkPolicy, Who, read_namespace};
use super::selector::{Labels, Selector};
use super::yaml;
use crate::config::{Invalid, names::check_iface};

/// The label that every namespace has by itself: its name.
const METADATA_NAME: &str = "kubernetes.io/metadata.name";

/// All pods, by the ports that they are behind, and the labels of namespaces.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pods {
    /// By interface.
    pub ports: BTreeMap<String, Pod>,
    /// By namespace; those that nothing is said of are not here.
    namespaces: BTreeMap<String, Labels>,
}

/// A pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    /// Where its port is named.
    pub place: Range<usize>,
    /// Its namespace.
    pub namespace: String,
    /// Its labels.
    pub labels: Labels,
}

impl Pods {
    /// Reads what `text` says, which is YAML.
    ///
    /// # Errors
    /// It is not of the form, with the place.
    pub fn read(text: &str) -> Result<Self, Invalid> {
        let documents = yaml::documents(text)?;
        let document = match documents.as_slice() {
            [] => return Ok(Self::default()),
            [document] => document,
            [_, second, ..] => return Err(second.refuse("there is more than one document")),
        };
        let fields = Fields::of(document, "a file of labels", &["pods", "namespaces"])?;
        let mut pods = Self::default();
        if let Some(node) = fields.get("namespaces") {
            pods.namespaces = by_name(node, "`namespaces`", |entry| {
                let fields = Fields::of(&entry.value, "a namespace", &["labels"])?;
                Ok(fields
                    .get("labels")
                    .map(labels)
                    .transpose()?
                    .unwrap_or_default())
            })?;
        }
        if let Some(node) = fields.get("pods") {
            pods.ports = by_name(node, "`pods`", |entry| {
                check_iface(&entry.key)
                    .map_err(|why| Invalid::new(why).at_bytes(entry.place.clone()))?;
                let fields = Fields::of(&entry.value, "a pod", &["namespace", "labels"])?;
                let namespace = fields.get("namespace").map(read_namespace).transpose()?;
                Ok(Pod {
                    place: entry.place.clone(),
                    namespace: namespace.unwrap_or_else(|| DEFAULT_NAMESPACE.into()),
                    labels: fields
                        .get("labels")
                        .map(labels)
                        .transpose()?
                        .unwrap_or_default(),
                })
            })?;
        }
        Ok(pods)
    }

    /// The ports of the pods that `policy` is for.
    #[must_use]
    pub fn selected_by(&self, policy: &NetworkPolicy) -> BTreeSet<&str> {
        self.ports
            .iter()
            .filter(|(_, pod)| {
                pod.namespace == policy.namespace && policy.pods.selects(&pod.labels)
            })
            .map(|(port, _)| port.as_str())
            .collect()
    }

    /// The pods that a peer of `policy` means, where it means pods.
    pub fn meant_by<'a>(
        &'a self,
        policy: &'a NetworkPolicy,
        who: &'a Who,
    ) -> impl Iterator<Item = (&'a str, &'a Pod)> {
        let pods = self.ports.iter().filter(move |(_, pod)| match who {
            Who::Nets(_) => false,
            Who::Pods { namespaces, pods } => {
                self.is_in(pod, policy, namespaces.as_ref()) && pods.selects(&pod.labels)
            }
        });
        pods.map(|(port, pod)| (port.as_str(), pod))
    }

    /// Whether `pod` is in one of the namespaces; without these, in the policy's.
    fn is_in(&self, pod: &Pod, policy: &NetworkPolicy, namespaces: Option<&Selector>) -> bool {
        match namespaces {
            None => pod.namespace == policy.namespace,
            Some(selector) => {
                let mut labels = self
                    .namespaces
                    .get(&pod.namespace)
                    .cloned()
                    .unwrap_or_default();
                labels.insert(METADATA_NAME.into(), pod.namespace.clone());
                selector.selects(&labels)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_out() {
        let pods = Pods::read(
            "pods:\n  tap0: {}\n  tap1: {namespace: other, labels: {app: web}}\n  tap2: {labels:}\n\
             namespaces:\n  other: {labels: {team: a}}\n  third: {}\n",
        )
        .unwrap();
        let said: Vec<_> = pods
            .ports
            .iter()
            .map(|(port, pod)| format!("{port} {} {:?}", pod.namespace, pod.labels))
            .collect();
        assert_eq!(
            said,
            [
                "tap0 default {}",
                "tap1 other {\"app\": \"web\"}",
                "tap2 default {}"
            ]
        );
        assert_eq!(Pods::read(""), Ok(Pods::default()));
    }

    #[test]
    fn what_is_refused() {
        for (text, why) in [
            ("tap0: {}", "a file of labels has no field `tap0`"),
            ("pods: [tap0]", "`pods` is a mapping"),
            ("pods:\n  tap0:\n", "a pod is missing"),
            ("pods: {tap0: {label: {}}}", "a pod has no field `label`"),
            ("pods: {tap0: {namespace: A}}", "\"A\" is not a namespace"),
            ("pods: {tap0: {}, tap0: {}}", "`tap0` is there twice"),
            ("pods: {lo: {}}", "the loopback interface"),
            ("pods: {a/b: {}}", "is not an interface's name"),
            (
                "namespaces: {a: {label: {}}}",
                "a namespace has no field `label`",
            ),
            ("pods: {}\n---\npods: {}", "there is more than one document"),
        ] {
            let refusal = Pods::read(text).unwrap_err();
            assert!(refusal.why.contains(why), "{text}: {}", refusal.why);
            assert!(refusal.place.is_some(), "{text}");
        }
    }
}
