//! A prefix without parts of it.

use ipnet::IpNet;

/// The fewest prefixes that have every address of `net` but those in `except`.
#[must_use]
pub fn without(net: IpNet, except: &[IpNet]) -> Vec<IpNet> {
    if except.iter().any(|hole| hole.contains(&net)) {
        return Vec::new();
    }
    let within: Vec<_> = except
        .iter()
        .copied()
        .filter(|hole| net.contains(hole))
        .collect();
    if within.is_empty() {
        return vec![net];
    }
    // A prefix that has another one within it is longer than one address: it has two halves.
    let halves = net.subnets(net.prefix_len() + 1).into_iter().flatten();
    halves.flat_map(|half| without(half, &within)).collect()
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use proptest::prelude::*;

    use super::*;

    fn parse(texts: &[&str]) -> Vec<IpNet> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn check(net: &str, except: &[&str], expected: &[&str]) {
        let rest = without(net.parse().unwrap(), &parse(except));
        assert_eq!(rest, parse(expected), "{net} without {except:?}");
    }

    #[test]
    fn what_is_left() {
        check("10.0.0.0/8", &[], &["10.0.0.0/8"]);
        check("10.0.0.0/8", &["10.0.0.0/8"], &[]);
        check("10.0.0.0/24", &["10.0.0.0/8"], &[]);
        check("10.0.0.0/8", &["11.0.0.0/8", "fd00::/8"], &["10.0.0.0/8"]);
        check(
            "172.17.0.0/16",
            &["172.17.1.0/24"],
            &[
                "172.17.0.0/24",
                "172.17.2.0/23",
                "172.17.4.0/22",
                "172.17.8.0/21",
                "172.17.16.0/20",
                "172.17.32.0/19",
                "172.17.64.0/18",
                "172.17.128.0/17",
            ],
        );
        check(
            "10.0.0.0/30",
            &["10.0.0.1/32", "10.0.0.2/31"],
            &["10.0.0.0/32"],
        );
        check("10.0.0.0/31", &["10.0.0.1/32"], &["10.0.0.0/32"]);
        check("10.0.0.1/32", &["10.0.0.1/32"], &[]);
        // Holes within holes are one.
        check(
            "10.0.0.0/30",
            &["10.0.0.0/31", "10.0.0.1/32"],
            &["10.0.0.2/31"],
        );
        let all_but_one = without("::/0".parse().unwrap(), &parse(&["fd00::1/128"]));
        assert_eq!(all_but_one.len(), 128);
        let all_but_one = without(
            "0.0.0.0/0".parse().unwrap(),
            &parse(&["255.255.255.255/32"]),
        );
        assert_eq!(all_but_one.len(), 32);
    }

    fn any_hole() -> impl Strategy<Value = IpNet> {
        (any::<u8>(), 24..=32u8).prop_map(|(last, bits)| {
            let net = IpNet::new(IpAddr::from([10, 0, 0, last]), bits).unwrap();
            net.trunc()
        })
    }

    proptest! {
        #[test]
        fn every_address_is_where_it_belongs(except in prop::collection::vec(any_hole(), 0..6)) {
            let net: IpNet = "10.0.0.0/24".parse().unwrap();
            let rest = without(net, &except);
            for last in 0..=255u8 {
                let addr = IpAddr::from([10, 0, 0, last]);
                let expected = !except.iter().any(|hole| hole.contains(&addr));
                let found = rest.iter().filter(|net| net.contains(&addr)).count();
                prop_assert_eq!(found, usize::from(expected), "{} in {:?}", addr, rest);
            }
            prop_assert_eq!(IpNet::aggregate(&rest).len(), rest.len());
        }
    }
}
