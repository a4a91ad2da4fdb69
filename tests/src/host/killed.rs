//! `vnet-user` killed at a system call of one's choice, or refused it: strace counts them, and sends
//! SIGKILL or gives an error in place of the call.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::process::ExitStatusExt as _,
    process::{Command, Stdio},
};

use super::{Host, binary};

/// The system calls by which `vnet-user` changes anything outside itself: maps, programs and links,
/// interfaces (netlink and ioctl), and files.
const CALLS: &str =
    "bpf,sendto,ioctl,openat,write,fsync,ftruncate,fchmod,mkdir,rename,unlink,rmdir";

/// What of `bpf(2)` changes the kernel; the rest looks.
const BPF_CHANGES: &[&str] = &[
    "BPF_MAP_CREATE",
    "BPF_MAP_UPDATE_ELEM",
    "BPF_MAP_DELETE_ELEM",
    "BPF_MAP_UPDATE_BATCH",
    "BPF_MAP_FREEZE",
    "BPF_PROG_LOAD",
    "BPF_PROG_TEST_RUN",
    "BPF_LINK_CREATE",
    "BPF_LINK_UPDATE",
    "BPF_OBJ_PIN",
    "0x1a",
];

/// What of it reads maps back.
const BPF_LOOKS: &[&str] = &["BPF_MAP_LOOKUP_ELEM", "BPF_MAP_LOOKUP_BATCH", "0x18"];

/// A system call of a run: the `number`th of its name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Step {
    /// Its name.
    pub call: String,
    /// Counted from 1.
    pub number: u32,
    /// What it was asked to do, when the steps were counted.
    pub what: String,
}

/// How a run under strace ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// It was killed before it ended by itself.
    pub killed: bool,
    /// The exit code, unless it was killed.
    pub code: Option<i32>,
    /// What it wrote to stderr.
    pub stderr: String,
}

impl Host {
    /// Runs `vnet-user` with the words of `line`, which must succeed, and gives the calls by which it
    /// changed something.
    ///
    /// # Panics
    /// When it fails, or strace does.
    #[track_caller]
    #[must_use]
    pub fn steps(&self, line: &str) -> Vec<Step> {
        let steps = self.calls(line, changes);
        assert!(steps.len() > 5, "`{line}` changes something: {steps:?}");
        steps
    }

    /// As [`Self::steps`], with the calls by which it reads maps besides.
    ///
    /// # Panics
    /// As that does.
    #[track_caller]
    #[must_use]
    pub fn steps_and_looks(&self, line: &str) -> Vec<Step> {
        let looks = |call: &str, arguments: &str| {
            call == "bpf" && BPF_LOOKS.iter().any(|look| arguments.starts_with(look))
        };
        self.calls(line, |call, arguments| {
            changes(call, arguments) || looks(call, arguments)
        })
    }

    #[track_caller]
    fn calls(&self, line: &str, wanted: impl Fn(&str, &str) -> bool) -> Vec<Step> {
        let log = self.run_dir().with_extension("strace");
        let ended = self.under_strace(&["-o", &log.display().to_string()], line);
        assert_eq!(ended.code, Some(0), "`{line}`: {}", ended.stderr);
        let text = fs::read_to_string(&log).unwrap();
        fs::remove_file(&log).unwrap();
        let mut counts: BTreeMap<&str, u32> = BTreeMap::new();
        let mut steps = Vec::new();
        for traced in text.lines() {
            // A thread's id comes first.
            let traced = traced.trim_start_matches(|c: char| c.is_ascii_digit() || c == ' ');
            let Some((call, arguments)) = traced.split_once('(') else {
                continue;
            };
            let count = counts.entry(call).or_default();
            *count += 1;
            if wanted(call, arguments) {
                steps.push(Step {
                    call: call.to_owned(),
                    number: *count,
                    what: arguments.chars().take(60).collect(),
                });
            }
        }
        steps
    }

    /// Runs `vnet-user` with the words of `line` and kills it before `step`.
    ///
    /// # Panics
    /// When strace cannot be started.
    #[track_caller]
    #[must_use]
    pub fn kill_at(&self, line: &str, step: &Step) -> Ended {
        let inject = format!("inject={}:signal=KILL:when={}", step.call, step.number);
        self.under_strace(&["-o", "/dev/null", "-e", &inject], line)
    }

    /// Runs `vnet-user` with the words of `line` and has `step` fail as when a device does (EIO).
    ///
    /// # Panics
    /// When strace cannot be started.
    #[track_caller]
    #[must_use]
    pub fn fail_at(&self, line: &str, step: &Step) -> Ended {
        let inject = format!("inject={}:error=EIO:when={}", step.call, step.number);
        self.under_strace(&["-o", "/dev/null", "-e", &inject], line)
    }

    #[track_caller]
    fn under_strace(&self, options: &[&str], line: &str) -> Ended {
        let mut command = Command::new("strace");
        command
            .args(["-f", "-qq", "-e", &format!("trace={CALLS}")])
            .args(options)
            .arg(binary());
        xtask::netns::start_inside(&mut command, self.netns().name()).unwrap();
        self.configure(&mut command, line);
        let done = match command.stdout(Stdio::null()).output() {
            Ok(done) => done,
            Err(error) => panic!("starting strace: {error}\n  mend: cargo xtask setup"),
        };
        Ended {
            // It ends as the program did.
            killed: done.status.signal() == Some(libc::SIGKILL),
            code: done.status.code(),
            stderr: String::from_utf8_lossy(&done.stderr).into_owned(),
        }
    }
}

fn changes(call: &str, arguments: &str) -> bool {
    match call {
        "bpf" => BPF_CHANGES
            .iter()
            .any(|change| arguments.starts_with(change)),
        "sendto" => !arguments.contains("NLM_F_DUMP") && !arguments.contains("RTM_GET"),
        "ioctl" => !arguments.contains("SIOCG") && !arguments.contains("TCGETS"),
        "openat" => arguments.contains("O_CREAT"),
        // Its own output.
        "write" => !arguments.starts_with("1,") && !arguments.starts_with("2,"),
        _ => true,
    }
}
