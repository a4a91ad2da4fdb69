//! Whether what ports are allowed makes sense together: guards are for VMs, and an address is one
//! port's.

use std::collections::HashMap;

use super::super::{Config, Guard, Invalid, Port, PortIp};

impl Config {
    /// Checks the ports' IP addresses and guards against each other.
    pub(super) fn validate_guards(&self, switch: &str) -> Result<(), Invalid> {
        for (index, port) in self.ports.iter().enumerate() {
            let what = if port.name == switch {
                "the switch device"
            } else {
                "an uplink"
            };
            if port.uplink || port.name == switch {
                check_unguarded(port, what).map_err(|(key, refusal)| {
                    let about = format!("the port {}", port.name);
                    refusal.about(about).at("port", index).key(key)
                })?;
            }
        }
        for (index, profile) in self.profiles.iter().enumerate() {
            if profile.options.uplink {
                check_unguarded(&profile.options, "an uplink").map_err(|(key, refusal)| {
                    let about = format!("the profile {}", profile.name);
                    refusal.about(about).at("profile", index).key(key)
                })?;
            }
        }
        self.validate_owners()
    }

    /// Refuses an address that two ports have in a network, or a port and the network's gateway.
    fn validate_owners(&self) -> Result<(), Invalid> {
        let mut owners = HashMap::new();
        for network in &self.networks {
            for gateway in &network.gateway {
                let owner = format!("the gateway of {}", network.name);
                owners.insert((network.name.clone(), gateway.addr()), owner);
            }
        }
        for (index, port) in self.ports.iter().enumerate() {
            for carried in self.carried(port).networks {
                for ip in &port.ips {
                    let PortIp::Is(addr) = ip else { continue };
                    let owner = format!("the port {}", port.name);
                    let place = (carried.network.clone(), *addr);
                    if let Some(other) = owners.insert(place, owner) {
                        let why = format!(
                            "{addr} is the address of {other} in the network {}",
                            carried.network
                        );
                        return Err(Invalid::new(why)
                            .about(format!("the port {}", port.name))
                            .at("port", index)
                            .key("ip"));
                    }
                }
            }
        }
        Ok(())
    }
}

/// Refuses guards for `port`, which is `what`: the key and why.
fn check_unguarded(port: &Port, what: &str) -> Result<(), (&'static str, Invalid)> {
    let key = if !port.ips.is_empty() {
        "ip"
    } else if port.guard == Guard::Strict {
        "guard"
    } else if port.isolated {
        "isolated"
    } else {
        return Ok(());
    };
    let why = format!("it is {what}, and `{key}` is for the ports of VMs");
    Err((key, Invalid::new(why)))
}
