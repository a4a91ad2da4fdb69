//! The benchmarks' own eBPF programs (vnet-ebpf/src/bench.rs): loading, filling, attaching.

use std::{cell::UnsafeCell, ops::Range};

use anyhow::{Context, Result, anyhow};
use aya::{
    Ebpf, EbpfLoader, Pod,
    maps::{Array, HashMap, MapData, PerCpuArray, PerCpuValues},
    programs::{SchedClassifier, TcAttachType, TestRun as _, TestRunOptions, Xdp, XdpMode},
    util::nr_cpus,
};
use vnet_common::{FdbBucket, FdbKey, FlowKey, Mac, PortConf, PortKind, fdb::buckets_for};
use vnet_ebpf::{
    fdb::{self, Buckets},
    traffic::{
        self,
        nat::{self, Rewrite},
    },
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
    generator: &'static str,
}

/// What a copy of the programs is made for.
#[derive(Clone, Copy, Debug, Default)]
pub struct Purpose {
    /// The interface that frames are sent out of.
    pub target: u32,
    /// Addresses that the switch's floor has room for.
    pub fdb_size: u32,
    /// Flows that the NAT gateway's floor has room for.
    pub nat_flows: u32,
    /// Whether the gateway's traffic is what comes in from outside.
    pub incoming: bool,
    /// The gateway's MAC address.
    pub gateway: Mac,
}

impl Programs {
    /// Loads the maps for programs that send to the interface `target`, with room for `fdb_size`
    /// addresses.
    pub fn new(target: u32, fdb_size: u32) -> Result<Self> {
        Self::made_for(&Purpose {
            target,
            fdb_size,
            ..Purpose::default()
        })
    }

    /// Loads the maps.
    pub fn made_for(purpose: &Purpose) -> Result<Self> {
        let buckets = buckets_for(purpose.fdb_size);
        let mask = buckets - 1;
        let incoming = u32::from(purpose.incoming);
        let [a, b, c, d, e, f] = purpose.gateway;
        let gateway = u64::from_be_bytes([0, 0, a, b, c, d, e, f]);
        let ebpf = EbpfLoader::new()
            .override_global("TARGET", &purpose.target, true)
            .override_global("INCOMING", &incoming, true)
            .override_global("GATEWAY_MAC", &gateway, true)
            .override_global("MAX_PORTS", &MAX_PORTS, true)
            .override_global("FDB_MASK", &mask, true)
            .override_global("FDB_SEED", &SEED, true)
            .map_max_entries("FDB", buckets)
            .map_max_entries("PORTS", MAX_PORTS)
            .map_max_entries("PORT_COUNTERS", MAX_PORTS)
            .map_max_entries("NAT_FLOWS", 2 * purpose.nat_flows.max(1))
            .load(OBJECT)
            .context("loading the benchmarks' maps")?;
        Ok(Self {
            ebpf,
            fdb_size: purpose.fdb_size,
            generator: "",
        })
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

    /// Loads the generator of this name.
    pub fn load_generator(&mut self, name: &'static str) -> Result<()> {
        self.generator = name;
        self.xdp(name)?
            .load()
            .with_context(|| format!("loading the generator {name}"))
    }

    /// From now on the generator sends `flows` flows, as often as one likes; it goes on with the
    /// flow where it is.
    pub fn set_flows(&mut self, flows: u32) -> Result<()> {
        let map = self.ebpf.map_mut("FLOWS").context("no map FLOWS")?;
        let mut map: Array<&mut MapData, u32> = map.try_into()?;
        map.set(0, flows, 0).context("setting the number of flows")
    }

    /// The generator's next frame is of the first flow.
    pub fn rewind(&mut self) -> Result<()> {
        let map = self.ebpf.map_mut("NEXT_FLOW").context("no map NEXT_FLOW")?;
        let mut map: PerCpuArray<&mut MapData, u32> = map.try_into()?;
        let zeros = vec![0; nr_cpus().map_err(|(what, error)| anyhow!("{what}: {error}"))?];
        let zeros = PerCpuValues::try_from(zeros).context("one value a CPU")?;
        map.set(0, zeros, 0)
            .context("beginning with the first flow")
    }

    /// Sends about `frames` frames, in the calling thread and its network namespace; tells how many.
    pub fn generate(&mut self, frames: u32) -> Result<u64> {
        let frames = frames.div_ceil(BATCH) * BATCH;
        let frame = traffic::frame(0);
        let name = self.generator;
        let options = TestRunOptions {
            data_in: Some(&frame),
            repeat: frames,
            attrs: aya::programs::TestRunAttrs::new().xdp_live_frames(BATCH),
            ..TestRunOptions::new()
        };
        self.xdp(name)?
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

    /// Puts the flows from `flows` on into the NAT floor's table: what comes in for them goes to the
    /// VM behind the interface `inside`, what goes out to the router behind `outside`.
    pub fn fill_nat_floor(
        &mut self,
        flows: Range<u32>,
        outside: Interface,
        inside: Interface,
    ) -> Result<()> {
        let map = self.ebpf.map_mut("NAT_FLOWS").context("no map NAT_FLOWS")?;
        let mut map: HashMap<&mut MapData, FlowKey, Entry> = map.try_into()?;
        let rewrite = |to, from: Interface, addr, port: u16| {
            Entry(Rewrite {
                packets: 0,
                bytes: 0,
                macs: [to, from.mac],
                ifindex: from.ifindex,
                addr,
                port: port.to_be_bytes(),
                reserved: [0; 26],
            })
        };
        for flow in flows {
            let port = nat::port(flow);
            let outgoing = rewrite(nat::ROUTER_MAC, outside, nat::EXTERNAL, port);
            let incoming = rewrite(nat::VM_MAC, inside, nat::VM, port);
            map.insert(nat::outgoing_key(flow), outgoing, 0)
                .and_then(|()| map.insert(nat::incoming_key(flow), incoming, 0))
                .context("filling the NAT floor's table")?;
        }
        Ok(())
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

/// An interface that frames leave by.
#[derive(Clone, Copy, Debug)]
pub struct Interface {
    /// Its index.
    pub ifindex: u32,
    /// Its MAC address.
    pub mac: Mac,
}

/// A value of the NAT floor's table.
#[repr(transparent)]
#[derive(Clone, Copy)]
struct Entry(Rewrite);

// SAFETY: repr(C) without padding, and any bytes are one.
unsafe impl Pod for Entry {}

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
