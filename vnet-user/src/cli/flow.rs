//! `flow …`.

use clap::{Args, Subcommand};

use super::nat::parse_rule;
use crate::config::Prefix;
use crate::config::names::{parse_iface, parse_protocol};
use crate::flows::FlowFilter;

/// `flow …`.
#[derive(Debug, Subcommand)]
pub enum FlowCommand {
    /// List the connections
    List(FlowArgs),
    /// End connections; without options, all of them
    Flush(FlowArgs),
}

/// Which connections; without any option, all.
#[derive(Debug, Args)]
pub struct FlowArgs {
    /// Only of this protocol: tcp, udp, icmp, icmpv6, sctp, gre, esp… or a number
    #[arg(long, value_name = "P", value_parser = parse_protocol)]
    pub proto: Option<u8>,
    /// Only of the VM behind this port
    #[arg(long, value_name = "IFACE", value_parser = parse_iface)]
    pub vm: Option<String>,
    /// Only with this other end
    #[arg(long, value_name = "CIDR")]
    pub remote: Option<Prefix>,
    /// Only of this translation rule
    #[arg(long, value_name = "ID", value_parser = parse_rule)]
    pub rule: Option<u16>,
}

impl From<FlowArgs> for FlowFilter {
    fn from(args: FlowArgs) -> Self {
        Self {
            proto: args.proto,
            vm: args.vm,
            remote: args.remote.map(|remote| remote.0),
            rule: args.rule,
        }
    }
}
