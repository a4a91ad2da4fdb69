//! Builds the eBPF object, so that the binary can embed it: one file, no compiler on the target.

include!("../vnet-ebpf/build_object.rs");

fn main() {
    let log = env::var_os("CARGO_FEATURE_DATAPATH_LOG").is_some();
    build_object("vnet", if log { "log" } else { "bpf" }, "VNET_OBJECT");
}
