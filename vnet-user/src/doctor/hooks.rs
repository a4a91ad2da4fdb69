//! Programs on the hooks that vnet uses: its own must be there, others are told of.

use super::{AS_ROOT, Check, Scope};
use crate::attach::{self, TcHook};
use crate::gateway::SwitchPort;
use crate::host::{Filter, Link, Links, kernel};
use crate::runtime::Session;

/// One TC hook of a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hook {
    /// `ingress` or `egress`.
    pub name: &'static str,
    /// vnet's program belongs there.
    pub expected: bool,
    /// The id of vnet's program, as pinned.
    pub own: Option<u32>,
    /// The TCX programs, by id and name, as they run; `None` on a kernel without TCX.
    pub tcx: Option<Vec<(u32, String)>>,
    /// The filters of clsact, which run after all of those.
    pub filters: Vec<Filter>,
}

/// Looks at the hooks of a port's interface.
#[must_use]
pub fn examine(session: &Session, listed: &SwitchPort, link: &Link, links: &Links) -> Vec<Check> {
    let name = &listed.port.name;
    let run = session.state().and_then(|state| state.ports.get(name));
    let scope = Scope::new(format!("port {name}"));
    let mut hooks = Vec::new();
    for hook in [TcHook::Ingress, TcHook::Egress] {
        let look = || -> anyhow::Result<Hook> {
            let expected = run.is_some_and(|run| run.hooks.iter().any(|h| h == hook.name()));
            Ok(Hook {
                name: hook.name(),
                expected,
                own: session
                    .is_up()
                    .then(|| attach::own_program(session.pins(), hook))
                    .transpose()?,
                tcx: kernel::has_tcx()?
                    .then(|| attach::programs_at(name, hook))
                    .transpose()?,
                filters: links.filters(link.index, hook == TcHook::Egress)?,
            })
        };
        match look() {
            Ok(hook) => hooks.push(hook),
            Err(error) => {
                let found = scope.warn("programs at TC", AS_ROOT);
                return vec![found.detail(format_args!("not looked at: {error:#}"))];
            }
        }
    }
    let own_xdp = run.is_some_and(|run| run.xdp);
    let mut checks = judge(&scope, &hooks);
    if let Some(xdp) = link.xdp.filter(|_| !own_xdp) {
        checks.push(
            scope
                .warn(
                    "other programs at XDP",
                    format!("ip link set {name} xdp off"),
                )
                .detail(format_args!(
                    "program {} sees frames before vnet does",
                    xdp.prog_id
                )),
        );
    }
    checks
}

/// What the hooks mean.
#[must_use]
pub fn judge(scope: &Scope, hooks: &[Hook]) -> Vec<Check> {
    let mut checks = Vec::new();
    let (mut before, mut behind) = (Vec::new(), Vec::new());
    for hook in hooks {
        let programs = hook.tcx.as_deref().unwrap_or_default();
        let place = programs.iter().position(|(id, _)| Some(*id) == hook.own);
        let there = match hook.tcx {
            Some(_) => place.is_some(),
            None => hook.filters.iter().any(attach::is_own),
        };
        if hook.expected {
            let what = format!("vnet's program at TC {}", hook.name);
            checks.push(if there {
                scope.pass(what)
            } else {
                scope
                    .fail(what, "vnet-user down, then up")
                    .detail("it was taken away")
            });
        }
        for (index, (id, name)) in programs.iter().enumerate() {
            let text = format!("program {id} {name} at TCX {}", hook.name);
            match place {
                Some(place) if index == place => {}
                Some(place) if index > place => behind.push(text),
                _ => before.push(text),
            }
        }
        for filter in hook.filters.iter().filter(|filter| !attach::is_own(filter)) {
            let program = filter.program.as_deref().unwrap_or_default();
            let text = format!(
                "{} filter of priority {} {program} at clsact {}",
                filter.kind, filter.priority, hook.name
            );
            // Below 6.6 ours is a filter too, of the first priority.
            behind.push(text);
        }
    }
    let what = "other programs at TC";
    checks.push(if !before.is_empty() {
        before.append(&mut behind);
        scope
            .warn(what, "have them attached after vnet, or not at all")
            .detail(format_args!(
                "{}: they may take frames before vnet sees them",
                before.join("; ")
            ))
    } else if !behind.is_empty() {
        scope
            .warn(
                what,
                "do without them: use vnet's own rules, or the stations' firewalls",
            )
            .detail(format_args!(
                "{}: they do not see what vnet forwards",
                behind.join("; ")
            ))
    } else {
        scope.pass(what)
    });
    checks
}

#[cfg(test)]
mod tests {
    use super::super::Verdict::{self, Fail, Pass, Warn};
    use super::*;

    fn hook() -> Hook {
        Hook {
            name: "ingress",
            expected: true,
            own: Some(7),
            tcx: Some(vec![(7, "tc_ingress".into())]),
            filters: Vec::new(),
        }
    }

    fn filter(kind: &str, priority: u16, handle: u32) -> Filter {
        Filter {
            kind: kind.into(),
            priority,
            handle,
            program: None,
        }
    }

    fn own_filter() -> Filter {
        filter("bpf", 1, u32::from_be_bytes(*b"vnet"))
    }

    /// What became of vnet's own program, and of others.
    fn verdicts(hook: Hook) -> (Option<Verdict>, Verdict, String) {
        let checks = judge(&Scope::new("port x"), &[hook]);
        let of = |what: &str| checks.iter().find(|check| check.what == what);
        let others = of("other programs at TC").unwrap();
        (
            of("vnet's program at TC ingress").map(|check| check.result),
            others.result,
            others.detail.clone().unwrap_or_default(),
        )
    }

    #[test]
    fn its_own_program() {
        assert_eq!(verdicts(hook()).0, Some(Pass));
        let gone = Hook {
            tcx: Some(vec![]),
            ..hook()
        };
        assert_eq!(verdicts(gone).0, Some(Fail));
        let not_ours = Hook {
            expected: false,
            own: None,
            tcx: Some(vec![]),
            ..hook()
        };
        assert_eq!(verdicts(not_ours), (None, Pass, String::new()));
    }

    #[test]
    fn its_own_filter_below_tcx() {
        let there = Hook {
            tcx: None,
            filters: vec![own_filter()],
            ..hook()
        };
        assert_eq!(verdicts(there.clone()), (Some(Pass), Pass, String::new()));
        let gone = Hook {
            filters: vec![filter("bpf", 1, 1)],
            ..there
        };
        let (own, others, _) = verdicts(gone);
        assert_eq!((own, others), (Some(Fail), Warn));
    }

    #[test]
    fn programs_of_others() {
        let with = |programs: &[(u32, &str)]| Hook {
            tcx: Some(programs.iter().map(|(id, n)| (*id, (*n).into())).collect()),
            ..hook()
        };
        let (own, others, detail) = verdicts(with(&[(3, "spy"), (7, "tc_ingress")]));
        assert_eq!((own, others), (Some(Pass), Warn));
        assert!(
            detail.contains("program 3 spy at TCX ingress: they may take"),
            "{detail}"
        );
        let (_, others, detail) = verdicts(with(&[(7, "tc_ingress"), (9, "late")]));
        assert!(others == Warn && detail.contains("do not see"), "{detail}");
        let filtered = Hook {
            filters: vec![filter("flower", 49_152, 1)],
            ..hook()
        };
        let (own, others, detail) = verdicts(filtered);
        assert_eq!((own, others), (Some(Pass), Warn));
        assert!(
            detail.contains("flower filter of priority 49152"),
            "{detail}"
        );
    }
}
