//! Whether networks that have DHCP are served.

use super::{Check, Scope};
use crate::config::Config;
use crate::dhcp::{self, Server};
use crate::runtime::Session;

/// Looks at the servers of a switch that is up.
#[must_use]
pub fn examine(session: &Session, config: &Config) -> Vec<Check> {
    if !session.is_up() {
        return Vec::new();
    }
    let place = session.dhcp();
    let servers = dhcp::servers(config, session.switch()).into_iter();
    servers
        .map(|server| {
            let process = place.process(&server.network.name);
            judge(&server, process, place.is_kept(), session.switch())
        })
        .collect()
}

/// Whether a network is served, by the process of which id, and whether there is somebody who would
/// begin that.
#[must_use]
pub fn judge(server: &Server, process: Option<u32>, kept: bool, switch: &str) -> Check {
    let scope = Scope::new("dhcp");
    let what = format!("the network {}", server.network.name);
    match (process, kept) {
        (Some(process), true) => scope.pass(what).detail(format_args!(
            "dnsmasq, process {process}, on {}",
            server.interface
        )),
        (Some(process), false) => scope
            .warn(what, format!("vnet-user --switch {switch} daemon"))
            .detail(format_args!(
                "dnsmasq, process {process}, without a daemon that would begin it again"
            )),
        (None, true) => scope
            .fail(
                what,
                format!(
                    "look at its log (journalctl -u vnet-dhcp@{switch}); dnsmasq-base installs dnsmasq; \
                     port 53 must be free on the gateway's address"
                ),
            )
            .detail(format_args!(
                "the daemon runs, and no dnsmasq on {} in its network namespace",
                server.interface
            )),
        (None, false) => scope
            .fail(what, format!("vnet-user --switch {switch} daemon"))
            .detail("no daemon runs that would serve it"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Verdict::{Fail, Pass, Warn};
    use super::*;
    use crate::config::Source;

    #[test]
    fn who_serves_and_who_sees_to_it() {
        let source = Source {
            name: String::new(),
            text: "schema = 1\n[[network]]\nname = 'lan'\ngateway = ['10.0.0.1/24']\n\
                   dhcp = ['10.0.0.8-10.0.0.9']\n"
                .into(),
        };
        let servers = dhcp::servers(&source.config("vsw0").unwrap(), "vsw0");
        for (process, kept, expected) in [
            (Some(7), true, Pass),
            (Some(7), false, Warn),
            (None, true, Fail),
            (None, false, Fail),
        ] {
            let check = judge(&servers[0], process, kept, "vsw0");
            assert_eq!(check.result, expected, "{check}");
        }
    }
}
