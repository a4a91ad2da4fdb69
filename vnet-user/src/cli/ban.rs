//! `ban …`.

use std::net::IpAddr;

use clap::{Args, Subcommand, value_parser};
use ipnet::IpNet;
use vnet_common::limit::BAN_RULES;

use crate::config::names::{check_host, parse_network};
use crate::config::{BAN_CONNECTIONS, BAN_TIME, BanRule, PortRange, Prefix};

/// Seconds that `ban add` keeps a source away.
const DEFAULT_TIME: u32 = 600;

/// `ban …`.
#[derive(Debug, Subcommand)]
pub enum BanCommand {
    /// Rules that ban who connects too often
    #[command(subcommand)]
    Rule(BanRuleCommand),
    /// List who is banned
    List {
        /// Only bans in this network
        #[arg(long, value_name = "NAME", value_parser = parse_network)]
        network: Option<String>,
    },
    /// Ban an address, of IPv6 with its /64: whoever is not on the link that he sends to has the whole
    /// /64 to send from, and counts as that
    Add(BanAddArgs),
    /// Let an address in again, of IPv6 with its /64; what rules have counted of it is forgotten
    Del(BanDelArgs),
    /// Let everybody in again; all that rules have counted is forgotten
    Flush,
}

/// `ban rule …`.
#[derive(Debug, Subcommand)]
pub enum BanRuleCommand {
    /// Add a rule; its id is printed
    Add(BanRuleAddArgs),
    /// List the rules
    List,
    /// Delete a rule; whom it has banned stays banned
    Del(BanRuleDelArgs),
}

/// `ban rule add`.
#[derive(Debug, Args)]
pub struct BanRuleAddArgs {
    /// The TCP ports of VMs that connections are counted to, all together
    #[arg(long, value_name = "PORT|LO-HI")]
    pub ports: PortRange,
    /// Connections that one source may make
    #[arg(long, value_name = "N", value_parser = value_parser!(u32).range(1..=i64::from(BAN_CONNECTIONS)))]
    pub connections: u32,
    /// The time that it may make them in
    #[arg(long, value_name = "SECONDS", value_parser = seconds())]
    pub within: u32,
    /// How long it is banned when it makes more
    #[arg(long, value_name = "SECONDS", value_parser = seconds())]
    pub time: u32,
    /// Sources that it never bans
    #[arg(long, value_name = "ADDR|CIDR")]
    pub except: Vec<Prefix>,
    /// Succeed with the id of the very same rule if it is there already
    #[arg(long)]
    pub may_exist: bool,
}

/// `ban rule del`.
#[derive(Debug, Args)]
pub struct BanRuleDelArgs {
    /// The rule
    #[arg(value_parser = parse_ban_rule)]
    pub id: u8,
    /// Succeed if it is not there
    #[arg(long)]
    pub if_exists: bool,
}

/// `ban add`.
#[derive(Debug, Args)]
pub struct BanAddArgs {
    /// The address
    #[arg(value_name = "ADDR", value_parser = parse_addr)]
    pub addr: IpAddr,
    /// The network that its packets come in from [default: each]
    #[arg(long, value_name = "NAME", value_parser = parse_network)]
    pub network: Option<String>,
    /// How long from now
    #[arg(long, value_name = "SECONDS", default_value_t = DEFAULT_TIME, value_parser = seconds())]
    pub time: u32,
}

/// `ban del`.
#[derive(Debug, Args)]
pub struct BanDelArgs {
    /// The address, or of IPv6 its /64 as `ban list` shows it
    #[arg(value_name = "ADDR", value_parser = parse_source)]
    pub source: Prefix,
    /// The network that its packets come in from [default: each]
    #[arg(long, value_name = "NAME", value_parser = parse_network)]
    pub network: Option<String>,
    /// Succeed if it is not banned
    #[arg(long)]
    pub if_exists: bool,
}

impl From<BanRuleAddArgs> for BanRule {
    /// The options as a rule, which has no id yet.
    fn from(args: BanRuleAddArgs) -> Self {
        Self {
            id: 0,
            ports: args.ports,
            connections: args.connections,
            within: args.within,
            time: args.time,
            except: args.except,
        }
    }
}

/// Times of rules and bans.
fn seconds() -> clap::builder::RangedI64ValueParser<u32> {
    value_parser!(u32).range(1..=i64::from(BAN_TIME))
}

/// A rule's id.
fn parse_ban_rule(text: &str) -> Result<u8, String> {
    match text.parse() {
        Ok(id) if id > 0 => Ok(id),
        _ => Err(format!(
            "{text:?} is not a rule's id, a number from 1 to {}",
            BAN_RULES - 1
        )),
    }
}

fn parse_addr(text: &str) -> Result<IpAddr, String> {
    let addr = text
        .parse()
        .map_err(|_| format!("{text:?} is not an IP address"))?;
    check_host(addr).map(|()| addr)
}

/// An address, or a /64 of IPv6.
fn parse_source(text: &str) -> Result<Prefix, String> {
    let Prefix(net) = text.parse()?;
    if net.prefix_len() == net.max_prefix_len() {
        check_host(net.addr())?;
    } else if !matches!(net, IpNet::V6(v6) if v6.prefix_len() == 64) {
        return Err(format!(
            "{net} is neither an address nor a /64 of IPv6: nothing else is banned as one"
        ));
    }
    Ok(Prefix(net))
}
