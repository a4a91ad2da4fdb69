//! The benchmarks' own eBPF programs (vnet-ebpf/src/bench.rs): loading, filling, attaching.

use std::cell::UnsafeCell;

use anyhow::{Context, Result, anyhow};
use aya::{
    Ebpf, EbpfLoader,
    maps::{Array, MapData, PerCpuArray},
    programs::{SchedClassifier, TcAttachType, TestRun as _, TestRunOptions, Xdp, XdpMode},
};
use vnet_common::{FdbBucket, FdbKey, PortConf, PortKind, fdb::buckets_for};
use vnet_ebpf::{
    fdb::{self, Buckets},
    traffic,
};
use xtask::netns;

static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("VNET_BENCH_OBJECT"));

/// Slots in the floor's port table, as in a default switch.
const MAX_PORTS: u32 = 1024;
/// Start of the floor's hash: any number.
const SEED: u64 = 0x5eed_0f0b_e4c4_1e55;
/// Frames that the kernel makes before it lets receivers work: what a poll of a device takes.
const BATCH: u32 = 64;

/// One copy of the programs, with maps of its own. Dropped, it is detached.
pub struct Programs {
    ebpf: Ebpf,
    fdb_size: u32,
}

impl Programs {
    /// Loads the maps for programs that send to the interface `target`, with room for `fdb_size`
    /// addresses.
    pub fn new(target: u32, fdb_size: u32) -> Result<Self> {
        let buckets = buckets_for(fdb_size);
        let mask = buckets - 1;
        let ebpf = EbpfLoader::new()
            .override_global("TARGET", &target, true)
            .override_global("MAX_PORTS", &MAX_PORTS, true)
            .override_global("FDB_MASK", &mask, true)
            .override_global("FDB_SEED", &SEED, true)
            .map_max_entries("FDB", buckets)
            .map_max_entries("PORTS", MAX_PORTS)
            .map_max_entries("PORT_COUNTERS", MAX_PORTS)
            .load(OBJECT)
            .context("loading the benchmarks' maps")?;
        Ok(Self { ebpf, fdb_size })
    }

    fn xdp(&mut self, name: &str) -> Result<&mut Xdp> {
        let program = self.ebpf.program_mut(name);
        let program = program.ok_or_else(|| anyhow!("the object holds no program {name}"))?;
        program.try_into().with_context(|| format!("using {name}"))
    }

    /// Loads an XDP program and attaches it to an interface of a network namespace.
    pub fn attach_xdp(&mut self, name: &str, namespace: &str, interface: &str) -> Result<()> {
        let program = self.xdp(name)?;
        netns::inside(namespace, || {
            program.load()?;
            program.attach(interface, XdpMode::Driver)?;
            Ok(())
        })
        .with_context(|| format!("attaching {name} to {interface}"))
    }

    /// Loads a TC program and attaches it to an interface's ingress.
    pub fn attach_tc(&mut self, name: &str, namespace: &str, interface: &str) -> Result<()> {
        let program = self.ebpf.program_mut(name);
        let program = program.ok_or_else(|| anyhow!("the object holds no program {name}"))?;
        let program: &mut SchedClassifier = program.try_into()?;
        netns::inside(namespace, || {
            program.load()?;
            program.attach(interface, TcAttachType::Ingress)?;
            Ok(())
        })
        .with_context(|| format!("attaching {name} to the TC ingress of {interface}"))
    }

    /// Loads the generator.
    pub fn load_generator(&mut self) -> Result<()> {
        self.xdp("generate")?
            .load()
            .context("loading the generator")
    }

    /// From now on the generator sends `flows` flows, the first one first.
    pub fn set_flows(&mut self, flows: u32) -> Result<()> {
        let map = self.ebpf.map_mut("FLOWS").context("no map FLOWS")?;
        let mut map: Array<&mut MapData, u32> = map.try_into()?;
        map.set(0, flows, 0).context("setting the number of flows")
    }

    /// Sends about `frames` frames, in the calling thread and its network namespace; tells how many.
    pub fn generate(&mut self, frames: u32) -> Result<u64> {
        let frames = frames.div_ceil(BATCH) * BATCH;
        let frame = traffic::frame(0);
        let options = TestRunOptions {
            data_in: Some(&frame),
            repeat: frames,
            attrs: aya::programs::TestRunAttrs::new().xdp_live_frames(BATCH),
            ..TestRunOptions::new()
        };
        self.xdp("generate")?
            .test_run(options)
            .context("generating frames")?;
        Ok(u64::from(frames))
    }

    /// Frames that the sink has seen.
    pub fn seen(&self) -> Result<u64> {
        let map = self.ebpf.map("SEEN").context("no map SEEN")?;
        let map: PerCpuArray<&MapData, u64> = map.try_into()?;
        let seen = map.get(&0, 0).context("reading the sink's counter")?;
        Ok(seen.iter().sum())
    }

    /// Tells the floor's programs of the interfaces `from` and `to`, and that `flows` sources are
    /// behind the one and the destination behind the other.
    pub fn fill_floor(&mut self, from: u32, to: u32, flows: u32) -> Result<()> {
        let slot = |ifindex: u32| (ifindex & (MAX_PORTS - 1)) as u16;
        let map = self.ebpf.map_mut("PORTS").context("no map PORTS")?;
        let mut ports: Array<&mut MapData, PortConf> = map.try_into()?;
        for (ifindex, kind) in [(from, PortKind::Uplink), (to, PortKind::Vm)] {
            let conf = PortConf {
                ifindex,
                kind,
                slot: slot(ifindex),
                ..PortConf::default()
            };
            ports
                .set(u32::from(conf.slot), conf, 0)
                .context("filling the floor's ports")?;
        }
        let table = Table::new(self.fdb_size);
        let sources = (0..flows).map(|flow| (traffic::source(flow), slot(from)));
        for (mac, slot) in sources.chain([(traffic::DESTINATION, slot(to))]) {
            if !fdb::put(&table, FdbKey::new(mac, 0), slot, 0, 0) {
                return Err(anyhow!(
                    "filling the floor's FDB: no place for {flows} flows"
                ));
            }
        }
        let map = self.ebpf.map_mut("FDB").context("no map FDB")?;
        let mut buckets: Array<&mut MapData, FdbBucket> = map.try_into()?;
        for (index, bucket) in (0..).zip(table.0) {
            buckets
                .set(index, bucket.into_inner(), 0)
                .context("filling the floor's FDB")?;
        }
        Ok(())
    }
}

/// The FDB in our own memory, for one thread.
struct Table(Vec<UnsafeCell<FdbBucket>>);

impl Table {
    fn new(fdb_size: u32) -> Self {
        let buckets = 0..buckets_for(fdb_size);
        Self(buckets.map(|_| UnsafeCell::default()).collect())
    }
}

impl Buckets for Table {
    fn bucket(&self, index: u32) -> Option<*mut FdbBucket> {
        self.0.get(index as usize).map(UnsafeCell::get)
    }

    fn mask(&self) -> u32 {
        self.0.len() as u32 - 1
    }

    fn seed(&self) -> u64 {
        SEED
    }

    unsafe fn lock(&self, _bucket: *mut FdbBucket) {}
    unsafe fn unlock(&self, _bucket: *mut FdbBucket) {}

    fn count(&self) -> u32 {
        0
    }

    fn port_count(&self, _slot: u16) -> u32 {
        0
    }

    fn add_count(&self, _delta: i32) {}
    fn add_port_count(&self, _slot: u16, _delta: i32) {}
}
