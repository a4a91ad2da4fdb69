//! The shipped object loads, and no program grows unseen: the verifier's work is a program's limit
//! (one million instructions, kernel/bpf/verifier.c), and its time is that of `up`.

use vnet_tests::kernel::in_sandbox;
use vnet_user::datapath::object::{self, OBJECT, PROGRAMS, Sizes};

/// Instructions that the verifier may look at, by program: a quarter above what it was when this was
/// last set. More takes a reason.
const BUDGETS: [(&str, u32); 5] = [
    ("tc_flow", 230_000),
    ("tc_ingress", 190_000),
    ("tc_egress", 144_000),
    ("xdp_uplink", 103_000),
    ("control", 107_000),
];

#[test]
fn every_program_loads_within_its_budget() {
    let names: Vec<&str> = BUDGETS.iter().map(|(name, _)| *name).collect();
    assert_eq!(
        names, PROGRAMS,
        "a program without a budget, or the reverse"
    );
    let sizes = Sizes {
        max_ports: 64,
        fdb_size: 1024,
        fdb_seed: 1,
        ..Sizes::default()
    };
    let verified = in_sandbox(|_| {
        let mut ebpf = object::loader(OBJECT, &sizes).load(OBJECT)?;
        let mut verified = Vec::new();
        for (name, _) in BUDGETS {
            object::load_program(&mut ebpf, name)?;
            let info = ebpf.program(name).expect("it was loaded").info()?;
            verified.push(info.verified_instruction_count());
        }
        Ok(verified)
    })
    .expect("the programs load");
    for ((name, budget), verified) in BUDGETS.into_iter().zip(verified) {
        let verified = verified.expect("the kernel tells it (5.16)");
        println!("{name}: {verified} instructions verified, {budget} allowed");
        assert!(verified <= budget, "{name}: {verified} of {budget}");
    }
}
