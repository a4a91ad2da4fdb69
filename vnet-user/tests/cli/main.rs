//! Drives the real binary, with a configuration directory of its own and a switch that is down.

mod ban;
mod config;
mod fdb;
mod flow;
mod global;
mod help;
mod import;
mod mac;
mod nat;
mod network;
mod policy;
mod port;
mod settings;

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use tempfile::TempDir;

/// A switch that is down, in directories of its own.
struct Switch {
    dir: TempDir,
}

/// How a command ended.
struct Answer {
    code: i32,
    stdout: String,
    stderr: String,
}

impl Switch {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("temporary directory");
        Self { dir }
    }

    /// A switch whose document is `text`.
    fn with_document(text: &str) -> Self {
        let switch = Self::new();
        fs::create_dir(switch.dir.path().join("etc")).expect("config dir");
        fs::write(switch.path(), text).expect("document");
        switch
    }

    /// A switch made by the commands, each of which must succeed.
    fn after(lines: &[&str]) -> Self {
        let switch = Self::new();
        for line in lines {
            switch.ok(line);
        }
        switch
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("etc/vsw0.toml")
    }

    /// The document's text; empty while there is none.
    fn document(&self) -> String {
        fs::read_to_string(self.path()).unwrap_or_default()
    }

    fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_vnet-user"));
        command
            .env_clear()
            .env("COLUMNS", "100")
            .env("VNET_RUN_DIR", self.dir.path().join("run"))
            .arg("--config-dir")
            .arg(self.dir.path().join("etc"));
        command
    }

    /// Runs `vnet-user LINE`; the words of `line` are separated by blanks.
    fn run(&self, line: &str) -> Answer {
        let output = self
            .command()
            .args(line.split_whitespace())
            .output()
            .expect("vnet-user runs");
        let text = |bytes: Vec<u8>| {
            String::from_utf8(bytes)
                .expect("UTF-8")
                .replace(&self.dir.path().display().to_string(), "[DIR]")
        };
        Answer {
            code: output.status.code().expect("no signal"),
            stdout: text(output.stdout),
            stderr: text(output.stderr),
        }
    }

    /// What a command that must succeed prints to stdout.
    fn ok(&self, line: &str) -> String {
        let answer = self.run(line);
        assert_eq!(answer.code, 0, "{line}: {}", answer.stderr);
        answer.stdout
    }

    /// What a command that must fail says on stderr, its exit code first. It must leave the
    /// document as it was, byte by byte, and print nothing to stdout.
    fn refused(&self, line: &str) -> String {
        let before = self.document();
        let answer = self.run(line);
        assert_ne!(answer.code, 0, "{line}: {}", answer.stdout);
        assert_eq!(answer.stdout, "", "{line}");
        assert_eq!(self.document(), before, "{line}");
        format!("{}: {}", answer.code, answer.stderr)
    }

    /// What [`Self::refused`] says for each of the lines.
    fn each_refused(&self, lines: &[&str]) -> String {
        let answers: Vec<_> = lines
            .iter()
            .map(|line| format!("$ {line}\n{}\n", self.refused(line).trim_end()))
            .collect();
        answers.concat()
    }
}
