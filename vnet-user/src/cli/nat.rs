//! `nat …`.

use clap::{Args, Subcommand};
use vnet_common::nat::NAT_RULES;

use crate::config::names::{check_host, parse_iface, parse_network};
use crate::config::{
    AddrRange, Endpoint, Filtering, Mapping, NatAction, NatOptions, PortRange, Prefix, Protocols,
};

/// `nat …`.
#[derive(Debug, Subcommand)]
pub enum NatCommand {
    /// Add a rule; its id is printed
    #[command(subcommand)]
    Add(NatAddCommand),
    /// Delete a rule; its connections end
    Del(NatDelArgs),
    /// List the rules
    List,
    /// Show one rule
    Show {
        /// The rule
        #[arg(value_parser = parse_rule)]
        id: u16,
    },
}

/// `nat add …`.
#[derive(Debug, Subcommand)]
pub enum NatAddCommand {
    /// Give a network's sources the uplink's own address
    Masquerade(MasqueradeArgs),
    /// Give sources addresses of a pool
    Snat(SnatArgs),
    /// Lead an external address and port to a VM
    Dnat(DnatArgs),
    /// Have an external address or prefix stand for an internal one
    Static(StaticArgs),
}

/// `nat add masquerade`.
#[derive(Debug, Args)]
pub struct MasqueradeArgs {
    /// The network, one with a gateway
    #[arg(long, value_name = "NAME", value_parser = parse_network)]
    pub network: String,
    /// The way out: an uplink, or the switch device where that has the address
    #[arg(long, value_name = "IFACE", value_parser = parse_iface)]
    pub uplink: String,
    /// How sources are mapped
    #[command(flatten)]
    pub options: NatOptionArgs,
    /// Succeed with the id of the very same rule if it is there already
    #[arg(long)]
    pub may_exist: bool,
}

/// `nat add snat`.
#[derive(Debug, Args)]
pub struct SnatArgs {
    /// The sources
    #[arg(long, value_name = "CIDR")]
    pub source: Prefix,
    /// The pool: external addresses of the same family
    #[arg(long, value_name = "ADDR[-ADDR]")]
    pub to: AddrRange,
    /// The way out: an uplink, or the switch device where that has the address
    #[arg(long, value_name = "IFACE", value_parser = parse_iface)]
    pub uplink: String,
    /// How sources are mapped
    #[command(flatten)]
    pub options: NatOptionArgs,
    /// Succeed with the id of the very same rule if it is there already
    #[arg(long)]
    pub may_exist: bool,
}

/// How `nat add masquerade` and `nat add snat` map sources.
#[derive(Clone, Copy, Debug, Args)]
pub struct NatOptionArgs {
    /// External ports [default: 1024-65535]
    #[arg(long, value_name = "LO-HI")]
    pub ports: Option<PortRange>,
    /// Which connections share an external port: eim, all from one internal address and port;
    /// symmetric, none [default: eim]
    #[arg(
        long,
        value_enum,
        hide_possible_values = true,
        value_name = "eim|symmetric"
    )]
    pub mapping: Option<Mapping>,
    /// Who may send to a mapping: eif, everybody; adf, addresses that it has sent to; apdf,
    /// addresses and ports that it has sent to [default: adf]
    #[arg(
        long,
        value_enum,
        hide_possible_values = true,
        value_name = "eif|adf|apdf"
    )]
    pub filtering: Option<Filtering>,
    /// Give an internal address its external ports in blocks of N
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub block_size: Option<u16>,
}

/// `nat add dnat`.
#[derive(Debug, Args)]
pub struct DnatArgs {
    /// The protocols: tcp, udp or tcp,udp
    #[arg(long, value_name = "PROTO")]
    pub proto: Protocols,
    /// The external address and its ports; an IPv6 address in brackets
    #[arg(long, value_name = "ADDR:PORT[-PORT]", value_parser = parse_endpoint)]
    pub listen: Endpoint,
    /// The VM's address and its ports: as many as --listen has, or one
    #[arg(long, value_name = "ADDR:PORT[-PORT]", value_parser = parse_endpoint)]
    pub to: Endpoint,
    /// The only sources that it is for
    #[arg(long, value_name = "CIDR")]
    pub from: Option<Prefix>,
    /// The only way in [default: the one that has the address]
    #[arg(long, value_name = "IFACE", value_parser = parse_iface)]
    pub uplink: Option<String>,
    /// Add it even if the host itself listens there, and no longer gets those connections
    #[arg(long)]
    pub force: bool,
    /// Succeed with the id of the very same rule if it is there already
    #[arg(long)]
    pub may_exist: bool,
}

/// `nat add static`.
#[derive(Debug, Args)]
pub struct StaticArgs {
    /// Outside
    #[arg(long, value_name = "ADDR|CIDR")]
    pub external: Prefix,
    /// Inside, as long a prefix
    #[arg(long, value_name = "ADDR|CIDR")]
    pub internal: Prefix,
    /// The only way out and in [default: any]
    #[arg(long, value_name = "IFACE", value_parser = parse_iface)]
    pub uplink: Option<String>,
    /// Succeed with the id of the very same rule if it is there already
    #[arg(long)]
    pub may_exist: bool,
}

/// `nat del`.
#[derive(Debug, Args)]
pub struct NatDelArgs {
    /// The rule
    #[arg(value_parser = parse_rule)]
    pub id: u16,
    /// Succeed if it is not there
    #[arg(long)]
    pub if_exists: bool,
}

/// What `nat add` is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NatAdd {
    /// The rule without its id.
    pub action: NatAction,
    /// The same rule may be there.
    pub may_exist: bool,
    /// The host may listen there.
    pub force: bool,
}

impl NatAddCommand {
    /// The word for what the rule does.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Masquerade(_) => "masquerade",
            Self::Snat(_) => "snat",
            Self::Dnat(_) => "dnat",
            Self::Static(_) => "static",
        }
    }

    /// The options as a rule.
    ///
    /// # Errors
    /// Values that do not go together.
    pub fn check(self) -> Result<NatAdd, String> {
        let mut force = false;
        let (action, may_exist) = match self {
            Self::Masquerade(args) => {
                let action = NatAction::Masquerade {
                    network: args.network,
                    uplink: args.uplink,
                    options: args.options.into(),
                };
                (action, args.may_exist)
            }
            Self::Snat(args) => {
                let action = NatAction::Snat {
                    source: args.source.0,
                    to: args.to,
                    uplink: args.uplink,
                    options: args.options.into(),
                };
                (action, args.may_exist)
            }
            Self::Dnat(args) => {
                force = args.force;
                let action = NatAction::Dnat {
                    tcp: args.proto.tcp,
                    udp: args.proto.udp,
                    listen: args.listen.addr,
                    listen_ports: args.listen.ports,
                    to: args.to.addr,
                    to_ports: args.to.ports,
                    from: args.from.map(|from| from.0),
                    uplink: args.uplink,
                };
                (action, args.may_exist)
            }
            Self::Static(args) => {
                let action = NatAction::Static {
                    external: args.external.0,
                    internal: args.internal.0,
                    uplink: args.uplink,
                };
                (action, args.may_exist)
            }
        };
        action.check()?;
        Ok(NatAdd {
            action,
            may_exist,
            force,
        })
    }
}

impl From<NatOptionArgs> for NatOptions {
    fn from(args: NatOptionArgs) -> Self {
        Self {
            ports: args.ports.filter(|ports| *ports != PortRange::EXTERNAL),
            mapping: args.mapping.unwrap_or_default(),
            filtering: args.filtering.unwrap_or_default(),
            block_size: args.block_size,
        }
    }
}

/// A rule's id.
pub(super) fn parse_rule(text: &str) -> Result<u16, String> {
    match text.parse() {
        Ok(id) if id > 0 && u32::from(id) < NAT_RULES => Ok(id),
        _ => Err(format!(
            "{text:?} is not a rule's id, a number from 1 to {}",
            NAT_RULES - 1
        )),
    }
}

fn parse_endpoint(text: &str) -> Result<Endpoint, String> {
    let endpoint: Endpoint = text.parse()?;
    check_host(endpoint.addr).map(|()| endpoint)
}
