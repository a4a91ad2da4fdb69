//! What the groups are called that an import makes. Names in Kubernetes have no `_`, so that those of
//! two policies are never the same.

use super::selector::Labels;
use crate::compile::fnv1a;

/// What groups of policies begin with.
const POLICY: &str = "np_";

/// What groups of pods begin with.
const PODS: &str = "np-pods_";

/// Longest name of a group.
const NAME_MAX: usize = 32;

/// Longest part of a policy's name that is in the name of its group, where the whole is too long.
const POLICY_PART_MAX: usize = 15;

/// Longest part of a namespace's name that is in the name of a group of pods.
const NAMESPACE_PART_MAX: usize = 11;

/// The group of the policy called `name`: `np_NAMESPACE_NAME`, or `np_`, as much of this as there is
/// room for, `__` and a hash of the whole.
#[must_use]
pub fn policy_group(namespace: &str, name: &str) -> String {
    let both = format!("{namespace}_{name}");
    let whole = format!("{POLICY}{both}");
    if whole.len() <= NAME_MAX {
        return whole;
    }
    let part = both.get(..POLICY_PART_MAX).unwrap_or(&both);
    format!("{POLICY}{part}__{}", hash(&both))
}

/// The group of the pods in `namespace` that have `labels`: `np-pods_NAMESPACE_` and a hash of both.
#[must_use]
pub fn pods_group(namespace: &str, labels: &Labels) -> String {
    let part = namespace.get(..NAMESPACE_PART_MAX).unwrap_or(namespace);
    format!("{PODS}{part}_{}", hash(&format!("{namespace} {labels:?}")))
}

/// Whether a group called `name` is one of pods.
#[must_use]
pub fn is_pods_group(name: &str) -> bool {
    name.starts_with(PODS)
}

/// 48 bits of what tells `text` from others.
fn hash(text: &str) -> String {
    format!("{:012x}", fnv1a(text.as_bytes()) >> 16)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::names::check_group;

    #[test]
    fn names_are_groups_names() {
        let long = "x".repeat(63);
        let dotted = format!("{0}.{0}.{0}", "y".repeat(63));
        let names = [
            policy_group("default", "web"),
            policy_group("default", "deny-all-ingress-1234"),
            policy_group("default", "deny-all-ingress-12345"),
            policy_group("default", "deny-all-ingress-12346"),
            policy_group("kube-system", &dotted),
            policy_group(&long, "a"),
            policy_group(&long, "b"),
            policy_group("a-b", "c"),
            policy_group("a", "b-c"),
        ];
        for name in &names {
            assert_eq!(check_group(name), Ok(()), "{name}");
            assert!(!is_pods_group(name));
        }
        let different: std::collections::HashSet<_> = names.iter().collect();
        assert_eq!(different.len(), names.len());
        insta::assert_snapshot!(names.join("\n"), @"
    np_default_web
    np_default_deny-all-ingress-1234
    np_default_deny-al__413871973486
    np_default_deny-al__413872973486
    np_kube-system_yyy__878793c3ac46
    np_xxxxxxxxxxxxxxx__7dc5842549b8
    np_xxxxxxxxxxxxxxx__7dc5852549b8
    np_a-b_c
    np_a_b-c
    ");
    }

    #[test]
    fn pods_with_the_same_labels_are_one_group() {
        let labels = |of: &[(&str, &str)]| -> Labels {
            of.iter()
                .map(|(key, value)| ((*key).into(), (*value).into()))
                .collect()
        };
        let name = pods_group("default", &labels(&[("a", "b"), ("c", "d")]));
        assert_eq!(
            name,
            pods_group("default", &labels(&[("c", "d"), ("a", "b")]))
        );
        for (namespace, other) in [
            ("default", labels(&[])),
            ("default", labels(&[("a", "b")])),
            ("default", labels(&[("a", "b\", \"c\": \"d")])),
            ("other", labels(&[("a", "b"), ("c", "d")])),
        ] {
            assert_ne!(name, pods_group(namespace, &other), "{other:?}");
        }
        for namespace in ["default", "kube-system", &"x".repeat(63)] {
            let name = pods_group(namespace, &labels(&[("a", "b")]));
            assert_eq!(check_group(&name), Ok(()));
            assert!(is_pods_group(&name));
        }
    }
}
