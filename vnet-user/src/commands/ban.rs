//! `ban rule … | list | add | del | flush`.

mod rule;

use ipnet::IpNet;

use super::{edit, load};
use crate::bans::BanRow;
use crate::cli::{BanAddArgs, BanCommand, BanDelArgs};
use crate::config::Prefix;
use crate::error::Error;
use crate::output::{Listing, Output};
use crate::runtime::Session;

/// Runs the verb.
pub fn run(session: &mut Session, output: &Output, command: BanCommand) -> Result<(), Error> {
    match command {
        BanCommand::Rule(command) => rule::run(session, output, command),
        BanCommand::List { network } => list(session, output, network.as_deref()),
        BanCommand::Add(args) => add(session, output, &args),
        BanCommand::Del(args) => del(session, output, &args),
        BanCommand::Flush => flush(session, output),
    }
}

fn list(session: &Session, output: &Output, network: Option<&str>) -> Result<(), Error> {
    let mut rows = session.bans()?;
    if let Some(network) = network {
        check_network(session, network, "listing who is banned")?;
        rows.retain(|row| row.network == network);
    }
    output.list(&rows)
}

fn add(session: &mut Session, output: &Output, args: &BanAddArgs) -> Result<(), Error> {
    let BanAddArgs {
        addr,
        network,
        time,
    } = args;
    let doing = format!("banning {addr}");
    session.need_up(&doing)?;
    if let Some(network) = network {
        check_network(session, network, &doing)?;
    }
    session.ban(IpNet::from(*addr), network.as_deref(), *time, &doing)?;
    output.note(&format!("{addr} is banned for {time} seconds"));
    Ok(())
}

fn del(session: &mut Session, output: &Output, args: &BanDelArgs) -> Result<(), Error> {
    let BanDelArgs {
        source,
        network,
        if_exists,
    } = args;
    let doing = format!("letting {source} in");
    session.need_up(&doing)?;
    if let Some(network) = network {
        check_network(session, network, &doing)?;
    }
    let Prefix(net) = *source;
    let was_banned = session.unban(net, network.as_deref(), &doing)?;
    if was_banned {
        output.note(&format!("{source} is banned no longer"));
    } else if !if_exists {
        let place = network.as_ref().map(|network| format!(" in {network}"));
        return Err(Error::new(
            doing,
            format_args!("it is not banned{}", place.unwrap_or_default()),
        )
        .mend("vnet-user ban list shows who is; say --if-exists where that is no mistake"));
    }
    Ok(())
}

fn flush(session: &mut Session, output: &Output) -> Result<(), Error> {
    let ended = session.unban_all()?;
    output.note(&format!("{ended} bans ended"));
    Ok(())
}

/// Refuses a network that is not there, which would only find nothing.
fn check_network(session: &Session, name: &str, doing: &str) -> Result<(), Error> {
    load(session)?
        .require_network(name)
        .map(drop)
        .map_err(|refusal| refusal.doing(doing))
}

impl Listing for BanRow {
    const PLURAL: &'static str = "bans";
    const COLUMNS: &'static [&'static str] = &["ADDRESS", "NETWORK", "PORT", "RULE", "LEFT"];

    fn cells(&self) -> Vec<String> {
        vec![
            self.address.clone(),
            self.network.clone(),
            self.port.clone().unwrap_or_else(|| "-".into()),
            self.rule.map_or_else(|| "user".into(), |id| id.to_string()),
            format!("{}s", self.left_s),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns() {
        let row = BanRow {
            address: "2001:db8::/64".into(),
            network: "lan".into(),
            port: None,
            rule: Some(3),
            left_s: 599,
        };
        assert_eq!(BanRow::COLUMNS.len(), row.cells().len());
        assert_eq!(row.cells().join(" "), "2001:db8::/64 lan - 3 599s");
        let by_user = BanRow { rule: None, ..row };
        assert_eq!(by_user.cells()[3], "user");
    }
}
