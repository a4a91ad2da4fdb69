//! What fuzzers run: any bytes as frames, against a switch with a bit of everything.
//!
//! The fuzz target in tests/fuzz is this one function; a property test runs it too, so that it is
//! exercised without a fuzzer.

use std::sync::LazyLock;

use vnet_ebpf::meta::{Hook, Tag};

use crate::{
    fixture::{ETH0, ETH1, VSW0},
    invariants,
    ledger::{self, Ledger},
    machine::Machine,
    setup::{Device, Devices, Setup, read_document},
    switch::{Frame, Switch as _, token},
};

const DOCUMENT: &str = r#"
    settings = { fdb_size = 1024, max_ports = 64, max_macs = 3, storm = { broadcast = 3 } }
    network = [
        { name = "blue", vlan = 10, mtu = 1300 },
        { name = "red", vlan = 20 },
        { name = "green" },
    ]
    port = [
        { name = "vsw0", trunk = ["blue"], native = "default" },
        { name = "tap0" },
        { name = "tap1", network = "blue", mac = ["02:00:00:00:00:0b"], ip = ["10.0.0.2", "learn"], guard = "strict" },
        { name = "tap2", trunk = ["blue", "red=30", "green=40"], native = "default" },
        { name = "tap3", trunk = ["red"], guard = "strict", isolated = true },
        { name = "eth0", uplink = true },
        { name = "eth1", uplink = true, trunk = ["blue", "red"] },
    ]
    fdb = [{ mac = "02:00:00:00:00:0c", network = "red", port = "tap3" }]
    mac = { deny = ["02:00:00:00:00:0d"] }
"#;

/// The switch: interfaces are numbered from 2 in the order of the document, eth1 is a member.
static SETUP: LazyLock<Setup> = LazyLock::new(|| {
    let config = read_document(DOCUMENT).expect("the document is valid");
    let devices: Devices = config
        .all_ports(crate::setup::SWITCH)
        .into_iter()
        .zip(FIRST_IFINDEX..)
        .map(|(port, ifindex)| {
            let device = Device {
                ifindex,
                mac: match port.name.as_str() {
                    "vsw0" => VSW0,
                    "eth0" => ETH0,
                    _ => ETH1,
                },
                mtu: 1400,
                up: true,
                member: port.name != "eth0",
                xdp_target: ifindex % 2 == 0,
            };
            (port.name, device)
        })
        .collect();
    Setup::new(config, devices, None, true, None).expect("the configuration compiles")
});

const FIRST_IFINDEX: u32 = 2;

/// Bytes in front of each frame that say how it comes.
const HEADER: usize = 16;

/// Cuts `data` into frames, runs them all on one switch and checks each.
///
/// # Panics
/// Something that must hold does not: that is what a fuzzer looks for.
pub fn pipeline(mut data: &[u8]) {
    let setup = &*SETUP;
    let mut machine = Machine::new(setup);
    let mut before = Ledger::new();
    while let Some((frame, rest)) = cut(data) {
        data = rest;
        let outcome = Machine::run(&machine, &frame);
        let after = machine.ledger().expect("the counters are there");
        let counted = ledger::since(&before, &after);
        before = after;
        if known(&frame) {
            invariants::check(setup, &frame, &outcome, &counted)
                .unwrap_or_else(|error| panic!("{error:?}\n{frame:02x?}\n{outcome:02x?}"));
        }
    }
    let addresses = machine.addresses().expect("the counts are right");
    invariants::check_addresses(setup, &addresses).expect("only addresses are learned");
    machine.events().expect("events are there");
}

/// Whether a frame comes to a hook at which there is a program: no VM's port has one at its egress.
fn known(frame: &Frame) -> bool {
    let is_uplink = frame.ifindex >= FIRST_IFINDEX + 5;
    let is_device = frame.ifindex == FIRST_IFINDEX;
    frame.ifindex < FIRST_IFINDEX + 7
        && match frame.hook {
            Hook::TcIngress => !is_device,
            Hook::TcEgress => is_uplink || is_device,
            Hook::Xdp => is_uplink,
        }
}

/// The next frame: a header that says how it comes and how long it is, and its bytes.
fn cut(data: &[u8]) -> Option<(Frame, &[u8])> {
    let (header, rest) = data.split_first_chunk::<HEADER>()?;
    let word = |at: usize| u16::from_le_bytes([header[at], header[at + 1]]);
    let hook = match header[0] % 4 {
        0 | 1 => Hook::TcIngress,
        2 => Hook::TcEgress,
        _ => Hook::Xdp,
    };
    let ifindex = FIRST_IFINDEX + u32::from(header[1] % 8);
    let len = usize::from(word(2)).min(rest.len());
    let (bytes, rest) = rest.split_at(len);
    let at_tc = hook != Hook::Xdp;
    let tpid = match header[4] % 4 {
        0 if at_tc => 0x8100,
        1 if at_tc => 0x88a8,
        _ => 0,
    };
    let tag = if tpid == 0 {
        Tag::NONE
    } else {
        let tci = word(6);
        Tag { tpid, tci }
    };
    let frame = Frame {
        hook,
        ifindex,
        bytes: bytes.to_vec(),
        tag,
        tc_index: match header[5] % 8 {
            0 => token(ifindex, hook == Hook::TcIngress),
            1 => u32::from(word(8)),
            _ => 0,
        },
        gso_size: if at_tc && header[10] % 4 == 0 {
            u32::from(word(12))
        } else {
            0
        },
        gso_segs: u32::from(header[11]),
        linear: (header[14] % 4 == 0).then_some(usize::from(header[15])),
        forwarded: header[14] & 4 != 0,
    };
    Some((frame, rest))
}
