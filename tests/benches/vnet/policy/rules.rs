//! Rules: the same ones for everybody, in each one's words.

use std::fmt::Write as _;

/// The rule that lets the traffic through: it comes last, and is the only one that does.
const LAST: &str = "10.0.0.0/30";
/// The port that all traffic goes to, and its neighbours.
const LAST_PORTS: &str = "9-12";

/// One rule about what comes in to a VM.
struct Rule {
    remote: String,
    proto: &'static str,
    ports: String,
    allow: bool,
}

/// `count` rules, none of which overlaps another, so that a set can hold them as well: addresses alone
/// and prefixes of many lengths, of which some are around the traffic's source; TCP and UDP; ports alone
/// and ranges; allowing and denying.
fn rules(count: u32) -> Vec<Rule> {
    let around = ["10.0.0.0/8", "10.0.0.0/12", "10.0.0.0/16", "10.0.0.0/24"];
    let rule = |n: u32| {
        let first = 1024 + n % 50_000;
        let ports = match n % 3 {
            0 => first.to_string(),
            1 => format!("{first}-{}", first + 99),
            _ => format!("{first}-{}", first + 7),
        };
        // Every 64th is a prefix around the source with ports of its own.
        let remote = if n % 64 == 5 {
            around[(n / 64) as usize % around.len()].to_owned()
        } else {
            let bits = [24, 25, 28, 32][(n % 4) as usize];
            format!("11.{}.{}.0/{bits}", n / 256, n % 256)
        };
        let is_around = n % 64 == 5;
        Rule {
            remote,
            proto: if n % 5 < 3 { "tcp" } else { "udp" },
            ports: if is_around { first.to_string() } else { ports },
            allow: !n.is_multiple_of(7),
        }
    };
    let mut rules: Vec<_> = (0..count.saturating_sub(1)).map(rule).collect();
    if count > 0 {
        rules.push(Rule {
            remote: LAST.to_owned(),
            proto: "udp",
            ports: LAST_PORTS.to_owned(),
            allow: true,
        });
    }
    rules
}

/// The group `web` of a document, with `count` rules.
pub fn document(count: u32) -> String {
    let mut text = "\n[[group]]\nname = 'web'\n".to_owned();
    for (id, rule) in (1..).zip(rules(count)) {
        let Rule {
            remote,
            proto,
            ports,
            allow,
        } = rule;
        let action = if allow { "allow" } else { "deny" };
        let _ = write!(
            text,
            "\n[[group.rule]]\nid = {id}\ndirection = 'in'\naction = '{action}'\nproto = '{proto}'\n\
             ports = '{ports}'\nremote = '{remote}'\n"
        );
    }
    text
}

/// What becomes of a rule's packets, in nft's words.
const fn verdict(rule: &Rule) -> &'static str {
    if rule.allow { "accept" } else { "drop" }
}

/// A ruleset for `nft -f` that takes the place of the one before: a rule each.
pub fn chain(count: u32) -> String {
    let rules: String = rules(count)
        .iter()
        .map(|rule| {
            let Rule {
                remote,
                proto,
                ports,
                ..
            } = rule;
            format!(
                "ip saddr {remote} {proto} dport {ports} {}\n",
                verdict(rule)
            )
        })
        .collect();
    ruleset("", &rules)
}

/// The same with all rules in one map.
pub fn map(count: u32) -> String {
    let elements: Vec<_> = rules(count)
        .iter()
        .map(|rule| {
            let Rule {
                remote,
                proto,
                ports,
                ..
            } = rule;
            format!("{remote} . {proto} . {ports} : {}", verdict(rule))
        })
        .collect();
    let map = format!(
        "map rules {{\ntype ipv4_addr . inet_proto . inet_service : verdict\nflags interval\n\
         elements = {{ {} }}\n}}\n",
        elements.join(",\n")
    );
    ruleset(&map, "ip saddr . meta l4proto . th dport vmap @rules\n")
}

fn ruleset(before: &str, rules: &str) -> String {
    format!(
        "table ip filter\ndelete table ip filter\ntable ip filter {{\n{before}chain forward {{\n\
         type filter hook forward priority filter; policy drop;\nct state established accept\n\
         {rules}}}\n}}\n"
    )
}
