//! Who may ask the daemon for what.

use std::io;
use std::os::fd::AsRawFd as _;

use nix::unistd::Group;
use tokio::net::UnixStream;

use crate::cli::{
    BanCommand, BanRuleCommand, Command, ConfigCommand, FdbCommand, FlowCommand, GroupCommand,
    MacCommand, NatCommand, NetworkCommand, PolicyCommand, PortCommand, RuleCommand,
};

/// Whose members may look: the socket is theirs.
pub(super) const READERS: &str = "vnet";

/// Whose members may change things, too.
const WRITERS: &str = "vnet-admin";

/// What somebody may do, or what it takes to do something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Role {
    /// Look.
    Read,
    /// Change the document and the running switch.
    Write,
}

/// Who is at the other end of a connection, as the kernel knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Peer {
    pub(super) uid: u32,
    pub(super) pid: i32,
    pub(super) role: Role,
}

impl Peer {
    /// Who it is (SO_PEERCRED, SO_PEERGROUPS), at the time at which they connected.
    ///
    /// # Errors
    /// The kernel does not say.
    pub(super) fn of(stream: &UnixStream) -> io::Result<Self> {
        let credentials = stream.peer_cred()?;
        let uid = credentials.uid();
        let writers = Group::from_name(WRITERS).ok().flatten();
        let writes = writers
            .map(|group| group.gid.as_raw())
            .is_some_and(|writers| {
                credentials.gid() == writers
                    || groups(stream).is_ok_and(|groups| groups.contains(&writers))
            });
        Ok(Self {
            uid,
            pid: credentials.pid().unwrap_or(0),
            role: if uid == 0 || writes {
                Role::Write
            } else {
                Role::Read
            },
        })
    }
}

/// The peer's supplementary groups.
fn groups(stream: &UnixStream) -> io::Result<Vec<libc::gid_t>> {
    // NGROUPS_MAX (linux/limits.h) would be 65,536; who has more than these is in none of ours.
    let mut groups = vec![0; 1024];
    let mut length = size_of_val(groups.as_slice()) as libc::socklen_t;
    // SAFETY: the buffer is live and as long as `length` says; the kernel says how much it wrote.
    let result = unsafe {
        libc::getsockopt(
            stream.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERGROUPS,
            groups.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    groups.truncate(length as usize / size_of::<libc::gid_t>());
    Ok(groups)
}

/// What it takes to run a command for somebody else; `None`: only its own caller can.
pub(super) fn needed(command: &Command) -> Option<Role> {
    use Role::{Read, Write};
    let role = match command {
        Command::Status | Command::Get(_) | Command::Stats(_) => Read,
        Command::Set(_) => Write,
        Command::Network(NetworkCommand::List | NetworkCommand::Show { .. })
        | Command::Port(PortCommand::List | PortCommand::Show { .. })
        | Command::Fdb(FdbCommand::List(_))
        | Command::Mac(MacCommand::List)
        | Command::Nat(NatCommand::List | NatCommand::Show { .. })
        | Command::Flow(FlowCommand::List(_))
        | Command::Policy(
            PolicyCommand::Group(GroupCommand::List | GroupCommand::Show { .. })
            | PolicyCommand::Rule(RuleCommand::List { .. }),
        )
        | Command::Ban(BanCommand::List { .. } | BanCommand::Rule(BanRuleCommand::List))
        | Command::Config(ConfigCommand::Export | ConfigCommand::List) => Read,
        Command::Network(_)
        | Command::Port(_)
        | Command::Fdb(_)
        | Command::Mac(_)
        | Command::Nat(_)
        | Command::Flow(_)
        | Command::Ban(_)
        // Not `import`, which reads files.
        | Command::Policy(
            PolicyCommand::Group(_)
            | PolicyCommand::Rule(_)
            | PolicyCommand::Bind(_)
            | PolicyCommand::Unbind(_),
        )
        | Command::Config(ConfigCommand::Confirm | ConfigCommand::Rollback { .. }) => Write,
        // The document comes with the request: a path would be opened with the daemon's rights.
        Command::Config(ConfigCommand::Apply(args)) if args.file.as_os_str() == "-" => Write,
        Command::Config(ConfigCommand::Diff { file }) if file.as_os_str() == "-" => Read,
        _ => return None,
    };
    Some(role)
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::cli::Cli;

    fn role(line: &str) -> Option<Role> {
        let words = ["vnet-user"].into_iter().chain(line.split(' '));
        needed(&Cli::try_parse_from(words).unwrap().command)
    }

    #[test]
    fn looking_and_changing_are_told_apart() {
        for line in [
            "status",
            "port list",
            "port show tap0",
            "nat list",
            "flow list --proto tcp",
            "policy group list",
            "policy rule list web",
            "ban list --network lan",
            "ban rule list",
            "config export",
            "config diff -",
            "get",
            "stats",
        ] {
            assert_eq!(role(line), Some(Role::Read), "{line}");
        }
        for line in [
            "port add tap0",
            "network del blue",
            "flow flush",
            "policy rule del web 3",
            "policy bind web tap0",
            "ban rule del 3",
            "ban add 192.0.2.7",
            "ban flush",
            "fdb flush",
            "mac deny 02:00:00:00:00:01",
            "set ageing=60",
            "config apply -",
            "config rollback",
        ] {
            assert_eq!(role(line), Some(Role::Write), "{line}");
        }
    }

    #[test]
    fn what_uses_files_or_the_daemons_place_is_not_served() {
        for line in [
            "up",
            "down",
            "daemon",
            "events --follow",
            "policy import /etc/shadow",
            "doctor --bundle /etc/x",
            "config apply /etc/shadow",
            "config diff /etc/shadow",
            "config check -",
            "man /etc",
        ] {
            assert_eq!(role(line), None, "{line}");
        }
    }
}
