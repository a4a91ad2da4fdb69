//! The command line: raw arguments become checked values here, once. Whatever can be refused
//! without looking at the document or the system is refused here, with exit code 2.

mod ban;
mod config;
mod flow;
mod nat;
mod policy;

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::error::ErrorKind;
use clap::{ArgAction, Args, CommandFactory as _, Parser, Subcommand, ValueEnum};
use ipnet::IpNet;
use vnet_common::StormKind;

pub use ban::{BanAddArgs, BanCommand, BanDelArgs, BanRuleAddArgs, BanRuleCommand, BanRuleDelArgs};
pub use config::{ApplyArgs, ConfigCommand};
pub use flow::{FlowArgs, FlowCommand};
pub use nat::{
    DnatArgs, MasqueradeArgs, NatAdd, NatAddCommand, NatCommand, NatDelArgs, NatOptionArgs,
    SnatArgs, StaticArgs,
};
pub use policy::{
    BindingArgs, GroupAddArgs, GroupCommand, GroupDelArgs, ImportArgs, PolicyCommand, RuleAddArgs,
    RuleCommand, RuleDelArgs,
};

use crate::config::edits::PortChange;
use crate::config::names::{
    self, parse_gateway, parse_group, parse_iface, parse_mtu, parse_network, parse_switch,
    parse_vlan,
};
use crate::config::{
    Assignment, DhcpRange, FailMode, Guard, MAX_MACS_LIMIT, MacAddr, Mode, PortIp, SettingKey,
    StormLimit, StormOverrides, TrunkEntry,
};

/// Where the switches' documents are.
const CONFIG_DIR: &str = "/etc/vnet";

/// Where documents are kept that are not in force.
const STATE_DIR: &str = "/var/lib/vnet";

/// Where locks and sockets are, unless VNET_RUN_DIR names another place: tests that run side by
/// side have a directory each.
const RUN_DIR: &str = "/run/vnet";

/// A virtual switch for virtual machines whose datapath is eBPF.
#[derive(Debug, Parser)]
#[command(name = "vnet-user", version, arg_required_else_help = true)]
pub struct Cli {
    /// What holds for every command.
    #[command(flatten)]
    pub global: Global,
    /// The command.
    #[command(subcommand)]
    pub command: Command,
}

impl Cli {
    /// Reads the command line; prints help or what is wrong and exits where that is all there is
    /// to do.
    #[must_use]
    pub fn read() -> Self {
        let cli = Self::parse();
        // clap does not see that two options exclude each other when the command's name is between.
        for (both, why) in [
            (
                cli.global.json && cli.global.output.is_some(),
                "-j is -o json: give one of them",
            ),
            (
                cli.global.quiet && cli.global.verbose > 0,
                "-q and -v exclude each other",
            ),
        ] {
            if both {
                Self::command()
                    .error(ErrorKind::ArgumentConflict, why)
                    .exit();
            }
        }
        cli
    }
}

/// Options that every command takes, before or after its name.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Global options")]
pub struct Global {
    /// The switch, by the name of its bridge device
    #[arg(long, global = true, value_name = "NAME", env = "VNET_SWITCH", default_value = "vsw0",
          value_parser = parse_switch)]
    pub switch: String,

    /// The network namespace that the switch lives in, by name or path
    #[arg(long, global = true, value_name = "NAME|PATH")]
    pub netns: Option<OsString>,

    /// Where the switches' documents are
    #[arg(long, global = true, value_name = "DIR", default_value = CONFIG_DIR)]
    pub config_dir: PathBuf,

    /// The mounted BPF file system that holds the pins
    #[arg(long, global = true, value_name = "DIR", default_value = "/sys/fs/bpf")]
    pub bpffs: PathBuf,

    /// How listings are printed [default: table]
    #[arg(short, long, global = true, value_enum, value_name = "FORMAT")]
    pub output: Option<Format>,

    /// The same as -o json
    #[arg(short, long, global = true)]
    pub json: bool,

    /// Print errors only
    #[arg(short, long, global = true)]
    pub quiet: bool,

    /// Print what is done; twice: what the libraries say too
    #[arg(short, long, global = true, action = ArgAction::Count)]
    pub verbose: u8,
}

impl Global {
    /// How listings are printed.
    #[must_use]
    pub fn format(&self) -> Format {
        if self.json {
            Format::Json
        } else {
            self.output.unwrap_or_default()
        }
    }

    /// The words that name the same switch in the same place to another process.
    #[must_use]
    pub fn words(&self) -> Vec<OsString> {
        let mut words: Vec<OsString> = vec!["--switch".into(), self.switch.as_str().into()];
        if let Some(netns) = &self.netns {
            words.extend(["--netns".into(), netns.clone()]);
        }
        words.extend(["--config-dir".into(), self.config_dir.clone().into()]);
        words.extend(["--bpffs".into(), self.bpffs.clone().into()]);
        words
    }

    /// Where documents are kept before they are changed: the state directory, or with the
    /// documents where those are in a place of their own. VNET_STATE_DIR names another place.
    #[must_use]
    pub fn state_dir(&self) -> PathBuf {
        match std::env::var_os("VNET_STATE_DIR") {
            Some(dir) => dir.into(),
            None if self.config_dir == Path::new(CONFIG_DIR) => STATE_DIR.into(),
            None => self.config_dir.clone(),
        }
    }

    /// Where locks and sockets are.
    #[must_use]
    pub fn run_dir(&self) -> PathBuf {
        std::env::var_os("VNET_RUN_DIR").map_or_else(|| RUN_DIR.into(), PathBuf::from)
    }
}

/// How listings are printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Columns for people
    #[default]
    Table,
    /// One object
    Json,
    /// One object a line
    Jsonl,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make the switch and bring it up
    Up(UpArgs),
    /// Take the switch down; its configuration stays
    Down,
    /// Show whether the switch is up, and how
    Status,
    /// Broadcast domains
    #[command(subcommand)]
    Network(NetworkCommand),
    /// Interfaces of the switch
    #[command(subcommand)]
    Port(PortCommand),
    /// MAC addresses and the ports they are behind
    #[command(subcommand)]
    Fdb(FdbCommand),
    /// MAC addresses that may not communicate at all
    #[command(subcommand)]
    Mac(MacCommand),
    /// Address translation
    #[command(subcommand)]
    Nat(NatCommand),
    /// Connections that are in force
    #[command(subcommand)]
    Flow(FlowCommand),
    /// Which connections virtual machines may have
    #[command(subcommand)]
    Policy(PolicyCommand),
    /// Sources that are kept away for a time, for connecting too often
    #[command(subcommand)]
    Ban(BanCommand),
    /// The document as a whole
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Change settings
    Set(SetArgs),
    /// Show settings
    Get(GetArgs),
    /// Show traffic counters and drops by reason
    Stats(StatsArgs),
    /// Show what the datapath reports: addresses learned, moved and aged, limits reached
    Events(EventsArgs),
    /// Look for what keeps the switch from working, and say what to do about it
    Doctor(DoctorArgs),
    /// Bring the switch up, stay in the foreground and make interfaces ports as they come
    Daemon(DaemonArgs),
    /// Print what the bring-up object logs, as far as RUST_LOG lets it
    #[cfg(feature = "datapath-log")]
    DatapathLog,
    /// Print a completion script
    Completions(CompletionsArgs),
    /// Write manual pages, one a command
    Man(ManArgs),
}

/// `up`.
#[derive(Debug, Args)]
pub struct UpArgs {
    /// An interface to the physical network, added as an uplink if it is not there yet
    #[arg(long, value_name = "IFACE", value_parser = parse_iface)]
    pub uplink: Vec<String>,
    /// Where frames of uplinks are handled
    #[arg(long, value_enum)]
    pub mode: Option<Mode>,
    /// What becomes of traffic when vnet's programs are gone
    #[arg(long, value_enum)]
    pub fail: Option<FailMode>,
}

/// `daemon`.
#[derive(Debug, Args)]
pub struct DaemonArgs {
    /// What of it runs here, where DHCP is left to a process with privileges of its own
    #[arg(long, value_enum, default_value_t)]
    pub part: DaemonPart,
}

/// What a daemon does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum DaemonPart {
    /// Everything
    #[default]
    All,
    /// All but DHCP
    Switch,
    /// DHCP alone
    Dhcp,
}

/// `network …`.
#[derive(Debug, Subcommand)]
pub enum NetworkCommand {
    /// Add a network
    Add(NetworkAddArgs),
    /// Delete a network that nothing uses
    Del(NetworkDelArgs),
    /// List the networks
    List,
    /// Show one network
    Show {
        /// The network
        #[arg(value_parser = parse_network)]
        name: String,
    },
}

/// `network add`.
#[derive(Debug, Args)]
pub struct NetworkAddArgs {
    /// Its name: up to 32 letters, digits, '_', '.', '-'
    #[arg(value_parser = parse_network)]
    pub name: String,
    /// The tag it has on trunks, 1 to 4094
    #[arg(long, value_name = "VID", value_parser = parse_vlan)]
    pub vlan: Option<u16>,
    /// The host's address in it, with its prefix: what its VMs use as gateway
    #[arg(long, value_name = "CIDR", value_parser = parse_gateway)]
    pub gateway: Vec<IpNet>,
    /// Its MTU in bytes
    #[arg(long, value_name = "N", value_parser = parse_mtu)]
    pub mtu: Option<u32>,
    /// Addresses that the daemon leases to its VMs; with IPv6, routers are advertised too
    #[arg(long, value_name = "LO-HI")]
    pub dhcp: Vec<DhcpRange>,
    /// Change nothing and succeed if it is there already
    #[arg(long)]
    pub may_exist: bool,
}

/// `network del`.
#[derive(Debug, Args)]
pub struct NetworkDelArgs {
    /// The network
    #[arg(value_parser = parse_network)]
    pub name: String,
    /// Succeed if it is not there
    #[arg(long)]
    pub if_exists: bool,
}

/// `port …`.
#[derive(Debug, Subcommand)]
pub enum PortCommand {
    /// Add an interface to the switch
    Add(PortAddArgs),
    /// Change a port: what is not named stays, a list replaces the whole list
    Set(PortSetArgs),
    /// Take an interface out of the switch
    Del(PortDelArgs),
    /// List the ports
    List,
    /// Show one port
    Show {
        /// The interface
        #[arg(value_parser = parse_iface)]
        iface: String,
    },
}

/// `port add`.
#[derive(Debug, Args)]
pub struct PortAddArgs {
    /// The interface; it may come later
    #[arg(value_parser = parse_iface)]
    pub iface: String,
    /// What is said about it
    #[command(flatten)]
    pub options: PortOptions,
    /// Change nothing and succeed if it is there already
    #[arg(long)]
    pub may_exist: bool,
}

/// `port set`.
#[derive(Debug, Args)]
pub struct PortSetArgs {
    /// The port
    #[arg(value_parser = parse_iface)]
    pub iface: String,
    /// What is said about it
    #[command(flatten)]
    pub options: PortOptions,
}

/// What `port add` and `port set` say about a port.
#[derive(Debug, Args)]
pub struct PortOptions {
    /// A physical network is behind it, not a virtual machine
    #[arg(long)]
    pub uplink: bool,
    /// The one network it carries, untagged [default: the network default; on an uplink also every
    /// network that has a VLAN id]
    #[arg(long, value_name = "NAME", value_parser = parse_network, conflicts_with_all = ["trunk", "native"])]
    pub network: Option<String>,
    /// The networks it carries, tagged with their VLAN id or with VID on this port only; none
    /// empties the list
    #[arg(long, value_name = "NAME[=VID]", value_delimiter = ',', value_parser = parse_or_none::<TrunkEntry>)]
    pub trunk: Vec<OrNone<TrunkEntry>>,
    /// The trunk's network that goes untagged; without it untagged frames are dropped
    #[arg(long, value_name = "NAME", value_parser = parse_native)]
    pub native: Option<OrNone<String>>,
    /// A MAC address that may send, auto to have one made and printed; without any, every address
    /// may; none empties the list
    #[arg(long, value_name = "MAC|auto", value_parser = parse_mac_or_none)]
    pub mac: Vec<OrNone<MacChoice>>,
    /// An IP address that may send, learn for those that DHCP leases it; without any, every address
    /// may; none empties the list
    #[arg(long, value_name = "IP|learn", value_parser = parse_or_none::<PortIp>)]
    pub ip: Vec<OrNone<PortIp>>,
    /// Most addresses learned here, 0 is no limit; default is the setting max_macs
    #[arg(long, value_name = "N", value_parser = parse_max_macs)]
    pub max_macs: Option<MaxMacs>,
    /// What else is checked of what it sends
    #[arg(long, value_enum, value_name = "GUARD")]
    pub guard: Option<Guard>,
    /// Keep it apart from other VMs' ports: it reaches uplinks, gateways and the host alone
    #[arg(long, value_name = "on|off", num_args = 0..=1, require_equals = true,
          default_missing_value = "on", value_parser = parse_switch_word)]
    pub isolated: Option<bool>,
    /// A security group that it is bound to, from its first frame on; none unbinds it from all
    #[arg(long, value_name = "NAME", value_parser = parse_group_or_none)]
    pub group: Vec<OrNone<String>>,
    /// A limit of frames a second, of which BURST may come at once, else one second's worth: KIND is
    /// broadcast, multicast or unknown-unicast, of what is flooded, or arp or nd; none empties the
    /// list, so that the settings storm.* apply
    #[arg(long, value_name = "KIND=PPS[/BURST]|off", value_parser = parse_or_none::<StormEntry>)]
    pub storm: Vec<OrNone<StormEntry>>,
}

/// `port del`.
#[derive(Debug, Args)]
pub struct PortDelArgs {
    /// The port
    #[arg(value_parser = parse_iface)]
    pub iface: String,
    /// Succeed if it is not there
    #[arg(long)]
    pub if_exists: bool,
}

/// `fdb …`.
#[derive(Debug, Subcommand)]
pub enum FdbCommand {
    /// List learned and static addresses
    List(FdbListArgs),
    /// Add a static address
    Add(FdbAddArgs),
    /// Delete a static address
    Del(FdbDelArgs),
    /// Forget every learned address
    Flush,
}

/// `fdb list`.
#[derive(Debug, Args)]
pub struct FdbListArgs {
    /// Only addresses in this network
    #[arg(long, value_name = "NAME", value_parser = parse_network)]
    pub network: Option<String>,
    /// Only addresses behind this port
    #[arg(long, value_name = "IFACE", value_parser = parse_iface)]
    pub port: Option<String>,
}

/// `fdb add`.
#[derive(Debug, Args)]
pub struct FdbAddArgs {
    /// The address
    #[arg(value_parser = MacAddr::parse_station)]
    pub mac: MacAddr,
    /// The network it is in
    #[arg(long, value_name = "NAME", value_parser = parse_network)]
    pub network: String,
    /// The port it is behind
    #[arg(long, value_name = "IFACE", value_parser = parse_iface)]
    pub port: String,
    /// Change nothing and succeed if it is there already
    #[arg(long)]
    pub may_exist: bool,
}

/// `fdb del`.
#[derive(Debug, Args)]
pub struct FdbDelArgs {
    /// The address
    #[arg(value_parser = MacAddr::parse_station)]
    pub mac: MacAddr,
    /// The network it is in
    #[arg(long, value_name = "NAME", value_parser = parse_network)]
    pub network: String,
    /// Succeed if it is not there
    #[arg(long)]
    pub if_exists: bool,
}

/// `mac …`.
#[derive(Debug, Subcommand)]
pub enum MacCommand {
    /// Drop every frame from or to an address
    Deny {
        /// The address
        #[arg(value_parser = MacAddr::parse_station)]
        mac: MacAddr,
    },
    /// Take an address off the deny list
    Allow {
        /// The address
        #[arg(value_parser = MacAddr::parse_station)]
        mac: MacAddr,
    },
    /// List the denied addresses
    List,
}

/// `set`.
#[derive(Debug, Args)]
pub struct SetArgs {
    /// A setting and its new value; the value default resets it. vnet-user get lists the keys
    #[arg(required = true, value_name = "KEY=VALUE")]
    pub assignments: Vec<Assignment>,
}

/// `get`.
#[derive(Debug, Args)]
pub struct GetArgs {
    /// The setting; without it, all of them
    #[arg(value_parser = SettingKey::find)]
    pub key: Option<&'static SettingKey>,
}

/// `stats`.
#[derive(Debug, Args)]
pub struct StatsArgs {
    /// Only this port
    #[arg(long, value_name = "IFACE", value_parser = parse_iface)]
    pub port: Option<String>,
}

/// `events`.
#[derive(Debug, Args)]
pub struct EventsArgs {
    /// Wait for more until interrupted
    #[arg(long)]
    pub follow: bool,
}

/// `doctor`.
#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// Write what was found, the document, counters and the host's facts to FILE, a tar.gz for a bug
    /// report; it holds addresses
    #[arg(long, value_name = "FILE")]
    pub bundle: Option<PathBuf>,
}

/// `completions`.
#[derive(Debug, Args)]
pub struct CompletionsArgs {
    /// The shell
    pub shell: clap_complete::Shell,
}

/// `man`.
#[derive(Debug, Args)]
pub struct ManArgs {
    /// Where the pages go
    pub dir: PathBuf,
}

/// An element of a list option, or the word that empties the list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OrNone<T> {
    /// An element.
    One(T),
    /// `none`.
    None,
}

/// What `--max-macs` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MaxMacs(
    /// `None` is the word `default`.
    pub Option<u32>,
);

/// What one `--mac` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MacChoice {
    /// This address.
    Is(MacAddr),
    /// `auto`.
    Auto,
}

/// One `--storm`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StormEntry {
    /// What is limited.
    pub kind: StormKind,
    /// To how much.
    pub limit: StormLimit,
}

impl std::str::FromStr for StormEntry {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (kind, limit) = text
            .split_once('=')
            .ok_or_else(|| format!("{text:?} is not KIND=PPS[/BURST] or KIND=off"))?;
        let kind = match kind {
            "broadcast" => StormKind::Broadcast,
            "multicast" => StormKind::Multicast,
            "unknown-unicast" => StormKind::UnknownUnicast,
            "arp" => StormKind::Arp,
            "nd" => StormKind::Nd,
            _ => {
                return Err(format!(
                    "{kind:?} is no kind of storm: use broadcast, multicast, unknown-unicast, arp \
                     or nd"
                ));
            }
        };
        let limit = limit.parse()?;
        Ok(Self { kind, limit })
    }
}

fn or_none<T>(
    text: &str,
    parse: impl FnOnce(&str) -> Result<T, String>,
) -> Result<OrNone<T>, String> {
    if text == names::NONE {
        Ok(OrNone::None)
    } else {
        parse(text).map(OrNone::One)
    }
}

fn parse_or_none<T: std::str::FromStr<Err = String>>(text: &str) -> Result<OrNone<T>, String> {
    or_none(text, str::parse)
}

fn parse_native(text: &str) -> Result<OrNone<String>, String> {
    or_none(text, parse_network)
}

fn parse_group_or_none(text: &str) -> Result<OrNone<String>, String> {
    or_none(text, parse_group)
}

fn parse_mac_or_none(text: &str) -> Result<OrNone<MacChoice>, String> {
    or_none(text, |text| match text {
        "auto" => Ok(MacChoice::Auto),
        _ => MacAddr::parse_station(text).map(MacChoice::Is),
    })
}

fn parse_switch_word(text: &str) -> Result<bool, String> {
    match text {
        "on" => Ok(true),
        "off" => Ok(false),
        _ => Err(format!("{text:?} is neither on nor off")),
    }
}

fn parse_max_macs(text: &str) -> Result<MaxMacs, String> {
    match text {
        "default" => Ok(MaxMacs(None)),
        _ => match text.parse() {
            Ok(limit) if limit <= MAX_MACS_LIMIT => Ok(MaxMacs(Some(limit))),
            _ => Err(format!("{text:?} is not a number up to {MAX_MACS_LIMIT}")),
        },
    }
}

impl PortOptions {
    /// The options as a change of a port, and whether one of its addresses is to be made.
    ///
    /// # Errors
    /// `none` beside elements of the same list; a storm limit or `auto` that is given twice.
    pub fn check(self) -> Result<(PortChange, bool), String> {
        let storm = match list("--storm", self.storm)? {
            None => None,
            Some(entries) => {
                let mut storm = StormOverrides::default();
                for StormEntry { kind, limit } in entries {
                    if storm.get_mut(kind).replace(limit).is_some() {
                        return Err("--storm names one kind twice".into());
                    }
                }
                Some(storm)
            }
        };
        let macs = list("--mac", self.mac)?;
        let autos = macs.iter().flatten().filter(|mac| **mac == MacChoice::Auto);
        let autos = autos.count();
        if autos > 1 {
            return Err("--mac auto is given twice, and a port has one such address".into());
        }
        let macs = macs.map(|macs| {
            let listed = macs.into_iter().filter_map(|mac| match mac {
                MacChoice::Is(mac) => Some(mac),
                MacChoice::Auto => None,
            });
            listed.collect()
        });
        let change = PortChange {
            uplink: self.uplink,
            access: self.network,
            trunk: list("--trunk", self.trunk)?,
            native: self.native.map(|native| match native {
                OrNone::One(network) => Some(network),
                OrNone::None => None,
            }),
            macs,
            max_macs: self.max_macs.map(|MaxMacs(limit)| limit),
            ips: list("--ip", self.ip)?,
            guard: self.guard,
            isolated: self.isolated,
            storm,
            groups: list("--group", self.group)?,
        };
        Ok((change, autos > 0))
    }
}

/// The list that an option's values make; `None` where the option was not given.
fn list<T>(option: &str, values: Vec<OrNone<T>>) -> Result<Option<Vec<T>>, String> {
    if values.is_empty() {
        return Ok(None);
    }
    let given = values.len();
    let elements: Vec<T> = values
        .into_iter()
        .filter_map(|value| match value {
            OrNone::One(element) => Some(element),
            OrNone::None => None,
        })
        .collect();
    let nones = given - elements.len();
    if nones > 0 && given > 1 {
        return Err(format!("{option} none empties the list and stands alone"));
    }
    Ok(Some(elements))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_declaration_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn global_options_go_before_and_after_the_command() {
        for line in [
            "vnet-user --switch br1 -j -v network list",
            "vnet-user network --switch br1 list -j -v",
            "vnet-user network list --switch br1 -jv",
        ] {
            let cli = Cli::try_parse_from(line.split(' ')).unwrap();
            assert_eq!(cli.global.switch, "br1", "{line}");
            assert_eq!(cli.global.format(), Format::Json, "{line}");
            assert_eq!(cli.global.verbose, 1, "{line}");
        }
    }

    #[test]
    fn storm_kinds() {
        let entry: StormEntry = "unknown-unicast=off".parse().unwrap();
        assert_eq!(entry.kind, StormKind::UnknownUnicast);
        assert_eq!(entry.limit, StormLimit::Off);
        let entry: StormEntry = "arp=50/10".parse().unwrap();
        assert_eq!(entry.limit.to_string(), "50/10");
        for bad in [
            "broadcast",
            "broadcast=0",
            "unknown_unicast=1",
            "multicast=on",
            "arp=5/",
            "arp=5/0",
            "arp=/5",
            "arp=5/65536",
            "arp=off/5",
        ] {
            assert!(bad.parse::<StormEntry>().is_err(), "{bad}");
        }
    }

    #[test]
    fn none_stands_alone() {
        assert_eq!(list::<u8>("--x", vec![]), Ok(None));
        assert_eq!(list::<u8>("--x", vec![OrNone::None]), Ok(Some(vec![])));
        assert_eq!(list("--x", vec![OrNone::One(1)]), Ok(Some(vec![1])));
        assert!(list("--x", vec![OrNone::One(1), OrNone::None]).is_err());
    }
}
