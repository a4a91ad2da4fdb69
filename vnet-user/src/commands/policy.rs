//! `policy group … | rule … | bind | unbind | import`. What a port is bound to is a set: binding what is
//! bound and unbinding what is not are done already.

mod group;
mod import;
mod rule;

use super::{edit, load};
use crate::cli::{BindingArgs, PolicyCommand};
use crate::config::edits;
use crate::error::Error;
use crate::output::Output;
use crate::runtime::Session;

/// Runs the verb.
pub fn run(session: &mut Session, output: &Output, command: PolicyCommand) -> Result<(), Error> {
    match command {
        PolicyCommand::Group(command) => group::run(session, output, command),
        PolicyCommand::Rule(command) => rule::run(session, output, command),
        PolicyCommand::Bind(args) => bind(session, output, &args),
        PolicyCommand::Unbind(args) => unbind(session, output, &args),
        PolicyCommand::Import(args) => import::run(session, output, &args),
    }
}

fn bind(session: &mut Session, output: &Output, args: &BindingArgs) -> Result<(), Error> {
    let BindingArgs { group, iface } = args;
    let doing = format!("binding the port {iface} to the group {group}");
    let switch = session.switch().to_owned();
    let edited = edit(session, output, &doing, |config| {
        edits::bind_group(config, &switch, group, iface)
    })?;
    if !edited.changed() {
        output.note(&format!("{iface} was bound to {group} already"));
    }
    Ok(())
}

fn unbind(session: &mut Session, output: &Output, args: &BindingArgs) -> Result<(), Error> {
    let BindingArgs { group, iface } = args;
    let doing = format!("unbinding the port {iface} from the group {group}");
    let switch = session.switch().to_owned();
    let edited = edit(session, output, &doing, |config| {
        edits::unbind_group(config, &switch, group, iface)
    })?;
    if !edited.changed() {
        output.note(&format!("{iface} was not bound to {group}"));
    }
    Ok(())
}
