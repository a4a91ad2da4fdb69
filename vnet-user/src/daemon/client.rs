//! Leaving a command to the daemon that this user may not run.

use std::ffi::{OsStr, OsString};
use std::io::{self, Write as _};
use std::path::Path;

use super::protocol::{self, COMMAND_LIMIT, PATIENCE, Request, SERVED};
use super::roles;
use crate::cli::{Cli, Command, ConfigCommand};
use crate::config::Source;
use crate::error::{Doing as _, Error};
use crate::host::privileges;

/// Has the daemon run the command, where this process lacks the privileges and the daemon takes such
/// commands. Returns the exit code; `None` when the command is this process's own.
///
/// # Errors
/// What the command reads cannot be read, or the daemon does not answer.
pub fn leave(cli: &Cli) -> Result<Option<u8>, Error> {
    if std::env::var_os(SERVED).is_some() || privileges::check("asking").is_ok() {
        return Ok(None);
    }
    // The user reads what the user may read.
    let file = match &cli.command {
        Command::Config(ConfigCommand::Apply(args)) => Some(args.file.as_path()),
        Command::Config(ConfigCommand::Diff { file }) => Some(file.as_path()),
        _ => None,
    };
    let spelled = |word: &OsStr| match file {
        Some(file) if Path::new(word) == file => Some("-".into()),
        _ => word.to_str().map(str::to_owned),
    };
    let args: Vec<OsString> = std::env::args_os().skip(1).collect();
    let words: Option<Vec<String>> = without_place(&args).map(spelled).collect();
    let place = cli.global.words();
    let place: Option<Vec<String>> = place
        .iter()
        .map(|word| Some(word.to_str()?.into()))
        .collect();
    let (Some(args), Some(place)) = (words, place) else {
        return Ok(None);
    };
    if file.is_none() && roles::needed(&cli.command).is_none() {
        return Ok(None);
    }
    let (run_dir, switch) = (cli.global.run_dir(), cli.global.switch.as_str());
    // Without one, or not for this user, the command itself says what is missing.
    let Ok(stream) = protocol::connect(&run_dir, switch) else {
        return Ok(None);
    };
    let input = match file {
        Some(file) => Source::open(file)?.text,
        None => String::new(),
    };
    let request = Request::Run { place, args, input };
    let answer = protocol::ask(stream, &request, COMMAND_LIMIT + PATIENCE)
        .doing(|| "having the daemon run this command".into())?;
    eprint!("{}", answer.stderr);
    let _ = io::stdout().write_all(answer.stdout.as_bytes());
    Ok(Some(answer.code))
}

/// The words of a command line without the options that say which switch, and where.
fn without_place(args: &[OsString]) -> impl Iterator<Item = &OsStr> {
    const PLACE: [&str; 4] = ["--switch", "--netns", "--config-dir", "--bpffs"];
    let mut is_value = false;
    args.iter().map(OsString::as_os_str).filter(move |word| {
        if std::mem::take(&mut is_value) {
            return false;
        }
        let text = word.to_string_lossy();
        is_value = PLACE.contains(&&*text);
        let with_value = PLACE.iter().any(|option| {
            text.strip_prefix(option)
                .is_some_and(|rest| rest.starts_with('='))
        });
        !is_value && !with_value
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_said_apart() {
        let args = [
            "--switch",
            "a",
            "port",
            "--netns=b",
            "list",
            "--config-dir",
            "--bpffs",
            "-j",
        ];
        let args = args.map(OsString::from);
        let left: Vec<_> = without_place(&args).collect();
        assert_eq!(left, ["port", "list", "-j"]);
    }
}
