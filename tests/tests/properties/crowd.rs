//! A flow table that is full of connections that nobody answers.

use vnet_tests::{
    fixture::Fixture,
    frame::{B, C, from, ip::tcp},
    machine::Machine,
    switch::{Switch as _, Verdict},
};

/// tap1 serves port 80 for whoever is behind the uplink.
const SERVER: &str = r#"
    port = [{ name = "tap1", groups = ["server"] }, { name = "eth0", uplink = true }]
    fdb = [
        { mac = "02:00:00:00:00:0b", network = "default", port = "tap1" },
        { mac = "02:00:00:00:00:0c", network = "default", port = "eth0" },
    ]
    group = [{ name = "server", rule = [{ id = 1, direction = "in", action = "allow" }] }]
"#;

/// Connections that there is room for.
const TABLE: u32 = 1024;
/// Connections that are begun: enough that every bucket has been full often.
const BEGUN: u32 = 60_000;

/// Whoever begins a connection is let in at the cost of one that was never answered, whichever buckets of
/// the table are full.
#[test]
fn nobody_is_refused_for_those_who_never_answer() {
    let fixture = Fixture::new("crowd", SERVER).flow_size(TABLE);
    let setup = fixture.setup().expect("a setup");
    let machine = Machine::new(&setup);
    // Numbers without an order that the table could like.
    let (mut number, mut refused) = (1_u32, 0);
    for _ in 0..BEGUN {
        number = number.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let [a, b, c, d] = number.to_be_bytes();
        let ends = format!(
            "198.{}.{b}.{c}:{} > 10.0.0.2:80",
            18 + a % 2,
            1024 + u16::from(d)
        );
        let frame = from("eth0", B, C)
            .packet(&tcp(&ends, "S"))
            .frame(&setup)
            .expect("a frame");
        let outcome = Machine::run(&machine, &frame);
        refused += u32::from(outcome.verdict == Verdict::Drop);
    }
    let connections = machine.connections().expect("connections");
    connections.check().expect("what must be so is so");
    assert_eq!(connections.count, TABLE);
    assert_eq!(refused, 0, "of {BEGUN}");
}
