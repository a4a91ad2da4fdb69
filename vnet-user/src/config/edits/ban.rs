//! The verbs about rules that ban.

use vnet_common::limit::BAN_RULES;

use crate::config::{BanRule, Config, Invalid};

/// Adds a rule that bans and returns its id: one above the highest there is, or the lowest that is free
/// where there is none above. The id that `rule` has does not count.
pub fn add_ban(config: &mut Config, rule: BanRule) -> Result<u8, Invalid> {
    let last = (BAN_RULES - 1) as u8;
    let highest = config.bans.iter().map(|rule| rule.id).max().unwrap_or(0);
    let above = highest.checked_add(1);
    let id = above
        .into_iter()
        .chain(1..=last)
        .find(|id| find_ban(config, *id).is_none())
        .ok_or_else(|| {
            Invalid::new(format!("there are {last} rules, and no more are possible"))
                .mend("delete one first: vnet-user ban rule del ID")
        })?;
    config.bans.push(BanRule { id, ..rule });
    Ok(id)
}

/// The rule that bans with this id.
#[must_use]
pub fn find_ban(config: &Config, id: u8) -> Option<&BanRule> {
    config.bans.iter().find(|rule| rule.id == id)
}

/// Deletes a rule that bans.
pub fn delete_ban(config: &mut Config, id: u8) -> Result<(), Invalid> {
    if find_ban(config, id).is_none() {
        let refusal = Invalid::new(format!("there is no ban rule {id}"));
        return Err(if config.bans.is_empty() {
            refusal
        } else {
            refusal.mend("vnet-user ban rule list shows the rules")
        });
    }
    config.bans.retain(|rule| rule.id != id);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(port: u16) -> BanRule {
        BanRule {
            id: 0,
            ports: port.to_string().parse().unwrap(),
            connections: 5,
            within: 60,
            time: 600,
            except: Vec::new(),
        }
    }

    #[test]
    fn ids_are_not_given_again_while_there_are_higher_ones() {
        let mut config = Config::default();
        for id in 1..=3 {
            assert_eq!(add_ban(&mut config, rule(id.into())), Ok(id));
        }
        delete_ban(&mut config, 1).unwrap();
        assert_eq!(add_ban(&mut config, rule(4)), Ok(4));
        config.bans[0].id = 255;
        assert_eq!(add_ban(&mut config, rule(5)), Ok(1));
        assert_eq!(add_ban(&mut config, rule(6)), Ok(2));
        config.bans = (1..=255)
            .map(|id| BanRule {
                id,
                ..rule(id.into())
            })
            .collect();
        config.validate("vsw0").unwrap();
        let refusal = add_ban(&mut config, rule(256)).unwrap_err();
        assert_eq!(refusal.why, "there are 255 rules, and no more are possible");
        delete_ban(&mut config, 7).unwrap();
        assert_eq!(add_ban(&mut config, rule(256)), Ok(7));
    }

    #[test]
    fn a_rule_that_is_not_there_is_not_deleted() {
        let mut config = Config::default();
        let refusal = delete_ban(&mut config, 7).unwrap_err();
        assert_eq!(
            (refusal.why.as_str(), refusal.mend),
            ("there is no ban rule 7", None)
        );
        add_ban(&mut config, rule(22)).unwrap();
        let refusal = delete_ban(&mut config, 7).unwrap_err();
        assert!(refusal.mend.is_some());
        delete_ban(&mut config, 1).unwrap();
        assert_eq!(config.bans, []);
    }
}
