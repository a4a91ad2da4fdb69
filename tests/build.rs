//! Builds the eBPF objects with the wrapper programs that tests need (feature `testing`) and with
//! those that benchmarks compare with. The shipped object comes with `vnet-user`.

include!("../vnet-ebpf/build_object.rs");

fn main() {
    build_object("vnet", "testing", "VNET_TESTING_OBJECT");
    build_object("bench", "bench", "VNET_BENCH_OBJECT");
}
