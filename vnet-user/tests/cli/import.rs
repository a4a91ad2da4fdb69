//! `policy import`: the recipes that NetworkPolicies are explained by, and what their readers are told
//! of who may reach whom.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use serde_json::Value;

use super::Switch;

/// The pods of `recipes/labels.yaml`.
const PODS: [&str; 13] = [
    "web",
    "foo",
    "plain",
    "db",
    "api",
    "search",
    "stock",
    "mon",
    "second-web",
    "second-foo",
    "prod-any",
    "ops-any",
    "ops-mon",
];

/// What upstream says of a recipe: who reaches whom (`FROM TO PROTOCOL/PORT`), and who does not.
struct Recipe {
    file: &'static str,
    reached: &'static [&'static str],
    denied: &'static [&'static str],
}

const RECIPES: &[Recipe] = &[
    Recipe {
        file: "01-deny-to-app.yaml",
        reached: &[
            "web plain tcp/80",
            "web 192.0.2.1 tcp/443",
            "plain second-web tcp/80",
        ],
        denied: &[
            "plain web tcp/80",
            "second-foo web tcp/80",
            "192.0.2.1 web tcp/80",
            "foo web icmp/0",
        ],
    },
    Recipe {
        file: "02-limit-to-app.yaml",
        reached: &[
            "db api tcp/80",
            "search api udp/9",
            "plain db tcp/80",
            "api plain tcp/80",
        ],
        denied: &[
            "plain api tcp/80",
            "second-web api tcp/80",
            "192.0.2.1 api tcp/80",
        ],
    },
    Recipe {
        file: "02a-allow-all-to-app.yaml",
        reached: &[
            "plain web tcp/80",
            "ops-any web tcp/80",
            "192.0.2.1 web udp/9",
        ],
        denied: &["plain foo tcp/80", "192.0.2.1 foo tcp/80"],
    },
    Recipe {
        file: "03-deny-in-namespace.yaml",
        reached: &[
            "web second-web tcp/80",
            "web 192.0.2.1 tcp/80",
            "second-foo second-web tcp/80",
        ],
        denied: &[
            "plain web tcp/80",
            "second-web plain tcp/80",
            "192.0.2.1 db tcp/80",
        ],
    },
    Recipe {
        file: "04-deny-other-namespaces.yaml",
        reached: &[
            "second-foo second-web tcp/80",
            "second-web web tcp/80",
            "plain web tcp/80",
        ],
        denied: &[
            "web second-web tcp/80",
            "ops-any second-foo tcp/80",
            "192.0.2.1 second-web tcp/80",
        ],
    },
    Recipe {
        file: "05-from-all-namespaces.yaml",
        reached: &[
            "plain second-web tcp/80",
            "second-foo second-web tcp/80",
            "ops-mon second-web udp/9",
        ],
        denied: &["192.0.2.1 second-web tcp/80"],
    },
    Recipe {
        file: "06-from-a-namespace.yaml",
        reached: &["prod-any web tcp/80"],
        denied: &[
            "plain web tcp/80",
            "ops-any web tcp/80",
            "192.0.2.1 web tcp/80",
        ],
    },
    Recipe {
        file: "07-from-pods-of-a-namespace.yaml",
        reached: &["ops-mon web tcp/80"],
        denied: &["plain web tcp/80", "mon web tcp/80", "ops-any web tcp/80"],
    },
    Recipe {
        file: "07a-from-either.yaml",
        reached: &["ops-mon web tcp/80", "ops-any web tcp/80", "mon web tcp/80"],
        denied: &["plain web tcp/80", "prod-any web tcp/80"],
    },
    Recipe {
        file: "08-external-clients.yaml",
        reached: &[
            "192.0.2.1 web tcp/80",
            "plain web tcp/80",
            "second-foo web tcp/80",
        ],
        denied: &[
            "192.0.2.1 web tcp/443",
            "192.0.2.1 web udp/80",
            "192.0.2.1 foo tcp/80",
        ],
    },
    Recipe {
        file: "09-by-port.yaml",
        reached: &["mon api tcp/5000"],
        denied: &[
            "mon api tcp/8000",
            "mon api udp/5000",
            "plain api tcp/5000",
            "ops-mon api tcp/5000",
        ],
    },
    Recipe {
        file: "10-multiple-selectors.yaml",
        reached: &["search db tcp/6379", "api db tcp/6379", "stock db tcp/6379"],
        denied: &[
            "plain db tcp/6379",
            "web db tcp/6379",
            "192.0.2.1 db tcp/6379",
        ],
    },
    Recipe {
        file: "11-deny-egress.yaml",
        reached: &[
            "plain foo tcp/80",
            "192.0.2.1 foo tcp/80",
            "second-foo web tcp/80",
        ],
        denied: &[
            "foo web tcp/80",
            "foo 192.0.2.1 tcp/80",
            "foo 192.0.2.1 udp/53",
        ],
    },
    Recipe {
        file: "11a-dns-alone.yaml",
        reached: &[
            "foo 192.0.2.1 udp/53",
            "foo plain tcp/53",
            "plain foo tcp/80",
        ],
        denied: &[
            "foo web tcp/80",
            "foo 192.0.2.1 tcp/80",
            "foo 192.0.2.1 icmp/0",
        ],
    },
    Recipe {
        file: "12-deny-egress-of-namespace.yaml",
        reached: &[
            "second-foo web tcp/80",
            "192.0.2.1 web tcp/80",
            "second-foo second-web tcp/80",
        ],
        denied: &[
            "foo web tcp/80",
            "web 192.0.2.1 udp/53",
            "db second-web tcp/80",
        ],
    },
    Recipe {
        file: "14-deny-external-egress.yaml",
        reached: &[
            "foo web tcp/80",
            "foo ops-any udp/9",
            "foo 192.0.2.1 udp/53",
            "foo 192.0.2.1 tcp/53",
        ],
        denied: &["foo 192.0.2.1 tcp/80", "foo 192.0.2.1 icmp/0"],
    },
    Recipe {
        file: "20-everything.yaml",
        reached: &[
            "172.16.0.1 db tcp/5432",
            "172.31.255.255 db tcp/5432",
            "ops-any db tcp/5432",
            "web db tcp/5432",
            "db 198.51.100.7 tcp/9000",
        ],
        denied: &[
            "172.20.3.4 db tcp/5432",
            "172.16.0.1 db tcp/80",
            "192.0.2.1 db tcp/5432",
            "second-web db tcp/5432",
            "plain db tcp/5432",
            "db 198.51.100.7 tcp/80",
            "db 198.51.101.7 tcp/9000",
            "db web tcp/9000",
        ],
    },
    Recipe {
        file: "21-port-range.yaml",
        reached: &[
            "foo 198.51.100.1 tcp/32000",
            "foo 198.51.100.1 tcp/32500",
            "foo 198.51.100.1 tcp/32768",
        ],
        denied: &[
            "foo 198.51.100.1 tcp/31999",
            "foo 198.51.100.1 tcp/32769",
            "foo 198.51.100.1 udp/32000",
            "foo 192.0.2.1 tcp/32000",
        ],
    },
    Recipe {
        file: "22-namespaces-by-name.yaml",
        reached: &["prod-any web tcp/80", "second-web web tcp/80"],
        denied: &["plain web tcp/80", "ops-any web tcp/80"],
    },
    Recipe {
        file: "23-deny-both.yaml",
        reached: &[
            "second-foo second-web tcp/80",
            "second-foo 192.0.2.1 tcp/80",
        ],
        denied: &[
            "plain web tcp/80",
            "plain 192.0.2.1 tcp/80",
            "second-foo web tcp/80",
            "192.0.2.1 web icmp/0",
        ],
    },
    Recipe {
        file: "24-allow-all-egress.yaml",
        reached: &[
            "plain web tcp/80",
            "plain 192.0.2.1 udp/53",
            "192.0.2.1 web tcp/80",
        ],
        denied: &[],
    },
    Recipe {
        file: "25-list.yaml",
        reached: &["foo web tcp/80", "web db tcp/80", "plain foo tcp/80"],
        denied: &[
            "plain web tcp/80",
            "web plain tcp/80",
            "web 192.0.2.1 tcp/80",
            "db web tcp/80",
        ],
    },
    Recipe {
        file: "26-ipv6.yaml",
        reached: &["2001:db8::1 web udp/9", "2001:db8:bae::1 web udp/9"],
        denied: &[
            "2001:db8:bad::1 web udp/9",
            "2001:db8::1 web tcp/9",
            "192.0.2.1 web udp/9",
            "foo web udp/9",
        ],
    },
];

fn recipes() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/recipes")
}

/// A switch with a port for each pod, which has its address.
fn cluster() -> Switch {
    let ports: String = PODS
        .iter()
        .enumerate()
        .map(|(number, pod)| format!("[[port]]\nname = '{pod}'\nip = ['{}']\n", address(number)))
        .collect();
    Switch::with_document(&format!("schema = 1\n{ports}"))
}

fn address(pod: usize) -> IpAddr {
    IpAddr::from([10, 0, 0, pod as u8 + 1])
}

/// Imports a recipe, and says what the command prints.
fn import(switch: &Switch, file: &str) -> String {
    let (file, labels) = (recipes().join(file), recipes().join("labels.yaml"));
    switch.ok(&format!(
        "policy import {} --labels {}",
        file.display(),
        labels.display()
    ))
}

/// What a switch's groups let through, by the rules of `docs/guide.md`, from what listings say of them.
struct Judge {
    groups: BTreeMap<String, Value>,
    /// Which groups each port is bound to.
    ports: BTreeMap<String, BTreeSet<String>>,
}

impl Judge {
    fn of(switch: &Switch) -> Self {
        let listed = |line: &str, key: &str| -> Vec<Value> {
            let listing: Value = serde_json::from_str(&switch.ok(line)).unwrap();
            listing[key].as_array().unwrap().clone()
        };
        let name = |object: &Value| object["name"].as_str().unwrap().to_owned();
        let groups = listed("policy group list -j", "groups");
        let ports = listed("port list -j", "ports");
        Self {
            groups: groups
                .into_iter()
                .map(|group| (name(&group), group))
                .collect(),
            ports: ports
                .into_iter()
                .map(|port| (name(&port), texts(&port["groups"])))
                .collect(),
        }
    }

    /// Whether `FROM TO PROTOCOL/PORT` is let through.
    fn allows(&self, connection: &str) -> bool {
        let [from, to, service] = *connection.split(' ').collect::<Vec<_>>() else {
            panic!("{connection}");
        };
        let service = service.split_once('/').unwrap();
        self.end_allows("out", from, to, service) && self.end_allows("in", to, from, service)
    }

    /// Whether the groups of one end let it through; who is no pod has none.
    fn end_allows(&self, direction: &str, end: &str, other: &str, service: (&str, &str)) -> bool {
        let Some(groups) = self.ports.get(end).filter(|groups| !groups.is_empty()) else {
            assert!(
                PODS.contains(&end) || end.parse::<IpAddr>().is_ok(),
                "{end}"
            );
            return true;
        };
        let groups: Vec<_> = groups.iter().map(|name| &self.groups[name]).collect();
        let mut rules: Vec<_> = groups
            .iter()
            .flat_map(|group| group["rules"].as_array().unwrap())
            .filter(|rule| rule["direction"] == direction && self.fits(rule, other, service))
            .collect();
        rules.sort_by_key(|rule| (rule["priority"].as_u64(), rule["id"].as_u64()));
        match rules.first() {
            Some(rule) => rule["action"] == "allow",
            None => groups.iter().all(|group| group["default"] == "allow"),
        }
    }

    fn fits(&self, rule: &Value, other: &str, (proto, port): (&str, &str)) -> bool {
        let is_proto = rule["proto"].as_str().is_none_or(|of| of == proto);
        let is_port = rule["ports"].as_str().is_none_or(|ports| {
            let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
            let [first, last, port] = [first, last, port].map(|port| port.parse::<u16>().unwrap());
            (first..=last).contains(&port)
        });
        is_proto
            && is_port
            && rule["remote"]
                .as_str()
                .is_none_or(|of| self.is_in(other, of))
    }

    /// Whether `end` is one of the other ends of a rule.
    fn is_in(&self, end: &str, remote: &str) -> bool {
        if let Some(group) = remote.strip_prefix("group:") {
            return self
                .ports
                .get(end)
                .is_some_and(|groups| groups.contains(group));
        }
        let addr = match PODS.iter().position(|pod| *pod == end) {
            Some(number) => address(number),
            None => end.parse().unwrap(),
        };
        match remote.parse::<IpNet>() {
            Ok(net) => net.contains(&addr),
            Err(_) => remote.parse::<IpAddr>().unwrap() == addr,
        }
    }
}

fn texts(list: &Value) -> BTreeSet<String> {
    let texts = list.as_array().unwrap().iter();
    texts
        .map(|text| text.as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn recipes_do_what_their_readers_are_told() {
    for Recipe {
        file,
        reached,
        denied,
    } in RECIPES
    {
        let switch = cluster();
        import(&switch, file);
        // The tables have room for it.
        switch.ok(&format!("config check {}", switch.path().display()));
        let judge = Judge::of(&switch);
        for connection in *reached {
            assert!(judge.allows(connection), "{file}: {connection} is denied");
        }
        for connection in *denied {
            assert!(
                !judge.allows(connection),
                "{file}: {connection} is let through"
            );
        }
        // Once more is no more.
        let before = switch.document();
        import(&switch, file);
        assert_eq!(switch.document(), before, "{file}");
    }
    let files = fs::read_dir(recipes()).unwrap();
    let files = files.map(|file| file.unwrap().file_name().into_string().unwrap());
    let tried: BTreeSet<_> = RECIPES
        .iter()
        .map(|recipe| recipe.file.to_owned())
        .collect();
    let there: BTreeSet<_> = files.filter(|file| file != "labels.yaml").collect();
    assert_eq!(there, tried);
}

#[test]
fn without_a_policy_everything_is_let_through() {
    let judge = Judge::of(&cluster());
    for recipe in RECIPES {
        for connection in recipe.reached.iter().chain(recipe.denied) {
            assert!(judge.allows(connection), "{connection}");
        }
    }
}

#[test]
fn what_it_prints_and_what_it_writes() {
    let switch = cluster();
    switch.ok("policy group add hand");
    switch.ok("policy bind hand web");
    insta::assert_snapshot!(import(&switch, "09-by-port.yaml"), @"
    GROUP                         POLICY               ISOLATES  RULES  PORTS  CHANGE
    np_default_api-metrics        default/api-metrics  in        2      api    added
    np-pods_default_f47faa921857  -                    -         0      mon    added
    ");
    insta::assert_snapshot!(import(&switch, "25-list.yaml"), @"
    GROUP                         POLICY           ISOLATES  RULES  PORTS  CHANGE
    np_default_web-in             default/web-in   in        2      web    added
    np_default_web-out            default/web-out  out       2      web    added
    np-pods_default_2c78c7376d27  -                -         0      db     added
    np-pods_default_89b26f210f9f  -                -         0      foo    added
    ");
    let document = switch.document();
    let (_, groups) = document.split_once("\n[[group]]\n").unwrap();
    insta::assert_snapshot!(groups, @r#"
    name = "hand"

    [[group]]
    name = "np_default_api-metrics"
    default = "allow"

    [[group.rule]]
    id = 1
    direction = "in"
    action = "allow"
    proto = "tcp"
    ports = "5000"
    remote = "group:np-pods_default_f47faa921857"

    [[group.rule]]
    id = 2
    direction = "in"
    action = "deny"
    priority = 65535

    [[group]]
    name = "np-pods_default_f47faa921857"
    default = "allow"

    [[group]]
    name = "np_default_web-in"
    default = "allow"

    [[group.rule]]
    id = 3
    direction = "in"
    action = "allow"
    remote = "group:np-pods_default_89b26f210f9f"

    [[group.rule]]
    id = 4
    direction = "in"
    action = "deny"
    priority = 65535

    [[group]]
    name = "np_default_web-out"
    default = "allow"

    [[group.rule]]
    id = 5
    direction = "out"
    action = "allow"
    remote = "group:np-pods_default_2c78c7376d27"

    [[group.rule]]
    id = 6
    direction = "out"
    action = "deny"
    priority = 65535

    [[group]]
    name = "np-pods_default_2c78c7376d27"
    default = "allow"

    [[group]]
    name = "np-pods_default_89b26f210f9f"
    default = "allow"
    "#);
    insta::assert_snapshot!(switch.ok("port list"), @"
    NAME        KIND      STATE  MODE    NETWORKS  MACS  GROUPS
    vsw0        internal  down   access  default   -     -
    web         vm        down   access  default   -     hand,np_default_web-in,np_default_web-out
    foo         vm        down   access  default   -     np-pods_default_89b26f210f9f
    plain       vm        down   access  default   -     -
    db          vm        down   access  default   -     np-pods_default_2c78c7376d27
    api         vm        down   access  default   -     np_default_api-metrics
    search      vm        down   access  default   -     -
    stock       vm        down   access  default   -     -
    mon         vm        down   access  default   -     np-pods_default_f47faa921857
    second-web  vm        down   access  default   -     -
    second-foo  vm        down   access  default   -     -
    prod-any    vm        down   access  default   -     -
    ops-any     vm        down   access  default   -     -
    ops-mon     vm        down   access  default   -     -
    ");
}

#[test]
fn the_document_keeps_what_is_written_around_it() {
    let switch = cluster();
    let before = switch
        .document()
        .replace("schema = 1", "schema = 1 # the lab's");
    fs::write(switch.path(), before).unwrap();
    import(&switch, "02-limit-to-app.yaml");
    let commented = switch
        .document()
        .replace("[[group]]", "# A group.\n[[group]]");
    fs::write(switch.path(), commented).unwrap();
    let dir = switch.dir.path();
    let labels = recipes().join("labels.yaml");
    let policy = fs::read_to_string(recipes().join("02-limit-to-app.yaml")).unwrap();
    // Rules go, stay and come, and so do the groups of pods.
    let policy = policy.replace("        app: bookstore", "        type: monitoring");
    let policy =
        format!("{policy}    - podSelector:\n        matchLabels:\n          role: search\n");
    fs::write(dir.join("np.yaml"), policy).unwrap();
    let line = format!(
        "policy import {}/np.yaml --labels {}",
        dir.display(),
        labels.display()
    );
    let answer = switch.run(&line);
    assert_eq!(
        (answer.code, answer.stderr.contains("warning")),
        (0, false),
        "{}",
        answer.stderr
    );
    insta::assert_snapshot!(answer.stdout, @"
    GROUP                          POLICY                      ISOLATES  RULES  PORTS   CHANGE
    np_default_api-from-bookstore  default/api-from-bookstore  in        3      api     changed
    np-pods_default_2c78c7376d27   -                           -         0      -       deleted
    np-pods_default_50964cdcc099   -                           -         0      search  same
    np-pods_default_9d6d402ea9eb   -                           -         0      -       deleted
    np-pods_default_f47faa921857   -                           -         0      mon     added
    ");
    let document = switch.document();
    assert!(
        document.starts_with("schema = 1 # the lab's\n"),
        "{document}"
    );
    assert_eq!(
        document.matches("# A group.\n[[group]]").count(),
        2,
        "{document}"
    );
}

#[test]
fn json() {
    let switch = cluster();
    let (file, labels) = (
        recipes().join("01-deny-to-app.yaml"),
        recipes().join("labels.yaml"),
    );
    let line = format!(
        "policy import {} --labels {} -j",
        file.display(),
        labels.display()
    );
    insta::assert_snapshot!(switch.ok(&line), @r#"
    {
      "schema": 1,
      "groups": [
        {
          "group": "np_default_web-deny-all",
          "policy": "default/web-deny-all",
          "isolates": [
            "in"
          ],
          "rules": 1,
          "ports": [
            "web"
          ],
          "change": "added"
        }
      ]
    }
    "#);
    let answer = switch.run(&line.replace("-j", "-o jsonl"));
    assert_eq!(answer.stderr, "");
    insta::assert_snapshot!(answer.stdout, @r#"{"group":"np_default_web-deny-all","policy":"default/web-deny-all","isolates":["in"],"rules":1,"ports":["web"],"change":"same"}"#);
}

/// A switch with the ports `tap0` and `tap1` and what files of it say.
fn with_files(files: &[(&str, &str)]) -> Switch {
    let switch = Switch::after(&["port add eth0 --uplink", "port add tap0", "port add tap1"]);
    for (name, text) in files {
        fs::write(switch.dir.path().join(name), text).unwrap();
    }
    switch
}

const LABELS: &str = "pods:\n  tap0: { labels: { app: web } }\n  tap1: {}\n";

const POLICY: &str = "apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: { name: web }
spec:
  podSelector: { matchLabels: { app: web } }
";

#[test]
fn labels_may_be_beside_the_document_and_addresses_are_asked_for() {
    let switch = with_files(&[("np.yaml", POLICY)]);
    let line = format!("policy import {}/np.yaml", switch.dir.path().display());
    let without = switch.refused(&line);
    fs::write(switch.dir.path().join("etc/vsw0.labels.yaml"), LABELS).unwrap();
    assert_eq!(switch.ok(&line).lines().count(), 2);
    // Whoever is named by a rule wants an address.
    let policy = format!("{POLICY}  ingress: [{{ from: [{{ podSelector: {{}} }}] }}]\n");
    fs::write(switch.dir.path().join("np.yaml"), policy).unwrap();
    insta::assert_snapshot!(switch.run(&line).stderr, @"
    note: the switch vsw0 is down: this takes effect at `up`
    warning: rules know pods by addresses alone, and those of tap0, tap1 are not known: vnet-user port set IFACE --ip ADDR, or --ip learn
    ");
    switch.ok("port set tap0 --ip 10.0.0.1");
    switch.ok("port set tap1 --ip learn");
    assert_eq!(switch.run(&line).stderr, "");
    insta::assert_snapshot!(without, @"
    1: error: importing [DIR]/np.yaml: nothing says which ports are which pods: there is no [DIR]/etc/vsw0.labels.yaml
      mend: write it, or name another with --labels FILE; a line of it: pods: { tap0: { namespace: default, labels: { app: web } } }
    ");
}

#[test]
fn what_is_warned_of() {
    let policy = format!(
        "{POLICY}  policyTypes: [Egress]\n  ingress: [{{}}]\n  egress:\n  - to:\n    - podSelector: {{ \
         matchLabels: {{ app: none }} }}\n"
    );
    let switch = with_files(&[
        ("np.yaml", &policy.replace("app: web", "app: wbe")),
        ("labels.yaml", LABELS),
    ]);
    let dir = switch.dir.path().display();
    let answer = switch.run(&format!(
        "policy import {dir}/np.yaml --labels {dir}/labels.yaml"
    ));
    assert_eq!(answer.code, 0);
    insta::assert_snapshot!(answer.stderr, @"
    note: the switch vsw0 is down: this takes effect at `up`
    warning: default/web selects no pod
    warning: default/web has rules of `ingress`, which count for nothing: its policyTypes do not have Ingress
    warning: default/web: the peer in line 10 means nobody
    ");
}

#[test]
fn what_is_refused_and_where() {
    let from = |peer: &str| format!("{POLICY}  ingress:\n  - from:\n    - {peer}\n");
    let ports = |port: &str| format!("{POLICY}  ingress:\n  - ports:\n    - {port}\n");
    let many = |count: usize| -> String {
        (0..count)
            .map(|n| POLICY.replace("name: web", &format!("name: p{n}")) + "---\n")
            .collect()
    };
    let cases: Vec<(String, &str)> = vec![
        (ports("port: http"), LABELS),
        (ports("{ port: 80, endport: 90 }"), LABELS),
        (
            from("podSelector: { matchExpressions: [{ key: a, operator: Gt, values: ['1'] }] }"),
            LABELS,
        ),
        (
            from("ipBlock: { cidr: 10.0.0.0/8, except: [192.168.0.0/24] }"),
            LABELS,
        ),
        (from("podSelector: { matchLabels: { run: yes } }"), LABELS),
        (from("*all"), LABELS),
        (format!("{POLICY}\tingress: []\n"), LABELS),
        (POLICY.replace("NetworkPolicy", "Deployment"), LABELS),
        (format!("{POLICY}---\n{POLICY}"), LABELS),
        ("# nothing\n".into(), LABELS),
        (POLICY.into(), "pods:\n  tap0: { label: { app: web } }\n"),
        (POLICY.into(), "pods:\n  tap0: {}\n  tap9: {}\n"),
        (POLICY.into(), "pods:\n  eth0: { labels: { app: web } }\n"),
        (POLICY.into(), "pods:\n  vsw0: { labels: { app: web } }\n"),
        (many(9), LABELS),
    ];
    let switch = with_files(&[]);
    let dir = switch.dir.path().display();
    let answers: Vec<_> = cases
        .iter()
        .map(|(policies, labels)| {
            fs::write(switch.dir.path().join("np.yaml"), policies).unwrap();
            fs::write(switch.dir.path().join("labels.yaml"), labels).unwrap();
            switch.refused(&format!(
                "policy import {dir}/np.yaml --labels {dir}/labels.yaml"
            ))
        })
        .collect();
    insta::assert_snapshot!(answers.concat(), @r#"
    1: error: reading [DIR]/np.yaml: "http" is a port's name, and ports have no names here
     --> [DIR]/np.yaml:8:13
      |
    8 |     - port: http
      |             ^^^^
      mend: write its number, without quotes
    1: error: reading [DIR]/np.yaml: a port has no field `endport`
     --> [DIR]/np.yaml:8:19
      |
    8 |     - { port: 80, endport: 90 }
      |                   ^^^^^^^
      mend: did you mean `endPort`?
    1: error: reading [DIR]/np.yaml: the operator `Gt` is not known
     --> [DIR]/np.yaml:8:61
      |
    8 |     - podSelector: { matchExpressions: [{ key: a, operator: Gt, values: ['1'] }] }
      |                                                             ^^
      mend: use In, NotIn, Exists or DoesNotExist
    1: error: reading [DIR]/np.yaml: 192.168.0.0/24 is no part of 10.0.0.0/8
     --> [DIR]/np.yaml:8:45
      |
    8 |     - ipBlock: { cidr: 10.0.0.0/8, except: [192.168.0.0/24] }
      |                                             ^^^^^^^^^^^^^^
      mend: an exception lies within the `cidr`, and is not all of it
    1: error: reading [DIR]/np.yaml: a label's value is a text, and `yes` without quotes is none
     --> [DIR]/np.yaml:8:42
      |
    8 |     - podSelector: { matchLabels: { run: yes } }
      |                                          ^^^
      mend: write 'yes'
    1: error: reading [DIR]/np.yaml: it is no YAML: while parsing node, found unknown anchor
     --> [DIR]/np.yaml:8:7
      |
    8 |     - *all
      |       ^
      mend: edit the file
    1: error: reading [DIR]/np.yaml: it is no YAML: tabs disallowed within this context (block indentation)
     --> [DIR]/np.yaml:6:2
      |
    6 |     ingress: []
      |     ^
      mend: edit the file
    1: error: reading [DIR]/np.yaml: Deployment of networking.k8s.io/v1 is no policy that is read
     --> [DIR]/np.yaml:1:1
      |
    1 | apiVersion: networking.k8s.io/v1
      | ^
      mend: leave in the file what is NetworkPolicy of networking.k8s.io/v1, alone or in a List
    1: error: reading [DIR]/np.yaml: default/web is there twice
     --> [DIR]/np.yaml:7:1
      |
    7 | apiVersion: networking.k8s.io/v1
      | ^
      mend: edit the file
    1: error: importing [DIR]/np.yaml: there is no NetworkPolicy in it
      mend: name a file that has some, in YAML or JSON
    1: error: reading [DIR]/labels.yaml: a pod has no field `label`
     --> [DIR]/labels.yaml:2:11
      |
    2 |   tap0: { label: { app: web } }
      |           ^^^^^
      mend: did you mean `labels`?
    1: error: importing [DIR]/np.yaml: [DIR]/labels.yaml, line 3: tap9: there is no port tap9; there are vsw0, eth0, tap0, tap1
      mend: vnet-user port add tap9 …, or leave it out of the file until it is there
    1: error: importing [DIR]/np.yaml: [DIR]/labels.yaml, line 2: eth0: it is an uplink, and groups are for ports with a VM behind them
      mend: bind the VMs' ports instead
    1: error: importing [DIR]/np.yaml: [DIR]/labels.yaml, line 2: vsw0: it is the switch device, and groups are for ports with a VM behind them
      mend: bind the VMs' ports instead
    1: error: importing [DIR]/np.yaml: the port tap0 would be bound to 9 groups, and 8 are possible: np_default_p0, np_default_p1, np_default_p2, np_default_p3, np_default_p4, np_default_p5, np_default_p6, np_default_p7, np_default_p8
      mend: make one policy of some that select it
    "#);
    insta::assert_snapshot!(switch.refused("policy import - --labels -"), @"
    2: error: importing -: standard input is one file only
      mend: name a file for the policies, or for the labels
    ");
}

#[test]
fn the_guide_is_right() {
    let guide = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/guide.md");
    let guide = fs::read_to_string(guide).unwrap();
    let (_, section) = guide
        .split_once("\n## Kubernetes NetworkPolicies\n")
        .unwrap();
    let (section, _) = section.split_once("\n## ").unwrap();
    let switch = Switch::new();
    let mut blocks = section.split("```yaml\n").skip(1);
    for file in ["pods.yaml", "policies.yaml"] {
        let (text, _) = blocks.next().unwrap().split_once("```").unwrap();
        fs::write(switch.dir.path().join(file), text).unwrap();
    }
    let (_, section) = section.rsplit_once("```").unwrap();
    let lines = section.lines().filter_map(|line| line.strip_prefix("    "));
    let (commands, listing): (Vec<_>, Vec<_>) =
        lines.partition(|line| line.starts_with("vnet-user "));
    let mut printed = String::new();
    for command in commands {
        let command = command.strip_prefix("vnet-user ").unwrap();
        let command =
            ["pods.yaml", "policies.yaml"]
                .iter()
                .fold(command.to_owned(), |command, file| {
                    let path = switch.dir.path().join(file);
                    command.replace(file, &path.display().to_string())
                });
        let answer = switch.run(&command);
        assert_eq!(answer.code, 0, "{command}: {}", answer.stderr);
        assert!(!answer.stderr.contains("warning"), "{}", answer.stderr);
        printed += &answer.stdout;
    }
    assert_eq!(printed.lines().collect::<Vec<_>>(), listing);
}
