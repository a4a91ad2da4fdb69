//! The loaded programs, run by BPF_PROG_TEST_RUN.
//!
//! The object is the one with the feature `testing`: its wrapper programs give a frame the tag and
//! the `tc_index` that BPF_PROG_TEST_RUN cannot, run the very pipeline of the shipped programs, and
//! tell where frames were sent (`vnet_ebpf::testing`). XDP needs no wrapper. Everything around them
//! is vnet's own: loading, pinning, publishing the tables, the requests to the program `control`.
//!
//! Ports are taps in a network namespace of the test. Copies really go out, and are read back from
//! the taps, or by a packet socket where they go to the host's stack. The last frame of a flood and
//! every unicast frame is a redirect, which BPF_PROG_TEST_RUN leaves undone: where it would have gone
//! is in the programs' record.

mod devices;
mod host;
mod sandbox;
mod sniffer;

use std::{collections::BTreeMap, path::Path, time::Duration};

use anyhow::{Context as _, Result, bail, ensure};
use aya::{
    Ebpf,
    maps::{Array, MapData, PerCpuArray, PerCpuValues, RingBuf},
    programs::{ProgramError, SchedClassifier, TestRun as _, TestRunOptions, Xdp},
};
use vnet_common::{
    Attempts, ControlOp, ControlRequest, Event, FdbBucket, Mac, NO_SLOT, Source, SourceKey,
    StormState,
    event::{EVENT_KINDS, EventLimit},
    policy::NO_RANK,
    port::PORT_POLICED,
    switch::SWITCH_ROUTES,
};
use vnet_ebpf::{
    meta::{Hook, Tag},
    testing::{self, CB_TAG, CB_TC_INDEX, COPIES, TestResult},
};
use vnet_user::{
    datapath::{control::Control, counters, fdb, flows, maps, object, pins::Pins, policy, publish},
    host::bpffs,
};

pub use devices::{Taps, Wanted};
pub use sandbox::in_sandbox;

use crate::{
    connections::Connections,
    ledger::{self, Ledger},
    machine::check_counts,
    setup::{SWITCH, Setup},
    switch::{Addresses, Frame, Known, Outcome, START_S, Sent, Switch, Verdict, on_wire},
    world::Line,
};

/// The object with the wrapper programs.
pub static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("VNET_TESTING_OBJECT"));

/// The programs that are loaded from it.
const PROGRAMS: [&str; 4] = ["test_tc_ingress", "test_tc_egress", "xdp_uplink", "control"];
/// The program that `test_tc_ingress` goes on in, and its place in the map `flow_programs`. It is
/// loaded when a switch routes: it takes the verifier longer than the others together.
const FLOW_PROGRAM: (&str, u32) = ("test_tc_flow", 0);

/// Longest frame that is handed to BPF_PROG_TEST_RUN: one page less head room and
/// `skb_shared_info` (net/bpf/test_run.c, bpf_test_init).
pub const MAX_LEN: usize = 3500;

/// How long a copy may take to come out of the host's stack.
const PATIENCE: Duration = Duration::from_secs(5);

/// Why BPF_PROG_TEST_RUN cannot take a frame, if it cannot (net/bpf/test_run.c).
#[must_use]
pub fn unfit(frame: &Frame) -> Option<&'static str> {
    let len = frame.bytes.len();
    if frame.linear.is_some() {
        return Some("TEST_RUN builds linear frames only");
    }
    if len < 14 {
        return Some("TEST_RUN takes no frame under 14 bytes");
    }
    if len > MAX_LEN {
        return Some("TEST_RUN takes no frame over a page");
    }
    match frame.bytes[12..14] {
        [0x08, 0x00] if len < 34 => Some("TEST_RUN takes no IPv4 frame without its header"),
        [0x86, 0xdd] if len < 54 => Some("TEST_RUN takes no IPv6 frame without its header"),
        _ => None,
    }
}

/// The kernel machine. It lives in the namespaces of the thread that made it.
pub struct Kernel {
    ebpf: Ebpf,
    pins: Pins,
    control: Control,
    result: Array<MapData, Shared<TestResult>>,
    clock: Array<MapData, u32>,
    events: RingBuf<MapData>,
    events_lost: PerCpuArray<MapData, u64>,
    taps: Taps,
    sniffer: sniffer::Sniffer,
    host: host::Host,
    routes: bool,
    /// Every rule that there ever was.
    rules: Vec<u16>,
    policy_rules: Vec<u16>,
    setup: Setup,
}

/// A type of `vnet_ebpf` as a map's value.
#[derive(Clone, Copy)]
#[repr(transparent)]
struct Shared<T>(T);

// SAFETY: repr(C) without padding (asserted beside the type), integers only.
unsafe impl aya::Pod for Shared<TestResult> {}

impl Kernel {
    /// Loads the programs, with their maps pinned on a BPF file system that is mounted at `bpffs`,
    /// and puts `setup` into force on `taps`. Call it inside [`in_sandbox`].
    ///
    /// # Errors
    /// The kernel refuses something; what was made goes with the sandbox.
    pub fn new(bpffs: &Path, taps: Taps, setup: &Setup) -> Result<Self> {
        bpffs::ensure_mounted(bpffs)?;
        let pins = Pins::new(bpffs, SWITCH);
        pins.create()?;
        let mut ebpf = load(&pins, setup)?;
        for name in PROGRAMS {
            object::load_program(&mut ebpf, name)?;
        }
        ebpf.program_mut("control")
            .context("the object holds no program control")?
            .pin(pins.program("control"))
            .context("pinning the program control")?;
        let mut kernel = Self {
            ebpf,
            control: Control::open(&pins)?,
            result: maps::array(&pins, "test_result")?,
            clock: maps::array(&pins, "clock")?,
            events: maps::ring_buf(&pins, "events")?,
            events_lost: maps::per_cpu_array(&pins, "events_lost")?,
            sniffer: sniffer::Sniffer::open()?,
            host: host::Host::new(setup)?,
            routes: false,
            rules: Vec::new(),
            policy_rules: Vec::new(),
            taps,
            pins,
            setup: setup.clone(),
        };
        kernel.clock.set(0, START_S, 0)?;
        kernel.apply(setup)?;
        Ok(kernel)
    }

    fn load_flow_program(&mut self) -> Result<()> {
        let (name, place) = FLOW_PROGRAM;
        object::load_program(&mut self.ebpf, name)?;
        let program: &SchedClassifier = self.program(name)?;
        let mut places = maps::program_array(&self.pins, "flow_programs")?;
        places.set(place, program.fd()?, 0)?;
        Ok(())
    }

    /// Starts the timer that ages addresses. From then on the clock is the kernel's, and
    /// [`Switch::advance`] of no use.
    ///
    /// # Errors
    /// The kernel refuses it.
    pub fn start_timer(&mut self) -> Result<()> {
        self.control.start_timer()
    }

    /// Makes it so that an address was seen at another time.
    ///
    /// # Errors
    /// The table cannot be read or written.
    pub fn set_seen(&mut self, mac: Mac, seen_s: u32) -> Result<()> {
        let mut table: Array<_, FdbBucket> = maps::array(&self.pins, "fdb")?;
        for index in 0..table.len() {
            let mut bucket = table.get(&index, 0)?;
            let known = bucket.entries.iter_mut().filter(|e| e.mac == mac);
            if known.map(|entry| entry.seen_s = seen_s).count() > 0 {
                table.set(index, bucket, 0)?;
            }
        }
        Ok(())
    }

    /// Waits until the datapath reports events.
    ///
    /// # Errors
    /// None comes in time.
    pub fn wait_for_events(&mut self) -> Result<Vec<Event>> {
        use std::os::fd::AsRawFd as _;
        loop {
            let events = self.events()?;
            if !events.is_empty() {
                return Ok(events);
            }
            ensure!(
                sniffer::wait_readable(self.events.as_raw_fd(), PATIENCE)?,
                "no event came within {PATIENCE:?}"
            );
        }
    }

    fn run_tc(&mut self, frame: &Frame) -> Result<(u32, Vec<u8>)> {
        let mut context = SkBuff {
            ifindex: frame.ifindex,
            gso_segs: frame.gso_segs,
            // Whichever it was.
            ingress_ifindex: u32::from(frame.forwarded),
            gso_size: frame.gso_size,
            ..SkBuff::default()
        };
        if frame.tag.is_some() {
            context.cb[CB_TAG] = u32::from(frame.tag.tpid) << 16 | u32::from(frame.tag.tci);
        }
        context.cb[CB_TC_INDEX] = frame.tc_index;
        let name = match frame.hook {
            Hook::TcIngress => "test_tc_ingress",
            _ => "test_tc_egress",
        };
        let program: &SchedClassifier = self.program(name)?;
        test_run(frame, as_bytes(&context), |options| {
            program.test_run(options)
        })
    }

    fn run_xdp(&mut self, frame: &Frame) -> Result<(u32, Vec<u8>)> {
        let context = XdpMd {
            data_end: frame.bytes.len() as u32,
            ingress_ifindex: frame.ifindex,
            ..XdpMd::default()
        };
        let program: &Xdp = self.program("xdp_uplink")?;
        test_run(frame, as_bytes(&context), |options| {
            program.test_run(options)
        })
    }

    fn program<'a, P>(&'a self, name: &str) -> Result<P>
    where
        P: TryFrom<&'a aya::programs::Program, Error = ProgramError>,
    {
        let program = self.ebpf.program(name).context("no such program")?;
        Ok(program.try_into()?)
    }

    /// The frame that arrived where a copy was sent.
    fn delivered(&mut self, to: &testing::Sent) -> Result<Vec<u8>> {
        let what = || {
            let name = self.setup.exit_name(to.ifindex, to.to_stack != 0);
            format!("the copy to {name}")
        };
        let frame = if to.to_stack != 0 {
            self.sniffer.next_from(to.ifindex, PATIENCE)
        } else {
            self.taps.next_from(to.ifindex, PATIENCE)
        };
        frame.with_context(what)
    }

    /// Nothing arrived anywhere that the programs have not recorded.
    fn ensure_quiet(&mut self) -> Result<()> {
        if let Some((ifindex, frame)) = self.taps.any()? {
            bail!("a frame that nobody sent came out of interface {ifindex}: {frame:02x?}");
        }
        if let Some((ifindex, frame)) = self.sniffer.any()? {
            bail!("a frame that nobody sent went to the host at interface {ifindex}: {frame:02x?}");
        }
        Ok(())
    }
}

/// Creates the maps, pinned, as `vnet_user::datapath::object::load` does for the shipped object.
fn load(pins: &Pins, setup: &Setup) -> Result<Ebpf> {
    let object = aya_obj::Object::parse(OBJECT).context("reading the object")?;
    let mut loader = object::loader(OBJECT, &setup.sizes);
    let paths: BTreeMap<&String, _> = object
        .maps
        .keys()
        .filter(|name| !name.starts_with('.'))
        .map(|name| (name, pins.map(name)))
        .collect();
    for (name, path) in &paths {
        loader.map_pin_path(name, path);
    }
    loader.load(OBJECT).context("loading the maps")
}

/// The context of a TC program, `struct __sk_buff` (include/uapi/linux/bpf.h).
#[repr(C)]
#[derive(Default)]
struct SkBuff {
    zero_to_ingress: [u32; 9],
    ingress_ifindex: u32,
    ifindex: u32,
    tc_index: u32,
    cb: [u32; 5],
    zero_to_gso_segs: [u32; 24],
    gso_segs: u32,
    zero_to_gso_size: [u32; 2],
    gso_size: u32,
    zero_to_end: [u32; 3],
}

const _: () = assert!(size_of::<SkBuff>() == 192, "struct __sk_buff");
const _: () = assert!(
    std::mem::offset_of!(SkBuff, ingress_ifindex) == 36,
    "struct __sk_buff"
);
const _: () = assert!(std::mem::offset_of!(SkBuff, cb) == 48, "struct __sk_buff");
const _: () = assert!(
    std::mem::offset_of!(SkBuff, gso_segs) == 164,
    "struct __sk_buff"
);
const _: () = assert!(
    std::mem::offset_of!(SkBuff, gso_size) == 176,
    "struct __sk_buff"
);

/// The context of an XDP program, `struct xdp_md` (include/uapi/linux/bpf.h).
#[repr(C)]
#[derive(Default)]
struct XdpMd {
    data: u32,
    data_end: u32,
    data_meta: u32,
    ingress_ifindex: u32,
    rx_queue_index: u32,
    egress_ifindex: u32,
}

/// A context as bytes.
fn as_bytes<T>(context: &T) -> &[u8] {
    // SAFETY: called for the two types above: repr(C), u32 only, no padding.
    unsafe { std::slice::from_raw_parts(std::ptr::from_ref(context).cast(), size_of::<T>()) }
}

/// Runs a program on a frame; returns its answer and the frame afterwards.
fn test_run(
    frame: &Frame,
    context: &[u8],
    run: impl FnOnce(TestRunOptions<'_>) -> Result<aya::TestRunResult, ProgramError>,
) -> Result<(u32, Vec<u8>)> {
    let mut out = vec![0; frame.bytes.len() + 64];
    let result = run(TestRunOptions {
        data_in: Some(&frame.bytes),
        data_out: Some(&mut out),
        ctx_in: Some(context),
        ..TestRunOptions::new()
    })
    .with_context(|| format!("running the program on {} bytes", frame.bytes.len()))?;
    out.truncate(result.data_size_out as usize);
    Ok((result.return_value, out))
}

impl Switch for Kernel {
    fn run(&mut self, frame: &Frame) -> Result<Outcome> {
        if let Some(why) = unfit(frame) {
            bail!("{why}");
        }
        let nothing = TestResult {
            tag: Tag::NONE,
            tc_index: 0,
            redirect: testing::Sent::default(),
            copy_count: 0,
            copies: [testing::Sent::default(); COPIES],
        };
        self.result.set(0, Shared(nothing), 0)?;
        let is_xdp = frame.hook == Hook::Xdp;
        let (answer, bytes) = if is_xdp {
            self.run_xdp(frame)?
        } else {
            self.run_tc(frame)?
        };
        let Shared(result) = self.result.get(&0, 0).context("reading test_result")?;

        ensure!(
            result.copy_count as usize <= COPIES,
            "{} copies; {COPIES} are recorded",
            result.copy_count
        );
        let mut copies = Vec::new();
        for copy in &result.copies[..result.copy_count as usize] {
            let wire = if copy.refused == 0 {
                Some(self.delivered(copy)?)
            } else {
                None
            };
            copies.push(Sent {
                ifindex: copy.ifindex,
                to_stack: copy.to_stack != 0,
                neighbour: copy.neighbour != 0,
                tc_index: copy.tc_index,
                wire,
            });
        }
        self.ensure_quiet()?;
        // include/uapi/linux/pkt_cls.h and bpf.h: TC_ACT_OK, _SHOT, _REDIRECT; XDP_PASS, _DROP,
        // _REDIRECT.
        let verdict = match (is_xdp, answer) {
            (false, 0) | (true, 2) => Verdict::Pass,
            (false, 2) | (true, 1) => Verdict::Drop,
            (false, 7) | (true, 4) => Verdict::Redirect(Sent {
                ifindex: result.redirect.ifindex,
                to_stack: result.redirect.to_stack != 0,
                neighbour: result.redirect.neighbour != 0,
                tc_index: result.tc_index,
                wire: Some(on_wire(&bytes, result.tag)),
            }),
            _ => bail!("the program answered {answer}"),
        };
        Ok(Outcome {
            verdict,
            bytes,
            tag: result.tag,
            copies,
        })
    }

    fn ledger(&self) -> Result<Ledger> {
        let mut ledger = Ledger::new();
        let slots = self.setup.image.ports.keys().copied();
        for slot in std::iter::once(NO_SLOT).chain(slots) {
            let (traffic, drops) = counters::read(&self.pins, slot)?;
            ledger::enter(&mut ledger, slot, &traffic, &drops);
        }
        ledger::enter_flows(&mut ledger, &flows::counters(&self.pins)?);
        for (rule, counters) in flows::rule_counters(&self.pins, &self.rules)? {
            ledger::enter_rule(&mut ledger, rule, &counters);
        }
        for (rule, counters) in policy::counters(&self.pins, &self.policy_rules)? {
            ledger::enter_policy(&mut ledger, rule, &counters);
        }
        Ok(ledger)
    }

    fn addresses(&self) -> Result<Addresses> {
        let entries = fdb::read(&self.pins)?;
        let addresses: Addresses = entries
            .iter()
            .map(|e| ((e.mac, e.segment), Known::from(e)))
            .collect();
        ensure!(
            addresses.len() == entries.len(),
            "an address is in the FDB twice"
        );
        let count: Array<_, u32> = maps::array(&self.pins, "fdb_count")?;
        let port_macs: Array<_, u32> = maps::array(&self.pins, "port_macs")?;
        check_counts(&addresses, count.get(&0, 0)?, |slot| {
            port_macs.get(&u32::from(slot), 0).unwrap_or(u32::MAX)
        })?;
        Ok(addresses)
    }

    fn events(&mut self) -> Result<Vec<Event>> {
        let lost: u64 = self.events_lost.get(&0, 0)?.iter().sum();
        ensure!(lost == 0, "{lost} events were lost");
        let mut events = Vec::new();
        while let Some(record) = self.events.next() {
            ensure!(
                record.len() >= size_of::<Event>(),
                "an event of {} bytes",
                record.len()
            );
            // SAFETY: the record is as long as an event, which takes any bytes.
            let event: Event = unsafe { record.as_ptr().cast::<Event>().read_unaligned() };
            events.push(Event {
                time_ns: 0,
                ..event
            });
        }
        Ok(events)
    }

    /// The clock of seconds is a map, which the ageing timer sets once it is started. That of
    /// nanoseconds is the kernel's own and does not move, so that what was written with its time
    /// moves back.
    fn advance(&mut self, seconds: u32) -> Result<()> {
        let now_s = self.clock.get(&0, 0)?;
        self.clock.set(0, now_s + seconds, 0)?;
        let ns = u64::from(seconds) * 1_000_000_000;
        let mut storms: Array<_, StormState> = maps::array(&self.pins, "storm_state")?;
        for index in 0..storms.len() {
            let mut state = storms.get(&index, 0)?;
            if state.next_ns != StormState::default().next_ns {
                // 0 is at rest, and so is every time before now.
                state.next_ns = state.next_ns.map(|next_ns| next_ns.saturating_sub(ns));
                storms.set(index, state, 0)?;
            }
        }
        let mut rates: Array<_, u64> = maps::array(&self.pins, "flow_rate")?;
        for index in 0..rates.len() {
            let next_ns = rates.get(&index, 0)?;
            rates.set(index, next_ns.saturating_sub(ns), 0)?;
        }
        let mut sources = maps::hash::<SourceKey, Source>(&self.pins, "sources")?;
        for entry in sources.iter().collect::<Result<Vec<_>, _>>()? {
            let (key, mut source) = entry;
            source.next_ns = source.next_ns.saturating_sub(ns);
            sources.insert(key, source, 0)?;
        }
        let mut attempts = maps::hash::<SourceKey, Attempts>(&self.pins, "attempts")?;
        for entry in attempts.iter().collect::<Result<Vec<_>, _>>()? {
            let (key, mut made) = entry;
            made.next_ns = made.next_ns.saturating_sub(ns);
            attempts.insert(key, made, 0)?;
        }
        let mut limits: PerCpuArray<_, EventLimit> =
            maps::per_cpu_array(&self.pins, "event_limits")?;
        for kind in 0..EVENT_KINDS {
            let moved: Vec<EventLimit> = limits
                .get(&kind, 0)?
                .iter()
                .map(|limit| EventLimit {
                    next_ns: limit.next_ns.saturating_sub(ns),
                    ..*limit
                })
                .collect();
            limits.set(kind, PerCpuValues::try_from(moved)?, 0)?;
        }
        Ok(())
    }

    fn connections(&self) -> Result<Connections> {
        let slots = std::iter::once(NO_SLOT).chain(self.setup.image.ports.keys().copied());
        // Without gateways nothing is in the table, and looking costs as much as a test.
        if self.routes {
            Connections::read(&self.pins, slots)
        } else {
            Connections::read_counts(&self.pins, slots)
        }
    }

    fn sweep_flows(&mut self) -> Result<()> {
        // One tick's slice is more than the whole table of a test.
        let request = ControlRequest {
            op: ControlOp::FlowSweep as u32,
            ..ControlRequest::default()
        };
        self.control.request(&request)?;
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        let all = flows::read(&self.pins)?;
        let deleted = flows::delete(&self.pins, &all)?;
        ensure!(deleted == all.len() as u64, "not all were there any more");
        Ok(())
    }

    fn host(&mut self, line: &Line) -> Result<()> {
        self.host.change(line)
    }

    fn apply(&mut self, setup: &Setup) -> Result<()> {
        let mut ports = setup.image.ports.values();
        let follows = setup.image.flags & SWITCH_ROUTES != 0
            || ports.any(|port| port.flags & PORT_POLICED != 0);
        if follows && !self.routes {
            self.load_flow_program()?;
            self.routes = true;
        }
        for range in &setup.image.policy_ranges {
            let id = range.rank as u16;
            if range.rank != NO_RANK && !self.policy_rules.contains(&id) {
                self.policy_rules.push(id);
            }
        }
        for id in setup.image.nat_rules.keys() {
            if !self.rules.contains(id) {
                self.rules.push(*id);
            }
        }
        publish::publish(&self.pins, &setup.sizes, &setup.image)?;
        fdb::reconcile(&mut self.control, &self.pins, &setup.image.fdb)?;
        self.setup = setup.clone();
        Ok(())
    }
}
