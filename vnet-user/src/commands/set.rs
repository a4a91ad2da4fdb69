//! `set KEY=VALUE…`.

use super::edit;
use crate::cli::SetArgs;
use crate::config::SETTING_KEYS;
use crate::error::Error;
use crate::output::Output;
use crate::runtime::Session;

/// Changes settings: all of them or, if one is wrong, none.
pub fn run(session: &mut Session, output: &Output, args: SetArgs) -> Result<(), Error> {
    let doing = "changing settings";
    let assignments = args.assignments;
    for (index, assignment) in assignments.iter().enumerate() {
        let key = assignment.key.name;
        if assignments[..index]
            .iter()
            .any(|other| other.key.name == key)
        {
            return Err(Error::usage(doing, format_args!("{key} is set twice")));
        }
    }
    edit(session, output, doing, |config| {
        // In the order of the keys, so that a preset does not undo what is set along with it.
        for key in &SETTING_KEYS {
            for assignment in assignments.iter().filter(|a| a.key.name == key.name) {
                key.put(&mut config.settings, assignment.value);
            }
        }
        Ok(())
    })?;
    Ok(())
}
