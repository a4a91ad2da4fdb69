//! Properties of the pipeline as a whole.

use anyhow::Result;
use proptest::{collection::vec, prelude::*};
use vnet_ebpf::meta::{Hook, Tag};
use vnet_tests::{
    fuzz, invariants,
    ledger::{self, Ledger},
    machine::Machine,
    setup::Setup,
    switch::{Frame, Outcome, Switch as _, Verdict},
};

use crate::arbitrary::{Drawn, frame, setup};

/// A machine that checks every frame.
struct Checked<'a> {
    setup: &'a Setup,
    machine: Machine,
    counted: Ledger,
}

impl<'a> Checked<'a> {
    fn new(setup: &'a Setup) -> Self {
        Self {
            setup,
            machine: Machine::new(setup),
            counted: Ledger::new(),
        }
    }

    /// What became of a frame and what was counted for it.
    fn run(&mut self, frame: &Frame) -> Result<(Outcome, Ledger), TestCaseError> {
        let outcome = Machine::run(&self.machine, frame);
        let after = self.machine.ledger().expect("the counters are there");
        let counted = ledger::since(&self.counted, &after);
        self.counted = after;
        if let Err(error) = invariants::check(self.setup, frame, &outcome, &counted) {
            let counted = ledger::render(&counted, |slot| self.setup.port_name(slot));
            return Err(TestCaseError::fail(format!(
                "{error:#}\n{frame:02x?}\n{outcome:02x?}\n{counted}"
            )));
        }
        Ok((outcome, counted))
    }

    fn finish(self) -> Result<(), TestCaseError> {
        let learned = self
            .machine
            .addresses()
            .and_then(|addresses| invariants::check_addresses(self.setup, &addresses));
        learned.map_err(|error| TestCaseError::fail(format!("{error:#}")))
    }
}

/// What happens next.
#[derive(Clone, Debug)]
enum Event {
    Frame(Drawn),
    Seconds(u32),
    /// The kernel has memory for so many tags of each frame.
    Tags(u32),
    Sweep,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        30 => frame().prop_map(Event::Frame),
        2 => (0u32..500).prop_map(Event::Seconds),
        1 => prop_oneof![0u32..3, Just(u32::MAX)].prop_map(Event::Tags),
        1 => Just(Event::Sweep),
    ]
}

proptest! {
    #![proptest_config(crate::cases(600))]

    /// Isolation, tags, bytes, counters: see `vnet_tests::invariants`.
    #[test]
    fn the_invariants_hold(setup in setup(), events in vec(event(), 1..40)) {
        let mut switch = Checked::new(&setup);
        for event in events {
            match event {
                Event::Frame(drawn) => {
                    switch.run(&drawn.at_tc(&setup))?;
                    if let Some(frame) = drawn.at_xdp(&setup) {
                        switch.run(&frame)?;
                    }
                }
                Event::Seconds(seconds) => switch.machine.advance(seconds).expect("it can"),
                Event::Tags(count) => switch.machine.limit_tags(count),
                Event::Sweep => {
                    switch.machine.sweep();
                }
            }
        }
        switch.finish()?;
    }

    /// Where XDP carries something out, it does what TC would have done.
    #[test]
    fn xdp_agrees_with_tc(setup in setup(), drawn in vec(frame(), 1..30)) {
        let mut fast = Checked::new(&setup);
        let mut complete = Checked::new(&setup);
        for drawn in drawn {
            let at_tc = drawn.at_tc(&setup);
            prop_assert_eq!(fast.run(&at_tc)?, complete.run(&at_tc)?);
            let Some(frame) = drawn.at_xdp(&setup) else { continue };
            let at_tc = Frame::received(Hook::TcIngress, frame.ifindex, frame.bytes.clone());
            let (by_xdp, by_xdp_counted) = fast.run(&frame)?;
            let (by_tc, by_tc_counted) = complete.run(&at_tc)?;
            if by_xdp.verdict == Verdict::Pass {
                prop_assert_eq!(fast.run(&at_tc)?, (by_tc, by_tc_counted));
                continue;
            }
            prop_assert!(by_tc.copies.is_empty());
            match (&by_xdp.verdict, &by_tc.verdict) {
                (Verdict::Drop, Verdict::Drop) => {}
                (Verdict::Redirect(x), Verdict::Redirect(t)) => {
                    prop_assert_eq!((x.ifindex, &x.wire), (t.ifindex, &t.wire));
                }
                _ => prop_assert!(false, "XDP: {:02x?}\nTC: {:02x?}", by_xdp, by_tc),
            }
            // Bytes aside: XDP counts a tag as part of the frame, TC has it in metadata.
            let packets = |counted: &Ledger| -> Ledger {
                let bytes = |name: &str| name.ends_with("_bytes");
                counted.iter().filter(|((_, n), _)| !bytes(n)).map(|(k, v)| (*k, *v)).collect()
            };
            prop_assert_eq!(packets(&by_xdp_counted), packets(&by_tc_counted));
        }
        prop_assert_eq!(fast.machine.addresses().ok(), complete.machine.addresses().ok());
    }

    /// Whatever the bytes, the interface, the hook and the metadata: no panic, at most a tag more or
    /// less.
    #[test]
    fn nothing_panics(
        setup in setup(),
        hook in prop_oneof![Just(Hook::TcIngress), Just(Hook::TcEgress), Just(Hook::Xdp)],
        ifindex in prop_oneof![0u32..140, any::<u32>()],
        bytes in prop_oneof![vec(any::<u8>(), 0..100), vec(any::<u8>(), 1400..9100)],
        (tpid, tci) in any::<(u16, u16)>(),
        tc_index in 0u32..=0xffff,
        (gso_size, gso_segs) in prop_oneof![Just((0, 0)), any::<(u32, u32)>()],
        linear in proptest::option::of(0usize..100),
        forwarded in any::<bool>(),
    ) {
        let machine = Machine::new(&setup);
        let len = bytes.len();
        let tag = if hook == Hook::Xdp { Tag::NONE } else { Tag { tpid, tci } };
        let frame = Frame { hook, ifindex, bytes, tag, tc_index, gso_size, gso_segs, linear, forwarded };
        for _ in 0..2 {
            let outcome = Machine::run(&machine, &frame);
            prop_assert!(outcome.bytes.len().abs_diff(len) <= 4);
        }
    }

    /// The fuzz target's body, without a fuzzer.
    #[test]
    fn the_fuzz_target_holds(data in vec(any::<u8>(), 0..2000)) {
        fuzz::pipeline(&data);
    }

    /// The same, with input that gets further: lengths and hooks that fit, addresses that meet.
    #[test]
    fn the_fuzz_target_holds_for_likely_frames(frames in vec((any::<[u8; 16]>(), frame()), 1..20)) {
        let mut data = Vec::new();
        for (mut header, drawn) in frames {
            let len = (drawn.wire.len() as u16).to_le_bytes();
            header[2..4].copy_from_slice(&len);
            data.extend(header);
            data.extend(&drawn.wire);
        }
        fuzz::pipeline(&data);
    }
}
