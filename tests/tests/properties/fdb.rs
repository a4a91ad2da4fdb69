//! Properties of the forwarding database.

use std::collections::HashMap;

use proptest::{collection::vec, prelude::*};
use vnet_common::{
    FdbKey,
    fdb::{BUCKET_ENTRIES, FDB_STATIC, PROBE_LIMIT, buckets_for},
};
use vnet_ebpf::fdb::{self, Home, LearnLimits, Learned, Sweep};
use vnet_tests::{
    machine::Machine,
    setup::{Devices, Setup},
    switch::Switch as _,
};
use vnet_user::config::Config;

/// A machine whose table is made for `size` addresses, and empty.
fn table(size: u32, seed: u64) -> Machine {
    let mut config = Config::default();
    config.settings.max_ports = 64;
    let mut setup = Setup::new(config, Devices::new(), Some(size), false, None).expect("valid");
    setup.sizes.fdb_seed = seed;
    Machine::new(&setup)
}

const fn limits(table: u32, port: u32, now_s: u32) -> LearnLimits {
    LearnLimits {
        table,
        port,
        ageing_s: 300,
        now_s,
    }
}

/// Numbers that look random (SplitMix64, Steele and others 2014).
fn random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (*state ^ (*state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A station's address in one of a few segments.
fn random_key(state: &mut u64) -> FdbKey {
    let bytes = random(state).to_be_bytes();
    let mac = [
        bytes[0] & 0xfe,
        bytes[1],
        bytes[2],
        bytes[3],
        bytes[4],
        bytes[5],
    ];
    FdbKey::new(mac, u16::from(bytes[6] & 7))
}

/// Learns `size` keys in a table made for as many; each must find its place and be found.
fn fill(size: u32, seed: u64, mut next: impl FnMut(u32) -> FdbKey) {
    let machine = table(size, seed);
    let mut keys = HashMap::new();
    let mut n = 0;
    while keys.len() < size as usize {
        let key = next(n);
        n += 1;
        if keys.contains_key(&key.word) {
            continue;
        }
        let slot = (n % 60 + 1) as u16;
        let learned = fdb::learn(&machine, key, slot, &limits(size, 0, 1000));
        assert_eq!(
            learned,
            Learned::New,
            "address {} of {size}",
            keys.len() + 1
        );
        keys.insert(key.word, slot);
    }
    for (word, slot) in &keys {
        assert_eq!(find(&machine, FdbKey { word: *word }), Some(*slot));
    }
    let addresses = machine.addresses().expect("the counts are right");
    assert_eq!(addresses.len(), size as usize);
    let one_more = FdbKey::new([0xfe, 0xff, 0xff, 0xff, 0xff, 0xff], 9);
    let learned = fdb::learn(&machine, one_more, 1, &limits(size, 0, 1000));
    assert_eq!(learned, Learned::TableFull);
    assert_eq!(find(&machine, one_more), None);
}

/// Where an address is, by both ways of looking for it.
fn find(machine: &Machine, key: FdbKey) -> Option<u16> {
    let found = fdb::find(machine, key);
    match fdb::find_home(machine, key) {
        Home::Found(entry) => assert_eq!(Some(entry), found),
        Home::Absent => assert_eq!(found, None),
        Home::Overflowed => {}
    }
    found.map(|entry| entry.slot)
}

#[test]
fn a_table_takes_as_many_addresses_as_it_was_made_for() {
    let mut state = 7;
    for seed in 0..20 {
        fill(1024, seed, |_| random_key(&mut state));
        fill(1025, seed, |_| random_key(&mut state));
    }
    fill(65_536, 1, |_| random_key(&mut state));
    fill(65_536, 2, |_| random_key(&mut state));
}

/// What is dealt out to VMs: one prefix, counted up. A hash that spreads random keys alone would
/// fail here.
#[test]
fn addresses_that_are_counted_up_are_spread_too() {
    for (seed, shift) in [(1, 0), (2, 8), (3, 16), (4, 24)] {
        fill(65_536, seed, |n| {
            let n = (u64::from(n) << shift).to_be_bytes();
            FdbKey::new([0x52, 0x54, n[4], n[5], n[6], n[7]], u16::from(n[3]))
        });
    }
}

#[test]
fn a_full_neighbourhood_loses_nobody() {
    // The smallest table, over-filled as the limit would not allow: every bucket overflows.
    let machine = table(16, 3);
    let places = buckets_for(16) * BUCKET_ENTRIES as u32;
    let mut state = 11;
    let mut learned = Vec::new();
    for _ in 0..4 * places {
        let key = random_key(&mut state);
        match fdb::learn(&machine, key, 1, &limits(u32::MAX, 0, 1000)) {
            Learned::New => learned.push(key),
            Learned::TableFull => {}
            other => panic!("{other:?}"),
        }
    }
    assert!(
        learned.len() as u32 > places - PROBE_LIMIT,
        "{}",
        learned.len()
    );
    for key in &learned {
        assert_eq!(find(&machine, *key), Some(1), "{key:?}");
    }
    assert_eq!(
        machine.addresses().expect("the counts are right").len(),
        learned.len()
    );
}

#[test]
fn stale_addresses_make_room_when_the_table_is_full() {
    let machine = table(64, 5);
    let mut state = 13;
    for _ in 0..64 {
        let key = random_key(&mut state);
        assert_eq!(
            fdb::learn(&machine, key, 1, &limits(64, 0, 1000)),
            Learned::New
        );
    }
    // None is stale after 300 seconds, and all are after one more. A new address takes the place of a
    // stale one of its own bucket: not every bucket has one.
    let mut at = |now_s| {
        (0..200)
            .filter(|_| {
                let key = random_key(&mut state);
                fdb::learn(&machine, key, 2, &limits(64, 0, now_s)) == Learned::New
            })
            .count()
    };
    assert_eq!(at(1300), 0);
    assert!(at(1301) > 32);
    machine.addresses().expect("the counts are right");
}

#[derive(Clone, Debug)]
enum Change {
    Learn(u16, u16),
    Put(u16, u16),
    Delete(u16),
    Sweep,
    SweepPort(u16),
    Seconds(u32),
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        20 => (0u16..40, 1u16..4).prop_map(|(key, slot)| Change::Learn(key, slot)),
        2 => (0u16..40, 1u16..4).prop_map(|(key, slot)| Change::Put(key, slot)),
        3 => (0u16..40).prop_map(Change::Delete),
        1 => Just(Change::Sweep),
        1 => (1u16..4).prop_map(Change::SweepPort),
        3 => (0u32..200).prop_map(Change::Seconds),
    ]
}

/// An address in the model.
#[derive(Clone, Copy, Debug)]
struct Entry {
    slot: u16,
    is_static: bool,
    seen_s: u32,
}

proptest! {
    #![proptest_config(crate::cases(500))]

    /// The table does what a plain map with the same rules does. Up to 40 addresses in 112 places,
    /// so that four buckets in a row are all but never full: what is refused is refused by a limit.
    #[test]
    fn the_table_is_a_map_with_limits(
        seed in any::<u64>(),
        table_limit in 10u32..50,
        port_limit in 0u32..12,
        changes in vec(change(), 1..200),
    ) {
        let machine = table(16, seed);
        let mut model: HashMap<u16, Entry> = HashMap::new();
        let mut now_s = 1000;
        let key = |n: u16| FdbKey::new([2, 0, 0, 0, 0, n as u8], n % 3);
        let stale = |entry: &Entry, now_s: u32| !entry.is_static && now_s - entry.seen_s > 300;
        for change in changes {
            match change {
                Change::Learn(n, slot) => {
                    let limits = limits(table_limit, port_limit, now_s);
                    let learned = fdb::learn(&machine, key(n), slot, &limits);
                    let held = model.values().filter(|e| e.slot == slot && !e.is_static).count();
                    let port_has_room = port_limit == 0 || (held as u32) < port_limit;
                    let known = model.get(&n).copied();
                    let expected = match known {
                        Some(e) if e.is_static => Learned::Static,
                        Some(e) if e.slot == slot && stale(&e, now_s) => Learned::New,
                        Some(e) if e.slot == slot => Learned::Refreshed,
                        _ if !port_has_room => Learned::PortFull,
                        Some(e) if stale(&e, now_s) => Learned::New,
                        Some(e) => Learned::Moved { from: e.slot },
                        None if learned == Learned::New => {
                            // In a full table, and in a full bucket of another, a stale address
                            // makes room: which one, the table knows.
                            let full = model.len() as u32 >= table_limit;
                            let gone = model.iter().find(|(m, e)| {
                                stale(e, now_s) && fdb::find(&machine, key(**m)).is_none()
                            });
                            let gone = gone.map(|(m, _)| *m);
                            prop_assert!(gone.is_some() || !full, "over the limit");
                            gone.and_then(|gone| model.remove(&gone));
                            Learned::New
                        }
                        None if (model.len() as u32) < table_limit => Learned::New,
                        None => Learned::TableFull,
                    };
                    prop_assert_eq!(learned, expected);
                    if !matches!(learned, Learned::Static | Learned::PortFull | Learned::TableFull) {
                        model.insert(n, Entry { slot, is_static: false, seen_s: now_s });
                    }
                }
                Change::Put(n, slot) => {
                    prop_assert!(fdb::put(&machine, key(n), slot, FDB_STATIC, now_s));
                    model.insert(n, Entry { slot, is_static: true, seen_s: now_s });
                }
                Change::Delete(n) => {
                    prop_assert_eq!(fdb::delete(&machine, key(n)), model.remove(&n).is_some());
                }
                Change::Sweep => {
                    let what = Sweep { stale: Some((now_s, 300)), ..Sweep::default() };
                    let deleted = sweep(&machine, &what);
                    let before = model.len();
                    model.retain(|_, entry| !stale(entry, now_s));
                    prop_assert_eq!(deleted, before - model.len());
                }
                Change::SweepPort(slot) => {
                    let what = Sweep { slot: Some(slot), ..Sweep::default() };
                    let deleted = sweep(&machine, &what);
                    let before = model.len();
                    model.retain(|_, entry| entry.is_static || entry.slot != slot);
                    prop_assert_eq!(deleted, before - model.len());
                }
                Change::Seconds(seconds) => now_s += seconds,
            }
            for (n, entry) in &model {
                prop_assert_eq!(find(&machine, key(*n)), Some(entry.slot));
                let is_static = fdb::find(&machine, key(*n)).map(|found| found.is_static());
                prop_assert_eq!(is_static, Some(entry.is_static));
            }
            let addresses = machine.addresses();
            prop_assert_eq!(addresses.map(|a| a.len()).map_err(|e| e.to_string()), Ok(model.len()));
        }
    }
}

fn sweep(machine: &Machine, what: &Sweep) -> usize {
    (0..buckets_for(16))
        .map(|index| fdb::sweep(machine, index, what, |_, _, _| {}) as usize)
        .sum()
}
